//! BMCs that go on failing: the ladder and its rungs, logins that are held, and the operator's word on what is under way.
#![allow(clippy::unwrap_used)]

mod stage;

use isobar_sim::{Fault, FaultKind, Power};
use serde_json::{Value, json};
use stage::{MACHINE, Options, Stage, failing};

/// Two tries, then the ladder.
const TIMING: &str = "exchange_s=20,insert_s=60,settle_s=1,tries=2,retry_s=0.1,poll_s=0.1,shutdown_s=2,power_s=40,first_read_s=30,\
                      stalled_s=20,agent_s=60,agent_reboot_s=30,agent_gone_s=20,heartbeat_s=1,cleanup_s=1";

fn timed() -> Options {
    Options {
        timing: TIMING.to_owned(),
        ..Options::default()
    }
}

fn boot(stage: &Stage) {
    let out = stage.isobar(&["machines", "workflow", MACHINE, "discover-base", "--no-wait"]);
    assert!(out.ok, "{out}");
}

fn operations(stage: &Stage, query: &str) -> Vec<Value> {
    stage.client().get(&format!("/isobar/v1/operations{query}")).unwrap()
}

fn say(stage: &Stage, id: &Value, word: &str) -> Result<Value, String> {
    let path = format!("/isobar/v1/operations/{}/{word}", id.as_str().unwrap());
    stage
        .client()
        .post(&path, &json!({}))
        .map_err(|error| error.to_string())
}

fn rungs(boot: &Value) -> Vec<&str> {
    let rungs = boot["recovery"].as_array().unwrap();
    rungs.iter().map(|rung| rung["rung"].as_str().unwrap()).collect()
}

#[test]
fn a_bmc_that_nothing_but_its_reset_helps_is_reset_once_where_that_is_allowed() {
    let mut stage = Stage::with(timed(), |_| {});
    stage.import();
    stage.add_machine(&json!({"isobar/bmc-recovery": ["eject", "sessions", "post", "reset"]}));
    let mounts_nothing = || Fault::from(FaultKind::NoMount { inserted: false });
    let fault = stage.sim().plant(mounts_nothing());
    // Its answer is lost with the server.
    let hold = stage
        .sim()
        .plant(Fault::from(FaultKind::Hold { done: true }).on("POST", "Manager.Reset"));
    boot(&stage);
    stage.wait("the BMC is reset", |s| !s.requests("Manager.Reset").is_empty());
    // In the middle of it: what was sent once is not sent again.
    stage.kill_server();
    stage.sim().remove_fault(fault);
    stage.sim().remove_fault(hold);
    stage.start_server();
    stage.wait_boot("done");
    let boot = stage.last_boot();
    assert_eq!(rungs(&boot), ["eject", "reset"], "{boot:#}");
    assert!(boot["recovery"][1]["outcome"].as_str().unwrap().contains("back after"));
    assert_eq!(stage.requests("Manager.Reset").len(), 1);
    assert_eq!(stage.overlaps(), [""; 0]);
    assert_eq!(stage::cuts_while_booting(stage.sim()), [""; 0]);
    // Between two resets lies a pause, over restarts too: the next boot gives up and says so.
    stage.sim().plant(mounts_nothing());
    for change in [["workflow", MACHINE, ""], ["bootenv", MACHINE, "local"]] {
        assert!(stage.isobar(&[&["machines"], &change[..], &["--no-wait"]].concat()).ok);
    }
    stage.wait("nothing is under way", |s| operations(s, "").is_empty());
    self::boot(&stage);
    stage.wait_boot("failed");
    let boot = stage.last_boot();
    assert_eq!(boot["error"]["reason"], "insert-not-mounted");
    let told = boot["error"]["message"].as_str().unwrap();
    assert!(
        told.contains("ejected in all places") && told.contains("no reset of the BMC"),
        "{told}"
    );
    assert_eq!(stage.requests("Manager.Reset").len(), 1);
}

#[test]
fn once_the_machine_may_be_on_its_bmc_is_not_reset() {
    let stage = Stage::with(timed(), |_| {});
    stage.import();
    stage.add_machine(&json!({"isobar/bmc-recovery": ["eject", "sessions", "post", "reset"]}));
    stage.sim().plant(failing("POST", "ComputerSystem.Reset"));
    boot(&stage);
    stage.wait_boot("failed");
    let boot = stage.last_boot();
    assert_eq!(rungs(&boot), ["sessions"], "{boot:#}");
    assert_eq!(stage.requests("Manager.Reset"), [""; 0]);
    let told = boot["error"]["message"].as_str().unwrap();
    assert!(told.contains("sessions ended"), "{told}");
}

