//! Why a machine did not come up from its image: a pure function of what was read, by whom, and of what the BMC says.
//!
//! Reads tell how far it came; the BMC's own properties (power, boot mode, override, Secure Boot, progress) tell why no
//! further, where it has them. What is not known is not claimed.

use std::net::IpAddr;

use isobar_bmc::{HostState, PowerState};
use isobar_image::vfs::Knock;

use crate::reads::Touched;
use crate::reason::Reason;

/// What a verdict goes by.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts<'a> {
    /// Name of the machine.
    pub(crate) machine: &'a str,
    /// The BMC, as people know it.
    pub(crate) bmc: &'a str,
    /// Scheme, host and port of the image's URL.
    pub(crate) authority: &'a str,
    pub(crate) touched: Touched,
    /// Somebody who is not the BMC and was served.
    pub(crate) elsewhere: Option<IpAddr>,
    /// The BMC came and got nothing.
    pub(crate) knock: Option<Knock>,
    /// As the BMC says, where it could be asked.
    pub(crate) host: Option<&'a HostState>,
    /// How far it came, for people.
    pub(crate) detail: &'a str,
}

/// Words of firmware for a machine that is still in its self-test.
const IN_POST: &[&str] = &[
    "PrimaryProcessorInitializationStarted",
    "BusInitializationStarted",
    "MemoryInitializationStarted",
    "SecondaryProcessorInitializationStarted",
    "PCIResourceConfigStarted",
    "SystemHardwareInitializationComplete",
    "SetupEntered",
    "InPost",
    "InPostDiscoveryComplete",
];
/// And for one whose firmware has handed over to a system.
const BOOTED: &[&str] = &["OSBootStarted", "OSRunning"];

/// Whether a machine is in its self-test, in its firmware's words (`BootProgress.LastState`, DSP2046; HPE's `PostState`).
pub(crate) fn in_post(host: &HostState) -> bool {
    let progress = host.boot_progress.as_deref().unwrap_or_default();
    host.power != PowerState::Off && IN_POST.contains(&progress)
}

impl Facts<'_> {
    fn progress(&self) -> &str {
        self.host
            .and_then(|host| host.boot_progress.as_deref())
            .unwrap_or_default()
    }

    fn legacy(&self) -> bool {
        let mode = self.host.and_then(|host| host.boot_mode.as_deref());
        mode.is_some_and(|mode| mode.eq_ignore_ascii_case("Legacy"))
    }

    /// Secure Boot is in force, as far as the BMC tells.
    fn secure(&self) -> bool {
        let secure = self.host.and_then(|host| host.secure_boot.as_ref());
        secure.is_some_and(|secure| secure.in_force.or(secure.enabled) == Some(true))
    }

    fn named_by_name(&self) -> bool {
        let host = self
            .authority
            .split_once("://")
            .map_or(self.authority, |(_, rest)| rest);
        let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
        host.trim_matches(['[', ']']).parse::<IpAddr>().is_err()
    }
}

