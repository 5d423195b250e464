//! A running `isobar serve`, and the CLI as an operator uses it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::program::{Program, free_port};
use crate::run::{shown, step, target};

/// `isobar serve` with a data folder of its own; BMCs reach it at 127.0.0.1.
pub(crate) struct Server {
    pub(crate) isobar: PathBuf,
    pub(crate) dir: PathBuf,
    pub(crate) api: u16,
    pub(crate) files: u16,
    pub(crate) serve: Program,
}

impl Server {
    /// Starts it and waits until it answers. `for_machine` is this host, as machines see it.
    pub(crate) fn up(isobar: PathBuf, dir: PathBuf, for_machine: &str) -> Result<Self> {
        let (api, files) = (free_port(8092)?, free_port(8091)?);
        let local = |port: u16| format!("127.0.0.1:{port}");
        let mut serve = Command::new(&isobar);
        serve.arg("serve").arg("--data-dir").arg(dir.join("data"));
        serve.args(["--api-listen", &local(api), "--file-listen", &local(files)]);
        serve.args(["--address-for-bmc", "127.0.0.1", "--address-for-machine", for_machine]);
        let serve = Program::start(serve, dir.join("serve.log"))?;
        let mut server = Self {
            isobar,
            dir,
            api,
            files,
            serve,
        };
        server.wait_until_up()?;
        Ok(server)
    }

    pub(crate) fn password_file(&self) -> PathBuf {
        self.dir.join("data/rocketskates.password")
    }

    fn wait_until_up(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            self.serve.ensure_runs().context("isobar serve")?;
            let api = self.password_file().exists()
                && self
                    .command(&["info", "get"])
                    .is_ok_and(|mut c| c.output().is_ok_and(|o| o.status.success()));
            if api {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "isobar serve did not come up: {}",
                crate::program::tail(self.serve.log(), 15)
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The CLI, logged in. The password goes by the environment, not by arguments.
    pub(crate) fn command(&self, args: &[&str]) -> Result<Command> {
        let password = std::fs::read_to_string(self.password_file()).context("no password file")?;
        let mut command = Command::new(&self.isobar);
        command
            .args(args)
            .env("RS_ENDPOINT", format!("https://127.0.0.1:{}", self.api))
            .env("RS_KEY", format!("rocketskates:{}", password.trim()))
            .env("RS_TOKEN_PATH", self.dir.join("tokens"))
            .stdin(Stdio::null());
        Ok(command)
    }

    /// Builds the live image with this agent and imports it.
    pub(crate) fn sledgehammer(&self, agent: &Path) -> Result<()> {
        let mut command = self.command(&["sledgehammer", "build", "--agent"])?;
        command.arg(agent).arg("--out").arg(self.dir.join("bundle"));
        command.arg("--cache").arg(target().join("debian"));
        step(&mut command)
    }

    /// Runs a command of the walk-through: prints it, lets its progress through, gives (and prints) its answer.
    pub(crate) fn run(&self, args: &[&str]) -> Result<String> {
        let mut command = self.command(args)?;
        println!("\n$ {}", shown(&command));
        let output = command.stderr(Stdio::inherit()).output()?;
        let answer = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let lines: Vec<&str> = answer.lines().collect();
        if lines.len() > 24 {
            println!("{}\n  … ({} lines)", lines[..12].join("\n"), lines.len());
        } else {
            println!("{answer}");
        }
        ensure!(
            output.status.success(),
            "{} failed ({})",
            shown(&command),
            output.status
        );
        Ok(answer)
    }

    pub(crate) fn json(&self, args: &[&str]) -> Result<Value> {
        let answer = self.run(args)?;
        serde_json::from_str(&answer).with_context(|| format!("{} did not answer JSON", args.join(" ")))
    }

    pub(crate) fn expect(&self, args: &[&str], wanted: &Value) -> Result<()> {
        let answer = self.json(args)?;
        ensure!(
            answer == *wanted,
            "{}: {wanted} was expected, not {answer}",
            args.join(" ")
        );
        Ok(())
    }

    /// Sets a param of a machine.
    pub(crate) fn set(&self, machine: &str, param: &str, value: &str) -> Result<()> {
        self.run(&["machines", "set", machine, "param", param, "to", value])
            .map(drop)
    }

    /// Runs an action of a machine.
    pub(crate) fn act(&self, machine: &str, words: &[&str]) -> Result<Value> {
        self.json(&[&["machines", "runaction", machine], words].concat())
    }
}
