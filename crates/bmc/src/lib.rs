//! Conversations with baseboard management controllers.
//!
//! This crate knows BMCs and nothing else: no database, no machine object, no file plane. A
//! [`Bmc`] is one short conversation; whoever holds it sees to it that there is only one at a time
//! per BMC.

pub mod address;
pub mod error;
pub mod record;
pub mod redfish;
pub mod secret;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

pub use address::{AddressPolicy, Network};
pub use error::{BmcError, ErrorClass};
pub use record::{Exchange, NoRecorder, Recorder, Redactor};
pub use secret::Secret;

/// How a BMC's certificate is judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TlsTrust {
    /// Accept anything.
    Insecure,
    /// Accept anything, as [`Self::Insecure`]; whoever holds the conversation then pins what was shown
    /// ([`Bmc::certificate`]). Self-signed is the norm on BMCs.
    FirstUse,
    /// SHA-256 fingerprint (lower-case hex) of the certificate.
    Pinned(String),
    /// Signed by one of these (PEM), for the name or address that the BMC is reached by, and not expired.
    Authority(String),
}

/// The certificate that a BMC showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// SHA-256, lower-case hex.
    pub fingerprint: String,
    /// The BMC has shown that it holds the key: this certificate can be pinned.
    pub proven: bool,
}

/// How a BMC is spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Redfish, and IPMI where that is not there.
    #[default]
    Auto,
    /// Redfish only.
    Redfish,
    /// IPMI only.
    Ipmi,
}

/// The IPMI face of a BMC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpmiFace {
    /// UDP port.
    pub port: u16,
    /// The machine boots by UEFI: IPMI has to be told.
    pub uefi: bool,
}

impl Default for IpmiFace {
    fn default() -> Self {
        Self { port: 623, uefi: true }
    }
}

/// Where a BMC is and how to log in.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Scheme, host and port: `https://10.0.0.5:443/`.
    pub url: url::Url,
    /// Login.
    pub username: String,
    /// Password.
    pub password: Secret<String>,
    /// Certificate rule.
    pub tls: TlsTrust,
    /// The system, where one BMC has several: its Redfish id, URI or UUID. One that is not there is an error.
    pub system: Option<String>,
    /// UUID that the system may have, where none is named and there are several.
    pub machine_uuid: Option<String>,
    /// How it is spoken to.
    pub mode: Mode,
    /// Its IPMI.
    pub ipmi: IpmiFace,
    /// Shadow mode: it is logged in and read, and what would change the BMC is not sent.
    pub shadow: bool,
}

/// State of the virtual CD.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Media {
    /// URI of the slot.
    pub slot: String,
    /// URL that it says is mounted; none when empty.
    pub image: Option<String>,
    /// Whether the BMC says that something is in.
    pub inserted: bool,
}

/// What the power is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PowerState {
    /// On.
    On,
    /// Off.
    Off,
    /// On its way up.
    PoweringOn,
    /// On its way down.
    PoweringOff,
    /// The BMC does not say.
    #[default]
    Unknown,
}

/// What to do with the power. Mapped to each BMC's own reset types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PowerAction {
    /// Switch on.
    On,
    /// Cut.
    ForceOff,
    /// Ask the operating system to shut down.
    GracefulShutdown,
    /// DRP's `powercycle`: PowerCycle, else ForceRestart, else off and on.
    Cycle,
}

/// From where to boot once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BootTarget {
    /// The virtual CD.
    Cd,
    /// Network.
    Pxe,
    /// First disk.
    Disk,
}

/// What a BMC says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// Manufacturer.
    pub vendor: String,
    /// Model of the system.
    pub model: String,
    /// Firmware of the manager.
    pub firmware: String,
    /// Redfish version of the service root.
    pub redfish_version: String,
    /// SMBIOS UUID of the system, lower case.
    pub system_uuid: Option<String>,
    /// URI of the chosen system.
    pub system: String,
    /// URI of the chosen manager.
    pub manager: String,
    /// URI of the chosen virtual CD slot, if there is one.
    pub media_slot: Option<String>,
}

/// Secure Boot, as the BMC says; none: it does not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecureBoot {
    /// Set for the next boot (`SecureBootEnable`).
    pub enabled: Option<bool>,
    /// In force since the last one (`SecureBootCurrentBoot`).
    pub in_force: Option<bool>,
    /// `SecureBootMode`: `UserMode`, `SetupMode` …
    pub mode: Option<String>,
}

/// What the machine behind a BMC is like.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostState {
    /// Power.
    pub power: PowerState,
    /// `BootSourceOverrideMode`: `UEFI` or `Legacy`.
    pub boot_mode: Option<String>,
    /// `BootSourceOverrideTarget`.
    pub boot_target: Option<String>,
    /// `BootSourceOverrideEnabled`.
    pub boot_enabled: Option<String>,
    /// [`Bmc::boot_once`] from the virtual CD imports a configuration profile, which shows nowhere.
    #[serde(default)]
    pub boot_by_profile: bool,
    /// Whether [`Bmc::boot_http_once`] is offered.
    pub http_boot: bool,
    /// Secure Boot; none where the BMC has no such resource.
    pub secure_boot: Option<SecureBoot>,
    /// How far the machine has come, in the BMC's words.
    pub boot_progress: Option<String>,
}

