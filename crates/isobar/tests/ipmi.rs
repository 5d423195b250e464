//! Machines over IPMI: actions as `ipmi/mode` says, and the serial console through server and CLI.
#![allow(clippy::unwrap_used)]

mod stage;

use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::process::{Child, Stdio};

use isobar_sim::Power;
use serde_json::{Value, json};
use stage::{MACHINE, Stage};

fn stage(mode: &str) -> Stage {
    let stage = Stage::new(|config| config.ipmi = Some((Ipv4Addr::LOCALHOST, 0).into()));
    let port = stage.sim().ipmi().unwrap().port();
    stage.add_machine(&json!({
        "boot-virtual-iso": false, "ipmi/port-ipmitool": port, "ipmi/mode": mode,
    }));
    stage
}

fn over_ipmi(stage: &Stage) -> usize {
    stage.sim().requests().iter().filter(|r| r.method == "IPMI").count()
}

#[test]
fn actions_go_the_way_that_the_mode_names() {
    let stage = stage("ipmitool");
    let power = |is: Power| stage.wait("the power changes", |s| s.sim().power() == is);
    assert_eq!(stage.action(&["powerstatus"]), "Off");
    assert_eq!(stage.action(&["identify", "ipmi/identify-duration", "30"]), "Success");
    assert_eq!(over_ipmi(&stage), 1);
    assert_eq!(stage.action(&["forcebootdisk"]), "Success");
    assert_eq!(stage.sim().boot_override().enabled, "Continuous");
    assert_eq!(stage.action(&["nextbootpxe"]), "Success");
    assert_eq!(stage.sim().boot_override().target, "Pxe");
    assert_eq!(stage.action(&["poweron"]), "Success");
    power(Power::On);
    assert_eq!(stage.sim().boots()[0].device, "Pxe");
    assert_eq!(stage.action(&["powerstatus"]), "On");
    assert_eq!(stage.action(&["powercycle"]), "Success");
    stage.wait("it has booted again", |s| s.sim().boots().len() == 2);
    power(Power::On);
    assert_eq!(stage.action(&["poweroff"]), "Success");
    power(Power::Off);
    assert!(
        stage.sim().requests().iter().all(|r| r.method == "IPMI"),
        "Redfish was spoken"
    );
    // Per call, as DRP has it.
    let before = over_ipmi(&stage);
    assert_eq!(stage.action(&["poweron", "ipmi/mode", "redfish"]), "Success");
    power(Power::On);
    assert_eq!(over_ipmi(&stage), before);
    let out = stage.isobar(&["machines", "runaction", MACHINE, "statusVirtualMedia"]);
    let text = "Action statusVirtualMedia not supported on ipmi driver: ipmitool";
    assert!(!out.ok && out.stderr.contains(text), "{out}");
    assert!(out.stderr.contains("auto or redfish"), "{out}");
    let media = stage.action(&["statusVirtualMedia", "ipmi/mode", "auto"]);
    assert_eq!(media["Inserted"], false);
    let out = stage.isobar(&["machines", "runaction", MACHINE, "poweroff", "ipmi/port-ipmitool", "1"]);
    assert!(!out.ok && out.stderr.contains("ipmi/port-ipmitool"), "{out}");
}