/// The BMC says that the image is inserted, and nobody has read any of it since the machine is on.
pub(crate) fn never_read(facts: &Facts) -> Reason {
    let Facts {
        machine,
        bmc,
        authority,
        ..
    } = facts;
    match facts.knock {
        Some(Knock::Tls) => {
            return Reason::new(
                "image-tls",
                format!("{bmc} came for the image and did not agree on TLS with {authority}"),
                "it may not trust the file plane's certificate, or know no TLS 1.2: give it the certificate, or set \
                 isobar/image-scheme to http",
            );
        }
        Some(Knock::Path) => {
            return Reason::new(
                "image-path",
                format!("{bmc} asked {authority} for something that is not its image, and was told so"),
                "it may change the URL, or still ask for an older image: eject by hand, or reset the BMC; the server's log \
                 (debug) has the requests",
            );
        }
        Some(Knock::Request) => {
            return Reason::new(
                "image-protocol",
                format!("{bmc} came to {authority} and spoke no HTTP"),
                "it may take the URL for another scheme: set isobar/image-scheme to one that it knows",
            );
        }
        None => {}
    }
    if facts.host.is_some_and(in_post) {
        return Reason::new(
            "in-self-test",
            format!(
                "{machine} is still in its self-test ({}), and has not come to its virtual CD",
                facts.progress()
            ),
            "look at its console: it may wait for a key; if its self-test takes so long, raise first_read_s in [timing]",
        );
    }
    if BOOTED.contains(&facts.progress()) {
        return Reason::new(
            "not-booted-from-cd",
            format!(
                "{machine} runs a system ({}), and nobody has read its virtual CD",
                facts.progress()
            ),
            format!(
                "it booted from something else: boot order, virtual media as a boot device; or the BMC cannot reach {authority}"
            ),
        );
    }
    let used = match facts.host.and_then(|host| host.boot_enabled.as_deref()) {
        Some("Disabled") => "; its firmware has used the one-time boot, and found nothing in the virtual CD",
        Some("Once" | "Continuous") => {
            "; the one-time boot is still set: its firmware has not come to it, or ignores it"
        }
        _ => "",
    };
    let name = match facts.named_by_name() {
        true => "that the BMC's DNS knows the name, ",
        false => "",
    };
    Reason::new(
        "image-never-read",
        format!(
            "{bmc} says that the image is inserted, but never asked for it, nor did the machine since its power-on{used}"
        ),
        format!(
            "check {name}that the BMC can reach {authority} (route, VLAN, firewall), or set boot-virtual-iso-url to an \
             address that it can; if it can, look at the machine's console: it may have booted from something else"
        ),
    )
}

/// A machine began to read and got no further than its boot loader or kernel; none: nothing more exact is known.
pub(crate) fn stopped(facts: &Facts) -> Option<Reason> {
    let Facts { machine, touched, .. } = facts;
    if let (Some(reader), false, false) = (facts.elsewhere, touched.by_the_bmc, touched.kernel) {
        return Some(Reason::new(
            "image-read-elsewhere",
            format!(
                "the image of {machine} was read by {reader}, which is not its BMC, and by nobody else ({})",
                facts.detail
            ),
            "if that is how the BMC reads (NAT, a proxy, a second address), add it to isobar/image-peers and boot again; else \
             find out who has the URL",
        ));
    }
    let efi_or_more = touched.efi || touched.menu || touched.kernel;
    if (touched.catalog || touched.bios) && !efi_or_more && (facts.legacy() || touched.bios || !touched.has_bios) {
        let (read, why) = match touched.bios {
            true => ("the boot image for BIOS", "read and stopped there"),
            false => ("the boot catalog", "read, never the EFI image"),
        };
        // UEFI firmware that looks and goes on to another device reads so as well.
        let told = facts.host.is_some_and(|host| host.boot_mode.is_some()) && !facts.legacy() && !touched.bios;
        if !told {
            return Some(Reason::new(
                "legacy-mode",
                format!("{machine}: {read} was {why}: the machine is in legacy mode"),
                "set its boot mode to UEFI (BIOS settings), then set the bootenv again",
            ));
        }
    }
    if !facts.secure() {
        return None;
    }
    let refused = match touched {
        Touched { initrd: true, .. } => return None,
        Touched {
            kernel: true,
            whole_kernel: false,
            ..
        } => return None,
        Touched { menu: true, .. } => "stopped after grub.cfg: Secure Boot refused the kernel",
        Touched { efi: true, .. } => "stopped after the EFI image: Secure Boot refused the boot loader",
        _ => return None,
    };
    Some(Reason::new(
        "secure-boot",
        format!("{machine} {refused}"),
        "switch Secure Boot off in its firmware's settings, or boot an image whose loader and kernel are signed for it",
    ))
}
