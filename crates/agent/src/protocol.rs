//! Talking to the server: boot secret, check-in, inventory, heartbeat.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use isobar_client::{Auth, Client, ClientError, Secret, TlsTrust, path};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::read_text;

/// How long the server may stay silent.
const PATIENCE: Duration = Duration::from_secs(30);

/// `/etc/isobar/boot.json`: what this boot's disc says.
#[derive(Deserialize)]
pub struct BootFile {
    version: u32,
    /// UUID of the machine.
    pub machine: String,
    /// The attempt: one try to boot.
    pub attempt: String,
    secret: String,
    /// Addresses of the API, to be tried in turn.
    pub api: Vec<String>,
    fingerprint: String,
}

impl fmt::Debug for BootFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BootFile")
            .field("machine", &self.machine)
            .field("attempt", &self.attempt)
            .field("api", &self.api)
            .finish_non_exhaustive()
    }
}

/// Why there is nobody to report to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootFileError {
    /// The disc was made for no machine.
    #[error(
        "there is no boot secret ({0}): this disc was not made for a machine. Nothing is reported; use the shell on this console"
    )]
    Missing(PathBuf),
    /// It makes no sense.
    #[error("the boot secret ({path}) is of no use: {why}. Boot the machine again with a new disc")]
    Bad {
        /// Where it is.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

impl BootFile {
    /// Reads it.
    ///
    /// # Errors
    /// [`BootFileError`]; its text never holds the secret.
    pub fn read(path: &Path) -> Result<Self, BootFileError> {
        let bad = |why: &str| BootFileError::Bad {
            path: path.to_path_buf(),
            why: why.to_owned(),
        };
        let text = read_text(path).ok_or_else(|| BootFileError::Missing(path.to_path_buf()))?;
        // serde's message may quote the text.
        let file: Self = serde_json::from_str(&text).map_err(|error| {
            bad(&format!(
                "it is not as expected in line {}, column {}",
                error.line(),
                error.column()
            ))
        })?;
        if file.version != 1 {
            return Err(bad(&format!("it is of version {}, this agent knows 1", file.version)));
        }
        if file.api.is_empty() {
            return Err(bad("it names no server"));
        }
        let uuid = file.machine.len() == 36 && file.machine.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
        if !uuid {
            return Err(bad("its machine is no UUID"));
        }
        Ok(file)
    }
}

/// What the server asks for in answer to a heartbeat.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    /// Seconds until the next heartbeat, 1 to 300.
    pub heartbeat: Duration,
    /// Whether to reboot now.
    pub reboot: bool,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    command: Option<String>,
    #[serde(default)]
    heartbeat_s: u64,
}

impl From<Answer> for Orders {
    fn from(answer: Answer) -> Self {
        let seconds = match answer.heartbeat_s {
            0 => 5,
            seconds => seconds.min(300),
        };
        Self {
            heartbeat: Duration::from_secs(seconds),
            reboot: answer.command.as_deref() == Some("reboot"),
        }
    }
}

/// What an error means for the next try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not now, perhaps soon: no connection, a server that starts or is busy.
    Later,
    /// The server does not want this boot any more (401, 403, 404, 410).
    Refused,
}

/// Sorts an error.
#[must_use]
pub fn verdict(error: &ClientError) -> Verdict {
    let status = match error {
        ClientError::Api(body) => body.code,
        ClientError::Status { status, .. } => *status,
        _ => 0,
    };
    if matches!(status, 400 | 401 | 403 | 404 | 410) {
        Verdict::Refused
    } else {
        Verdict::Later
    }
}

/// An error in words for who stands at the console. The client's own speak to who gave a command.
#[must_use]
pub fn explain(error: &ClientError) -> String {
    match error {
        ClientError::Unreachable { endpoint, why, .. } => format!(
            "cannot reach {endpoint}: {why}. Check this machine's address, gateway and VLAN, and whether the server runs \
             and its address for machines is right"
        ),
        ClientError::Tls { endpoint, why } => format!("{endpoint} is not the server that made this disc: {why}"),
        other => other.to_string(),
    }
}

/// The server as this boot sees it.
#[derive(Debug)]
pub struct Server {
    file: BootFile,
    /// One client for each address, and which is in use.
    clients: Vec<Client>,
    current: usize,
    run: PathBuf,
}

