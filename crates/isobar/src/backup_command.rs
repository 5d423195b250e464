//! `isobar backup` and `isobar restore`.

use std::path::PathBuf;

use clap::builder::PathBufValueParser;
use clap::{Arg, ArgAction, ArgMatches, Command};
use rustix::fs::Mode;

use crate::backup;
use crate::settings::Settings;

fn file(help: &'static str) -> Arg {
    Arg::new("file")
        .value_name("FILE")
        .required(true)
        .value_parser(PathBufValueParser::new())
        .help(help)
}

fn file_of(matches: &ArgMatches) -> PathBuf {
    matches.get_one::<PathBuf>("file").cloned().unwrap_or_default()
}

/// The command `backup`.
pub(crate) fn backup_command() -> Command {
    Command::new("backup")
        .about("Pack a server's database and files into one file, also while it serves")
        .arg(file("The backup: a tar file, made with mode 0600; must not be there yet"))
        .arg(
            Arg::new("with-keys")
                .long("with-keys")
                .action(ArgAction::SetTrue)
                .help("Also vault.key, the TLS key and the first password: who has the file can then open every secret"),
        )
        .args(Settings::data_dir_args())
        .after_help(
            "Run it on the server's host, as the server's user. Every change that was acknowledged before it began is in\n\
             it. Keep vault.key somewhere else: without it the database cannot be used.\n\n\
             Examples:\n  \
             isobar backup /srv/backup/isobar-$(date +%F).tar\n  \
             isobar backup --with-keys --data-dir ./data whole.tar",
        )
}

/// The command `restore`.
pub(crate) fn restore_command() -> Command {
    Command::new("restore")
        .about("Unpack a backup into an empty data directory")
        .arg(file("A file that `isobar backup` made"))
        .args(Settings::data_dir_args())
        .after_help(
            "Refuses a data directory that has anything in it. Without keys in the backup, put the vault.key of that server\n\
             beside the database before `isobar serve`.\n\n\
             Examples:\n  \
             isobar restore /srv/backup/isobar-2026-01-31.tar\n  \
             isobar restore --data-dir ./data whole.tar",
        )
}

/// Runs `backup`.
///
/// # Errors
/// As [`backup::backup`].
pub(crate) fn run_backup(matches: &ArgMatches) -> anyhow::Result<()> {
    let (data, to) = (Settings::data_dir_of(matches)?, file_of(matches));
    let made = backup::backup(&data, &to, matches.get_flag("with-keys"))?;
    println!("{}: revision {}, {} blobs", to.display(), made.revision, made.blobs);
    if !matches.get_flag("with-keys") {
        println!("without keys: keep {} somewhere else", data.join("vault.key").display());
    }
    Ok(())
}

/// Runs `restore`.
///
/// # Errors
/// As [`backup::restore`].
pub(crate) fn run_restore(matches: &ArgMatches) -> anyhow::Result<()> {
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    let (data, from) = (Settings::data_dir_of(matches)?, file_of(matches));
    let restored = backup::restore(&from, &data)?;
    let summary = restored.summary;
    println!(
        "{}: revision {}, {} blobs",
        data.display(),
        summary.revision,
        summary.blobs
    );
    if !restored.keys {
        println!(
            "missing: {}. Put the one of that server there before `isobar serve`, which refuses another one: secure \
             params and tokens are sealed with it. A new TLS key is made, so clients and agents that pin the old \
             certificate have to be told the new fingerprint.",
            data.join("vault.key").display()
        );
    }
    Ok(())
}
