//! What we would do with a BMC to boot a machine from an image: the answer sheet of a recording. It judges later versions,
//! and says nothing of what is right: nothing of it is tried.

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value, json};

use super::discover::Found;
use super::json;
use super::learnt::Learnt;
use super::quirks::Quirk;
use super::slots::{Enable, Insert, Slot, slots};
use super::transport::{ROOT, Transport};
use super::{Options, Profile, Redfish, boot, connect, media, power};
use crate::{Bmc as _, BmcError, BootTarget, Endpoint, ErrorClass, Exchange, Recorder};

/// An image of a boot, by the schemes that it is served with. Its address is one of documentation (RFC 5737).
const IMAGE: &str = "://192.0.2.1:8091/TOKEN/boot.iso";
const SCHEMES: &[&str] = &["http", "https", "nfs"];
/// Members of an insert that any BMC may do without.
const HARMLESS: &[&str] = &["Inserted", "WriteProtected"];

/// What would have been sent.
#[derive(Default)]
struct Unsent(Mutex<Vec<Exchange>>);

impl Recorder for Unsent {
    fn keeps(&self, method: &str, status: Option<u16>) -> bool {
        method != "GET" && status.is_none()
    }

    fn record(&self, exchange: Exchange) {
        self.all().push(exchange);
    }
}

impl Unsent {
    fn all(&self) -> std::sync::MutexGuard<'_, Vec<Exchange>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Vec<Exchange> {
        std::mem::take(&mut *self.all())
    }
}

/// Reads a BMC in shadow mode. `known` is what its siblings taught.
///
/// # Errors
/// As [`connect`], or of a read.
pub async fn sheet(mut endpoint: Endpoint, options: Options, known: Option<&Learnt>) -> Result<Value, BmcError> {
    endpoint.shadow = true;
    let unsent = Arc::new(Unsent::default());
    let mut bmc = connect(endpoint, Arc::clone(&unsent) as Arc<dyn Recorder>, options).await?;
    bmc.http.begin("write its answer sheet");
    let sheet = write(&mut bmc, &unsent, known).await;
    bmc.close().await;
    sheet
}

async fn write(bmc: &mut Redfish, unsent: &Unsent, known: Option<&Learnt>) -> Result<Value, BmcError> {
    let (http, found) = bmc.found().await?;
    let (vendor, model, firmware) = found.kind();
    let profile = known.and_then(|known| known.of(&found.kind())).unwrap_or_default();
    let reset = json::at(&found.system, &["Actions", "#ComputerSystem.Reset"]).clone();
    let usual = format!("{ROOT}SessionService/Sessions");
    let mut sheet = Map::from_iter([
        ("name".to_owned(), name(&[&vendor, &model, &firmware]).into()),
        ("vendor".to_owned(), vendor.into()),
        ("model".to_owned(), model.into()),
        ("firmware".to_owned(), firmware.into()),
        (
            "answers".to_owned(),
            format!("what isobar {} does", env!("CARGO_PKG_VERSION")).into(),
        ),
        (
            "redfish_version".to_owned(),
            json!(json::text(&found.root, &["RedfishVersion"])),
        ),
        ("system_uri".to_owned(), found.system_uri.clone().into()),
        ("manager_uri".to_owned(), json!(found.manager_uri)),
        (
            "sessions_uri".to_owned(),
            json::link(&found.root, &["Links", "Sessions"]).unwrap_or(usual).into(),
        ),
        ("reset_uri".to_owned(), json!(json::action_target(&reset))),
        (
            "reset_types".to_owned(),
            json!(power::listed_types(http, &reset).await?),
        ),
        (
            "power_state".to_owned(),
            json!(json::text(&found.system, &["PowerState"])),
        ),
    ]);
    sheet.extend(of_media(http, found, unsent, &profile).await?);
    sheet.extend(of_boot(http, found, unsent).await?);
    sheet.insert("notes".to_owned(), "nothing of it was tried on the BMC".into());
    Ok(sheet.into())
}

/// A folder could be called so.
fn name(parts: &[&str]) -> String {
    let all = parts.join(" ").to_ascii_lowercase();
    let words = all.split(|c: char| !c.is_ascii_alphanumeric() && c != '.');
    words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join("-")
}

/// Nothing is sent in shadow mode, which is how a change of the BMC ends.
fn unless_shadow<T>(answer: Result<T, BmcError>) -> Result<(), BmcError> {
    match answer {
        Err(error) if error.class != ErrorClass::Shadow => Err(error),
        _ => Ok(()),
    }
}

