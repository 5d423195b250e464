//! Finding the system, the manager and the virtual CD by links; nothing is at a fixed place.

use serde_json::{Map, Value, json};

use super::json;
use super::learnt::Kind;
use super::quirks::Quirks;
use super::slots::{any_media, lists_slots};
use super::transport::{ROOT, Transport};
use crate::{BmcError, ErrorClass};

/// What is known of a BMC for the length of a conversation.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) root: Value,
    pub(crate) system_uri: String,
    /// The system as it was when it was found.
    pub(crate) system: Value,
    pub(crate) manager_uri: Option<String>,
    pub(crate) manager: Value,
    /// Managers that may hold the virtual media, the right one first, with their resources.
    pub(crate) managers: Vec<(String, Value)>,
    pub(crate) vendor: String,
    pub(crate) quirks: Quirks,
}

impl Found {
    /// Maker, model and firmware: those of its siblings.
    pub(crate) fn kind(&self) -> Kind {
        let text = |value: &Value, name: &str| json::text(value, &[name]).unwrap_or_default().to_owned();
        (
            self.vendor.clone(),
            text(&self.system, "Model"),
            text(&self.manager, "FirmwareVersion"),
        )
    }

    fn uuid(&self) -> Option<&str> {
        json::text(&self.system, &["UUID"])
    }

    /// What the next conversation need not look for.
    pub(crate) fn layout(&self) -> Layout {
        Layout {
            root: needed(&self.root),
            system: self.system_uri.clone(),
            managers: self.managers.iter().map(|(uri, _)| uri.clone()).collect(),
            kind: self.kind(),
            uuid: self.uuid().map(str::to_owned),
        }
    }
}

/// The members of a service root that are looked at: thousands of them are kept.
fn needed(root: &Value) -> Value {
    const MEMBERS: &[&str] = &["Systems", "Managers", "SessionService", "Vendor", "RedfishVersion"];
    let mut kept: Map<String, Value> = MEMBERS
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), root.get(name)?.clone())))
        .collect();
    if let Some(sessions) = root.get("Links").and_then(|links| links.get("Sessions")) {
        kept.insert("Links".to_owned(), json!({"Sessions": sessions}));
    }
    let oem: Map<String, Value> = oem_vendors(root).into_iter().map(|name| (name, Value::Null)).collect();
    kept.insert("Oem".to_owned(), oem.into());
    kept.into()
}

/// Where things are at one BMC.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Layout {
    /// Of the service root, what is looked at.
    pub(crate) root: Value,
    system: String,
    managers: Vec<String>,
    /// With another firmware, or another machine at this address, nothing of it need be true.
    kind: Kind,
    uuid: Option<String>,
}

/// Reads the service root, without a login, and learns where to log in.
pub(crate) async fn root(http: &mut Transport) -> Result<Value, BmcError> {
    let root = match http.get(ROOT).await {
        // Against the standard, some want a login even here.
        Err(err) if err.status == Some(401) => {
            http.set_sessions(vec![format!("{ROOT}SessionService/Sessions")], None);
            http.log_in().await?;
            http.get(ROOT).await?.body
        }
        // A web server of somebody else, or a BMC that has no Redfish.
        Err(err) if err.status == Some(404) => {
            return Err(err.hinted(
                "it speaks HTTP and no Redfish: check ipmi/address and ipmi/port-redfish; a BMC with IPMI alone is \
                 reached by ipmi/mode ipmitool",
            ));
        }
        other => other?.body,
    };
    if !root.is_object() {
        return Err(http.error(
            ErrorClass::Protocol,
            "the answer at /redfish/v1/ is no Redfish service root",
        ));
    }
    learn_sessions(http, &root);
    Ok(root)
}

