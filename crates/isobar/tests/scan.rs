//! Looking for BMCs in a network, and machines made of what was found.
#![allow(clippy::unwrap_used)]

mod stage;

use std::net::Ipv4Addr;

use isobar_sim::{Manners, Sim, SimConfig};
use serde_json::Value;
use stage::{Options, PASSWORD, Server, sim_config};

/// A server and simulators at the loopback: port by port, as a network would have them address by address.
struct Site {
    server: Server,
    runtime: tokio::runtime::Runtime,
    sims: Vec<Sim>,
}

impl Site {
    fn new(options: Options, profiles: &[&str]) -> Self {
        let runtime = stage::runtime();
        let sims = profiles.iter().enumerate().map(|(n, profile)| {
            let mut config = SimConfig {
                mac: format!("52:54:00:12:00:{n:02x}"),
                tls: n % 2 == 1,
                manners: Manners::instant().with_profile(profile).unwrap(),
                ..sim_config()
            };
            if n == 0 {
                config.ipmi = Some((Ipv4Addr::LOCALHOST, 0).into());
            }
            runtime.block_on(isobar_sim::start(config)).unwrap()
        });
        let sims = sims.collect();
        let mut server = Server::new(options);
        server.start();
        Self { server, runtime, sims }
    }

    fn ports(&self) -> String {
        let port = |sim: &Sim| {
            let plain = if sim.config().tls { "" } else { "http:" };
            format!("{plain}{}", sim.address().port())
        };
        self.sims.iter().map(port).collect::<Vec<_>>().join(",")
    }

    fn scan(&self, logins: &str, more: &[&str]) -> (stage::Out, Vec<Value>) {
        let creds = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(creds.path(), logins).unwrap();
        let (file, ports) = (creds.path().to_str().unwrap(), self.ports());
        let ipmi = self.sims[0].ipmi().unwrap().port().to_string();
        let words = [
            "bmc",
            "scan",
            "127.0.0.1",
            "--creds",
            file,
            "--ports",
            &ports,
            "--ipmi-port",
            &ipmi,
        ];
        let out = self.server.isobar(&[&words[..], more].concat());
        assert!(!out.to_string().contains(PASSWORD), "{out}");
        let rows = serde_json::from_str(&out.stdout).unwrap_or_else(|error| panic!("{error}: {out}"));
        (out, rows)
    }

    fn logins(&self, n: usize) -> usize {
        let all = self.sims[n].requests().into_iter();
        all.filter(|r| r.method == "POST" && r.path.ends_with("/Sessions") && r.status != Some(201))
            .count()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for sim in self.sims.drain(..) {
            self.runtime.block_on(sim.shutdown());
        }
    }
}

#[test]
fn what_answers_is_listed_tried_once_per_login_and_becomes_machines() {
    let site = Site::new(Options::default(), &["dell-idrac9", "hpe-ilo5", "supermicro-x13"]);
    let logins = format!("root:wrong-canary\nroot:{PASSWORD}\n");
    let (out, rows) = site.scan(&logins, &[]);
    assert!(out.ok && rows.len() == 3, "{out}");
    for (sim, row) in site.sims.iter().zip(&rows) {
        assert_eq!((&row["login"], &row["ipmi"]), (&"ok".into(), &true.into()), "{row:#}");
        assert_eq!(row["model"], sim.config().manners.model, "{row:#}");
        assert_eq!(row["uuid"], sim.config().uuid.to_string(), "{row:#}");
        assert_eq!(row["macs"][0], sim.config().mac, "{row:#}");
    }
    assert_eq!(
        [0, 1, 2].map(|n| site.logins(n)),
        [1, 1, 1],
        "the wrong login went to each once"
    );
    // What was refused is held: nobody sends it again.
    let (_, rows) = site.scan("root:wrong-canary", &[]);
    assert!(rows.iter().all(|row| row["login"] == "held"), "{rows:#?}");
    assert_eq!([0, 1, 2].map(|n| site.logins(n)), [1, 1, 1]);

    let (out, rows) = site.scan(&logins, &["--import", "--name", "mach-{port}"]);
    assert!(out.ok, "{out}");
    assert!(
        rows.iter()
            .all(|row| row["machine"].as_str().unwrap().starts_with("made")),
        "{rows:#?}"
    );
    let machine = |n: usize| format!("mach-{}", site.sims[n].address().port());
    for n in 0..3 {
        let made = site.server.machine_named(&machine(n));
        assert_eq!(made["Uuid"], site.sims[n].config().uuid.to_string());
        assert_eq!(made["HardwareAddrs"][0], site.sims[n].config().mac);
        assert!(made["Params"]["ipmi/password"].is_object(), "boxed: {made:#}");
        let id = format!("Name:{}", machine(n));
        let out = site.server.isobar(&["machines", "runaction", &id, "powerstatus"]);
        assert!(out.ok && out.stdout.contains("Off"), "{out}");
    }
    // Again: those that are there are left as they are.
    let (out, rows) = site.scan(&logins, &["--import", "--name", "other-{port}"]);
    assert!(out.ok, "{out}");
    assert!(
        rows.iter()
            .all(|row| row["machine"].as_str().unwrap().contains("already")),
        "{rows:#?}"
    );
}

#[test]
fn nothing_is_sent_where_no_bmc_may_be() {
    let args = vec!["--bmc-networks".to_owned(), "10.0.0.0/8".to_owned()];
    let options = Options {
        args,
        ..Options::default()
    };
    let site = Site::new(options, &["dell-idrac9"]);
    let (out, rows) = site.scan(&format!("root:{PASSWORD}"), &[]);
    assert!(out.ok && out.stderr.contains("bmc-networks"), "{out}");
    assert!(
        rows[0]["refused"].as_str().unwrap().contains("nothing was sent"),
        "{rows:#?}"
    );
    assert!(site.sims[0].requests().is_empty());
    let out = site
        .server
        .isobar(&["bmc", "scan", "127.0.0.1", "--name", "rack-{mcs}"]);
    assert!(!out.ok && out.stderr.contains("{mac}"), "{out}");
    let out = site.server.isobar(&["bmc", "scan", "10.0.0.0/8"]);
    assert!(!out.ok && out.stderr.contains("4096"), "{out}");
}
