//! A server, a simulated BMC with a machine behind it, and somebody who plays the machine's operating system.
//!
//! [`Stage`] is one of each; a test with several machines takes a [`Server`], as many simulators as it needs, and
//! [`Players`] for their operating systems.

#![allow(clippy::unwrap_used, dead_code, missing_docs, unreachable_pub, unused_imports)]

mod bundle;
mod disc;
mod exchanges;
mod os;
mod server;

use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use isobar_sim::{Fault, FaultKind, Sim, SimConfig};
use serde_json::{Value, json};

pub use disc::{Disc, Head};
pub use exchanges::{cuts_while_booting, overlaps, overlaps_within};
pub use os::{Habit, Hush, Os, Players};
pub use server::{Options, Out, Server, free_port};

pub const MACHINE: &str = "Name:mach-01";
/// The canary: must be found nowhere.
pub const PASSWORD: &str = "canary-Xq7-password";
pub const PATIENCE: Duration = Duration::from_secs(90);

/// What is waited for between two looks is short; the deadlines are for a host that stands still for seconds. A test that
/// waits for one of them has its own, and one that needs a boot to end well has none below 8 s.
pub const TIMING: &str = "exchange_s=20,insert_s=60,settle_s=3,retry_s=0.2,poll_s=0.1,shutdown_s=2,power_s=40,first_read_s=30,\
                      stalled_s=30,agent_s=60,agent_reboot_s=30,agent_gone_s=20,heartbeat_s=1,cleanup_s=1";
/// For tests that wait for the boot of a machine that never reads its image.
pub const NEVER_READ: &str = "first_read_s=4";

/// One server, one BMC, one machine. The server's own methods are there as well.
pub struct Stage {
    server: Server,
    runtime: tokio::runtime::Runtime,
    sim: Option<Sim>,
    players: Players,
}

/// A static address, as an operator gives it.
pub fn network() -> Value {
    json!({"prov": {
        "address": "192.168.77.10", "netmask": "255.255.255.0", "gateway": "192.168.77.1",
        "interface": "eth10", "vlan": 1020,
    }})
}

/// How the simulators of tests are: quick, and with a login that can be told apart.
pub fn sim_config() -> SimConfig {
    SimConfig {
        user: "root".into(),
        password: PASSWORD.into(),
        ..SimConfig::quick()
    }
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap()
}

impl Deref for Stage {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl DerefMut for Stage {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.server
    }
}

impl Stage {
    pub fn new(adapt: impl FnOnce(&mut SimConfig)) -> Self {
        Self::timed(TIMING, adapt)
    }

    /// With deadlines and pauses of its own.
    pub fn timed(timing: &str, adapt: impl FnOnce(&mut SimConfig)) -> Self {
        let options = Options {
            timing: timing.to_owned(),
            ..Options::default()
        };
        Self::with(options, adapt)
    }

    /// With a server of its own kind.
    pub fn with(options: Options, adapt: impl FnOnce(&mut SimConfig)) -> Self {
        Self::over(Server::new(options), adapt)
    }

    /// With a server that is made and not started yet.
    pub fn over(mut server: Server, adapt: impl FnOnce(&mut SimConfig)) -> Self {
        let players = Players::default();
        let runtime = runtime();
        let mut config = sim_config();
        config.os_up = Some(players.hook(server.api_port()));
        adapt(&mut config);
        let sim = runtime.block_on(isobar_sim::start(config)).unwrap();
        server.start();
        Self {
            server,
            runtime,
            sim: Some(sim),
            players,
        }
    }

    pub fn start_server(&mut self) {
        self.server.start();
    }

    /// `kill -9`.
    pub fn kill_server(&mut self) {
        self.server.kill();
    }

