//! sushy, the Redfish client of OpenStack Ironic, drives our simulated BMC.

use std::fs::File;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::paper::{Paper, USER};
use super::{Ground, Verdict, python};
use crate::run::step;

const SCRIPT: &str = include_str!("drive.py");
const MACHINE: &str = "Name:peer-sushy";

pub(super) fn run(ground: &Ground) -> Result<Verdict> {
    let bin = python::BMC.bin()?;
    let dir = ground.folder("sushy")?;
    let server = ground.server()?;
    let paper = Paper::up(&ground.isobar, &dir, "127.0.0.1")?;
    // An image to insert: the one that isobar itself inserts for a machine.
    server.json(&["machines", "create", r#"{"Name":"peer-sushy"}"#])?;
    paper.belongs_to(server, MACHINE)?;
    let image = paper.mounted_image(server, MACHINE)?;
    let since = Instant::now();
    let script = dir.join("drive.py");
    std::fs::write(&script, SCRIPT)?;
    let sushy = |verb: &str| {
        let mut command = Command::new(bin.join("python"));
        command
            .arg(&script)
            .args([&paper.url(), USER])
            .arg(&paper.password_file);
        // Whoever has the URL can read the image.
        let input = dir.join("image.url");
        std::fs::write(&input, &image)?;
        step(command.arg(verb).stdin(File::open(input)?))
    };
    sushy("boot")?;
    let started = |log: &Value| reached(log, "kernel-started");
    let log = paper.wait("a kernel started from the CD", started)?;
    let boot = last_boot(&log).context("it has not booted")?.clone();
    ensure!(
        boot["device"] == "Cd" && boot["enabled"] == "Once",
        "it booted from {} ({})",
        boot["device"],
        boot["enabled"]
    );
    sushy("end")?;
    let log = paper.log()?;
    ensure!(
        log["power"] == "Off" && log["cd"]["mounted"] == json!(false),
        "at the end: power {}, CD {}",
        log["power"],
        log["cd"]
    );
    let read: u64 = log["media"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|medium| medium["bytes"].as_u64())
        .sum();
    Ok(Verdict::Held(format!(
        "inserted, booted once from the CD, kernel started, ejected: {} MiB read, {:.1} s",
        read >> 20,
        since.elapsed().as_secs_f64()
    )))
}

fn last_boot(log: &Value) -> Option<&Value> {
    log["boots"].as_array()?.last()
}

fn reached(log: &Value, stage: &str) -> bool {
    last_boot(log)
        .and_then(|boot| boot["stages"].as_array())
        .is_some_and(|stages| stages.iter().any(|s| s["stage"] == stage))
}
