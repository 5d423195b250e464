//! A simulated BMC with a machine behind it.
//!
//! [`start`] gives a Redfish BMC on a port of its own: sessions, virtual media, boot override,
//! power. Behind it is a QEMU virtual machine, or a machine on paper that reads its CD as a boot
//! would. The inserted image is read by HTTP ranges in the manner that was asked for. Faults are
//! planted while it runs ([`Sim::plant`], or `/sim/v1/faults`), and everything that happened can
//! be looked at ([`Sim::requests`], [`Sim::media`], [`Sim::boots`], or `/sim/v1/log`).
//!
//! ```no_run
//! # async fn example() -> Result<(), isobar_sim::SimError> {
//! let sim = isobar_sim::start(isobar_sim::SimConfig::quick()).await?;
//! println!("BMC at {}", sim.url());
//! sim.shutdown().await;
//! # Ok(())
//! # }
//! ```

mod accel;
mod bmc;
mod config;
mod console;
mod control;
mod error;
mod fault;
mod ipmi;
mod iso;
mod listen;
mod log;
mod machine;
mod manners;
mod medium;
mod nbd;
mod nfs;
mod paper;
mod power;
mod profile;
mod qemu;
mod qmp;
mod redfish;
mod replay_boot;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use url::Url;

use bmc::{Bmc, SlotId};
pub use bmc::{BootOverride, Power, SlotView};
pub use config::{Firmware, MachineKind, MachineNet, OsHook, SimConfig, SimOptions, UserNet};
use console::Console;
pub use error::SimError;
pub use fault::{Fault, FaultKind, Malformed, Planted};
use log::Log;
pub use log::{BootLog, MediumLog, Read, ReadCause, Request, Stage};
use machine::Machine;
pub use manners::{Manners, ReadManner, Slots};
pub use paper::{OsExit, OsUp};
use power::{Command, PowerControl};
pub use replay_boot::{Replay, replay_boot, replay_boot_blocking};

/// Commands that may wait for the machine.
const COMMANDS_MAX: usize = 64;
/// A machine ends once per start; ends of earlier starts may still be on their way.
const EVENTS_MAX: usize = 16;

/// A running simulator. Dropping it stops it at once, [`Sim::shutdown`] in order.
pub struct Sim {
    bmc: Arc<Bmc>,
    address: SocketAddr,
    fingerprint: Option<String>,
    ipmi: Option<(SocketAddr, JoinHandle<()>)>,
    listener: JoinHandle<()>,
    power: JoinHandle<()>,
    _scratch: Scratch,
}

/// A folder of our own with a short path, removed at the end: sockets do not like long ones.
struct Scratch(PathBuf);

