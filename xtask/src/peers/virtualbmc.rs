//! OpenStack's IPMI BMC for libvirt machines (pyghmi's server side), driven by isobar.
//!
//! It has no power cycle, no cipher suite 17 (it answers suite 3 whatever is asked for), and no console.

use std::net::UdpSocket;
use std::process::Command;
use std::time::Instant;

use anyhow::Result;

use super::ipmi_sim::{belongs, walk};
use super::libvirt::{Domain, Libvirt};
use super::{Ground, Verdict, python};
use crate::program::Program;

const MACHINE: &str = "Name:peer-virtualbmc";
const DOMAIN: &str = "peer-virtualbmc";
const USER: &str = "admin";
const PASSWORD: &str = "calvin-and-hobbes";

pub(super) fn run(ground: &Ground) -> Result<Verdict> {
    let bin = python::BMC.bin()?;
    let since = Instant::now();
    let (dir, server) = (ground.folder("virtualbmc")?, ground.server()?);
    let libvirt = Libvirt::up(dir.join("libvirtd.log"))?;
    libvirt.define(&Domain {
        name: DOMAIN,
        uuid: "6f1c3a52-9a0e-4c4e-8f5e-0d6b7e1f4a03",
        mac: "52:54:00:15:0b:a3",
        uefi: false,
        serial: &dir.join("serial.log"),
    })?;
    let port = UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port();
    let control = crate::program::free_port(0)?;
    // As `vbmc add` would write it; a password is no argument.
    let own = dir.join("home/.vbmc").join(DOMAIN);
    std::fs::create_dir_all(&own)?;
    let uri = libvirt.uri();
    let config = format!(
        "[VirtualBMC]\nusername = {USER}\npassword = {PASSWORD}\naddress = 127.0.0.1\nport = {port}\ndomain_name = {DOMAIN}\n\
         libvirt_uri = {uri}\nactive = True\n"
    );
    std::fs::write(own.join("config"), config)?;
    let settings = dir.join("virtualbmc.conf");
    std::fs::write(&settings, format!("[default]\nserver_port = {control}\n"))?;
    let mut daemon = Command::new(bin.join("vbmcd"));
    daemon.arg("--foreground").env("HOME", dir.join("home"));
    daemon.env("VIRTUALBMC_CONFIG", &settings).env("TMPDIR", libvirt.tmp());
    let mut daemon = Program::start(daemon, dir.join("vbmcd.log"))?;

    server.json(&["machines", "create", r#"{"Name":"peer-virtualbmc"}"#])?;
    let password = dir.join("bmc.password");
    std::fs::write(&password, PASSWORD)?;
    belongs(server, MACHINE, port, USER, &password)?;
    daemon.wait_until("virtualbmc", || server.act(MACHINE, &["powerstatus"]).is_ok())?;
    walk(server, MACHINE)?;
    drop(daemon);
    if !crate::program::keeps_all() {
        libvirt.end()?;
    }
    Ok(Verdict::Held(format!(
        "power on, status, off and on for a cycle, off; one-time boot, {:.1} s",
        since.elapsed().as_secs_f64()
    )))
}
