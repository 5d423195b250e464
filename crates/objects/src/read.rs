//! Reading objects.

use std::sync::Arc;

use isobar_model::filter::Query;
use isobar_model::table::Access;
use isobar_model::{ApiError, Noun, Object};

use crate::core::store_failed;
use crate::objects::row;
use crate::view::View;
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

impl Objects {
    /// The objects of a type that the caller may see and the query (decoded pairs of the URL) asks for. Without the right
    /// to list any, that is none.
    ///
    /// # Errors
    /// 406 for a query that makes no sense.
    pub fn list(&self, noun: &str, pairs: &[(String, String)], by: &Principal) -> Result<Listing, ApiError> {
        let noun = row(noun)?;
        let view = View::new(&self.core);
        let query = Query::parse(noun, pairs.iter().map(|(name, value)| (name, value)), &view)?;
        let mut all = view.all(noun);
        if !by.allows(noun.name, "list", "") {
            all.retain(|(key, _)| by.allows(noun.name, "list", key));
        }
        let total = all.len();
        let found = query.run(noun, all, |(_, found)| &found.object, &view);
        view.sound()?;
        let objects = found
            .into_iter()
            .map(|(_, found)| public(noun, &found.object))
            .collect();
        Ok(Listing { objects, total, query })
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
