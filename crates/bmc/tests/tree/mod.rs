//! A BMC made of a few resources, for one vendor's manners at a time: it keeps what is inserted, patched and reset, and
//! a rule may answer first.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub, missing_docs)]

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::common::{Answer, Scripted, Seen};

pub const SYSTEM: &str = "/redfish/v1/Systems/1";
pub const MANAGER: &str = "/redfish/v1/Managers/1";
pub const SLOTS: &str = "/redfish/v1/Managers/1/VirtualMedia";
pub const URL: &str = "http://10.0.0.1:8091/token-token/boot.iso";

#[derive(Clone, Debug)]
pub struct Tree(pub BTreeMap<String, Value>);

pub fn link(uri: &str) -> Value {
    json!({"@odata.id": uri})
}

pub fn members(uris: &[&str]) -> Value {
    json!({"Members": uris.iter().map(|u| link(u)).collect::<Vec<_>>()})
}

pub fn action(target: &str) -> Value {
    json!({"target": target})
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (name, value) in from {
                merge(into.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

impl Tree {
    /// One system, one manager that links to virtual media, no slot yet.
    pub fn new(maker: &str) -> Self {
        let mut tree = Self(BTreeMap::new());
        tree.put(
            "/redfish/v1",
            json!({"RedfishVersion": "1.6.0", "Systems": link("/redfish/v1/Systems"),
                "Managers": link("/redfish/v1/Managers"),
                "Links": {"Sessions": link("/redfish/v1/SessionService/Sessions")}}),
        );
        tree.put("/redfish/v1/Systems", members(&[SYSTEM]));
        tree.put("/redfish/v1/Managers", members(&[MANAGER]));
        tree.put(
            SYSTEM,
            json!({"Id": "1", "Manufacturer": maker, "Model": "Model 1", "PowerState": "On",
                "Boot": {"BootSourceOverrideTarget": "None", "BootSourceOverrideEnabled": "Disabled",
                    "BootSourceOverrideTarget@Redfish.AllowableValues": ["None", "Pxe", "Cd", "Hdd"]},
                "Links": {"ManagedBy": [link(MANAGER)]},
                "Actions": {"#ComputerSystem.Reset": {"target": format!("{SYSTEM}/Actions/ComputerSystem.Reset"),
                    "ResetType@Redfish.AllowableValues": ["On", "ForceOff", "ForceRestart"]}}}),
        );
        tree.put(
            MANAGER,
            json!({"Id": "1", "ManagerType": "BMC", "FirmwareVersion": "1.0", "VirtualMedia": link(SLOTS)}),
        );
        tree.put(SLOTS, members(&[]));
        tree
    }

    pub fn put(&mut self, uri: &str, body: Value) {
        self.0.insert(uri.trim_end_matches('/').to_owned(), body);
    }

    /// Changes members of a resource.
    pub fn with(mut self, uri: &str, change: Value) -> Self {
        merge(self.0.entry(uri.to_owned()).or_insert_with(|| json!({})), &change);
        self
    }

    /// Takes a resource out.
    pub fn without(mut self, uri: &str) -> Self {
        self.0.remove(uri);
        self
    }

    /// A slot without actions.
    pub fn bare_slot(mut self, collection: &str, id: &str, change: Value) -> Self {
        let uri = format!("{collection}/{id}");
        let mut slot = json!({"@odata.id": uri, "Id": id, "Image": null, "Inserted": false,
            "ConnectedVia": "NotConnected", "MediaTypes": ["CD", "DVD"]});
        merge(&mut slot, &change);
        self.put(&uri, slot);
        let listed = self.0.entry(collection.to_owned()).or_insert_with(|| members(&[]));
        listed["Members"].as_array_mut().unwrap().push(link(&uri));
        self
    }

    /// A slot with the standard's actions.
    pub fn slot(self, collection: &str, id: &str, change: Value) -> Self {
        let at = |name: &str| action(&format!("{collection}/{id}/Actions/VirtualMedia.{name}"));
        let actions = json!({"Actions": {"#VirtualMedia.InsertMedia": at("InsertMedia"),
            "#VirtualMedia.EjectMedia": at("EjectMedia")}});
        self.bare_slot(collection, id, actions)
            .with(&format!("{collection}/{id}"), change)
    }

    /// What a request does to a BMC with good manners.
    pub fn answer(&mut self, seen: &Seen) -> Answer {
        let path = seen.path.trim_end_matches('/').to_owned();
        let done = (204, "", String::new());
        let owner = path.split("/Actions/").next().unwrap().to_owned();
        match seen.method.as_str() {
            "GET" => match self.0.get(&path) {
                Some(body) => (200, "ETag: \"e1\"\r\n", body.to_string()),
                None => (404, "", "{}".into()),
            },
            "POST" if path.ends_with("SessionService/Sessions") => (
                201,
                "X-Auth-Token: t0ken-of-session\r\nLocation: /redfish/v1/SessionService/Sessions/1\r\n",
                "{}".into(),
            ),
            "DELETE" => done,
            "POST" if path.ends_with("InsertMedia") || path.ends_with("InsertVirtualMedia") => {
                self.insert(&owner, &seen.body["Image"]);
                done
            }
            "POST" if path.ends_with("EjectMedia") || path.ends_with("EjectVirtualMedia") => {
                self.eject(&owner);
                done
            }
            "POST" if path.ends_with("ComputerSystem.Reset") => {
                let off = seen.body["ResetType"] == "ForceOff";
                let state = if off { "Off" } else { "On" };
                merge(self.0.get_mut(&owner).unwrap(), &json!({"PowerState": state}));
                done
            }
            "PATCH" if self.0.contains_key(&path) => {
                match &seen.body["Image"] {
                    Value::String(_) => self.insert(&path, &seen.body["Image"]),
                    _ if seen.body.get("Image").is_some() => self.eject(&path),
                    _ => merge(self.0.get_mut(&path).unwrap(), &seen.body),
                }
                done
            }
            _ => (405, "", "{}".into()),
        }
    }

    pub fn insert(&mut self, slot: &str, image: &Value) {
        let now = json!({"Image": image, "Inserted": true, "ConnectedVia": "URI"});
        merge(self.0.get_mut(slot).unwrap(), &now);
    }

    pub fn eject(&mut self, slot: &str) {
        let now = json!({"Image": null, "Inserted": false, "ConnectedVia": "NotConnected"});
        merge(self.0.get_mut(slot).unwrap(), &now);
    }

    pub fn serve(self) -> Scripted {
        self.serve_with(|_, _| None)
    }

    /// `rule` may answer, and change the tree, before its good manners do.
    pub fn serve_with(mut self, mut rule: impl FnMut(&Seen, &mut Self) -> Option<Answer> + Send + 'static) -> Scripted {
        Scripted::start(move |seen| Some(rule(seen, &mut self).unwrap_or_else(|| self.answer(seen))))
    }
}

/// A refusal with one message.
pub fn refused(status: u16, id: &str, text: &str, about: &[&str]) -> Answer {
    let info = json!({"MessageId": format!("Base.1.8.{id}"), "Message": text, "RelatedProperties": about});
    (
        status,
        "",
        json!({"error": {"@Message.ExtendedInfo": [info]}}).to_string(),
    )
}

/// Bodies of what was sent to a path that ends like this.
pub fn sent(bmc: &Scripted, method: &str, end: &str) -> Vec<Value> {
    let seen = bmc.seen.lock().unwrap();
    let of = seen
        .iter()
        .filter(|s| s.method == method && s.path.trim_end_matches('/').ends_with(end));
    of.map(|s| s.body.clone()).collect()
}

/// Everything that could change something.
pub fn changes(bmc: &Scripted) -> Vec<String> {
    let all = bmc.paths().into_iter();
    all.filter(|p| !p.starts_with("GET ") && !p.contains("/SessionService/"))
        .collect()
}
