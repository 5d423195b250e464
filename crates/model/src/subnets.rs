//! Subnets and reservations: what the server fills in, and what does not fit together.

use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Value, json};

use crate::key::hex_of;
use crate::validate::Findings;
use crate::{ApiError, Lookup, Object, noun, text};

/// DHCP options (RFC 2132 §3.3, §5.3) that follow from the network.
const NETMASK: i64 = 1;
const BROADCAST: i64 = 28;

const PICKERS: &[&str] = &["none", "hint", "nextFree", "mostExpired", "point2point"];
const DEFAULT_PICKERS: &[&str] = &["hint", "nextFree", "mostExpired"];

/// An IPv4 network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    first: u32,
    bits: u32,
}

impl Network {
    /// Reads `192.168.124.0/24`; an address inside stands for its network.
    pub fn parse(text: &str) -> Option<Network> {
        let (address, bits) = text.split_once('/')?;
        let address: Ipv4Addr = address.parse().ok()?;
        let bits: u32 = bits.parse().ok().filter(|bits| *bits <= 32)?;
        let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
        Some(Network {
            first: u32::from(address) & mask,
            bits,
        })
    }

    fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - self.bits).unwrap_or(0)
    }

    /// Its first and its last address.
    pub fn ends(self) -> (Ipv4Addr, Ipv4Addr) {
        (self.first.into(), (self.first | !self.mask()).into())
    }

    /// Whether an address lies in it.
    pub fn holds(self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => u32::from(v4) & self.mask() == self.first,
            IpAddr::V6(_) => false,
        }
    }
}

fn address(object: &Object, member: &str) -> Option<IpAddr> {
    text(object, member).parse().ok()
}

fn network(subnet: &Object) -> Option<Network> {
    Network::parse(text(subnet, "Subnet"))
}

/// Fills in what follows from the network; refuses to change what leases depend on.
pub(crate) fn settle_subnet(old: Option<&Object>, new: &mut Object) -> Result<(), ApiError> {
    if let Some(old) = old {
        let mut reasons = Vec::new();
        if old.get("Strategy") != new.get("Strategy") {
            reasons.push("Strategy cannot change".to_owned());
        }
        if old.get("Subnet") != new.get("Subnet") {
            reasons.push("Subnet range cannot change".to_owned());
        }
        if !reasons.is_empty() {
            return Err(ApiError::validations("subnets", text(new, "Name"), reasons));
        }
    }
    if text(new, "Strategy").is_empty() {
        new.insert("Strategy".to_owned(), "MAC".into());
    }
    if new.get("Pickers").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        new.insert("Pickers".to_owned(), json!(DEFAULT_PICKERS));
    }
    if let (Some(network), Some(Value::Array(options))) = (network(new), new.get_mut("Options")) {
        let mask = Ipv4Addr::from(network.mask());
        for (code, value) in [(NETMASK, mask), (BROADCAST, network.ends().1)] {
            let option = json!({ "Code": code, "Value": value.to_string() });
            match options.iter_mut().find(|option| option["Code"] == code) {
                Some(there) => *there = option,
                None => options.push(option),
            }
        }
    }
    Ok(())
}

pub(crate) fn check_subnet(subnet: &Object, lookup: &dyn Lookup, found: &mut Findings) {
    let Some(network) = network(subnet) else {
        let reason = format!("Invalid subnet CIDR: {}", text(subnet, "Subnet"));
        found.invalid.push(reason);
        return;
    };
    let name = text(subnet, "Name");
    let only_reserved = subnet.get("OnlyReservations") == Some(&Value::Bool(true));
    let ends: Vec<Option<IpAddr>> = ["ActiveStart", "ActiveEnd"]
        .map(|member| address(subnet, member))
        .into();
    for (member, end) in ["ActiveStart", "ActiveEnd"].iter().zip(&ends) {
        match end {
            Some(end) if !network.holds(*end) => {
                let reason = format!("{member} {end} not in subnet range {}", text(subnet, "Subnet"));
                found.invalid.push(reason);
            }
            None if !only_reserved && !text(subnet, "ActiveStart").is_empty() => {
                found.invalid.push(format!("{member} must be a valid address"));
            }
            _ => {}
        }
    }
    if let [Some(start), Some(end)] = ends.as_slice()
        && start > end
    {
        found.invalid.push("ActiveStart must be less than ActiveEnd".to_owned());
    }
    let pickers = crate::list(subnet, "Pickers");
    let unknown = pickers.filter(|picker| !PICKERS.contains(picker));
    found
        .invalid
        .extend(unknown.map(|picker| format!("Picker {picker} is not a valid lease picker")));
    for (other, object) in all_subnets(lookup).filter(|(other, _)| other != name) {
        let overlaps = self::network(&object)
            .is_some_and(|theirs| theirs.holds(network.ends().0.into()) || network.holds(theirs.ends().0.into()));
        if overlaps {
            found.unavailable.push(format!("Overlaps subnet {other}"));
        }
    }
}

