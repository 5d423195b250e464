//! A resource tree of a real machine, served by the mock server that comes with it; and its answer sheet, with which
//! what our client sent is compared.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub, missing_docs)]

mod judge;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use isobar_bmc::redfish::{Options, Redfish, connect};
use isobar_bmc::{
    Bmc, BmcError, BootTarget, Endpoint, ErrorClass, Exchange, Media, PowerAction, PowerState, Probe, Recorder, Secret,
    TlsTrust,
};
use serde_json::Value;

pub const USER: &str = "admin";
pub const PASSWORD: &str = "p4ssw0rd-of-the-sheet";
/// The part of the image's URL that is a secret.
pub const TOKEN: &str = "A-token-of-this-boot-0123456789";

/// The trees of a folder, or the folder itself where it is one.
pub fn trees(dir: &Path) -> Vec<PathBuf> {
    let is_tree = |path: &PathBuf| path.join("expected.json").is_file();
    if is_tree(&dir.to_path_buf()) {
        return vec![dir.to_path_buf()];
    }
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries.map(|e| e.path()).filter(is_tree).collect();
    found.sort();
    found
}

/// The mock server with one tree; ends with the value.
pub struct Served {
    process: Child,
    pub url: String,
    pub sheet: Sheet,
    record: PathBuf,
    tree: PathBuf,
    _folder: tempfile::TempDir,
}

