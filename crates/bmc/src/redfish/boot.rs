//! The one-time boot override.

use std::time::Instant;

use serde_json::{Map, Value, json};

use super::discover::Found;
use super::json;
use super::quirks::Quirk;
use super::task;
use super::transport::{Reply, Transport};
use crate::{BmcError, BootTarget, ErrorClass, HostState};

const TARGET: &str = "BootSourceOverrideTarget";
const ENABLED: &str = "BootSourceOverrideEnabled";
const MODE: &str = "BootSourceOverrideMode";
const HTTP_URI: &str = "HttpBootUri";

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
        Self::of_system(http, found, system).await
    }

    /// As they were a moment ago: what is written by them is read back.
    async fn recent(http: &mut Transport, found: &Found) -> Result<Self, BmcError> {
        match http.recent_system(&found.system_uri) {
            Some(system) => Self::of_system(http, found, system).await,
            None => Self::read(http, found).await,
        }
    }

    async fn of_system(http: &mut Transport, found: &Found, system: Reply) -> Result<Self, BmcError> {
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
            .find_map(|(_, r)| {
                let old =
                    || json::texts(&r.body, &["Boot", "BootSourceOverrideSupported"]).filter(|_| property == TARGET);
                json::texts(&r.body, &["Boot", &list]).or_else(old)
            })
            .filter(|l| !l.is_empty())
    }

    /// Which of `names` this machine may know, best first. Of two that differ in UEFI alone, the one of its boot mode.
    fn candidates(&self, http: &Transport, names: &[&str]) -> Result<Vec<String>, BmcError> {
        let legacy = self.value(MODE) == Some("Legacy");
        let (uefi, plain): (Vec<&str>, Vec<&str>) = names.iter().partition(|name| name.starts_with("Uefi"));
        let mut ordered: Vec<&str> = Vec::new();
        for name in plain {
            let twin = uefi.iter().copied().find(|u| u.strip_prefix("Uefi") == Some(name));
            match twin {
                Some(twin) if legacy || name == "Cd" => ordered.extend([name, twin]),
                Some(twin) => ordered.extend([twin, name]),
                None => ordered.push(name),
            }
        }
        let alone: Vec<&str> = uefi.into_iter().filter(|u| !ordered.contains(u)).collect();
        ordered.extend(alone);
        let Some(allowed) = self.allowable(TARGET) else {
            let known = [TARGET, ENABLED].iter().any(|name| {
                let held = |(_, reply): &Place| json::at(&reply.body, &["Boot"]).get(name).is_some();
                held(&self.system) || self.settings.as_ref().is_some_and(held)
            });
            return match known {
                true => Ok(ordered.into_iter().map(str::to_owned).collect()),
                false => Err(http.error(ErrorClass::Unsupported, "it has no one-time boot override")),
            };
        };
        // As the BMC spells it.
        let listed = |name: &&str| allowed.iter().find(|a| a.eq_ignore_ascii_case(name)).cloned();
        let ordered: Vec<String> = ordered.iter().filter_map(listed).collect();
        if ordered.is_empty() {
            let text = format!("it cannot boot from {}: it offers {}", names[0], allowed.join(", "));
            return Err(http.error(ErrorClass::Unsupported, text));
        }
        Ok(ordered)
    }
}

/// Where an override is written, and what as.
pub(crate) struct Written {
    pub(crate) uri: String,
    /// The settings object, where there is one.
    pub(crate) settings: Option<String>,
    pub(crate) target: String,
    /// Targets that the BMC lists.
    pub(crate) targets: Option<Vec<String>>,
}

/// What [`once`] would write, and where.
pub(crate) async fn place(http: &mut Transport, found: &Found, target: BootTarget) -> Result<Written, BmcError> {
    let places = Places::recent(http, found).await?;
    let target = places.candidates(http, names(found, target))?.swap_remove(0);
    Ok(Written {
        uri: places.of(TARGET).0.clone(),
        settings: places.settings.as_ref().map(|(uri, _)| uri.clone()),
        target,
        targets: places.allowable(TARGET),
    })
}

fn names(found: &Found, target: BootTarget) -> &'static [&'static str] {
    match target {
        BootTarget::Cd => found.quirks.cd_targets(),
        BootTarget::Pxe => &["Pxe"],
        BootTarget::Disk => &["Hdd"],
    }
}

