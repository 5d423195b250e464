//! What is under way at BMCs, why it waits, and the operator's word on it.

use isobar_client::{Method, path};
use serde_json::{Value, json};

use super::{Arity, Call, Verb, switch, verb};
use crate::CliError;
use crate::follow::fleet;
use crate::output::Output;
use crate::session::Session;

pub(super) const VERBS: &[Verb] = &[
    verb(
        "list",
        "[machine]",
        Arity::Between(0, 1),
        list,
        "Lists boots, rolling boots, clean-ups and actions that are under way or wait, with why and until when",
        "operations list Name:mach-01",
    )
    .own()
    .flags(&[switch("all", "Those that have ended as well")]),
    verb(
        "show",
        "[operation]",
        Arity::Exactly(1),
        show,
        "Shows one of them",
        "operations show bmc:10.0.0.5:443",
    )
    .own(),
    verb(
        "watch",
        "[operation]",
        Arity::Exactly(1),
        watch,
        "Follows a rolling boot to its end: a line for each machine in trouble, a summary of the rest",
        "operations watch 3945838b-be8c-4b35-8b1c-b78ddc71b99c",
    )
    .own(),
    verb(
        "report",
        "[operation]",
        Arity::Exactly(1),
        report,
        "Says of each machine of a rolling boot what became of it, or what would have been sent to its BMC",
        "operations report 3945838b-be8c-4b35-8b1c-b78ddc71b99c",
    )
    .own(),
    verb(
        "cancel",
        "[operation]",
        Arity::Exactly(1),
        cancel,
        "Ends a boot or gives up a clean-up; a rolling boot begins no more; calls an action off that was not sent yet",
        "operations cancel 3945838b-be8c-4b35-8b1c-b78ddc71b99c",
    )
    .own(),
    verb(
        "retry",
        "[operation]",
        Arity::Exactly(1),
        retry,
        "Tries again now: what waits, what failed, what a rolling boot did not boot, a BMC whose login is held",
        "operations retry bmc:10.0.0.5:443",
    )
    .own(),
];

fn list(session: &Session, call: &Call) -> Result<Output, CliError> {
    let mut request = session.client()?.request(Method::GET, "/isobar/v1/operations");
    if let Some(id) = call.args.first() {
        let machine = session.get_object("machines", id)?;
        request = request.query("machine", machine["Uuid"].as_str().unwrap_or(id));
    }
    if call.is_set("all") {
        request = request.query("all", "true");
    }
    let columns = ["id", "kind", "machine_name", "what", "state", "why", "until"];
    Ok(Output::Json {
        value: request.send()?.json()?,
        columns: columns.map(str::to_owned).to_vec(),
    })
}

fn show(session: &Session, call: &Call) -> Result<Output, CliError> {
    let route = path!("isobar", "v1", "operations", call.arg(0));
    let found: Value = session.listed("operations", session.client()?.get(&route))?;
    Ok(Output::json(found))
}

fn watch(session: &Session, call: &Call) -> Result<Output, CliError> {
    let route = path!("isobar", "v1", "operations", call.arg(0));
    let found: Value = session.listed("operations", session.client()?.get(&route))?;
    if found["kind"] != "rolling-boot" {
        return Err(CliError::text(format!(
            "{} is no rolling boot: a boot is followed by `isobar boots watch`",
            call.arg(0)
        )));
    }
    fleet::watch(session, found)?;
    Ok(Output::Nothing)
}

fn report(session: &Session, call: &Call) -> Result<Output, CliError> {
    let value = session
        .client()?
        .get(&path!("isobar", "v1", "operations", call.arg(0), "report"))?;
    let columns = ["machine_name", "outcome", "why", "would_send"]
        .map(str::to_owned)
        .to_vec();
    Ok(Output::Json { value, columns })
}

fn cancel(session: &Session, call: &Call) -> Result<Output, CliError> {
    say(session, call, "cancel")
}

fn retry(session: &Session, call: &Call) -> Result<Output, CliError> {
    say(session, call, "retry")
}

fn say(session: &Session, call: &Call, word: &str) -> Result<Output, CliError> {
    let route = path!("isobar", "v1", "operations", call.arg(0), word);
    let told: Value = session.listed("operations", session.client()?.post(&route, &json!({})))?;
    Ok(Output::json(told))
}
