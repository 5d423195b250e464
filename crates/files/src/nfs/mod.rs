//! Boot images by NFS version 3, read-only, for BMCs that take nothing else.
//!
//! Own, and not a crate's: `nfs3_server` does not tell the file system who asks, so reads could be neither bound to a BMC's
//! address nor told from others', it bounds neither connections nor what waits to be sent, and its handles end with
//! the process. A thread serves a connection here, since a BMC has one or two and few BMCs need this at all.

mod export;
mod rpc;
mod xdr;

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use isobar_image::BlobDir;
use isobar_image::vfs::{ImageResolver, ReadObserver};

use crate::blobs::OpenBlobs;
use crate::plane::StartError;
use export::Export;

/// Longest message that is taken: what is served asks in a few hundred bytes.
const MESSAGE: usize = 4096;
/// Set in the length of a message's last fragment (RFC 5531 §11).
const LAST: u32 = 0x8000_0000;
const STACK: usize = 256 * 1024;

/// Limits of an [`NfsPlane`].
#[derive(Clone, Debug)]
pub struct NfsConfig {
    /// Connections at a time; further ones are closed.
    pub max_connections: usize,
    /// Of them from one address.
    pub max_of_peer: usize,
    /// A connection that asks for nothing so long is closed; clients make a new one.
    pub idle_timeout: Duration,
    /// An answer of which nothing is taken so long ends its connection.
    pub stall_timeout: Duration,
    /// Blob files kept open between reads.
    pub open_blobs: usize,
}

impl Default for NfsConfig {
    fn default() -> Self {
        Self {
            max_connections: 512,
            // All BMCs behind one translator of addresses.
            max_of_peer: 128,
            idle_timeout: Duration::from_secs(600),
            stall_timeout: Duration::from_secs(120),
            open_blobs: 64,
        }
    }
}

/// A running NFS server. Dropping it stops it.
pub struct NfsPlane {
    shared: Arc<Shared>,
    local_addr: SocketAddr,
    threads: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for NfsPlane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NfsPlane")
            .field("local_addr", &self.local_addr)
            .finish_non_exhaustive()
    }
}

struct Shared {
    export: Export,
    config: NfsConfig,
    stopping: AtomicBool,
    next: AtomicU64,
    open: Mutex<HashMap<u64, (TcpStream, IpAddr)>>,
}

impl Shared {
    fn open(&self) -> MutexGuard<'_, HashMap<u64, (TcpStream, IpAddr)>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failed(what: &'static str) -> impl FnOnce(std::io::Error) -> StartError {
    move |source| StartError::new(what, source)
}

impl NfsPlane {
    /// Serves the images of `resolver` on `listener`. `portmap`: also where clients ask for that port, over TCP and UDP.
    ///
    /// # Errors
    /// When the kernel gives no socket or thread.
    pub fn start(
        listener: TcpListener,
        portmap: Option<(TcpListener, UdpSocket)>,
        config: NfsConfig,
        resolver: Arc<dyn ImageResolver>,
        observer: Arc<dyn ReadObserver>,
        blobs: Arc<BlobDir>,
    ) -> Result<Self, StartError> {
        let local_addr = listener
            .local_addr()
            .map_err(failed("the NFS listener has no address"))?;
        let shared = Arc::new(Shared {
            export: Export {
                resolver,
                observer,
                blobs: OpenBlobs::new(blobs, config.open_blobs),
                port: local_addr.port(),
            },
            config,
            stopping: AtomicBool::new(false),
            next: AtomicU64::new(0),
            open: Mutex::default(),
        });
        // MOUNT is asked over UDP by some, on the port that the portmapper named.
        let mut datagrams = vec![UdpSocket::bind(local_addr).map_err(failed("no UDP socket on the NFS port"))?];
        let mut listeners = vec![listener];
        if let Some((tcp, udp)) = portmap {
            listeners.push(tcp);
            datagrams.push(udp);
        }
        let mut plane = Self {
            shared: shared.clone(),
            local_addr,
            threads: Vec::new(),
        };
        for listener in listeners {
            listener
                .set_nonblocking(true)
                .map_err(failed("the NFS listener cannot be polled"))?;
            let shared = shared.clone();
            plane.spawn("nfs", move || shared.accept(&listener))?;
        }
        for socket in datagrams {
            socket
                .set_nonblocking(true)
                .map_err(failed("the NFS socket cannot be polled"))?;
            let shared = shared.clone();
            plane.spawn("nfs-udp", move || shared.answer_datagrams(&socket))?;
        }
        Ok(plane)
    }

