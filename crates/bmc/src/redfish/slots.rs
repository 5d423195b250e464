//! Which slots can take our CD, and how.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::discover::Found;
use super::json;
use super::quirks::{OWN_ACTIONS, OwnAction, Quirk};
use super::transport::{Reply, Transport};
use crate::{BmcError, ErrorClass, Media};

/// How every refusal for want of a slot begins.
const NONE: &str = "it has no usable virtual media";
/// For switched-on remote media to list its slots (AMI: 10 s; an instance more: 180 s).
const SWITCHED_ON: Duration = Duration::from_secs(30);

/// Whether virtual media may be switched on to look for slots (AMI lists none before).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Enable {
    Yes,
    No,
}

/// A slot that can hold our CD.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Slot {
    pub(crate) uri: String,
    /// Where it shows what is in; not there while nothing is, on some.
    pub(crate) shown_at: String,
    pub(crate) body: Value,
    pub(crate) etag: Option<String>,
    pub(crate) insert: Insert,
}

/// The way in, best first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Insert {
    /// POST to this action's target.
    Action(String),
    /// POST to a vendor's action of the slot; how to eject, if that is another action.
    Own(OwnAction, String, Option<String>),
    /// PATCH of the slot itself.
    Patch,
    /// PATCH of host and path, then POST to the first target; to the second one to eject (Supermicro X10).
    Config(String, Option<String>),
}

impl Insert {
    fn rank(&self) -> u8 {
        match self {
            Self::Action(_) => 0,
            Self::Own(..) => 1,
            Self::Patch => 2,
            Self::Config(..) => 3,
        }
    }
}

impl Slot {
    pub(crate) fn media(&self, found: &Found) -> Media {
        let image = json::text(&self.body, &["Image"]);
        let apart =
            json::text(&self.body, &["ConnectedVia"]).is_some_and(|via| via.eq_ignore_ascii_case("NotConnected"));
        let inserted = json::flag(&self.body, &["Inserted"]).unwrap_or(image.is_some() && !apart)
            && !(apart && found.quirks.has(Quirk::ConnectedViaIsTruth));
        Media {
            slot: self.uri.clone(),
            image: image.filter(|_| inserted).map(str::to_owned),
            inserted,
        }
    }

    pub(crate) fn eject_target(&self) -> Option<String> {
        let listed = json::action_target(json::at(&self.body, &["Actions", "#VirtualMedia.EjectMedia"]));
        listed.or_else(|| match &self.insert {
            // Not listed while the slot is empty, on some; its place follows from the insert's.
            Insert::Action(target) if json::flag(&self.body, &["Inserted"]) == Some(true) => {
                let target = target.trim_end_matches('/');
                target
                    .strip_suffix("InsertMedia")
                    .map(|stem| format!("{stem}EjectMedia"))
            }
            _ => None,
        })
    }

    /// The same slot, as it is now.
    pub(crate) async fn again(&self, http: &mut Transport) -> Result<Self, BmcError> {
        let now = http.get_if_there(&self.shown_at).await?;
        let (body, etag) = now.map_or((Value::Null, None), |now| (now.body, now.etag));
        Ok(Self {
            body,
            etag,
            ..self.clone()
        })
    }
}

