//! A full disk: a real file system that is filled up under a running server. Clear errors, nothing lost, nothing half, and
//! it goes on by itself when there is space again.
#![allow(clippy::unwrap_used)]

mod stage;

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use isobar_client::{Client, ClientError};
use isobar_sim::{Fault, FaultKind};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use stage::{MACHINE, Options, Server, Stage};

/// Size of the file system: a database, one small live image twice, and not much to fill up.
const SIZE: u64 = 48 << 20;
/// Bytes in each object that is written until nothing fits.
const LARGE: usize = 128 << 10;
/// More writes than fit into what SQLite had allocated before the disk was full.
const MOST_WRITES: usize = 400;

/// A stage whose data directory is a small ext4 of its own.
struct Small {
    /// Dropped before the disk is unmounted.
    stage: Option<Stage>,
    data: PathBuf,
}

impl Small {
    /// None, loudly, where nothing may be mounted; in CI that is a failure.
    fn new() -> Option<Self> {
        // An answer is held for as long as it takes to fill the disk.
        let timing = format!("{},exchange_s=120", stage::TIMING);
        let server = Server::new(Options {
            timing,
            ..Options::default()
        });
        let (data, image) = (server.data(), server.dir().join("disk.img"));
        std::fs::create_dir(&data).unwrap();
        File::create(&image).unwrap().set_len(SIZE).unwrap();
        let done = run("mkfs.ext4", &["-q", "-m", "0"], &[&image])
            .and_then(|()| run("mount", &["-o", "loop"], &[&image, &data]));
        if let Err(why) = done {
            assert!(std::env::var_os("CI").is_none(), "{why}");
            eprintln!("\nNOT TESTED: a full disk needs root, mkfs.ext4 and loop devices: {why}\n");
            return None;
        }
        let mut small = Self { stage: None, data };
        small.stage = Some(Stage::over(server, |_| {}));
        Some(small)
    }

    fn stage(&self) -> &Stage {
        self.stage.as_ref().unwrap()
    }

    /// Leaves so many bytes free.
    fn fill(&self, but: u64) {
        let path = self.data.join("ballast");
        let mut file = File::options().create(true).append(true).open(path).unwrap();
        let free = |file: &File| {
            file.sync_all().unwrap();
            let fs = rustix::fs::statvfs(&self.data).unwrap();
            fs.f_bavail * fs.f_frsize
        };
        for chunk in [1 << 20, 4 << 10] {
            let zeros = vec![0; chunk as usize];
            while free(&file) >= but + chunk {
                match file.write_all(&zeros) {
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    other => other.unwrap(),
                }
            }
        }
    }

    fn free(&self) {
        std::fs::remove_file(self.data.join("ballast")).unwrap();
    }

    /// Writes until the store is full; names of what was acknowledged, and what the first refusal said.
    fn write_until_full(client: &Client) -> (Vec<String>, ClientError) {
        let mut written = Vec::new();
        for i in 0..MOST_WRITES {
            let name = format!("large-{i}");
            match large(client, &name) {
                Ok(()) => written.push(name),
                Err(error) => return (written, error),
            }
        }
        panic!("a full disk takes {MOST_WRITES} writes");
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        if let Some(stage) = &mut self.stage {
            stage.kill_server();
        }
        // Its folder cannot go before the disk does.
        let _ = run("umount", &["-l"], &[&self.data]);
        self.stage.take();
    }
}

fn run(program: &str, words: &[&str], paths: &[&Path]) -> Result<(), String> {
    let output = Command::new(program).args(words).args(paths).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    output
        .status
        .success()
        .then_some(())
        .ok_or(format!("{program}: {said}"))
}

fn large(client: &Client, name: &str) -> Result<(), ClientError> {
    let body = json!({"Name": name, "Description": "x".repeat(LARGE)});
    client.post::<_, Value>("/api/v3/profiles", &body).map(drop)
}

/// Status, and whether what it says names the file and what to do.
fn said_clearly(error: &ClientError, path: &Path) {
    let ClientError::Api(body) = error else {
        panic!("no error of the server's: {error}");
    };
    let text = body.messages.join("; ");
    assert_eq!(body.code, 507, "{text}");
    assert!(
        text.contains(path.to_str().unwrap()) && text.contains("free some space"),
        "{text}"
    );
}

/// All blobs are what their names say, and nothing half lies beside them.
fn blobs_are_whole(data: &Path) -> usize {
    let blobs = stage::files_below(&data.join("blobs"));
    for blob in &blobs {
        let name = blob.file_name().unwrap().to_str().unwrap();
        let sum = Sha256::digest(std::fs::read(blob).unwrap());
        let sum: String = sum.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(name, sum, "{}", blob.display());
    }
    blobs.len()
}

