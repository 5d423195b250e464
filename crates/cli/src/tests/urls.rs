//! Arguments that are URLs.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use serde_json::json;

use super::run;
use super::support::{Answer, Server};

/// A plain HTTP server; answers by path.
fn files() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = serve(stream);
        }
    });
    base
}

fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        request.push(byte[0]);
    }
    let text = String::from_utf8_lossy(&request).to_lowercase();
    assert!(!text.contains("authorization"), "{text}");
    let answer = match text.split(' ').nth(1).unwrap() {
        "/profile.yaml" => "200 OK\r\nContent-Length: 25\r\n\r\nName: fred\nParams: {a: 1}",
        "/moved" => "302 Found\r\nLocation: profile.yaml\r\nContent-Length: 0\r\n\r\n",
        "/away" => "302 Found\r\nLocation: http://192.0.2.1/x\r\nContent-Length: 0\r\n\r\n",
        "/short" => "200 OK\r\nContent-Length: 99\r\n\r\nName: fred",
        "/large" => "200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        "/iso" => "200 OK\r\nContent-Length: 3\r\n\r\nabc",
        _ => "404 Not Found\r\nContent-Length: 0\r\n\r\n",
    };
    stream.write_all(
        format!("HTTP/1.1 {answer}")
            .replacen("\r\n", "\r\nConnection: close\r\n", 1)
            .as_bytes(),
    )
}

fn api() -> Server {
    Server::start(|seen| match seen.line().trim_start_matches("/api/v3") {
        "GET /api/v3/isos" => Answer::ok(json!([])),
        "GET /api/v3/bootenvs/good" => bootenv(
            "good",
            "BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD",
        ),
        "GET /api/v3/bootenvs/bad" => bootenv("bad", "00"),
        _ if seen.method == "POST" => Answer::json(201, seen.json()),
        _ => Answer::ok(json!({})),
    })
}

fn bootenv(name: &str, sum: &str) -> Answer {
    let base = BASE.get().unwrap();
    let os = json!({"IsoFile": "x.iso", "IsoUrl": format!("{base}/iso"), "IsoSha256": sum});
    Answer::ok(json!({"Name": name, "OS": os}))
}

static BASE: std::sync::OnceLock<String> = std::sync::OnceLock::new();

#[test]
fn json_comes_from_a_url_and_from_that_server_alone() {
    let (base, server) = (BASE.get_or_init(files), api());
    let create = |path: &str| run(&server, &["isobar", "profiles", "create", &format!("{base}{path}")]);
    for path in ["/profile.yaml", "/moved"] {
        let ran = create(path);
        assert_eq!(ran.status, 0, "{path}: {}", ran.err);
        assert_eq!(ran.seen[1].json(), json!({"Name": "fred", "Params": {"a": 1}}));
    }
    for (path, why) in [
        ("/away", "it leads to another server: http://192.0.2.1/x"),
        ("/nothing", "the server answered 404"),
        ("/short", "/short: "),
        ("/large", "it is longer than 67108864 bytes"),
    ] {
        let ran = create(path);
        assert!(ran.status == 1 && ran.err.contains(why), "{path}: {}", ran.err);
        assert!(!ran.lines.iter().any(|line| line.starts_with("POST")), "{path}");
    }
}

#[test]
fn an_iso_comes_from_a_url_and_goes_again_when_it_is_another() {
    let (base, server) = (BASE.get_or_init(files), api());
    let ran = run(
        &server,
        &["isobar", "isos", "upload", &format!("{base}/iso"), "as", "y.iso"],
    );
    assert_eq!(
        (ran.status, ran.lines.last().unwrap().as_str()),
        (0, "POST /isos/y.iso"),
        "{}",
        ran.err
    );
    assert_eq!(ran.seen.last().unwrap().body, b"abc");
    let ran = run(&server, &["isobar", "bootenvs", "uploadiso", "good"]);
    assert_eq!(
        (ran.status, ran.lines.last().unwrap().as_str()),
        (0, "POST /isos/x.iso"),
        "{}",
        ran.err
    );
    let ran = run(&server, &["isobar", "bootenvs", "uploadiso", "bad"]);
    assert_eq!(
        (ran.status, ran.lines.last().unwrap().as_str()),
        (1, "DELETE /isos/x.iso")
    );
    assert!(ran.err.contains("not what the bootenv expects"), "{}", ran.err);
}
