//! The feed tells of commits in the order in which they were made, however many write.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicU64, Ordering};

use isobar_store::{Event, Expect, Put, Rev, SqliteStore, Store, StoreError, StoreOptions, Txn};

const WRITERS: usize = 8;
const COMMITS: usize = 60;

fn event(key: &str, body: &str) -> Event {
    Event {
        kind: "machines".into(),
        action: "update".into(),
        key: key.to_owned(),
        principal: "test".into(),
        object: Some(body.to_owned().into()),
        original: None,
    }
}

fn put(key: &str, expect: Expect, body: String) -> Put {
    Put {
        kind: "machines".into(),
        key: key.to_owned(),
        body: body.into(),
        expect,
        indexes: vec![],
    }
}

#[test]
fn no_two_commits_swap_their_order() {
    let folder = tempfile::tempdir().unwrap();
    let options = StoreOptions {
        watch: 4 * WRITERS * COMMITS,
        ..StoreOptions::default()
    };
    let store = SqliteStore::open(&folder.path().join("isobar.db"), options).unwrap();
    let mut watch = store.watch();
    store
        .commit(Txn {
            puts: vec![put("counter", Expect::Absent, "0".into())],
            ..Txn::default()
        })
        .unwrap();
    // What is acknowledged first has the lower revision: each writer knows the highest one before its commit began.
    let highest = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (store, highest) = (&store, &highest);
            scope.spawn(move || {
                let own = format!("writer-{writer}");
                for n in 0..COMMITS {
                    let before = highest.load(Ordering::SeqCst);
                    let rev = loop {
                        // All collide on one document that counts the commits: its values are the order of commits.
                        let counter = store.get("machines", "counter").unwrap().unwrap();
                        let next = std::str::from_utf8(&counter.body).unwrap().parse::<u64>().unwrap() + 1;
                        let txn = Txn {
                            puts: vec![
                                put("counter", Expect::Rev(counter.rev), next.to_string()),
                                put(&own, Expect::Any, n.to_string()),
                            ],
                            events: vec![event("counter", &next.to_string()), event(&own, &n.to_string())],
                            ..Txn::default()
                        };
                        match store.commit(txn) {
                            Ok(rev) => break rev,
                            Err(StoreError::Conflict { .. }) => {}
                            Err(e) => panic!("{e}"),
                        }
                    };
                    assert!(rev.0 > before, "{} came after {before} was acknowledged", rev.0);
                    highest.fetch_max(rev.0, Ordering::SeqCst);
                }
            });
        }
    });
    let mut seen = Vec::new();
    while let Ok(committed) = watch.try_recv() {
        let object = committed.event.object.clone().unwrap();
        seen.push((committed.rev, committed.event.key.clone(), object));
    }
    let count = WRITERS * COMMITS;
    assert_eq!(seen.len(), 2 * count);
    for (at, pair) in seen.chunks(2).enumerate() {
        // In the order of revisions, each commit's events together and in their order, the counter one further each time.
        assert_eq!((pair[0].0, pair[1].0), (Rev(at as u64 + 2), Rev(at as u64 + 2)));
        assert_eq!(pair[0].1, "counter");
        assert_eq!(pair[0].2, (at + 1).to_string());
    }
    for writer in 0..WRITERS {
        let own = seen.iter().filter(|(_, key, _)| *key == format!("writer-{writer}"));
        assert!(
            own.map(|(.., object)| object.clone())
                .eq((0..COMMITS).map(|n| n.to_string()))
        );
    }
    let history = store.events(Rev(0), usize::MAX).unwrap();
    let kept = history
        .events
        .into_iter()
        .map(|c| (c.rev, c.event.key, c.event.object.unwrap()));
    assert!(kept.eq(seen), "what is kept is what was told");
}
