//! The examination of a BMC: what it finds out, and that it leaves everything as it was.
#![allow(clippy::unwrap_used)]

mod stage;

use isobar_sim::{Fault, FaultKind, Manners, Power, ReadManner, SimConfig};
use serde_json::{Value, json};
use stage::{MACHINE, Out, Stage};

fn stage(adapt: impl FnOnce(&mut SimConfig)) -> Stage {
    let stage = Stage::new(adapt);
    stage.add_machine(&json!({"boot-virtual-iso": false}));
    stage
}

/// Whether it ended well, and its rows: finding and text by their names.
fn report(out: &Out) -> Value {
    let report: Value = serde_json::from_str(&out.stdout).unwrap_or_else(|error| panic!("{error}: {out}"));
    let rows = report[0]["rows"].as_array().unwrap().clone();
    rows.into_iter()
        .map(|row| (row["row"].as_str().unwrap().to_owned(), row))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn examined(stage: &Stage) -> (bool, Value) {
    let out = stage.isobar(&["bmc", "doctor", MACHINE]);
    (out.ok, report(&out))
}

fn findings(rows: &Value) -> Vec<String> {
    let of = |(name, row): (&String, &Value)| format!("{name} {}", row["finding"].as_str().unwrap());
    rows.as_object().unwrap().iter().map(of).collect()
}

/// No medium, no override, no session, no power command, and nobody reads any more.
fn untouched(stage: &Stage) {
    let sim = stage.sim();
    assert!(!sim.cd().inserted && !sim.cd().mounted, "{:?}", sim.cd());
    assert_eq!(sim.boot_override().enabled, "Disabled");
    assert_eq!(stage.requests("Reset"), Vec::<String>::new());
    stage.wait("its session has ended", |s| s.sim().sessions() == 0);
    let discs = stage.isobar(&["isos", "dynamic"]);
    assert!(discs.ok && !discs.stdout.contains("doctor"), "{discs}");
}

#[test]
fn a_healthy_bmc_is_found_so_and_left_as_it_was() {
    let mut stage = stage(|config| {
        config.manners = Manners::instant().with_profile("ami").unwrap();
        config.manners.read = ReadManner::AtInsert;
    });
    let (well, rows) = examined(&stage);
    assert!(well, "{rows:#}");
    assert_eq!(rows["profile"]["finding"], "note", "{rows:#}");
    for row in [
        "reach", "login", "model", "machine", "insert", "read", "from", "override", "put back", "eject",
    ] {
        assert_eq!(rows[row]["finding"], "good", "{row}: {rows:#}");
    }
    let says = |row: &str, words: &str| {
        let text = rows[row]["text"].as_str().unwrap();
        assert!(text.contains(words), "{row}: {text}");
    };
    says("model", "H262");
    says("insert", "TransferProtocolType");
    says("from", "127.0.0.1");
    says("override", "Cd Once");
    untouched(&stage);
    assert_eq!(
        stage
            .sim()
            .reads()
            .iter()
            .filter(|read| read.status >= Some(400))
            .count(),
        0
    );
    // A sibling, or the same again, is spared the refusal that taught it.
    let inserts = stage.requests("InsertMedia").len();
    assert!(examined(&stage).0);
    assert_eq!(
        stage.requests("InsertMedia").len(),
        inserts + 1,
        "{:#?}",
        stage.requests("InsertMedia")
    );
    assert_eq!(stage.sim().power(), Power::Off);
    // And so after a restart.
    stage.kill_server();
    stage.start_server();
    let (well, rows) = examined(&stage);
    assert!(
        well && rows["profile"]["text"]
            .as_str()
            .unwrap()
            .contains("TransferProtocolType"),
        "{rows:#}"
    );
    assert_eq!(stage.requests("InsertMedia").len(), inserts + 2);
}

#[test]
fn a_lazy_bmc_whose_machine_is_off_is_no_false_alarm() {
    let stage = stage(|_| {});
    let (well, rows) = examined(&stage);
    assert!(well, "{rows:#}");
    assert_eq!(rows["read"]["finding"], "note", "{rows:#}");
    assert!(rows["read"]["text"].as_str().unwrap().contains("machine is off"));
    untouched(&stage);
}

/// Several makers' BMCs show for seconds what is out already: that is their way, and nothing to see to.
#[test]
fn one_that_shows_what_it_has_ejected_for_a_while_is_waited_for() {
    let stage = stage(|config| {
        config.manners = Manners::instant();
        config.manners.stale_inserted_ms = 1300;
    });
    // The same machine, named twice, is examined once.
    let out = stage.isobar(&["bmc", "doctor", MACHINE, "--all"]);
    let rows = report(&out);
    assert!(out.ok && out.stdout.matches("\"machine\":").count() == 1, "{out}");
    let eject = &rows["eject"];
    assert!(
        eject["finding"] == "good" && eject["text"].as_str().unwrap().contains("s more"),
        "{rows:#}"
    );
    untouched(&stage);
}

#[test]
fn one_that_mounts_and_never_reads_is_found_out() {
    let stage = stage(|_| {});
    assert_eq!(stage.action(&["poweron"]), "Success");
    stage.wait("it is on", |s| s.sim().power() == Power::On);
    stage.sim().plant(FaultKind::NoMount { inserted: true });
    let out = stage.isobar(&["bmc", "doctor", MACHINE]);
    let rows = report(&out);
    assert!(!out.ok && out.stderr.contains("something is wrong"), "{out}");
    assert_eq!(rows["insert"]["finding"], "good", "{rows:#}");
    assert_eq!(rows["read"]["finding"], "bad", "{rows:#}");
    assert!(
        rows["read"]["next"].as_str().unwrap().contains("boot-virtual-iso-url"),
        "{rows:#}"
    );
    let resets = stage.requests("Reset").len();
    assert_eq!(resets, 1, "the power was switched by nobody but the test");
    assert!(!stage.sim().cd().inserted);
    assert_eq!(stage.sim().power(), Power::On);
}

#[test]
fn a_wrong_password_is_sent_once() {
    let stage = stage(|config| config.password = "another".to_owned());
    let (well, rows) = examined(&stage);
    assert!(!well);
    assert_eq!(findings(&rows), ["reach good", "login bad"], "{rows:#}");
    let logins = || stage.requests("Sessions").len();
    assert_eq!(logins(), 1, "{:#?}", stage.requests(""));
    let (well, rows) = examined(&stage);
    assert!(
        !well && rows["login"]["text"].as_str().unwrap().contains("held"),
        "{rows:#}"
    );
    assert_eq!(logins(), 1);
}

#[test]
fn one_without_a_slot_says_so_and_still_tries_its_boot_override() {
    let stage = stage(|config| config.manners = Manners::instant().with_profile("intel-s2600").unwrap());
    let (well, rows) = examined(&stage);
    assert!(!well);
    assert_eq!(rows["slots"]["finding"], "bad", "{rows:#}");
    assert!(
        rows["slots"]["text"]
            .as_str()
            .unwrap()
            .contains("no usable virtual media"),
        "{rows:#}"
    );
    assert_eq!(rows["override"]["finding"], "good", "{rows:#}");
    assert!(rows.get("insert").is_none(), "{rows:#}");
    untouched(&stage);
}

#[test]
fn what_somebody_has_mounted_or_set_is_left_alone() {
    let stage = stage(|_| {});
    stage.sim().occupy("http://10.0.0.9/somebody.iso");
    assert_eq!(stage.action(&["forcebootpxe"]), "Success");
    let (well, rows) = examined(&stage);
    assert!(well, "{rows:#}");
    assert_eq!(rows["insert"]["finding"], "note", "{rows:#}");
    assert!(rows["insert"]["text"].as_str().unwrap().contains("somebody.iso"));
    assert_eq!(rows["put back"]["finding"], "good", "{rows:#}");
    assert_eq!(stage.sim().cd().image.unwrap(), "http://10.0.0.9/somebody.iso");
    let boot = stage.sim().boot_override();
    assert_eq!((boot.enabled.as_str(), boot.target.as_str()), ("Continuous", "Pxe"));
    assert_eq!(stage.requests("EjectMedia"), Vec::<String>::new());
}

#[test]
fn a_boot_in_flight_has_the_bmc_to_itself() {
    let stage = Stage::new(|_| {});
    stage.import();
    stage.add_machine(&json!({}));
    let hold = stage
        .sim()
        .plant(Fault::from(FaultKind::Hold { done: false }).on("POST", "InsertMedia"));
    let out = stage.isobar(&["machines", "workflow", MACHINE, "discover-base", "--no-wait"]);
    assert!(out.ok, "{out}");
    stage.wait("the insert is under way", |s| !s.requests("InsertMedia").is_empty());
    let out = stage.isobar(&["bmc", "doctor", MACHINE]);
    assert!(!out.ok && out.stdout.contains("boots through BMC"), "{out}");
    stage.sim().remove_fault(hold);
    stage.wait_boot("done");
    assert_eq!(stage.requests("InsertMedia").len(), 1);
}

#[test]
fn what_a_killed_server_has_left_the_next_one_puts_back() {
    let mut stage = stage(|_| {});
    let hold = stage
        .sim()
        .plant(Fault::from(FaultKind::Hold { done: true }).on("PATCH", "/redfish/v1/Systems/1"));
    let mut doctor = stage.command(&["bmc", "doctor", MACHINE]).spawn().unwrap();
    stage.wait("the override is set, and not answered", |s| {
        s.sim().boot_override().enabled == "Once"
    });
    assert!(stage.sim().cd().inserted);
    stage.kill_server();
    assert!(!doctor.wait().unwrap().success());
    stage.sim().remove_fault(hold);
    stage.start_server();
    stage.wait("the test disc is out", |s| !s.sim().cd().inserted);
    stage.wait("the override is cleared", |s| {
        s.sim().boot_override().enabled == "Disabled"
    });
    stage.wait("the report stands", |s| {
        let out = s.isobar(&["operations", "list", MACHINE, "--all"]);
        out.stdout.contains("interrupted")
    });
    assert_eq!(stage.requests("Reset"), Vec::<String>::new());
}

#[test]
fn over_ipmi_alone_it_says_what_is_missing_and_puts_the_override_back() {
    let stage = Stage::new(|config| config.ipmi = Some((std::net::Ipv4Addr::LOCALHOST, 0).into()));
    let port = stage.sim().ipmi().unwrap().port();
    stage.add_machine(&json!({"boot-virtual-iso": false, "ipmi/address": "127.0.0.1:9", "ipmi/port-ipmitool": port}));
    let (well, rows) = examined(&stage);
    assert!(!well, "it has no virtual media");
    for (row, finding) in [
        ("login", "good"),
        ("slots", "bad"),
        ("override", "good"),
        ("put back", "good"),
    ] {
        assert_eq!(rows[row]["finding"], finding, "{row}: {rows:#}");
    }
    assert_eq!(stage.sim().boot_override().enabled, "Disabled");
}
