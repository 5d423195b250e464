//! Documents with revisions, atomic commits, a change feed and leases of work.
//!
//! Acknowledged means on disk: [`Store::commit`] returns when the transaction has been synced.
//! The trait has one implementation today, SQLite; a conformance suite over the trait
//! lets a second one prove itself.

pub mod sqlite;
pub mod vault;

use bytes::Bytes;

pub use sqlite::SqliteStore;
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
#[derive(Clone, Debug, Default)]
pub struct Txn {
    /// Writes.
    pub puts: Vec<Put>,
    /// Removals.
    pub deletes: Vec<Delete>,
    /// Events, published after the commit.
    pub events: Vec<Event>,
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
    /// The database failed: disk full, damaged, locked.
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

/// A commit under way: await it, or block on it.
#[derive(Debug)]
pub struct Pending(pub(crate) tokio::sync::oneshot::Receiver<Result<Rev, StoreError>>);

impl Pending {
    /// Blocks until the commit is on disk. Not on an async thread.
    ///
    /// # Errors
    /// As [`Store::submit`]'s commit.
    pub fn wait(self) -> Result<Rev, StoreError> {
        self.0.blocking_recv().unwrap_or(Err(StoreError::Closed))
    }
}

impl std::future::Future for Pending {
    type Output = Result<Rev, StoreError>;
    fn poll(mut self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<Self::Output> {
        std::pin::Pin::new(&mut self.0)
            .poll(cx)
            .map(|r| r.unwrap_or(Err(StoreError::Closed)))
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

/// Documents, revisions, change feed, leases.
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
    /// Takes the lease of a piece of work for `seconds`, if nobody holds it.
    ///
    /// # Errors
    /// Of the backend.
    fn claim(&self, kind: &str, key: &str, holder: &str, seconds: u64) -> Result<Option<Lease>, StoreError>;
    /// Gives a lease back. With an older fence than the current one nothing happens and `false` is returned.
    ///
    /// # Errors
    /// Of the backend.
    fn release(&self, lease: &Lease) -> Result<bool, StoreError>;
}