/// The slots that can take a CD, best first.
///
/// # Errors
/// [`ErrorClass::Unsupported`] when there is none.
pub(crate) async fn slots(http: &mut Transport, found: &Found, enable: Enable) -> Result<Vec<Slot>, BmcError> {
    if let Some(slots) = known(http, found).await? {
        return Ok(slots);
    }
    let mut collections = collections(found);
    let mut seen = list(http, found, &collections).await?;
    if seen.slots.is_empty() && enable == Enable::Yes && switch_on(http, found).await? {
        let end = Instant::now() + SWITCHED_ON;
        while seen.slots.is_empty() && Instant::now() < end {
            let poll = http.options.poll;
            http.wait(poll).await?;
            if collections.is_empty() {
                // The link may come with the slots.
                for (uri, _) in &found.managers {
                    let now = http.get_if_there(uri).await?;
                    collections.extend(now.and_then(|now| json::link(&now.body, &["VirtualMedia"])));
                }
            }
            seen = list(http, found, &collections).await?;
        }
    }
    if seen.slots.is_empty() {
        let text = match (collections.is_empty(), seen.passed_over.is_empty()) {
            (true, _) => format!("{NONE}: neither its system nor its managers link to any"),
            (_, true) => format!("{NONE}: it lists no slot"),
            (_, false) => format!(
                "{NONE}: none of its slots takes a CD by URL ({})",
                seen.passed_over.join(", ")
            ),
        };
        let hint = match collections.is_empty() {
            true => "this BMC cannot boot an ISO: use PXE, or another way, for this machine",
            false => {
                "check that virtual media is enabled and licensed on the BMC, and that its firmware is a current one"
            }
        };
        let missing = http.missing(text);
        return Err(match missing.class {
            ErrorClass::Unsupported => missing.hinted(hint),
            _ => missing,
        });
    }
    let places = seen.slots.iter().map(|slot| Slot {
        body: Value::Null,
        etag: None,
        ..slot.clone()
    });
    http.set_slots(places.collect());
    Ok(seen.slots)
}

/// The slots that were found before, as they are now; none where one of them is not what it was.
async fn known(http: &mut Transport, found: &Found) -> Result<Option<Vec<Slot>>, BmcError> {
    let mut slots = Vec::new();
    for place in http.known_slots().to_vec() {
        if let Insert::Config(..) = place.insert {
            slots.push(place.again(http).await?);
            continue;
        }
        let now = http.get_if_there(&place.uri).await?.and_then(|reply| {
            let slot = cd_slot(found, &place.uri, reply).ok()?;
            (slot.insert == place.insert).then_some(slot)
        });
        let Some(now) = now else {
            http.set_slots(Vec::new());
            return Ok(None);
        };
        slots.push(now);
    }
    Ok((!slots.is_empty()).then_some(slots))
}

/// Whether any of these resources links to virtual media.
pub(crate) fn any_media<'a>(mut holders: impl Iterator<Item = &'a Value>) -> bool {
    holders.any(|holder| json::link(holder, &["VirtualMedia"]).is_some() || enabling(holder).is_some())
}

/// Whether a manager has slots, or will have them when remote media is switched on. Of two managers one may link to
/// media and list none.
pub(crate) async fn lists_slots(http: &mut Transport, manager: &Value) -> Result<bool, BmcError> {
    if enabling(manager).is_some() {
        return Ok(true);
    }
    let Some(collection) = json::link(manager, &["VirtualMedia"]) else {
        return Ok(false);
    };
    let Some(listing) = http.collection(&collection).await? else {
        return Ok(false);
    };
    let lists = !listing.1.is_empty() || config_at(&listing.0).is_some();
    // Who looks for a manager with slots wants the slots next.
    http.keep_listing(collection, listing);
    Ok(lists)
}

fn collections(found: &Found) -> Vec<String> {
    let mut collections: Vec<String> = Vec::new();
    let holders = std::iter::once(&found.system).chain(found.managers.iter().map(|(_, m)| m));
    for uri in holders.filter_map(|h| json::link(h, &["VirtualMedia"])) {
        if !collections.iter().any(|known| json::same_uri(known, &uri)) {
            collections.push(uri);
        }
    }
    collections
}

#[derive(Debug, Default)]
struct Listed {
    slots: Vec<Slot>,
    /// Ids of slots that are not for us.
    passed_over: Vec<String>,
}

