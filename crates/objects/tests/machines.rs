//! The life of objects: machines above all, and what refers to what.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::{Arc, Mutex};

use common::{Bench, Files, bench, root, text};
use isobar_model::{ApiError, Object};
use isobar_objects::{ChangeHook, Objects, Principal};
use isobar_store::{Expect, Put, Rev, Txn};
use serde_json::{Value, json};

#[test]
fn a_machine_is_discovered() {
    let b = bench();
    let machine = b.machine(json!({"name": "mach-01", "Unknown": 1}));
    let uuid = text(&machine, "Uuid").to_owned();
    assert_eq!(uuid.len(), 36);
    assert_eq!(text(&machine, "Secret").len(), 16);
    let shown = |m: &Object| {
        let texts = ["Stage", "BootEnv", "Workflow"].map(|member| text(m, member).to_owned());
        (texts, m["Tasks"].clone(), m["Runnable"].clone(), m["Available"].clone())
    };
    let state = |stage: &str, bootenv: &str, workflow: &str, tasks: Value, runnable: bool| {
        let texts = [stage, bootenv, workflow].map(str::to_owned);
        (texts, tasks, Value::Bool(runnable), Value::Bool(true))
    };
    assert_eq!(shown(&machine), state("none", "local", "", json!([]), true));

    let discovered = b.set("Name:mach-01", "Workflow", json!("discover-base")).unwrap();
    let tasks = json!(["stage:discover", "bootenv:sledgehammer", "stage:sledgehammer-wait"]);
    assert_eq!(
        shown(&discovered),
        state("discover", "sledgehammer", "discover-base", tasks.clone(), false)
    );

    let refused = b.set(&uuid, "BootEnv", json!("local")).unwrap_err();
    assert_eq!(
        refused.to_string(),
        format!("ValidationError: machines/{uuid}: Changing machine bootenv not allowed")
    );
    let up = b.set("Name:mach-01", "Runnable", json!(true)).unwrap();
    assert_eq!(
        shown(&up),
        state("discover", "sledgehammer", "discover-base", tasks, true)
    );
    b.set("Name:mach-01", "Workflow", json!("")).unwrap();
    let local = b.set("Name:mach-01", "BootEnv", json!("local")).unwrap();
    assert_eq!(shown(&local), state("none", "local", "", json!([]), false));
    assert_eq!(*b.objects.get("machines", &uuid).unwrap(), *local);

    let gone = b.objects.delete("machines", "Name:mach-01", &root()).unwrap();
    assert_eq!(**gone, *local);
    let missing = b.objects.get("machines", "Name:mach-01").unwrap_err();
    assert_eq!(missing.to_string(), "GET: machines/Name:mach-01: Not Found");
    assert!(b.objects.find("machines", &uuid).unwrap().is_none());
}

#[test]
fn what_cannot_be_is_refused_in_drps_words() {
    let b = bench();
    let uuid = "3e7031fe-3062-45f1-835c-92541bc9cbd3";
    b.machine(json!({"Name": "john", "Uuid": uuid, "Address": "192.168.100.110"}));
    let create = |noun: &str, input: Value| b.objects.create(noun, &input, &root()).unwrap_err().to_string();
    assert_eq!(
        create("machines", json!({"Name": "john", "Uuid": uuid.to_uppercase()})),
        format!("CREATE: machines/{uuid}: already exists")
    );
    assert_eq!(
        create("bootenvs", json!({"Name": "local"})),
        "CREATE: bootenvs/local: already exists"
    );
    assert_eq!(create("bootenvs", json!({})), "CREATE: bootenvs: Empty key not allowed");
    assert!(create("machines", json!({"Name": "john"})).contains(&format!("Machine {uuid} already has Name john")));
    assert!(
        create("machines", json!({"Name": "jill", "Address": "192.168.100.110"}))
            .contains(&format!("Machine {uuid} already has IP address 192.168.100.110"))
    );
    b.machine(json!({"Name": "none-1", "Address": "0.0.0.0"}));
    b.machine(json!({"Name": "none-2", "Address": "0.0.0.0"}));

    let patch = |ops: Value| b.objects.patch("machines", uuid, &ops, false, &root()).unwrap_err();
    let failed = patch(json!([{"op": "test", "path": "/Name", "value": "x"}, {"op": "remove", "path": "/Name"}]));
    assert_eq!(
        (failed.code, failed.messages[0].as_str()),
        (409, "Patch error at line 0: Test op failed.")
    );
    let renamed = patch(json!([{"op": "replace", "path": "/Uuid", "value": "3e7031fe-3062-45f1-835c-92541bc9cbd4"}]));
    assert_eq!(renamed.code, 400);
    let moved = b
        .objects
        .replace("machines", uuid, &json!({"Name": "john", "Uuid": ""}), false, &root())
        .unwrap_err();
    assert!(
        moved.messages[0].starts_with(&format!("Key change from {uuid} to ")),
        "{moved}"
    );
    let content = b
        .objects
        .patch("bootenvs", "local", &json!([]), false, &root())
        .unwrap_err();
    assert_eq!(content.code, 400);
    assert_eq!(b.objects.delete("stages", "none", &root()).unwrap_err().code, 400);
    assert_eq!(b.objects.get("freds", "x").unwrap_err().code, 404);
}

