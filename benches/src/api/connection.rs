//! One kept-open TLS connection to the API that costs as little as can be: what is measured is the server.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// A list of 100,000 machines takes a while on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// Where the API is, and who we are there.
#[derive(Clone)]
pub(super) struct Api {
    port: u16,
    tls: Arc<ClientConfig>,
    /// Header lines of every request.
    head: Arc<str>,
}

impl Api {
    pub(super) fn new(port: u16, certificate: &Path, token: &str) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(certificate)?)?;
        // Without a provider of the process: the one that is linked.
        let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            port,
            tls: Arc::new(tls),
            head: format!("Host: 127.0.0.1\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n")
                .into(),
        })
    }

    pub(super) fn connect(&self) -> Result<Connection> {
        let socket = TcpStream::connect(("127.0.0.1", self.port))?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let name = ServerName::try_from("127.0.0.1")?;
        let tls = StreamOwned::new(ClientConnection::new(Arc::clone(&self.tls), name)?, socket);
        Ok(Connection {
            stream: BufReader::with_capacity(64 << 10, tls),
            head: Arc::clone(&self.head),
            request: Vec::new(),
            body: Vec::new(),
        })
    }
}

pub(super) struct Connection {
    stream: BufReader<StreamOwned<ClientConnection, TcpStream>>,
    head: Arc<str>,
    request: Vec<u8>,
    body: Vec<u8>,
}

/// How an answer came.
#[derive(Clone, Copy)]
pub(super) struct Came {
    /// Until its head was there.
    pub(super) first: Duration,
    pub(super) whole: Duration,
    pub(super) bytes: u64,
}

impl Connection {
    /// Sends a request and gives the answer's body.
    ///
    /// # Errors
    /// An answer that is no success, with its body.
    pub(super) fn ask(&mut self, method: &str, path: &str, body: &[u8]) -> Result<&[u8]> {
        self.send(method, path, body)?;
        let mut taken = std::mem::take(&mut self.body);
        taken.clear();
        let (status, _) = self.answer(|part| taken.extend_from_slice(part))?;
        self.body = taken;
        ensure!(
            (200..300).contains(&status),
            "{method} {path}: {status}: {}",
            String::from_utf8_lossy(&self.body)
        );
        Ok(&self.body)
    }

    /// Takes an answer of any length and forgets it.
    pub(super) fn drain(&mut self, path: &str) -> Result<Came> {
        let began = Instant::now();
        self.send("GET", path, b"")?;
        let mut bytes = 0;
        let (status, first) = self.answer(|part| bytes += part.len() as u64)?;
        ensure!(status == 200, "GET {path}: {status}");
        Ok(Came {
            first: first - began,
            whole: began.elapsed(),
            bytes,
        })
    }

    fn send(&mut self, method: &str, path: &str, body: &[u8]) -> Result<()> {
        self.request.clear();
        write!(self.request, "{method} {path} HTTP/1.1\r\n{}", self.head)?;
        write!(self.request, "Content-Length: {}\r\n\r\n", body.len())?;
        self.request.extend_from_slice(body);
        let stream = self.stream.get_mut();
        stream.write_all(&self.request)?;
        Ok(stream.flush()?)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(self.stream.read_line(&mut line)? > 0, "the server hung up");
        Ok(line.trim_end().to_owned())
    }

    /// Status, and when the head had come.
    fn answer(&mut self, mut take: impl FnMut(&[u8])) -> Result<(u16, Instant)> {
        let status = self.line()?;
        let status = status
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .context("no HTTP")?;
        let (mut length, mut chunked) = (0, false);
        loop {
            let line = self.line()?.to_ascii_lowercase();
            match line.split_once(':') {
                Some(("content-length", value)) => length = value.trim().parse()?,
                Some(("transfer-encoding", value)) => chunked = value.trim() == "chunked",
                Some(_) => {}
                None if line.is_empty() => break,
                None => bail!("no header: {line}"),
            }
        }
        let first = Instant::now();
        while chunked || length > 0 {
            if chunked {
                length = usize::from_str_radix(&self.line()?, 16)?;
            }
            let last = length == 0;
            while length > 0 {
                let part = self.stream.fill_buf()?;
                let part = &part[..part.len().min(length)];
                ensure!(!part.is_empty(), "the server hung up in the middle");
                take(part);
                let taken = part.len();
                self.stream.consume(taken);
                length -= taken;
            }
            if chunked {
                self.stream.read_exact(&mut [0; 2])?;
                chunked = !last;
            }
        }
        Ok((status, first))
    }
}