async fn list(http: &mut Transport, found: &Found, collections: &[String]) -> Result<Listed, BmcError> {
    let (mut slots, mut passed_over) = (Vec::new(), Vec::new());
    for (rank, collection) in collections.iter().enumerate() {
        let Some((listed, members)) = http.collection(collection).await? else {
            continue;
        };
        for uri in members {
            let Some(reply) = http.get_if_there(&uri).await? else {
                continue;
            };
            match cd_slot(found, &uri, reply) {
                Ok(slot) => {
                    let id = id_of(&uri, &slot.body);
                    let cd = holds_cd(&id, &slot.body);
                    slots.push(((cd, slot.insert.rank(), rank, json::natural(&id)), slot));
                }
                Err(id) => passed_over.push(id),
            }
        }
        if let Some(slot) = config(http, collection, &listed).await? {
            slots.push(((Cd::Said, slot.insert.rank(), rank, json::natural("")), slot));
        }
    }
    slots.sort_by(|(a, _), (b, _)| a.cmp(b));
    // What nothing says is for CDs is taken where there is nothing else.
    if let Some(((best, ..), _)) = slots.first() {
        let best = *best;
        slots.retain(|((cd, ..), _)| *cd == best);
    }
    Ok(Listed {
        slots: slots.into_iter().map(|(_, slot)| slot).collect(),
        passed_over,
    })
}

fn id_of(uri: &str, slot: &Value) -> String {
    json::text(slot, &["Id"]).unwrap_or(json::last_part(uri)).to_owned()
}

/// The slot, or its id where it is not for us.
fn cd_slot(found: &Found, uri: &str, reply: Reply) -> Result<Slot, String> {
    let id = id_of(uri, &reply.body);
    let takes_images = || {
        json::at(&reply.body, &["Actions"])
            .get("#VirtualMedia.InsertMedia")
            .is_some()
    };
    let for_cds = match holds_cd(&id, &reply.body) {
        Cd::Said => true,
        Cd::Unsaid | Cd::Unlikely => takes_images(),
        Cd::No => false,
    };
    let usable = for_cds && !found.quirks.skips_slot(&id);
    let Some(insert) = usable.then(|| way_in(found, uri, &id, &reply)).flatten() else {
        return Err(id);
    };
    Ok(Slot {
        uri: uri.to_owned(),
        shown_at: uri.to_owned(),
        etag: reply.etag,
        body: reply.body,
        insert,
    })
}

/// Supermicro before its slots had actions: a resource beside the slots takes host and path, and mounts them; a slot
/// is there only while something is mounted.
async fn config(http: &mut Transport, collection: &str, body: &Value) -> Result<Option<Slot>, BmcError> {
    let Some(uri) = config_at(body) else {
        return Ok(None);
    };
    let Some(config) = http.get_if_there(&uri).await? else {
        return Ok(None);
    };
    let actions = actions(&config.body);
    let target = |suffix: &str| {
        actions
            .iter()
            .find(|(name, _)| name.ends_with(suffix))
            .map(|(_, t)| t.clone())
    };
    let Some(mount) = target("IsoConfig.Mount") else {
        return Ok(None);
    };
    let shown_at = format!("{}/CD1", collection.trim_end_matches('/'));
    let slot = Slot {
        uri,
        shown_at,
        body: Value::Null,
        etag: None,
        insert: Insert::Config(mount, target("IsoConfig.UnMount")),
    };
    Ok(Some(slot.again(http).await?))
}

fn config_at(collection: &Value) -> Option<String> {
    let mut oem = json::at(collection, &["Oem"]).as_object().into_iter().flatten();
    oem.find_map(|(_, vendor)| json::link(vendor, &["VirtualMediaConfig"]))
}

/// What speaks for a slot's being one for CDs, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Cd {
    /// Its media types, else its id, else its name.
    Said,
    /// Nothing, and nothing against it.
    Unsaid,
    /// A name that other devices have as well: OpenBMC's and Supermicro's CDs are USB devices and "removable media".
    Unlikely,
    /// It is for something else.
    No,
}

