//! The rungs of the recovery ladder, one by one: what is sent, what is not, when, and how often over restarts.
#![allow(clippy::unwrap_used)]

mod stage;

use std::time::Duration;

use isobar_sim::{Fault, FaultKind, Request};
use serde_json::{Value, json};
use stage::{MACHINE, Options, Stage, failing};

/// Two tries, then the ladder.
const TIMING: &str = "exchange_s=20,insert_s=60,settle_s=1,tries=2,retry_s=0.1,poll_s=0.1,shutdown_s=2,power_s=40,first_read_s=30,\
                      stalled_s=20,agent_s=60,agent_reboot_s=30,agent_gone_s=20,heartbeat_s=1,cleanup_s=1";

fn timed(more: &str) -> Options {
    Options {
        timing: format!("{TIMING},{more}"),
        ..Options::default()
    }
}

fn boot(stage: &Stage) {
    let out = stage.isobar(&["machines", "workflow", MACHINE, "discover-base", "--no-wait"]);
    assert!(out.ok, "{out}");
}

/// A machine that may take these rungs.
fn climber(more: &str, rungs: &Value, adapt: impl FnOnce(&mut isobar_sim::SimConfig)) -> Stage {
    let stage = Stage::with(timed(more), adapt);
    stage.import();
    stage.add_machine(&json!({"isobar/bmc-recovery": rungs}));
    stage
}

/// So many inserts come to nothing.
fn mounts_nothing(times: u32) -> Fault {
    Fault {
        times: Some(times),
        ..Fault::from(FaultKind::NoMount { inserted: false })
    }
}

/// The rungs of the last boot, and what came of each.
fn rungs(stage: &Stage) -> Vec<(String, String)> {
    let boot = stage.last_boot();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let taken = boot["recovery"].as_array().unwrap().iter();
    taken
        .map(|rung| (text(&rung["rung"]), text(&rung["outcome"])))
        .collect()
}

fn resets(stage: &Stage) -> usize {
    stage.requests("Manager.Reset").len()
}

/// How long after the reset of the BMC the next request came.
fn quiet_after_reset(stage: &Stage) -> Duration {
    let all = stage.sim().requests();
    let is_reset = |request: &Request| request.path.ends_with("Manager.Reset");
    let at = all.iter().position(is_reset).unwrap();
    (all[at + 1].at - all[at].at).try_into().unwrap()
}

fn waits_for_its_return(stage: &Stage) {
    stage.wait("it waits for the BMC", |s| {
        let boot = s.last_boot();
        let mut log = boot["log"].as_array().unwrap().iter();
        log.any(|line| line["text"].as_str().unwrap().contains("to come back from its reset"))
    });
}

#[test]
fn a_reset_is_sent_once_the_bmc_is_left_alone_no_more_and_not_taken_as_sent_before() {
    let stage = climber("poll_s=1,breaker_failures=1,breaker_s=1", &json!(["reset"]), |_| {});
    let deaf = Fault::from(FaultKind::Reset).on("POST", "InsertMedia");
    stage.sim().plant(Fault { times: Some(2), ..deaf });
    boot(&stage);
    stage.wait_boot("done");
    let taken = rungs(&stage);
    assert_eq!(taken.len(), 1, "{taken:?}");
    assert!(taken[0].1.contains("back after"), "{taken:?}");
    assert_eq!(resets(&stage), 1);
}

#[test]
fn a_reset_that_waits_while_another_machine_begins_to_boot_through_the_bmc_is_not_sent() {
    // Nobody comes up: the other boot goes on waiting.
    let timing = "tries=1,site_connections=1,bmc_idle_s=0,exchange_s=60,insert_s=60";
    let stage = climber(timing, &json!(["reset"]), |sim| sim.os_up = None);
    stage.set("isobar/bmc-site", "here");
    stage.create_machine("other", stage.sim().url().as_str(), &json!({}));
    let neighbour = stage
        .runtime()
        .block_on(isobar_sim::start(stage::sim_config()))
        .unwrap();
    stage.create_machine(
        "neighbour",
        neighbour.url().as_str(),
        &json!({"isobar/bmc-site": "here"}),
    );
    let hold = neighbour.plant(Fault::from(FaultKind::Hold { done: true }).on("GET", "Systems/1"));
    let inserting = stage.sim().plant(
        Fault::from(FaultKind::Hold { done: true })
            .on("POST", "InsertMedia")
            .once(),
    );
    stage.sim().plant(mounts_nothing(1));
    boot(&stage);
    stage.wait("it inserts", |s| !s.requests("InsertMedia").is_empty());
    let waits = |kind: &str, why: &str| {
        let all: Vec<Value> = stage.client().get("/isobar/v1/operations").unwrap();
        all.iter()
            .any(|o| o["kind"] == kind && o["why"].to_string().contains(why))
    };
    std::thread::scope(|scope| {
        // It has the site's one turn from the end of that insert on.
        let status = scope.spawn(|| stage.isobar(&["machines", "runaction", "Name:neighbour", "powerstatus"]));
        stage.wait("the neighbour is next", |_| waits("action", "site_connections"));
        stage.sim().release(inserting);
        stage.wait("the reset waits for its turn", |_| waits("boot", "site_connections"));
        let out = stage.isobar(&["machines", "workflow", "Name:other", "discover-base", "--no-wait"]);
        assert!(out.ok, "{out}");
        stage.wait("the other one is on its way", |s| {
            s.last_boot_of("other")["handed_over"] == true
        });
        neighbour.release(hold);
        assert!(status.join().unwrap().ok);
    });
    stage.wait_boot("failed");
    let taken = rungs(&stage);
    assert_eq!(taken.len(), 1, "{taken:?}");
    assert!(taken[0].1.contains("other boots through it as well"), "{taken:?}");
    assert_eq!(resets(&stage), 0);
    stage.runtime().block_on(neighbour.shutdown());
}