impl Served {
    pub fn start(serve: &Path, tree: &Path, more: &[&str]) -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|err| err.to_string())?;
        let record = folder.path().join("requests.jsonl");
        let text = std::fs::read(tree.join("expected.json")).map_err(|err| format!("expected.json: {err}"))?;
        let sheet = serde_json::from_slice(&text).map_err(|err| format!("expected.json: {err}"))?;
        let mut process = Command::new("python3")
            .arg(serve)
            .arg(tree)
            .args(["--port", "0", "--quirks", "--auth", &format!("{USER}:{PASSWORD}")])
            .arg("--record")
            .arg(&record)
            .args(more)
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|err| format!("cannot run python3: {err}"))?;
        let mut url = String::new();
        let read = BufReader::new(process.stdout.take().unwrap()).read_line(&mut url);
        let served = Self {
            process,
            url: url.trim().to_owned(),
            sheet: Sheet(sheet),
            record,
            tree: tree.to_path_buf(),
            _folder: folder,
        };
        match read {
            Ok(_) if served.url.starts_with("http") => Ok(served),
            _ => Err("the mock server did not start".into()),
        }
    }

    /// Every request but GETs, as the mock server saw them.
    pub fn requests(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.record).unwrap_or_default();
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// Whether the tree has a resource from the start.
    fn has(&self, uri: &str) -> bool {
        self.tree.join(uri.trim_matches('/')).join("index.json").is_file()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// `expected.json`.
pub struct Sheet(pub Value);

impl Sheet {
    pub fn text(&self, member: &str) -> Option<&str> {
        self.0[member].as_str()
    }

    pub fn list(&self, member: &str) -> Option<Vec<&str>> {
        let items = self.0[member].as_array()?;
        Some(items.iter().filter_map(Value::as_str).collect())
    }

    pub fn is(&self, member: &str) -> bool {
        self.0[member] == true
    }

    fn has_media(&self) -> bool {
        self.0["media_supported"] != false
    }

    /// URIs of the slots that are right, the best one first.
    fn slots(&self) -> Vec<&str> {
        let mut slots: Vec<&str> = self.text("media_slot_uri").into_iter().collect();
        slots.extend(self.list("media_slot_also_acceptable").unwrap_or_default());
        slots
    }

    /// An image that this BMC can take.
    pub fn image(&self) -> String {
        let taken = self.list("image_schemes");
        let taken = |scheme: &str| taken.as_ref().is_none_or(|list| list.contains(&scheme));
        let scheme = ["http", "https", "nfs", "cifs", "smb"].into_iter().find(|s| taken(s));
        match scheme {
            Some(scheme @ ("nfs" | "cifs" | "smb")) => format!("{scheme}://192.0.2.1/{TOKEN}/boot.iso"),
            scheme => format!("{}://192.0.2.1:8091/{TOKEN}/boot.iso", scheme.unwrap_or("http")),
        }
    }
}

/// URIs are the same without regard to case and slashes at the end.
pub fn same_uri(a: &str, b: &str) -> bool {
    a.trim_end_matches('/').eq_ignore_ascii_case(b.trim_end_matches('/'))
}

#[derive(Debug, Default)]
pub struct Records(pub Mutex<Vec<Exchange>>);

impl Recorder for Records {
    fn record(&self, exchange: Exchange) {
        self.0.lock().unwrap().push(exchange);
    }
}

/// Quick, but for a mock server that is slow.
fn options_for(more: &[&str]) -> Options {
    match more.contains(&"--delay") {
        true => Options {
            call_deadline: Duration::from_secs(240),
            settle: Duration::from_secs(20),
            ..options()
        },
        false => options(),
    }
}

pub fn options() -> Options {
    Options {
        longest_wait: Duration::from_millis(20),
        settle: Duration::from_millis(500),
        poll: Duration::from_millis(20),
        call_deadline: Duration::from_secs(60),
        ..Options::default()
    }
}

async fn open(url: &str, system: Option<&str>, records: Arc<Records>, options: Options) -> Result<Redfish, BmcError> {
    let password = Secret::new(PASSWORD.to_owned());
    let endpoint = Endpoint::from_params(url, None, USER, password, TlsTrust::Insecure, system)?;
    connect(endpoint, records, options).await
}

/// What one boot of a tree showed.
#[derive(Debug, Default)]
pub struct Outcome {
    pub name: String,
    /// What was found and done, for people.
    pub done: String,
    /// What is not as the answer sheet has it; empty: all is.
    pub differs: Vec<String>,
}

/// What the conversation told us, beside the requests that the mock server recorded.
#[derive(Default)]
struct Told {
    probe: Probe,
    power: Option<PowerState>,
    inserted: Option<Result<Media, BmcError>>,
    booted: Option<Result<(), BmcError>>,
    /// Calls that failed and should not have.
    failed: Vec<String>,
}

/// Boots an ISO once from a tree, as the server does for a person, and compares with the answer sheet.
pub async fn boot(serve: &Path, tree: &Path, more: &[&str]) -> Outcome {
    let name = tree.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let served = match Served::start(serve, tree, more) {
        Ok(served) => served,
        Err(why) => {
            return Outcome {
                name,
                differs: vec![why],
                ..Outcome::default()
            };
        }
    };
    let records = Arc::new(Records::default());
    let mut told = Told::default();
    if let Err(err) = converse(&served, &records, &mut told, more).await {
        told.failed.push(format!("{err}"));
    }
    let mut outcome = judge::judge(&served, &told, more);
    let recorded = serde_json::to_string(&*records.0.lock().unwrap()).unwrap_or_default();
    for secret in [PASSWORD, TOKEN] {
        if recorded.contains(secret) {
            outcome.differs.push("a secret is in the recorded exchanges".into());
        }
    }
    outcome.name = name;
    outcome
}

/// As a boot does with what may pass, where the mock server fails on purpose.
macro_rules! tried {
    ($more:expr, $call:expr) => {{
        let mut left = if $more.contains(&"--fail") { 3 } else { 0 };
        loop {
            match $call.await {
                Err(error) if left > 0 && error.class.is_transient() => left -= 1,
                done => break done,
            }
        }
    }};
}

async fn converse(served: &Served, records: &Arc<Records>, told: &mut Told, more: &[&str]) -> Result<(), BmcError> {
    let sheet = &served.sheet;
    let mut bmc = tried!(more, open(&served.url, None, records.clone(), options_for(more)))?;
    let mut probed = bmc.probe().await;
    if let (Err(err), Some(system)) = (&probed, sheet.text("system_uri"))
        && err.hint.contains("isobar/bmc-system")
    {
        // Several machines behind one BMC: the operator says which.
        bmc.close().await;
        bmc = open(&served.url, Some(system), records.clone(), options_for(more)).await?;
        probed = bmc.probe().await;
    }
    told.probe = match probed {
        Ok(probe) => probe,
        Err(err) => {
            bmc.close().await;
            if sheet.has_media() || !says_no_media(&err) {
                return Err(err);
            }
            told.inserted = Some(Err(err));
            return Ok(());
        }
    };
    let ended = talk(&mut bmc, sheet, told, more).await;
    bmc.close().await;
    ended
}

async fn talk(bmc: &mut Redfish, sheet: &Sheet, told: &mut Told, more: &[&str]) -> Result<(), BmcError> {
    told.power = Some(bmc.power_state().await?);
    let url = sheet.image();
    let inserted = tried!(more, bmc.insert(&url));
    let failed = inserted.is_err();
    told.inserted = Some(inserted);
    if failed {
        return Ok(());
    }
    let shown = bmc.media().await?;
    if !shown.inserted {
        told.failed.push("after the insert the slot is said to be empty".into());
    }
    if sheet.text("boot_target").is_some() || sheet.0["boot_alternative"].is_object() {
        told.booted = Some(tried!(more, bmc.boot_once(BootTarget::Cd)));
    }
    if sheet.text("reset_uri").is_some() {
        for (action, wanted) in [
            (PowerAction::ForceOff, PowerState::Off),
            (PowerAction::On, PowerState::On),
            (PowerAction::Cycle, PowerState::On),
        ] {
            match tried!(more, bmc.power(action)) {
                Ok(()) => {
                    let now = bmc.power_state().await?;
                    if now != wanted {
                        told.failed.push(format!("after {action:?} the power is {now:?}"));
                    }
                }
                Err(err) => told.failed.push(format!("{err}")),
            }
        }
    }
    if matches!(told.booted, Some(Ok(()))) {
        tried!(more, bmc.clear_boot_override())?;
    }
    tried!(more, bmc.eject())?;
    if bmc.media().await.is_ok_and(|m| m.inserted) && !more.contains(&"--stale-eject") {
        told.failed.push("after the eject the slot is said to be full".into());
    }
    Ok(())
}

/// Whether it is the one clear error of a BMC that can take no image.
fn says_no_media(err: &BmcError) -> bool {
    err.class == ErrorClass::Unsupported && err.message.contains("no usable virtual media")
}
