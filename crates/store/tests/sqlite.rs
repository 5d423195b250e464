//! What is particular to the SQLite store: its file, and what happens to that.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use isobar_store::sqlite::snapshot;
use isobar_store::{
    Audit, AuditClass, AuditQuery, Delete, Event, Expect, IndexEntry, Pending, Put, Rev, SqliteStore, Store,
    StoreError, StoreOptions, Txn,
};

fn open(path: &Path) -> Result<SqliteStore, StoreError> {
    SqliteStore::open(path, StoreOptions::default())
}

fn put(key: &str, body: Vec<u8>) -> Txn {
    Txn {
        puts: vec![Put {
            kind: "machines".into(),
            key: key.into(),
            body: body.into(),
            expect: Expect::Any,
            indexes: vec![],
        }],
        ..Txn::default()
    }
}

#[test]
fn reopens_with_everything() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("isobar.db");
    let (rev, fence) = {
        let store = open(&path).unwrap();
        let mut txn = put("a", b"1".to_vec());
        txn.events.push(Event {
            kind: "machines".into(),
            action: "create".into(),
            key: "a".into(),
            principal: "test".into(),
            object: None,
            original: None,
        });
        let rev = store.commit(txn).unwrap();
        (rev, store.claim("boot", "a", "one", 1_000_000).unwrap().unwrap().fence)
    };
    let store = open(&path).unwrap();
    assert_eq!(store.rev().unwrap(), rev);
    assert_eq!(store.get("machines", "a").unwrap().unwrap().rev, rev);
    assert_eq!(store.events(Rev(0), 10).unwrap().events[0].rev, rev);
    let again = store.claim("boot", "a", "two", 10).unwrap();
    assert!(
        again.unwrap().fence > fence,
        "the holder died with its process, its fence is remembered"
    );
    assert!(store.commit(put("b", vec![])).unwrap() > rev);
}

#[test]
fn keeps_the_file_to_its_owner() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("isobar.db");
    let store = open(&path).unwrap();
    store.commit(put("a", vec![1])).unwrap();
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let file = file.unwrap();
        let mode = file.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}", file.file_name());
    }
}

#[test]
fn refuses_a_newer_schema_and_leaves_it_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("isobar.db");
    drop(open(&path).unwrap());
    let raw = rusqlite::Connection::open(&path).unwrap();
    raw.pragma_update(None, "user_version", 99).unwrap();
    drop(raw);
    let before = std::fs::read(&path).unwrap();
    let refused = open(&path).unwrap_err();
    assert!(matches!(refused, StoreError::TooNew { found: 99, .. }), "{refused}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

/// The tables of the oldest database there is, as its program made them.
const FIRST_SCHEMA: &str = "
CREATE TABLE documents (kind TEXT NOT NULL, key TEXT NOT NULL, rev INTEGER NOT NULL, body BLOB NOT NULL, UNIQUE (kind, key));
CREATE TABLE indexes (kind TEXT NOT NULL, key TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL, uniq INTEGER NOT NULL,
    PRIMARY KEY (kind, key, name, value)) WITHOUT ROWID;
CREATE INDEX indexes_value ON indexes (kind, name, value, key);
CREATE UNIQUE INDEX indexes_unique ON indexes (kind, name, value) WHERE uniq;
CREATE TABLE events (seq INTEGER PRIMARY KEY, rev INTEGER NOT NULL, at_s INTEGER NOT NULL, at_ns INTEGER NOT NULL,
    kind TEXT NOT NULL, action TEXT NOT NULL, key TEXT NOT NULL, principal TEXT NOT NULL, object BLOB, original BLOB);
CREATE INDEX events_rev ON events (rev);
CREATE TABLE leases (kind TEXT NOT NULL, key TEXT NOT NULL, fence INTEGER NOT NULL, holder TEXT NOT NULL,
    until INTEGER NOT NULL, PRIMARY KEY (kind, key)) WITHOUT ROWID;
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES ('rev', 41), ('history-after', 0), ('fence', 7);
INSERT INTO documents VALUES ('machines', 'a', 40, x'31'), ('machines', 'b', 41, x'32');
INSERT INTO indexes VALUES ('machines', 'a', 'Name', 'mach-01', 1);
INSERT INTO events VALUES (1, 41, 1700000000, 5, 'machines', 'create', 'b', 'rocketskates', x'32', NULL);
INSERT INTO leases VALUES ('boot', 'a', 7, 'one', 9000000000000000000);
PRAGMA journal_mode = WAL;
PRAGMA user_version = 1;
";

#[test]
fn brings_the_oldest_database_up_to_date_with_all_that_is_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("isobar.db");
    let old = rusqlite::Connection::open(&path).unwrap();
    old.execute_batch(FIRST_SCHEMA).unwrap();
    drop(old);
    let copied = snapshot(&path, &folder.path().join("copy.db"), &mut |_, _| {}).unwrap();
    assert_eq!(
        (copied.rev, copied.schema),
        (Rev(41), 1),
        "a copy needs no server of today"
    );
    // The second time there is nothing left to do.
    for round in 1..=2 {
        let store = open(&path).unwrap();
        assert_eq!(store.list("machines").unwrap().len(), 1 + round);
        let found = store.find("machines", "Name", "mach-01").unwrap();
        assert_eq!((found[0].rev, found[0].body.as_ref()), (Rev(40), b"1".as_slice()));
        assert_eq!(
            store.events(Rev(0), 10).unwrap().events[0].event.principal,
            "rocketskates"
        );
        let lease = store.claim("boot", "a", "two", 10).unwrap();
        assert!(lease.unwrap().fence > 7, "its holder is gone");
        let mut txn = put(&format!("new-{round}"), vec![]);
        txn.audit.push(Audit {
            class: AuditClass::User,
            principal: "user:test".into(),
            source: String::new(),
            action: "create".into(),
            kind: "machines".into(),
            key: "c".into(),
            detail: String::new(),
        });
        assert_eq!(store.commit(txn).unwrap(), Rev(41 + round as u64));
        let asked = AuditQuery {
            limit: 10,
            ..AuditQuery::default()
        };
        assert_eq!(store.audit(&asked).unwrap().len(), round);
    }
    drop(open(&folder.path().join("new.db")).unwrap());
    let tables = |name: &str| -> Vec<(String, String)> {
        let conn = rusqlite::Connection::open(folder.path().join(name)).unwrap();
        let mut names = conn
            .prepare("SELECT type, name FROM sqlite_schema ORDER BY 1, 2")
            .unwrap();
        let rows = names.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        rows.map(Result::unwrap).collect()
    };
    assert_eq!(tables("isobar.db"), tables("new.db"));
}

