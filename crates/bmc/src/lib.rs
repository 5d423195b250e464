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
    /// Accept anything: self-signed is the norm on BMCs.
    Insecure,
    /// SHA-256 fingerprint (lower-case hex) of the certificate.
    Pinned(String),
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

/// One conversation with one BMC. Every call has a deadline of its own; [`Bmc::close`] logs out.
#[async_trait]
pub trait Bmc: Send {
    /// Who are you.
    async fn probe(&mut self) -> Result<Probe, BmcError>;
    /// State of the virtual CD.
    async fn media(&mut self) -> Result<Media, BmcError>;
    /// Ejects whatever is in, in every place where it can be; success when nothing was.
    async fn eject(&mut self) -> Result<(), BmcError>;
    /// Inserts `url` (ejects first) by the payload ladder and reads the slot back: what it answers is inserted.
    async fn insert(&mut self, url: &str) -> Result<Media, BmcError>;
    /// One-time boot override, read back.
    async fn boot_once(&mut self, target: BootTarget) -> Result<(), BmcError>;
    /// Removes an override that is still set.
    async fn clear_boot_override(&mut self) -> Result<(), BmcError>;
    /// Power state.
    async fn power_state(&mut self) -> Result<PowerState, BmcError>;
    /// Sends a power command; does not wait for its effect.
    async fn power(&mut self, action: PowerAction) -> Result<(), BmcError>;
    /// Logs out. Best effort.
    async fn close(&mut self);
}
