//! A script of a job: run, listened to, judged.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use super::{JobError, io_error};

/// What a script says in one go is sent in one go.
const TOGETHER: Duration = Duration::from_millis(250);
/// Longest piece of a log in bytes.
const PIECE: usize = 64 * 1024;
/// How long what a script left running may still say something.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What a job came to (drp-api §11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It went wrong.
    Failed,
    /// It went well, so far as it went.
    Ended {
        /// To be run again.
        incomplete: bool,
        /// The machine is to be booted again.
        reboot: bool,
        /// The machine is to be switched off.
        poweroff: bool,
        /// No further jobs now.
        stop: bool,
    },
}

impl Verdict {
    /// All went well.
    pub const DONE: Self = Self::Ended {
        incomplete: false,
        reboot: false,
        poweroff: false,
        stop: false,
    };

    /// What an exit status means; `sane`: as tasks flagged `sane-exit-codes` say it.
    #[must_use]
    pub fn of(code: i32, sane: bool) -> Self {
        let ended = |incomplete, reboot, poweroff, stop| Self::Ended {
            incomplete,
            reboot,
            poweroff,
            stop,
        };
        match (sane, code) {
            (_, 0) => Self::DONE,
            (true, code) if (16..256).contains(&code) && code % 16 == 0 => {
                ended(code & 128 != 0, code & 64 != 0, code & 32 != 0, code & 16 != 0)
            }
            (false, 2) => ended(true, false, false, false),
            (false, 3) => ended(false, true, false, false),
            _ => Self::Failed,
        }
    }

    /// The job's State.
    #[must_use]
    pub fn state(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Ended { incomplete: true, .. } => "incomplete",
            Self::Ended { .. } => "finished",
        }
    }

    /// The job's ExitState.
    #[must_use]
    pub fn exit_state(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Ended { reboot: true, .. } => "reboot",
            Self::Ended { poweroff: true, .. } => "poweroff",
            Self::Ended { stop: true, .. } => "stop",
            Self::Ended { .. } => "complete",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.state())?;
        match self.exit_state() {
            "complete" | "failed" => Ok(()),
            more => write!(f, ", {more}"),
        }
    }
}

/// Name of the file of a script: whatever it is called, it lies in the job's folder.
pub(super) fn file_name(at: usize, name: &str) -> String {
    let safe = |c: char| {
        if c.is_ascii_alphanumeric() || "-_.".contains(c) {
            c
        } else {
            '_'
        }
    };
    let name: String = name.chars().map(safe).take(64).collect();
    format!("{at:02}-{name}")
}

enum Said {
    Piece(Vec<u8>),
    Silent,
    Exited(io::Result<ExitStatus>),
}

/// Runs a script in `folder` and gives its exit status; what it says goes to `send`, piece by piece.
pub(super) fn run(
    file: &Path,
    content: &str,
    folder: &Path,
    environment: &[(String, String)],
    send: &mut dyn FnMut(&[u8]) -> Result<(), JobError>,
) -> Result<i32, JobError> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o700);
    let mut open = options.open(file).map_err(io_error(file))?;
    open.write_all(content.as_bytes()).map_err(io_error(file))?;
    // A file that is open for writing cannot be run.
    drop(open);
    let (mut from, to) = io::pipe().map_err(io_error(file))?;
    // Without a first line that names its program it is the shell's.
    let mut command = match content.starts_with("#!") {
        true => Command::new(file),
        false => {
            let mut shell = Command::new("/bin/sh");
            shell.arg(file);
            shell
        }
    };
    command
        .current_dir(folder)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(to.try_clone().map_err(io_error(file))?)
        .stderr(to)
        // The terminal's interrupts are the runner's alone.
        .process_group(0);
    let mut child = command.spawn().map_err(io_error(file))?;
    // It holds the writing end of the pipe.
    drop(command);
    let (sender, said) = sync_channel(16);
    let exits = sender.clone();
    thread::spawn(move || {
        let mut buffer = vec![0; PIECE];
        loop {
            let piece = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => buffer[..n].to_vec(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            if sender.send(Said::Piece(piece)).is_err() {
                return;
            }
        }
        let _ = sender.send(Said::Silent);
    });
    thread::spawn(move || {
        let _ = exits.send(Said::Exited(child.wait()));
    });
    let (mut status, mut silent, mut kept): (_, _, Vec<u8>) = (None, false, Vec::new());
    let mut since = Instant::now();
    loop {
        let patience = match (&status, kept.is_empty()) {
            (None, true) => Duration::MAX,
            (None, false) => TOGETHER.saturating_sub(since.elapsed()),
            (Some(_), _) => LAST_WORDS,
        };
        match said.recv_timeout(patience) {
            Ok(Said::Piece(piece)) => {
                if kept.is_empty() {
                    since = Instant::now();
                }
                kept.extend(piece);
            }
            Ok(Said::Silent) => silent = true,
            Ok(Said::Exited(result)) => status = Some(result.map_err(io_error(file))?),
            Err(RecvTimeoutError::Timeout) if status.is_none() => {
                send(&std::mem::take(&mut kept))?;
                continue;
            }
            // Something in the background holds the pipe: it is none of the job's.
            Err(_) => silent = true,
        }
        if kept.len() >= PIECE || (silent && status.is_some() && !kept.is_empty()) {
            send(&std::mem::take(&mut kept))?;
        }
        if let (true, Some(status)) = (silent, status) {
            // Killed: no exit status that means anything.
            return Ok(status.code().unwrap_or_else(|| -status.signal().unwrap_or(1)));
        }
    }
}
