//! What DRP's `ipmi-inventory` writes onto machines, from what the BMC says of its own network ports; and its `status`.

use std::net::IpAddr;

use isobar_bmc::{HostState, PowerState};
use serde_json::{Map, Value, json};

/// The machine as its BMC sees it.
pub(crate) fn status(host: &HostState) -> Value {
    let power = match host.power {
        PowerState::On | PowerState::PoweringOff => "On",
        PowerState::Off | PowerState::PoweringOn => "Off",
        PowerState::Unknown => "Unknown",
    };
    json!({
        "PowerState": power,
        "BootMode": host.boot_mode,
        "BootTarget": host.boot_target,
        "BootEnabled": host.boot_enabled,
        "BootProgress": host.boot_progress,
        "HttpBoot": host.http_boot,
        "SecureBoot": host.secure_boot.as_ref().map(|secure| json!({
            "Enabled": secure.enabled, "InForce": secure.in_force, "Mode": secure.mode,
        })),
    })
}

fn text<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    value.get(name)?.as_str().filter(|text| !text.is_empty())
}

/// Entries of a list of addresses that say anything.
fn addresses<'a>(port: &'a Value, list: &str) -> impl Iterator<Item = (&'a Value, IpAddr)> {
    let entries = port.get(list).and_then(Value::as_array);
    entries.into_iter().flatten().filter_map(|entry| {
        let address: IpAddr = text(entry, "Address")?.parse().ok()?;
        (!address.is_unspecified()).then_some((entry, address))
    })
}

fn all(port: &Value) -> impl Iterator<Item = IpAddr> {
    let both = addresses(port, "IPv4Addresses").chain(addresses(port, "IPv6Addresses"));
    both.map(|(_, address)| address)
}

/// The port at which the BMC was reached, else the first one that has an address.
fn port<'a>(ports: &'a Value, reached: &[IpAddr]) -> Option<&'a Value> {
    let ports = ports.as_array()?;
    let at = |port: &&Value| all(port).any(|address| reached.contains(&address.to_canonical()));
    ports
        .iter()
        .find(at)
        .or_else(|| ports.iter().find(|port| all(port).next().is_some()))
        .or(ports.first())
}

/// The params `ipmi/...` of an inventory. Where the BMC is (`ipmi/address`) is not among them: the password goes there.
pub(crate) fn of_the_bmc(ports: &Value, reached: &[IpAddr]) -> Map<String, Value> {
    let mut params = Map::new();
    params.insert("ipmi/enabled".into(), true.into());
    let Some(port) = port(ports, reached) else {
        return params;
    };
    let mut put = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            params.insert(format!("ipmi/{name}"), value.into());
        }
    };
    let owned = |value: Option<&str>| value.map(str::to_owned);
    put(
        "macaddr",
        owned(text(port, "PermanentMACAddress").or(text(port, "MACAddress"))).map(|mac| mac.to_lowercase()),
    );
    let v6 = reached.iter().any(IpAddr::is_ipv6);
    if let Some((entry, address)) = addresses(port, "IPv4Addresses").next() {
        let rest = [
            ("netmask", owned(text(entry, "SubnetMask"))),
            ("gateway", owned(text(entry, "Gateway"))),
            ("ipsrc", owned(text(entry, "AddressOrigin"))),
        ];
        put("address-v4", Some(address.to_string()));
        for (name, value) in rest {
            put(&format!("{name}-v4"), value.clone());
            if !v6 {
                put(name, value);
            }
        }
    }
    let usable = |(_, address): &(&Value, IpAddr)| matches!(address, IpAddr::V6(ip) if !ip.is_unicast_link_local());
    if let Some((entry, address)) = addresses(port, "IPv6Addresses").find(usable) {
        let prefix = entry.get("PrefixLength").and_then(Value::as_u64);
        let rest = [
            ("netmask", prefix.map(|prefix| prefix.to_string())),
            ("gateway", owned(text(port, "IPv6DefaultGateway"))),
            ("ipsrc", owned(text(entry, "AddressOrigin"))),
        ];
        put("address-v6", Some(address.to_string()));
        for (name, value) in rest {
            put(&format!("{name}-v6"), value.clone());
            if v6 {
                put(name, value);
            }
        }
    }
    params
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_port_that_was_reached_is_taken_in() {
        let ports = json!([
            {"Id": "usb0", "MACAddress": "00:00:00:00:00:01", "IPv4Addresses": [{"Address": "169.254.0.1"}]},
            {"Id": "eth0", "MACAddress": "AA:BB:CC:00:00:02", "IPv6DefaultGateway": "fd00::1",
             "IPv4Addresses": [{"Address": "0.0.0.0"}, {"Address": "10.0.0.5", "SubnetMask": "255.255.0.0",
                "Gateway": "10.0.0.1", "AddressOrigin": "DHCP"}],
             "IPv6Addresses": [{"Address": "fe80::1", "PrefixLength": 64}, {"Address": "fd00::5", "PrefixLength": 64,
                "AddressOrigin": "SLAAC"}]},
        ]);
        let params = of_the_bmc(&ports, &["10.0.0.5".parse().unwrap()]);
        let want = json!({
            "ipmi/enabled": true, "ipmi/macaddr": "aa:bb:cc:00:00:02", "ipmi/address-v4": "10.0.0.5",
            "ipmi/netmask-v4": "255.255.0.0", "ipmi/netmask": "255.255.0.0", "ipmi/gateway-v4": "10.0.0.1",
            "ipmi/gateway": "10.0.0.1", "ipmi/ipsrc-v4": "DHCP", "ipmi/ipsrc": "DHCP", "ipmi/address-v6": "fd00::5",
            "ipmi/netmask-v6": "64", "ipmi/gateway-v6": "fd00::1", "ipmi/ipsrc-v6": "SLAAC",
        });
        assert_eq!(Value::from(params), want);
        // A name or another network's address: the first port with an address, and of odd things nothing.
        let other = of_the_bmc(&ports, &["192.0.2.1".parse().unwrap()]);
        assert_eq!(other["ipmi/address-v4"], "169.254.0.1");
        for odd in [
            json!(null),
            json!([]),
            json!([{"IPv4Addresses": "x", "MACAddress": 7}]),
            json!("s"),
        ] {
            assert_eq!(
                Value::from(of_the_bmc(&odd, &[])),
                json!({"ipmi/enabled": true}),
                "{odd}"
            );
        }
    }
}