/// Where to log in, as the service root says.
pub(crate) fn learn_sessions(http: &mut Transport, root: &Value) {
    let service = json::link(root, &["SessionService"]);
    let usual = service.map(|service| format!("{}/Sessions", service.trim_end_matches('/')));
    let sessions: Vec<String> = json::link(root, &["Links", "Sessions"])
        .into_iter()
        .chain(usual)
        .collect();
    let vendor = json::text(root, &["Vendor"]).unwrap_or_default();
    let mut vendors = oem_vendors(root);
    vendors.push(vendor.to_owned());
    let vendors: Vec<&str> = vendors.iter().map(String::as_str).collect();
    http.set_sessions(sessions, Quirks::of(&vendors, &[], "").session_oem());
}

pub(crate) async fn discover(http: &mut Transport, root: Value) -> Result<Found, BmcError> {
    // A shelf of power supplies or a switch need not have any.
    let members = match json::link(&root, &["Systems"]) {
        Some(collection) => http.collection(&collection).await?.unwrap_or_default().1,
        None => Vec::new(),
    };
    let mut systems = Vec::new();
    for uri in members {
        if let Some(reply) = http.get_if_there(&uri).await? {
            systems.push((uri, reply.body));
        }
    }
    let chosen = match choose_system(&systems, http.wanted_system()) {
        Ok(chosen) => chosen,
        Err(mut why) => {
            let managers = all_managers(http, &root).await?;
            if !any_media(systems.iter().chain(&managers).map(|(_, body)| body)) {
                why.text
                    .push_str(", and no usable virtual media: none of its systems and managers links to any");
            }
            let missing = http.missing(why.text);
            return Err(match missing.class {
                ErrorClass::Unsupported => missing.hinted(why.hint),
                _ => missing,
            });
        }
    };
    let (system_uri, system) = systems.swap_remove(chosen);

    let mut managers = Vec::new();
    let managed_by = match json::at(&system, &["Links", "ManagedBy"]) {
        Value::Array(entries) => entries.clone(),
        one => vec![one.clone()],
    };
    for entry in &managed_by {
        let Some(uri) = json::link(entry, &[]) else { continue };
        if let Some(reply) = http.get_if_there(&uri).await? {
            managers.push((uri, reply.body));
        }
    }
    let at_system = json::link(&system, &["VirtualMedia"]).is_some();
    let mut slots = Vec::new();
    for (_, manager) in managers.iter().filter(|_| !at_system) {
        slots.push(lists_slots(http, manager).await?);
    }
    if managers.is_empty() || !(at_system || slots.contains(&true)) {
        // The link names no manager, or (Cisco) one without slots: look at all of them.
        let mut others = Vec::new();
        for (uri, manager) in all_managers(http, &root).await? {
            if !managers.iter().any(|(known, _)| json::same_uri(known, &uri)) {
                others.push((uri, manager));
            }
        }
        others.sort_by_key(|m| json::text(&m.1, &["ManagerType"]) != Some("BMC"));
        for (_, manager) in others.iter().filter(|_| !at_system) {
            slots.push(lists_slots(http, manager).await?);
        }
        managers.extend(others);
    }
    slots.resize(managers.len(), true);
    let mut ranked: Vec<_> = slots.into_iter().zip(managers).collect();
    // Stable: no baseboard of GPUs, then one with slots where the system has none itself, then one that links to media.
    ranked.sort_by_key(|(slots, m)| {
        (
            is_baseboard(&m.0),
            !slots,
            !at_system && !any_media(std::iter::once(&m.1)),
        )
    });
    let managers = ranked.into_iter().map(|(_, manager)| manager).collect();
    Ok(found(root, (system_uri, system), managers))
}

/// The same places as another conversation found, as they are now; none where something has changed since.
pub(crate) async fn again(http: &mut Transport, layout: &Layout) -> Result<Option<Found>, BmcError> {
    let Some(system) = http.get_if_there(&layout.system).await? else {
        return Ok(None);
    };
    let mut managers = Vec::new();
    for uri in &layout.managers {
        let Some(manager) = http.get_if_there(uri).await? else {
            return Ok(None);
        };
        managers.push((uri.clone(), manager.body));
    }
    let found = found(layout.root.clone(), (layout.system.clone(), system.body), managers);
    Ok((found.kind() == layout.kind && found.uuid() == layout.uuid.as_deref()).then_some(found))
}

