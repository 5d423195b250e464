//! The traffic of the real drpcli, replayed: `../shared/drp-wire` holds what version 4.7.0 asked a server of version
//! 3.13.3 and what that answered. Each request has to get the recorded status and shape, or the difference stands here
//! with its reason, and in docs/drp-differences.md.

#![allow(clippy::unwrap_used)]

mod common;
mod plain;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::path::PathBuf;

use common::Served;
use plain::{Answer, Plain, Stream, head_of};
use serde_json::{Map, Value};

/// The machine that the recording is about; ours has a UUID of its own.
const UUID: &str = "1987e6d3-75ef-4a61-bf0d-2fa4b26f8215";

/// Differences: requests, what is different there, and why. Both are lists of patterns in which `*` stands for any text.
/// The same stands in docs/drp-differences.md.
const DIFFERENCES: &[(&str, &str, &str)] = &[
    (
        "* /api/v3/machines*",
        "+*.Context, +*.Fingerprint, +*.Locked, +*.Partial, +*.Pool, +*.PoolAllocated, +*.PoolStatus, \
         +*.RetryTaskAttempt, +*.TaskErrorStacks, +*.WorkflowComplete",
        "members of machines since 4.x",
    ),
    (
        "* /api/v3/machines*",
        "-*.Profile",
        "a dead member of 3.13: clients ignore it",
    ),
    (
        "* /api/v3/profiles",
        "+*.Partial, +*.Profiles",
        "members of profiles since 4.x",
    ),
    (
        "* /api/v3/bootenvs*",
        "+*.Loaders, +*.Link",
        "members of bootenvs since 4.x",
    ),
    (
        "24 GET /api/v3/bootenvs",
        "-*.Meta.feature-flags",
        "machines have them all the same",
    ),
    (
        "* /api/v3/info, * /api/v3/users/*/token*",
        "+*.local_id, +*.manager",
        "members of info since 4.x",
    ),
    (
        "* /api/v3/info, * /api/v3/users/*/token*",
        "+*.scopes.*, -*.scopes.*",
        "rights are those that our own routes ask for",
    ),
    (
        "* /api/v3/prefs",
        "-.baseTokenSecret, -.systemGrantorSecret",
        "who reads them makes tokens for any user",
    ),
    (
        "34 GET /api/v3/contents",
        "+*.Counts.*, -*.Counts.*",
        "counts are of what is there, and other packs are built in",
    ),
    (
        "05 GET /api/v3/params/boot-virtual-iso",
        "200, not 404",
        "the param is declared here, so its values are checked",
    ),
];

/// A request with its answer.
#[derive(Debug)]
struct Exchange {
    file: String,
    method: String,
    path: String,
    authorization: String,
    body: String,
    status: u16,
    answer: String,
}

/// The files in the order they were recorded; none when there is no recording here.
fn recording() -> Option<Vec<Exchange>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/drp-wire");
    let Ok(entries) = std::fs::read_dir(&folder) else {
        let skipped = format!("SKIPPED: no recorded traffic in {}\n", folder.display());
        assert!(std::env::var_os("CI").is_none(), "{skipped}");
        std::io::stderr().write_all(skipped.as_bytes()).unwrap();
        return None;
    };
    let files: BTreeSet<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    let files = files
        .iter()
        .filter(|path| path.extension().is_some_and(|e| e == "http"));
    Some(files.flat_map(|path| exchanges(path)).collect())
}

