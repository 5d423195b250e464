//! What a BMC knows of its machine, in its own words; and the light that shows which machine it is.

use serde_json::{Map, Value, json};

use super::discover::Found;
use super::json;
use super::task;
use super::transport::Transport;
use super::{records, survey};
use crate::{BmcError, ErrorClass, Part};

/// Members of a collection that are read; a machine of eight sockets has 128 memory modules.
const MOST: usize = 128;

/// One resource, or the members of a collection.
///
/// # Errors
/// [`ErrorClass::Unsupported`] where the BMC has no such part.
pub(crate) async fn read(http: &mut Transport, found: &Found, part: Part) -> Result<Value, BmcError> {
    let (owner, link, list) = match part {
        Part::Info | Part::Boot => (&found.system_uri, "", false),
        Part::Bios => (&found.system_uri, "Bios", false),
        Part::SecureBoot => (&found.system_uri, "SecureBoot", false),
        Part::Memory => (&found.system_uri, "Memory", true),
        Part::Storage => (&found.system_uri, "Storage", true),
        Part::SimpleStorage => (&found.system_uri, "SimpleStorage", true),
        Part::Processors => (&found.system_uri, "Processors", true),
        Part::NetworkInterfaces => (&found.system_uri, "NetworkInterfaces", true),
        Part::EthernetInterfaces => (&found.system_uri, "EthernetInterfaces", true),
        Part::Lan => match &found.manager_uri {
            Some(manager) => (manager, "EthernetInterfaces", true),
            None => return Err(http.error(ErrorClass::Unsupported, "it has no manager")),
        },
        Part::Clock => return survey::clock(http, found).await,
        Part::Licences => return survey::licences(http, found).await,
        Part::Slots => return survey::media(http, found).await,
        Part::EventLog => return records::event_log(http, found).await,
        Part::Sensors => return records::sensors(http, found).await,
        Part::Fru => return records::fru(http, found).await,
    };
    let holder = http.get(owner).await?.body;
    match part {
        Part::Info => return Ok(holder),
        Part::Boot => return Ok(json::at(&holder, &["Boot"]).clone()),
        _ => {}
    }
    let none = |http: &Transport| http.error(ErrorClass::Unsupported, format!("{owner} has no {link}"));
    let Some(uri) = json::link(&holder, &[link]) else {
        return Err(none(http));
    };
    let Some(body) = http.get_if_there(&uri).await?.map(|reply| reply.body) else {
        return Err(none(http));
    };
    if !list {
        return Ok(body);
    }
    let mut members = members(http, &json::members(&body)).await?;
    if part == Part::Storage {
        for member in &mut members {
            let drives = json::at(member, &["Drives"]).as_array().cloned().unwrap_or_default();
            let uris: Vec<String> = drives.iter().filter_map(|drive| json::link(drive, &[])).collect();
            if let Some(storage) = member.as_object_mut() {
                storage.insert("Drives".into(), self::members(http, &uris).await?.into());
            }
        }
    }
    Ok(members.into())
}

async fn members(http: &mut Transport, uris: &[String]) -> Result<Vec<Value>, BmcError> {
    let mut read = Vec::new();
    for uri in uris.iter().take(MOST) {
        // Half-built firmware lists what it does not have.
        read.extend(http.get_if_there(uri).await?.map(|reply| reply.body));
    }
    Ok(read)
}

/// The light on or off: at the system, else at its chassis; the newer property (DSP0268, `LocationIndicatorActive`)
/// before the older one.
///
/// # Errors
/// [`ErrorClass::Unsupported`] where there is no light that can be switched.
pub(crate) async fn identify(http: &mut Transport, found: &Found, on: bool) -> Result<(), BmcError> {
    let chassis = json::at(&found.system, &["Links", "Chassis"]).as_array().cloned();
    let chassis = chassis.unwrap_or_default().into_iter();
    let mut places = vec![found.system_uri.clone()];
    places.extend(chassis.filter_map(|chassis| json::link(&chassis, &[])));
    let mut refused = None;
    for uri in places {
        let Some(reply) = http.get_if_there(&uri).await? else {
            continue;
        };
        let ways = [
            ("LocationIndicatorActive", json!(on)),
            ("IndicatorLED", json!(if on { "Blinking" } else { "Off" })),
            ("IndicatorLED", json!(if on { "Lit" } else { "Off" })),
        ];
        for (name, value) in ways {
            if reply.body.get(name).is_none_or(Value::is_null) {
                continue;
            }
            let body = Map::from_iter([(name.to_owned(), value)]);
            let answer = http.patch(&uri, &body.into(), reply.etag.as_deref()).await?;
            let answer = task::finish(http, answer).await?;
            if answer.is_good() {
                return Ok(());
            }
            refused.get_or_insert(http.refusal("PATCH", &uri, &answer));
        }
    }
    Err(refused.unwrap_or_else(|| http.error(ErrorClass::Unsupported, "it has no identify light")))
}
