//! What every [`Store`] must do. The suite knows the trait only; a backend adds one line to `backends!`.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::Arc;

use isobar_store::{
    Audit, AuditClass, AuditQuery, Audited, Delete, Event, Expect, IndexEntry, ManualClock, Put, Rev, SqliteStore,
    Store, StoreError, StoreOptions, Txn,
};

/// A store under test, and what has to live as long as it.
struct Bench {
    store: Arc<dyn Store>,
    clock: Arc<ManualClock>,
    _folder: Option<tempfile::TempDir>,
}

fn options(clock: &Arc<ManualClock>) -> StoreOptions {
    StoreOptions {
        clock: clock.clone(),
        watch: 64,
        history_events: 32,
        ..StoreOptions::default()
    }
}

fn sqlite_file() -> Bench {
    let clock = Arc::new(ManualClock::new(1_700_000_000));
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("isobar.db"), options(&clock)).unwrap();
    Bench {
        store: Arc::new(store),
        clock,
        _folder: Some(folder),
    }
}

/// The documents of these tests are on disk only.
fn sqlite_cold() -> Bench {
    let clock = Arc::new(ManualClock::new(1_700_000_000));
    let folder = tempfile::tempdir().unwrap();
    let options = StoreOptions {
        cold: ["machines".to_owned(), "_images".to_owned()].into(),
        ..options(&clock)
    };
    let store = SqliteStore::open(&folder.path().join("isobar.db"), options).unwrap();
    Bench {
        store: Arc::new(store),
        clock,
        _folder: Some(folder),
    }
}

fn sqlite_memory() -> Bench {
    let clock = Arc::new(ManualClock::new(1_700_000_000));
    Bench {
        store: Arc::new(SqliteStore::in_memory_with(options(&clock)).unwrap()),
        clock,
        _folder: None,
    }
}

