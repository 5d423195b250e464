//! What cannot be derived from what a BMC says of itself. Data only: a row for each group of BMCs, and
//! every row that fits applies.

/// One row. Empty lists of `vendor` or `model` fit every BMC.
#[derive(Debug)]
pub(crate) struct Row {
    /// Lower-case parts of the vendor's name, as the service root, the system or the manager gives it.
    pub(crate) vendor: &'static [&'static str],
    /// Lower-case parts of the system's model, or of the manager's.
    pub(crate) model: &'static [&'static str],
    /// The manager's firmware is older than this; `u32::MAX`: whatever it is.
    pub(crate) before: u32,
    pub(crate) set: &'static [Quirk],
    /// Why, and who found out.
    #[allow(dead_code, reason = "read by people")]
    pub(crate) why: &'static str,
}

/// A deviation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quirk {
    /// Names of the virtual CD among the boot targets, best first; those that the BMC does not list
    /// are passed over. The last row that fits counts.
    CdTargets(&'static [&'static str]),
    /// Slots whose id starts like this are not for us.
    SkipSlots(&'static [&'static str]),
    /// A boot override must name mode, enabled and target together.
    FullBootPayload,
    /// `BootSourceOverrideEnabled` must be sent even when it is set already.
    AlwaysSendEnabled,
    /// An override resets the boot mode: write it again.
    RestoreBootMode,
    /// `Image` stays after an eject: `ConnectedVia` tells the truth.
    ConnectedViaIsTruth,
    /// The PATCH that inserts must hold nothing but `Image`.
    PatchImageOnly,
    /// Slots without an action are not ours: the BMC refuses to have them written.
    ActionsOnly,
    /// `Cd` means a CD in a drive; the virtual one is booted once by importing a configuration profile.
    BootByProfile,
    /// Schemes of images that it takes, best first; others are tried after these.
    ImageSchemes(&'static [&'static str]),
    /// An NFS image is written `host:/export/x.iso`.
    BareNfs,
    /// As a URL after all.
    UrlNfs,
    /// Logging in wants this member too.
    SessionOem(&'static str),
}

const ANY: u32 = u32::MAX;

use Quirk::{
    ActionsOnly, AlwaysSendEnabled, BareNfs, BootByProfile, CdTargets, ConnectedViaIsTruth, FullBootPayload,
    ImageSchemes, PatchImageOnly, RestoreBootMode, SessionOem, SkipSlots, UrlNfs,
};

/// Where nothing else is said.
pub(crate) const CD_TARGETS: &[&str] = &["Cd", "UsbCd", "UefiUsbCd", "UefiCd", "CD/DVD"];

