//! TLS on the port of the plain file plane.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::{Client, Fixture, noisy, planned, start, until};
use isobar_files::{Config, Opened, ReadKind};
use isobar_image::{AttemptId, FileRole};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

struct Tls {
    fixture: Fixture,
    client: Arc<ClientConfig>,
}

type Stream = BufReader<StreamOwned<ClientConnection, TcpStream>>;

impl Tls {
    fn start(big: usize) -> Self {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let cert: CertificateDer<'static> = made.cert.der().clone();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let provider = || Arc::new(rustls::crypto::ring::default_provider());
        let server = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.clone()], key)
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(cert).unwrap();
        let client = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let config = Config {
            tls: Some(Arc::new(server)),
            ..Config::default()
        };
        let fixture = start(config, |blobs| {
            let kernel = noisy(blobs, "vmlinuz0", (1, big), FileRole::Kernel);
            let image = planned(blobs, vec![kernel], &[]);
            let attempt = Some(AttemptId(7));
            let text = Opened::Bytes {
                body: Bytes::from_static(b"hello, firmware"),
                content_type: "text/plain",
            };
            vec![
                ("/t/boot.iso", Ok(Opened::Image { image, attempt })),
                ("/small", Ok(text)),
            ]
        });
        Self {
            fixture,
            client: Arc::new(client),
        }
    }

    fn addr(&self) -> SocketAddr {
        self.fixture.addr()
    }

    fn connect(&self) -> Stream {
        let socket = TcpStream::connect(self.addr()).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let name = "127.0.0.1".try_into().unwrap();
        let tls = ClientConnection::new(self.client.clone(), name).unwrap();
        BufReader::new(StreamOwned::new(tls, socket))
    }
}

/// Status and body.
fn ask(stream: &mut Stream, method: &str, path: &str, headers: &str) -> (u16, Vec<u8>) {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: t\r\n{headers}\r\n");
    stream.get_mut().write_all(request.as_bytes()).unwrap();
    answer(stream, method == "HEAD")
}

fn answer(stream: &mut Stream, head: bool) -> (u16, Vec<u8>) {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_lowercase()),
        }
    }
    let status = lines[0].split(' ').nth(1).unwrap().parse().unwrap();
    let length = lines.iter().find_map(|l| l.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; if head { 0 } else { length.parse().unwrap() }];
    stream.read_exact(&mut body).unwrap();
    (status, body)
}

#[test]
fn one_port_speaks_both_and_reads_are_seen_alike() {
    let tls = Tls::start(3_000_001);
    let mut plain = Client::connect(tls.addr());
    let whole = plain.ask("GET", "/t/boot.iso", "").body;
    let reported = || {
        tls.fixture
            .seen
            .0
            .lock()
            .unwrap()
            .iter()
            .map(|read| read.len)
            .sum::<u64>()
    };
    until("all of it is reported", || reported() == whole.len() as u64);
    tls.fixture.seen.0.lock().unwrap().clear();

    let mut stream = tls.connect();
    assert_eq!(
        ask(&mut stream, "GET", "/small", ""),
        (200, b"hello, firmware".to_vec())
    );
    assert_eq!(ask(&mut stream, "HEAD", "/t/boot.iso", "").0, 200);
    for (start, end) in [(0, 0), (2047, 70_000), (100_000, 2_999_999), (1, whole.len() - 1)] {
        let (status, body) = ask(
            &mut stream,
            "GET",
            "/t/boot.iso",
            &format!("Range: bytes={start}-{end}\r\n"),
        );
        assert_eq!(status, 206);
        assert!(body == whole[start..=end], "{start}-{end}");
    }
    assert!(ask(&mut stream, "GET", "/t/boot.iso", "").1 == whole);
    assert_eq!(ask(&mut stream, "GET", "/nothing", "").0, 404);
    // Answers to requests that were sent in one go come one after the other.
    let two = "GET /small HTTP/1.1\r\nHost: t\r\n\r\n".repeat(2);
    stream.get_mut().write_all(two.as_bytes()).unwrap();
    for _ in 0..2 {
        assert_eq!(answer(&mut stream, false).1, b"hello, firmware");
    }
    assert_eq!(ask(&mut stream, "GET", "/small", "Connection: close\r\n").0, 200);
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0, "an end that says so");

    let wanted = (1 + 67_954 + 2_900_000 + whole.len() - 1 + whole.len()) as u64;
    until("what was sent is reported, and no more", || reported() == wanted);
    let seen = tls.fixture.seen.0.lock().unwrap();
    assert_eq!(seen[0].kind, ReadKind::Head);
    assert!(
        seen.iter()
            .all(|read| read.peer == tls.addr().ip() && read.attempt == AttemptId(7))
    );
}

#[test]
fn slow_readers_cost_no_thread_and_get_all() {
    let tls = Tls::start(24 << 20);
    let whole = Client::connect(tls.addr()).ask("GET", "/t/boot.iso", "").body;
    let mut slow: Vec<Stream> = (0..16).map(|_| tls.connect()).collect();
    for stream in &mut slow {
        let request = b"GET /t/boot.iso HTTP/1.1\r\nHost: t\r\n\r\n";
        stream.get_mut().write_all(request).unwrap();
    }
    // More of them than threads, and none of them reads: another one is served.
    assert_eq!(ask(&mut tls.connect(), "GET", "/small", "").0, 200);
    for stream in &mut slow {
        assert!(answer(stream, false).1 == whole);
    }
}

#[test]
fn what_is_no_tls_ends_its_own_connection_alone() {
    let tls = Tls::start(4096);
    let mut odd = Client::connect(tls.addr());
    odd.send([22, 3, 1, 0, 5, 9, 9, 9, 9, 9]);
    until("it is closed", || tls.fixture.plane.connections() == 0);
    let mut cut = Client::connect(tls.addr());
    cut.send([22, 3, 1]);
    drop(cut);
    assert_eq!(ask(&mut tls.connect(), "GET", "/small", "").0, 200);

    // A plane without a certificate.
    let plain = start(Config::default(), |_| Vec::new());
    let mut client = Client::connect(plain.addr());
    client.send([22, 3, 1, 0, 5, 9, 9, 9, 9, 9, b'\r', b'\n', b'\r', b'\n']);
    assert_eq!(client.head_only().0, 400);
}
