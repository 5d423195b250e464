//! Any JSON a client sends → the one form an object has.

use std::net::IpAddr;

use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::table::{Access, Default, Field, KeyKind, Noun, Type};
use crate::{ApiError, Object};

impl Noun {
    /// The object with every member at its default.
    pub fn empty(&self) -> Object {
        self.fields
            .iter()
            .filter(|f| shown_when_empty(f))
            .map(|f| (f.name.to_owned(), initial(f)))
            .collect()
    }

    /// The canonical form of what a client or a file says: members matched without regard to case, in
    /// the model's order, unknown ones dropped, missing ones at their defaults.
    ///
    /// # Errors
    /// 400 with one message for each member that has a value of the wrong type.
    pub fn canonical(&self, input: &Value) -> Result<Object, ApiError> {
        self.made_canonical(input.clone())
    }

    /// [`canonical`](Self::canonical) of input that nobody else needs.
    ///
    /// # Errors
    /// As `canonical`.
    pub fn made_canonical(&self, input: Value) -> Result<Object, ApiError> {
        let Value::Object(mut input) = input else {
            let message = format!(
                "expected a JSON object for {}, found {}",
                self.singular,
                kind_of(&input)
            );
            return Err(ApiError::bad_request("", self.name, message));
        };
        let mut problems = Vec::new();
        let mut object = structure(self.fields, &mut input, None, &mut problems);
        if self.key == KeyKind::Uuid
            && let Some(Value::String(key)) = object.get_mut(self.key_field())
        {
            key.make_ascii_lowercase();
        }
        if problems.is_empty() {
            return Ok(object);
        }
        let key = self.key_of(&object).into_owned();
        Err(ApiError {
            model: self.name.to_owned(),
            key,
            type_: String::new(),
            messages: problems,
            code: 400,
            retry_after: None,
        })
    }

    /// Like [`canonical`](Self::canonical), for input of a client: the members that only the server
    /// writes are those of `old`, or fresh ones.
    ///
    /// # Errors
    /// As `canonical`.
    pub fn accept(&self, input: &Value, old: Option<&Object>) -> Result<Object, ApiError> {
        self.accepted(input.clone(), old)
    }

    /// [`accept`](Self::accept) of input that nobody else needs.
    ///
    /// # Errors
    /// As `accept`.
    pub fn accepted(&self, input: Value, old: Option<&Object>) -> Result<Object, ApiError> {
        let mut object = self.made_canonical(input)?;
        for field in self.fields {
            let kept = old.and_then(|old| old.get(field.name));
            match field.access {
                Access::ReadOnly => {
                    let value = kept.cloned().unwrap_or_else(|| initial(field));
                    object.insert(field.name.to_owned(), value);
                }
                Access::Hidden if !object.contains_key(field.name) => {
                    if let Some(value) = kept {
                        object.insert(field.name.to_owned(), value.clone());
                    }
                }
                Access::Hidden | Access::Open => {}
            }
        }
        Ok(object)
    }

    /// The object as clients see it: without the members that are never shown.
    pub fn public(&self, object: &Object) -> Object {
        let hidden = |name: &str| self.field(name).is_some_and(|f| f.access == Access::Hidden);
        object
            .iter()
            .filter(|(name, _)| !hidden(name))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect()
    }

    /// Marks the object with the reasons why it cannot be stored or used.
    pub fn mark(object: &mut Object, validated: bool, available: bool, errors: Vec<String>) {
        object.insert("Validated".to_owned(), validated.into());
        object.insert("Available".to_owned(), available.into());
        object.insert("Errors".to_owned(), errors.into());
    }
}

/// A moment that has not come.
pub const NO_TIME: &str = "0001-01-01T00:00:00Z";

fn shown_when_empty(field: &Field) -> bool {
    !field.omit_if_empty && field.access != Access::Hidden
}

