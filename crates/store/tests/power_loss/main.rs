//! The power goes at any moment: what was acknowledged is there, nothing is there by half, the store opens.
//!
//! What a workload writes and syncs is recorded below SQLite; then the power goes after each of these operations, and
//! writes that were not synced are lost, kept, torn or reordered. `ISOBAR_TEST_FULL=1` tries every prefix of the record,
//! else some, most of them at syncs. `ISOBAR_TEST_SEED` repeats a run.
#![allow(clippy::unwrap_used, unreachable_pub)]

mod disk;
mod vfs;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use disk::{Dice, Disk, Fate};
use isobar_store::{
    Audit, AuditClass, AuditQuery, Delete, Event, Expect, IndexEntry, Put, Rev, SqliteStore, Store, StoreOptions, Txn,
};
use vfs::Op;

const WRITERS: u64 = 3;
/// Enough pages for the log to be merged into the database while they write: SQLite does so at 1,000 pages.
const COMMITS: u64 = 110;
const BODY: usize = 6_000;
/// The store is closed and opened again so often.
const SESSIONS: u64 = 2;
/// Without [`FULL`] one of so many prefixes is tried: of those at a sync, and of those between two writes.
const THINNED: (usize, usize) = (4, 50);
const FULL: &str = "ISOBAR_TEST_FULL";

fn options() -> StoreOptions {
    StoreOptions {
        readers: 1,
        history_events: 100,
        ..StoreOptions::default()
    }
}

fn key(side: &str, commit: u64) -> String {
    format!("{side}-{commit:04}")
}

fn body(commit: u64) -> Vec<u8> {
    let mut body = vec![b'a' + (commit % 26) as u8; BODY];
    body[..8].copy_from_slice(&commit.to_be_bytes());
    body
}

/// Two documents, an index, an event, an audit row, and the removal of a document of an older commit: one of each thing that a commit
/// can do. Every commit also moves a counter on.
fn txn(commit: u64) -> Txn {
    let put = |key: String, body: Vec<u8>, unique: String| Put {
        kind: "machines".into(),
        key,
        body: body.into(),
        expect: Expect::Any,
        indexes: vec![IndexEntry {
            name: "Name",
            value: unique,
            unique: true,
        }],
    };
    let event = Event {
        kind: "machines".into(),
        action: "create".into(),
        key: key("left", commit),
        principal: "test".into(),
        object: Some(commit.to_be_bytes().to_vec().into()),
        original: None,
    };
    let gone = commit.checked_sub(20).map(|old| Delete {
        kind: "machines".into(),
        key: key("old", old),
        expect: Expect::Any,
    });
    Txn {
        puts: vec![
            put(key("left", commit), body(commit), format!("l{commit}")),
            put(key("right", commit), body(commit), format!("r{commit}")),
            put(key("old", commit), vec![0; 100], format!("o{commit}")),
        ],
        deletes: gone.into_iter().collect(),
        events: vec![event],
        audit: vec![Audit {
            class: AuditClass::User,
            principal: "user:test".into(),
            source: String::new(),
            action: "create".into(),
            kind: "machines".into(),
            key: key("left", commit),
            detail: String::new(),
        }],
        fences: vec![],
    }
}

/// What happens on the disk while several write.
fn recorded() -> Vec<Op> {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().canonicalize().unwrap();
    std::fs::create_dir_all(&folder).unwrap();
    vfs::start(folder.to_str().unwrap());
    for session in 0..SESSIONS {
        let store = SqliteStore::open(&folder.join("isobar.db"), options()).unwrap();
        let (store, next) = (&store, &AtomicU64::new(session * COMMITS));
        std::thread::scope(|scope| {
            for _ in 0..WRITERS {
                scope.spawn(move || {
                    loop {
                        let commit = next.fetch_add(1, Ordering::Relaxed);
                        if commit >= (session + 1) * COMMITS {
                            return;
                        }
                        store.commit(txn(commit)).unwrap();
                        vfs::acknowledged(commit);
                    }
                });
            }
        });
    }
    vfs::stop()
}

