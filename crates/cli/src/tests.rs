//! Whole command lines against a server that answers in the shapes of drp-api.md and SEAMS of our own API.
#![allow(clippy::unwrap_used)]

#[path = "../../client/tests/support/mod.rs"]
mod support;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use support::{Answer, Seen, Server};

use crate::host::fake;
use crate::verbs::SERVICES;
use crate::{ExtraCommand, Program, grammar};

const UUID: &str = "1987e6d3-75ef-4a61-bf0d-2fa4b26f8215";

/// What a command left behind.
struct Ran {
    status: u8,
    out: String,
    err: String,
    lines: Vec<String>,
    seen: Vec<Seen>,
}

fn run_with(server: &Server, words: &[&str], env: &[(&str, &str)], stdin: &str) -> Ran {
    let mut all = vec![("RS_ENDPOINT", server.endpoint.as_str()), ("RS_TOKEN", "t0ken")];
    all.extend_from_slice(env);
    let (host, out, err) = fake::host(&all, stdin);
    let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
    let status = crate::run(&words, &[], &host);
    let seen = server.take();
    let lines = seen.iter().map(|seen| seen.line().replace("/api/v3", "")).collect();
    Ran {
        status,
        out: out.text(),
        err: err.text(),
        lines,
        seen,
    }
}

fn run(server: &Server, words: &[&str]) -> Ran {
    run_with(server, words, &[], "")
}

fn local(words: &[&str]) -> (u8, String, String) {
    let (host, out, err) = fake::host(&[], "");
    let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
    let extra = [ExtraCommand {
        name: "serve",
        about: "Serves",
    }];
    (crate::run(&words, &extra, &host), out.text(), err.text())
}

/// A machine, its params, and boots that come as a PATCH changes the BootEnv.
struct World {
    machine: Value,
    boots: Vec<Value>,
    /// What the long-poll answers, one after the other.
    progress: VecDeque<Value>,
    /// The boot that the next PATCH starts.
    next_boot: Option<Value>,
    /// False: a server without our API.
    ours: bool,
}

fn world(ours: bool) -> Arc<Mutex<World>> {
    let machine = json!({
        "Validated": true, "Available": true, "Errors": [], "Meta": {}, "Name": "mach-01", "Uuid": UUID,
        "Stage": "none", "BootEnv": "sledgehammer", "Workflow": "discover-base", "Description": "", "Profiles": [],
        "Params": {"boot-virtual-iso": true}, "Tasks": [], "CurrentTask": -1,
    });
    Arc::new(Mutex::new(World {
        machine,
        boots: Vec::new(),
        progress: VecDeque::new(),
        next_boot: None,
        ours,
    }))
}

fn serve(world: &Arc<Mutex<World>>) -> Server {
    let world = Arc::clone(world);
    Server::start(move |seen| answer(&mut world.lock().unwrap(), seen))
}

