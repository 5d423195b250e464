//! The one writer.

use std::sync::{Arc, PoisonError, RwLock};

use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::{broadcast, oneshot};

use super::audit::AuditRows;
use super::held::{Held, Seen, Staged, Written, encoded};
use super::queue::{Command, Group, Queue};
use super::schema::{MOST_EVENTS, first_seq, last_rev, read_meta, write_meta};
use super::{Place, StoreOptions};
use crate::{Audit, Committed, Expect, Lease, Put, Rev, StoreError, Txn};

/// Pages in the log from which on they are brought home, by SQLite's own measure: a short log is written over and over
/// again, which the disk likes best.
const CHECKPOINT: u32 = 1_000;
/// The same while groups are large: one fsync serves many then, and bringing pages home, three fsyncs, would be most of
/// what is waited for.
const CHECKPOINT_OF_CROWD: u32 = 8_000;
/// Transactions in a large group.
const LARGE: usize = 8;

#[derive(Debug)]
pub(super) struct Writer {
    conn: Connection,
    place: Place,
    options: StoreOptions,
    feed: broadcast::Sender<Arc<Committed>>,
    gate: Option<Arc<RwLock<()>>>,
    held: Arc<RwLock<Held>>,
    /// What the group has done so far to documents that are held.
    staged: Staged,
    /// The largest number of a row of documents that are held.
    last_id: i64,
    rev: u64,
    /// Time of the last group; the wall clock may go back, the feed does not.
    at_ns: i128,
    history: History,
    audit: AuditRows,
    checkpoint: u32,
}

/// How much the events table holds.
#[derive(Clone, Copy, Debug, Default)]
struct History {
    events: u64,
    bytes: u64,
}

/// An answer that waits for the group's commit.
enum Reply {
    Commit(oneshot::Sender<Result<Rev, StoreError>>, Result<Rev, StoreError>),
    Claim(
        oneshot::Sender<Result<Option<Lease>, StoreError>>,
        Result<Option<Lease>, StoreError>,
    ),
    Extend(oneshot::Sender<Result<bool, StoreError>>, Result<bool, StoreError>),
}

impl Reply {
    /// Tells the caller. One that has stopped waiting is no concern of ours.
    fn send(self, failed: Option<StoreError>) {
        fn settle<T>(
            to: oneshot::Sender<Result<T, StoreError>>,
            result: Result<T, StoreError>,
            failed: Option<StoreError>,
        ) {
            let _ = to.send(failed.map_or(result, Err));
        }
        match self {
            Reply::Commit(to, result) => settle(to, result, failed),
            Reply::Claim(to, result) => settle(to, result, failed),
            Reply::Extend(to, result) => settle(to, result, failed),
        }
    }
}

/// Why one piece of a group did not go through.
enum Failed {
    /// Its own fault.
    Refused(StoreError),
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for Failed {
    fn from(error: rusqlite::Error) -> Self {
        Failed::Sqlite(error)
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Failed::Refused(error)
    }
}

impl Writer {
    pub(super) fn new(
        conn: Connection,
        place: Place,
        options: StoreOptions,
        feed: broadcast::Sender<Arc<Committed>>,
        gate: Option<Arc<RwLock<()>>>,
        held: Arc<RwLock<Held>>,
    ) -> Result<Self, StoreError> {
        let read = || -> rusqlite::Result<(u64, History, AuditRows)> {
            let rev = last_rev(&conn)?.cast_unsigned();
            let history = conn.query_row(
                "SELECT count(*), ifnull(sum(ifnull(length(object), 0) + ifnull(length(original), 0)), 0) FROM events",
                [],
                |row| {
                    Ok(History {
                        events: row.get::<_, i64>(0)?.cast_unsigned(),
                        bytes: row.get::<_, i64>(1)?.cast_unsigned(),
                    })
                },
            )?;
            Ok((rev, history, AuditRows::count(&conn)?))
        };
        let (rev, history, audit) = read().map_err(|e| place.failed(&e))?;
        let last_id = held.read().unwrap_or_else(PoisonError::into_inner).last_id();
        Ok(Self {
            conn,
            place,
            options,
            feed,
            gate,
            last_id,
            held,
            staged: Staged::default(),
            rev,
            at_ns: i128::MIN,
            history,
            audit,
            checkpoint: 0,
        })
    }

    /// Writes what waits in the queue.
    pub(super) fn drain(&mut self, queue: &Queue) {
        let group = queue.take(self.options.group);
        self.done(queue, group);
    }

