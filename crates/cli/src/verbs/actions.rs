//! Actions of plugins (drp-api §9).

use std::time::Duration;

use isobar_client::{ClientError, Method, escape_rest, path};
use serde_json::{Map, Value};

use super::{Arity, Call, Flag, Verb, option, verb};
use crate::nearest::nearest;
use crate::output::Output;
use crate::progress::Progress;
use crate::session::Session;
use crate::{CliError, input};

const FLAGS: &[Flag] = &[option(
    "plugin",
    "NAME",
    "The plugin to ask, where several offer the action",
)];

/// BMCs take their time; the server ends what hangs.
const PATIENCE: Duration = Duration::from_secs(900);

pub(super) const VERBS: &[Verb] = &[
    verb(
        "actions",
        "[id]",
        Arity::Exactly(1),
        actions,
        "Lists the actions that can be run on an object",
        "{noun} actions {id}",
    )
    .flags(FLAGS),
    verb(
        "action",
        "[id] [action]",
        Arity::Exactly(2),
        action,
        "Shows an action with its params",
        "{noun} action {id} powerstatus",
    )
    .flags(FLAGS),
    verb(
        "runaction",
        "[id] [action] [- | JSON or YAML map | key value...]",
        Arity::AtLeast(2),
        runaction,
        "Runs an action and shows its answer",
        "{noun} runaction {id} powerstatus ipmi/mode redfish",
    )
    .flags(FLAGS),
];

/// The same of jobs, whose own actions are what an agent does for them.
pub(super) const OF_JOBS: &[Verb] = &[
    verb(
        "plugin_actions",
        "[id]",
        Arity::Exactly(1),
        actions,
        "Lists the actions of plugins that can be run on a job",
        "jobs plugin_actions {id}",
    )
    .flags(FLAGS),
    verb(
        "plugin_action",
        "[id] [action]",
        Arity::Exactly(2),
        action,
        "Shows an action of a plugin with its params",
        "jobs plugin_action {id} increment",
    )
    .flags(FLAGS),
    verb(
        "runplugin_action",
        "[id] [action] [- | JSON or YAML map | key value...]",
        Arity::AtLeast(2),
        runaction,
        "Runs an action of a plugin on a job and shows its answer",
        "jobs runplugin_action {id} increment",
    )
    .flags(FLAGS),
];

/// The same on the server itself.
pub(super) const SYSTEM: &[Verb] = &[
    verb(
        "actions",
        "",
        Arity::Exactly(0),
        actions,
        "Lists the actions that can be run",
        "system actions",
    )
    .flags(FLAGS),
    verb(
        "action",
        "[action]",
        Arity::Exactly(1),
        action,
        "Shows an action with its params",
        "system action upgrade",
    )
    .flags(FLAGS),
    verb(
        "runaction",
        "[action] [- | JSON or YAML map | key value...]",
        Arity::AtLeast(1),
        runaction,
        "Runs an action and shows its answer",
        "system runaction upgrade",
    )
    .flags(FLAGS),
];

/// Path of the actions, and the arguments after what names the object.
fn route<'a>(call: &'a Call<'_>) -> (String, &'a [String]) {
    let word = if call.noun == "jobs" {
        "plugin_actions"
    } else {
        "actions"
    };
    match call.row {
        Some(_) => (
            path!("api", "v3", call.noun, call.arg(0), word),
            call.args.get(1..).unwrap_or_default(),
        ),
        None => (path!("api", "v3", call.noun, "actions"), &call.args),
    }
}

fn actions(session: &Session, call: &Call) -> Result<Output, CliError> {
    let (route, _) = route(call);
    let mut request = session.client()?.request(Method::GET, &route);
    if let Some(plugin) = call.option("plugin") {
        request = request.query("plugin", plugin);
    }
    let answer = request
        .send()
        .map_err(|error| session.not_found_hint(call.noun, call.arg(0), error))?;
    let columns = ["Command", "Provider", "RequiredParams", "OptionalParams"]
        .map(str::to_owned)
        .to_vec();
    Ok(Output::Json {
        value: answer.json()?,
        columns,
    })
}

fn action(session: &Session, call: &Call) -> Result<Output, CliError> {
    let (route, rest) = route(call);
    let command = rest.first().map_or("", String::as_str);
    let mut request = session
        .client()?
        .request(Method::GET, &format!("{route}/{}", path_word(command)));
    if let Some(plugin) = call.option("plugin") {
        request = request.query("plugin", plugin);
    }
    let answer = request
        .send()
        .map_err(|error| session.not_found_hint(call.noun, call.arg(0), error))?;
    Ok(Output::json(answer.json()?))
}

