//! Power, in each BMC's own reset types.

use serde_json::{Value, json};

use super::discover::Found;
use super::host;
use super::json;
use super::message;
use super::transport::{Reply, Transport};
use crate::{BmcError, ErrorClass, PowerAction, PowerState};

/// Assumed where a BMC does not list its reset types: what every one of them has.
const UNLISTED: [&str; 4] = ["On", "ForceOff", "ForceRestart", "GracefulShutdown"];

pub(crate) async fn state(http: &mut Transport, found: &Found) -> Result<PowerState, BmcError> {
    let system = http.get(&found.system_uri).await?.body;
    host::tell_progress(http, &system);
    Ok(state_of(&system))
}

pub(crate) fn state_of(system: &Value) -> PowerState {
    match json::text(system, &["PowerState"])
        .unwrap_or_default()
        .to_ascii_lowercase()
        .as_str()
    {
        "on" => PowerState::On,
        "off" => PowerState::Off,
        "poweringon" => PowerState::PoweringOn,
        "poweringoff" => PowerState::PoweringOff,
        _ => PowerState::Unknown,
    }
}

pub(crate) async fn act(http: &mut Transport, found: &Found, action: PowerAction) -> Result<(), BmcError> {
    let recent = http.recent_system(&found.system_uri).map(|reply| reply.body);
    // To do nothing, it has to be the state of now that says so.
    let recent = recent.filter(|system| {
        let now = state_of(system);
        (action, now) == (PowerAction::On, PowerState::Off) || (action, now) == (PowerAction::ForceOff, PowerState::On)
    });
    let is_recent = recent.is_some();
    let system = match recent {
        Some(system) => system,
        None => http.get(&found.system_uri).await?.body,
    };
    let mut now = state_of(&system);
    let reset = json::at(&system, &["Actions", "#ComputerSystem.Reset"]).clone();
    let target = json::action_target(&reset).ok_or_else(|| {
        http.error(
            ErrorClass::Unsupported,
            format!("{} has no reset action", found.system_uri),
        )
    })?;
    let listed = listed_types(http, &reset).await?;
    let has = |kind: &str| match &listed {
        Some(listed) => listed.iter().any(|l| l == kind),
        None => UNLISTED.contains(&kind),
    };
    if is_recent && action == PowerAction::On && !has("On") && !has("ForceOn") {
        // The button alone is left.
        now = state(http, found).await?;
    }
    let wanted = match (action, now) {
        (PowerAction::On, PowerState::On) | (PowerAction::ForceOff, PowerState::Off) => return Ok(()),
        (PowerAction::GracefulShutdown, PowerState::Off) => return Ok(()),
        // The button toggles, so it is pressed only when the state is known.
        (PowerAction::On, PowerState::Off) => &["On", "ForceOn", "PushPowerButton"][..],
        (PowerAction::On, _) => &["On", "ForceOn"],
        (PowerAction::ForceOff, _) => &["ForceOff", "Off"],
        (PowerAction::GracefulShutdown, PowerState::On) => &["GracefulShutdown", "PushPowerButton"],
        (PowerAction::GracefulShutdown, _) => &["GracefulShutdown"],
        // Cycling what is off does nothing on some BMCs and is refused by others.
        (PowerAction::Cycle, PowerState::Off) => &["On", "ForceOn"],
        (PowerAction::Cycle, _) => &["PowerCycle", "ForceRestart"],
    };
    let mut kinds: Vec<&str> = wanted.iter().copied().filter(|kind| has(kind)).collect();
    if action == PowerAction::Cycle && now != PowerState::Off && listed.is_none() {
        // Not told what there is, and PowerCycle is the rarer one: an unknown type is refused, no more.
        kinds = vec!["ForceRestart", "PowerCycle"];
    }
    let mut refused = None;
    for kind in &kinds {
        let reply = http.post(&target, Some(&json!({"ResetType": kind}))).await?;
        if reply.is_good() || message::is_no_operation(&reply.messages) || already(http, found, action, &reply).await? {
            return Ok(());
        }
        let error = http.refusal("POST", &target, &reply);
        // After an internal error nobody knows: another way, the button above all, could undo what was done.
        if error.class != ErrorClass::Refused && error.class != ErrorClass::Unsupported {
            return Err(error);
        }
        refused = Some(error);
    }
    if action == PowerAction::Cycle && now != PowerState::Off && has("ForceOff") {
        return off_and_on(http, found, &target).await;
    }
    Err(refused.unwrap_or_else(|| {
        let listed = listed.unwrap_or_default().join(", ");
        http.error(
            ErrorClass::Unsupported,
            format!("it offers none of {} but: {listed}", wanted.join(", ")),
        )
    }))
}

/// The reset types that the BMC lists, in the action itself or in its ActionInfo.
pub(crate) async fn listed_types(http: &mut Transport, reset: &Value) -> Result<Option<Vec<String>>, BmcError> {
    // Before Redfish 1.0 was out the name was another one: `ResetType@DMTF.AllowableValues`.
    let is_list = |name: &&String| name.starts_with("ResetType@") && name.ends_with(".AllowableValues");
    let lists = reset
        .as_object()
        .into_iter()
        .flat_map(|reset| reset.keys().filter(is_list));
    let mut listed = lists.filter_map(|name| json::texts(reset, &[name]));
    if let Some(listed) = listed.find(|listed| !listed.is_empty()) {
        return Ok(Some(listed));
    }
    let Some(uri) = json::link(reset, &["@Redfish.ActionInfo"]) else {
        return Ok(None);
    };
    let parameters = http.parameters(&uri).await?;
    let kinds = parameters
        .iter()
        .find(|p| json::text(p, &["Name"]) == Some("ResetType"));
    Ok(kinds.and_then(|p| json::texts(p, &["AllowableValues"])))
}

/// A refusal (409, or a vendor's 400) because the power is already as it should be.
async fn already(http: &mut Transport, found: &Found, action: PowerAction, reply: &Reply) -> Result<bool, BmcError> {
    if !matches!(reply.status, 400 | 409 | 500) {
        return Ok(false);
    }
    let wanted = match action {
        PowerAction::On => PowerState::On,
        PowerAction::ForceOff | PowerAction::GracefulShutdown => PowerState::Off,
        PowerAction::Cycle => return Ok(false),
    };
    Ok(state(http, found).await? == wanted)
}

async fn off_and_on(http: &mut Transport, found: &Found, target: &str) -> Result<(), BmcError> {
    for (kind, wanted) in [("ForceOff", PowerState::Off), ("On", PowerState::On)] {
        let reply = http.post(target, Some(&json!({"ResetType": kind}))).await?;
        if !reply.is_good() {
            return Err(http.refusal("POST", target, &reply));
        }
        while wanted == PowerState::Off && state(http, found).await? != wanted {
            let poll = http.options.poll;
            http.wait(poll).await?;
        }
    }
    Ok(())
}
