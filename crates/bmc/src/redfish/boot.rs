//! The one-time boot override.

use std::time::Instant;

use serde_json::{Map, Value, json};

use super::discover::Found;
use super::json;
use super::quirks::Quirk;
use super::task;
use super::transport::{Reply, Transport};
use crate::{BmcError, BootTarget, ErrorClass};

const TARGET: &str = "BootSourceOverrideTarget";
const ENABLED: &str = "BootSourceOverrideEnabled";
const MODE: &str = "BootSourceOverrideMode";

/// A resource with a `Boot`, as it was read.
type Place = (String, Reply);

/// The system and, where there is one, its settings object.
struct Places {
    system: Place,
    settings: Option<Place>,
}

impl Places {
    async fn read(http: &mut Transport, found: &Found) -> Result<Self, BmcError> {
        let system = http.get(&found.system_uri).await?;
        let settings = match json::link(&system.body, &["@Redfish.Settings", "SettingsObject"]) {
            Some(uri) if !json::same_uri(&uri, &found.system_uri) => {
                http.get_if_there(&uri).await?.map(|reply| (uri, reply))
            }
            _ => None,
        };
        Ok(Self {
            system: (found.system_uri.clone(), system),
            settings,
        })
    }

    /// The `Boot` that a property is written to: that of the settings object if it holds the property.
    /// On some machines it holds the boot order alone, and the override goes to the system.
    fn of(&self, property: &str) -> &Place {
        let holds = |(_, reply): &&Place| {
            let boot = json::at(&reply.body, &["Boot"]);
            boot.get(property).is_some() || boot.get(format!("{property}@Redfish.AllowableValues")).is_some()
        };
        self.settings.as_ref().filter(holds).unwrap_or(&self.system)
    }

    fn value(&self, property: &str) -> Option<&str> {
        json::at(&self.of(property).1.body, &["Boot", property])
            .as_str()
            .filter(|s| !s.is_empty())
    }

    /// What a property may be: as the place that it is written to says, else the other one.
    fn allowable(&self, property: &str) -> Option<Vec<String>> {
        let list = format!("{property}@Redfish.AllowableValues");
        let places = [Some(self.of(property)), Some(&self.system), self.settings.as_ref()];
        places
            .into_iter()
            .flatten()
            .find_map(|(_, r)| json::texts(&r.body, &["Boot", &list]))
            .filter(|l| !l.is_empty())
    }
}

pub(crate) async fn once(http: &mut Transport, found: &Found, target: BootTarget) -> Result<(), BmcError> {
    let places = Places::read(http, found).await?;
    let names: &[&str] = match target {
        BootTarget::Cd => found.quirks.cd_targets(),
        BootTarget::Pxe => &["Pxe"],
        BootTarget::Disk => &["Hdd"],
    };
    let allowed = places.allowable(TARGET);
    let target = match &allowed {
        Some(allowed) => names
            .iter()
            .find(|name| allowed.iter().any(|a| a == *name))
            .ok_or_else(|| {
                let text = format!("it cannot boot from {}: it offers {}", names[0], allowed.join(", "));
                http.error(ErrorClass::Unsupported, text)
            })?,
        None => &names[0],
    };
    let enabled = match places.allowable(ENABLED) {
        Some(allowed) if !allowed.iter().any(|a| a == "Once") && allowed.iter().any(|a| a == "Continuous") => {
            "Continuous"
        }
        _ => "Once",
    };
    let full = found.quirks.has(Quirk::FullBootPayload);
    let mode = places.value(MODE).map(str::to_owned);
    let mut wanted = Map::new();
    wanted.insert(TARGET.into(), (*target).into());
    // Some refuse what is set already; some forget it unless it is said again.
    let unchanged = places.value(ENABLED) == Some(enabled);
    if full || !unchanged || found.quirks.has(Quirk::AlwaysSendEnabled) {
        wanted.insert(ENABLED.into(), enabled.into());
    }
    if full {
        wanted.insert(MODE.into(), mode.clone().unwrap_or_else(|| "UEFI".into()).into());
    }
    write(http, &places, wanted, mode.as_deref()).await?;

    let end = Instant::now() + http.options.settle;
    loop {
        let now = Places::read(http, found).await?;
        if let (true, Some(before)) = (found.quirks.has(Quirk::RestoreBootMode), &mode)
            && now.value(MODE).is_some_and(|mode| mode != before)
        {
            let again = [(MODE, before.as_str()), (TARGET, target), (ENABLED, enabled)];
            let again = again
                .into_iter()
                .map(|(name, value)| (name.to_owned(), Value::from(value)))
                .collect();
            write(http, &now, again, Some(before)).await?;
        }
        // What a BMC does not show cannot be checked; `Continuous` is what some store for `Once`.
        let set = now.value(TARGET).is_none_or(|t| t == *target)
            && now.value(ENABLED).is_none_or(|e| e == "Once" || e == "Continuous");
        if set {
            return Ok(());
        }
        if Instant::now() >= end {
            let shows = format!(
                "{} {}",
                now.value(TARGET).unwrap_or("?"),
                now.value(ENABLED).unwrap_or("?")
            );
            let text = format!("it accepted the one-time boot from {target} but shows {shows}");
            return Err(http.error(ErrorClass::Refused, text).hinted(
                "a pending BIOS change or a locked boot order may stand against it: look at the BMC's own pages",
            ));
        }
        let poll = http.options.poll;
        http.wait(poll).await?;
    }
}

