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
const PROFILES_SCRIPT: &str = include_str!("profiles.py");
const MACHINE: &str = "Name:peer-sushy";

/// Profiles of the simulator that sushy drives, with the scheme of their images, or why it does not.
const PROFILES: &[(&str, Result<&str, &str>)] = &[
    ("dell-idrac8", Ok("nfs")),
    ("dell-idrac9-5", Ok("http")),
    ("dell-idrac9", Ok("http")),
    ("dell-idrac10", Ok("http")),
    ("hpe-ilo4", Err("Inserted")),
    ("hpe-ilo5", Ok("http")),
    ("hpe-ilo6", Ok("http")),
    ("hpe-ilo7", Ok("http")),
    ("lenovo-xcc-1", Err("no slot")),
    ("lenovo-xcc", Ok("http")),
    ("lenovo-xcc2", Ok("http")),
    ("lenovo-xcc3", Ok("http")),
    // It does not switch remote media on.
    ("lenovo-tsm", Err("no slot")),
    ("supermicro-x10", Err("no slot")),
    ("supermicro-x11", Ok("http")),
    ("supermicro-x12", Ok("http")),
    ("supermicro-x13", Ok("http")),
    ("supermicro-x14", Ok("http")),
    ("cisco-cimc", Ok("http")),
    ("cisco-ucsx", Ok("http")),
    ("fujitsu-irmc", Ok("http")),
    ("openbmc", Ok("https")),
    ("ami", Err("no slot")),
    ("nvidia-dgx", Err("no slot")),
    ("nvidia-gb200", Ok("https")),
    ("nvidia-gh200", Ok("https")),
    ("nvidia-bluefield", Err("VirtualMedia is missing")),
    ("huawei-ibmc", Err("InsertMedia is missing")),
    ("xfusion", Err("InsertMedia is missing")),
    ("intel-s2600", Err("no slot")),
    ("hpe-cray", Err("VirtualMedia is missing")),
    ("sushy-emulator", Ok("http")),
];

/// Each profile is driven as far as sushy goes; where it does not, it says what the table says.
pub(super) fn profiles(ground: &Ground) -> Result<Verdict> {
    let bin = python::BMC.bin()?;
    let dir = ground.folder("sushy-profiles")?;
    let script = dir.join("profiles.py");
    std::fs::write(&script, PROFILES_SCRIPT)?;
    let mut papers = Vec::new();
    let mut input = String::new();
    for (profile, how) in PROFILES {
        let folder = ground.folder(&format!("sushy-profiles/{profile}"))?;
        let paper = Paper::of_profile(&ground.isobar, &folder, profile)?;
        // Nobody is there: these BMCs read when the machine is on, and it is switched off again at once.
        let image = format!(
            "{}://127.0.0.1:9/A-token-of-this-boot-0123456789/boot.iso",
            how.unwrap_or("http")
        );
        let line = json!({"profile": profile, "url": paper.url(), "image": image});
        input.push_str(&format!("{line}\n"));
        papers.push(paper);
    }
    let password = &papers.first().context("no profile")?.password_file;
    let lines = dir.join("profiles.jsonl");
    std::fs::write(&lines, input)?;
    let mut command = Command::new(bin.join("python"));
    command.arg(&script).arg(USER).arg(password).stdin(File::open(lines)?);
    let output = command.output().context("sushy over all profiles")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    std::fs::write(dir.join("report.txt"), &said)?;
    let mut driven = 0;
    for (profile, how) in PROFILES {
        let line = said
            .lines()
            .find_map(|line| line.strip_prefix(profile)?.strip_prefix(' '));
        let line = line.with_context(|| {
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            format!("{profile}: sushy says nothing: {error}")
        })?;
        match how {
            Ok(_) => ensure!(line == "ok", "{profile}: {line}"),
            Err(why) => ensure!(line.contains(why), "{profile}: not for {why:?} but: {line}"),
        }
        driven += usize::from(how.is_ok());
    }
    Ok(Verdict::Held(format!(
        "{driven} of {} profiles inserted, booted once, ejected; the others refused as known",
        PROFILES.len()
    )))
}

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
