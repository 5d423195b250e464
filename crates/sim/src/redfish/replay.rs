//! A recorded resource tree with the simulator's machine behind it: what it shows is the recording's, what its actions and
//! PATCHes change is ours (slots, boot override, power, sessions).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::{HeaderMap, Method};
use serde_json::{Map, Value, json};

use super::{Answer, Body, Proof, Refused, etag, log_in, object, prove, put_in, resource, vendor};
use crate::bmc::{Bmc, BootOverride, SlotId};
use crate::error::SimError;
use crate::power::Command;

/// Resources and bytes of a tree: more than any BMC has.
const MOST: usize = 20_000;
const BYTES: u64 = 256 << 20;
const DEEPEST: usize = 40;
const SESSIONS: &str = "/redfish/v1/sessionservice/sessions";
const TASKS: &str = "/redfish/v1/taskservice/tasks/";

/// The tree, by paths in small letters without a slash at the end.
pub(crate) struct Tree {
    state: Mutex<State>,
}

struct State {
    resources: BTreeMap<String, Value>,
    /// The slot that the one CD is shown in.
    cd: Option<String>,
}

fn key(path: &str) -> String {
    path.trim_end_matches('/').to_ascii_lowercase()
}

impl Tree {
    /// Reads `DIR/redfish/**/index.json`.
    ///
    /// # Errors
    /// A file that cannot be read or is no JSON; no service root; too much of it.
    pub(crate) fn read(dir: &Path) -> Result<Self, SimError> {
        if !dir.join("redfish").is_dir() {
            let text = format!(
                "no folder `redfish` in {}: give one that `isobar bmc record --out` wrote",
                dir.display()
            );
            return Err(SimError::Config(text));
        }
        let (mut resources, mut bytes) = (BTreeMap::new(), 0);
        gather(&dir.join("redfish"), "/redfish", 0, &mut bytes, &mut resources)?;
        if !resources.contains_key("/redfish/v1") {
            let text = format!("{}: there is no redfish/v1/index.json in it", dir.display());
            return Err(SimError::Config(text));
        }
        resources.values_mut().for_each(empty_slot);
        let state = State { resources, cd: None };
        Ok(Self {
            state: Mutex::new(state),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The override that was in force when it was recorded.
    pub(crate) fn boot(&self) -> Option<BootOverride> {
        let state = self.lock();
        let boot = state.resources.values().find_map(|body| {
            let boot = body.get("Boot")?;
            boot.get("BootSourceOverrideTarget").map(|_| boot)
        })?;
        let text = |name: &str, or: &str| boot[name].as_str().unwrap_or(or).to_owned();
        Some(BootOverride {
            enabled: text("BootSourceOverrideEnabled", "Disabled"),
            target: text("BootSourceOverrideTarget", "None"),
            mode: text("BootSourceOverrideMode", "UEFI"),
            http_uri: text("HttpBootUri", ""),
        })
    }
}

fn gather(
    dir: &Path,
    path: &str,
    depth: usize,
    bytes: &mut u64,
    resources: &mut BTreeMap<String, Value>,
) -> Result<(), SimError> {
    let failed = |source| SimError::io("read the tree", dir, source);
    if depth > DEEPEST || resources.len() > MOST || *bytes > BYTES {
        return Err(SimError::Config(format!("{}: the tree is too large", dir.display())));
    }
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // Of links nobody knows where they lead.
        let kind = entry.file_type().map_err(failed)?;
        if kind.is_dir() {
            gather(&entry.path(), &format!("{path}/{name}"), depth + 1, bytes, resources)?;
        } else if kind.is_file() && name == "index.json" {
            let text = std::fs::read(entry.path()).map_err(failed)?;
            *bytes += text.len() as u64;
            let body = serde_json::from_slice(&text)
                .map_err(|error| SimError::Config(format!("{}: {error}", entry.path().display())))?;
            resources.insert(key(path), body);
        }
    }
    Ok(())
}

fn is_slot(body: &Value) -> bool {
    body["@odata.type"]
        .as_str()
        .is_some_and(|kind| kind.starts_with("#VirtualMedia."))
}

/// What was in it when it was recorded is not in it here.
fn empty_slot(body: &mut Value) {
    if !is_slot(body) {
        return;
    }
    let none = if body["Image"] == "None" {
        json!("None")
    } else {
        Value::Null
    };
    for (name, value) in [("Image", none), ("ImageName", Value::Null), ("Inserted", json!(false))] {
        if body.get(name).is_some() {
            body[name] = value;
        }
    }
    if body.get("ConnectedVia").is_some() {
        body["ConnectedVia"] = "NotConnected".into();
    }
}

/// A resource as it is now.
fn show(bmc: &Bmc, state: &State, key: &str) -> Option<Value> {
    if let Some(id) = key.strip_prefix(TASKS)
        && let Some(task) = vendor::task(bmc, id)
    {
        return Some(task);
    }
    if key == SESSIONS {
        let mut body = state
            .resources
            .get(key)
            .cloned()
            .unwrap_or_else(|| json!({"@odata.id": SESSIONS}));
        let sessions = bmc.sessions();
        let link =
            |(id, _): &(String, String)| json!({"@odata.id": format!("/redfish/v1/SessionService/Sessions/{id}")});
        body["Members@odata.count"] = sessions.len().into();
        body["Members"] = sessions.iter().map(link).collect();
        return Some(body);
    }
    if let Some(id) = key.strip_prefix(SESSIONS).and_then(|rest| rest.strip_prefix('/'))
        && let Some((id, user)) = bmc.sessions().into_iter().find(|(known, _)| known == id)
    {
        return Some(resource::session(&id, &user));
    }
    let mut body = state.resources.get(key)?.clone();
    if key.starts_with("/redfish/v1/systems/") && body.get("PowerState").is_some() {
        body["PowerState"] = json!(bmc.power());
    }
    if let Some(boot) = body
        .get_mut("Boot")
        .filter(|boot| boot.get("BootSourceOverrideTarget").is_some())
    {
        let now = bmc.boot_override();
        boot["BootSourceOverrideTarget"] = now.target.into();
        boot["BootSourceOverrideEnabled"] = now.enabled.into();
        if boot.get("BootSourceOverrideMode").is_some() {
            boot["BootSourceOverrideMode"] = now.mode.into();
        }
    }
    if state.cd.as_deref() == Some(key) {
        let view = bmc.slot_view(SlotId::Cd);
        if let Some(image) = view.image.filter(|_| view.inserted) {
            body["ImageName"] = image.rsplit('/').next().unwrap_or_default().into();
            body["Image"] = image.into();
            body["Inserted"] = true.into();
            body["ConnectedVia"] = "URI".into();
            // Some list it only now.
            let insert = body["Actions"]["#VirtualMedia.InsertMedia"]["target"].as_str();
            if let Some(stem) = insert
                .and_then(|target| target.strip_suffix("InsertMedia"))
                .map(str::to_owned)
                && body["Actions"].get("#VirtualMedia.EjectMedia").is_none()
            {
                body["Actions"]["#VirtualMedia.EjectMedia"] = json!({"target": format!("{stem}EjectMedia")});
            }
        }
    }
    Some(body)
}

pub(crate) async fn answer(
    bmc: &Arc<Bmc>,
    tree: &Tree,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Answer, Refused> {
    let key = key(path);
    let public = ["/redfish", "/redfish/v1", "/redfish/v1/odata", "/redfish/v1/$metadata"].contains(&key.as_str());
    let sessions = [SESSIONS.to_owned(), format!("{SESSIONS}/members")].contains(&key);
    if *method == Method::POST && sessions {
        return log_in(bmc, &object(body)?);
    }
    if !public && !matches!(prove(bmc, headers), Proof::Basic | Proof::Session) {
        return Err(Refused::no_valid_session());
    }
    match method.as_str() {
        "GET" | "HEAD" => read(bmc, tree, &key, path),
        "DELETE" => {
            let id = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
            match key.starts_with(SESSIONS) && bmc.close_session(id) {
                true => Ok(Answer::empty()),
                false => Err(Refused::not_found("Session", id)),
            }
        }
        "PATCH" => patch(bmc, tree, &key, path, headers, object(body)?).await,
        "POST" => act(bmc, tree, &key, path, &object(body)?).await,
        other => Err(Refused::method_not_allowed(other)),
    }
}

fn read(bmc: &Bmc, tree: &Tree, key: &str, path: &str) -> Result<Answer, Refused> {
    if key == "/redfish" {
        return Ok(Answer::json(200, json!({"v1": "/redfish/v1/"})));
    }
    let mut body = show(bmc, &tree.lock(), key).ok_or_else(|| Refused::not_found("Resource", path))?;
    let tag = etag(&body);
    if body.get("@odata.etag").is_some() {
        body["@odata.etag"] = tag.clone().into();
    }
    let headers = vec![("ETag", tag), ("Allow", "GET, HEAD, POST, PATCH, DELETE".to_owned())];
    Ok(Answer {
        status: 200,
        headers,
        body: Body::Json(body),
    })
}

fn merge(into: &mut Value, change: Value) {
    match (into, change) {
        (Value::Object(members), Value::Object(changes)) => {
            for (name, change) in changes {
                merge(members.entry(name).or_insert(Value::Null), change);
            }
        }
        (into, change) => *into = change,
    }
}

async fn patch(
    bmc: &Arc<Bmc>,
    tree: &Tree,
    key: &str,
    path: &str,
    headers: &HeaderMap,
    mut change: Map<String, Value>,
) -> Result<Answer, Refused> {
    let now = show(bmc, &tree.lock(), key).ok_or_else(|| Refused::not_found("Resource", path))?;
    let given = headers.get("if-match").and_then(|v| v.to_str().ok());
    let bare = |tag: &str| tag.trim().trim_start_matches("W/").trim_matches('"').to_owned();
    if let Some(given) = given.filter(|given| *given != "*") {
        let tag = bare(&etag(&now));
        if !given.split(',').any(|one| bare(one) == tag) {
            return Err(Refused::precondition_failed());
        }
    }
    if is_slot(&now)
        && let Some(image) = change.remove("Image")
    {
        change.remove("Inserted");
        match image {
            Value::Null => take_out(bmc, tree, key).await,
            image => put_into(bmc, tree, key, &image).await?,
        }
    }
    if let Some(Value::Object(boot)) = change.get_mut("Boot") {
        let mut wanted = bmc.boot_override();
        let members = [
            ("BootSourceOverrideTarget", &mut wanted.target),
            ("BootSourceOverrideEnabled", &mut wanted.enabled),
            ("BootSourceOverrideMode", &mut wanted.mode),
        ];
        for (name, value) in members {
            let Some(new) = boot.remove(name) else { continue };
            let allowed = now["Boot"][format!("{name}@Redfish.AllowableValues")].as_array();
            let listed = |new: &&str| allowed.is_none_or(|allowed| allowed.iter().any(|a| a == new));
            *value = new
                .as_str()
                .filter(listed)
                .ok_or_else(|| Refused::property_value(name, &new))?
                .to_owned();
        }
        if wanted.enabled == "Disabled" {
            wanted.target = "None".into();
        }
        bmc.set_boot_override(wanted);
    }
    if let Some(stored) = tree.lock().resources.get_mut(key) {
        merge(stored, change.into());
    }
    read(bmc, tree, key, path)
}

async fn put_into(bmc: &Arc<Bmc>, tree: &Tree, slot: &str, image: &Value) -> Result<(), Refused> {
    put_in(
        bmc,
        SlotId::Cd,
        image,
        Refused::parameter_value("VirtualMedia.InsertMedia", "Image", image),
    )
    .await?;
    tree.lock().cd = Some(slot.to_owned());
    Ok(())
}

async fn take_out(bmc: &Arc<Bmc>, tree: &Tree, slot: &str) {
    let holds = tree.lock().cd.as_deref() == Some(slot);
    if holds {
        bmc.eject(SlotId::Cd).await;
    }
}

/// Reset types that the tree offers; none: it does not say.
fn reset_types(state: &State, system: &Value) -> Option<Vec<Value>> {
    let action = &system["Actions"]["#ComputerSystem.Reset"];
    if let Some(listed) = action["ResetType@Redfish.AllowableValues"].as_array() {
        return Some(listed.clone());
    }
    let info = &action["@Redfish.ActionInfo"];
    let info = info.as_str().or(info["@odata.id"].as_str())?;
    let parameters = state.resources.get(&key(info))?["Parameters"].as_array()?;
    let types = parameters.iter().find(|parameter| parameter["Name"] == "ResetType")?;
    types["AllowableValues"].as_array().cloned()
}

async fn act(bmc: &Arc<Bmc>, tree: &Tree, key: &str, path: &str, body: &Map<String, Value>) -> Result<Answer, Refused> {
    let missing = || Refused::not_found("Action", path);
    let (owner, action) = key
        .split_once("/actions/")
        .ok_or_else(|| Refused::method_not_allowed("POST"))?;
    // Vendors put theirs below an Oem of the owner, or of its actions.
    let owner = owner.split("/oem/").next().unwrap_or(owner).to_owned();
    let action = action.rsplit('/').next().unwrap_or(action);
    let resource = show(bmc, &tree.lock(), &owner).ok_or_else(missing)?;
    let verb = action.rsplit('.').next().unwrap_or(action);
    match verb {
        "insertmedia" | "insertvirtualmedia" if is_slot(&resource) => {
            let image = body
                .get("Image")
                .ok_or_else(|| Refused::parameter_missing(action, "Image"))?;
            put_into(bmc, tree, &owner, image).await?;
        }
        "ejectmedia" | "ejectvirtualmedia" if is_slot(&resource) => take_out(bmc, tree, &owner).await,
        "vmmcontrol" if body.get("VmmControlType").and_then(Value::as_str) == Some("Disconnect") => {
            take_out(bmc, tree, &owner).await;
        }
        "vmmcontrol" => {
            let answer = vendor::vmm(bmc, body).await?;
            tree.lock().cd = Some(owner);
            return Ok(answer);
        }
        "enablermedia" => bmc.enable_media(),
        "importsystemconfiguration" => return vendor::import_profile(bmc, body),
        "reset" if action.starts_with("manager") => bmc.restart(),
        "reset" if action.starts_with("computersystem") => {
            let fallback = json!("On");
            let wanted = body.get("ResetType").unwrap_or(&fallback);
            let offered = reset_types(&tree.lock(), &resource);
            let command = wanted
                .as_str()
                .filter(|_| offered.is_none_or(|offered| offered.contains(wanted)))
                .and_then(Command::of_reset_type)
                .ok_or_else(|| Refused::parameter_value("ComputerSystem.Reset", "ResetType", wanted))?;
            bmc.reset(command).map_err(|_| Refused::busy())?;
        }
        // Others of the tree are taken, and do nothing; what it does not list is not there.
        _ if resource["Actions"].to_string().to_ascii_lowercase().contains(action) => {}
        _ => return Err(missing()),
    }
    Ok(Answer::empty())
}