fn initial(field: &Field) -> Value {
    match field.default {
        Default::Zero => zero(&field.typ),
        Default::Str(text) => text.into(),
        Default::Int(number) => number.into(),
        Default::Bool(truth) => truth.into(),
    }
}

fn zero(typ: &Type) -> Value {
    match typ {
        Type::Bool => Value::Bool(false),
        Type::Int => 0.into(),
        Type::Str | Type::Ip | Type::Uuid => "".into(),
        Type::Time => NO_TIME.into(),
        Type::Bytes | Type::Any | Type::NullableList(_) => Value::Null,
        Type::List(_) => Value::Array(Vec::new()),
        Type::Map(_) => Value::Object(Map::new()),
        Type::Struct(fields) => {
            let members = fields.iter().filter(|f| shown_when_empty(f));
            Value::Object(members.map(|f| (f.name.to_owned(), initial(f))).collect())
        }
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(truth) => !truth,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
    }
}

/// Where a value stands, for messages.
pub(crate) struct At<'a> {
    pub(crate) below: Option<&'a At<'a>>,
    pub(crate) step: Step<'a>,
}

pub(crate) enum Step<'a> {
    Member(&'a str),
    Element(usize),
}

impl std::fmt::Display for At<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(below) = self.below {
            write!(f, "{below}")?;
        }
        match self.step {
            Step::Member(name) if self.below.is_some() => write!(f, ".{name}"),
            Step::Member(name) => f.write_str(name),
            Step::Element(at) => write!(f, "[{at}]"),
        }
    }
}

/// Takes the members that `fields` name out of `input`; `problems` gets a text for each value of the wrong type.
pub(crate) fn structure(
    fields: &[Field],
    input: &mut Map<String, Value>,
    below: Option<&At<'_>>,
    problems: &mut Vec<String>,
) -> Object {
    let mut object = Object::with_capacity(fields.len());
    for field in fields {
        // The exact spelling wins; else the last member that differs by case only.
        let given = match input.get_mut(field.name) {
            Some(value) => Some(value.take()),
            None => input
                .iter_mut()
                .rev()
                .find(|(name, _)| name.eq_ignore_ascii_case(field.name))
                .map(|(_, value)| value.take()),
        };
        let step = Step::Member(field.name);
        let value = match given {
            // `null` and a missing default-true member mean the same: "not said".
            Some(Value::Null) | None => initial(field),
            Some(value) => typed(&field.typ, value, &At { below, step }, problems),
        };
        if !shown_when_empty(field) && is_empty(&value) {
            continue;
        }
        object.insert(field.name.to_owned(), value);
    }
    object
}

