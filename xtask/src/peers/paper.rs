//! Our simulated BMC with a paper machine, for clients that drive it and readers of what is inserted in it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::http::get_json;
use crate::program::{Program, free_port};
use crate::server::Server;

pub(crate) const USER: &str = "root";
pub(crate) const PASSWORD: &str = "calvin-and-hobbes";

pub(crate) struct Paper {
    _sim: Program,
    /// `address:port`, plain HTTP.
    pub(crate) authority: String,
    pub(crate) password_file: PathBuf,
}

impl Paper {
    /// Starts one at an address of loopback.
    pub(crate) fn up(isobar: &Path, dir: &Path, address: &str) -> Result<Self> {
        Self::with(isobar, dir, address, &[])
    }

    /// Starts one with a vendor's manners, quick, that reads nothing at the insert.
    pub(crate) fn of_profile(isobar: &Path, dir: &Path, profile: &str) -> Result<Self> {
        let more = ["--profile", profile, "--time-scale", "100", "--read-manner", "lazy"];
        Self::with(isobar, dir, "127.0.0.1", &more)
    }

    /// With more options.
    pub(super) fn with(isobar: &Path, dir: &Path, address: &str, more: &[&str]) -> Result<Self> {
        let authority = format!("{address}:{}", free_port(0)?);
        let password_file = dir.join("bmc.password");
        std::fs::write(&password_file, format!("{PASSWORD}\n"))?;
        let mut sim = Command::new(isobar);
        sim.args(["sim", "--plain-http", "--machine", "paper", "--listen", &authority]);
        sim.args(["--user", USER, "--password-file"]).arg(&password_file);
        sim.arg("--work-dir").arg(dir.join("sim")).args(more);
        let mut sim = Program::start(sim, dir.join("sim.log"))?;
        sim.wait_until("isobar sim", || std::net::TcpStream::connect(&authority).is_ok())?;
        Ok(Self {
            _sim: sim,
            authority,
            password_file,
        })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.authority)
    }

    /// What happened to it.
    pub(crate) fn log(&self) -> Result<Value> {
        get_json(&self.authority, "/sim/v1/log", None)
    }

    /// The end of its machine's serial console.
    pub(crate) fn serial(&self) -> Result<String> {
        let answer = get_json(&self.authority, "/sim/v1/serial", None)?;
        Ok(answer["text"].as_str().unwrap_or_default().to_owned())
    }

    /// Makes it the BMC of a machine.
    pub(crate) fn belongs_to(&self, server: &Server, machine: &str) -> Result<()> {
        server.set(machine, "ipmi/address", &self.url())?;
        server.set(machine, "ipmi/username", USER)?;
        server.set(machine, "ipmi/password", &format!("@{}", self.password_file.display()))
    }

    /// Has the server insert the machine's own live image, by hand, and answers the URL that the BMC was given.
    pub(crate) fn mounted_image(&self, server: &Server, machine: &str) -> Result<String> {
        server.run(&["machines", "bootenv", machine, "sledgehammer"])?;
        let answer = server.act(machine, &["mountVirtualMedia", "ipmi/mode", "redfish"])?;
        ensure!(answer == "Success", "not mounted: {answer}");
        self.image()
    }

    /// The URL in its virtual CD.
    pub(crate) fn image(&self) -> Result<String> {
        let log = self.log()?;
        let image = log["cd"]["image"].as_str().map(str::to_owned);
        image.with_context(|| format!("nothing is inserted: {}", log["cd"]))
    }

    /// Waits until its log shows something.
    pub(crate) fn wait(&self, what: &str, shows: impl Fn(&Value) -> bool) -> Result<Value> {
        let deadline = Instant::now() + Duration::from_secs(300);
        loop {
            let log = self.log()?;
            if shows(&log) {
                return Ok(log);
            }
            ensure!(
                Instant::now() < deadline,
                "the simulator's log never showed {what}: power {}, boots {}, CD {}",
                log["power"],
                log["boots"],
                log["cd"]
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}
