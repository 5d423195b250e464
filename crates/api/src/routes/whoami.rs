//! `POST /whoami`: which machine is this? Says who it probably is, and never gives a token: traits can be read off a
//! sticker, so they prove nothing.

use http::Method;
use isobar_model::Object;
use serde::Deserialize;
use serde_json::{Value, json};

use super::doc::Shape;
use super::{On, Table, right};
use crate::call::Call;
use crate::reply::{self, Answer};

pub(super) fn add(table: &mut Table) {
    table
        .add(
            Method::POST,
            "/api/v3/whoami",
            right("machines", "get", On::Some),
            whoami,
        )
        .is("Says which machine a host with these traits probably is.")
        .takes(Shape::of("WhoAmI"))
        .gives(200, Shape::of("Map"));
}

/// What a host says of itself.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Traits {
    fingerprint: Fingerprint,
    #[serde(deserialize_with = "null_as_empty")]
    mac_addrs: Vec<String>,
    #[serde(rename = "OnDiskUUID")]
    on_disk_uuid: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Fingerprint {
    #[serde(rename = "SSNHash")]
    ssn_hash: Option<String>,
    #[serde(rename = "CSNHash")]
    csn_hash: Option<String>,
    #[serde(rename = "CloudInstanceID")]
    cloud_instance_id: String,
    #[serde(rename = "SystemUUID")]
    system_uuid: String,
}

fn null_as_empty<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::<Vec<String>>::deserialize(d)?.unwrap_or_default())
}

/// Below this it may as well be another machine.
const ENOUGH: u32 = 25;

async fn whoami(mut call: Call) -> Answer {
    let mut body = call.json().await?.unwrap_or_else(|| json!({}));
    if !body.is_object() {
        return Err(call.bad_request("the body must be a JSON object"));
    }
    let traits: Traits =
        serde_json::from_value(body.clone()).map_err(|e| call.bad_request(format!("the body does not fit: {e}")))?;
    let (score, uuid) = call
        .objects(move |objects, who| {
            let best = objects
                .all("machines")?
                .iter()
                .map(|machine| (traits.score(machine), text(machine, "Uuid").to_owned()))
                .filter(|(score, uuid)| *score >= ENOUGH && who.allows("machines", "get", uuid))
                .max_by_key(|(score, _)| *score);
            Ok(best.unwrap_or_default())
        })
        .await?;
    if let Some(members) = body.as_object_mut() {
        members.insert(
            "Result".to_owned(),
            json!({ "Score": score, "Uuid": uuid, "Token": "" }),
        );
    }
    reply::ok(&body)
}

fn text<'a>(object: &'a Object, member: &str) -> &'a str {
    object.get(member).and_then(Value::as_str).unwrap_or_default()
}

impl Traits {
    /// How well a machine fits, 0 to 100: the sum of what agrees.
    fn score(&self, machine: &Object) -> u32 {
        if !self.on_disk_uuid.is_empty() && self.on_disk_uuid.eq_ignore_ascii_case(text(machine, "Uuid")) {
            return 100;
        }
        let known = |member: &str| {
            let value = machine
                .get("Fingerprint")
                .and_then(|f| f.get(member))
                .and_then(Value::as_str);
            value.filter(|v| !v.is_empty())
        };
        let said = &self.fingerprint;
        let agree = |ours: Option<&str>, theirs: Option<&str>| ours.is_some() && ours == theirs;
        let mut score = 0;
        for (points, ours, theirs) in [
            (50, known("SystemUUID"), Some(said.system_uuid.as_str())),
            (50, known("CloudInstanceID"), Some(said.cloud_instance_id.as_str())),
            (25, known("SSNHash"), said.ssn_hash.as_deref()),
            (25, known("CSNHash"), said.csn_hash.as_deref()),
        ] {
            if agree(ours, theirs) {
                score += points;
            }
        }
        if let Some(Value::Array(addresses)) = machine.get("HardwareAddrs") {
            let ours = addresses.iter().filter_map(Value::as_str);
            let same = ours.filter(|mac| self.mac_addrs.iter().any(|m| m.eq_ignore_ascii_case(mac)));
            score += 25 * u32::try_from(same.count()).unwrap_or(4).min(4);
        }
        score.min(100)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_agrees_counts_and_what_is_empty_does_not() {
        let machine = json!({
            "Uuid": "1987e6d3-75ef-4a61-bf0d-2fa4b26f8215",
            "HardwareAddrs": ["52:54:00:aa:bb:01", "52:54:00:aa:bb:02"],
            "Fingerprint": { "SystemUUID": "", "SSNHash": "c2Vy", "CSNHash": null },
        });
        let machine = machine.as_object().unwrap();
        let score = |body: Value| serde_json::from_value::<Traits>(body).unwrap().score(machine);
        assert_eq!(score(json!({})), 0);
        assert_eq!(
            score(json!({ "Fingerprint": { "SystemUUID": "", "SSNHash": null }, "MacAddrs": null })),
            0
        );
        assert_eq!(score(json!({ "MacAddrs": ["52:54:00:AA:BB:01"] })), 25);
        assert_eq!(
            score(json!({ "MacAddrs": ["52:54:00:aa:bb:01", "52:54:00:aa:bb:02"] })),
            50
        );
        assert_eq!(score(json!({ "Fingerprint": { "SSNHash": "c2Vy" } })), 25);
        assert_eq!(
            score(json!({ "OnDiskUUID": "1987E6D3-75EF-4A61-BF0D-2FA4B26F8215" })),
            100
        );
    }
}