macro_rules! suite {
    ($backend:ident: $($case:ident)*) => {
        mod $backend { $(#[test] fn $case() { super::$case(&super::$backend()); })* }
    };
}

macro_rules! backends {
    ($($backend:ident)*) => { $(suite! { $backend:
        reads_what_was_written lists_by_key_and_counts tells_how_documents_begin refuses_stale_and_present keeps_all_or_nothing
        finds_by_index_and_keeps_values_unique lets_documents_trade_values conflicts_alone_in_a_group
        loses_no_update_among_threads tells_events_in_commit_order leaves_slow_watchers_behind
        keeps_a_bounded_history keeps_whole_commits_in_pages leases_to_one_at_a_time fences_off_who_lost_the_lease
        keeps_leases_when_the_wall_clock_jumps keeps_the_feed_in_time_order awaits_in_async_code
        tells_who_did_what_with_the_change counts_what_is_no_change
    })* };
}

backends! { sqlite_file sqlite_cold sqlite_memory }

fn put(key: &str, body: &str, expect: Expect) -> Put {
    Put {
        kind: "machines".into(),
        key: key.into(),
        body: body.to_owned().into(),
        expect,
        indexes: vec![],
    }
}

fn named(key: &str, name: &str) -> Put {
    Put {
        indexes: vec![
            IndexEntry {
                name: "Name",
                value: name.into(),
                unique: true,
            },
            IndexEntry {
                name: "Stage",
                value: "none".into(),
                unique: false,
            },
        ],
        ..put(key, name, Expect::Any)
    }
}

fn puts(puts: impl IntoIterator<Item = Put>) -> Txn {
    Txn {
        puts: puts.into_iter().collect(),
        ..Txn::default()
    }
}

fn delete(key: &str, expect: Expect) -> Txn {
    Txn {
        deletes: vec![Delete {
            kind: "machines".into(),
            key: key.into(),
            expect,
        }],
        ..Txn::default()
    }
}

fn told(key: &str) -> Event {
    Event {
        kind: "machines".into(),
        action: "update".into(),
        key: key.into(),
        principal: "user:rocketskates".into(),
        object: Some(key.to_owned().into()),
        original: None,
    }
}

fn telling(keys: &[&str]) -> Txn {
    Txn {
        events: keys.iter().map(|k| told(k)).collect(),
        ..Txn::default()
    }
}

fn body(bench: &Bench, key: &str) -> Option<String> {
    let doc = bench.store.get("machines", key).unwrap()?;
    Some(String::from_utf8(doc.body.to_vec()).unwrap())
}

fn reads_what_was_written(bench: &Bench) {
    let s = &bench.store;
    assert!(s.get("machines", "a").unwrap().is_none());
    let one = s.commit(puts([put("a", "1", Expect::Any)])).unwrap();
    let doc = s.get("machines", "a").unwrap().unwrap();
    assert_eq!((doc.kind.as_str(), doc.key.as_str(), doc.rev), ("machines", "a", one));
    let two = s.commit(puts([put("a", "2", Expect::Rev(one))])).unwrap();
    assert!(two > one);
    assert_eq!(s.rev().unwrap(), two);
    assert_eq!(body(bench, "a").unwrap(), "2");
    assert!(s.get("_boots", "a").unwrap().is_none(), "kinds are apart");
    s.commit(delete("a", Expect::Rev(two))).unwrap();
    assert!(s.get("machines", "a").unwrap().is_none());
}

fn lists_by_key_and_counts(bench: &Bench) {
    let s = &bench.store;
    for key in ["c", "a", "b"] {
        s.commit(puts([put(key, key, Expect::Any)])).unwrap();
    }
    let keys: Vec<_> = s.list("machines").unwrap().into_iter().map(|d| d.key).collect();
    assert_eq!(keys, ["a", "b", "c"]);
    assert_eq!((s.count("machines").unwrap(), s.count("jobs").unwrap()), (3, 0));
}

fn tells_how_documents_begin(bench: &Bench) {
    let bodies = [("a", "left 1"), ("b", "left 2"), ("c", "right"), ("d", "x")];
    let txn = puts(bodies.map(|(key, body)| put(key, body, Expect::Absent)));
    bench.store.commit(txn).unwrap();
    let kind = put("a", "", Expect::Any).kind;
    let heads: BTreeSet<_> = bench.store.heads(&kind, 4).unwrap().into_iter().collect();
    assert_eq!(heads, ["left", "righ", "x"].map(bytes::Bytes::from).into());
    assert!(bench.store.heads("nothing", 4).unwrap().is_empty());
}

fn refuses_stale_and_present(bench: &Bench) {
    let s = &bench.store;
    let conflict = |r: Result<Rev, StoreError>| matches!(r, Err(StoreError::Conflict { key, .. }) if key == "a");
    assert!(conflict(s.commit(puts([put("a", "1", Expect::Rev(Rev(1)))]))));
    let one = s.commit(puts([put("a", "1", Expect::Absent)])).unwrap();
    assert!(conflict(s.commit(puts([put("a", "2", Expect::Absent)]))));
    let two = s.commit(puts([put("a", "2", Expect::Rev(one))])).unwrap();
    assert!(conflict(s.commit(puts([put("a", "3", Expect::Rev(one))]))));
    assert!(conflict(s.commit(delete("a", Expect::Rev(one)))));
    assert_eq!(body(bench, "a").unwrap(), "2");
    s.commit(delete("a", Expect::Rev(two))).unwrap();
    s.commit(delete("a", Expect::Any)).unwrap();
    s.commit(delete("a", Expect::Absent)).unwrap();
}

fn keeps_all_or_nothing(bench: &Bench) {
    let s = &bench.store;
    let first = s.commit(puts([put("a", "1", Expect::Any)])).unwrap();
    let mut txn = puts([put("b", "1", Expect::Any), put("a", "2", Expect::Absent)]);
    txn.events.push(told("b"));
    s.commit(txn).unwrap_err();
    assert_eq!((body(bench, "a").unwrap().as_str(), body(bench, "b")), ("1", None));
    assert_eq!(s.rev().unwrap(), first);
    assert!(s.events(Rev(0), 10).unwrap().events.is_empty());
}

fn finds_by_index_and_keeps_values_unique(bench: &Bench) {
    let s = &bench.store;
    let keys = |index: &str, value: &str| -> Vec<String> {
        let found = s.find("machines", index, value).unwrap();
        found.into_iter().map(|d| d.key).collect()
    };
    s.commit(puts([named("a", "m1"), named("b", "m2")])).unwrap();
    assert_eq!(keys("Name", "m1"), ["a"]);
    assert_eq!(keys("Stage", "none"), ["a", "b"]);
    let taken = s.commit(puts([named("c", "m1")])).unwrap_err();
    let shown = taken.to_string();
    assert!(
        matches!(taken, StoreError::Taken { ref index, ref value, ref holder, .. } if index == "Name" && value == "m1" && holder == "a"),
        "{shown}"
    );
    assert!(s.get("machines", "c").unwrap().is_none());
    s.commit(puts([named("a", "m3")])).unwrap();
    assert!(keys("Name", "m1").is_empty());
    s.commit(puts([named("c", "m1")])).unwrap();
    s.commit(delete("c", Expect::Any)).unwrap();
    assert!(keys("Name", "m1").is_empty());
    s.commit(puts([named("d", "m1")])).unwrap();
}

fn lets_documents_trade_values(bench: &Bench) {
    let s = &bench.store;
    s.commit(puts([named("a", "m1"), named("b", "m2")])).unwrap();
    s.commit(puts([named("a", "m2"), named("b", "m1")])).unwrap();
    assert_eq!(s.find("machines", "Name", "m1").unwrap()[0].key, "b");
    let mut txn = delete("a", Expect::Any);
    txn.puts.push(named("c", "m2"));
    s.commit(txn).unwrap();
    assert_eq!(s.find("machines", "Name", "m2").unwrap()[0].key, "c");
}

fn conflicts_alone_in_a_group(bench: &Bench) {
    let s = &bench.store;
    let pending: Vec<_> = (0..40)
        .map(|n| {
            let expect = if n % 4 == 3 {
                Expect::Rev(Rev(999))
            } else {
                Expect::Absent
            };
            s.submit(puts([put(&format!("k{n:02}"), "x", expect)]))
        })
        .collect();
    let results: Vec<_> = pending.into_iter().map(isobar_store::Pending::wait).collect();
    for (n, result) in results.iter().enumerate() {
        assert_eq!(result.is_err(), n % 4 == 3, "{n}: {result:?}");
    }
    let revs: Vec<_> = results.into_iter().flatten().collect();
    assert!(revs.is_sorted_by(|a, b| a < b), "one queue, one order");
    assert_eq!(s.count("machines").unwrap(), 30);
}

fn loses_no_update_among_threads(bench: &Bench) {
    const THREADS: usize = 8;
    const EACH: usize = 25;
    let s = &bench.store;
    s.commit(puts([put("n", "0", Expect::Absent)])).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..EACH {
                    loop {
                        let doc = s.get("machines", "n").unwrap().unwrap();
                        let n: usize = std::str::from_utf8(&doc.body).unwrap().parse().unwrap();
                        match s.commit(puts([put("n", &(n + 1).to_string(), Expect::Rev(doc.rev))])) {
                            Ok(_) => break,
                            Err(StoreError::Conflict { .. }) => {}
                            Err(e) => panic!("{e}"),
                        }
                    }
                }
            });
        }
    });
    assert_eq!(body(bench, "n").unwrap(), (THREADS * EACH).to_string());
}

