//! What is under way, and the operator's word on it: power by hand, actions beside boots, what can be called off.
#![allow(clippy::unwrap_used)]

mod stage;

use isobar_sim::{Fault, FaultKind};
use serde_json::{Value, json};
use stage::{MACHINE, Options, Stage, TIMING, failing};

fn stage(more: &str, params: &Value) -> Stage {
    let options = Options {
        timing: format!("{TIMING},{more}"),
        ..Options::default()
    };
    let stage = Stage::with(options, |_| {});
    stage.import();
    stage.add_machine(params);
    stage
}

fn boot(stage: &Stage) {
    let out = stage.isobar(&["machines", "workflow", MACHINE, "discover-base", "--no-wait"]);
    assert!(out.ok, "{out}");
}

fn operation(stage: &Stage, kind: &str) -> Option<Value> {
    let all: Vec<Value> = stage.client().get("/isobar/v1/operations").unwrap();
    all.into_iter().find(|o| o["kind"] == kind)
}

fn cancel(stage: &Stage, operation: &Value) -> stage::Out {
    stage.isobar(&["operations", "cancel", operation["id"].as_str().unwrap()])
}

fn met(stage: &Stage, fault: u64) -> bool {
    stage.sim().faults().iter().any(|f| f.id == fault && f.met > 0)
}

#[test]
fn a_boot_that_leaves_the_power_to_the_operator_waits_for_that_hand_and_not_before() {
    let stage = stage("", &json!({"boot-virtual-iso-power": "wait"}));
    stage.sim().switch_on();
    let hold = stage
        .sim()
        .plant(Fault::from(FaultKind::Hold { done: false }).on("POST", "InsertMedia"));
    boot(&stage);
    stage.wait("the insert is under way", |s| met(s, hold));
    let out = stage.isobar(&["machines", "runaction", MACHINE, "powercycle"]);
    assert!(!out.ok && out.stderr.contains("operations cancel"), "{out}");
    stage.sim().release(hold);
    stage.wait("it waits for the operator", |s| {
        s.last_boot()["phase"] == "waiting-for-power"
    });
    assert_eq!(stage.requests("ComputerSystem.Reset"), [""; 0]);
    assert_eq!(stage.action(&["powercycle"]), "Success");
    stage.wait_boot("done");
}

#[test]
fn a_reset_of_the_bmc_that_waits_while_a_boot_begins_is_not_sent() {
    let stage = stage("", &json!({}));
    let hold = Fault::from(FaultKind::Hold { done: true }).on("GET", "Systems/1");
    let hold = stage.sim().plant(hold.once());
    std::thread::scope(|scope| {
        let status = scope.spawn(|| stage.isobar(&["machines", "runaction", MACHINE, "powerstatus"]));
        stage.wait("the BMC is at it", |s| met(s, hold));
        let reset = scope.spawn(|| stage.isobar(&["bmc", "reset", MACHINE]));
        stage.wait("the reset waits in line", |s| {
            let all: Vec<Value> = s.client().get("/isobar/v1/operations").unwrap();
            all.iter().any(|o| o["kind"] == "action" && o["state"] == "waiting")
        });
        boot(&stage);
        stage.sim().release(hold);
        assert!(status.join().unwrap().ok);
        let out = reset.join().unwrap();
        assert!(!out.ok && out.stderr.contains("boot"), "{out}");
    });
    stage.wait_boot("done");
    assert_eq!(stage.requests("Manager.Reset"), [""; 0]);
}

#[test]
fn an_action_goes_through_to_a_bmc_that_is_left_alone_and_an_answer_lets_boots_go_on() {
    let stage = stage("tries=50,breaker_failures=1,breaker_s=600", &json!({}));
    let deaf = Fault::from(FaultKind::Reset).on("GET", "/redfish/v1");
    let deaf = stage.sim().plant(deaf);
    boot(&stage);
    stage.wait("it is left alone", |s| operation(s, "left-alone").is_some());
    let status = || stage.isobar(&["machines", "runaction", MACHINE, "powerstatus"]);
    let before = stage.sim().requests().len();
    assert!(!status().ok);
    assert!(stage.sim().requests().len() > before, "the action was sent");
    stage.wait("the boot says so", |s| {
        operation(s, "boot").unwrap()["why"]
            .as_str()
            .unwrap()
            .contains("left alone")
    });
    stage.sim().remove_fault(deaf);
    let out = status();
    assert!(out.ok && out.stdout.contains("Off"), "{out}");
    // It would have waited for ten minutes.
    stage.wait_boot("done");
}

#[test]
fn what_was_sent_cannot_be_called_back_and_a_clean_up_can_be_given_up() {
    let stage = stage("", &json!({}));
    let hold = Fault::from(FaultKind::Hold { done: true }).on("GET", "Systems/1");
    let hold = stage.sim().plant(hold.once());
    std::thread::scope(|scope| {
        let status = scope.spawn(|| stage.isobar(&["machines", "runaction", MACHINE, "powerstatus"]));
        stage.wait("the BMC is at it", |s| met(s, hold));
        let out = cancel(&stage, &operation(&stage, "action").unwrap());
        assert!(!out.ok && out.stderr.contains("cannot be called back"), "{out}");
        stage.sim().release(hold);
        let out = status.join().unwrap();
        assert!(out.ok && out.stdout.contains("Off"), "{out}");
    });

    let fails = stage.sim().plant(failing("PATCH", "Systems/1"));
    // The slot goes on holding the image.
    let stuck = Fault::from(FaultKind::Reset).on("POST", "EjectMedia");
    let stuck = stage.sim().plant(Fault { skip: 1, ..stuck });
    boot(&stage);
    stage.wait("its clean-up is owed", |s| {
        met(s, stuck) && operation(s, "clean-up").is_some()
    });
    stage.sim().remove_fault(fails);
    let out = cancel(&stage, &operation(&stage, "clean-up").unwrap());
    assert!(out.ok, "{out}");
    stage.wait("nothing is owed", |s| operation(s, "clean-up").is_none());
    let boot = stage.last_boot();
    let told = boot["detail"].as_str().unwrap();
    assert!(
        boot["state"] == "failed" && told.contains("clean-up given up by") && told.contains("rocketskates"),
        "{boot:#}"
    );
    stage.sim().remove_fault(stuck);
    assert!(stage.sim().cd().mounted, "it is left where it is");
}
