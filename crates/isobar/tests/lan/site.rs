//! A data centre in small: a provisioning host with a leg in the BMCs' network and one in the machines'. Nothing routes
//! between the two.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use isobar_sim::{Sim, SimConfig};
use serde_json::{Value, json};

use super::{Netns, enter};
use crate::stage::{Options, PATIENCE, Players, Server, TIMING, sim_config};

/// The provisioning host, as BMCs and as machines see it.
pub const HOST_FOR_BMC: &str = "10.71.1.1";
pub const HOST_FOR_BMC_V6: &str = "fd71:1::1";
pub const HOST_FOR_MACHINE: &str = "10.71.2.1";
/// Addresses in the BMCs' network that BMCs have.
pub const BMC: &str = "10.71.1.5";
pub const BMC_TOO: &str = "10.71.1.6";
pub const BMC_V6: &str = "fd71:1::5";
/// Where the machine's operating system is.
pub const MACHINE: &str = "10.71.2.10";

/// What the BMCs' network speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BmcNet {
    V4,
    V6,
}

pub struct Site {
    // In the order of their ends.
    sims: Vec<Bmc>,
    pub server: Server,
    pub players: Players,
    pub bmcs: Netns,
    pub machines: Netns,
    pub host: Netns,
}

/// A BMC in the BMCs' network.
struct Bmc {
    sim: Option<Sim>,
    runtime: tokio::runtime::Runtime,
}

impl Drop for Bmc {
    fn drop(&mut self) {
        if let Some(sim) = self.sim.take() {
            // An error: its runtime has panicked, and told.
            let _ = self.runtime.block_on(self.runtime.spawn(sim.shutdown()));
        }
    }
}

/// Server options of a site: this timing over the usual one, addresses by the routing table.
pub fn by_route(timing: &str) -> Options {
    Options {
        timing: format!("{TIMING},{timing}").trim_end_matches(',').to_owned(),
        addresses: (String::new(), String::new()),
        listen: "[::]".to_owned(),
        ..Options::default()
    }
}

/// Runs a test on the provisioning host of a site of its own.
pub fn on_site(net: BmcNet, options: Options, test: impl FnOnce(&mut Site) + Send) {
    if !super::available() {
        return;
    }
    let (host, bmcs, machines) = (Netns::new("host"), Netns::new("bmcs"), Netns::new("machines"));
    let addresses = |v4: &[&str], v6: &str| match net {
        BmcNet::V4 => v4.iter().map(|a| format!("{a}/24")).collect::<Vec<_>>(),
        BmcNet::V6 => vec![format!("{v6}/64")],
    };
    let (ours, theirs) = (
        addresses(&[HOST_FOR_BMC], HOST_FOR_BMC_V6),
        addresses(&[BMC, BMC_TOO], BMC_V6),
    );
    let texts = |of: &'static str| format!("{of}/24");
    host.cable("bmc0", &refs(&ours), &bmcs, "eth0", &refs(&theirs));
    let (ours, theirs) = (texts(HOST_FOR_MACHINE), texts(MACHINE));
    host.cable("mach0", &[&ours], &machines, "eth0", &[&theirs]);
    host.hosts(&format!("{BMC} bmc.site\n{BMC_TOO} bmc.site\n"));
    let name = host.name().to_owned();
    let work = || {
        enter(&name);
        let wrapper = host.wrapper();
        let mut site = Site {
            sims: Vec::new(),
            server: Server::new(Options { wrapper, ..options }),
            players: Players::default(),
            bmcs,
            machines,
            host,
        };
        site.server.start();
        test(&mut site);
    };
    std::thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

fn refs(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

impl Site {
    /// A BMC at this address with a machine on paper; its agent, if it has one, is in the machines' network. Gives its
    /// number.
    pub fn bmc(&mut self, address: &str, agent: bool, adapt: impl FnOnce(&mut SimConfig)) -> usize {
        let mut config = sim_config();
        config.listen = (address.parse::<std::net::IpAddr>().unwrap(), 0).into();
        if agent {
            let name = self.machines.name().to_owned();
            config.os_up = Some(self.players.hook_inside(Arc::new(move || enter(&name))));
        }
        adapt(&mut config);
        let runtime = self.bmcs.runtime();
        let sim = runtime
            .block_on(runtime.spawn(isobar_sim::start(config)))
            .unwrap()
            .unwrap();
        self.sims.push(Bmc {
            sim: Some(sim),
            runtime,
        });
        self.sims.len() - 1
    }

    pub fn sim(&self, number: usize) -> &Sim {
        self.sims[number].sim.as_ref().unwrap()
    }

    /// URL of what is in the BMC's virtual CD.
    pub fn image(&self, number: usize) -> String {
        self.sim(number).cd().image.unwrap()
    }

    /// A machine behind the BMC at this address; `params` go over the usual ones.
    pub fn machine(&self, name: &str, bmc: &str, params: &Value) {
        let network = json!({"prov": {
            "address": MACHINE, "netmask": "255.255.255.0", "gateway": HOST_FOR_MACHINE, "interface": "eth10", "vlan": 1020,
        }});
        let mut all = json!({"network-data": network});
        all.as_object_mut().unwrap().extend(params.as_object().unwrap().clone());
        self.server.create_machine(name, bmc, &all);
    }

    /// Begins a boot, without waiting for it.
    pub fn boot(&self, name: &str) {
        let machine = format!("Name:{name}");
        let out = self
            .server
            .isobar(&["machines", "workflow", &machine, "discover-base", "--no-wait"]);
        assert!(out.ok, "{out}");
    }

    /// Boots until the agent is up, as the CLI tells.
    pub fn boot_to_agent(&self, name: &str) -> String {
        let machine = format!("Name:{name}");
        let out = self
            .server
            .isobar(&["machines", "workflow", &machine, "discover-base", "--wait", "agent"]);
        assert!(
            out.ok,
            "{out}\nBMC: {:#?}",
            self.sims
                .iter()
                .map(|b| b.sim.as_ref().unwrap().boots())
                .collect::<Vec<_>>()
        );
        out.stderr
    }

    /// The next boot begins from here.
    pub fn back_to_local(&self, name: &str) {
        let machine = format!("Name:{name}");
        for args in [["workflow", &machine, ""], ["bootenv", &machine, "local"]] {
            let out = self.server.isobar(&[&["machines"], &args[..]].concat());
            assert!(out.ok, "{out}");
        }
    }

    pub fn set(&self, name: &str, param: &str, value: &str) {
        let machine = format!("Name:{name}");
        let out = self
            .server
            .isobar(&["machines", "set", &machine, "param", param, "to", value]);
        assert!(out.ok, "{out}");
    }

    /// Waits until the newest boot of a machine is as wanted; gives it.
    pub fn wait_boot(&self, name: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let boot = self.server.last_boot_of(name);
            if is(&boot) {
                return boot;
            }
            assert!(Instant::now() < deadline, "never: {what}\n{boot:#}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits for the end of a boot, which has to fail for this reason; gives message and hint.
    pub fn fails(&self, name: &str, reason: &str) -> (String, String) {
        let boot = self.wait_boot(name, "the boot has failed", |boot| boot["state"] == "failed");
        assert_eq!(boot["error"]["reason"], reason, "{boot:#}");
        let text = |member: &str| boot["error"][member].as_str().unwrap().to_owned();
        (text("message"), text("hint"))
    }

    /// Folder of this site.
    pub fn dir(&self) -> &Path {
        self.server.dir()
    }
}
