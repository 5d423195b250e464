//! Event log, sensors and what the machine is built of, in the shape that IPMI gives them.

use serde_json::{Value, json};

use super::discover::Found;
use super::json;
use super::task;
use super::transport::Transport;
use crate::{BmcError, ErrorClass};

/// Newest entries of a log that are given.
const ENTRIES: usize = 256;
/// Of a log whose entries have to be read one by one.
const ONE_BY_ONE: usize = 48;
/// Sensors that are read one by one.
const SENSORS: usize = 64;
/// What vendors call the log that IPMI calls SEL, best first.
const LOGS: &[&str] = &["sel", "iel", "eventlog", "event log", "log1"];

/// The log service that is the event log.
async fn log(http: &mut Transport, found: &Found) -> Result<Value, BmcError> {
    let mut services = Vec::new();
    let holders = std::iter::once(&found.system).chain(found.managers.iter().map(|(_, manager)| manager));
    let collections: Vec<String> = holders.filter_map(|h| json::link(h, &["LogServices"])).collect();
    for collection in collections {
        let Some(listed) = http.get_if_there(&collection).await? else {
            continue;
        };
        for uri in json::members(&listed.body).into_iter().take(ENTRIES) {
            services.extend(http.get_if_there(&uri).await?.map(|reply| reply.body));
        }
    }
    let rank = |service: &Value| {
        let typed = json::text(service, &["LogEntryType"]).is_some_and(|kind| kind.eq_ignore_ascii_case("SEL"));
        let named = ["Id", "Name"].iter().filter_map(|name| json::text(service, &[name]));
        let names: Vec<String> = named.map(str::to_ascii_lowercase).collect();
        let place = LOGS.iter().position(|log| names.iter().any(|name| name == log));
        (!typed, place.unwrap_or(LOGS.len()))
    };
    services.sort_by_key(rank);
    let none = || http.error(ErrorClass::Unsupported, "it has no event log over Redfish");
    services.into_iter().next().ok_or_else(none)
}

/// Entries, oldest first: `at`, `sensor`, `event`, `severity`.
pub(crate) async fn event_log(http: &mut Transport, found: &Found) -> Result<Value, BmcError> {
    let log = log(http, found).await?;
    let Some(uri) = json::link(&log, &["Entries"]) else {
        return Err(http.error(ErrorClass::Unsupported, "its event log has no entries to read"));
    };
    let listed = http.get(&uri).await?.body;
    let members = json::at(&listed, &["Members"]).as_array().cloned().unwrap_or_default();
    let mut entries = Vec::new();
    let (whole, links): (Vec<Value>, Vec<Value>) = members.into_iter().partition(|m| m.get("Message").is_some());
    entries.extend(whole);
    for uri in links
        .iter()
        .filter_map(|member| json::link(member, &[]))
        .take(ONE_BY_ONE)
    {
        entries.extend(http.get_if_there(&uri).await?.map(|reply| reply.body));
    }
    let text = |entry: &Value, names: &[&str]| {
        names
            .iter()
            .find_map(|name| json::text(entry, &[name]))
            .map(str::to_owned)
    };
    entries.sort_by_key(|entry| text(entry, &["Created", "EventTimestamp"]));
    let from = entries.len().saturating_sub(ENTRIES);
    let shown = entries[from..].iter().map(|entry| {
        json!({
            "id": text(entry, &["Id"]), "at": text(entry, &["Created", "EventTimestamp"]),
            "sensor": text(entry, &["SensorType", "EntryType"]), "event": text(entry, &["Message"]),
            "severity": text(entry, &["Severity"]),
        })
    });
    Ok(shown.collect())
}

/// Empties it.
pub(crate) async fn clear(http: &mut Transport, found: &Found) -> Result<(), BmcError> {
    let log = log(http, found).await?;
    let Some(target) = json::action_target(json::at(&log, &["Actions", "#LogService.ClearLog"])) else {
        return Err(http.error(ErrorClass::Unsupported, "its event log cannot be cleared"));
    };
    let reply = http.post(&target, Some(&json!({}))).await?;
    let reply = task::finish(http, reply).await?;
    match reply.is_good() {
        true => Ok(()),
        false => Err(http.refusal("POST", &target, &reply)),
    }
}