#[test]
fn refuses_a_second_process_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("isobar.db");
    let first = open(&path).unwrap();
    let refused = open(&path).unwrap_err();
    assert!(matches!(refused, StoreError::InUse { .. }), "{refused}");
    drop(first);
    open(&path).unwrap();
}

#[test]
fn refuses_what_is_no_database() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("isobar.db");
    std::fs::write(&path, [b'x'; 8192]).unwrap();
    let refused = open(&path).unwrap_err().to_string();
    assert!(
        refused.contains("isobar.db") && refused.contains("not a database"),
        "{refused}"
    );
}

#[test]
fn says_that_the_disk_is_full_and_goes_on_afterwards() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("isobar.db");
    let limited = |max_bytes| {
        let options = StoreOptions {
            max_bytes,
            ..StoreOptions::default()
        };
        SqliteStore::open(&path, options).unwrap()
    };
    let store = limited(Some(256 << 10));
    store.commit(put("small", vec![1; 100])).unwrap();
    let full = store.commit(put("big", vec![2; 1 << 20])).unwrap_err();
    assert!(matches!(full, StoreError::Full { .. }), "{full}");
    assert!(full.to_string().contains("isobar.db") && full.to_string().contains("no space left"));
    assert!(store.get("machines", "big").unwrap().is_none());
    store.commit(put("small", vec![3; 100])).unwrap();
    drop(store);
    limited(None).commit(put("big", vec![2; 1 << 20])).unwrap();
}

#[test]
fn bounds_the_queue_and_still_commits_what_did_not_fit() {
    let options = StoreOptions {
        queue: 2,
        group: 1,
        ..StoreOptions::default()
    };
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("isobar.db"), options).unwrap();
    let submit = |n: usize| store.submit(put(&n.to_string(), vec![0; 1000]));
    let blocking: Vec<Pending> = (0..50).map(submit).collect();
    for pending in blocking {
        pending.wait().unwrap();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let many: Vec<Pending> = (50..100).map(submit).collect();
        // Last first: room has to come to those that are polled, in whatever order.
        for pending in many.into_iter().rev() {
            pending.await.unwrap();
        }
    });
    assert_eq!(store.count("machines").unwrap(), 100);
}

