//! What is asked of BMCs beside boots' own exchanges: consoles with a login that is held, addresses in another form, how
//! far a machine has come.
#![allow(clippy::unwrap_used)]

mod stage;

use std::net::Ipv4Addr;

use isobar_sim::{Fault, FaultKind};
use serde_json::{Value, json};
use stage::{MACHINE, Options, Stage, TIMING};

fn timed(more: &str) -> Options {
    Options {
        timing: format!("{TIMING},{more}"),
        ..Options::default()
    }
}

/// What came to the BMC by either face.
fn heard(stage: &Stage) -> (usize, usize) {
    (stage.sim().requests().len(), stage.sim().ipmi_logins())
}

#[test]
fn a_login_that_is_held_opens_no_console_and_one_that_a_console_was_refused_is_held() {
    let stage = Stage::new(|sim| sim.ipmi = Some((Ipv4Addr::LOCALHOST, 0).into()));
    let port = stage.sim().ipmi().unwrap().port();
    stage.add_machine(&json!({"boot-virtual-iso": false, "ipmi/port-ipmitool": port}));
    let power = || stage.isobar(&["machines", "runaction", MACHINE, "powerstatus"]);
    let console = || stage.isobar(&["machines", "console", MACHINE]);
    // Refused over Redfish, held for IPMI; and the other way round.
    for (password, first, then) in [
        (
            "wrong-one",
            &power as &dyn Fn() -> stage::Out,
            &console as &dyn Fn() -> stage::Out,
        ),
        ("wrong-two", &console, &power),
    ] {
        stage.set("ipmi/password", &json!(password).to_string());
        let out = first();
        assert!(!out.ok && !out.stderr.contains("held"), "{out}");
        let before = heard(&stage);
        for again in [then, first] {
            let out = again();
            assert!(
                !out.ok && out.stderr.contains("this login is held, nothing was sent"),
                "{out}"
            );
        }
        assert_eq!(heard(&stage), before, "nothing was sent");
    }
    stage.set("ipmi/password", &json!(stage::PASSWORD).to_string());
    assert_eq!(stage.action(&["powerstatus"]), "Off");
}

#[test]
fn an_ipv4_address_that_is_written_as_ipv6_is_that_address() {
    let options = Options {
        args: vec!["--bmc-networks".to_owned(), "10.0.0.0/8".to_owned()],
        ..Options::default()
    };
    let stage = Stage::with(options, |_| {});
    let mapped = |stage: &Stage| format!("http://[::ffff:127.0.0.1]:{}", stage.sim().address().port());
    stage.create_machine("mach-01", &mapped(&stage), &json!({}));
    let out = stage.isobar(&["machines", "runaction", MACHINE, "powerstatus"]);
    assert!(
        !out.ok && out.stderr.contains("127.0.0.1 is not in the networks"),
        "{out}"
    );
    assert_eq!(heard(&stage), (0, 0));

    // Where it may be, it is one BMC with one exchange at a time, however it is written.
    let options = Options {
        args: vec!["--bmc-networks".to_owned(), "127.0.0.0/8".to_owned()],
        ..Options::default()
    };
    let stage = Stage::with(options, |_| {});
    stage.add_machine(&json!({}));
    stage.create_machine("mapped", &mapped(&stage), &json!({}));
    let hold = Fault::from(FaultKind::Hold { done: true }).on("GET", "Systems/1");
    let hold = stage.sim().plant(hold.once());
    let status = |machine: &'static str| stage.isobar(&["machines", "runaction", machine, "powerstatus"]);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| status(MACHINE));
        stage.wait("it is asked", |s| {
            s.sim().faults().iter().any(|f| f.id == hold && f.met > 0)
        });
        let second = scope.spawn(|| status("Name:mapped"));
        stage.wait("the other machine waits for its turn", |s| {
            let all: Vec<Value> = s.client().get("/isobar/v1/operations").unwrap();
            let waits = |o: &Value| o["why"].to_string().contains("`power-state` of");
            all.iter().any(|o| o["state"] == "waiting" && waits(o))
        });
        stage.sim().release(hold);
        for out in [first, second] {
            let out = out.join().unwrap();
            assert!(out.ok && out.stdout.contains("Off"), "{out}");
        }
    });
    let logins = stage.requests("SessionService/Sessions");
    assert_eq!(logins.len(), 1, "one conversation for both: {logins:?}");
}

#[test]
fn while_nothing_is_read_the_boot_tells_how_far_the_bmc_says_that_the_machine_has_come() {
    let stage = Stage::with(timed("first_read_s=60"), |sim| {
        sim.manners.boot_progress = true;
        sim.manners.post_ms = 12_000;
    });
    stage.import();
    stage.add_machine(&json!({}));
    // It comes to the end of its self-test and boots from something else: nothing is ever read.
    stage.sim().plant(Fault::from(FaultKind::OverrideIgnored));
    let out = stage.isobar(&["machines", "workflow", MACHINE, "discover-base", "--no-wait"]);
    assert!(out.ok, "{out}");
    stage.wait("the machine is handed over", |s| s.last_boot()["handed_over"] == true);
    for progress in ["MemoryInitializationStarted", "OEM"] {
        stage.wait(progress, |s| {
            let boot = s.last_boot();
            let told = boot["detail"]
                .as_str()
                .unwrap()
                .ends_with(&format!("the BMC says {progress}"));
            told && boot["boot_progress"] == progress
        });
    }
    assert_eq!(stage.last_boot()["state"], "running");
}
