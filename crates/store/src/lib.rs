//! Documents with revisions, atomic commits, a change feed and leases of work.
//!
//! Acknowledged means on disk: [`Store::commit`] returns when the transaction has been synced.
//! The trait has one implementation today, SQLite; a conformance suite over the trait (`tests/conformance.rs`)
//! lets a second one prove itself.

#![forbid(unsafe_code)]

pub mod audit;
pub mod clock;
pub mod sqlite;
pub mod vault;

use bytes::Bytes;

pub use audit::{Audit, AuditClass, AuditQuery, Audited};
pub use clock::{Clock, ManualClock, SystemClock};
pub use sqlite::{SqliteStore, StoreOptions};
pub use vault::Vault;

/// Number of a commit. Revision order is commit order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rev(pub u64);

/// A stored document.
#[derive(Clone, Debug)]
pub struct Doc {
    /// Type prefix (`machines`) or an internal kind (`_boots`).
    pub kind: String,
    /// Key within the kind.
    pub key: String,
    /// Commit that wrote this version.
    pub rev: Rev,
    /// Its bytes; JSON for objects.
    pub body: Bytes,
}

/// What must be true of a document for a write to go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Nothing.
    Any,
    /// There is none.
    Absent,
    /// It is still the version of this revision.
    Rev(Rev),
}

/// An extracted index entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// Index name: `Name`, `Address`.
    pub name: &'static str,
    /// Value in text form.
    pub value: String,
    /// No two documents of the kind may share it.
    pub unique: bool,
}

/// A document to write.
#[derive(Clone, Debug)]
pub struct Put {
    /// Kind.
    pub kind: String,
    /// Key.
    pub key: String,
    /// New bytes.
    pub body: Bytes,
    /// Condition.
    pub expect: Expect,
    /// All its index entries (replaces the old ones).
    pub indexes: Vec<IndexEntry>,
}

/// A document to remove.
#[derive(Clone, Debug)]
pub struct Delete {
    /// Kind.
    pub kind: String,
    /// Key.
    pub key: String,
    /// Condition.
    pub expect: Expect,
}

/// A durable event, committed with the change that it tells of. Shape: DRP's event.
#[derive(Clone, Debug)]
pub struct Event {
    /// Type prefix.
    pub kind: String,
    /// `create`, `update`, `save`, `delete`, or an action.
    pub action: String,
    /// Key of the object.
    pub key: String,
    /// Who did it.
    pub principal: String,
    /// The object as JSON, if any.
    pub object: Option<Bytes>,
    /// The object before, if any.
    pub original: Option<Bytes>,
}

/// One atomic change: all or nothing.
///
/// Every condition is checked against the state before the transaction; then the deletes are done, then the puts in
/// their order. So two documents may trade a unique value in one transaction, and a later put of a key wins.
#[derive(Clone, Debug, Default)]
pub struct Txn {
    /// Writes.
    pub puts: Vec<Put>,
    /// Removals. Removing what is not there with [`Expect::Any`] is no error.
    pub deletes: Vec<Delete>,
    /// Events, published after the commit.
    pub events: Vec<Event>,
    /// Leases that must still be the current ones: a worker that lost its lease changes nothing.
    pub fences: Vec<Lease>,
    /// Rows for the audit log, committed with the change that they tell of.
    pub audit: Vec<Audit>,
}

impl Txn {
    /// Whether it changes nothing. Audit rows by themselves are no change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.puts.is_empty() && self.deletes.is_empty() && self.events.is_empty()
    }
}

/// A committed event.
#[derive(Clone, Debug)]
pub struct Committed {
    /// Revision.
    pub rev: Rev,
    /// Time of the commit, nanoseconds since the Unix epoch.
    pub at_ns: i128,
    /// The event.
    pub event: Event,
}

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// An expectation did not hold; nothing was written.
    #[error("{kind}/{key} was changed by someone else")]
    Conflict {
        /// Kind of the document whose expectation failed.
        kind: String,
        /// Its key.
        key: String,
    },
    /// A unique index value is taken; nothing was written.
    #[error("{kind}: {index} {value} is already taken by {holder}")]
    Taken {
        /// Kind.
        kind: String,
        /// Index name.
        index: String,
        /// The value.
        value: String,
        /// Key of the document that has it.
        holder: String,
    },
    /// A lease of [`Txn::fences`] has run out or was taken by somebody else; nothing was written.
    #[error("the lease of {kind}/{key} is lost: somebody else may be working on it")]
    LeaseLost {
        /// Kind of work.
        kind: String,
        /// Which piece.
        key: String,
    },
    /// No room for the change; nothing was written, what was there is intact.
    #[error("no space left for {path}: nothing was written; free some space, then try again")]
    Full {
        /// The database file.
        path: String,
    },
    /// Another process has the database open.
    #[error("{path} is in use by another process: stop it first, or use another data directory")]
    InUse {
        /// The database file.
        path: String,
    },
    /// The database failed: damaged, unreadable.
    #[error("the database failed: {0}")]
    Backend(String),
    /// The data directory was written by a newer Isobar.
    #[error("the data directory has schema version {found}, this program knows up to {known}: use a newer isobar")]
    TooNew {
        /// Version found.
        found: u32,
        /// Newest version known.
        known: u32,
    },
    /// The store is shutting down.
    #[error("the store is closed")]
    Closed,
}

/// A commit under way: await it, or block on it with [`Pending::wait`].
///
/// The writer's queue is bounded. When it was full at [`Store::submit`], the transaction enters it as the `Pending` is
/// first polled or waited for, so that a slow disk holds up the callers and no thread of theirs. A `Pending` that is
/// dropped unpolled may therefore never be committed.
#[must_use = "a transaction that nobody waits for may never be committed"]
pub struct Pending(pub(crate) Box<dyn Answer>);

