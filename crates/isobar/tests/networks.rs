//! Boots in networks as data centres have them: BMCs in one, machines in another, this server in both, and nothing
//! that routes between the two. The networks are namespaces, so that an address that is wrong reaches nobody.
#![allow(clippy::unwrap_used)]

mod lan;
mod stage;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::Duration;

use isobar_sim::{Manners, Power, ReadManner, Sim, SimConfig};
use lan::site::{
    BMC, BMC_TOO, BMC_V6, BmcNet, HOST_FOR_BMC, HOST_FOR_BMC_V6, HOST_FOR_MACHINE, MACHINE, Site, by_route, on_site,
};
use lan::switch::Port;
use serde_json::{Value, json};
use stage::Options;

fn given(for_bmc: &str, for_machine: &str, timing: &str) -> Options {
    Options {
        addresses: (for_bmc.to_owned(), for_machine.to_owned()),
        ..by_route(timing)
    }
}

/// Slow enough to be cut off in the middle.
fn slowly(config: &mut SimConfig) {
    config.manners = Manners {
        read: ReadManner::AtInsert,
        rate_bps: Some(1 << 20),
        ..config.manners.clone()
    };
}

#[test]
fn bmc_and_machine_are_each_given_the_address_that_they_reach() {
    for options in [by_route(""), given(HOST_FOR_BMC, HOST_FOR_MACHINE, "")] {
        on_site(BmcNet::V4, options, |site| {
            site.server.import();
            let bmc = site.bmc(BMC, true, |_| {});
            site.machine("m1", site.sim(bmc).url().as_str(), &json!({}));
            site.boot_to_agent("m1");

            let files = site.server.files_port();
            let image = site.image(bmc);
            assert!(image.starts_with(&format!("http://{HOST_FOR_BMC}:{files}/")), "{image}");
            let os = site.players.all().pop().unwrap();
            let api = format!("https://{HOST_FOR_MACHINE}:{}", site.server.api_port());
            assert_eq!(os.boot["api"], json!([api]));
            let web = format!("provisioner.web=http://{HOST_FOR_MACHINE}:{files}");
            assert!(os.command_line.contains(&web), "{}", os.command_line);
            let menu = site.server.isobar(&["isos", "cat", "Name:m1", "boot/grub/grub.cfg"]);
            assert!(menu.ok && menu.stdout.contains(&web), "{menu}");
            assert!(!menu.stdout.contains(HOST_FOR_BMC), "{menu}");
            let boot = site.server.last_boot_of("m1");
            assert_eq!(boot["read_from_elsewhere"], Value::Null, "{boot:#}");

            // That it could not have worked otherwise: neither side reaches the other's leg.
            let at = |host: &str| format!("http://{host}:{files}/x/boot.iso");
            assert!(site.bmcs.get(&at(HOST_FOR_BMC), None).is_ok());
            assert!(site.bmcs.get(&at(HOST_FOR_MACHINE), None).is_err());
            assert!(site.machines.get(&at(HOST_FOR_MACHINE), None).is_ok());
            assert!(site.machines.get(&at(HOST_FOR_BMC), None).is_err());
        });
    }
}

#[test]
fn an_address_of_the_wrong_network_is_named_when_the_boot_fails() {
    on_site(BmcNet::V4, by_route("first_read_s=8,agent_s=8"), |site| {
        site.server.import();
        let bmc = site.bmc(BMC, true, |config| config.manners.read = ReadManner::Lazy);
        let swapped = json!({"isobar/server-address-bmc": HOST_FOR_MACHINE});
        site.machine("m1", site.sim(bmc).url().as_str(), &swapped);
        site.boot("m1");
        let (_, hint) = site.fails("m1", "image-never-read");
        let url = format!("http://{HOST_FOR_MACHINE}:{}", site.server.files_port());
        assert!(hint.contains(&url) && hint.contains("boot-virtual-iso-url"), "{hint}");

        site.back_to_local("m1");
        site.set("m1", "isobar/server-address-bmc", HOST_FOR_BMC);
        site.set("m1", "isobar/server-address-machine", HOST_FOR_BMC);
        site.boot("m1");
        let (_, hint) = site.fails("m1", "agent-silent");
        let url = format!("https://{HOST_FOR_BMC}:{}", site.server.api_port());
        assert!(
            hint.contains(&url) && hint.contains("isobar/server-address-machine"),
            "{hint}"
        );

        // A BMC that reads while it inserts says no at once, and cannot say why.
        let eager = site.bmc(BMC, true, |config| config.manners.read = ReadManner::CopyAll);
        site.machine("eager", site.sim(eager).url().as_str(), &swapped);
        site.boot("eager");
        let boot = site.wait_boot("eager", "it has failed", |boot| boot["state"] == "failed");
        let error = boot["error"].to_string();
        assert!(error.contains(&format!("http://{HOST_FOR_MACHINE}:")), "{error}");
    });
}

