//! Digital Rebar Provision's objects, as data: the model table, canonical forms, keys, filters, JSON
//! Patch, params, the machine's life cycle, validation and content packs.
//!
//! Everything here is a pure function of its arguments. What other objects exist is asked through
//! [`Lookup`]; who stores, locks, encrypts and publishes is the business of the layers above.
//!
//! [`table::NOUNS`] is the one place that knows which object types there are and what they look
//! like: routes, command line and reference pages are made from it.

pub mod error;
pub mod key;
pub mod lookup;
pub mod name;
pub mod params;
pub mod patch;
pub mod table;

mod canonical;
mod nouns;

pub use error::ApiError;
pub use lookup::Lookup;
pub use table::{Noun, noun};

/// An object in the form it is stored and sent: members in the model's order.
pub type Object = serde_json::Map<String, serde_json::Value>;
