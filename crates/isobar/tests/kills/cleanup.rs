//! What is owed to a BMC that refuses the login, and what is kept of a machine's past.

use serde_json::{Value, json};

use crate::boots;
use crate::stage::{MACHINE, Stage};

fn logins(stage: &Stage) -> usize {
    stage
        .requests("SessionService/Sessions")
        .iter()
        .filter(|r| r.starts_with("POST"))
        .count()
}

fn back_to_local(stage: &Stage) {
    for change in [["workflow", MACHINE, ""], ["bootenv", MACHINE, "local"]] {
        let out = stage.isobar(&[&["machines"], &change[..], &["--no-wait"]].concat());
        assert!(out.ok, "{out}");
    }
}

#[test]
fn a_boot_that_was_refused_its_login_owes_nothing() {
    let mut stage = Stage::new(|_| {});
    stage.import();
    stage.add_machine(&json!({"ipmi/password": "not-the-canary"}));
    let out = stage.isobar(&["machines", "workflow", MACHINE, "discover-base", "--no-wait"]);
    assert!(out.ok, "{out}");
    stage.wait_boot("failed");
    back_to_local(&stage);
    stage.kill_server();
    stage.start_server();
    stage.set("ipmi/password", &format!("{:?}", crate::stage::PASSWORD));
    assert_eq!(stage.action(&["powerstatus"]), "Off");
    assert_eq!(logins(&stage), 2, "one that was refused, one by hand");
}

#[test]
fn a_clean_up_that_is_refused_its_login_waits_for_another() {
    let stage = Stage::new(|_| {});
    stage.import();
    stage.add_machine(&json!({}));
    let out = stage.isobar(&["machines", "workflow", MACHINE, "discover-base", "--no-wait"]);
    assert!(out.ok, "{out}");
    stage.wait_boot("done");
    stage.set("ipmi/password", "\"not-the-canary\"");
    let before = logins(&stage);
    back_to_local(&stage);
    stage.wait("the clean-up says what it waits for", |s| {
        s.last_boot()["detail"].to_string().contains("refuses the login")
    });
    // Whatever else is changed, the same login is not tried again.
    for value in ["1", "2", "3"] {
        stage.set("boot-virtual-iso-shutdown-seconds", value);
        back_to_local(&stage);
    }
    assert!(stage.sim().cd().mounted);
    assert_eq!(logins(&stage), before + 1);
    stage.set("ipmi/password", &format!("{:?}", crate::stage::PASSWORD));
    stage.wait("the disc is out", |s| {
        !s.sim().cd().mounted && s.last_boot()["state"] == "done"
    });
}

#[test]
fn of_a_machines_past_the_last_boots_are_kept() {
    const KEPT: usize = 20;
    let stage = Stage::new(|_| {});
    stage.import();
    // Every boot fails at once.
    let broken = json!({"prov": {"address": "192.168.77.300", "netmask": "255.255.255.0"}});
    stage.add_machine(&json!({"network-data": broken}));
    let (client, uuid) = (stage.client(), stage.machine()["Uuid"].as_str().unwrap().to_owned());
    let mut begun = Vec::new();
    for _ in 0..KEPT + 5 {
        crate::set_bootenv(&client, &uuid, "sledgehammer").unwrap();
        begun.push(boots(&client, &uuid).unwrap()[0]["id"].clone());
        crate::set_bootenv(&client, &uuid, "local").unwrap();
    }
    let kept: Vec<Value> = boots(&client, &uuid)
        .unwrap()
        .iter()
        .map(|boot| boot["id"].clone())
        .collect();
    begun.reverse();
    assert!(kept.len() <= KEPT + 1, "{} are kept", kept.len());
    assert_eq!(kept[..KEPT], begun[..KEPT], "the newest");
}
