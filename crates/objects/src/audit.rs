//! What the audit log says of a deed. Names of what changed, and the values of a few members that say where a machine
//! stands; never what could be a secret.

use isobar_model::{ApiError, Noun, Object, same_members};
use isobar_store::{Audit, AuditClass, AuditQuery, Audited};
use serde_json::Value;

use crate::core::store_failed;
use crate::{Objects, Principal};

/// Members whose new value is told.
const TOLD: &[&str] = &[
    "Name",
    "BootEnv",
    "Stage",
    "Workflow",
    "Runnable",
    "Locked",
    "State",
    "ExitState",
    "Machine",
    "Task",
    "Roles",
];
/// Maps of which the changed keys are told.
const MAPS: &[&str] = &["Params", "Meta", "Members"];
/// Longest detail in bytes.
const LONGEST: usize = 400;

impl Principal {
    /// An entry about something that this one did.
    #[must_use]
    pub fn audit(&self, action: &str, kind: &str, key: &str, detail: impl Into<String>) -> Audit {
        Audit {
            class: match self.user() {
                Some(_) => AuditClass::User,
                None => AuditClass::Program,
            },
            principal: self.name().to_owned(),
            source: self.source().to_owned(),
            action: action.to_owned(),
            kind: kind.to_owned(),
            key: bounded(key.to_owned()),
            detail: bounded(detail.into()),
        }
    }
}

/// An entry about somebody who was not let in.
pub(crate) fn refused(action: &str, kind: &str, key: &str, source: &str, detail: &str) -> Audit {
    Audit {
        class: AuditClass::Refused,
        principal: String::new(),
        source: source.to_owned(),
        action: action.to_owned(),
        kind: kind.to_owned(),
        key: bounded(key.to_owned()),
        detail: detail.to_owned(),
    }
}

fn bounded(mut text: String) -> String {
    if text.len() > LONGEST {
        let end = (0..=LONGEST).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

/// The members that differ between two versions of an object; all of a new one.
pub(crate) fn differing(noun: &Noun, before: Option<&Object>, after: &Object) -> Vec<&'static str> {
    let members = noun.fields.iter().map(|field| field.name);
    let same = |member: &&str| same_members(before.and_then(|before| before.get(*member)), after.get(*member));
    members.filter(|member| !same(member)).collect()
}

/// What a change did to the members that differ. What the server derives is left out, and of a new object what says
/// little.
pub(crate) fn changed(before: Option<&Object>, after: &Object, differ: &[&str]) -> String {
    let mut said = Vec::new();
    for member in differ.iter().copied() {
        let (old, new) = (before.and_then(|before| before.get(member)), after.get(member));
        let derived = ["Validated", "Available", "Errors"].contains(&member);
        let worth_telling = TOLD.contains(&member) || member == "Params";
        let dull = before.is_none() && (!worth_telling || new.is_none_or(is_empty));
        if derived || dull {
            continue;
        }
        match new {
            Some(Value::Object(new)) if MAPS.contains(&member) => {
                let old = old.and_then(Value::as_object);
                let was = |key: &str| old.and_then(|old| old.get(key));
                let keys = old.into_iter().chain([new]).flat_map(Object::keys);
                let mut keys: Vec<_> = keys.filter(|key| !same_members(was(key), new.get(*key))).collect();
                keys.sort();
                keys.dedup();
                said.extend(keys.into_iter().map(|key| format!("{member}/{key}")));
            }
            Some(new) if TOLD.contains(&member) => said.push(format!("{member}={}", shown(new))),
            _ => said.push(member.to_owned()),
        }
        if said.iter().map(String::len).sum::<usize>() > LONGEST {
            break;
        }
    }
    bounded(said.join(" "))
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        _ => false,
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let items: Vec<_> = items.iter().filter_map(Value::as_str).collect();
            items.join(",")
        }
        other => other.to_string(),
    }
}

impl Objects {
    /// Adds to the audit log what is no change: a look at a secret, a login.
    pub fn note(&self, entry: Audit) {
        self.core.store.note(entry);
    }

    /// A token came that is good for nothing.
    pub fn note_refused_token(&self, source: &str) {
        self.note(refused("token-refused", "tokens", "", source, ""));
    }

    /// A boot secret came that is good for nothing.
    pub fn note_refused_exchange(&self, machine: &str, source: &str) {
        let known = matches!(self.find("machines", machine), Ok(Some(_)));
        let key = if known { machine } else { "" };
        self.note(refused("exchange-refused", "machines", key, source, ""));
    }

    /// Rows of the audit log.
    ///
    /// # Errors
    /// Of the store.
    pub fn audit_log(&self, query: &AuditQuery) -> Result<Vec<Audited>, ApiError> {
        self.core.store.audit(query).map_err(|e| store_failed(&e))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use isobar_model::noun;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_changed_is_told_without_its_value() {
        let machines = noun("machines").unwrap();
        let object = |value: Value| value.as_object().unwrap().clone();
        let told = |old: Option<&Object>, new: &Object| changed(old, new, &differing(machines, old, new));
        let old =
            object(json!({"BootEnv": "local", "Description": "a", "Params": {"a": 1, "b": 2, "c": 3}, "Errors": []}));
        let new = object(
            json!({"BootEnv": "sledgehammer", "Description": "s3cret", "Errors": ["x"],
            "Params": {"b": "s3cret", "c": 3, "d": 4}}),
        );
        let said = told(Some(&old), &new);
        let mut words: Vec<_> = said.split(' ').collect();
        words.sort_unstable();
        assert_eq!(
            words,
            [
                "BootEnv=sledgehammer",
                "Description",
                "Params/a",
                "Params/b",
                "Params/d"
            ]
        );
        let made = told(
            None,
            &object(json!({"Name": "mach-01", "Locked": false, "Address": ""})),
        );
        assert_eq!(made, "Name=mach-01");
        let many: Object = (0..200).map(|n| (format!("param-{n}"), json!(n))).collect();
        let said = told(None, &object(json!({"Params": many})));
        assert!(said.len() < LONGEST + 4 && said.ends_with('…'), "{said}");
    }
}
