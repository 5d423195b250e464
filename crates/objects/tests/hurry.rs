//! Changes on threads that were lent: none is lost, all are told, and such a thread waits for nobody.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Bench, bench, root, text};
use futures_util::FutureExt;
use futures_util::future::join_all;
use isobar_model::{ApiError, Object};
use isobar_objects::{ChangeHook, Objects};
use isobar_store::Txn;
use serde_json::json;

/// Something that is under way until the test lets it go on.
struct Held {
    inside: Receiver<()>,
    release: Sender<()>,
}

/// The other end of it.
struct Holding {
    inside: Sender<()>,
    release: Mutex<Receiver<()>>,
}

fn held() -> (Held, Holding) {
    let ((inside, told), (release, wait)) = (channel(), channel());
    let held = Held { inside: told, release };
    let release = Mutex::new(wait);
    (held, Holding { inside, release })
}

impl Holding {
    fn hold(&self) {
        // Who does not listen any more has let go.
        let _ = self.inside.send(());
        let _ = self.release.lock().unwrap().recv();
    }
}

/// Is told of machines.
struct Told(tokio::sync::mpsc::UnboundedSender<String>);

impl ChangeHook for Told {
    fn machine_changing(
        &self,
        _: &Objects,
        _: Option<&Object>,
        _: Option<&Object>,
        _: &[&str],
        _: &mut Txn,
    ) -> Result<(), ApiError> {
        Ok(())
    }

    fn committed(&self, machine: &str, _: Option<&Object>) {
        let _ = self.0.send(machine.to_owned());
    }
}

fn describe(objects: &Objects, key: &str, text: &str) -> Result<(), ApiError> {
    let ops = json!([{"op": "replace", "path": "/Description", "value": text}]);
    objects.patch("machines", key, &ops, false, &root()).map(drop)
}

fn one_machine() -> (Bench, String) {
    let b = bench();
    let key = text(&b.machine(json!({"Name": "mach-01"})), "Uuid").to_owned();
    (b, key)
}

/// A change that is under way on another thread and holds up nobody: it has read and not written.
fn another_under_way(objects: &Objects) -> (Held, tokio::task::JoinHandle<Result<(), ApiError>>) {
    let (held, holding) = held();
    let objects = objects.clone();
    let change = move |_: &Objects| {
        holding.hold();
        Ok(())
    };
    let task = tokio::spawn(async move { objects.run_change("users", change).await });
    (held, task)
}

#[tokio::test]
async fn all_changes_of_one_machine_are_made() {
    Objects::lend_this_thread();
    let (b, key) = one_machine();
    let (held, other) = another_under_way(&b.objects);
    tokio::task::yield_now().await;
    let changes = (0..50).map(|n| {
        let (objects, key) = (b.objects.clone(), key.clone());
        async move {
            let change =
                move |objects: &Objects| objects.set_param("machines", &key, &format!("site/p{n}"), &json!(n), &root());
            objects.run_change("machines", change).await
        }
    });
    for (n, done) in join_all(changes).await.into_iter().enumerate() {
        assert_eq!(done.unwrap(), json!(n));
    }
    drop(held);
    other.await.unwrap().unwrap();
    let machine = b.objects.get("machines", &key).unwrap();
    assert_eq!(machine["Params"].as_object().unwrap().len(), 50);
}

#[tokio::test]
async fn a_change_is_told_of_when_its_asker_is_gone() {
    Objects::lend_this_thread();
    let (b, key) = one_machine();
    let (told, mut tellings) = tokio::sync::mpsc::unbounded_channel();
    b.objects.set_hook(Arc::new(Told(told)));
    let (held, other) = another_under_way(&b.objects);
    tokio::task::yield_now().await;

    let changed = key.clone();
    let mut change = Box::pin(b.objects.run_change("machines", move |o| describe(o, &changed, "gone")));
    assert!(
        (&mut change).now_or_never().is_none(),
        "others change something: it is left to the writer"
    );
    drop(change);
    assert_eq!(tellings.recv().await.unwrap(), key);
    assert_eq!(b.objects.get("machines", &key).unwrap()["Description"], "gone");
    drop(held);
    other.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_lent_thread_waits_for_no_change_that_looks_at_all() {
    Objects::lend_this_thread();
    let (b, key) = one_machine();
    b.objects.create("profiles", &json!({"Name": "site"}), &root()).unwrap();
    let (held, holding) = held();
    let objects = b.objects.clone();
    let whole = std::thread::spawn(move || {
        objects.update_with("profiles", "site", &root(), |profile| {
            holding.hold();
            profile.insert("Description".to_owned(), "x".into());
            Ok(())
        })
    });
    held.inside.recv().unwrap();

    let changed = key.clone();
    let mut change = Box::pin(
        b.objects
            .run_change("machines", move |o| describe(o, &changed, "after")),
    );
    assert!((&mut change).now_or_never().is_none());
    // This thread goes on with what else it has to do.
    assert_eq!(b.objects.get("machines", &key).unwrap()["Description"], "");
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!((&mut change).now_or_never().is_none(), "it comes after the other");
    held.release.send(()).unwrap();
    change.await.unwrap();
    whole.join().unwrap().unwrap();
    assert_eq!(b.objects.get("machines", &key).unwrap()["Description"], "after");
}
