//! Operating systems' ISOs, from the command line to the machine that installs from them.

#![allow(clippy::unwrap_used)]

mod stage;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};

use serde_json::{Value, json};
use stage::{Options, Server};

/// A disc with a kernel, an initrd of some size, and a name that needs Rock Ridge.
fn disc(folder: &Path) -> (PathBuf, Vec<u8>) {
    let root = folder.join("tree");
    std::fs::create_dir_all(root.join("install.amd")).unwrap();
    let initrd: Vec<u8> = (0..3_000_000u32).map(|n| (n ^ (n >> 7)) as u8).collect();
    std::fs::write(root.join("install.amd/vmlinuz"), "kernel").unwrap();
    std::fs::write(root.join("install.amd/initrd.gz"), &initrd).unwrap();
    std::fs::write(root.join("a name with blanks & more.txt"), "text").unwrap();
    let iso = folder.join("debian.iso");
    let mut genisoimage = Command::new("genisoimage");
    genisoimage.args(["-quiet", "-R", "-o"]).arg(&iso).arg(&root);
    assert!(genisoimage.status().unwrap().success());
    (iso, initrd)
}

fn bootenv(sum: &str) -> Value {
    json!({"Name": "debian-12-install", "Kernel": "install.amd/vmlinuz", "Initrds": ["install.amd/initrd.gz"],
        "OS": {"Name": "debian-12", "IsoFile": "debian.iso", "IsoSha256": sum},
        "Templates": [{"Name": "ipxe", "Path": "{{.Machine.Path}}/ipxe", "Contents": "{{.Env.PathFor \"http\" .Env.Kernel}}"}]})
}

fn server() -> Server {
    let timing = format!("{},collect_s=0.4", stage::TIMING);
    let mut server = Server::new(Options {
        timing,
        ..Options::default()
    });
    server.start();
    server
}

fn available(server: &Server) -> bool {
    let bootenv: Value = server.client().get("/api/v3/bootenvs/debian-12-install").unwrap();
    bootenv["Available"] == true
}

fn blobs(server: &Server) -> usize {
    let folders = std::fs::read_dir(server.data().join("blobs/sha256")).unwrap();
    folders
        .map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap().count())
        .sum()
}

#[test]
fn uploadiso_makes_a_bootenv_available_and_its_files_are_served() {
    let folder = tempfile::tempdir().unwrap();
    let (iso, initrd) = disc(folder.path());
    let server = server();
    let made = server.isobar(&["bootenvs", "create", &bootenv("").to_string()]);
    assert!(made.ok && !available(&server), "{made}");
    let upload = || {
        server.drpcli(&[
            "bootenvs",
            "uploadiso",
            "debian-12-install",
            "--file",
            iso.to_str().unwrap(),
        ])
    };
    let out = upload();
    assert!(out.ok && out.stdout.contains("\"Path\": \"debian.iso\""), "{out}");
    assert!(available(&server));
    assert!(upload().ok, "once is enough");
    let get = |path: &str, range| server.get_image(&format!("http://x/debian-12/install/{path}"), range);
    assert_eq!(get("install.amd/vmlinuz", None), (200, b"kernel".to_vec()));
    assert!(get("install.amd/initrd.gz", None) == (200, initrd.clone()));
    assert!(get("install.amd/initrd.gz", Some("bytes=2999990-")) == (206, initrd[2_999_990..].to_vec()));
    assert_eq!(
        get("a%20name%20with%20blanks%20&%20more.txt", None),
        (200, b"text".to_vec())
    );
    let (status, listing) = get("", None);
    let listing = String::from_utf8(listing).unwrap();
    assert!(
        status == 200
            && listing.contains("<a href=\"/debian-12/install/a%20name%20with%20blanks%20%26%20more.txt\">")
            && listing.contains("a name with blanks &amp; more.txt"),
        "{listing}"
    );
    for nothing in ["install.amd/x", "../install.amd/vmlinuz", "install.amd/vmlinuz/x"] {
        assert!(get(nothing, None).0 >= 400, "{nothing}");
    }
    // The ISO itself is there too, and all of it is one file on the disk.
    assert_eq!(
        server
            .get_image("http://x/isos/debian.iso", Some("bytes=32769-32773"))
            .1,
        b"CD001"
    );
    assert_eq!(blobs(&server), 1);
    let out = server.isobar(&["isos", "destroy", "debian.iso"]);
    assert!(out.ok && !available(&server), "{out}");
    assert_eq!(get("install.amd/vmlinuz", None).0, 404);
    server.wait("the space is given back", |server| blobs(server) == 0);
    // With the wrong bytes it says which were wanted.
    let wanted = "ab".repeat(32);
    let ops = json!([{"op": "replace", "path": "/OS/IsoSha256", "value": wanted}]);
    let _: Value = server
        .client()
        .patch("/api/v3/bootenvs/debian-12-install", &ops)
        .unwrap();
    assert!(upload().ok);
    let now: Value = server.client().get("/api/v3/bootenvs/debian-12-install").unwrap();
    assert!(
        now["Errors"].to_string().contains(&format!("and {wanted} is wanted")),
        "{now}"
    );
}

