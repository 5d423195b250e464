//! SQLite: one file, one writer thread, group commit.
//!
//! WAL and `synchronous=EXTRA`: a commit is acknowledged after its fsync. The writer takes everything that waits in its
//! queue into one transaction, so that one fsync serves many, and one conflict fails nobody else. Who comes alone writes
//! on their own thread: that saves two hand-overs. Documents are held in memory, too, but for those of
//! [`StoreOptions::cold`]: reads of them wait for nothing. Other reads have connections of their own and never wait for
//! the writer.

mod audit;
mod held;
mod notes;
mod queue;
mod schema;
mod snapshot;
mod writer;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, TryLockError};

use bytes::Bytes;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params};
use tokio::sync::{broadcast, oneshot};

use crate::{
    Announced, Audit, AuditQuery, Audited, Clock, Committed, Doc, Event, History, Lease, Pending, Rev, Store,
    StoreError, SystemClock, Txn,
};
use held::Held;
use queue::{Command, Queue};
use schema::first_seq;
pub use snapshot::{SCHEMA, Snapshot, snapshot};
use writer::Writer;

/// How a store behaves.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
    /// Read connections, at least one.
    pub readers: usize,
    /// Transactions that may wait for the writer.
    pub queue: usize,
    /// Transactions that share one fsync at most.
    pub group: usize,
    /// Events that a slow reader of [`Store::watch`] may fall behind.
    pub watch: usize,
    /// Events kept for [`Store::events`].
    pub history_events: u64,
    /// Bytes of objects in those events.
    pub history_bytes: u64,
    /// Audit rows of users that are kept; those of programs (half as many) and of who was refused (an eighth) come on top.
    pub audit_rows: u64,
    /// Seconds that audit rows are kept.
    pub audit_age_s: u64,
    /// The database file (without its log) does not grow beyond this; `None`: up to the file system's end.
    pub max_bytes: Option<u64>,
    /// Kinds that are large, or many, and seldom read: they stay on disk.
    pub cold: HashSet<String>,
}

impl StoreOptions {
    fn is_cold(&self, kind: &str) -> bool {
        self.cold.contains(kind)
    }
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemClock::default()),
            readers: 4,
            queue: 1024,
            group: 256,
            watch: 1024,
            history_events: 10_000,
            history_bytes: 16 << 20,
            audit_rows: 1_000_000,
            audit_age_s: 366 * 86_400,
            max_bytes: None,
            cold: HashSet::new(),
        }
    }
}

/// Niceness of the writer's thread.
const WRITER_NICE: i32 = -10;

/// A [`Store`] in one SQLite file.
#[derive(Debug)]
pub struct SqliteStore {
    queue: Arc<Queue>,
    writer: Arc<Mutex<Writer>>,
    thread: Option<std::thread::JoinHandle<()>>,
    held: Arc<RwLock<Held>>,
    cold: HashSet<String>,
    readers: Readers,
    feed: broadcast::Sender<Arc<Committed>>,
    /// Keeps other processes out as long as it is open.
    _lock: Option<std::fs::File>,
}

/// Where the database is.
#[derive(Clone, Debug)]
enum Place {
    File(PathBuf),
    /// A database of this name in this process's memory.
    Memory(String),
}

impl Place {
    fn shown(&self) -> String {
        match self {
            Place::File(path) => path.display().to_string(),
            Place::Memory(_) => "the database in memory".to_owned(),
        }
    }

    fn connect(&self, read_only: bool) -> Result<Connection, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_URI
            | if read_only && matches!(self, Place::File(_)) {
                OpenFlags::SQLITE_OPEN_READ_ONLY
            } else {
                OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE
            };
        let opened = match self {
            Place::File(path) => Connection::open_with_flags(path, flags - OpenFlags::SQLITE_OPEN_URI),
            Place::Memory(name) => Connection::open_with_flags(format!("file:/{name}?vfs=memdb"), flags),
        };
        let conn = opened.map_err(|e| self.failed(&e))?;
        conn.busy_timeout(std::time::Duration::from_secs(10))
            .map_err(|e| self.failed(&e))?;
        conn.set_prepared_statement_cache_capacity(64);
        // Without it a statement that may use a partial index is compiled again each time that a value is bound to it.
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)
            .map_err(|e| self.failed(&e))?;
        Ok(conn)
    }

    /// What a failure of SQLite means for the caller.
    fn failed(&self, error: &rusqlite::Error) -> StoreError {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => StoreError::Full { path: self.shown() },
            _ => StoreError::Backend(format!("{}: {error}", self.shown())),
        }
    }
}