/// Where an image is read from, and what becomes of it.
struct Reader {
    /// Params of the machine.
    params: Value,
    /// `ipmi/address`, with `PORT`.
    bmc: &'static str,
    /// Address of the BMC that reads, and whether it is served.
    other_bmc: (&'static str, bool),
    /// Whether the machine's network is served.
    machine: bool,
    /// Whether that is told on the boot.
    told: bool,
}

#[test]
fn an_image_is_for_its_bmc_alone_where_that_is_wanted() {
    let strict = json!({"isobar/strict-image-peer": true});
    let table = [
        // By default everybody is served, and strangers are told of.
        Reader {
            params: json!({}),
            bmc: "http://10.71.1.5:PORT",
            other_bmc: (BMC, true),
            machine: true,
            told: true,
        },
        Reader {
            params: strict.clone(),
            bmc: "http://10.71.1.5:PORT",
            other_bmc: (BMC_TOO, false),
            machine: false,
            told: true,
        },
        Reader {
            params: strict.clone(),
            bmc: "http://[::ffff:10.71.1.5]:PORT",
            other_bmc: (BMC, true),
            machine: false,
            told: true,
        },
        // A name stands for the addresses that it had when the BMC was reached; all of them.
        Reader {
            params: strict,
            bmc: "http://bmc.site:PORT",
            other_bmc: (BMC_TOO, true),
            machine: false,
            told: true,
        },
        // Behind NAT: what is named is the BMC.
        Reader {
            params: json!({"isobar/strict-image-peer": true, "isobar/image-peers": ["10.71.2.0/24"]}),
            bmc: "http://10.71.1.5:PORT",
            other_bmc: (BMC, true),
            machine: true,
            told: false,
        },
    ];
    on_site(BmcNet::V4, by_route("exchange_s=10"), |site| {
        site.server.import();
        for (n, reader) in table.iter().enumerate() {
            let name = format!("m{n}");
            let bmc = site.bmc("0.0.0.0", false, |_| {});
            let address = reader.bmc.replace("PORT", &site.sim(bmc).address().port().to_string());
            site.machine(&name, &address, &reader.params);
            site.boot(&name);
            // The BMC's own reads are served in any case.
            site.wait_boot(&name, "the kernel has started", |boot| {
                boot["phase"] == "kernel-started"
            });
            let url = site.image(bmc);
            assert!(url.starts_with(&format!("http://{HOST_FOR_BMC}:")), "{url}");
            let status = |served: bool| if served { 206 } else { 403 };
            let (other, served) = reader.other_bmc;
            let other: IpAddr = other.parse().unwrap();
            assert_eq!(
                site.bmcs.get(&url, Some(other)).unwrap(),
                status(served),
                "{address} from {other}"
            );
            let to_machine = url.replace(HOST_FOR_BMC, HOST_FOR_MACHINE);
            assert_eq!(
                site.machines.get(&to_machine, None).unwrap(),
                status(reader.machine),
                "{address}"
            );
            if !reader.told {
                let boot = site.server.last_boot_of(&name);
                assert_eq!(boot["read_from_elsewhere"], Value::Null);
                assert_eq!(boot["refused_reader"], Value::Null);
                continue;
            }
            let member = if reader.machine {
                "read_from_elsewhere"
            } else {
                "refused_reader"
            };
            let boot = site.wait_boot(&name, "the stranger is told of", |boot| boot[member] == MACHINE);
            let told = boot["log"].as_array().unwrap().iter().any(|line| {
                let text = line["text"].as_str().unwrap();
                text.contains(MACHINE) && text.contains(BMC)
            });
            assert!(told, "{boot:#}");
            if !served {
                // It is who asks, not the URL; and when the machine is gone, the URL is nobody's.
                let own: IpAddr = BMC.parse().unwrap();
                assert_eq!(site.bmcs.get(&url, Some(own)).unwrap(), 206);
                let out = site.server.isobar(&["machines", "destroy", &format!("Name:{name}")]);
                assert!(out.ok, "{out}");
                assert_eq!(site.bmcs.get(&url, Some(own)).unwrap(), 410);
                assert!([403, 410].contains(&site.bmcs.get(&url, Some(other)).unwrap()));
            }
        }
    });
}

#[test]
fn a_strict_server_serves_nobody_before_it_knows_the_bmc() {
    let options = Options {
        args: vec!["--strict-bmc-address".to_owned()],
        ..by_route("exchange_s=8,tries=2,first_read_s=8")
    };
    on_site(BmcNet::V4, options, |site| {
        site.server.import();
        site.machine("nameless", "http://nowhere.site:80", &json!({}));
        site.boot("nameless");
        let (message, hint) = site.fails("nameless", "bmc-unreachable");
        assert!(
            message.contains("nowhere.site") && message.contains("cannot be resolved"),
            "{message}"
        );
        assert!(hint.contains("ipmi/address"), "{hint}");

        // A BMC whose reads do not come from its own address, as behind NAT: refused, and the reason says what to set.
        let bmc = site.bmc("0.0.0.0", false, |config| config.manners.read = ReadManner::Lazy);
        let address = format!("http://{BMC_TOO}:{}", site.sim(bmc).address().port());
        site.machine("nat", &address, &json!({}));
        site.boot("nat");
        let (_, hint) = site.fails("nat", "image-never-read");
        for words in [BMC, BMC_TOO, "isobar/image-peers", "isobar/strict-image-peer"] {
            assert!(hint.contains(words), "{words}: {hint}");
        }
        assert_eq!(site.server.last_boot_of("nat")["refused_reader"], BMC);
    });
}

#[test]
fn a_name_stands_for_those_of_its_addresses_that_bmcs_may_have() {
    let options = Options {
        args: vec!["--bmc-networks".to_owned(), format!("{BMC_TOO}/32")],
        ..by_route("exchange_s=10")
    };
    on_site(BmcNet::V4, options, |site| {
        let allowed = site.bmc(BMC_TOO, false, |_| {});
        let port = site.sim(allowed).address().port();
        let other = site.bmc(BMC, false, |config| config.listen.set_port(port));
        for (n, address) in [&format!("http://bmc.site:{port}"), &format!("http://{BMC}:{port}")]
            .iter()
            .enumerate()
        {
            let name = format!("m{n}");
            site.machine(&name, address, &json!({}));
            let name = format!("Name:{name}");
            let out = site.server.isobar(&["machines", "runaction", &name, "powerstatus"]);
            assert_eq!(out.ok, n == 0, "{address}: {out}");
            assert!(out.ok || out.stderr.contains("nothing was sent"), "{out}");
        }
        assert!(!site.sim(allowed).requests().is_empty());
        assert!(
            site.sim(other).requests().is_empty(),
            "{:?}",
            site.sim(other).requests()
        );
    });
}

#[test]
fn a_network_of_bmcs_that_speaks_only_ipv6() {
    on_site(BmcNet::V6, by_route(""), |site| {
        site.server.import();
        let plain = site.bmc(BMC_V6, true, |_| {});
        let tls = site.bmc(BMC_V6, true, |config| config.tls = true);
        let port = |bmc: usize| site.sim(bmc).address().port();
        for (n, (bmc, address, params)) in [
            (plain, format!("http://[{BMC_V6}]:{}", port(plain)), json!({})),
            (tls, BMC_V6.to_owned(), json!({"ipmi/port-redfish": port(tls)})),
            (tls, format!("[{BMC_V6}]"), json!({"ipmi/port-redfish": port(tls)})),
        ]
        .into_iter()
        .enumerate()
        {
            let name = format!("m{n}");
            let mut params = params;
            params["isobar/strict-image-peer"] = json!(true);
            site.machine(&name, &address, &params);
            site.boot_to_agent(&name);
            let image = site.image(bmc);
            assert!(
                image.starts_with(&format!("http://[{HOST_FOR_BMC_V6}]:")),
                "{address}: {image}"
            );
            let boot = site.server.last_boot_of(&name);
            assert_eq!(
                (&boot["read_from_elsewhere"], &boot["refused_reader"]),
                (&Value::Null, &Value::Null)
            );
            let os = site.players.all().pop().unwrap();
            assert!(os.boot["api"][0].as_str().unwrap().contains(HOST_FOR_MACHINE));
        }
    });
}

/// Waits until the boot is in the middle of its reads.
fn wait_for_reads(site: &Site, bmc: usize) {
    let begun = |sim: &Sim| {
        sim.boots()
            .iter()
            .any(|boot| boot.stages.iter().any(|s| s.stage == "menu"))
    };
    site.server.wait("the kernel is being read", |_| begun(site.sim(bmc)));
}

#[test]
fn a_cable_that_is_out_for_seconds_delays_a_boot() {
    on_site(BmcNet::V4, by_route(""), |site| {
        site.server.import();
        let bmc = site.bmc(BMC, true, slowly);
        site.machine("m1", site.sim(bmc).url().as_str(), &json!({}));
        site.boot("m1");
        wait_for_reads(site, bmc);
        site.bmcs.ip("link set eth0 down");
        // How long it is out is what is tried here.
        std::thread::sleep(Duration::from_secs(2));
        site.bmcs.ip("link set eth0 up");
        let boot = site.wait_boot("m1", "the boot is over", |boot| boot["state"] != "running");
        assert_eq!(
            (&boot["state"], &boot["agent_up"]),
            (&json!("done"), &json!(true)),
            "{boot:#}"
        );
        assert_eq!(site.sim(bmc).boots().len(), 1, "one power-on was enough");
    });
}

#[test]
fn a_cable_that_stays_out_ends_a_boot_with_the_place() {
    on_site(BmcNet::V4, by_route("exchange_s=8,tries=2,agent_s=8"), |site| {
        site.server.import();
        // Between server and machine, after its kernel has started.
        let mute = site.bmc(BMC, true, |_| {});
        site.machine("mute", site.sim(mute).url().as_str(), &json!({}));
        site.machines.ip("link set eth0 down");
        site.boot("mute");
        let (message, hint) = site.fails("mute", "agent-silent");
        assert!(message.contains("has read the image"), "{message}");
        assert!(hint.contains(&format!("https://{HOST_FOR_MACHINE}:")), "{hint}");
        assert_eq!(site.players.all().len(), 1, "its operating system was up");

        // Between server and BMC, before anything could be said to it.
        site.bmcs.ip("link set eth0 down");
        site.machine("deaf", &format!("http://{BMC_TOO}:80"), &json!({}));
        site.boot("deaf");
        let (message, hint) = site.fails("deaf", "bmc-unreachable");
        assert!(message.contains(BMC_TOO), "{message}");
        assert!(hint.contains("ipmi/address") && hint.contains("route"), "{hint}");
    });
}

#[test]
fn a_cable_that_goes_out_for_good_while_the_bmc_reads_ends_a_boot() {
    on_site(BmcNet::V4, by_route("exchange_s=8,tries=2,stalled_s=8"), |site| {
        site.server.import();
        let bmc = site.bmc(BMC, true, slowly);
        site.machine("m1", site.sim(bmc).url().as_str(), &json!({}));
        site.boot("m1");
        wait_for_reads(site, bmc);
        site.bmcs.ip("link set eth0 down");
        let (_, hint) = site.fails("m1", "read-stalled");
        assert!(hint.contains("link between BMC and isobar"), "{hint}");
        assert_eq!(
            site.server.last_boot_of("m1")["cleanup"],
            true,
            "the BMC is owed an eject"
        );
    });
}

#[test]
fn an_address_that_no_route_leads_to_is_said_with_what_to_do() {
    on_site(BmcNet::V4, by_route("tries=2"), |site| {
        site.server.import();
        site.machine("lost", "https://10.99.9.9", &json!({}));
        site.boot("lost");
        let (message, hint) = site.fails("lost", "bmc-unreachable");
        assert!(
            message.contains("10.99.9.9") && message.contains("unreachable"),
            "{message}"
        );
        assert!(
            hint.contains("no route") && hint.contains("ip route get 10.99.9.9"),
            "{hint}"
        );

        // A machine that asks DHCP could be anywhere, and there is no default route.
        let bmc = site.bmc(BMC, false, |_| {});
        site.machine("anywhere", site.sim(bmc).url().as_str(), &json!({"network-data": {}}));
        site.boot("anywhere");
        let (message, hint) = site.fails("anywhere", "server-address");
        assert!(message.contains("no route by default"), "{message}");
        assert!(hint.contains("--address-for-machine"), "{hint}");
        assert_eq!(site.sim(bmc).power(), Power::Off, "nothing was begun");
    });
}

const VLAN: u16 = 1020;
const MAC: &str = "52:54:00:15:0b:a2";
const VLAN_HOST: &str = "10.71.3.1";
const VLAN_MACHINE: &str = "10.71.3.10";

/// A program that ends with the test.
struct Program(std::process::Child);

impl Drop for Program {
    fn drop(&mut self) {
        // TERM: the simulator takes its machine with it.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

/// The real thing: a virtual machine whose network is an 802.1Q VLAN, and Sledgehammer in it.
#[test]
fn a_virtual_machine_reaches_the_server_through_its_vlan() {
    if !lan::available() {
        return;
    }
    // Here, since packages may have to be fetched.
    let work = tempfile::tempdir().unwrap();
    let options = isobar_sledgehammer::BuildOptions {
        out: work.path().join("bundle"),
        agent: agent(),
        // The demo's: one download, one compression.
        cache: target().join("debian"),
        kernel: None,
    };
    let bundle = isobar_sledgehammer::build(&options, &mut |step| eprintln!("{step}")).unwrap();
    on_site(
        BmcNet::V4,
        by_route("first_read_s=120,stalled_s=120,agent_s=300"),
        |site| {
            site.server.import_bundle(&bundle);
            let port = Port::new(work.path(), VLAN, &site.host, "vlan0", &format!("{VLAN_HOST}/24"));
            let password = work.path().join("bmc.password");
            std::fs::write(&password, stage::PASSWORD).unwrap();
            let serial = work.path().join("serial.log");
            let wrapper = site.bmcs.wrapper();
            let sim = Command::new(&wrapper[0])
                .args(&wrapper[1..])
                .args([
                    env!("CARGO_BIN_EXE_isobar"),
                    "sim",
                    "--listen",
                    &format!("{BMC}:8443"),
                    "--user",
                    "root",
                ])
                .args(["--machine", "qemu", "--firmware", "bios", "--mac", MAC])
                .args(["--net", &format!("unix:{}", port.socket().display())])
                .arg("--password-file")
                .arg(&password)
                .arg("--work-dir")
                .arg(work.path().join("sim"))
                .arg("--serial")
                .arg(&serial)
                .stdin(Stdio::null())
                .spawn()
                .unwrap();
            let _sim = Program(sim);
            site.server
                .wait("the BMC answers", |_| std::net::TcpStream::connect((BMC, 8443)).is_ok());
            let network = json!({"prov": {
                "address": VLAN_MACHINE, "netmask": "255.255.255.0", "gateway": VLAN_HOST, "interface": MAC, "vlan": VLAN,
            }});
            site.machine("vm", &format!("https://{BMC}:8443"), &json!({"network-data": network}));
            let out = site
                .server
                .isobar(&["machines", "workflow", "Name:vm", "discover-base", "--wait", "agent"]);
            let console = || String::from_utf8_lossy(&std::fs::read(&serial).unwrap_or_default()).into_owned();
            assert!(out.ok, "{out}\n-- console\n{}", console());
            site.server.wait("the agent has reported", |server| {
                server.machine_named("vm")["Address"] == VLAN_MACHINE
            });
            let tagged = port.seen.tagged.load(Ordering::SeqCst);
            assert!(
                tagged > 10,
                "{tagged} frames came with the tag; console:\n{}",
                console()
            );
        },
    );
}

/// The static agent, made as the demo makes it.
fn agent() -> PathBuf {
    const TARGET: &str = "x86_64-unknown-linux-gnu";
    let mut command = Command::new(env!("CARGO"));
    // Said about this test, and heard by ring's build script: it would be built anew for the demo.
    for (name, _) in std::env::vars().filter(|(n, _)| n.starts_with("CARGO_MANIFEST_") || n.starts_with("CARGO_PKG_")) {
        command.env_remove(name);
    }
    let status = command
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
        .env("RUSTFLAGS", "-Ctarget-feature=+crt-static")
        .args(["build", "--quiet", "-p", "isobar-agent", "--profile", "agent"])
        .args(["--target", TARGET, "--target-dir"])
        .arg(target())
        .status()
        .unwrap();
    assert!(status.success(), "the agent does not build");
    target().join(TARGET).join("agent/isobar-agent")
}

fn target() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap()
}