fn runaction(session: &Session, call: &Call) -> Result<Output, CliError> {
    let (route, rest) = route(call);
    let (command, arguments) = rest
        .split_first()
        .map_or(("", rest), |(command, rest)| (command.as_str(), rest));
    let params = params(session, call, arguments)?;
    let mut request = session
        .client()?
        .request(Method::POST, &format!("{route}/{}", path_word(command)))
        .patience(PATIENCE);
    if let Some(plugin) = call.option("plugin") {
        request = request.query("plugin", plugin);
    }
    let waiting = Progress::waiting(session, format!("waiting for {command}"));
    let answer = request.send_json(&params);
    drop(waiting);
    let answer = answer.map_err(|error| match refused(session, call, command, &error) {
        Some(hint) => CliError::hinted(error, Some(hint)),
        None => session.not_found_hint(call.noun, call.arg(0), error),
    })?;
    Ok(Output::json(answer.json()?))
}

/// What to do when there is no such action, or no such way to the BMC.
fn refused(session: &Session, call: &Call, command: &str, error: &ClientError) -> Option<String> {
    let ClientError::Api(body) = error else { return None };
    let said = |text: &str| body.messages.iter().any(|message| message.starts_with(text));
    if !session.helpful() {
        return None;
    }
    if said("Unavailable ipmi driver") {
        let drivers =
            "BMCs are spoken to by Redfish and IPMI: leave ipmi/mode out, or set it to auto, redfish or ipmitool";
        return Some(drivers.to_owned());
    }
    if !said(&format!("Action {command} ")) {
        return None;
    }
    let says = |text: &str| body.messages.iter().any(|message| message.contains(text));
    if says("not supported on ipmi driver") {
        let mode = "IPMI has no such function: leave ipmi/mode out, or set it to auto or redfish";
        return Some(mode.to_owned());
    }
    if says("cannot be passed secure parameter") {
        let set = format!(
            "`isobar {} set {} param NAME to @FILE` sets it, encrypted",
            call.noun,
            call.arg(0)
        );
        return Some(set);
    }
    let there: Vec<Value> = session.client().ok()?.get(&route(call).0).ok()?;
    if let Some(action) = there.iter().find(|action| action["Command"] == command) {
        let required = action["RequiredParams"].as_array().into_iter().flatten();
        let missing = required.filter_map(Value::as_str).find(|param| {
            body.messages
                .iter()
                .any(|said| said.ends_with(&format!(" Missing Parameter {param}")))
        })?;
        return Some(format!(
            "set it, or give it with the call: `isobar {} runaction {} {command} {missing} VALUE`",
            call.noun,
            call.arg(0)
        ));
    }
    let names = there.iter().filter_map(|action| action["Command"].as_str());
    let list = [
        "isobar",
        call.noun,
        "actions",
        if call.row.is_some() { call.arg(0) } else { "" },
    ]
    .join(" ");
    Some(match nearest(command, names) {
        Some(meant) => format!("Did you mean {meant}?"),
        None => format!("`{}` shows those that can be run", list.trim_end()),
    })
}

fn path_word(command: &str) -> String {
    isobar_client::escape_segment(command)
}

/// `k v k v …`, or one map.
fn params(session: &Session, call: &Call, arguments: &[String]) -> Result<Value, CliError> {
    if let [one] = arguments {
        return input::map(session.host, one, "what follows the action");
    }
    let mut params = Map::new();
    let left_out = match arguments.len() % 2 {
        0 => None,
        _ => Some(without_value(session, arguments).ok_or_else(|| {
            call.misuse("the params after the action are pairs of name and value; one of them is missing")
        })?),
    };
    let mut rest = arguments.iter().enumerate();
    while let Some((at, name)) = rest.next() {
        if Some(at) == left_out {
            session.host.note(&format!(
                "{name} has no value here: it is left out, the server takes its own"
            ));
            continue;
        }
        if let Some((_, text)) = rest.next() {
            params.insert(name.clone(), input::scalar(&input::value_text(session.host, text)?));
        }
    }
    Ok(Value::Object(params))
}

/// Of an odd number of arguments the name that nobody gave a value: the first that the name of a declared
/// param follows. The manual's own example lost its URL that way:
/// `mountVirtualMedia ipmi/mode redfish ipmi/virtual-media-url ipmi/virtual-media-boot true`.
fn without_value(session: &Session, arguments: &[String]) -> Option<usize> {
    let client = session.client().ok()?;
    let declared = |name: &String| client.head(&format!("/api/v3/params/{}", escape_rest(name))).is_ok();
    (0..arguments.len()).step_by(2).find(|&at| match arguments.get(at + 1) {
        Some(value) => value.contains('/') && declared(value),
        None => true,
    })
}
