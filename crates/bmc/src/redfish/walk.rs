//! Resources as a BMC writes them, for a recording: without secrets, and without what is somebody's for a while.

use std::collections::HashSet;
use std::time::Instant;

use serde_json::{Value, json};

use super::json;
use super::transport::Transport;
use crate::{BmcError, ErrorClass};

/// Collections whose members come and go, or are people: they are recorded empty.
const EMPTIED: &[&str] = &[
    "/sessions",
    "/tasks",
    "/subscriptions",
    "/entries",
    "/accounts",
    "/jobs",
];
/// Parts of one collection that are read.
const PARTS: usize = 500;
/// Members that hold what others must not have, beside what exchanges are cleaned of.
const SECRETS: &[&str] = &["licensekey", "signature", "authorizedkey", "sshkey", "activationkey"];

/// Reads resources one after the other, until the call's time is half over: what was not reached is not in the answer. None:
/// it is not there, or not for this user.
pub(crate) async fn read(http: &mut Transport, uris: &[String]) -> Result<Vec<(String, Option<Value>)>, BmcError> {
    let half = Instant::now() + http.time_left() / 2;
    let mut read = Vec::new();
    for uri in uris {
        if Instant::now() >= half {
            break;
        }
        let whole = match http.get_if_there(uri).await {
            Ok(Some(reply)) => whole(http, uri, reply.body, half).await.map(Some),
            other => other.map(|_| None),
        };
        let body = match whole {
            Ok(body) => body.map(|body| cleaned(uri, http.redactor.value(&body))),
            // Refused to this user, or broken: the rest may be read all the same.
            Err(error) if error.status.is_some() => None,
            Err(error) if read.is_empty() => return Err(error),
            Err(_) => break,
        };
        read.push((uri.clone(), body));
    }
    Ok(read)
}

fn is_emptied(uri: &str) -> bool {
    let path = uri.trim_end_matches('/').to_ascii_lowercase();
    EMPTIED.iter().any(|end| path.ends_with(end))
}

/// A collection that is shown in parts, as one: who reads the recording finds all members in it, and no link with a query,
/// which is no file.
async fn whole(http: &mut Transport, uri: &str, mut body: Value, until: Instant) -> Result<Value, BmcError> {
    let mut next = json::link(&body, &[json::NEXT]);
    if let Some(members) = body.as_object_mut() {
        members.remove(json::NEXT);
    }
    let mut seen = HashSet::new();
    while let Some(link) = next.take().filter(|_| !is_emptied(uri)) {
        if seen.len() >= PARTS || !seen.insert(link.clone()) {
            break;
        }
        if Instant::now() >= until {
            return Err(http.error(
                ErrorClass::Timeout,
                "a collection of many parts was not read to its end in time",
            ));
        }
        let Some(part) = http.get_if_there(&link).await? else {
            break;
        };
        next = json::link(&part.body, &[json::NEXT]);
        if let (Some(members), Some(more)) = (body["Members"].as_array_mut(), part.body["Members"].as_array()) {
            members.extend(more.iter().cloned());
        }
    }
    Ok(body)
}

fn cleaned(uri: &str, mut body: Value) -> Value {
    if is_emptied(uri) && body.get("Members").is_some() {
        body["Members"] = json!([]);
        body["Members@odata.count"] = 0.into();
    }
    hide(&mut body);
    body
}

fn hide(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(hide),
        Value::Object(members) => {
            for (name, value) in members {
                let name = name.to_ascii_lowercase();
                match value {
                    Value::String(text) if SECRETS.iter().any(|secret| name.contains(secret)) => {
                        *text = "***".to_owned();
                    }
                    other => hide(other),
                }
            }
        }
        // JSON inside a text: Supermicro's licences have their signature there.
        Value::String(text) if text.trim_start().starts_with('{') => {
            if let Ok(mut inner) = serde_json::from_str::<Value>(text) {
                hide(&mut inner);
                *text = inner.to_string();
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_secret_or_somebodys_is_not_recorded() {
        let sessions =
            json!({"Members": [{"@odata.id": "/redfish/v1/SessionService/Sessions/7"}], "Members@odata.count": 1});
        let sessions = cleaned("/redfish/v1/SessionService/Sessions/", sessions);
        assert_eq!(sessions, json!({"Members": [], "Members@odata.count": 0}));
        let licence = json!({"License": "iLO Advanced", "LicenseKey": "3KMLN", "Licenses": ["{\"Node\":{\"Name\":\"x\"},\"Signature\":\"lq3\"}"]});
        let text = cleaned("/redfish/v1/Managers/1", licence).to_string();
        assert!(
            text.contains("iLO Advanced") && !text.contains("3KMLN") && !text.contains("lq3"),
            "{text}"
        );
        let systems = json!({"Members": [{"@odata.id": "/redfish/v1/Systems/1"}]});
        assert_eq!(cleaned("/redfish/v1/Systems", systems.clone()), systems);
    }
}
