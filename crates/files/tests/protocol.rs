//! The plane's HTTP, over real sockets.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{BufRead as _, BufReader, Read as _, Write};
use std::net::TcpStream;
use std::time::Duration;

use bytes::Bytes;
use common::{Client, Fixture, noise, start, until};
use isobar_files::{Config, Denied, Opened};

fn text(body: impl Into<Bytes>) -> Result<Opened, Denied> {
    Ok(Opened::Bytes {
        body: body.into(),
        content_type: "text/plain",
    })
}

fn plane(config: Config) -> Fixture {
    start(config, |_| {
        vec![
            ("/small", text("hello, firmware")),
            ("/big", text(noise(1, 48 << 20))),
            ("/empty", text("")),
            ("/gone", Err(Denied::Gone)),
            ("/forbidden", Err(Denied::Forbidden)),
            ("/unavailable", Err(Denied::Unavailable)),
        ]
    })
}

#[test]
fn gets_heads_and_refuses() {
    let fixture = plane(Config::default());
    let mut client = Client::connect(fixture.addr());
    let answer = client.ask("GET", "/small", "");
    assert_eq!(
        (answer.status, answer.body.as_slice()),
        (200, b"hello, firmware".as_slice())
    );
    assert_eq!(answer.headers["accept-ranges"], "bytes");
    assert_eq!(answer.headers["content-type"], "text/plain");
    let answer = client.ask("HEAD", "/small", "Range: bytes=0-1\r\n");
    assert_eq!((answer.status, answer.headers["content-length"].as_str()), (200, "15"));
    assert_eq!(client.ask("GET", "/empty", "").status, 200);
    assert_eq!(client.ask("GET", "//./small?x=1", "").status, 200);
    for (path, status) in [("/nothing", 404), ("/gone", 410), ("/forbidden", 403)] {
        let answer = client.ask("GET", path, "");
        assert_eq!(answer.status, status);
        assert!(!answer.body.is_empty(), "says why");
        assert_eq!(client.ask("HEAD", path, "").status, status);
    }
    // A BMC that is told 404 gives the medium up; this it may ask for again.
    let answer = client.ask("GET", "/unavailable", "");
    assert_eq!((answer.status, answer.headers["retry-after"].as_str()), (503, "5"));
    assert_eq!(fixture.plane.connections(), 1, "all over one connection");
}

#[test]
fn one_range_at_a_time() {
    let fixture = plane(Config::default());
    let mut client = Client::connect(fixture.addr());
    for (range, status, body, content_range) in [
        ("bytes=0-4", 206, "hello", "bytes 0-4/15"),
        ("bytes=7-", 206, "firmware", "bytes 7-14/15"),
        ("bytes=-4", 206, "ware", "bytes 11-14/15"),
        ("bytes=-400", 206, "hello, firmware", "bytes 0-14/15"),
        ("bytes=7-9999", 206, "firmware", "bytes 7-14/15"),
        ("bytes=15-", 416, "", "bytes */15"),
        ("bytes=-0", 416, "", "bytes */15"),
        ("bytes=0-1,3-4", 200, "hello, firmware", ""),
        ("bytes=4-1", 200, "hello, firmware", ""),
    ] {
        let answer = client.ask("GET", "/small", &format!("Range: {range}\r\n"));
        assert_eq!(answer.status, status, "{range}");
        assert_eq!(String::from_utf8(answer.body).unwrap(), body, "{range}");
        assert_eq!(
            answer.headers.get("content-range").map_or("", String::as_str),
            content_range,
            "{range}"
        );
    }
    // No tag to compare with, so no If-Range can hold.
    assert_eq!(
        client
            .ask("GET", "/small", "Range: bytes=0-1\r\nIf-Range: \"x\"\r\n")
            .status,
        200
    );
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let fixture = plane(Config::default());
    let mut client = Client::connect(fixture.addr());
    let mut batch = String::new();
    for i in 0..200 {
        batch += &format!("GET /small HTTP/1.1\r\nRange: bytes={}-{}\r\n\r\n", i % 15, i % 15);
        batch += "HEAD /nothing HTTP/1.1\r\n\r\n\r\n";
    }
    let mut sender = client.0.get_ref().try_clone().unwrap();
    let writer = std::thread::spawn(move || sender.write_all(batch.as_bytes()).unwrap());
    for i in 0..200 {
        let answer = client.answer(false);
        assert_eq!((answer.status, answer.body[0]), (206, b"hello, firmware"[i % 15]));
        assert_eq!(client.answer(true).status, 404);
    }
    writer.join().unwrap();
}

