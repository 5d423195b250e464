//! Called as `drpcli`, the program is drpcli: the walk-through of its manual, answered in plain JSON, at once.
#![allow(clippy::unwrap_used)]

mod stage;

use isobar_sim::{Fault, FaultKind};
use serde_json::{Value, json};
use stage::{MACHINE, Stage};

/// Runs a command that has to succeed, with nothing but JSON on standard output; its answer, and what it said beside.
fn answer(stage: &Stage, args: &[&str]) -> (Value, String) {
    let out = stage.drpcli(args);
    assert!(out.ok, "{args:?}: {out}");
    let value: Value = serde_json::from_str(&out.stdout).unwrap_or_else(|e| panic!("{args:?}: {e}: {out}"));
    // Two blanks a level, one line break at the end. Keys come sorted: serde_json's own order here.
    assert_eq!(out.stdout, format!("{value:#}\n"), "{args:?}");
    (value, out.stderr)
}

/// As [`answer`], with nothing on standard error.
fn quiet(stage: &Stage, args: &[&str]) -> Value {
    let (value, said) = answer(stage, args);
    assert_eq!(said, "", "{args:?}");
    value
}

fn action(stage: &Stage, words: &[&str]) -> Value {
    quiet(stage, &[&["machines", "runaction", MACHINE], words].concat())
}

#[test]
fn the_walk_through_of_the_manual() {
    let stage = Stage::new(|_| {});
    stage.import();
    stage.add_machine(&json!({"boot-virtual-iso": false}));
    let uuid = stage.machine()["Uuid"].as_str().unwrap().to_owned();

    let set = ["machines", "set", MACHINE, "param", "boot-virtual-iso", "to", "true"];
    assert_eq!(quiet(&stage, &set), true);
    let network = stage::network();
    let text = network.to_string();
    let set = ["machines", "set", MACHINE, "param", "network-data", "to", &text];
    assert_eq!(quiet(&stage, &set), network);
    let media = action(&stage, &["statusVirtualMedia", "ipmi/mode", "redfish"]);
    assert_eq!(media, json!({"Image": "", "Inserted": false}));

    assert_eq!(quiet(&stage, &["machines", "workflow", MACHINE, ""])["Workflow"], "");
    assert_eq!(
        quiet(&stage, &["machines", "bootenv", MACHINE, "local"])["BootEnv"],
        "local"
    );
    // The BMC keeps the insert waiting: whoever followed the boot would wait as well.
    let hold = stage.sim().plant(
        Fault::from(FaultKind::Hold { done: false })
            .on("POST", "InsertMedia")
            .once(),
    );
    let machine = quiet(&stage, &["machines", "workflow", MACHINE, "discover-base"]);
    assert_eq!(
        (&machine["Workflow"], &machine["BootEnv"]),
        (&json!("discover-base"), &json!("sledgehammer"))
    );
    assert_eq!(stage.last_boot()["handed_over"], false, "nobody waited");
    stage.wait("the insert is held", |s| {
        s.sim().faults().iter().any(|f| f.id == hold && f.met > 0)
    });
    stage.sim().release(hold);
    stage.wait_boot("done");

    let image = format!("dynamic_isos/{uuid}/sledgehammer/boot.iso");
    let media = action(&stage, &["statusVirtualMedia", "ipmi/mode", "redfish"]);
    assert!(media["Image"].as_str().unwrap().ends_with(&image), "{media}");
    assert_eq!(action(&stage, &["powerstatus"]), "On");
    assert_eq!(action(&stage, &["powerstatus", "ipmi/mode", "redfish"]), "On");

    // The manual's line as it stands there, without a URL: the machine's own image is meant.
    let mount = "mountVirtualMedia ipmi/mode redfish ipmi/virtual-media-url ipmi/virtual-media-boot true";
    let words: Vec<&str> = ["machines", "runaction", &uuid]
        .into_iter()
        .chain(mount.split(' '))
        .collect();
    let (mounted, said) = answer(&stage, &words);
    assert_eq!(mounted, "Success");
    assert!(said.starts_with("ipmi/virtual-media-url has no value"), "{said}");

    // The manual's slip is no param, and drpcli does not guess.
    let out = stage.drpcli(&["machines", "remove", MACHINE, "param", "boot-virtual-media"]);
    assert!(!out.ok && out.stdout.is_empty(), "{out}");
    assert_eq!(out.stderr, "Error: DELETE: params/boot-virtual-media: Not Found\n\n");
    let remove = ["machines", "remove", MACHINE, "param", "boot-virtual-iso"];
    assert_eq!(quiet(&stage, &remove), true);
    assert_eq!(quiet(&stage, &["machines", "workflow", MACHINE, ""])["Workflow"], "");
    quiet(&stage, &["machines", "bootenv", MACHINE, "local"]);

    assert_eq!(
        action(&stage, &["unmountVirtualMedia", "ipmi/mode", "redfish"]),
        "Success"
    );
    assert_eq!(action(&stage, &["powercycle", "ipmi/mode", "redfish"]), "Success");
}

#[test]
fn it_has_drpclis_commands_alone() {
    let stage = Stage::new(|_| {});
    for command in ["serve", "sim", "sledgehammer", "boots"] {
        let out = stage.drpcli(&[command]);
        assert!(!out.ok && out.stdout.is_empty(), "{command}: {out}");
        assert!(out.stderr.contains(&format!("unknown command \"{command}\"")), "{out}");
    }
}