    /// Writes a transaction, and what waits in the queue with it, on the caller's thread.
    pub(super) fn at_once(&mut self, queue: &Queue, txn: Txn) -> Result<Rev, StoreError> {
        let mut group = queue.take(self.options.group);
        let (reply, mut answer) = oneshot::channel();
        group.commands.push(Command::Commit { txn, reply });
        self.done(queue, group);
        answer.try_recv().unwrap_or(Err(StoreError::Closed))
    }

    fn done(&mut self, queue: &Queue, Group { commands, notes }: Group) {
        let checkpoint = if commands.len() >= LARGE {
            CHECKPOINT_OF_CROWD
        } else {
            CHECKPOINT
        };
        if checkpoint != self.checkpoint
            && let Ok(()) = self.conn.pragma_update(None, "wal_autocheckpoint", checkpoint)
        {
            self.checkpoint = checkpoint;
        }
        if !self.group(commands, &notes) {
            queue.put_back(notes);
        }
    }

    /// Whether it was written.
    fn group(&mut self, commands: Vec<Command>, notes: &[(Audit, u32)]) -> bool {
        let gate = self.gate.clone();
        let turn = gate
            .as_ref()
            .map(|gate| gate.write().unwrap_or_else(PoisonError::into_inner));
        let before = (self.rev, self.history, self.audit);
        self.at_ns = self.options.clock.now_ns().max(self.at_ns);
        let mut replies = Vec::with_capacity(commands.len());
        let mut told = Vec::new();
        self.staged = Staged::default();
        let outcome = self.write(commands, notes, &mut replies, &mut told);
        let written = outcome.is_ok();
        let staged = std::mem::take(&mut self.staged);
        if written {
            let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
            held.apply(staged.into_changes(), self.rev);
        } else {
            (self.rev, self.history, self.audit) = before;
            if !self.conn.is_autocommit()
                && let Err(e) = self.conn.execute_batch("ROLLBACK")
            {
                tracing::error!(error = %e, "the database could not roll back");
            }
        }
        drop(turn);
        match outcome {
            Ok(()) => {
                for event in told {
                    // Nobody may be watching.
                    let _ = self.feed.send(Arc::new(event));
                }
                replies.into_iter().for_each(|reply| reply.send(None));
            }
            Err(e) => {
                tracing::error!(error = %e, transactions = replies.len(), "a group of transactions was not written");
                for reply in replies {
                    let failed = self.place.failed(&e);
                    reply.send(Some(failed));
                }
            }
        }
        written
    }

    /// One database transaction. `replies` holds an entry for each command even when it fails.
    fn write(
        &mut self,
        commands: Vec<Command>,
        notes: &[(Audit, u32)],
        replies: &mut Vec<Reply>,
        told: &mut Vec<Committed>,
    ) -> rusqlite::Result<()> {
        let mut broken = self.begin().err();
        for command in commands {
            // A group that broke in the middle fails as a whole: its later members are not tried any more.
            match command {
                Command::Commit { txn, reply } => {
                    // Whatever else is refused is refused before it has written anything.
                    let apart = txn
                        .puts
                        .iter()
                        .any(|put| self.options.is_cold(&put.kind) && put.indexes.iter().any(|index| index.unique));
                    let result = self.piece(&mut broken, apart, |w| w.commit(&txn));
                    if result.is_ok() {
                        let rev = Rev(self.rev);
                        told.extend(txn.events.into_iter().map(|event| Committed {
                            rev,
                            at_ns: self.at_ns,
                            event,
                        }));
                    }
                    replies.push(Reply::Commit(reply, result));
                }
                Command::Claim {
                    kind,
                    key,
                    holder,
                    seconds,
                    reply,
                } => {
                    let result = self.piece(&mut broken, true, |w| Ok(w.claim(kind, key, &holder, seconds)?));
                    replies.push(Reply::Claim(reply, result));
                }
                Command::Extend { lease, seconds, reply } => {
                    let result = self.piece(&mut broken, true, |w| Ok(w.extend(&lease, seconds)?));
                    replies.push(Reply::Extend(reply, result));
                }
            }
        }
        if let Some(error) = broken {
            return Err(error);
        }
        for (entry, times) in notes {
            self.audit.add(&self.conn, self.wall_ns(), entry, *times)?;
        }
        self.trim()?;
        self.audit.trim(&self.conn, self.wall_ns(), &self.options)?;
        self.conn.prepare_cached("COMMIT")?.execute([]).map(drop)
    }

    fn begin(&self) -> rusqlite::Result<()> {
        if !self.conn.is_autocommit() {
            // A thread panicked in the middle of a group.
            self.conn.execute_batch("ROLLBACK")?;
        }
        self.conn.prepare_cached("BEGIN IMMEDIATE")?.execute([]).map(drop)
    }