/// The way to an answer of the writer; each backend has its own.
pub(crate) trait Answer: Future<Output = Result<Rev, StoreError>> + Send + Unpin {
    fn wait(self: Box<Self>) -> Result<Rev, StoreError>;
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pending(..)")
    }
}

impl Pending {
    /// Blocks until the commit is on disk. Not on an async thread.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub fn wait(self) -> Result<Rev, StoreError> {
        self.0.wait()
    }
}

impl Future for Pending {
    type Output = Result<Rev, StoreError>;
    fn poll(mut self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<Self::Output> {
        std::pin::Pin::new(&mut *self.0).poll(cx)
    }
}

/// A transaction that is being prepared: while some are, the writer waits a moment for company (milliseconds at most).
#[derive(Debug)]
#[must_use = "it counts until it is dropped"]
pub struct Announced(std::sync::Arc<std::sync::atomic::AtomicUsize>);

impl Announced {
    pub(crate) fn count(all: &std::sync::Arc<std::sync::atomic::AtomicUsize>) -> Self {
        all.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Self(std::sync::Arc::clone(all))
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        self.0.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
    }
}

/// A lease of a piece of work: while it is held, nobody else works on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Kind of work.
    pub kind: String,
    /// Which piece.
    pub key: String,
    /// Grows with each claim; a holder with an older fence is refused.
    pub fence: u64,
}

/// Events of the past, as far as they are kept.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Oldest first.
    pub events: Vec<Committed>,
    /// Some events after the asked revision are no longer kept: the reader has to list instead.
    pub gap: bool,
}

/// Documents, revisions, change feed, leases.
///
/// Reads see committed data only, and every commit that was acknowledged before they began.
pub trait Store: Send + Sync {
    /// One document.
    ///
    /// # Errors
    /// Of the backend.
    fn get(&self, kind: &str, key: &str) -> Result<Option<Doc>, StoreError>;
    /// Documents of a kind with this index value.
    ///
    /// # Errors
    /// Of the backend.
    fn find(&self, kind: &str, index: &str, value: &str) -> Result<Vec<Doc>, StoreError>;
    /// The first `len` bytes of the documents of a kind, each different one once: for bodies that begin with what they
    /// refer to.
    ///
    /// # Errors
    /// Of the backend.
    fn heads(&self, kind: &str, len: u32) -> Result<Vec<Bytes>, StoreError>;
    /// All documents of a kind, by key.
    ///
    /// # Errors
    /// Of the backend.
    fn list(&self, kind: &str) -> Result<Vec<Doc>, StoreError>;
    /// Number of documents of a kind.
    ///
    /// # Errors
    /// Of the backend.
    fn count(&self, kind: &str) -> Result<u64, StoreError>;
    /// Whether reads of a kind wait for no disk.
    fn at_hand(&self, kind: &str) -> bool;
    /// The last commit that wrote or removed documents of a kind, or a later one: what was concluded from them before is
    /// good as long as it stays the same.
    fn changed(&self, kind: &str) -> Rev;
    /// Says that a transaction is coming, until this is dropped.
    fn announce(&self) -> Announced;
    /// Hands a transaction to the writer. The result comes when it is on disk.
    fn submit(&self, txn: Txn) -> Pending;
    /// [`Store::submit`] and wait. Not on an async thread.
    ///
    /// # Errors
    /// [`StoreError::Conflict`], [`StoreError::Taken`], or of the backend.
    fn commit(&self, txn: Txn) -> Result<Rev, StoreError> {
        self.submit(txn).wait()
    }
    /// Events as they are committed, from now on. A reader that falls behind gets `Lagged`.
    fn watch(&self) -> tokio::sync::broadcast::Receiver<std::sync::Arc<Committed>>;
    /// Committed events after a revision, at most about `limit` (the events of one commit are never torn apart).
    ///
    /// # Errors
    /// Of the backend.
    fn events(&self, after: Rev, limit: usize) -> Result<History, StoreError>;
    /// Adds to the audit log what belongs to no commit: a look, a refusal. Returns at once; the row goes with the next
    /// commit, at the latest after a second, and one of the same content is written once a minute and counts how often.
    /// More different ones than a thousand a minute are only counted.
    fn note(&self, entry: Audit);
    /// Rows of the audit log.
    ///
    /// # Errors
    /// Of the backend.
    fn audit(&self, query: &AuditQuery) -> Result<Vec<Audited>, StoreError>;
    /// Number of the last commit.
    ///
    /// # Errors
    /// Of the backend.
    fn rev(&self) -> Result<Rev, StoreError>;
    /// Takes the lease of a piece of work for `seconds`, if nobody holds it; `holder` is for people to read.
    /// A restart of the process voids all leases. Blocks; not on an async thread.
    ///
    /// # Errors
    /// Of the backend.
    fn claim(&self, kind: &str, key: &str, holder: &str, seconds: u64) -> Result<Option<Lease>, StoreError>;
    /// Makes a lease last for `seconds` from now. `false` if it is no longer the current one, or has run out.
    ///
    /// # Errors
    /// Of the backend.
    fn renew(&self, lease: &Lease, seconds: u64) -> Result<bool, StoreError>;
    /// Gives a lease back. With an older fence than the current one nothing happens and `false` is returned.
    ///
    /// # Errors
    /// Of the backend.
    fn release(&self, lease: &Lease) -> Result<bool, StoreError>;
}
