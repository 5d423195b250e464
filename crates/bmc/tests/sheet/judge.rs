//! Comparing what was sent with the answer sheet.

use isobar_bmc::PowerState;
use serde_json::{Map, Value};

use super::{Outcome, Served, Sheet, Told, same_uri, says_no_media};

/// Where a BMC does not tell its reset types: what every one of them has.
const UNLISTED: [&str; 4] = ["On", "ForceOff", "ForceRestart", "GracefulShutdown"];
const TARGET: &str = "BootSourceOverrideTarget";
const ENABLED: &str = "BootSourceOverrideEnabled";
const MODE: &str = "BootSourceOverrideMode";

/// A request as the mock server recorded it.
struct Request<'a>(&'a Value);

impl Request<'_> {
    fn is(&self, method: &str, uri: &str) -> bool {
        self.0["method"] == method && self.0["path"].as_str().is_some_and(|path| same_uri(path, uri))
    }

    fn status(&self) -> u64 {
        self.0["status"].as_u64().unwrap_or(0)
    }

    fn done(&self) -> bool {
        (200..300).contains(&self.status())
    }

    fn body(&self) -> &Value {
        &self.0["body"]
    }

    fn has_image(&self) -> bool {
        self.body()["Image"].is_string()
    }

    fn has_header(&self, name: &str) -> bool {
        let headers = self.0["headers"].as_object();
        headers.is_some_and(|h| h.keys().any(|k| k.eq_ignore_ascii_case(name)))
    }

    fn shown(&self) -> String {
        let text = |member: &str| self.0[member].as_str().unwrap_or_default().to_owned();
        format!("{} {} ({})", text("method"), text("path"), self.status())
    }
}

/// What a request is on the answer sheet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Session,
    Before,
    Insert,
    Eject,
    Boot,
    OtherBoot,
    Power,
    Stray,
}

