//! Templates as people see them: what a machine would get, and what is wrong.

#![allow(clippy::unwrap_used)]

mod stage;

use serde_json::{Value, json};
use stage::{Options, Server};

fn server() -> Server {
    let mut server = Server::new(Options::default());
    server.start();
    let create = |noun: &str, object: Value| {
        let _: Value = server.client().post(&format!("/api/v3/{noun}"), &object).unwrap();
    };
    create("params", json!({"Name": "needed", "Schema": {"type": "string"}}));
    create(
        "templates",
        json!({"ID": "greet", "Contents": "Hello {{.Machine.Name}} at {{.ProvisionerURL}}\n"}),
    );
    create("templates", json!({"ID": "token", "Contents": "{{.GenerateToken}}"}));
    let file = |name: &str, text: &str| json!({"Name": name, "Path": format!("{{{{.Machine.Path}}}}/{name}"), "Contents": text});
    create(
        "bootenvs",
        json!({"Name": "good", "OS": {"Name": "good"}, "Templates": [file("ipxe", "{{template \"greet\" .}}")]}),
    );
    create(
        "bootenvs",
        json!({"Name": "bad", "OS": {"Name": "bad"}, "Kernel": "k", "BootParams": "{{.Param \"absent\"}}",
        "RequiredParams": ["needed"],
        "Templates": [file("ipxe", "{{.Machine.Nmae}}"), file("second", "line\n{{.Param \"gone\"}}")]}),
    );
    create("machines", json!({"Name": "mach-01", "BootEnv": "good"}));
    server
}

#[test]
fn what_a_machine_would_get_is_shown_without_its_tokens() {
    let server = server();
    let uuid = server.machine_named("mach-01")["Uuid"].as_str().unwrap().to_owned();
    let render = |words: &[&str]| server.isobar(&[&["templates", "render"], words].concat());
    let of_machine = |words: &[&str]| render(&[words, &["--machine", "Name:mach-01"]].concat());
    let files = format!("http://192.168.77.1:{}", server.files_port());
    assert_eq!(of_machine(&["greet"]).stdout, format!("Hello mach-01 at {files}\n"));
    assert_eq!(
        of_machine(&["--text", "{{.Machine.ShortName}} {{.Env.Name}}"]).stdout,
        "mach-01 good"
    );
    assert_eq!(
        of_machine(&["--text", "{{.Env.Name}}", "--bootenv", "bad"]).stdout,
        "bad"
    );
    let path = format!("machines/{uuid}/ipxe");
    assert_eq!(
        of_machine(&["--path", &path]).stdout,
        server
            .get_image(&format!("http://x/{path}"), None)
            .1
            .as_slice()
            .iter()
            .map(|b| char::from(*b))
            .collect::<String>()
    );
    assert_eq!(of_machine(&["token"]).stdout, "THE-TOKEN-IS-FOR-THE-MACHINE-ALONE");
    for (words, want) in [
        (
            &["--text", "x\n{{.Machine.Nmae}}"][..],
            "template text, line 2: there is no .Machine.Nmae (machine mach-01)",
        ),
        (&["nothing"], "templates/nothing: Not Found"),
        (&["--path", "machines/x"], "no template makes this file here"),
        (&["greet", "--text", "x"], "one of a template's ID, --text and --path"),
    ] {
        let out = of_machine(words);
        assert!(!out.ok && out.stderr.contains(want), "{words:?} {out}");
    }
    let out = render(&["greet"]);
    assert!(!out.ok && out.stderr.contains("there is none here"), "{out}");
}

#[test]
fn all_that_is_wrong_with_a_bootenv_is_told_at_once() {
    let server = server();
    let check = |words: &[&str]| server.isobar(&[&["bootenvs", "check"], words].concat());
    let good = check(&["good"]);
    assert!(good.ok, "{good}");
    let bad = check(&["bad", "--machine", "Name:mach-01"]);
    assert!(!bad.ok, "{bad}");
    for want in [
        "bad: bootenv: bad: missing kernel  (/bad/k) for arch amd64",
        "bad: bad: the machine mach-01 lacks the required param needed",
        "No such machine parameter absent",
        "template bad/ipxe, line 1: there is no .Machine.Nmae (machine mach-01)",
        "template bad/second, line 2: .Param: No such machine parameter gone (machine mach-01)",
        "1 bootenv has problems",
    ] {
        assert!(bad.stderr.contains(want), "{want}: {bad}");
    }
    // Of all bootenvs those that are wrong.
    let all = check(&[]);
    assert!(
        !all.ok && all.stderr.contains("bad: bootenv:") && !all.stderr.contains("good:"),
        "{all}"
    );
    let drpcli = server.drpcli(&["bootenvs", "check", "good"]);
    assert!(!drpcli.ok, "drpcli has no such verb: {drpcli}");
}
