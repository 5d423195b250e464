//! What a recording is made of: resources whole and without secrets, and the answer sheet of what we would do.
#![allow(clippy::unwrap_used)]

mod common;
mod sheet;
mod tree;

use std::path::{Path, PathBuf};

use common::{PASSWORD, endpoint, open, options};
use isobar_bmc::{Bmc, redfish};
use serde_json::{Value, json};
use tree::{MANAGER, SLOTS, SYSTEM, Tree, URL, action, changes, link, members};

const CHASSIS: &str = "/redfish/v1/Chassis";

#[tokio::test]
async fn a_collection_of_several_parts_is_recorded_whole() {
    let next = |skip: u32| json!({"Members@odata.nextLink": format!("{CHASSIS}?$skip={skip}")});
    let part = |uri: &str, next: Value| {
        let mut part = members(&[uri]);
        part["Members@odata.count"] = 3.into();
        part.as_object_mut()
            .unwrap()
            .extend(next.as_object().cloned().unwrap_or_default());
        part
    };
    let mut tree = Tree::new("Dell Inc.");
    tree.put(CHASSIS, part("/redfish/v1/Chassis/1", next(1)));
    tree.put(&format!("{CHASSIS}?$skip=1"), part("/redfish/v1/Chassis/2", next(2)));
    // The last one goes back to the first: it ends all the same.
    tree.put(&format!("{CHASSIS}?$skip=2"), part("/redfish/v1/Chassis/3", next(1)));
    let sessions = "/redfish/v1/SessionService/Sessions";
    tree.put(
        sessions,
        part(
            "/redfish/v1/SessionService/Sessions/9",
            json!({"Members@odata.nextLink": "/redfish/v1/never"}),
        ),
    );
    let bmc = tree.serve();
    let (mut client, _) = open(&bmc.address).await.unwrap();
    let read = client
        .resources(&[CHASSIS.to_owned(), sessions.to_owned()])
        .await
        .unwrap();
    client.close().await;
    let wanted = [1, 2, 3].map(|n| link(&format!("/redfish/v1/Chassis/{n}")));
    assert_eq!(read[0].1, Some(json!({"Members": wanted, "Members@odata.count": 3})));
    assert_eq!(read[1].1, Some(json!({"Members": [], "Members@odata.count": 0})));
    assert!(
        !bmc.paths().iter().any(|path| path.contains("never")),
        "{:#?}",
        bmc.paths()
    );
}

async fn sheet(tree: Tree) -> Value {
    let bmc = tree.serve();
    let sheet = redfish::sheet(endpoint(&bmc.address, PASSWORD), options(), None)
        .await
        .unwrap();
    assert!(changes(&bmc).is_empty(), "it only reads: {:#?}", changes(&bmc));
    sheet
}

#[tokio::test]
async fn an_answer_sheet_says_what_would_be_sent() {
    let insert = format!("{SLOTS}/CD/Actions/VirtualMedia.InsertMedia");
    let told = sheet(Tree::new("Supermicro").slot(SLOTS, "CD", json!({}))).await;
    for (member, wanted) in [
        ("vendor", json!("Supermicro")),
        ("system_uri", json!(SYSTEM)),
        ("manager_uri", json!(MANAGER)),
        ("media_slot_uri", json!(format!("{SLOTS}/CD"))),
        ("insert_method", json!("POST")),
        ("insert_uri", json!(insert)),
        ("insert_payload_keys", json!(["Image"])),
        (
            "eject_uri",
            json!(format!("{SLOTS}/CD/Actions/VirtualMedia.EjectMedia")),
        ),
        ("boot_patch_uri", json!(SYSTEM)),
        ("boot_target", json!("Cd")),
        ("boot_enabled", json!("Once")),
        ("boot_requires_full_payload", json!(false)),
        ("reset_types", json!(["On", "ForceOff", "ForceRestart"])),
        ("image_schemes", Value::Null),
    ] {
        assert_eq!(told[member], wanted, "{member}: {told:#}");
    }

    let lenovo = sheet(Tree::new("Lenovo").bare_slot(SLOTS, "EXT1", json!({}))).await;
    assert_eq!(lenovo["insert_method"], "PATCH");
    assert_eq!(lenovo["insert_payload_optional"], json!(["Inserted", "WriteProtected"]));
    assert_eq!(lenovo["eject_payload"], json!({"Image": null, "Inserted": false}));
    assert_eq!(lenovo["etag_required"], true);

    let ami = Tree::new("AMI")
        .slot(SLOTS, "CD1", json!({}))
        .with(SYSTEM, json!({"Boot": {"BootSourceOverrideMode": "Legacy"}}));
    assert_eq!(sheet(ami).await["boot_requires_full_payload"], true);

    let import = format!("{MANAGER}/Actions/Oem/ImportSystemConfiguration");
    let old = Tree::new("Dell Inc.").slot(SLOTS, "CD", json!({})).with(
        MANAGER,
        json!({"Model": "14G Monolithic", "FirmwareVersion": "5.10.50.00",
            "Actions": {"Oem": {"#OemManager.ImportSystemConfiguration": action(&import)}}}),
    );
    let old = sheet(old).await;
    assert_eq!(
        (&old["boot_alternative"]["uri"], &old["boot_target"]),
        (&json!(import), &Value::Null),
        "{old:#}"
    );

    let none = sheet(Tree::new("Dell Inc.")).await;
    assert_eq!(
        (&none["media_supported"], &none["insert_uri"]),
        (&json!(false), &Value::Null)
    );
}