/// What follows from the resources that were chosen.
fn found(root: Value, (system_uri, system): (String, Value), managers: Vec<(String, Value)>) -> Found {
    let (manager_uri, manager) = managers
        .first()
        .map_or((None, Value::Null), |(uri, body)| (Some(uri.clone()), body.clone()));
    let names: Vec<String> = [
        json::text(&root, &["Vendor"]).map(str::to_owned),
        json::text(&system, &["Manufacturer"]).map(str::to_owned),
        json::text(&manager, &["Manufacturer"]).map(str::to_owned),
    ]
    .into_iter()
    .flatten()
    .chain(oem_vendors(&root))
    .chain(oem_vendors(&manager))
    .collect();
    let models = [&system, &manager].map(|holder| json::text(holder, &["Model"]).unwrap_or_default());
    let firmware = json::text(&manager, &["FirmwareVersion"]).unwrap_or_default();
    let quirks = Quirks::of(&names.iter().map(String::as_str).collect::<Vec<_>>(), &models, firmware);
    let vendor = names
        .first()
        .cloned()
        .or_else(|| json::text(&manager, &["Model"]).map(str::to_owned));
    Found {
        root,
        system_uri,
        system,
        manager_uri,
        manager,
        managers,
        vendor: vendor.unwrap_or_default(),
        quirks,
    }
}

/// The keys of `Oem`: `Hpe`, `Supermicro`, `Ami`.
fn oem_vendors(resource: &Value) -> Vec<String> {
    let keys = json::at(resource, &["Oem"]).as_object().into_iter().flatten();
    keys.map(|(name, _)| name.clone())
        .filter(|k| !k.contains('@'))
        .collect()
}

/// NVIDIA: systems and managers of the GPUs' baseboard, beside the host's.
fn is_baseboard(uri: &str) -> bool {
    json::last_part(uri).to_ascii_uppercase().starts_with("HGX_")
}

async fn all_managers(http: &mut Transport, root: &Value) -> Result<Vec<(String, Value)>, BmcError> {
    let Some(collection) = json::link(root, &["Managers"]) else {
        return Ok(Vec::new());
    };
    let mut managers = Vec::new();
    for uri in http.collection(&collection).await?.unwrap_or_default().1 {
        if let Some(reply) = http.get_if_there(&uri).await? {
            managers.push((uri, reply.body));
        }
    }
    Ok(managers)
}

#[derive(Debug, PartialEq, Eq)]
struct NoSystem {
    text: String,
    hint: String,
}

/// Which system is meant.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanted<'a> {
    /// Id, URI or UUID that somebody named.
    pub(crate) named: Option<&'a str>,
    /// UUID of the machine, which need not be the system's.
    pub(crate) machine: Option<&'a str>,
}

