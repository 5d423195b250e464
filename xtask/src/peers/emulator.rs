//! sushy-emulator, OpenStack's BMC for libvirt machines: a Redfish service that nobody here wrote, with several systems
//! behind it, one legacy BIOS and one UEFI, both booted by CLI commands alone.
//!
//! It copies the whole image before it answers an insert, so nothing may be said about how far a kernel or an initrd is.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use super::http::get_json;
use super::libvirt::{self, Domain, Libvirt};
use super::{Ground, MACHINE_SEES_US_AT, NETMASK, Verdict, python};
use crate::program::{Program, free_port, listens, tail};
use crate::run::shown;
use crate::server::Server;

const USER: &str = "ironic";
const PASSWORD: &str = "calvin-and-hobbes";
/// `ironic:calvin-and-hobbes`, as HTTP wants it.
const BASIC: &str = "aXJvbmljOmNhbHZpbi1hbmQtaG9iYmVz";
/// For a boot under emulation on a busy host.
const PATIENCE_S: &str = "1500";

struct Machine {
    name: &'static str,
    uuid: &'static str,
    mac: &'static str,
    address: &'static str,
    uefi: bool,
    /// Whether isobar is told which system it is; else it finds it by the UUID.
    named: bool,
}

const MACHINES: [Machine; 2] = [
    Machine {
        name: "peer-bios",
        uuid: "6f1c3a52-9a0e-4c4e-8f5e-0d6b7e1f4a01",
        mac: "52:54:00:15:0b:a1",
        address: "192.168.77.11",
        uefi: false,
        named: false,
    },
    Machine {
        name: "peer-uefi",
        uuid: "6f1c3a52-9a0e-4c4e-8f5e-0d6b7e1f4a02",
        mac: "52:54:00:15:0b:a2",
        address: "192.168.77.12",
        uefi: true,
        named: true,
    },
];

pub(super) fn run(ground: &Ground) -> Result<Verdict> {
    let bin = python::BMC.bin()?;
    let dir = ground.folder("sushy-emulator")?;
    let server = ground.server()?;
    let libvirt = Libvirt::up(dir.join("libvirtd.log"))?;
    let serial = |machine: &Machine| dir.join(format!("{}.serial.log", machine.name));
    for machine in &MACHINES {
        libvirt.define(&Domain {
            name: machine.name,
            uuid: machine.uuid,
            mac: machine.mac,
            uefi: machine.uefi,
            serial: &serial(machine),
        })?;
    }
    let (emulator, port) = emulator(&bin, &dir, &libvirt)?;
    for machine in &MACHINES {
        prepare(server, machine, port, &dir)?;
    }
    // Both at once, behind the one BMC.
    let booted: Vec<Result<u64>> = std::thread::scope(|scope| {
        let boots: Vec<_> = MACHINES
            .iter()
            .map(|machine| scope.spawn(|| boot(server, machine, &dir)))
            .collect();
        boots
            .into_iter()
            .map(|boot| boot.join().unwrap_or_else(|_| bail!("the follower broke off")))
            .collect()
    });
    let mut figures = Vec::new();
    for (machine, seconds) in MACHINES.iter().zip(booted) {
        let seconds = seconds.with_context(|| {
            format!(
                "{}; its console: {}; the emulator: {}",
                machine.name,
                tail(&serial(machine), 10),
                tail(emulator.log(), 10)
            )
        })?;
        figures.push(format!("{} agent up after {seconds} s", firmware(machine)));
    }
    for machine in &MACHINES {
        let name = format!("Name:{}", machine.name);
        let shown = server.json(&["machines", "show", &name])?;
        ensure!(
            shown["Address"] == machine.address && shown["BootEnv"] == "sledgehammer",
            "{name}: address {}, bootenv {}",
            shown["Address"],
            shown["BootEnv"]
        );
        in_band(server, machine, port)?;
    }
    drop(emulator);
    if !crate::program::keeps_all() {
        libvirt.end()?;
    }
    Ok(Verdict::Held(figures.join(", ")))
}

fn firmware(machine: &Machine) -> &'static str {
    if machine.uefi { "UEFI" } else { "BIOS" }
}

/// Starts the emulator for all machines of a libvirt.
fn emulator(bin: &Path, dir: &Path, libvirt: &Libvirt) -> Result<(Program, u16)> {
    let port = free_port(0)?;
    std::fs::write(dir.join("bmc.password"), format!("{PASSWORD}\n"))?;
    let (users, config) = (dir.join("users"), dir.join("emulator.conf"));
    let hash = Command::new(bin.join("python"))
        .args(["-c", "import bcrypt, sys; print(bcrypt.hashpw(open(sys.argv[1], 'rb').read().strip(), bcrypt.gensalt(4)).decode())"])
        .arg(dir.join("bmc.password"))
        .output()?;
    ensure!(
        hash.status.success(),
        "bcrypt: {}",
        String::from_utf8_lossy(&hash.stderr)
    );
    std::fs::write(&users, format!("{USER}:{}", String::from_utf8_lossy(&hash.stdout)))?;
    let text = format!(
        "SUSHY_EMULATOR_LISTEN_IP = '127.0.0.1'
SUSHY_EMULATOR_LISTEN_PORT = {port}
SUSHY_EMULATOR_STATE_DIR = '{}'
SUSHY_EMULATOR_AUTH_FILE = '{}'
SUSHY_EMULATOR_LIBVIRT_URI = '{}'
SUSHY_EMULATOR_IGNORE_BOOT_DEVICE = False
SUSHY_EMULATOR_BOOT_LOADER_MAP = {{'UEFI': {{'x86_64': '{}'}}, 'Legacy': {{'x86_64': None}}}}
",
        dir.display(),
        users.display(),
        libvirt.uri(),
        libvirt::UEFI
    );
    std::fs::write(&config, text)?;
    let mut command = Command::new(bin.join("sushy-emulator"));
    // Each inserted image is copied to a temporary file that is never removed.
    command.arg("--config").arg(&config).env("TMPDIR", libvirt.tmp());
    command.env("PYTHONUNBUFFERED", "1");
    let mut program = Program::start(command, dir.join("emulator.log"))?;
    program.wait_until("sushy-emulator", || listens(port))?;
    Ok((program, port))
}

