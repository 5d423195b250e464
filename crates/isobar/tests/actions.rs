//! The actions of the provider `ipmi`: those of DRP by name, with results, and those of ours.
#![allow(clippy::unwrap_used)]

mod stage;

use std::collections::BTreeSet;

use isobar_sim::{Fault, FaultKind};
use serde_json::{Value, json};
use stage::{MACHINE, Stage};

/// DRP's 24.
const OF_DRP: &str = "poweron poweroff powercycle powerstatus status identify nextbootcd nextbootpxe nextbootdisk forcebootpxe \
                      forcebootdisk getInfo getBios getBoot getSecureBoot getMemory getStorage getSimpleStorage getProcessor \
                      getNetworkInterfaces getEthernetInterfaces mountVirtualMedia unmountVirtualMedia statusVirtualMedia";

fn refused(stage: &Stage, words: &[&str], says: &str) {
    let out = stage.isobar(&[&["machines", "runaction", MACHINE], words].concat());
    assert!(!out.ok && out.stderr.contains(says), "{words:?}: {out}");
}

#[test]
fn all_actions_of_the_provider_are_there_and_answer() {
    let stage = Stage::new(|_| {});
    stage.add_machine(&json!({"boot-virtual-iso": false, "ipmi/mode": "redfish"}));
    let out = stage.isobar(&["machines", "actions", MACHINE]);
    let listed: Vec<Value> = serde_json::from_str(&out.stdout).unwrap();
    let names: BTreeSet<&str> = listed.iter().map(|a| a["Command"].as_str().unwrap()).collect();
    let wanted: BTreeSet<&str> = OF_DRP.split_whitespace().collect();
    assert_eq!(wanted.len(), 24);
    assert_eq!(wanted.difference(&names).collect::<Vec<_>>(), Vec::<&&str>::new());

    assert_eq!(stage.action(&["powerstatus"]), "Off");
    let status = stage.action(&["status"]);
    assert_eq!(
        (&status["PowerState"], status["BootMode"].is_string()),
        (&json!("Off"), true),
        "{status}"
    );
    assert_eq!(stage.action(&["getInfo"])["PowerState"], "Off");
    assert_eq!(stage.action(&["getBootProgress"]), Value::Null, "this BMC does not say");
    assert!(stage.action(&["getEthernetInterfaces"]).as_array().unwrap()[0]["MACAddress"].is_string());
    assert!(stage.action(&["getBios"])["Attributes"].is_object());
    refused(&stage, &["getSimpleStorage"], "has no SimpleStorage");
    refused(
        &stage,
        &["getInfo", "ipmi/mode", "ipmitool"],
        "not supported on ipmi driver: ipmitool",
    );
    refused(
        &stage,
        &["nextboothttp"],
        "runaction Name:mach-01 nextboothttp isobar/http-boot-url VALUE",
    );

    let boot = |stage: &Stage, member: &str| stage.action(&["getBoot"])[format!("BootSourceOverride{member}")].clone();
    for (action, enabled, target) in [
        ("nextbootpxe", "Once", "Pxe"),
        ("nextbootdisk", "Once", "Hdd"),
        ("nextbootcd", "Once", "Cd"),
        ("forcebootpxe", "Continuous", "Pxe"),
        ("forcebootdisk", "Continuous", "Hdd"),
    ] {
        assert_eq!(stage.action(&[action]), "Success");
        assert_eq!(
            (boot(&stage, "Enabled"), boot(&stage, "Target")),
            (json!(enabled), json!(target)),
            "{action}"
        );
    }
}

#[test]
fn a_bmc_is_reset_by_hand_unless_a_machine_boots_through_it() {
    let stage = Stage::new(|_| {});
    stage.import();
    stage.add_machine(&json!({}));
    let out = stage.isobar(&["bmc", "reset", MACHINE]);
    assert!(out.ok && out.stdout.contains("Success"), "{out}");
    assert_eq!(stage.requests("Manager.Reset").len(), 1);
    let out = stage.isobar(&["bmc", "status", MACHINE]);
    let status: Value = serde_json::from_str(&out.stdout).unwrap();
    assert_eq!(
        (&status["PowerState"], &status["HttpBoot"]),
        (&json!("Off"), &json!(false)),
        "{out}"
    );
    let hold = stage
        .sim()
        .plant(Fault::from(FaultKind::Hold { done: false }).on("POST", "InsertMedia"));
    let out = stage.isobar(&["machines", "workflow", MACHINE, "discover-base", "--no-wait"]);
    assert!(out.ok, "{out}");
    stage.wait("the insert is under way", |s| !s.requests("InsertMedia").is_empty());
    refused(&stage, &["bmcReset"], "take out its media");
    stage.sim().remove_fault(hold);
    stage.wait_boot("done");
    assert_eq!(stage.requests("Manager.Reset").len(), 1);
}