pub(super) fn judge(served: &Served, told: &Told, more: &[&str]) -> Outcome {
    let sheet = &served.sheet;
    let requests = served.requests();
    let requests: Vec<(Kind, Request<'_>)> = requests
        .iter()
        .map(|r| (kind(sheet, &Request(r)), Request(r)))
        .collect();
    let mut differs = told.failed.clone();
    let power = more
        .iter()
        .position(|word| *word == "--power")
        .and_then(|at| more.get(at + 1));
    found(sheet, told, power.copied().or(sheet.text("power_state")), &mut differs);
    for (kind, request) in &requests {
        if *kind == Kind::Stray {
            differs.push(format!("sent what is not on the sheet: {}", request.shown()));
        }
        // The rungs of the ladder, and entity tags.
        let climbing = matches!(kind, Kind::Insert | Kind::Boot) && matches!(request.status(), 400 | 412 | 428);
        // No sessions there: with every request, then.
        let without = *kind == Kind::Session && matches!(request.status(), 404 | 405 | 501);
        let again =
            without || request.status() >= 500 || (*kind == Kind::Eject && matches!(request.status(), 412 | 428));
        if !request.done() && !climbing && !again && *kind != Kind::Stray {
            differs.push(format!("refused: {}", request.shown()));
        }
        if !request.has_header("OData-Version") {
            differs.push(format!("without OData-Version: {}", request.shown()));
        }
    }
    let of = |wanted: Kind| requests.iter().filter(move |(kind, _)| *kind == wanted).map(|(_, r)| r);
    if sheet.has_media() {
        inserted(served, told, &of(Kind::Insert).collect::<Vec<_>>(), &mut differs);
        before(served, &of(Kind::Before).collect::<Vec<_>>(), &mut differs);
        ejected(sheet, &of(Kind::Eject).collect::<Vec<_>>(), &mut differs);
        booted(sheet, told, &requests, &mut differs);
        powered(sheet, &of(Kind::Power).collect::<Vec<_>>(), &mut differs);
    } else {
        match &told.inserted {
            Some(Err(err)) if says_no_media(err) => {}
            Some(Err(err)) => differs.push(format!("does not say that there is no usable virtual media: {err}")),
            Some(Ok(media)) => differs.push(format!("inserted at {}, though there is no virtual media", media.slot)),
            None => {}
        }
        for (kind, request) in &requests {
            if !matches!(kind, Kind::Session | Kind::Stray) {
                differs.push(format!("sent though there is no virtual media: {}", request.shown()));
            }
        }
    }
    let logins = of(Kind::Session)
        .filter(|r| r.0["method"] == "POST" && r.done())
        .count();
    let logouts = of(Kind::Session)
        .filter(|r| r.0["method"] == "DELETE" && r.done())
        .count();
    if logins != logouts {
        differs.push(format!("logged in {logins} times and out {logouts} times"));
    }
    Outcome {
        done: done(sheet, told, requests.len()),
        differs,
        ..Outcome::default()
    }
}

fn done(sheet: &Sheet, told: &Told, requests: usize) -> String {
    let probe = &told.probe;
    let who = format!("{} {}, firmware {}", probe.vendor, probe.model, probe.firmware);
    let did = match &told.inserted {
        Some(Ok(media)) => {
            let target = sheet.text("boot_target").unwrap_or("no boot target");
            format!("{}, {target}", media.slot.trim_start_matches("/redfish/v1/"))
        }
        Some(Err(err)) if says_no_media(err) && !sheet.has_media() => {
            "no usable virtual media, as it should say".into()
        }
        _ => "not inserted".into(),
    };
    format!("{who}: {did}; {requests} requests beside GETs")
}

/// Whether the right system, manager and slot were chosen.
fn found(sheet: &Sheet, told: &Told, power: Option<&str>, differs: &mut Vec<String>) {
    let probe = &told.probe;
    // Of a BMC without a system, or without media and with several, it told no place.
    let untold = probe.system.is_empty() && !sheet.has_media();
    for (what, found) in [("system_uri", &probe.system), ("manager_uri", &probe.manager)] {
        if !untold
            && let Some(wanted) = sheet.text(what)
            && !same_uri(wanted, found)
        {
            differs.push(format!("{what} is {found}, not {wanted}"));
        }
    }
    if let (Some(wanted), Some(power)) = (power, told.power)
        && power != PowerState::Unknown
        && !format!("{power:?}").eq_ignore_ascii_case(wanted)
    {
        differs.push(format!("power_state is {power:?}, not {wanted}"));
    }
    if !sheet.has_media()
        && let Some(slot) = &probe.media_slot
    {
        differs.push(format!("names the slot {slot}, though there is no virtual media"));
    }
}

/// The insert's URI for every slot that is right.
fn insert_uris(sheet: &Sheet) -> Vec<String> {
    of_slots(sheet, "insert_uri")
}

fn of_slots(sheet: &Sheet, member: &str) -> Vec<String> {
    let Some(uri) = sheet.text(member) else {
        return Vec::new();
    };
    let slots = sheet.slots();
    let mut uris = vec![uri.to_owned()];
    if let Some(tail) = slots.first().and_then(|first| uri.strip_prefix(first)) {
        uris.extend(slots.iter().skip(1).map(|slot| format!("{slot}{tail}")));
    }
    uris
}

fn kind(sheet: &Sheet, request: &Request<'_>) -> Kind {
    let path = request.0["path"].as_str().unwrap_or_default().to_ascii_lowercase();
    let sessions = sheet
        .text("sessions_uri")
        .unwrap_or("/redfish/v1/SessionService/Sessions");
    let in_sessions = path.starts_with(&sessions.to_ascii_lowercase());
    let logs_in = request.is("POST", sessions) || (request.0["method"] == "POST" && path.ends_with("/sessions"));
    if logs_in || (request.0["method"] == "DELETE" && in_sessions) {
        return Kind::Session;
    }
    let method = |member: &str| sheet.text(member).unwrap_or("POST");
    let wants_image = sheet
        .list("insert_payload_keys")
        .is_none_or(|keys| keys.contains(&"Image"));
    let at = |method: &str, uris: &[String]| uris.iter().any(|uri| request.is(method, uri));
    let other = &sheet.0["insert_alternative"];
    if at(method("insert_method"), &insert_uris(sheet)) && (request.has_image() || !wants_image)
        || request.is(
            other["method"].as_str().unwrap_or("POST"),
            other["uri"].as_str().unwrap_or("-"),
        )
    {
        return Kind::Insert;
    }
    if at(method("eject_method"), &of_slots(sheet, "eject_uri")) && !request.has_image() {
        return Kind::Eject;
    }
    let pre = sheet.0["pre_actions"].as_array().into_iter().flatten();
    for action in pre {
        if request.is(
            action["method"].as_str().unwrap_or("POST"),
            action["uri"].as_str().unwrap_or("-"),
        ) {
            return Kind::Before;
        }
    }
    let mut boots = sheet.list("boot_patch_uri_also_acceptable").unwrap_or_default();
    boots.extend(sheet.text("boot_patch_uri"));
    if boots.iter().any(|uri| request.is("PATCH", uri)) && request.body()["Boot"].is_object() {
        return Kind::Boot;
    }
    let other = &sheet.0["boot_alternative"];
    if request.is(
        other["method"].as_str().unwrap_or("POST"),
        other["uri"].as_str().unwrap_or("-"),
    ) {
        return Kind::OtherBoot;
    }
    // The other half of an insert that is written and mounted in two requests.
    if let Some(uri) = sheet.text("insert_uri").filter(|uri| uri.contains("CfgCD")) {
        let config = uri.split("/Actions/").next().unwrap_or(uri).to_ascii_lowercase();
        if path.starts_with(&config) {
            return Kind::Before;
        }
    }
    // What the settings object does not hold goes to the system.
    if sheet.text("system_uri").is_some_and(|uri| request.is("PATCH", uri))
        && request.body()["Boot"]
            .as_object()
            .is_some_and(|boot| !boot.contains_key(TARGET))
    {
        return Kind::Boot;
    }
    match sheet.text("reset_uri") {
        Some(uri) if request.is("POST", uri) => Kind::Power,
        _ => Kind::Stray,
    }
}

fn before(served: &Served, sent: &[&Request<'_>], differs: &mut Vec<String>) {
    let needed = served
        .sheet
        .text("media_slot_uri")
        .is_some_and(|slot| !served.has(slot));
    for action in served.sheet.0["pre_actions"].as_array().into_iter().flatten() {
        let (method, uri) = (
            action["method"].as_str().unwrap_or("POST"),
            action["uri"].as_str().unwrap_or_default(),
        );
        let of = sent.iter().filter(|r| r.is(method, uri)).collect::<Vec<_>>();
        if needed && of.is_empty() {
            differs.push(format!("did not send {method} {uri}, without which there is no slot"));
        }
        for request in of {
            let wanted = action["body"].as_object().cloned().unwrap_or_default();
            // Host and path are the image's; everything else is as it is.
            let missing = wanted
                .iter()
                .find(|(name, value)| match request.body().get(name.as_str()) {
                    Some(sent) => sent != *value && !["Host", "Path"].contains(&name.as_str()),
                    None => true,
                });
            if let Some((name, _)) = missing {
                differs.push(format!("{} with another {name}: {}", request.shown(), request.body()));
            }
        }
    }
}

fn inserted(served: &Served, told: &Told, sent: &[&Request<'_>], differs: &mut Vec<String>) {
    let sheet = &served.sheet;
    match &told.inserted {
        Some(Ok(media)) => {
            let slots = sheet.slots();
            let right = slots.iter().any(|slot| same_uri(slot, &media.slot));
            // Where the slot comes to be by the insert, the way in stands for it.
            let way_in = sheet.text("insert_uri").is_some_and(|uri| uri.starts_with(&media.slot));
            if !right && !way_in {
                differs.push(format!("the slot is {}, not {}", media.slot, slots.join(" or ")));
            }
        }
        Some(Err(err)) => differs.push(format!("{err}")),
        None => return,
    }
    let good: Vec<&&Request<'_>> = sent.iter().filter(|r| r.done()).collect();
    let [good] = good.as_slice() else {
        differs.push(format!("{} inserts were taken, not one", good.len()));
        return;
    };
    let alternative = &sheet.0["insert_alternative"];
    if alternative["uri"].as_str().is_some_and(|uri| request_at(good, uri)) {
        return;
    }
    let empty = Map::new();
    let body = good.body().as_object().unwrap_or(&empty);
    let keys = sheet.list("insert_payload_keys").unwrap_or_default();
    for key in &keys {
        if !body.contains_key(*key) {
            differs.push(format!("the insert lacks {key}"));
        }
    }
    let forbidden = sheet.list("insert_payload_forbidden").unwrap_or_default();
    let optional = sheet.list("insert_payload_optional");
    for key in body.keys() {
        let known = keys.contains(&key.as_str()) || optional.as_ref().is_none_or(|o| o.contains(&key.as_str()));
        if forbidden.contains(&key.as_str()) || !known {
            differs.push(format!("the insert has {key}"));
        }
    }
    if sheet.is("etag_required") && good.0["method"] == "PATCH" && !good.has_header("If-Match") {
        differs.push("the insert has no If-Match".into());
    }
}

fn request_at(request: &Request<'_>, uri: &str) -> bool {
    request.0["path"].as_str().is_some_and(|path| same_uri(path, uri))
}

fn ejected(sheet: &Sheet, sent: &[&Request<'_>], differs: &mut Vec<String>) {
    if sheet.text("eject_uri").is_none() {
        return;
    }
    let Some(last) = sent.iter().rfind(|r| r.done()) else {
        differs.push("no eject was taken".into());
        return;
    };
    let wanted = &sheet.0["eject_payload"];
    let (sent, wanted) = (
        last.body(),
        if wanted.is_null() {
            &Value::Object(Map::new())
        } else {
            wanted
        },
    );
    if sent != wanted && !sent.is_null() {
        differs.push(format!("the eject's body is {sent}, not {wanted}"));
    }
}

fn booted(sheet: &Sheet, told: &Told, requests: &[(Kind, Request<'_>)], differs: &mut Vec<String>) {
    match &told.booted {
        Some(Ok(())) => {}
        Some(Err(err)) => return differs.push(format!("{err}")),
        None => return,
    }
    let after = |kind: Kind| {
        requests
            .iter()
            .filter(move |(k, r)| *k == kind && r.done())
            .map(|(_, r)| r)
    };
    if after(Kind::OtherBoot).next().is_some() {
        return;
    }
    let wanted = (
        sheet.text("boot_target").unwrap_or("Cd"),
        sheet.text("boot_enabled").unwrap_or("Once"),
    );
    let patches: Vec<&Value> = after(Kind::Boot).map(|r| &r.body()["Boot"]).collect();
    let Some(set) = patches
        .iter()
        .find(|boot| boot[TARGET].is_string() && boot[TARGET] != "None")
    else {
        return differs.push("no boot override was taken".into());
    };
    // Two that differ in UEFI alone are told apart by the boot mode, which not every machine tells.
    let allowed = sheet.list("boot_targets_allowed").unwrap_or_default();
    let plain = |target: &str| target.trim_start_matches("Uefi").to_owned();
    let twin = set[TARGET]
        .as_str()
        .is_some_and(|sent| allowed.contains(&sent) && plain(sent) == plain(wanted.0) && wanted.0 != "Cd");
    if set[TARGET] != wanted.0 && !twin {
        differs.push(format!("{TARGET} is {}, not {}", set[TARGET], wanted.0));
    }
    let full = sheet.is("boot_requires_full_payload");
    match patches
        .iter()
        .find_map(|boot| boot[ENABLED].as_str().filter(|e| *e != "Disabled"))
    {
        Some(enabled) if enabled != wanted.1 => differs.push(format!("{ENABLED} is {enabled}, not {}", wanted.1)),
        _ => {}
    }
    for (name, needed) in [(ENABLED, full || sheet.is("boot_always_send_enabled")), (MODE, full)] {
        if needed && set.get(name).is_none() {
            differs.push(format!("the boot override lacks {name}"));
        }
    }
}

fn powered(sheet: &Sheet, sent: &[&Request<'_>], differs: &mut Vec<String>) {
    let listed = sheet.list("reset_types").unwrap_or_else(|| UNLISTED.to_vec());
    if sheet.text("reset_uri").is_some() && !sent.iter().any(|r| r.done()) {
        differs.push("no power command was taken".into());
    }
    for request in sent {
        let sent = request.body()["ResetType"].as_str().unwrap_or_default();
        if !listed.contains(&sent) {
            differs.push(format!("ResetType {sent} is none of {}", listed.join(", ")));
        }
    }
}
