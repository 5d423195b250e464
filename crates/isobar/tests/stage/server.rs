//! A real `isobar serve` in a folder of its own, and the commands that speak to it.

use std::fmt;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use isobar_client::{Auth, Client, Login, Secret, TlsTrust};
use serde_json::{Value, json};
use tempfile::TempDir;
use time::OffsetDateTime;

use super::{PASSWORD, PATIENCE};

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

/// What a server is started with beyond folders and ports.
#[derive(Clone, Debug)]
pub struct Options {
    /// `--timing`.
    pub timing: String,
    /// `--address-for-bmc`, `--address-for-machine`; an empty one is not given.
    pub addresses: (String, String),
    /// Address that API and file plane listen on.
    pub listen: String,
    /// `--log-level`.
    pub log_level: String,
    /// More options.
    pub args: Vec<String>,
    /// What the command line begins with: `ip netns exec …`, `prlimit …`.
    pub wrapper: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            timing: super::TIMING.to_owned(),
            addresses: ("127.0.0.1".to_owned(), "192.168.77.1".to_owned()),
            listen: "127.0.0.1".to_owned(),
            log_level: "debug".to_owned(),
            args: Vec::new(),
            wrapper: Vec::new(),
        }
    }
}

pub struct Server {
    dir: TempDir,
    api: u16,
    files: u16,
    pub options: Options,
    child: Option<Child>,
    /// When each process was started.
    pub starts: Vec<OffsetDateTime>,
}

