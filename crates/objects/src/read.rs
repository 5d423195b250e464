//! Reading objects.

use std::collections::BTreeMap;
use std::sync::Arc;

use isobar_model::filter::Query;
use isobar_model::table::Access;
use isobar_model::{ApiError, Noun, Object};
use isobar_store::Doc;

use crate::core::store_failed;
use crate::objects::row;
use crate::view::{View, decoded};
use crate::{Objects, Principal};

/// The object as clients may see it.
pub(crate) fn public(noun: &Noun, object: &Arc<Object>) -> Arc<Object> {
    if noun.fields.iter().any(|field| field.access == Access::Hidden) {
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
        let content = content.of(noun.name);
        let mut all: BTreeMap<String, Held> = content
            .map(|(key, object)| (key.to_owned(), Held::Object(Arc::clone(object))))
            .collect();
        for doc in self.core.store.list(noun.name).map_err(|e| store_failed(&e))? {
            all.entry(doc.key.clone()).or_insert(Held::Text(doc));
        }
        if !by.allows(noun.name, "list", "") {
            all.retain(|key, _| by.allows(noun.name, "list", key));
        }
        let total = all.len();
        let all = all.into_values().map(|held| Row { noun, held });
        let rows = if query.sorts() {
            let decoded = all.map(|row| row.whole()).collect::<Result<Vec<_>, _>>()?;
            let found = query.run(noun, decoded, |object| object, &view).into_iter();
            let held = found.map(Held::Object);
            held.map(|held| Row { noun, held }).collect()
        } else if query.looks_inside() {
            let mut found = Vec::new();
            for row in all {
                // Decoded for the look only: of 10,000 machines few are meant.
                if query.matches(noun, &*row.whole()?, &view) {
                    found.push(row);
                }
            }
            query.part(found)
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
