//! Vendors' manners, a row each: what a BMC calls itself, demands, refuses and offers. Not their URIs: those are the
//! simulator's own.

use crate::config::Manners;

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
    manners: &'static [Manner],
    /// Seconds of idleness, and how many sessions there may be.
    sessions: (u64, usize),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    SlotsByPatch,
    EjectHidden,
    BootAtSettings,
    FullBoot,
    IfMatch,
}

use Manner::{BootAtSettings, EjectHidden, FullBoot, IfMatch, SlotsByPatch};

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
        manners: &[],
        sessions: (300, 8),
    }
}

#[rustfmt::skip]
const PROFILES: &[Profile] = &[
    Profile { resets: ALL, sessions: (1800, 8), ..row("dell-idrac9", "Dell Inc.", "PowerEdge R750", "6.10.30.00") },
    Profile { resets: ALL, sessions: (1800, 8), manners: &[BootAtSettings],
        ..row("dell-idrac10", "Dell Inc.", "PowerEdge R770", "1.20.25.00") },
    Profile { resets: HPE, sessions: (30, 16), refuses: FLAGS, manners: &[SlotsByPatch],
        ..row("hpe-ilo4", "HPE", "ProLiant DL380 Gen9", "iLO 4 v2.82") },
    Profile { resets: HPE, sessions: (30, 16), ..row("hpe-ilo5", "HPE", "ProLiant DL380 Gen10", "iLO 5 v2.72") },
    Profile { resets: HPE, sessions: (30, 16), ..row("hpe-ilo6", "HPE", "ProLiant DL380 Gen11", "iLO 6 v1.66") },
    Profile { demands: &["Inserted"], sessions: (300, 16), manners: &[SlotsByPatch, IfMatch],
        ..row("lenovo-xcc", "Lenovo", "ThinkSystem SR650 V2", "2.83") },
    Profile { refuses: FLAGS, targets: SUPERMICRO, sessions: (300, 16), manners: &[EjectHidden],
        ..row("supermicro-x11", "Supermicro", "X11DPi", "1.73") },
    Profile { targets: SUPERMICRO, resets: ALL, sessions: (300, 16), manners: &[EjectHidden],
        ..row("supermicro-x13", "Supermicro", "SYS-621C", "01.01.11") },
    Profile { demands: &["TransferProtocolType"], ..row("cisco-cimc", "Cisco Systems Inc", "UCSC-C240-M6", "4.2(2a)") },
    Profile { demands: &["TransferProtocolType"], manners: &[IfMatch],
        ..row("fujitsu-irmc", "FUJITSU", "PRIMERGY RX2540 M6", "3.32P") },
    Profile { schemes: LIMITED, ..row("openbmc", "OpenBMC", "Reference", "2.15.0") },
    Profile { demands: &["TransferProtocolType"], manners: &[FullBoot], ..row("ami", "AMI", "H262-Z63", "12.84.13") },
    Profile { demands: &["TransferProtocolType", "UserName", "Password"], manners: &[BootAtSettings, FullBoot],
        sessions: (30, 8), ..row("nvidia-dgx", "NVIDIA", "DGXH100", "24.01") },
    Profile { schemes: LIMITED, manners: &[BootAtSettings], sessions: (1800, 8),
        ..row("nvidia-gb200", "NVIDIA", "GB200 NVL", "70.01") },
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
        let has = |manner: Manner| profile.manners.contains(&manner);
        Some(Self {
            manufacturer: profile.manufacturer.to_owned(),
            model: profile.model.to_owned(),
            firmware_version: profile.firmware.to_owned(),
            insert_demands: words(profile.demands),
            insert_refuses: words(profile.refuses),
            boot_targets: words(profile.targets),
            reset_types: words(profile.resets),
            image_schemes: words(profile.schemes),
            slots_by_patch: has(SlotsByPatch),
            eject_hidden: has(EjectHidden),
            boot_at_settings: has(BootAtSettings),
            full_boot: has(FullBoot),
            if_match_required: has(IfMatch),
            session_timeout_s: profile.sessions.0,
            session_limit: profile.sessions.1,
            ..self
        })
    }
}
