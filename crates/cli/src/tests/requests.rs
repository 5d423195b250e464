//! Verbs: what they send and print.

use serde_json::json;

use super::support::{Answer, Server};
use super::{UUID, run, run_with, serve, world};

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
fn what_a_workflow_holds_is_said_to_be_so() {
    let server = Server::start(|seen| match seen.method.as_str() {
        "PATCH" => Answer::error(
            422,
            "ValidationError",
            "machines",
            UUID,
            &["Changing machine bootenv not allowed"],
        ),
        _ => Answer::ok(json!({"Uuid": UUID, "BootEnv": "sledgehammer"})),
    });
    let ran = run(
        &server,
        &["isobar", "machines", "bootenv", "Name:m", "local", "--no-wait"],
    );
    let refusal = format!("Error: ValidationError: machines/{UUID}: Changing machine bootenv not allowed\n");
    assert_eq!(
        ran.err,
        format!("{refusal}Its workflow decides that. Without one: isobar machines workflow Name:m \"\"\n\n")
    );
    let ran = run(&server, &["drpcli", "machines", "bootenv", "Name:m", "local"]);
    assert_eq!(ran.err, format!("{refusal}\n"));
}

#[test]
fn tasks_are_put_where_they_belong_and_not_twice() {
    let world = world(false);
    let server = serve(&world);
    for (words, expected) in [
        (&["add", UUID, "a", "b"][..], json!(["a", "b"])),
        (&["add", UUID, "a", "b"], json!(["a", "b"])),
        (&["add", UUID, "at", "0", "c", "a"], json!(["c", "a", "a", "b"])),
        (&["add", UUID, "at", "0", "c", "a"], json!(["c", "a", "a", "b"])),
        (&["del", UUID, "a", "a", "x"], json!(["c", "b"])),
    ] {
        let ran = run(&server, &[&["drpcli", "machines", "tasks"], words].concat());
        assert_eq!(ran.status, 0, "{}", ran.err);
        assert_eq!(world.lock().unwrap().machine["Tasks"], expected, "{words:?}");
    }
    world.lock().unwrap().machine["Tasks"] = json!(["stage:x", "t", "stage:y", "u"]);
    world.lock().unwrap().machine["CurrentTask"] = json!(0);
    run(&server, &["drpcli", "machines", "tasks", "add", UUID, "new"]);
    assert_eq!(
        world.lock().unwrap().machine["Tasks"],
        json!(["stage:x", "t", "new", "stage:y", "u"])
    );
    let ran = run(&server, &["drpcli", "machines", "tasks", "move", UUID, "x"]);
    assert!(ran.err.contains("\"move\" is neither add nor del"), "{}", ran.err);
}
