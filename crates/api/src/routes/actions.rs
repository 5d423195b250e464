//! Actions on objects: machines have those of their BMC, and external plugins may offer some on any type.

use std::sync::Arc;

use http::Method;
use isobar_model::{ApiError, Noun};
use isobar_objects::WHERE_THE_BMC_IS;
use serde_json::{Map, Value};

use super::doc::{self, Shape};
use super::{Access, On, Table, right};
use crate::boots::AvailableAction;
use crate::call::Call;
use crate::plugins::Offered;
use crate::reply::{self, Answer};

pub(super) fn add(table: &mut Table, noun: &'static Noun) {
    let all = format!("/api/v3/{}/{{key}}/actions", noun.name);
    let one = format!("{all}/{{command}}");
    table
        .add(Method::GET, &all, right(noun.name, "actions", On::Key), list)
        .is("Lists the actions that an object has all required params for.")
        .asks(&[doc::PLUGIN])
        .gives(200, Shape::list("Action"))
        .refuses(&[404]);
    table
        .add(Method::GET, &one, right(noun.name, "actions", On::Key), describe)
        .is("Describes an action.")
        .asks(&[doc::PLUGIN])
        .gives(200, Shape::of("Action"))
        .refuses(&[404]);
    table
        .add(Method::POST, &one, Access::Action { scope: noun.name }, run)
        .is("Runs an action with the params in the body and gives what it returned.")
        .asks(&[doc::PLUGIN])
        .takes(Shape::of("Map"))
        .gives(200, Shape::of("Any"))
        .refuses(&[404, 409, 422, 502, 504]);
}

/// Actions on the server as a whole: none yet.
pub(super) fn add_system(table: &mut Table) {
    let see = right("system", "actions", On::All);
    table
        .add(Method::GET, "/api/v3/system/actions", see, async |_| {
            reply::ok(&[(); 0])
        })
        .is("Lists the actions on the server as a whole.")
        .gives(200, Shape::list("Action"));
    table
        .add(
            Method::GET,
            "/api/v3/system/actions/{command}",
            see,
            async |call: Call| Err(ApiError::action_not_found("system", "", call.param("command"))),
        )
        .is("Describes an action on the server.")
        .refuses(&[404]);
    let run = right("system", "action", On::All);
    table
        .add(
            Method::POST,
            "/api/v3/system/actions/{command}",
            run,
            async |call: Call| Err(ApiError::action_unknown("system", "", call.param("command"))),
        )
        .is("Runs an action on the server.")
        .takes(Shape::of("Map"))
        .refuses(&[404]);
    table
        .add(
            Method::POST,
            "/api/v3/system/upgrade",
            right("system", "upgrade", On::All),
            async |call: Call| {
                Err(call.refused(
                    422,
                    "an upgrade is a new program in the old one's place, with the same data directory",
                ))
            },
        )
        .is("Refused: a server does not replace its own program.")
        .refuses(&[422]);
}

async fn list(call: Call) -> Answer {
    let key = call.resolve(call.model(), call.key()).await?;
    let mut actions = match call.model() {
        "machines" => call.app.boots.actions(&key).await?,
        _ => Vec::new(),
    };
    actions.retain(|action| from_plugin(&call, action));
    for offered in offered(&call).await? {
        if missing(&call, &key, &offered).await?.is_none() {
            actions.push(offered.action);
        }
    }
    reply::ok(&actions)
}

/// The actions of external plugins on objects of the route's type, as far as `?plugin=` lets them through.
async fn offered(call: &Call) -> Result<Vec<Offered>, ApiError> {
    let (model, wanted) = (call.model(), call.query.get("plugin").unwrap_or_default().to_owned());
    if call.app.plugins.is_empty() {
        return Ok(Vec::new());
    }
    let plugins = call.app.objects.run(|objects| objects.all("plugins")).await?;
    let mut all = call.app.plugins.offered(model, &plugins);
    all.retain(|offered| wanted.is_empty() || [&offered.plugin, &offered.action.provider].contains(&&wanted));
    Ok(all)
}

/// What an object has for a param of an action: its own value, an inherited one, or the schema's default.
async fn resolved(call: &Call, key: &str, param: &str) -> Result<Option<Value>, ApiError> {
    let (model, key, param) = (call.model(), key.to_owned(), param.to_owned());
    let found = call.app.objects.run(move |objects| {
        let object = objects.get(model, &key)?;
        objects.resolve_in(model, &object, &param)
    });
    Ok(found.await?.map(|found| found.value))
}

