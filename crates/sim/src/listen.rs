//! The listener: TLS or plain, requests recorded, faults met, Redfish or the control API behind.

use std::convert::Infallible;
use std::future::pending;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::bmc::Bmc;
use crate::control;
use crate::error::SimError;
use crate::fault::{FaultKind, Malformed};
use crate::log::{Log, redact};
use crate::redfish::{self, Answer, Body, Refused};

const BODY_MAX: usize = 1 << 20;
const CONNECTIONS_MAX: usize = 256;
const HANDSHAKE: Duration = Duration::from_secs(10);

/// The certificate and key of a file, or one made for one run; and its SHA-256 fingerprint (lower-case hex of the DER).
pub(crate) fn certificate(address: SocketAddr, file: Option<&Path>) -> Result<(TlsAcceptor, String), SimError> {
    let failed = |error: &dyn std::fmt::Display| SimError::Certificate(error.to_string());
    let (shown, key) = match file {
        Some(file) => {
            let certificate = CertificateDer::from_pem_file(file).map_err(|e| failed(&e))?;
            (certificate, PrivateKeyDer::from_pem_file(file).map_err(|e| failed(&e))?)
        }
        None => made(address)?,
    };
    let fingerprint = hex::encode(Sha256::digest(&shown));
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| failed(&e))?
        .with_no_client_auth()
        .with_single_cert(vec![shown], key)
        .map_err(|e| failed(&e))?;
    Ok((TlsAcceptor::from(Arc::new(config)), fingerprint))
}

fn made(address: SocketAddr) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), SimError> {
    let failed = |error: &dyn std::fmt::Display| SimError::Certificate(error.to_string());
    let names = vec!["localhost".to_owned(), address.ip().to_string()];
    let made = rcgen::generate_simple_self_signed(names).map_err(|e| failed(&e))?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    Ok((made.cert.der().clone(), key))
}

/// One TCP connection, for the faults that cut it.
struct Connection {
    /// Number, from 1.
    number: u64,
    /// A second handle on the socket: the first is inside TLS.
    socket: Mutex<Option<OwnedFd>>,
    cut: Notify,
}

impl Connection {
    /// Ends the connection with a TCP reset, and never returns.
    async fn reset(&self) -> Infallible {
        if let Some(socket) = self.socket.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // Linger 0: closing sends RST. Should it fail, the client sees a plain close.
            let _ = rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::ZERO));
        }
        self.cut.notify_one();
        pending().await
    }
}

/// Serves until dropped.
pub(crate) async fn serve(bmc: Arc<Bmc>, listener: TcpListener, tls: Option<TlsAcceptor>) {
    let mut connections = JoinSet::new();
    let numbers = AtomicU64::new(1);
    loop {
        while connections.len() >= CONNECTIONS_MAX {
            connections.join_next().await;
        }
        while connections.try_join_next().is_some() {}
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, or the client is gone: either passes.
                tracing::warn!(%error, "accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let number = numbers.fetch_add(1, Ordering::Relaxed);
        connections.spawn(connection(Arc::clone(&bmc), stream, tls.clone(), number));
    }
}

async fn connection(bmc: Arc<Bmc>, stream: TcpStream, tls: Option<TlsAcceptor>, number: u64) {
    // Small answers, many of them: not worth a wait. Without it they are only slower.
    let _ = stream.set_nodelay(true);
    let socket = stream.as_fd().try_clone_to_owned().ok();
    let connection = Arc::new(Connection {
        number,
        socket: Mutex::new(socket),
        cut: Notify::new(),
    });
    match tls {
        None => exchange(bmc, stream, connection).await,
        Some(tls) => match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
            Ok(Ok(stream)) => exchange(bmc, stream, connection).await,
            Ok(Err(error)) => tracing::debug!(%error, "TLS handshake"),
            Err(_) => tracing::debug!("TLS handshake took too long"),
        },
    }
}

async fn exchange(bmc: Arc<Bmc>, stream: impl AsyncRead + AsyncWrite + Unpin, connection: Arc<Connection>) {
    let cut = Arc::clone(&connection);
    let service = service_fn(move |request| {
        let (bmc, connection) = (Arc::clone(&bmc), Arc::clone(&connection));
        async move { Ok::<_, Infallible>(respond(bmc, request, &connection).await) }
    });
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(60))
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        done = serving => if let Err(error) = done {
            tracing::debug!(%error, "connection");
        },
        () = cut.cut.notified() => {}
    }
}

/// A request that is not answered has ended when this goes.
struct Hung<'a>(&'a Log, u64);

impl Drop for Hung<'_> {
    fn drop(&mut self) {
        self.0.ended(self.1, None);
    }
}

