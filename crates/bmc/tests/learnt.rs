//! What earlier conversations have found and inserts have taught: used, and given up when it is not true any more.
#![allow(clippy::unwrap_used)]

mod common;
mod tree;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{PASSWORD, Scripted, Seen, endpoint, options};
use isobar_bmc::redfish::{Learnt, Options, Redfish, connect};
use isobar_bmc::{Bmc, NoRecorder};
use serde_json::json;
use tree::{MANAGER, SLOTS, SYSTEM, Tree, URL, members, refused};

/// A BMC that becomes another one when the switch is thrown.
fn changing(tree: Tree, change: impl Fn(&mut Tree) + Send + 'static) -> (Scripted, Arc<AtomicBool>) {
    let switch = Arc::new(AtomicBool::default());
    let (thrown, mut done) = (Arc::clone(&switch), false);
    let bmc = tree.serve_with(move |_, tree| {
        if thrown.load(Ordering::Relaxed) && !std::mem::replace(&mut done, true) {
            change(tree);
        }
        None
    });
    (bmc, switch)
}

async fn talk(bmc: &Scripted, learnt: &Arc<Learnt>) -> Redfish {
    let options = Options {
        learnt: Arc::clone(learnt),
        ..options()
    };
    connect(endpoint(&bmc.address, PASSWORD), Arc::new(NoRecorder), options)
        .await
        .unwrap()
}

/// The slot that a conversation of its own inserts into, and what it asked for.
async fn inserted(bmc: &Scripted, learnt: &Arc<Learnt>) -> (String, Vec<String>) {
    let before = bmc.paths().len();
    let mut client = talk(bmc, learnt).await;
    let media = client.insert(URL).await.unwrap();
    client.eject().await.unwrap();
    client.close().await;
    (media.slot, bmc.paths().split_off(before))
}

fn looks_anew(asked: &[String]) -> bool {
    asked.iter().any(|path| path == "GET /redfish/v1/Systems")
}

#[tokio::test]
async fn a_remembered_layout_is_used_and_forgotten_where_it_is_not_there_any_more() {
    let tree = Tree::new("Dell Inc.").slot(SLOTS, "CD", json!({}));
    let (bmc, changed) = changing(tree, |tree| {
        let system = tree.0.remove(SYSTEM).unwrap();
        tree.put("/redfish/v1/Systems/2", system);
        tree.put("/redfish/v1/Systems", members(&["/redfish/v1/Systems/2"]));
    });
    let learnt = Arc::<Learnt>::default();
    assert!(looks_anew(&inserted(&bmc, &learnt).await.1));
    let (_, asked) = inserted(&bmc, &learnt).await;
    assert!(!looks_anew(&asked), "{asked:#?}");
    changed.store(true, Ordering::Relaxed);
    let (_, asked) = inserted(&bmc, &learnt).await;
    assert!(
        asked.contains(&format!("GET {SYSTEM}")) && looks_anew(&asked),
        "{asked:#?}"
    );
    let (_, asked) = inserted(&bmc, &learnt).await;
    assert!(!looks_anew(&asked), "the new one is remembered: {asked:#?}");
}

#[tokio::test]
async fn with_another_firmware_nothing_of_a_layout_is_relied_on() {
    let tree = Tree::new("Dell Inc.").slot(SLOTS, "CD2", json!({}));
    let (bmc, changed) = changing(tree, |tree| {
        // The old slot is still there, and another one is the right one now.
        let more = Tree(std::mem::take(&mut tree.0)).with(MANAGER, json!({"FirmwareVersion": "2.0"}));
        *tree = more.slot(SLOTS, "CD1", json!({}));
    });
    let learnt = Arc::<Learnt>::default();
    for _ in 0..2 {
        assert_eq!(inserted(&bmc, &learnt).await.0, format!("{SLOTS}/CD2"));
    }
    changed.store(true, Ordering::Relaxed);
    let (slot, asked) = inserted(&bmc, &learnt).await;
    assert_eq!(slot, format!("{SLOTS}/CD1"));
    assert!(looks_anew(&asked), "{asked:#?}");
}

#[tokio::test]
async fn a_slot_that_is_gone_is_looked_for_again() {
    let tree = Tree::new("Dell Inc.").slot(SLOTS, "CD", json!({}));
    let (bmc, changed) = changing(tree, |tree| {
        tree.0.remove(&format!("{SLOTS}/CD"));
        tree.put(SLOTS, members(&[]));
        *tree = Tree(std::mem::take(&mut tree.0)).slot(SLOTS, "CD1", json!({}));
    });
    let learnt = Arc::<Learnt>::default();
    assert_eq!(inserted(&bmc, &learnt).await.0, format!("{SLOTS}/CD"));
    changed.store(true, Ordering::Relaxed);
    assert_eq!(inserted(&bmc, &learnt).await.0, format!("{SLOTS}/CD1"));
}

#[tokio::test]
async fn the_slot_and_the_payload_that_were_taken_come_first_and_are_forgotten_when_refused() {
    let strict = Arc::new(AtomicBool::default());
    let refuses = Arc::clone(&strict);
    let rule = move |seen: &Seen, _: &mut Tree| {
        if !seen.path.ends_with("InsertMedia") {
            return None;
        }
        let bare = seen.body.get("TransferProtocolType").is_none();
        match seen.path.contains("/CD1/") {
            true => Some(refused(400, "ActionNotSupported", "only the client maps this one", &[])),
            false if refuses.load(Ordering::Relaxed) => Some(refused(400, "GeneralError", "no, for good", &[])),
            false => bare.then(|| {
                refused(
                    400,
                    "ActionParameterMissing",
                    "it wants TransferProtocolType",
                    &["#/TransferProtocolType"],
                )
            }),
        }
    };
    let tree = Tree::new("GIGABYTE")
        .with(SYSTEM, json!({"Model": "H262"}))
        .slot(SLOTS, "CD1", json!({}))
        .slot(SLOTS, "CD2", json!({}));
    let bmc = tree.serve_with(rule);
    let learnt = Arc::<Learnt>::default();
    let inserts = |asked: &[String]| asked.iter().filter(|path| path.ends_with("InsertMedia")).count();
    let (slot, asked) = inserted(&bmc, &learnt).await;
    assert_eq!((slot, inserts(&asked)), (format!("{SLOTS}/CD2"), 3), "{asked:#?}");
    let taught = learnt.unsaved();
    let profile = taught[0].profile.clone().unwrap();
    assert_eq!(
        (profile.insert_members, profile.slot),
        (vec!["TransferProtocolType".to_owned()], Some(format!("{SLOTS}/CD2")))
    );

    // As after a restart: what was kept is used at once.
    let kept = Arc::<Learnt>::default();
    kept.restore(taught[0].clone());
    let (_, asked) = inserted(&bmc, &kept).await;
    assert_eq!(inserts(&asked), 1, "{asked:#?}");

    strict.store(true, Ordering::Relaxed);
    let mut client = talk(&bmc, &kept).await;
    client.insert(URL).await.unwrap_err();
    client.close().await;
    assert_eq!(kept.unsaved()[0].profile, None, "what it taught is given up");
}
