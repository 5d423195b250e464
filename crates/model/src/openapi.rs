//! The model table as JSON schemas, in the dialect of OpenAPI 3.0 (its §4.7.24).

use serde_json::{Map, Value, json};

use crate::table::{Access, Field, KeyKind, NOUNS, Noun, Type};

/// Name of the schema of an object as it is sent.
pub fn sent(noun: &Noun) -> String {
    noun.name.to_owned()
}

/// Name of the schema of an object as a client may write it: nothing is required, unknown members are ignored.
pub fn taken(noun: &Noun) -> String {
    format!("{}.input", noun.name)
}

/// Two schemas for each object type: as it is sent, and as it is taken.
pub fn schemas() -> Map<String, Value> {
    let mut all = Map::new();
    for noun in NOUNS {
        all.insert(sent(noun), structure(noun.fields, Some(noun.doc), Side::Sent));
        all.insert(taken(noun), structure(noun.fields, Some(noun.doc), Side::Taken));
    }
    all
}

/// What a key of this kind looks like, for people.
pub fn key_doc(noun: &Noun) -> String {
    let key = match noun.key {
        KeyKind::Uuid => "UUID",
        KeyKind::Name => "Name",
        KeyKind::Id => "ID",
        KeyKind::Addr => "Address in upper-case hex, or dotted",
    };
    format!("{key}, or INDEX:VALUE with an index that is unique.")
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Sent,
    Taken,
}

fn structure(fields: &[Field], doc: Option<&str>, side: Side) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for field in fields {
        if side == Side::Sent && field.access == Access::Hidden {
            continue;
        }
        let mut schema = schema(&field.typ, side);
        schema["description"] = field.doc.into();
        if field.access == Access::ReadOnly {
            schema["readOnly"] = true.into();
        }
        properties.insert(field.name.to_owned(), schema);
        if side == Side::Sent && !field.omit_if_empty {
            required.push(field.name);
        }
    }
    let mut all = json!({ "type": "object", "properties": properties });
    if let Some(doc) = doc {
        all["description"] = doc.into();
    }
    if !required.is_empty() {
        all["required"] = required.into();
    }
    all
}

fn schema(typ: &Type, side: Side) -> Value {
    match typ {
        Type::Bool => json!({ "type": "boolean" }),
        Type::Int => json!({ "type": "integer", "format": "int64" }),
        Type::Str | Type::Ip | Type::Uuid => json!({ "type": "string" }),
        Type::Bytes => json!({ "type": "string", "format": "byte", "nullable": true }),
        Type::Time => json!({ "type": "string", "format": "date-time" }),
        Type::Any => json!({ "nullable": true }),
        Type::List(of) => json!({ "type": "array", "items": schema(of, side) }),
        Type::NullableList(of) => json!({ "type": "array", "items": schema(of, side), "nullable": true }),
        Type::Map(of) => json!({ "type": "object", "additionalProperties": schema(of, side) }),
        Type::Struct(fields) => structure(fields, None, side),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn schemas_follow_the_table() {
        let all = schemas();
        assert_eq!(all.len(), NOUNS.len() * 2);
        let machine = &all["machines"];
        assert_eq!(machine["properties"]["Uuid"]["type"], "string");
        assert_eq!(machine["properties"]["TaskErrorStacks"]["nullable"], true);
        assert_eq!(machine["properties"]["Validated"]["readOnly"], true);
        assert!(machine["required"].as_array().unwrap().contains(&"Name".into()));
        // Hashes of passwords are taken and never sent.
        assert_eq!(all["users"]["properties"].get("PasswordHash"), None);
        assert!(all["users.input"]["properties"].get("PasswordHash").is_some());
        assert_eq!(all["users.input"].get("required"), None);
        for noun in NOUNS {
            let required = all[noun.name]["required"].as_array().unwrap();
            let sent = noun.empty();
            for member in required {
                assert!(sent.contains_key(member.as_str().unwrap()), "{}: {member}", noun.name);
            }
        }
    }
}
