//! Users' tokens that were looked at before: clients send theirs with every request.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use isobar_store::{Rev, Store};

use crate::Principal;
use crate::content::Content;

/// Kinds that the rights of a user come from.
const FROM: [&str; 5] = ["_tokens", "_meta", "users", "roles", "tenants"];
/// Tokens that are known at one time.
const MOST: usize = 4096;

/// What the rights of users were concluded from: when it is another one, they have to be looked at again.
#[derive(Clone)]
pub(crate) struct Basis {
    changed: [Rev; FROM.len()],
    content: Arc<Content>,
}

impl Basis {
    /// As it is now. To be taken before anything is read.
    pub(crate) fn of(store: &dyn Store, content: Arc<Content>) -> Self {
        let changed = FROM.map(|kind| store.changed(kind));
        Self { changed, content }
    }

    fn is(&self, other: &Self) -> bool {
        self.changed == other.changed && Arc::ptr_eq(&self.content, &other.content)
    }
}

#[derive(Default)]
pub(crate) struct KnownTokens(Mutex<Known>);

#[derive(Default)]
struct Known {
    basis: Option<Basis>,
    /// By their key in the store: whom they speak for, and when they end (seconds since the Unix epoch).
    tokens: HashMap<String, (Principal, i64)>,
}

impl KnownTokens {
    pub(crate) fn get(&self, basis: &Basis, key: &str, now: i64) -> Option<Principal> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.basis.as_ref().filter(|then| then.is(basis))?;
        let (principal, expires) = known.tokens.get(key)?;
        (*expires > now).then(|| principal.clone())
    }

    /// `basis`: from before the principal was concluded.
    pub(crate) fn put(&self, basis: Basis, key: String, principal: Principal, expires: i64) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.basis.as_ref().is_none_or(|then| !then.is(&basis)) || known.tokens.len() >= MOST {
            known.tokens.clear();
        }
        known.basis = Some(basis);
        known.tokens.insert(key, (principal, expires));
    }
}