fn tells_events_in_commit_order(bench: &Bench) {
    let s = &bench.store;
    let mut feed = s.watch();
    std::thread::scope(|scope| {
        for t in 0..4 {
            scope.spawn(move || {
                for n in 0..8 {
                    let key = format!("{t}-{n}");
                    s.commit(telling(&[&key])).unwrap();
                }
            });
        }
    });
    let live: Vec<_> = std::iter::from_fn(|| feed.try_recv().ok()).collect();
    assert_eq!(live.len(), 32);
    assert!(live.is_sorted_by(|a, b| a.rev < b.rev));
    assert_eq!(live[0].at_ns, 1_700_000_000_000_000_000);
    let kept = s.events(Rev(0), 100).unwrap();
    assert!(!kept.gap);
    let as_text = |c: &isobar_store::Committed| format!("{c:?}");
    assert_eq!(
        live.iter().map(|c| as_text(c)).collect::<Vec<_>>(),
        kept.events.iter().map(as_text).collect::<Vec<_>>()
    );
}

fn leaves_slow_watchers_behind(bench: &Bench) {
    let s = &bench.store;
    let mut feed = s.watch();
    for n in 0..100 {
        s.commit(telling(&[&n.to_string()])).unwrap();
    }
    let lagged = feed.try_recv().unwrap_err();
    assert!(
        matches!(lagged, tokio::sync::broadcast::error::TryRecvError::Lagged(36)),
        "{lagged:?}"
    );
    assert_eq!(feed.try_recv().unwrap().event.key, "36");
}

