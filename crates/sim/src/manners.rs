//! How a BMC behaves, as data.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// When the BMC reads the image that was inserted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReadManner {
    /// Nothing before the machine is on; then what the machine asks for.
    Lazy,
    /// HEAD and the first block before InsertMedia is answered; the rest on demand.
    AtInsert,
    /// As at insert, and always one window ahead of the machine.
    ReadAhead,
    /// The whole image, in one GET, before InsertMedia is answered.
    CopyAll,
}

/// How a vendor's BMC behaves, as data.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Manners {
    /// Manufacturer of the system.
    pub manufacturer: String,
    /// Model of the system.
    pub model: String,
    /// Firmware version of the manager.
    pub firmware_version: String,
    /// When the image is read.
    pub read: ReadManner,
    /// Smallest piece read from the image's server, bytes.
    pub block: u32,
    /// How far `read-ahead` reads ahead, bytes.
    pub window: u32,
    /// Speed limit of reading, bytes a second.
    pub rate_bps: Option<u64>,
    /// How long a failing read is tried again before the machine gets an I/O error, ms.
    pub read_patience_ms: u64,
    /// From "On" accepted to PowerState On, ms.
    pub power_on_ms: u64,
    /// From "ForceOff" accepted to PowerState Off, ms.
    pub power_off_ms: u64,
    /// Self-test before a paper machine looks at its CD, ms.
    pub post_ms: u64,
    /// A paper kernel's time to "OS up", ms.
    pub kernel_ms: u64,
    /// A paper OS's time to shut down when asked, ms.
    pub shutdown_ms: u64,
    /// InsertMedia's own time, ms.
    pub insert_ms: u64,
    /// How many sessions there may be.
    pub session_limit: usize,
    /// A session ends after this much idleness, seconds.
    pub session_timeout_s: u64,
    /// Whether Basic authentication is taken beside sessions.
    pub basic_auth: bool,
    /// Whether PATCH without If-Match is refused with 428.
    pub if_match_required: bool,
    /// What BootSourceOverrideTarget may be.
    pub boot_targets: Vec<String>,
    /// Whether InsertMedia over an inserted image replaces it; refused when false.
    pub insert_replaces: bool,
    /// Parameters of InsertMedia that must be there beside `Image`.
    pub insert_demands: Vec<String>,
    /// Parameters of InsertMedia that are refused.
    pub insert_refuses: Vec<String>,
    /// Reset types on offer.
    pub reset_types: Vec<String>,
    /// Schemes of images that are taken; empty: http and https.
    pub image_schemes: Vec<String>,
    /// PEM file of the one certificate that an image's server may show; none: any is taken, as by most BMCs.
    pub image_certificate: Option<PathBuf>,
    /// What TransferProtocolType is said to be; empty: it is not said.
    pub image_protocols: Vec<String>,
    /// The way in where it is neither by actions of DMTF's nor by writing the slot.
    pub slots: Slots,
    /// Slots have no actions: they are written.
    pub slots_by_patch: bool,
    /// A CD slot that somebody's browser fills comes first: it has no actions and refuses to be written.
    pub dead_slots: bool,
    /// The CD's slot says DVD alone.
    pub dvd_only: bool,
    /// Booleans of slots are strings.
    pub string_booleans: bool,
    /// An empty slot's Image is "None".
    pub none_image: bool,
    /// No slot is listed until remote media is switched on.
    pub enable_first: bool,
    /// An empty slot goes on naming the image that was in.
    pub stale_image: bool,
    /// For so long after an eject a slot says that the image is in, ms.
    pub stale_inserted_ms: u64,
    /// So many inserts fail before one works.
    pub flaky_inserts: u32,
    /// EjectMedia is listed only while something is in.
    pub eject_hidden: bool,
    /// A boot override is written to the system's settings object.
    pub boot_at_settings: bool,
    /// A boot override without mode, enabled and target together is refused.
    pub full_boot: bool,
    /// The system tells how far it has come (`BootProgress`).
    pub boot_progress: bool,
    /// `Cd` is a drive in the machine; the virtual one is booted from once by a configuration profile.
    pub boot_by_profile: bool,
    /// `Once` is stored as `Continuous`, and stays.
    pub once_kept: bool,
    /// Ids of systems beside the machine's own, which come first.
    pub other_systems: Vec<String>,
    /// Model of the manager.
    pub manager_model: String,
    /// A login without `Oem` is refused.
    pub login_wants_oem: bool,
    /// Whether there are sessions; else each request carries its login.
    pub sessions: bool,
    /// How long the BMC is deaf after its own reset, ms.
    pub bmc_reset_ms: u64,
}

