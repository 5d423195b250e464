//! `machines processjobs` on the host that it is called on: a workflow from its first task to its last.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::process::{Command, Output};

use common::Served;
use serde_json::{Value, json};

struct Cli<'a> {
    served: &'a Served,
    data: &'a Path,
}

impl Cli<'_> {
    fn run(&self, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_isobar"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("RS_") {
                command.env_remove(name);
            }
        }
        let password = std::fs::read_to_string(self.data.join("rocketskates.password")).unwrap();
        command.args(words).env("RS_ENDPOINT", self.served.endpoint());
        command.env("RS_KEY", format!("rocketskates:{}", password.trim()));
        command.env("HOME", self.data).output().unwrap()
    }

    fn json(&self, words: &[&str]) -> Value {
        let out = self.run(words);
        let told = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{words:?}: {told}");
        serde_json::from_slice(&out.stdout).unwrap_or(Value::Null)
    }
}

#[test]
fn a_host_does_its_jobs() {
    let data = tempfile::tempdir().unwrap();
    let served = Served::start(data.path());
    let cli = Cli {
        served: &served,
        data: data.path(),
    };
    let script =
        "#!/bin/sh\nset -e\ncat {{.Param \"greeting/file\"}}\ndrpcli machines set $RS_UUID param answer to 42\n";
    let greet = json!({"Name": "greet", "Templates": [
        {"Name": "file", "Path": "greeting.txt", "Contents": "hello {{.Machine.Name}}\n"},
        {"Name": "script", "Contents": script},
    ]});
    let leave = json!({"Name": "leave", "Templates": [{"Name": "script", "Contents": "echo bye\nexit 64\n"}]});
    for (noun, object) in [
        ("tasks", greet),
        ("tasks", leave),
        ("stages", json!({"Name": "first", "Tasks": ["greet"]})),
        ("stages", json!({"Name": "second", "Tasks": ["leave", "greet"]})),
        ("workflows", json!({"Name": "both", "Stages": ["first", "second"]})),
        (
            "machines",
            json!({"Name": "mach-01", "Workflow": "both", "Params": {"greeting/file": "greeting.txt"}}),
        ),
    ] {
        cli.json(&[noun, "create", &object.to_string()]);
    }
    let folder = data.path().join("jobs");
    let process = [
        "machines",
        "processjobs",
        "Name:mach-01",
        "--oneshot",
        "--folder",
        folder.to_str().unwrap(),
    ];

    let out = cli.run(&process);
    let told = String::from_utf8_lossy(&out.stderr);
    assert!(
        out.status.success() && told.contains("this host is to be rebooted now"),
        "{told}"
    );
    assert_eq!(cli.json(&["machines", "get", "Name:mach-01", "param", "answer"]), 42);
    let log = cli.run(&["machines", "currentlog", "Name:mach-01"]);
    assert!(String::from_utf8_lossy(&log.stdout).contains("bye\n"), "{log:?}");

    // After the reboot that did not happen.
    cli.json(&process);
    let machine = cli.json(&["machines", "show", "Name:mach-01"]);
    assert_eq!(
        (&machine["WorkflowComplete"], &machine["Runnable"]),
        (&json!(true), &json!(true))
    );
    let tasks = cli.json(&["machines", "inspect", "tasks", "Name:mach-01"]);
    let tasks = tasks.as_array().unwrap().iter();
    let tasks: Vec<String> = tasks
        .map(|task| format!("{} {}", task["Task"].as_str().unwrap(), task["State"].as_str().unwrap()))
        .collect();
    let expected = [
        "stage:first passed",
        "greet finished",
        "stage:second finished",
        "leave finished",
        "greet finished",
    ];
    assert_eq!(tasks, expected);
    let jobs = cli.json(&["machines", "inspect", "jobs", "Name:mach-01"]);
    let exits: Vec<&str> = jobs
        .as_array()
        .unwrap()
        .iter()
        .map(|job| job["ExitState"].as_str().unwrap())
        .collect();
    assert_eq!(exits, ["complete", "complete", "reboot", "complete"]);

    // A script that fails makes the machine wait for somebody.
    cli.json(&[
        "tasks",
        "update",
        "leave",
        r#"{"Templates": [{"Name": "script", "Contents": "exit 1"}]}"#,
    ]);
    cli.json(&["machines", "workflow", "Name:mach-01", ""]);
    cli.json(&["machines", "update", "Name:mach-01", r#"{"Tasks": ["leave"]}"#]);
    let out = cli.run(&[&process[..], &["--exit-on-failure"]].concat());
    assert!(!out.status.success(), "{out:?}");
    assert_eq!(cli.json(&["machines", "show", "Name:mach-01"])["Runnable"], false);
}
