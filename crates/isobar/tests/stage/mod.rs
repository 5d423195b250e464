//! A server, a simulated BMC with a machine behind it, and somebody who plays the machine's operating system.

#![allow(clippy::unwrap_used, dead_code, missing_docs, unreachable_pub)]

use std::collections::HashMap;
use std::fmt;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use isobar_client::{Auth, Client, Login, Secret, TlsTrust};
use isobar_sim::{OsExit, OsUp, Sim, SimConfig};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

pub const MACHINE: &str = "Name:mach-01";
/// The canary: must be found nowhere.
pub const PASSWORD: &str = "canary-Xq7-password";
const PATIENCE: Duration = Duration::from_secs(90);

/// Short, so that a test that waits for a deadline does not wait long; long enough for a loaded host.
pub const TIMING: &str = "exchange_s=8,insert_s=20,settle_s=3,retry_s=0.2,poll_s=0.1,shutdown_s=2,power_s=20,first_read_s=6,stalled_s=20,\
                      agent_s=60,agent_reboot_s=30,agent_gone_s=5,heartbeat_s=1,cleanup_s=1";

/// An operating system that came up.
#[derive(Clone, Debug)]
pub struct Os {
    pub command_line: String,
    /// `/etc/isobar/boot.json` of its initramfs.
    pub boot: Value,
}

pub struct Stage {
    dir: TempDir,
    api: u16,
    files: u16,
    timing: String,
    server: Option<Child>,
    runtime: tokio::runtime::Runtime,
    sim: Option<Sim>,
    oses: Arc<Mutex<Vec<Os>>>,
    beats: Arc<AtomicUsize>,
}

/// What a command did.
pub struct Out {
    pub ok: bool,
    pub stdout: String,
    pub stderr: String,
}

impl fmt::Display for Out {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ok: {}\n-- stdout\n{}\n-- stderr\n{}",
            self.ok, self.stdout, self.stderr
        )
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A static address, as an operator gives it.
pub fn network() -> Value {
    json!({"prov": {
        "address": "192.168.77.10", "netmask": "255.255.255.0", "gateway": "192.168.77.1",
        "interface": "eth10", "vlan": 1020,
    }})
}

impl Stage {
    pub fn new(adapt: impl FnOnce(&mut SimConfig)) -> Self {
        Self::timed(TIMING, adapt)
    }

    /// With deadlines and pauses of its own.
    pub fn timed(timing: &str, adapt: impl FnOnce(&mut SimConfig)) -> Self {
        let oses: Arc<Mutex<Vec<Os>>> = Arc::default();
        let api = free_port();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap();
        let mut config = SimConfig {
            user: "root".into(),
            password: PASSWORD.into(),
            ..SimConfig::quick()
        };
        let beats: Arc<AtomicUsize> = Arc::default();
        let (kept, counted) = (Arc::clone(&oses), Arc::clone(&beats));
        config.os_up = Some(Arc::new(move |os| {
            Box::pin(play_os(os, api, Arc::clone(&kept), Arc::clone(&counted)))
        }));
        adapt(&mut config);
        let sim = runtime.block_on(isobar_sim::start(config)).unwrap();
        let mut stage = Self {
            dir: TempDir::new().unwrap(),
            api,
            files: free_port(),
            timing: timing.to_owned(),
            server: None,
            runtime,
            sim: Some(sim),
            oses,
            beats,
        };
        stage.start_server();
        stage
    }