#[test]
fn rungs_that_are_not_allowed_are_not_taken() {
    let stage = Stage::with(timed(), |_| {});
    stage.import();
    stage.add_machine(&json!({"isobar/bmc-recovery": []}));
    stage.sim().plant(Fault::from(FaultKind::NoMount { inserted: false }));
    boot(&stage);
    stage.wait_boot("failed");
    let boot = stage.last_boot();
    assert_eq!(rungs(&boot), [""; 0], "{boot:#}");
    assert!(
        boot["error"]["hint"].as_str().unwrap().contains("isobar/bmc-recovery"),
        "{boot:#}"
    );
}

#[test]
fn a_refused_login_is_held_over_a_restart_and_lifted_by_the_operator() {
    let mut stage = Stage::with(timed(), |_| {});
    stage.import();
    stage.add_machine(&json!({}));
    let unauthorised = Fault::from(FaultKind::Status {
        code: 401,
        retry_after_s: None,
        message_id: None,
        message: None,
    });
    let fault = stage.sim().plant(unauthorised.on("POST", "Sessions"));
    boot(&stage);
    stage.wait_boot("failed");
    stage.sim().remove_fault(fault);
    let logins = |stage: &Stage| stage.requests("SessionService/Sessions").len();
    assert_eq!(logins(&stage), 1);
    let refused = |stage: &Stage| {
        let out = stage.isobar(&["machines", "runaction", MACHINE, "powerstatus"]);
        assert!(!out.ok && out.stderr.contains("held"), "{out}");
    };
    refused(&stage);
    stage.kill_server();
    stage.start_server();
    refused(&stage);
    assert_eq!(logins(&stage), 1, "nothing was sent");
    let held = operations(&stage, "");
    assert_eq!((held.len(), &held[0]["kind"]), (1, &json!("login-held")), "{held:#?}");
    say(&stage, &held[0]["id"], "retry").unwrap();
    assert_eq!(operations(&stage, "").len(), 0);
    assert_eq!(stage.action(&["powerstatus"]), "Off");
    // The boot that failed, again as it was.
    let failed = stage.last_boot()["id"].clone();
    let again = say(&stage, &failed, "retry").unwrap();
    assert_ne!(again["id"], failed);
    stage.wait_boot("done");
}

/// What an action is refused with, by code, in words that tell the operator what to do.
const REFUSED: [(&str, &str); 2] = [
    ("boot-under-way", "operations cancel"),
    ("cancelled", "cancelled before"),
];

#[test]
fn a_boot_has_the_power_until_it_is_cancelled() {
    let stage = Stage::with(timed(), |_| {});
    stage.import();
    stage.add_machine(&json!({}));
    let hold = stage
        .sim()
        .plant(Fault::from(FaultKind::Hold { done: false }).on("POST", "InsertMedia"));
    boot(&stage);
    stage.wait("the insert is under way", |s| !s.requests("InsertMedia").is_empty());
    let before = stage.requests("Reset").len();
    for command in ["powercycle", "poweroff", "poweron"] {
        let out = stage.isobar(&["machines", "runaction", MACHINE, command]);
        assert!(!out.ok && out.stderr.contains(REFUSED[0].1), "{command}: {out}");
    }
    assert_eq!(stage.requests("Reset").len(), before, "nothing was sent");

    // Whoever waits is told for whom, and can be called off.
    let boot = operations(&stage, "")[0].clone();
    assert_eq!(
        (&boot["kind"], &boot["state"]),
        (&json!("boot"), &json!("running")),
        "{boot:#}"
    );
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| stage.isobar(&["machines", "runaction", MACHINE, "nextbootpxe"]));
        stage.wait("it waits in line", |s| {
            operations(s, "")
                .iter()
                .any(|o| o["kind"] == "action" && o["state"] == "waiting")
        });
        let all = operations(&stage, "");
        let action = all.iter().find(|o| o["kind"] == "action").unwrap();
        let why = action["why"].as_str().unwrap();
        assert!(
            why.contains("`insert`") && why.contains(boot["id"].as_str().unwrap()),
            "{why}"
        );
        assert!(action["until"].is_string(), "{action:#}");
        assert_eq!(say(&stage, &action["id"], "cancel").unwrap()["state"], "cancelled");
        let out = waiting.join().unwrap();
        assert!(!out.ok && out.stderr.contains(REFUSED[1].1), "{out}");
    });

    let out = stage.isobar(&["operations", "cancel", boot["id"].as_str().unwrap()]);
    assert!(out.ok, "{out}");
    stage.sim().remove_fault(hold);
    stage.wait("it owes nothing", |s| operations(s, "").is_empty());
    assert_eq!(stage.last_boot()["state"], "cancelled");
    assert!(!stage.sim().cd().mounted);
    assert!(say(&stage, &boot["id"], "cancel").unwrap_err().contains("over"));
    let machine = stage.machine()["Uuid"].as_str().unwrap().to_owned();
    let told: Vec<Value> = stage
        .client()
        .get(&format!("/isobar/v1/audit?action=operation:cancel&key={machine}"))
        .unwrap();
    assert_eq!(told.len(), 2, "{told:#?}");
    assert_eq!(stage.action(&["powerstatus"]), "Off");
    assert_eq!(stage.action(&["poweron"]), "Success");
}

