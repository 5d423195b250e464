//! What HTTP itself offers: tags, packed bodies, both versions, and connections of those who do not read.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::Write;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use common::{PASSWORD, Rig};
use isobar_api::Limits;
use serde_json::json;
use tokio::io::AsyncWriteExt;

fn zipped(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    packer.write_all(bytes).unwrap();
    packer.finish().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_has_is_not_sent_again() {
    let rig = Rig::start().await;
    let uuid = rig.machine("mach-01").await;
    for path in [
        format!("/api/v3/machines/{uuid}"),
        "/api/v3/machines?Name=mach-01".to_owned(),
    ] {
        let first = rig.get(&path).await;
        let tag = first.header("etag").to_owned();
        assert!(tag.starts_with("W/\"") && tag.len() > 20, "{first:?}");
        let head = rig.ask("HEAD", &path).send().await;
        assert_eq!((head.status, head.header("etag"), head.body.len()), (200, &*tag, 0));
        for list in [&tag, "*", &format!("\"other\", {tag}")] {
            let known = rig.ask("GET", &path).header("if-none-match", list).send().await;
            assert_eq!(
                (known.status, known.header("etag"), known.body.len()),
                (304, &*tag, 0),
                "{list}"
            );
        }
        let other = rig.ask("GET", &path).header("if-none-match", "\"other\"").send().await;
        assert_eq!((other.status, &other.body), (200, &first.body));
        let ops = json!([{"op": "replace", "path": "/Description", "value": path}]);
        rig.ask("PATCH", &format!("/api/v3/machines/{uuid}"))
            .json(&ops)
            .send()
            .await;
        let changed = rig.ask("GET", &path).header("if-none-match", &tag).send().await;
        assert_eq!(changed.status, 200);
        assert_ne!(changed.header("etag"), tag);
    }
    // Packed or not, it is the same thing.
    let plain = rig.get("/api/v3/prefs").await;
    let packed = rig
        .ask("GET", "/api/v3/prefs")
        .header("accept-encoding", "gzip")
        .send()
        .await;
    assert_eq!(plain.header("etag"), packed.header("etag"));
    assert_eq!(
        rig.get("/api/v3/machines/john").await.header("etag"),
        "",
        "an error is no thing"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_may_be_zipped() {
    let rig = Rig::start().await;
    let post = |body: Vec<u8>, encoding: &'static str| {
        let ask = rig.ask("POST", "/api/v3/machines").body("application/json", body);
        ask.header("content-encoding", encoding).send()
    };
    let created = post(zipped(b"{\"Name\":\"mach-01\"}"), "gzip").await;
    assert_eq!((created.status, &created.json()["Name"]), (201, &json!("mach-01")));
    let plain = post(b"{\"Name\":\"mach-02\"}".to_vec(), "identity").await;
    assert_eq!(plain.status, 201, "{plain:?}");
    post(b"{}".to_vec(), "br").await.refused(
        415,
        "POST: machines: Invalid content encoding: br: gzip is taken, and none at all",
    );
    let damaged = post(b"{\"Name\":\"mach-03\"}".to_vec(), "gzip").await;
    assert_eq!(
        (damaged.status, &damaged.json()["Code"]),
        (400, &json!(400)),
        "{damaged:?}"
    );
    // 64 MB of zeros in some ten thousand bytes: what counts is what comes out.
    let bomb = zipped(&vec![b' '; 64 << 20]);
    assert!(bomb.len() < 200_000);
    let refused = post(bomb, "gzip").await;
    assert_eq!(
        (refused.status, &refused.json()["Code"]),
        (413, &json!(413)),
        "{refused:?}"
    );
    let upload = rig
        .ask("POST", "/api/v3/files/a.txt")
        .body("application/octet-stream", zipped(b"hello"))
        .header("content-encoding", "gzip")
        .send()
        .await;
    assert_eq!(upload.json(), json!({"Path": "/a.txt", "Size": 5}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_says_by_alpn_which_http_it_speaks() {
    let rig = Rig::start().await;
    for (offered, chosen) in [
        (&["h2", "http/1.1"][..], Some("h2")),
        (&["http/1.1"], Some("http/1.1")),
        (&[], None),
    ] {
        let stream = rig.tls_offering(offered).await.unwrap();
        let agreed = stream.get_ref().1.alpn_protocol();
        assert_eq!(agreed, chosen.map(str::as_bytes), "{offered:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_that_are_no_text_are_refused_in_words() {
    let rig = Rig::start().await;
    rig.get("/api/v3/machines/%ff%fe")
        .await
        .refused(400, "GET: machines: the path is not UTF-8");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_names_every_route_and_parameter() {
    let rig = Rig::start().await;
    let document = rig.get("/api/v3/swagger.json").await.json();
    assert_eq!(document["openapi"], "3.0.3");
    for route in isobar_api::routes::routes() {
        let path = route.path.replace("{*", "{");
        let operation = &document["paths"][&path][route.method.as_str().to_lowercase()];
        assert!(operation["responses"].is_object(), "{route:?}");
        for part in path.split('/').filter_map(|part| part.strip_prefix('{')) {
            let name = part.trim_end_matches('}');
            let named = operation["parameters"].as_array().unwrap();
            assert!(
                named.iter().any(|p| p["name"] == name && p["in"] == "path"),
                "{route:?}"
            );
        }
    }
}

/// Asks for the feed of events over a connection of its own, and reads nothing.
async fn does_not_read(rig: &Rig, head: &str) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
    let login = BASE64_STANDARD.encode(format!("rocketskates:{PASSWORD}"));
    let mut stream = rig.tls().await.unwrap();
    let head = format!("{head}\r\nHost: x\r\nAuthorization: Basic {login}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

/// Whether the server still holds the connection from this port, as the kernel tells (proc(5), /proc/net/tcp).
fn connected(rig: &Rig, from: u16) -> bool {
    const ESTABLISHED: &str = "01";
    let port = |address: &str| {
        address
            .rsplit(':')
            .next()
            .and_then(|port| u16::from_str_radix(port, 16).ok())
    };
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    table.lines().skip(1).any(|line| {
        let cells: Vec<&str> = line.split_whitespace().collect();
        port(cells[1]) == Some(rig.address.port()) && port(cells[2]) == Some(from) && cells[3] == ESTABLISHED
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_who_do_not_read_lose_their_connection() {
    let websocket = "GET /api/v3/ws HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: \
                     13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    for head in [websocket, "GET /isobar/v1/events HTTP/1.1"] {
        let limits = Limits {
            stall: Duration::from_secs(1),
            ..Limits::default()
        };
        let rig = Rig::limited(limits).await;
        let mut reader = does_not_read(&rig, head).await;
        if head == websocket {
            // `register *.*.*`, masked with zeros.
            let mut frame = vec![0x81, 0x80 | 14, 0, 0, 0, 0];
            frame.extend(b"register *.*.*");
            reader.write_all(&frame).await.unwrap();
        }
        let from = reader.get_ref().0.local_addr().unwrap().port();
        let event = json!({"Type": "mine", "Action": "did", "Key": "x", "Object": "x".repeat(1 << 20)});
        let mut told = 0;
        let deadline = tokio::time::Instant::now() + Duration::from_secs(120);
        while connected(&rig, from) {
            assert!(
                tokio::time::Instant::now() < deadline,
                "still connected after {told} MB: {head}"
            );
            assert_eq!(rig.post("/api/v3/events", event.clone()).await.status, 204);
            told += 1;
        }
        assert!(told > 0, "was never connected: {head}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_missed_is_told_from_any_revision() {
    let rig = Rig::start().await;
    let store = rig.objects.store();
    let began = store
        .events(isobar_store::Rev(0), 10_000)
        .unwrap()
        .events
        .last()
        .unwrap()
        .rev;
    for name in ["mach-01", "mach-02", "mach-03"] {
        rig.machine(name).await;
    }
    let told = |after: isobar_store::Rev| {
        let events = store.events(after, 10_000).unwrap().events;
        events
            .iter()
            .filter(|c| c.event.kind == "machines")
            .map(|c| c.rev.0)
            .collect::<Vec<_>>()
    };
    let all = told(began);
    assert!(all.len() >= 3 && all.is_sorted(), "{all:?}");
    for (after, left) in [(began.0, &all[..]), (all[0], &all[1..])] {
        let path = format!("/isobar/v1/events?pattern=machines.*.*&after={after}");
        assert_eq!(rig.first_ids(&path, left.len()).await, left);
    }
}