    /// One member of the group; `apart`: in a savepoint, as it may be refused after it has written something.
    fn piece<T>(
        &mut self,
        broken: &mut Option<rusqlite::Error>,
        apart: bool,
        work: impl FnOnce(&mut Self) -> Result<T, Failed>,
    ) -> Result<T, StoreError> {
        if broken.is_some() {
            return Err(StoreError::Closed);
        }
        let before = (self.rev, self.history, self.audit);
        let began = if apart {
            self.conn.execute_batch("SAVEPOINT piece")
        } else {
            Ok(())
        };
        let tried = began.map_err(Failed::Sqlite).and_then(|()| {
            let done = work(self)?;
            if apart {
                self.conn.execute_batch("RELEASE piece")?;
            }
            Ok(done)
        });
        match tried {
            Ok(done) => Ok(done),
            Err(failed) => {
                (self.rev, self.history, self.audit) = before;
                let undone = if apart {
                    self.conn.execute_batch("ROLLBACK TO piece; RELEASE piece")
                } else {
                    Ok(())
                };
                let (result, error) = match failed {
                    Failed::Refused(refused) => (refused, undone.err()),
                    Failed::Sqlite(e) => (self.place.failed(&e), Some(e)),
                };
                *broken = error;
                Err(result)
            }
        }
    }

    fn commit(&mut self, txn: &Txn) -> Result<Rev, Failed> {
        for fence in &txn.fences {
            if !self.holds(fence)? {
                return Err(Failed::Refused(StoreError::LeaseLost {
                    kind: fence.kind.clone(),
                    key: fence.key.clone(),
                }));
            }
        }
        let held = Arc::clone(&self.held);
        // Only this thread writes it, and it does so between groups.
        let held = held.read().unwrap_or_else(PoisonError::into_inner);
        if txn.events.len() > MOST_EVENTS {
            let text = format!(
                "a transaction has {} events: {MOST_EVENTS} can be numbered",
                txn.events.len()
            );
            return Err(Failed::Refused(StoreError::Backend(text)));
        }
        let (mut staged, none) = (Staged::default(), Staged::default());
        let rev = self.rev + 1;
        self.check_all(txn, &held)?;
        let before = Seen {
            held: &held,
            layers: [&self.staged, &none],
        };
        let row_before = |kind: &str, key: &str| before.row(kind, key).map(|(id, _)| id);
        let mut gone = Vec::new();
        for delete in txn.deletes.iter().filter(|d| !self.options.is_cold(&d.kind)) {
            gone.extend(row_before(&delete.kind, &delete.key));
            staged.change(&delete.kind, &delete.key, None);
        }
        // All old index values go before the first new one comes, so that two documents may trade theirs.
        let puts = || txn.puts.iter().filter(|put| !self.options.is_cold(&put.kind));
        for put in puts() {
            staged.change(&put.kind, &put.key, None);
        }
        let (mut rows, mut new_rows) = (Vec::new(), 0);
        for put in puts() {
            let seen = Seen {
                held: &held,
                layers: [&self.staged, &staged],
            };
            refuse_taken(put, |index, value| Ok(seen.owner(&put.kind, index, value)))?;
            // A key that the transaction writes twice is one row.
            let own = seen.row(&put.kind, &put.key).map(|(id, _)| id);
            let id = own.or_else(|| row_before(&put.kind, &put.key)).unwrap_or_else(|| {
                new_rows += 1;
                self.last_id + new_rows
            });
            rows.push(id);
            let written = Written {
                id,
                rev,
                body: put.body.clone(),
                entries: put.indexes.clone(),
            };
            staged.change(&put.kind, &put.key, Some(written));
        }
        drop(held);
        self.rev = rev;
        self.last_id += new_rows;
        let rev = rev.cast_signed();
        for id in gone {
            self.conn
                .prepare_cached("DELETE FROM held WHERE id = ?1")?
                .execute([id])?;
        }
        for (put, id) in puts().zip(rows) {
            let entries = put.indexes.iter().map(|e| (e.name, e.value.as_str(), e.unique));
            self.conn
                .prepare_cached(
                    "INSERT INTO held (id, kind, key, rev, body, entries) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                     ON CONFLICT (id) DO UPDATE SET rev = excluded.rev, body = excluded.body, entries = excluded.entries",
                )?
                .execute(params![id, put.kind, put.key, rev, put.body.as_ref(), encoded(entries)])?;
        }
        let is_cold = |kind: &str| self.options.is_cold(kind);
        for delete in txn.deletes.iter().filter(|delete| is_cold(&delete.kind)) {
            self.conn
                .prepare_cached("DELETE FROM documents WHERE kind = ?1 AND key = ?2")?
                .execute(params![delete.kind, delete.key])?;
            self.clear_indexes(&delete.kind, &delete.key)?;
        }
        for put in txn.puts.iter().filter(|put| is_cold(&put.kind)) {
            self.clear_indexes(&put.kind, &put.key)?;
        }
        for put in txn.puts.iter().filter(|put| is_cold(&put.kind)) {
            self.put_cold(put, rev)?;
        }
        for (n, event) in txn.events.iter().enumerate() {
            let seq = first_seq(rev) + i64::try_from(n).unwrap_or(i64::MAX);
            let (at_s, at_ns) = (
                self.at_ns.div_euclid(1_000_000_000),
                self.at_ns.rem_euclid(1_000_000_000),
            );
            self.conn
                .prepare_cached(
                    "INSERT INTO events (rev, at_s, at_ns, kind, action, key, principal, object, original, seq)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
                )?
                .execute(params![
                    rev,
                    i64::try_from(at_s).unwrap_or(i64::MAX),
                    i64::try_from(at_ns).unwrap_or(0),
                    event.kind,
                    event.action,
                    event.key,
                    event.principal,
                    event.object.as_deref(),
                    event.original.as_deref(),
                    seq,
                ])?;
            self.history.events += 1;
            self.history.bytes += [&event.object, &event.original]
                .into_iter()
                .flatten()
                .map(|b| b.len() as u64)
                .sum::<u64>();
        }
        for entry in &txn.audit {
            self.audit.add(&self.conn, self.wall_ns(), entry, 1)?;
        }
        self.staged.take(staged);
        Ok(Rev(self.rev))
    }

