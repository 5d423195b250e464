//! ipmitool drives the IPMI face of our simulated BMC.

use std::io::Write as _;
use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::paper::{Paper, USER};
use super::{Ground, Verdict};
use crate::run::shown;

/// Arguments; what the answer has to hold.
const WALK: &[(&[&str], &[&str])] = &[
    (&["-C", "17", "chassis", "power", "status"], &["Chassis Power is off"]),
    (&["-C", "3", "chassis", "power", "status"], &["Chassis Power is off"]),
    // It asks which suites there are, and takes the best.
    (&["mc", "info"], &["IPMI Version              : 2.0"]),
    (&["channel", "getciphers", "ipmi"], &["sha256_128", "hmac_sha1_96"]),
    (
        &["chassis", "bootdev", "cdrom", "options=efiboot"],
        &["Set Boot Device to cdrom"],
    ),
    (
        &["chassis", "bootparam", "get", "5"],
        &["a014000000", "only next boot", "EFI boot"],
    ),
    (&["chassis", "power", "on"], &["Up/On"]),
    (&["chassis", "identify", "5"], &["5 seconds"]),
    (&["sel", "list"], &["System Boot Initiated"]),
    (&["sdr", "list"], &["Inlet Temp", "21 degrees C", "Fan1"]),
    (&["fru", "print", "0"], &["Simulated server"]),
    (&["sol", "info"], &["Enabled                         : true"]),
    (&["sel", "clear"], &["Clearing SEL"]),
];

struct Tool {
    port: u16,
    password: PathBuf,
}

impl Tool {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("ipmitool");
        command.args([
            "-I",
            "lanplus",
            "-H",
            "127.0.0.1",
            "-p",
            &self.port.to_string(),
            "-U",
            USER,
            "-f",
        ]);
        command.arg(&self.password).args(args).stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Result<(bool, String)> {
        let mut command = self.command(args);
        println!("$ {}", shown(&command));
        let output = command.output().context("ipmitool")?;
        let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        Ok((output.status.success(), text.concat()))
    }
}

pub(super) fn run(ground: &Ground) -> Result<Verdict> {
    let since = Instant::now();
    let dir = ground.folder("ipmitool")?;
    let port = UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port();
    let paper = Paper::with(
        &ground.isobar,
        &dir,
        "127.0.0.1",
        &["--ipmi", &format!("127.0.0.1:{port}")],
    )?;
    let tool = Tool {
        port,
        password: paper.password_file.clone(),
    };
    for (args, wanted) in WALK {
        let (good, text) = tool.run(args)?;
        let lacks = wanted.iter().find(|wanted| !text.contains(**wanted));
        ensure!(
            good && lacks.is_none(),
            "ipmitool {}: {lacks:?} in: {text}",
            args.join(" ")
        );
    }
    // Neither a weak suite nor a wrong password.
    for suite in ["0", "1", "2"] {
        let (good, text) = tool.run(&["-C", suite, "chassis", "power", "status"])?;
        ensure!(!good, "cipher suite {suite} was taken: {text}");
    }
    let wrong = dir.join("wrong.password");
    std::fs::write(&wrong, "hobbes\n")?;
    let other = Tool { port, password: wrong };
    let (good, text) = other.run(&["-C", "17", "chassis", "power", "off"])?;
    ensure!(!good, "a wrong password was taken: {text}");
    let log = paper.wait("a boot from the CD", |log| log["boots"][0]["device"] == "Cd")?;
    ensure!(log["boots"][0]["enabled"] == "Once", "not once: {}", log["boots"][0]);
    console(&tool, &paper)?;
    for (args, power) in [
        (["chassis", "power", "cycle"], "On"),
        (["chassis", "power", "off"], "Off"),
    ] {
        let (good, text) = tool.run(&args)?;
        ensure!(good, "{}: {text}", args.join(" "));
        paper.wait(&format!("power {power}"), |log| log["power"] == power)?;
    }
    let seconds = since.elapsed().as_secs_f64();
    Ok(Verdict::Held(format!(
        "suites 17 and 3, {} commands, console both ways; suites 0 to 2 and a wrong password refused, {seconds:.1} s",
        WALK.len() + 2
    )))
}

/// Types into `sol activate`, which wants a terminal, and looks for it on the machine's console.
fn console(tool: &Tool, paper: &Paper) -> Result<()> {
    const TYPED: &str = "typed by ipmitool";
    let sol = tool.command(&["-C", "17", "sol", "activate"]);
    let line: Vec<String> = std::iter::once(sol.get_program())
        .chain(sol.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let mut script = Command::new("script");
    script.args(["-qec", &line.join(" "), "/dev/null"]);
    println!("$ {}", shown(&script));
    let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut keys = child.stdin.take().context("no keyboard")?;
    let deadline = Instant::now() + Duration::from_secs(60);
    // What is typed before it listens is lost: it is typed again.
    while !paper.serial()?.contains(TYPED) {
        ensure!(Instant::now() < deadline, "nothing that was typed came to the machine");
        keys.write_all(format!("{TYPED}\r").as_bytes())?;
        std::thread::sleep(Duration::from_millis(300));
    }
    keys.write_all(b"\r~.")?;
    let said = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    ensure!(said.contains(TYPED), "its screen does not show it: {said}");
    Ok(())
}
