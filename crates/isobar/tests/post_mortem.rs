//! What is kept of a boot that failed: durable, without secrets, and a BMC that is replayed from it fails the same way.
#![allow(clippy::unwrap_used)]

mod stage;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use isobar_sim::{Fault, FaultKind};
use serde_json::{Value, json};
use stage::{MACHINE, PASSWORD, Stage, TIMING};

/// Faults that end a boot in its exchanges, and what it ends with.
const FAULTS: &[(&str, &str)] = &[
    (
        r#"{"kind":"status","code":400,"method":"PATCH","path":"Systems/1","message":"Boot order is locked."}"#,
        "bmc-refused",
    ),
    (
        r#"{"kind":"status","code":403,"method":"POST","path":"InsertMedia"}"#,
        "bmc-forbidden",
    ),
    (r#"{"kind":"no-mount","inserted":false}"#, "insert-not-mounted"),
    (
        r#"{"kind":"status","code":404,"method":"GET","path":"VirtualMedia"}"#,
        "bmc-unsupported",
    ),
    (
        r#"{"kind":"malformed","form":"html","method":"GET","path":"Systems/1"}"#,
        "bmc-protocol",
    ),
    (r#"{"kind":"reset","path":"/"}"#, "bmc-timeout"),
];

fn boot(stage: &Stage) -> Value {
    stage.isobar(&["machines", "bootenv", MACHINE, "local", "--no-wait"]);
    let out = stage.isobar(&["machines", "bootenv", MACHINE, "sledgehammer", "--no-wait"]);
    assert!(out.ok, "{out}");
    stage.wait_boot("failed");
    stage.last_boot()
}

fn fetch(stage: &Stage, name: &str, survey: bool) -> (PathBuf, Value) {
    let file = stage.dir().join(name);
    let told = || -> Value {
        let out = stage.isobar(&["boots", "post-mortem", MACHINE, "--out", file.to_str().unwrap()]);
        assert!(out.ok && out.stderr.contains("--replay-boot"), "{out}");
        serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap()
    };
    stage.wait("it is whole", |_| !survey || told()["survey"].is_array());
    let told = told();
    (file, told)
}

/// The same machine with the BMC of this file: how its boot ends.
fn replayed(stage: &Stage, file: &Path) -> Value {
    let any: SocketAddr = ([127, 0, 0, 1], 0).into();
    let replay = stage.runtime().block_on(isobar_sim::replay_boot(file, any)).unwrap();
    stage.set("ipmi/address", replay.url().as_str());
    boot(stage)
}

#[test]
fn a_replayed_bmc_fails_as_the_real_one_did() {
    let timing = format!("{TIMING},tries=2,exchange_s=4,insert_s=4,settle_s=1");
    let stage = Stage::timed(&timing, |_| {});
    stage.import();
    stage.add_machine(&json!({"isobar/bmc-recovery": []}));
    for (number, (fault, reason)) in FAULTS.iter().enumerate() {
        let fault: Fault = serde_json::from_str(fault).unwrap();
        stage.set("ipmi/address", stage.sim().url().as_str());
        stage.sim().plant(fault);
        let failed = boot(&stage);
        assert_eq!(failed["error"]["reason"], *reason, "{failed:#}");
        let (file, told) = fetch(&stage, &format!("{number}.json"), *reason != "bmc-timeout");
        assert_eq!(told["reason"]["reason"], *reason);
        assert_eq!(told["boot"]["id"], failed["id"]);
        assert_eq!(told["exchanges_lost"], 0);
        assert!(told["machine"]["params"]["network-data"].is_object(), "{told:#}");
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(!text.contains(PASSWORD), "{text}");

        let again = replayed(&stage, &file);
        assert_eq!(again["error"]["reason"], *reason, "{told:#}\n{again:#}");
        for fault in stage.sim().faults() {
            stage.sim().remove_fault(fault.id);
        }
    }
}

#[test]
fn it_outlives_the_server_and_says_what_was_read() {
    let mut stage = Stage::new(|_| {});
    stage.import();
    stage.add_machine(&json!({}));
    stage.sim().plant(Fault::from(FaultKind::NoMount { inserted: true }));
    let failed = boot(&stage);
    assert_eq!(failed["error"]["reason"], "image-never-read", "{failed:#}");
    stage.kill_server();
    stage.start_server();
    let (_, told) = fetch(&stage, "p.json", false);
    assert_eq!(told["boot"]["id"], failed["id"]);
    assert_eq!(told["reads"]["since_power_on"]["requests"], 0, "{told:#}");
    assert_eq!(told["settings"]["timing"]["first_read_s"], 6.0);
    let said = told["exchanges"].as_array().unwrap();
    let insert = said
        .iter()
        .find(|e| e["path"].as_str().unwrap().ends_with("InsertMedia"))
        .unwrap();
    assert!(
        insert["request"]["Image"].as_str().unwrap().contains("…/boot.iso"),
        "{insert}"
    );

    // Of a boot that went well there is none.
    for fault in stage.sim().faults() {
        stage.sim().remove_fault(fault.id);
    }
    stage.isobar(&["machines", "bootenv", MACHINE, "local", "--no-wait"]);
    stage.isobar(&["machines", "bootenv", MACHINE, "sledgehammer", "--no-wait"]);
    stage.wait_boot("done");
    let out = stage.isobar(&["boots", "post-mortem", MACHINE]);
    assert!(!out.ok && out.stderr.contains("no post-mortem"), "{out}");
}