fn answer(world: &mut World, seen: &Seen) -> Answer {
    let (path, query) = seen.target.split_once('?').unwrap_or((&seen.target, ""));
    if let Some(path) = path.strip_prefix("/isobar/v1") {
        return match path.trim_start_matches('/') {
            _ if !world.ours => Answer::error(404, "GET", "", path, &["No route"]),
            "boots" => Answer::ok(Value::Array(world.boots.iter().rev().cloned().collect())),
            "isos" => Answer::ok(json!([
                {"machine": UUID, "name": "mach-01", "bootenv": "local", "size": 0},
                {"machine": UUID, "name": "mach-01", "bootenv": "sledgehammer", "size": 10},
            ])),
            path if path == format!("isos/{UUID}/sledgehammer/tree") => {
                Answer::ok(json!([{"path": "boot/grub/grub.cfg", "offset": 0, "size": 3, "role": "other"}]))
            }
            path if path == format!("isos/{UUID}/sledgehammer/files/boot/grub/grub.cfg") => Answer::bytes(200, b"set"),
            path if path == format!("isos/{UUID}/sledgehammer/boot.iso") => Answer::bytes(200, b"0123456789"),
            path if path.starts_with("boots/") && query.starts_with("after=") => {
                Answer::ok(world.progress.pop_front().unwrap())
            }
            _ => Answer::error(404, "GET", "boots", path, &["Not Found"]),
        };
    }
    let path = path.strip_prefix("/api/v3/").unwrap();
    let path = path.replace("Name:mach-01", UUID);
    let machine = format!("machines/{UUID}");
    match (seen.method.as_str(), path.strip_prefix(&machine).unwrap_or(&path)) {
        ("GET", "info") => Answer::ok(json!({"id": "Fred"})),
        ("POST", "machines") => Answer::json(201, world.machine.clone()),
        ("GET", "") => Answer::ok(world.machine.clone()),
        ("HEAD", "") => Answer::bytes(200, b""),
        ("DELETE", "") => Answer::ok(world.machine.clone()),
        ("PATCH", "") => {
            let patch = isobar_model::patch::Patch::parse(&seen.json()).unwrap();
            patch
                .apply(&mut world.machine, isobar_model::patch::Target::Object)
                .unwrap();
            world.boots.extend(world.next_boot.take());
            Answer::ok(world.machine.clone())
        }
        ("GET", "/params") => Answer::ok(world.machine["Params"].clone()),
        ("POST", "/params/ipmi/password" | "/params/network-data" | "/params/boot-virtual-iso" | "/params/code") => {
            Answer::ok(seen.json())
        }
        ("DELETE", "/params/boot-virtual-iso") => Answer::ok(json!(true)),
        ("DELETE", key) if key.starts_with("/params/") => Answer::error(
            404,
            "DELETE",
            "params",
            key.trim_start_matches("/params/"),
            &["Not Found"],
        ),
        ("PATCH", "/params") => Answer::ok(json!({"boot-virtual-iso": true, "foo": {"a": 1}})),
        ("GET", "/pubkey") => Answer::ok(json!("AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=")),
        ("POST", "/actions/statusVirtualMedia") => Answer::ok(json!({"Inserted": true, "Image": "http://h/a?b&c"})),
        ("POST", action) if action.starts_with("/actions/power") => Answer::ok(json!("On")),
        ("POST", "/actions/mountVirtualMedia" | "/actions/unmountVirtualMedia") => Answer::ok(json!("Success")),
        ("GET", "params/ipmi/password") => {
            Answer::ok(json!({"Name": "ipmi/password", "Secure": true, "Schema": {"type": "string"}}))
        }
        ("GET", "params/code") => Answer::ok(json!({"Name": "code", "Secure": false, "Schema": {"type": "string"}})),
        ("HEAD", "params/ipmi/virtual-media-boot") => Answer::bytes(200, b""),
        ("GET", "params") => Answer::ok(json!([{"Name": "network-data"}, {"Name": "ipmi/mode"}])),
        (method, path) => Answer::error(
            404,
            method,
            path.split('/').next().unwrap(),
            path.split_once('/').map_or("", |p| p.1),
            &["Not Found"],
        ),
    }
}

fn boot(seq: u64, phase: &str, more: Value) -> Value {
    let mut boot = json!({
        "id": "b1", "machine": UUID, "machine_name": "mach-01", "bootenv": "sledgehammer", "state": "running",
        "phase": phase, "detail": "", "percent": null, "rate_bps": null, "eta_s": null, "handed_over": false,
        "agent_up": false, "error": null, "seq": seq,
    });
    boot.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    boot
}

#[test]
fn the_grammar_is_sound_and_every_example_of_the_help_parses() {
    for program in [Program::Isobar, Program::Drpcli] {
        let mut root = grammar::command(program, &[]);
        root.clone().debug_assert();
        let mut leaves = 0;
        root.build();
        for group in root.get_subcommands() {
            for leaf in group.get_subcommands() {
                let help = leaf.get_after_help().unwrap().to_string();
                let example = help.strip_prefix("Example: ").unwrap();
                assert!(!example.contains('{') || example.contains("'{\""), "{example}");
                let words = split(example);
                assert_eq!(words[1..3], [group.get_name().to_owned(), leaf.get_name().to_owned()]);
                let matches = grammar::command(program, &[]).try_get_matches_from(&words).unwrap();
                grammar::parse(&matches, program, &[])
                    .map(|_| ())
                    .unwrap_or_else(|error| panic!("{example}: {error}"));
                leaves += 1;
            }
        }
        assert!(leaves > 100, "{leaves}");
    }
}

/// As a shell does, as far as the examples need it.
fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (at, part) in line.split(" > ").next().unwrap().split('\'').enumerate() {
        match at % 2 {
            0 => words.extend(part.split_whitespace().map(str::to_owned)),
            _ => words.push(part.to_owned()),
        }
    }
    words
}

/// Verbs of the table that wait for what they work on: jobs and the agent's runner.
const LATER: &[&str] = &[
    "currentlog",
    "deletejobs",
    "inserttask",
    "inspect",
    "jobs",
    "processjobs",
    "whoami",
];

#[test]
fn every_verb_of_the_model_table_is_there() {
    for noun in isobar_model::table::NOUNS {
        let known: Vec<&str> = crate::verbs::of_noun(noun).iter().map(|verb| verb.name).collect();
        for verb in noun.verbs() {
            assert!(known.contains(&verb) || LATER.contains(&verb), "{} {verb}", noun.name);
        }
    }
}

#[test]
fn drpcli_has_no_verbs_of_ours() {
    let isos = SERVICES.iter().find(|service| service.name == "isos").unwrap();
    assert!(isos.verbs(Program::Isobar).any(|verb| verb.name == "tree"));
    assert!(!isos.verbs(Program::Drpcli).any(|verb| verb.name == "tree"));
    let (status, _, err) = local(&["drpcli", "boots", "list"]);
    assert_eq!(
        (status, err.lines().next().unwrap()),
        (1, "Error: unknown command \"boots\" for \"drpcli\"")
    );
}

