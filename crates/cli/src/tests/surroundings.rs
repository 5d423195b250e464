//! Formats, identities, endpoints.

use base64::Engine as _;
use serde_json::json;

use super::support::{Answer, Server};
use super::{run, run_with};
use crate::host::fake;

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

#[test]
fn a_stale_token_is_told_from_other_refusals() {
    let refused = |message: &'static str| Server::start(move |_| Answer::error(403, "AUTH", "", "", &[message]));
    let said = |server: &Server, program: &str| {
        let env = [("RS_ENDPOINT", server.endpoint.as_str()), ("RS_TOKEN", "old")];
        let (host, _, err) = fake::host(&env, "");
        let words = [program, "machines", "list"].map(str::to_owned);
        assert_eq!(crate::run(&words, &[], &host), 1);
        err.text()
    };
    let stale = refused("Validation failed");
    let hint = "unset RS_TOKEN and set RS_KEY=user:password";
    assert!(said(&stale, "isobar").contains(hint), "{}", said(&stale, "isobar"));
    assert!(!said(&stale, "drpcli").contains(hint), "drpcli's words are drpcli's");
    let forbidden = refused("no right to list machines");
    assert!(said(&forbidden, "isobar").contains("somebody whose roles allow it"));
    assert!(!said(&forbidden, "drpcli").contains("roles"));
    assert!(
        !said(&forbidden, "isobar").contains(hint),
        "{}",
        said(&forbidden, "isobar")
    );
}