/// Bytes that stop in the middle until somebody says so.
struct Stopping {
    bytes: Vec<u8>,
    at: usize,
    stopped: Sender<()>,
    go_on: Receiver<()>,
}

impl Read for Stopping {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        if self.at > self.bytes.len() / 2 {
            let _ = self.stopped.send(());
            let _ = self.go_on.recv();
            return Err(std::io::ErrorKind::BrokenPipe.into());
        }
        let n = buf.len().min(self.bytes.len() - self.at);
        buf[..n].copy_from_slice(&self.bytes[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

#[test]
fn a_killed_server_has_all_of_an_iso_or_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (iso, _) = disc(folder.path());
    let bytes = std::fs::read(&iso).unwrap();
    let mut server = server();
    let made = server.isobar(&["bootenvs", "create", &bootenv("").to_string()]);
    assert!(made.ok, "{made}");
    let ((stopped, is_stopped), (go, go_on)) = (channel(), channel());
    let mut half = Stopping {
        bytes: bytes.clone(),
        at: 0,
        stopped,
        go_on,
    };
    let client = server.client();
    let upload = std::thread::spawn(move || {
        client.upload::<Value>("/api/v3/isos/debian.iso", "application/octet-stream", None, &mut half)
    });
    is_stopped.recv().unwrap();
    server.kill();
    drop(go);
    assert!(upload.join().unwrap().is_err());
    server.start();
    let isos: Value = server.client().get("/api/v3/isos").unwrap();
    assert_eq!((isos, available(&server)), (json!([]), false));
    // What was acknowledged is there after a kill, marks included.
    let sent: Value = server
        .client()
        .upload(
            "/api/v3/isos/debian.iso",
            "application/octet-stream",
            None,
            &mut bytes.as_slice(),
        )
        .unwrap();
    assert_eq!(sent["Size"], bytes.len());
    server.kill();
    server.start();
    assert!(available(&server));
    let kernel = "http://x/debian-12/install/install.amd/vmlinuz";
    assert_eq!(server.get_image(kernel, None), (200, b"kernel".to_vec()));
    // Uploads are kept through the looks of the collector.
    let looked = |server: &Server| server.log().contains("removed what nothing needs any more");
    let _: Value = server
        .client()
        .upload("/api/v3/files/a", "application/octet-stream", None, &mut &b"one"[..])
        .unwrap();
    let _: Value = server
        .client()
        .upload("/api/v3/files/a", "application/octet-stream", None, &mut &b"two"[..])
        .unwrap();
    server.wait("what was replaced is removed", looked);
    assert_eq!(server.get_image(kernel, None), (200, b"kernel".to_vec()));
    assert_eq!(server.get_image("http://x/files/a", None), (200, b"two".to_vec()));
}
