//! What a machine does itself: its jobs, and who it is.

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use isobar_client::Client;
use isobar_host::inventory;
use isobar_host::jobs::{Ended, JobError, Runner, traits};
use serde_json::Value;

use super::{Arity, Call, Verb, option, switch, verb};
use crate::output::Output;
use crate::session::Session;
use crate::{CliError, Program};

pub(super) const OF_MACHINES: &[Verb] = &[
    verb(
        "processjobs",
        "[id]",
        Arity::Between(0, 1),
        process_jobs,
        "Does the jobs of a machine on this host, which has to be that machine: runs their scripts, and as drpcli \
         reboots it where a job or a new bootenv asks for that. Without an id the machine is that of RS_UUID",
        "machines processjobs Name:mach-01 --oneshot",
    )
    .flags(&[
        switch("oneshot", "End when all tasks are done, instead of waiting for more"),
        switch("exit-on-failure", "End at the first job that fails"),
        switch(
            "reboot",
            "Reboot or power off this host when asked to; without it the command ends and says so",
        ),
        option(
            "folder",
            "FOLDER",
            "For the jobs' files [default: ~/.cache/isobar/jobs]",
        ),
    ]),
    verb(
        "whoami",
        "",
        Arity::Exactly(0),
        whoami,
        "Asks the server which of its machines this host is, by its MAC addresses and firmware",
        "machines whoami",
    ),
];

pub(super) const WHOLE: &[Verb] = &[verb(
    "gohai",
    "",
    Arity::Exactly(0),
    |_, _| Ok(Output::json(inventory::collect(Path::new("/")))),
    "Shows what this host is made of, as the agent reports it in gohai-inventory; no server is asked",
    "gohai",
)];

fn whoami(session: &Session, _call: &Call) -> Result<Output, CliError> {
    let answer: Value = session.client()?.post("/api/v3/whoami", &traits(Path::new("/")))?;
    Ok(Output::json(answer))
}

fn process_jobs(session: &Session, call: &Call) -> Result<Output, CliError> {
    let machine = match (call.args.first(), session.host.var("RS_UUID")) {
        (Some(id), _) => id.clone(),
        (None, Some(uuid)) => uuid.to_owned(),
        (None, None) => return Err(call.misuse("say which machine this host is, or set RS_UUID")),
    };
    let folder = match (call.option("folder"), session.host.var("HOME")) {
        (Some(folder), _) => PathBuf::from(folder),
        (None, Some(home)) => Path::new(home).join(".cache/isobar/jobs"),
        (None, None) => return Err(call.misuse("there is no HOME here: say --folder FOLDER")),
    };
    private(&folder)?;
    let runner = Runner {
        machine,
        programs: programs(&folder),
        folder,
        connect: &|| session.connect(),
        environment: &environment,
        oneshot: call.is_set("oneshot"),
        exit_on_failure: call.is_set("exit-on-failure"),
        told: &|text| session.host.note(text),
    };
    let ended = runner.run().map_err(|error| match error {
        JobError::Client(error) => error.into(),
        error => CliError::text(error.to_string()),
    })?;
    let (program, what) = match ended {
        Ended::Done | Ended::Stopped => return Ok(Output::Nothing),
        Ended::Failed => return Err(CliError::text("a job failed: `isobar machines currentlog ID` says why")),
        Ended::Reboot => ("reboot", "rebooted"),
        Ended::PowerOff => ("poweroff", "powered off"),
    };
    if session.program == Program::Isobar && !call.is_set("reboot") {
        session.host.note(&format!(
            "this host is to be {what} now; with --reboot that would have been done"
        ));
        return Ok(Output::Nothing);
    }
    session.host.note(&format!("this host is {what}"));
    let status = Command::new(program).status().map_err(CliError::io(program))?;
    match status.success() {
        true => Ok(Output::Nothing),
        false => Err(CliError::text(format!("{program}: {status}"))),
    }
}

/// Scripts that run as root must not lie where others can change them.
fn private(folder: &Path) -> Result<(), CliError> {
    let shown = folder.display().to_string();
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(CliError::io(shown.clone()))?;
    let about = fs::metadata(folder).map_err(CliError::io(shown.clone()))?;
    if about.uid() != rustix::process::geteuid().as_raw() || about.mode() & 0o022 != 0 {
        return Err(CliError::text(format!(
            "{shown}: others can write there; use a folder of your own"
        )));
    }
    Ok(())
}

/// Scripts call `drpcli`: this program is one.
fn programs(folder: &Path) -> Option<PathBuf> {
    let programs = folder.join("bin");
    let this = std::env::current_exe().ok()?;
    fs::create_dir_all(&programs).ok()?;
    let link = programs.join("drpcli");
    let _ = fs::remove_file(&link);
    symlink(this, link).ok()?;
    Some(programs)
}

/// Scripts talk to the same server as who runs them.
fn environment(client: &Client) -> Vec<(String, String)> {
    let mut variables = vec![("RS_ENDPOINT".to_owned(), client.endpoint().to_string())];
    variables.extend(
        client
            .token()
            .map(|token| ("RS_TOKEN".to_owned(), token.expose().to_owned())),
    );
    variables
}