#[test]
fn a_power_command_that_waits_while_a_boot_begins_is_not_sent() {
    let stage = Stage::with(timed(), |_| {});
    stage.import();
    stage.add_machine(&json!({}));
    let hold = Fault::from(FaultKind::Hold { done: true })
        .on("GET", "Systems/1")
        .once();
    let hold = stage.sim().plant(hold);
    let act = |command: &'static str| stage.isobar(&["machines", "runaction", MACHINE, command]);
    std::thread::scope(|scope| {
        let status = scope.spawn(|| act("powerstatus"));
        stage.wait("the BMC is at it", |s| {
            s.sim().faults().iter().any(|f| f.id == hold && f.met > 0)
        });
        let power = scope.spawn(|| act("poweron"));
        stage.wait("the power command waits in line", |s| {
            operations(s, "")
                .iter()
                .any(|o| o["kind"] == "action" && o["state"] == "waiting")
        });
        boot(&stage);
        stage.sim().release(hold);
        assert!(status.join().unwrap().ok);
        let out = power.join().unwrap();
        assert!(!out.ok && out.stderr.contains(REFUSED[0].1), "{out}");
    });
    stage.wait_boot("done");
    assert_eq!(stage.requests("ComputerSystem.Reset").len(), 1, "the boot's own");
}

#[test]
fn a_bmc_that_is_silent_is_left_alone_until_the_operator_wants_it() {
    let options = Options {
        timing: format!("{TIMING},tries=50,breaker_failures=3,breaker_s=600"),
        ..Options::default()
    };
    let stage = Stage::with(options, |_| {});
    stage.import();
    stage.add_machine(&json!({}));
    let fault = stage
        .sim()
        .plant(Fault::from(FaultKind::Reset).on("GET", "/redfish/v1"));
    boot(&stage);
    stage.wait("it is left alone", |s| {
        operations(s, "").iter().any(|o| o["kind"] == "left-alone")
    });
    let all = operations(&stage, "");
    let waiting = all.iter().find(|o| o["kind"] == "boot").unwrap();
    stage.wait("the boot says so", |s| {
        operations(s, "")
            .iter()
            .any(|o| o["kind"] == "boot" && o["why"].as_str().unwrap().contains("left alone"))
    });
    stage.sim().remove_fault(fault);
    let out = stage.isobar(&["operations", "retry", waiting["id"].as_str().unwrap()]);
    assert!(out.ok, "{out}");
    stage.wait_boot("done");
    assert_eq!(operations(&stage, "").len(), 0);
}

#[test]
fn a_step_that_waits_for_a_silent_bmc_has_an_end() {
    let options = Options {
        timing: format!("{TIMING},tries=50,breaker_failures=3,breaker_s=600,step_s=12"),
        ..Options::default()
    };
    let stage = Stage::with(options, |_| {});
    stage.import();
    stage.add_machine(&json!({}));
    stage
        .sim()
        .plant(Fault::from(FaultKind::Reset).on("GET", "/redfish/v1"));
    boot(&stage);
    stage.wait_boot("failed");
    let boot = stage.last_boot();
    assert_eq!(boot["error"]["reason"], "bmc-silent", "{boot:#}");
    assert!(boot["error"]["hint"].as_str().unwrap().contains("operations retry"));
}

