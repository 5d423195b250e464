//! The feed of changes, by websocket and by Server-Sent Events.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use common::{PASSWORD, Rig};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// A websocket client that can do what drpcli does.
struct Socket(TlsStream<TcpStream>);

impl Socket {
    async fn open(rig: &Rig, authorization: &str) -> (Self, String) {
        let mut stream = rig.tls().await.unwrap();
        let head = format!(
            "GET /api/v3/ws HTTP/1.1\r\nHost: x\r\nAuthorization: {authorization}\r\nConnection: Upgrade\r\nUpgrade: \
             websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await.unwrap());
        }
        (Self(stream), String::from_utf8(answer).unwrap())
    }

    async fn frame(&mut self, opcode: u8, payload: &[u8]) {
        let mut frame = vec![0x80 | opcode, 0x80 | u8::try_from(payload.len()).unwrap(), 1, 2, 3, 4];
        frame.extend(
            payload
                .iter()
                .zip([1, 2, 3, 4].iter().cycle())
                .map(|(byte, mask)| byte ^ mask),
        );
        self.0.write_all(&frame).await.unwrap();
    }

    async fn say(&mut self, text: &str) {
        self.frame(1, text.as_bytes()).await;
    }

    /// The next frame but pings; none at the end.
    async fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            let opcode = self.0.read_u8().await.ok()? & 0x0f;
            let length = match self.0.read_u8().await.ok()? {
                126 => usize::from(self.0.read_u16().await.ok()?),
                127 => usize::try_from(self.0.read_u64().await.ok()?).ok()?,
                short => usize::from(short),
            };
            let mut payload = vec![0; length];
            self.0.read_exact(&mut payload).await.ok()?;
            if opcode != 9 {
                return Some((opcode, payload));
            }
        }
    }

    async fn event(&mut self) -> Value {
        let next = tokio::time::timeout(PATIENCE, self.next())
            .await
            .expect("no event came");
        serde_json::from_slice(&next.unwrap().1).unwrap()
    }
}

/// Longer than any event takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Adds what comes to `text` until it has `wanted`.
async fn read_until(stream: &mut TlsStream<TcpStream>, text: &mut String, wanted: &str) {
    let mut chunk = [0; 4096];
    while !text.contains(wanted) {
        let n = tokio::time::timeout(PATIENCE, stream.read(&mut chunk)).await;
        let n = n.unwrap_or_else(|_| panic!("{wanted} never came: {text}")).unwrap();
        assert!(n > 0, "the stream ended without {wanted}: {text}");
        text.push_str(std::str::from_utf8(&chunk[..n]).unwrap());
    }
}

