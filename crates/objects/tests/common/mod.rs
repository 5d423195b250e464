//! Objects over a store in memory, with clocks that stand still.
#![allow(clippy::unwrap_used, dead_code)]

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use isobar_model::{ApiError, Object};
use isobar_objects::{Objects, Options, Presence, Principal};
use isobar_store::{ManualClock, SqliteStore, Store, StoreOptions, Vault};
use serde_json::Value;

pub(crate) const PASSWORD: &str = "correct horse";

pub(crate) struct Bench {
    pub(crate) objects: Objects,
    pub(crate) clock: Arc<ManualClock>,
}

pub(crate) fn options(clock: &Arc<ManualClock>) -> Options {
    Options {
        first_user: ("rocketskates".to_owned(), Some(PASSWORD.to_owned())),
        clock: clock.clone(),
        ..Options::default()
    }
}

pub(crate) fn bench() -> Bench {
    let clock = Arc::new(ManualClock::new(1_800_000_000));
    let store = SqliteStore::in_memory_with(StoreOptions {
        clock: clock.clone(),
        ..StoreOptions::default()
    });
    let store: Arc<dyn Store> = Arc::new(store.unwrap());
    let objects = Objects::open(store, Arc::new(Vault::ephemeral()), options(&clock)).unwrap();
    Bench { objects, clock }
}

pub(crate) fn root() -> Principal {
    Principal::system()
}

pub(crate) fn text<'a>(object: &'a Object, member: &str) -> &'a str {
    object[member].as_str().unwrap()
}

impl Bench {
    pub(crate) fn machine(&self, input: Value) -> Arc<Object> {
        self.objects.create("machines", &input, &root()).unwrap().object
    }

    /// Replaces one member.
    pub(crate) fn set(&self, key: &str, member: &str, value: Value) -> Result<Arc<Object>, ApiError> {
        let ops = serde_json::json!([{"op": "replace", "path": format!("/{member}"), "value": value}]);
        self.objects
            .patch("machines", key, &ops, false, &root())
            .map(|saved| saved.object)
    }
}

/// Boot files by name.
#[derive(Default)]
pub(crate) struct Files(pub(crate) Mutex<BTreeSet<String>>);

impl Presence for Files {
    fn file_present(&self, _bootenv: &Object, _arch: &str, file: &str) -> bool {
        self.0.lock().unwrap().contains(file)
    }

    fn hint(&self, _bootenv: &Object) -> Option<String> {
        Some("import it with isobar sledgehammer build".to_owned())
    }
}