fn all_subnets(lookup: &dyn Lookup) -> impl Iterator<Item = (String, std::sync::Arc<Object>)> {
    let keys = lookup.keys("subnets").into_iter();
    keys.filter_map(|key| lookup.get("subnets", &key).map(|subnet| (key, subnet)))
}

/// The subnet that an address lies in.
fn subnet_of(address: IpAddr, lookup: &dyn Lookup) -> Option<(String, Network)> {
    all_subnets(lookup).find_map(|(name, subnet)| Some((name, network(&subnet).filter(|n| n.holds(address))?)))
}

pub(crate) fn settle_reservation(old: Option<&Object>, new: &mut Object, lookup: &dyn Lookup) -> Result<(), ApiError> {
    let key = noun("reservations").map(|noun| noun.key_of(new).into_owned());
    if let Some(old) = old {
        let changed = ["Token", "Strategy"]
            .into_iter()
            .filter(|member| old.get(*member) != new.get(*member));
        let reasons: Vec<_> = changed.map(|member| format!("{member} cannot change")).collect();
        if !reasons.is_empty() {
            return Err(ApiError::validations("reservations", &key.unwrap_or_default(), reasons));
        }
    }
    let scoped = new.get("Scoped") == Some(&Value::Bool(true));
    let subnet = address(new, "Addr")
        .and_then(|address| subnet_of(address, lookup))
        .filter(|_| scoped);
    let name = subnet.map(|(name, _)| name).unwrap_or_default();
    new.insert("Subnet".to_owned(), name.into());
    Ok(())
}

/// Why a reservation cannot be stored.
pub(crate) fn reservation_problems(reservation: &Object, lookup: &dyn Lookup) -> Vec<String> {
    let Some(address) = address(reservation, "Addr") else {
        return vec!["Reservation Addr must be an IP address".to_owned()];
    };
    let mut problems = Vec::new();
    for member in ["Token", "Strategy"] {
        if text(reservation, member).is_empty() {
            problems.push(format!("Reservation {member} cannot be empty!"));
        }
    }
    let scoped = reservation.get("Scoped") == Some(&Value::Bool(true));
    match subnet_of(address, lookup) {
        None if scoped => {
            problems.push(format!(
                "Address {address} is not in a defined Subnet, and Scoped is true."
            ));
        }
        Some((name, network)) if [network.ends().0, network.ends().1].map(IpAddr::V4).contains(&address) => {
            problems.push(format!(
                "Address {address} is a network or broadcast address for subnet {name}"
            ));
        }
        _ => {}
    }
    if !problems.is_empty() {
        return problems;
    }
    let (token, strategy) = (text(reservation, "Token"), text(reservation, "Strategy"));
    let own = hex_of(address);
    let same = lookup
        .find("reservations", "Token", token)
        .into_iter()
        .filter(|key| *key != own);
    let others = same.filter_map(|key| lookup.get("reservations", &key).map(|other| (key, other)));
    for (key, other) in others.filter(|(_, other)| text(other, "Strategy") == strategy) {
        let theirs = text(&other, "Subnet");
        if other.get("Scoped") != Some(&Value::Bool(true)) {
            problems.push(format!(
                "Unscoped reservation {key} already has Strategy {strategy}: Token {token}"
            ));
        } else if !scoped || theirs == text(reservation, "Subnet") {
            problems.push(format!(
                "Reservation {key} in subnet {theirs} already has Strategy {strategy}: Token {token}"
            ));
        }
    }
    problems
}

