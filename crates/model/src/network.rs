//! The param `network-data`: the network of the live system, checked before a machine boots with it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::{Map, Value};

use crate::canonical::kind_of;

/// The network that the live system is to use (`network-data.prov`). Everything unset means DHCP on any
/// interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Provisioning {
    /// Static address; none for DHCP.
    pub address: Option<Cidr>,
    /// Default route; only with a static address.
    pub gateway: Option<IpAddr>,
    /// Interface, by name or MAC address.
    pub interface: Option<Interface>,
    /// VLAN tag, 1 to 4094.
    pub vlan: Option<u16>,
    /// Largest packet in bytes.
    pub mtu: Option<u16>,
    /// Name servers, best first.
    pub dns: Vec<IpAddr>,
}

/// An address and the size of its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// The address.
    pub address: IpAddr,
    /// Length of the prefix in bits.
    pub bits: u8,
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interface {
    /// By the kernel's name.
    Name(String),
    /// By its MAC address, in lower case with colons.
    Mac(String),
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Interface::Name(text) | Interface::Mac(text) => f.write_str(text),
        }
    }
}

/// Everything that is wrong with a `network-data`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("network-data cannot be used: {}", .problems.join("; "))]
pub struct NetworkError {
    /// One text for each member: which one, what was found, what to write.
    pub problems: Vec<String>,
}

impl Provisioning {
    /// Reads the composed value of `network-data`. Numbers may be written as text; `""` means unset; unknown
    /// members are ignored.
    ///
    /// # Errors
    /// All problems at once.
    pub fn parse(network_data: &Value) -> Result<Provisioning, NetworkError> {
        let mut reader = Reader { problems: Vec::new() };
        let parsed = reader.read(network_data);
        if reader.problems.is_empty() {
            Ok(parsed)
        } else {
            Err(NetworkError {
                problems: reader.problems,
            })
        }
    }

    /// `network_data` with `prov` rewritten in the plain form that templates rely on: `address` without a
    /// prefix, `netmask` beside it, numbers as numbers.
    pub fn normalise(&self, network_data: &Value) -> Value {
        let mut all = network_data.as_object().cloned().unwrap_or_default();
        if let Some(Value::Object(prov)) = all.get_mut("prov") {
            self.rewrite(prov);
        }
        Value::Object(all)
    }

    fn rewrite(&self, prov: &mut Map<String, Value>) {
        let netmask = self.address.map(|cidr| match cidr.address {
            IpAddr::V4(_) => Ipv4Addr::from(u32::try_from(mask(cidr.bits, 32)).unwrap_or(u32::MAX)).to_string(),
            IpAddr::V6(_) => cidr.bits.to_string(),
        });
        let dns: Vec<_> = self.dns.iter().map(|server| Value::from(server.to_string())).collect();
        let members = [
            ("address", self.address.map(|cidr| cidr.address.to_string().into())),
            ("netmask", netmask.map(Value::from)),
            ("gateway", self.gateway.map(|gateway| gateway.to_string().into())),
            (
                "interface",
                self.interface.as_ref().map(|interface| interface.to_string().into()),
            ),
            ("vlan", self.vlan.map(Value::from)),
            ("mtu", self.mtu.map(Value::from)),
            ("dns-servers", (!dns.is_empty()).then_some(Value::Array(dns))),
        ];
        for (member, value) in members {
            match value {
                Some(value) => {
                    prov.insert(member.to_owned(), value);
                }
                None => {
                    prov.shift_remove(member);
                }
            }
        }
    }
}

fn mask(bits: u8, width: u32) -> u128 {
    let all = if width == 128 { u128::MAX } else { (1 << width) - 1 };
    let host = width.saturating_sub(u32::from(bits));
    if host >= 128 { 0 } else { (all >> host) << host }
}

struct Reader {
    problems: Vec<String>,
}

impl Reader {
    fn problem(&mut self, member: &str, found: &str, write: &str) {
        self.problems
            .push(format!("network-data.prov.{member}: found {found}; write {write}"));
    }

