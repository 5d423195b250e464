//! QEMU's own HTTP block driver reads and boots what is inserted in a BMC.
//!
//! The BMC is ours, at 127.0.0.2, and reads nothing: its machine never starts. So all reads are QEMU's, and they come from
//! an address that is not the BMC's.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::paper::Paper;
use super::{Ground, MACHINE_SEES_US_AT, NETMASK, NETWORK, Verdict};
use crate::program::{Program, tail};
use crate::run::step;
use crate::server::Server;

const MACHINE: &str = "Name:peer-qemu-http";
const UUID: &str = "6f1c3a52-9a0e-4c4e-8f5e-0d6b7e1f4a03";
const MAC: &str = "52:54:00:15:0b:a3";
const ADDRESS: &str = "192.168.77.13";
const BMC: &str = "127.0.0.2";
/// Emulation on a busy host is slow.
const PATIENCE: Duration = Duration::from_secs(1500);

pub(super) fn run(ground: &Ground) -> Result<Verdict> {
    let dir = ground.folder("qemu-http")?;
    let server = ground.server()?;
    let paper = Paper::up(&ground.isobar, &dir, BMC)?;
    server.json(&[
        "machines",
        "create",
        &json!({"Name": "peer-qemu-http", "Uuid": UUID}).to_string(),
    ])?;
    paper.belongs_to(server, MACHINE)?;
    let network = json!({"prov": {
        "address": ADDRESS, "netmask": NETMASK, "gateway": MACHINE_SEES_US_AT, "interface": MAC,
    }});
    server.set(MACHINE, "network-data", &network.to_string())?;

    let size = copy_equals_export(server, &paper, &dir)?;

    // The power is the operator's, so that nobody but QEMU boots.
    ensure!(server.act(MACHINE, &["poweron"])? == "Success", "not switched on");
    paper.wait("power on", |log| log["power"] == "On")?;
    server.set(MACHINE, "boot-virtual-iso-power", "wait")?;
    server.set(MACHINE, "boot-virtual-iso", "true")?;
    server.run(&["machines", "workflow", MACHINE, ""])?;
    server.run(&["machines", "bootenv", MACHINE, "local"])?;
    server.run(&["machines", "workflow", MACHINE, "discover-base", "--no-wait"])?;
    follow(server, "the image is inserted", |boot| {
        boot["phase"] == "waiting-for-power"
    })?;
    let url = paper.image()?;

    let since = Instant::now();
    let serial = dir.join("serial.log");
    let mut qemu = Program::start(machine(&url, &serial), dir.join("qemu.log"))?;
    let (mut elsewhere, mut phases) = (None, Vec::new());
    let booted = follow(server, "the agent is up", |boot| {
        if let Some(address) = boot["read_from_elsewhere"].as_str() {
            elsewhere = Some(address.to_owned());
        }
        phases.extend(boot["phase"].as_str().map(str::to_owned));
        boot["agent_up"] == true
    });
    qemu.ensure_runs().context("qemu")?;
    if let Err(error) = booted {
        return Err(error.context(format!("console: {}", tail(&serial, 15))));
    }
    let seconds = since.elapsed().as_secs();
    ensure!(
        elsewhere.as_deref() == Some("127.0.0.1"),
        "reads from 127.0.0.1 were not noted as none of the BMC's {BMC}: {elsewhere:?}"
    );
    phases.dedup();
    ensure!(
        !phases.iter().any(|phase| phase == "copied"),
        "a machine's own reads were taken for a copy: {phases:?}"
    );
    let log = paper.log()?;
    let reads = log["reads"].as_array().map_or(0, Vec::len);
    ensure!(reads == 0, "the BMC read the image too: {reads} reads");
    Ok(Verdict::Held(format!(
        "copy of {} MiB equals the export; BIOS boot to the agent in {seconds} s; reads from elsewhere noted",
        size >> 20
    )))
}

/// What QEMU's tools read of the URL is what the server exports.
fn copy_equals_export(server: &Server, paper: &Paper, dir: &Path) -> Result<u64> {
    let url = paper.mounted_image(server, MACHINE)?;
    let (copy, export) = (dir.join("copy.iso"), dir.join("export.iso"));
    let source = json!({"driver": "raw", "file": {"driver": "http", "url": url, "timeout": 60}});
    step(
        Command::new("qemu-img")
            .args(["convert", "-O", "raw", &format!("json:{source}")])
            .arg(&copy),
    )?;
    let to = export.to_string_lossy();
    server.run(&["isos", "export", MACHINE, "-o", &to])?;
    step(Command::new("cmp").args([&copy, &export]))?;
    let size = std::fs::metadata(&export)?.len();
    std::fs::remove_file(copy)?;
    std::fs::remove_file(export)?;
    let answer = server.act(MACHINE, &["unmountVirtualMedia", "ipmi/mode", "redfish"])?;
    ensure!(answer == "Success", "not unmounted: {answer}");
    Ok(size)
}

/// A machine with a CD that is a URL.
fn machine(url: &str, serial: &Path) -> Command {
    let cd = json!({
        "driver": "http", "node-name": "cd", "read-only": true, "url": url, "timeout": 60,
    });
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-nodefaults", "-no-user-config", "-display", "none"]);
    qemu.args([
        "-machine",
        "q35",
        "-accel",
        "tcg,thread=multi",
        "-cpu",
        "max",
        "-m",
        "1024",
    ]);
    qemu.args(["-uuid", UUID, "-device", "virtio-rng-pci"]);
    qemu.args(["-netdev", &format!("user,id=net,ipv6=off,net={NETWORK}/24")]);
    qemu.args(["-device", &format!("virtio-net-pci,netdev=net,mac={MAC}")]);
    qemu.args(["-blockdev", &cd.to_string(), "-device", "ide-cd,drive=cd,bootindex=1"]);
    qemu.arg("-serial").arg(format!("file:{}", serial.display()));
    qemu
}

/// Looks at the machine's boot until it is so.
fn follow(server: &Server, what: &str, mut so: impl FnMut(&Value) -> bool) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut phase = Value::Null;
    loop {
        let output = server.command(&["boots", "show", MACHINE])?.output()?;
        let boot: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        if boot["phase"] != phase {
            println!("{}: {}", boot["phase"], boot["detail"]);
            phase = boot["phase"].clone();
        }
        if so(&boot) {
            return Ok(());
        }
        ensure!(boot["error"].is_null(), "the boot failed: {}", boot["error"]);
        ensure!(Instant::now() < deadline, "never came: {what}; the boot: {boot}");
        std::thread::sleep(Duration::from_millis(500));
    }
}
