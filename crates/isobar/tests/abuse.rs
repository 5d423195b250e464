//! What a hostile client sends gets a clear 4xx in the shape of other errors, and costs the server no memory to speak
//! of.

#![allow(clippy::unwrap_used)]

mod common;
mod plain;

use std::path::Path;

use common::Served;
use plain::{Answer, Plain};
use serde_json::{Value, json};

/// More than this the process may not grow by, whatever is sent: the largest body of JSON that is taken, a few times
/// over.
const MAX_GROWTH: u64 = 192 << 20;

struct Ground {
    served: Served,
    plain: Plain,
    token: String,
    // Last: removed after the server has ended.
    dir: tempfile::TempDir,
}

impl Ground {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let password = dir.path().join("password");
        std::fs::write(&password, "a password of the test\n").unwrap();
        let data = dir.path().join("data");
        let served = Served::with(&data, &["--password-file", password.to_str().unwrap()]);
        let plain = Plain::new(served.ready["api"].as_str().unwrap(), &data);
        // rocketskates:a password of the test
        let login = "Basic cm9ja2V0c2thdGVzOmEgcGFzc3dvcmQgb2YgdGhlIHRlc3Q=";
        let token = plain.send(
            "GET",
            "/api/v3/users/rocketskates/token",
            &[("Authorization", login)],
            b"",
        );
        let token = token.json()["Token"].as_str().unwrap().to_owned();
        Self {
            served,
            plain,
            token: format!("Bearer {token}"),
            dir,
        }
    }

    fn send(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        let headers = [("Authorization", &*self.token), ("Content-Type", "application/json")];
        self.plain.send(method, path, &headers, body)
    }

    /// Sends it, and wants a refusal in DRP's shape.
    fn refused(&self, method: &str, path: &str, body: &[u8]) -> String {
        let answer = self.send(method, path, body);
        let sent = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        assert!(
            (400..500).contains(&answer.status),
            "{method} {path} {sent}: {answer:?}"
        );
        let error = answer.json();
        assert_eq!(error["Code"], answer.status, "{method} {path} {sent}: {error}");
        let messages = error["Messages"].as_array().unwrap();
        assert!(
            messages.iter().any(|m| m.as_str().is_some_and(|m| !m.is_empty())),
            "{method} {path}: {error}"
        );
        for member in ["Model", "Key", "Type"] {
            assert!(error[member].is_string(), "{method} {path} {sent}: {error}");
        }
        messages[0].as_str().unwrap().to_owned()
    }

    /// The most memory that the server has had, in bytes (proc(5)).
    fn peak(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.served.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }
}

/// Places that take JSON.
const TAKERS: &[(&str, &str)] = &[
    ("POST", "/api/v3/machines"),
    ("POST", "/api/v3/params"),
    ("PATCH", "/api/v3/machines/Name:mach-01"),
    ("PUT", "/api/v3/machines/Name:mach-01"),
    ("POST", "/api/v3/machines/Name:mach-01/params"),
    ("PATCH", "/api/v3/machines/Name:mach-01/params"),
    ("POST", "/api/v3/machines/Name:mach-01/actions/powerstatus"),
    ("PATCH", "/api/v3/meta/machines/Name:mach-01"),
    ("POST", "/api/v3/contents"),
    ("POST", "/api/v3/prefs"),
    ("POST", "/api/v3/events"),
    ("POST", "/api/v3/jobs"),
    ("POST", "/api/v3/whoami"),
    ("PUT", "/api/v3/users/rocketskates/password"),
    ("POST", "/isobar/v1/agent/exchange"),
];

#[test]
fn bodies_of_all_bad_kinds_are_refused_and_cost_no_memory() {
    let ground = Ground::new();
    let made = ground.send("POST", "/api/v3/machines", b"{\"Name\":\"mach-01\"}");
    assert_eq!(made.status, 201, "{made:?}");
    // Warm: what it holds anyway.
    ground.send("GET", "/api/v3/swagger.json", b"");
    let before = ground.peak();
    let nested = |open: &str, close: &str| format!("{}1{}", open.repeat(1000), close.repeat(1000)).into_bytes();
    let bad: &[(&str, Vec<u8>)] = &[
        ("not JSON", b"{\"Name\":".to_vec()),
        ("bare word", b"mach-01".to_vec()),
        ("two values", b"{} {}".to_vec()),
        ("not UTF-8", b"{\"Name\":\"\xff\xfe\"}".to_vec()),
        ("half a surrogate", b"{\"Name\":\"\\ud800\"}".to_vec()),
        ("deep lists", nested("[", "]")),
        ("deep objects", nested("{\"a\":", "}")),
    ];
    for (what, body) in bad {
        for (method, path) in TAKERS {
            let message = ground.refused(method, path, body);
            assert!(!message.is_empty(), "{what} {method} {path}");
        }
    }
    // Of the right form and the wrong type.
    for (method, path, body) in [
        ("POST", "/api/v3/machines", json!({"Name": 7})),
        (
            "POST",
            "/api/v3/machines",
            json!({"Name": "mach-02", "Profiles": "global"}),
        ),
        (
            "POST",
            "/api/v3/machines",
            json!({"Name": "mach-02", "Runnable": "yes"}),
        ),
        ("POST", "/api/v3/machines", json!([{"Name": "mach-02"}])),
        ("PATCH", "/api/v3/machines/Name:mach-01", json!({"op": "add"})),
        (
            "PATCH",
            "/api/v3/machines/Name:mach-01",
            json!([{"op": "fly", "path": "/Name"}]),
        ),
        (
            "PATCH",
            "/api/v3/machines/Name:mach-01",
            json!([{"op": "add", "path": "Name", "value": "x"}]),
        ),
        ("POST", "/api/v3/contents", json!({"meta": 1, "sections": []})),
        ("POST", "/api/v3/prefs", json!([1, 2])),
        ("PUT", "/api/v3/users/rocketskates/password", json!({"Password": 1})),
        (
            "PATCH",
            "/api/v3/meta/machines/Name:mach-01",
            json!([{"op": "add", "path": "/a", "value": 1}]),
        ),
    ] {
        ground.refused(method, path, body.to_string().as_bytes());
    }
    // Ten million bytes: taken as JSON where that much may come, and refused for what they say.
    let long = json!([{"op": "test", "path": "/Name", "value": "x".repeat(10 << 20)}]).to_string();
    for (method, path) in TAKERS {
        ground.refused(method, path, long.as_bytes());
    }
    let objects: Vec<Value> = (0..100_000)
        .map(|n| json!({"op": "test", "path": "/Name", "value": n}))
        .collect();
    ground.refused(
        "PATCH",
        "/api/v3/machines/Name:mach-01",
        json!(objects).to_string().as_bytes(),
    );
    let too_long = vec![b' '; 17 << 20];
    assert!(
        ground
            .refused("POST", "/api/v3/machines", &too_long)
            .contains("longer than")
    );
    let grown = ground.peak() - before;
    assert!(grown < MAX_GROWTH, "it grew by {} MiB", grown >> 20);
    let kept = ground.send("GET", "/api/v3/machines", b"").json();
    assert_eq!(kept.as_array().unwrap().len(), 1, "{kept}");
}

