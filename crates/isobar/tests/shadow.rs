//! Shadow mode: BMCs see reads, a login and a log-out, and nothing else.
#![allow(clippy::unwrap_used)]

mod stage;

use isobar_sim::{Fault, Sim};
use serde_json::{Value, json};
use stage::{MACHINE, Options, Stage};

/// What the BMC was sent beside reads and sessions.
fn changes(sim: &Sim) -> Vec<String> {
    let requests = sim.requests();
    let changing = requests.iter().filter(|r| {
        let session = r.path.contains("/Sessions") && (r.method == "POST" || r.method == "DELETE");
        r.method != "GET" && !session
    });
    changing.map(|r| format!("{} {}", r.method, r.path)).collect()
}

fn rehearse(stage: &Stage) -> Value {
    let out = stage.isobar(&["machines", "bootenv", MACHINE, "sledgehammer"]);
    assert!(out.ok, "{out}");
    stage.wait_boot("done");
    stage.last_boot()
}

fn would_send(boot: &Value) -> Vec<String> {
    let would = boot["would_send"].as_array().unwrap().iter();
    would.map(|line| line.as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_machine_in_shadow_mode_is_read_and_not_changed() {
    let stage = Stage::new(|_| {});
    stage.import();
    stage.add_machine(&json!({"isobar/shadow": true}));
    let boot = rehearse(&stage);
    let would = would_send(&boot);
    assert_eq!(would.len(), 3, "{would:#?}");
    for (line, words) in would.iter().zip([
        ["insert: ", "POST", "InsertMedia"],
        ["boot-once: ", "PATCH", "Systems/1"],
        ["power-on: ", "POST", "Reset"],
    ]) {
        assert!(words.iter().all(|word| line.contains(word)), "{line}");
    }
    assert_eq!((&boot["shadow"], &boot["cleanup"]), (&json!(true), &json!(false)));
    let id = boot["id"].as_str().unwrap();
    let operation: Value = stage.client().get(&format!("/isobar/v1/operations/{id}")).unwrap();
    assert_eq!(
        (&operation["kind"], &operation["state"]),
        (&json!("boot"), &json!("done")),
        "{operation:#}"
    );
    // Actions are refused by the same rule; those that read are not.
    for action in ["poweron", "mountVirtualMedia", "nextbootcd", "unmountVirtualMedia"] {
        let out = stage.isobar(&["machines", "runaction", MACHINE, action]);
        if action == "unmountVirtualMedia" {
            // There is nothing to take out.
            continue;
        }
        assert!(
            !out.ok && out.stderr.contains("shadow mode: would send"),
            "{action}: {out}"
        );
    }
    assert_eq!(stage.action(&["powerstatus"]), "Off");
    assert!(stage.sim().requests().len() > 10);
    assert_eq!(changes(stage.sim()), [""; 0]);

    // What cannot be done is said, as it would be of a boot.
    let fault = r#"{"kind":"status","code":404,"method":"GET","path":"VirtualMedia"}"#;
    stage.sim().plant(serde_json::from_str::<Fault>(fault).unwrap());
    stage.isobar(&["machines", "bootenv", MACHINE, "local", "--no-wait"]);
    stage.isobar(&["machines", "bootenv", MACHINE, "sledgehammer", "--no-wait"]);
    stage.wait_boot("failed");
    assert_eq!(stage.last_boot()["error"]["reason"], "bmc-unsupported");
    assert_eq!(changes(stage.sim()), [""; 0]);
}

#[test]
fn over_ipmi_nothing_is_sent_that_is_not_known_to_only_read() {
    let stage = Stage::new(|config| config.ipmi = Some((std::net::Ipv4Addr::LOCALHOST, 0).into()));
    let port = stage.sim().ipmi().unwrap().port();
    stage.import();
    stage.add_machine(&json!({"isobar/shadow": true, "ipmi/mode": "ipmitool", "ipmi/port-ipmitool": port}));
    let boot = rehearse(&stage);
    let would = would_send(&boot);
    assert_eq!(would.len(), 3, "{would:#?}");
    for (line, words) in would.iter().zip([
        ["insert: ", "POST", "InsertMedia"],
        ["boot-once: ", "would set the one-time boot", "00h 08h"],
        ["power-on: ", "would switch the power on", "00h 02h"],
    ]) {
        assert!(words.iter().all(|word| line.contains(word)), "{line}");
    }
    for action in [
        "poweron",
        "powercycle",
        "nextbootpxe",
        "forcebootdisk",
        "identify",
        "clearEventLog",
    ] {
        let out = stage.isobar(&["machines", "runaction", MACHINE, action]);
        assert!(!out.ok && out.stderr.contains("shadow mode: would"), "{action}: {out}");
    }
    assert_eq!(stage.action(&["powerstatus"]), "Off");
    assert!(stage.isobar(&["bmc", "sensors", MACHINE]).ok);
    assert!(stage.sim().ipmi_logins() > 0);
    assert_eq!(changes(stage.sim()), [""; 0]);
    assert_eq!(stage.sim().boot_override().enabled, "Disabled");
    // Not in shadow mode the same machine is changed, by the same way.
    stage.set("isobar/shadow", "false");
    assert_eq!(stage.action(&["nextbootpxe"]), "Success");
    assert!(changes(stage.sim()).iter().all(|change| change.starts_with("IPMI ")) && !changes(stage.sim()).is_empty());
}

#[test]
fn a_server_in_shadow_mode_changes_no_bmc() {
    let stage = Stage::with(
        Options {
            args: vec!["--shadow".to_owned()],
            ..Options::default()
        },
        |_| {},
    );
    stage.import();
    stage.add_machine(&json!({}));
    assert_eq!(would_send(&rehearse(&stage)).len(), 3);
    // The machine is in no shadow mode of its own: the server has the last word.
    for action in ["poweron", "nextbootcd", "mountVirtualMedia"] {
        let out = stage.isobar(&["machines", "runaction", MACHINE, action]);
        assert!(
            !out.ok && out.stderr.contains("shadow mode: would send"),
            "{action}: {out}"
        );
    }
    assert_eq!(changes(stage.sim()), [""; 0]);
}

#[test]
fn a_boot_that_is_under_way_sends_no_more() {
    let stage = Stage::new(|config| config.manners.insert_ms = 3_000);
    stage.import();
    stage.add_machine(&json!({}));
    let out = stage.isobar(&["machines", "bootenv", MACHINE, "sledgehammer", "--no-wait"]);
    assert!(out.ok, "{out}");
    stage.wait("it inserts", |s| !s.requests("InsertMedia").is_empty());
    stage.set("isobar/shadow", "true");
    stage.wait_boot("failed");
    let boot = stage.last_boot();
    assert_eq!(boot["error"]["reason"], "shadow-mode", "{boot:#}");
    assert_eq!(boot["cleanup"], true, "what it owes is owed");
    assert_eq!(stage.requests("Reset"), [""; 0]);
    stage.set("isobar/shadow", "false");
    stage.wait("it is paid", |s| s.last_boot()["cleanup"] == false);
}

#[test]
fn a_fleet_is_rehearsed_and_no_machine_is_changed() {
    let stage = Stage::new(|_| {});
    stage.import();
    stage.add_machine(&json!({}));
    stage.create_machine("mach-02", "http://127.0.0.1:9", &json!({}));
    stage.create_machine("mach-03", "http://127.0.0.1:9", &json!({"boot-virtual-iso": false}));
    let words = [
        "machines",
        "boot",
        "--all",
        "--bootenv",
        "sledgehammer",
        "--shadow",
        "--watch",
    ];
    let out = stage.isobar(&words);
    assert!(!out.ok && out.stderr.contains("1 of 3 would boot"), "{out}");
    assert!(out.stderr.contains("mach-02: failed [bmc-unreachable]"), "{out}");
    let id = out.stderr.split_whitespace().nth(2).unwrap().trim_end_matches(';');
    let out = stage.isobar(&["operations", "report", id]);
    assert!(out.ok, "{out}");
    let report: Value = serde_json::from_str(&out.stdout).unwrap();
    let outcomes: Vec<_> = report.as_array().unwrap().iter().map(|m| &m["outcome"]).collect();
    assert_eq!(
        json!(outcomes),
        json!(["would-boot", "failed", "skipped"]),
        "{report:#}"
    );
    assert_eq!(would_send(&report[0]).len(), 3, "{report:#}");
    let operation: Value = stage.client().get(&format!("/isobar/v1/operations/{id}")).unwrap();
    assert_eq!(operation["fleet"]["stop_after"], 0, "all are told of: {operation:#}");
    assert_eq!(stage.machine()["BootEnv"], "local");
    assert_eq!(changes(stage.sim()), [""; 0]);
}
