//! Vendors' manners, a row each: what a BMC calls itself, demands, refuses and offers. Not their URIs: those are the
//! simulator's own.

use crate::manners::{Manners, ReadManner, Slots};

/// A row.
struct Profile {
    name: &'static str,
    manufacturer: &'static str,
    model: &'static str,
    firmware: &'static str,
    /// Parameters of an insert that must be there, and that must not.
    demands: &'static [&'static str],
    refuses: &'static [&'static str],
    targets: &'static [&'static str],
    resets: &'static [&'static str],
    /// Schemes of images; empty: http and https.
    schemes: &'static [&'static str],
    /// Protocols that the insert's action lists.
    protocols: &'static [&'static str],
    slots: Slots,
    manners: &'static [Manner],
    manager: &'static str,
    others: &'static [&'static str],
    read: Option<ReadManner>,
    /// An insert, power on and off, and how long an ejected image shows; ms. Of real ones: docs/bmc-support.md.
    delays: [u64; 3],
    /// Seconds of idleness, and how many sessions there may be.
    sessions: (u64, usize),
}

/// A boolean of [`Manners`] that a row switches on.
type Manner = fn(&mut Manners) -> &mut bool;

const BY_PATCH: Manner = |m| &mut m.slots_by_patch;
const EJECT_HIDDEN: Manner = |m| &mut m.eject_hidden;
const AT_SETTINGS: Manner = |m| &mut m.boot_at_settings;
const FULL_BOOT: Manner = |m| &mut m.full_boot;
const IF_MATCH: Manner = |m| &mut m.if_match_required;
const DEAD_SLOTS: Manner = |m| &mut m.dead_slots;
const DVD_ONLY: Manner = |m| &mut m.dvd_only;
const STRINGS: Manner = |m| &mut m.string_booleans;
const NONE_IMAGE: Manner = |m| &mut m.none_image;
const ENABLE_FIRST: Manner = |m| &mut m.enable_first;
const STALE_IMAGE: Manner = |m| &mut m.stale_image;
const BY_PROFILE: Manner = |m| &mut m.boot_by_profile;
const PROGRESS: Manner = |m| &mut m.boot_progress;
const ONCE_KEPT: Manner = |m| &mut m.once_kept;
const LOGIN_OEM: Manner = |m| &mut m.login_wants_oem;

const FLAGS: &[&str] = &["Inserted", "WriteProtected"];
const USUAL: &[&str] = &["None", "Pxe", "Cd", "Hdd", "BiosSetup"];
const SUPERMICRO: &[&str] = &["None", "Pxe", "Cd", "Usb", "Hdd", "BiosSetup", "UsbCd", "UefiHttp"];
const PLAIN: &[&str] = &["On", "ForceOff", "GracefulShutdown", "ForceRestart"];
const HPE: &[&str] = &[
    "On",
    "ForceOff",
    "GracefulShutdown",
    "ForceRestart",
    "PushPowerButton",
    "GracefulRestart",
];
const ALL: &[&str] = &[
    "On",
    "ForceOff",
    "GracefulShutdown",
    "GracefulRestart",
    "ForceRestart",
    "PowerCycle",
];
const LIMITED: &[&str] = &["https"];
const SHARES: &[&str] = &["nfs"];
const X10: &[&str] = &["None", "Pxe", "Hdd", "UsbCd", "UefiUsbCd", "BiosSetup"];

/// A row with nothing special.
const fn row(name: &'static str, manufacturer: &'static str, model: &'static str, firmware: &'static str) -> Profile {
    Profile {
        name,
        manufacturer,
        model,
        firmware,
        demands: &[],
        refuses: &[],
        targets: USUAL,
        resets: PLAIN,
        schemes: &[],
        protocols: &[],
        slots: Slots::Standard,
        manners: &[],
        manager: "Simulated BMC",
        others: &[],
        read: None,
        delays: [1000, 2000, 0],
        sessions: (300, 8),
    }
}

