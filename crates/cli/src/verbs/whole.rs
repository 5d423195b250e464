//! Commands that stand alone behind the program's name.

use std::fs;

use super::{Arity, Call, Verb, verb};
use crate::CliError;
use crate::output::Output;
use crate::session::Session;
use crate::{completion, manual};

pub(super) const VERBS: &[Verb] = &[
    verb(
        "autocomplete",
        "[file]",
        Arity::Exactly(1),
        autocomplete,
        "Writes a file that makes bash complete commands; - for standard output",
        "autocomplete /etc/bash_completion.d/drpcli",
    ),
    verb(
        "completion",
        "[shell]",
        Arity::Exactly(1),
        |session, call| Ok(Output::Text(script(session, call, call.arg(0))?)),
        "Prints a script that makes bash, zsh or fish complete commands, names of objects included",
        "completion bash > /etc/bash_completion.d/isobar",
    ),
    verb(
        "man",
        "[folder]",
        Arity::Exactly(1),
        man,
        "Writes the man pages into a folder",
        "man /usr/local/share/man/man1",
    )
    .own(),
    verb(
        "reference",
        "",
        Arity::Exactly(0),
        |session, _| {
            Ok(Output::Text(manual::markdown(&manual::pages(
                session.program,
                session.extra,
            ))))
        },
        "Prints the reference of all commands as Markdown",
        "reference > cli.md",
    )
    .own(),
    verb(
        "version",
        "",
        Arity::Exactly(0),
        |_, _| Ok(Output::Text(format!("Version: v{}\n", env!("CARGO_PKG_VERSION")))),
        "Prints the version",
        "version",
    ),
];

fn script(session: &Session, call: &Call, shell: &str) -> Result<String, CliError> {
    completion::script(shell, session.program)
        .ok_or_else(|| call.misuse(format!("{shell:?} is none of bash, zsh, fish")))
}

fn autocomplete(session: &Session, call: &Call) -> Result<Output, CliError> {
    let script = script(session, call, "bash")?;
    match call.arg(0) {
        "-" => Ok(Output::Text(script)),
        file => {
            fs::write(file, script).map_err(CliError::io(file))?;
            Ok(Output::Nothing)
        }
    }
}

fn man(session: &Session, call: &Call) -> Result<Output, CliError> {
    let folder = std::path::Path::new(call.arg(0));
    fs::create_dir_all(folder).map_err(CliError::io(call.arg(0)))?;
    for page in manual::pages(session.program, session.extra) {
        let file = folder.join(format!("{}.1", page.file_name()));
        fs::write(&file, manual::roff(&page)).map_err(CliError::io(file.display().to_string()))?;
    }
    Ok(Output::Nothing)
}
