//! The runner against a server that keeps a machine and its jobs.
#![allow(clippy::unwrap_used)]

#[path = "../../../client/tests/support/mod.rs"]
mod support;

use std::sync::{Arc, Mutex};

use isobar_client::{Auth, TlsTrust};
use support::{Answer, Seen, Server};

use super::*;

/// A machine whose tasks are scripts of the same name.
struct World {
    machine: Value,
    scripts: Vec<(&'static str, &'static str)>,
    jobs: Vec<Value>,
    logs: String,
}

fn answer(world: &mut World, seen: &Seen) -> Answer {
    let path = seen
        .target
        .split('?')
        .next()
        .unwrap()
        .trim_start_matches("/api/v3/")
        .to_owned();
    let current = world.machine["CurrentTask"].as_i64().unwrap();
    match (seen.method.as_str(), path.split('/').collect::<Vec<_>>().as_slice()) {
        ("GET", ["machines", _]) => Answer::ok(world.machine.clone()),
        ("GET", ["machines", _, "params", "change-stage", "map"]) => Answer::ok(world.machine["Map"].clone()),
        ("PATCH", ["machines", _]) => {
            apply(&mut world.machine, &seen.json());
            // Somebody mends it.
            world.machine["Runnable"] = true.into();
            world
                .scripts
                .iter_mut()
                .for_each(|(_, script)| *script = script.trim_start_matches("#flaky\nexit 1\n"));
            Answer::ok(world.machine.clone())
        }
        ("POST", ["jobs"]) => {
            let last = world.jobs.last().map(|job| job["State"].clone());
            let at = match last.as_ref().and_then(Value::as_str) {
                Some("incomplete") => {
                    return Answer::json(202, world.jobs.last().unwrap().clone());
                }
                Some("failed") => current.max(0),
                _ => current + 1,
            };
            world.machine["CurrentTask"] = at.into();
            let Some(task) = world.machine["Tasks"].get(usize::try_from(at).unwrap()).cloned() else {
                return Answer::bytes(204, b"");
            };
            let job = json!({"Uuid": format!("j{}", world.jobs.len()), "Task": task, "State": "created", "Stage": "s"});
            world.jobs.push(job.clone());
            Answer::json(201, job)
        }
        ("GET", ["jobs", id]) => match world.jobs.iter().find(|job| job["Uuid"] == *id) {
            Some(job) => Answer::ok(job.clone()),
            None => Answer::error(404, "GET", "jobs", id, &["Not Found"]),
        },
        ("PATCH", ["jobs", id]) => {
            let job = world.jobs.iter_mut().find(|job| job["Uuid"] == *id).unwrap();
            apply(job, &seen.json());
            Answer::ok(job.clone())
        }
        ("GET", ["jobs", id, "actions"]) => {
            let job = world.jobs.iter().find(|job| job["Uuid"] == *id).unwrap();
            let script = world.scripts.iter().find(|(task, _)| job["Task"] == *task).unwrap().1;
            Answer::ok(json!([
                {"Name": "a file", "Path": "sub/file.txt", "Content": "from the template\n"},
                {"Name": "../script", "Path": "", "Content": script},
                {"Name": "after", "Path": "", "Content": "echo after\n"},
            ]))
        }
        ("PUT", ["jobs", _, "log"]) => {
            world.logs.push_str(&String::from_utf8_lossy(&seen.body));
            Answer::bytes(204, b"")
        }
        ("GET", ["tasks", "legacy"]) => Answer::ok(json!({"Meta": {}})),
        ("GET", ["tasks", _]) => Answer::ok(json!({"Meta": {"feature-flags": "x, sane-exit-codes"}})),
        _ => Answer::error(404, &seen.method, "", &path, &["Not Found"]),
    }
}

fn apply(object: &mut Value, patch: &Value) {
    for operation in patch.as_array().unwrap() {
        let member = operation["path"].as_str().unwrap().trim_start_matches('/');
        object[member] = operation["value"].clone();
    }
}

struct Ran {
    ended: Ended,
    /// Task, State, ExitState of each job.
    jobs: Vec<String>,
    logs: String,
    told: String,
    folder: tempfile::TempDir,
}

