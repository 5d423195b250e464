//! `cargo xtask demo`: the walk-through of booting a machine from its own ISO, on a real virtual machine.
//!
//! Three programs run: `isobar serve`, `isobar sim` (a BMC with a QEMU machine behind it), and the CLI. The BMC
//! reaches the server at 127.0.0.1, the machine at 192.168.77.1: two networks, as in a data centre.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde_json::Value;

use crate::packages::{self, DEMO};
use crate::run::{build_agent, build_isobar, shown, step, target};

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
    let result = stage.sledgehammer(&agent).and_then(|()| stage.play(options));
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

/// A program that ends with us.
struct Program {
    child: Option<Child>,
    log: PathBuf,
}

impl Program {
    fn start(mut command: Command, log: PathBuf) -> Result<Self> {
        println!("$ {} &", shown(&command));
        let file = File::create(&log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {}", shown(&command)))?;
        Ok(Self {
            child: Some(child),
            log,
        })
    }

    fn ensure_runs(&mut self) -> Result<()> {
        if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
            bail!("it ended ({status}): {}", tail(&self.log, 15));
        }
        Ok(())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let Some(child) = &mut self.child else { return };
        // TERM first: the simulator takes its machine with it.
        let _ = Command::new("kill").arg(child.id().to_string()).status();
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            if matches!(child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn tail(log: &Path, lines: usize) -> String {
    let text = String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// This port if nobody has it, else any.
fn free_port(wanted: u16) -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", wanted)).or_else(|_| TcpListener::bind(("127.0.0.1", 0)))?;
    Ok(listener.local_addr()?.port())
}

struct Stage {
    isobar: PathBuf,
    dir: PathBuf,
    api: u16,
    files: u16,
    bmc: u16,
    serve: Program,
    sim: Program,
}

impl Stage {
    fn up(isobar: PathBuf, dir: PathBuf, options: &Options) -> Result<Self> {
        let (api, files, bmc) = (free_port(8092)?, free_port(8091)?, free_port(8443)?);
        let bmc_password = dir.join("bmc.password");
        std::fs::write(&bmc_password, "calvin-and-hobbes\n")?;
        let local = |port: u16| format!("127.0.0.1:{port}");

        let mut serve = Command::new(&isobar);
        serve.arg("serve").arg("--data-dir").arg(dir.join("data"));
        serve.args(["--api-listen", &local(api), "--file-listen", &local(files)]);
        serve.args([
            "--address-for-bmc",
            "127.0.0.1",
            "--address-for-machine",
            MACHINE_SEES_US_AT,
        ]);
        let serve = Program::start(serve, dir.join("serve.log"))?;

        let mut sim = Command::new(&isobar);
        sim.args(["sim", "--listen", &local(bmc), "--user", BMC_USER, "--password-file"])
            .arg(&bmc_password);
        sim.args(["--machine", "qemu", "--firmware", options.firmware.name(), "--mac", MAC]);
        sim.arg("--work-dir")
            .arg(dir.join("sim"))
            .arg("--serial")
            .arg(dir.join("serial.log"));
        let sim = Program::start(sim, dir.join("sim.log"))?;

        let mut stage = Self {
            isobar,
            dir,
            api,
            files,
            bmc,
            serve,
            sim,
        };
        stage.wait_until_up()?;
        Ok(stage)
    }

    fn password_file(&self) -> PathBuf {
        self.dir.join("data/rocketskates.password")
    }

    fn wait_until_up(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            self.serve.ensure_runs().context("isobar serve")?;
            self.sim.ensure_runs().context("isobar sim")?;
            let api = self.password_file().exists()
                && self
                    .command(&["info", "get"])
                    .is_ok_and(|mut c| c.output().is_ok_and(|o| o.status.success()));
            if api && std::net::TcpStream::connect(("127.0.0.1", self.bmc)).is_ok() {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "isobar serve did not come up: {}",
                tail(&self.serve.log, 15)
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The CLI, logged in. The password goes by the environment, not by arguments.
    fn command(&self, args: &[&str]) -> Result<Command> {
        let password = std::fs::read_to_string(self.password_file()).context("no password file")?;
        let mut command = Command::new(&self.isobar);
        command
            .args(args)
            .env("RS_ENDPOINT", format!("https://127.0.0.1:{}", self.api))
            .env("RS_KEY", format!("rocketskates:{}", password.trim()))
            .env("RS_TOKEN_PATH", self.dir.join("tokens"))
            .stdin(Stdio::null());
        Ok(command)
    }

    fn sledgehammer(&self, agent: &Path) -> Result<()> {
        let mut command = self.command(&["sledgehammer", "build", "--agent"])?;
        command.arg(agent).arg("--out").arg(self.dir.join("bundle"));
        command.arg("--cache").arg(target().join("debian"));
        step(&mut command)
    }

    /// Runs a command of the walk-through: prints it, lets its progress through, gives (and prints) its answer.
    fn run(&self, args: &[&str]) -> Result<String> {
        let mut command = self.command(args)?;
        println!("\n$ {}", shown(&command));
        let output = command.stderr(Stdio::inherit()).output()?;
        let answer = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let lines: Vec<&str> = answer.lines().collect();
        if lines.len() > 24 {
            println!("{}\n  … ({} lines)", lines[..12].join("\n"), lines.len());
        } else {
            println!("{answer}");
        }
        ensure!(
            output.status.success(),
            "{} failed ({})",
            shown(&command),
            output.status
        );
        Ok(answer)
    }

    fn json(&self, args: &[&str]) -> Result<Value> {
        let answer = self.run(args)?;
        serde_json::from_str(&answer).with_context(|| format!("{} did not answer JSON", args.join(" ")))
    }

    fn expect(&self, args: &[&str], wanted: &Value) -> Result<()> {
        let answer = self.json(args)?;
        ensure!(
            answer == *wanted,
            "{}: {wanted} was expected, not {answer}",
            args.join(" ")
        );
        Ok(())
    }

    fn set(&self, param: &str, value: &str) -> Result<()> {
        self.run(&["machines", "set", MACHINE, "param", param, "to", value])
            .map(drop)
    }

    fn act(&self, words: &[&str]) -> Result<Value> {
        self.json(&[&["machines", "runaction", MACHINE], words].concat())
    }

    fn play(&self, options: &Options) -> Result<()> {
        let machine = self.json(&["machines", "create", r#"{"Name":"mach-01"}"#])?;
        let uuid = machine["Uuid"].as_str().context("the machine has no UUID")?.to_owned();
        self.set("ipmi/address", &format!("https://127.0.0.1:{}", self.bmc))?;
        self.set("ipmi/username", BMC_USER)?;
        self.set(
            "ipmi/password",
            &format!("@{}", self.dir.join("bmc.password").display()),
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
        self.expect(
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
        let url = format!("http://127.0.0.1:{}{image}", self.files);
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
            let mut command = self.command(&["machines", "show", MACHINE])?;
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
            self.serve.log.clone(),
            self.sim.log.clone(),
            self.dir.join("serial.log"),
        ] {
            eprintln!("\n-- end of {} --\n{}", log.display(), tail(&log, 25));
        }
    }

    /// Leaves everything running.
    fn keep(mut self) {
        println!("\nleft running:");
        println!(
            "  API       https://127.0.0.1:{}   (process {})",
            self.api,
            id(&self.serve)
        );
        println!("  files     http://127.0.0.1:{}", self.files);
        println!(
            "  BMC       https://127.0.0.1:{}   (process {})",
            self.bmc,
            id(&self.sim)
        );
        println!("  password  of rocketskates in {}", self.password_file().display());
        println!("  console   {}", self.dir.join("serial.log").display());
        println!(
            "  try       RS_ENDPOINT=https://127.0.0.1:{} RS_KEY=rocketskates:$(cat {}) {} machines show {MACHINE}",
            self.api,
            self.password_file().display(),
            self.isobar.display()
        );
        println!("  end it    kill {} {}", id(&self.sim), id(&self.serve));
        self.serve.child = None;
        self.sim.child = None;
    }
}

fn id(program: &Program) -> u32 {
    program.child.as_ref().map_or(0, Child::id)
}
