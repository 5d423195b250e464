//! `cargo xtask demo`: the walk-through of booting a machine from its own ISO, on a real virtual machine.
//!
//! Three programs run: `isobar serve`, `isobar sim` (a BMC with a QEMU machine behind it), and the CLI. The BMC
//! reaches the server at 127.0.0.1, the machine at 192.168.77.1: two networks, as in a data centre.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde_json::Value;

use crate::packages::{self, DEMO};
use crate::program::{Program, free_port, listens, tail};
use crate::run::{build_agent, build_isobar, target};
use crate::server::Server;

/// Firmware of the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Firmware {
    /// Legacy BIOS.
    Bios,
    /// UEFI.
    #[default]
    Uefi,
    /// UEFI that refuses what is not signed.
    SecureBoot,
}

impl Firmware {
    fn name(self) -> &'static str {
        match self {
            Self::Bios => "bios",
            Self::Uefi => "uefi",
            Self::SecureBoot => "secureboot",
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Options {
    pub(crate) firmware: Firmware,
    pub(crate) dhcp: bool,
    pub(crate) keep: bool,
}

impl Options {
    pub(crate) fn parse(args: &[&str]) -> Result<Self> {
        let mut options = Self::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match *arg {
                "--dhcp" => options.dhcp = true,
                "--keep" => options.keep = true,
                "--firmware" => {
                    let name = args.next().copied().unwrap_or_default();
                    let all = [Firmware::Bios, Firmware::Uefi, Firmware::SecureBoot];
                    options.firmware = all
                        .into_iter()
                        .find(|f| f.name() == name)
                        .ok_or_else(|| anyhow!("--firmware is bios, uefi or secureboot, not `{name}`"))?;
                }
                other => bail!("cargo xtask demo has no option {other}: it has --firmware, --dhcp and --keep"),
            }
        }
        Ok(options)
    }
}

/// Network of the machine; the address `.1` is this host, as the machine sees it.
const MACHINE_SEES_US_AT: &str = "192.168.77.1";
const ADDRESS: &str = "192.168.77.10";
const MAC: &str = "52:54:00:15:0b:a1";
const MACHINE: &str = "Name:mach-01";
const BMC_USER: &str = "root";

pub(crate) fn demo(options: &Options) -> Result<()> {
    packages::ensure(&[DEMO])?;
    let isobar = build_isobar()?;
    let agent = build_agent()?;
    let began = Instant::now();
    let dir = target().join("demo").join(options.firmware.name());
    if dir.exists() {
        std::fs::remove_dir_all(&dir).with_context(|| format!("cannot clear {}", dir.display()))?;
    }
    std::fs::create_dir_all(&dir)?;
    let stage = Stage::up(isobar, dir, options)?;
    let result = stage.server.sledgehammer(&agent).and_then(|()| stage.play(options));
    if let Err(error) = result {
        stage.post_mortem();
        return Err(error);
    }
    println!(
        "\nthe demo held: {}{}, {:.0} s",
        options.firmware.name(),
        if options.dhcp { ", DHCP" } else { "" },
        began.elapsed().as_secs_f64()
    );
    if options.keep {
        stage.keep();
    }
    Ok(())
}

struct Stage {
    server: Server,
    bmc: u16,
    sim: Program,
}

impl Stage {
    fn up(isobar: PathBuf, dir: PathBuf, options: &Options) -> Result<Self> {
        let bmc = free_port(8443)?;
        let bmc_password = dir.join("bmc.password");
        std::fs::write(&bmc_password, "calvin-and-hobbes\n")?;

        let mut sim = Command::new(&isobar);
        sim.args(["sim", "--listen", &format!("127.0.0.1:{bmc}")]);
        sim.args(["--user", BMC_USER, "--password-file"]).arg(&bmc_password);
        sim.args(["--machine", "qemu", "--firmware", options.firmware.name(), "--mac", MAC]);
        sim.arg("--work-dir")
            .arg(dir.join("sim"))
            .arg("--serial")
            .arg(dir.join("serial.log"));
        let mut sim = Program::start(sim, dir.join("sim.log"))?;
        let server = Server::up(isobar, dir, MACHINE_SEES_US_AT)?;
        sim.wait_until("isobar sim", || listens(bmc))?;
        Ok(Self { server, bmc, sim })
    }

    fn run(&self, args: &[&str]) -> Result<String> {
        self.server.run(args)
    }

    fn json(&self, args: &[&str]) -> Result<Value> {
        self.server.json(args)
    }

    fn set(&self, param: &str, value: &str) -> Result<()> {
        self.server.set(MACHINE, param, value)
    }

    fn act(&self, words: &[&str]) -> Result<Value> {
        self.server.act(MACHINE, words)
    }

