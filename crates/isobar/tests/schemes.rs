//! Images by what a BMC takes: HTTP, HTTPS, NFS; the simulated BMC really fetches that way.
#![allow(clippy::unwrap_used)]

mod stage;

use isobar_sim::SimConfig;
use serde_json::json;
use stage::{MACHINE, Options, Server, Stage};

fn takes(schemes: &[&str]) -> impl Fn(&mut SimConfig) {
    let schemes: Vec<String> = schemes.iter().map(|scheme| (*scheme).to_owned()).collect();
    move |config| config.manners.image_schemes.clone_from(&schemes)
}

fn boot(stage: &Stage) {
    let out = stage.isobar(&["machines", "workflow", MACHINE, "discover-base", "--no-wait"]);
    assert!(out.ok, "{out}");
}

/// What it showed in its slot, and how often it was asked to insert.
fn booted(stage: &Stage) -> (String, usize) {
    boot(stage);
    stage.wait_boot("done");
    assert!(stage.last_boot()["read_from_elsewhere"].is_null());
    (stage.sim().cd().image.unwrap(), stage.requests("InsertMedia").len())
}

#[test]
fn a_bmc_that_takes_https_alone_fetches_by_https() {
    let stage = Stage::new(takes(&["https"]));
    stage.import();
    stage.add_machine(&json!({}));
    let (image, inserts) = booted(&stage);
    assert!(
        image.starts_with(&format!("https://127.0.0.1:{}/", stage.files_port())),
        "{image}"
    );
    assert_eq!(inserts, 2, "refused http, took https");
    assert!(stage.sim().reads().iter().all(|read| read.error.is_none()));
    // What was refused is known at the next boot.
    let (image, inserts) = booted_again(&stage);
    assert!(image.starts_with("https://"), "{image}");
    assert_eq!(inserts, 3);
}

fn booted_again(stage: &Stage) -> (String, usize) {
    for change in [["workflow", MACHINE, ""], ["bootenv", MACHINE, "local"]] {
        let out = stage.isobar(&[&["machines"], &change[..], &["--no-wait"]].concat());
        assert!(out.ok, "{out}");
    }
    stage.wait("the disc is out", |s| s.sim().cd().image.is_none());
    booted(stage)
}

#[test]
fn a_bmc_that_verifies_has_the_certificate_of_the_file_plane_and_no_other() {
    let server = Server::new(Options::default());
    let certificate = server.data().join("tls.crt");
    // Made now, so that the BMC can be given it.
    let made = server.prepared();
    let stage = Stage::over(made, |config| {
        takes(&["https"])(config);
        config.manners.image_certificate = Some(certificate.clone());
    });
    stage.import();
    stage.add_machine(&json!({}));
    assert!(booted(&stage).0.starts_with("https://"));

    let other = Stage::new(|config| {
        takes(&["https"])(config);
        config.manners.image_certificate = Some(certificate.clone());
        config.manners.read = isobar_sim::ReadManner::AtInsert;
    });
    other.import();
    other.add_machine(&json!({}));
    boot(&other);
    other.wait_boot("failed");
    let error = &other.last_boot()["error"];
    assert_eq!(error["reason"], "bmc-refused", "{error}");
    assert!(error["message"].as_str().unwrap().contains("certificate"), "{error}");
}

#[test]
fn where_no_scheme_is_taken_nothing_is_said_of_routes() {
    let stage = Stage::new(takes(&["nfs"]));
    stage.import();
    stage.add_machine(&json!({}));
    boot(&stage);
    stage.wait_boot("failed");
    let boot = stage.last_boot();
    let hint = boot["error"]["hint"].as_str().unwrap();
    assert!(
        hint.contains("over http, https") && hint.contains("--nfs-listen") && !hint.contains("route"),
        "{hint}"
    );
}

#[test]
fn a_scheme_can_be_forced() {
    let stage = Stage::new(|_| {});
    stage.import();
    stage.add_machine(&json!({"isobar/image-scheme": "nfs"}));
    boot(&stage);
    stage.wait_boot("failed");
    assert_eq!(stage.last_boot()["error"]["reason"], "image-scheme");
    stage.set("isobar/image-scheme", "https");
    let (image, inserts) = booted_again(&stage);
    assert!(image.starts_with("https://"), "{image}");
    assert_eq!(inserts, 1);
}

#[test]
fn a_bmc_that_takes_nfs_alone_fetches_by_nfs() {
    let port = stage::free_port();
    let options = Options {
        args: vec![format!("--nfs-listen=127.0.0.1:{port}")],
        ..Options::default()
    };
    for read in [isobar_sim::ReadManner::AtInsert, isobar_sim::ReadManner::CopyAll] {
        let stage = Stage::with(options.clone(), |config| {
            takes(&["nfs"])(config);
            config.manners.read = read;
        });
        stage.import();
        stage.add_machine(&json!({"isobar/strict-image-peer": true}));
        let (image, inserts) = booted(&stage);
        assert!(image.starts_with(&format!("nfs://127.0.0.1:{port}/")), "{image}");
        assert_eq!(inserts, 3, "refused http and https, took nfs");
        // Seen as reads by HTTP are.
        let log = stage.last_boot()["log"].to_string();
        let phase = if read == isobar_sim::ReadManner::CopyAll {
            "copied"
        } else {
            "initrd"
        };
        assert!(log.contains(&format!(r#""phase":"{phase}""#)), "{log}");
    }
}
