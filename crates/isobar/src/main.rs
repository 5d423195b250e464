//! One binary: the server, the simulator, the image builder, and drpcli's nouns and verbs.

mod backup;
mod backup_command;
mod boots;
mod data_dir;
mod layers;
mod options;
mod plane;
mod recent_logs;
mod serve;
mod settings;
mod sim_command;
mod sledgehammer_command;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::{ArgMatches, Command};

/// Documents of a few kilobytes come and go on many threads: the C library's keeps arenas for each of them, and gives
/// back little of a list's memory.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A command that is not the command line's: what it looks like, and what runs it.
struct Own {
    command: fn() -> Command,
    run: fn(&ArgMatches) -> anyhow::Result<()>,
}

const OWN: &[Own] = &[
    Own {
        command: settings::command,
        run: serve::run,
    },
    Own {
        command: backup_command::backup_command,
        run: backup_command::run_backup,
    },
    Own {
        command: backup_command::restore_command,
        run: backup_command::run_restore,
    },
    Own {
        command: sim_command::command,
        run: sim_command::run,
    },
    Own {
        command: sledgehammer_command::command,
        run: sledgehammer_command::run,
    },
];

fn main() -> ExitCode {
    // Refused only when there is one already, and then that one is used.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let args: Vec<OsString> = std::env::args_os().collect();
    let program = args
        .first()
        .map(Path::new)
        .and_then(Path::file_name)
        .unwrap_or_default();
    let word = args.get(1).and_then(|arg| arg.to_str()).unwrap_or_default();
    let own = OWN.iter().find(|own| (own.command)().get_name() == word);
    match own {
        // Called as drpcli it has drpcli's commands alone.
        Some(own) if !program.to_string_lossy().starts_with("drpcli") => {
            let command = (own.command)().bin_name(format!("isobar {word}"));
            let matches = command
                .version(env!("CARGO_PKG_VERSION"))
                .get_matches_from(args.into_iter().skip(1));
            match (own.run)(&matches) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!("Error: {error:#}\n");
                    ExitCode::FAILURE
                }
            }
        }
        _ => cli(args),
    }
}

fn cli(args: Vec<OsString>) -> ExitCode {
    let own: Vec<Command> = OWN.iter().map(|own| (own.command)()).collect();
    isobar_cli::main_with(args, &own)
}
