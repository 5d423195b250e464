//! Read-only layers of objects that come with the program.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use isobar_model::content::Pack;
use isobar_model::{Noun, Object};
use serde_json::Value;

use crate::{Objects, OpenError};

/// The layers' objects in one. Keys are unique across layers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Content {
    objects: HashMap<&'static str, BTreeMap<String, Arc<Object>>>,
    /// As `GET /contents` shows the layers.
    summaries: Arc<Vec<Value>>,
}

impl Content {
    /// The objects of these layers.
    ///
    /// # Errors
    /// A key that two layers have.
    pub(crate) fn load(packs: &[Pack]) -> Result<Self, OpenError> {
        let mut content = Content::default();
        for pack in packs {
            for (noun, object) in pack.objects() {
                let key = noun.key_of(object);
                if content.put(noun, key, Arc::new(object.clone())).is_some() {
                    return Err(OpenError::Content {
                        layer: pack.name().to_owned(),
                        reason: format!("{}/{key} is in another layer, too", noun.name),
                    });
                }
            }
        }
        content.summaries = Arc::new(packs.iter().map(Pack::summary).collect());
        Ok(content)
    }

    pub(crate) fn get(&self, noun: &str, key: &str) -> Option<&Arc<Object>> {
        self.objects.get(noun)?.get(key)
    }

    pub(crate) fn of(&self, noun: &str) -> impl Iterator<Item = (&str, &Arc<Object>)> {
        let of_noun = self.objects.get(noun).into_iter().flatten();
        of_noun.map(|(key, object)| (key.as_str(), object))
    }

    pub(crate) fn put(&mut self, noun: &'static Noun, key: &str, object: Arc<Object>) -> Option<Arc<Object>> {
        let of_noun = self.objects.entry(noun.name).or_default();
        of_noun.insert(key.to_owned(), object)
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

impl Objects {
    /// The content layers, as `GET /contents` shows them.
    #[must_use]
    pub fn contents(&self) -> Vec<Value> {
        self.core.content().summaries.as_ref().clone()
    }
}
