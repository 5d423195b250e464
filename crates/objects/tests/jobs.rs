//! Jobs: what a machine does next, what became of it, and its log.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Bench, bench, root, text};
use isobar_model::Object;
use isobar_objects::{NextJob, ServedAt};
use serde_json::{Value, json};

/// A machine in a workflow of two stages, the second in another boot environment.
fn workflow(b: &Bench) -> String {
    let make = |noun: &str, object: Value| drop(b.objects.create(noun, &object, &root()).unwrap());
    for task in ["one", "two", "three"] {
        let templates = json!([
            {"Name": "file", "Path": "/tmp/{{.Machine.Name}}", "Contents": "{{.Param \"count\"}} {{.Task.Name}}"},
            {"Name": "windows", "Contents": "x", "Meta": {"OS": "windows"}},
        ]);
        make("tasks", json!({"Name": task, "Templates": templates}));
    }
    make(
        "stages",
        json!({"Name": "s1", "BootEnv": "local", "Tasks": ["one", "two"]}),
    );
    make(
        "stages",
        json!({"Name": "s2", "BootEnv": "sledgehammer", "Tasks": ["three"]}),
    );
    make("workflows", json!({"Name": "wf1", "Stages": ["s1", "s2"]}));
    let machine = b.machine(json!({"Name": "mach-01", "Workflow": "wf1", "Params": {"count": 5}}));
    text(&machine, "Uuid").to_owned()
}

fn next(b: &Bench, machine: &str) -> NextJob {
    b.objects.next_job(&json!({ "Machine": machine }), &root()).unwrap()
}

fn made(b: &Bench, machine: &str) -> Object {
    match next(b, machine) {
        NextJob::Made(job) => Object::clone(&job),
        other => panic!("{other:?}"),
    }
}

fn state(b: &Bench, job: &Object, state: &str) -> Object {
    let ops = json!([{"op": "replace", "path": "/State", "value": state}]);
    let job = b
        .objects
        .patch("jobs", text(job, "Uuid"), &ops, false, &root())
        .unwrap();
    Object::clone(&job)
}

fn refused<T: std::fmt::Debug>(result: Result<T, isobar_model::ApiError>) -> (u16, String) {
    let error = result.unwrap_err();
    (error.code, error.to_string())
}

#[test]
fn a_workflow_is_gone_through_job_by_job() {
    let b = bench();
    let uuid = workflow(&b);
    let one = made(&b, &uuid);
    let place = |job: &Object| {
        (
            text(job, "Task").to_owned(),
            job["CurrentIndex"].clone(),
            job["NextIndex"].clone(),
        )
    };
    // The entries for stage and boot environment are what the machine is in already.
    assert_eq!(place(&one), ("one".to_owned(), json!(2), json!(3)));
    assert_eq!(text(&one, "Previous"), "00000000-0000-0000-0000-000000000000");
    let busy = format!("Conflict: Machine {uuid} already has running or created job");
    let again = || b.objects.next_job(&json!({ "Machine": uuid }), &root());
    assert_eq!(refused(again()), (409, busy));

    state(&b, &one, "running");
    state(&b, &one, "incomplete");
    assert!(matches!(next(&b, &uuid), NextJob::Again(job) if job["Uuid"] == one["Uuid"]));
    let failed = state(&b, &one, "failed");
    assert!(!text(&failed, "EndTime").starts_with("0001"));
    let retry = made(&b, &uuid);
    assert_eq!((place(&retry), &retry["Previous"]), (place(&one), &one["Uuid"]));
    assert_eq!(
        b.objects.get("jobs", text(&one, "Uuid")).unwrap()["Current"],
        json!(false)
    );
    state(&b, &retry, "finished");
    let two = made(&b, &uuid);
    assert_eq!(text(&two, "Task"), "two");
    state(&b, &two, "finished");

    // The server enters the next stage itself, and with it the boot environment: the agent has to reboot.
    assert!(matches!(next(&b, &uuid), NextJob::Nothing));
    let machine = b.objects.get("machines", &uuid).unwrap();
    assert_eq!(
        (text(&machine, "Stage"), text(&machine, "BootEnv")),
        ("s2", "sledgehammer")
    );
    assert_eq!(machine["Runnable"], json!(false));
    let (code, text_) = refused(again());
    assert_eq!(
        (code, text_),
        (409, format!("Conflict: Machine {uuid} is not runnable"))
    );
    b.set(&uuid, "Runnable", json!(true)).unwrap();
    let three = made(&b, &uuid);
    assert_eq!(text(&three, "Task"), "three");
    state(&b, &three, "finished");
    assert!(matches!(next(&b, &uuid), NextJob::Nothing));
    let machine = b.objects.get("machines", &uuid).unwrap();
    assert_eq!(
        (&machine["WorkflowComplete"], &machine["CurrentTask"]),
        (&json!(true), &json!(7))
    );
    assert!(matches!(next(&b, &uuid), NextJob::Nothing));
}