fn holds_cd(id: &str, slot: &Value) -> Cd {
    let types = json::texts(slot, &["MediaTypes"]).unwrap_or_default();
    if !types.is_empty() {
        let cd = |t: &String| t.eq_ignore_ascii_case("CD") || t.eq_ignore_ascii_case("DVD");
        return if types.iter().any(cd) { Cd::Said } else { Cd::No };
    }
    let says = |text: &str| {
        let text = text.to_ascii_lowercase();
        let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
        let cases: [(&[&str], Cd); 3] = [
            (&["floppy", "hd"], Cd::No),
            (&["usb", "removable"], Cd::Unlikely),
            (&["cd", "dvd", "ext"], Cd::Said),
        ];
        cases.iter().find_map(|(words, cd)| has(words).then_some(*cd))
    };
    let name = json::text(slot, &["Name"]).unwrap_or_default();
    says(id).or_else(|| says(name)).unwrap_or(Cd::Unsaid)
}

/// How to insert into a slot; `None` for those that only somebody's browser or an upload can fill.
fn way_in(found: &Found, uri: &str, id: &str, reply: &Reply) -> Option<Insert> {
    let listed = json::at(&reply.body, &["Actions"]);
    if let Some(standard) = listed.get("#VirtualMedia.InsertMedia") {
        // Some list the action and not its place, which is where the standard has it.
        let usual = || format!("{}/Actions/VirtualMedia.InsertMedia", uri.trim_end_matches('/'));
        return Some(Insert::Action(json::action_target(standard).unwrap_or_else(usual)));
    }
    let image_only = found.quirks.has(Quirk::PatchImageOnly);
    let own = own_action(&reply.body);
    if let Some(own) = own
        && !image_only
    {
        return Some(own);
    }
    // Other actions and no insert: a proxy's slot. No actions at all: the resource itself is written, where that is
    // this BMC's way, there is an `Image` to write, and nothing says that a browser fills it.
    let holds_image = reply.body.get("Image").is_some();
    let other = listed.as_object().is_some_and(|a| a.keys().any(|k| k.starts_with('#')));
    let writable = reply
        .allow
        .as_ref()
        .is_none_or(|allow| allow.to_ascii_uppercase().contains("PATCH"));
    let name = format!("{id} {}", json::text(&reply.body, &["Name"]).unwrap_or_default()).to_ascii_lowercase();
    let browser = ["kvm", "applet", "client", "proxy", "websocket"]
        .iter()
        .any(|word| name.contains(word))
        || json::text(&reply.body, &["ConnectedVia"]).is_some_and(|via| via.eq_ignore_ascii_case("Applet"))
        || json::at(&reply.body, &["Oem"])
            .as_object()
            .is_some_and(|oem| oem.values().any(|v| v.get("WebSocketEndpoint").is_some()));
    (!other && holds_image && writable && !browser && !found.quirks.has(Quirk::ActionsOnly)).then_some(Insert::Patch)
}

/// A vendor's insert among the slot's actions.
fn own_action(slot: &Value) -> Option<Insert> {
    let actions = actions(slot);
    let ending = |suffix: &str| {
        actions
            .iter()
            .find(|(name, _)| name.ends_with(suffix))
            .map(|(_, t)| t.clone())
    };
    OWN_ACTIONS.iter().find_map(|own| {
        let insert = ending(own.insert)?;
        Some(Insert::Own(*own, insert, ending(own.eject)))
    })
}

/// Names and targets of all actions of a resource, vendors' ones among them, wherever those are.
pub(crate) fn actions(resource: &Value) -> Vec<(String, String)> {
    let vendors = json::at(resource, &["Oem"]).as_object().into_iter().flatten();
    let mut holders = vec![json::at(resource, &["Actions"])];
    holders.extend(vendors.map(|(_, vendor)| json::at(vendor, &["Actions"])));
    let mut found = Vec::new();
    // Actions, Actions.Oem, Actions.Oem.Vendor.
    for _ in 0..3 {
        let mut inner = Vec::new();
        for (name, action) in holders.iter().filter_map(|h| h.as_object()).flatten() {
            match json::action_target(action) {
                Some(target) => found.push((name.clone(), target)),
                None if !name.starts_with('#') => inner.push(action),
                None => {}
            }
        }
        holders = inner;
    }
    found
}