fn basic() -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("rocketskates:{PASSWORD}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_tells_what_was_registered_for_and_nothing_else() {
    let rig = Rig::start().await;
    let (mut socket, head) = Socket::open(&rig, &basic()).await;
    assert!(
        head.starts_with("HTTP/1.1 101 ") && head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        "{head}"
    );
    socket.say("register machines.*.*").await;
    let told = socket.event().await;
    assert_eq!(
        (&told["Type"], &told["Action"]),
        (&json!("websocket"), &json!("register"))
    );
    assert_eq!((&told["Key"], &told["Object"]), (&json!("machines.*.*"), &Value::Null));

    rig.post("/api/v3/profiles", json!({"Name": "p1"})).await;
    let uuid = rig.machine("mach-01").await;
    let created = socket.event().await;
    assert_eq!(
        (&created["Type"], &created["Action"], &created["Key"]),
        (&json!("machines"), &json!("create"), &json!(uuid))
    );
    assert_eq!(
        (&created["Object"]["Name"], &created["Original"]),
        (&json!("mach-01"), &Value::Null)
    );
    let ops = json!([{"op": "replace", "path": "/Description", "value": "x"}]);
    rig.ask("PATCH", "/api/v3/machines/Name:mach-01")
        .json(&ops)
        .send()
        .await;
    let updated = socket.event().await;
    assert_eq!(
        (&updated["Original"]["Description"], &updated["Object"]["Description"]),
        (&json!(""), &json!("x"))
    );

    socket.say("deregister machines.*.*").await;
    assert_eq!(socket.event().await["Action"], "deregister");
    rig.machine("mach-02").await;
    // An answer to a ping shows that nothing came before it.
    socket.frame(9, b"hello").await;
    assert_eq!(socket.next().await, Some((10, b"hello".to_vec())));
    socket.say("what?").await;
    assert_eq!(socket.next().await, None, "who says nonsense is let go");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_learns_of_itself_alone() {
    let rig = Rig::start().await;
    let (own, other) = (rig.machine("mach-01").await, rig.machine("mach-02").await);
    let token = rig.machine_token(&own).await;
    let (mut socket, _) = Socket::open(&rig, &format!("Bearer {token}")).await;
    socket.say("register *.*.*").await;
    socket.event().await;
    let ops = json!([{"op": "replace", "path": "/Description", "value": "x"}]);
    rig.post("/api/v3/profiles", json!({"Name": "p1"})).await;
    for uuid in [&other, &own] {
        rig.ask("PATCH", &format!("/api/v3/machines/{uuid}"))
            .json(&ops)
            .send()
            .await;
    }
    assert_eq!(socket.event().await["Key"], json!(own));
    let (_, head) = Socket::open(&rig, "Bearer made-up").await;
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    assert_eq!(rig.get("/api/v3/ws").await.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_replays_from_a_revision_and_goes_on() {
    let rig = Rig::start().await;
    let first = rig.machine("mach-01").await;
    let mut stream = rig.tls().await.unwrap();
    let head = format!(
        "GET /isobar/v1/events?after=0&pattern=machines.*.* HTTP/1.1\r\nHost: x\r\nAuthorization: {}\r\n\r\n",
        basic()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut text = String::new();
    read_until(&mut stream, &mut text, &first).await;
    assert!(
        text.contains("text/event-stream") && text.contains("event: machines.create"),
        "{text}"
    );
    assert!(!text.contains("event: profiles"), "{text}");
    let second = rig.machine("mach-02").await;
    read_until(&mut stream, &mut text, &second).await;
    assert_eq!(rig.get("/isobar/v1/events?after=x").await.status, 400);
}

/// Who is not let in any more learns nothing more.
#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_taken_away_ends_what_it_let_see() {
    let rig = Rig::start().await;
    let claims = json!([{"scope": "machines", "action": "get", "specific": "*"}]);
    rig.post("/api/v3/roles", json!({"Name": "reader", "Claims": claims}))
        .await;
    // A right that stays: what it lets see tells that all before it was looked at.
    let stays = json!([{"scope": "profiles", "action": "get", "specific": "*"}]);
    rig.post("/api/v3/roles", json!({"Name": "stays", "Claims": stays}))
        .await;
    rig.post("/api/v3/users", json!({"Name": "jane", "Roles": ["reader", "stays"]}))
        .await;
    let token = rig.get("/api/v3/users/jane/token").await.json()["Token"].clone();
    let token = token.as_str().unwrap();
    let (mut socket, _) = Socket::open(&rig, &format!("Bearer {token}")).await;
    socket.say("register *.*.*").await;
    socket.event().await;
    let mut stream = rig.tls().await.unwrap();
    let head = format!("GET /isobar/v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut text = String::new();
    read_until(&mut stream, &mut text, "text/event-stream").await;
    let first = rig.machine("mach-01").await;
    assert_eq!(socket.event().await["Key"], json!(first));
    read_until(&mut stream, &mut text, &first).await;

    let none = json!([{"op": "replace", "path": "/Claims", "value": []}]);
    let changed = rig.ask("PATCH", "/api/v3/roles/reader").json(&none).send().await;
    assert_eq!(changed.status, 200);
    rig.machine("mach-02").await;
    rig.post("/api/v3/profiles", json!({"Name": "after-it"})).await;
    assert_eq!(
        socket.event().await["Key"],
        json!("after-it"),
        "the second was not for her"
    );
    read_until(&mut stream, &mut text, "after-it").await;
    let all = json!([{"op": "replace", "path": "/Claims", "value": claims}]);
    rig.ask("PATCH", "/api/v3/roles/reader").json(&all).send().await;
    let third = rig.machine("mach-03").await;
    assert_eq!(socket.event().await["Key"], json!(third));

    let revoked = rig.ask("DELETE", "/isobar/v1/users/jane/tokens").send().await;
    assert_eq!(revoked.status, 204);
    rig.machine("mach-04").await;
    let last = tokio::time::timeout(PATIENCE, socket.next()).await.unwrap();
    assert_eq!(last, Some((8, 1008_u16.to_be_bytes().to_vec())));
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(PATIENCE, async {
        // The last chunk has no bytes.
        while !rest.ends_with(b"0\r\n\r\n") && stream.read_buf(&mut rest).await.is_ok_and(|n| n > 0) {}
    });
    ended.await.expect("the stream goes on");
    let rest = text + &String::from_utf8(rest).unwrap();
    assert!(
        rest.contains("mach-03") && !rest.contains("mach-02") && !rest.contains("mach-04"),
        "{rest}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_ones_own_are_no_forgeries() {
    let rig = Rig::start().await;
    let (mut socket, _) = Socket::open(&rig, &basic()).await;
    socket.say("register mine.*.*").await;
    socket.event().await;
    let forged = rig
        .post(
            "/api/v3/events",
            json!({"Type": "machines", "Action": "delete", "Key": "x"}),
        )
        .await;
    assert_eq!(forged.status, 400);
    let posted = rig
        .post(
            "/api/v3/events",
            json!({"Type": "mine", "Action": "did", "Key": "a.b", "Object": {"x": 1}}),
        )
        .await;
    assert_eq!(posted.status, 204);
    let told = socket.event().await;
    assert_eq!(
        (&told["Key"], &told["Object"], &told["Principal"]),
        (&json!("a.b"), &json!({"x": 1}), &json!("user:rocketskates"))
    );
}

/// Who may post events forges none of the server's own, neither by name nor by a line break in the stream.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_ones_own_is_one_and_no_more() {
    let rig = Rig::start().await;
    let forged = "x\ndata: {}\n\nevent: machines.delete";
    for (kind, action, key) in [
        (forged, "a", "k"),
        ("mine", forged, "k"),
        ("mine", "a", forged),
        ("machines", "a", "k"),
        ("contents", "a", "k"),
        ("_meta", "a", "k"),
        ("", "a", "k"),
        (&"x".repeat(257), "a", "k"),
    ] {
        let event = json!({"Type": kind, "Action": action, "Key": key});
        assert_eq!(
            rig.post("/api/v3/events", event).await.status,
            400,
            "{kind} {action} {key}"
        );
    }
    let event = json!({"Type": "mine", "Action": "a", "Key": "k", "Object": {"n": "one\nline"}});
    assert_eq!(rig.post("/api/v3/events", event).await.status, 204);
    assert_eq!(
        rig.first_ids("/isobar/v1/events?after=0&pattern=mine.*.*", 1)
            .await
            .len(),
        1
    );
}

/// One machine's token, or one user, does not take all the places there are.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_keeps_all_others_from_watching() {
    let rig = Rig::start().await;
    let machine = rig.machine("mach-01").await;
    let token = rig.machine_token(&machine).await;
    let open = async |token: &str| {
        let mut stream = rig.tls().await.unwrap();
        let head = format!("GET /isobar/v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = vec![0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        (stream, String::from_utf8(answer).unwrap())
    };
    let mut held = Vec::new();
    while held.len() < 100 {
        let (stream, answer) = open(&token).await;
        if answer != "HTTP/1.1 200" {
            assert_eq!(answer, "HTTP/1.1 503");
            break;
        }
        held.push(stream);
    }
    assert_eq!(held.len(), 8);
    let user = rig.user_token("").await;
    assert_eq!(open(&user).await.1, "HTTP/1.1 200");
    // Who goes makes room.
    drop(held);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while open(&token).await.1 != "HTTP/1.1 200" {
        assert!(tokio::time::Instant::now() < deadline, "no place came free");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Clients of 4.x, and browsers, have the token of a websocket in its address; it is taken there and nowhere else.
#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_may_bring_its_token_in_the_address() {
    let rig = Rig::start().await;
    let token = rig.user_token("").await;
    let status = async |path: &str, more: &str| {
        let mut stream = rig.tls().await.unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{more}\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = vec![0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        String::from_utf8(answer).unwrap().split_off(9)
    };
    let key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    assert_eq!(status(&format!("/api/v3/ws?token={token}"), key).await, "101");
    assert_eq!(status("/api/v3/ws?token=made-up", key).await, "403");
    assert_eq!(status("/api/v3/ws", key).await, "401");
    assert_eq!(status(&format!("/api/v3/machines?token={token}"), "").await, "401");
}
