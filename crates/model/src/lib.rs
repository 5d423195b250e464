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