#[test]
fn a_verdict_waits_for_a_bmc_that_cannot_say_just_now() {
    let options = Options {
        timing: format!("{TIMING},tries=3,agent_s=10"),
        ..Options::default()
    };
    let stage = Stage::with(options, |sim| sim.manners.read = isobar_sim::ReadManner::CopyAll);
    stage.import();
    stage.add_machine(&json!({}));
    let lost = Fault::from(FaultKind::MediaLost).on("POST", "ComputerSystem.Reset");
    stage.sim().plant(lost.once());
    boot(&stage);
    stage.wait("the machine is handed over", |s| s.last_boot()["handed_over"] == true);
    // The first look at the medium comes to nothing, its one repetition too.
    let deaf = Fault::from(FaultKind::Reset).on("GET", "VirtualMedia");
    let deaf = stage.sim().plant(Fault { times: Some(2), ..deaf });
    stage.wait_boot("failed");
    let boot = stage.last_boot();
    assert_eq!(boot["error"]["reason"], "media-lost", "{boot:#}");
    assert!(
        stage
            .sim()
            .faults()
            .iter()
            .all(|fault| fault.id != deaf || fault.met == 2)
    );
}

#[test]
fn a_self_test_in_which_nothing_may_be_changed_is_waited_out() {
    let options = Options {
        timing: format!("{TIMING},insert_s=8"),
        ..Options::default()
    };
    let stage = Stage::with(options, |sim| {
        sim.manners.boot_progress = true;
        sim.manners.post_ms = 20_000;
    });
    stage.import();
    stage.add_machine(&json!({"boot-virtual-iso-power": "wait"}));
    stage.sim().switch_on();
    let in_post = FaultKind::Status {
        code: 400,
        retry_after_s: None,
        message_id: Some("iLO.2.14.UnableToModifyDuringSystemPOST".to_owned()),
        message: Some("it is in its self-test".to_owned()),
    };
    let refused = stage.sim().plant(Fault::from(in_post).on("POST", "InsertMedia"));
    boot(&stage);
    stage.wait("the self-test is waited for", |s| {
        s.last_boot()["detail"]
            .as_str()
            .unwrap()
            .contains("MemoryInitializationStarted")
    });
    assert_eq!(stage.last_boot()["boot_progress"], "MemoryInitializationStarted");
    stage.sim().remove_fault(refused);
    let asked = stage.requests("InsertMedia").len();
    stage.wait("it goes on", |s| s.last_boot()["phase"] == "waiting-for-power");
    let boot = stage.last_boot();
    assert_eq!(rungs(&boot), ["eject", "sessions", "post"], "{boot:#}");
    let outcome = boot["recovery"][2]["outcome"].as_str().unwrap();
    assert!(outcome.contains("end of the self-test"), "{outcome}");
    assert_eq!(
        stage.requests("InsertMedia").len(),
        asked + 1,
        "nothing was tried meanwhile"
    );
}

#[test]
fn a_reset_that_the_bmc_refuses_is_told_of_and_the_boot_ends_with_its_own_reason() {
    let stage = Stage::with(timed(), |_| {});
    stage.import();
    stage.add_machine(&json!({"isobar/bmc-recovery": ["reset"]}));
    stage.sim().plant(Fault::from(FaultKind::NoMount { inserted: false }));
    let no = FaultKind::Status {
        code: 403,
        retry_after_s: None,
        message_id: Some("Base.1.8.InsufficientPrivilege".to_owned()),
        message: Some("not by this user".to_owned()),
    };
    stage.sim().plant(Fault::from(no).on("POST", "Manager.Reset"));
    boot(&stage);
    stage.wait_boot("failed");
    let boot = stage.last_boot();
    assert_eq!(rungs(&boot), ["reset"], "{boot:#}");
    assert_eq!(boot["error"]["reason"], "insert-not-mounted", "{boot:#}");
    let told = boot["error"]["message"].as_str().unwrap();
    assert!(
        told.contains("reset failed") && told.contains("not by this user"),
        "{told}"
    );
    assert_eq!(stage.requests("Manager.Reset").len(), 1);
    stage.wait("it owes nothing", |s| operations(s, "").is_empty());
}