#[test]
fn closes_when_told() {
    let fixture = plane(Config::default());
    let mut client = Client::connect(fixture.addr());
    let answer = client.ask("GET", "/small", "Connection: close\r\n");
    assert_eq!(answer.headers["connection"], "close");
    assert!(client.closed());
    let mut client = Client::connect(fixture.addr());
    client.send("GET /small HTTP/1.0\r\n\r\n");
    assert_eq!(client.answer(false).status, 200);
    assert!(client.closed());
    let mut client = Client::connect(fixture.addr());
    client.send("GET /small HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(client.answer(false).headers["connection"], "keep-alive");
    assert_eq!(client.ask("GET", "/small", "").status, 200);
}

#[test]
fn malformed_requests_are_told_why_and_cost_nobody_else() {
    let fixture = plane(Config::default());
    for (bytes, status) in [
        ("GARBAGE\r\n\r\n".to_owned(), 400),
        ("GET /../etc/passwd HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("GET /%2e%2e%2fetc/passwd HTTP/1.1\r\n\r\n".to_owned(), 400),
        (
            "POST /small HTTP/1.1\r\nContent-Length: 100000\r\n\r\n".to_owned() + &"x".repeat(100_000),
            405,
        ),
        ("GET /small HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc".to_owned(), 400),
        (format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(9000)), 414),
        (format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(60_000)), 431),
        ("\u{16}\u{3}\u{1}\u{2}".to_owned(), 400),
        ("GET / HTTP/3.0\r\n\r\n".to_owned(), 505),
    ] {
        let mut client = Client::connect(fixture.addr());
        client.send(&bytes);
        let answer = client.answer(false);
        assert_eq!(answer.status, status, "{:?}", &bytes[..bytes.len().min(40)]);
        assert!(client.closed());
    }
    assert_eq!(Client::connect(fixture.addr()).ask("GET", "/small", "").status, 200);
    until("all are forgotten", || fixture.plane.connections() == 0);
}

#[test]
fn a_panic_of_the_resolver_ends_one_connection() {
    let fixture = plane(Config {
        workers: 1,
        ..Config::default()
    });
    let mut client = Client::connect(fixture.addr());
    client.send("GET /panic HTTP/1.1\r\n\r\n");
    assert!(client.closed());
    assert_eq!(Client::connect(fixture.addr()).ask("GET", "/small", "").status, 200);
}

/// A client that had its answer within the plane's deadlines: on a loaded host not the first need be so quick.
fn in_time(fixture: &Fixture) -> Client {
    for _ in 0..100 {
        let mut client = Client::connect(fixture.addr());
        let sent = (client.0.get_mut()).write_all(b"GET /small HTTP/1.1\r\nHost: t\r\n\r\n");
        let said = sent.and_then(|()| client.0.fill_buf().map(|said| said.starts_with(b"HTTP/1.1 200 ")));
        if said.is_ok_and(|good| good) {
            client.answer(false);
            return client;
        }
    }
    panic!("nobody is answered");
}