fn prepare(server: &Server, machine: &Machine, port: u16, dir: &Path) -> Result<()> {
    let name = format!("Name:{}", machine.name);
    let object = if machine.named {
        json!({"Name": machine.name})
    } else {
        json!({"Name": machine.name, "Uuid": machine.uuid})
    };
    server.json(&["machines", "create", &object.to_string()])?;
    if machine.named {
        server.set(&name, "isobar/bmc-system", machine.uuid)?;
    }
    server.set(&name, "ipmi/address", &format!("http://127.0.0.1:{port}"))?;
    server.set(&name, "ipmi/username", USER)?;
    server.set(
        &name,
        "ipmi/password",
        &format!("@{}", dir.join("bmc.password").display()),
    )?;
    server.set(&name, "boot-virtual-iso", "true")?;
    let network = json!({"prov": {
        "address": machine.address, "netmask": NETMASK, "gateway": MACHINE_SEES_US_AT, "interface": machine.mac,
    }});
    server.set(&name, "network-data", &network.to_string())?;
    server.run(&["machines", "workflow", &name, ""])?;
    server.run(&["machines", "bootenv", &name, "local"]).map(drop)
}

/// Boots it and follows to the agent; answers the seconds.
fn boot(server: &Server, machine: &Machine, dir: &Path) -> Result<u64> {
    let name = format!("Name:{}", machine.name);
    let mut command = server.command(&[
        "machines",
        "workflow",
        &name,
        "discover-base",
        "--wait",
        "agent",
        "--wait-at-most",
        PATIENCE_S,
    ])?;
    println!("$ {} &", shown(&command));
    let since = Instant::now();
    let output = command.output()?;
    let seconds = since.elapsed().as_secs();
    let followed = String::from_utf8_lossy(&output.stderr).into_owned();
    std::fs::write(dir.join(format!("{}.followed.log", machine.name)), &followed)?;
    print!("{followed}");
    ensure!(output.status.success(), "no agent: {}", followed.trim_end());
    let boot = server.json(&["boots", "show", &name])?;
    no_false_progress(&followed, &boot)?;
    Ok(seconds)
}

/// A BMC that copies says nothing about the machine: its reads must not look like a kernel or an initrd that loads.
fn no_false_progress(followed: &str, boot: &Value) -> Result<()> {
    ensure!(
        followed.contains("copied to the BMC"),
        "nobody was told that the image was copied to the BMC:\n{followed}"
    );
    ensure!(
        !followed.contains('%'),
        "a copy was shown as the machine's progress:\n{followed}"
    );
    let phases: Vec<&str> = boot["log"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|line| line["phase"].as_str())
        .collect();
    let false_one = phases
        .iter()
        .find(|p| ["grub", "kernel", "initrd", "kernel-started"].contains(*p));
    if let Some(phase) = false_one {
        bail!("a copy was taken for phase {phase}: {phases:?}");
    }
    ensure!(
        phases.contains(&"copied"),
        "the history does not say `copied`: {phases:?}"
    );
    Ok(())
}

/// Back to in-band, and power by hand: the CD is empty, the boot order is the disk's, and a cycle goes through.
fn in_band(server: &Server, machine: &Machine, port: u16) -> Result<()> {
    let name = format!("Name:{}", machine.name);
    ensure!(server.act(&name, &["powerstatus"])? == "On", "{name} is not on");
    let media = server.act(&name, &["statusVirtualMedia"])?;
    ensure!(media["Inserted"] == true, "{name}: nothing is inserted: {media}");
    server.run(&["machines", "remove", &name, "param", "boot-virtual-iso"])?;
    let deadline = Instant::now() + Duration::from_secs(300);
    while server.act(&name, &["statusVirtualMedia"])?["Inserted"] != false {
        ensure!(Instant::now() < deadline, "{name}: the image was never ejected");
        std::thread::sleep(Duration::from_secs(1));
    }
    let path = format!("/redfish/v1/Systems/{}", machine.uuid);
    let target = || -> Result<Value> {
        let system = get_json(&format!("127.0.0.1:{port}"), &path, Some(BASIC))?;
        Ok(system["Boot"]["BootSourceOverrideTarget"].clone())
    };
    while target()? != "Hdd" {
        ensure!(Instant::now() < deadline, "{name} would boot from {} again", target()?);
        std::thread::sleep(Duration::from_secs(1));
    }
    ensure!(
        server.act(&name, &["powercycle"])? == "Success",
        "{name} was not cycled"
    );
    ensure!(server.act(&name, &["powerstatus"])? == "On", "{name} is not on again");
    ensure!(
        server.act(&name, &["poweroff"])? == "Success",
        "{name} was not switched off"
    );
    Ok(())
}