#[test]
fn a_bmc_is_not_reset_under_another_machines_boot() {
    // Nobody comes up: the other boot goes on waiting.
    let stage = Stage::with(timed(), |sim| sim.os_up = None);
    stage.import();
    stage.create_machine("other", stage.sim().url().as_str(), &json!({}));
    let out = stage.isobar(&["machines", "workflow", "Name:other", "discover-base", "--no-wait"]);
    assert!(out.ok, "{out}");
    stage.wait("the other one is on its way", |s| s.sim().power() == Power::On);
    stage.add_machine(&json!({"isobar/bmc-recovery": ["reset"]}));
    stage.sim().plant(failing("GET", "Systems/1"));
    boot(&stage);
    stage.wait_boot("failed");
    let boot = stage.last_boot();
    let told = boot["error"]["message"].as_str().unwrap();
    assert!(told.contains("other boots through it as well"), "{told}");
    assert_eq!(stage.requests("Manager.Reset"), [""; 0]);
    assert_eq!(stage.last_boot_of("other")["state"], "running");
}

#[test]
fn a_bmc_that_does_not_come_back_from_its_reset_ends_the_boot() {
    let options = Options {
        timing: format!("{TIMING},reset_s=2"),
        ..Options::default()
    };
    let stage = Stage::with(options, |_| {});
    stage.import();
    stage.add_machine(&json!({"isobar/bmc-recovery": ["reset"]}));
    stage.sim().plant(Fault::from(FaultKind::NoMount { inserted: false }));
    let hold = Fault::from(FaultKind::Hold { done: true }).on("POST", "Manager.Reset");
    let hold = stage.sim().plant(hold);
    boot(&stage);
    stage.wait("the BMC is reset", |s| !s.requests("Manager.Reset").is_empty());
    stage.sim().plant(failing("GET", "Systems/1"));
    stage.sim().release(hold);
    stage.wait_boot("failed");
    let boot = stage.last_boot();
    assert_eq!(boot["error"]["reason"], "insert-not-mounted", "{boot:#}");
    let told = boot["error"]["message"].as_str().unwrap();
    assert!(told.contains("it did not come back"), "{told}");
    assert_eq!(stage.requests("Manager.Reset").len(), 1);
}

#[test]
fn a_site_has_so_many_conversations_and_another_is_not_held_up() {
    let options = Options {
        timing: format!("{TIMING},site_connections=1,bmc_idle_s=0"),
        ..Options::default()
    };
    let stage = Stage::with(options, |_| {});
    stage.import();
    let more: Vec<_> = (0..2)
        .map(|_| {
            stage
                .runtime()
                .block_on(isobar_sim::start(stage::sim_config()))
                .unwrap()
        })
        .collect();
    stage.add_machine(&json!({"isobar/bmc-site": "here"}));
    stage.create_machine("same", more[0].url().as_str(), &json!({"isobar/bmc-site": "here"}));
    stage.create_machine("other", more[1].url().as_str(), &json!({"isobar/bmc-site": "there"}));
    let held = Fault::from(FaultKind::Hold { done: true }).on("GET", "Systems/1");
    let held = stage.sim().plant(Fault { times: Some(1), ..held });
    std::thread::scope(|scope| {
        let status = |name: &'static str| {
            let stage = &stage;
            scope.spawn(move || stage.isobar(&["machines", "runaction", name, "powerstatus"]))
        };
        let first = status(MACHINE);
        stage.wait("it is asked", |s| {
            s.sim().requests().iter().any(|r| r.path.contains("Systems/1"))
        });
        let second = status("Name:same");
        stage.wait("the other one of its site waits for it", |s| {
            let all = operations(s, "");
            all.iter().any(|o| {
                o["why"]
                    .as_str()
                    .unwrap_or_default()
                    .contains("site here (site_connections)")
            })
        });
        let out = status("Name:other").join().unwrap();
        assert!(out.ok && out.stdout.contains("Off"), "{out}");
        assert_eq!(more[0].requests().len(), 0, "nothing is sent before its turn");
        stage.sim().release(held);
        for waiting in [first, second] {
            let out = waiting.join().unwrap();
            assert!(out.ok && out.stdout.contains("Off"), "{out}");
        }
    });
    for sim in more {
        stage.runtime().block_on(sim.shutdown());
    }
}
