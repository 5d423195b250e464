//! The jobs of the machine that this runs on (drp-api §11): asks for the next one, does what it says, reports.
//!
//! What a job wants done with the machine itself (a reboot) is left to the caller.

mod script;

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use isobar_client::{Client, ClientError, Method, path};
use serde_json::{Map, Value, json};

pub use script::Verdict;

/// Between two looks at a machine that has nothing to do.
const LOOK: Duration = Duration::from_secs(2);
/// How long a server that cannot be reached is waited for, in [`LOOK`]s.
const PATIENCE: u32 = 300;

/// How a runner is set up.
pub struct Runner<'a> {
    /// Key of the machine.
    pub machine: String,
    /// Folder for the jobs' own folders.
    pub folder: PathBuf,
    /// Gives a connection that is logged in; asked before each job, since a token may run out in a long one.
    pub connect: &'a dyn Fn() -> Result<Client, ClientError>,
    /// What scripts find in their environment, such as `RS_ENDPOINT` and `RS_TOKEN`. Values may be secret.
    pub environment: &'a dyn Fn(&Client) -> Vec<(String, String)>,
    /// Folder to look for programs in before those of `PATH`.
    pub programs: Option<PathBuf>,
    /// Ends when there is nothing more to do, instead of waiting for more.
    pub oneshot: bool,
    /// Ends at the first job that fails.
    pub exit_on_failure: bool,
    /// Tells whoever looks on.
    pub told: &'a dyn Fn(&str),
}

/// Why a runner came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// All tasks are done.
    Done,
    /// A job asked for an end, or the machine was given a bootenv to install itself from.
    Stopped,
    /// The machine is to be booted again.
    Reboot,
    /// The machine is to be switched off.
    PowerOff,
    /// A job failed, and that was to be the end.
    Failed,
}

/// Why a runner cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The server, or the way to it.
    #[error("{0}")]
    Client(#[from] ClientError),
    /// A file of a job.
    #[error("{path}: {source}")]
    Io {
        /// Of the file.
        path: String,
        /// What failed.
        source: io::Error,
    },
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> JobError {
    let path = path.display().to_string();
    move |source| JobError::Io { path, source }
}

fn text<'a>(object: &'a Value, member: &str) -> &'a str {
    object[member].as_str().unwrap_or_default()
}

/// Answers without a job that are asked again after at once: each may be a stage that was entered.
const EMPTY: u32 = 50;

/// What a runner without work has said and heard.
#[derive(Default)]
struct Idle {
    told: bool,
    empty: u32,
    /// The stage that is done, and leads nowhere.
    stage: Option<String>,
}

/// What comes after a job or a look.
enum Next {
    Ask,
    Wait,
    End(Ended),
}