impl Server {
    /// Prepares; nothing is sent. `run` is where the nonce and the token outlive a restart of the agent.
    ///
    /// # Errors
    /// An address or a fingerprint that cannot be used.
    pub fn new(file: BootFile, run: &Path) -> Result<Self, ClientError> {
        let client = |api: &String| Client::new(api, Auth::None, TlsTrust::Pinned(file.fingerprint.clone()));
        let clients = file.api.iter().map(client).collect::<Result<_, _>>()?;
        Ok(Self {
            clients,
            file,
            current: 0,
            run: run.to_path_buf(),
        })
    }

    /// Address in use.
    #[must_use]
    pub fn address(&self) -> &str {
        self.file.api.get(self.current).map_or("", String::as_str)
    }

    /// After a failed connection: the next address.
    pub fn next_address(&mut self) {
        self.current = (self.current + 1) % self.clients.len().max(1);
    }

    /// UUID of the machine.
    #[must_use]
    pub fn machine(&self) -> &str {
        &self.file.machine
    }

    /// Exchanges the boot secret for a machine token, unless that was done before in this boot.
    ///
    /// # Errors
    /// Any [`ClientError`]; a boot that is over is [`Verdict::Refused`].
    pub fn log_in(&mut self) -> Result<(), ClientError> {
        #[derive(Deserialize)]
        struct Token {
            token: String,
        }
        let kept = self.run.join("token");
        let token = match read_text(&kept) {
            Some(token) => token,
            None => {
                let body = json!({
                    "machine": self.file.machine,
                    "attempt": self.file.attempt,
                    "secret": self.file.secret,
                    "nonce": self.nonce(),
                });
                let answer: Token = self.post("/isobar/v1/agent/exchange", &body)?;
                // Without it a restarted agent could not come back; with /run full it just has to.
                let _ = write_private(&kept, &answer.token);
                answer.token
            }
        };
        let auth = Auth::Token(Secret::new(token));
        self.clients = self
            .clients
            .iter()
            .map(|client| client.with_auth(auth.clone()))
            .collect();
        Ok(())
    }

