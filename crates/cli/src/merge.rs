//! What `update` does with the member that was given: drpcli's rules, which are those of Go's JSON decoder
//! reading into an object that is already there.

use isobar_model::table::{Field, Noun, Type};
use serde_json::{Map, Value};

use crate::nearest::nearest;

/// Puts `change` into `object`: names match without regard to case, structures and maps are merged by key,
/// everything else is replaced. `null` empties lists and maps and leaves the rest.
///
/// Returns the names that the type does not have; drpcli drops those silently.
pub(crate) fn merge(noun: Option<&Noun>, object: &mut Value, change: &Value) -> Vec<String> {
    let mut unknown = Vec::new();
    match (object, change, noun) {
        (Value::Object(object), Value::Object(change), Some(noun)) => {
            structure(noun.fields, object, change, &mut unknown)
        }
        (Value::Object(object), Value::Object(change), None) => {
            object.extend(change.iter().map(|(name, value)| (name.clone(), value.clone())));
        }
        (object, change, _) => *object = change.clone(),
    }
    unknown
}

/// Complains about members that the type does not have, with what was probably meant.
pub(crate) fn complain(noun: &Noun, unknown: &[String]) -> Option<String> {
    let name = unknown.first()?;
    let text = format!("{} have no member {name}", noun.name);
    Some(match nearest(name, noun.fields.iter().map(|field| field.name)) {
        Some(meant) => format!("{text}; did you mean {meant}?"),
        None => text,
    })
}

/// Names in `object` that the type does not have.
pub(crate) fn unknown_members(noun: &Noun, object: &Value) -> Vec<String> {
    let Some(object) = object.as_object() else {
        return Vec::new();
    };
    object
        .keys()
        .filter(|name| field_of(noun.fields, name).is_none())
        .cloned()
        .collect()
}

fn field_of<'a>(fields: &'a [Field], name: &str) -> Option<&'a Field> {
    let exact = fields.iter().find(|field| field.name == name);
    exact.or_else(|| fields.iter().find(|field| field.name.eq_ignore_ascii_case(name)))
}

fn structure(
    fields: &[Field],
    object: &mut Map<String, Value>,
    change: &Map<String, Value>,
    unknown: &mut Vec<String>,
) {
    for (name, new) in change {
        let Some(field) = field_of(fields, name) else {
            unknown.push(name.clone());
            continue;
        };
        let old = object.entry(field.name).or_insert(Value::Null);
        match (&field.typ, old, new) {
            (Type::Struct(fields), Value::Object(old), Value::Object(new)) => structure(fields, old, new, unknown),
            (Type::Map(_), Value::Object(old), Value::Object(new)) => {
                old.extend(new.iter().map(|(name, value)| (name.clone(), value.clone())));
            }
            (Type::Bool | Type::Int | Type::Str | Type::Ip | Type::Uuid | Type::Struct(_), old, Value::Null)
                if !old.is_null() => {}
            (_, old, new) => *old = new.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn merges_like_gos_decoder() {
        let mut bootenv = json!({
            "Name": "john", "Kernel": "a", "Initrds": ["x"], "Meta": {"color": "red", "icon": "i"},
            "OS": {"Name": "old", "Family": "debian"}
        });
        let change = json!({
            "kernel": "b", "Initrds": ["y"], "Meta": {"color": "blue"}, "OS": {"Name": "new"}, "Name": null, "Fred": 1
        });
        let unknown = merge(isobar_model::noun("bootenvs"), &mut bootenv, &change);
        assert_eq!(unknown, ["Fred"]);
        let merged = json!({
            "Name": "john", "Kernel": "b", "Initrds": ["y"], "Meta": {"color": "blue", "icon": "i"},
            "OS": {"Name": "new", "Family": "debian"}
        });
        assert_eq!(bootenv, merged);
    }

    #[test]
    fn names_what_was_meant() {
        let noun = isobar_model::noun("machines").map(|noun| complain(noun, &["Descripton".to_owned()]));
        let text = "machines have no member Descripton; did you mean Description?";
        assert_eq!(noun, Some(Some(text.to_owned())));
    }
}