impl Scratch {
    fn make() -> Result<Self, SimError> {
        use std::os::unix::fs::DirBuilderExt as _;
        let folder = std::env::temp_dir().join(format!("isobar-sim-{}", hex::encode(rand::random::<[u8; 8]>())));
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .map_err(|source| SimError::io("make the folder", &folder, source))?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left there is lost space in the temporary folder, nothing worse.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Starts a simulator; it serves when this returns.
///
/// # Errors
/// When an option is not usable, it cannot listen or write its work folder, or a package that the
/// machine needs is missing.
pub async fn start(config: SimConfig) -> Result<Sim, SimError> {
    let images = images_client(&config)?;
    start_one(config, images).await
}

/// Starts `count` simulators that differ in port, UUID, MAC address and work folder.
///
/// # Errors
/// As [`start`], and when there are no ports left.
pub async fn start_fleet(config: SimConfig, count: u16) -> Result<Vec<Sim>, SimError> {
    let images = images_client(&config)?;
    let mut fleet = Vec::new();
    for number in 0..count {
        fleet.push(start_one(config.sibling(number)?, images.clone()).await?);
    }
    Ok(fleet)
}

fn images_client(config: &SimConfig) -> Result<reqwest::Client, SimError> {
    // reqwest looks for the process's provider; another one installed before is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    medium::client(config.manners.image_certificate.as_deref())
}

async fn start_one(config: SimConfig, images: reqwest::Client) -> Result<Sim, SimError> {
    config.check()?;
    let listener = TcpListener::bind(config.listen)
        .await
        .map_err(|source| SimError::Listen {
            address: config.listen,
            source,
        })?;
    let address = listener.local_addr().map_err(|source| SimError::Listen {
        address: config.listen,
        source,
    })?;
    let (tls, fingerprint) = match config.tls {
        true => listen::certificate(address, config.certificate.as_deref())
            .map(|(tls, fingerprint)| (Some(tls), Some(fingerprint)))?,
        false => (None, None),
    };
    let scratch = Scratch::make()?;
    let folder = config.work_dir.clone().unwrap_or_else(|| scratch.0.clone());
    std::fs::create_dir_all(&folder).map_err(|source| SimError::io("make the work folder", &folder, source))?;

    let log = Arc::new(Log::default());
    let console = Console::open(&config, Arc::clone(&log))?;
    let (events, ends) = mpsc::channel(EVENTS_MAX);
    let machine: Box<dyn Machine> = match config.machine {
        MachineKind::Paper => Box::new(paper::PaperMachine::new(
            &config,
            Arc::clone(&log),
            Arc::clone(&console),
            events,
        )),
        MachineKind::Qemu => {
            let (log, console) = (Arc::clone(&log), Arc::clone(&console));
            Box::new(qemu::QemuMachine::new(&config, &folder, &scratch.0, log, console, events).await?)
        }
    };
    let (commands, queue) = mpsc::channel(COMMANDS_MAX);
    let replay = config.replay.as_deref().map(redfish::replay::Tree::read).transpose()?;
    let bmc = Bmc::new(config, folder, log, console, commands, images, replay);
    let ipmi = match bmc.config.ipmi {
        None => None,
        Some(address) => {
            let failed = |source| SimError::Listen { address, source };
            let socket = UdpSocket::bind(address).await.map_err(failed)?;
            let address = socket.local_addr().map_err(failed)?;
            let face = ipmi::Face::new(Arc::clone(&bmc), socket, address.port());
            Some((address, tokio::spawn(face.run())))
        }
    };
    let power = tokio::spawn(PowerControl::new(Arc::clone(&bmc), machine).run(queue, ends));
    let listener = tokio::spawn(listen::serve(Arc::clone(&bmc), listener, tls));
    Ok(Sim {
        bmc,
        address,
        fingerprint,
        ipmi,
        listener,
        power,
        _scratch: scratch,
    })
}

impl Sim {
    /// Where the BMC is: `https://127.0.0.1:40123/`.
    pub fn url(&self) -> Url {
        let scheme = if self.fingerprint.is_some() { "https" } else { "http" };
        // A socket address after a scheme always is a URL.
        #[allow(clippy::unwrap_used)]
        Url::parse(&format!("{scheme}://{}/", self.address)).unwrap()
    }

    /// Address and port of the BMC.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where its IPMI face listens (UDP), if it has one.
    pub fn ipmi(&self) -> Option<SocketAddr> {
        self.ipmi.as_ref().map(|(address, _)| *address)
    }

    /// SHA-256 of the BMC's certificate (DER), lower-case hex; none over plain HTTP.
    pub fn fingerprint(&self) -> Option<&str> {
        self.fingerprint.as_deref()
    }

    /// What it was started with.
    pub fn config(&self) -> &SimConfig {
        &self.bmc.config
    }

    /// Requests to the BMC so far.
    pub fn requests(&self) -> Vec<Request> {
        self.bmc.log.requests()
    }

    /// Requests to image servers so far.
    pub fn reads(&self) -> Vec<Read> {
        self.bmc.log.reads()
    }

    /// Media inserted so far, with what was read of each.
    pub fn media(&self) -> Vec<MediumLog> {
        self.bmc.log.media()
    }

    /// Boots so far.
    pub fn boots(&self) -> Vec<BootLog> {
        self.bmc.log.boots()
    }

    /// Power of the machine.
    pub fn power(&self) -> Power {
        self.bmc.power()
    }

    /// The boot override.
    pub fn boot_override(&self) -> BootOverride {
        self.bmc.boot_override()
    }

    /// The CD slot.
    pub fn cd(&self) -> SlotView {
        self.bmc.slot_view(SlotId::Cd)
    }

    /// The floppy slot, a decoy that boots nothing.
    pub fn floppy(&self) -> SlotView {
        self.bmc.slot_view(SlotId::Floppy)
    }

    /// How many sessions are open.
    pub fn sessions(&self) -> usize {
        self.bmc.sessions().len()
    }

    /// How many logins over IPMI were taken so far.
    pub fn ipmi_logins(&self) -> usize {
        self.bmc.ipmi_logins.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// The last 256 KiB of the serial console.
    pub fn serial(&self) -> String {
        self.bmc.console.tail()
    }

    /// Plants a fault; its number, 0 when it already happened (media lost, sessions lost).
    pub fn plant(&self, fault: impl Into<Fault>) -> u64 {
        self.bmc.plant(fault.into())
    }

    /// Removes a fault; what it holds goes on. False when there is none.
    pub fn remove_fault(&self, id: u64) -> bool {
        self.bmc.faults.remove(id)
    }

    /// Lets what a fault holds go on and ends it. False when there is none.
    pub fn release(&self, id: u64) -> bool {
        self.bmc.faults.release(id)
    }

    /// Planted faults, and how often each was met.
    pub fn faults(&self) -> Vec<Planted> {
        self.bmc.faults.list()
    }

    /// Somebody presses the power button of a machine that is off.
    pub fn switch_on(&self) -> bool {
        self.bmc.command(Command::On).is_ok()
    }

    /// Somebody else's image is in the CD slot; nothing is read of it.
    pub fn occupy(&self, image: &str) {
        self.bmc.occupy(image);
    }

    /// The guest reboots itself, as an operating system does: an override set meanwhile is followed.
    pub fn guest_reset(&self) -> bool {
        self.bmc.command(Command::GuestReset).is_ok()
    }

    /// Waits until `is` holds, looking again whenever something happened; false at the deadline.
    pub async fn wait_until(&self, deadline: Duration, is: impl Fn(&Self) -> bool) -> bool {
        let mut changes = self.bmc.log.changes();
        let wait = async {
            while !is(self) {
                if changes.changed().await.is_err() {
                    break;
                }
            }
        };
        tokio::time::timeout(deadline, wait).await.is_ok()
    }

    /// Switches the machine off and ends; another may have its ports then.
    pub async fn shutdown(mut self) {
        self.bmc.quit().await;
        // An aborted task still holds its socket until the runtime has dropped it.
        if let Some((_, face)) = &mut self.ipmi {
            face.abort();
            let _ = face.await;
        }
        self.listener.abort();
        let _ = (&mut self.listener).await;
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        if let Some((_, face)) = &self.ipmi {
            face.abort();
        }
        self.listener.abort();
        self.power.abort();
    }
}

/// Runs simulators until SIGINT or SIGTERM, for `isobar sim`; `ready` is called when they serve.
///
/// # Errors
/// As [`start`], and when no runtime can be made.
pub fn run_blocking(options: SimOptions, ready: impl FnOnce(&[Sim])) -> Result<(), SimError> {
    let count = options.count.unwrap_or(1).max(1);
    let config = options.into_config()?;
    if count > 1 && config.machine == MachineKind::Qemu {
        return Err(SimError::Config("a fleet is of paper machines: --machine paper".into()));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| SimError::Config(format!("no runtime: {e}")))?;
    runtime.block_on(async {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
            .map_err(|e| SimError::Config(format!("no signal handler: {e}")))?;
        let fleet = start_fleet(config, count).await?;
        ready(&fleet);
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        for sim in fleet {
            sim.shutdown().await;
        }
        Ok(())
    })
}
