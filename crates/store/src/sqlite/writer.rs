//! The one writer.

use std::sync::{Arc, PoisonError, RwLock};

use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::{broadcast, oneshot};

use super::audit::AuditRows;
use super::queue::{Command, Group, Queue};
use super::schema::{read_meta, write_meta};
use super::{Place, StoreOptions};
use crate::{Audit, Committed, Expect, Lease, Put, Rev, StoreError, Txn};

pub(super) struct Writer {
    conn: Connection,
    place: Place,
    options: StoreOptions,
    feed: broadcast::Sender<Arc<Committed>>,
    gate: Option<Arc<RwLock<()>>>,
    rev: u64,
    /// Time of the last group; the wall clock may go back, the feed does not.
    at_ns: i128,
    history: History,
    audit: AuditRows,
}

/// How much the events table holds.
#[derive(Clone, Copy, Default)]
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
    ) -> Result<Self, StoreError> {
        let read = || -> rusqlite::Result<(u64, History, AuditRows)> {
            let rev = read_meta(&conn, "rev")?.cast_unsigned();
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
        Ok(Self {
            conn,
            place,
            options,
            feed,
            gate,
            rev,
            at_ns: i128::MIN,
            history,
            audit,
        })
    }

    pub(super) fn run(mut self, queue: &Queue) {
        while let Some(Group { commands, notes }) = queue.take(self.options.group) {
            if !self.group(commands, &notes) {
                queue.put_back(notes);
            }
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
        let outcome = self.write(commands, notes, &mut replies, &mut told);
        let written = outcome.is_ok();
        if !written {
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
        let mut broken = self.conn.execute_batch("BEGIN IMMEDIATE").err();
        for command in commands {
            // A group that broke in the middle fails as a whole: its later members are not tried any more.
            match command {
                Command::Commit { txn, reply } => {
                    let result = self.piece(&mut broken, |w| w.commit(&txn));
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
                    let result = self.piece(&mut broken, |w| Ok(w.claim(kind, key, &holder, seconds)?));
                    replies.push(Reply::Claim(reply, result));
                }
                Command::Extend { lease, seconds, reply } => {
                    let result = self.piece(&mut broken, |w| Ok(w.extend(&lease, seconds)?));
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
        write_meta(&self.conn, "rev", self.rev.cast_signed())?;
        self.conn.execute_batch("COMMIT")
    }

    /// One member of the group, in its savepoint.
    fn piece<T>(
        &mut self,
        broken: &mut Option<rusqlite::Error>,
        work: impl FnOnce(&mut Self) -> Result<T, Failed>,
    ) -> Result<T, StoreError> {
        if broken.is_some() {
            return Err(StoreError::Closed);
        }
        let before = (self.rev, self.history, self.audit);
        let tried = self.conn.execute_batch("SAVEPOINT piece").map_err(Failed::Sqlite);
        let tried = tried.and_then(|()| {
            let done = work(self)?;
            self.conn.execute_batch("RELEASE piece")?;
            Ok(done)
        });
        match tried {
            Ok(done) => Ok(done),
            Err(failed) => {
                (self.rev, self.history, self.audit) = before;
                let undone = self.conn.execute_batch("ROLLBACK TO piece; RELEASE piece");
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
        let conditions = txn.puts.iter().map(|p| (&p.kind, &p.key, p.expect));
        for (kind, key, expect) in conditions.chain(txn.deletes.iter().map(|d| (&d.kind, &d.key, d.expect))) {
            self.check(kind, key, expect)?;
        }
        self.rev += 1;
        let rev = self.rev.cast_signed();
        for delete in &txn.deletes {
            self.conn
                .prepare_cached("DELETE FROM documents WHERE kind = ?1 AND key = ?2")?
                .execute(params![delete.kind, delete.key])?;
            self.clear_indexes(&delete.kind, &delete.key)?;
        }
        // All old index values go before the first new one comes, so that two documents may trade theirs.
        for put in &txn.puts {
            self.clear_indexes(&put.kind, &put.key)?;
        }
        for put in &txn.puts {
            self.put(put, rev)?;
        }
        for event in &txn.events {
            let (at_s, at_ns) = (
                self.at_ns.div_euclid(1_000_000_000),
                self.at_ns.rem_euclid(1_000_000_000),
            );
            self.conn
                .prepare_cached(
                    "INSERT INTO events (rev, at_s, at_ns, kind, action, key, principal, object, original)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
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
        Ok(Rev(self.rev))
    }

    /// The time of the group, as far as the table can say it: until the year 2262.
    fn wall_ns(&self) -> i64 {
        i64::try_from(self.at_ns).unwrap_or(i64::MAX)
    }

    fn check(&self, kind: &str, key: &str, expect: Expect) -> Result<(), Failed> {
        if expect == Expect::Any {
            return Ok(());
        }
        let found: Option<i64> = self
            .conn
            .prepare_cached("SELECT rev FROM documents WHERE kind = ?1 AND key = ?2")?
            .query_row(params![kind, key], |row| row.get(0))
            .optional()?;
        let holds = match expect {
            Expect::Any => true,
            Expect::Absent => found.is_none(),
            Expect::Rev(rev) => found == Some(rev.0.cast_signed()),
        };
        if holds {
            return Ok(());
        }
        Err(Failed::Refused(StoreError::Conflict {
            kind: kind.to_owned(),
            key: key.to_owned(),
        }))
    }

    fn clear_indexes(&self, kind: &str, key: &str) -> rusqlite::Result<()> {
        self.conn
            .prepare_cached("DELETE FROM indexes WHERE kind = ?1 AND key = ?2")?
            .execute(params![kind, key])
            .map(|_| ())
    }

    fn put(&self, put: &Put, rev: i64) -> Result<(), Failed> {
        self.conn
            .prepare_cached(
                "INSERT INTO documents (kind, key, rev, body) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (kind, key) DO UPDATE SET rev = excluded.rev, body = excluded.body",
            )?
            .execute(params![put.kind, put.key, rev, put.body.as_ref()])?;
        // Again, for a key that the transaction writes twice.
        self.clear_indexes(&put.kind, &put.key)?;
        for index in &put.indexes {
            if index.unique {
                let holder: Option<String> = self
                    .conn
                    .prepare_cached(
                        "SELECT key FROM indexes WHERE kind = ?1 AND name = ?2 AND value = ?3 AND uniq AND key <> ?4",
                    )?
                    .query_row(params![put.kind, index.name, index.value, put.key], |row| row.get(0))
                    .optional()?;
                if let Some(holder) = holder {
                    return Err(Failed::Refused(StoreError::Taken {
                        kind: put.kind.clone(),
                        index: index.name.to_owned(),
                        value: index.value.clone(),
                        holder,
                    }));
                }
            }
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
                .prepare_cached("DELETE FROM events WHERE rev <= ?1")?
                .execute([rev])?;
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
