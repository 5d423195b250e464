//! Programs that run beside us, and end with us.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::run::shown;

/// A program that ends with us.
pub(crate) struct Program {
    child: Option<Child>,
    log: PathBuf,
    /// It takes no notice of SIGTERM.
    deaf: bool,
}

static KEEP: AtomicBool = AtomicBool::new(false);

/// From now on programs run on when we end.
pub(crate) fn keep_all() {
    KEEP.store(true, Ordering::Relaxed);
}

static TIE: AtomicBool = AtomicBool::new(false);

/// From now on programs are killed when we end, however that comes.
pub(crate) fn tie_all() {
    TIE.store(true, Ordering::Relaxed);
}

/// The same command, under a program that asks for its death at ours.
fn tied(command: &Command) -> Command {
    let mut tied = Command::new("setpriv");
    tied.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program());
    tied.args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => tied.env(name, value),
            None => tied.env_remove(name),
        };
    }
    if let Some(dir) = command.get_current_dir() {
        tied.current_dir(dir);
    }
    tied
}

pub(crate) fn keeps_all() -> bool {
    KEEP.load(Ordering::Relaxed)
}

impl Program {
    /// Starts it; what it says goes into `log`.
    pub(crate) fn start(mut command: Command, log: PathBuf) -> Result<Self> {
        println!("$ {} &", shown(&command));
        if TIE.load(Ordering::Relaxed) {
            command = tied(&command);
        }
        let file = File::create(&log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {}", shown(&command)))?;
        Ok(Self {
            child: Some(child),
            log,
            deaf: false,
        })
    }

    /// It is to be killed at once.
    pub(crate) fn killed(mut self) -> Self {
        self.deaf = true;
        self
    }

    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    pub(crate) fn ensure_runs(&mut self) -> Result<()> {
        if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
            bail!("it ended ({status}): {}", tail(&self.log, 15));
        }
        Ok(())
    }

    /// Waits until it is up, as `up` says.
    pub(crate) fn wait_until(&mut self, what: &str, mut up: impl FnMut() -> bool) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(120);
        while !up() {
            self.ensure_runs().with_context(|| what.to_owned())?;
            ensure!(
                Instant::now() < deadline,
                "{what} did not come up: {}",
                tail(&self.log, 15)
            );
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// Lets it run on when we end.
    pub(crate) fn leave(&mut self) {
        self.child = None;
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let Some(child) = &mut self.child else { return };
        if keeps_all() {
            println!("left running: process {}, log {}", child.id(), self.log.display());
            return;
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        if !self.deaf {
            // TERM first: the simulator takes its machine with it.
            let _ = Command::new("kill").arg(child.id().to_string()).status();
        }
        while !self.deaf && Instant::now() < deadline {
            if matches!(child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// The last lines of a log.
pub(crate) fn tail(log: &Path, lines: usize) -> String {
    let text = String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// This port if nobody has it, else any.
pub(crate) fn free_port(wanted: u16) -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", wanted)).or_else(|_| TcpListener::bind(("127.0.0.1", 0)))?;
    Ok(listener.local_addr()?.port())
}

/// Whether somebody listens there.
pub(crate) fn listens(port: u16) -> bool {
    std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
}
