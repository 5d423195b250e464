//! A real `isobar serve` as a child process.

#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use isobar_client::{Auth, Client, Login, Secret, TlsTrust};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Long enough for a loaded host, short enough to end a hanging test.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Served {
    child: Child,
    lines: Receiver<String>,
    /// What it has logged up to being ready.
    pub log: Vec<String>,
    /// The line that says so.
    pub ready: Value,
}

/// `isobar serve` on free ports of the loopback.
pub fn command(data: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_isobar"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ISOBAR_") || name.to_string_lossy().starts_with("RS_") {
            command.env_remove(name);
        }
    }
    command
        .args([
            "serve",
            "--api-listen",
            "127.0.0.1:0",
            "--file-listen",
            "127.0.0.1:0",
            "--log-format",
            "json",
        ])
        .arg("--data-dir")
        .arg(data)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

impl Served {
    pub fn start(data: &Path) -> Self {
        Self::with(data, &[])
    }

    pub fn with(data: &Path, args: &[&str]) -> Self {
        let mut child = command(data, args).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = channel();
        // Ends with the child.
        std::thread::spawn(move || {
            stderr
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        let mut log = Vec::new();
        let ready = loop {
            let line = lines
                .recv_timeout(PATIENCE)
                .unwrap_or_else(|e| panic!("never ready ({e}); it said: {log:#?}"));
            let parsed: Value = serde_json::from_str(&line).unwrap_or_default();
            log.push(line);
            if parsed["message"] == "ready" {
                break parsed;
            }
        };
        Self {
            child,
            lines,
            log,
            ready,
        }
    }

    pub fn endpoint(&self) -> String {
        format!("https://{}", self.ready["api"].as_str().unwrap())
    }

    pub fn fingerprint(&self) -> String {
        self.ready["fingerprint"].as_str().unwrap().to_owned()
    }

    /// Nobody yet, but sure of whom it talks to.
    pub fn nobody(&self) -> Client {
        Client::new(&self.endpoint(), Auth::None, TlsTrust::Pinned(self.fingerprint())).unwrap()
    }

    /// rocketskates.
    pub fn login(&self, data: &Path) -> Client {
        let password = std::fs::read_to_string(data.join("rocketskates.password")).unwrap();
        let password = Secret::new(password.trim());
        Login::with_password(&self.nobody(), "rocketskates", &password, None)
            .unwrap()
            .client
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM; gives the exit status and all that it logged.
    pub fn stop(mut self) -> (ExitStatus, Vec<String>) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            self.log.push(line);
        }
        (self.child.wait().unwrap(), std::mem::take(&mut self.log))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