#[test]
fn wrong_use_is_said_in_drpclis_words() {
    let (status, out, err) = local(&["/usr/bin/drpcli", "machines", "show"]);
    assert_eq!((status, out.as_str()), (1, ""));
    assert!(
        err.starts_with("Error: drpcli machines show [id] [flags] requires 1 argument\nUsage:\n"),
        "{err}"
    );
    assert!(err.ends_with("\n\n"));
    let (_, _, err) = local(&["drpcli", "machines", "set", "Name:x", "param"]);
    assert!(
        err.contains("machines set [id] param [key] to [json blob] [flags] requires 5 arguments"),
        "{err}"
    );
    let (status, _, err) = local(&["drpcli", "-F", "cow", "bootenvs", "list"]);
    assert_eq!((status, err.as_str()), (1, "Error: Unknown pretty format cow\n\n"));
    let (_, _, err) = local(&["isobar", "machines", "set", "Name:x", "parm", "a", "to", "b"]);
    assert!(err.contains("\"parm\" stands where \"param\" should"), "{err}");
}

#[test]
fn isobar_guesses_what_was_meant() {
    for (words, message) in [
        (
            &["isobar", "machine", "list"][..],
            "unknown command \"machine\" for \"isobar\"; did you mean machines?",
        ),
        (
            &["isobar", "machines", "shwo", "x"],
            "unknown command \"shwo\" for \"isobar machines\"; did you mean show?",
        ),
        (
            &["isobar", "serv"],
            "unknown command \"serv\" for \"isobar\"; did you mean serve?",
        ),
        (
            &["isobar", "machines", "list", "--limt", "3"],
            "unknown flag: --limt; did you mean --limit?",
        ),
        (
            &["drpcli", "machine", "list"],
            "unknown command \"machine\" for \"drpcli\"",
        ),
    ] {
        let (status, _, err) = local(words);
        assert_eq!(
            (status, err.lines().next().unwrap()),
            (1, format!("Error: {message}").as_str())
        );
    }
}

#[test]
fn help_version_and_completions_need_no_server() {
    let (status, out, _) = local(&["isobar", "--help"]);
    assert_eq!(status, 0);
    for word in ["machines", "serve", "boots", "completion", "RS_ENDPOINT"] {
        assert!(out.contains(word), "{word}: {out}");
    }
    let (status, out, _) = local(&["isobar", "machines", "set", "-h"]);
    assert_eq!(status, 0);
    assert!(
        out.contains("Example: isobar machines set Name:mach-01 param boot-virtual-iso to true"),
        "{out}"
    );
    for (shell, mark) in [
        ("bash", "complete -F"),
        ("zsh", "#compdef isobar"),
        ("fish", "complete -c isobar"),
    ] {
        let (status, out, _) = local(&["isobar", "completion", shell]);
        assert_eq!(status, 0);
        assert!(out.contains(mark) && out.contains("runaction"), "{shell}");
    }
    assert_eq!(local(&["drpcli", "version"]).0, 0);
}

/// Each command of the manual's walk-through: requests in order, standard output.
#[test]
fn the_walk_through_makes_drpclis_requests() {
    let machine = format!("/machines/{UUID}");
    let patch = format!("PATCH {machine}");
    let cases: &[(&[&str], &[&str], &str)] = &[
        (
            &[
                "machines",
                "set",
                "Name:mach-01",
                "param",
                "boot-virtual-iso",
                "to",
                "true",
            ],
            &[
                "GET /params/boot-virtual-iso",
                "POST /machines/Name:mach-01/params/boot-virtual-iso",
            ],
            "true\n",
        ),
        (
            &["machines", "workflow", "Name:mach-01", ""],
            &["GET /machines/Name:mach-01", &patch],
            "\"Workflow\": \"\"",
        ),
        (
            &["machines", "bootenv", "Name:mach-01", "local"],
            &["GET /machines/Name:mach-01", &patch],
            "\"BootEnv\": \"local\"",
        ),
        (
            &["machines", "workflow", "Name:mach-01", "discover-base"],
            &["GET /machines/Name:mach-01", &patch],
            "\"discover-base\"",
        ),
        (
            &[
                "machines",
                "runaction",
                "Name:mach-01",
                "statusVirtualMedia",
                "ipmi/mode",
                "redfish",
            ],
            &["POST /machines/Name:mach-01/actions/statusVirtualMedia"],
            "{\n  \"Image\": \"http://h/a?b\\u0026c\",\n  \"Inserted\": true\n}\n",
        ),
        (
            &[
                "machines",
                "runaction",
                UUID,
                "mountVirtualMedia",
                "ipmi/mode",
                "redfish",
                "ipmi/virtual-media-url",
                "http://h/x.iso",
                "ipmi/virtual-media-boot",
                "true",
            ],
            &[&format!("POST {machine}/actions/mountVirtualMedia")],
            "\"Success\"\n",
        ),
        (
            &[
                "machines",
                "runaction",
                "Name:mach-01",
                "unmountVirtualMedia",
                "ipmi/mode",
                "redfish",
            ],
            &["POST /machines/Name:mach-01/actions/unmountVirtualMedia"],
            "\"Success\"\n",
        ),
        (
            &[
                "machines",
                "runaction",
                "Name:mach-01",
                "powercycle",
                "ipmi/mode",
                "redfish",
            ],
            &["POST /machines/Name:mach-01/actions/powercycle"],
            "\"On\"\n",
        ),
        (
            &["machines", "runaction", "Name:mach-01", "powerstatus"],
            &["POST /machines/Name:mach-01/actions/powerstatus"],
            "\"On\"\n",
        ),
        (
            &["machines", "remove", "Name:mach-01", "param", "boot-virtual-iso"],
            &["DELETE /machines/Name:mach-01/params/boot-virtual-iso"],
            "true\n",
        ),
    ];
    let server = serve(&world(true));
    for (words, requests, out) in cases {
        let ran = run(&server, &[&["drpcli"], *words].concat());
        assert_eq!((ran.status, ran.err.as_str()), (0, ""), "{words:?}");
        assert_eq!(ran.lines[0], "GET /info");
        assert_eq!(ran.lines[1..], **requests, "{words:?}");
        assert!(ran.out.contains(out), "{words:?}: {}", ran.out);
        assert!(
            ran.seen
                .iter()
                .all(|seen| seen.header("authorization") == "Bearer t0ken")
        );
    }
}

