//! A session with a BMC outlives its exchange, and not by much: what a BMC's own log says of logins, and of what is read
//! that was read before.
#![allow(clippy::unwrap_used)]

mod stage;

use isobar_sim::{Fault, FaultKind, Malformed};
use serde_json::json;
use stage::{MACHINE, Options, Stage};

/// As [`stage::TIMING`], with conversations that are kept until somebody closes them.
fn kept(tls: bool) -> Stage {
    let timing = format!("{},bmc_idle_s=600", stage::TIMING);
    let stage = Stage::timed(&timing, |sim| sim.tls = tls);
    stage.import();
    stage.add_machine(&json!({}));
    stage
}

fn boot(stage: &Stage) {
    let out = stage.isobar(&["machines", "workflow", MACHINE, "discover-base", "--no-wait"]);
    assert!(out.ok, "{out}");
    stage.wait_boot("done");
}

fn logins(stage: &Stage) -> usize {
    let sessions = stage.requests("SessionService/Sessions");
    sessions.iter().filter(|request| request.starts_with("POST")).count()
}

fn logouts(stage: &Stage) -> usize {
    stage.requests("SessionService/Sessions/").len()
}

/// What a machine's `powerstatus` comes to.
fn status(stage: &Stage) -> stage::Out {
    stage.isobar(&["machines", "runaction", MACHINE, "powerstatus"])
}

/// Every request so far: `METHOD path`.
fn all(stage: &Stage) -> Vec<String> {
    let requests = stage.sim().requests().into_iter();
    requests.map(|r| format!("{} {}", r.method, r.path)).collect()
}

/// Whether a request is one of those that find out where things are.
fn looks_around(request: &str) -> bool {
    ["/redfish/v1", "/Systems", "/Managers"]
        .iter()
        .any(|place| request.trim_end_matches('/').ends_with(place))
}

#[test]
fn a_boot_logs_in_once_and_the_next_one_looks_for_nothing() {
    let stage = kept(true);
    boot(&stage);
    let first = all(&stage);
    assert_eq!(logins(&stage), 1, "{first:#?}");
    assert!(first.len() <= 17, "{}: {first:#?}", first.len());
    assert_eq!(
        (logouts(&stage), stage.sim().sessions()),
        (1, 0),
        "its last exchange ends it: others have room for theirs"
    );
    for _ in 0..2 {
        assert!(status(&stage).ok);
        assert_eq!(
            logins(&stage),
            2,
            "an action goes on in the conversation of the one before"
        );
    }
    // After the session has ended, the places are still known.
    let lost = Fault::from(FaultKind::LoseSessions).on("GET", "Systems/1");
    stage.sim().plant(Fault { times: Some(1), ..lost });
    let before = all(&stage).len();
    let out = status(&stage);
    assert!(out.ok, "renewed within the exchange: {out}");
    assert_eq!(logins(&stage), 3);
    let since = all(&stage).split_off(before);
    assert!(!since.iter().any(|r| looks_around(r)), "{since:?}");
    assert_eq!(stage.overlaps(), [""; 0]);
}

#[test]
fn what_nobody_uses_is_closed_and_so_is_everything_at_the_end() {
    let timing = format!("{},bmc_idle_s=0.3", stage::TIMING);
    let mut stage = Stage::timed(&timing, |_| {});
    stage.add_machine(&json!({}));
    assert!(status(&stage).ok);
    stage.wait("the session is over", |s| s.sim().sessions() == 0);
    assert_eq!((logins(&stage), logouts(&stage)), (1, 1));
    // Where things are is known in the next one, too.
    let before = all(&stage).len();
    assert!(status(&stage).ok);
    let since = all(&stage).split_off(before);
    assert_eq!(logins(&stage), 2);
    assert!(!since.iter().any(|r| looks_around(r)), "{since:?}");
    stage.stop();

    let stage = &mut kept(false);
    assert!(status(stage).ok);
    assert_eq!(stage.sim().sessions(), 1);
    stage.stop();
    assert_eq!(stage.sim().sessions(), 0, "it has logged out before it ended");

    let timing = format!("{},bmc_idle_s=0", stage::TIMING);
    let stage = Stage::timed(&timing, |_| {});
    stage.add_machine(&json!({}));
    for _ in 0..2 {
        assert!(status(&stage).ok);
        stage.wait("it logs out after each", |s| s.sim().sessions() == 0);
    }
    assert_eq!((logins(&stage), logouts(&stage)), (2, 2));
}

#[test]
fn another_login_or_certificate_goes_on_in_no_old_conversation() {
    let stage = kept(true);
    assert!(status(&stage).ok);
    assert_eq!(logins(&stage), 1);
    let wrong = [
        ("ipmi/password", "not the one", stage::PASSWORD),
        ("ipmi/username", "nobody", "root"),
    ];
    for (n, (param, value, right)) in wrong.into_iter().enumerate() {
        stage.set(param, &json!(value).to_string());
        let out = status(&stage);
        assert!(!out.ok && out.to_string().contains("password"), "{out}");
        assert_eq!((logins(&stage), stage.sim().sessions()), (2 * n + 2, 0));
        stage.set(param, &json!(right).to_string());
        assert!(status(&stage).ok);
        assert_eq!(logins(&stage), 2 * n + 3);
    }
    let other = "ab".repeat(32);
    stage.set("isobar/bmc-tls", &json!(other).to_string());
    let out = status(&stage);
    assert!(!out.ok && out.to_string().contains("not the pinned one"), "{out}");
    let right = stage.sim().fingerprint().unwrap().to_owned();
    stage.set("isobar/bmc-tls", &json!(right).to_string());
    assert!(status(&stage).ok);
    assert_eq!(logins(&stage), 6);
    assert_eq!(stage.overlaps(), [""; 0]);
}

#[test]
fn after_a_deadline_the_session_is_ended_at_the_next_turn_and_not_beside_it() {
    let timing = format!("{},exchange_s=8,bmc_idle_s=600", stage::TIMING);
    let options = Options {
        timing,
        ..Options::default()
    };
    let stage = Stage::with(options, |_| {});
    stage.add_machine(&json!({}));
    assert!(status(&stage).ok);
    let hold = Fault::from(FaultKind::Hold { done: true }).on("GET", "Systems/1");
    let hold = stage.sim().plant(Fault { times: Some(1), ..hold });
    assert!(!status(&stage).ok, "it is not answered");
    assert_eq!(logouts(&stage), 0, "the BMC may be at it: nothing is sent meanwhile");
    stage.sim().release(hold);
    assert!(status(&stage).ok);
    assert_eq!((logins(&stage), logouts(&stage), stage.sim().sessions()), (2, 1, 1));
    assert_eq!(stage.overlaps(), [""; 0]);
}

#[test]
fn what_a_bmc_has_made_a_mess_of_is_closed_and_begun_anew() {
    let stage = kept(false);
    assert!(status(&stage).ok);
    let mess = FaultKind::Malformed { form: Malformed::Html };
    let mess = stage.sim().plant(Fault::from(mess).on("GET", "Systems/1"));
    assert!(!status(&stage).ok);
    assert_eq!((logouts(&stage), stage.sim().sessions()), (1, 0));
    stage.sim().remove_fault(mess);
    assert!(status(&stage).ok);
    assert_eq!((logins(&stage), stage.sim().sessions()), (2, 1));
}