#[tokio::test]
async fn an_answer_sheet_has_what_an_insert_taught() {
    let refusing = |seen: &common::Seen, _: &mut Tree| {
        let bare = seen.path.ends_with("InsertMedia") && seen.body.get("TransferProtocolType").is_none();
        bare.then(|| {
            tree::refused(
                400,
                "ActionParameterMissing",
                "it wants TransferProtocolType",
                &["#/TransferProtocolType"],
            )
        })
    };
    let bmc = Tree::new("GIGABYTE").slot(SLOTS, "CD", json!({})).serve_with(refusing);
    let learnt = std::sync::Arc::<redfish::Learnt>::default();
    let taught = redfish::Options {
        learnt: learnt.clone(),
        ..options()
    };
    let nobody = std::sync::Arc::new(isobar_bmc::NoRecorder);
    let mut client = redfish::connect(endpoint(&bmc.address, PASSWORD), nobody, taught)
        .await
        .unwrap();
    client.insert(URL).await.unwrap();
    client.close().await;
    let told = redfish::sheet(endpoint(&bmc.address, PASSWORD), options(), Some(&learnt))
        .await
        .unwrap();
    assert_eq!(told["insert_payload_keys"], json!(["Image", "TransferProtocolType"]));
}

fn trees() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folder = root.join(std::env::var_os("ISOBAR_BMC_TREES").unwrap_or_else(|| "../shared/bmc-trees".into()));
    // That they are missing where they must not be, `--test trees` says.
    folder.join("serve").exists().then_some(folder)
}

/// Of real machines: our own sheet of a tree finds nothing to say against us, and agrees with the one that came with it.
#[tokio::test]
async fn our_own_answer_sheets_of_real_trees_judge_us_as_the_given_ones_do() {
    let Some(dir) = trees() else { return };
    let running: Vec<_> = sheet::trees(&dir)
        .into_iter()
        .map(|tree| tokio::spawn(judged_by_our_own(dir.join("serve"), tree)))
        .collect();
    for run in running {
        run.await.unwrap();
    }
}

async fn judged_by_our_own(serve: PathBuf, tree: PathBuf) {
    let served = sheet::Served::start(&serve, &tree, &[]).unwrap();
    let told = redfish::sheet(endpoint(&served.url, sheet::PASSWORD), options(), None)
        .await
        .unwrap();
    for member in [
        "system_uri",
        "manager_uri",
        "media_slot_uri",
        "insert_method",
        "insert_uri",
        "eject_uri",
        "boot_patch_uri",
        "boot_target",
        "boot_requires_full_payload",
        "reset_uri",
        "reset_types",
        "power_state",
    ] {
        assert_eq!(told[member], served.sheet.0[member], "{member} of {}", tree.display());
    }
    let recording = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(
        tree.canonicalize().unwrap().join("redfish"),
        recording.path().join("redfish"),
    )
    .unwrap();
    std::fs::write(recording.path().join("expected.json"), told.to_string()).unwrap();
    let outcome = sheet::boot(&serve, recording.path(), &[]).await;
    assert!(outcome.differs.is_empty(), "{}: {outcome:#?}\n{told:#}", tree.display());
}