#[test]
fn bodies_are_drpclis() {
    let server = serve(&world(true));
    let body = |words: &[&str]| run(&server, words).seen.last().unwrap().json();
    assert_eq!(
        body(&["drpcli", "machines", "bootenv", "Name:mach-01", "local"]),
        json!([
            {"op": "test", "path": "/BootEnv", "from": "", "value": "sledgehammer"},
            {"op": "replace", "path": "/BootEnv", "from": "", "value": "local"},
        ])
    );
    assert_eq!(
        body(&["drpcli", "machines", "bootenv", "Name:mach-01", "local"]),
        json!([]),
        "nothing to change"
    );
    assert_eq!(
        body(&["drpcli", "machines", "addprofile", "Name:mach-01", "global"]),
        json!([
            {"op": "test", "path": "/Profiles", "from": "", "value": []},
            {"op": "replace", "path": "/Profiles", "from": "", "value": ["global"]},
        ])
    );
    assert_eq!(
        body(&[
            "drpcli",
            "machines",
            "update",
            "Name:mach-01",
            "{\"description\": \"x\", \"Params\": {\"a/b\": 1}}"
        ]),
        json!([
            {"op": "test", "path": "/Description", "from": "", "value": ""},
            {"op": "replace", "path": "/Description", "from": "", "value": "x"},
            {"op": "add", "path": "/Params/a~1b", "from": "", "value": 1},
        ])
    );
    assert_eq!(
        body(&[
            "drpcli",
            "machines",
            "add",
            "Name:mach-01",
            "param",
            "foo",
            "to",
            "{\"a\":1}"
        ]),
        json!([
            {"op": "test", "path": "", "from": "", "value": {"boot-virtual-iso": true, "a/b": 1}},
            {"op": "add", "path": "/foo", "from": "", "value": {"a": 1}},
        ])
    );
    assert_eq!(
        body(&[
            "drpcli",
            "machines",
            "runaction",
            "Name:mach-01",
            "powerstatus",
            "ipmi/mode",
            "redfish",
            "n",
            "3"
        ]),
        json!({"ipmi/mode": "redfish", "n": 3})
    );
    assert_eq!(
        body(&[
            "drpcli",
            "machines",
            "runaction",
            "Name:mach-01",
            "powerstatus",
            "{\"a\": 1}"
        ]),
        json!({"a": 1})
    );
    assert_eq!(
        body(&["drpcli", "machines", "create", "mach-01"]),
        json!({"Name": "mach-01"})
    );
    let ran = run_with(
        &server,
        &["drpcli", "machines", "create", "-"],
        &[],
        "Name: mach-01\nProfiles: [a]\n",
    );
    assert_eq!(
        ran.seen.last().unwrap().json(),
        json!({"Name": "mach-01", "Profiles": ["a"]})
    );
    let already = run(
        &server,
        &[
            "drpcli",
            "machines",
            "add",
            "Name:mach-01",
            "param",
            "boot-virtual-iso",
            "to",
            "1",
        ],
    );
    assert_eq!(
        already.err,
        "Error: Key, boot-virtual-iso, already present on machine Name:mach-01\n\n"
    );
}