pub(crate) async fn once(http: &mut Transport, found: &Found, target: BootTarget) -> Result<(), BmcError> {
    from(http, found, target, false).await
}

/// From now on, where the BMC knows an override that stays.
pub(crate) async fn always(http: &mut Transport, found: &Found, target: BootTarget) -> Result<(), BmcError> {
    from(http, found, target, true).await
}

async fn from(http: &mut Transport, found: &Found, target: BootTarget, stays: bool) -> Result<(), BmcError> {
    if target == BootTarget::Cd
        && found.quirks.has(Quirk::BootByProfile)
        && let Some(import) = profile_import(found)
    {
        return by_profile(http, &import).await;
    }
    let places = Places::recent(http, found).await?;
    let mut last = None;
    for name in places.candidates(http, names(found, target))? {
        match set(http, found, &places, &name, Map::new(), stays).await {
            // Not listed, and not taken: it may know it by another name.
            Err(error) if error.class == ErrorClass::Refused && places.allowable(TARGET).is_none() => {
                last.get_or_insert(error);
            }
            done => return done,
        }
    }
    Err(last.unwrap_or_else(|| http.error(ErrorClass::Unsupported, "it has no one-time boot override")))
}

/// Boot mode and override, as they are.
pub(crate) async fn describe(http: &mut Transport, found: &Found, state: &mut HostState) -> Result<(), BmcError> {
    let places = Places::read(http, found).await?;
    let owned = |property: &str| places.value(property).map(str::to_owned);
    state.boot_mode = owned(MODE);
    state.boot_target = owned(TARGET);
    state.boot_enabled = owned(ENABLED);
    state.boot_by_profile = found.quirks.has(Quirk::BootByProfile) && profile_import(found).is_some();
    state.http_boot = places.candidates(http, &["UefiHttp"]).is_ok()
        && json::at(&places.of(TARGET).1.body, &["Boot"]).get(HTTP_URI).is_some();
    Ok(())
}

/// UEFI HTTP boot of `url` once.
pub(crate) async fn http_once(http: &mut Transport, found: &Found, url: &str) -> Result<(), BmcError> {
    let places = Places::read(http, found).await?;
    let name = places.candidates(http, &["UefiHttp"])?.swap_remove(0);
    let at = places.of(TARGET);
    let more = match json::at(&at.1.body, &["Boot"]).get(HTTP_URI) {
        Some(_) => Map::from_iter([(HTTP_URI.to_owned(), url.into())]),
        // Lists the target and has no member for the address: it would boot what DHCP says.
        None => {
            let text = "it knows UEFI HTTP boot, but takes no HttpBootUri: the address would be DHCP's";
            return Err(http.error(ErrorClass::Unsupported, text));
        }
    };
    set(http, found, &places, &name, more, false).await
}

/// Dell before 6.00: where a configuration profile is imported.
fn profile_import(found: &Found) -> Option<String> {
    let actions = super::slots::actions(&found.manager);
    let import = actions
        .into_iter()
        .find(|(name, _)| name.ends_with("OemManager.ImportSystemConfiguration"));
    import.map(|(_, target)| target)
}

/// Boots once from the virtual CD by a configuration profile. White space between its elements makes the job fail.
async fn by_profile(http: &mut Transport, target: &str) -> Result<(), BmcError> {
    let attribute = |name: &str, value: &str| format!("<Attribute Name=\"ServerBoot.1#{name}\">{value}</Attribute>");
    let profile = format!(
        "<SystemConfiguration><Component FQDD=\"iDRAC.Embedded.1\">{}{}</Component></SystemConfiguration>",
        attribute("BootOnce", "Enabled"),
        attribute("FirstBootDevice", "VCD-DVD")
    );
    let body = json!({"ShareParameters": {"Target": ["IDRAC"]}, "ImportBuffer": profile});
    let reply = http.post(target, Some(&body)).await?;
    let reply = task::finish(http, reply).await?;
    match reply.is_good() {
        true => Ok(()),
        false => Err(http.refusal("POST", target, &reply)),
    }
}