    /// The time of the group, as far as the table can say it: until the year 2262.
    fn wall_ns(&self) -> i64 {
        i64::try_from(self.at_ns).unwrap_or(i64::MAX)
    }

    /// Whether all conditions of a transaction hold.
    fn check_all(&self, txn: &Txn, held: &Held) -> Result<(), Failed> {
        let conditions = txn.puts.iter().map(|p| (&p.kind, &p.key, p.expect));
        for (kind, key, expect) in conditions.chain(txn.deletes.iter().map(|d| (&d.kind, &d.key, d.expect))) {
            let found = match expect {
                Expect::Any => continue,
                _ if self.options.is_cold(kind) => self.stored_rev(kind, key)?,
                _ => {
                    let layers = [&self.staged, &Staged::default()];
                    Seen { held, layers }.row(kind, key).map(|(_, rev)| rev)
                }
            };
            let holds = match expect {
                Expect::Any => true,
                Expect::Absent => found.is_none(),
                Expect::Rev(rev) => found == Some(rev.0),
            };
            if !holds {
                return Err(Failed::Refused(StoreError::Conflict {
                    kind: kind.to_owned(),
                    key: key.to_owned(),
                }));
            }
        }
        Ok(())
    }

    fn stored_rev(&self, kind: &str, key: &str) -> rusqlite::Result<Option<u64>> {
        self.conn
            .prepare_cached("SELECT rev FROM documents WHERE kind = ?1 AND key = ?2")?
            .query_row(params![kind, key], |row| row.get::<_, i64>(0))
            .optional()
            .map(|rev| rev.map(i64::cast_unsigned))
    }

    fn clear_indexes(&self, kind: &str, key: &str) -> rusqlite::Result<()> {
        self.conn
            .prepare_cached("DELETE FROM indexes WHERE kind = ?1 AND key = ?2")?
            .execute(params![kind, key])
            .map(|_| ())
    }

    fn put_cold(&self, put: &Put, rev: i64) -> Result<(), Failed> {
        self.conn
            .prepare_cached(
                "INSERT INTO documents (kind, key, rev, body) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (kind, key) DO UPDATE SET rev = excluded.rev, body = excluded.body",
            )?
            .execute(params![put.kind, put.key, rev, put.body.as_ref()])?;
        // Again, for a key that the transaction writes twice.
        self.clear_indexes(&put.kind, &put.key)?;
        refuse_taken(put, |index, value| {
            let holder = self
                .conn
                .prepare_cached(
                    "SELECT key FROM indexes WHERE kind = ?1 AND name = ?2 AND value = ?3 AND uniq AND key <> ?4",
                )?
                .query_row(params![put.kind, index, value, put.key], |row| row.get(0))
                .optional()?;
            Ok(holder)
        })?;
        for index in &put.indexes {
            self.conn
                .prepare_cached(
                    "INSERT OR REPLACE INTO indexes (kind, key, name, value, uniq) VALUES (?1, ?2, ?3, ?4, ?5)",
                )?
                .execute(params![put.kind, put.key, index.name, index.value, index.unique])?;
        }
        Ok(())
    }

