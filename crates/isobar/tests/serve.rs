//! `isobar serve` as a process: first start, restarts, kills, and what a data directory is protected from.

#![allow(clippy::unwrap_used)]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use common::{Served, command};
use isobar_client::{Auth, Client, ClientError, Method, TlsTrust, path};
use serde_json::{Value, json};

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn machine(client: &Client, name: &str) -> Value {
    client
        .post(&path!("api", "v3", "machines"), &json!({ "Name": name }))
        .unwrap()
}

#[test]
fn the_first_start_makes_a_user_whose_password_only_the_file_knows() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let served = Served::start(&data);
    let password_file = data.join("rocketskates.password");
    let password = std::fs::read_to_string(&password_file).unwrap();
    let password = password.trim().to_owned();
    assert!(password.len() >= 16);
    for (name, expected) in [
        ("", 0o700),
        ("rocketskates.password", 0o600),
        ("vault.key", 0o600),
        ("tls.key", 0o600),
        ("isobar.db", 0o600),
    ] {
        assert_eq!(mode(&data.join(name)), expected, "{name}");
    }
    // Pinned to the logged fingerprint: a wrong one would not connect.
    let client = served.login(&data);
    let info: Value = client.get(&path!("api", "v3", "info")).unwrap();
    assert_eq!(
        info["api_port"].as_u64(),
        served.ready["api"]
            .as_str()
            .unwrap()
            .rsplit(':')
            .next()
            .unwrap()
            .parse()
            .ok()
    );
    let other = Client::new(&served.endpoint(), Auth::None, TlsTrust::Pinned("00".repeat(32))).unwrap();
    assert!(other.get::<Value>("/api/v3/info").is_err());
    let fingerprint = served.fingerprint();
    let (status, log) = served.stop();
    assert!(status.success(), "{log:#?}");
    assert!(
        log.iter().any(|line| line.contains("rocketskates.password")),
        "{log:#?}"
    );
    assert!(
        !log.iter().any(|line| line.contains(&password)),
        "the password is in the log"
    );

    let again = Served::start(&data);
    assert_eq!(again.fingerprint(), fingerprint);
    assert_eq!(std::fs::read_to_string(&password_file).unwrap().trim(), password);
    again.login(&data);
}

#[test]
fn machines_params_and_workflows_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let served = Served::start(dir.path());
    let client = served.login(dir.path());
    let uuid = machine(&client, "mach-01")["Uuid"].as_str().unwrap().to_owned();
    let by_name = path!("api", "v3", "machines", "Name:mach-01");
    let param = format!("{by_name}/params/boot-virtual-iso");
    let set: Value = client.post(&param, &true).unwrap();
    assert_eq!(set, json!(true));
    let patch = |member: &str, value: &str| -> Result<Value, ClientError> {
        client.patch(
            &by_name,
            &json!([{ "op": "replace", "path": format!("/{member}"), "value": value }]),
        )
    };
    let cleared = patch("Workflow", "").unwrap();
    assert_eq!(
        (&cleared["Workflow"], &cleared["BootEnv"]),
        (&json!(""), &json!("local"))
    );
    let refused = patch("Workflow", "no-such").unwrap_err();
    assert_eq!(refused.status(), Some(422), "{refused}");
    assert!(refused.to_string().contains("no-such"), "{refused}");
    let staged = patch("Description", "kept").unwrap();
    assert_eq!(staged["Description"], "kept");
    let (status, _) = served.stop();
    assert!(status.success());

    let served = Served::start(dir.path());
    let client = served.login(dir.path());
    let kept: Value = client.get(&path!("api", "v3", "machines", &uuid)).unwrap();
    assert_eq!(kept["Params"], json!({ "boot-virtual-iso": true }));
    assert_eq!(
        (&kept["Description"], &kept["Name"]),
        (&json!("kept"), &json!("mach-01"))
    );
}