impl SqliteStore {
    /// Opens the database file, or makes it with mode 0600.
    ///
    /// # Errors
    /// [`StoreError::TooNew`], [`StoreError::InUse`], or of the file and its contents.
    pub fn open(path: &Path, options: StoreOptions) -> Result<Self, StoreError> {
        let shown = path.display().to_string();
        let io = |what: &str, e: std::io::Error| StoreError::Backend(format!("{shown}: {what}: {e}"));
        let mut lock_path = path.as_os_str().to_owned();
        lock_path.push(".lock");
        let lock = private(&PathBuf::from(lock_path)).map_err(|e| io("lock file", e))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(StoreError::InUse { path: shown }),
            Err(std::fs::TryLockError::Error(e)) => return Err(io("lock file", e)),
        }
        // SQLite gives its log and index files the mode of the database.
        drop(private(path).map_err(|e| io("cannot be opened", e))?);
        Self::start(Place::File(path.to_owned()), options, Some(lock))
    }

    /// A database that is gone when it is dropped.
    ///
    /// # Errors
    /// Of SQLite.
    pub fn in_memory() -> Result<Self, StoreError> {
        Self::in_memory_with(StoreOptions::default())
    }

    /// As [`SqliteStore::in_memory`].
    ///
    /// # Errors
    /// Of SQLite.
    pub fn in_memory_with(options: StoreOptions) -> Result<Self, StoreError> {
        static NAMES: AtomicU64 = AtomicU64::new(0);
        let name = format!("isobar-{}", NAMES.fetch_add(1, Ordering::Relaxed));
        Self::start(Place::Memory(name), options, None)
    }

    fn start(place: Place, options: StoreOptions, lock: Option<std::fs::File>) -> Result<Self, StoreError> {
        let mut conn = place.connect(false)?;
        schema::prepare(&mut conn, &options).map_err(|e| match e {
            schema::Failed::TooNew { found } => StoreError::TooNew {
                found,
                known: schema::VERSION,
            },
            schema::Failed::Sqlite(e) => place.failed(&e),
        })?;
        held::adopt(&mut conn, &options.cold).map_err(|e| place.failed(&e))?;
        let held = Held::load(&conn).map_err(|e| place.failed(&e))?;
        let (held, cold) = (Arc::new(RwLock::new(held)), options.cold.clone());
        let gate = matches!(place, Place::Memory(_)).then(|| Arc::new(RwLock::new(())));
        let readers = Readers {
            place: place.clone(),
            idle: Mutex::new(
                (0..options.readers.max(1))
                    .map(|_| place.connect(true))
                    .collect::<Result<_, _>>()?,
            ),
            returned: Condvar::new(),
            gate: gate.clone(),
        };
        let (feed, _) = broadcast::channel(options.watch.max(1));
        let queue = Arc::new(Queue::new(options.queue.max(1)));
        let max = options.group;
        let writer = Writer::new(conn, place.clone(), options, feed.clone(), gate, Arc::clone(&held))?;
        let writer = Arc::new(Mutex::new(writer));
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn({
                let (queue, writer) = (Arc::clone(&queue), Arc::clone(&writer));
                move || {
                    go_first();
                    while queue.ready(max) {
                        // A group that panicked is rolled back before the next one begins.
                        writer.lock().unwrap_or_else(PoisonError::into_inner).drain(&queue);
                    }
                }
            })
            .map_err(|e| StoreError::Backend(format!("{}: writer thread: {e}", place.shown())))?;
        Ok(Self {
            queue,
            writer,
            thread: Some(thread),
            held,
            cold,
            readers,
            feed,
            _lock: lock,
        })
    }

    /// What is held in memory.
    fn held(&self) -> RwLockReadGuard<'_, Held> {
        self.held.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Command) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.queue.push_blocking(command(reply))?;
        queue::answered(answer)
    }
}

