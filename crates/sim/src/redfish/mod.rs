//! The Redfish face: DSP0266 over the state of a [`Bmc`].

mod inventory;
mod message;
pub(crate) mod replay;
mod resource;
mod vendor;

use std::sync::Arc;

use base64::Engine as _;
use http::{HeaderMap, Method};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use url::Url;

use crate::bmc::{Bmc, BootOverride, Refusal, SlotId};
use crate::fault::FaultKind;
use crate::nfs;
use crate::power::Command;
pub(crate) use message::Refused;
use resource::Resource;

/// An answer before it becomes HTTP.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Body,
}

#[derive(Debug)]
pub(crate) enum Body {
    Empty,
    Json(Value),
    Xml(String),
}

impl Answer {
    fn empty() -> Self {
        Self {
            status: 204,
            headers: Vec::new(),
            body: Body::Empty,
        }
    }

    pub(crate) fn json(status: u16, body: Value) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Body::Json(body),
        }
    }
}

impl From<Refused> for Answer {
    fn from(refused: Refused) -> Self {
        let mut answer = Self::json(refused.status, refused.body());
        match refused.status {
            401 => answer
                .headers
                .push(("WWW-Authenticate", "Basic realm=\"Redfish\"".into())),
            503 => answer.headers.push(("Retry-After", "1".into())),
            _ => {}
        }
        answer
    }
}

/// The answer of a planted `status` fault.
pub(crate) fn planted(kind: &FaultKind) -> Answer {
    let (code, retry_after_s, message_id, message) = match kind {
        FaultKind::Status {
            code,
            retry_after_s,
            message_id,
            message,
        } => (*code, *retry_after_s, message_id.as_deref(), message.as_deref()),
        FaultKind::LockUp { code, message_id } => (*code, None, message_id.as_deref(), None),
        _ => return Answer::empty(),
    };
    let mut answer = Answer::json(code, Refused::with(code, message_id, message).body());
    if let Some(seconds) = retry_after_s {
        answer.headers.push(("Retry-After", seconds.to_string()));
    }
    answer
}

/// How the caller proved itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    None,
    Basic,
    Session,
    Wrong,
}

impl Proof {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Basic => "basic",
            Self::Session => "session",
            Self::Wrong => "wrong",
        }
    }
}

/// Checks X-Auth-Token, else Basic.
pub(crate) fn prove(bmc: &Bmc, headers: &HeaderMap) -> Proof {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
    if let Some(token) = text("x-auth-token") {
        return if bmc.check_token(token) {
            Proof::Session
        } else {
            Proof::Wrong
        };
    }
    let Some(authorization) = text("authorization") else {
        return Proof::None;
    };
    let login = authorization
        .split_once(' ')
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"))
        .and_then(|(_, code)| base64::engine::general_purpose::STANDARD.decode(code.trim()).ok())
        .and_then(|bytes| String::from_utf8(bytes).ok());
    match login.as_deref().and_then(|l| l.split_once(':')) {
        Some((user, password)) if bmc.config.manners.basic_auth && is_login(bmc, user, password) => Proof::Basic,
        _ => Proof::Wrong,
    }
}

fn is_login(bmc: &Bmc, user: &str, password: &str) -> bool {
    user == bmc.config.user && password == bmc.config.password
}

/// Answers one request. Runs to its end even when the caller hangs up.
pub(crate) async fn answer(bmc: &Arc<Bmc>, method: &Method, path: &str, headers: &HeaderMap, body: &[u8]) -> Answer {
    match try_answer(bmc, method, path, headers, body).await {
        Ok(answer) => answer,
        Err(refused) => refused.into(),
    }
}