#[test]
fn the_log_of_a_job_grows_and_goes_with_it() {
    let b = bench();
    let uuid = workflow(&b);
    let job = made(&b, &uuid);
    let key = text(&job, "Uuid");
    let log = || String::from_utf8(b.objects.job_log(key, &root()).unwrap()).unwrap();
    assert_eq!(log(), format!("Log for Job: {key}\n"));
    // Over several pieces.
    for n in 0..3 {
        let piece = n.to_string().repeat(60_000);
        b.objects.append_job_log(key, piece.as_bytes(), &root()).unwrap();
    }
    assert!(log().len() > 180_000 && log().ends_with("222"));
    let open = format!("ValidationError: jobs/{key}: Jobs {key} is not in a deletable state: created");
    assert_eq!(refused(b.objects.delete("jobs", key, &root())), (422, open));
    state(&b, &job, "finished");
    b.objects.delete("jobs", key, &root()).unwrap();
    assert_eq!(
        refused(b.objects.job_log(key, &root())),
        (422, format!("ValidationError: Job {key} does not exist"))
    );
    let wrong = json!([{"op": "replace", "path": "/State", "value": "fred"}]);
    let job = made(&b, &uuid);
    let (code, _) = refused(b.objects.patch("jobs", text(&job, "Uuid"), &wrong, false, &root()));
    assert_eq!(code, 422);
}

#[test]
fn what_the_agent_does_is_rendered_for_its_machine_and_system() {
    let b = bench();
    let uuid = workflow(&b);
    let job = made(&b, &uuid);
    let actions = |os: &str| {
        b.objects
            .job_actions(text(&job, "Uuid"), os, &ServedAt::default(), &root())
    };
    let all = actions("").unwrap();
    assert_eq!(
        all[0],
        json!({"Name": "file", "Path": "/tmp/mach-01", "Content": "5 one", "Meta": {}})
    );
    assert_eq!((all.len(), actions("linux").unwrap().len()), (2, 1));

    // A machine is never told its own BMC's password, not even by a task that asks for it.
    let leak = json!([{"Name": "leak", "Contents": "{{.Param \"ipmi/password\"}}"}]);
    let ops = json!([{"op": "replace", "path": "/Templates", "value": leak}]);
    b.objects.patch("tasks", "one", &ops, false, &root()).unwrap();
    b.objects
        .set_param("machines", &uuid, "ipmi/password", &json!("hunter2"), &root())
        .unwrap();
    let (code, text_) = refused(actions(""));
    assert!(
        code == 422 && text_.contains("ipmi/password") && !text_.contains("hunter2"),
        "{text_}"
    );
}

#[test]
fn a_machine_sees_and_moves_nobody_elses_jobs() {
    let b = bench();
    let uuid = workflow(&b);
    let other = b.machine(json!({"Name": "mach-02"}));
    let token = |uuid: &str| {
        let token = b
            .objects
            .issue_machine_token(uuid, std::time::Duration::from_secs(60), &root())
            .unwrap();
        b.objects.verify(token.as_str()).unwrap()
    };
    let (own, stranger) = (token(&uuid), token(text(&other, "Uuid")));
    let wanted = json!({ "Machine": uuid });
    assert_eq!(refused(b.objects.next_job(&wanted, &stranger)).0, 403);
    let NextJob::Made(job) = b.objects.next_job(&wanted, &own).unwrap() else {
        panic!()
    };
    let key = text(&job, "Uuid");
    assert_eq!(refused(b.objects.job_log(key, &stranger)).0, 403);
    assert_eq!(refused(b.objects.append_job_log(key, b"x", &stranger)).0, 403);
    assert_eq!(
        refused(b.objects.job_actions(key, "", &ServedAt::default(), &stranger)).0,
        403
    );
    b.objects.append_job_log(key, b"x", &own).unwrap();
}

#[test]
fn an_action_in_a_task_list_fails_and_says_why() {
    let b = bench();
    let machine = b.machine(json!({"Name": "mach-01", "Tasks": ["action:poweron"]}));
    let uuid = text(&machine, "Uuid");
    let NextJob::Made(job) = b.objects.next_job(&json!({"Machine": uuid}), &root()).unwrap() else {
        panic!()
    };
    assert_eq!((text(&job, "Task"), text(&job, "State")), ("action:poweron", "failed"));
    let log = b.objects.job_log(text(&job, "Uuid"), &root()).unwrap();
    let log = String::from_utf8(log).unwrap();
    assert!(
        log.contains("action:poweron: actions are not run out of task lists"),
        "{log}"
    );
}