fn told(class: AuditClass, key: &str) -> Txn {
    let entry = Audit {
        class,
        principal: "user:jane".into(),
        source: String::new(),
        action: "update".into(),
        kind: "machines".into(),
        key: key.into(),
        detail: String::new(),
    };
    Txn {
        audit: vec![entry],
        ..Txn::default()
    }
}

fn audited(store: &SqliteStore) -> Vec<String> {
    let query = AuditQuery {
        after: Some(0),
        limit: 1000,
        ..AuditQuery::default()
    };
    store
        .audit(&query)
        .unwrap()
        .into_iter()
        .map(|row| row.entry.key)
        .collect()
}

#[test]
fn nothing_but_age_and_number_takes_audit_rows_away() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("isobar.db");
    let clock = std::sync::Arc::new(isobar_store::ManualClock::new(1_700_000_000));
    let options = || StoreOptions {
        clock: clock.clone(),
        audit_rows: 32,
        audit_age_s: 86_400,
        ..StoreOptions::default()
    };
    let store = SqliteStore::open(&path, options()).unwrap();
    store.commit(told(AuditClass::User, "first")).unwrap();
    for n in 0..100 {
        store.commit(told(AuditClass::Refused, &format!("r{n}"))).unwrap();
    }
    let rows = audited(&store);
    assert_eq!(rows[0], "first", "who is refused often pushes nobody out");
    assert!(rows.len() <= 1 + 4 && rows.last().unwrap() == "r99", "{rows:?}");
    drop(store);

    let raw = rusqlite::Connection::open(&path).unwrap();
    for sql in ["UPDATE audit SET key = 'x'", "DELETE FROM audit"] {
        assert!(raw.execute(sql, []).is_err(), "{sql}");
    }
    drop(raw);

    let store = SqliteStore::open(&path, options()).unwrap();
    assert_eq!(audited(&store), rows);
    clock.advance(86_400 + 1);
    store.commit(told(AuditClass::User, "next day")).unwrap();
    assert_eq!(audited(&store), ["next day"]);
    for n in 0..40 {
        store.commit(told(AuditClass::User, &format!("u{n}"))).unwrap();
    }
    let rows = audited(&store);
    assert!(rows.len() <= 32 && rows.last().unwrap() == "u39", "{rows:?}");
}

#[test]
fn documents_move_when_their_kind_becomes_cold_and_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("isobar.db");
    let open = |cold: &[&str]| {
        let options = StoreOptions {
            cold: cold.iter().map(|&kind| kind.to_owned()).collect(),
            ..StoreOptions::default()
        };
        SqliteStore::open(&path, options).unwrap()
    };
    let named = |key: &str, name: &str| {
        let mut txn = put(key, name.as_bytes().to_vec());
        txn.puts[0].indexes = ["Name", "Stage"]
            .map(|index| IndexEntry {
                name: index,
                value: format!("{index}:{name}"),
                unique: index == "Name",
            })
            .into();
        txn
    };
    let revs = {
        let store = open(&[]);
        [("a", "one"), ("b", "two")].map(|(key, name)| store.commit(named(key, name)).unwrap())
    };
    for cold in [&["machines"][..], &[], &["machines", "_images"], &["_images"]] {
        let store = open(cold);
        assert_eq!(store.at_hand("machines"), !cold.contains(&"machines"));
        let all = store.list("machines").unwrap();
        let all: Vec<_> = all
            .iter()
            .map(|doc| (doc.key.as_str(), doc.rev, doc.body.as_ref()))
            .collect();
        assert_eq!(all, [("a", revs[0], &b"one"[..]), ("b", revs[1], b"two")], "{cold:?}");
        assert_eq!(store.find("machines", "Stage", "Stage:two").unwrap()[0].key, "b");
        let taken = store.commit(named("c", "one")).unwrap_err();
        assert!(
            matches!(taken, StoreError::Taken { holder, .. } if holder == "a"),
            "{cold:?}"
        );
    }
    let store = open(&[]);
    let mut gone = put("c", vec![]);
    gone.deletes.push(Delete {
        kind: "machines".into(),
        key: "a".into(),
        expect: Expect::Rev(revs[0]),
    });
    let rev = store.commit(gone).unwrap();
    assert!(
        rev > revs[1] && store.commit(named("d", "one")).unwrap() > rev,
        "its name is free"
    );
    drop(store);
    let store = open(&[]);
    let keys: Vec<_> = store.list("machines").unwrap().into_iter().map(|doc| doc.key).collect();
    assert_eq!(keys, ["b", "c", "d"]);
    assert!(store.rev().unwrap() > rev && store.changed("machines") == store.rev().unwrap());
}