#[test]
fn force_is_asked_for_where_it_stands() {
    let server = serve(&world(false));
    let ran = run(&server, &["drpcli", "machines", "stage", "Name:mach-01", "", "--force"]);
    assert_eq!(ran.lines.last().unwrap(), &format!("PATCH /machines/{UUID}?force=true"));
}

#[test]
fn existence_destruction_waiting_and_counting() {
    let server = Server::start(|seen| match seen.line().as_str() {
        "GET /api/v3/info" => Answer::ok(json!({})),
        "HEAD /api/v3/machines/john" => Answer::bytes(404, b""),
        "HEAD /api/v3/machines?BootEnv=local" => Answer::bytes(200, b"").with_header("X-DRP-LIST-COUNT", "7"),
        line if line.starts_with("HEAD") => Answer::bytes(200, b""),
        line if line.starts_with("DELETE /api/v3/isos/") => Answer::bytes(204, b""),
        _ => Answer::ok(json!({"Uuid": UUID, "BootEnv": "local", "Runnable": true, "Description": "3"})),
    });
    let ran = run(&server, &["drpcli", "machines", "exists", "john"]);
    assert_eq!(
        (ran.status, ran.out.as_str(), ran.err.as_str()),
        (1, "", "Error: machines:john does not exist\n\n")
    );
    let ran = run(&server, &["drpcli", "machines", "exists", UUID]);
    assert_eq!((ran.status, ran.out.as_str()), (0, ""));
    assert_eq!(
        run(&server, &["drpcli", "machines", "destroy", "Name:m"]).out,
        "Deleted machine Name:m\n"
    );
    assert_eq!(
        run(&server, &["drpcli", "isos", "destroy", "x.iso"]).out,
        "Deleted x.iso"
    );
    assert_eq!(
        run(&server, &["drpcli", "machines", "count", "BootEnv=local"]).out,
        "7\n"
    );
    for (words, out) in [
        (["BootEnv", "local", "1"], "complete\n"),
        (["Runnable", "true", "1"], "complete\n"),
        (["Description", "3", "1"], "complete\n"),
        (["Runnable", "fred", "0"], "timeout\n"),
    ] {
        let ran = run(&server, &[&["drpcli", "machines", "wait", UUID], &words[..]].concat());
        assert_eq!((ran.status, ran.out.as_str()), (0, out));
    }
}

#[test]
fn lists_ask_for_what_was_typed() {
    let server = Server::start(|_| Answer::ok(json!([])));
    let words = [
        "drpcli",
        "machines",
        "list",
        "Name=a b",
        "--limit=10",
        "Address",
        "Lt",
        "5",
        "--offset=-1",
        "--slim",
        "Params,Meta",
        "--reverse",
    ];
    let ran = run(&server, &words);
    assert_eq!(
        ran.lines[1],
        "GET /machines?Name=a%20b&Address=Lt(5)&slim=Params,Meta&reverse=true&limit=10"
    );
    assert_eq!(ran.out, "[]\n");
    assert_eq!(
        run(&server, &["drpcli", "machines", "list", "--limit=-10"]).lines[1],
        "GET /machines?limit=-10"
    );
}

#[test]
fn secrets_come_from_files_and_travel_boxed() {
    let server = serve(&world(true));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "12345\n").unwrap();
    let from_file = format!("@{}", file.display());
    let ran = run(
        &server,
        &[
            "isobar",
            "machines",
            "set",
            "Name:mach-01",
            "param",
            "ipmi/password",
            "to",
            &from_file,
        ],
    );
    assert_eq!(ran.status, 0, "{}", ran.err);
    assert_eq!(
        ran.lines[1..],
        [
            "GET /params/ipmi/password",
            "GET /machines/Name:mach-01/pubkey",
            "POST /machines/Name:mach-01/params/ipmi/password",
        ]
    );
    let body = ran.seen.last().unwrap().json();
    let members: Vec<_> = body.as_object().unwrap().keys().collect();
    assert_eq!(members, ["Key", "Nonce", "Payload"]);
    assert!(!ran.out.contains("12345"));
    let ran = run_with(
        &server,
        &["isobar", "machines", "set", UUID, "param", "code", "to", "-"],
        &[],
        "007\n",
    );
    assert_eq!(ran.seen.last().unwrap().json(), json!("007"));
    let ran = run(
        &server,
        &["isobar", "machines", "set", UUID, "param", "code", "to", "7"],
    );
    assert_eq!(ran.seen.last().unwrap().json(), json!("7"), "declared as text");
}

