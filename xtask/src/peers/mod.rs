//! `cargo xtask peers`: BMCs, machines and judges that nobody here wrote (docs/peers.md).

mod emulator;
mod http;
mod ipmi_sim;
mod ipmitool;
mod libvirt;
mod paper;
mod protocol;
mod python;
mod qemu_http;
mod schemathesis;
mod sushy;
mod validator;
mod virtualbmc;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, bail};

use crate::packages::{self, DEMO, PEERS};
use crate::program;
use crate::run::{build_agent, build_isobar, target};
use crate::server::Server;

/// This host, as a machine behind QEMU's user networking sees it.
const MACHINE_SEES_US_AT: &str = "192.168.77.2";
const NETWORK: &str = "192.168.77.0";
const NETMASK: &str = "255.255.255.0";

/// What a peer showed.
enum Verdict {
    /// It went well; figures.
    Held(String),
    /// It could not be tried; why.
    Skipped(String),
}

/// What a peer needs beside the program.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Needs {
    Nothing,
    /// A running server.
    Server,
    /// One with a live image.
    Image,
}

struct Peer {
    name: &'static str,
    needs: Needs,
    run: fn(&Ground) -> Result<Verdict>,
}

// The quick ones first: what is broken shows early.
const PEERS_IN_ORDER: &[Peer] = &[
    Peer {
        name: "schemathesis",
        needs: Needs::Nothing,
        run: schemathesis::run,
    },
    Peer {
        name: "validator",
        needs: Needs::Nothing,
        run: validator::run,
    },
    Peer {
        name: "protocol",
        needs: Needs::Nothing,
        run: protocol::run,
    },
    Peer {
        name: "ipmitool",
        needs: Needs::Nothing,
        run: ipmitool::run,
    },
    Peer {
        name: "ipmi_sim",
        needs: Needs::Server,
        run: ipmi_sim::run,
    },
    Peer {
        name: "virtualbmc",
        needs: Needs::Server,
        run: virtualbmc::run,
    },
    Peer {
        name: "sushy-profiles",
        needs: Needs::Nothing,
        run: sushy::profiles,
    },
    Peer {
        name: "sushy",
        needs: Needs::Image,
        run: sushy::run,
    },
    Peer {
        name: "qemu-http",
        needs: Needs::Image,
        run: qemu_http::run,
    },
    Peer {
        name: "sushy-emulator",
        needs: Needs::Image,
        run: emulator::run,
    },
];

pub(crate) struct Options {
    peers: Vec<&'static Peer>,
    keep: bool,
}

impl Options {
    pub(crate) fn parse(args: &[&str]) -> Result<Self> {
        let mut options = Self {
            peers: Vec::new(),
            keep: false,
        };
        for arg in args {
            if *arg == "--keep" {
                options.keep = true;
                continue;
            }
            let peer = PEERS_IN_ORDER.iter().find(|p| p.name == *arg).ok_or_else(|| {
                let names: Vec<&str> = PEERS_IN_ORDER.iter().map(|p| p.name).collect();
                anyhow!("cargo xtask peers knows {} and --keep, not {arg}", names.join(", "))
            })?;
            options.peers.push(peer);
        }
        if options.peers.is_empty() {
            options.peers = PEERS_IN_ORDER.iter().collect();
        }
        Ok(options)
    }
}

/// What all peers stand on.
struct Ground {
    isobar: PathBuf,
    dir: PathBuf,
    server: Option<Server>,
}

impl Ground {
    fn server(&self) -> Result<&Server> {
        self.server.as_ref().context("no server was started")
    }

    /// A fresh folder for one peer.
    fn folder(&self, name: &str) -> Result<PathBuf> {
        let dir = self.dir.join(name);
        std::fs::create_dir_all(&dir)?;
        Ok(dir)
    }
}

pub(crate) fn peers(options: &Options) -> Result<()> {
    packages::ensure(&[DEMO, PEERS])?;
    let began = Instant::now();
    if options.keep {
        program::keep_all();
    } else {
        program::tie_all();
    }
    let isobar = build_isobar()?;
    let dir = target().join("peers");
    if dir.exists() {
        std::fs::remove_dir_all(&dir).with_context(|| format!("cannot clear {}", dir.display()))?;
    }
    std::fs::create_dir_all(&dir)?;
    let mut ground = Ground {
        isobar,
        dir,
        server: None,
    };
    let needs = options.peers.iter().map(|peer| peer.needs).max();
    if needs >= Some(Needs::Server) {
        let server = Server::up(ground.isobar.clone(), ground.dir.clone(), MACHINE_SEES_US_AT)?;
        if needs == Some(Needs::Image) {
            server.sledgehammer(&build_agent()?)?;
        }
        ground.server = Some(server);
    }
    let mut lines = Vec::new();
    let mut failed = Vec::new();
    for peer in &options.peers {
        println!("\n-- {} --", peer.name);
        let since = Instant::now();
        let verdict = (peer.run)(&ground);
        let (word, text) = match verdict {
            Ok(Verdict::Held(figures)) => ("held", figures),
            // What nobody looks at must not go unnoticed.
            Ok(Verdict::Skipped(why)) if std::env::var_os("CI").is_none() => ("SKIPPED", why),
            Ok(Verdict::Skipped(why)) => {
                failed.push(peer.name);
                ("FAILED", why)
            }
            Err(error) => {
                failed.push(peer.name);
                ("FAILED", format!("{error:#}"))
            }
        };
        let line = format!("{word:<8} {:<15} {:>4} s  {text}", peer.name, since.elapsed().as_secs());
        println!("\n{line}");
        lines.push(line);
    }
    println!("\npeers, {} s:\n{}", began.elapsed().as_secs(), lines.join("\n"));
    if !failed.is_empty() {
        bail!("{} failed: logs are in {}", failed.join(", "), ground.dir.display());
    }
    Ok(())
}
