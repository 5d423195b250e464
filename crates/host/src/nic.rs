//! Network interfaces as sysfs shows them.

use std::fs;
use std::path::Path;

use crate::{entries, read_text};

/// A network card's interface. VLANs, bonds and the loopback are none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// The kernel's name: `eth0`.
    pub name: String,
    /// Number by which netlink knows it.
    pub index: u32,
    /// Its address, lower case: `52:54:00:12:34:56`.
    pub mac: String,
    /// Name of the driver.
    pub driver: Option<String>,
    /// Address on its bus: `0000:3b:00.1`.
    pub bus_address: Option<String>,
    /// Whether there is a link; unknown while the interface is down.
    pub carrier: Option<bool>,
    /// Speed of the link in Mbit/s.
    pub speed: Option<u32>,
    /// Names that other systems give it (systemd's scheme): `eno1`, `enp59s0f1`.
    pub aliases: Vec<String>,
}

impl Nic {
    /// Whether a person means this one: by its name, a name of systemd's scheme, or its MAC in any of the usual forms.
    #[must_use]
    pub fn is_called(&self, wanted: &str) -> bool {
        self.name == wanted
            || self.aliases.iter().any(|alias| alias == wanted)
            || parse_mac(wanted).is_some_and(|mac| mac == self.mac)
    }
}

impl std::fmt::Display for Nic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} ({}, {}",
            self.name,
            self.mac,
            self.driver.as_deref().unwrap_or("unknown driver")
        )?;
        f.write_str(match self.carrier {
            Some(true) => ", link)",
            Some(false) => ", no link)",
            None => ")",
        })
    }
}

/// `52:54:00:12:34:56`, `52-54-00-12-34-56` or `5254.0012.3456`, as the first form in lower case.
#[must_use]
pub fn parse_mac(text: &str) -> Option<String> {
    let digits: String = text.chars().filter(|c| !matches!(c, ':' | '-' | '.')).collect();
    if digits.len() != 12 || digits.len() == text.len() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let pairs: Vec<&str> = (0..6).map(|i| &digits[2 * i..2 * i + 2]).collect();
    Some(pairs.join(":").to_lowercase())
}

/// All network cards, ordered by the kernel's number. `sys` is `/sys`.
#[must_use]
pub fn list(sys: &Path) -> Vec<Nic> {
    let mut nics: Vec<Nic> = entries(&sys.join("class/net"))
        .iter()
        .filter_map(|path| read(path))
        .collect();
    nics.sort_by_key(|nic| nic.index);
    nics
}

/// Link of one interface, once it is up.
#[must_use]
pub fn carrier(sys: &Path, name: &str) -> Option<bool> {
    let text = read_text(&sys.join("class/net").join(name).join("carrier"))?;
    Some(text == "1")
}

/// Number of an interface, of a VLAN's too.
#[must_use]
pub fn index(sys: &Path, name: &str) -> Option<u32> {
    read_text(&sys.join("class/net").join(name).join("ifindex"))?
        .parse()
        .ok()
}

fn read(path: &Path) -> Option<Nic> {
    let name = path.file_name()?.to_str()?.to_owned();
    // Only what stands on hardware has a device.
    let device = fs::canonicalize(path.join("device")).ok()?;
    let text = |file: &str| read_text(&path.join(file)).filter(|text| !text.is_empty());
    let link = |file: &str| Some(fs::read_link(device.join(file)).ok()?.file_name()?.to_str()?.to_owned());
    let bus_address = device.file_name().and_then(|name| name.to_str()).map(str::to_owned);
    // A virtio interface hangs on a virtio device whose parent is the card.
    let card = if link("subsystem").as_deref() == Some("virtio") {
        device
            .parent()
            .and_then(|parent| parent.file_name()?.to_str())
            .map(str::to_owned)
    } else {
        bus_address.clone()
    };
    let onboard = ["acpi_index", "index"]
        .iter()
        .filter_map(|file| read_text(&device.join(file))?.parse::<u32>().ok())
        .map(|index| format!("eno{index}"));
    let by_path = card.as_deref().and_then(path_name);
    Some(Nic {
        index: text("ifindex")?.parse().ok()?,
        mac: text("address")?.to_lowercase(),
        driver: link("driver"),
        carrier: text("carrier").map(|text| text == "1"),
        speed: text("speed").and_then(|text| text.parse().ok()),
        aliases: onboard.chain(by_path).collect(),
        bus_address: card,
        name,
    })
}

/// systemd's name by PCI address (systemd.net-naming-scheme(7)): `0000:3b:00.1` is `enp59s0f1`. Function 0 gets no
/// suffix here, though systemd gives it one on cards with several functions: nobody means another card by either.
fn path_name(address: &str) -> Option<String> {
    let (domain, rest) = address.split_once(':')?;
    let (bus, rest) = rest.split_once(':')?;
    let (slot, function) = rest.split_once('.')?;
    let hex = |text| u32::from_str_radix(text, 16).ok();
    let mut name = String::from("en");
    if hex(domain)? > 0 {
        name.push_str(&format!("P{}", hex(domain)?));
    }
    name.push_str(&format!("p{}s{}", hex(bus)?, hex(slot)?));
    if hex(function)? > 0 {
        name.push_str(&format!("f{}", hex(function)?));
    }
    Some(name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::sysfs::fake;

    #[test]
    fn cards_by_number_without_what_is_no_card() {
        let sys = tempfile::tempdir().unwrap();
        fake(sys.path(), "eth1", 3, "52:54:00:AA:BB:02", "0000:3b:00.1", None);
        fake(sys.path(), "eth0", 2, "52:54:00:aa:bb:01", "0000:00:02.0", Some("1\n"));
        fs::create_dir_all(sys.path().join("class/net/lo")).unwrap();
        let nics = list(sys.path());
        assert_eq!(
            nics.iter().map(|nic| nic.name.as_str()).collect::<Vec<_>>(),
            ["eth0", "eth1"]
        );
        assert_eq!((nics[0].carrier, nics[0].speed), (Some(true), Some(1000)));
        assert_eq!(nics[0].driver.as_deref(), Some("e1000e"));
        assert_eq!(nics[1].mac, "52:54:00:aa:bb:02");
        assert!(nics[1].is_called("enp59s0f1") && nics[1].is_called("5254.00aa.bb02") && nics[1].is_called("eth1"));
        assert!(nics[0].is_called("52-54-00-AA-BB-01") && !nics[0].is_called("eth1"));
        assert_eq!(nics[0].to_string(), "eth0 (52:54:00:aa:bb:01, e1000e, link)");
    }

    #[test]
    fn macs() {
        assert_eq!(parse_mac("52:54:00:12:34:AB").as_deref(), Some("52:54:00:12:34:ab"));
        for bad in [
            "525400123456",
            "eth0",
            "52:54:00:12:34",
            "zz:54:00:12:34:56",
            "",
            "52:54:00:12:34:5é",
        ] {
            assert_eq!(parse_mac(bad), None, "{bad}");
        }
    }
}