/// What a way of talking to BMCs has no words for.
fn unsupported(what: &'static str) -> BmcError {
    let text = "the protocol that this BMC is spoken to with has no such function";
    BmcError::new(ErrorClass::Unsupported, what, text)
}

/// A part of what a BMC knows of its machine or itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The system.
    Info,
    /// Settings of the firmware.
    Bios,
    /// Boot order and override.
    Boot,
    /// Secure Boot.
    SecureBoot,
    /// Memory modules.
    Memory,
    /// Storage with its drives.
    Storage,
    /// The older model of storage.
    SimpleStorage,
    /// Processors.
    Processors,
    /// Network adapters, as the system has them.
    NetworkInterfaces,
    /// Ports of the system.
    EthernetInterfaces,
    /// Ports of the BMC itself.
    Lan,
    /// What time the BMC thinks it is.
    Clock,
    /// Names of its licences.
    Licences,
    /// Slots that can take a CD: `Uri`, `Way`, `Inserted`, `Image`.
    Slots,
    /// The event log, oldest entry first.
    EventLog,
    /// Sensors with what they read.
    Sensors,
    /// What it is built of: board and product.
    Fru,
}

/// One conversation with one BMC. Every call has a deadline of its own; [`Bmc::close`] logs out. One that answers
/// [`Bmc::rest`] with yes may be kept for a while, and go on ([`Bmc::go_on`]).
#[async_trait]
pub trait Bmc: Send {
    /// Who are you.
    async fn probe(&mut self) -> Result<Probe, BmcError>;
    /// State of the virtual CD.
    async fn media(&mut self) -> Result<Media, BmcError>;
    /// Ejects whatever is in, in every place where it can be; success when nothing was.
    async fn eject(&mut self) -> Result<(), BmcError>;
    /// Inserts `url` (ejects first) by the payload ladder and reads the slot back: what it answers is inserted.
    async fn insert(&mut self, url: &str) -> Result<Media, BmcError> {
        self.insert_one_of(&[url.to_owned()]).await
    }
    /// Inserts an image that has several places, best first: `http`, `https`, `nfs`. Which of them follows from what the
    /// BMC lists and refuses.
    async fn insert_one_of(&mut self, urls: &[String]) -> Result<Media, BmcError>;
    /// One-time boot override, read back.
    async fn boot_once(&mut self, target: BootTarget) -> Result<(), BmcError>;
    /// One-time UEFI HTTP boot of `url`, where the BMC takes an `HttpBootUri`.
    async fn boot_http_once(&mut self, url: &str) -> Result<(), BmcError>;
    /// Boots from there from now on, not just once.
    async fn boot_always(&mut self, target: BootTarget) -> Result<(), BmcError> {
        let _ = target;
        Err(unsupported("set the boot device for good"))
    }
    /// Switches the identify light on for so many seconds, or off (0); whether it goes out by itself.
    async fn identify(&mut self, seconds: u8) -> Result<bool, BmcError> {
        let _ = seconds;
        Err(unsupported("identify"))
    }
    /// What the BMC has of a part, as it writes it: one resource, or a list of them.
    async fn inventory(&mut self, part: Part) -> Result<serde_json::Value, BmcError> {
        let _ = part;
        Err(unsupported("read the inventory"))
    }
    /// Resources by their URIs, as the BMC writes them but for secrets; none: not there, or not for this user. What the
    /// time did not suffice for is left out at the end.
    async fn resources(&mut self, uris: &[String]) -> Result<Vec<(String, Option<serde_json::Value>)>, BmcError> {
        let _ = uris;
        Err(unsupported("read its resources"))
    }
    /// Empties the event log.
    async fn clear_event_log(&mut self) -> Result<(), BmcError> {
        Err(unsupported("clear the event log"))
    }
    /// What the machine is like.
    async fn host(&mut self) -> Result<HostState, BmcError>;
    /// Restarts the BMC itself: it is deaf for minutes then, and what is in its virtual CD is lost.
    async fn reset_bmc(&mut self) -> Result<(), BmcError>;
    /// Ends the sessions that our own user has left open, but for this one; how many.
    async fn clear_sessions(&mut self) -> Result<u32, BmcError> {
        Err(unsupported("end sessions"))
    }
    /// Removes an override that is still set.
    async fn clear_boot_override(&mut self) -> Result<(), BmcError>;
    /// The same of [`Bmc::boot_http_once`]: the URL that it was given does not stay, either.
    async fn clear_http_boot(&mut self) -> Result<(), BmcError> {
        self.clear_boot_override().await
    }
    /// Power state.
    async fn power_state(&mut self) -> Result<PowerState, BmcError>;
    /// Sends a power command; does not wait for its effect.
    async fn power(&mut self, action: PowerAction) -> Result<(), BmcError>;
    /// The certificate that the BMC showed, for pinning at first use; none over plain HTTP.
    fn certificate(&self) -> Option<Certificate>;
    /// The exchange is over: whether the conversation can be kept for another one. What cannot be kept of it is closed here.
    async fn rest(&mut self) -> bool {
        false
    }
    /// Another exchange begins in a conversation that was kept: with the same BMC under the same login, about the system
    /// that `endpoint` means. `recorder` is given its exchanges, and it ends after `within`, but for logging out.
    fn go_on(&mut self, endpoint: &Endpoint, recorder: Arc<dyn Recorder>, within: Duration) {
        let _ = (endpoint, recorder, within);
    }
    /// Logs out. Best effort.
    async fn close(&mut self);
}
