//! An acknowledged commit survives SIGKILL.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use isobar_store::{Expect, Put, SqliteStore, Store, StoreOptions, Txn};

/// Set for the process that is to be killed: the database it writes.
const DATABASE: &str = "ISOBAR_STORE_CRASH_DATABASE";

#[test]
fn acknowledged_commits_survive_sigkill() {
    if let Some(path) = std::env::var_os(DATABASE) {
        commit_for_ever(Path::new(&path));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("isobar.db");
    let mut acknowledged = Vec::new();
    // The later rounds also start over the log that a killed writer left.
    for round in 1..=3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "acknowledged_commits_survive_sigkill", "--nocapture"])
            .env(DATABASE, &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut seen = 0;
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            // A line that the kill tore in two is no acknowledgement.
            let Some(ack) = line.strip_prefix("ack ").and_then(|l| l.strip_suffix(" .")) else {
                continue;
            };
            let (rev, key) = ack.split_once(' ').unwrap();
            acknowledged.push((rev.parse::<u64>().unwrap(), key.to_owned()));
            seen += 1;
            if seen == 150 * round {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(seen >= 150 * round, "the child ended by itself after {seen} commits");
        let store = SqliteStore::open(&path, StoreOptions::default()).unwrap();
        for (rev, key) in &acknowledged {
            let doc = store.get("machines", key).unwrap();
            let doc = doc.unwrap_or_else(|| panic!("{key} was acknowledged as {rev} and is gone"));
            assert_eq!((doc.rev.0, doc.body.as_ref()), (*rev, key.as_bytes()));
        }
        assert!(store.rev().unwrap().0 >= acknowledged.iter().map(|a| a.0).max().unwrap());
    }
}

fn commit_for_ever(path: &Path) -> ! {
    let store = Arc::new(SqliteStore::open(path, StoreOptions::default()).unwrap());
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let store = Arc::clone(&store);
            std::thread::spawn(move || {
                for n in 0.. {
                    let key = format!("{}-{thread}-{n}", std::process::id());
                    let txn = Txn {
                        puts: vec![Put {
                            kind: "machines".into(),
                            key: key.clone(),
                            body: key.clone().into(),
                            expect: Expect::Absent,
                            indexes: vec![],
                        }],
                        ..Txn::default()
                    };
                    let rev = store.commit(txn).unwrap();
                    let mut out = std::io::stdout().lock();
                    // Leading newline: libtest may have begun the line.
                    write!(out, "\nack {} {key} .\n", rev.0).unwrap();
                    out.flush().unwrap();
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    unreachable!("the threads do not end");
}
