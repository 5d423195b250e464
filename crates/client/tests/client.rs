//! The client against a real TLS socket.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use isobar_client::{Auth, Client, ClientError, Login, Method, Secret, TlsTrust, TokenCache, path};
use serde_json::{Value, json};
use support::{Answer, Server};

fn client(server: &Server) -> Client {
    Client::new(&server.endpoint, Auth::None, TlsTrust::Insecure).unwrap()
}

#[test]
fn sends_json_and_identity_and_reads_the_answer() {
    let server = Server::start(|seen| match seen.line().as_str() {
        "POST /api/v3/machines" => Answer::json(201, json!({"Name": seen.json()["Name"]})),
        "DELETE /api/v3/isos/x" => Answer::bytes(204, b""),
        _ => Answer::bytes(500, b""),
    });
    let client = client(&server).with_auth(Auth::token("abc"));
    let made: Value = client.post("/api/v3/machines", &json!({"Name": "mach-01"})).unwrap();
    assert_eq!(made, json!({"Name": "mach-01"}));
    assert_eq!(client.delete::<Value>("/api/v3/isos/x").unwrap(), Value::Null);
    let seen = server.seen();
    assert_eq!(seen[0].header("authorization"), "Bearer abc");
    assert_eq!(seen[0].header("content-type"), "application/json");
    assert_eq!(seen[0].header("accept-encoding"), "gzip");
    assert_eq!(seen[0].header("content-length"), "18");
    assert_eq!(seen[1].header("content-type"), "");
}

#[test]
fn errors_of_drps_kind_keep_their_text_and_others_their_status() {
    let server = Server::start(|seen| match seen.target.as_str() {
        "/api/v3/machines/john" => Answer::error(404, "GET", "machines", "john", &["Not Found"]),
        "/api/v3/moved" => Answer::bytes(302, b"").with_header("Location", "https://127.0.0.1:1/"),
        _ => Answer::bytes(403, b""),
    });
    let client = client(&server);
    let error = client
        .get::<Value>(&path!("api", "v3", "machines", "john"))
        .unwrap_err();
    assert_eq!(error.to_string(), "GET: machines/john: Not Found");
    assert!(error.is_not_found());
    let error = client.head("/api/v3/info").unwrap_err();
    assert_eq!(
        error.to_string(),
        "HEAD /api/v3/info: the server answered 403 Forbidden"
    );
    let error = client.get::<Value>("/api/v3/moved").unwrap_err();
    assert_eq!(error.status(), Some(302), "redirects are not followed");
}

#[test]
fn gzip_is_unpacked() {
    let server = Server::start(|_| {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        packed.write_all(br#"{"Name":"mach-01"}"#).unwrap();
        Answer::bytes(200, &packed.finish().unwrap()).with_header("Content-Encoding", "gzip")
    });
    assert_eq!(client(&server).get::<Value>("/x").unwrap(), json!({"Name": "mach-01"}));
}

#[test]
fn pins_exactly_one_certificate() {
    let server = Server::start(|_| Answer::ok(json!({})));
    let pinned = |pin: &str| Client::new(&server.endpoint, Auth::None, TlsTrust::Pinned(pin.to_owned()));
    pinned(&server.fingerprint.to_uppercase())
        .unwrap()
        .get::<Value>("/")
        .unwrap();
    let error = pinned(&"ab".repeat(32)).unwrap().get::<Value>("/").unwrap_err();
    assert!(matches!(error, ClientError::Tls { .. }), "{error:?}");
    assert!(error.to_string().contains("another certificate"), "{error}");
    assert!(matches!(pinned("abc"), Err(ClientError::Fingerprint(_))));
}

#[test]
fn says_what_to_do_when_nobody_listens() {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let client = Client::new(&format!("https://127.0.0.1:{port}"), Auth::None, TlsTrust::Insecure).unwrap();
    let error = client.get::<Value>("/api/v3/info").unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "cannot reach https://127.0.0.1:{port}: connection refused; is `isobar serve` running? Set RS_ENDPOINT if \
             it listens elsewhere"
        )
    );
}

#[test]
fn a_plain_http_port_is_named_as_such() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("https://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut tcp in listener.incoming().flatten() {
            let mut hello = [0; 64];
            let _ = tcp.read(&mut hello);
            let _ = tcp.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let client = Client::new(&endpoint, Auth::None, TlsTrust::Insecure).unwrap();
    let error = client.get::<Value>("/").unwrap_err();
    assert!(error.to_string().contains("does not speak TLS"), "{error}");
}

