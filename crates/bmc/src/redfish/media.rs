//! The virtual CD: which slot, eject, insert.

use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::discover::Found;
use super::json;
use super::message::{self, Message};
use super::quirks::Quirk;
use super::task;
use super::transport::{Reply, Transport};
use crate::{BmcError, ErrorClass, Media};

/// Whether virtual media may be switched on to look for slots (AMI lists none before).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Enable {
    Yes,
    No,
}

/// A slot that can hold our CD.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) uri: String,
    body: Value,
    etag: Option<String>,
    insert: Insert,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Insert {
    /// POST to this action's target.
    Action(String),
    /// PATCH of the slot itself.
    Patch,
}

impl Slot {
    fn media(&self, found: &Found) -> Media {
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

    fn eject_target(&self) -> Option<String> {
        let listed = json::action_target(json::at(&self.body, &["Actions", "#VirtualMedia.EjectMedia"]));
        listed.or_else(|| match &self.insert {
            // Not listed while the slot is empty, on some; its place follows from the insert's.
            Insert::Action(target) if json::flag(&self.body, &["Inserted"]) == Some(true) => target
                .strip_suffix("InsertMedia")
                .map(|stem| format!("{stem}EjectMedia")),
            _ => None,
        })
    }
}

/// The slots that can take a CD, best first.
///
/// # Errors
/// [`ErrorClass::Unsupported`] when there is none.
pub(crate) async fn slots(http: &mut Transport, found: &Found, enable: Enable) -> Result<Vec<Slot>, BmcError> {
    let mut collections: Vec<String> = Vec::new();
    let holders = std::iter::once(&found.system).chain(found.managers.iter().map(|(_, m)| m));
    for uri in holders.filter_map(|h| json::link(h, &["VirtualMedia"])) {
        if !collections.iter().any(|known| json::same_uri(known, &uri)) {
            collections.push(uri);
        }
    }
    let mut slots = list(http, found, &collections).await?;
    if slots.is_empty() && enable == Enable::Yes && switch_on(http, found).await? {
        let end = Instant::now() + Duration::from_secs(30);
        while slots.is_empty() && Instant::now() < end {
            let poll = http.options.poll;
            http.wait(poll).await?;
            slots = list(http, found, &collections).await?;
        }
    }
    if slots.is_empty() {
        let (text, hint) = if collections.is_empty() {
            (
                "it has no virtual media",
                "this BMC cannot boot an ISO: use PXE, or another way, for this machine",
            )
        } else {
            (
                "it has no usable virtual CD slot",
                "check that virtual media is enabled and licensed on the BMC",
            )
        };
        let missing = http.missing(text);
        return Err(match missing.class {
            ErrorClass::Unsupported => missing.hinted(hint),
            _ => missing,
        });
    }
    Ok(slots)
}

async fn list(http: &mut Transport, found: &Found, collections: &[String]) -> Result<Vec<Slot>, BmcError> {
    let mut slots = Vec::new();
    for (rank, collection) in collections.iter().enumerate() {
        let Some(listed) = http.get_if_there(collection).await? else {
            continue;
        };
        for uri in json::members(&listed.body) {
            let Some(reply) = http.get_if_there(&uri).await? else {
                continue;
            };
            let id = json::text(&reply.body, &["Id"])
                .unwrap_or(json::last_part(&uri))
                .to_owned();
            if !holds_cd(&id, &reply.body) || found.quirks.skips_slot(&id) {
                continue;
            }
            let Some(insert) = way_in(&reply) else { continue };
            let key = (insert == Insert::Patch, rank, json::natural(&id));
            slots.push((
                key,
                Slot {
                    uri,
                    etag: reply.etag,
                    body: reply.body,
                    insert,
                },
            ));
        }
    }
    slots.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(slots.into_iter().map(|(_, slot)| slot).collect())
}

/// Whether a slot is for CDs: by its media types, else by its name.
fn holds_cd(id: &str, slot: &Value) -> bool {
    let types = json::texts(slot, &["MediaTypes"]).unwrap_or_default();
    if !types.is_empty() {
        return types
            .iter()
            .any(|t| t.eq_ignore_ascii_case("CD") || t.eq_ignore_ascii_case("DVD"));
    }
    let name = format!("{id} {}", json::text(slot, &["Name"]).unwrap_or_default()).to_ascii_lowercase();
    ["cd", "dvd", "ext"].iter().any(|yes| name.contains(yes))
        && !["floppy", "usb", "hdd", "removable"].iter().any(|no| name.contains(no))
}

/// How to insert into a slot; `None` for those that only somebody's browser can fill.
fn way_in(reply: &Reply) -> Option<Insert> {
    let actions = json::at(&reply.body, &["Actions"]);
    let standard = json::action_target(json::at(actions, &["#VirtualMedia.InsertMedia"]));
    if let Some(target) = standard {
        return Some(Insert::Action(target));
    }
    // Other actions and no insert: a proxy's slot. No actions at all: the resource itself is written.
    let other = actions
        .as_object()
        .is_some_and(|a| a.keys().any(|k| k.starts_with('#')));
    let writable = reply
        .allow
        .as_ref()
        .is_none_or(|allow| allow.to_ascii_uppercase().contains("PATCH"));
    (!other && writable).then_some(Insert::Patch)
}

/// AMI: remote media is an option of the manager. Answers whether there was something to switch on.
async fn switch_on(http: &mut Transport, found: &Found) -> Result<bool, BmcError> {
    for (_, manager) in &found.managers {
        let actions = json::at(manager, &["Actions", "Oem"]);
        // Directly, or in the vendor's own object.
        let direct = actions.as_object().into_iter().flatten();
        let nested = direct.clone().filter_map(|(_, v)| v.as_object()).flatten();
        let action = direct.chain(nested).find(|(name, _)| name.ends_with(".EnableRMedia"));
        if let Some(target) = action.and_then(|(_, action)| json::action_target(action)) {
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

/// State of the virtual CD: of the slot that has something in, else of the one that would be used.
pub(crate) async fn state(http: &mut Transport, found: &Found) -> Result<Media, BmcError> {
    let slots = slots(http, found, Enable::No).await?;
    let media: Vec<Media> = slots.iter().map(|slot| slot.media(found)).collect();
    let shown = media.iter().find(|m| m.inserted).or(media.first()).cloned();
    shown.ok_or_else(|| http.error(ErrorClass::Unsupported, "it has no usable virtual CD slot"))
}

/// Ejects from every slot that has something in, and from the one that would be used even when it says
/// that it is empty. Answers the slots as they were before.
pub(crate) async fn eject_all(http: &mut Transport, found: &Found) -> Result<Vec<Slot>, BmcError> {
    let slots = slots(http, found, Enable::No).await?;
    for (i, slot) in slots.iter().enumerate() {
        if i == 0 || slot.media(found).inserted {
            eject(http, found, slot).await?;
        }
    }
    Ok(slots)
}

async fn eject(http: &mut Transport, found: &Found, slot: &Slot) -> Result<(), BmcError> {
    let (method, uri, reply) = match &slot.insert {
        Insert::Patch => {
            let body = if found.quirks.has(Quirk::PatchImageOnly) {
                json!({"Image": null})
            } else {
                json!({"Image": null, "Inserted": false})
            };
            (
                "PATCH",
                slot.uri.clone(),
                http.patch(&slot.uri, &body, slot.etag.as_deref()).await?,
            )
        }
        Insert::Action(_) => {
            let Some(target) = slot.eject_target() else {
                return Ok(());
            };
            let mut reply = http.post(&target, Some(&json!({}))).await?;
            if matches!(reply.status, 400 | 415) {
                reply = http.post(&target, None).await?;
            }
            ("POST", target, reply)
        }
    };
    let reply = task::finish(http, reply).await?;
    if reply.is_good() {
        return Ok(());
    }
    let error = http.refusal(method, &uri, &reply);
    // Refused, perhaps because there was nothing to eject: then all is well.
    match http.get_if_there(&slot.uri).await? {
        Some(now)
            if Slot {
                body: now.body.clone(),
                ..slot.clone()
            }
            .media(found)
            .inserted =>
        {
            Err(error)
        }
        _ => Ok(()),
    }
}

/// Ejects, inserts and reads back. Answers the slot's state and the members that the payload had.
pub(crate) async fn insert(
    http: &mut Transport,
    found: &Found,
    url: &str,
    known: &[String],
) -> Result<(Media, Vec<String>), BmcError> {
    let mut last = None;
    let mut slots = slots(http, found, Enable::Yes).await?;
    for (i, slot) in slots.iter_mut().enumerate() {
        // Even when it says that it is empty; and never left out because it shows the same URL.
        if i == 0 || slot.media(found).inserted {
            eject(http, found, slot).await?;
            if let Some(now) = http.get_if_there(&slot.uri).await? {
                slot.etag = now.etag;
                slot.body = now.body;
            }
        }
    }
    for slot in &slots {
        match climb(http, found, slot, url, known).await? {
            Ok(members) => {
                let media = read_back(http, found, slot, url).await?;
                return Ok((media, members));
            }
            // This slot does not take images: a client-mapped one, perhaps. The next may.
            Err(error) if matches!(error.status, Some(400 | 404 | 405)) => {
                last.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    Err(last.unwrap_or_else(|| http.error(ErrorClass::Unsupported, "it has no usable virtual CD slot")))
}

/// The payload ladder: from the least that can work, adding or dropping what the BMC names.
async fn climb(
    http: &mut Transport,
    found: &Found,
    slot: &Slot,
    url: &str,
    known: &[String],
) -> Result<Result<Vec<String>, BmcError>, BmcError> {
    let mut payload = Map::from_iter([("Image".to_owned(), Value::from(url))]);
    let value = |member: &str| member_value(member, url);
    if let Insert::Action(_) = &slot.insert {
        let required = required_members(http, slot).await?;
        for member in known
            .iter()
            .map(String::as_str)
            .chain(required.iter().map(String::as_str))
        {
            if let Some(value) = value(member) {
                payload.insert(member.to_owned(), value);
            }
        }
    } else if !found.quirks.has(Quirk::PatchImageOnly) {
        payload.insert("Inserted".into(), true.into());
        payload.insert("WriteProtected".into(), true.into());
    }
    let mut dropped: Vec<&str> = Vec::new();
    let (mut broken, mut vague) = (0, false);
    for _ in 0..10 {
        let body = Value::Object(payload.clone());
        let (method, uri) = match &slot.insert {
            Insert::Action(target) => ("POST", target.as_str()),
            Insert::Patch => ("PATCH", slot.uri.as_str()),
        };
        let reply = match &slot.insert {
            Insert::Action(_) => http.post(uri, Some(&body)).await?,
            Insert::Patch => http.patch(uri, &body, slot.etag.as_deref()).await?,
        };
        let reply = task::finish(http, reply).await?;
        if reply.is_good() {
            payload.remove("Image");
            return Ok(Ok(payload.into_iter().map(|(name, _)| name).collect()));
        }
        let error = explained(http.refusal(method, uri, &reply), &reply, url);
        // An eject may still be under way inside.
        if matches!(reply.status, 500 | 502 | 504) && broken < 3 {
            broken += 1;
            let pause = Duration::from_secs(3).min(http.options.longest_wait);
            if http.wait(pause).await.is_ok() {
                continue;
            }
        }
        if error.class == ErrorClass::Forbidden || message::is_scheme(&reply.messages) {
            return Err(error);
        }
        if !matches!(reply.status, 400 | 415 | 422) {
            return Ok(Err(error));
        }
        if adjust(&mut payload, &mut dropped, &reply.messages, &value) {
            continue;
        }
        // Refused without saying why: what most often is missing, once.
        let says_nothing = reply
            .messages
            .iter()
            .all(|m| m.text.is_empty() || m.id == "GeneralError");
        if says_nothing && !vague && !payload.contains_key("TransferProtocolType") {
            vague = true;
            payload.extend(value("TransferProtocolType").map(|v| ("TransferProtocolType".to_owned(), v)));
            continue;
        }
        return Ok(Err(error));
    }
    Ok(Err(
        http.error(ErrorClass::Refused, "it refuses every form of the insert")
    ))
}

/// Follows a refusal's words: a member that it names is added, or dropped if it was there and is not
/// wanted. Answers whether that changed anything.
fn adjust<'a>(
    payload: &mut Map<String, Value>,
    dropped: &mut Vec<&'a str>,
    messages: &[Message],
    value: &dyn Fn(&str) -> Option<Value>,
) -> bool {
    const MEMBERS: &[&str] = &[
        "TransferProtocolType",
        "TransferMethod",
        "UserName",
        "Password",
        "Inserted",
        "WriteProtected",
    ];
    let mut changed = false;
    for member in MEMBERS {
        let Some(named) = messages.iter().find(|m| m.names(member)) else {
            continue;
        };
        if payload.contains_key(*member) {
            if named.rejects_members() || matches!(*member, "Inserted" | "WriteProtected") {
                payload.remove(*member);
                dropped.push(member);
                changed = true;
            }
        } else if !named.rejects_members()
            && !dropped.contains(member)
            && let Some(value) = value(member)
        {
            payload.insert((*member).to_owned(), value);
            changed = true;
        }
    }
    let credentials = |m: &Message| m.text.to_ascii_lowercase().contains("credential");
    if !changed && !payload.contains_key("UserName") && messages.iter().any(credentials) {
        payload.extend(
            ["UserName", "Password"]
                .into_iter()
                .filter_map(|m| Some((m.to_owned(), value(m)?))),
        );
        changed = true;
    }
    changed
}

/// What a member of the payload is, for an image that needs no login.
fn member_value(member: &str, url: &str) -> Option<Value> {
    Some(match member {
        "Inserted" | "WriteProtected" => true.into(),
        "TransferMethod" => "Stream".into(),
        // DGX: must be there and not empty, and is used for nothing.
        "UserName" | "Password" => "none".into(),
        "TransferProtocolType" => match url.split("://").next()?.to_ascii_lowercase().as_str() {
            "http" => "HTTP".into(),
            "https" => "HTTPS".into(),
            "nfs" => "NFS".into(),
            "cifs" | "smb" => "CIFS".into(),
            _ => return None,
        },
        _ => return None,
    })
}

/// What the action itself says is required.
async fn required_members(http: &mut Transport, slot: &Slot) -> Result<Vec<String>, BmcError> {
    let action = json::at(&slot.body, &["Actions", "#VirtualMedia.InsertMedia"]);
    let Some(uri) = json::link(action, &["@Redfish.ActionInfo"]) else {
        return Ok(Vec::new());
    };
    let Some(info) = http.get_if_there(&uri).await? else {
        return Ok(Vec::new());
    };
    let parameters = json::at(&info.body, &["Parameters"])
        .as_array()
        .cloned()
        .unwrap_or_default();
    let required = parameters.iter().filter(|p| json::flag(p, &["Required"]) == Some(true));
    Ok(required
        .filter_map(|p| json::text(p, &["Name"]).map(str::to_owned))
        .collect())
}

/// Adds what the operator can do about a refused image.
fn explained(error: BmcError, reply: &Reply, url: &str) -> BmcError {
    if message::is_scheme(&reply.messages) {
        let scheme = url.split("://").next().unwrap_or_default();
        return error.hinted(format!(
            "this BMC takes no images over {scheme}: serve them over https or NFS"
        ));
    }
    if error.class == ErrorClass::Busy {
        return error.hinted(
            "its virtual CD does not let go of what it holds: eject that in the BMC's web page, or reset the BMC",
        );
    }
    error
}

/// Looks until the slot shows our image: BMCs have answered "done" and mounted nothing.
async fn read_back(http: &mut Transport, found: &Found, slot: &Slot, url: &str) -> Result<Media, BmcError> {
    let end = Instant::now() + http.options.settle;
    loop {
        let now = http.get(&slot.uri).await?;
        let media = Slot {
            body: now.body,
            ..slot.clone()
        }
        .media(found);
        // One that hides the URL is believed.
        if media.inserted && media.image.as_deref().is_none_or(|shown| same_image(shown, url)) {
            return Ok(media);
        }
        if Instant::now() >= end {
            let shows = match (&media.image, media.inserted) {
                (Some(other), true) => format!("it shows another image: {other}"),
                _ => "its virtual CD stays empty".to_owned(),
            };
            let text = format!("it accepted the image, but {shows} ({})", slot.uri);
            return Err(http.error(ErrorClass::NotMounted, text));
        }
        let poll = http.options.poll;
        http.wait(poll).await?;
    }
}

/// Whether what a slot shows is this URL: some leave out the scheme, some cut the URL, some write it another way.
#[must_use]
pub fn same_image(shown: &str, url: &str) -> bool {
    let bare = |u: &str| u.split_once("://").map_or(u, |(_, rest)| rest).to_ascii_lowercase();
    let (shown, url) = (bare(shown), bare(url));
    shown == url || (shown.len() >= 16 && (url.starts_with(&shown) || url.ends_with(&shown) || shown.ends_with(&url)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cd_slots_are_told_by_types_or_names() {
        for (id, slot, want) in [
            ("2", json!({"MediaTypes": ["CD", "DVD"]}), true),
            ("3", json!({"MediaTypes": ["DVD"]}), true),
            ("CD", json!({"MediaTypes": ["USBStick"]}), false),
            ("CD1", json!({}), true),
            ("CD1", json!({"MediaTypes": []}), true),
            ("EXT1", json!({"Name": "VirtualMedia"}), true),
            ("HDD1", json!({"Name": "virtual hdd"}), false),
            ("1", json!({"Name": "USB CD"}), false),
            ("1", json!({"Name": "Virtual DVD"}), true),
        ] {
            assert_eq!(holds_cd(id, &slot), want, "{id} {slot}");
        }
    }

    #[test]
    fn images_are_compared_as_bmcs_show_them() {
        let url = "http://10.0.0.1:8091/abcdefgh/boot.iso";
        for (shown, want) in [
            (url, true),
            ("HTTP://10.0.0.1:8091/abcdefgh/boot.iso", true),
            ("10.0.0.1:8091/abcdefgh/boot.iso", true),
            ("http://10.0.0.1:8091/abcdefgh/boo", true),
            ("/abcdefgh/boot.iso", true),
            ("http://10.0.0.1:8091/other/boot.iso", false),
            ("boot.iso", false),
        ] {
            assert_eq!(same_image(shown, url), want, "{shown}");
        }
    }
}