fn exchanges(path: &std::path::Path) -> Vec<Exchange> {
    let text = std::fs::read_to_string(path).unwrap();
    let (text, _) = text.split_once("\n=== exit status").unwrap();
    let name = path.file_name().unwrap().to_string_lossy();
    let split = |block: &str| {
        let (head, body) = block.split_once("\n\n").unwrap_or((block, ""));
        (head.to_owned(), body.trim().to_owned())
    };
    text.split("\n>>> ")
        .skip(1)
        .map(|block| {
            let (asked, answered) = block.split_once("\n<<< HTTP/1.1 ").unwrap();
            let ((asked, body), (answered, answer)) = (split(asked), split(answered));
            let mut line = asked.lines().next().unwrap().split(' ');
            let authorization = asked.lines().find_map(|line| line.strip_prefix("Authorization: "));
            Exchange {
                file: name[..2].to_owned(),
                method: line.next().unwrap().to_owned(),
                path: line.next().unwrap().to_owned(),
                authorization: authorization.unwrap().to_owned(),
                body,
                status: answered[..3].parse().unwrap(),
                answer,
            }
        })
        .collect()
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// All elements of a list as one: every member that any of them has.
fn element(items: &[Value]) -> Option<Value> {
    let mut all = Map::new();
    for item in items {
        match item {
            Value::Object(members) => all.extend(members.clone()),
            other => return Some(other.clone()),
        }
    }
    (!items.is_empty()).then(|| all.into())
}

/// Says where two shapes differ: `-x` is missing, `+x` is more, `x: string, not null` is of another type.
fn compare(recorded: &Value, ours: &Value, at: &str, found: &mut BTreeSet<String>) {
    match (recorded, ours) {
        (Value::Object(recorded), Value::Object(ours)) => {
            for (name, value) in recorded {
                match ours.get(name) {
                    Some(ours) => compare(value, ours, &format!("{at}.{name}"), found),
                    None => drop(found.insert(format!("-{at}.{name}"))),
                }
            }
            for name in ours.keys().filter(|name| !recorded.contains_key(*name)) {
                found.insert(format!("+{at}.{name}"));
            }
        }
        (Value::Array(recorded), Value::Array(ours)) => {
            // An empty list says nothing of its elements.
            if let (Some(recorded), Some(ours)) = (element(recorded), element(ours)) {
                compare(&recorded, &ours, &format!("{at}[]"), found);
            }
        }
        (recorded, ours) if kind(recorded) == kind(ours) => {}
        (recorded, ours) => drop(found.insert(format!("{at}: {}, not {}", kind(ours), kind(recorded)))),
    }
}

fn fits(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|begin| text.strip_prefix(begin)) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let Some(end) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(end)
}

struct Replay {
    plain: Plain,
    token: String,
    uuid: String,
    info: Value,
    differences: Vec<(String, String)>,
}

impl Replay {
    fn ours(&self, text: &str) -> String {
        text.replace(UUID, &self.uuid)
    }

    fn headers(&self, exchange: &Exchange) -> String {
        exchange.authorization.replace("TOKEN-PLACEHOLDER", &self.token)
    }

    fn play(&mut self, exchange: &Exchange) {
        if exchange.status == 101 {
            return self.watch(exchange);
        }
        let authorization = self.headers(exchange);
        let mut headers = vec![("Authorization", &*authorization), ("Accept", "application/json")];
        if !exchange.body.is_empty() {
            headers.push(("Content-Type", "application/json"));
        }
        let body = self.ours(&exchange.body);
        let answer = self
            .plain
            .send(&exchange.method, &self.ours(&exchange.path), &headers, body.as_bytes());
        if exchange.path.contains("/token") {
            self.token = answer.json()["Token"].as_str().unwrap().to_owned();
        }
        if exchange.method == "POST" && exchange.path == "/api/v3/machines" {
            self.uuid = answer.json()["Uuid"].as_str().unwrap().to_owned();
        }
        self.judge(exchange, &answer);
    }

    fn judge(&mut self, exchange: &Exchange, answer: &Answer) {
        let request = format!(
            "{} {} {}",
            exchange.file,
            exchange.method,
            exchange.path.replace(UUID, "UUID")
        );
        let mut found = BTreeSet::new();
        if answer.status == exchange.status {
            let recorded = match &*exchange.answer {
                "" => None,
                note if note.starts_with("# (info") => Some(self.info.clone()),
                note if note.starts_with("# ({\"Token") => {
                    Some(serde_json::json!({"Token": "", "Info": self.info.clone()}))
                }
                text => Some(serde_json::from_str(text).unwrap_or_else(|e| panic!("{request}: {e}: {text}"))),
            };
            match recorded {
                Some(recorded) => compare(&recorded, &answer.json(), "", &mut found),
                None if answer.body.is_empty() => {}
                None => drop(found.insert("+body".to_owned())),
            }
        } else {
            found.insert(format!("{}, not {}", answer.status, exchange.status));
        }
        self.differences
            .extend(found.into_iter().map(|what| (request.clone(), what)));
    }

