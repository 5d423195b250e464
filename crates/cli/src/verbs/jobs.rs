//! Jobs: what agents ask for and report, for those who look over their shoulders.

use isobar_client::{Method, path};
use serde_json::{Value, json};

use super::blobs::to_stdout;
use super::{Arity, Call, Verb, option, verb};
use crate::output::Output;
use crate::session::Session;
use crate::{CliError, input};

pub(super) const VERBS: &[Verb] = &[
    verb(
        "create",
        "[json]",
        Arity::Exactly(1),
        create,
        "Asks for the next job of a machine: JSON with Machine, or its UUID or name",
        "jobs create mach-01",
    ),
    verb(
        "log",
        "[id] [- | text]",
        Arity::Between(1, 2),
        log,
        "Shows the log of a job, or appends to it",
        "jobs log 00000000-0000-0000-0000-000000000001",
    ),
    verb(
        "actions",
        "[id]",
        Arity::Exactly(1),
        actions,
        "Shows what the agent does for a job",
        "jobs actions 00000000-0000-0000-0000-000000000001",
    )
    .flags(&[option("for-os", "OS", "Only what is for this operating system")]),
];

/// Verbs of machines that are about their jobs.
pub(super) const OF_MACHINES: &[Verb] = &[
    verb(
        "jobs",
        "list [id] | create [id] | current [id]",
        Arity::Exactly(2),
        of_machine,
        "The jobs of a machine, its next one, or its newest",
        "machines jobs list Name:mach-01",
    ),
    verb(
        "currentlog",
        "[id]",
        Arity::Exactly(1),
        current_log,
        "Shows the log of the machine's newest job",
        "machines currentlog Name:mach-01",
    ),
    verb(
        "deletejobs",
        "[id]",
        Arity::Exactly(1),
        delete_jobs,
        "Deletes the jobs of a machine that are over",
        "machines deletejobs Name:mach-01",
    ),
];

fn create(session: &Session, call: &Call) -> Result<Output, CliError> {
    let wanted = match input::document(session.host, call.arg(0))? {
        (Some(wanted @ Value::Object(_)), _) => wanted,
        (_, name) => {
            let id = if is_uuid(&name) { name } else { format!("Name:{name}") };
            json!({ "Machine": session.get_object("machines", &id)?["Uuid"] })
        }
    };
    next(session, &wanted)
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36 && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
}

fn next(session: &Session, wanted: &Value) -> Result<Output, CliError> {
    let job: Value = session.client()?.post("/api/v3/jobs", wanted)?;
    if !job.is_null() {
        return Ok(Output::json(job));
    }
    // Nothing to do. drpcli shows a job of nothing then.
    let mut none = isobar_model::noun("jobs")
        .map(isobar_model::Noun::empty)
        .unwrap_or_default();
    for mark in ["Validated", "Available"] {
        none.insert(mark.to_owned(), false.into());
    }
    Ok(Output::json(none.into()))
}

fn log(session: &Session, call: &Call) -> Result<Output, CliError> {
    let id = call.arg(0);
    let Some(text) = call.args.get(1) else {
        return show_log(session, id);
    };
    let route = path!("api", "v3", "jobs", id, "log");
    let client = session.client()?;
    let send = |body: &mut dyn std::io::Read| {
        let request = client.request(Method::PUT, &route);
        request
            .send_stream("application/octet-stream", None, body)
            .map_err(CliError::from)
    };
    if text == "-" {
        session.host.with_stdin(|stdin| send(stdin))?;
    } else {
        send(&mut text.as_bytes())?;
    }
    Ok(Output::Nothing)
}

fn show_log(session: &Session, id: &str) -> Result<Output, CliError> {
    let answer = session.client()?.download(&path!("api", "v3", "jobs", id, "log"), 0)?;
    to_stdout(session, &mut answer.reader())?;
    Ok(Output::Nothing)
}

fn actions(session: &Session, call: &Call) -> Result<Output, CliError> {
    let route = path!("api", "v3", "jobs", call.arg(0), "actions");
    let mut request = session.client()?.request(Method::GET, &route);
    if let Some(os) = call.option("for-os") {
        request = request.query("os", os);
    }
    Ok(Output::json(request.send()?.json()?))
}

fn of_machine(session: &Session, call: &Call) -> Result<Output, CliError> {
    let machine = session.get_object("machines", call.arg(1))?;
    let uuid = machine["Uuid"].as_str().unwrap_or_default();
    match call.arg(0) {
        "list" => {
            let request = session.client()?.request(Method::GET, "/api/v3/jobs");
            Ok(Output::json(request.query("Machine", uuid).send()?.json()?))
        }
        "create" => next(session, &json!({ "Machine": uuid })),
        "current" => Ok(Output::json(session.get_object("jobs", current(&machine)?)?)),
        other => Err(call.misuse(format!("{other:?} is none of list, create, current"))),
    }
}

fn current(machine: &Value) -> Result<&str, CliError> {
    match machine["CurrentJob"].as_str() {
        Some(job) if !job.is_empty() => Ok(job),
        _ => Err(CliError::text("the machine has had no job yet")),
    }
}

fn current_log(session: &Session, call: &Call) -> Result<Output, CliError> {
    let machine = session.get_object("machines", call.arg(0))?;
    show_log(session, current(&machine)?)
}

fn delete_jobs(session: &Session, call: &Call) -> Result<Output, CliError> {
    let machine = session.get_object("machines", call.arg(0))?;
    let request = session.client()?.request(Method::DELETE, "/api/v3/jobs");
    request
        .query("machine", machine["Uuid"].as_str().unwrap_or_default())
        .send()?;
    Ok(Output::Nothing)
}