/// `value` in the canonical form of `typ`; on a mismatch a problem is noted and the zero value returned.
fn typed(typ: &Type, value: Value, at: &At<'_>, problems: &mut Vec<String>) -> Value {
    let kind = kind_of(&value);
    let mut wrong = |expected: &str| {
        problems.push(format!("{at}: expected {expected}, found {kind}"));
        zero(typ)
    };
    match (typ, value) {
        (Type::Any, value)
        | (Type::Bool, value @ Value::Bool(_))
        | (Type::Str, value @ Value::String(_))
        | (Type::Bytes, value @ (Value::String(_) | Value::Null)) => value,
        (Type::Bool, _) => wrong("true or false"),
        (Type::Str, _) => wrong("text"),
        (Type::Int, Value::Number(number)) => match integer(&number) {
            Some(number) => number.into(),
            None => wrong("an integer"),
        },
        (Type::Int, _) => wrong("an integer"),
        (Type::Ip, Value::String(text)) => match text.parse::<IpAddr>() {
            _ if text.is_empty() => text.into(),
            Ok(address) => address.to_string().into(),
            Err(_) => wrong("an IP address"),
        },
        (Type::Ip, _) => wrong("an IP address"),
        (Type::Uuid, Value::String(text)) => match uuid::Uuid::try_parse(&text) {
            _ if text.is_empty() => text.into(),
            Ok(uuid) => uuid.hyphenated().to_string().into(),
            Err(_) => wrong("a UUID"),
        },
        (Type::Uuid, _) => wrong("a UUID"),
        (Type::Time, Value::String(text)) if text.is_empty() => NO_TIME.into(),
        (Type::Time, Value::String(text)) => match OffsetDateTime::parse(&text, &Rfc3339) {
            Ok(_) => text.into(),
            Err(_) => wrong("a time such as 2006-01-02T15:04:05Z"),
        },
        (Type::Time, _) => wrong("a time such as 2006-01-02T15:04:05Z"),
        (Type::Bytes, _) => wrong("bytes in base64"),
        (Type::List(item) | Type::NullableList(item), Value::Array(items)) => {
            let element = |(n, v)| element(item, v, at, Step::Element(n), problems);
            items.into_iter().enumerate().map(element).collect::<Vec<_>>().into()
        }
        (Type::List(_) | Type::NullableList(_), _) => wrong("a list"),
        // Any value goes: nothing to look at.
        (Type::Map(Type::Any), members @ Value::Object(_)) => members,
        (Type::Map(item), Value::Object(mut members)) => {
            for (name, value) in &mut members {
                *value = element(item, value.take(), at, Step::Member(name), problems);
            }
            members.into()
        }
        (Type::Map(_), _) => wrong("an object"),
        (Type::Struct(fields), Value::Object(mut members)) => {
            structure(fields, &mut members, Some(at), problems).into()
        }
        (Type::Struct(_), _) => wrong("an object"),
    }
}

/// An element of a list or map: `null` stands for the empty value, except where any value goes.
fn element(typ: &Type, value: Value, below: &At<'_>, step: Step<'_>, problems: &mut Vec<String>) -> Value {
    let below = Some(below);
    match (typ, value) {
        (Type::Any, value) => value,
        (_, Value::Null) => zero(typ),
        (_, value) => typed(typ, value, &At { below, step }, problems),
    }
}

fn integer(number: &serde_json::Number) -> Option<i64> {
    const EXACT: f64 = (1u64 << 53) as f64;
    number.as_i64().or_else(|| {
        let float = number.as_f64()?;
        // Only whole numbers that a float holds exactly: the cast loses nothing then.
        (float.fract() == 0.0 && float.abs() <= EXACT).then_some(float as i64)
    })
}