#[test]
fn what_is_in_use_stays() {
    let b = bench();
    let create = |noun: &str, input: Value| b.objects.create(noun, &input, &root()).unwrap();
    create("bootenvs", json!({"Name": "be-1"}));
    create("stages", json!({"Name": "st-1", "BootEnv": "be-1"}));
    create("profiles", json!({"Name": "pr-1"}));
    create("workflows", json!({"Name": "wf-1", "Stages": ["st-1"]}));
    b.machine(json!({"Name": "m-1", "Workflow": "wf-1", "Profiles": ["pr-1"]}));
    let refused = |noun: &str, key: &str| {
        let e = b.objects.delete(noun, key, &root()).unwrap_err();
        assert_eq!((e.code, e.type_.as_str()), (409, "StillInUseError"));
        e.messages
    };
    assert_eq!(
        refused("bootenvs", "be-1"),
        [
            "Bootenv be-1 in use by Machine m-1",
            "Bootenv be-1 in use by Stage st-1"
        ]
    );
    assert_eq!(
        refused("stages", "st-1"),
        ["Stage st-1 in use by Machine m-1", "Stage st-1 in use by Workflow wf-1"]
    );
    assert_eq!(refused("workflows", "wf-1"), ["Workflow wf-1 in use by Machine m-1"]);
    assert_eq!(refused("profiles", "pr-1"), ["Profile pr-1 in use by Machine m-1"]);
    assert_eq!(
        b.objects.delete("profiles", "global", &root()).unwrap_err().messages,
        ["Profile global is the global profile, you cannot delete it"]
    );

    create("bootenvs", json!({"Name": "be-2"}));
    b.objects
        .set_prefs(&json!({"defaultBootEnv": "be-2"}), &root())
        .unwrap();
    assert_eq!(
        refused("bootenvs", "be-2"),
        ["BootEnv be-2 is the active defaultBootEnv, cannot remove it"]
    );
    b.objects.delete("machines", "Name:m-1", &root()).unwrap();
    for (noun, key) in [
        ("workflows", "wf-1"),
        ("stages", "st-1"),
        ("bootenvs", "be-1"),
        ("profiles", "pr-1"),
    ] {
        b.objects.delete(noun, key, &root()).unwrap();
    }
}

