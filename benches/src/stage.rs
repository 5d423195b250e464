//! A running server, simulated BMCs, and the CLI: what an operator has before them.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use isobar_client::{Auth, Client, Login, Secret, TlsTrust};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::setup::{Setup, quiet};

/// How long a program may take to come up or to end.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);
/// Login of the simulated BMCs.
pub(crate) const BMC_USER: &str = "root";

/// A program that ends with us.
pub(crate) struct Program {
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Starts it; what it prints goes to `log`.
    pub(crate) fn start(mut command: Command, log: &Path) -> Result<Self> {
        let file = File::create(log).with_context(|| format!("cannot make {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        Ok(Self {
            child,
            log: log.to_owned(),
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the kernel says of its memory in a line of `status` (`VmRSS:`), bytes.
    pub(crate) fn memory(&self, line: &str) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status
            .lines()
            .find_map(|l| l.strip_prefix(line))
            .context("no such line")?;
        let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib * 1024.0)
    }

    /// Processor time that it took so far, its own and the kernel's for it, seconds.
    pub(crate) fn processor_time(&self) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        // The program's name, in parentheses, may hold spaces.
        let (_, fields) = stat.rsplit_once(')').context("no process")?;
        let mut fields = fields.split_whitespace().skip(11);
        let mut ticks = || fields.next().and_then(|n| n.parse::<f64>().ok()).context("no ticks");
        // The kernel shows hundredths of a second, whatever it counts in.
        Ok((ticks()? + ticks()?) / 100.0)
    }

