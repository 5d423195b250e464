//! What templates make: shown for a machine, and looked through for mistakes.

use std::fmt::Write as _;

use isobar_client::Method;
use serde_json::{Value, json};

use super::{Arity, Call, Flag, Verb, option, verb};
use crate::CliError;
use crate::output::Output;
use crate::session::Session;

/// Longest text, in bytes.
const MAX_TEXT: u64 = 1 << 20;
const MACHINE: Flag = option(
    "machine",
    "ID",
    "Render for this machine [default: a host that nobody knows]",
);
const BOOTENV: Flag = option("bootenv", "NAME", "As if the machine were in this bootenv");

pub(super) const TEMPLATES: &[Verb] = &[verb(
    "render",
    "[id]",
    Arity::Between(0, 1),
    render,
    "Shows what a template, a text or a file of the file plane becomes for a machine",
    "templates render start-up.sh.tmpl --machine Name:mach-01",
)
.flags(&[
    MACHINE,
    BOOTENV,
    option("text", "TEXT", "Render this text, @FILE or - instead of a template"),
    option(
        "path",
        "PATH",
        "Render the file of this path, such as machines/UUID/control.sh",
    ),
])
.own()];

pub(super) const BOOTENVS: &[Verb] = &[verb(
    "check",
    "[id]",
    Arity::Between(0, 1),
    check,
    "Tells all that is wrong with a bootenv, or with any; fails if there is something",
    "bootenvs check sledgehammer --machine Name:mach-01",
)
.flags(&[option(
    "machine",
    "ID",
    "Render it for this machine [default: those that are in it]",
)])
.own()];

fn render(session: &Session, call: &Call) -> Result<Output, CliError> {
    let mut wanted = json!({});
    for (member, value) in [("machine", call.option("machine")), ("bootenv", call.option("bootenv"))] {
        if let Some(value) = value {
            wanted[member] = value.into();
        }
    }
    let template = Some(call.arg(0)).filter(|id| !id.is_empty());
    match (template, call.option("text"), call.option("path")) {
        (Some(id), None, None) => wanted["template"] = id.into(),
        (None, Some(text), None) => wanted["text"] = source(session, text)?.into(),
        (None, None, Some(path)) => wanted["path"] = path.into(),
        _ => return Err(call.misuse("say what to render: one of a template's ID, --text and --path")),
    }
    let rendered: Value = session.client()?.post("/isobar/v1/render", &wanted)?;
    Ok(Output::Text(rendered["text"].as_str().unwrap_or_default().to_owned()))
}

/// `-` is standard input, `@FILE` a file.
fn source(session: &Session, argument: &str) -> Result<String, CliError> {
    match argument.strip_prefix('@') {
        Some(file) => std::fs::read_to_string(file).map_err(CliError::io(file)),
        None if argument == "-" => {
            let bytes = session.host.read_stdin(MAX_TEXT)?;
            String::from_utf8(bytes).map_err(|_| CliError::text("standard input is no text"))
        }
        None => Ok(argument.to_owned()),
    }
}

fn check(session: &Session, call: &Call) -> Result<Output, CliError> {
    let mut request = session.client()?.request(Method::GET, "/isobar/v1/check/bootenvs");
    for (name, value) in [
        ("bootenv", Some(call.arg(0)).filter(|id| !id.is_empty())),
        ("machine", call.option("machine")),
    ] {
        if let Some(value) = value {
            request = request.query(name, value);
        }
    }
    let found: Value = request.send()?.json()?;
    let mut said = String::new();
    let mut wrong = 0;
    for bootenv in found.as_array().into_iter().flatten() {
        let problems = bootenv["problems"].as_array().map(Vec::as_slice).unwrap_or_default();
        wrong += usize::from(!problems.is_empty());
        for problem in problems {
            // Writing to a String does not fail.
            let _ = writeln!(
                said,
                "{}: {}",
                bootenv["bootenv"].as_str().unwrap_or_default(),
                problem.as_str().unwrap_or_default()
            );
        }
    }
    match wrong {
        0 => Ok(Output::json(found)),
        1 => Err(CliError::text(format!("{said}1 bootenv has problems"))),
        n => Err(CliError::text(format!("{said}{n} bootenvs have problems"))),
    }
}
