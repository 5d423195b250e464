//! Tables, and how they came about.

use rusqlite::{Connection, TransactionBehavior};

use super::StoreOptions;

/// One step a version, applied in order to an older database. A released step is never edited.
const MIGRATIONS: &[&str] = &[
    "
CREATE TABLE documents (
    kind TEXT NOT NULL,
    key  TEXT NOT NULL,
    rev  INTEGER NOT NULL,
    body BLOB NOT NULL,
    UNIQUE (kind, key)
);
CREATE TABLE indexes (
    kind  TEXT NOT NULL,
    key   TEXT NOT NULL,
    name  TEXT NOT NULL,
    value TEXT NOT NULL,
    uniq  INTEGER NOT NULL,
    PRIMARY KEY (kind, key, name, value)
) WITHOUT ROWID;
CREATE INDEX indexes_value ON indexes (kind, name, value, key);
CREATE UNIQUE INDEX indexes_unique ON indexes (kind, name, value) WHERE uniq;
CREATE TABLE events (
    seq       INTEGER PRIMARY KEY,
    rev       INTEGER NOT NULL,
    at_s      INTEGER NOT NULL,
    at_ns     INTEGER NOT NULL,
    kind      TEXT NOT NULL,
    action    TEXT NOT NULL,
    key       TEXT NOT NULL,
    principal TEXT NOT NULL,
    object    BLOB,
    original  BLOB
);
CREATE INDEX events_rev ON events (rev);
CREATE TABLE leases (
    kind   TEXT NOT NULL,
    key    TEXT NOT NULL,
    fence  INTEGER NOT NULL,
    holder TEXT NOT NULL,
    until  INTEGER NOT NULL, -- nanoseconds of the steady clock of the process that has the database open; 0: free
    PRIMARY KEY (kind, key)
) WITHOUT ROWID;
CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO meta VALUES ('rev', 0), ('history-after', 0), ('fence', 0);
",
    "
CREATE TABLE audit (
    seq       INTEGER PRIMARY KEY,
    at_ns     INTEGER NOT NULL,
    class     INTEGER NOT NULL,
    times     INTEGER NOT NULL,
    principal TEXT NOT NULL,
    source    TEXT NOT NULL,
    action    TEXT NOT NULL,
    kind      TEXT NOT NULL,
    key       TEXT NOT NULL,
    detail    TEXT NOT NULL
);
INSERT INTO meta VALUES ('audit-trim', 0); -- 1 while old rows are forgotten
CREATE TRIGGER audit_rows_stay_as_they_are BEFORE UPDATE ON audit
    BEGIN SELECT RAISE(ABORT, 'audit rows are not changed'); END;
CREATE TRIGGER audit_rows_stay BEFORE DELETE ON audit WHEN (SELECT value FROM meta WHERE name = 'audit-trim') = 0
    BEGIN SELECT RAISE(ABORT, 'audit rows are not deleted'); END;
",
    // What is held in memory needs no index to be found by: a commit writes few pages, and none of them at random. The
    // number of an event begins with its revision, which saves another index.
    "
CREATE TABLE held (
    id      INTEGER PRIMARY KEY,
    kind    TEXT NOT NULL,
    key     TEXT NOT NULL,
    rev     INTEGER NOT NULL,
    body    BLOB NOT NULL,
    entries TEXT NOT NULL -- of its indexes
);
ALTER TABLE events RENAME TO events_before;
DROP INDEX events_rev;
CREATE TABLE events (
    seq       INTEGER PRIMARY KEY, -- rev << 24, and its place among those of the revision
    rev       INTEGER NOT NULL,
    at_s      INTEGER NOT NULL,
    at_ns     INTEGER NOT NULL,
    kind      TEXT NOT NULL,
    action    TEXT NOT NULL,
    key       TEXT NOT NULL,
    principal TEXT NOT NULL,
    object    BLOB,
    original  BLOB
);
INSERT INTO events SELECT (rev << 24) + row_number() OVER (PARTITION BY rev ORDER BY seq) - 1,
    rev, at_s, at_ns, kind, action, key, principal, object, original FROM events_before ORDER BY seq;
DROP TABLE events_before;
",
];

/// Schema version that this program writes.
pub(super) const VERSION: u32 = MIGRATIONS.len() as u32;

pub(super) enum Failed {
    TooNew { found: u32 },
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for Failed {
    fn from(error: rusqlite::Error) -> Self {
        Failed::Sqlite(error)
    }
}

/// Brings the writer's connection and the tables into shape.
pub(super) fn prepare(conn: &mut Connection, options: &StoreOptions) -> Result<(), Failed> {
    // Before anything is written: a newer database stays as it is.
    let found: u32 = conn.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if found > VERSION {
        return Err(Failed::TooNew { found });
    }
    // FULL, and the folder is synced when the journal of the first write, which has no log yet, is removed: one that
    // came back after a power loss would roll the whole database back. Costs nothing once there is a log.
    conn.pragma_update(None, "synchronous", "EXTRA")?;
    conn.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    // A burst makes the log long; this gives the room back.
    conn.pragma_update(None, "journal_size_limit", 64 << 20)?;
    if let Some(max) = options.max_bytes {
        let page: u64 =
            conn.pragma_query_value(None, "page_size", |row| row.get::<_, i64>(0).map(i64::cast_unsigned))?;
        let pages = i64::try_from(max / page.max(1)).unwrap_or(i64::MAX);
        conn.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))?;
    }
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for step in &MIGRATIONS[found as usize..] {
        tx.execute_batch(step)?;
    }
    tx.pragma_update(None, "user_version", VERSION)?;
    // Whoever held a lease is gone: this process has the database to itself.
    tx.execute("UPDATE leases SET until = 0", [])?;
    tx.commit()?;
    Ok(())
}

/// Bits of an event's number that say which one it is of its revision.
const PLACE: u32 = 24;
/// Events of one revision.
pub(super) const MOST_EVENTS: usize = 1 << PLACE;

/// Number of the first event of a revision.
pub(super) fn first_seq(rev: i64) -> i64 {
    rev.saturating_mul(1 << PLACE)
}

/// From this version on there are documents without an index, and no row that counts revisions.
const COUNTED_BEFORE: u32 = 3;

/// The last revision of anything that is kept. It has no row of its own: that would be a page more in every commit.
pub(super) fn last_rev(conn: &Connection) -> rusqlite::Result<i64> {
    let version: u32 = conn.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version < COUNTED_BEFORE {
        return read_meta(conn, "rev");
    }
    conn.query_row(
        "SELECT max(
            (SELECT max(value) FROM meta WHERE name IN ('rev', 'history-after')),
            (SELECT ifnull(max(rev), 0) FROM documents),
            (SELECT ifnull(max(rev), 0) FROM held),
            (SELECT ifnull(max(seq), 0) >> 24 FROM events))",
        [],
        |row| row.get(0),
    )
}

pub(super) fn read_meta(conn: &Connection, name: &str) -> rusqlite::Result<i64> {
    conn.prepare_cached("SELECT value FROM meta WHERE name = ?1")?
        .query_row([name], |row| row.get(0))
}

pub(super) fn write_meta(conn: &Connection, name: &str, value: i64) -> rusqlite::Result<()> {
    conn.prepare_cached("UPDATE meta SET value = ?2 WHERE name = ?1")?
        .execute(rusqlite::params![name, value])
        .map(|_| ())
}
