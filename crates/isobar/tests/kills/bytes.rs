//! What is mounted keeps its bytes, whatever happens to the server, its planner and its live images.

use std::path::PathBuf;
use std::sync::Arc;

use isobar_boot::attempts::Attempts;
use isobar_boot::bases::Bases;
use isobar_boot::record::kind;
use isobar_image::{BlobDir, FileRole, OwnFile};
use isobar_store::{SqliteStore, Store, Txn, Vault, sqlite::StoreOptions};
use serde_json::json;

use crate::stage::{self, MACHINE, Stage};

/// A machine that was booted and whose disc is still in: its URL, and all its bytes.
fn mounted(stage: &Stage) -> (String, Vec<u8>) {
    stage.import();
    stage.add_machine(&json!({}));
    let out = stage.isobar(&["machines", "workflow", MACHINE, "discover-base", "--wait", "agent"]);
    assert!(out.ok, "{out}");
    stage.wait_boot("done");
    let url = stage.sim().cd().image.unwrap();
    let (status, bytes) = stage.get_image(&url, None);
    assert_eq!(status, 200);
    (url, bytes)
}

#[test]
fn a_mounted_disc_outlives_restarts_and_new_live_images() {
    let mut stage = Stage::new(|_| {});
    let (url, before) = mounted(&stage);
    for version in 2..4 {
        stage.kill_server();
        stage.start_server();
        assert!(stage.get_image(&url, None).1 == before, "after a restart");
        stage.import_version(version);
        assert!(
            stage.get_image(&url, None).1 == before,
            "under another live image of the same name"
        );
    }
    stage.kill_server();
    stage.start_server();
    assert!(stage.get_image(&url, None).1 == before, "after both");
    let out = stage.isobar(&["machines", "workflow", MACHINE, ""]);
    assert!(out.ok, "{out}");
    assert!(stage.isobar(&["machines", "bootenv", MACHINE, "local"]).ok);
    let out = stage.isobar(&["machines", "workflow", MACHINE, "discover-base", "--wait", "agent"]);
    assert!(out.ok, "{out}");
    let new = stage.get_image(&stage.sim().cd().image.unwrap(), None).1;
    assert!(!new.is_empty() && new != before, "the next boot has the new live image");
}

#[test]
fn a_disc_of_another_planner_is_served_as_that_one_planned_it() {
    let mut stage = Stage::new(|_| {});
    let (url, before) = mounted(&stage);
    stage.kill_server();
    // The row as a planner would have left it that made other files, at other places, for the same machine.
    let mut other = Vec::new();
    {
        let data = stage.data();
        let store: Arc<dyn Store> =
            Arc::new(SqliteStore::open(&data.join("isobar.db"), StoreOptions::default()).unwrap());
        let blobs = Arc::new(BlobDir::open(&data.join("blobs")).unwrap());
        let vault = Arc::new(Vault::open(&data.join("vault.key")).unwrap());
        let bases = Arc::new(Bases::new(Arc::clone(&store), Arc::clone(&blobs)));
        let attempts = Attempts::new(Arc::clone(&store), vault, bases, false, false);
        let id = store.list(kind::ATTEMPTS).unwrap()[0].key.clone();
        let planned = attempts.image(&id).unwrap().unwrap();
        let own = ["boot/grub/grub.cfg", "another/planner"].map(|path| OwnFile {
            path: path.to_owned(),
            bytes: vec![b'#'; 70_000].into(),
            role: FileRole::Other,
        });
        let image = isobar_image::plan(planned.base(), &own).unwrap();
        image.export(&blobs, &mut other).unwrap();
        let puts = vec![attempts.put_image(&id, &image)];
        store.commit(Txn { puts, ..Txn::default() }).unwrap();
    }
    assert!(other != before);
    stage.start_server();
    assert!(stage.get_image(&url, None).1 == other, "nothing is planned again");
    stage.kill_server();
    stage.start_server();
    assert!(stage.get_image(&url, None).1 == other);
}

fn largest_blob(stage: &Stage) -> PathBuf {
    let blobs = stage::files_below(&stage.data().join("blobs/sha256"));
    blobs
        .into_iter()
        .max_by_key(|path| path.metadata().unwrap().len())
        .unwrap()
}

#[test]
fn a_damaged_live_image_gives_no_wrong_bytes_and_is_named() {
    let mut stage = Stage::new(|_| {});
    let (url, before) = mounted(&stage);
    let blob = largest_blob(&stage);
    let name = blob.file_name().unwrap().to_str().unwrap().to_owned();
    let good = std::fs::read(&blob).unwrap();
    for damage in ["cut", "missing"] {
        stage.kill_server();
        std::fs::remove_file(&blob).unwrap();
        if damage == "cut" {
            std::fs::write(&blob, &good[..good.len() / 2]).unwrap();
        }
        stage.start_server();
        let (_, bytes) = stage.get_image(&url, None);
        assert!(
            bytes.len() < before.len() && before.starts_with(&bytes),
            "{damage}: broken off, not made up"
        );
    }
    for damage in ["missing", "cut"] {
        if damage == "cut" {
            std::fs::write(&blob, &good[..good.len() / 2]).unwrap();
        }
        assert!(stage.isobar(&["machines", "workflow", MACHINE, ""]).ok);
        assert!(stage.isobar(&["machines", "bootenv", MACHINE, "local", "--no-wait"]).ok);
        let out = stage.isobar(&["machines", "workflow", MACHINE, "discover-base"]);
        let told = [&name[..], "sledgehammer build"]
            .iter()
            .all(|text| out.stderr.contains(text));
        assert!(!out.ok && told, "{damage}: {out}");
        assert_eq!(stage.last_boot()["error"]["reason"], "base-damaged", "{damage}");
    }
    // Taking the same live image in once more mends it.
    stage.import();
    assert_eq!(std::fs::read(&blob).unwrap(), good);
    assert!(stage.isobar(&["machines", "workflow", MACHINE, ""]).ok);
    assert!(stage.isobar(&["machines", "bootenv", MACHINE, "local", "--no-wait"]).ok);
    let out = stage.isobar(&["machines", "workflow", MACHINE, "discover-base", "--wait", "agent"]);
    assert!(out.ok, "{out}");
}