fn keeps_a_bounded_history(bench: &Bench) {
    let s = &bench.store;
    let first = s.commit(telling(&["first"])).unwrap();
    for n in 0..60 {
        s.commit(telling(&[&n.to_string()])).unwrap();
    }
    let all = s.events(Rev(0), 1000).unwrap();
    assert!(all.gap && s.events(first, 1).unwrap().gap);
    assert!((16..=32).contains(&all.events.len()), "{}", all.events.len());
    assert_eq!(all.events.last().unwrap().event.key, "59");
    let from = all.events[3].rev;
    let tail = s.events(from, 1000).unwrap();
    assert!(!tail.gap);
    assert_eq!(tail.events.len(), all.events.len() - 4);
}

fn keeps_whole_commits_in_pages(bench: &Bench) {
    let s = &bench.store;
    s.commit(telling(&["a", "b", "c"])).unwrap();
    s.commit(telling(&["d", "e"])).unwrap();
    let page = s.events(Rev(0), 1).unwrap();
    let keys: Vec<_> = page.events.iter().map(|e| e.event.key.as_str()).collect();
    assert_eq!(keys, ["a", "b", "c"]);
    let next = s.events(page.events[2].rev, 1).unwrap();
    assert_eq!(next.events.len(), 2);
    assert!(s.events(next.events[1].rev, 1).unwrap().events.is_empty());
}

fn leases_to_one_at_a_time(bench: &Bench) {
    let s = &bench.store;
    let first = s.claim("boot", "m1", "one", 10).unwrap().unwrap();
    assert!(s.claim("boot", "m1", "two", 10).unwrap().is_none());
    assert!(s.claim("boot", "m2", "two", 10).unwrap().is_some(), "another piece");
    bench.clock.advance(9);
    assert!(s.renew(&first, 10).unwrap());
    bench.clock.advance(9);
    assert!(s.claim("boot", "m1", "two", 10).unwrap().is_none());
    bench.clock.advance(2);
    let second = s.claim("boot", "m1", "two", 10).unwrap().unwrap();
    assert!(second.fence > first.fence);
    assert!(!s.release(&first).unwrap() && !s.renew(&first, 10).unwrap());
    assert!(s.release(&second).unwrap() && !s.release(&second).unwrap());
    let third = s.claim("boot", "m1", "one", 10).unwrap().unwrap();
    assert!(third.fence > second.fence);
}

fn fences_off_who_lost_the_lease(bench: &Bench) {
    let s = &bench.store;
    let lease = s.claim("boot", "m1", "one", 10).unwrap().unwrap();
    let work = |body: &str| Txn {
        fences: vec![lease.clone()],
        ..puts([put("m1", body, Expect::Any)])
    };
    s.commit(work("1")).unwrap();
    bench.clock.advance(11);
    assert!(matches!(s.commit(work("2")), Err(StoreError::LeaseLost { .. })));
    s.claim("boot", "m1", "two", 10).unwrap().unwrap();
    assert!(matches!(s.commit(work("3")), Err(StoreError::LeaseLost { .. })));
    assert_eq!(body(bench, "m1").unwrap(), "1");
}

fn keeps_leases_when_the_wall_clock_jumps(bench: &Bench) {
    let s = &bench.store;
    let lease = s.claim("boot", "m1", "one", 10).unwrap().unwrap();
    bench.clock.jump_to(1_700_000_000 + 86_400);
    assert!(s.claim("boot", "m1", "two", 10).unwrap().is_none());
    bench.clock.jump_to(1_700_000_000 - 86_400);
    assert!(s.renew(&lease, 10).unwrap());
}

fn keeps_the_feed_in_time_order(bench: &Bench) {
    let s = &bench.store;
    s.commit(telling(&["a"])).unwrap();
    bench.clock.jump_to(1_600_000_000);
    s.commit(telling(&["b"])).unwrap();
    let events = s.events(Rev(0), 10).unwrap().events;
    assert!(events[0].at_ns <= events[1].at_ns);
}