async fn of_media(
    http: &mut Transport,
    found: &Found,
    unsent: &Unsent,
    profile: &Profile,
) -> Result<Map<String, Value>, BmcError> {
    let urls: Vec<String> = SCHEMES.iter().map(|scheme| format!("{scheme}{IMAGE}")).collect();
    unsent.take();
    let tried = media::insert(http, found, &urls, profile).await.map(drop);
    let sent = unsent.take();
    if let Err(error) = tried
        && error.class != ErrorClass::Shadow
    {
        return match error.class {
            ErrorClass::Unsupported => Ok(Map::from_iter([("media_supported".to_owned(), false.into())])),
            _ => Err(error),
        };
    }
    let slot = match slots(http, found, Enable::No).await {
        Ok(slots) => slots.into_iter().next(),
        Err(error) if error.class == ErrorClass::Unsupported => None,
        Err(error) => return Err(error),
    };
    let Some(slot) = slot else {
        // Remote media is switched on first, and what there is then nobody knows.
        let before = sent.iter().map(shown).collect::<Vec<_>>();
        return Ok(Map::from_iter([
            ("media_supported".to_owned(), true.into()),
            ("pre_actions".to_owned(), before.into()),
        ]));
    };
    // The ejects come before it.
    let insert = sent.last();
    let body = insert.and_then(|sent| sent.request.as_ref()).and_then(Value::as_object);
    let keys = body.into_iter().flat_map(Map::keys);
    let (optional, needed): (Vec<_>, Vec<_>) = keys.partition(|key| HARMLESS.contains(&key.as_str()));
    let (method, uri, needed, before) = match &slot.insert {
        Insert::Action(target) | Insert::Own(_, target, _) => ("POST", target, json!(needed), Vec::new()),
        Insert::Patch => ("PATCH", &slot.uri, json!(needed), Vec::new()),
        // Host and path are written first; the mount itself carries nothing.
        Insert::Config(mount, _) => (
            "POST",
            mount,
            json!([]),
            insert.iter().map(|sent| shown(sent)).collect(),
        ),
    };
    let (eject_method, eject_uri, eject_payload) = eject(found, &slot);
    let listed = found.quirks.image_schemes();
    let taken: Vec<&str> = match listed.is_empty() {
        true => SCHEMES
            .iter()
            .copied()
            .filter(|s| !profile.refused_schemes.iter().any(|no| no == s))
            .collect(),
        false => listed.to_vec(),
    };
    let any = listed.is_empty() && profile.refused_schemes.is_empty();
    let members = json!({
        "media_supported": true,
        "media_slot_uri": slot.uri,
        "media_slot_also_acceptable": [],
        "pre_actions": before,
        "insert_method": method,
        "insert_uri": uri,
        "insert_payload_keys": needed,
        "insert_payload_optional": optional,
        "insert_payload_forbidden": [],
        "eject_method": eject_method,
        "eject_uri": eject_uri,
        "eject_payload": eject_payload,
        "image_schemes": (!any).then_some(taken),
        "etag_required": matches!(slot.insert, Insert::Patch) && slot.etag.is_some(),
    });
    Ok(members.as_object().cloned().unwrap_or_default())
}

fn shown(sent: &Exchange) -> Value {
    json!({"method": sent.method, "uri": sent.path, "body": sent.request})
}

/// How what was inserted would be taken out; [`Slot::eject_target`] knows it of a full slot alone.
fn eject(found: &Found, slot: &Slot) -> (&'static str, Option<String>, Value) {
    match &slot.insert {
        Insert::Patch if found.quirks.has(Quirk::PatchImageOnly) => {
            ("PATCH", Some(slot.uri.clone()), json!({"Image": null}))
        }
        Insert::Patch => (
            "PATCH",
            Some(slot.uri.clone()),
            json!({"Image": null, "Inserted": false}),
        ),
        Insert::Action(insert) => {
            let usual = || {
                Some(format!(
                    "{}EjectMedia",
                    insert.trim_end_matches('/').strip_suffix("InsertMedia")?
                ))
            };
            ("POST", slot.eject_target().or_else(usual), json!({}))
        }
        Insert::Own(own, insert, eject) => (
            "POST",
            Some(eject.as_ref().unwrap_or(insert).clone()),
            own.body(own.eject_with),
        ),
        Insert::Config(_, unmount) => ("POST", unmount.clone(), json!({})),
    }
}

async fn of_boot(http: &mut Transport, found: &Found, unsent: &Unsent) -> Result<Map<String, Value>, BmcError> {
    unsent.take();
    match unless_shadow(boot::once(http, found, BootTarget::Cd).await) {
        Err(error) if error.class == ErrorClass::Unsupported => return Ok(Map::new()),
        other => other?,
    }
    let sent = unsent.take();
    let Some(first) = sent.first() else {
        return Ok(Map::new());
    };
    if first.method != "PATCH" {
        return Ok(Map::from_iter([("boot_alternative".to_owned(), shown(first))]));
    }
    let place = boot::place(http, found, BootTarget::Cd).await?;
    let boot = first
        .request
        .as_ref()
        .map_or(&Value::Null, |body| json::at(body, &["Boot"]));
    let full = boot.get("BootSourceOverrideMode").is_some();
    let members = json!({
        "boot_patch_uri": place.uri,
        "boot_settings_uri": place.settings,
        "boot_target": place.target,
        "boot_targets_allowed": place.targets,
        "boot_enabled": json::text(boot, &["BootSourceOverrideEnabled"]).unwrap_or("Once"),
        "boot_requires_full_payload": full,
        "boot_always_send_enabled": found.quirks.has(Quirk::AlwaysSendEnabled),
    });
    Ok(members.as_object().cloned().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_for_a_folder() {
        assert_eq!(
            name(&["Dell Inc.", "PowerEdge R750", "6.00.30.00"]),
            "dell-inc.-poweredge-r750-6.00.30.00"
        );
        assert_eq!(name(&["../..", "", "/etc"]), "..-..-etc");
    }
}