/// One that stays free while nobody listens on it: below those that the system hands out by itself (`32768 …`), and
/// given to nobody else in this process.
pub fn free_port() -> u16 {
    const PORTS: std::ops::Range<u32> = 15_000..32_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id().wrapping_mul(97);
    loop {
        let step = first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(PORTS.start + step % (PORTS.end - PORTS.start)).expect("ports are below 65,536");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

impl Server {
    /// Not started yet.
    pub fn new(options: Options) -> Self {
        Self {
            dir: TempDir::new().unwrap(),
            api: free_port(),
            files: free_port(),
            options,
            child: None,
            starts: Vec::new(),
        }
    }

    pub fn start(&mut self) {
        self.spawn();
        self.wait_up();
    }

    /// Started and stopped once, so that its data directory is there.
    pub fn prepared(mut self) -> Self {
        self.start();
        self.stop();
        self
    }

    pub fn wait_up(&self) {
        self.wait("the server is up", |s| {
            s.data().join("rocketskates.password").exists()
                && s.nobody()
                    .get::<Value>("/api/v3/info")
                    .is_err_and(|e| !e.to_string().contains("cannot reach"))
        });
    }

    /// Does not wait until it serves.
    pub fn spawn(&mut self) {
        self.starts.push(OffsetDateTime::now_utc());
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.path().join("serve.log"))
            .unwrap();
        let local = |port: u16| format!("{}:{port}", self.options.listen);
        let (for_bmc, for_machine) = &self.options.addresses;
        let addresses = [("--address-for-bmc", for_bmc), ("--address-for-machine", for_machine)];
        let addresses = addresses.iter().filter(|(_, address)| !address.is_empty());
        let program = env!("CARGO_BIN_EXE_isobar").to_owned();
        let words: Vec<String> = self.options.wrapper.iter().cloned().chain([program]).collect();
        let child = clean(Command::new(&words[0]))
            .args(&words[1..])
            .args(["serve", "--api-listen", &local(self.api)])
            .args(["--file-listen", &local(self.files)])
            .args(addresses.flat_map(|(option, address)| [*option, address.as_str()]))
            .args(["--timing", &self.options.timing, "--log-level", &self.options.log_level])
            .arg("--data-dir")
            .arg(self.data())
            .args(&self.options.args)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM, and its end.
    pub fn stop(&mut self) {
        let mut child = self.child.take().unwrap();
        assert!(
            Command::new("kill")
                .arg(child.id().to_string())
                .status()
                .unwrap()
                .success()
        );
        assert!(child.wait().unwrap().success(), "it stops in order");
    }

    /// Process id of the server.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Folder of this server: data, log, tokens of its users.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn api_port(&self) -> u16 {
        self.api
    }

    pub fn files_port(&self) -> u16 {
        self.files
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

    /// Our own CLI, not started yet.
    pub fn command(&self, args: &[&str]) -> Command {
        self.command_of(Path::new(env!("CARGO_BIN_EXE_isobar")), args)
    }

    fn command_of(&self, program: &Path, args: &[&str]) -> Command {
        let mut command = clean(Command::new(program));
        command
            .args(args)
            .env("RS_ENDPOINT", format!("https://127.0.0.1:{}", self.api))
            .env("RS_KEY", format!("rocketskates:{}", self.key()))
            .env("RS_TOKEN_PATH", self.dir.path().join("tokens"))
            .stdin(Stdio::null());
        command
    }

    fn run(&self, program: &Path, args: &[&str]) -> Out {
        let output = self.command_of(program, args).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Out {
            ok: output.status.success(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }

    /// A machine, ready to boot through the BMC at this URL; `params` go over the usual ones.
    pub fn create_machine(&self, name: &str, bmc: &str, params: &Value) {
        let mut all = json!({
            "ipmi/address": bmc,
            "ipmi/username": "root",
            "ipmi/password": PASSWORD,
            "boot-virtual-iso": true,
            "network-data": super::network(),
        });
        all.as_object_mut().unwrap().extend(params.as_object().unwrap().clone());
        let password = self.dir.path().join(format!("{name}.password"));
        let text = all.as_object_mut().unwrap().remove("ipmi/password").unwrap();
        std::fs::write(&password, text.as_str().unwrap()).unwrap();
        let out = self.isobar(&["machines", "create", &json!({"Name": name, "Params": all}).to_string()]);
        assert!(out.ok, "{out}");
        let machine = format!("Name:{name}");
        let from = format!("@{}", password.display());
        let out = self.isobar(&["machines", "set", &machine, "param", "ipmi/password", "to", &from]);
        assert!(out.ok, "{out}");
        std::fs::remove_file(password).unwrap();
    }

    /// Machines at once, each ready to boot through the BMC at its URL; their UUIDs.
    pub fn create_machines(&self, bmcs: &[(String, String)]) -> Vec<String> {
        let password = self.dir.path().join("bmc.password");
        std::fs::write(&password, PASSWORD).unwrap();
        for words in [
            &["profiles", "create", r#"{"Name": "bmcs"}"#][..],
            &[
                "profiles",
                "set",
                "bmcs",
                "param",
                "ipmi/password",
                "to",
                &format!("@{}", password.display()),
            ],
        ] {
            let out = self.isobar(words);
            assert!(out.ok, "{words:?}: {out}");
        }
        std::fs::remove_file(password).unwrap();
        let client = self.client();
        let create = |(number, (name, url)): (usize, &(String, String))| {
            let mut network = super::network();
            network["prov"]["address"] = format!("192.168.77.{}", 10 + number).into();
            let params = json!({"ipmi/address": url, "ipmi/username": "root", "boot-virtual-iso": true, "network-data": network});
            let machine = json!({"Name": name, "Profiles": ["bmcs"], "Params": params});
            let made: Value = client.post("/api/v3/machines", &machine).unwrap();
            made["Uuid"].as_str().unwrap().to_owned()
        };
        bmcs.iter().enumerate().map(create).collect()
    }

    pub fn machine_named(&self, name: &str) -> Value {
        self.client().get(&format!("/api/v3/machines/Name:{name}")).unwrap()
    }

    /// Newest boot of a machine; null when it has none.
    pub fn last_boot_of(&self, name: &str) -> Value {
        let uuid = self.machine_named(name)["Uuid"].as_str().unwrap().to_owned();
        let boots: Value = self.client().get(&format!("/isobar/v1/boots?machine={uuid}")).unwrap();
        boots[0].clone()
    }

    /// Waits for a condition; fails with the server's log when it does not come.
    pub fn wait(&self, what: &str, is: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is(self) {
            assert!(Instant::now() < deadline, "never: {what}\nlog:\n{}", self.log());
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
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let from = log.len().saturating_sub(6000);
            eprintln!(
                "-- end of the server's log\n{}",
                String::from_utf8_lossy(&log.as_bytes()[from..])
            );
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