async fn chassis(http: &mut Transport, found: &Found) -> Result<Vec<Value>, BmcError> {
    let linked = json::at(&found.system, &["Links", "Chassis"]).as_array().cloned();
    let mut read = Vec::new();
    for uri in linked.iter().flatten().filter_map(|link| json::link(link, &[])).take(8) {
        read.extend(http.get_if_there(&uri).await?.map(|reply| reply.body));
    }
    Ok(read)
}

/// Sensors of the machine's chassis: the newer model (Sensors) before the older one (Thermal, Power).
pub(crate) async fn sensors(http: &mut Transport, found: &Found) -> Result<Value, BmcError> {
    let mut read = Vec::new();
    for chassis in chassis(http, found).await? {
        if let Some(uri) = json::link(&chassis, &["Sensors"])
            && let Some(listed) = http.get_if_there(&uri).await?
        {
            for uri in json::members(&listed.body)
                .into_iter()
                .take(SENSORS.saturating_sub(read.len()))
            {
                if let Some(reply) = http.get_if_there(&uri).await? {
                    let unit = json::text(&reply.body, &["ReadingUnits"])
                        .unwrap_or_default()
                        .to_owned();
                    let kind = json::text(&reply.body, &["ReadingType"]).unwrap_or_default().to_owned();
                    read.push(sensor(&reply.body, &["Reading"], &kind, &unit));
                }
            }
        }
        if !read.is_empty() {
            continue;
        }
        for (link, lists) in OLDER {
            let Some(uri) = json::link(&chassis, &[link]) else {
                continue;
            };
            let Some(reply) = http.get_if_there(&uri).await? else {
                continue;
            };
            for (list, value, kind, unit) in *lists {
                let each = json::at(&reply.body, &[list]).as_array().into_iter().flatten();
                read.extend(each.take(SENSORS).map(|one| sensor(one, value, kind, unit)));
            }
        }
    }
    match read.is_empty() {
        true => Err(http.error(ErrorClass::Unsupported, "it shows no sensors over Redfish")),
        false => Ok(read.into()),
    }
}

type List = (&'static str, &'static [&'static str], &'static str, &'static str);

/// Resources of a chassis with lists of sensors: where the reading stands, its kind and unit.
const OLDER: &[(&str, &[List])] = &[
    (
        "Thermal",
        &[
            ("Temperatures", &["ReadingCelsius"], "Temperature", "Cel"),
            ("Fans", &["Reading"], "Fan", "RPM"),
        ],
    ),
    (
        "Power",
        &[
            ("Voltages", &["ReadingVolts"], "Voltage", "V"),
            ("PowerControl", &["PowerConsumedWatts"], "Power", "W"),
        ],
    ),
];

fn sensor(body: &Value, value: &[&str], kind: &str, unit: &str) -> Value {
    let state = json::text(body, &["Status", "State"]).unwrap_or("?");
    let status = json::text(body, &["Status", "Health"]).unwrap_or(state);
    json!({
        "name": json::text(body, &["Name"]), "kind": kind, "unit": unit, "status": status,
        "value": json::at(body, value).as_f64(),
    })
}

/// Maker, name, part, serial number and tag of the system and of its chassis.
pub(crate) async fn fru(http: &mut Transport, found: &Found) -> Result<Value, BmcError> {
    let texts = |body: &Value| -> Value {
        let names = ["Manufacturer", "Model", "PartNumber", "SerialNumber", "AssetTag", "SKU"];
        let each = names
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), json::text(body, &[name])?.into())));
        Value::Object(each.collect())
    };
    let system = http.get(&found.system_uri).await?.body;
    let boards = chassis(http, found).await?;
    Ok(json!({"product": texts(&system), "chassis": boards.iter().map(texts).collect::<Vec<_>>()}))
}