#[test]
fn removing_a_param_that_is_not_set_names_the_nearest() {
    let server = serve(&world(true));
    let words = ["machines", "remove", "Name:mach-01", "param", "boot-virtual-media"];
    let ran = run(&server, &[&["isobar"], &words[..]].concat());
    assert_eq!(ran.status, 1);
    assert_eq!(
        ran.err,
        "Error: DELETE: params/boot-virtual-media: Not Found\n\
         boot-virtual-media is not set there; did you mean boot-virtual-iso?\n\n"
    );
    let ran = run(&server, &[&["drpcli"], &words[..]].concat());
    assert_eq!(ran.err, "Error: DELETE: params/boot-virtual-media: Not Found\n\n");
    let ran = run(&server, &["isobar", "machines", "remove", UUID, "param", "network-dta"]);
    assert!(
        ran.err
            .contains("no such param is declared; did you mean network-data?"),
        "{}",
        ran.err
    );
    let ran = run(&server, &["isobar", "machines", "remove", UUID, "param", "ipmi/mode"]);
    assert!(
        ran.err.contains("ipmi/mode is not set there: nothing to remove"),
        "{}",
        ran.err
    );
}

/// The manual's example of mountVirtualMedia has lost its URL.
#[test]
fn an_action_param_without_a_value_is_left_out() {
    let server = serve(&world(true));
    let words = [
        "machines",
        "runaction",
        UUID,
        "mountVirtualMedia",
        "ipmi/mode",
        "redfish",
        "ipmi/virtual-media-url",
        "ipmi/virtual-media-boot",
        "true",
    ];
    let ran = run(&server, &[&["isobar"], &words[..]].concat());
    assert_eq!((ran.status, ran.out.as_str()), (0, "\"Success\"\n"), "{}", ran.err);
    assert_eq!(
        ran.seen.last().unwrap().json(),
        json!({"ipmi/mode": "redfish", "ipmi/virtual-media-boot": true})
    );
    assert!(
        ran.err.contains("ipmi/virtual-media-url has no value here"),
        "{}",
        ran.err
    );
}

#[test]
fn a_bare_name_and_a_misspelt_member_get_a_hint() {
    let server = Server::start(|seen| match seen.line().as_str() {
        "GET /api/v3/info" => Answer::ok(json!({})),
        "HEAD /api/v3/machines/Name:mach-01" => Answer::bytes(200, b""),
        line if line.ends_with("/mach-01") => Answer::error(404, "GET", "machines", "mach-01", &["Not Found"]),
        _ => Answer::ok(json!({"Uuid": UUID, "Description": ""})),
    });
    let ran = run(&server, &["isobar", "machines", "show", "mach-01"]);
    assert_eq!(
        ran.err,
        "Error: GET: machines/mach-01: Not Found\nDid you mean Name:mach-01?\n\n"
    );
    let ran = run(&server, &["drpcli", "machines", "show", "mach-01"]);
    assert_eq!(ran.err, "Error: GET: machines/mach-01: Not Found\n\n");
    let ran = run(
        &server,
        &["isobar", "machines", "update", UUID, "{\"Descripton\": \"x\"}"],
    );
    assert_eq!(
        ran.err,
        "Error: machines have no member Descripton; did you mean Description?\n\n"
    );
    assert!(!ran.lines.iter().any(|line| line.starts_with("PATCH")));
}

#[test]
fn a_boot_is_followed_until_handed_over() {
    let world = world(true);
    {
        let mut world = world.lock().unwrap();
        world.boots.push(json!({"id": "b0", "state": "done"}));
        world.next_boot = Some(boot(1, "planned", json!({})));
        world.progress = VecDeque::from([
            boot(2, "inserted", json!({})),
            boot(
                3,
                "firmware",
                json!({"handed_over": true, "detail": "the BMC reads the ISO"}),
            ),
        ]);
    }
    let server = serve(&world);
    let ran = run(&server, &["isobar", "machines", "bootenv", "Name:mach-01", "local"]);
    assert_eq!(ran.status, 0, "{}", ran.err);
    assert!(ran.out.starts_with("{\n  \"Available\": true,"), "{}", ran.out);
    let lines: Vec<&str> = ran.err.lines().collect();
    assert_eq!(
        lines,
        [
            "[   0 s] mach-01 sledgehammer: planned",
            "[   0 s] mach-01 sledgehammer: ISO inserted → firmware (the BMC reads the ISO)",
        ]
    );
    assert_eq!(
        ran.lines[1..],
        [
            "GET /machines/Name:mach-01".to_owned(),
            format!("GET /isobar/v1/boots?machine={UUID}"),
            format!("PATCH /machines/{UUID}"),
            format!("GET /isobar/v1/boots?machine={UUID}"),
            "GET /isobar/v1/boots/b1?after=1&wait=20".to_owned(),
            "GET /isobar/v1/boots/b1?after=2&wait=20".to_owned(),
        ]
    );
}