    fn read(&mut self, network_data: &Value) -> Provisioning {
        let sample = r#"{"prov": {"address": "10.0.0.5", "netmask": "255.255.255.0"}}"#;
        let prov = match network_data {
            Value::Null => return Provisioning::default(),
            Value::Object(networks) => networks.get("prov").unwrap_or(&Value::Null),
            other => {
                self.problems.push(format!(
                    "network-data: found {}; write an object such as {sample}",
                    kind_of(other)
                ));
                return Provisioning::default();
            }
        };
        let prov = match prov {
            Value::Null => return Provisioning::default(),
            Value::Object(prov) => prov,
            other => {
                self.problems.push(format!(
                    "network-data.prov: found {}; write an object such as {sample}",
                    kind_of(other)
                ));
                return Provisioning::default();
            }
        };
        let dhcp = matches!(prov.get("dhcp"), Some(Value::Bool(true)))
            || prov
                .get("dhcp")
                .and_then(Value::as_str)
                .is_some_and(|text| text.eq_ignore_ascii_case("true"));
        let address = if dhcp { None } else { self.address(prov) };
        let gateway = if dhcp { None } else { self.gateway(prov, address) };
        Provisioning {
            address,
            gateway,
            interface: self.interface(prov),
            vlan: self.number(prov, "vlan", 1, 4094),
            mtu: self.number(prov, "mtu", 576, 65535),
            dns: self.dns(prov),
        }
    }

    /// A member as text: numbers are written out, `""`, `null` and a missing member are none.
    fn text(&mut self, prov: &Map<String, Value>, member: &str, write: &str) -> Option<String> {
        match prov.get(member) {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(text.trim().to_owned()).filter(|text| !text.is_empty()),
            Some(Value::Number(number)) => Some(number.to_string()),
            Some(other) => {
                self.problem(member, kind_of(other), write);
                None
            }
        }
    }

    fn address(&mut self, prov: &Map<String, Value>) -> Option<Cidr> {
        const WRITE: &str = "an IP address such as \"10.0.0.5\"";
        const WRITE_MASK: &str = "a netmask such as \"255.255.255.0\" or a prefix length such as \"24\"";
        let text = self.text(prov, "address", WRITE);
        let netmask = self.text(prov, "netmask", WRITE_MASK);
        let Some(text) = text else {
            if let Some(netmask) = netmask {
                self.problem(
                    "netmask",
                    &format!("\"{netmask}\" without an address"),
                    "an address as well, or neither",
                );
            }
            return None;
        };
        let (host, prefix) = match text.split_once('/') {
            Some((host, prefix)) => (host, Some(prefix)),
            None => (text.as_str(), None),
        };
        let Ok(address) = host.parse::<IpAddr>() else {
            self.problem("address", &format!("\"{text}\""), WRITE);
            return None;
        };
        let width = if address.is_ipv4() { 32 } else { 128 };
        let mut bits = None;
        for (member, size) in [("address", prefix), ("netmask", netmask.as_deref())] {
            let Some(size) = size else { continue };
            match prefix_length(size, width) {
                None => {
                    self.problem(
                        member,
                        &format!("\"{size}\", which is no netmask for {address}"),
                        WRITE_MASK,
                    );
                    return None;
                }
                Some(length) if bits.is_some_and(|bits| bits != length) => {
                    self.problem(
                        member,
                        &format!("\"{size}\", but the address says \"{text}\""),
                        "the same size in both",
                    );
                    return None;
                }
                Some(length) => bits = Some(length),
            }
        }
        let Some(bits) = bits else {
            self.problem("netmask", "nothing", WRITE_MASK);
            return None;
        };
        let cidr = Cidr { address, bits };
        if let Some(what) = not_a_host(cidr) {
            self.problem(
                "address",
                &format!("\"{host}\", which is {what}"),
                "the machine's own address",
            );
            return None;
        }
        Some(cidr)
    }