#[test]
fn availability_follows_the_boot_files_and_what_is_referred_to() {
    let b = bench();
    let files = Arc::new(Files::default());
    b.objects.set_presence(files.clone()).unwrap();
    let bootenv = b.objects.get("bootenvs", "sledgehammer").unwrap();
    assert_eq!(bootenv["Available"], false);
    let errors = bootenv["Errors"].to_string();
    assert!(
        errors.contains("missing kernel") && errors.contains("isobar sledgehammer build"),
        "{errors}"
    );
    assert_eq!(b.objects.get("workflows", "discover-base").unwrap()["Available"], false);
    b.machine(json!({"Name": "mach-01"}));
    let refused = b.set("Name:mach-01", "Workflow", json!("discover-base")).unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("wants Workflow discover-base, which is not available"),
        "{refused}"
    );

    let before = b.objects.store().rev().unwrap();
    files
        .0
        .lock()
        .unwrap()
        .extend(["vmlinuz0".to_owned(), "stage1.img".to_owned()]);
    assert_eq!(b.objects.refresh().unwrap(), 4, "a bootenv, two stages, a workflow");
    assert_eq!(b.objects.store().rev().unwrap(), before, "content is in memory");
    assert_eq!(b.objects.refresh().unwrap(), 0);
    b.set("Name:mach-01", "Workflow", json!("discover-base")).unwrap();

    files.0.lock().unwrap().clear();
    let mut feed = b.objects.store().watch();
    b.objects.refresh().unwrap();
    let machine = b.objects.get("machines", "Name:mach-01").unwrap();
    assert_eq!(
        (&machine["Available"], &machine["Runnable"]),
        (&json!(false), &json!(false))
    );
    assert!(machine["Errors"].to_string().contains("missing kernel"));
    let event = feed.try_recv().unwrap();
    assert_eq!(
        (event.event.action.as_str(), event.event.principal.as_str()),
        ("save", "system")
    );

    // The same along stored objects: a stage, then the bootenv that it waits for.
    b.objects
        .create("stages", &json!({"Name": "st-1", "BootEnv": "be-1"}), &root())
        .unwrap();
    b.objects
        .create("workflows", &json!({"Name": "wf-1", "Stages": ["st-1"]}), &root())
        .unwrap();
    assert_eq!(b.objects.get("workflows", "wf-1").unwrap()["Available"], false);
    b.objects.create("bootenvs", &json!({"Name": "be-1"}), &root()).unwrap();
    assert_eq!(b.objects.get("stages", "st-1").unwrap()["Available"], true);
    assert_eq!(b.objects.get("workflows", "wf-1").unwrap()["Available"], true);
}

#[test]
fn lists_show_what_was_asked_for_and_may_be_seen() {
    let b = bench();
    for name in ["m-2", "m-1", "m-3"] {
        b.machine(json!({"Name": name}));
    }
    b.set("Name:m-2", "BootEnv", json!("sledgehammer")).unwrap();
    let list = |noun: &str, pairs: &[(&str, &str)], by: &Principal| {
        let pairs: Vec<_> = pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let listing = b.objects.list(noun, &pairs, by).unwrap();
        let names: Vec<_> = listing.objects.iter().map(|o| text(o, "Name").to_owned()).collect();
        (names.join(" "), listing.total)
    };
    assert_eq!(
        list("machines", &[("sort", "Name"), ("BootEnv", "local")], &root()),
        ("m-1 m-3".to_owned(), 3)
    );
    assert_eq!(
        list("machines", &[("sort", "Name"), ("limit", "1")], &root()),
        ("m-1".to_owned(), 3)
    );
    assert_eq!(list("bootenvs", &[("OnlyUnknown", "true")], &root()).0, "ignore");
    let refused = b
        .objects
        .list("bootenvs", &[("fred".to_owned(), "x".to_owned())], &root())
        .unwrap_err();
    assert_eq!(refused.to_string(), "GET: bootenvs: Filter not found: fred");

    let token = b
        .objects
        .issue_machine_token("Name:m-1", std::time::Duration::from_secs(60), &root())
        .unwrap();
    let machine = b.objects.verify(token.as_str()).unwrap();
    assert_eq!(list("machines", &[], &machine), (String::new(), 0));
    assert_eq!(list("stages", &[("Name", "none")], &machine).0, "none");
    assert!(!b.objects.list("users", &[], &root()).unwrap().objects[0].contains_key("PasswordHash"));
}

#[test]
fn a_failed_boot_shows_on_the_machine() {
    let b = bench();
    b.machine(json!({"Name": "mach-01"}));
    let set = |text: Option<&str>| {
        let changed = b.objects.update_with("machines", "Name:mach-01", &root(), |machine| {
            let meta = machine["Meta"].as_object_mut().unwrap();
            match text {
                Some(text) => meta.insert(isobar_objects::BOOT_ERROR_META.to_owned(), text.into()),
                None => meta.remove(isobar_objects::BOOT_ERROR_META),
            };
            Ok(())
        });
        let machine = changed.unwrap();
        (machine["Errors"].clone(), machine["Available"].clone())
    };
    assert_eq!(
        set(Some("the BMC does not answer")),
        (json!(["boot: the BMC does not answer"]), json!(true))
    );
    b.objects.refresh().unwrap();
    assert_eq!(
        b.objects.get("machines", "Name:mach-01").unwrap()["Errors"],
        json!(["boot: the BMC does not answer"])
    );
    assert_eq!(set(None), (json!([]), json!(true)));
}