impl Runner<'_> {
    /// Does what there is to do.
    ///
    /// # Errors
    /// [`JobError`] for what will not pass; a server that cannot be reached for a while is waited for.
    pub fn run(&self) -> Result<Ended, JobError> {
        let client = (self.connect)()?;
        let machine: Value = client.get(&path!("api", "v3", "machines", self.machine))?;
        let (uuid, bootenv) = (text(&machine, "Uuid").to_owned(), text(&machine, "BootEnv").to_owned());
        let _lock = self.lock(&uuid)?;
        self.close_left_over(&client, &machine)?;
        let (mut failures, mut idle) = (0, Idle::default());
        loop {
            let next = (self.connect)()
                .map_err(JobError::from)
                .and_then(|client| self.step(&client, &uuid, &bootenv, &mut idle));
            match next {
                Ok(Next::End(ended)) => return Ok(ended),
                Ok(Next::Ask) => failures = 0,
                Ok(Next::Wait) => {
                    failures = 0;
                    thread::sleep(LOOK);
                }
                Err(JobError::Client(error))
                    if error.status().is_none_or(|status| status >= 500) && failures < PATIENCE =>
                {
                    if failures == 0 {
                        (self.told)(&format!("{error}; trying on"));
                    }
                    failures += 1;
                    thread::sleep(LOOK);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// A runner that was killed in the middle of a job left it open, and the server makes no other beside it.
    fn close_left_over(&self, client: &Client, machine: &Value) -> Result<(), JobError> {
        let current = text(machine, "CurrentJob");
        if current.is_empty() {
            return Ok(());
        }
        let job: Value = match client.get(&path!("api", "v3", "jobs", current)) {
            Ok(job) => job,
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        match text(&job, "State") {
            // Nobody has begun it: it can be done now.
            "created" => patch(client, "jobs", current, &[("State", "incomplete".into())])?,
            "running" => {
                log(client, current, b"The runner ended before the job did.\n")?;
                patch(
                    client,
                    "jobs",
                    current,
                    &[("State", "failed".into()), ("ExitState", "failed".into())],
                )?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Two runners of one machine would take each other's jobs for left over.
    fn lock(&self, uuid: &str) -> Result<File, JobError> {
        fs::create_dir_all(&self.folder).map_err(io_error(&self.folder))?;
        let path = self.folder.join(format!("{uuid}.lock"));
        let file = File::create(&path).map_err(io_error(&path))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(io_error(&path)(io::Error::other(
                "another runner does this machine's jobs already",
            ))),
            Err(TryLockError::Error(error)) => Err(io_error(&path)(error)),
        }
    }

    /// One question for work, and the work.
    fn step(&self, client: &Client, uuid: &str, bootenv: &str, idle: &mut Idle) -> Result<Next, JobError> {
        let machine: Value = client.get(&path!("api", "v3", "machines", uuid))?;
        if let Some(ended) = left(bootenv, text(&machine, "BootEnv")) {
            return Ok(Next::End(ended));
        }
        let wait = |idle: &mut Idle, why: &str| {
            if !std::mem::replace(&mut idle.told, true) {
                (self.told)(why);
            }
            Next::Wait
        };
        if machine["Runnable"] != true || machine["Available"] == false {
            return Ok(wait(idle, "waiting until the machine is Runnable"));
        }
        if all_done(&machine) {
            let stage = text(&machine, "Stage");
            if idle.stage.as_deref() != Some(stage) {
                idle.stage = Some(stage.to_owned());
                if let Some(next) = self.next_stage(client, uuid, &machine)? {
                    return Ok(next);
                }
            }
            return Ok(match self.oneshot {
                true => Next::End(Ended::Done),
                false => wait(idle, "all tasks are done; waiting for more"),
            });
        }
        let asked = client
            .request(Method::POST, "/api/v3/jobs")
            .send_json(&json!({ "Machine": uuid }));
        let job: Value = match asked.and_then(isobar_client::Response::json) {
            Ok(job) => job,
            // Changed in between.
            Err(error) if error.status() == Some(409) => return Ok(wait(idle, &error.to_string())),
            Err(error) => return Err(error.into()),
        };
        if job.is_null() {
            // The server did something itself, or there is nothing more: the machine tells.
            idle.empty += 1;
            return Ok(match idle.empty > EMPTY {
                true => Next::Wait,
                false => Next::Ask,
            });
        }
        *idle = Idle::default();
        let verdict = self.job(client, uuid, &job)?;
        (self.told)(&format!("{}: {verdict}", text(&job, "Task")));
        Ok(match verdict {
            Verdict::Failed => {
                patch(client, "machines", uuid, &[("Runnable", false.into())])?;
                match self.exit_on_failure {
                    true => Next::End(Ended::Failed),
                    false => Next::Ask,
                }
            }
            Verdict::Ended { reboot: true, .. } => Next::End(Ended::Reboot),
            Verdict::Ended { poweroff: true, .. } => Next::End(Ended::PowerOff),
            Verdict::Ended { stop: true, .. } => Next::End(Ended::Stopped),
            // It comes again; not at once, since it hardly has what it waits for by then.
            Verdict::Ended { incomplete: true, .. } => Next::Wait,
            Verdict::Ended { .. } => Next::Ask,
        })
    }

    /// Where the param `change-stage/map` leads from a stage whose tasks are done: `NEXT`, or `NEXT:WHAT`, where `WHAT` says
    /// what becomes of the machine. Workflows need no such map.
    fn next_stage(&self, client: &Client, uuid: &str, machine: &Value) -> Result<Option<Next>, JobError> {
        let stage = text(machine, "Stage");
        if !text(machine, "Workflow").is_empty() {
            return Ok(None);
        }
        let map = path!("api", "v3", "machines", uuid, "params") + "/change-stage/map?aggregate=true";
        let map: Value = match client.get(&map) {
            Ok(map) => map,
            Err(error) if matches!(error.status(), Some(403 | 404)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let Some((next, what)) = map[stage]
            .as_str()
            .map(|next| next.split_once(':').unwrap_or((next, "")))
        else {
            return Ok(None);
        };
        if next == stage || next.is_empty() {
            return Ok(None);
        }
        (self.told)(&format!("{stage} is done; {next} comes next"));
        patch(client, "machines", uuid, &[("Stage", next.into())])?;
        Ok(Some(match what.to_ascii_lowercase().as_str() {
            "reboot" => Next::End(Ended::Reboot),
            "stop" => Next::End(Ended::Stopped),
            "poweroff" | "shutdown" => Next::End(Ended::PowerOff),
            // Stages without tasks that lead to each other would be gone through without a pause.
            _ => Next::Wait,
        }))
    }

    fn job(&self, client: &Client, machine: &str, job: &Value) -> Result<Verdict, JobError> {
        let uuid = text(job, "Uuid");
        (self.told)(&format!("{}: running", text(job, "Task")));
        patch(client, "jobs", uuid, &[("State", "running".into())])?;
        let verdict = match self.actions(client, machine, job) {
            Ok(verdict) => verdict,
            // What cannot be written or started here, or rendered there, is the job's failure.
            Err(error @ JobError::Client(_)) if !is_answer(&error) => return Err(error),
            Err(error) => {
                log(client, uuid, format!("{error}\n").as_bytes())?;
                Verdict::Failed
            }
        };
        let members = [
            ("State", verdict.state().into()),
            ("ExitState", verdict.exit_state().into()),
        ];
        patch(client, "jobs", uuid, &members)?;
        Ok(verdict)
    }

    fn actions(&self, client: &Client, machine: &str, job: &Value) -> Result<Verdict, JobError> {
        let uuid = text(job, "Uuid");
        let request = client.request(Method::GET, &path!("api", "v3", "jobs", uuid, "actions"));
        let actions: Vec<Value> = request.query("os", std::env::consts::OS).send()?.json()?;
        let sane = sane_exit_codes(client, text(job, "Task"))?;
        let folder = self.folder.join(uuid);
        fs::create_dir_all(&folder).map_err(io_error(&folder))?;
        // Scripts hold what secure params say.
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).map_err(io_error(&folder))?;
        let mut environment = (self.environment)(client);
        for (name, value) in [
            ("RS_UUID", machine),
            ("RS_MACHINE_UUID", machine),
            ("RS_JOB_UUID", uuid),
            ("RS_TASK_DIR", &folder.display().to_string()),
            ("RS_RUNNER_DIR", &self.folder.display().to_string()),
            ("RS_TASK", text(job, "Task")),
            ("RS_STAGE", text(job, "Stage")),
            ("RS_BOOTENV", text(job, "BootEnv")),
        ] {
            environment.push((name.to_owned(), value.to_owned()));
        }
        if let Some(programs) = &self.programs {
            let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
            environment.push(("PATH".to_owned(), format!("{}:{path}", programs.display())));
        }
        let mut verdict = Verdict::DONE;
        for (at, action) in actions.iter().enumerate() {
            let (name, content) = (text(action, "Name"), text(action, "Content"));
            let path = text(action, "Path");
            if !path.is_empty() {
                let file = folder.join(path);
                if let Some(above) = file.parent() {
                    fs::create_dir_all(above).map_err(io_error(above))?;
                }
                fs::write(&file, content).map_err(io_error(&file))?;
                log(
                    client,
                    uuid,
                    format!("{name}: written to {}\n", file.display()).as_bytes(),
                )?;
                continue;
            }
            let file = folder.join(script::file_name(at, name));
            let mut send = |piece: &[u8]| log(client, uuid, piece);
            send(format!("{name}: started\n").as_bytes())?;
            let code = script::run(&file, content, &folder, &environment, &mut send)?;
            verdict = Verdict::of(code, sane);
            send(format!("{name}: exit status {code}\n").as_bytes())?;
            if verdict != Verdict::DONE {
                break;
            }
        }
        // Secrets do not stay; what failed may be looked at.
        if verdict != Verdict::Failed {
            let _ = fs::remove_dir_all(&folder);
        }
        Ok(verdict)
    }
}

/// The server answered, and the answer is about the job.
fn is_answer(error: &JobError) -> bool {
    matches!(error, JobError::Client(error) if error.status().is_some_and(|status| (400..500).contains(&status) && status != 401 && status != 403))
}

/// What a new bootenv means for who runs in the old one.
fn left(old: &str, new: &str) -> Option<Ended> {
    match old == new {
        true => None,
        // An installer reboots by itself when it is done.
        false if old.ends_with("-install") => Some(Ended::Stopped),
        false => Some(Ended::Reboot),
    }
}

fn all_done(machine: &Value) -> bool {
    let tasks = machine["Tasks"].as_array().map_or(0, Vec::len);
    let current = machine["CurrentTask"].as_i64().unwrap_or(-1);
    usize::try_from(current).is_ok_and(|current| current >= tasks) || tasks == 0
}

/// Whether the task's exit codes are those that content uses today.
fn sane_exit_codes(client: &Client, task: &str) -> Result<bool, ClientError> {
    match client.get::<Value>(&path!("api", "v3", "tasks", task)) {
        Ok(task) => {
            let flags = text(&task["Meta"], "feature-flags");
            Ok(flags.split(',').any(|flag| flag.trim() == "sane-exit-codes"))
        }
        Err(error) if matches!(error.status(), Some(403 | 404)) => Ok(true),
        Err(error) => Err(error),
    }
}

fn patch(client: &Client, noun: &str, key: &str, members: &[(&str, Value)]) -> Result<(), ClientError> {
    let operation =
        |(member, value): &(&str, Value)| json!({"op": "replace", "path": format!("/{member}"), "value": value});
    let operations: Vec<Value> = members.iter().map(operation).collect();
    let request = client.request(Method::PATCH, &path!("api", "v3", noun, key));
    request.send_json(&operations).map(drop)
}

fn log(client: &Client, job: &str, piece: &[u8]) -> Result<(), JobError> {
    let request = client.request(Method::PUT, &path!("api", "v3", "jobs", job, "log"));
    let len = u64::try_from(piece.len()).ok();
    request.send_stream("application/octet-stream", len, &mut &*piece)?;
    Ok(())
}

/// Who this machine is, as `POST /whoami` wants to know it.
#[must_use]
pub fn traits(root: &Path) -> Value {
    let sys = root.join("sys");
    let macs: Vec<String> = crate::nic::list(&sys).into_iter().map(|nic| nic.mac).collect();
    let uuid = crate::read_text(&sys.join("class/dmi/id/product_uuid")).unwrap_or_default();
    let mut traits = Map::new();
    traits.insert("Fingerprint".to_owned(), json!({ "SystemUUID": uuid.to_lowercase() }));
    traits.insert("MacAddrs".to_owned(), json!(macs));
    traits.insert("OnDiskUUID".to_owned(), json!(""));
    traits.into()
}

#[cfg(test)]
mod tests;
