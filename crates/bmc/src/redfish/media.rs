//! The virtual CD: eject, insert, read back.

use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::Profile;
use super::discover::Found;
use super::json;
use super::message::{self, Message};
use super::quirks::Quirk;
use super::schemes;
use super::slots::{Enable, Insert, Slot, can_be_switched_on, slots};
use super::task;
use super::transport::{Reply, Transport};
use crate::{BmcError, ErrorClass, Media};

/// A vendor's connect that fails for no reason is tried so often (Huawei).
const FLAKY: usize = 3;

/// State of the virtual CD: of the slot that has something in, else of the one that would be used.
pub(crate) async fn state(http: &mut Transport, found: &Found) -> Result<Media, BmcError> {
    let slots = match slots(http, found, Enable::No).await {
        Err(error) if is_off(found, &error) => return Ok(Media::default()),
        slots => slots?,
    };
    let media: Vec<Media> = slots.iter().map(|slot| slot.media(found)).collect();
    let shown = media.iter().find(|m| m.inserted).or(media.first()).cloned();
    shown.ok_or_else(|| http.error(ErrorClass::Unsupported, "it has no usable virtual media"))
}

/// Remote media is switched off (AMI lists no slot then), so nothing is in.
fn is_off(found: &Found, error: &BmcError) -> bool {
    error.class == ErrorClass::Unsupported && can_be_switched_on(found)
}

/// Ejects from every slot that has something in, and from the one that would be used even when it says
/// that it is empty. Answers the slots as they were before.
pub(crate) async fn eject_all(http: &mut Transport, found: &Found) -> Result<Vec<Slot>, BmcError> {
    let slots = match slots(http, found, Enable::No).await {
        Err(error) if is_off(found, &error) => Vec::new(),
        slots => slots?,
    };
    for (i, slot) in slots.iter().enumerate() {
        if i == 0 || slot.media(found).inserted {
            eject(http, found, slot).await?;
        }
    }
    http.set_emptied(slots.clone());
    Ok(slots)
}

async fn eject(http: &mut Transport, found: &Found, slot: &Slot) -> Result<(), BmcError> {
    let bare = |target: &String| (target.clone(), json!({}));
    let (target, body) = match &slot.insert {
        Insert::Patch => {
            let body = if found.quirks.has(Quirk::PatchImageOnly) {
                json!({"Image": null})
            } else {
                json!({"Image": null, "Inserted": false})
            };
            let reply = http.patch(&slot.uri, &body, slot.etag.as_deref()).await?;
            return ejected(http, found, slot, "PATCH", &slot.uri, reply).await;
        }
        Insert::Action(_) => match slot.eject_target() {
            Some(target) => bare(&target),
            None => return Ok(()),
        },
        Insert::Own(own, insert, eject) => (eject.as_ref().unwrap_or(insert).clone(), own.body(own.eject_with)),
        // There is a slot only while something is mounted.
        Insert::Config(_, Some(unmount)) if !slot.body.is_null() => bare(unmount),
        Insert::Config(..) => return Ok(()),
    };
    let mut reply = http.post(&target, Some(&body)).await?;
    if matches!(reply.status, 400 | 415) && body == json!({}) {
        reply = http.post(&target, None).await?;
    }
    ejected(http, found, slot, "POST", &target, reply).await
}

async fn ejected(
    http: &mut Transport,
    found: &Found,
    slot: &Slot,
    method: &str,
    uri: &str,
    reply: Reply,
) -> Result<(), BmcError> {
    let reply = task::finish(http, reply).await?;
    if reply.is_good() {
        return Ok(());
    }
    let error = http.refusal(method, uri, &reply);
    // Refused, perhaps because there was nothing to eject: then all is well.
    if slot.again(http).await?.media(found).inserted {
        return Err(error);
    }
    Ok(())
}