#[test]
fn a_step_is_not_tried_for_longer_than_it_may_take() {
    let stage = climber("tries=100000,step_s=2,breaker_failures=0", &json!([]), |_| {});
    stage
        .sim()
        .plant(Fault::from(FaultKind::Reset).on("POST", "InsertMedia"));
    boot(&stage);
    stage.wait_boot("failed");
    let boot = stage.last_boot();
    assert_eq!(boot["error"]["reason"], "bmc-timeout", "{boot:#}");
    assert!(stage.requests("InsertMedia").len() > 1);
}

#[test]
fn a_bmc_that_was_reset_has_its_quiet_from_everybody() {
    let stage = climber("poll_s=1", &json!(["reset"]), |_| {});
    stage.sim().plant(mounts_nothing(2));
    boot(&stage);
    waits_for_its_return(&stage);
    assert_eq!(stage.action(&["powerstatus"]), "Off");
    let quiet = quiet_after_reset(&stage);
    assert!(quiet >= Duration::from_secs(5), "five times poll_s: {quiet:?}");
    stage.wait_boot("done");
}

#[test]
fn a_restart_of_the_server_takes_nothing_from_that_quiet() {
    let mut stage = climber("poll_s=1", &json!(["reset"]), |_| {});
    stage.sim().plant(mounts_nothing(2));
    boot(&stage);
    waits_for_its_return(&stage);
    stage.kill_server();
    stage.start_server();
    stage.wait_boot("done");
    let quiet = quiet_after_reset(&stage);
    assert!(quiet >= Duration::from_secs(5), "five times poll_s: {quiet:?}");
    assert_eq!(resets(&stage), 1);
}

#[test]
fn after_a_reset_the_image_is_inserted_again_whatever_it_was_done_for() {
    let stage = climber("", &json!(["reset"]), |_| {});
    let lock_up = FaultKind::LockUp {
        code: 500,
        message_id: None,
    };
    // Its reset mends it, and empties its slots.
    stage.sim().plant(Fault::from(lock_up).on("PATCH", "Systems/1"));
    boot(&stage);
    stage.wait_boot("done");
    let taken = rungs(&stage);
    assert_eq!((taken.len(), resets(&stage)), (1, 1), "{taken:?}");
    let inserts = stage.requests("InsertMedia");
    assert_eq!(inserts.len(), 2, "{inserts:?}");
}

#[test]
fn a_self_test_without_an_end_is_waited_for_so_long_and_no_longer() {
    let stage = climber("post_s=1", &json!(["post"]), |sim| {
        sim.manners.boot_progress = true;
        sim.manners.post_ms = 600_000;
    });
    stage.set("boot-virtual-iso-power", "wait");
    stage.sim().switch_on();
    stage.sim().plant(failing("PATCH", "Systems/1"));
    boot(&stage);
    stage.wait_boot("failed");
    let taken = rungs(&stage);
    assert_eq!(taken.len(), 1, "{taken:?}");
    let told = "the self-test had no end (MemoryInitializationStarted)";
    assert_eq!(taken[0], ("post".to_owned(), told.to_owned()));
    assert!(stage.last_boot()["error"]["message"].as_str().unwrap().contains(told));
}

/// A server that was killed has left a session behind, and a boot whose override fails.
fn with_session_left_behind(more: &str) -> Stage {
    let mut stage = climber(&format!("bmc_idle_s=600{more}"), &json!(["sessions"]), |_| {});
    assert_eq!(stage.action(&["powerstatus"]), "Off");
    stage.kill_server();
    assert_eq!(stage.sim().sessions(), 1);
    stage.start_server();
    stage.sim().plant(failing("PATCH", "Systems/1"));
    stage
}

#[test]
fn a_session_that_a_killed_server_has_left_behind_is_ended() {
    let stage = with_session_left_behind("");
    boot(&stage);
    stage.wait_boot("failed");
    let taken = rungs(&stage);
    assert_eq!(taken, [("sessions".to_owned(), "1 sessions ended".to_owned())]);
    let ended = stage.requests("Sessions/1");
    assert_eq!(ended.len(), 1, "{ended:?}");
}

#[test]
fn a_rung_in_the_middle_of_which_the_server_ended_counts_as_taken() {
    let mut stage = with_session_left_behind(",exchange_s=8");
    let hold = Fault::from(FaultKind::Hold { done: true }).on("DELETE", "Sessions/1");
    let hold = stage.sim().plant(hold);
    boot(&stage);
    stage.wait("the session is being ended", |s| !s.requests("Sessions/1").is_empty());
    stage.kill_server();
    stage.sim().remove_fault(hold);
    stage.start_server();
    stage.wait_boot("failed");
    let taken = rungs(&stage);
    assert_eq!(taken.len(), 1, "{taken:?}");
    assert!(taken[0].1.contains("the server ended in the middle"), "{taken:?}");
    // Nobody has looked for sessions a second time.
    let all = stage.sim().requests();
    let looks = all
        .iter()
        .filter(|r| r.method == "GET" && r.path.ends_with("/Sessions"));
    assert_eq!(looks.count(), 1);
}