#[test]
fn the_world_is_told_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let served = Served::start(dir.path());
    let nobody = served.nobody();
    assert_eq!(nobody.get::<Value>("/api/v3/info").unwrap_err().status(), Some(401));
    let wrong = nobody.with_auth(Auth::basic("rocketskates", "r0cketsk8ts"));
    assert_eq!(wrong.get::<Value>("/api/v3/info").unwrap_err().status(), Some(403));
    let stale = nobody
        .with_auth(Auth::token("stale"))
        .get::<Value>("/api/v3/info")
        .unwrap_err();
    assert!(stale.to_string().contains("AUTH: Validation failed"), "{stale}");
    let client = served.login(dir.path());
    for (method, path, text) in [
        (Method::GET, "/api/v3/freds", "GET: /api/v3/freds: No route"),
        (Method::GET, "/api/v3/machines/john", "GET: machines/john: Not Found"),
        (
            Method::DELETE,
            "/api/v3/machines/Name:john",
            "DELETE: machines/Name:john: Not Found",
        ),
    ] {
        let error = client.request(method, path).send().map(drop).unwrap_err();
        assert_eq!(error.status(), Some(404), "{path}");
        assert!(error.to_string().contains(text), "{error}");
    }
}

#[test]
fn kill_9_loses_no_write_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let served = Served::start(dir.path());
    let client = served.login(dir.path());
    let acknowledged = Arc::new(Mutex::new(Vec::new()));
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (client, acknowledged) = (client.clone(), Arc::clone(&acknowledged));
            std::thread::spawn(move || {
                for n in 0.. {
                    let name = format!("mach-{writer}-{n}");
                    let created = client.post::<_, Value>("/api/v3/machines", &json!({ "Name": name }));
                    // The server is gone.
                    let Ok(machine) = created else { break };
                    acknowledged
                        .lock()
                        .unwrap()
                        .push(machine["Uuid"].as_str().unwrap().to_owned());
                }
            })
        })
        .collect();
    while acknowledged.lock().unwrap().len() < 40 {
        std::thread::yield_now();
    }
    served.kill();
    for writer in writers {
        writer.join().unwrap();
    }
    let served = Served::start(dir.path());
    let client = served.login(dir.path());
    let found = AtomicUsize::new(0);
    for uuid in acknowledged.lock().unwrap().iter() {
        let kept: Value = client.get(&path!("api", "v3", "machines", uuid)).unwrap();
        assert_eq!(&kept["Uuid"], uuid);
        found.fetch_add(1, Ordering::Relaxed);
    }
    assert!(found.into_inner() >= 40);
}

#[test]
fn sixty_four_clients_lose_no_update_of_one_machine() {
    const CLIENTS: usize = 64;
    const UPDATES: usize = 1;
    let dir = tempfile::tempdir().unwrap();
    let served = Served::start(dir.path());
    let client = served.login(dir.path());
    let uuid = machine(&client, "mach-01")["Uuid"].as_str().unwrap().to_owned();
    let path = path!("api", "v3", "machines", &uuid);
    let set = |value: &str| json!([{ "op": "replace", "path": "/Description", "value": value }]);
    client.patch::<_, Value>(&path, &set("0")).unwrap();
    let refused = AtomicUsize::new(0);
    // All begin with what one has read, so that they meet.
    let first: Value = client.get(&path).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            let (client, path, refused, mut read) = (client.clone(), &path, &refused, first.clone());
            scope.spawn(move || {
                for _ in 0..UPDATES {
                    loop {
                        let old = read["Description"].as_str().unwrap();
                        let new = (old.parse::<usize>().unwrap() + 1).to_string();
                        let ops = json!([
                            { "op": "test", "path": "/Description", "value": old },
                            { "op": "replace", "path": "/Description", "value": new },
                        ]);
                        match client.patch::<_, Value>(path, &ops) {
                            Ok(patched) => {
                                assert_eq!(patched["Description"], new.as_str());
                                break;
                            }
                            Err(error) if error.status() == Some(409) => {
                                refused.fetch_add(1, Ordering::Relaxed);
                                read = client.get(path).unwrap();
                            }
                            Err(error) => panic!("{error}"),
                        }
                    }
                }
            });
        }
    });
    let last: Value = client.get(&path).unwrap();
    assert_eq!(last["Description"], (CLIENTS * UPDATES).to_string());
    assert!(refused.into_inner() >= (CLIENTS - 1) * UPDATES, "they never met");
}

