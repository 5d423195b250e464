//! OpenIPMI's simulated BMC, driven by isobar: cipher suite 3, a chassis that is a script, a console that is a socket.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::{Ground, Verdict};
use crate::program::Program;
use crate::server::Server;

const MACHINE: &str = "Name:peer-ipmi-sim";
const USER: &str = "ipmiusr";
const PASSWORD: &str = "calvin-and-hobbes";

/// A chassis: its power and boot device are files.
const CHASSIS: &str = r#"#!/bin/sh
cd "$(dirname "$0")" || exit 1
op=$2
shift 2
while [ $# -gt 0 ]; do
    case $op in
    get) case $1 in
        power) echo "power:$(cat power 2>/dev/null || echo 0)" ;;
        boot) echo "boot:$(cat boot 2>/dev/null || echo none)" ;;
        *) echo "$1:0" ;;
        esac ;;
    set) echo "$2" > "$1"; shift ;;
    esac
    shift
done
"#;

const EMULATED: &str = "\
mc_setbmc 0x20
mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr
sel_enable 0x20 1000 0x0a
mc_enable 0x20
";

pub(super) fn run(ground: &Ground) -> Result<Verdict> {
    let since = Instant::now();
    let (dir, server) = (ground.folder("ipmi_sim")?, ground.server()?);
    let port = UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port();
    let console = console()?;
    std::fs::create_dir_all(dir.join("state"))?;
    let chassis = dir.join("chassis");
    std::fs::write(&chassis, CHASSIS)?;
    std::fs::set_permissions(&chassis, std::fs::Permissions::from_mode(0o755))?;
    std::fs::write(dir.join("bmc.emu"), EMULATED)?;
    let levels: String = ["callback", "user", "operator", "admin"]
        .iter()
        .map(|level| format!("  allowed_auths_{level} none md2 md5 straight\n"))
        .collect();
    let lan = format!(
        "name \"peer\"\nset_working_mc 0x20\nstartlan 1\n  addr 127.0.0.1 {port}\n  priv_limit admin\n{levels}  \
         guid a123456789abcdefa123456789abcdef\nendlan\nchassis_control \"{} 0x20\"\nsol \"telnet:127.0.0.1:{console}\" 115200\n\
         user 2 true \"{USER}\" \"{PASSWORD}\" admin 10 none md2 md5 straight\n",
        chassis.display()
    );
    std::fs::write(dir.join("lan.conf"), lan)?;
    let mut sim = Command::new("ipmi_sim");
    sim.current_dir(&dir);
    sim.args(["-c", "lan.conf", "-f", "bmc.emu", "-s", "state", "-n"]);
    let mut sim = Program::start(sim, dir.join("ipmi_sim.log"))?.killed();

    server.json(&["machines", "create", r#"{"Name":"peer-ipmi-sim"}"#])?;
    let password = dir.join("bmc.password");
    std::fs::write(&password, PASSWORD)?;
    belongs(server, MACHINE, port, USER, &password)?;
    sim.wait_until("ipmi_sim", || server.act(MACHINE, &["powerstatus"]).is_ok())?;
    walk(server, MACHINE)?;
    let boot = std::fs::read_to_string(dir.join("boot")).unwrap_or_default();
    ensure!(boot.trim() == "pxe", "its boot device is {boot:?}");
    let said = server.run(&["machines", "console", MACHINE, "--until", "here is the machine"])?;
    ensure!(said.contains("here is the machine"), "its console: {said}");
    Ok(Verdict::Held(format!(
        "power on, status, cycle, off; one-time boot; console, {:.1} s",
        since.elapsed().as_secs_f64()
    )))
}

/// Makes an IPMI BMC that of a machine.
pub(super) fn belongs(server: &Server, machine: &str, port: u16, user: &str, password: &std::path::Path) -> Result<()> {
    server.set(machine, "ipmi/address", "127.0.0.1")?;
    server.set(machine, "ipmi/port-ipmitool", &port.to_string())?;
    server.set(machine, "ipmi/mode", "ipmitool")?;
    server.set(machine, "ipmi/username", user)?;
    server.set(machine, "ipmi/password", &format!("@{}", password.display()))
}

/// Switches it on and off, and has it boot from the network.
pub(super) fn walk(server: &Server, machine: &str) -> Result<()> {
    for (command, power) in [
        ("poweron", "On"),
        ("nextbootpxe", "On"),
        ("powercycle", "On"),
        ("poweroff", "Off"),
    ] {
        let answer = server.act(machine, &[command])?;
        ensure!(answer == json!("Success"), "{command}: {answer}");
        let deadline = Instant::now() + Duration::from_secs(60);
        while server.act(machine, &["powerstatus"])? != json!(power) {
            ensure!(Instant::now() < deadline, "after {command} it is not {power}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
    Ok(())
}

/// A serial console at a port: it says who it is, again and again, and repeats what is typed.
fn console() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr().context("no console")?.port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut typed = [0; 256];
                let pause = stream.set_read_timeout(Some(Duration::from_millis(200)));
                while pause.is_ok() && stream.write_all(b"here is the machine\r\n").is_ok() {
                    match stream.read(&mut typed) {
                        Ok(0) => return,
                        Ok(count) if stream.write_all(&typed[..count]).is_err() => return,
                        // Nobody types.
                        _ => {}
                    }
                }
            });
        }
    });
    Ok(port)
}
