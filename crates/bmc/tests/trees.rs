//! The client against resource trees of real machines, served by the mock server that comes with them;
//! what it sends is compared with the trees' answer sheets.
//!
//! The trees are data beside the repository (`../shared/bmc-trees`, or `ISOBAR_BMC_TREES`; seen from the
//! repository's root). Without them the tests say so and pass, except where `CI=true`.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use common::{PASSWORD, USER, open};
use isobar_bmc::{Bmc, BootTarget, PowerAction, PowerState};
use serde_json::{Value, json};

fn trees() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folder = root.join(std::env::var_os("ISOBAR_BMC_TREES").unwrap_or_else(|| "../shared/bmc-trees".into()));
    if folder.join("serve").exists() {
        return Some(folder);
    }
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "the BMC trees are missing: {}",
        folder.display()
    );
    // Not by eprintln: what a test prints that passes is not shown.
    let skipped = format!("SKIPPED: no BMC trees at {} (set ISOBAR_BMC_TREES)\n", folder.display());
    std::io::stderr().write_all(skipped.as_bytes()).unwrap();
    None
}

struct Served {
    process: Child,
    url: String,
    expected: Value,
    record: PathBuf,
    _folder: tempfile::TempDir,
}

impl Served {
    fn start(trees: &Path, name: &str, more: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let record = folder.path().join("requests.jsonl");
        let tree = trees.join(name);
        let mut process = Command::new("python3")
            .arg(trees.join("serve"))
            .arg(&tree)
            .args(["--port", "0", "--quirks", "--auth", &format!("{USER}:{PASSWORD}")])
            .arg("--record")
            .arg(&record)
            .args(more)
            .stdout(Stdio::piped())
            .spawn()
            .expect("install python3");
        let mut url = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut url)
            .unwrap();
        let expected = serde_json::from_slice(&std::fs::read(tree.join("expected.json")).unwrap()).unwrap();
        Self {
            process,
            url: url.trim().to_owned(),
            expected,
            record,
            _folder: folder,
        }
    }

    fn requests(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.record).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn text(&self, member: &str) -> String {
        self.expected[member].as_str().unwrap_or_default().to_owned()
    }

    fn list(&self, member: &str) -> Vec<String> {
        let items = self.expected[member].as_array().cloned().unwrap_or_default();
        items.iter().map(|v| v.as_str().unwrap().to_owned()).collect()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Boots an ISO once, as a person would, and compares every request with the answer sheet.
async fn boots_within_the_answer_sheet(name: &str, more: &[&str]) {
    let Some(trees) = trees() else { return };
    let served = Served::start(&trees, name, more);
    let (mut bmc, records) = open(&served.url).await.unwrap();

    let probe = bmc.probe().await.unwrap();
    let mut slots = served.list("media_slot_also_acceptable");
    slots.insert(0, served.text("media_slot_uri"));
    assert_eq!(probe.system, served.text("system_uri"));
    assert_eq!(probe.manager, served.text("manager_uri"));
    assert_eq!(probe.media_slot.as_deref(), Some(slots[0].as_str()));
    assert_eq!(probe.model, served.text("model"));
    assert_eq!(probe.firmware, served.text("firmware"));
    assert_eq!(bmc.power_state().await.unwrap(), PowerState::On);

    let scheme = served
        .list("image_schemes")
        .last()
        .map_or("http".into(), |_| "https".to_owned());
    let url = format!("{scheme}://192.0.2.1:8091/A-token-of-this-boot-0123456789/boot.iso");
    let media = bmc.insert(&url).await.unwrap();
    assert!(media.inserted && slots.contains(&media.slot), "{media:?}");
    assert_eq!(media.image.as_deref(), Some(url.as_str()));
    assert_eq!(bmc.media().await.unwrap(), media);
    bmc.boot_once(BootTarget::Cd).await.unwrap();
    bmc.power(PowerAction::ForceOff).await.unwrap();
    assert_eq!(bmc.power_state().await.unwrap(), PowerState::Off);
    bmc.power(PowerAction::On).await.unwrap();
    bmc.power(PowerAction::Cycle).await.unwrap();
    bmc.clear_boot_override().await.unwrap();
    bmc.eject().await.unwrap();
    assert!(!bmc.media().await.unwrap().inserted || more.contains(&"--stale-eject"));
    bmc.close().await;

    let requests = served.requests();
    let done = |r: &&Value| (200..300).contains(&r["status"].as_u64().unwrap());
    let of = |method: &str, path: &str| -> Vec<&Value> {
        requests
            .iter()
            .filter(|r| r["method"] == method && r["path"] == path)
            .collect()
    };
    // Eject before insert, where the slot lets itself be ejected while it is empty.
    let insert_uri = served.text("insert_uri");
    let inserts: Vec<&Value> = of(&served.text("insert_method"), &insert_uri)
        .into_iter()
        .filter(|r| r["body"]["Image"].is_string())
        .collect();
    let good: Vec<&&Value> = inserts.iter().filter(|r| done(r)).collect();
    assert_eq!(good.len(), 1, "{inserts:?}");
    for key in served.list("insert_payload_keys") {
        assert!(good[0]["body"].get(&key).is_some(), "{key} in {}", good[0]);
    }
    let optional = [
        served.list("insert_payload_optional"),
        served.list("insert_payload_keys"),
    ]
    .concat();
    for key in good[0]["body"].as_object().unwrap().keys() {
        assert!(optional.contains(key), "{key} in {}", good[0]);
    }
    let ejects = of(&served.text("eject_method"), &served.text("eject_uri"));
    let last = ejects.iter().rev().find(|r| !r["body"]["Image"].is_string()).unwrap();
    assert!(done(last));
    assert_eq!(last["body"], served.expected["eject_payload"]);

    let patches = of("PATCH", &served.text("boot_patch_uri"));
    let set = patches
        .iter()
        .find(|r| done(r) && r["body"]["Boot"]["BootSourceOverrideTarget"].is_string())
        .unwrap();
    assert_eq!(
        set["body"]["Boot"]["BootSourceOverrideTarget"],
        served.expected["boot_target"]
    );
    assert_eq!(
        set["body"]["Boot"]["BootSourceOverrideEnabled"],
        served.expected["boot_enabled"]
    );
    let full = set["body"]["Boot"].get("BootSourceOverrideMode").is_some();
    assert_eq!(full, served.expected["boot_requires_full_payload"] == true);
    // No other resource was written with an override.
    for request in requests
        .iter()
        .filter(|r| r["method"] == "PATCH" && r["body"].get("Boot").is_some())
    {
        assert_eq!(request["path"], served.expected["boot_patch_uri"]);
    }
    let resets = of("POST", &served.text("reset_uri"));
    let offered = served.expected["reset_types"].as_array();
    assert_eq!(resets.len(), 3);
    for reset in &resets {
        assert!(done(reset), "{reset}");
        assert!(
            offered.is_none_or(|o| o.contains(&reset["body"]["ResetType"])),
            "{reset}"
        );
    }
    // Nothing was tried that the BMC refuses, but for the rungs of the ladder and If-Match.
    for request in requests.iter().filter(|r| !done(r)) {
        assert!(matches!(request["status"].as_u64(), Some(400 | 412 | 428)), "{request}");
        assert_eq!(request["path"], json!(insert_uri), "{request}");
    }
    assert_eq!(requests.last().unwrap()["method"], "DELETE", "logged out");
    for request in &requests {
        let headers = request["headers"].as_object().unwrap();
        assert!(
            headers
                .iter()
                .any(|(n, v)| n.eq_ignore_ascii_case("OData-Version") && v == "4.0"),
            "{request}"
        );
    }
    let recorded = serde_json::to_string(&*records.0.lock().unwrap()).unwrap();
    for secret in [PASSWORD, "A-token-of-this-boot"] {
        assert!(!recorded.contains(secret), "{secret} was recorded");
    }
}

macro_rules! trees {
    ($($test:ident: $name:literal,)*) => {$(
        #[tokio::test]
        async fn $test() {
            // At once: the mock server answers in two packets, and most of the time goes by between them.
            tokio::join!(
                boots_within_the_answer_sheet($name, &[]),
                boots_within_the_answer_sheet($name, &["--patch-204", "--stale-eject", "5"]),
            );
        }
    )*};
}

trees! {
    dell_idrac9: "dell-idrac9-6.00.30.00-r750",
    hpe_ilo5: "hpe-ilo5-2.72-dl385gen10plusv2",
    lenovo_xcc: "lenovo-xcc-2.83-sr670v2",
    supermicro_x13: "supermicro-x13-11.01.01-sys-821ge-tnhr",
    openbmc_gb300: "openbmc-supermicro-gb300-70.01.00.09",
    gigabyte_megarac: "gigabyte-megarac-12.84.13-h262",
}

#[tokio::test]
async fn a_busy_bmc_is_waited_for() {
    let Some(trees) = trees() else { return };
    // The third change is the eject, the fourth the insert.
    let served = Served::start(
        &trees,
        "dell-idrac9-6.00.30.00-r750",
        &["--fail", "2:503", "--fail", "3:500", "--fail", "4:503"],
    );
    let (mut bmc, _) = open(&served.url).await.unwrap();
    let media = bmc.insert("http://192.0.2.1/tokentoken/boot.iso").await.unwrap();
    assert!(media.inserted);
    bmc.close().await;
}

#[tokio::test]
async fn plain_http_where_only_https_is_taken_is_said_so() {
    let Some(trees) = trees() else { return };
    let served = Served::start(&trees, "openbmc-supermicro-gb300-70.01.00.09", &[]);
    let (mut bmc, _) = open(&served.url).await.unwrap();
    let err = bmc.insert("http://192.0.2.1/tokentoken/boot.iso").await.unwrap_err();
    assert_eq!(err.message_id.as_deref(), Some("ResourceAtUriInUnknownFormat"));
    assert!(err.hint.contains("over http:") && err.hint.contains("https"), "{err:?}");
    assert!(!err.message.contains("tokentoken"), "{err}");
    bmc.close().await;
}
