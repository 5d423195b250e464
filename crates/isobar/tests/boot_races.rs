//! Boots that are replaced, cancelled or interrupted at the worst moment.
#![allow(clippy::unwrap_used)]

mod stage;

use isobar_sim::{Fault, FaultKind, Power};
use serde_json::{Value, json};
use stage::{MACHINE, Stage, TIMING};

fn boot(stage: &Stage) {
    let out = stage.isobar(&["machines", "workflow", MACHINE, "discover-base", "--no-wait"]);
    assert!(out.ok, "{out}");
}

/// Back to the local disk; does not wait for the disc to be out.
fn local(stage: &Stage) {
    for change in [["workflow", MACHINE, ""], ["bootenv", MACHINE, "local"]] {
        let out = stage.isobar(&[&["machines"], &change[..], &["--no-wait"]].concat());
        assert!(out.ok, "{out}");
    }
}

/// A machine whose agent is up, back on `local`, with nothing in its drive.
fn with_live_agent(stage: &Stage) {
    stage.import();
    stage.add_machine(&json!({}));
    boot(stage);
    stage.wait_boot("done");
    local(stage);
    stage.wait("the disc is out", |s| {
        s.sim().cd().image.is_none() && s.last_boot()["state"] == "done"
    });
}

fn met(stage: &Stage, fault: u64) -> bool {
    stage.sim().faults().iter().any(|f| f.id == fault && f.met > 0)
}

#[test]
fn a_boot_replaced_during_its_eject_leaves_its_successor_alone() {
    let stage = Stage::new(|_| {});
    with_live_agent(&stage);
    let hold = stage.sim().plant(
        Fault::from(FaultKind::Hold { done: true })
            .on("POST", "EjectMedia")
            .once(),
    );
    boot(&stage);
    stage.wait("its eject is held", |s| met(s, hold));
    local(&stage);
    boot(&stage);
    stage.sim().release(hold);
    stage.wait_boot("done");
    let url = stage.sim().cd().image.clone().unwrap();
    assert_eq!(
        stage.get_image(&url, Some("bytes=0-9")).0,
        206,
        "the successor's token is good"
    );
}

#[test]
fn a_cancelled_boot_has_no_machine_rebooted() {
    let stage = Stage::timed(&format!("{TIMING},agent_gone_s=600,agent_reboot_s=600"), |_| {});
    with_live_agent(&stage);
    // No heartbeat comes between the order and its cancel.
    let hush = stage.hush();
    boot(&stage);
    stage.wait("the order is given", |s| {
        s.last_boot()["detail"].to_string().contains("take the order")
    });
    local(&stage);
    let (before, beats) = (stage.oses(), stage.heartbeats());
    stage.wait("the disc is out", |s| {
        s.sim().cd().image.is_none() && s.last_boot()["cleanup"] == false
    });
    // The agent that was to take the order has been heard since, and again: it has not taken it.
    drop(hush);
    stage.wait("two heartbeats", |s| s.heartbeats() > beats + 1);
    assert_eq!((stage.oses(), stage.sim().power()), (before, Power::On));
}

#[test]
fn a_restart_in_the_middle_of_slow_reads_fails_nothing() {
    let timing = format!("{TIMING},agent_s=8,first_read_s=8");
    let mut stage = Stage::timed(&timing, |config| {
        config.manners.rate_bps = Some(240_000);
        // The server is away for as long as its restart takes.
        config.manners.read_patience_ms = 60_000;
    });
    stage.import();
    stage.add_machine(&json!({}));
    boot(&stage);
    // Longer under way than the deadlines: only the reads keep it alive.
    stage.wait("the initrd is read", |s| s.last_boot()["phase"] == "initrd");
    stage.kill_server();
    stage.start_server();
    stage.wait_boot("done");
}

/// What was read before is not to be seen in the reads any more.
#[test]
fn a_verdict_after_a_restart_goes_by_what_was_seen_before_it() {
    let timing = format!("{TIMING},agent_s=8");
    let mut stage = Stage::timed(&timing, |sim| sim.os_up = None);
    stage.import();
    stage.add_machine(&json!({}));
    boot(&stage);
    stage.wait("all is read", |s| s.last_boot()["phase"] == "kernel-started");
    stage.kill_server();
    stage.start_server();
    stage.wait_boot("failed");
    let boot = stage.last_boot();
    assert_eq!(boot["error"]["reason"], "agent-silent", "{boot:#}");
    assert!(
        boot["detail"].as_str().unwrap().contains("kernel and initrd read"),
        "{boot:#}"
    );
}

#[test]
fn what_a_boot_owes_passes_to_the_next_even_if_that_one_fails_at_once() {
    let stage = Stage::new(|_| {});
    stage.import();
    stage.add_machine(&json!({}));
    boot(&stage);
    stage.wait_boot("done");
    let deaf = stage
        .sim()
        .plant(Fault::from(FaultKind::Reset).on("POST", "EjectMedia"));
    local(&stage);
    stage.wait("the eject fails", |s| met(s, deaf));
    let broken = json!({"prov": {"address": "192.168.77.300", "netmask": "255.255.255.0"}});
    stage.set("network-data", &broken.to_string());
    boot(&stage);
    stage.wait_boot("failed");
    stage.sim().remove_fault(deaf);
    stage.wait("the old disc is out", |s| s.sim().cd().image.is_none());
}

#[test]
fn a_restart_while_the_agent_is_asked_cuts_no_power() {
    let mut stage = Stage::timed(&format!("{TIMING},agent_gone_s=600,agent_reboot_s=600"), |_| {});
    with_live_agent(&stage);
    let hush = stage.hush();
    boot(&stage);
    stage.wait("the order is given", |s| {
        s.last_boot()["detail"].to_string().contains("take the order")
    });
    stage.kill_server();
    // Whoever asks again waits no longer than this, and the agent is silent for longer.
    stage.options.timing = format!("{TIMING},agent_reboot_s=1");
    stage.start_server();
    stage.wait("nobody knows whether it has rebooted", |s| {
        s.last_boot()["log"].to_string().contains("while isobar was away")
    });
    drop(hush);
    stage.wait_boot("done");
    let resets = stage.requests("ComputerSystem.Reset");
    assert_eq!(resets.len(), 1, "the very first power-on alone: {resets:?}");
}

#[test]
fn a_locked_machine_is_left_alone_and_a_deleted_one_is_served_no_more() {
    let stage = Stage::new(|_| {});
    stage.import();
    stage.add_machine(&json!({}));
    boot(&stage);
    stage.wait_boot("done");
    let url = stage.sim().cd().image.clone().unwrap();
    let uuid = stage.machine()["Uuid"].as_str().unwrap().to_owned();
    let lock = |on: bool| -> Value {
        let patch = [json!({"op": "replace", "path": "/Locked", "value": on})];
        stage
            .client()
            .patch(&format!("/api/v3/machines/{uuid}"), &patch)
            .unwrap()
    };
    lock(true);
    let out = stage.isobar(&["machines", "runaction", MACHINE, "poweroff"]);
    assert!(!out.ok && out.stderr.to_lowercase().contains("locked"), "{out}");
    assert_eq!(stage.action(&["powerstatus"]), "On");
    lock(false);
    assert!(stage.isobar(&["machines", "destroy", MACHINE]).ok);
    assert_eq!(stage.get_image(&url, None).0, 410);
}