/// The way an image gets into a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Slots {
    /// By actions, or by writing.
    #[default]
    Standard,
    /// Huawei: one action to connect and disconnect, with a task.
    Vmm,
    /// Supermicro X10: host and path are written beside the slots, then mounted; a slot is there while something is in.
    Config,
    /// A collection without members.
    Empty,
    /// No link to any.
    Absent,
}

impl Default for Manners {
    fn default() -> Self {
        let words = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        Self {
            manufacturer: "Isobar".into(),
            model: "Simulated server".into(),
            firmware_version: env!("CARGO_PKG_VERSION").into(),
            read: ReadManner::Lazy,
            block: 64 << 10,
            window: 1 << 20,
            rate_bps: None,
            read_patience_ms: 20_000,
            power_on_ms: 500,
            power_off_ms: 500,
            post_ms: 1000,
            kernel_ms: 1000,
            shutdown_ms: 1000,
            insert_ms: 0,
            session_limit: 8,
            session_timeout_s: 300,
            basic_auth: true,
            if_match_required: false,
            boot_targets: words(&["None", "Pxe", "Floppy", "Cd", "Usb", "Hdd", "BiosSetup"]),
            insert_replaces: false,
            insert_demands: Vec::new(),
            insert_refuses: Vec::new(),
            reset_types: words(&[
                "On",
                "ForceOff",
                "GracefulShutdown",
                "GracefulRestart",
                "ForceRestart",
                "PowerCycle",
                "PushPowerButton",
            ]),
            image_schemes: Vec::new(),
            image_certificate: None,
            image_protocols: Vec::new(),
            slots: Slots::Standard,
            slots_by_patch: false,
            dead_slots: false,
            dvd_only: false,
            string_booleans: false,
            none_image: false,
            enable_first: false,
            stale_image: false,
            stale_inserted_ms: 0,
            flaky_inserts: 0,
            eject_hidden: false,
            boot_at_settings: false,
            full_boot: false,
            boot_progress: false,
            boot_by_profile: false,
            once_kept: false,
            other_systems: Vec::new(),
            manager_model: "Simulated BMC".into(),
            login_wants_oem: false,
            sessions: true,
            bmc_reset_ms: 0,
        }
    }
}

impl Manners {
    /// The defaults with every delay at zero.
    pub fn instant() -> Self {
        Self {
            read_patience_ms: 500,
            power_on_ms: 0,
            power_off_ms: 0,
            post_ms: 0,
            kernel_ms: 0,
            shutdown_ms: 0,
            ..Self::default()
        }
    }

    /// Whether the firmware downloads what `HttpBootUri` names.
    #[must_use]
    pub fn boots_by_http(&self) -> bool {
        self.boot_targets.iter().any(|target| target == "UefiHttp")
    }

    /// The same, with every delay divided.
    #[must_use]
    pub fn scaled(mut self, by: u32) -> Self {
        for delay in self.delays() {
            *delay /= u64::from(by.max(1));
        }
        self
    }

    pub(crate) fn delays(&mut self) -> [&mut u64; 8] {
        [
            &mut self.power_on_ms,
            &mut self.power_off_ms,
            &mut self.post_ms,
            &mut self.kernel_ms,
            &mut self.shutdown_ms,
            &mut self.insert_ms,
            &mut self.stale_inserted_ms,
            &mut self.bmc_reset_ms,
        ]
    }
}