#[test]
fn event_log_sensors_and_parts_are_read_by_either_face() {
    for mode in ["ipmitool", "redfish"] {
        let stage = stage(mode);
        let read = |words: &[&str]| {
            let out = stage.isobar(words);
            assert!(out.ok, "{mode} {words:?}: {out}");
            serde_json::from_str::<Value>(&out.stdout).unwrap()
        };
        for (action, power) in [("poweron", Power::On), ("poweroff", Power::Off), ("poweron", Power::On)] {
            assert_eq!(stage.action(&[action]), "Success");
            stage.wait("the power changes", |s| s.sim().power() == power);
        }
        let entries = read(&["bmc", "log", MACHINE]);
        assert!(
            entries.as_array().unwrap().iter().all(|e| e["event"].is_string()),
            "{mode}: {entries:#}"
        );
        let sensors = read(&["bmc", "sensors", MACHINE]);
        let temperature = |s: &&Value| s["kind"] == "Temperature" && s["value"].is_number();
        assert!(
            sensors.as_array().unwrap().iter().any(|s| temperature(&s)),
            "{mode}: {sensors:#}"
        );
        let fru = read(&["bmc", "fru", MACHINE]);
        assert!(
            fru["product"].to_string().contains("Simulated server"),
            "{mode}: {fru:#}"
        );
        if mode == "ipmitool" {
            assert!(entries.as_array().unwrap().len() >= 2, "{entries}");
            let listed = read(&["bmc", "log", MACHINE, "--clear"]);
            assert_eq!(listed, entries);
            let left = read(&["bmc", "log", MACHINE]);
            assert!(left.as_array().unwrap().len() < 2, "{left}");
            assert!(stage.sim().requests().iter().all(|r| r.method == "IPMI"));
        }
    }
}

fn console(stage: &Stage, more: &[&str]) -> Child {
    let words = [&["machines", "console", MACHINE], more].concat();
    let mut command = stage.command(&words);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// What a console says until a text has come.
fn until(console: &mut Child, text: &str) -> String {
    let mut said = Vec::new();
    let mut piece = [0; 256];
    let out = console.stdout.as_mut().unwrap();
    while !String::from_utf8_lossy(&said).contains(text) {
        let count = out.read(&mut piece).unwrap();
        assert!(count > 0, "it ended with {:?}", String::from_utf8_lossy(&said));
        said.extend(&piece[..count]);
    }
    String::from_utf8(said).unwrap()
}

#[test]
fn the_console_is_live_and_audited_and_given_back() {
    let stage = stage("auto");
    assert_eq!(stage.action(&["poweron"]), "Success");
    stage.wait("its firmware is up", |s| {
        s.sim().serial().contains("no-bootable-device")
    });
    let mut first = console(&stage, &[]);
    first.stdin.as_mut().unwrap().write_all(b"echo hello\n").unwrap();
    until(&mut first, "echo hello\r\n");
    // What the machine says by itself; and a power cycle beside the console.
    assert_eq!(stage.action(&["powercycle"]), "Success");
    until(&mut first, "paper machine: firmware");

    let taken = stage.isobar(&["machines", "console", MACHINE]);
    assert!(
        !taken.ok && taken.stderr.contains("somebody else has the console"),
        "{taken}"
    );
    let mut second = console(&stage, &["--take-over", "--until", "here: ready"]);
    let ended = first.wait_with_output().unwrap();
    assert!(!ended.status.success());
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(said.contains("the console has ended"), "{said}");
    second.stdin.as_mut().unwrap().write_all(b"here: ready\n").unwrap();
    assert!(second.wait().unwrap().success());

    // Given back: once it is closed the next one gets it without taking it over.
    let mut third = None;
    let began = std::time::Instant::now();
    while third.is_none() {
        assert!(began.elapsed() < stage::PATIENCE, "the console is never free");
        let mut console = console(&stage, &[]);
        console.stdin.as_mut().unwrap().write_all(b"third\n").unwrap();
        let mut piece = [0; 64];
        let open = console.stdout.as_mut().unwrap().read(&mut piece).unwrap() > 0;
        if open {
            third = Some(console);
        } else {
            console.wait().unwrap();
        }
    }
    let mut third = third.unwrap();
    third.stdin.as_mut().unwrap().write_all(b"~.").unwrap();
    assert!(third.wait().unwrap().success());

    let rows: Vec<Value> = stage.client().get("/isobar/v1/audit").unwrap();
    let told = rows.iter().filter(|row| row["action"] == "console").count();
    assert!(told >= 3, "{rows:?}");
    let refused = stage.isobar(&["machines", "set", MACHINE, "param", "ipmi/mode", "to", "redfish"]);
    assert!(refused.ok);
    let out = stage.isobar(&["machines", "console", MACHINE]);
    assert!(
        !out.ok && out.stderr.contains("set ipmi/mode to auto or ipmitool"),
        "{out}"
    );
}