    pub fn start_server(&mut self) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.path().join("serve.log"))
            .unwrap();
        let local = |port: u16| format!("127.0.0.1:{port}");
        let child = clean(Command::new(env!("CARGO_BIN_EXE_isobar")))
            .args([
                "serve",
                "--api-listen",
                &local(self.api),
                "--file-listen",
                &local(self.files),
            ])
            .args([
                "--address-for-bmc",
                "127.0.0.1",
                "--address-for-machine",
                "192.168.77.1",
            ])
            .args(["--timing", &self.timing, "--log-level", "debug"])
            .arg("--data-dir")
            .arg(self.dir.path().join("data"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.server = Some(child);
        self.wait("the server is up", |s| {
            s.dir.path().join("data/rocketskates.password").exists()
                && s.nobody()
                    .get::<Value>("/api/v3/info")
                    .is_err_and(|e| !e.to_string().contains("cannot reach"))
        });
    }

    /// `kill -9`.
    pub fn kill_server(&mut self) {
        let mut child = self.server.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn files_port(&self) -> u16 {
        self.files
    }

    pub fn sim(&self) -> &Sim {
        self.sim.as_ref().unwrap()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("serve.log")).unwrap_or_default()
    }

    pub fn nobody(&self) -> Client {
        Client::new(
            &format!("https://127.0.0.1:{}", self.api),
            Auth::None,
            TlsTrust::Insecure,
        )
        .unwrap()
    }

    fn key(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("data/rocketskates.password"))
            .unwrap()
            .trim()
            .to_owned()
    }

    pub fn client(&self) -> Client {
        Login::with_password(&self.nobody(), "rocketskates", &Secret::new(self.key().as_str()), None)
            .unwrap()
            .client
    }

    /// Our own CLI.
    pub fn isobar(&self, args: &[&str]) -> Out {
        self.run(Path::new(env!("CARGO_BIN_EXE_isobar")), args)
    }

    /// The same program under the name that scripts know.
    pub fn drpcli(&self, args: &[&str]) -> Out {
        let name = self.dir.path().join("drpcli");
        if !name.exists() {
            std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_isobar"), &name).unwrap();
        }
        self.run(&name, args)
    }

    fn run(&self, program: &Path, args: &[&str]) -> Out {
        let output = clean(Command::new(program))
            .args(args)
            .env("RS_ENDPOINT", format!("https://127.0.0.1:{}", self.api))
            .env("RS_KEY", format!("rocketskates:{}", self.key()))
            .env("RS_TOKEN_PATH", self.dir.path().join("tokens"))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Out {
            ok: output.status.success(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
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
        let mut all = json!({
            "ipmi/address": self.sim().url().as_str(),
            "ipmi/username": "root",
            "ipmi/password": PASSWORD,
            "boot-virtual-iso": true,
            "network-data": network(),
        });
        all.as_object_mut().unwrap().extend(params.as_object().unwrap().clone());
        let password = self.dir.path().join("bmc.password");
        let text = all.as_object_mut().unwrap().remove("ipmi/password").unwrap();
        std::fs::write(&password, text.as_str().unwrap()).unwrap();
        let out = self.isobar(&[
            "machines",
            "create",
            &json!({"Name": "mach-01", "Params": all}).to_string(),
        ]);
        assert!(out.ok, "{out}");
        self.set("ipmi/password", &format!("@{}", password.display()));
        std::fs::remove_file(password).unwrap();
    }

    pub fn machine(&self) -> Value {
        self.client().get(&format!("/api/v3/machines/{MACHINE}")).unwrap()
    }

    pub fn last_boot(&self) -> Value {
        let uuid = self.machine()["Uuid"].as_str().unwrap().to_owned();
        let boots: Value = self.client().get(&format!("/isobar/v1/boots?machine={uuid}")).unwrap();
        boots[0].clone()
    }

    pub fn wait_boot(&self, state: &str) {
        self.wait(&format!("the boot is {state}"), |s| s.last_boot()["state"] == state);
    }

    /// How often an operating system came up.
    pub fn oses(&self) -> usize {
        self.oses.lock().unwrap().len()
    }

    /// Heartbeats that agents have sent.
    pub fn heartbeats(&self) -> usize {
        self.beats.load(Ordering::SeqCst)
    }

    pub fn last_os(&self) -> Os {
        self.oses.lock().unwrap().last().cloned().unwrap()
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

    /// Sessions that were open at one time: each exchange has one.
    pub fn most_exchanges_at_once(&self) -> usize {
        let (mut open, mut most) = (0_usize, 0);
        for request in self.sim().requests() {
            match (request.method.as_str(), request.path.contains("/Sessions")) {
                ("POST", true) => open += 1,
                ("DELETE", true) => open = open.saturating_sub(1),
                _ => {}
            }
            most = most.max(open);
        }
        // The one that was cut off by the kill never logged out.
        most.saturating_sub(1)
    }

    /// Waits for a condition; fails with the server's log when it does not come.
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

    /// GET on the file plane, by hand: status and body.
    pub fn get_image(&self, url: &str, range: Option<&str>) -> (u16, Vec<u8>) {
        let path = url.split_once("://").unwrap().1.split_once('/').unwrap().1;
        let mut stream = TcpStream::connect(("127.0.0.1", self.files)).unwrap();
        let range = range.map(|r| format!("Range: {r}\r\n")).unwrap_or_default();
        write!(
            stream,
            "GET /{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{range}\r\n"
        )
        .unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
        let status = String::from_utf8_lossy(&answer[9..12]).parse().unwrap();
        (status, answer.split_off(end + 4))
    }

    /// A live image to plan on: as large as it takes to see progress, and nothing in it that runs.
    pub fn import(&self) {
        self.import_version(1);
    }

    pub fn import_version(&self, version: u8) {
        let noise = |len: usize, seed: u8| -> Vec<u8> {
            let mut state = u64::from(seed) * 256 + u64::from(version);
            (0..len)
                .map(|_| {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    (state >> 56) as u8
                })
                .collect()
        };
        let files: HashMap<&str, (Vec<u8>, &str)> = HashMap::from([
            ("vmlinuz0", (noise(2 << 20, 1), "kernel")),
            ("stage1.img", (noise(3 << 20, 2), "initrd")),
            ("boot/grub/efi.img", (noise(1 << 20, 3), "efi-image")),
            ("boot/grub/i386-pc/eltorito.img", (noise(32 << 10, 4), "bios-image")),
            // Nothing that boots reads it, but for who copies all.
            ("boot/grub/fonts/unicode.pf2", (noise(1 << 20, 5), "other")),
            (".isobar/0123456789abcdef", (b"marker".to_vec(), "other")),
        ]);
        let listed: Vec<Value> = files
            .iter()
            .map(|(path, (bytes, role))| {
                json!({"path": path, "sha256": hex(&Sha256::digest(bytes)), "size": bytes.len(), "role": role})
            })
            .collect();
        let bundle = json!({
            "format": 1, "name": "sledgehammer", "version": version.to_string(), "arch": "amd64",
            "volume_id": "SLEDGEHAMMER", "bios_image": "boot/grub/i386-pc/eltorito.img",
            "efi_image": "boot/grub/efi.img", "catalog": "boot.catalog", "kernel": "vmlinuz0",
            "initrd": "stage1.img", "marker": ".isobar/0123456789abcdef", "files": listed,
        });
        let mut tar = tar::Builder::new(Vec::new());
        let mut add = |path: &str, bytes: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, path, bytes).unwrap();
        };
        add("bundle.json", bundle.to_string().as_bytes());
        for (path, (bytes, _)) in &files {
            add(&format!("tree/{path}"), bytes);
        }
        let tar = tar.into_inner().unwrap();
        let len = tar.len() as u64;
        let answer: Value = self
            .client()
            .upload(
                "/isobar/v1/bases/sledgehammer",
                "application/x-tar",
                Some(len),
                &mut &tar[..],
            )
            .unwrap();
        assert_eq!(answer["name"], "sledgehammer");
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(mut child) = self.server.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Some(sim) = self.sim.take() {
            self.runtime.block_on(sim.shutdown());
        }
        if std::thread::panicking() {
            let log = self.log();
            let from = log.len().saturating_sub(6000);
            eprintln!("-- end of the server's log\n{}", &log[from..]);
        }
    }
}

