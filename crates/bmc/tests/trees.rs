//! The client against resource trees of real machines, served by the mock server that comes with them;
//! what it sends is compared with the trees' answer sheets.
//!
//! The trees are data beside the repository (`../shared/bmc-trees`, or `ISOBAR_BMC_TREES`; seen from the
//! repository's root). Without them the tests say so and pass, except where `CI=true`.
#![allow(clippy::unwrap_used)]

mod common;
mod sheet;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use common::open_as;
use isobar_bmc::Bmc;
use sheet::{PASSWORD, Served};

fn folder() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folder = root.join(std::env::var_os("ISOBAR_BMC_TREES").unwrap_or_else(|| "../shared/bmc-trees".into()));
    if folder.join("serve").exists() {
        return Some(folder);
    }
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "the BMC trees are missing: {}",
        folder.display()
    );
    // Not by eprintln: what a test prints that passes is not shown.
    let skipped = format!("SKIPPED: no BMC trees at {} (set ISOBAR_BMC_TREES)\n", folder.display());
    std::io::stderr().write_all(skipped.as_bytes()).unwrap();
    None
}

fn serve(dir: &Path, tree: &str, more: &[&str]) -> Served {
    Served::start(&dir.join("serve"), &dir.join(tree), more).unwrap()
}

/// `cargo xtask trees` has them as they are.
#[tokio::test]
async fn every_tree_boots_though_its_slot_lags() {
    let Some(dir) = folder() else { return };
    let running = sheet::trees(&dir).into_iter().map(|tree| {
        let serve = dir.join("serve");
        tokio::spawn(async move { sheet::boot(&serve, &tree, &["--patch-204", "--stale-eject", "5"]).await })
    });
    let running: Vec<_> = running.collect();
    assert!(running.len() >= 6, "{} trees", running.len());
    for run in running {
        let outcome = run.await.unwrap();
        assert!(outcome.differs.is_empty(), "{outcome:#?}");
    }
}

/// The judge finds out what is not as its sheet has it: it is given other sheets.
#[tokio::test]
async fn what_differs_from_the_sheet_is_told() {
    let Some(dir) = folder() else { return };
    let tree = dir.join("supermicro-x13-11.01.01-sys-821ge-tnhr");
    for (member, value, told) in [
        (
            "system_uri",
            serde_json::json!("/redfish/v1/Systems/2"),
            "system_uri is",
        ),
        ("media_supported", false.into(), "though there is no virtual media"),
        (
            "insert_payload_keys",
            serde_json::json!(["Image", "Odd"]),
            "did not start|lacks|refuse|was answered",
        ),
        ("boot_enabled", "Continuous".into(), "BootSourceOverrideEnabled is Once"),
        ("reset_types", serde_json::json!(["On"]), "is none of On"),
        ("eject_payload", serde_json::json!({"odd": 1}), "the eject's body"),
        (
            "reset_uri",
            "/redfish/v1/Systems/1/Actions/Other".into(),
            "not on the sheet: POST",
        ),
    ] {
        let copy = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(tree.join("redfish"), copy.path().join("redfish")).unwrap();
        let mut other: serde_json::Value =
            serde_json::from_slice(&std::fs::read(tree.join("expected.json")).unwrap()).unwrap();
        other[member] = value;
        std::fs::write(copy.path().join("expected.json"), other.to_string()).unwrap();
        let outcome = sheet::boot(&dir.join("serve"), copy.path(), &[]).await;
        let found = outcome.differs.iter().any(|d| told.split('|').any(|t| d.contains(t)));
        assert!(found, "{member}: {outcome:#?}");
    }
}

/// A tree of which some resources are others; none: they are gone.
fn varied(tree: &Path, sheet: serde_json::Value, others: &[(&str, Option<serde_json::Value>)]) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    let status = std::process::Command::new("cp")
        .args(["-r", "--no-preserve=mode"])
        .arg(tree.join("redfish"))
        .arg(copy.path())
        .status();
    assert!(status.unwrap().success());
    for (uri, body) in others {
        let folder = copy.path().join(uri.trim_start_matches('/'));
        match body {
            Some(body) => std::fs::write(folder.join("index.json"), body.to_string()).unwrap(),
            None => std::fs::remove_dir_all(folder).unwrap(),
        }
    }
    let mut whole: serde_json::Value =
        serde_json::from_slice(&std::fs::read(tree.join("expected.json")).unwrap()).unwrap();
    let members = sheet.as_object().unwrap().clone();
    whole.as_object_mut().unwrap().extend(members);
    std::fs::write(copy.path().join("expected.json"), whole.to_string()).unwrap();
    copy
}

