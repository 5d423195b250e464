//! Actions on objects. Machines have those of their BMC; nothing offers any on other types yet.

use http::Method;
use isobar_model::{ApiError, Noun};
use serde_json::{Map, Value};

use super::{Access, On, Table, right};
use crate::boots::AvailableAction;
use crate::call::Call;
use crate::reply::{self, Answer};

pub(super) fn add(table: &mut Table, noun: &'static Noun) {
    let all = format!("/api/v3/{}/{{key}}/actions", noun.name);
    let one = format!("{all}/{{command}}");
    table.add(Method::GET, &all, right(noun.name, "actions", On::Key), list);
    table.add(Method::GET, &one, right(noun.name, "actions", On::Key), describe);
    table.add(Method::POST, &one, Access::Action { scope: noun.name }, run);
}

/// Actions on the server as a whole: none yet.
pub(super) fn add_system(table: &mut Table) {
    let see = right("system", "actions", On::All);
    table.add(Method::GET, "/api/v3/system/actions", see, async |_| {
        reply::ok(&[(); 0])
    });
    table.add(
        Method::GET,
        "/api/v3/system/actions/{command}",
        see,
        async |call: Call| Err(ApiError::action_not_found("system", "", call.param("command"))),
    );
    let run = right("system", "action", On::All);
    table.add(
        Method::POST,
        "/api/v3/system/actions/{command}",
        run,
        async |call: Call| Err(ApiError::action_unknown("system", "", call.param("command"))),
    );
}

async fn list(call: Call) -> Answer {
    let key = call.resolve(call.model(), call.key()).await?;
    let mut actions = match call.model() {
        "machines" => call.app.boots.actions(&key).await?,
        _ => Vec::new(),
    };
    actions.retain(|action| from_plugin(&call, action));
    reply::ok(&actions)
}

async fn describe(call: Call) -> Answer {
    let key = call.resolve(call.model(), call.key()).await?;
    let command = call.param("command");
    if call.model() == "machines" {
        let action = call.app.boots.action(&key, command).await?;
        if from_plugin(&call, &action) {
            return reply::ok(&action);
        }
    }
    Err(ApiError::action_not_found(call.model(), call.key(), command))
}

async fn run(mut call: Call) -> Answer {
    let params = match call.json().await? {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(params)) => params,
        Some(_) => return Err(call.bad_request("the body must map params to values")),
    };
    let model = call.model();
    let key = call
        .resolve(model, call.key())
        .await
        .map_err(|e| e.with_type("INVOKE"))?;
    let command = call.param("command");
    let other_plugin = call.query.get("plugin").is_some_and(|p| !p.is_empty() && p != PLUGIN);
    if model != "machines" || other_plugin {
        return Err(ApiError::action_unknown(model, call.key(), command));
    }
    let who = call.who()?;
    // The machine's stored password goes where these say: only for who could read it anyway.
    let elsewhere = params.keys().find(|name| WHERE_THE_BMC_IS.contains(&name.as_str()));
    if let Some(name) = elsewhere.filter(|_| !who.allows(model, "getSecure", &key)) {
        let text = format!("{name} may be given per call by users who may read the password that is sent there");
        return Err(ApiError::new(403, "AUTH", model, call.key(), text));
    }
    let who = who.name();
    let value = call
        .app
        .boots
        .run_action(&key, call.key(), command, params, who)
        .await?;
    reply::ok(&value)
}

/// Params that say where a BMC is.
const WHERE_THE_BMC_IS: &[&str] = &["ipmi/address", "ipmi/port-redfish"];

/// The one plugin that is built in.
const PLUGIN: &str = "ipmi";

/// Whether `?plugin=` lets an action through.
fn from_plugin(call: &Call, action: &AvailableAction) -> bool {
    call.query
        .get("plugin")
        .is_none_or(|plugin| plugin.is_empty() || plugin == action.provider)
}