fn awaits_in_async_code(bench: &Bench) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let revs: BTreeSet<_> = runtime.block_on(async {
        let mut revs = BTreeSet::new();
        for n in 0..3 {
            revs.insert(bench.store.submit(telling(&[&n.to_string()])).await.unwrap());
        }
        revs
    });
    assert_eq!(revs.len(), 3);
}

fn entry(action: &str, key: &str) -> Audit {
    Audit {
        class: AuditClass::User,
        principal: "user:jane".into(),
        source: "10.0.0.1".into(),
        action: action.into(),
        kind: "machines".into(),
        key: key.into(),
        detail: "BootEnv".into(),
    }
}

fn all() -> AuditQuery {
    AuditQuery {
        limit: 100,
        ..AuditQuery::default()
    }
}

fn tells_who_did_what_with_the_change(bench: &Bench) {
    let s = &bench.store;
    let txn = |expect, action: &str| Txn {
        audit: vec![entry(action, "m1")],
        ..puts([put("m1", "1", expect)])
    };
    s.commit(txn(Expect::Absent, "create")).unwrap();
    s.commit(txn(Expect::Absent, "create")).unwrap_err();
    bench.clock.advance(10);
    s.commit(txn(Expect::Any, "action:poweron")).unwrap();
    s.commit(Txn {
        audit: vec![entry("actions", "m2")],
        ..Txn::default()
    })
    .unwrap();
    let asked = |query: AuditQuery| {
        let rows = s.audit(&query).unwrap();
        rows.into_iter()
            .map(|row| format!("{} {}", row.entry.action, row.entry.key))
            .collect::<Vec<_>>()
    };
    let rows = s.audit(&all()).unwrap();
    assert_eq!(rows.len(), 3, "{rows:?}");
    assert_eq!((&rows[2].entry, rows[2].times), (&entry("create", "m1"), 1));
    assert!(rows[0].seq > rows[1].seq && rows[0].at_ns == 1_700_000_010_000_000_000);
    let (first, middle) = (rows[2].seq, rows[1].seq);
    let text = |text: &str| Some(text.to_owned());
    let cases = [
        (
            AuditQuery {
                action: text("action"),
                ..all()
            },
            &["action:poweron m1"][..],
        ),
        (
            AuditQuery {
                key: text("m2"),
                ..all()
            },
            &["actions m2"],
        ),
        (
            AuditQuery {
                principal: text("user:joe"),
                ..all()
            },
            &[],
        ),
        (
            AuditQuery {
                kind: text("machines"),
                source: text("10.0.0.1"),
                limit: 1,
                ..all()
            },
            &["actions m2"],
        ),
        (
            AuditQuery {
                after: Some(first),
                limit: 1,
                ..all()
            },
            &["action:poweron m1"],
        ),
        (
            AuditQuery {
                before: Some(middle),
                ..all()
            },
            &["create m1"],
        ),
        (
            AuditQuery {
                until_ns: Some(rows[0].at_ns),
                ..all()
            },
            &["create m1"],
        ),
        (
            AuditQuery {
                since_ns: Some(rows[0].at_ns),
                after: Some(0),
                ..all()
            },
            &["action:poweron m1", "actions m2"],
        ),
    ];
    for (query, want) in cases {
        assert_eq!(asked(query.clone()), want, "{query:?}");
    }
}

/// Waits until the audit log has so many rows.
fn rows(s: &Arc<dyn Store>, n: usize) -> Vec<Audited> {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(120);
    loop {
        let rows = s.audit(&all()).unwrap();
        if rows.len() >= n {
            return rows;
        }
        assert!(std::time::Instant::now() < deadline, "never written: {rows:?}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

fn counts_what_is_no_change(bench: &Bench) {
    let s = &bench.store;
    let before = s.rev().unwrap();
    s.note(entry("getSecure", "m1"));
    rows(s, 1);
    assert_eq!(s.rev().unwrap(), before, "nothing has changed");
    for _ in 0..3 {
        s.note(entry("login", "m2"));
    }
    s.commit(telling(&["a"])).unwrap();
    let told = rows(s, 2);
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!((told[0].entry.action.as_str(), told[0].times), ("login", 3));
    // What rests for a minute does not hold up something else.
    s.note(entry("login", "m2"));
    s.note(entry("login", "m3"));
    let told = rows(s, 3);
    assert_eq!((told.len(), told[0].entry.key.as_str()), (3, "m3"), "{told:?}");
}