/// The first required param that an object has no value for.
async fn missing(call: &Call, key: &str, offered: &Offered) -> Result<Option<String>, ApiError> {
    for param in &offered.action.required_params {
        if resolved(call, key, param).await?.is_none() {
            return Ok(Some(param.clone()));
        }
    }
    Ok(None)
}

async fn describe(call: Call) -> Answer {
    let model = call.model();
    let key = call.resolve(model, call.key()).await?;
    let command = call.param("command");
    if let Some(found) = offered(&call).await?.into_iter().find(|o| o.action.command == command) {
        return match missing(&call, &key, &found).await? {
            Some(param) => Err(ApiError::action_missing_param(
                "GET",
                model,
                call.key(),
                command,
                &param,
            )),
            None => reply::ok(&found.action),
        };
    }
    if model == "machines" {
        let action = call.app.boots.action(&key, command).await?;
        if from_plugin(&call, &action) {
            return reply::ok(&action);
        }
    }
    Err(ApiError::action_not_found(model, call.key(), command))
}

/// Runs an action of an external plugin: the params that it may know are the caller's and, for those that it asks
/// for, the object's.
async fn run_offered(call: &Call, key: &str, offered: Offered, given: Map<String, Value>) -> Answer {
    let (model, command) = (call.model(), offered.action.command.clone());
    for (param, value) in &given {
        let (name, value) = (param.clone(), value.clone());
        let refused = call
            .app
            .objects
            .run(move |objects| objects.check_action_param(&name, &value))
            .await;
        match refused {
            Ok(()) => {}
            Err(None) => return Err(ApiError::action_secure_param(model, call.key(), &command, param)),
            Err(Some(reason)) => return Err(ApiError::action_bad_param(model, call.key(), &command, param, &reason)),
        }
    }
    let mut params = given;
    let (required, optional) = (&offered.action.required_params, &offered.action.optional_params);
    for (param, needed) in required
        .iter()
        .map(|p| (p, true))
        .chain(optional.iter().map(|p| (p, false)))
    {
        if params.contains_key(param) {
            continue;
        }
        match resolved(call, key, param).await? {
            Some(value) => drop(params.insert(param.clone(), value)),
            None if needed => {
                return Err(ApiError::action_missing_param(
                    "INVOKE",
                    model,
                    call.key(),
                    &command,
                    param,
                ));
            }
            None => {}
        }
    }
    let told = call.who()?.audit(
        &format!("action:{command}"),
        model,
        key,
        format!("plugin {}", offered.plugin),
    );
    call.app.objects.note(told);
    let (plugins, objects, key) = (Arc::clone(&call.app.plugins), call.app.objects.clone(), key.to_owned());
    // Never closed, so this waits for a turn and nothing else.
    let turn = Arc::clone(&call.app.programs).acquire_owned().await;
    let value = call
        .app
        .objects
        .run(move |_| {
            let _turn = turn;
            plugins.run(&objects, &offered, model, &key, &params)
        })
        .await
        .map_err(|reason| ApiError::new(400, "INVOKE", model, call.key(), reason))?;
    reply::ok(&value)
}

async fn run(mut call: Call) -> Answer {
    let params = match call.json().await? {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(params)) => params,
        Some(_) => return Err(call.bad_request("the body must map params to values")),
    };
    let model = call.model();
    let key = call.resolve(model, call.key()).await?;
    let command = call.param("command");
    let who = call.who()?;
    // The stored password goes where these say: only for who could read it anyway.
    let elsewhere = params.keys().find(|name| WHERE_THE_BMC_IS.contains(&name.as_str()));
    if let Some(name) = elsewhere.filter(|_| !who.allows(model, "getSecure", &key)) {
        let text = format!("{name} may be given per call by users who may read the password that is sent there");
        return Err(ApiError::new(403, "AUTH", model, call.key(), text));
    }
    if let Some(found) = offered(&call).await?.into_iter().find(|o| o.action.command == command) {
        return run_offered(&call, &key, found, params).await;
    }
    let other_plugin = call.query.get("plugin").is_some_and(|p| !p.is_empty() && p != PLUGIN);
    if model != "machines" || other_plugin {
        return Err(ApiError::action_unknown(model, call.key(), command));
    }
    let value = call
        .app
        .boots
        .run_action(&key, call.key(), command, params, who)
        .await?;
    reply::ok(&value)
}

/// The one plugin that is built in.
const PLUGIN: &str = "ipmi";

/// Whether `?plugin=` lets an action through.
fn from_plugin(call: &Call, action: &AvailableAction) -> bool {
    call.query
        .get("plugin")
        .is_none_or(|plugin| plugin.is_empty() || plugin == action.provider)
}