fn run(scripts: &[(&'static str, &'static str)], change: impl FnOnce(&mut World), exit_on_failure: bool) -> Ran {
    let tasks: Vec<&str> = scripts.iter().map(|(task, _)| *task).collect();
    let mut world = World {
        machine: json!({"Uuid": "u", "BootEnv": "local", "Runnable": true, "Tasks": tasks, "CurrentTask": -1}),
        scripts: scripts.to_vec(),
        jobs: Vec::new(),
        logs: String::new(),
    };
    change(&mut world);
    let world = Arc::new(Mutex::new(world));
    let server = Server::start({
        let world = Arc::clone(&world);
        move |seen| answer(&mut world.lock().unwrap(), seen)
    });
    let folder = tempfile::tempdir().unwrap();
    let told = Mutex::new(String::new());
    let runner = Runner {
        machine: "Name:mach-01".to_owned(),
        folder: folder.path().to_owned(),
        connect: &|| Client::new(&server.endpoint, Auth::token("t0ken"), TlsTrust::Insecure),
        environment: &|client| vec![("RS_ENDPOINT".to_owned(), client.endpoint().to_string())],
        programs: None,
        oneshot: true,
        exit_on_failure,
        told: &|text| told.lock().unwrap().push_str(&format!("{text}\n")),
    };
    let ended = runner.run().unwrap();
    let world = world.lock().unwrap();
    let line = |job: &Value| {
        format!(
            "{} {} {}",
            text(job, "Task"),
            text(job, "State"),
            text(job, "ExitState")
        )
    };
    let told = told.lock().unwrap().clone();
    Ran {
        ended,
        jobs: world.jobs.iter().map(line).collect(),
        logs: world.logs.clone(),
        told,
        folder,
    }
}

#[test]
fn files_are_written_scripts_are_run_and_what_they_say_is_logged() {
    let script = "#!/bin/sh\ncat sub/file.txt\necho $RS_UUID $RS_JOB_UUID $RS_ENDPOINT\necho aside >&2\n[ \"$PWD\" = \"$RS_TASK_DIR\" ]\n";
    let ran = run(&[("one", script), ("two", "printf %s last")], |_| {}, false);
    assert_eq!(ran.ended, Ended::Done);
    assert_eq!(ran.jobs, ["one finished complete", "two finished complete"]);
    for said in [
        "from the template\nu j0 https://127.0.0.1:",
        "aside\n",
        "last",
        "after\nafter: exit status 0\n",
    ] {
        assert!(ran.logs.contains(said), "{said:?}: {}", ran.logs);
    }
    let left: Vec<_> = crate::entries(ran.folder.path());
    assert!(
        left.iter().all(|path| path.extension().is_some_and(|e| e == "lock")),
        "{left:?}"
    );
    assert!(ran.told.contains("two: finished"), "{}", ran.told);
}

#[test]
fn exit_codes_say_what_comes_next() {
    for (task, script, ended, jobs) in [
        ("a", "exit 64", Ended::Reboot, "a finished reboot"),
        ("a", "exit 32", Ended::PowerOff, "a finished poweroff"),
        ("a", "exit 16", Ended::Stopped, "a finished stop"),
        ("a", "exit 192", Ended::Reboot, "a incomplete reboot"),
        ("a", "exit 160", Ended::PowerOff, "a incomplete poweroff"),
        ("a", "exit 1", Ended::Failed, "a failed failed"),
        ("a", "kill -9 $$", Ended::Failed, "a failed failed"),
        ("a", "#!/nowhere/to/be/found\n", Ended::Failed, "a failed failed"),
        ("legacy", "exit 3", Ended::Reboot, "legacy finished reboot"),
        ("legacy", "exit 64", Ended::Failed, "legacy failed failed"),
    ] {
        let ran = run(&[(task, script)], |_| {}, true);
        assert_eq!(
            (ran.ended, ran.jobs.as_slice()),
            (ended, &[jobs.to_owned()][..]),
            "{script}: {}",
            ran.logs
        );
        assert!(!ran.logs.contains("after: started"), "{script}: {}", ran.logs);
    }
}

