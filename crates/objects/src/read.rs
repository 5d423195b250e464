//! Reading objects.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use isobar_model::excerpt::Excerpt;
use isobar_model::filter::Query;
use isobar_model::key::KeyRef;
use isobar_model::table::Access;
use isobar_model::{ApiError, Noun, Object};
use isobar_store::{Doc, StoreError};

use crate::core::store_failed;
use crate::objects::row;
use crate::view::{View, decoded, has_index, is_indexed};
use crate::{Objects, Principal};

/// Whether objects of the type have members that no client sees.
pub(crate) fn has_hidden(noun: &Noun) -> bool {
    noun.fields.iter().any(|field| field.access == Access::Hidden)
}

/// The object as clients may see it.
pub(crate) fn public(noun: &Noun, object: &Arc<Object>) -> Arc<Object> {
    if has_hidden(noun) {
        Arc::new(noun.public(object))
    } else {
        Arc::clone(object)
    }
}

/// The answer to a list query.
#[derive(Clone, Debug)]
pub struct Listing {
    /// What was asked for, in its order.
    pub objects: Vec<Arc<Object>>,
    /// How many objects of the type the caller may see at all.
    pub total: usize,
    /// The query as it was read; it also says how the objects are to be shown.
    pub query: Query,
}

/// The answer to a list query, with objects as they are kept.
#[derive(Debug)]
pub struct Rows {
    /// What was asked for, in its order.
    pub rows: Vec<Row>,
    /// How many objects of the type the caller may see at all.
    pub total: usize,
    /// The query as it was read.
    pub query: Query,
}

/// One object of a list. As text it takes an eighth of what it takes decoded.
#[derive(Debug)]
pub struct Row {
    noun: &'static Noun,
    held: Held,
}

#[derive(Debug)]
enum Held {
    Object(Arc<Object>),
    Text(Doc),
}

impl Row {
    fn whole(&self) -> Result<Arc<Object>, ApiError> {
        match &self.held {
            Held::Object(object) => Ok(Arc::clone(object)),
            Held::Text(doc) => Ok(decoded(doc).map_err(|e| store_failed(&e))?.object),
        }
    }

    fn part(&self, excerpt: &Excerpt) -> Result<Arc<Object>, ApiError> {
        match &self.held {
            Held::Object(object) => Ok(Arc::clone(object)),
            Held::Text(doc) => Ok(Arc::new(excerpt.read(&doc.body).map_err(|e| {
                let text = format!("{}/{} is damaged: {e}", doc.kind, doc.key);
                store_failed(&StoreError::Backend(text))
            })?)),
        }
    }

    /// The object as clients may see it, as JSON.
    ///
    /// # Errors
    /// When what is stored is damaged.
    pub fn text(&self) -> Result<Bytes, ApiError> {
        match &self.held {
            Held::Text(doc) if !has_hidden(self.noun) => Ok(doc.body.clone()),
            _ => {
                let text = serde_json::to_vec(self.object()?.as_ref());
                text.map(Bytes::from)
                    .map_err(|e| ApiError::new(500, "STORE_ERROR", self.noun.name, "", e.to_string()))
            }
        }
    }

    /// The object as clients may see it.
    ///
    /// # Errors
    /// When what is stored is damaged.
    pub fn object(&self) -> Result<Arc<Object>, ApiError> {
        Ok(public(self.noun, &self.whole()?))
    }
}

impl Objects {
    /// The objects of a type that the caller may see and the query (decoded pairs of the URL) asks for. Without the right
    /// to list any, that is none.
    ///
    /// # Errors
    /// 406 for a query that makes no sense.
    pub fn list(&self, noun: &str, pairs: &[(String, String)], by: &Principal) -> Result<Listing, ApiError> {
        let Rows { rows, total, query } = self.rows(noun, pairs, by)?;
        let objects = rows.iter().map(Row::object).collect::<Result<_, _>>()?;
        Ok(Listing { objects, total, query })
    }