async fn try_answer(
    bmc: &Arc<Bmc>,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Answer, Refused> {
    if let Some(tree) = &bmc.replay {
        return replay::answer(bmc, tree, method, path, headers, body).await;
    }
    let resource = Resource::find(path);
    let proof = prove(bmc, headers);
    let login = *method == Method::POST && resource == Some(Resource::Sessions);
    if !login && !resource.as_ref().is_some_and(Resource::is_public) {
        match proof {
            Proof::Basic | Proof::Session => {}
            Proof::Wrong if headers.contains_key("authorization") => return Err(Refused::unauthorized(path)),
            Proof::None | Proof::Wrong => return Err(Refused::no_valid_session()),
        }
    }
    let Some(resource) = resource.filter(|resource| resource.is_there(&bmc.config.manners)) else {
        return Err(Refused::not_found("Resource", path));
    };

    if matches!(*method, Method::GET | Method::HEAD) {
        return read(bmc, &resource, path, headers);
    }
    let answer = match (method.as_str(), &resource) {
        ("POST", Resource::Sessions) => log_in(bmc, &object(body)?)?,
        ("DELETE", Resource::Session(id)) => {
            if !bmc.close_session(id) {
                return Err(Refused::not_found("Session", id));
            }
            Answer::empty()
        }
        ("PATCH", Resource::System) => patch_system(bmc, headers, &object(body)?)?,
        ("PATCH", Resource::Settings) if bmc.config.manners.boot_at_settings => {
            patch_settings(bmc, headers, &object(body)?)?
        }
        ("PATCH", Resource::Slot(slot)) if bmc.config.manners.slots_by_patch => {
            check_if_match(bmc, &resource, headers)?;
            patch_slot(bmc, *slot, &object(body)?).await?
        }
        ("POST", Resource::Reset) => reset(bmc, &object(body)?)?,
        ("POST", Resource::ManagerReset) => {
            bmc.restart();
            Answer::empty()
        }
        ("POST", Resource::Vmm) => vendor::vmm(bmc, &object(body)?).await?,
        ("PATCH", Resource::Config) => vendor::configure(bmc, &object(body)?)?,
        ("POST", Resource::Mount) => vendor::mount(bmc).await?,
        ("POST", Resource::Unmount) => vendor::unmount(bmc).await?,
        ("POST", Resource::EnableMedia) => {
            bmc.enable_media();
            Answer::empty()
        }
        ("POST", Resource::ImportProfile) => vendor::import_profile(bmc, &object(body)?)?,
        ("PATCH", Resource::DeadSlot) => return Err(Refused::property_not_writable("Image")),
        ("POST", Resource::Insert(slot)) => insert(bmc, *slot, &object(body)?).await?,
        ("POST", Resource::Eject(slot)) => {
            bmc.eject(*slot).await;
            Answer::empty()
        }
        _ => {
            let mut answer = Answer::from(Refused::method_not_allowed(method.as_str()));
            answer
                .headers
                .push(("Allow", resource.allow(&bmc.config.manners).into()));
            answer
        }
    };
    Ok(answer)
}

fn read(bmc: &Bmc, resource: &Resource, path: &str, headers: &HeaderMap) -> Result<Answer, Refused> {
    if *resource == Resource::Metadata {
        return Ok(Answer {
            status: 200,
            headers: Vec::new(),
            body: Body::Xml(resource::metadata()),
        });
    }
    let Some(mut body) = resource.show(bmc) else {
        if resource.allow(&bmc.config.manners) == "POST" {
            let mut answer = Answer::from(Refused::method_not_allowed("GET"));
            answer
                .headers
                .push(("Allow", resource.allow(&bmc.config.manners).into()));
            return Ok(answer);
        }
        return Err(Refused::not_found("Resource", path));
    };
    let tag = etag(&body);
    if let Some(members) = body.as_object_mut()
        && members.contains_key("@odata.id")
    {
        members.insert("@odata.etag".into(), tag.clone().into());
    }
    let same = headers
        .get("if-none-match")
        .and_then(|v| v.to_str().ok())
        .is_some_and(|v| v == tag);
    let (status, body) = if same {
        (304, Body::Empty)
    } else {
        (200, Body::Json(body))
    };
    let headers = vec![("ETag", tag), ("Allow", resource.allow(&bmc.config.manners).into())];
    Ok(Answer { status, headers, body })
}

/// Strong, from the content: changes exactly when the resource does.
fn etag(body: &Value) -> String {
    format!("\"{}\"", hex::encode(&Sha256::digest(body.to_string())[..8]))
}

fn object(body: &[u8]) -> Result<Map<String, Value>, Refused> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Map::new());
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(members)) => Ok(members),
        _ => Err(Refused::malformed_json()),
    }
}

fn log_in(bmc: &Bmc, body: &Map<String, Value>) -> Result<Answer, Refused> {
    let member = |name: &str| {
        body.get(name)
            .and_then(Value::as_str)
            .ok_or_else(|| Refused::property_missing(name))
    };
    let (user, password) = (member("UserName")?, member("Password")?);
    if !is_login(bmc, user, password) {
        return Err(Refused::unauthorized("/redfish/v1/SessionService/Sessions"));
    }
    if bmc.config.manners.login_wants_oem && !body.contains_key("Oem") {
        return Err(Refused::property_missing("Oem"));
    }
    let (id, token) = bmc.open_session(user).ok_or_else(Refused::session_limit)?;
    let mut answer = Answer::json(201, resource::session(&id, user));
    answer
        .headers
        .push(("Location", format!("/redfish/v1/SessionService/Sessions/{id}")));
    answer.headers.push(("X-Auth-Token", token));
    Ok(answer)
}