#[test]
fn a_locked_machine_stays_as_it_is() {
    let b = bench();
    b.machine(json!({"Name": "mach-01"}));
    b.set("Name:mach-01", "Locked", json!(true)).unwrap();
    assert_eq!(b.set("Name:mach-01", "Description", json!("x")).unwrap_err().code, 422);
    assert_eq!(
        b.objects.delete("machines", "Name:mach-01", &root()).unwrap_err().code,
        422
    );
    b.set("Name:mach-01", "Locked", json!(false)).unwrap();
    b.objects.delete("machines", "Name:mach-01", &root()).unwrap();
}

#[test]
fn events_come_in_commit_order_with_object_and_original() {
    let b = bench();
    let jane = Principal::system();
    let mut feed = b.objects.store().watch();
    let machine = b.machine(json!({"Name": "mach-01"}));
    let uuid = text(&machine, "Uuid");
    let unchanged = b.objects.patch("machines", uuid, &json!([]), false, &jane).unwrap();
    assert_eq!(**unchanged, *machine);
    b.objects
        .set_param("machines", uuid, "colour", &json!("red"), &jane)
        .unwrap();
    b.objects.delete("machines", uuid, &jane).unwrap();
    let seen: Vec<_> = std::iter::from_fn(|| feed.try_recv().ok()).collect();
    let actions: Vec<_> = seen.iter().map(|c| c.event.action.as_str()).collect();
    assert_eq!(actions, ["create", "save", "delete"], "nothing for the empty patch");
    assert!(seen.is_sorted_by(|a, b| a.rev < b.rev));
    let json = |bytes: &Option<bytes::Bytes>| serde_json::from_slice::<Value>(bytes.as_ref().unwrap()).unwrap();
    let update = &seen[1].event;
    assert_eq!((update.kind.as_str(), update.key.as_str()), ("machines", uuid));
    assert_eq!(json(&update.original)["Params"], json!({}));
    assert_eq!(json(&update.object)["Params"], json!({"colour": "red"}));
    assert!(seen[0].event.original.is_none() && seen[2].event.original.is_none());
}

#[test]
fn nobodys_update_is_lost() {
    const THREADS: usize = 8;
    const EACH: usize = 20;
    let b = bench();
    b.machine(json!({"Name": "mach-01"}));
    std::thread::scope(|scope| {
        for t in 0..THREADS {
            let objects = b.objects.clone();
            scope.spawn(move || {
                for n in 0..EACH {
                    let change = |machine: &mut Object| {
                        let addrs = machine["HardwareAddrs"].as_array_mut().unwrap();
                        addrs.push(format!("{t}-{n}").into());
                        Ok(())
                    };
                    objects
                        .update_with("machines", "Name:mach-01", &root(), change)
                        .unwrap();
                }
            });
        }
    });
    let machine = b.objects.get("machines", "Name:mach-01").unwrap();
    assert_eq!(machine["HardwareAddrs"].as_array().unwrap().len(), THREADS * EACH);
}

#[test]
fn a_name_goes_to_one_of_many_at_once() {
    let b = bench();
    let won: usize = std::thread::scope(|scope| {
        let tries: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    b.objects
                        .create("machines", &json!({"Name": "mach-01"}), &root())
                        .is_ok()
                })
            })
            .collect();
        tries.into_iter().map(|t| usize::from(t.join().unwrap())).sum()
    });
    assert_eq!((won, b.objects.count("machines").unwrap()), (1, 1));
}