#[test]
fn a_failed_job_stops_the_machine_until_somebody_lets_it_go_on() {
    let ran = run(&[("a", "#flaky\nexit 1\necho mended")], |_| {}, false);
    assert_eq!(ran.ended, Ended::Done);
    assert_eq!(ran.jobs, ["a failed failed", "a finished complete"]);
    assert!(ran.logs.contains("mended"), "{}", ran.logs);
}

#[test]
fn an_incomplete_job_is_run_again() {
    let ran = run(
        &[("a", "f=$RS_RUNNER_DIR/once; [ -e $f ] && exit 0; touch $f; exit 128")],
        |_| {},
        false,
    );
    assert_eq!(
        (ran.ended, ran.jobs),
        (Ended::Done, vec!["a finished complete".to_owned()])
    );
}

#[test]
fn jobs_that_a_dead_runner_left_are_closed() {
    for (state, first) in [("running", "a failed failed"), ("created", "a finished complete")] {
        let left = |world: &mut World| {
            world.machine["CurrentJob"] = "j0".into();
            world.machine["CurrentTask"] = 0.into();
            world.jobs.push(json!({"Uuid": "j0", "Task": "a", "State": state}));
        };
        let ran = run(&[("a", "true")], left, false);
        assert_eq!(ran.jobs[0], first);
        assert_eq!(ran.jobs.last().unwrap(), "a finished complete");
    }
}

#[test]
fn what_a_script_leaves_behind_does_not_hold_the_job() {
    let ran = run(
        &[("a", "sleep 600 & echo $! > $RS_RUNNER_DIR/left; echo done")],
        |_| {},
        false,
    );
    assert_eq!(ran.jobs, ["a finished complete"]);
    let left = std::fs::read_to_string(ran.folder.path().join("left")).unwrap();
    let left = rustix::process::Pid::from_raw(left.trim().parse().unwrap()).unwrap();
    rustix::process::kill_process(left, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn a_new_bootenv_is_a_reboot_but_for_an_installer() {
    assert_eq!(left("local", "local"), None);
    assert_eq!(left("sledgehammer", "local"), Some(Ended::Reboot));
    assert_eq!(left("debian-12-install", "local"), Some(Ended::Stopped));
}

#[test]
fn a_map_of_stages_is_followed_where_no_workflow_is() {
    let go = |map: Value, workflow: &str| {
        let ran = run(
            &[("a", "true")],
            |world| {
                world.machine["Stage"] = "one".into();
                world.machine["Workflow"] = workflow.into();
                world.machine["Map"] = map;
            },
            false,
        );
        (ran.ended, ran.told.matches(" comes next").count())
    };
    assert_eq!(go(json!({"one": "two:Success", "two": "three"}), ""), (Ended::Done, 2));
    assert_eq!(go(json!({"one": "two:Success"}), "w"), (Ended::Done, 0));
    assert_eq!(go(json!({"other": "two", "one": "one"}), ""), (Ended::Done, 0));
    assert_eq!(go(Value::Null, ""), (Ended::Done, 0));
    for (what, ended) in [
        ("Reboot", Ended::Reboot),
        ("Stop", Ended::Stopped),
        ("Poweroff", Ended::PowerOff),
    ] {
        assert_eq!(go(json!({"one": format!("two:{what}")}), ""), (ended, 1));
    }
}

#[test]
fn one_runner_for_a_machine() {
    let folder = tempfile::tempdir().unwrap();
    let runner = Runner {
        machine: "u".to_owned(),
        folder: folder.path().to_owned(),
        connect: &|| Client::new("https://127.0.0.1:1", Auth::None, TlsTrust::Insecure),
        environment: &|_| Vec::new(),
        programs: None,
        oneshot: true,
        exit_on_failure: true,
        told: &|_| {},
    };
    let first = runner.lock("u").unwrap();
    let second = runner.lock("u").unwrap_err().to_string();
    assert!(second.contains("another runner"), "{second}");
    drop(first);
    runner.lock("u").unwrap();
}