/// The writer's thread before all others, where the system allows it: a crowd waits for it, and it mostly waits for the
/// disk.
fn go_first() {
    // On Linux a thread's id is what setpriority(2) takes, and a refusal costs nothing but the order.
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), WRITER_NICE);
}

/// Opens or makes a file that only its owner may read.
fn private(path: &Path) -> std::io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.queue.close();
        if let Some(thread) = self.thread.take() {
            // A writer that panicked has nothing more to say here.
            let _ = thread.join();
        }
    }
}

impl Store for SqliteStore {
    fn get(&self, kind: &str, key: &str) -> Result<Option<Doc>, StoreError> {
        if self.at_hand(kind) {
            return Ok(self.held().get(kind, key));
        }
        self.readers.with(|conn| {
            conn.prepare_cached("SELECT kind, key, rev, body FROM documents WHERE kind = ?1 AND key = ?2")?
                .query_row(params![kind, key], doc)
                .optional()
        })
    }

    fn find(&self, kind: &str, index: &str, value: &str) -> Result<Vec<Doc>, StoreError> {
        if self.at_hand(kind) {
            return Ok(self.held().find(kind, index, value));
        }
        self.readers.with(|conn| {
            conn.prepare_cached(
                "SELECT d.kind, d.key, d.rev, d.body FROM indexes i JOIN documents d ON d.kind = i.kind AND d.key = i.key
                 WHERE i.kind = ?1 AND i.name = ?2 AND i.value = ?3 ORDER BY i.key",
            )?
            .query_map(params![kind, index, value], doc)?
            .collect()
        })
    }

    fn heads(&self, kind: &str, len: u32) -> Result<Vec<Bytes>, StoreError> {
        if self.at_hand(kind) {
            return Ok(self.held().heads(kind, len as usize));
        }
        self.readers.with(|conn| {
            conn.prepare_cached("SELECT DISTINCT substr(body, 1, ?2) FROM documents WHERE kind = ?1")?
                .query_map(params![kind, len], |row| row.get::<_, Vec<u8>>(0).map(Bytes::from))?
                .collect()
        })
    }

    fn list(&self, kind: &str) -> Result<Vec<Doc>, StoreError> {
        if self.at_hand(kind) {
            return Ok(self.held().list(kind));
        }
        self.readers.with(|conn| {
            conn.prepare_cached("SELECT kind, key, rev, body FROM documents WHERE kind = ?1 ORDER BY key")?
                .query_map(params![kind], doc)?
                .collect()
        })
    }

    fn count(&self, kind: &str) -> Result<u64, StoreError> {
        if self.at_hand(kind) {
            return Ok(self.held().count(kind));
        }
        self.readers.with(|conn| {
            conn.prepare_cached("SELECT count(*) FROM documents WHERE kind = ?1")?
                .query_row(params![kind], |row| row.get::<_, i64>(0))
                .map(i64::cast_unsigned)
        })
    }

    fn at_hand(&self, kind: &str) -> bool {
        !self.cold.contains(kind)
    }

    fn changed(&self, kind: &str) -> Rev {
        let held = self.held();
        if self.at_hand(kind) {
            held.changed(kind)
        } else {
            held.rev()
        }
    }

    fn announce(&self) -> Announced {
        self.queue.announce()
    }

    fn submit(&self, txn: Txn) -> Pending {
        Pending(Box::new(queue::Submitted::new(&self.queue, txn)))
    }

    fn commit(&self, txn: Txn) -> Result<Rev, StoreError> {
        if self.queue.is_quiet() {
            let free = match self.writer.try_lock() {
                Ok(writer) => Some(writer),
                Err(TryLockError::Poisoned(writer)) => Some(writer.into_inner()),
                Err(TryLockError::WouldBlock) => None,
            };
            if let Some(mut writer) = free {
                return writer.at_once(&self.queue, txn);
            }
        }
        self.submit(txn).wait()
    }

    fn watch(&self) -> broadcast::Receiver<Arc<Committed>> {
        self.feed.subscribe()
    }

