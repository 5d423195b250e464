//! The command line: drpcli's grammar, nouns and verbs from the model table, for people and scripts.
//!
//! Called as `drpcli` it behaves as the original: JSON always, nothing waits, nothing is guessed.
//! Called as `isobar` it prints tables on a terminal, follows the boots it starts, and says what was
//! probably meant.
//!
//! [`main`] runs a command line. The binary adds commands of its own with [`main_with`].

mod completion;
mod error;
mod follow;
mod grammar;
mod host;
mod input;
mod manual;
mod merge;
mod nearest;
mod output;
mod progress;
mod secure;
mod session;
mod settings;
mod verbs;
mod yaml;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::Command;
use clap::error::ErrorKind;

use crate::error::CliError;
use crate::host::Host;
use crate::session::Session;
use crate::settings::Settings;

/// Whose manners a command line has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Program {
    Isobar,
    Drpcli,
}

impl Program {
    fn of(argument: &str) -> Self {
        let name = Path::new(argument)
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if name.starts_with("drpcli") {
            Self::Drpcli
        } else {
            Self::Isobar
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Isobar => "isobar",
            Self::Drpcli => "drpcli",
        }
    }
}

/// Runs a command line; the first of `args` is the program's name and decides whose manners it has.
///
/// Exit status 0, or 1 after `Error: …` on standard error.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    main_with(args, &[])
}

/// Like [`main`], with commands of the binary's own in the help and in completions. They are not run here: the
/// binary looks for them first.
pub fn main_with(args: impl IntoIterator<Item = OsString>, extra: &[Command]) -> ExitCode {
    let mut words = Vec::new();
    for arg in args {
        match arg.into_string() {
            Ok(word) => words.push(word),
            Err(arg) => {
                eprintln!("Error: {} is not UTF-8 text\n", arg.display());
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::from(run(&words, extra, &Host::of_this_process()))
}

/// Runs a command line in some surroundings. Returns the exit status.
fn run(words: &[String], extra: &[Command], host: &Host) -> u8 {
    let program = Program::of(words.first().map_or("", String::as_str));
    let extra = if program == Program::Drpcli { &[] } else { extra };
    match execute(words, extra, host, program).and_then(|()| host.flush()) {
        Ok(()) => 0,
        // As if the signal that such programs die from had come.
        Err(CliError::Closed) => 141,
        Err(error) => {
            host.note(&format!("Error: {error}"));
            if let CliError::Usage { usage, .. } = &error {
                host.note(usage);
            }
            host.note("");
            1
        }
    }
}

fn execute(words: &[String], extra: &[Command], host: &Host, program: Program) -> Result<(), CliError> {
    if let [_, first, rest @ ..] = words
        && first == completion::COMMAND
    {
        return completion::answer(rest, extra, host, program);
    }
    let mut command = grammar::command(program, extra);
    let matches = match command.try_get_matches_from_mut(words) {
        Ok(matches) => matches,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            return host.out(error.render().to_string().as_bytes());
        }
        Err(error) if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            return host.out(error.render().to_string().as_bytes());
        }
        Err(error) => return Err(grammar::usage_error(&error, words, program, extra)),
    };
    let settings = Settings::read(&matches, host, program)?;
    let session = Session::new(host, &settings, program, extra);
    let (verb, call) = grammar::parse(&matches, program, extra)?;
    let output = (verb.run)(&session, &call).map_err(|error| match program {
        Program::Isobar => error.advised(),
        Program::Drpcli => error,
    })?;
    let errors = output.errors();
    host.out(output.render(&settings)?.as_bytes())?;
    match settings.errors_are_fatal && !errors.is_empty() {
        true => Err(CliError::text(format!("the object has errors: {}", errors.join("; ")))),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests;