/// A bootenv is deleted while machines are put into it: never may one be left that names nothing.
#[test]
fn references_hold_under_concurrency() {
    for _ in 0..10 {
        let b = bench();
        b.objects.create("bootenvs", &json!({"Name": "be-1"}), &root()).unwrap();
        b.machine(json!({"Name": "m-1"}));
        let (deleted, set) = std::thread::scope(|scope| {
            let delete = scope.spawn(|| b.objects.delete("bootenvs", "be-1", &root()));
            let set = scope.spawn(|| b.set("Name:m-1", "BootEnv", json!("be-1")));
            (delete.join().unwrap(), set.join().unwrap())
        });
        assert!(deleted.is_ok() != set.is_ok(), "{deleted:?} {set:?}");
    }
}

/// Notes each change in a row of its own, and refuses one name.
#[derive(Default)]
struct Hook {
    asked: Mutex<Vec<(bool, bool)>>,
    told: Mutex<Vec<String>>,
}

impl ChangeHook for Hook {
    fn machine_changing(
        &self,
        objects: &Objects,
        old: Option<&Object>,
        new: Option<&Object>,
        _differ: &[&str],
        txn: &mut Txn,
    ) -> Result<(), ApiError> {
        self.asked.lock().unwrap().push((old.is_some(), new.is_some()));
        let machine = new.or(old).unwrap();
        let uuid = text(machine, "Uuid");
        if text(machine, "Name") == "forbidden" {
            return Err(ApiError::validation("machines", uuid, "not today"));
        }
        let inside = objects.create("profiles", &json!({"Name": "from-a-hook"}), &Principal::system());
        assert_eq!(inside.unwrap_err().code, 500, "a hook only reads");
        let rows = objects.store().get("_boots", uuid).unwrap();
        let (count, expect) = match rows {
            Some(doc) => (doc.body[0] + 1, Expect::Rev(doc.rev)),
            None => (1, Expect::Absent),
        };
        txn.puts.push(Put {
            kind: "_boots".into(),
            key: uuid.into(),
            body: vec![count].into(),
            expect,
            indexes: vec![],
        });
        Ok(())
    }

    fn committed(&self, machine: &str, _: Option<&Object>) {
        self.told.lock().unwrap().push(machine.to_owned());
    }
}

fn hooked() -> (Bench, Arc<Hook>) {
    let b = bench();
    let hook = Arc::new(Hook::default());
    b.objects.set_hook(hook.clone());
    (b, hook)
}

#[test]
fn the_hook_shares_the_commit() {
    let (b, hook) = hooked();
    let machine = b.machine(json!({"Name": "mach-01"}));
    let uuid = text(&machine, "Uuid").to_owned();
    b.set(&uuid, "Description", json!("x")).unwrap();
    b.set(&uuid, "Description", json!("x")).unwrap();
    let row = b.objects.store().get("_boots", &uuid).unwrap().unwrap();
    assert_eq!(row.body[0], 2, "an unchanged machine is no change");
    let stored = b.objects.store().get("machines", &uuid).unwrap().unwrap();
    assert_eq!(row.rev, stored.rev, "one commit");
    b.objects.delete("machines", &uuid, &root()).unwrap();
    assert_eq!(
        *hook.asked.lock().unwrap(),
        [(false, true), (true, true), (true, false)]
    );
    assert_eq!(*hook.told.lock().unwrap(), vec![uuid; 3]);

    let before: Rev = b.objects.store().rev().unwrap();
    let refused = b
        .objects
        .create("machines", &json!({"Name": "forbidden"}), &root())
        .unwrap_err();
    assert_eq!(refused.messages, ["not today"]);
    assert_eq!(b.objects.store().rev().unwrap(), before);
}

/// Is not up to date the first time.
#[derive(Default)]
struct Late(Mutex<Vec<String>>);

impl ChangeHook for Late {
    fn machine_changing(
        &self,
        _: &Objects,
        _: Option<&Object>,
        new: Option<&Object>,
        _differ: &[&str],
        txn: &mut Txn,
    ) -> Result<(), ApiError> {
        let mut asked = self.0.lock().unwrap();
        let expect = if asked.is_empty() {
            Expect::Rev(Rev(1 << 40))
        } else {
            Expect::Absent
        };
        asked.push(serde_json::to_string(new.unwrap()).unwrap());
        txn.puts.push(Put {
            kind: "_boots".into(),
            key: "late".into(),
            body: vec![1].into(),
            expect,
            indexes: vec![],
        });
        Ok(())
    }