    fn events(&self, after: Rev, limit: usize) -> Result<History, StoreError> {
        let from = i64::try_from(after.0).unwrap_or(i64::MAX);
        let limit = i64::try_from(limit.max(1)).unwrap_or(i64::MAX);
        self.readers.with(|conn| {
            // One read transaction: trimming in between would go unnoticed otherwise.
            let tx = conn.unchecked_transaction()?;
            let forgotten: i64 = tx
                .prepare_cached("SELECT value FROM meta WHERE name = 'history-after'")?
                .query_row([], |row| row.get(0))?;
            let events = tx
                .prepare_cached(
                    "SELECT rev, at_s, at_ns, kind, action, key, principal, object, original FROM events
                     WHERE seq >= ?1 AND seq >> 24 <= ifnull(
                        (SELECT rev FROM events WHERE seq >= ?1 ORDER BY seq LIMIT 1 OFFSET ?2 - 1), 9223372036854775807)
                     ORDER BY seq",
                )?
                .query_map(params![first_seq(from.saturating_add(1)), limit], committed)?
                .collect::<Result<_, _>>()?;
            Ok(History {
                events,
                gap: from < forgotten,
            })
        })
    }

    fn rev(&self) -> Result<Rev, StoreError> {
        Ok(self.held().rev())
    }

    fn note(&self, entry: Audit) {
        self.queue.note(entry);
    }

    fn audit(&self, query: &AuditQuery) -> Result<Vec<Audited>, StoreError> {
        self.readers.with(|conn| audit::read(conn, query))
    }

    fn claim(&self, kind: &str, key: &str, holder: &str, seconds: u64) -> Result<Option<Lease>, StoreError> {
        self.ask(|reply| Command::Claim {
            kind: kind.to_owned(),
            key: key.to_owned(),
            holder: holder.to_owned(),
            seconds,
            reply,
        })
    }

    fn renew(&self, lease: &Lease, seconds: u64) -> Result<bool, StoreError> {
        self.ask(|reply| Command::Extend {
            lease: lease.clone(),
            seconds: Some(seconds),
            reply,
        })
    }

    fn release(&self, lease: &Lease) -> Result<bool, StoreError> {
        self.ask(|reply| Command::Extend {
            lease: lease.clone(),
            seconds: None,
            reply,
        })
    }
}

fn doc(row: &Row<'_>) -> rusqlite::Result<Doc> {
    Ok(Doc {
        kind: row.get(0)?,
        key: row.get(1)?,
        rev: Rev(row.get::<_, i64>(2)?.cast_unsigned()),
        body: Bytes::from(row.get::<_, Vec<u8>>(3)?),
    })
}

fn committed(row: &Row<'_>) -> rusqlite::Result<Committed> {
    let at_ns = i128::from(row.get::<_, i64>(1)?) * 1_000_000_000 + i128::from(row.get::<_, i64>(2)?);
    Ok(Committed {
        rev: Rev(row.get::<_, i64>(0)?.cast_unsigned()),
        at_ns,
        event: Event {
            kind: row.get(3)?,
            action: row.get(4)?,
            key: row.get(5)?,
            principal: row.get(6)?,
            object: row.get::<_, Option<Vec<u8>>>(7)?.map(Bytes::from),
            original: row.get::<_, Option<Vec<u8>>>(8)?.map(Bytes::from),
        },
    })
}

/// The read connections.
#[derive(Debug)]
struct Readers {
    place: Place,
    idle: Mutex<Vec<Connection>>,
    returned: Condvar,
    /// A database in memory has no WAL: its readers and its writer take turns.
    gate: Option<Arc<RwLock<()>>>,
}

impl Readers {
    fn with<T>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        let lent = Lent {
            readers: self,
            conn: Some(self.take()),
        };
        let _turn = self
            .gate
            .as_ref()
            .map(|gate| gate.read().unwrap_or_else(PoisonError::into_inner));
        match &lent.conn {
            Some(conn) => read(conn).map_err(|e| self.place.failed(&e)),
            None => Err(StoreError::Closed),
        }
    }

    fn take(&self) -> Connection {
        let mut idle = self.lock();
        loop {
            if let Some(conn) = idle.pop() {
                return conn;
            }
            idle = self.returned.wait(idle).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Connection>> {
        // The list is whole after every push and pop, so a panic elsewhere does not matter.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that goes back whatever happens.
struct Lent<'a> {
    readers: &'a Readers,
    conn: Option<Connection>,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take() {
            self.readers.lock().push(conn);
            self.readers.returned.notify_one();
        }
    }
}