/// Why a subnet cannot be deleted: the reservations that hold in it alone.
pub fn scoped_in(subnet: &str, lookup: &dyn Lookup) -> Vec<String> {
    let reservations = lookup.keys("reservations").into_iter();
    let scoped = reservations
        .filter_map(|key| lookup.get("reservations", &key))
        .filter(|reservation| {
            reservation.get("Scoped") == Some(&Value::Bool(true)) && text(reservation, "Subnet") == subnet
        });
    scoped
        .map(|r| {
            let address = text(&r, "Addr");
            format!("Reservation {address} is scoped for Subnet {subnet}, cannot delete.")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::lookup::tests::World;
    use crate::machine::Change;
    use crate::validate;

    fn admitted(model: &str, object: Value, world: &World) -> Result<Object, ApiError> {
        let noun = noun(model).unwrap();
        let mut object = noun.accept(&object, None).unwrap();
        validate::admit(noun, None, &mut object, world, Change::default())?;
        Ok(object)
    }

    fn subnet(name: &str, cidr: &str) -> Value {
        json!({"Name": name, "Subnet": cidr})
    }

    #[test]
    fn a_subnet_knows_its_mask_and_its_broadcast_address() {
        let made = admitted("subnets", subnet("aa", "10.1.0.0/22"), &World::default()).unwrap();
        let want = json!([{"Code": 1, "Value": "255.255.252.0"}, {"Code": 28, "Value": "10.1.3.255"}]);
        assert_eq!((&made["Options"], &made["Strategy"]), (&want, &json!("MAC")));
        assert_eq!(made["Pickers"], json!(DEFAULT_PICKERS));
        let noun = noun("subnets").unwrap();
        for (member, value) in [("Strategy", json!("x")), ("Subnet", json!("10.2.0.0/22"))] {
            let mut changed = made.clone();
            changed.insert(member.to_owned(), value);
            let refused = validate::admit(noun, Some(&made), &mut changed, &World::default(), Change::default());
            assert_eq!(refused.unwrap_err().code, 422, "{member}");
        }
        for wrong in [
            subnet("aa", "10.1.0.0"),
            json!({"Name": "aa", "Subnet": "10.1.0.0/24", "ActiveStart": "10.2.0.1", "ActiveEnd": "10.1.0.9"}),
            json!({"Name": "aa", "Subnet": "10.1.0.0/24", "ActiveStart": "10.1.0.9", "ActiveEnd": "10.1.0.1"}),
            json!({"Name": "aa", "Subnet": "10.1.0.0/24", "Pickers": ["luck"]}),
        ] {
            assert_eq!(admitted("subnets", wrong, &World::default()).unwrap_err().code, 422);
        }
    }

    #[test]
    fn an_overlap_is_stored_and_told() {
        let world = World::default().with("subnets", subnet("wide", "10.0.0.0/8"));
        let made = admitted("subnets", subnet("aa", "10.1.0.0/24"), &world).unwrap();
        assert_eq!(
            (&made["Available"], &made["Errors"]),
            (&json!(false), &json!(["Overlaps subnet wide"]))
        );
    }

    #[test]
    fn a_token_has_one_reservation_in_a_subnet_or_one_everywhere() {
        let reservation = |addr: &str, token: &str, scoped: bool| json!({"Addr": addr, "Token": token, "Strategy": "MAC", "Scoped": scoped});
        let world = World::default()
            .with("subnets", subnet("aa", "10.1.0.0/24"))
            .with("subnets", subnet("bb", "10.2.0.0/24"))
            .with("reservations", reservation("10.9.0.1", "everywhere", false));
        let first = admitted("reservations", reservation("10.1.0.1", "foo", true), &world).unwrap();
        assert_eq!(first["Subnet"], "aa");
        let mut world = world;
        world.put("reservations", first);
        let refused = |addr: &str, token: &str, scoped: bool| {
            let made = admitted("reservations", reservation(addr, token, scoped), &world);
            made.err().map(|error| error.messages[0].clone())
        };
        let taken = "Reservation 0A010001 in subnet aa already has Strategy MAC: Token foo";
        let unscoped = "Unscoped reservation 0A090001 already has Strategy MAC: Token everywhere";
        assert_eq!(refused("10.1.0.2", "foo", true).as_deref(), Some(taken));
        assert_eq!(refused("10.2.0.2", "foo", true), None);
        assert_eq!(refused("10.9.0.2", "foo", false).as_deref(), Some(taken));
        assert_eq!(refused("10.2.0.2", "everywhere", true).as_deref(), Some(unscoped));
        let outside = "Address 10.9.0.2 is not in a defined Subnet, and Scoped is true.";
        assert_eq!(refused("10.9.0.2", "bar", true).as_deref(), Some(outside));
        let edge = "Address 10.1.0.255 is a network or broadcast address for subnet aa";
        assert_eq!(refused("10.1.0.255", "bar", false).as_deref(), Some(edge));
        let kept = ["Reservation 10.1.0.1 is scoped for Subnet aa, cannot delete."];
        assert_eq!(scoped_in("aa", &world), kept);
    }
}