#[test]
fn following_goes_on_to_the_agent_where_asked_and_not_at_all_where_not() {
    let up = boot(
        9,
        "agent-up",
        json!({"agent_up": true, "handed_over": true, "state": "done"}),
    );
    for (words, polls) in [
        (&["--wait", "agent"][..], 2),
        (&["--no-wait"], 0),
        (&["--wait", "none"], 0),
    ] {
        let world = world(true);
        {
            let mut world = world.lock().unwrap();
            world.next_boot = Some(boot(1, "grub", json!({"handed_over": true})));
            let kernel = json!({"handed_over": true, "percent": 63, "rate_bps": 4_100_000, "eta_s": 40});
            world.progress = VecDeque::from([boot(2, "initrd", kernel), up.clone()]);
        }
        let server = serve(&world);
        let ran = run(
            &server,
            &[&["isobar", "machines", "bootenv", "Name:mach-01", "local"], words].concat(),
        );
        assert_eq!(ran.status, 0, "{}", ran.err);
        assert_eq!(
            ran.lines.iter().filter(|line| line.contains("after=")).count(),
            polls,
            "{words:?}"
        );
        assert_eq!(ran.err.contains("agent up"), polls > 0, "{}", ran.err);
    }
    let shown: crate::follow::Boot = serde_json::from_value(boot(
        2,
        "initrd",
        json!({"percent": 63, "rate_bps": 4_100_000, "eta_s": 40}),
    ))
    .unwrap();
    assert_eq!(shown.line(), "initrd 63 %, 4.1 MB/s, 40 s left");
}

#[test]
fn a_failed_boot_is_an_error_with_its_hint() {
    let world = world(true);
    {
        let mut world = world.lock().unwrap();
        world.next_boot = Some(boot(1, "inserting", json!({})));
        let error =
            json!({"reason": "auth", "message": "10.0.0.9 refuses the password of root", "hint": "Set ipmi/password"});
        world.progress = VecDeque::from([boot(2, "inserting", json!({"state": "failed", "error": error}))]);
    }
    let server = serve(&world);
    let ran = run(&server, &["isobar", "machines", "workflow", "Name:mach-01", "x"]);
    assert_eq!(ran.status, 1);
    assert!(ran.out.contains("\"Workflow\": \"x\""), "the change itself was made");
    let end = "Error: the boot of mach-01 failed at inserting the ISO: 10.0.0.9 refuses the password of root\nSet ipmi/password\n\n";
    assert!(ran.err.ends_with(end), "{}", ran.err);
}

#[test]
fn a_boot_that_takes_longer_goes_on_without_us() {
    let world = world(true);
    world.lock().unwrap().next_boot = Some(boot(1, "powering", json!({})));
    let server = serve(&world);
    let words = [
        "isobar",
        "machines",
        "bootenv",
        "Name:mach-01",
        "local",
        "--wait-at-most",
        "0",
    ];
    let ran = run(&server, &words);
    assert_eq!(ran.status, 0, "{}", ran.err);
    assert!(
        ran.err
            .contains("not there yet after 0 s: power. The boot goes on; `isobar boots watch b1`"),
        "{}",
        ran.err
    );
}

#[test]
fn an_original_server_is_not_followed() {
    let server = serve(&world(false));
    let ran = run(&server, &["isobar", "machines", "bootenv", "Name:mach-01", "local"]);
    assert_eq!((ran.status, ran.err.as_str()), (0, ""));
    assert_eq!(ran.lines.iter().filter(|line| line.contains("/isobar/")).count(), 1);
}