    fn committed(&self, _: &str, _: Option<&Object>) {}
}

#[test]
fn a_machine_that_is_made_again_after_a_collision_is_the_same() {
    let b = bench();
    let hook = Arc::new(Late::default());
    b.objects.set_hook(hook.clone());
    let reads = Mutex::new(0);
    let made = b.objects.make(
        "machines",
        || {
            *reads.lock().unwrap() += 1;
            Ok(json!({"Name": "mach-01", "Params": {"rack": 7}}))
        },
        &root(),
    );
    let made = made.unwrap();
    assert_eq!((&made["Name"], &made["Params"]["rack"]), (&json!("mach-01"), &json!(7)));
    let asked = hook.0.lock().unwrap();
    assert_eq!((asked.len(), *reads.lock().unwrap()), (2, 2));
    assert_eq!(asked[0], asked[1], "its UUID and its secret too");
}

#[test]
fn the_hook_is_asked_again_after_a_collision() {
    let (b, hook) = hooked();
    let machine = b.machine(json!({"Name": "mach-01"}));
    let uuid = text(&machine, "Uuid");
    std::thread::scope(|scope| {
        for t in 0..6 {
            let objects = b.objects.clone();
            scope.spawn(move || {
                for n in 0..10 {
                    objects
                        .set_param("machines", uuid, &format!("p{t}"), &json!(n), &root())
                        .unwrap();
                }
            });
        }
    });
    let row = b.objects.store().get("_boots", uuid).unwrap().unwrap();
    assert_eq!(row.body[0], 61, "one for each commit, none for the tries in vain");
    assert_eq!(hook.told.lock().unwrap().len(), 61);
}

#[test]
fn lists_by_an_index_are_those_of_a_look_at_all() {
    let b = bench();
    for n in 0..6 {
        let machine = b.machine(json!({"Name": format!("m{n}"), "Description": format!("d{}", n % 2),
            "Address": if n < 2 { "0.0.0.0".to_owned() } else { format!("10.0.0.{n}") }}));
        if n % 3 == 0 {
            b.set(text(&machine, "Uuid"), "BootEnv", json!("ignore")).unwrap_err();
            b.set(text(&machine, "Uuid"), "Workflow", json!("discover-base"))
                .unwrap();
        }
    }
    let all = b.objects.all("machines").unwrap();
    for (member, value) in [
        ("Name", "m3"),
        ("Name", "M3"),
        ("Name", ""),
        ("Name", "0.0.0.0"),
        ("Workflow", "discover-base"),
        ("BootEnv", "sledgehammer"),
        ("BootEnv", "local"),
        ("Stage", "none"),
        ("Stage", "nowhere"),
        ("Address", "10.0.0.2"),
    ] {
        let pairs = |extra: &[(&str, &str)]| -> Vec<(String, String)> {
            let pairs = [(member, value)].into_iter().chain(extra.iter().copied());
            pairs.map(|(n, v)| (n.to_owned(), v.to_owned())).collect()
        };
        let names =
            |machines: &[Arc<Object>]| -> Vec<String> { machines.iter().map(|m| text(m, "Name").to_owned()).collect() };
        let want: Vec<_> = all.iter().filter(|m| text(m, member) == value).cloned().collect();
        let found = b.objects.list("machines", &pairs(&[]), &root()).unwrap();
        assert_eq!(
            (names(&found.objects), found.total),
            (names(&want), 6),
            "{member}={value}"
        );
        let rows = b.objects.rows("machines", &pairs(&[]), &root()).unwrap().rows;
        for (row, machine) in rows.iter().zip(&want) {
            let shown: Object = serde_json::from_slice(&row.text().unwrap()).unwrap();
            assert_eq!(shown, **machine);
        }
        let sorted = b.objects.list(
            "machines",
            &pairs(&[("sort", "Name"), ("reverse", ""), ("limit", "2")]),
            &root(),
        );
        let mut last = names(&want);
        last.sort();
        last.reverse();
        last.truncate(2);
        assert_eq!(names(&sorted.unwrap().objects), last, "{member}={value}");
    }
}
