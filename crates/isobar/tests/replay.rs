//! A BMC is recorded, and its recording boots machines.
#![allow(clippy::unwrap_used)]

mod stage;

use std::path::Path;

use isobar_sim::{Manners, Power, SimConfig};
use serde_json::{Value, json};
use stage::{MACHINE, PASSWORD, Stage, contains, files_below};

fn record(profile: &str, folder: &Path) {
    let stage = Stage::new(|config| config.manners = Manners::instant().with_profile(profile).unwrap());
    stage.add_machine(&json!({"boot-virtual-iso": false}));
    let out = stage.isobar(&[
        "bmc",
        "record",
        MACHINE,
        "--hide-serials",
        "--out",
        folder.to_str().unwrap(),
    ]);
    assert!(out.ok && out.stderr.contains("resources"), "{out}");
    let sheet: Value = serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap();
    assert!(
        sheet["media_slot_uri"].is_string() && sheet["boot_target"].to_string().contains("Cd"),
        "{sheet:#}"
    );
    assert!(
        sheet["answers"].as_str().unwrap().starts_with("what isobar"),
        "{sheet:#}"
    );
    assert!(
        stage.requests("").iter().all(|r| r.contains("/Sessions")),
        "it only reads: {:#?}",
        stage.requests("")
    );
    let again = stage.isobar(&["bmc", "record", MACHINE, "--out", folder.to_str().unwrap()]);
    assert!(
        !again.ok && again.stderr.contains("not empty: name a new folder"),
        "{again}"
    );
    let lost = stage.isobar(&["operations", "show", "nosuch"]);
    assert!(!lost.ok && lost.stderr.contains("`isobar operations list`"), "{lost}");
}

/// The simulator's own machines have no light over Redfish, recorded ones may.
#[test]
fn an_identify_light_goes_out_though_the_server_died() {
    let folder = tempfile::tempdir().unwrap();
    record("supermicro-x13", folder.path());
    let system = folder.path().join("redfish/v1/Systems/1/index.json");
    let mut body: Value = serde_json::from_slice(&std::fs::read(&system).unwrap()).unwrap();
    body["IndicatorLED"] = "Off".into();
    std::fs::write(&system, body.to_string()).unwrap();
    let mut stage = Stage::new(|config| config.replay = Some(folder.path().to_owned()));
    stage.add_machine(&json!({"boot-virtual-iso": false}));
    let lights = |stage: &Stage| -> Vec<String> {
        let requests = stage.sim().requests();
        let of = requests
            .iter()
            .filter_map(|r| r.body.as_ref()?["IndicatorLED"].as_str().map(str::to_owned));
        of.collect()
    };
    assert_eq!(stage.action(&["identify", "ipmi/identify-duration", "4"]), "Success");
    assert_eq!(lights(&stage)[0], "Blinking");
    stage.kill_server();
    stage.start_server();
    stage.wait("it goes out", |s| lights(s).last().is_some_and(|light| light == "Off"));
    // Once: after another restart there is nothing left to do. A server killed before its note of it is on disk
    // rightly switches it off once more.
    stage.wait("that is noted", |s| s.log().contains("the identify light is done with"));
    stage.kill_server();
    stage.start_server();
    assert_eq!(stage.action(&["powerstatus"]), "Off");
    assert_eq!(lights(&stage), ["Blinking", "Off"]);
}

#[test]
fn a_recorded_bmc_mounts_boots_and_ejects() {
    for profile in ["supermicro-x13", "lenovo-xcc"] {
        let folder = tempfile::tempdir().unwrap();
        record(profile, folder.path());
        let files = files_below(folder.path());
        assert!(files.len() > 40, "{profile}: {}", files.len());
        for file in &files {
            let text = std::fs::read(file).unwrap();
            assert!(!contains(&text, PASSWORD.as_bytes()), "{}", file.display());
            let serial =
                |line: &str| line.contains("SerialNumber\"") && !line.contains("***") && !line.contains("null");
            let text = String::from_utf8(text).unwrap();
            assert!(!text.lines().any(serial), "{}: {text}", file.display());
        }
        assert!(!folder.path().join("redfish/v1/SessionService/Sessions/1").exists());

        let replayed = |config: &mut SimConfig| config.replay = Some(folder.path().to_owned());
        let stage = Stage::new(replayed);
        stage.import();
        stage.add_machine(&json!({}));
        let out = stage.isobar(&["machines", "workflow", MACHINE, "discover-base", "--no-wait"]);
        assert!(out.ok, "{profile}: {out}");
        stage.wait_boot("done");
        assert_eq!(stage.sim().boots()[0].device, "Cd", "{profile}");
        let seen = stage.action(&["statusVirtualMedia"]);
        assert_eq!(seen["Inserted"], true, "{profile}: {seen}");
        assert_eq!(stage.action(&["unmountVirtualMedia"]), "Success");
        assert_eq!(stage.action(&["statusVirtualMedia"])["Inserted"], false, "{profile}");
        assert_eq!(stage.action(&["poweroff"]), "Success");
        stage.wait("it is off", |s| s.sim().power() == Power::Off);
        assert_eq!(stage.action(&["powerstatus"]), "Off");
    }
}