    /// The BMC is another one, at the same address.
    pub fn replace_sim(&mut self, adapt: impl FnOnce(&mut SimConfig)) {
        let mut config = sim_config();
        adapt(&mut config);
        if let Some(old) = self.sim.take() {
            config.listen.set_port(old.url().port_or_known_default().unwrap());
            self.runtime.block_on(old.shutdown());
        }
        self.sim = Some(self.runtime.block_on(isobar_sim::start(config)).unwrap());
    }

    /// What simulators run on.
    pub fn runtime(&self) -> &tokio::runtime::Runtime {
        &self.runtime
    }

    pub fn sim(&self) -> &Sim {
        self.sim.as_ref().unwrap()
    }

    /// `machines runaction Name:mach-01 …`, which has to succeed; its answer.
    pub fn action(&self, words: &[&str]) -> Value {
        let out = self.isobar(&[&["machines", "runaction", MACHINE], words].concat());
        assert!(out.ok, "{words:?}: {out}");
        serde_json::from_str(&out.stdout).unwrap()
    }

    pub fn set(&self, param: &str, value: &str) {
        let out = self.isobar(&["machines", "set", MACHINE, "param", param, "to", value]);
        assert!(out.ok, "{param}: {out}");
    }

    /// `mach-01`, ready to boot; `params` go over the usual ones.
    pub fn add_machine(&self, params: &Value) {
        self.create_machine("mach-01", self.sim().url().as_str(), params);
    }

    pub fn machine(&self) -> Value {
        self.machine_named("mach-01")
    }

    pub fn last_boot(&self) -> Value {
        self.last_boot_of("mach-01")
    }

    pub fn wait_boot(&self, state: &str) {
        self.wait(&format!("the boot is {state}"), |s| s.last_boot()["state"] == state);
    }

    /// How often an operating system came up.
    pub fn oses(&self) -> usize {
        self.players.all().len()
    }

    /// Heartbeats that agents have sent.
    pub fn heartbeats(&self) -> usize {
        self.players.heartbeats()
    }

    /// No agent says anything while this is held.
    pub fn hush(&self) -> Hush {
        self.runtime.block_on(self.players.hush())
    }

    pub fn last_os(&self) -> Os {
        self.players.all().pop().unwrap()
    }

    /// Requests to the BMC whose path holds this, reads left out: `METHOD path body`.
    pub fn requests(&self, path: &str) -> Vec<String> {
        let of = self
            .sim()
            .requests()
            .into_iter()
            .filter(|r| r.method != "GET" && r.path.contains(path));
        of.map(|r| format!("{} {} {}", r.method, r.path, r.body.unwrap_or_default()))
            .collect()
    }

    /// Where the BMC had two exchanges at once; see [`overlaps`].
    pub fn overlaps(&self) -> Vec<String> {
        overlaps(&self.sim().requests(), &self.starts)
    }

    /// Waits for a condition; fails with boot, requests and log when it does not come.
    pub fn wait(&self, what: &str, is: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is(self) {
            assert!(
                Instant::now() < deadline,
                "never: {what}\nboot: {:#}\nrequests: {:#?}\nlog:\n{}",
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.last_boot())).unwrap_or_default(),
                self.requests(""),
                self.log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(sim) = self.sim.take() {
            self.runtime.block_on(sim.shutdown());
        }
    }
}

/// A BMC with an internal error, each time that it is asked for this.
pub fn failing(method: &str, path: &str) -> Fault {
    let kind = FaultKind::Status {
        code: 500,
        retry_after_s: None,
        message_id: None,
        message: Some("internal error".to_owned()),
    };
    Fault::from(kind).on(method, path)
}

/// The numbers that `cargo xtask test --full` runs with, else those that fit into every run. Says which.
pub fn count(what: &str, every_run: usize, full: usize) -> usize {
    let count = match std::env::var_os("ISOBAR_TEST_FULL") {
        Some(_) => full,
        None => every_run,
    };
    eprintln!("{count} {what} (`cargo xtask test`: {every_run}, `--full`: {full})");
    count
}

pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else {
            found.push(path);
        }
    }
    found
}

pub fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|w| w == needle)
}
