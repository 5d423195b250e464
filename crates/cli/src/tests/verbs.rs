//! Verbs beyond the walk-through: what they ask for and what comes out.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use super::support::{Answer, Server};
use super::{UUID, run};

fn server() -> Server {
    Server::start(|seen| {
        match (
            seen.method.as_str(),
            seen.target.split('?').next().unwrap().trim_start_matches("/api/v3/"),
        ) {
            ("GET", "info") => Answer::ok(json!({
                "id": "Fred", "version": "v1", "api_port": 8092, "stats": [{"name": "machines.count", "count": 3}],
                "License": {"secret": "no"},
            })),
            ("GET", "machines/Name:mach-01") => Answer::ok(json!({
                "Name": "mach-01", "Uuid": UUID, "BootEnv": "local", "Runnable": false, "CurrentTask": 1,
                "Tasks": ["stage:a", "one", "two", "stage:b", "three"], "Errors": ["bootenv: missing"],
            })),
            ("GET", "jobs") => Answer::ok(json!([
                {"Uuid": "j1", "Task": "one", "CurrentIndex": 1, "State": "failed"},
                {"Uuid": "j2", "Task": "one", "CurrentIndex": 1, "State": "finished"},
            ])),
            ("GET", "bootenvs/local") => Answer::ok(json!({"Name": "local", "OS": {"Name": "local"}})),
            ("GET", "unheard") => Answer::ok(json!([{"Name": "a", "Available": true}])),
            ("HEAD", "params/there") => Answer::bytes(200, b""),
            ("HEAD", "machines") => Answer::bytes(200, b"").with_header("X-DRP-LIST-TOTAL-COUNT", "3"),
            ("HEAD", _) => Answer::bytes(404, b""),
            ("GET", "machines") => Answer::ok(json!([{
                "Name": "mach-01", "Uuid": UUID, "Errors": ["no"], "Secret": "s3cret", "Params": {"ipmi/password": "s3cret"},
            }])),
            ("PATCH" | "PUT" | "POST", _) => Answer::ok(seen.json()),
            _ => Answer::ok(json!([])),
        }
    })
}

/// Words, the last request, the value printed.
#[test]
fn requests_and_answers() {
    let server = server();
    let patch = |place: &str, old: Value, new: Value| json!([{"op": "test", "path": place, "from": "", "value": old}, {"op": "replace", "path": place, "from": "", "value": new}]);
    let tasks = |new: &[&str]| {
        patch(
            "/Tasks",
            json!(["stage:a", "one", "two", "stage:b", "three"]),
            json!(new),
        )
    };
    let machine = format!("PATCH /machines/{UUID}");
    let cases: &[(&[&str], &str, Value)] = &[
        (
            &["machines", "inserttask", "Name:mach-01", "x", "y"],
            &machine,
            tasks(&["stage:a", "one", "x", "y", "two", "stage:b", "three"]),
        ),
        (
            &["machines", "inserttask", "Name:mach-01", "x", "--at", "9"],
            &machine,
            tasks(&["stage:a", "one", "two", "x", "stage:b", "three"]),
        ),
        (
            &["machines", "addtask", "Name:mach-01", "x"],
            &machine,
            tasks(&["stage:a", "one", "two", "x", "stage:b", "three"]),
        ),
        (
            &["machines", "removetask", "Name:mach-01", "one", "two", "three"],
            &machine,
            tasks(&["stage:a", "one", "stage:b"]),
        ),
        (
            &["machines", "run", "Name:mach-01"],
            &machine,
            patch("/Runnable", json!(false), json!(true)),
        ),
        (
            &["machines", "inspect", "tasks", "Name:mach-01"],
            &format!("GET /jobs?Machine={UUID}&sort=StartTime"),
            json!([
                {"Index": 0, "Task": "stage:a", "State": "passed", "Job": null},
                {"Index": 1, "Task": "one", "State": "finished", "Job": "j2"},
                {"Index": 2, "Task": "two", "State": "to do", "Job": null},
                {"Index": 3, "Task": "stage:b", "State": "to do", "Job": null},
                {"Index": 4, "Task": "three", "State": "to do", "Job": null},
            ]),
        ),
        (
            &["extended", "-l", "unheard", "list", "Available=true", "--limit", "1"],
            "GET /unheard?Available=true&limit=1",
            json!([{"Name": "a", "Available": true}]),
        ),
        (
            &["params", "upload", "{Name: there}"],
            "PUT /params/there",
            json!({"Name": "there"}),
        ),
        (
            &["tasks", "upload", "{Name: new}"],
            "POST /tasks",
            json!({"Name": "new"}),
        ),
        (
            &["jobs", "runplugin_action", "j1", "count", "by", "2"],
            "POST /jobs/j1/plugin_actions/count",
            json!({"by": 2}),
        ),
        (
            &["info", "status"],
            "GET /info",
            json!({
                "Endpoint": server.endpoint, "Id": "Fred", "Version": "v1", "ApiPort": 8092, "FilePort": null, "Dhcp": null,
                "Tftp": null, "Files": null, "Errors": null, "Counts": {"machines.count": 3},
            }),
        ),
    ];
    for (words, last, printed) in cases {
        let ran = run(&server, &[&["drpcli"], *words].concat());
        assert_eq!(ran.status, 0, "{words:?}: {}", ran.err);
        assert_eq!(ran.lines.last().unwrap(), last, "{words:?}");
        let out: Value = serde_json::from_str(&ran.out).unwrap();
        assert_eq!(&out, printed, "{words:?}");
    }
    let ran = run(&server, &["isobar", "info", "check"]);
    assert_eq!((ran.status, ran.out.as_str()), (0, ""));
    let ran = run(&server, &["isobar", "machines", "uploadiso", "Name:mach-01"]);
    assert!(
        ran.err.starts_with("Error: BootEnv local does not require an iso"),
        "{}",
        ran.err
    );
    let ran = run(&server, &["isobar", "extended", "-l", "unheard", "dance"]);
    assert!(ran.err.contains("\"dance\" is none of list, count"), "{}", ran.err);
    let ran = run(&server, &["isobar", "extended", "-l", "unheard", "show"]);
    assert!(ran.err.contains("requires 1 argument"), "{}", ran.err);
}