    /// A websocket: each text of the client is answered by an event.
    fn watch(&mut self, exchange: &Exchange) {
        let mut stream = self.plain.connect();
        let head = format!(
            "GET {} HTTP/1.1\r\nHost: x\r\nAuthorization: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            exchange.path,
            self.headers(exchange)
        );
        stream.write_all(head.as_bytes()).unwrap();
        let answer = head_of(&mut stream);
        assert_eq!(answer.status, 101, "{answer:?}");
        let said = |who: &str| {
            let lines = exchange.answer.lines();
            lines
                .filter_map(|line| line.strip_prefix(who).map(str::to_owned))
                .collect::<Vec<_>>()
        };
        let (client, server) = (said("client: "), said("server: "));
        assert_eq!(client.last().map(String::as_str), Some("(close)"));
        assert_eq!(client.len(), server.len() + 1);
        for (text, event) in client.iter().zip(&server) {
            say(&mut stream, 1, self.ours(text).as_bytes());
            let recorded: Value = serde_json::from_str(&self.ours(event)).unwrap();
            let event = hear(&mut stream);
            for member in ["Type", "Action", "Key"] {
                assert_eq!(event[member], recorded[member], "{text}");
            }
            let mut found = BTreeSet::new();
            compare(&recorded, &event, "", &mut found);
            assert!(found.is_empty(), "{text}: {found:?}");
        }
        say(&mut stream, 8, &[]);
    }
}

/// Sends a frame, masked with zeros.
fn say(stream: &mut Stream, opcode: u8, payload: &[u8]) {
    let mut frame = vec![0x80 | opcode, 0x80 | u8::try_from(payload.len()).unwrap(), 0, 0, 0, 0];
    assert!(payload.len() < 126);
    frame.extend(payload);
    stream.write_all(&frame).unwrap();
}

/// The next frame that is no ping, as JSON.
fn hear(stream: &mut Stream) -> Value {
    loop {
        let mut head = [0; 2];
        stream.read_exact(&mut head).unwrap();
        let length = match head[1] {
            126 => {
                let mut length = [0; 2];
                stream.read_exact(&mut length).unwrap();
                u16::from_be_bytes(length)
            }
            short => short.into(),
        };
        let mut payload = vec![0; length.into()];
        stream.read_exact(&mut payload).unwrap();
        if head[0] & 0x0f == 1 {
            return serde_json::from_slice(&payload).unwrap();
        }
    }
}

#[test]
fn the_recorded_traffic_of_drpcli_gets_the_recorded_answers() {
    let Some(exchanges) = recording() else { return };
    let files: BTreeSet<&str> = exchanges.iter().map(|exchange| &*exchange.file).collect();
    assert_eq!(files.len(), 42, "{files:?}");
    let dir = tempfile::tempdir().unwrap();
    let (data, password) = (dir.path().join("data"), dir.path().join("password"));
    // The recording's, which is DRP's well-known default.
    std::fs::write(&password, "r0cketsk8ts\n").unwrap();
    let served = Served::with(&data, &["--password-file", password.to_str().unwrap()]);
    let recorded = exchanges
        .iter()
        .find(|e| e.file == "35" && !e.answer.starts_with('#'))
        .unwrap();
    let mut replay = Replay {
        plain: Plain::new(served.ready["api"].as_str().unwrap(), &data),
        token: String::new(),
        uuid: String::new(),
        info: serde_json::from_str(&recorded.answer).unwrap(),
        differences: Vec::new(),
    };
    for exchange in &exchanges {
        replay.play(exchange);
    }
    let listed = |request: &str, what: &str| {
        let any = |patterns: &str, text: &str| patterns.split(", ").any(|pattern| fits(pattern, text));
        let mut rows = DIFFERENCES.iter();
        rows.position(|(requests, differences, _)| {
            any(requests, request) && (any(differences, what) || *differences == what)
        })
    };
    let mut met = BTreeSet::new();
    let mut unlisted = BTreeSet::new();
    for (request, what) in &replay.differences {
        match listed(request, what) {
            Some(row) => drop(met.insert(row)),
            None => drop(unlisted.insert(format!("{request}: {what}"))),
        }
    }
    assert!(unlisted.is_empty(), "differences without a reason:\n{unlisted:#?}");
    let stale: Vec<_> = (0..DIFFERENCES.len())
        .filter(|row| !met.contains(row))
        .map(|row| DIFFERENCES[row])
        .collect();
    assert!(stale.is_empty(), "these are no differences any more: {stale:#?}");
}
