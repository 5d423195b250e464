//! Who is let in, what is refused, and what the connection itself does.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::Read;
use std::time::Duration;

use common::{PASSWORD, Rig};
use isobar_api::Limits;
use isobar_api::routes::{Access, On, routes};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A route's path with something in each parameter.
fn filled(path: &str) -> String {
    path.replace("{*path}", "a/b")
        .replace("{*param}", "a/b")
        .replace("{*key}", "thing")
        .replace("{model}", "machines")
        .replace("{index}", "Name")
        .replace(['{', '}'], "")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_but_the_exchange_wants_credentials_that_are_good() {
    let rig = Rig::start().await;
    let mut open = Vec::new();
    for route in routes() {
        let (method, path) = (route.method.as_str(), filled(&route.path));
        if route.access == Access::Open {
            open.push(path);
            continue;
        }
        let nobody = rig.bare(method, &path).send().await;
        assert_eq!((nobody.status, nobody.body.len()), (401, 0), "{route:?} {nobody:?}");
        assert_eq!(nobody.header("www-authenticate"), "dr-provision", "{route:?}");
        let stale = rig.bare(method, &path).token("made-up").send().await;
        stale.refused(403, "AUTH: Validation failed");
    }
    assert_eq!(open, ["/isobar/v1/agent/exchange"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_without_rights_gets_nothing_from_any_route() {
    let rig = Rig::start().await;
    let machine = rig.machine("mach-01").await;
    // A claim that no route asks for.
    let powerless = rig.user_token("?scope=nothing&action=nothing&specific=nothing").await;
    for route in routes() {
        let Access::Right { on, .. } = route.access else {
            continue;
        };
        let path = filled(&route.path).replace("/key", &format!("/{machine}"));
        let reply = rig.bare(route.method.as_str(), &path).token(&powerless).send().await;
        if on == On::Some {
            // Shown is what the right covers: nothing.
            let shown = reply.status == 404 || reply.json().as_array().is_some_and(Vec::is_empty);
            assert!(
                shown || reply.status == 200 && path.ends_with("whoami"),
                "{route:?} {reply:?}"
            );
        } else {
            assert_eq!(reply.status, 403, "{route:?} {reply:?}");
            assert_eq!(reply.json()["Type"], "AUTH", "{route:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_passwords_and_strange_headers_are_403() {
    let rig = Rig::start().await;
    for (auth, body) in [
        ("Basic !!!", 0),
        ("Basic cm9ja2V0c2thdGVz", 0), // no colon
        ("Basic bm9ib2R5OnNlY3JldA==", 0),
    ] {
        let reply = rig.bare("GET", "/api/v3/info").auth(auth).send().await;
        assert_eq!((reply.status, reply.body.len()), (403, body), "{auth}");
    }
    for auth in ["Digest x", "Bearer", "x"] {
        rig.bare("GET", "/api/v3/info")
            .auth(auth)
            .send()
            .await
            .refused(403, "AUTH: Validation failed");
    }
    let wrong = rig
        .bare("GET", "/api/v3/info")
        .basic("rocketskates", "wrong")
        .send()
        .await;
    assert_eq!((wrong.status, wrong.body.len()), (403, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_routed_is_404_in_the_shape_of_errors() {
    let rig = Rig::start().await;
    let reply = rig.get("/api/v3/freds").await;
    assert_eq!(
        reply.json(),
        json!({"Model":"","Key":"/api/v3/freds","Type":"GET","Messages":["No route"],"Code":404})
    );
    assert_eq!(reply.header("content-type"), "application/json; charset=utf-8");
    rig.ask("PATCH", "/api/v3/machines")
        .json(&json!([]))
        .send()
        .await
        .refused(404, "PATCH: /api/v3/machines: No route");
    let head = rig.ask("HEAD", "/api/v3/freds").send().await;
    assert_eq!((head.status, head.body.len()), (404, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_cannot_be_used_are_refused_in_words() {
    let rig = Rig::start().await;
    let post = || rig.ask("POST", "/api/v3/machines");
    post()
        .body("text/plain", "x")
        .send()
        .await
        .refused(400, "POST: machines: Invalid content type: text/plain");
    for bad in ["{", "{\"Name\": \"\u{fffd}\" x", "\u{1}"] {
        assert_eq!(post().body("application/json", bad).send().await.status, 400, "{bad}");
    }
    let not_utf8 = post()
        .body("application/json", &b"{\"Name\":\"\xff\xfe\"}"[..])
        .send()
        .await;
    assert_eq!(not_utf8.status, 400);
    let deep = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
    let reply = post().body("application/json", deep).send().await;
    assert_eq!(reply.status, 400);
    assert!(
        reply.json()["Messages"][0].as_str().unwrap().contains("recursion"),
        "{reply:?}"
    );
    let long = format!("{{\"Name\":\"{}\"}}", "x".repeat(17 << 20));
    let reply = post().body("application/json", long).send().await;
    assert_eq!((reply.status, &reply.json()["Code"]), (413, &json!(413)));
    // No value at all where an object is wanted.
    assert_eq!(post().send().await.status, 400);
    // The server is none the worse for it.
    assert_eq!(rig.get("/api/v3/machines").await.json(), json!([]));
    let charset = post()
        .body("application/json; charset=utf-8", "{\"Name\":\"mach-01\"}")
        .send()
        .await;
    assert_eq!(charset.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_zipped_for_those_who_say_so() {
    let rig = Rig::start().await;
    let plain = rig.get("/api/v3/info").await;
    assert_eq!(plain.header("content-encoding"), "");
    let zipped = rig
        .ask("GET", "/api/v3/info")
        .header("accept-encoding", "gzip")
        .send()
        .await;
    assert_eq!(zipped.header("content-encoding"), "gzip");
    let mut clear = String::new();
    flate2::read::GzDecoder::new(&zipped.body[..])
        .read_to_string(&mut clear)
        .unwrap();
    assert_eq!(clear.as_bytes(), plain.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_serves_the_same() {
    let rig = Rig::start().await;
    let uuid = rig.machine("mach-01").await;
    let path = format!("/api/v3/machines/{uuid}");
    let one = rig.get(&path).await;
    let two = rig.ask("GET", &path).h2().send().await;
    assert_eq!((two.status, &two.body), (200, &one.body));
    let head = rig.ask("HEAD", &path).h2().send().await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    rig.ask("GET", "/api/v3/machines/john")
        .h2()
        .send()
        .await
        .refused(404, "GET: machines/john: Not Found");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_bounded_and_idle_handshakes_end() {
    let limits = Limits {
        connections: 2,
        handshake: Duration::from_secs(600),
        ..Limits::default()
    };
    // Both slots are taken by clients that never say hello …
    let take = async |rig: &Rig| {
        let mut mute = Vec::new();
        for _ in 0..2 {
            mute.push(tokio::net::TcpStream::connect(rig.address).await.unwrap());
        }
        mute
    };
    let rig = Rig::limited(limits).await;
    let _mute = take(&rig).await;
    let reply = rig.get("/api/v3/info").await;
    assert_eq!(reply.header("retry-after"), "5");
    reply.refused(
        503,
        "CONNECT: 2 connections are open, as many as max-connections allows: try again in a moment",
    );
    // … until the server has had enough of them.
    let handshake = Duration::from_secs(2);
    let rig = Rig::limited(Limits { handshake, ..limits }).await;
    for mut stream in take(&rig).await {
        let mut byte = [0];
        let read = tokio::time::timeout(Duration::from_secs(60), stream.read(&mut byte))
            .await
            .unwrap();
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    }
    // Whoever says hello in time has a place; a loaded host may be too late, too.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while rig.tls().await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "no place came free");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_never_sends_a_request_ends() {
    let limits = Limits {
        head: Duration::from_millis(300),
        ..Limits::default()
    };
    let rig = Rig::limited(limits).await;
    let mut stream = rig.tls().await.unwrap();
    stream
        .write_all(b"GET /api/v3/info HTTP/1.1\r\nHost: x\r\n")
        .await
        .unwrap();
    let mut rest = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut rest)).await;
    assert!(read.is_ok(), "still open");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_up_cancels_nothing() {
    let rig = Rig::start().await;
    let uuid = rig.machine("mach-01").await;
    let token = rig.user_token("").await;
    let mut stream = rig.tls().await.unwrap();
    let request = format!(
        "POST /api/v3/machines/{uuid}/actions/slow HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\
         Content-Length: 0\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    common::until("the action begins", || {
        rig.boots.heard().iter().any(|h| h.starts_with("begin slow"))
    })
    .await;
    drop(stream);
    rig.boots.go_on.notify_one();
    common::until("the action ends", || rig.boots.heard().contains(&"end slow".to_owned())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_lets_requests_end_and_takes_no_more() {
    let mut rig = Rig::start().await;
    let uuid = rig.machine("mach-01").await;
    let handle = rig.handle.take().unwrap();
    let address = rig.address;
    let slow = async {
        rig.post(&format!("/api/v3/machines/{uuid}/actions/slow"), json!({}))
            .await
    };
    let boots = &rig.boots;
    let stop = async {
        common::until("the action begins", || {
            boots.heard().iter().any(|h| h.starts_with("begin slow"))
        })
        .await;
        let stopping = tokio::spawn(handle.shutdown(Duration::from_secs(20)));
        common::until("the port is closed", || std::net::TcpStream::connect(address).is_err()).await;
        boots.go_on.notify_one();
        stopping.await.unwrap();
    };
    let (reply, ()) = tokio::join!(slow, stop);
    assert_eq!(reply.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_change_revokes_tokens_at_once() {
    let rig = Rig::start().await;
    let token = rig.user_token("?ttl=7200").await;
    let by_token = || rig.bare("GET", "/api/v3/info").token(&token).send();
    assert_eq!(by_token().await.status, 200);
    let change = rig
        .ask("PUT", "/api/v3/users/rocketskates/password")
        .json(&json!({ "Password": "new one" }))
        .send()
        .await;
    assert_eq!(change.status, 200);
    assert_eq!(change.json()["Name"], "rocketskates");
    assert_eq!(change.json().get("PasswordHash"), None);
    by_token().await.refused(403, "AUTH: Validation failed");
    assert_eq!(
        rig.bare("GET", "/api/v3/info")
            .basic("rocketskates", PASSWORD)
            .send()
            .await
            .status,
        403
    );
    assert_eq!(
        rig.bare("GET", "/api/v3/info")
            .basic("rocketskates", "new one")
            .send()
            .await
            .status,
        200
    );
    let empty = rig
        .bare("PUT", "/api/v3/users/rocketskates/password")
        .basic("rocketskates", "new one");
    assert_eq!(empty.json(&json!({ "Password": "" })).send().await.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_not_shown_who_it_is_sends_little() {
    let rig = Rig::start().await;
    let open: Vec<_> = routes()
        .into_iter()
        .filter(|route| route.access == Access::Open && route.method == "POST")
        .collect();
    assert!(!open.is_empty());
    for route in open {
        let path = filled(&route.path);
        let body = |len: usize| format!("{{\"pad\":\"{}\"}}", "x".repeat(len));
        let long = rig
            .bare("POST", &path)
            .body("application/json", body(64 << 10))
            .send()
            .await;
        assert_eq!(long.status, 413, "{path}: {long:?}");
        let short = rig
            .bare("POST", &path)
            .body("application/json", body(60 << 10))
            .send()
            .await;
        assert_ne!(short.status, 413, "{path}: {short:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_end_is_cut() {
    let limits = Limits {
        body: Duration::from_millis(300),
        ..Limits::default()
    };
    let rig = Rig::limited(limits).await;
    let mut stream = rig.tls().await.unwrap();
    let request = "POST /isobar/v1/agent/exchange HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
                   Content-Length: 1000\r\n\r\n{";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    let read = tokio::time::timeout(Duration::from_secs(60), stream.read_exact(&mut answer)).await;
    read.unwrap().unwrap();
    assert_eq!(&answer, b"HTTP/1.1 408");
}

/// Clients that send a large body before they look for an answer find one, and no reset connection.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_refused_by_the_head_may_send_the_body_to_its_end() {
    const LENGTH: usize = 48 << 20;
    let rig = Rig::start().await;
    for (request, status) in [
        ("POST /api/v3/isos/big.iso HTTP/1.1", "401"),
        (
            "POST /api/v3/isos/big.iso HTTP/1.1\r\nAuthorization: Bearer stale",
            "403",
        ),
        ("POST /api/v3/nothing HTTP/1.1", "404"),
        ("PUT /api/v3/isos/big.iso HTTP/1.1", "404"),
    ] {
        let mut stream = rig.tls().await.unwrap();
        let head = format!("{request}\r\nHost: x\r\nContent-Length: {LENGTH}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let chunk = vec![b'x'; 64 * 1024];
        for sent in 0..LENGTH / chunk.len() {
            let written = stream.write_all(&chunk).await;
            assert!(written.is_ok(), "{request}: {written:?} after {sent} chunks");
        }
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut answer)).await;
        read.unwrap().unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{request}: {answer}"
        );
    }
}

/// Somebody with a token and many connections fills them, and not the server's memory.
#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_share_a_bounded_memory() {
    const LARGE: usize = 16_000_000;
    let rig = Rig::start().await;
    let token = rig.user_token("").await;
    let head = format!(
        "POST /api/v3/machines HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n",
        LARGE + 1
    );
    let mut held = Vec::new();
    for _ in 0..8 {
        let mut stream = rig.tls().await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&vec![b' '; LARGE]).await.unwrap();
        stream.flush().await.unwrap();
        held.push(stream);
    }
    let one_more = async || {
        let ask = rig.bare("POST", "/api/v3/machines").token(&token);
        ask.body("application/json", vec![b' '; LARGE]).send().await
    };
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    let refused = loop {
        let reply = one_more().await;
        if reply.status == 503 {
            break reply;
        }
        assert_eq!(reply.status, 400, "{reply:?}");
        assert!(tokio::time::Instant::now() < deadline, "there is always room");
    };
    assert_eq!(refused.header("retry-after"), "5");
    // Small ones have their place.
    rig.machine("mach-01").await;
    drop(held);
    while one_more().await.status != 400 {
        assert!(tokio::time::Instant::now() < deadline, "no room came free");
    }
}