pub(crate) async fn clear(http: &mut Transport, found: &Found) -> Result<(), BmcError> {
    let places = Places::read(http, found).await?;
    if places.value(ENABLED).is_none_or(|e| e == "Disabled") {
        return Ok(());
    }
    let mut wanted = Map::new();
    wanted.insert(ENABLED.into(), "Disabled".into());
    if found.quirks.has(Quirk::FullBootPayload) {
        wanted.insert(TARGET.into(), "None".into());
        wanted.insert(MODE.into(), places.value(MODE).unwrap_or("UEFI").into());
    }
    let mode = places.value(MODE).map(str::to_owned);
    let refused = match write(http, &places, wanted, mode.as_deref()).await {
        Err(error) if matches!(error.class, ErrorClass::Refused | ErrorClass::Unsupported) => error,
        done => return done,
    };
    // One that knows no "no override" (sushy-emulator keeps a boot order): the disk is what it would boot from.
    let targets = places.allowable(TARGET).unwrap_or_default();
    let has = |name: &str| targets.iter().any(|t| t == name);
    if has("None") || !has("Hdd") {
        return Err(refused);
    }
    let disk = Map::from_iter([(TARGET.to_owned(), "Hdd".into())]);
    write(http, &places, disk, mode.as_deref()).await
}

/// Writes each property to its place; adds or drops what the BMC names in a refusal.
async fn write(
    http: &mut Transport,
    places: &Places,
    wanted: Map<String, Value>,
    mode: Option<&str>,
) -> Result<(), BmcError> {
    let mut groups: Vec<(&Place, Map<String, Value>)> = Vec::new();
    for (name, value) in wanted {
        let place = places.of(&name);
        match groups.iter_mut().find(|(known, _)| known.0 == place.0) {
            Some((_, group)) => {
                group.insert(name, value);
            }
            None => groups.push((place, Map::from_iter([(name, value)]))),
        }
    }
    for ((uri, at), mut boot) in groups {
        let mut tries = 0;
        let mut dropped = Vec::new();
        loop {
            tries += 1;
            let reply = http.patch(uri, &json!({"Boot": boot}), at.etag.as_deref()).await?;
            let reply = task::finish(http, reply).await?;
            if reply.is_good() {
                break;
            }
            let named = |name: &str| reply.messages.iter().find(|m| m.names(name));
            let mut changed = false;
            for (name, value) in [(MODE, mode.unwrap_or("UEFI")), (ENABLED, "Once")] {
                match named(name) {
                    Some(m) if boot.contains_key(name) && m.rejects_members() => {
                        boot.remove(name);
                        dropped.push(name);
                        changed = true;
                    }
                    Some(_) if !boot.contains_key(name) && !dropped.contains(&name) => {
                        boot.insert(name.into(), value.into());
                        changed = true;
                    }
                    _ => {}
                }
            }
            if !changed || tries > 4 || boot.is_empty() {
                return Err(http.refusal("PATCH", uri, &reply));
            }
        }
    }
    Ok(())
}