    fn spawn(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), StartError> {
        let thread = std::thread::Builder::new().name(name.into()).stack_size(STACK);
        self.threads
            .push(thread.spawn(work).map_err(failed("no thread for NFS"))?);
        Ok(())
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Connections open now.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.open().len()
    }

    /// Stops listening and cuts what is being sent.
    pub fn shutdown(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        for (socket, _) in self.shared.open().values() {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for NfsPlane {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    /// Waits for the socket to have something, or for the end; true: it has.
    fn wait(&self, socket: impl std::os::fd::AsFd) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        while !self.stopping.load(Ordering::SeqCst) {
            let mut one = [PollFd::new(&socket, PollFlags::IN)];
            let quarter = Timespec {
                tv_sec: 0,
                tv_nsec: 250_000_000,
            };
            if matches!(poll(&mut one, Some(&quarter)), Ok(ready) if ready > 0) {
                return true;
            }
            self.export.blobs.forget_removed();
        }
        false
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        while self.wait(listener) {
            match listener.accept() {
                Ok((socket, peer)) => self.admit(socket, peer.ip().to_canonical()),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept an NFS connection");
                    // Out of file descriptors, perhaps: without a pause this would spin.
                    std::thread::park_timeout(Duration::from_millis(250));
                }
            }
        }
    }

    fn admit(self: &Arc<Self>, socket: TcpStream, peer: IpAddr) {
        let (of_peer, all) = {
            let open = self.open();
            (open.values().filter(|(_, from)| *from == peer).count(), open.len())
        };
        let timeouts = socket
            .set_nonblocking(false)
            .and_then(|()| socket.set_read_timeout(Some(self.config.idle_timeout)))
            .and_then(|()| socket.set_write_timeout(Some(self.config.stall_timeout)))
            .and_then(|()| socket.set_nodelay(true));
        let (Ok(()), Ok(ours)) = (timeouts, socket.try_clone()) else {
            return;
        };
        if of_peer >= self.config.max_of_peer || all >= self.config.max_connections {
            tracing::debug!(%peer, "too many NFS connections: one is closed");
            return;
        }
        let key = self.next.fetch_add(1, Ordering::Relaxed);
        self.open().insert(key, (ours, peer));
        let shared = Arc::clone(self);
        let thread = std::thread::Builder::new().name("nfs-peer".into()).stack_size(STACK);
        let started = thread.spawn(move || {
            shared.serve(socket, peer);
            shared.open().remove(&key);
        });
        if started.is_err() {
            self.open().remove(&key);
        }
    }

    /// One call after the other; what is sent ahead waits in the socket.
    fn serve(&self, mut socket: TcpStream, peer: IpAddr) {
        let mut message = Vec::new();
        while !self.stopping.load(Ordering::SeqCst) && receive(&mut socket, &mut message).is_some() {
            let Some(reply) = self.export.answer(&message, peer, true) else {
                return;
            };
            let Ok(length) = u32::try_from(reply.len()) else { return };
            let framed = [&(length | LAST).to_be_bytes()[..], &reply].concat();
            if socket.write_all(&framed).is_err() {
                return;
            }
        }
    }

    fn answer_datagrams(&self, socket: &UdpSocket) {
        let mut buffer = [0; MESSAGE];
        while self.wait(socket) {
            let Ok((length, from)) = socket.recv_from(&mut buffer) else {
                continue;
            };
            let peer = from.ip().to_canonical();
            if let Some(reply) = self.export.answer(&buffer[..length], peer, false) {
                let _ = socket.send_to(&reply, from);
            }
        }
    }
}

/// A message of one or more fragments; none at the end, or when it is too long.
fn receive(socket: &mut TcpStream, message: &mut Vec<u8>) -> Option<()> {
    message.clear();
    loop {
        let mut header = [0; 4];
        socket.read_exact(&mut header).ok()?;
        let header = u32::from_be_bytes(header);
        let length = usize::try_from(header & !LAST).ok()?;
        let start = message.len();
        // Fragments without bytes and without an end would go on for ever.
        if start + length > MESSAGE || (length == 0 && header & LAST == 0) {
            return None;
        }
        message.resize(start + length, 0);
        socket.read_exact(&mut message[start..]).ok()?;
        if header & LAST != 0 {
            return Some(());
        }
    }
}