#[rustfmt::skip]
const PROFILES: &[Profile] = &[
    Profile { resets: ALL, sessions: (1800, 4), schemes: SHARES, manners: &[BY_PROFILE], manager: "13G Monolithic",
        delays: [5000, 5000, 10_000], ..row("dell-idrac8", "Dell Inc.", "PowerEdge R730", "2.75.75.75") },
    Profile { resets: ALL, sessions: (1800, 8), manners: &[BY_PROFILE], manager: "14G Monolithic",
        delays: [3000, 5000, 8000], ..row("dell-idrac9-5", "Dell Inc.", "PowerEdge R740", "5.10.50.00") },
    Profile { resets: ALL, sessions: (1800, 8), manager: "16G Monolithic", delays: [3000, 5000, 8000],
        ..row("dell-idrac9", "Dell Inc.", "PowerEdge R750", "6.10.30.00") },
    Profile { resets: ALL, sessions: (1800, 8), manners: &[AT_SETTINGS], manager: "17G Monolithic",
        protocols: &["CIFS", "HTTP", "HTTPS", "NFS"], delays: [3000, 5000, 8000],
        ..row("dell-idrac10", "Dell Inc.", "PowerEdge R770", "1.20.25.00") },
    Profile { resets: HPE, sessions: (30, 16), refuses: FLAGS, manners: &[BY_PATCH], manager: "iLO 4",
        ..row("hpe-ilo4", "HPE", "ProLiant DL380 Gen9", "iLO 4 v2.82") },
    Profile { resets: HPE, sessions: (30, 16), ..row("hpe-ilo5", "HPE", "ProLiant DL380 Gen10", "iLO 5 v2.72") },
    Profile { resets: HPE, sessions: (30, 16), manners: &[PROGRESS], ..row("hpe-ilo6", "HPE", "ProLiant DL380 Gen11", "iLO 6 v1.66") },
    Profile { resets: HPE, sessions: (30, 16), protocols: &["HTTP", "HTTPS", "NFS", "CIFS", "FTP", "SFTP", "SCP", "TFTP", "OEM"],
        ..row("hpe-ilo7", "HPE", "ProLiant DL380 Gen12", "iLO 7 v1.10") },
    Profile { slots: Slots::Empty, ..row("lenovo-xcc-1", "Lenovo", "ThinkSystem SR650", "2.30") },
    Profile { demands: &["Inserted"], sessions: (300, 16), manners: &[BY_PATCH, IF_MATCH],
        ..row("lenovo-xcc", "Lenovo", "ThinkSystem SR650 V2", "2.83") },
    Profile { demands: &["Inserted"], sessions: (300, 16), manners: &[BY_PATCH, IF_MATCH],
        ..row("lenovo-xcc2", "Lenovo", "ThinkSystem SR650 V3", "4.20") },
    Profile { demands: &["Inserted"], sessions: (300, 16), manners: &[BY_PATCH, IF_MATCH],
        ..row("lenovo-xcc3", "Lenovo", "ThinkSystem SR650 V4", "1.30") },
    Profile { demands: &["TransferProtocolType"], schemes: &["https", "nfs"], protocols: &["NFS", "CIFS", "HTTPS"],
        manners: &[FULL_BOOT, NONE_IMAGE, ENABLE_FIRST], ..row("lenovo-tsm", "AMI", "ThinkSystem SR655", "3.08") },
    Profile { slots: Slots::Config, targets: X10, schemes: SHARES, sessions: (300, 16),
        ..row("supermicro-x10", "Supermicro", "X10DRi", "3.90") },
    Profile { refuses: FLAGS, targets: SUPERMICRO, sessions: (300, 16), manners: &[EJECT_HIDDEN, STALE_IMAGE],
        ..row("supermicro-x11", "Supermicro", "X11DPi", "1.73") },
    Profile { refuses: FLAGS, targets: SUPERMICRO, sessions: (300, 16), manners: &[EJECT_HIDDEN, STALE_IMAGE],
        ..row("supermicro-x12", "Supermicro", "X12DPi", "01.02") },
    Profile { targets: SUPERMICRO, resets: ALL, sessions: (300, 16), manners: &[EJECT_HIDDEN, STALE_IMAGE, PROGRESS],
        ..row("supermicro-x13", "Supermicro", "SYS-621C", "01.01.11") },
    Profile { targets: SUPERMICRO, resets: ALL, sessions: (300, 16), manners: &[EJECT_HIDDEN, STALE_IMAGE, PROGRESS],
        ..row("supermicro-x14", "Supermicro", "SYS-622C", "01.00.09") },
    Profile { demands: &["TransferProtocolType"], protocols: &["CIFS", "HTTP", "HTTPS", "NFS"], manners: &[STRINGS],
        ..row("cisco-cimc", "Cisco Systems Inc", "UCSC-C240-M6", "4.2(2a)") },
    Profile { demands: &["TransferProtocolType"], protocols: &["CIFS", "HTTP", "HTTPS", "NFS"],
        manners: &[STRINGS, DVD_ONLY, DEAD_SLOTS], ..row("cisco-ucsx", "Cisco Systems Inc", "UCSX-210C-M6", "5.0(1f)") },
    Profile { demands: &["TransferProtocolType"], manners: &[IF_MATCH],
        ..row("fujitsu-irmc", "FUJITSU", "PRIMERGY RX2540 M6", "3.32P") },
    Profile { schemes: LIMITED, manners: &[DEAD_SLOTS, PROGRESS], ..row("openbmc", "OpenBMC", "Reference", "2.15.0") },
    Profile { demands: &["TransferProtocolType"], manners: &[FULL_BOOT, NONE_IMAGE, ENABLE_FIRST], delays: [5000, 2000, 0],
        ..row("ami", "AMI", "H262-Z63", "12.84.13") },
    Profile { demands: &["TransferProtocolType", "UserName", "Password"], manners: &[AT_SETTINGS, FULL_BOOT, ENABLE_FIRST],
        sessions: (30, 8), ..row("nvidia-dgx", "NVIDIA", "DGXH100", "24.01") },
    Profile { schemes: LIMITED, manners: &[AT_SETTINGS, DEAD_SLOTS], sessions: (1800, 8), others: &["HGX_Baseboard_0"],
        ..row("nvidia-gb200", "NVIDIA", "GB200 NVL", "70.01") },
    Profile { schemes: LIMITED, manners: &[AT_SETTINGS, DEAD_SLOTS], sessions: (1800, 8), others: &["HGX_Baseboard_0"],
        ..row("nvidia-gh200", "NVIDIA", "GH200", "24.09") },
    Profile { slots: Slots::Absent, targets: &["None", "Pxe", "Hdd", "UefiHttp"], manners: &[PROGRESS], ..row("nvidia-bluefield", "NVIDIA", "BlueField-3", "24.10") },
    Profile { slots: Slots::Vmm, schemes: SHARES, manners: &[LOGIN_OEM], delays: [13_000, 5000, 0],
        ..row("huawei-ibmc", "Huawei", "2288H V5", "6.41") },
    Profile { slots: Slots::Vmm, schemes: &["nfs", "https"], manners: &[LOGIN_OEM], delays: [13_000, 5000, 0],
        ..row("xfusion", "xFusion", "2288H V6", "3.10") },
    Profile { slots: Slots::Empty, ..row("intel-s2600", "Intel Corporation", "S2600WFT", "1.93") },
    Profile { slots: Slots::Absent, others: &["Node0", "Node1"], resets: &["On", "Off", "ForceOff"],
        ..row("hpe-cray", "HPE", "HPE Cray EX425", "nc.1.9") },
    Profile { manners: &[ONCE_KEPT], read: Some(ReadManner::CopyAll), sessions: (0, 0),
        ..row("sushy-emulator", "Sushy Emulator", "", "1.0") },
];

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|word| (*word).to_owned()).collect()
}