/// Which of the systems is the host: the one that was named, the only one, the one with the machine's UUID, or the
/// only one that looks like a host. Never a guess.
fn choose_system(systems: &[(String, Value)], wanted: Wanted<'_>) -> Result<usize, NoSystem> {
    let id = |(uri, body): &(String, Value)| json::text(body, &["Id"]).unwrap_or(json::last_part(uri)).to_owned();
    let ids = || systems.iter().map(id).collect::<Vec<_>>().join(", ");
    let has_uuid = |(_, body): &(String, Value), uuid: &str| {
        json::text(body, &["UUID"]).is_some_and(|u| u.eq_ignore_ascii_case(uuid))
    };
    if let Some(wanted) = wanted.named {
        let named = |s: &(String, Value)| {
            let names = [id(s), json::last_part(&s.0).to_owned(), s.0.clone()];
            names.iter().any(|n| n.eq_ignore_ascii_case(wanted)) || has_uuid(s, wanted)
        };
        return systems.iter().position(named).ok_or_else(|| NoSystem {
            text: format!("it has no system {wanted:?}, but: {}", ids()),
            hint: "set isobar/bmc-system to one of these".into(),
        });
    }
    if systems.len() == 1 {
        return Ok(0);
    }
    if let Some(ours) = wanted
        .machine
        .and_then(|uuid| systems.iter().position(|s| has_uuid(s, uuid)))
    {
        return Ok(ours);
    }
    let physical = |i: &usize| {
        let (uri, body) = &systems[*i];
        let kind = json::text(body, &["SystemType"]).unwrap_or("Physical");
        !is_baseboard(uri) && !["Virtual", "Composed", "VirtuallyPartitioned", "DPU"].contains(&kind)
    };
    let boots = |i: &usize| {
        json::at(&systems[*i].1, &["Boot"])
            .as_object()
            .is_some_and(|boot| !boot.is_empty())
    };
    let physical: Vec<usize> = (0..systems.len()).filter(physical).collect();
    let hosts: Vec<usize> = physical.iter().copied().filter(boots).collect();
    match (hosts.as_slice(), physical.as_slice()) {
        ([one], _) | ([], [one]) => Ok(*one),
        _ if systems.is_empty() => Err(NoSystem {
            text: "it lists no system".into(),
            hint: "is the machine powered and fully inserted? Some BMCs list it only after its first start".into(),
        }),
        _ => Err(NoSystem {
            text: format!("it has several systems: {}", ids()),
            hint: "set isobar/bmc-system to the one that is this machine (its id or its UUID)".into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const ANY: Wanted<'static> = Wanted {
        named: None,
        machine: None,
    };

    fn named(name: &str) -> Wanted<'_> {
        Wanted {
            named: Some(name),
            ..ANY
        }
    }

    fn of(systems: &[(&str, Value)]) -> Vec<(String, Value)> {
        systems.iter().map(|(uri, v)| ((*uri).to_owned(), v.clone())).collect()
    }

    #[test]
    fn one_system_or_the_only_host_is_taken() {
        let boot = json!({"BootSourceOverrideTarget": "None"});
        assert_eq!(choose_system(&of(&[("/s/x", json!({}))]), ANY), Ok(0));
        let gpu = of(&[
            ("/s/HGX_Baseboard_0", json!({"Boot": boot})),
            ("/s/v", json!({"SystemType": "Virtual", "Boot": boot})),
            ("/s/n", json!({"Boot": null})),
            ("/s/System_0", json!({"Boot": boot})),
        ]);
        assert_eq!(choose_system(&gpu, ANY), Ok(3));
    }

    #[test]
    fn several_hosts_must_be_named() {
        let boot = json!({"Boot": {"BootOptions": {}}});
        let nodes = of(&[("/s/Node0", boot.clone()), ("/s/Node1/", boot)]);
        assert!(choose_system(&nodes, ANY).unwrap_err().text.contains("Node0, Node1"));
        assert_eq!(choose_system(&nodes, named("node1")), Ok(1));
        assert!(
            choose_system(&nodes, named("Node7"))
                .unwrap_err()
                .text
                .contains("Node7")
        );
        assert!(choose_system(&[], ANY).unwrap_err().text.contains("no system"));
    }

    #[test]
    fn a_machines_uuid_tells_its_system_among_several() {
        let of_uuid = |uuid: &str| json!({"UUID": uuid, "Boot": {"BootOptions": {}}});
        let nodes = of(&[("/s/1", of_uuid("AB-1")), ("/s/2", of_uuid("AB-2"))]);
        let machine = |uuid| Wanted {
            machine: Some(uuid),
            ..ANY
        };
        assert_eq!(choose_system(&nodes, machine("ab-2")), Ok(1));
        assert!(choose_system(&nodes, machine("ab-3")).is_err());
        // What was named counts, and may be a UUID.
        let both = Wanted {
            named: Some("ab-1"),
            machine: Some("ab-2"),
        };
        assert_eq!(choose_system(&nodes, both), Ok(0));
        // The machine's UUID is often our own invention: the only system is its system all the same.
        assert_eq!(choose_system(&nodes[..1], machine("ab-3")), Ok(0));
    }
}