    /// Forgets the oldest events above the limits, whole commits only.
    fn trim(&mut self) -> rusqlite::Result<()> {
        let over = |h: &History, o: &StoreOptions| h.events > o.history_events || h.bytes > o.history_bytes;
        if !over(&self.history, &self.options) {
            return Ok(());
        }
        // A sixteenth more than needed, so that not every commit has to.
        let (events, bytes) = (self.options.history_events, self.options.history_bytes);
        let (events, bytes) = (events - events / 16, bytes - bytes / 16);
        let mut last = None;
        {
            let mut oldest = self.conn.prepare_cached(
                "SELECT rev, ifnull(length(object), 0) + ifnull(length(original), 0) FROM events ORDER BY seq",
            )?;
            let mut rows = oldest.query([])?;
            while let Some(row) = rows.next()? {
                let rev: i64 = row.get(0)?;
                if self.history.events <= events && self.history.bytes <= bytes && last != Some(rev) {
                    break;
                }
                last = Some(rev);
                self.history.events -= 1;
                self.history.bytes -= row.get::<_, i64>(1)?.cast_unsigned();
            }
        }
        if let Some(rev) = last {
            self.conn
                .prepare_cached("DELETE FROM events WHERE seq < ?1")?
                .execute([first_seq(rev + 1)])?;
            write_meta(&self.conn, "history-after", rev)?;
        }
        Ok(())
    }

    fn steady(&self) -> i64 {
        // Never 0, which means "free".
        i64::try_from(self.options.clock.steady_ns()).unwrap_or(i64::MAX).max(1)
    }

    fn until(&self, seconds: u64) -> i64 {
        let ns = i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000_000_000);
        self.steady().saturating_add(ns)
    }

    fn holds(&self, lease: &Lease) -> rusqlite::Result<bool> {
        self.conn
            .prepare_cached("SELECT fence = ?3 AND until > ?4 FROM leases WHERE kind = ?1 AND key = ?2")?
            .query_row(
                params![lease.kind, lease.key, lease.fence.cast_signed(), self.steady()],
                |row| row.get(0),
            )
            .optional()
            .map(|held| held.unwrap_or(false))
    }

    fn claim(&self, kind: String, key: String, holder: &str, seconds: u64) -> rusqlite::Result<Option<Lease>> {
        let until: Option<i64> = self
            .conn
            .prepare_cached("SELECT until FROM leases WHERE kind = ?1 AND key = ?2")?
            .query_row(params![kind, key], |row| row.get(0))
            .optional()?;
        if until.is_some_and(|until| until > self.steady()) {
            return Ok(None);
        }
        // One counter for all: rows of released leases need not be kept for the fence to grow.
        let fence = read_meta(&self.conn, "fence")? + 1;
        write_meta(&self.conn, "fence", fence)?;
        self.conn
            .prepare_cached(
                "INSERT OR REPLACE INTO leases (kind, key, fence, holder, until) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![kind, key, fence, holder, self.until(seconds)])?;
        Ok(Some(Lease {
            kind,
            key,
            fence: fence.cast_unsigned(),
        }))
    }

    fn extend(&self, lease: &Lease, seconds: Option<u64>) -> rusqlite::Result<bool> {
        if !self.holds(lease)? {
            return Ok(false);
        }
        match seconds {
            Some(seconds) => self
                .conn
                .prepare_cached("UPDATE leases SET until = ?3 WHERE kind = ?1 AND key = ?2")?
                .execute(params![lease.kind, lease.key, self.until(seconds)])?,
            None => self
                .conn
                .prepare_cached("DELETE FROM leases WHERE kind = ?1 AND key = ?2")?
                .execute(params![lease.kind, lease.key])?,
        };
        Ok(true)
    }
}

/// Refuses a document whose unique values belong to others.
fn refuse_taken(put: &Put, owner: impl Fn(&'static str, &str) -> Result<Option<String>, Failed>) -> Result<(), Failed> {
    for entry in put.indexes.iter().filter(|entry| entry.unique) {
        if let Some(holder) = owner(entry.name, &entry.value)?.filter(|holder| *holder != put.key) {
            return Err(Failed::Refused(StoreError::Taken {
                kind: put.kind.clone(),
                index: entry.name.to_owned(),
                value: entry.value.clone(),
                holder,
            }));
        }
    }
    Ok(())
}
