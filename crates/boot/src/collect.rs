//! Removes what nothing needs any more: bases that were replaced, then the blobs that are no file of a base and not what
//! an uploaded file's name stands for.
//!
//! Safe at every point at which it can be interrupted: a base goes in one commit, its files after it, and whatever
//! is left is found again by the next look. A plan that is under way has a base in hand that no row names yet, so
//! nothing goes before it was seen to be of no use at two looks that lie `collect_s` apart.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use isobar_image::{Base, BlobId};
use isobar_objects::UploadsError;
use isobar_store::{Delete, Expect, StoreError, Txn};

use crate::bases::Bases;
use crate::record::{BaseRow, kind};
use crate::state::Inner;

/// Bytes of the digest that an image's row begins with.
const DIGEST: u32 = 32;
/// Looks come no closer than this, whatever is set.
const SHORTEST: Duration = Duration::from_millis(200);

/// Looks again and again, for as long as the runtime lives.
pub(crate) fn run(inner: &Arc<Inner>) {
    let inner = Arc::clone(inner);
    let runtime = inner.runtime.clone();
    runtime.spawn(async move {
        let grace = inner.timing.collect();
        let mut collector = Collector::default();
        loop {
            let (bases, now) = (Arc::clone(&inner.bases), inner.uptime());
            let look = tokio::task::spawn_blocking(move || {
                let result = collector.look(&bases, now, grace);
                (collector, result)
            });
            let Ok((back, result)) = look.await else { return };
            collector = back;
            match result {
                Ok(Removed { bases: 0, blobs: 0 }) => {}
                Ok(Removed { bases, blobs }) => tracing::info!(bases, blobs, "removed what nothing needs any more"),
                Err(error) => tracing::warn!(%error, "cannot look for files that nothing needs"),
            }
            tokio::time::sleep((grace / 2).max(SHORTEST)).await;
        }
    });
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum CollectError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the folder of blobs: {0}")]
    Disk(#[from] io::Error),
    #[error("the row of {0} cannot be read: nothing is removed, for it may need anything")]
    Unreadable(String),
}

impl CollectError {
    fn of_uploads(error: UploadsError) -> Self {
        match error {
            UploadsError::Store(error) => CollectError::Store(error),
            UploadsError::Unreadable(name) => CollectError::Unreadable(name),
        }
    }
}

/// How many were removed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Removed {
    pub(crate) bases: usize,
    pub(crate) blobs: usize,
}

/// What was of no use at the last look, and since when.
#[derive(Default)]
pub(crate) struct Collector {
    bases: HashMap<String, Duration>,
    blobs: HashMap<BlobId, Duration>,
}

impl Collector {
    /// One look. `now` is of a clock that only goes forward.
    pub(crate) fn look(&mut self, bases: &Bases, now: Duration, grace: Duration) -> Result<Removed, CollectError> {
        // What is being taken in is of no base and has no name yet.
        let Some(_alone) = bases.blobs().alone() else {
            return Ok(Removed::default());
        };
        let store = bases.store();
        let mut needed = BTreeSet::new();
        for doc in store.list(kind::BASES)? {
            let row: BaseRow =
                serde_json::from_slice(&doc.body).map_err(|_| CollectError::Unreadable(format!("base {}", doc.key)))?;
            needed.insert(row.digest);
        }
        needed.extend(store.heads(kind::IMAGES, DIGEST)?.iter().map(hex::encode));
        let mut useless = Vec::new();
        let mut files = isobar_objects::uploaded_blobs(store.as_ref()).map_err(CollectError::of_uploads)?;
        let mut removed = Removed::default();
        let mut deletes = Vec::new();
        for doc in store.list(kind::BASE_BYTES)? {
            let base =
                Base::from_bytes(&doc.body).map_err(|_| CollectError::Unreadable(format!("base {}", doc.key)))?;
            if needed.contains(&doc.key) {
                files.extend(base.blobs());
            } else if ripe(&self.bases, &doc.key, now, grace) {
                deletes.push(Delete {
                    kind: kind::BASE_BYTES.to_owned(),
                    key: doc.key,
                    expect: Expect::Rev(doc.rev),
                });
            } else {
                files.extend(base.blobs());
                useless.push(doc.key);
            }
        }
        if !deletes.is_empty() {
            removed.bases = deletes.len();
            let gone: Vec<String> = deletes.iter().map(|delete| delete.key.clone()).collect();
            store.commit(Txn {
                deletes,
                ..Txn::default()
            })?;
            gone.iter().for_each(|digest| bases.forget(digest));
        }
        remember(&mut self.bases, useless, now);
        let mut useless = Vec::new();
        for id in bases.blobs().list()? {
            if files.contains(&id) {
                continue;
            }
            if ripe(&self.blobs, &id, now, grace) {
                removed.blobs += usize::from(bases.blobs().remove(&id)?);
            } else {
                useless.push(id);
            }
        }
        remember(&mut self.blobs, useless, now);
        Ok(removed)
    }
}

fn ripe<K: std::hash::Hash + Eq>(since: &HashMap<K, Duration>, key: &K, now: Duration, grace: Duration) -> bool {
    since.get(key).is_some_and(|since| now.saturating_sub(*since) >= grace)
}

/// What has come into use again is forgotten.
fn remember<K: std::hash::Hash + Eq>(since: &mut HashMap<K, Duration>, useless: Vec<K>, now: Duration) {
    let mut old = std::mem::take(since);
    since.extend(useless.into_iter().map(|key| {
        let first = old.remove(&key).unwrap_or(now);
        (key, first)
    }));
}
