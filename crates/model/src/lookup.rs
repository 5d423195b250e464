//! How the pure functions of this crate ask for the rest of the world.

use std::sync::Arc;

use crate::Object;
use crate::params::ParamSchema;

/// Answers questions about other objects.
///
/// Implementations answer from one consistent view and do not block.
pub trait Lookup {
    /// The object of this type and key, in canonical form.
    fn get(&self, noun: &str, key: &str) -> Option<Arc<Object>>;

    /// Keys of the objects that have this value under this index (uniqueness of names and addresses).
    fn find(&self, noun: &str, index: &str, value: &str) -> Vec<String>;

    /// Keys of all objects of a type.
    fn keys(&self, _noun: &str) -> Vec<String> {
        Vec::new()
    }

    /// A preference, such as `defaultStage`.
    fn pref(&self, name: &str) -> Option<String>;

    /// Whether a file that a boot environment needs (kernel or initial RAM disk) is there.
    ///
    /// `file` is as the boot environment names it, `arch` a canonical architecture.
    fn boot_file_present(&self, bootenv: &Object, arch: &str, file: &str) -> bool;

    /// What to do about missing boot files of this boot environment, for people.
    fn boot_file_hint(&self, _bootenv: &Object) -> Option<String> {
        None
    }

    /// The compiled schema of a declared param; none when undeclared or unusable. Stores that check many
    /// values keep compiled ones.
    fn param_schema(&self, param: &str) -> Option<Arc<ParamSchema>> {
        ParamSchema::compile(self.get("params", param)?.as_ref())
            .ok()
            .map(Arc::new)
    }

    /// Whether a text parses as a template; the error names the place.
    fn check_template(&self, _text: &str) -> Result<(), String> {
        Ok(())
    }
}

/// A [`Lookup`] over nothing: no object, no preference, every boot file present.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nothing;

impl Lookup for Nothing {
    fn get(&self, _noun: &str, _key: &str) -> Option<Arc<Object>> {
        None
    }

    fn find(&self, _noun: &str, _index: &str, _value: &str) -> Vec<String> {
        Vec::new()
    }

    fn pref(&self, _name: &str) -> Option<String> {
        None
    }

    fn boot_file_present(&self, _bootenv: &Object, _arch: &str, _file: &str) -> bool {
        true
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::{BTreeMap, HashSet};

    use serde_json::Value;

    use super::*;
    use crate::noun;

    /// Objects in memory.
    #[derive(Clone, Default)]
    pub(crate) struct World {
        objects: BTreeMap<(String, String), Arc<Object>>,
        prefs: BTreeMap<String, String>,
        missing: HashSet<String>,
    }

    impl World {
        pub(crate) fn with(mut self, model: &str, object: Value) -> World {
            self.put(model, noun(model).unwrap().canonical(&object).unwrap());
            self
        }

        pub(crate) fn put(&mut self, model: &str, object: Object) {
            let key = noun(model).unwrap().key_of(&object).into_owned();
            self.objects.insert((model.to_owned(), key), Arc::new(object));
        }

        pub(crate) fn pref_is(mut self, name: &str, value: &str) -> World {
            self.prefs.insert(name.to_owned(), value.to_owned());
            self
        }

        pub(crate) fn without_file(mut self, file: &str) -> World {
            self.missing.insert(file.to_owned());
            self
        }
    }

    impl Lookup for World {
        fn get(&self, noun: &str, key: &str) -> Option<Arc<Object>> {
            self.objects.get(&(noun.to_owned(), key.to_owned())).cloned()
        }

        fn find(&self, model: &str, index: &str, value: &str) -> Vec<String> {
            let noun = noun(model).unwrap();
            let index = noun.index(index).unwrap();
            let of_kind = self.objects.iter().filter(|((kind, _), _)| kind == model);
            let hits = of_kind.filter(|(_, object)| noun.index_values(index, object).iter().any(|v| v == value));
            hits.map(|((_, key), _)| key.clone()).collect()
        }

        fn keys(&self, noun: &str) -> Vec<String> {
            let of_kind = self.objects.keys().filter(|(kind, _)| kind == noun);
            of_kind.map(|(_, key)| key.clone()).collect()
        }

        fn pref(&self, name: &str) -> Option<String> {
            self.prefs.get(name).cloned()
        }

        fn boot_file_present(&self, _bootenv: &Object, _arch: &str, file: &str) -> bool {
            !self.missing.contains(file)
        }

        fn check_template(&self, text: &str) -> Result<(), String> {
            if text.contains("{{end") {
                Err("template: t:1: unexpected {{end}}".to_owned())
            } else {
                Ok(())
            }
        }
    }
}