#[test]
fn names_of_files_are_never_paths() {
    let ground = Ground::new();
    let outside = ground.dir.path().join("outside");
    let put = |path: &str| {
        let headers = [
            ("Authorization", &*ground.token),
            ("Content-Type", "application/octet-stream"),
        ];
        ground.plain.send("POST", path, &headers, b"hostile")
    };
    for kind in ["files", "isos"] {
        for name in [
            "../outside",
            "..%2foutside",
            "%2e%2e/outside",
            "%2e%2e%2foutside",
            "a/../../outside",
            "a%2f..%2f..%2foutside",
            "..%5coutside",
            "a%00b",
            ".",
            "..",
            "a//b",
        ] {
            let answer = put(&format!("/api/v3/{kind}/{name}"));
            // A backslash and the like are letters of a name: a name is a row, never a path.
            assert!((200..500).contains(&answer.status), "{kind} {name}: {answer:?}");
            if answer.status >= 400 {
                assert_eq!(answer.json()["Code"], answer.status, "{kind} {name}: {answer:?}");
            } else {
                let path = answer.json()["Path"].as_str().unwrap().to_owned();
                let steps = path.split('/').any(|part| matches!(part, "." | ".."));
                assert!(!steps, "{kind} {name} was taken: {answer:?}");
            }
            let read = ground.send("GET", &format!("/api/v3/{kind}/{name}/../../../../etc/passwd"), b"");
            assert!((400..500).contains(&read.status), "{kind} {name}: {read:?}");
        }
    }
    assert!(!outside.exists());
    let strangers: Vec<_> = find(ground.dir.path(), "outside");
    assert!(strangers.is_empty(), "{strangers:?}");
}

fn find(folder: &Path, word: &str) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map_while(Result::ok) {
        let path = entry.path();
        if entry.file_name().to_string_lossy().contains(word) {
            found.push(path.clone());
        }
        if path.is_dir() {
            found.extend(find(&path, word));
        }
    }
    found
}

#[test]
fn templates_without_end_are_ended() {
    let ground = Ground::new();
    let before = ground.peak();
    let nested = "{{range $a := until 1000}}{{range $b := until 1000}}{{range $c := until 1000}}{{range $d := until \
                  1000}}x{{end}}{{end}}{{end}}{{end}}";
    let recursion = "{{template \"round\" .}}";
    let wide = "{{repeat 1000000000 \"x\"}}";
    for (id, contents) in [("loops", nested), ("round", recursion), ("wide", wide)] {
        let template = json!({"ID": id, "Contents": contents}).to_string();
        let made = ground.send("POST", "/api/v3/templates", template.as_bytes());
        // Either it is refused when it is stored, or it fails when it is rendered.
        if made.status != 201 {
            assert!((400..500).contains(&made.status), "{id}: {made:?}");
            continue;
        }
        let task = json!({"Name": id, "Templates": [{"Name": id, "ID": id}]}).to_string();
        let made = ground.send("POST", "/api/v3/tasks", task.as_bytes());
        assert_eq!(made.status, 201, "{made:?}");
        let name = format!("mach-{id}");
        let machine = json!({"Name": name, "Tasks": [id]}).to_string();
        let machine = ground.send("POST", "/api/v3/machines", machine.as_bytes());
        assert_eq!(machine.status, 201, "{machine:?}");
        let job = json!({"Machine": machine.json()["Uuid"]}).to_string();
        let job = ground.send("POST", "/api/v3/jobs", job.as_bytes());
        assert_eq!(job.status, 201, "{job:?}");
        let uuid = job.json()["Uuid"].as_str().unwrap().to_owned();
        let message = ground.refused("GET", &format!("/api/v3/jobs/{uuid}/actions"), b"");
        assert!(message.contains(id), "it does not say which: {message}");
    }
    let grown = ground.peak() - before;
    assert!(grown < MAX_GROWTH, "it grew by {} MiB", grown >> 20);
}