fn check_if_match(bmc: &Bmc, resource: &Resource, headers: &HeaderMap) -> Result<(), Refused> {
    let Some(given) = headers.get("if-match").and_then(|v| v.to_str().ok()) else {
        return if bmc.config.manners.if_match_required {
            Err(Refused::precondition_required())
        } else {
            Ok(())
        };
    };
    let tag = resource.show(bmc).map(|body| etag(&body)).unwrap_or_default();
    let matches = given.split(',').map(str::trim).any(|one| one == "*" || one == tag);
    if matches {
        Ok(())
    } else {
        Err(Refused::precondition_failed())
    }
}

fn one_of(value: &Value, name: &str, allowed: &[&str]) -> Result<String, Refused> {
    value
        .as_str()
        .filter(|v| allowed.contains(v))
        .map(str::to_owned)
        .ok_or_else(|| Refused::property_value(name, value))
}

fn patch_system(bmc: &Bmc, headers: &HeaderMap, body: &Map<String, Value>) -> Result<Answer, Refused> {
    check_if_match(bmc, &Resource::System, headers)?;
    let shown = Resource::System.show(bmc).unwrap_or_default();
    let mut boot = bmc.boot_override();
    let mut tag = None;
    for (name, value) in body {
        match name.as_str() {
            "Boot" if bmc.config.manners.boot_at_settings => {
                return Err(Refused::property_not_writable("BootSourceOverrideTarget"));
            }
            "Boot" => boot = patch_boot(bmc, boot, value)?,
            "AssetTag" => tag = Some(value.as_str().ok_or_else(|| Refused::property_value(name, value))?),
            name if name.starts_with("@odata.") => {}
            name if shown.get(name).is_some() => return Err(Refused::property_not_writable(name)),
            name => return Err(Refused::property_unknown(name)),
        }
    }
    // Everything was checked: from here all of it happens.
    bmc.set_boot_override(boot);
    if let Some(tag) = tag {
        bmc.set_asset_tag(tag);
    }
    read(bmc, &Resource::System, "/redfish/v1/Systems/1", &HeaderMap::new())
}

fn patch_settings(bmc: &Bmc, headers: &HeaderMap, body: &Map<String, Value>) -> Result<Answer, Refused> {
    check_if_match(bmc, &Resource::Settings, headers)?;
    let mut boot = bmc.boot_override();
    for (name, value) in body {
        match name.as_str() {
            "Boot" => boot = patch_boot(bmc, boot, value)?,
            name => return Err(Refused::property_unknown(name)),
        }
    }
    bmc.set_boot_override(boot);
    Ok(Answer::empty())
}

/// A slot without actions: the image goes in, or out with null.
async fn patch_slot(bmc: &Arc<Bmc>, slot: SlotId, body: &Map<String, Value>) -> Result<Answer, Refused> {
    let manners = &bmc.config.manners;
    let known = [
        "Image",
        "Inserted",
        "WriteProtected",
        "TransferProtocolType",
        "TransferMethod",
        "UserName",
        "Password",
    ];
    for name in body.keys() {
        if manners.insert_refuses.iter().any(|refused| refused == name) {
            return Err(Refused::property_not_writable(name));
        }
        if !known.contains(&name.as_str()) {
            return Err(Refused::property_unknown(name));
        }
    }
    if let Some(missing) = manners.insert_demands.iter().find(|name| !body.contains_key(*name)) {
        return Err(Refused::property_missing(missing));
    }
    match body.get("Image") {
        None => return Err(Refused::property_missing("Image")),
        Some(Value::Null) => bmc.eject(slot).await,
        Some(image) => put_in(bmc, slot, image, Refused::property_value("Image", image)).await?,
    }
    Ok(Answer::empty())
}