    fn gateway(&mut self, prov: &Map<String, Value>, address: Option<Cidr>) -> Option<IpAddr> {
        const WRITE: &str = "an IP address such as \"10.0.0.1\"";
        let text = self.text(prov, "gateway", WRITE)?;
        let Ok(gateway) = text.parse::<IpAddr>() else {
            self.problem("gateway", &format!("\"{text}\""), WRITE);
            return None;
        };
        let Some(cidr) = address else {
            // A broken address has been reported already.
            if self.problems.is_empty() {
                self.problem(
                    "gateway",
                    &format!("\"{text}\" without an address"),
                    "an address and a netmask as well, or no gateway",
                );
            }
            return None;
        };
        if gateway == cidr.address {
            self.problem(
                "gateway",
                &format!("\"{text}\", which is the machine's own address"),
                "the router's address",
            );
        } else if !reaches(cidr, gateway) {
            let write = format!("an address within {cidr}, or correct the netmask");
            self.problem(
                "gateway",
                &format!("\"{text}\", which is not in the network of {cidr}"),
                &write,
            );
        }
        Some(gateway)
    }

    fn interface(&mut self, prov: &Map<String, Value>) -> Option<Interface> {
        const WRITE: &str = "an interface name such as \"eth0\" or a MAC address such as \"52:54:00:12:34:56\"";
        let text = self.text(prov, "interface", WRITE)?;
        if let Some(mac) = mac(&text) {
            return Some(Interface::Mac(mac));
        }
        // IFNAMSIZ is 16 with the closing zero. The name goes onto the kernel command line as it is.
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.@:".contains(c);
        if text.len() > 15 || !text.chars().all(fits) {
            self.problem("interface", &format!("\"{}\"", text.escape_debug()), WRITE);
            return None;
        }
        Some(Interface::Name(text))
    }

    fn number(&mut self, prov: &Map<String, Value>, member: &str, least: u16, most: u16) -> Option<u16> {
        let write = format!("a number from {least} to {most}, or leave it out");
        let text = self.text(prov, member, &write)?;
        let number = text
            .parse::<u16>()
            .ok()
            .filter(|number| (least..=most).contains(number));
        if number.is_none() {
            self.problem(member, &format!("\"{}\"", text.escape_debug()), &write);
        }
        number
    }

    fn dns(&mut self, prov: &Map<String, Value>) -> Vec<IpAddr> {
        const WRITE: &str = "a list of IP addresses such as [\"10.0.0.1\"]";
        let servers = match prov.get("dns-servers").or_else(|| prov.get("dns")) {
            None | Some(Value::Null) => return Vec::new(),
            Some(Value::Array(servers)) => servers.clone(),
            // One address, or several in one text, is what people write first.
            Some(Value::String(text)) => text
                .split([',', ' '])
                .filter(|part| !part.is_empty())
                .map(Value::from)
                .collect(),
            Some(other) => {
                self.problem("dns-servers", kind_of(other), WRITE);
                return Vec::new();
            }
        };
        let mut addresses = Vec::new();
        for server in &servers {
            match server.as_str().map(str::parse) {
                Some(Ok(address)) => addresses.push(address),
                Some(Err(_)) => self.problem("dns-servers", &server.to_string(), WRITE),
                None => self.problem("dns-servers", kind_of(server), WRITE),
            }
        }
        addresses
    }
}

/// Length of the prefix for `24`, `/24` or `255.255.255.0`.
pub fn prefix_length(netmask: &str, width: u8) -> Option<u8> {
    if let Ok(bits) = netmask.trim_start_matches('/').parse::<u8>() {
        return (bits <= width).then_some(bits);
    }
    let value = match (netmask.parse().ok()?, width) {
        (IpAddr::V4(mask), 32) => u128::from(u32::from(mask)) << 96,
        (IpAddr::V6(mask), 128) => u128::from(mask),
        _ => return None,
    };
    let bits = value.leading_ones();
    // All ones must be at the front.
    (bits == value.count_ones()).then_some(u8::try_from(bits).ok()?)
}

fn numeric(address: IpAddr) -> (u128, u32) {
    match address {
        IpAddr::V4(address) => (u128::from(u32::from(address)), 32),
        IpAddr::V6(address) => (u128::from(address), 128),
    }
}

fn not_a_host(cidr: Cidr) -> Option<&'static str> {
    let (number, width) = numeric(cidr.address);
    let host = number & !mask(cidr.bits, width);
    let all_ones = !mask(cidr.bits, width) & mask(u8::try_from(width).unwrap_or(128), width);
    let ends_reserved = width == 32 && cidr.bits < 31;
    match cidr.address {
        IpAddr::V4(address) if address.is_unspecified() => Some("no address at all"),
        IpAddr::V6(address) if address == Ipv6Addr::UNSPECIFIED => Some("no address at all"),
        address if address.is_multicast() => Some("a multicast address"),
        _ if ends_reserved && host == 0 => Some("the address of the network itself"),
        _ if ends_reserved && host == all_ones => Some("the broadcast address"),
        _ => None,
    }
}