#[test]
fn a_misspelt_name_of_any_object_gets_a_hint() {
    let server = Server::start(|seen| match seen.target.split('?').next().unwrap() {
        "/api/v3/bootenvs" => Answer::ok(json!([{"Name": "sledgehammer"}, {"Name": "local"}])),
        "/api/v3/templates" => Answer::ok(json!([{"ID": "net.tmpl"}])),
        "/api/v3/info" => Answer::ok(json!({})),
        path => {
            let (noun, key) = path.trim_start_matches("/api/v3/").split_once('/').unwrap();
            Answer::error(404, "GET", noun, key, &["Not Found"])
        }
    });
    for (noun, name, hint) in [
        ("bootenvs", "sledgehamer", "Did you mean sledgehammer?"),
        ("templates", "nett.tmpl", "Did you mean net.tmpl?"),
        (
            "bootenvs",
            "nothing-alike",
            "`isobar bootenvs list` shows those that there are",
        ),
    ] {
        let ran = run(&server, &["isobar", noun, "show", name]);
        assert_eq!(ran.err, format!("Error: GET: {noun}/{name}: Not Found\n{hint}\n\n"));
        let ran = run(&server, &["drpcli", noun, "show", name]);
        assert_eq!(ran.err, format!("Error: GET: {noun}/{name}: Not Found\n\n"));
    }
}

#[test]
fn an_object_with_errors_may_be_fatal() {
    let server = server();
    let show = ["isobar", "machines", "show", "Name:mach-01"];
    assert_eq!(run(&server, &show).status, 0);
    let ran = run(&server, &[&show[..], &["-X"]].concat());
    assert!(
        ran.status == 1 && ran.out.contains("mach-01"),
        "the object is shown all the same"
    );
    assert_eq!(ran.err, "Error: the object has errors: bootenv: missing\n\n");
}

#[test]
fn a_support_bundle_is_private_and_holds_no_secrets() {
    let (server, folder) = (server(), tempfile::tempdir().unwrap());
    let file = folder.path().join("support.json");
    let ran = run(&server, &["isobar", "support", "bundle", file.to_str().unwrap()]);
    assert_eq!(ran.status, 0, "{}", ran.err);
    let text = std::fs::read_to_string(&file).unwrap();
    let told: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&told["counts"]["machines"], &told["counts"]["params"]),
        (&json!(3), &Value::Null)
    );
    let machine = json!([{"Key": UUID, "Name": "mach-01", "Errors": ["no"]}]);
    assert_eq!(told["unavailable"]["machines"], machine);
    assert!(!text.contains("s3cret"));
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_pack_is_documented() {
    let pack = "meta: {Name: lab, Version: v1, Documentation: All of it.}\nsections:\n  params:\n    b: {Name: b, Description: Second.}\n    \
                a: {Name: a, Documentation: 'First, *at length*.'}\n  tasks: {}\n";
    let (status, out, err) = super::local(&["isobar", "contents", "document", pack]);
    assert_eq!(status, 0, "{err}");
    assert_eq!(
        out,
        "# lab\n\n- Version: v1\n\nAll of it.\n\n## params\n\n### a\n\nFirst, *at length*.\n\n### b\n\nSecond.\n"
    );
}

#[test]
fn who_this_host_is_and_what_it_is_made_of() {
    let server = server();
    let ran = run(&server, &["drpcli", "machines", "whoami"]);
    assert_eq!(ran.lines.last().unwrap(), "POST /whoami");
    let sent = ran.seen.last().unwrap().json();
    assert!(
        sent["MacAddrs"].is_array() && sent["Fingerprint"]["SystemUUID"].is_string(),
        "{sent}"
    );
    let (status, out, _) = super::local(&["drpcli", "gohai"]);
    assert!(status == 0 && out.contains("\"Networking\""), "{out}");
}

#[test]
fn jobs_of_no_machine_or_in_a_folder_of_others_are_refused() {
    let server = server();
    let ran = run(&server, &["isobar", "machines", "processjobs"]);
    assert!(ran.status == 1 && ran.err.contains("RS_UUID"), "{}", ran.err);
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let words = [
        "isobar",
        "machines",
        "processjobs",
        "Name:mach-01",
        "--folder",
        folder.path().to_str().unwrap(),
    ];
    let ran = run(&server, &words);
    assert!(
        ran.status == 1 && ran.err.contains("others can write there"),
        "{}",
        ran.err
    );
    assert_eq!(ran.lines, Vec::<String>::new());
}

#[test]
fn a_name_alone_makes_what_needs_no_more() {
    let server = server();
    let made = run(&server, &["isobar", "profiles", "create", "fred"]);
    assert_eq!(made.status, 0, "{}", made.err);
    for (noun, singular) in [("subnets", "subnet"), ("reservations", "reservation")] {
        let refused = run(&server, &["isobar", noun, "create", "fred"]);
        assert_eq!(
            (refused.status, refused.err.trim_end()),
            (1, format!("Error: Unable to create a new {singular} by name").as_str())
        );
    }
}
