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
    assert!(!again.ok && again.stderr.contains("not empty"), "{again}");
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