#[test]
fn a_full_store_says_so_loses_nothing_and_goes_on() {
    let Some(mut small) = Small::new() else { return };
    let stage = small.stage();
    stage.import();
    stage.add_machine(&json!({}));
    let out = stage.isobar(&["machines", "workflow", MACHINE, "discover-base", "--wait", "agent"]);
    assert!(out.ok, "{out}");
    let url = stage.sim().cd().image.clone().unwrap();
    let (status, before) = stage.get_image(&url, None);
    assert_eq!(status, 200);

    let client = stage.client();
    small.fill(0);
    let (written, error) = Small::write_until_full(&client);
    let data = small.data.clone();
    said_clearly(&error, &data.join("isobar.db"));
    let out = stage.isobar(&[
        "profiles",
        "create",
        &json!({"Name": "late", "Description": "x".repeat(LARGE / 4)}).to_string(),
    ]);
    assert!(
        !out.ok && out.stderr.contains("no space left") && out.stderr.contains("free some space"),
        "{out}"
    );
    // What needs no space goes on.
    assert!(
        stage.get_image(&url, None) == (200, before.clone()),
        "a mounted disc is read on"
    );
    let profiles: Value = client.get("/api/v3/profiles").unwrap();
    assert!(profiles.as_array().unwrap().len() >= written.len());
    small.free();
    small
        .stage()
        .wait("it takes writes again", |_| large(&client, "after").is_ok());

    let stage = small.stage.as_mut().unwrap();
    stage.kill_server();
    stage.start_server();
    let client = stage.client();
    for name in written.iter().map(String::as_str).chain(["after"]) {
        let profile: Value = client.get(&format!("/api/v3/profiles/{name}")).unwrap();
        assert_eq!(profile["Description"].as_str().unwrap().len(), LARGE, "{name}");
    }
    assert!(stage.get_image(&url, None) == (200, before), "the same disc");
}

#[test]
fn a_boot_under_way_waits_for_space() {
    let Some(small) = Small::new() else { return };
    let stage = small.stage();
    stage.import();
    stage.add_machine(&json!({}));
    let held = Fault::from(FaultKind::Hold { done: true })
        .on("PATCH", "/Systems/1")
        .once();
    let hold = stage.sim().plant(held);
    let out = stage.isobar(&["machines", "workflow", MACHINE, "discover-base", "--no-wait"]);
    assert!(out.ok, "{out}");
    stage.wait("the override is held", |s| {
        s.sim().faults().iter().any(|f| f.id == hold && f.met > 0)
    });
    // A login is a write.
    let client = stage.client();
    let uuid = stage.machine()["Uuid"].as_str().unwrap().to_owned();
    small.fill(0);
    Small::write_until_full(&client);
    stage.sim().release(hold);
    stage.wait("the boot meets the full disk", |s| {
        s.log().contains("the boot cannot be saved")
    });
    let boots: Value = client.get(&format!("/isobar/v1/boots?machine={uuid}")).unwrap();
    assert_eq!(boots[0]["state"], "running", "it waits");
    small.free();
    stage.wait_boot("done");
    assert_eq!(stage.machine()["Errors"], json!([]));
    assert_eq!(
        stage.requests("ComputerSystem.Reset").len(),
        1,
        "one power-on, no power-off"
    );
    assert_eq!(stage.requests("InsertMedia").len(), 1);
}

#[test]
fn an_import_that_does_not_fit_leaves_nothing_half() {
    let Some(small) = Small::new() else { return };
    let stage = small.stage();
    // Too little for the tar; enough for the tar, and too little for its files.
    for free in [4 << 20, 10 << 20] {
        small.fill(free);
        let error = stage.try_import(1, 1 << 20).unwrap_err();
        said_clearly(&error, &small.data);
        assert!(stage::files_below(&small.data.join("blobs/tmp")).is_empty());
        blobs_are_whole(&small.data);
        let bases: Value = stage.client().get("/isobar/v1/bases").unwrap();
        assert_eq!(bases, json!([]));
        small.free();
    }
    stage.import();
    let count = blobs_are_whole(&small.data);
    assert!(count > 3);
    stage.import();
    assert_eq!(blobs_are_whole(&small.data), count, "the same again is the same");
    stage.add_machine(&json!({}));
    let out = stage.isobar(&["machines", "workflow", MACHINE, "discover-base", "--wait", "agent"]);
    assert!(out.ok, "{out}");
}