    /// The nonce of this boot, made at its first use.
    fn nonce(&self) -> String {
        let kept = self.run.join("nonce");
        read_text(&kept).filter(|nonce| !nonce.is_empty()).unwrap_or_else(|| {
            let mut bytes = [0u8; 32];
            let mut filled = 0;
            while filled < bytes.len() {
                // It waits until the kernel has gathered entropy; an interrupted call is made again.
                filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())
                    .unwrap_or_default();
            }
            let nonce = URL_SAFE_NO_PAD.encode(bytes);
            let _ = write_private(&kept, &nonce);
            nonce
        })
    }

    /// "The agent is up."
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn check_in(&self, uptime: u64) -> Result<Orders, ClientError> {
        let body = json!({
            "machine": self.file.machine,
            "attempt": self.file.attempt,
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_s": uptime,
            "root_in_memory": true,
        });
        self.post::<Answer>("/isobar/v1/agent/checkin", &body).map(Orders::from)
    }

    /// "Still here."
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn heartbeat(&self, uptime: u64) -> Result<Orders, ClientError> {
        let body = json!({
            "machine": self.file.machine,
            "attempt": self.file.attempt,
            "uptime_s": uptime,
        });
        self.post::<Answer>("/isobar/v1/agent/heartbeat", &body)
            .map(Orders::from)
    }

    /// Sets the machine's Address, HardwareAddrs and Runnable.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn set_machine(&self, address: &str, macs: &[String]) -> Result<(), ClientError> {
        // `add` of RFC 6902 replaces a member that is there.
        let patch = json!([
            { "op": "add", "path": "/Address", "value": address },
            { "op": "add", "path": "/HardwareAddrs", "value": macs },
            { "op": "add", "path": "/Runnable", "value": true },
        ]);
        let path = path!("api", "v3", "machines", &self.file.machine);
        let request = self
            .client()
            .request(isobar_client::Method::PATCH, &path)
            .patience(PATIENCE);
        request.send_json(&patch).map(drop)
    }

    /// Sets a param of the machine.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn set_param(&self, name: &str, value: &Value) -> Result<(), ClientError> {
        let path = path!("api", "v3", "machines", &self.file.machine, "params", name);
        let request = self
            .client()
            .request(isobar_client::Method::POST, &path)
            .patience(PATIENCE);
        request.send_json(value).map(drop)
    }

    fn client(&self) -> &Client {
        // There is one for each address, and a file without addresses is refused.
        &self.clients[self.current]
    }

    fn post<T: serde::de::DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, ClientError> {
        let request = self
            .client()
            .request(isobar_client::Method::POST, path)
            .patience(PATIENCE);
        request.send_json(body)?.json()
    }
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write as _;
    let new = path.with_extension("new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(text.as_bytes())?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt as _;

    use isobar_client::ApiErrorBody;

    use super::*;

    const UUID: &str = "bb1eadf9-4b5e-46a7-a577-d07e2a33138f";

    fn file(text: &str) -> Result<BootFile, BootFileError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("boot.json");
        fs::write(&path, text).unwrap();
        BootFile::read(&path)
    }

    fn good() -> String {
        json!({
            "version": 1, "machine": UUID, "attempt": "a1", "secret": "hush-hush",
            "api": ["https://192.168.77.1:8092", "https://10.0.0.1:8092"], "fingerprint": "00".repeat(32),
        })
        .to_string()
    }

    #[test]
    fn the_secret_shows_nowhere() {
        let file = file(&good()).unwrap();
        assert_eq!(file.machine, UUID);
        assert!(!format!("{file:?}").contains("hush"));
        for bad in [
            good().replace("\"version\":1", "\"version\":\"hush-hush\""),
            good().replace("\"version\":1", "\"version\":2"),
            good().replace("\"api\":[", "\"api\":[], \"was\":["),
            good().replace(UUID, "../x"),
            "hush-hush".to_owned(),
        ] {
            let error = self::file(&bad).unwrap_err().to_string();
            assert!(error.contains("boot.json") && !error.contains("hush"), "{error}");
        }
        let error = BootFile::read(Path::new("/nonexistent/boot.json"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("not made for a machine"), "{error}");
    }

    #[test]
    fn one_nonce_a_boot() {
        let run = tempfile::tempdir().unwrap();
        let server = Server::new(file(&good()).unwrap(), run.path()).unwrap();
        let nonce = server.nonce();
        assert_eq!(URL_SAFE_NO_PAD.decode(&nonce).unwrap().len(), 32);
        // Also when the agent was restarted.
        let again = Server::new(file(&good()).unwrap(), run.path()).unwrap();
        assert_eq!(again.nonce(), nonce);
        let mode = fs::metadata(run.path().join("nonce")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let other = tempfile::tempdir().unwrap();
        assert_ne!(
            Server::new(file(&good()).unwrap(), other.path()).unwrap().nonce(),
            nonce
        );
    }

    #[test]
    fn addresses_take_turns() {
        let run = tempfile::tempdir().unwrap();
        let mut server = Server::new(file(&good()).unwrap(), run.path()).unwrap();
        assert_eq!(server.address(), "https://192.168.77.1:8092");
        server.next_address();
        assert_eq!(server.address(), "https://10.0.0.1:8092");
        server.next_address();
        assert_eq!(server.address(), "https://192.168.77.1:8092");
    }

    #[test]
    fn answers_are_kept_in_bounds() {
        let orders = |text: &str| Orders::from(serde_json::from_str::<Answer>(text).unwrap());
        assert_eq!(orders("{}").heartbeat, Duration::from_secs(5));
        assert_eq!(
            orders("{\"heartbeat_s\":999999,\"command\":null}").heartbeat,
            Duration::from_secs(300)
        );
        assert!(orders("{\"command\":\"reboot\"}").reboot);
        assert!(!orders("{\"command\":\"dance\",\"new\":1}").reboot);
    }

    #[test]
    fn refusals_are_told_from_trouble() {
        let api = |code| {
            ClientError::Api(ApiErrorBody {
                code,
                ..ApiErrorBody::default()
            })
        };
        assert_eq!(verdict(&api(403)), Verdict::Refused);
        assert_eq!(verdict(&api(503)), Verdict::Later);
    }
}