fn reaches(cidr: Cidr, gateway: IpAddr) -> bool {
    let ((own, width), (other, other_width)) = (numeric(cidr.address), numeric(gateway));
    // A router of the link is on the link whatever the prefix.
    let link_local = matches!(gateway, IpAddr::V6(address) if address.is_unicast_link_local());
    // A network of one address has no room for a router; such routes are on the link by intent.
    let single = u32::from(cidr.bits) == width;
    width == other_width && (link_local || single || (own ^ other) & mask(cidr.bits, width) == 0)
}

fn mac(text: &str) -> Option<String> {
    let parts: Vec<&str> = text.split([':', '-']).collect();
    let octets = parts.len() == 6
        && parts
            .iter()
            .all(|part| part.len() == 2 && part.chars().all(|c| c.is_ascii_hexdigit()));
    octets.then(|| parts.join(":").to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn parse(prov: Value) -> Result<Provisioning, NetworkError> {
        Provisioning::parse(&json!({"prov": prov, "ipmi": {"address": "nonsense"}}))
    }

    fn problem(prov: Value) -> String {
        let error = parse(prov).unwrap_err();
        assert_eq!(error.problems.len(), 1, "{error}");
        error.problems[0].replacen("network-data.prov.", "", 1)
    }

    #[test]
    fn nothing_means_dhcp() {
        for value in [
            Value::Null,
            json!({}),
            json!({"prov": null}),
            json!({"prov": {"address": "", "netmask": ""}}),
        ] {
            assert_eq!(Provisioning::parse(&value).unwrap(), Provisioning::default());
        }
        let dhcp = parse(json!({"dhcp": true, "address": "10.0.0.5", "interface": "eth0", "vlan": 5})).unwrap();
        assert_eq!((dhcp.address, dhcp.vlan), (None, Some(5)));
    }

    #[test]
    fn all_spellings_of_a_static_network_are_read() {
        let plain = json!({"address": "10.10.10.100", "gateway": "10.10.10.1", "interface": "eth10", "netmask": "255.255.255.0"});
        let want = Provisioning {
            address: Some(Cidr {
                address: "10.10.10.100".parse().unwrap(),
                bits: 24,
            }),
            gateway: Some("10.10.10.1".parse().unwrap()),
            interface: Some(Interface::Name("eth10".into())),
            ..Provisioning::default()
        };
        assert_eq!(parse(plain).unwrap(), want);
        for (address, netmask) in [
            ("10.10.10.100/24", json!(null)),
            ("10.10.10.100", json!(24)),
            ("10.10.10.100", json!("/24")),
            ("10.10.10.100/24", json!("24")),
        ] {
            let prov = json!({"address": address, "netmask": netmask, "gateway": "10.10.10.1", "interface": "eth10"});
            assert_eq!(parse(prov).unwrap(), want);
        }
        let rest = parse(
            json!({"interface": "52-54-00-AB-CD-EF", "vlan": "1020", "mtu": 9000, "dns-servers": ["10.0.0.1", "::1"]}),
        )
        .unwrap();
        assert_eq!(rest.interface, Some(Interface::Mac("52:54:00:ab:cd:ef".into())));
        assert_eq!((rest.vlan, rest.mtu, rest.dns.len()), (Some(1020), Some(9000), 2));
        let six = parse(json!({"address": "fd00::5", "netmask": "64", "gateway": "fe80::1"})).unwrap();
        assert_eq!(six.address.unwrap().to_string(), "fd00::5/64");
    }

    #[test]
    fn each_slip_is_told_with_what_to_write() {
        let mask = "a netmask such as \"255.255.255.0\" or a prefix length such as \"24\"";
        let cases = [
            (json!({"address": "10.0.0"}), "address: found \"10.0.0\"; write an IP address such as \"10.0.0.5\"".to_owned()),
            (json!({"address": ["x"]}), "address: found a list; write an IP address such as \"10.0.0.5\"".to_owned()),
            (json!({"address": "10.0.0.5"}), format!("netmask: found nothing; write {mask}")),
            (json!({"address": "10.0.0.5", "netmask": "255.0.255.0"}), format!("netmask: found \"255.0.255.0\", which is no netmask for 10.0.0.5; write {mask}")),
            (json!({"address": "10.0.0.5", "netmask": 33}), format!("netmask: found \"33\", which is no netmask for 10.0.0.5; write {mask}")),
            (json!({"address": "10.0.0.5/24", "netmask": "16"}), "netmask: found \"16\", but the address says \"10.0.0.5/24\"; write the same size in both".to_owned()),
            (json!({"address": "10.0.0.0/24"}), "address: found \"10.0.0.0\", which is the address of the network itself; write the machine's own address".to_owned()),
            (json!({"address": "10.0.0.255/24"}), "address: found \"10.0.0.255\", which is the broadcast address; write the machine's own address".to_owned()),
            (json!({"netmask": "24"}), "netmask: found \"24\" without an address; write an address as well, or neither".to_owned()),
            (json!({"gateway": "10.0.0.1"}), "gateway: found \"10.0.0.1\" without an address; write an address and a netmask as well, or no gateway".to_owned()),
            (json!({"address": "10.0.0.5/24", "gateway": "10.0.1.1"}), "gateway: found \"10.0.1.1\", which is not in the network of 10.0.0.5/24; write an address within 10.0.0.5/24, or correct the netmask".to_owned()),
            (json!({"address": "10.0.0.5/24", "gateway": "10.0.0.5"}), "gateway: found \"10.0.0.5\", which is the machine's own address; write the router's address".to_owned()),
            (json!({"interface": "eth0 quiet"}), "interface: found \"eth0 quiet\"; write an interface name such as \"eth0\" or a MAC address such as \"52:54:00:12:34:56\"".to_owned()),
            (json!({"vlan": 4095}), "vlan: found \"4095\"; write a number from 1 to 4094, or leave it out".to_owned()),
            (json!({"vlan": "ten"}), "vlan: found \"ten\"; write a number from 1 to 4094, or leave it out".to_owned()),
            (json!({"mtu": true}), "mtu: found a boolean; write a number from 576 to 65535, or leave it out".to_owned()),
            (json!({"dns-servers": ["x"]}), "dns-servers: found \"x\"; write a list of IP addresses such as [\"10.0.0.1\"]".to_owned()),
        ];
        for (prov, want) in cases {
            assert_eq!(problem(prov), want);
        }
        let two = parse(json!({"address": "x", "vlan": 0})).unwrap_err();
        assert_eq!(two.problems.len(), 2);
        assert!(
            Provisioning::parse(&json!([]))
                .unwrap_err()
                .to_string()
                .contains("network-data: found a list")
        );
        assert!(
            Provisioning::parse(&json!({"prov": "x"}))
                .unwrap_err()
                .to_string()
                .contains("network-data.prov: found text")
        );
    }

    #[test]
    fn the_plain_form_reads_back_as_the_same_network() {
        let data = json!({"prov": {"address": "10.0.0.5/22", "vlan": "7", "mtu": "", "extra": 1}, "other": {"x": 1}});
        let parsed = Provisioning::parse(&data).unwrap();
        let plain = parsed.normalise(&data);
        let want = json!({"prov": {"address": "10.0.0.5", "vlan": 7, "extra": 1, "netmask": "255.255.252.0"}, "other": {"x": 1}});
        assert_eq!(plain, want);
        assert_eq!(Provisioning::parse(&plain).unwrap(), parsed);
    }

    proptest::proptest! {
        #[test]
        fn any_value_is_a_network_or_an_error(value in crate::canonical::tests::any_json(), address in "[0-9a-f.:/]{0,20}", mask in "[0-9./]{0,16}") {
            let _ = Provisioning::parse(&json!({"prov": value}));
            let data = json!({"prov": {"address": address, "netmask": mask}});
            if let Ok(parsed) = Provisioning::parse(&data) {
                proptest::prop_assert_eq!(Provisioning::parse(&parsed.normalise(&data)).unwrap(), parsed);
            }
        }
    }
}