fn clean(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("ISOBAR_") || name.starts_with("RS_") {
            command.env_remove(name);
        }
    }
    command
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The agent's side: exchange, check-in, report, heartbeats until it is told to reboot.
async fn play_os(os: OsUp, api: u16, oses: Arc<Mutex<Vec<Os>>>, beats: Arc<AtomicUsize>) -> OsExit {
    let OsUp {
        command_line,
        initrds,
        mut power_button,
        ..
    } = os;
    let boot = initrds
        .iter()
        .find_map(|(_, bytes)| secret_of(bytes))
        .expect("an initrd with the boot secret");
    oses.lock().unwrap().push(Os {
        command_line,
        boot: boot.clone(),
    });
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let agent = tokio::task::spawn_blocking(move || agent(&boot, api, &stopped, &beats));
    tokio::select! {
        exit = agent => exit.unwrap_or(OsExit::Stay),
        _ = power_button.recv() => {
            drop(stop);
            OsExit::PowerOff
        }
    }
}

fn agent(boot: &Value, api: u16, stopped: &std::sync::mpsc::Receiver<()>, beats: &AtomicUsize) -> OsExit {
    let text = |name: &str| boot[name].as_str().unwrap().to_owned();
    let (machine, attempt) = (text("machine"), text("attempt"));
    // The machine's own network does not exist here; the pin is the one that it was given.
    let trust = TlsTrust::Pinned(text("fingerprint"));
    let nobody = Client::new(&format!("https://127.0.0.1:{api}"), Auth::None, trust).unwrap();
    let nonce = format!("nonce-of-{attempt}");
    let exchange = json!({"machine": machine, "attempt": attempt, "secret": text("secret"), "nonce": nonce});
    let mut client = None;
    let mut pause = Duration::from_millis(200);
    let ended = |r: Result<(), std::sync::mpsc::RecvTimeoutError>| {
        r.is_err_and(|e| e == std::sync::mpsc::RecvTimeoutError::Disconnected)
    };
    loop {
        if client.is_none() {
            // As after a lost reply: asked twice with one nonce, the same token comes twice.
            let first = nobody.post::<_, Value>("/isobar/v1/agent/exchange", &exchange);
            let second = nobody.post::<_, Value>("/isobar/v1/agent/exchange", &exchange);
            if let (Ok(first), Ok(second)) = (first, second) {
                assert_eq!(first["token"], second["token"]);
                let token = first["token"].as_str().unwrap();
                let mine = nobody.with_auth(Auth::Token(Secret::new(token)));
                let checkin = json!({"machine": machine, "attempt": attempt, "version": "test", "uptime_s": 1, "root_in_memory": true});
                let report = [json!({"op": "replace", "path": "/Address", "value": "192.168.77.10"})];
                let checked_in = mine.post::<_, Value>("/isobar/v1/agent/checkin", &checkin);
                let reported = mine.patch::<_, Value>(&format!("/api/v3/machines/{machine}"), &report);
                if let (Ok(answer), Ok(_)) = (checked_in, reported) {
                    pause = Duration::from_secs(answer["heartbeat_s"].as_u64().unwrap());
                    client = Some(mine);
                }
            }
        } else if let Some(client) = &client {
            let beat = json!({"machine": machine, "attempt": attempt, "uptime_s": 2});
            if let Ok(answer) = client.post::<_, Value>("/isobar/v1/agent/heartbeat", &beat) {
                beats.fetch_add(1, Ordering::SeqCst);
                if answer["command"] == "reboot" {
                    return OsExit::Reboot;
                }
            }
        }
        if ended(stopped.recv_timeout(pause)) {
            return OsExit::Stay;
        }
    }
}

/// The JSON in a newc archive that holds one file with some.
fn secret_of(archive: &[u8]) -> Option<Value> {
    let from = archive.iter().position(|b| *b == b'{')?;
    serde_json::Deserializer::from_slice(&archive[from..])
        .into_iter::<Value>()
        .next()?
        .ok()
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