    fn play(&self, options: &Options) -> Result<()> {
        let machine = self.json(&["machines", "create", r#"{"Name":"mach-01"}"#])?;
        let uuid = machine["Uuid"].as_str().context("the machine has no UUID")?.to_owned();
        self.set("ipmi/address", &format!("https://127.0.0.1:{}", self.bmc))?;
        self.set("ipmi/username", BMC_USER)?;
        self.set(
            "ipmi/password",
            &format!("@{}", self.server.dir.join("bmc.password").display()),
        )?;

        self.set("boot-virtual-iso", "true")?;
        if !options.dhcp {
            let network = serde_json::json!({"prov": {
                "address": ADDRESS, "netmask": "255.255.255.0", "gateway": MACHINE_SEES_US_AT, "interface": MAC,
            }});
            self.set("network-data", &network.to_string())?;
        }
        self.run(&["machines", "workflow", MACHINE, ""])?;
        self.run(&["machines", "bootenv", MACHINE, "local"])?;
        self.run(&["machines", "workflow", MACHINE, "discover-base", "--wait", "agent"])?;

        let machine = self.wait_for_inventory()?;
        ensure!(
            options.dhcp || machine["Address"] == ADDRESS,
            "the agent reports {}, not {ADDRESS}",
            machine["Address"]
        );
        ensure!(
            machine["BootEnv"] == "sledgehammer",
            "the machine is in bootenv {}",
            machine["BootEnv"]
        );
        println!(
            "inventory: {}",
            serde_json::to_string(&machine["Params"]["gohai-inventory"])?
        );
        self.run(&["isos", "tree", MACHINE])?;

        let image = format!("/dynamic_isos/{uuid}/sledgehammer/boot.iso");
        let media = self.act(&["statusVirtualMedia", "ipmi/mode", "redfish"])?;
        ensure!(media["Inserted"] == true, "nothing is inserted: {media}");
        ensure!(
            media["Image"].as_str().is_some_and(|i| i.ends_with(&image)),
            "another image is inserted: {media}"
        );
        for words in [&["powerstatus"][..], &["powerstatus", "ipmi/mode", "redfish"]] {
            ensure!(self.act(words)? == "On", "the machine is not on");
        }

        println!("\n-- back to in-band, and media by hand --");
        self.server.expect(
            &["machines", "remove", MACHINE, "param", "boot-virtual-iso"],
            &Value::Bool(true),
        )?;
        self.run(&["machines", "workflow", MACHINE, ""])?;
        self.run(&["machines", "bootenv", MACHINE, "local"])?;
        ensure!(
            self.act(&["unmountVirtualMedia", "ipmi/mode", "redfish"])? == "Success",
            "not unmounted"
        );
        let media = self.act(&["statusVirtualMedia", "ipmi/mode", "redfish"])?;
        ensure!(media["Inserted"] == false, "still inserted: {media}");
        let url = format!("http://127.0.0.1:{}{image}", self.server.files);
        let mount = [
            "mountVirtualMedia",
            "ipmi/mode",
            "redfish",
            "ipmi/virtual-media-url",
            &url,
        ];
        let mounted = self.act(&[&mount[..], &["ipmi/virtual-media-boot", "true"]].concat())?;
        ensure!(mounted == "Success", "not mounted: {mounted}");
        let media = self.act(&["statusVirtualMedia", "ipmi/mode", "redfish"])?;
        ensure!(
            media["Inserted"] == true && media["Image"] == url.as_str(),
            "not mounted: {media}"
        );
        ensure!(
            self.act(&["powercycle", "ipmi/mode", "redfish"])? == "Success",
            "not cycled"
        );
        self.wait_for_power("On")
    }

    /// The agent reports right after it has checked in.
    fn wait_for_inventory(&self) -> Result<Value> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let mut command = self.server.command(&["machines", "show", MACHINE])?;
            let output = command.output()?;
            let machine: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            if machine["Params"]["gohai-inventory"].is_object()
                && machine["Address"].as_str().is_some_and(|a| !a.is_empty())
            {
                return self.json(&["machines", "show", MACHINE]);
            }
            ensure!(
                Instant::now() < deadline,
                "the agent is up, but has not reported its inventory"
            );
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    fn wait_for_power(&self, wanted: &str) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.act(&["powerstatus", "ipmi/mode", "redfish"])? != wanted {
            ensure!(Instant::now() < deadline, "the machine did not come back {wanted}");
            std::thread::sleep(Duration::from_secs(1));
        }
        Ok(())
    }

    fn post_mortem(&self) {
        for log in [
            self.server.serve.log(),
            self.sim.log(),
            &self.server.dir.join("serial.log"),
        ] {
            eprintln!("\n-- end of {} --\n{}", log.display(), tail(log, 25));
        }
    }

    /// Leaves everything running.
    fn keep(mut self) {
        let server = &self.server;
        println!("\nleft running:");
        println!(
            "  API       https://127.0.0.1:{}   (process {})",
            server.api,
            server.serve.id()
        );
        println!("  files     http://127.0.0.1:{}", server.files);
        println!(
            "  BMC       https://127.0.0.1:{}   (process {})",
            self.bmc,
            self.sim.id()
        );
        println!("  password  of rocketskates in {}", server.password_file().display());
        println!("  console   {}", server.dir.join("serial.log").display());
        println!(
            "  try       RS_ENDPOINT=https://127.0.0.1:{} RS_KEY=rocketskates:$(cat {}) {} machines show {MACHINE}",
            server.api,
            server.password_file().display(),
            server.isobar.display()
        );
        println!("  end it    kill {} {}", self.sim.id(), server.serve.id());
        self.server.serve.leave();
        self.sim.leave();
    }
}