/// Sets the override and reads it back.
async fn set(
    http: &mut Transport,
    found: &Found,
    places: &Places,
    target: &str,
    more: Map<String, Value>,
    stays: bool,
) -> Result<(), BmcError> {
    let allowed = places.allowable(ENABLED);
    if stays
        && let Some(allowed) = &allowed
        && !allowed.iter().any(|a| a == "Continuous")
    {
        let text = format!("its boot override cannot stay: it offers {}", allowed.join(", "));
        return Err(http.error(ErrorClass::Unsupported, text));
    }
    let enabled = match allowed {
        _ if stays => "Continuous",
        Some(allowed) if !allowed.iter().any(|a| a == "Once") && allowed.iter().any(|a| a == "Continuous") => {
            "Continuous"
        }
        _ => "Once",
    };
    let full = found.quirks.has(Quirk::FullBootPayload);
    let mode = places.value(MODE).map(str::to_owned);
    let mut wanted = more;
    wanted.insert(TARGET.into(), target.into());
    // Some refuse what is set already; some forget it unless it is said again.
    let unchanged = places.value(ENABLED) == Some(enabled);
    if full || !unchanged || found.quirks.has(Quirk::AlwaysSendEnabled) {
        wanted.insert(ENABLED.into(), enabled.into());
    }
    // HTTP boot is UEFI's; a legacy mode that stays would win.
    if full || wanted.contains_key(HTTP_URI) {
        let kept = mode.clone().filter(|_| !wanted.contains_key(HTTP_URI));
        if full || places.value(MODE).is_some_and(|mode| mode != "UEFI") {
            wanted.insert(MODE.into(), kept.unwrap_or_else(|| "UEFI".into()).into());
        }
    }
    write(http, places, wanted, mode.as_deref(), full).await?;

    let end = Instant::now() + http.options.settle;
    loop {
        // Before the look: one that was begun in time says nothing of the time after it.
        let late = Instant::now() >= end;
        let now = Places::read(http, found).await?;
        if let (true, Some(before)) = (found.quirks.has(Quirk::RestoreBootMode), &mode)
            && !target.eq_ignore_ascii_case("UefiHttp")
            && now.value(MODE).is_some_and(|mode| mode != before)
        {
            let again = [(MODE, before.as_str()), (TARGET, target), (ENABLED, enabled)];
            let again = again
                .into_iter()
                .map(|(name, value)| (name.to_owned(), Value::from(value)))
                .collect();
            write(http, &now, again, Some(before), full).await?;
        }
        // What a BMC does not show cannot be checked; `Continuous` is what some store for `Once`.
        let set = now.value(TARGET).is_none_or(|t| t == target)
            && now.value(ENABLED).is_none_or(|e| e == "Once" || e == "Continuous");
        if set {
            return Ok(());
        }
        if late {
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
    let full = found.quirks.has(Quirk::FullBootPayload);
    let refused = match write(http, &places, wanted, mode.as_deref(), full).await {
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
    write(http, &places, disk, mode.as_deref(), full).await
}

/// [`clear`], and the URL with it, which some keep: as the schema says (null), or as a text that is empty.
pub(crate) async fn clear_http(http: &mut Transport, found: &Found) -> Result<(), BmcError> {
    clear(http, found).await?;
    for empty in [Value::Null, "".into()] {
        let places = Places::read(http, found).await?;
        let (uri, at) = places.of(TARGET);
        if json::text(&at.body, &["Boot", HTTP_URI]).is_none_or(str::is_empty) {
            return Ok(());
        }
        let body = json!({"Boot": {HTTP_URI: empty}});
        let reply = http.patch(uri, &body, at.etag.as_deref()).await?;
        if task::finish(http, reply).await?.is_good() {
            return Ok(());
        }
    }
    tracing::warn!(bmc = %http.name, "it keeps the URL of the HTTP boot; the boot itself is cleared");
    Ok(())
}

/// Writes each property to its place, or `together` where the target goes; adds or drops what the BMC names in a refusal.
async fn write(
    http: &mut Transport,
    places: &Places,
    wanted: Map<String, Value>,
    mode: Option<&str>,
    together: bool,
) -> Result<(), BmcError> {
    let mut groups: Vec<(&Place, Map<String, Value>)> = Vec::new();
    for (name, value) in wanted {
        let place = places.of(if together || name == HTTP_URI { TARGET } else { &name });
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
