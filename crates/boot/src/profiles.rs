//! What inserts have taught, on disk: a row for each maker, model and firmware, so that a server that was restarted does not
//! run into the same refusals again.

use std::sync::Arc;

use isobar_bmc::redfish::{Profile, Taught};
use isobar_store::{Delete, Expect, StoreError, Txn};
use serde::{Deserialize, Serialize};

use crate::attempts::hash;
use crate::record::{self, kind};
use crate::state::Inner;

/// Rows that are kept; the oldest go.
const MOST: usize = 1000;

#[derive(Debug, Serialize, Deserialize)]
struct Row {
    vendor: String,
    model: String,
    firmware: String,
    profile: Profile,
    /// When it was learnt; milliseconds since the Unix epoch.
    at_ms: u64,
}

/// Names of makers are theirs: a key has to be short.
fn key(taught: &Taught) -> String {
    hash(&format!("{}\0{}\0{}", taught.vendor, taught.model, taught.firmware))
}

impl Inner {
    pub(crate) fn restore_profiles(&self) -> Result<(), StoreError> {
        let Some(learnt) = self.gate.learnt() else {
            return Ok(());
        };
        for doc in self.store.list(kind::PROFILES)? {
            if let Some(row) = record::read::<Row>(&doc) {
                learnt.restore(Taught {
                    vendor: row.vendor,
                    model: row.model,
                    firmware: row.firmware,
                    profile: Some(row.profile),
                });
            }
        }
        Ok(())
    }

    async fn keep_profiles(&self, news: Vec<Taught>) -> Result<(), StoreError> {
        let mut txn = Txn::default();
        let mut rows = Vec::new();
        for doc in self.store.list(kind::PROFILES)? {
            let at_ms = record::read::<Row>(&doc).map_or(0, |row| row.at_ms);
            rows.push((at_ms, doc.key));
        }
        let delete = |key: String| Delete {
            kind: kind::PROFILES.to_owned(),
            key,
            expect: Expect::Any,
        };
        for taught in news {
            let key = key(&taught);
            rows.retain(|(_, known)| *known != key);
            let Some(profile) = taught.profile else {
                txn.deletes.push(delete(key));
                continue;
            };
            let row = Row {
                vendor: taught.vendor,
                model: taught.model,
                firmware: taught.firmware,
                profile,
                at_ms: self.now_ms(),
            };
            txn.puts.push(record::put(kind::PROFILES, &key, &row, Expect::Any, &[]));
        }
        rows.sort_unstable();
        let surplus = (rows.len() + txn.puts.len()).saturating_sub(MOST);
        txn.deletes
            .extend(rows.into_iter().take(surplus).map(|(_, key)| delete(key)));
        self.store.submit(txn).await.map(drop)
    }
}

/// Keeps what is learnt, for as long as the runtime lives.
pub(crate) fn run(inner: &Arc<Inner>) {
    let inner = Arc::clone(inner);
    let runtime = inner.runtime.clone();
    runtime.spawn(async move {
        while let Some(learnt) = inner.gate.learnt() {
            learnt.changed().await;
            let news = learnt.unsaved();
            if news.is_empty() {
                continue;
            }
            match inner.keep_profiles(news).await {
                Err(StoreError::Closed) => return,
                Err(error) => {
                    tracing::warn!(%error, "what an insert taught is not on disk: after a restart it is learnt again")
                }
                Ok(()) => {}
            }
        }
    });
}