#[test]
fn silence_ends() {
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let server = Server::start(move |_| {
        let _ = held.lock().unwrap().recv();
        Answer::ok(Value::Null)
    });
    let error = client(&server)
        .request(Method::GET, "/slow")
        .patience(Duration::from_millis(200))
        .send()
        .unwrap_err();
    assert!(matches!(error, ClientError::Timeout { .. }), "{error:?}");
    drop(release);
}

#[test]
fn streams_both_ways() {
    let disc: Arc<Vec<u8>> = Arc::new((0..1_000_000u32).map(|n| (n % 251) as u8).collect());
    let bytes = Arc::clone(&disc);
    let server = Server::start(move |seen| match seen.header("range") {
        _ if seen.method == "POST" => Answer::json(201, json!({"size": seen.body.len()})),
        "" => Answer::bytes(200, &bytes),
        range => {
            let from: usize = range
                .trim_start_matches("bytes=")
                .trim_end_matches('-')
                .parse()
                .unwrap();
            Answer::bytes(206, &bytes[from..])
        }
    });
    let client = client(&server);
    let mut got = Vec::new();
    client
        .download("/boot.iso", 0)
        .unwrap()
        .reader()
        .read_to_end(&mut got)
        .unwrap();
    assert_eq!(got, *disc);
    let rest = client.download("/boot.iso", 999_000).unwrap();
    assert_eq!((rest.status(), rest.content_length()), (206, Some(1000)));
    assert_eq!(server.seen()[0].header("accept-encoding"), "identity");
    for len in [Some(1_000_000), None] {
        let answer: Value = client
            .upload("/isobar/v1/bases/b", "application/x-tar", len, &mut disc.as_slice())
            .unwrap();
        assert_eq!(answer, json!({"size": 1_000_000}));
    }
}

#[test]
fn login_is_drpclis_and_the_cache_is_private() {
    let revoked = Arc::new(AtomicBool::new(false));
    let stale = Arc::clone(&revoked);
    let server = Server::start(move |seen| {
        let bearer = seen.header("authorization").starts_with("Bearer ");
        match seen.line().as_str() {
            "GET /api/v3/users/op/token" if seen.header("authorization") == "Basic b3A6cHc=" => {
                Answer::ok(json!({"Token": "first", "Info": {}}))
            }
            "GET /api/v3/users/op/token" => Answer::bytes(403, b""),
            "GET /api/v3/users/op/token?ttl=7200" if bearer => {
                stale.store(false, Ordering::SeqCst);
                Answer::ok(json!({"Token": "second", "Info": {"id": "Fred"}}))
            }
            "GET /api/v3/info" if bearer && !stale.load(Ordering::SeqCst) => Answer::ok(json!({"id": "Fred"})),
            "GET /api/v3/info" => Answer::error(403, "AUTH", "", "", &["Validation failed"]),
            _ => Answer::bytes(500, b""),
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let cache = TokenCache::new(folder.path().join("tokens"));
    let password = Secret::new("pw");
    let login = || Login::with_password(&client(&server), "op", &password, Some(&cache)).unwrap();
    let both = ["GET /api/v3/users/op/token", "GET /api/v3/users/op/token?ttl=7200"];

    assert_eq!(login().info["id"], "Fred");
    assert_eq!(server.take_lines(), both);

    let files: Vec<_> = std::fs::read_dir(folder.path().join("tokens"))
        .unwrap()
        .flatten()
        .collect();
    assert_eq!(files.len(), 1);
    let file = files[0].path();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "second");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

    login();
    assert_eq!(server.take_lines(), ["GET /api/v3/info"]);

    revoked.store(true, Ordering::SeqCst);
    login();
    let lines = server.take_lines();
    assert_eq!(lines[0], "GET /api/v3/info");
    assert_eq!(lines[1..], both);

    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    login();
    assert_eq!(server.take_lines(), both, "a token that others can read is not used");

    let wrong = Login::with_password(&client(&server), "op", &Secret::new("x"), None).unwrap_err();
    assert!(wrong.to_string().contains("refuses user op"), "{wrong}");
}

#[test]
fn a_server_that_goes_away_is_said_to() {
    let server = Server::start(|seen| match seen.target.as_str() {
        // The connection's thread ends here, and with it the connection.
        "/gone" => panic!("gone, as the test wants it"),
        _ => Answer::ok(json!(1)),
    });
    let client = client(&server);
    let error = client.get::<Value>("/gone").unwrap_err();
    assert!(matches!(error, ClientError::Broken { .. }), "{error:?}");
    assert!(error.to_string().ends_with("broke: the server closed it"), "{error}");
    assert_eq!(
        client.get::<Value>("/").unwrap(),
        json!(1),
        "the next request connects anew"
    );
}