#[test]
fn the_power_may_go_at_any_moment() {
    let seed = std::env::var("ISOBAR_TEST_SEED").map_or(u64::from(std::process::id()), |seed| seed.parse().unwrap());
    let full = std::env::var_os(FULL).is_some();
    let ops = recorded();
    let merged = ops
        .iter()
        .filter(|op| matches!(op, Op::Sync { file } if file == "isobar.db"))
        .count();
    let acknowledged = ops.iter().filter(|op| matches!(op, Op::Acknowledged(_))).count();
    assert_eq!(acknowledged as u64, SESSIONS * COMMITS);
    assert!(merged > 1, "the log was never merged into the database");
    let dice = &mut Dice(seed);
    let (mut disk, mut promised, mut tried) = (Disk::default(), Vec::new(), 0);
    for (at, op) in ops.iter().enumerate() {
        disk.happens(op);
        if let Op::Acknowledged(commit) = op {
            promised.push(*commit);
        }
        let quiet = |op: Option<&Op>| matches!(op, Some(Op::Write { .. }) | None);
        let dull = quiet(Some(op)) && quiet(ops.get(at + 1));
        // The first commits are where the files come into being.
        let one_of = match dull {
            _ if at < 100 => 2,
            false => THINNED.0,
            true => THINNED.1,
        };
        if !full && dice.below(one_of) > 0 {
            continue;
        }
        let fates: &[Fate] = match (full, dice.below(4)) {
            (true, _) => &[Fate::Lost, Fate::Kept, Fate::Mixed, Fate::Mixed],
            (false, 0) => &[Fate::Lost],
            (false, 1) => &[Fate::Kept],
            (false, _) => &[Fate::Mixed],
        };
        for fate in fates {
            let state = dice.0;
            let folder = tempfile::tempdir().unwrap();
            disk.after(*fate, dice, folder.path()).unwrap();
            let found = look(folder.path(), &promised);
            assert_eq!(
                found,
                Ok(()),
                "ISOBAR_TEST_SEED={seed} (dice {state}): the power went after operation {at} of {} ({}), writes: {fate:?}",
                ops.len(),
                shown(op)
            );
            tried += 1;
        }
    }
    eprintln!(
        "{tried} power losses in {} operations, {merged} syncs of the database",
        ops.len()
    );
}

fn shown(op: &Op) -> String {
    match op {
        Op::Write { file, at, bytes } => format!("{} bytes to {file} at {at}", bytes.len()),
        other => format!("{other:?}"),
    }
}

/// Opens what is there; what is wrong with it.
fn look(folder: &Path, promised: &[u64]) -> Result<(), String> {
    let path = folder.join("isobar.db");
    let store = SqliteStore::open(&path, options()).map_err(|e| format!("does not open: {e}"))?;
    let docs = store.list("machines").map_err(|e| format!("cannot be read: {e}"))?;
    let of = |key: &str| docs.iter().find(|doc| doc.key == key);
    let (mut commits, mut newest) = (Vec::new(), 0);
    for doc in docs.iter().filter(|doc| doc.key.starts_with("left")) {
        let commit = doc.key["left-".len()..].parse::<u64>().map_err(|e| e.to_string())?;
        newest = newest.max(doc.rev.0);
        commits.push((doc.rev, commit));
        let right = of(&key("right", commit)).ok_or_else(|| format!("commit {commit} is there by half"))?;
        let expected = body(commit);
        if doc.rev != right.rev || doc.body != expected || right.body != expected {
            return Err(format!("commit {commit} has other bytes"));
        }
        let named = store.find("machines", "Name", &format!("r{commit}"));
        if named.map_err(|e| e.to_string())?.len() != 1 {
            return Err(format!("commit {commit} has no index"));
        }
        if commit >= 20 && of(&key("old", commit - 20)).is_some() {
            return Err(format!("commit {commit} did not remove what it removes"));
        }
    }
    let rights = docs.iter().filter(|doc| doc.key.starts_with("right")).count();
    if rights != commits.len() {
        return Err("a commit is there by half".to_owned());
    }
    for commit in promised {
        if of(&key("left", *commit)).is_none() {
            return Err(format!("commit {commit} was acknowledged and is gone"));
        }
    }
    // Revisions without a gap: no commit is there without those before it.
    commits.sort_unstable();
    if commits.iter().enumerate().any(|(at, (rev, _))| rev.0 != at as u64 + 1) {
        return Err("a commit is there without one before it".to_owned());
    }
    if store.rev().map_err(|e| e.to_string())? != Rev(newest) {
        return Err("the revision is not the last commit's".to_owned());
    }
    let history = store.events(Rev(0), usize::MAX).map_err(|e| e.to_string())?;
    let told = history.events.iter().map(|event| (event.rev, event.event.key.clone()));
    let kept = &commits[commits.len() - history.events.len().min(commits.len())..];
    if !told.eq(kept.iter().map(|(rev, commit)| (*rev, key("left", *commit)))) {
        return Err("the feed is not that of the commits".to_owned());
    }
    let rows = store.audit(&AuditQuery {
        after: Some(0),
        limit: usize::MAX,
        ..AuditQuery::default()
    });
    let rows = rows.map_err(|e| e.to_string())?.into_iter().map(|row| row.entry.key);
    if !rows.eq(commits.iter().map(|(_, commit)| key("left", *commit))) {
        return Err("the audit log is not that of the commits".to_owned());
    }
    store.commit(txn(9_999)).map_err(|e| format!("takes no commit: {e}"))?;
    drop(store);
    let sound = rusqlite::Connection::open(&path)
        .and_then(|conn| conn.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0)));
    match sound.map_err(|e| e.to_string())?.as_str() {
        "ok" => Ok(()),
        wrong => Err(wrong.to_owned()),
    }
}