fn patch_boot(bmc: &Bmc, mut boot: BootOverride, value: &Value) -> Result<BootOverride, Refused> {
    let Value::Object(members) = value else {
        return Err(Refused::property_value("Boot", value));
    };
    let whole = [
        "BootSourceOverrideMode",
        "BootSourceOverrideEnabled",
        "BootSourceOverrideTarget",
    ];
    if let Some(missing) = whole.iter().find(|name| !members.contains_key(**name))
        && bmc.config.manners.full_boot
    {
        return Err(Refused::property_missing(missing));
    }
    let targets: Vec<&str> = bmc.config.manners.boot_targets.iter().map(String::as_str).collect();
    for (name, value) in members {
        match name.as_str() {
            "BootSourceOverrideTarget" => boot.target = one_of(value, name, &targets)?,
            "BootSourceOverrideEnabled" if bmc.config.manners.once_kept && value == "Once" => {
                boot.enabled = "Continuous".into();
            }
            "BootSourceOverrideEnabled" => boot.enabled = one_of(value, name, &["Once", "Continuous", "Disabled"])?,
            "HttpBootUri" if bmc.config.manners.boots_by_http() => {
                let uri = match value {
                    Value::Null => Some(""),
                    other => other.as_str(),
                };
                uri.ok_or_else(|| Refused::property_value(name, value))?
                    .clone_into(&mut boot.http_uri);
            }
            "BootSourceOverrideMode" => boot.mode = one_of(value, name, &[bmc.config.firmware.mode()])?,
            name => return Err(Refused::property_unknown(name)),
        }
    }
    if boot.enabled == "Disabled" {
        boot.target = "None".into();
    } else if boot.target == "None" {
        boot.enabled = "Disabled".into();
    }
    Ok(boot)
}

fn reset(bmc: &Bmc, body: &Map<String, Value>) -> Result<Answer, Refused> {
    const ACTION: &str = "ComputerSystem.Reset";
    if let Some(name) = body.keys().find(|name| *name != "ResetType") {
        return Err(Refused::parameter_unknown(ACTION, name));
    }
    let fallback = json!("On");
    let wanted = body.get("ResetType").unwrap_or(&fallback);
    let command = wanted
        .as_str()
        .filter(|w| bmc.config.manners.reset_types.iter().any(|known| known == w))
        .and_then(Command::of_reset_type)
        .ok_or_else(|| Refused::parameter_value(ACTION, "ResetType", wanted))?;
    bmc.reset(command).map_err(|_| Refused::busy())?;
    Ok(Answer::empty())
}

/// Parameters of InsertMedia (DSP2046 VirtualMedia).
const INSERT_PARAMETERS: [&str; 8] = [
    "Image",
    "Inserted",
    "WriteProtected",
    "TransferProtocolType",
    "TransferMethod",
    "UserName",
    "Password",
    "MediaType",
];

async fn insert(bmc: &Bmc, slot: SlotId, body: &Map<String, Value>) -> Result<Answer, Refused> {
    const ACTION: &str = "VirtualMedia.InsertMedia";
    let manners = &bmc.config.manners;
    for name in body.keys() {
        if !INSERT_PARAMETERS.contains(&name.as_str()) || manners.insert_refuses.iter().any(|r| r == name) {
            return Err(Refused::parameter_unknown(ACTION, name));
        }
    }
    let image = body
        .get("Image")
        .ok_or_else(|| Refused::parameter_missing(ACTION, "Image"))?;
    if let Some(missing) = manners.insert_demands.iter().find(|name| !body.contains_key(*name)) {
        return Err(Refused::parameter_missing(ACTION, missing));
    }
    put_in(bmc, slot, image, Refused::parameter_value(ACTION, "Image", image)).await?;
    Ok(Answer::empty())
}

/// By which an image may come.
fn schemes_of(bmc: &Bmc) -> Vec<String> {
    let schemes = &bmc.config.manners.image_schemes;
    if schemes.is_empty() {
        return vec!["http".to_owned(), "https".to_owned()];
    }
    schemes.clone()
}

/// Reads the image, or refuses it: as `unusable` where it is no URL.
async fn put_in(bmc: &Bmc, slot: SlotId, image: &Value, unusable: Refused) -> Result<(), Refused> {
    let web = |text: &str| {
        let url = Url::parse(text).ok()?;
        (matches!(url.scheme(), "http" | "https") && url.host().is_some()).then_some(url)
    };
    let url = image
        .as_str()
        .and_then(|text| web(text).or_else(|| nfs::parse(text)))
        .ok_or(unusable)?;
    if !schemes_of(bmc).iter().any(|scheme| scheme == url.scheme()) {
        return Err(Refused::image_format(url.as_str()));
    }
    match bmc.insert(slot, &url).await {
        Ok(()) => Ok(()),
        Err(Refusal::Occupied) => Err(Refused::in_use()),
        Err(Refusal::Image(error)) => Err(Refused::image(url.as_str(), &error.to_string())),
        Err(Refusal::Busy) => Err(Refused::busy()),
    }
}
