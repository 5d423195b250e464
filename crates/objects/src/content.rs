//! Read-only layers of objects that come with the program.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use isobar_model::{Noun, Object, noun};
use serde_json::Value;

use crate::OpenError;

/// The layers' objects in one. Keys are unique across layers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Content {
    objects: HashMap<&'static str, BTreeMap<String, Arc<Object>>>,
}

/// What every DRP server has.
pub(crate) const BASIC: &str = include_str!("../../../content/basic.yaml");
/// Sledgehammer and the workflows that need nothing else.
pub(crate) const ISOBAR: &str = include_str!("../../../content/isobar.yaml");
/// Declarations of the params that BMC actions read.
pub(crate) const IPMI: &str = include_str!("../../../content/ipmi.yaml");

impl Content {
    /// The layers' objects, canonical and marked with their layer.
    ///
    /// # Errors
    /// A text that is no content pack, or a key that two layers have.
    pub(crate) fn load(packs: &[&str]) -> Result<Self, OpenError> {
        let mut content = Content::default();
        for pack in packs {
            content.add(pack)?;
        }
        Ok(content)
    }

    fn add(&mut self, pack: &str) -> Result<(), OpenError> {
        let bad = |layer: &str, reason: String| OpenError::Content {
            layer: layer.to_owned(),
            reason,
        };
        let pack: Value = serde_yaml_ng::from_str(pack).map_err(|e| bad("?", e.to_string()))?;
        let layer = pack["meta"]["Name"].as_str().unwrap_or_default();
        if layer.is_empty() {
            return Err(bad("?", "meta.Name is missing".to_owned()));
        }
        for (section, objects) in pack["sections"].as_object().into_iter().flatten() {
            let noun = noun(section).ok_or_else(|| bad(layer, format!("unknown section {section}")))?;
            for (key, object) in objects.as_object().into_iter().flatten() {
                let mut object = noun
                    .canonical(object)
                    .map_err(|e| bad(layer, format!("{section}/{key}: {e}")))?;
                if noun.key_of(&object) != key {
                    return Err(bad(
                        layer,
                        format!("{section}/{key} calls itself {}", noun.key_of(&object)),
                    ));
                }
                object.insert("ReadOnly".to_owned(), true.into());
                object.insert("Bundle".to_owned(), layer.into());
                if self.put(noun, key, Arc::new(object)).is_some() {
                    return Err(bad(layer, format!("{section}/{key} is in another layer, too")));
                }
            }
        }
        Ok(())
    }

    pub(crate) fn get(&self, noun: &str, key: &str) -> Option<&Arc<Object>> {
        self.objects.get(noun)?.get(key)
    }

    pub(crate) fn of(&self, noun: &str) -> impl Iterator<Item = (&str, &Arc<Object>)> {
        let of_noun = self.objects.get(noun).into_iter().flatten();
        of_noun.map(|(key, object)| (key.as_str(), object))
    }

    pub(crate) fn put(&mut self, noun: &'static Noun, key: &str, object: Arc<Object>) -> Option<Arc<Object>> {
        self.objects
            .entry(noun.name)
            .or_default()
            .insert(key.to_owned(), object)
    }

    pub(crate) fn remove(&mut self, noun: &str, key: &str) {
        if let Some(of_noun) = self.objects.get_mut(noun) {
            of_noun.remove(key);
        }
    }

    /// Every object's type and key.
    pub(crate) fn ids(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.objects
            .iter()
            .flat_map(|(noun, objects)| objects.keys().map(|key| (*noun, key.as_str())))
    }
}