/// An insert that worked.
pub(crate) struct Inserted {
    pub(crate) media: Media,
    /// Members that the payload had.
    pub(crate) members: Vec<String>,
    /// Schemes that it was refused with before.
    pub(crate) refused: Vec<String>,
}

/// Ejects, inserts and reads back. `urls` are the places of one image, best first: which of them is taken follows from
/// what the BMC says and refuses.
pub(crate) async fn insert(
    http: &mut Transport,
    found: &Found,
    urls: &[String],
    known: &Profile,
) -> Result<Inserted, BmcError> {
    let slots = match http.take_emptied().filter(|slots| !slots.is_empty()) {
        Some(slots) => slots,
        None => emptied(http, found).await?,
    };
    let mut slots = slots;
    // Stable: the others stay in their order.
    slots.sort_by_key(|slot| {
        known
            .slot
            .as_ref()
            .is_none_or(|taught| !json::same_uri(&slot.uri, taught))
    });
    // Of the other slots it is asked where they are needed.
    let mut said = Vec::new();
    if let Some(slot) = slots.first() {
        said.push(parameters(http, slot).await?);
    }
    let offers = schemes::order(found, slots.first(), said.first(), urls, &known.refused_schemes);
    let mut refused = known.refused_schemes.clone();
    let (mut last, mut no_scheme) = (None, None);
    for url in &offers {
        let mut by_scheme = false;
        for (i, slot) in slots.iter().enumerate() {
            if said.len() <= i {
                said.push(parameters(http, slot).await?);
            }
            match climb(http, found, slot, &said[i], url, &known.insert_members).await? {
                Ok(members) => {
                    let media = read_back(http, found, slot, url).await?;
                    refused.retain(|scheme| scheme != schemes::of(url));
                    return Ok(Inserted {
                        media,
                        members,
                        refused,
                    });
                }
                Err(Refusal::Scheme(error)) => {
                    by_scheme = true;
                    no_scheme.get_or_insert(error);
                    break;
                }
                // This slot does not take images: a client-mapped one, perhaps. The next may.
                Err(Refusal::Slot(error)) if matches!(error.status, Some(400 | 404 | 405)) => {
                    last.get_or_insert(error);
                }
                Err(Refusal::Slot(error)) => return Err(error),
            }
        }
        if !by_scheme {
            break;
        }
        let scheme = schemes::of(url).to_owned();
        if !refused.contains(&scheme) {
            refused.push(scheme);
        }
    }
    // That it would not take one scheme says less than what went wrong with another.
    let error = last.or(no_scheme.map(|error| error.hinted(other_schemes(&offers))));
    Err(error.unwrap_or_else(|| http.error(ErrorClass::Unsupported, "it has no usable virtual media")))
}

/// The slots, with nothing in them.
async fn emptied(http: &mut Transport, found: &Found) -> Result<Vec<Slot>, BmcError> {
    let mut slots = slots(http, found, Enable::Yes).await?;
    for (i, slot) in slots.iter_mut().enumerate() {
        // Even when it says that it is empty; and never left out because it shows the same URL.
        if i == 0 || slot.media(found).inserted {
            match eject(http, found, slot).await {
                // So that what comes after it is told as well.
                Err(error) if error.class == ErrorClass::Shadow => continue,
                ejected => ejected?,
            }
            *slot = slot.again(http).await?;
        }
    }
    Ok(slots)
}

/// Why a slot did not take an image.
enum Refusal {
    /// It takes none over this scheme.
    Scheme(BmcError),
    /// Whatever else.
    Slot(BmcError),
}