impl Manners {
    /// Names for [`Manners::with_profile`].
    pub fn profiles() -> impl Iterator<Item = &'static str> {
        PROFILES.iter().map(|profile| profile.name)
    }

    /// The same delays, with a vendor's manners; none: nobody is called so.
    #[must_use]
    pub fn with_profile(self, name: &str) -> Option<Self> {
        let profile = PROFILES.iter().find(|profile| profile.name == name)?;
        let mut manners = Self {
            manufacturer: profile.manufacturer.to_owned(),
            model: profile.model.to_owned(),
            firmware_version: profile.firmware.to_owned(),
            manager_model: profile.manager.to_owned(),
            insert_demands: words(profile.demands),
            insert_refuses: words(profile.refuses),
            boot_targets: words(profile.targets),
            reset_types: words(profile.resets),
            image_schemes: words(profile.schemes),
            image_protocols: words(profile.protocols),
            slots: profile.slots,
            other_systems: words(profile.others),
            flaky_inserts: u32::from(profile.slots == Slots::Vmm),
            sessions: profile.sessions.1 > 0,
            session_timeout_s: profile.sessions.0,
            session_limit: profile.sessions.1,
            read: profile.read.unwrap_or(self.read),
            ..self
        };
        for manner in profile.manners {
            *manner(&mut manners) = true;
        }
        Some(manners)
    }

    /// The same manners, with a vendor's delays.
    #[must_use]
    pub fn with_delays_of(self, name: &str) -> Self {
        let Some(profile) = PROFILES.iter().find(|profile| profile.name == name) else {
            return self;
        };
        let [insert_ms, power_ms, stale_inserted_ms] = profile.delays;
        Self {
            insert_ms,
            power_on_ms: power_ms,
            power_off_ms: power_ms,
            stale_inserted_ms,
            bmc_reset_ms: 60_000,
            ..self
        }
    }

    /// Whether it can hold an image at all.
    #[must_use]
    pub fn has_media(&self) -> bool {
        !matches!(self.slots, Slots::Empty | Slots::Absent)
    }
}
