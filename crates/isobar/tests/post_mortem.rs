//! What is kept of a boot that failed: durable, without secrets, and a BMC that is replayed from it fails the same way.
#![allow(clippy::unwrap_used)]

mod stage;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use isobar_sim::{Fault, FaultKind};
use serde_json::{Value, json};
use stage::{MACHINE, NEVER_READ, PASSWORD, Stage, TIMING};

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
    let timing = format!("{TIMING},tries=2,exchange_s=8,insert_s=8,settle_s=1");
    let stage = Stage::timed(&timing, |_| {});
    stage.import();
    // Somebody has written the password where it does not belong.
    stage.add_machine(&json!({"isobar/bmc-recovery": [], "isobar/bmc-site": format!("rack {PASSWORD}")}));
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
        assert_eq!(told["machine"]["params"]["isobar/bmc-site"], "rack ***");

        let again = replayed(&stage, &file);
        assert_eq!(again["error"]["reason"], *reason, "{told:#}\n{again:#}");
        for fault in stage.sim().faults() {
            stage.sim().remove_fault(fault.id);
        }
    }
}

#[test]
fn it_outlives_the_server_and_says_what_was_read() {
    let mut stage = Stage::timed(&format!("{TIMING},{NEVER_READ}"), |_| {});
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
    assert_eq!(told["settings"]["timing"]["first_read_s"], 4.0);
    let said = told["exchanges"].as_array().unwrap();
    let insert = said
        .iter()
        .find(|e| e["path"].as_str().unwrap().ends_with("InsertMedia"))
        .unwrap();
    assert!(
        insert["request"]["Image"].as_str().unwrap().contains("…/boot.iso"),
        "{insert}"
    );

    assert_eq!(told["serial"], Value::Null);
    let why = told["serial_missing"].as_str().unwrap();
    assert!(why.contains("isobar/serial-tail"), "{why}");

    // There is none of a boot that nobody knows, nor of one that went well.
    let out = stage.isobar(&["boots", "post-mortem", "nosuch"]);
    assert!(!out.ok && out.stderr.contains("`isobar boots list`"), "{out}");
    for fault in stage.sim().faults() {
        stage.sim().remove_fault(fault.id);
    }
    stage.isobar(&["machines", "bootenv", MACHINE, "local", "--no-wait"]);
    stage.isobar(&["machines", "bootenv", MACHINE, "sledgehammer", "--no-wait"]);
    stage.wait_boot("done");
    let out = stage.isobar(&["boots", "post-mortem", MACHINE]);
    assert!(!out.ok && out.stderr.contains("no post-mortem"), "{out}");
}

#[test]
fn a_boot_that_cannot_be_planned_leaves_one_too() {
    let stage = Stage::new(|_| {});
    stage.import();
    stage.add_machine(&json!({"network-data": {"prov": {"address": "nowhere"}}}));
    let failed = boot(&stage);
    assert_eq!(failed["error"]["reason"], "network-data", "{failed:#}");
    let file = stage.dir().join("early.json");
    stage.wait("its file is there", |s| {
        s.isobar(&["boots", "post-mortem", MACHINE, "--out", file.to_str().unwrap()])
            .ok
    });
    let told: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(
        (&told["reason"]["reason"], &told["boot"]["id"]),
        (&json!("network-data"), &failed["id"])
    );
    assert_eq!(told["machine"]["params"]["network-data"]["prov"]["address"], "nowhere");
    assert_eq!(told["exchanges"], json!([]));
    assert_eq!(told["serial_missing"], "the machine was not switched on");
    let any: SocketAddr = ([127, 0, 0, 1], 0).into();
    let replayed = stage.runtime().block_on(isobar_sim::replay_boot(&file, any));
    assert!(replayed.err().unwrap().to_string().contains("before its BMC was asked"));
}

/// Over IPMI, with the machine's own last words.
#[test]
fn what_was_said_over_ipmi_and_on_the_serial_console_is_in_it() {
    // The console has to be open before the power is on.
    let stage = Stage::timed(&format!("{TIMING},first_read_s=10,settle_s=20"), |config| {
        config.ipmi = Some((std::net::Ipv4Addr::LOCALHOST, 0).into());
    });
    let port = stage.sim().ipmi().unwrap().port();
    stage.import();
    stage.add_machine(&json!({"ipmi/mode": "ipmitool", "ipmi/port-ipmitool": port, "isobar/serial-tail": true}));
    // The image is never read, and the machine says that it finds nothing to boot.
    stage.sim().plant(Fault::from(FaultKind::NoMount { inserted: true }));
    let failed = boot(&stage);
    assert_eq!(failed["error"]["reason"], "image-never-read", "{failed:#}");
    let (file, told) = fetch(&stage, "ipmi.json", false);
    let serial = told["serial"].as_str().unwrap_or_else(|| panic!("{told:#}"));
    assert!(
        serial.contains("paper machine: firmware") && told["serial_missing"].is_null(),
        "{serial}"
    );
    let said = told["exchanges"].as_array().unwrap();
    let ipmi = |path: &str| {
        let of = said.iter().find(|e| e["method"] == "IPMI" && e["path"] == path);
        of.unwrap_or_else(|| panic!("{path}: {said:#?}"))["response"].clone()
    };
    assert_eq!(ipmi("chassis/status")["outcome"], "Off");
    for (path, line) in [
        ("chassis/status", "read the power state (00h 01h): 00h "),
        ("chassis/boot-flags", "set the one-time boot (00h 08h): 00h"),
        ("chassis/control", "switch the power on (00h 02h): 00h"),
    ] {
        let commands = ipmi(path)["commands"].to_string();
        assert!(commands.contains(line), "{path}: {commands}");
    }
    assert!(!std::fs::read_to_string(file).unwrap().contains(PASSWORD));
    // The console is free again for whoever wants it.
    stage.wait("the console is given back", |s| {
        s.sim().ipmi_logins() > 0 && {
            let mut console = s.command(&["machines", "console", MACHINE, "--until", "here: ready"]);
            let mut console = console
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::null())
                .spawn()
                .unwrap();
            std::io::Write::write_all(&mut console.stdin.as_mut().unwrap(), b"here: ready\n").unwrap();
            console.wait().unwrap().success()
        }
    });
}
