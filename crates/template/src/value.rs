//! JSON as the engine's values, and back within bounds.

use std::collections::BTreeMap;
use std::sync::Arc;

use gotmpl::Value;
use serde_json::Value as Json;

use crate::Members;

/// Values in one argument of a function; nested lists that share parts grow without using memory.
const MAX_VALUES: usize = 50_000;
const MAX_DEPTH: usize = 60;

pub(crate) type Map = BTreeMap<Arc<str>, Value>;

/// About as many bytes as the value takes as text.
pub(crate) fn extent(value: &Json) -> usize {
    match value {
        Json::Null | Json::Bool(_) => 5,
        Json::Number(_) => 8,
        Json::String(text) => text.len() + 2,
        Json::Array(items) => items.iter().fold(2, |sum, item| sum.saturating_add(extent(item))),
        Json::Object(members) => members.iter().fold(2, |sum, (name, value)| {
            sum.saturating_add(name.len() + 4 + extent(value))
        }),
    }
}

pub(crate) fn from_json(json: &Json) -> Value {
    match json {
        Json::Null => Value::Nil,
        Json::Bool(truth) => Value::Bool(*truth),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Value::Int(number),
            (None, Some(number)) => Value::Uint(number),
            (None, None) => Value::Float(number.as_f64().unwrap_or_default()),
        },
        Json::String(text) => Value::String(text.as_str().into()),
        Json::Array(items) => Value::List(items.iter().map(from_json).collect()),
        Json::Object(members) => Value::Map(Arc::new(map_of(members))),
    }
}

pub(crate) fn map_of(members: &Members) -> Map {
    members
        .iter()
        .map(|(name, value)| (name.as_str().into(), from_json(value)))
        .collect()
}

/// Methods become `null`. Values are counted as often as they are reached.
pub(crate) fn to_json(value: &Value) -> Result<Json, String> {
    fn convert(value: &Value, left: &mut usize, depth: usize) -> Result<Json, String> {
        if *left == 0 || depth > MAX_DEPTH {
            return Err(format!(
                "a value holds more than {MAX_VALUES} values or nests deeper than {MAX_DEPTH}"
            ));
        }
        *left -= 1;
        Ok(match value {
            Value::Nil | Value::Function(_) => Json::Null,
            Value::Bool(truth) => (*truth).into(),
            Value::Int(number) => (*number).into(),
            Value::Uint(number) => (*number).into(),
            Value::Float(number) => (*number).into(),
            Value::String(text) => text.as_ref().into(),
            Value::List(items) => items
                .iter()
                .map(|item| convert(item, left, depth + 1))
                .collect::<Result<Vec<_>, _>>()?
                .into(),
            Value::Map(members) => {
                let mut object = Members::new();
                for (name, value) in members.iter() {
                    object.insert(name.to_string(), convert(value, left, depth + 1)?);
                }
                object.into()
            }
        })
    }
    let mut left = MAX_VALUES;
    convert(value, &mut left, 0)
}
