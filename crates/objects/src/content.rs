//! Content layers: read-only objects that come and go together.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use isobar_model::content::Pack;
use isobar_model::{Noun, Object, text};
use isobar_store::{Store, StoreError};
use serde_json::{Value, json};

use crate::OpenError;

/// Kind of the stored packs.
pub(crate) const KIND: &str = "_contents";

/// The layers' objects in one. Keys are unique across layers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Content {
    objects: HashMap<&'static str, BTreeMap<String, Arc<Object>>>,
    /// Nearest last.
    packs: Vec<Arc<Pack>>,
}

impl Content {
    /// The objects of these layers.
    ///
    /// # Errors
    /// A key that two layers have.
    pub(crate) fn load(packs: Vec<Pack>) -> Result<Self, OpenError> {
        let mut content = Content::default();
        for pack in packs {
            let layer = pack.name().to_owned();
            content
                .add(Arc::new(pack))
                .map_err(|reason| OpenError::Content { layer, reason })?;
        }
        Ok(content)
    }

    /// Adds the packs that were uploaded. One that no longer fits beside the program's own is left out and told.
    pub(crate) fn add_stored(&mut self, store: &dyn Store) -> Result<(), StoreError> {
        for doc in store.list(KIND)? {
            let read = serde_json::from_slice(&doc.body).map_err(|e| e.to_string());
            let pack = read.and_then(|value: Value| Pack::parse(&value).map_err(|e| e.to_string()));
            if let Err(reason) = pack.and_then(|pack| self.add(Arc::new(pack))) {
                tracing::error!(content = doc.key, reason, "an uploaded content pack is left out");
            }
        }
        Ok(())
    }

    /// Puts a layer on top.
    pub(crate) fn add(&mut self, pack: Arc<Pack>) -> Result<(), String> {
        let taken = |(noun, object): (&'static Noun, &Object)| {
            let key = noun.key_of(object);
            let there = self.get(noun.name, &key)?;
            Some(restricted(&key, text(there, "Bundle")))
        };
        if let Some(reason) = pack.objects().find_map(taken) {
            return Err(reason);
        }
        for (noun, object) in pack.objects() {
            self.put(noun, &noun.key_of(object), Arc::new(object.clone()));
        }
        self.packs.push(pack);
        Ok(())
    }

    /// The same without one layer.
    pub(crate) fn without(&self, name: &str) -> Content {
        let mut rest = self.clone();
        rest.packs.retain(|pack| pack.name() != name);
        for of_noun in rest.objects.values_mut() {
            of_noun.retain(|_, object| text(object, "Bundle") != name);
        }
        rest
    }

    pub(crate) fn packs(&self) -> &[Arc<Pack>] {
        &self.packs
    }

    pub(crate) fn pack(&self, name: &str) -> Option<&Arc<Pack>> {
        self.packs.iter().find(|pack| pack.name() == name)
    }

    /// A layer as it can be uploaded again.
    pub(crate) fn document(&self, pack: &Pack) -> Value {
        let mut sections = serde_json::Map::new();
        for (noun, section) in &pack.sections {
            let mut objects = serde_json::Map::new();
            for key in section.keys() {
                let Some(object) = self.get(noun, key) else { continue };
                let mut object = Object::clone(object);
                object.insert("ReadOnly".to_owned(), false.into());
                for mark in ["Validated", "Available"] {
                    object.insert(mark.to_owned(), false.into());
                }
                object.insert("Errors".to_owned(), Value::Array(Vec::new()));
                objects.insert(key.clone(), object.into());
            }
            sections.insert((*noun).to_owned(), objects.into());
        }
        json!({ "meta": pack.meta, "sections": sections })
    }

    pub(crate) fn get(&self, noun: &str, key: &str) -> Option<&Arc<Object>> {
        self.objects.get(noun)?.get(key)
    }

    pub(crate) fn of(&self, noun: &str) -> impl Iterator<Item = (&str, &Arc<Object>)> {
        let of_noun = self.objects.get(noun).into_iter().flatten();
        of_noun.map(|(key, object)| (key.as_str(), object))
    }

    pub(crate) fn put(&mut self, noun: &'static Noun, key: &str, object: Arc<Object>) {
        let of_noun = self.objects.entry(noun.name).or_default();
        of_noun.insert(key.to_owned(), object);
    }

    pub(crate) fn remove(&mut self, noun: &str, key: &str) {
        if let Some(of_noun) = self.objects.get_mut(noun) {
            of_noun.remove(key);
        }
    }

    /// Every object's type and key.
    pub(crate) fn ids(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let of_noun = self.objects.iter();
        of_noun.flat_map(|(noun, objects)| objects.keys().map(|key| (*noun, key.as_str())))
    }
}

/// Why a key cannot be in a new layer.
pub(crate) fn restricted(key: &str, layer: &str) -> String {
    let layer = if layer.is_empty() { "BackingStore" } else { layer };
    format!("New layer violates key restrictions: keysCannotBeOverridden: {key} is already in layer {layer}")
}