#[test]
fn slow_heads_and_idle_connections_are_ended() {
    let config = Config {
        head_timeout: Duration::from_millis(300),
        idle_timeout: Duration::from_millis(300),
        ..Config::default()
    };
    let fixture = plane(config);
    let mut silent = Client::connect(fixture.addr());
    let mut idle = in_time(&fixture);
    let mut slow = TcpStream::connect(fixture.addr()).unwrap();
    slow.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut drip = slow.try_clone().unwrap();
    let dripping = std::thread::spawn(move || {
        // A byte now and then must not buy more time.
        for byte in b"GET /small HTTP/1.1\r\nX-Slow: ".iter().cycle() {
            if drip.write_all(&[*byte]).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let mut told = Vec::new();
    // A reset may follow, because the dripping goes on.
    let _ = slow.read_to_end(&mut told);
    assert!(
        told.is_empty() || told.starts_with(b"HTTP/1.1 408 "),
        "{}",
        String::from_utf8_lossy(&told)
    );
    dripping.join().unwrap();
    assert!(silent.closed() && idle.closed());
    until("all are forgotten", || fixture.plane.connections() == 0);
}

#[test]
fn a_reader_that_stops_reading_is_ended() {
    let fixture = plane(Config {
        stall_timeout: Duration::from_millis(300),
        ..Config::default()
    });
    let mut client = Client::connect(fixture.addr());
    client.send("GET /big HTTP/1.1\r\n\r\n");
    until("the connection is there", || fixture.plane.connections() == 1);
    until("it is forgotten", || fixture.plane.connections() == 0);
}

#[test]
fn slow_readers_delay_nobody() {
    // One worker: whatever the slow ones hold, they hold of this one.
    let fixture = plane(Config {
        workers: 1,
        ..Config::default()
    });
    let slow: Vec<Client> = (0..1000)
        .map(|_| {
            let mut client = Client::connect(fixture.addr());
            client.send("GET /big HTTP/1.1\r\n\r\n");
            client
        })
        .collect();
    until("all have begun", || fixture.plane.connections() == slow.len());
    let mut quick = Client::connect(fixture.addr());
    for _ in 0..100 {
        assert_eq!(quick.ask("GET", "/small", "Range: bytes=0-4\r\n").body, b"hello");
    }
    // Waiting for even one of the slow ones would take until it is ended, and none was.
    assert_eq!(fixture.plane.connections(), slow.len() + 1);
    // Each gets its bytes when it reads on.
    let mut one = BufReader::new(slow[500].0.get_ref().try_clone().unwrap());
    let mut body = vec![0; 4 << 20];
    one.read_exact(&mut body).unwrap();
    assert!(body.windows(4096).any(|w| w == &noise(1, 4096)[..]));
}

#[test]
fn a_long_download_leaves_others_their_turn() {
    let fixture = plane(Config {
        workers: 1,
        ..Config::default()
    });
    let addr = fixture.addr();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let greedy: Vec<_> = (0..4)
        .map(|_| {
            let (stop, mut client) = (stop.clone(), Client::connect(addr));
            // Under way before anybody else asks.
            client.send("GET /big HTTP/1.1\r\nHost: t\r\n\r\n");
            assert_eq!(client.head_only().0, 200);
            std::thread::spawn(move || {
                client.0.read_exact(&mut vec![0; 48 << 20]).unwrap();
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    assert_eq!(client.ask("GET", "/big", "").body.len(), 48 << 20);
                }
            })
        })
        .collect();
    let mut quick = Client::connect(addr);
    for _ in 0..200 {
        assert_eq!(quick.ask("GET", "/small", "").status, 200);
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for thread in greedy {
        thread.join().unwrap();
    }
}

#[test]
fn too_many_connections_are_told_so() {
    let fixture = plane(Config {
        max_connections: 2,
        ..Config::default()
    });
    let mut held: Vec<Client> = (0..2).map(|_| Client::connect(fixture.addr())).collect();
    for client in &mut held {
        assert_eq!(client.ask("GET", "/small", "").status, 200);
    }
    let mut third = Client::connect(fixture.addr());
    let answer = third.ask("GET", "/small", "");
    assert_eq!((answer.status, answer.headers["retry-after"].as_str()), (503, "5"));
    assert!(third.closed());
    drop(held);
    until("there is room", || fixture.plane.connections() == 0);
    assert_eq!(Client::connect(fixture.addr()).ask("GET", "/small", "").status, 200);
}

#[test]
fn shutting_down_cuts_connections_and_frees_the_port() {
    let fixture = plane(Config::default());
    let addr = fixture.addr();
    let mut client = Client::connect(addr);
    client.send("GET /big HTTP/1.1\r\n\r\n");
    client.head_only();
    fixture.plane.shutdown();
    let mut rest = Vec::new();
    let _ = client.0.read_to_end(&mut rest);
    assert!(rest.len() < 48 << 20);
    std::net::TcpListener::bind(addr).unwrap();
}

#[test]
fn arbitrary_bytes_leave_the_plane_alive() {
    let fixture = plane(Config {
        head_timeout: Duration::from_millis(200),
        ..Config::default()
    });
    for seed in 0..100 {
        let mut socket = TcpStream::connect(fixture.addr()).unwrap();
        let mut bytes = noise(seed, 10 + (seed as usize * 37) % 3000);
        if seed % 2 == 0 {
            bytes.splice(0..0, b"GET /small HTTP/1.1\r\n".iter().copied());
            bytes.extend_from_slice(b"\r\n\r\n");
        }
        let _ = socket.write_all(&bytes);
    }
    drop(in_time(&fixture));
    until("all are forgotten", || fixture.plane.connections() == 0);
}
