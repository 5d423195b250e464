//! The world as one change sees it: stored objects, content layers, and what the change itself is about to write.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use isobar_model::key::KeyRef;
use isobar_model::params::ParamSchema;
use isobar_model::{ApiError, Lookup, Noun, Object, noun};
use isobar_store::{Doc, Expect, IndexEntry, Rev, StoreError};

use crate::content::Content;
use crate::core::Core;
use crate::hook::Presence;
use crate::{prefs, trees};

/// Indexes kept in the store; the others are answered by looking at every object. Type, index, whether unique.
const STORED: &[(&str, &str, bool)] = &[
    ("machines", "Name", true),
    ("machines", "Address", true),
    ("machines", "BootEnv", false),
    ("machines", "Stage", false),
    ("machines", "Workflow", false),
    ("machines", "Profiles", false),
    ("machines", "HardwareAddrs", false),
    ("jobs", "Machine", false),
    ("reservations", "Token", false),
];

/// Whether the store knows who has a value of an index.
pub(crate) fn has_index(noun: &Noun, index: &str) -> bool {
    STORED.iter().any(|(of, name, _)| *of == noun.name && *name == index)
}

/// Many may have no name, and the address that stands for none.
pub(crate) fn is_indexed(value: &str) -> bool {
    !value.is_empty() && value != "0.0.0.0"
}

/// The index entries of an object.
pub(crate) fn entries(noun: &Noun, object: &Object) -> Vec<IndexEntry> {
    let stored = STORED.iter().filter(|(of, ..)| *of == noun.name);
    stored
        .flat_map(|&(_, name, unique)| {
            let index = noun.index(name);
            let values = index.map(|index| noun.index_values(index, object)).unwrap_or_default();
            values
                .into_iter()
                .filter(|value| is_indexed(value))
                .map(move |value| IndexEntry { name, value, unique })
        })
        .collect()
}

/// Where an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a content layer: read-only.
    Content,
    /// In the store.
    Stored(Rev),
    /// In neither yet: this change makes it.
    New,
}

