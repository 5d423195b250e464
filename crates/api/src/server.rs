//! The accept loop: TLS, HTTP/1.1 and HTTP/2 by ALPN, bounded in connections and in patience.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use isobar_model::ApiError;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use crate::lanes::Lanes;
use crate::reply;
use crate::stall::Patient;
use crate::state::AppState;
use crate::tls::TlsIdentity;

/// What one client may take of the server.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once. Further clients are answered 503.
    pub connections: usize,
    /// For the TLS handshake.
    pub handshake: Duration,
    /// For the head of a request; also how long an HTTP/1.1 connection may be idle between two.
    pub head: Duration,
    /// For a JSON body.
    pub body: Duration,
    /// For a client to take something of what is sent to it.
    pub stall: Duration,
    /// How often the rights of who reads a serial console are looked at again.
    pub rights: Duration,
    /// Requests at once on one HTTP/2 connection.
    pub streams: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(60),
            body: Duration::from_secs(60),
            stall: Duration::from_secs(30),
            rights: Duration::from_secs(30),
            streams: 128,
        }
    }
}

/// Connections over the limit that are told so at once; those beyond wait in the kernel's queue.
const TOLD: usize = 64;
/// For telling one of them, its TLS handshake included.
const TELLING: Duration = Duration::from_secs(5);

/// Address of the client; an extension of every request.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// How long a JSON body may take. An extension of every request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BodyTime(pub(crate) Duration);

/// How often rights are looked at again in an answer that has no end. An extension of every request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RightsTime(pub(crate) Duration);

/// Turns true when the server stops: requests that only wait for news end then. An extension of every request.
#[derive(Clone, Debug)]
pub(crate) struct Stopping(pub(crate) watch::Receiver<bool>);

/// The REST server.
#[derive(Debug)]
pub struct Server;

/// A running server.
#[derive(Debug)]
pub struct Handle {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    /// Serves on `listener` with [`Limits::default`]. Needs a tokio runtime.
    ///
    /// # Errors
    /// When the listener cannot be used by tokio.
    pub fn start(listener: std::net::TcpListener, tls: &TlsIdentity, state: AppState) -> std::io::Result<Handle> {
        Self::start_limited(listener, tls, state, Limits::default())
    }

    /// Serves on `listener` with limits of one's own.
    ///
    /// # Errors
    /// When the listener cannot be used by tokio.
    pub fn start_limited(
        listener: std::net::TcpListener,
        tls: &TlsIdentity,
        state: AppState,
        limits: Limits,
    ) -> std::io::Result<Handle> {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let address = listener.local_addr()?;
        let router = crate::routes::router(state);
        let acceptor = TlsAcceptor::from(tls.config());
        let (stop, stopped) = watch::channel(false);
        let lanes = Lanes::start()?;
        let task = tokio::spawn(accept(listener, lanes, acceptor, router, limits, stopped));
        Ok(Handle { address, stop, task })
    }
}

impl Handle {
    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Takes no further requests, waits up to `grace` for those under way, then drops the rest.
    pub async fn shutdown(self, grace: Duration) {
        let Self { stop, mut task, .. } = self;
        let _ = stop.send(true);
        if tokio::time::timeout(grace, &mut task).await.is_err() {
            // Aborting the loop drops its set of connections, and with it each of them.
            task.abort();
            tracing::warn!("dropped API requests that were still running at shutdown");
        }
    }
}

async fn accept(
    listener: TcpListener,
    lanes: Lanes,
    acceptor: TlsAcceptor,
    router: Router,
    limits: Limits,
    mut stopped: watch::Receiver<bool>,
) {
    let slots = Arc::new(Semaphore::new(limits.connections));
    let told = Arc::new(Semaphore::new(TOLD));
    let mut connections = JoinSet::new();
    loop {
        // For the case that it has to be told. The semaphore is never closed.
        let telling = tokio::select! {
            _ = stopped.wait_for(|stop| *stop) => break,
            telling = Arc::clone(&told).acquire_owned() => telling,
        };
        let Ok(telling) = telling else { break };
        let accepted = tokio::select! {
            _ = stopped.wait_for(|stop| *stop) => break,
            accepted = listener.accept() => accepted,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, peer)) => {
                let connection = Connection {
                    acceptor: acceptor.clone(),
                    router: router.clone(),
                    limits,
                    stopped: stopped.clone(),
                };
                match Arc::clone(&slots).try_acquire_owned() {
                    Ok(slot) => {
                        // It belongs to the runtime of its thread from here on.
                        let stream = stream.into_std();
                        lanes.serve(&mut connections, async move {
                            match stream.and_then(TcpStream::from_std) {
                                Ok(stream) => connection.serve(stream, peer).await,
                                Err(error) => tracing::warn!(%peer, %error, "an API connection could not be served"),
                            }
                            drop(slot);
                        });
                    }
                    Err(_) => {
                        connections.spawn(async move {
                            let refused = connection.refuse(stream);
                            if tokio::time::timeout(TELLING, refused).await.is_err() {
                                tracing::debug!(%peer, "a client over the limit did not wait to be told");
                            }
                            drop(telling);
                        });
                    }
                }
            }
            Err(error) => {
                // Out of file descriptors, or the client was gone again: neither ends the server.
                tracing::warn!(%error, "accepting an API connection failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

struct Connection {
    acceptor: TlsAcceptor,
    router: Router,
    limits: Limits,
    stopped: watch::Receiver<bool>,
}

impl Connection {
    /// Tells a client that there are too many, in the shape of any other error.
    async fn refuse(self, stream: TcpStream) {
        let Ok(tls) = self.acceptor.accept(stream).await else {
            return;
        };
        let most = self.limits.connections;
        let service = hyper::service::service_fn(move |_: Request<Incoming>| async move {
            let text = format!("{most} connections are open, as many as max-connections allows: try again in a moment");
            let error = ApiError::new(503, "CONNECT", "", "", text).with_retry_after(5);
            Ok::<_, std::convert::Infallible>(reply::error(&error))
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().keep_alive(false);
        builder.http2().max_concurrent_streams(1);
        let _ = builder.serve_connection(TokioIo::new(tls), service).await;
    }

    async fn serve(mut self, stream: TcpStream, peer: SocketAddr) {
        // Small JSON answers: waiting for more bytes only costs the client time.
        let _ = stream.set_nodelay(true);
        let stream = Patient::new(stream, self.limits.stall);
        let tls = match tokio::time::timeout(self.limits.handshake, self.acceptor.accept(stream)).await {
            Ok(Ok(tls)) => tls,
            Ok(Err(error)) => return tracing::debug!(%peer, %error, "TLS handshake failed"),
            Err(_) => return tracing::debug!(%peer, "TLS handshake took too long"),
        };
        let peer = Peer(SocketAddr::new(peer.ip().to_canonical(), peer.port()));
        let stopping = Stopping(self.stopped.clone());
        let (body_time, rights_time) = (BodyTime(self.limits.body), RightsTime(self.limits.rights));
        let service = TowerToHyperService::new(self.router.map_request(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer);
            request.extensions_mut().insert(body_time);
            request.extensions_mut().insert(rights_time);
            request.extensions_mut().insert(stopping.clone());
            request
        }));
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.head)
            .max_buf_size(64 * 1024);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(self.limits.streams)
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(30));
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(tls), service);
        let mut connection = std::pin::pin!(connection);
        let stop = async {
            let _ = self.stopped.wait_for(|stop| *stop).await;
        };
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = stop => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = result {
            tracing::debug!(peer = %peer.0, %error, "API connection ended early");
        }
    }
}