/// The same rules in other machines: sheets ask for what the six trees have not.
#[tokio::test]
async fn trees_that_are_a_little_different_boot_or_say_why_not() {
    use serde_json::json;

    let Some(dir) = folder() else { return };
    let (ami, x13) = (
        dir.join("gigabyte-megarac-12.84.13-h262"),
        dir.join("supermicro-x13-11.01.01-sys-821ge-tnhr"),
    );
    let slots = |manager: &str| format!("/redfish/v1/Managers/{manager}/VirtualMedia");
    let none = |uri: &str| Some(json!({"@odata.id": uri, "Members": [], "Members@odata.count": 0}));
    let (of_ami, of_x13) = (slots("Self"), slots("1"));
    let no_media = json!({"media_supported": false, "media_slot_uri": null, "insert_uri": null, "boot_target": null});
    let mut without_system = no_media.clone();
    without_system["system_uri"] = json!(null);
    let cases = [
        // Its slot is there after a request alone.
        varied(
            &ami,
            json!({}),
            &[(&format!("{of_ami}/CD1"), None), (&of_ami, none(&of_ami))],
        ),
        varied(&x13, no_media.clone(), &[(&of_x13, none(&of_x13))]),
        varied(&x13, no_media.clone(), &[(&of_x13, None)]),
        // A shelf: a manager, and nothing that boots.
        varied(
            &x13,
            without_system,
            &[
                ("/redfish/v1/Systems", Some(json!({"Members": []}))),
                (&of_x13, None),
                ("/redfish/v1/Managers/1", Some(json!({"Id": "1"}))),
            ],
        ),
        varied(
            &x13,
            json!({"etag_required": true, "insert_payload_keys": ["Image", "TransferProtocolType", "UserName", "Password"]}),
            &[],
        ),
        varied(
            &x13,
            json!({"insert_payload_forbidden": ["Inserted", "WriteProtected"], "image_schemes": ["nfs"]}),
            &[],
        ),
    ];
    for (number, case) in cases.iter().enumerate() {
        let outcome = sheet::boot(&dir.join("serve"), case.path(), &["--fail", "3:503"]).await;
        assert!(outcome.differs.is_empty(), "{number}: {outcome:#?}");
    }
}

#[tokio::test]
async fn a_busy_bmc_is_waited_for() {
    let Some(dir) = folder() else { return };
    // The third change is the eject, the fourth the insert.
    let served = serve(
        &dir,
        "dell-idrac9-6.00.30.00-r750",
        &["--fail", "2:503", "--fail", "3:500", "--fail", "4:503"],
    );
    let mut bmc = open_as(&served.url, PASSWORD).await.unwrap();
    let media = bmc.insert("http://192.0.2.1/tokentoken/boot.iso").await.unwrap();
    assert!(media.inserted);
    bmc.close().await;
}

#[tokio::test]
async fn plain_http_where_only_https_is_taken_is_said_so() {
    let Some(dir) = folder() else { return };
    let served = serve(&dir, "openbmc-supermicro-gb300-70.01.00.09", &[]);
    let mut bmc = open_as(&served.url, PASSWORD).await.unwrap();
    let err = bmc.insert("http://192.0.2.1/tokentoken/boot.iso").await.unwrap_err();
    assert_eq!(err.message_id.as_deref(), Some("ResourceAtUriInUnknownFormat"));
    assert!(err.hint.contains("over http:") && err.hint.contains("https"), "{err:?}");
    assert!(!err.message.contains("tokentoken"), "{err}");
    bmc.close().await;
}