impl Place {
    pub(crate) fn expect(self) -> Expect {
        match self {
            Place::Stored(rev) => Expect::Rev(rev),
            Place::Content | Place::New => Expect::Absent,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) object: Arc<Object>,
    pub(crate) place: Place,
    /// The object as it is stored, where it is.
    pub(crate) text: Option<Bytes>,
}

/// A stored document as an object.
pub(crate) fn decoded(doc: &Doc) -> Result<Found, StoreError> {
    let object = serde_json::from_slice(&doc.body)
        .map_err(|e| StoreError::Backend(format!("{}/{} is damaged: {e}", doc.kind, doc.key)))?;
    Ok(Found {
        object: Arc::new(object),
        place: Place::Stored(doc.rev),
        text: Some(doc.body.clone()),
    })
}

type Id = (&'static str, String);

/// Objects by type and key. A machine has thirty params, and each is looked up several times in a change.
#[derive(Default)]
struct Known(HashMap<&'static str, HashMap<String, Option<Found>>>);

impl Known {
    fn get(&self, noun: &str, key: &str) -> Option<&Option<Found>> {
        self.0.get(noun)?.get(key)
    }

    fn insert(&mut self, noun: &'static str, key: &str, found: Option<Found>) {
        self.0.entry(noun).or_default().insert(key.to_owned(), found);
    }
}

/// See the module. Not for keeping: it remembers what it read.
pub(crate) struct View<'a> {
    core: &'a Core,
    content: Arc<Content>,
    presence: Arc<dyn Presence>,
    /// Read or about to be written; `None`: known not to be there.
    known: RefCell<Known>,
    /// Keys of `known` that differ from the store.
    pending: RefCell<Vec<Id>>,
    prefs: RefCell<Option<Arc<Object>>>,
    /// [`Lookup`] has no way to say that the database failed; [`View::sound`] does.
    failed: Cell<Option<StoreError>>,
}

impl<'a> View<'a> {
    pub(crate) fn new(core: &'a Core) -> Self {
        Self::with_content(core, core.content())
    }

    /// The world with other content layers than those that are there.
    pub(crate) fn with_content(core: &'a Core, content: Arc<Content>) -> Self {
        Self {
            core,
            content,
            presence: core.presence(),
            known: RefCell::default(),
            pending: RefCell::default(),
            prefs: RefCell::default(),
            failed: Cell::default(),
        }
    }

    /// An error if anything could not be read: what was concluded since then is worth nothing.
    pub(crate) fn sound(&self) -> Result<(), ApiError> {
        self.failed
            .take()
            .map_or(Ok(()), |e| Err(crate::core::store_failed(&e)))
    }

    fn read<T: Default>(&self, result: Result<T, StoreError>) -> T {
        result.unwrap_or_else(|e| {
            self.failed.set(Some(e));
            T::default()
        })
    }

    /// The object of this key.
    pub(crate) fn find(&self, noun: &'static Noun, key: &str) -> Option<Found> {
        if let Some(known) = self.known.borrow().get(noun.name, key) {
            return known.clone();
        }
        let found = match self.content.get(noun.name, key) {
            Some(object) => Some(Found {
                object: Arc::clone(object),
                place: Place::Content,
                text: None,
            }),
            None if noun.name == "params" => {
                let read = || match self.core.store.get("params", key)? {
                    Some(doc) => decoded(&doc).map(Some),
                    None => Ok(None),
                };
                self.read(self.core.declared.get(key, read))
            }
            None => self
                .read(self.core.store.get(noun.name, key))
                .and_then(|doc| self.decode(&doc)),
        };
        self.known.borrow_mut().insert(noun.name, key, found.clone());
        found
    }

    /// The text of a stored object that no content layer has.
    pub(crate) fn text(&self, noun: &'static Noun, key: &str) -> Option<Bytes> {
        if self.content.get(noun.name, key).is_some() {
            return None;
        }
        self.read(self.core.store.get(noun.name, key)).map(|doc| doc.body)
    }

    fn decode(&self, doc: &Doc) -> Option<Found> {
        self.read(decoded(doc).map(Some))
    }

    /// The key that a caller's `Name:x` stands for; a bare key is returned whether or not there is such an object.
    pub(crate) fn key(&self, noun: &'static Noun, text: &str) -> Option<String> {
        match noun.parse_key(text) {
            KeyRef::Key(key) => Some(key),
            KeyRef::Index { index, value } => Lookup::find(self, noun.name, index, &value).into_iter().next(),
        }
    }

    /// The object that a caller means. 404 repeats what they wrote.
    pub(crate) fn meant(&self, verb: &str, noun: &'static Noun, text: &str) -> Result<(String, Found), ApiError> {
        let found = self
            .key(noun, text)
            .and_then(|key| self.find(noun, &key).map(|found| (key, found)));
        self.sound()?;
        found.ok_or_else(|| ApiError::not_found(verb, noun.name, text))
    }

    /// All objects of a type by key: content layers, store, and what is about to be written.
    pub(crate) fn all(&self, noun: &'static Noun) -> Vec<(String, Found)> {
        let content = self.content.of(noun.name).map(|(key, object)| {
            let object = Arc::clone(object);
            let (place, text) = (Place::Content, None);
            (key.to_owned(), Found { object, place, text })
        });
        let mut all: std::collections::BTreeMap<String, Found> = content.collect();
        for doc in self.read(self.core.store.list(noun.name)) {
            if let Some(found) = self.decode(&doc) {
                all.entry(doc.key).or_insert(found);
            }
        }
        let known = self.known.borrow();
        for id in self.pending.borrow().iter().filter(|(of, _)| *of == noun.name) {
            match known.get(id.0, &id.1) {
                Some(Some(found)) => all.insert(id.1.clone(), found.clone()),
                _ => all.remove(&id.1),
            };
        }
        all.into_iter().collect()
    }

    /// Shows an object as this change will leave it; `None`: gone.
    pub(crate) fn set(&self, noun: &'static Noun, key: &str, object: Option<Arc<Object>>, place: Place) {
        let id = (noun.name, key.to_owned());
        if !self.pending.borrow().contains(&id) {
            self.pending.borrow_mut().push(id);
        }
        let text = None;
        let found = object.map(|object| Found { object, place, text });
        self.known.borrow_mut().insert(noun.name, key, found);
    }
}

impl Lookup for View<'_> {
    fn get(&self, name: &str, key: &str) -> Option<Arc<Object>> {
        View::find(self, noun(name)?, key).map(|found| found.object)
    }

    fn find(&self, name: &str, index: &str, value: &str) -> Vec<String> {
        let Some(noun) = noun(name) else { return Vec::new() };
        let Some(def) = noun.index(index) else {
            return Vec::new();
        };
        let holds = |object: &Object| noun.index_values(def, object).iter().any(|v| v == value);
        if !has_index(noun, index) {
            let all = self.all(noun).into_iter();
            return all
                .filter(|(_, found)| holds(&found.object))
                .map(|(key, _)| key)
                .collect();
        }
        let mut keys: Vec<String> = self
            .read(self.core.store.find(noun.name, index, value))
            .into_iter()
            .map(|doc| doc.key)
            .collect();
        let known = self.known.borrow();
        for id in self.pending.borrow().iter().filter(|(of, _)| *of == noun.name) {
            let now = known
                .get(id.0, &id.1)
                .and_then(Option::as_ref)
                .is_some_and(|f| holds(&f.object));
            if now && !keys.contains(&id.1) {
                keys.push(id.1.clone());
            } else if !now {
                keys.retain(|key| *key != id.1);
            }
        }
        keys.extend(
            self.content
                .of(noun.name)
                .filter(|(_, o)| holds(o))
                .map(|(key, _)| key.to_owned()),
        );
        keys
    }

    fn keys(&self, name: &str) -> Vec<String> {
        let all = noun(name).map(|noun| self.all(noun)).unwrap_or_default();
        all.into_iter().map(|(key, _)| key).collect()
    }

    fn pref(&self, name: &str) -> Option<String> {
        let mut prefs = self.prefs.borrow_mut();
        let prefs = prefs.get_or_insert_with(|| Arc::new(self.read(prefs::read(self.core))));
        prefs
            .get(name)?
            .as_str()
            .filter(|text| !text.is_empty())
            .map(str::to_owned)
    }

    fn boot_file_present(&self, bootenv: &Object, arch: &str, file: &str) -> bool {
        self.presence.file_present(bootenv, arch, file) || self.read(trees::holds(self.core, bootenv, arch, file))
    }

    fn boot_file_hint(&self, bootenv: &Object) -> Option<String> {
        self.read(trees::complaint(self.core, bootenv))
            .or_else(|| self.presence.hint(bootenv))
    }

    fn check_template(&self, text: &str) -> Result<(), String> {
        // The engine finds no template without a name.
        isobar_template::check("text", text)
            .map(drop)
            .map_err(|e| match e.line {
                None => e.message,
                Some(line) => format!("line {line}: {}", e.message),
            })
    }

    fn param_schema(&self, param: &str) -> Option<Arc<ParamSchema>> {
        let compile = || {
            let declared = Lookup::get(self, "params", param)?;
            ParamSchema::compile(&declared).ok().map(Arc::new)
        };
        // A declaration that is about to change is not for others to see.
        if self
            .pending
            .borrow()
            .iter()
            .any(|(of, key)| *of == "params" && key == param)
        {
            return compile();
        }
        // Nor is one of layers that are only being looked at.
        if !Arc::ptr_eq(&self.content, &self.core.content()) {
            return compile();
        }
        self.core.schemas.get(param, compile)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use isobar_store::{SqliteStore, Vault};
    use serde_json::json;

    use super::*;
    use crate::{Objects, Options, Principal};

    #[test]
    fn a_view_shows_what_is_about_to_be_written() {
        let store = Arc::new(SqliteStore::in_memory().unwrap());
        let options = Options {
            first_user: ("rocketskates".to_owned(), Some("x".to_owned())),
            ..Options::default()
        };
        let objects = Objects::open(store, Arc::new(Vault::ephemeral()), options).unwrap();
        let machine = |name: &str| {
            let made = objects.create("machines", &json!({"Name": name}), &Principal::system());
            made.unwrap()["Uuid"].as_str().unwrap().to_owned()
        };
        let (gone, moved) = (machine("gone"), machine("moved"));
        let machines = noun("machines").unwrap();
        let view = View::new(&objects.core);
        let old = view.find(machines, &moved).unwrap();
        let mut new = Object::clone(&old.object);
        new.insert("Stage".to_owned(), "local".into());
        view.set(machines, &moved, Some(Arc::new(new)), old.place);
        view.set(machines, &gone, None, old.place);

        assert_eq!(Lookup::find(&view, "machines", "Stage", "local"), [moved.as_str()]);
        assert!(Lookup::find(&view, "machines", "Stage", "none").is_empty());
        assert!(Lookup::find(&view, "machines", "Name", "gone").is_empty());
        assert!(view.meant("GET", machines, &gone).is_err() && view.meant("GET", machines, "Name:moved").is_ok());
        let all = view.all(machines);
        assert_eq!((all.len(), &all[0].1.object["Stage"]), (1, &json!("local")));
        assert_eq!(Lookup::find(&view, "bootenvs", "OnlyUnknown", "true"), ["ignore"]);
    }
}