    /// # Errors
    /// With the end of its log, when it has ended.
    pub(crate) fn ensure_runs(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("it ended ({status}): {}", self.last_words()),
            None => Ok(()),
        }
    }

    fn last_words(&self) -> String {
        let text = String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // TERM first: a simulator takes its machine with it.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            sleep(LOOK);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running `isobar serve`.
pub(crate) struct Stage {
    isobar: PathBuf,
    folder: PathBuf,
    api: u16,
    pub(crate) serve: Program,
}

/// A running `isobar sim`.
pub(crate) struct Bmc {
    pub(crate) program: Program,
    port: u16,
    plain: bool,
    password: PathBuf,
}

impl Bmc {
    /// Where the image is that it was given last. It has to be one with `--plain-http`.
    pub(crate) fn image(&self) -> Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.write_all(b"GET /sim/v1/log HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (_, body) = answer.split_once("\r\n\r\n").context("the simulator's log")?;
        let log: Value = serde_json::from_str(body).context("the simulator's log")?;
        let media = log["media"].as_array().and_then(|media| media.last());
        let url = media.and_then(|medium| medium["url"].as_str());
        url.map(str::to_owned).context("the BMC was given no image")
    }
}

impl Stage {
    /// Starts a server with a data directory of its own in `folder`; `args` are added to its own.
    pub(crate) fn up(setup: &Setup, folder: &Path, args: &[&str]) -> Result<Self> {
        Self::prepared(setup, folder, args, |_| ())
    }

    /// [`Stage::up`] with something done to the command before it is started.
    pub(crate) fn prepared(
        setup: &Setup,
        folder: &Path,
        args: &[&str],
        prepare: impl FnOnce(&mut Command),
    ) -> Result<Self> {
        let api = free_port()?;
        let mut command = Command::new(&setup.isobar);
        command.arg("serve").arg("--data-dir").arg(folder.join("data"));
        command.args(["--api-listen", &format!("127.0.0.1:{api}")]);
        if !args.contains(&"--file-listen") {
            command.args(["--file-listen", &format!("127.0.0.1:{}", free_port()?)]);
        }
        command.args(args);
        prepare(&mut command);
        let mut stage = Self {
            isobar: setup.isobar.clone(),
            folder: folder.to_owned(),
            api,
            serve: Program::start(command, &folder.join("serve.log"))?,
        };
        let deadline = Instant::now() + PATIENCE;
        while stage.run(&["info", "get"]).is_err() {
            stage.serve.ensure_runs().context("isobar serve")?;
            ensure!(Instant::now() < deadline, "isobar serve does not come up");
            sleep(LOOK);
        }
        Ok(stage)
    }

    /// Port of the API.
    pub(crate) fn api(&self) -> u16 {
        self.api
    }

    /// A command of the CLI, logged in.
    pub(crate) fn command(&self, args: &[&str]) -> Result<Command> {
        let password = self.password()?;
        let mut command = Command::new(&self.isobar);
        command
            .args(args)
            .env("RS_ENDPOINT", format!("https://127.0.0.1:{}", self.api))
            .env("RS_KEY", format!("rocketskates:{password}"))
            .env("RS_TOKEN_PATH", self.folder.join("tokens"))
            .stdin(Stdio::null());
        Ok(command)
    }

    /// Runs one and gives its answer.
    pub(crate) fn run(&self, args: &[&str]) -> Result<String> {
        quiet(&mut self.command(args)?).with_context(|| args.join(" "))
    }

    /// The API as the first user.
    pub(crate) fn client(&self) -> Result<Client> {
        let password = self.password()?;
        let nobody = Client::new(
            &format!("https://127.0.0.1:{}", self.api),
            Auth::None,
            TlsTrust::Insecure,
        )?;
        Ok(Login::with_password(&nobody, "rocketskates", &Secret::new(password.as_str()), None)?.client)
    }

    fn password(&self) -> Result<String> {
        let password = self.folder.join("data/rocketskates.password");
        let password = fs::read_to_string(password).context("no password file")?;
        Ok(password.trim().to_owned())
    }

    /// Gives the server the live image.
    pub(crate) fn import(&self, setup: &Setup) -> Result<()> {
        let mut command = self.command(&["sledgehammer", "build", "--agent"])?;
        command.arg(&setup.agent).arg("--out").arg(setup.work.join("bundle"));
        command.arg("--cache").arg(&setup.packages);
        quiet(&mut command).map(drop).context("the live image")
    }

    /// Starts a BMC that adds no delay of its own.
    pub(crate) fn bmc(&self, name: &str, args: &[&str]) -> Result<Bmc> {
        let folder = self.folder.join(name);
        fs::create_dir_all(&folder)?;
        let (password, config) = (folder.join("bmc.password"), folder.join("sim.toml"));
        fs::write(&password, "calvin-and-hobbes\n")?;
        let instant = ["power_on_ms", "power_off_ms", "post_ms", "kernel_ms", "shutdown_ms"];
        let manners = instant.map(|delay| format!("{delay} = 0\n")).concat();
        fs::write(&config, format!("[manners]\n{manners}"))?;
        let port = free_port()?;
        let mut command = Command::new(&self.isobar);
        command.args(["sim", "--user", BMC_USER, "--listen", &format!("127.0.0.1:{port}")]);
        command.arg("--password-file").arg(&password);
        command.arg("--work-dir").arg(&folder).arg("--config").arg(&config);
        command.args(args);
        let mut bmc = Bmc {
            program: Program::start(command, &self.folder.join(format!("{name}.log")))?,
            port,
            plain: args.contains(&"--plain-http"),
            password,
        };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            bmc.program.ensure_runs().context("isobar sim")?;
            ensure!(Instant::now() < deadline, "isobar sim does not come up");
            sleep(LOOK);
        }
        Ok(bmc)
    }

    /// A machine that this BMC can boot, in bootenv `local`.
    pub(crate) fn machine(&self, name: &str, bmc: &Bmc, params: &[(&str, &str)]) -> Result<()> {
        self.run(&["machines", "create", &format!(r#"{{"Name":"{name}"}}"#)])?;
        let key = format!("Name:{name}");
        let (address, password) = (
            format!("{}://127.0.0.1:{}", if bmc.plain { "http" } else { "https" }, bmc.port),
            format!("@{}", bmc.password.display()),
        );
        let own = [
            ("ipmi/address", address.as_str()),
            ("ipmi/username", BMC_USER),
            ("ipmi/password", &password),
            ("boot-virtual-iso", "true"),
        ];
        for (param, value) in own.iter().chain(params) {
            self.run(&["machines", "set", &key, "param", param, "to", value])?;
        }
        self.run(&["machines", "workflow", &key, ""])?;
        self.run(&["machines", "bootenv", &key, "local"])?;
        Ok(())
    }
}

pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