#[tokio::test]
async fn every_tree_tells_what_its_machine_is_made_of() {
    use isobar_bmc::{BootTarget, ErrorClass, Part};

    let Some(dir) = folder() else { return };
    let (mut ports, mut lists, mut lit, mut stay) = (0, 0, 0, 0);
    for tree in sheet::trees(&dir) {
        let name = tree.file_name().unwrap().to_string_lossy().into_owned();
        let served = Served::start(&dir.join("serve"), &tree, &[]).unwrap();
        let mut bmc = open_as(&served.url, PASSWORD).await.unwrap();
        let info = bmc.inventory(Part::Info).await.unwrap();
        assert!(info["PowerState"].is_string(), "{name}: {info:#}");
        assert!(bmc.inventory(Part::Boot).await.unwrap().is_object(), "{name}");
        let lan = bmc.inventory(Part::Lan).await.unwrap();
        let with_address = lan
            .as_array()
            .unwrap()
            .iter()
            .filter(|port| port["MACAddress"].is_string());
        ports += usize::from(with_address.count() > 0);
        for part in [
            Part::Bios,
            Part::SecureBoot,
            Part::Memory,
            Part::Storage,
            Part::SimpleStorage,
            Part::Processors,
            Part::NetworkInterfaces,
            Part::EthernetInterfaces,
        ] {
            match bmc.inventory(part).await {
                Ok(found) => lists += usize::from(found.is_array()),
                // The captures are cut; what is not there is said so.
                Err(error) => assert_eq!(error.class, ErrorClass::Unsupported, "{name} {part:?}: {error}"),
            }
        }
        match bmc.identify(15).await {
            Ok(by_itself) => {
                assert!(!by_itself, "Redfish has no timer");
                lit += 1;
                bmc.identify(0).await.unwrap();
            }
            Err(error) => assert_eq!(error.class, ErrorClass::Unsupported, "{name}: {error}"),
        }
        match bmc.boot_always(BootTarget::Pxe).await {
            Ok(()) => {
                let boot = bmc.host().await.unwrap();
                stay += usize::from(boot.boot_enabled.as_deref() == Some("Continuous"));
            }
            Err(error) => assert!(
                matches!(error.class, ErrorClass::Unsupported | ErrorClass::Refused),
                "{name}: {error}"
            ),
        }
        bmc.close().await;
    }
    assert!(
        ports >= 5 && lists >= 5 && lit >= 3 && stay >= 3,
        "{ports} {lists} {lit} {stay}"
    );
}

/// `isobar sim --replay` serves what was recorded of real machines as its own: a machine boots through each.
#[tokio::test]
async fn every_tree_is_replayed_with_a_machine_behind_it() {
    let Some(dir) = folder() else { return };
    for tree in sheet::trees(&dir) {
        let name = tree.file_name().unwrap().to_string_lossy().into_owned();
        let config = isobar_sim::SimConfig {
            user: common::USER.into(),
            password: common::PASSWORD.into(),
            replay: Some(tree.clone()),
            ..isobar_sim::SimConfig::quick()
        };
        let sim = isobar_sim::start(config).await.unwrap();
        let mut bmc = common::open(sim.url().as_str()).await.unwrap().0;
        let probe = bmc.probe().await.unwrap();
        assert!(
            tree.join(probe.system.trim_start_matches('/')).is_dir(),
            "{name}: {probe:?}"
        );
        let image = "http://127.0.0.1:9/A-token-of-this-boot-0123456789/boot.iso";
        let media = bmc
            .insert(image)
            .await
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(
            media.inserted && sim.cd().image.as_deref() == Some(image),
            "{name}: {media:?}"
        );
        bmc.boot_once(isobar_bmc::BootTarget::Cd)
            .await
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(
            bmc.host().await.unwrap().boot_enabled.as_deref(),
            Some("Once"),
            "{name}"
        );
        bmc.power(isobar_bmc::PowerAction::On)
            .await
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let booted = |sim: &isobar_sim::Sim| sim.boots().first().is_some_and(|boot| boot.device == "Cd");
        assert!(
            sim.wait_until(std::time::Duration::from_secs(60), booted).await,
            "{name}: {:?}",
            sim.boots()
        );
        assert_eq!(bmc.power_state().await.unwrap(), isobar_bmc::PowerState::On, "{name}");
        bmc.eject().await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(!bmc.media().await.unwrap().inserted && !sim.cd().inserted, "{name}");
        bmc.close().await;
        assert_eq!(sim.sessions(), 0, "{name}");
        sim.shutdown().await;
    }
}