#[test]
fn a_list_that_is_made_while_it_is_sent_is_whole() {
    const MANY: usize = 250;
    let dir = tempfile::tempdir().unwrap();
    let served = Served::start(dir.path());
    let client = served.login(dir.path());
    for n in 0..MANY {
        let profile = json!({ "Name": format!("long-{n:03}"), "Params": { "site/rack": n, "site/even": n % 2 == 0 } });
        client.post::<_, Value>("/api/v3/profiles", &profile).unwrap();
    }
    let list = |query: &str| -> Vec<Value> { client.get(&format!("/api/v3/profiles{query}")).unwrap() };
    let names = |list: &[Value]| -> Vec<String> { list.iter().map(|p| p["Name"].to_string()).collect() };
    let all = list("");
    assert!(all.len() > MANY);
    for shown in all
        .iter()
        .filter(|profile| profile["Name"].as_str().unwrap().starts_with("long-"))
    {
        let alone: Value = client
            .get(&path!("api", "v3", "profiles", shown["Name"].as_str().unwrap()))
            .unwrap();
        assert_eq!(*shown, alone);
    }
    // In parts, each short enough to be made at once, and in the other order.
    let parts: Vec<Value> = (0..all.len())
        .step_by(90)
        .flat_map(|at| list(&format!("?offset={at}&limit=90")))
        .collect();
    assert_eq!(parts, all);
    let mut backwards = list("?reverse=true");
    backwards.reverse();
    assert_eq!(backwards, all);
    assert_eq!(names(&list("?sort=Name")), names(&all));
    let even = list("?site/even=true");
    assert_eq!(even.len(), MANY / 2);
    assert!(even.iter().all(|profile| profile["Params"]["site/even"] == true));
    assert!(
        list("?slim=Params")
            .iter()
            .all(|profile| profile["Params"] == json!({}))
    );
}

#[test]
fn a_second_server_on_the_same_data_is_refused_and_the_first_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let served = Served::start(dir.path());
    let second = command(dir.path(), &[]).output().unwrap();
    let text = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{text}");
    assert!(
        text.contains("in use by another isobar serve") && text.contains("--data-dir"),
        "{text}"
    );
    served.login(dir.path());
}

#[test]
fn mistakes_at_the_start_name_the_setting() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().to_string();
    let cases: [(&[&str], &[&str]); 3] = [
        (&["--file-listen", &port], &["file-listen", &port]),
        (&["--password-file", "/nowhere/password"], &["/nowhere/password"]),
        (
            &["--tls-cert", "/nowhere/a", "--tls-key", "/nowhere/b"],
            &["/nowhere/a"],
        ),
    ];
    for (args, words) in cases {
        // The last of two equal options would be refused by the parser: the rest goes by the environment.
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_isobar"));
        command
            .arg("serve")
            .args(args)
            .env("ISOBAR_DATA_DIR", dir.path())
            .env("ISOBAR_API_LISTEN", "127.0.0.1:0");
        if !args.contains(&"--file-listen") {
            command.env("ISOBAR_FILE_LISTEN", "127.0.0.1:0");
        }
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{text}");
        for word in words {
            assert!(text.contains(word), "{word}: {text}");
        }
    }
}

#[test]
fn the_first_password_may_come_from_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let file = dir.path().join("password");
    std::fs::write(&file, "chosen by the operator\n").unwrap();
    let served = Served::with(&data, &["--password-file", file.to_str().unwrap()]);
    let client = served
        .nobody()
        .with_auth(Auth::basic("rocketskates", "chosen by the operator"));
    client.get::<Value>("/api/v3/info").unwrap();
    assert!(!data.join("rocketskates.password").exists());
}

#[test]
fn the_help_has_examples() {
    for args in [
        &["serve", "--help"][..],
        &["sim", "--help"],
        &["sledgehammer", "build", "--help"],
    ] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_isobar"))
            .args(args)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("Examples:"), "{text}");
        assert!(text.contains(&format!("isobar {}", args[0])), "{text}");
    }
}