/// The payload ladder: from the least that can work, adding or dropping what the BMC names.
async fn climb(
    http: &mut Transport,
    found: &Found,
    slot: &Slot,
    said: &Parameters,
    url: &str,
    known: &[String],
) -> Result<Result<Vec<String>, Refusal>, BmcError> {
    if let Insert::Config(mount, _) = &slot.insert {
        return mount_config(http, slot, mount, url).await;
    }
    let image = schemes::written(found, url);
    let mut payload = Map::from_iter([("Image".to_owned(), Value::from(image))]);
    let value = |member: &str| member_value(member, url);
    if let Insert::Own(own, ..) = &slot.insert {
        payload.extend(own.insert_with.iter().map(|(k, v)| ((*k).to_owned(), Value::from(*v))));
    } else if let Insert::Action(_) = &slot.insert {
        for member in known
            .iter()
            .map(String::as_str)
            .chain(said.required.iter().map(String::as_str))
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
    let (mut broken, mut vague, mut flaky) = (0, false, 0);
    for _ in 0..12 {
        let body = Value::Object(payload.clone());
        let (method, uri) = match &slot.insert {
            Insert::Action(target) | Insert::Own(_, target, _) => ("POST", target.as_str()),
            Insert::Patch | Insert::Config(..) => ("PATCH", slot.uri.as_str()),
        };
        let reply = match method {
            "POST" => http.post(uri, Some(&body)).await?,
            _ => http.patch(uri, &body, slot.etag.as_deref()).await?,
        };
        let reply = match task::finish(http, reply).await {
            // Their connect fails now and then for no reason that it gives.
            Err(error) if matches!(slot.insert, Insert::Own(..)) && error.class == ErrorClass::Refused => {
                flaky += 1;
                if flaky >= FLAKY {
                    return Err(error);
                }
                let pause = Duration::from_secs(4).min(http.options.longest_wait);
                http.wait(pause).await?;
                continue;
            }
            other => other?,
        };
        if reply.is_good() {
            payload.remove("Image");
            return Ok(Ok(payload.into_iter().map(|(name, _)| name).collect()));
        }
        let error = explained(http.refusal(method, uri, &reply));
        // An eject may still be under way inside.
        if matches!(reply.status, 500 | 502 | 504) && broken < 3 {
            broken += 1;
            let pause = Duration::from_secs(3).min(http.options.longest_wait);
            if http.wait(pause).await.is_ok() {
                continue;
            }
        }
        if message::is_scheme(&reply.messages) {
            return Ok(Err(Refusal::Scheme(error)));
        }
        if error.class == ErrorClass::Forbidden {
            return Err(error);
        }
        if !matches!(reply.status, 400 | 415 | 422) {
            return Ok(Err(Refusal::Slot(error)));
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
        return Ok(Err(Refusal::Slot(error)));
    }
    let error = http.error(ErrorClass::Refused, "it refuses every form of the insert");
    Ok(Err(Refusal::Slot(error)))
}

/// Host and path are written beside the slots, and mounted.
async fn mount_config(
    http: &mut Transport,
    slot: &Slot,
    mount: &str,
    url: &str,
) -> Result<Result<Vec<String>, Refusal>, BmcError> {
    let path = url.find("://").and_then(|i| url[i + 3..].find('/').map(|j| i + 3 + j));
    let (host, path) = url.split_at(path.unwrap_or(url.len()));
    let body = json!({"Host": host, "Path": path, "Username": "", "Password": ""});
    let reply = http.patch(&slot.uri, &body, None).await?;
    let reply = task::finish(http, reply).await?;
    if !reply.is_good() {
        return Ok(Err(refusal(http, "PATCH", &slot.uri, &reply)));
    }
    let reply = http.post(mount, Some(&json!({}))).await?;
    let reply = task::finish(http, reply).await?;
    if !reply.is_good() {
        return Ok(Err(refusal(http, "POST", mount, &reply)));
    }
    Ok(Ok(Vec::new()))
}

fn refusal(http: &Transport, method: &str, uri: &str, reply: &Reply) -> Refusal {
    let error = explained(http.refusal(method, uri, reply));
    match message::is_scheme(&reply.messages) {
        true => Refusal::Scheme(error),
        false => Refusal::Slot(error),
    }
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

/// What the insert's action says of its parameters.
#[derive(Debug, Default)]
pub(crate) struct Parameters {
    required: Vec<String>,
    /// Values of TransferProtocolType; none: it does not say.
    pub(crate) protocols: Vec<String>,
}

async fn parameters(http: &mut Transport, slot: &Slot) -> Result<Parameters, BmcError> {
    const PROTOCOLS: &str = "TransferProtocolType@Redfish.AllowableValues";
    let action = json::at(&slot.body, &["Actions", "#VirtualMedia.InsertMedia"]);
    let listed = json::texts(action, &[PROTOCOLS]).or_else(|| json::texts(&slot.body, &[PROTOCOLS]));
    let mut said = Parameters {
        protocols: listed.unwrap_or_default(),
        ..Parameters::default()
    };
    if !matches!(slot.insert, Insert::Action(_)) {
        return Ok(said);
    }
    let Some(uri) = json::link(action, &["@Redfish.ActionInfo"]) else {
        return Ok(said);
    };
    for parameter in &http.parameters(&uri).await? {
        let Some(name) = json::text(parameter, &["Name"]) else {
            continue;
        };
        if json::flag(parameter, &["Required"]) == Some(true) {
            said.required.push(name.to_owned());
        }
        if name == "TransferProtocolType" && said.protocols.is_empty() {
            said.protocols = json::texts(parameter, &["AllowableValues"]).unwrap_or_default();
        }
    }
    Ok(said)
}

/// What the operator can do about a BMC that takes an image by none of the schemes that it was offered.
fn other_schemes(offers: &[String]) -> String {
    let offered: Vec<&str> = offers.iter().map(|url| schemes::of(url)).collect();
    let refused = format!("this BMC takes no images over {}", offered.join(", "));
    match (offered.contains(&"nfs"), offered.contains(&"https")) {
        (true, true) => {
            format!("{refused}: isobar serves no others (CIFS is not spoken); another firmware may take one of these")
        }
        (false, true) => format!("{refused}: it may take NFS, which --nfs-listen serves"),
        _ => format!(
            "{refused}: isobar serves https as well, and NFS where --nfs-listen is set; look at isobar/image-scheme if one \
             was forced"
        ),
    }
}

/// Adds what the operator can do about a refused image.
fn explained(error: BmcError) -> BmcError {
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
        // Before the look: one that was begun in time says nothing of the time after it.
        let late = Instant::now() >= end;
        let media = slot.again(http).await?.media(found);
        // One that hides the URL is believed.
        if media.inserted && media.image.as_deref().is_none_or(|shown| same_image(shown, url)) {
            return Ok(media);
        }
        if late {
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

/// Whether what a slot shows is this URL: some leave out the scheme, some cut the URL, some write it another way. A folder
/// that is a nonce is enough: the same image has several places.
#[must_use]
pub fn same_image(shown: &str, url: &str) -> bool {
    let nonce = |u: &str| {
        let mut parts = u.rsplit('/').skip(1);
        parts.next().filter(|folder| folder.len() >= 22).map(str::to_owned)
    };
    if let (Some(shown), Some(wanted)) = (nonce(shown), nonce(url)) {
        return shown == wanted;
    }
    // NFS is `host:/path` as well.
    let bare = |u: &str| {
        let rest = u.split_once("://").map_or(u, |(_, rest)| rest);
        rest.to_ascii_lowercase().replacen(":/", "/", 1)
    };
    let (shown, url) = (bare(shown), bare(url));
    shown == url || (shown.len() >= 16 && (url.starts_with(&shown) || url.ends_with(&shown) || shown.ends_with(&url)))
}

#[cfg(test)]
mod tests {
    use super::*;

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
            ("10.0.0.1:/abcdefgh/boot.iso", false),
        ] {
            assert_eq!(same_image(shown, url), want, "{shown}");
        }
        assert!(same_image(
            "10.0.0.1:/abcdefgh/boot.iso",
            "nfs://10.0.0.1/abcdefgh/boot.iso"
        ));
    }
}
