//! Boots over virtual media: what the server knows of them.

use isobar_client::{Method, path};
use serde_json::Value;

use super::{Arity, Call, Verb, option, verb};
use crate::CliError;
use crate::follow::{Boot, Since, boots_of, follow};
use crate::output::Output;
use crate::session::Session;
use crate::settings::WaitFor;

pub(super) const VERBS: &[Verb] = &[
    verb(
        "list",
        "[machine]",
        Arity::Between(0, 1),
        list,
        "Lists boots, newest first",
        "boots list --state failed --limit 20",
    )
    .own()
    .flags(&[
        option(
            "state",
            "STATE",
            "Only those that are running, done, failed, cancelled or replaced",
        ),
        option("limit", "N", "Not more than so many"),
    ]),
    verb(
        "show",
        "[boot or machine]",
        Arity::Exactly(1),
        show,
        "Shows a boot, or the newest of a machine",
        "boots show Name:mach-01",
    )
    .own(),
    verb(
        "post-mortem",
        "[boot or machine]",
        Arity::Exactly(1),
        post_mortem,
        "Fetches what is kept of a boot that failed, without secrets, to be looked at or replayed by the simulator",
        "boots post-mortem Name:mach-01 --out mach-01.json",
    )
    .own()
    .flags(&[option("out", "FILE", "Into this file")]),
    verb(
        "watch",
        "[boot or machine]",
        Arity::Exactly(1),
        watch,
        "Follows a boot until the agent is up",
        "boots watch Name:mach-01",
    )
    .own()
    .flags(&[option("until", "UNTIL", "handed-over or agent (default)")]),
];

fn list(session: &Session, call: &Call) -> Result<Output, CliError> {
    let client = session.client()?;
    let mut request = client.request(Method::GET, "/isobar/v1/boots");
    if let Some(id) = call.args.first() {
        let machine = session.get_object("machines", id)?;
        request = request.query("machine", machine["Uuid"].as_str().unwrap_or(id));
    }
    for name in ["state", "limit"] {
        if let Some(value) = call.option(name) {
            request = request.query(name, value);
        }
    }
    let columns = [
        "id",
        "machine_name",
        "bootenv",
        "state",
        "phase",
        "percent",
        "detail",
        "started",
    ]
    .map(str::to_owned)
    .to_vec();
    Ok(Output::Json {
        value: request.send()?.json()?,
        columns,
    })
}

/// Id of a boot from its own id or a machine's: the newest then.
fn boot_id(session: &Session, argument: &str) -> Result<String, CliError> {
    let machine = match argument.contains(':') {
        true => Some(session.get_object("machines", argument)?),
        // Both are UUIDs: a machine's first.
        false if argument.len() == 36 => session.get_object("machines", argument).ok(),
        false => None,
    };
    let Some(machine) = machine else {
        return Ok(argument.to_owned());
    };
    let uuid = machine["Uuid"].as_str().unwrap_or(argument);
    match boots_of(session.client()?, uuid)?.into_iter().next() {
        Some(boot) => Ok(boot.id),
        None => Err(CliError::text(format!(
            "{argument} was never booted over virtual media: set the param boot-virtual-iso to true, then change its BootEnv"
        ))),
    }
}

fn show(session: &Session, call: &Call) -> Result<Output, CliError> {
    let id = boot_id(session, call.arg(0))?;
    let boot: Value = session.listed("boots", session.client()?.get(&path!("isobar", "v1", "boots", id)))?;
    Ok(Output::json(boot))
}

fn post_mortem(session: &Session, call: &Call) -> Result<Output, CliError> {
    let id = boot_id(session, call.arg(0))?;
    let route = path!("isobar", "v1", "boots", id, "post-mortem");
    let found: Value = session.listed("boots", session.client()?.get(&route))?;
    let Some(file) = call.option("out") else {
        return Ok(Output::json(found));
    };
    std::fs::write(file, format!("{found:#}\n")).map_err(CliError::io(file))?;
    session.host.note(&format!(
        "{file}: {}; `isobar sim --replay-boot {file}` answers as that BMC did",
        found["reason"]["message"].as_str().unwrap_or("a boot that failed")
    ));
    Ok(Output::Nothing)
}

fn watch(session: &Session, call: &Call) -> Result<Output, CliError> {
    let until = match call.option("until") {
        None | Some("agent") => WaitFor::Agent,
        Some("handed-over") => WaitFor::HandedOver,
        Some(other) => {
            return Err(call.misuse(format!(
                "--until {other}: a boot is followed until handed-over or agent"
            )));
        }
    };
    let id = boot_id(session, call.arg(0))?;
    let boot: Boot = session.client()?.get(&path!("isobar", "v1", "boots", id))?;
    follow(session, boot, until, Since::Now)?;
    Ok(Output::Nothing)
}
