//! HTTP/1.1 by hand over TLS: what is sent and what comes back, byte by byte.

#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;

/// Longer than any answer takes.
const PATIENCE: Duration = Duration::from_secs(120);

pub type Stream = StreamOwned<ClientConnection, TcpStream>;

/// A client that trusts the server's own certificate.
pub struct Plain {
    address: String,
    config: Arc<ClientConfig>,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.headers.lines().filter_map(|line| line.split_once(": "));
        let mut found = lines.filter(|(is, _)| is.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value)
    }
}

impl Plain {
    pub fn new(address: &str, data: &Path) -> Self {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(data.join("tls.crt")).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self {
            address: address.to_owned(),
            config: Arc::new(config),
        }
    }

    pub fn connect(&self) -> Stream {
        let tcp = TcpStream::connect(&self.address).unwrap();
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        tcp.set_write_timeout(Some(PATIENCE)).unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        StreamOwned::new(ClientConnection::new(Arc::clone(&self.config), name).unwrap(), tcp)
    }

    /// One request on a connection of its own. A server that answers early need not have taken the whole body.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut stream = self.connect();
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
        stream.write_all(head.as_bytes()).unwrap();
        let _ = stream.write_all(body).and_then(|()| stream.flush());
        let mut answer = head_of(&mut stream);
        match answer
            .header("content-length")
            .map(|length| length.parse::<usize>().unwrap())
        {
            _ if method == "HEAD" || matches!(answer.status, 204 | 304) => {}
            Some(length) => {
                answer.body = vec![0; length];
                stream.read_exact(&mut answer.body).unwrap();
            }
            None => drop(stream.read_to_end(&mut answer.body)),
        }
        answer
    }
}

/// Reads the head of an answer.
pub fn head_of(stream: &mut Stream) -> Answer {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream
            .read_exact(&mut byte)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&head)));
        head.push(byte[0]);
    }
    let headers = String::from_utf8(head).unwrap();
    Answer {
        status: headers.split(' ').nth(1).unwrap().parse().unwrap(),
        headers,
        body: Vec::new(),
    }
}