#[test]
fn discs_are_shown_printed_and_exported() {
    let server = serve(&world(true));
    let ran = run(&server, &["isobar", "isos", "tree", "Name:mach-01", "sledgehammer"]);
    let tree = ".\n└── boot\n    └── grub\n        └── grub.cfg\n\n2 directories, 1 file\n";
    assert_eq!((ran.status, ran.out.as_str()), (0, tree), "{}", ran.err);
    assert_eq!(
        run(&server, &["isobar", "isos", "tree", "Name:mach-01"]).out,
        tree,
        "the machine's own bootenv"
    );
    assert_eq!(
        run(
            &server,
            &["isobar", "isos", "cat", "Name:mach-01", "boot/grub/grub.cfg"]
        )
        .out,
        "set"
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("out.iso");
    let ran = run(
        &server,
        &["isobar", "isos", "export", "Name:mach-01", "-o", file.to_str().unwrap()],
    );
    assert_eq!(ran.status, 0, "{}", ran.err);
    assert_eq!(std::fs::read(&file).unwrap(), b"0123456789");
    assert_eq!(
        run(&server, &["isobar", "isos", "export", "Name:mach-01", "-o", "-"]).out,
        "0123456789"
    );
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no .part is left");
}

#[test]
fn formats() {
    let server = Server::start(|seen| match seen.target.as_str() {
        "/api/v3/machines" => {
            Answer::ok(json!([{"Name": "a", "Uuid": "u", "BootEnv": "local", "Params": {"ipmi/mode": "auto"}}]))
        }
        _ => Answer::ok(json!({"b": 1, "a": "x"})),
    });
    let out = |words: &[&str]| run(&server, &[&["isobar"], words].concat()).out;
    assert_eq!(out(&["info", "get"]), "{\n  \"a\": \"x\",\n  \"b\": 1\n}\n");
    assert_eq!(out(&["info", "get", "-F", "yaml"]), "a: x\nb: 1\n");
    assert_eq!(out(&["info", "get", "-F", "text"]), "a\tx\nb\t1\n");
    assert_eq!(
        out(&["-F", "text", "machines", "list", "-J", "Name,ipmi/mode"]),
        "a\tauto\n"
    );
    let table = out(&["machines", "list", "-F", "table", "-J", "Name,BootEnv"]);
    assert_eq!(table, "Name  BootEnv\na     local\n");
    let ran = run_with(&server, &["isobar", "info", "get"], &[("RS_FORMAT", "yaml")], "");
    assert_eq!(ran.out, "a: x\nb: 1\n");
}

#[test]
fn a_person_at_a_terminal_sees_a_table_and_drpcli_still_json() {
    let server = Server::start(|_| Answer::ok(json!({"a": "x"})));
    for (program, out) in [
        ("isobar", "Name  Value\na     x\n"),
        ("drpcli", "{\n  \"a\": \"x\"\n}\n"),
    ] {
        let (mut host, sink, _) = fake::host(&[("RS_ENDPOINT", &server.endpoint), ("RS_TOKEN", "t")], "");
        host.stdout_is_terminal = true;
        let words = [program, "info", "get"].map(str::to_owned);
        assert_eq!(crate::run(&words, &[], &host), 0);
        assert_eq!(sink.text(), out);
    }
}

#[test]
fn who_and_where_come_from_flags_environment_and_files() {
    let server = Server::start(|seen| match seen.target.split('?').next().unwrap() {
        "/api/v3/users/op/token" | "/api/v3/users/rocketskates/token" => Answer::ok(json!({"Token": "t", "Info": {}})),
        _ => Answer::ok(json!({})),
    });
    let home = tempfile::tempdir().unwrap();
    std::fs::write(
        home.path().join(".drpclirc"),
        format!("# mine\nRS_ENDPOINT={}\nRS_KEY=op:rc\n", server.endpoint),
    )
    .unwrap();
    std::fs::write(home.path().join("password"), "from-file\n").unwrap();
    std::fs::write(home.path().join("rocketskates.password"), "first\n").unwrap();
    let home_text = home.path().to_str().unwrap().to_owned();
    let password = format!("@{home_text}/password");
    let basic = |words: &[&str], env: &[(&str, &str)]| {
        let mut all = vec![("HOME", home_text.as_str()), ("RS_TOKEN_CACHE", "false")];
        all.extend_from_slice(env);
        let (mut host, _, err) = fake::host(&all, "");
        host.data_dir = home.path().to_owned();
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        assert_eq!(crate::run(&words, &[], &host), 0, "{}", err.text());
        let seen = server.take();
        use base64::Engine as _;
        let basic = seen[0].header("authorization").trim_start_matches("Basic ").to_owned();
        String::from_utf8(base64::engine::general_purpose::STANDARD.decode(basic).unwrap()).unwrap()
    };
    assert_eq!(basic(&["isobar", "info", "get"], &[]), "op:rc");
    assert_eq!(basic(&["isobar", "info", "get"], &[("RS_KEY", "op:env")]), "op:env");
    assert_eq!(basic(&["isobar", "-P", &password, "info", "get"], &[]), "op:from-file");
    assert_eq!(
        basic(
            &["isobar", "info", "get", "-U", "op", "-P", "x", "-T", ""],
            &[("RS_KEY", "a:b")]
        ),
        "op:x"
    );
    assert_eq!(basic(&["isobar", "info", "get", "-x"], &[]), "op:rc");
    std::fs::write(
        home.path().join(".drpclirc"),
        format!("RS_ENDPOINT={}\n", server.endpoint),
    )
    .unwrap();
    assert_eq!(
        basic(&["isobar", "info", "get"], &[]),
        "rocketskates:first",
        "the first password of a server here"
    );
    assert_eq!(basic(&["drpcli", "info", "get"], &[]), "rocketskates:r0cketsk8ts");
}

#[test]
fn of_several_endpoints_the_first_that_answers() {
    let server = Server::start(|_| Answer::ok(json!({})));
    let dead = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let both = format!("https://{dead} {}", server.endpoint);
    let (host, _, err) = fake::host(&[("RS_ENDPOINTS", &both), ("RS_TOKEN", "t")], "");
    let words = ["isobar", "info", "get"].map(str::to_owned);
    assert_eq!(crate::run(&words, &[], &host), 0, "{}", err.text());
    let (host, _, err) = fake::host(&[("RS_ENDPOINTS", &format!("https://{dead}")), ("RS_TOKEN", "t")], "");
    assert_eq!(crate::run(&words, &[], &host), 1);
    assert!(
        err.text().contains("connection refused; is `isobar serve` running?"),
        "{}",
        err.text()
    );
}
