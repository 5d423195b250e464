//! `isobar backup` of a server under writes, `isobar restore`, and a server on what was restored.
#![allow(clippy::unwrap_used)]

mod stage;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use isobar_client::path;
use serde_json::{Value, json};
use stage::{MACHINE, Options, Server};

fn export(server: &Server) -> Vec<u8> {
    let out = server.dir().join("export.iso");
    let _ = std::fs::remove_file(&out);
    let exported = server.isobar(&["isos", "export", MACHINE, "-o", out.to_str().unwrap()]);
    assert!(exported.ok, "{exported}");
    std::fs::read(out).unwrap()
}

/// A command that asks no server.
fn offline(args: &[&str]) -> (bool, String) {
    let out = std::process::Command::new(env!("CARGO_BIN_EXE_isobar"))
        .args(args)
        .output()
        .unwrap();
    let said = [out.stdout, out.stderr].concat();
    (out.status.success(), String::from_utf8(said).unwrap())
}

fn blobs(data: &Path) -> Vec<(String, Vec<u8>)> {
    let files = stage::files_below(&data.join("blobs/sha256"));
    let mut blobs: Vec<_> = files
        .iter()
        .map(|path| {
            (
                path.file_name().unwrap().to_string_lossy().into_owned(),
                std::fs::read(path).unwrap(),
            )
        })
        .collect();
    blobs.sort();
    blobs
}

#[test]
fn what_was_acknowledged_before_a_backup_is_there_after_a_restore() {
    let mut server = Server::new(Options::default());
    server.start();
    server.import();
    // Its BMC is nobody: the boot waits, with its image made.
    let machine = json!({"Name": "mach-01", "Workflow": "discover-base", "Params": {
        "ipmi/address": format!("http://127.0.0.1:{}", stage::free_port()), "ipmi/username": "root",
        "ipmi/password": "calvin", "boot-virtual-iso": true,
    }});
    let client = server.client();
    let machine: Value = client.post("/api/v3/machines", &machine).unwrap();
    let disc = export(&server);
    let backup = server.dir().join("backup.tar");
    let data = server.data();
    let data_dir = ["--data-dir", data.to_str().unwrap()];
    let (acknowledged, stop) = (Mutex::new(Vec::new()), AtomicBool::new(false));
    let before = std::thread::scope(|scope| {
        for writer in 0..3 {
            let (client, acknowledged, stop) = (client.clone(), &acknowledged, &stop);
            scope.spawn(move || {
                for n in 0.. {
                    let body = json!({"Name": format!("mach-{writer}-{n}"), "Description": "x".repeat(3_000)});
                    let made: Value = client.post("/api/v3/machines", &body).unwrap();
                    acknowledged.lock().unwrap().push(made);
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                }
            });
        }
        while acknowledged.lock().unwrap().len() < 30 {
            std::thread::yield_now();
        }
        let before = acknowledged.lock().unwrap().len();
        let args = [
            "backup",
            backup.to_str().unwrap(),
            "--with-keys",
            data_dir[0],
            data_dir[1],
        ];
        let (ok, said) = offline(&args);
        // Before anything else can fail: the writers wait for this.
        stop.store(true, Ordering::Relaxed);
        assert!(ok && said.contains("blobs"), "{said}");
        let (ok, said) = offline(&args);
        assert!(!ok && said.contains("is there already"), "{said}");
        before
    });
    assert_eq!(std::fs::metadata(&backup).unwrap().permissions().mode() & 0o777, 0o600);
    let restore = ["restore", backup.to_str().unwrap(), data_dir[0], data_dir[1]];
    let (ok, said) = offline(&restore);
    assert!(!ok && said.contains("is not empty"), "{said}");

    server.kill();
    let lost = server.dir().join("lost");
    std::fs::rename(&data, &lost).unwrap();
    let (ok, said) = offline(&restore);
    assert!(ok && !said.contains("missing"), "{said}");
    assert_eq!(blobs(&lost), blobs(&data));
    for (name, mode) in [
        ("", 0o700),
        ("isobar.db", 0o600),
        ("vault.key", 0o600),
        ("tls.key", 0o600),
    ] {
        let found = std::fs::metadata(data.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(found, mode, "{name}");
    }
    server.start();
    let client = server.client();
    for made in &acknowledged.lock().unwrap()[..before] {
        let uuid = made["Uuid"].as_str().unwrap();
        let kept: Value = client.get(&path!("api", "v3", "machines", uuid)).unwrap();
        assert_eq!(&kept, made);
    }
    assert_eq!(export(&server), disc, "the boot image has the bytes that it had");
    let uuid = machine["Uuid"].as_str().unwrap();
    let password = format!(
        "{}/params/ipmi/password?decode=true",
        path!("api", "v3", "machines", uuid)
    );
    assert_eq!(client.get::<Value>(&password).unwrap(), "calvin");
}

#[test]
fn a_backup_without_keys_wants_the_key_of_its_server() {
    let mut server = Server::new(Options::default());
    server.start();
    let (data, backup) = (server.data(), server.dir().join("backup.tar"));
    let key = std::fs::read(data.join("vault.key")).unwrap();
    let data_dir = ["--data-dir", data.to_str().unwrap()];
    let backup_at = backup.to_str().unwrap();
    let (ok, said) = offline(&["backup", backup_at, data_dir[0], data_dir[1]]);
    assert!(ok && said.contains("vault.key"), "{said}");
    let bytes = std::fs::read(&backup).unwrap();
    let password = std::fs::read(data.join("rocketskates.password")).unwrap();
    for secret in [key.as_slice(), password.trim_ascii()] {
        assert!(!stage::contains(&bytes, secret));
    }
    server.kill();

    // Half a backup, one with a byte changed, and something else.
    let (bad, elsewhere) = (server.dir().join("bad.tar"), server.dir().join("elsewhere"));
    let mut changed = bytes.clone();
    changed[bytes.len() / 2] ^= 1;
    for (content, word) in [
        (&bytes[..bytes.len() / 2], "backup"),
        (&bytes[..bytes.len() - bytes.len() % 10_240 - 10_240], "backup"),
        (&changed[..], "not as it was"),
        (b"something else", "no backup"),
    ] {
        std::fs::write(&bad, content).unwrap();
        let (ok, said) = offline(&[
            "restore",
            bad.to_str().unwrap(),
            "--data-dir",
            elsewhere.to_str().unwrap(),
        ]);
        assert!(!ok && said.contains(word), "{word}: {said}");
        assert!(!elsewhere.join("isobar.db").exists());
        std::fs::remove_dir_all(&elsewhere).unwrap();
    }

    std::fs::remove_dir_all(&data).unwrap();
    let (ok, said) = offline(&["restore", backup_at, data_dir[0], data_dir[1]]);
    assert!(ok && said.contains("missing") && said.contains("vault.key"), "{said}");
    assert!(!data.join("vault.key").exists());
    std::fs::write(data.join("vault.key"), key).unwrap();
    // Only the test needs it, to log in.
    std::fs::write(data.join("rocketskates.password"), password).unwrap();
    std::fs::set_permissions(data.join("vault.key"), std::fs::Permissions::from_mode(0o600)).unwrap();
    server.start();
    let info: Value = server.client().get("/api/v3/info").unwrap();
    assert!(info["version"].is_string());
}