/// AMI: remote media is an option of the manager.
fn enabling(manager: &Value) -> Option<String> {
    let actions = actions(manager);
    actions
        .into_iter()
        .find(|(name, _)| name.ends_with(".EnableRMedia"))
        .map(|(_, target)| target)
}

/// Whether there is something to switch on.
pub(crate) fn can_be_switched_on(found: &Found) -> bool {
    found.managers.iter().any(|(_, manager)| enabling(manager).is_some())
}

/// Answers whether there was something to switch on.
async fn switch_on(http: &mut Transport, found: &Found) -> Result<bool, BmcError> {
    for (_, manager) in &found.managers {
        if let Some(target) = enabling(manager) {
            let reply = http.post(&target, Some(&json!({"RMediaState": "Enable"}))).await?;
            return if reply.is_good() {
                Ok(true)
            } else {
                Err(http.refusal("POST", &target, &reply))
            };
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cd_slots_are_told_by_types_or_names() {
        for (id, slot, want) in [
            ("2", json!({"MediaTypes": ["CD", "DVD"]}), Cd::Said),
            ("3", json!({"MediaTypes": ["DVD"]}), Cd::Said),
            ("CD", json!({"MediaTypes": ["USBStick"]}), Cd::No),
            ("CD1", json!({}), Cd::Said),
            ("CD1", json!({"MediaTypes": []}), Cd::Said),
            ("CD1", json!({"Name": "Virtual Removable Media"}), Cd::Said),
            ("EXT1", json!({"Name": "VirtualMedia"}), Cd::Said),
            ("HDD1", json!({"Name": "virtual hdd"}), Cd::No),
            ("1", json!({"Name": "USB CD"}), Cd::Unlikely),
            ("USB1", json!({"Name": "Virtual Removable Media"}), Cd::Unlikely),
            ("1", json!({"Name": "Virtual DVD"}), Cd::Said),
            ("VirtualMedia1", json!({"Name": "Virtual Media"}), Cd::Unsaid),
        ] {
            assert_eq!(holds_cd(id, &slot), want, "{id} {slot}");
        }
    }

    #[test]
    fn actions_are_found_wherever_vendors_put_them() {
        let target = |t: &str| json!({"target": t});
        let slot = json!({
            "Actions": {"#A.B": target("/1"), "#Empty": {},
                "Oem": {"#C.D": target("/2"), "Vendor": {"#E.F": target("/3")}, "odd": 3}},
            "Oem": {"Hp": {"Actions": {"#G.H": target("/4")}}, "x": null}});
        let mut found = actions(&slot);
        found.sort();
        let targets: Vec<&str> = found.iter().map(|(_, t)| t.as_str()).collect();
        assert_eq!(targets, ["/1", "/2", "/3", "/4"]);
        assert!(actions(&json!([])).is_empty() && actions(&json!({"Actions": "x", "Oem": [1]})).is_empty());
    }

    #[test]
    fn vendors_inserts_are_known() {
        let huawei = json!({"Actions": {}, "Oem": {"Huawei": {"Actions": {
            "#VirtualMedia.VmmControl": {"target": "/vm/CD/Oem/Huawei/Actions/VirtualMedia.VmmControl"}}}}});
        assert!(matches!(own_action(&huawei), Some(Insert::Own(_, insert, Some(eject))) if insert == eject));
        let hpe = json!({"Oem": {"Hpe": {"Actions": {
            "#HpeiLOVirtualMedia.EjectVirtualMedia": {"target": "/e"},
            "#HpeiLOVirtualMedia.InsertVirtualMedia": {"target": "/i"}}}}});
        assert!(matches!(own_action(&hpe), Some(Insert::Own(_, i, Some(e))) if i == "/i" && e == "/e"));
        assert_eq!(
            own_action(&json!({"Actions": {"#VirtualMedia.EjectMedia": {"target": "/x"}}})),
            None
        );
    }
}