    /// [`Objects::list`], for lists of any length: what is stored is held as text, all of it as it was at one time.
    ///
    /// # Errors
    /// 406 for a query that makes no sense.
    pub fn rows(&self, noun: &str, pairs: &[(String, String)], by: &Principal) -> Result<Rows, ApiError> {
        let noun = row(noun)?;
        let view = View::new(&self.core);
        let query = Query::parse(noun, pairs.iter().map(|(name, value)| (name, value)), &view)?;
        let content = self.core.content();
        let mut all: BTreeMap<String, Held> = content
            .of(noun.name)
            .map(|(key, object)| (key.to_owned(), Held::Object(Arc::clone(object))))
            .collect();
        let everything = by.allows(noun.name, "list", "");
        let store = &self.core.store;
        // Where the store knows who has the value, nobody else is looked at.
        let known = query
            .exactly()
            .filter(|(index, value)| everything && has_index(noun, index) && is_indexed(value));
        let (stored, total) = match known {
            Some((index, value)) => {
                let count = store.count(noun.name).map_err(|e| store_failed(&e))?;
                let total = usize::try_from(count).unwrap_or(usize::MAX) + all.len();
                (store.find(noun.name, index, value), Some(total))
            }
            None => (store.list(noun.name), None),
        };
        for doc in stored.map_err(|e| store_failed(&e))? {
            all.entry(doc.key.clone()).or_insert(Held::Text(doc));
        }
        if !everything {
            all.retain(|key, _| by.allows(noun.name, "list", key));
        }
        let total = total.unwrap_or(all.len());
        let all = all.into_values().map(|held| Row { noun, held });
        let rows = if query.looks_inside() {
            let excerpt = query.excerpt(noun);
            let mut found = Vec::new();
            for row in all {
                // Decoded for the look only, and no more than that: of 10,000 machines few are meant.
                let object = row.part(&excerpt)?;
                if query.matches(noun, &object, &view) {
                    found.push((query.rank(noun, &object, &view), row));
                }
            }
            found.sort_by(|(one, _), (other, _)| one.cmp(other));
            query.part(found.into_iter().map(|(_, row)| row).collect())
        } else {
            query.part(all.collect())
        };
        view.sound()?;
        Ok(Rows { rows, total, query })
    }

    /// One object. `key` is what the caller wrote: `Name:mach-01`, a UUID, a name.
    ///
    /// # Errors
    /// 404 that repeats the key.
    pub fn get(&self, noun: &str, key: &str) -> Result<Arc<Object>, ApiError> {
        let noun = row(noun)?;
        let (_, found) = View::new(&self.core).meant("GET", noun, key)?;
        Ok(public(noun, &found.object))
    }

    /// Whether [`Objects::get`] and [`Objects::text`] of this key read nothing but memory, and not much of it.
    #[must_use]
    pub fn at_hand(&self, noun: &str, key: &str) -> bool {
        let Some(noun) = isobar_model::noun(noun) else {
            return false;
        };
        let found_by = match noun.parse_key(key) {
            KeyRef::Key(_) => true,
            KeyRef::Index { index, .. } => has_index(noun, index),
        };
        found_by && self.core.store.at_hand(noun.name)
    }

    /// [`Objects::get`] as JSON.
    ///
    /// # Errors
    /// 404 that repeats the key.
    pub fn text(&self, noun: &str, key: &str) -> Result<Bytes, ApiError> {
        let noun = row(noun)?;
        let view = View::new(&self.core);
        let text = view.key(noun, key).and_then(|own| view.text(noun, &own));
        view.sound()?;
        match text {
            Some(text) if !has_hidden(noun) => Ok(text),
            _ => {
                let object = self.get(noun.name, key)?;
                let text = serde_json::to_vec(object.as_ref());
                text.map(Bytes::from)
                    .map_err(|e| ApiError::new(500, "STORE_ERROR", noun.name, key, e.to_string()))
            }
        }
    }

    /// As [`Objects::get`], with none instead of the 404.
    ///
    /// # Errors
    /// Of the store.
    pub fn find(&self, noun: &str, key: &str) -> Result<Option<Arc<Object>>, ApiError> {
        let noun = row(noun)?;
        match View::new(&self.core).meant("GET", noun, key) {
            Ok((_, found)) => Ok(Some(public(noun, &found.object))),
            Err(e) if e.code == 404 => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// All objects of a type, by key.
    ///
    /// # Errors
    /// Of the store.
    pub fn all(&self, noun: &str) -> Result<Vec<Arc<Object>>, ApiError> {
        let noun = row(noun)?;
        let view = View::new(&self.core);
        let all = view.all(noun);
        view.sound()?;
        Ok(all.into_iter().map(|(_, found)| public(noun, &found.object)).collect())
    }

    /// How many objects of a type there are.
    ///
    /// # Errors
    /// Of the store.
    pub fn count(&self, noun: &str) -> Result<u64, ApiError> {
        let noun = row(noun)?;
        let stored = self.core.store.count(noun.name).map_err(|e| store_failed(&e))?;
        Ok(stored + self.core.content().of(noun.name).count() as u64)
    }
}