pub(crate) const ROWS: &[Row] = &[
    Row {
        vendor: &["supermicro"],
        model: &[],
        before: ANY,
        set: &[
            CdTargets(&["UsbCd", "UefiUsbCd", "Cd", "UefiCd", "CD/DVD"]),
            AlwaysSendEnabled,
            RestoreBootMode,
            ConnectedViaIsTruth,
        ],
        why: "the virtual CD is a USB device; overrides lapse and the mode falls back to Legacy (OpenStack Ironic)",
    },
    Row {
        vendor: &["supermicro"],
        model: &["ars-111gl-nhr"],
        before: ANY,
        set: &[CdTargets(&["Cd"])],
        why: "lists UsbCd and boots from Cd (OpenStack Ironic)",
    },
    Row {
        vendor: &["lenovo"],
        model: &[],
        before: ANY,
        set: &[SkipSlots(&["remote", "rdoc"])],
        why: "Remote* are mapped by the Java or HTML client, RDOC* are uploads (Lenovo's own scripts)",
    },
    Row {
        vendor: &["ami", "american megatrends", "asrockrack", "redfish_compatible"],
        model: &[],
        before: ANY,
        set: &[FullBootPayload],
        why: "a partial override answers 400 or is ignored (OpenStack Ironic)",
    },
    Row {
        vendor: &["huawei", "xfusion"],
        model: &[],
        before: ANY,
        set: &[SessionOem("{\"Huawei\":{\"Domain\":\"LocaliBMC\"}}")],
        why: "logs in to a domain (field report on 2288H V5)",
    },
    Row {
        vendor: &["dell"],
        model: &["12g", "13g", "14g", "15g", "16g"],
        before: 6,
        set: &[BootByProfile],
        why: "before 6.00 `Cd` is the drive in the machine, if it has one (Ansible's and Dell's own modules)",
    },
    Row {
        vendor: &[
            "dell",
            "cisco",
            "supermicro",
            "nvidia",
            "openbmc",
            "intel",
            "ami",
            "american megatrends",
        ],
        model: &[],
        before: ANY,
        set: &[ActionsOnly],
        why: "read-only slots of old iDRACs, KVM slots of CIMC (refused with 400), proxy slots of OpenBMC (405)",
    },
    Row {
        vendor: &["hp", "hpe", "hewlett"],
        model: &["gen8", "gen9", "ilo 4"],
        before: ANY,
        set: &[PatchImageOnly],
        why: "iLO 4: Inserted and WriteProtected are read-only (HPE's documentation)",
    },
    Row {
        vendor: &["openbmc"],
        model: &[],
        before: ANY,
        set: &[ImageSchemes(&["https"])],
        why: "https and smb alone (source code of bmcweb)",
    },
    Row {
        vendor: &["nvidia"],
        model: &["gb200", "gb300", "gh200"],
        before: ANY,
        set: &[ImageSchemes(&["https"])],
        why: "OpenBMC inside (recorded tree of a GB300)",
    },
    Row {
        vendor: &["huawei", "xfusion", "h3c"],
        model: &[],
        before: ANY,
        set: &[ImageSchemes(&["nfs", "https"])],
        why: "NFS and CIFS, newer ones https (field report on 2288H V5)",
    },
    Row {
        vendor: &["dell", "lenovo"],
        model: &[],
        before: ANY,
        set: &[BareNfs],
        why: "host:/export/x.iso (Dell's and Lenovo's own scripts)",
    },
    Row {
        vendor: &["lenovo"],
        model: &[" v4"],
        before: ANY,
        set: &[UrlNfs],
        why: "XCC3 wants the scheme (Lenovo's documentation)",
    },
];

/// A vendor's own insert, by the ends of its actions' names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct OwnAction {
    pub(crate) insert: &'static str,
    /// Members of the payload beside `Image`.
    pub(crate) insert_with: &'static [(&'static str, &'static str)],
    pub(crate) eject: &'static str,
    pub(crate) eject_with: &'static [(&'static str, &'static str)],
}

impl OwnAction {
    pub(crate) fn body(&self, members: &[(&str, &str)]) -> serde_json::Value {
        members
            .iter()
            .map(|(k, v)| ((*k).to_owned(), serde_json::Value::from(*v)))
            .collect()
    }
}

/// Where a slot has no InsertMedia.
pub(crate) const OWN_ACTIONS: &[OwnAction] = &[
    // Huawei iBMC, xFusion, H3C (field report on 2288H V5).
    OwnAction {
        insert: "VirtualMedia.VmmControl",
        insert_with: &[("VmmControlType", "Connect")],
        eject: "VirtualMedia.VmmControl",
        eject_with: &[("VmmControlType", "Disconnect")],
    },
    // HPE iLO (HPE's documentation).
    OwnAction {
        insert: ".InsertVirtualMedia",
        insert_with: &[],
        eject: ".EjectVirtualMedia",
        eject_with: &[],
    },
];

/// The rows that fit one BMC.
#[derive(Clone, Debug, Default)]
pub(crate) struct Quirks(Vec<Quirk>);

impl Quirks {
    /// `vendors` are all names that the BMC gives its maker.
    /// `models` are the system's and the manager's; `firmware` is the manager's.
    pub(crate) fn of(vendors: &[&str], models: &[&str], firmware: &str) -> Self {
        let vendors: Vec<String> = vendors
            .iter()
            .map(|v| format!("{} ", v.trim().to_ascii_lowercase()))
            .collect();
        let model = models.join(" ").to_ascii_lowercase();
        let major = firmware
            .split(|c: char| !c.is_ascii_digit())
            .find_map(|n| n.parse::<u32>().ok());
        let fits = |row: &&Row| {
            let vendor = row.vendor.is_empty() || row.vendor.iter().any(|part| vendors.iter().any(|v| names(v, part)));
            let old = row.before == ANY || major.is_some_and(|major| major < row.before);
            vendor && old && (row.model.is_empty() || row.model.iter().any(|part| model.contains(part)))
        };
        Self(
            ROWS.iter()
                .filter(fits)
                .flat_map(|row| row.set.iter().copied())
                .collect(),
        )
    }