/// What a JSON value is, for messages. Never the value itself: it may be a secret.
pub(crate) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(text) if text.is_empty() => "empty text",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;
    use crate::noun;
    use crate::table::NOUNS;

    fn names(object: &Object) -> Vec<&str> {
        object.keys().map(String::as_str).collect()
    }

    #[test]
    fn members_match_without_regard_to_case_and_unknown_ones_go() {
        let input = json!({"name": "john", "bootenv": "local", "fred": 1, "ADDRESS": "10.0.0.1",
                           "Uuid": "3E7031FE-3062-45F1-835C-92541BC9CBD3", "fingerprint": {"systemuuid": "x"}});
        let machine = noun("machines").unwrap().canonical(&input).unwrap();
        assert_eq!(machine["Name"], "john");
        assert_eq!(machine["BootEnv"], "local");
        assert_eq!(machine["Address"], "10.0.0.1");
        assert_eq!(machine["Uuid"], "3e7031fe-3062-45f1-835c-92541bc9cbd3");
        assert_eq!(machine["Fingerprint"]["SystemUUID"], "x");
        assert!(!machine.contains_key("fred") && !machine.contains_key("name"));
        assert_eq!(names(&machine), names(&noun("machines").unwrap().empty()));
    }

    #[test]
    fn the_exact_spelling_wins() {
        let profile = noun("profiles")
            .unwrap()
            .canonical(&json!({"Name": "right", "NAME": "wrong"}))
            .unwrap();
        assert_eq!(profile["Name"], "right");
    }

    #[test]
    fn null_means_default_everywhere() {
        let input = json!({"Name": "np", "Meta": null, "Errors": null, "Schema": null, "Validated": null});
        let param = noun("params").unwrap().canonical(&input).unwrap();
        let mut want = noun("params").unwrap().empty();
        want.insert("Name".to_owned(), "np".into());
        assert_eq!(param, want);
    }

    #[test]
    fn wrong_types_are_named_without_their_values() {
        let input = json!({"Name": 5, "CurrentTask": 1.5, "Profiles": ["a", 7], "Address": "fred",
                           "Fingerprint": {"SystemUUID": true}, "Meta": {"k": ["secret"]}});
        let error = noun("machines").unwrap().canonical(&input).unwrap_err();
        let want = [
            "Meta.k: expected text, found a list",
            "Name: expected text, found a number",
            "Address: expected an IP address, found text",
            "Profiles[1]: expected text, found a number",
            "CurrentTask: expected an integer, found a number",
            "Fingerprint.SystemUUID: expected text, found a boolean",
        ];
        assert_eq!((error.code, error.model.as_str()), (400, "machines"));
        assert_eq!(error.messages, want);
        assert_eq!(noun("users").unwrap().canonical(&json!([])).unwrap_err().code, 400);
    }

    #[test]
    fn empty_optional_members_and_hidden_ones_are_left_out() {
        let task = noun("tasks")
            .unwrap()
            .canonical(&json!({"Name": "t1", "ExtraRoles": []}))
            .unwrap();
        assert!(!task.contains_key("ExtraRoles"));
        let users = noun("users").unwrap();
        let user = users.canonical(&json!({"Name": "john", "PasswordHash": "x"})).unwrap();
        assert_eq!(user["PasswordHash"], "x");
        assert!(!users.public(&user).contains_key("PasswordHash"));
        assert!(
            !users
                .canonical(&json!({"Name": "john", "PasswordHash": null}))
                .unwrap()
                .contains_key("PasswordHash")
        );
    }

    #[test]
    fn clients_do_not_write_what_the_server_writes() {
        let users = noun("users").unwrap();
        let old = users
            .canonical(&json!({"Name": "jo", "PasswordHash": "h", "Bundle": "layer"}))
            .unwrap();
        let input = json!({"Name": "jo", "Validated": false, "Errors": ["no"], "ReadOnly": true, "Bundle": "x"});
        let new = users.accept(&input, Some(&old)).unwrap();
        assert_eq!(new["Bundle"], "layer");
        assert_eq!(new["PasswordHash"], "h");
        assert_eq!(new["Errors"], json!([]));
        let fresh = users.accept(&input, None).unwrap();
        assert_eq!(
            (&fresh["ReadOnly"], &fresh["Validated"], &fresh["Bundle"]),
            (&json!(false), &json!(true), &json!(""))
        );
    }

    #[test]
    fn canonical_form_is_a_fixed_point_of_every_noun() {
        for noun in NOUNS {
            let empty = noun.empty();
            assert_eq!(
                noun.canonical(&Value::Object(empty.clone())).unwrap(),
                empty,
                "{}",
                noun.name
            );
        }
    }

    /// JSON of any shape, with members that some noun knows.
    pub(crate) fn any_json() -> impl proptest::strategy::Strategy<Value = Value> {
        use proptest::prelude::*;
        let name = prop_oneof![
            "[A-Za-z]{1,6}",
            "name|Name|OS|Meta|Params|Tasks|Templates|Errors|Uuid|~|/".prop_map(|s| s)
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 6, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                proptest::collection::vec((name.clone(), inner), 0..6)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest::proptest! {
        #[test]
        fn canonicalising_twice_is_canonicalising_once(input in any_json()) {
            for noun in NOUNS {
                if let Ok(once) = noun.canonical(&input) {
                    let twice = noun.canonical(&Value::Object(once.clone())).unwrap();
                    proptest::prop_assert_eq!(once, twice);
                }
            }
        }
    }
}