async fn respond(bmc: Arc<Bmc>, request: Request<Incoming>, connection: &Connection) -> Response<Content> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let Ok(body) = Limited::new(body, BODY_MAX).collect().await else {
        return response(Refused::general(413, "the request body is too long or was cut").into());
    };
    let body = body.to_bytes();
    if let Some(rest) = path.strip_prefix("/sim/v1") {
        return response(control::answer(&bmc, &parts.method, rest, parts.uri.query(), &body));
    }

    let shown = parts.uri.path_and_query().map_or(path.as_str(), |p| p.as_str());
    let seq = bmc.log.request(
        connection.number,
        parts.method.as_str(),
        shown,
        serde_json::from_slice(&body).ok().map(redact),
    );
    // A BMC that restarts does not even close the connection in order.
    if bmc.is_deaf() {
        bmc.log.ended(seq, None);
        match connection.reset().await {}
    }
    let mut met = bmc.faults.meet_request(parts.method.as_str(), &path);
    if let Some(met) = &mut met {
        bmc.log.amend(seq, |r| r.fault = Some(met.kind.name().into()));
        match &met.kind {
            FaultKind::Hang => {
                // Until the caller hangs up, at the latest.
                let hung = Hung(&bmc.log, seq);
                met.released().await;
                drop(hung);
                match connection.reset().await {}
            }
            FaultKind::Reset => {
                bmc.log.ended(seq, None);
                match connection.reset().await {}
            }
            FaultKind::Slow { ms } => tokio::time::sleep(crate::config::ms(*ms)).await,
            kind @ (FaultKind::Status { code, .. } | FaultKind::LockUp { code, .. }) => {
                bmc.log.ended(seq, Some(*code));
                return response(redfish::planted(kind));
            }
            FaultKind::Malformed { form } => {
                bmc.log.ended(seq, Some(200));
                return malformed(*form);
            }
            FaultKind::LoseSessions => bmc.close_all_sessions(),
            FaultKind::MediaLost => bmc.lose_medium(),
            _ => {}
        }
    }
    let loses_reply = met.as_ref().is_some_and(|met| met.kind == FaultKind::LoseReply);
    // On its own task: a client that hangs up does not undo what it asked for.
    let deed = {
        let (bmc, path, parts) = (Arc::clone(&bmc), path, parts.clone());
        tokio::spawn(async move {
            if let Some(met) = met.as_mut().filter(|met| met.kind == FaultKind::Hold { done: false }) {
                met.released().await;
            }
            let proof = redfish::prove(&bmc, &parts.headers);
            bmc.log.amend(seq, |r| r.auth = proof.name().into());
            let answer = redfish::answer(&bmc, &parts.method, &path, &parts.headers, &body).await;
            if let Some(met) = met.as_mut().filter(|met| met.kind == FaultKind::Hold { done: true }) {
                met.released().await;
            }
            bmc.log.ended(seq, (!loses_reply).then_some(answer.status));
            answer
        })
    };
    let answer = match deed.await {
        Ok(answer) => answer,
        Err(error) => Refused::general(500, format!("the simulator failed: {error}")).into(),
    };
    if loses_reply {
        match connection.reset().await {}
    }
    let mut response = response(answer);
    if parts.method == http::Method::HEAD {
        *response.body_mut() = Full::default().boxed_unsync();
    }
    response
}

type Content = UnsyncBoxBody<Bytes, Infallible>;

/// What no Redfish service answers.
fn malformed(form: Malformed) -> Response<Content> {
    let stream = |piece: &'static [u8], pause: Duration| {
        let pieces = futures_util::stream::unfold((), move |()| async move {
            tokio::time::sleep(pause).await;
            Some((Ok(Frame::data(Bytes::from_static(piece))), ()))
        });
        StreamBody::new(pieces).boxed_unsync()
    };
    let (status, kind, body) = match form {
        Malformed::Truncated => (
            200,
            "application/json",
            Full::from("{\"@odata.id\": \"/redf").boxed_unsync(),
        ),
        Malformed::Html => (
            200,
            "text/html",
            Full::from("<html><title>Log in</title></html>").boxed_unsync(),
        ),
        Malformed::Endless => (200, "application/json", stream(&[b' '; 65536], Duration::ZERO)),
        Malformed::Drip => (200, "application/json", stream(b" ", Duration::from_secs(1))),
        Malformed::Redirect => (307, "text/plain", Full::default().boxed_unsync()),
    };
    let mut response = Response::new(body);
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    if form == Malformed::Redirect {
        // TEST-NET-1 (RFC 5737): nobody is there.
        headers.insert(
            header::LOCATION,
            HeaderValue::from_static("http://192.0.2.1/redfish/v1/"),
        );
    }
    response
}

fn response(answer: Answer) -> Response<Content> {
    let (kind, body) = match answer.body {
        Body::Empty => (None, Bytes::new()),
        Body::Json(value) => (Some("application/json;charset=utf-8"), Bytes::from(value.to_string())),
        Body::Xml(text) => (Some("application/xml;charset=utf-8"), Bytes::from(text)),
    };
    let mut response = Response::new(Full::new(body).boxed_unsync());
    *response.status_mut() =
        http::StatusCode::from_u16(answer.status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert("OData-Version", HeaderValue::from_static("4.0"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if let Some(kind) = kind {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    }
    for (name, value) in answer.headers {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    }
    response
}