    pub(crate) fn has(&self, quirk: Quirk) -> bool {
        self.0.contains(&quirk)
    }

    pub(crate) fn cd_targets(&self) -> &'static [&'static str] {
        let last = self
            .0
            .iter()
            .rev()
            .find_map(|q| if let CdTargets(list) = q { Some(*list) } else { None });
        last.unwrap_or(CD_TARGETS)
    }

    pub(crate) fn skips_slot(&self, id: &str) -> bool {
        let id = id.to_ascii_lowercase();
        self.0
            .iter()
            .any(|q| matches!(q, SkipSlots(prefixes) if prefixes.iter().any(|p| id.starts_with(p))))
    }

    pub(crate) fn image_schemes(&self) -> &'static [&'static str] {
        let first = |q: &Quirk| if let ImageSchemes(list) = q { Some(*list) } else { None };
        self.0.iter().find_map(first).unwrap_or_default()
    }

    pub(crate) fn session_oem(&self) -> Option<&'static str> {
        self.0
            .iter()
            .find_map(|q| if let SessionOem(json) = q { Some(*json) } else { None })
    }
}

/// Whether a vendor's name begins with `part` or holds it as the beginning of a word: `ami` is no part
/// of "Miami Servers".
fn names(vendor: &str, part: &str) -> bool {
    vendor.match_indices(part).any(|(i, _)| {
        let before = vendor[..i].chars().next_back();
        let after = vendor[i + part.len()..].chars().next();
        before.is_none_or(|c| !c.is_alphanumeric()) && (part.len() > 3 || after.is_none_or(|c| !c.is_alphanumeric()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_fit_by_vendor_and_model() {
        assert_eq!(Quirks::of(&["Dell"], &["PowerEdge R750"], "").cd_targets(), CD_TARGETS);
        assert_eq!(
            Quirks::of(&["", "Supermicro"], &["SYS-1"], "").cd_targets(),
            ["UsbCd", "UefiUsbCd", "Cd", "UefiCd", "CD/DVD"]
        );
        assert_eq!(Quirks::of(&["Supermicro"], &["ARS-111GL-NHR"], "").cd_targets(), ["Cd"]);
        assert!(Quirks::of(&["AMI", "GIGABYTE"], &[""], "").has(FullBootPayload));
        assert!(Quirks::of(&["American Megatrends International"], &[""], "").has(FullBootPayload));
        assert!(!Quirks::of(&["Miami Servers", "Amiga"], &[""], "").has(FullBootPayload));
        assert!(Quirks::of(&["Lenovo"], &[""], "").skips_slot("RDOC1"));
        assert!(!Quirks::of(&["Lenovo"], &[""], "").skips_slot("EXT1"));
        assert!(Quirks::of(&["HP"], &["ProLiant DL380 Gen9"], "").has(PatchImageOnly));
        assert!(!Quirks::of(&["HPE"], &["ProLiant DL380 Gen10"], "").has(PatchImageOnly));
        assert!(Quirks::of(&["HPE"], &["ProLiant", "iLO 4"], "").has(PatchImageOnly));
        for (model, firmware, by_profile) in [
            ("14G Monolithic", "5.10.50.00", true),
            ("13G Monolithic", "2.75.75.75", true),
            ("16G Monolithic", "7.10.30.00", false),
            ("15G Monolithic", "6.00.00.00", false),
            ("17G Monolithic", "1.20.25.00", false),
            ("14G Monolithic", "", false),
        ] {
            let quirks = Quirks::of(&["Dell"], &["PowerEdge R750", model], firmware);
            assert_eq!(quirks.has(BootByProfile), by_profile, "{model} {firmware}");
        }
    }
}
