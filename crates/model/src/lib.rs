//! Digital Rebar Provision's objects, as data: the model table, canonical forms, keys, filters, JSON
//! Patch, params, the machine's life cycle, validation and content packs.
//!
//! Everything here is a pure function of its arguments. What other objects exist is asked through
//! [`Lookup`]; who stores, locks, encrypts and publishes is the business of the layers above.
//!
//! [`table::NOUNS`] is the one place that knows which object types there are and what they look
//! like: routes, command line and reference pages are made from it.

pub mod arch;
pub mod bootenv;
pub mod content;
pub mod error;
pub mod excerpt;
pub mod filter;
pub mod jobs;
pub mod key;
pub mod lookup;
pub mod machine;
pub mod name;
pub mod network;
pub mod openapi;
pub mod params;
pub mod patch;
pub mod references;
pub mod repos;
pub mod subnets;
pub mod table;
pub mod tasks;
pub mod validate;

mod canonical;
mod nouns;
mod schema_cost;

pub use canonical::NO_TIME;
pub use error::ApiError;
pub use lookup::Lookup;
pub use table::{Noun, noun};

/// An object in the form it is stored and sent: members in the model's order.
pub type Object = serde_json::Map<String, serde_json::Value>;

/// The text of a member, `""` when there is none.
pub fn text<'a>(object: &'a Object, member: &str) -> &'a str {
    object
        .get(member)
        .and_then(serde_json::Value::as_str)
        .unwrap_or_default()
}

/// Whether two values are equal. As `==`, but members that stand in the same order, as they do in two versions of an
/// object, are not looked up by hash.
pub fn same(one: &serde_json::Value, other: &serde_json::Value) -> bool {
    use serde_json::Value;
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => same_objects(one, other),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (one, other) => one == other,
    }
}

/// [`same`] for objects.
pub fn same_objects(one: &Object, other: &Object) -> bool {
    if one.len() != other.len() {
        return false;
    }
    for ((name, value), (other_name, other_value)) in one.iter().zip(other) {
        if name != other_name {
            return one == other;
        }
        if !same(value, other_value) {
            return false;
        }
    }
    true
}

/// [`same`] for what may not be there.
pub fn same_members(one: Option<&serde_json::Value>, other: Option<&serde_json::Value>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => same(one, other),
        (one, other) => one.is_none() && other.is_none(),
    }
}

/// The texts of a list.
pub fn list<'a>(object: &'a Object, member: &str) -> impl Iterator<Item = &'a str> + use<'a> {
    let items = object.get(member).and_then(serde_json::Value::as_array);
    items.into_iter().flatten().filter_map(serde_json::Value::as_str)
}

/// The number of a member, 0 when there is none.
pub fn number(object: &Object, member: &str) -> i64 {
    object
        .get(member)
        .and_then(serde_json::Value::as_i64)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::same;

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (-2i64..3).prop_map(Value::from),
            Just(json!(1.0)),
            "[ab]{0,1}".prop_map(Value::from)
        ];
        leaf.prop_recursive(3, 16, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::vec(("[abc]", inner), 0..3)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn same_is_equal(one in value(), other in value()) {
            prop_assert_eq!(same(&one, &other), one == other);
            prop_assert!(same(&one, &one.clone()));
        }
    }
}
