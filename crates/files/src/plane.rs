//! The event loop: one epoll instance, a few workers, a clock.

use std::collections::{HashMap, VecDeque};
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use isobar_image::BlobDir;
use isobar_image::vfs::{ImageResolver, ReadObserver};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use rustix::net::SendFlags;

use crate::Config;
use crate::blobs::OpenBlobs;
use crate::connection::{Connection, Context, Next};

/// Epoll data of the event that says stop; listeners count on from there, and connections from [`LISTENERS`].
const STOP: u64 = 0;
/// More listeners than there are.
const LISTENERS: u64 = 64;
/// Connections over the limit that are still told 503; beyond, they are closed without a word.
const TOLD: usize = 64;
/// Niceness of the threads that serve.
const NICE: i32 = 10;
/// Connections taken in one go.
const ACCEPTS: usize = 16;

/// Why a plane does not start.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the file plane: {what}")]
pub struct StartError {
    what: &'static str,
    #[source]
    source: std::io::Error,
}

impl StartError {
    pub(crate) fn new(what: &'static str, source: std::io::Error) -> Self {
        Self { what, source }
    }
}

fn failed<E: Into<std::io::Error>>(what: &'static str) -> impl FnOnce(E) -> StartError {
    move |err| StartError {
        what,
        source: err.into(),
    }
}

/// A running file plane. Dropping it stops it.
pub struct FilePlane {
    shared: Arc<Shared>,
    local_addr: SocketAddr,
    threads: Vec<JoinHandle<()>>,
}

impl FilePlane {
    /// Serves on one listener: [`FilePlane::start_all`].
    ///
    /// # Errors
    /// As there.
    pub fn start(
        listener: TcpListener,
        config: Config,
        resolver: Arc<dyn ImageResolver>,
        observer: Arc<dyn ReadObserver>,
        blobs: Arc<BlobDir>,
    ) -> Result<Self, StartError> {
        Self::start_all(vec![listener], config, resolver, observer, blobs)
    }

    /// Serves on `listeners` (the first one is [`FilePlane::local_addr`]) with threads of its own until
    /// [`FilePlane::shutdown`].
    ///
    /// Raises the process's soft limit on open files, as far as the hard limit allows, to what
    /// [`Config::max_connections`] needs.
    ///
    /// # Errors
    /// When the kernel gives no epoll instance, event or thread.
    pub fn start_all(
        listeners: Vec<TcpListener>,
        config: Config,
        resolver: Arc<dyn ImageResolver>,
        observer: Arc<dyn ReadObserver>,
        blobs: Arc<BlobDir>,
    ) -> Result<Self, StartError> {
        let none = || failed("no listener")(std::io::Error::from(std::io::ErrorKind::InvalidInput));
        let first = listeners.first().ok_or_else(none)?;
        let local_addr = first.local_addr().map_err(failed("the listener has no address"))?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed("no epoll instance"))?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(failed("no eventfd"))?;
        epoll::add(&epoll, &stop, EventData::new_u64(STOP), EventFlags::IN)
            .map_err(failed("cannot watch the event"))?;
        for (key, listener) in (STOP + 1..LISTENERS).zip(&listeners) {
            listener
                .set_nonblocking(true)
                .map_err(failed("the listener cannot be made non-blocking"))?;
            let flags = EventFlags::IN | EventFlags::ONESHOT;
            epoll::add(&epoll, listener, EventData::new_u64(key), flags)
                .map_err(failed("cannot watch the listener"))?;
        }
        raise_open_files(config.max_connections + TOLD + config.open_blobs + 256);
        let (workers, disk_workers) = (config.workers.max(1), config.disk_workers.max(1));
        let tick = [config.head_timeout, config.idle_timeout, config.stall_timeout]
            .into_iter()
            .min()
            .map_or(Duration::from_secs(1), |t| {
                (t / 4).clamp(Duration::from_millis(10), Duration::from_secs(1))
            });
        let shared = Arc::new(Shared {
            epoll,
            listeners,
            stop,
            context: Context {
                blobs: OpenBlobs::new(blobs, config.open_blobs),
                config,
                resolver,
                observer,
            },
            connections: Mutex::default(),
            next_key: AtomicU64::new(LISTENERS),
            listeners_paused: AtomicBool::new(false),
            cold: Mutex::default(),
            chilled: Condvar::new(),
            cold_turns: AtomicU64::new(0),
            stopping: Mutex::new(false),
            stopped: Condvar::new(),
        });
        let mut plane = Self {
            shared: shared.clone(),
            local_addr,
            threads: Vec::new(),
        };
        for i in 0..workers {
            let shared = shared.clone();
            let thread = std::thread::Builder::new()
                .name(format!("files-{i}"))
                .spawn(move || shared.work());
            plane.threads.push(thread.map_err(failed("no thread"))?);
        }
        for i in 0..disk_workers {
            let shared = shared.clone();
            let thread = std::thread::Builder::new()
                .name(format!("files-disk-{i}"))
                .spawn(move || shared.work_cold());
            plane.threads.push(thread.map_err(failed("no thread"))?);
        }
        let clock = std::thread::Builder::new()
            .name("files-clock".into())
            .spawn(move || shared.clock(tick));
        plane.threads.push(clock.map_err(failed("no thread"))?);
        Ok(plane)
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Connections open now, idle ones included.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.table().len()
    }

    /// Turns that were handed to a thread that may wait for the disk, since the start.
    #[must_use]
    pub fn disk_turns(&self) -> u64 {
        self.shared.cold_turns.load(Ordering::Relaxed)
    }

    /// Stops listening, cuts what is being sent and waits for the threads.
    pub fn shutdown(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        *lock(&self.shared.stopping) = true;
        self.shared.stopped.notify_all();
        // Under the lock, so that no thread is between its look and its wait.
        lock(&self.shared.cold).stopping = true;
        self.shared.chilled.notify_all();
        // The counter of an eventfd that nobody reads cannot overflow by ones.
        let _ = rustix::io::write(&self.shared.stop, &1u64.to_ne_bytes());
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        self.shared.table().clear();
    }
}

impl Drop for FilePlane {
    fn drop(&mut self) {
        self.stop();
    }
}

impl std::fmt::Debug for FilePlane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FilePlane")
            .field("local_addr", &self.local_addr)
            .finish_non_exhaustive()
    }
}

/// A connection in the table.
struct Entry {
    socket: TcpStream,
    connection: Mutex<Connection>,
}

/// Connections whose next bytes have to come from a disk. Each connection is in it once at most.
#[derive(Default)]
struct Cold {
    keys: VecDeque<u64>,
    stopping: bool,
}

struct Shared {
    epoll: OwnedFd,
    listeners: Vec<TcpListener>,
    stop: OwnedFd,
    context: Context,
    connections: Mutex<HashMap<u64, Arc<Entry>>>,
    next_key: AtomicU64,
    /// Out of file descriptors: the clock re-arms the listeners.
    listeners_paused: AtomicBool,
    cold: Mutex<Cold>,
    chilled: Condvar,
    cold_turns: AtomicU64,
    stopping: Mutex<bool>,
    stopped: Condvar,
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, HashMap<u64, Arc<Entry>>> {
        lock(&self.connections)
    }

    fn work(&self) {
        yield_to_others();
        let mut scratch = vec![0; 16 * 1024];
        loop {
            // One event at a time: were a worker to take many, those behind a cold disk would wait for it
            // while other workers idle.
            let mut event = [MaybeUninit::uninit(); 1];
            let key = match epoll::wait(&self.epoll, &mut event, None) {
                Ok((events, _)) => match events.first() {
                    Some(event) => event.data.u64(),
                    None => continue,
                },
                Err(Errno::INTR) => continue,
                Err(err) => {
                    tracing::error!(%err, "the file plane cannot wait for its sockets; this worker ends");
                    return;
                }
            };
            match key {
                STOP => return,
                key @ 1..LISTENERS => self.accept(key),
                key => self.serve(key, &mut scratch, false),
            }
        }
    }

    /// Serves what waits for a disk, first come first served.
    fn work_cold(&self) {
        yield_to_others();
        let mut scratch = vec![0; 16 * 1024];
        let mut cold = lock(&self.cold);
        while !cold.stopping {
            let Some(key) = cold.keys.pop_front() else {
                cold = self.chilled.wait(cold).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(cold);
            self.serve(key, &mut scratch, true);
            cold = lock(&self.cold);
        }
    }

    fn accept(&self, key: u64) {
        let Some(listener) = self.listener(key) else { return };
        for _ in 0..ACCEPTS {
            match listener.accept() {
                Ok((socket, peer)) => self.admit(socket, peer.ip()),
                Err(err) => match err.kind() {
                    std::io::ErrorKind::WouldBlock => break,
                    std::io::ErrorKind::Interrupted | std::io::ErrorKind::ConnectionAborted => {}
                    _ => {
                        // EMFILE and kin last: without a pause this would spin.
                        tracing::warn!(%err, "cannot accept a connection to the file plane");
                        self.listeners_paused.store(true, Ordering::Release);
                        return;
                    }
                },
            }
        }
        self.arm(key, listener);
    }

    fn listener(&self, key: u64) -> Option<&TcpListener> {
        self.listeners.get(usize::try_from(key - STOP - 1).ok()?)
    }

    fn arm(&self, key: u64, listener: &TcpListener) {
        let flags = EventFlags::IN | EventFlags::ONESHOT;
        if let Err(err) = epoll::modify(&self.epoll, listener, EventData::new_u64(key), flags) {
            tracing::error!(%err, "the file plane cannot watch its listener");
        }
    }

    fn admit(&self, socket: TcpStream, peer: IpAddr) {
        let open = self.table().len();
        let max = self.context.config.max_connections;
        if open >= max + TOLD || socket.set_nonblocking(true).is_err() {
            return;
        }
        // Heads are sent with MSG_MORE and the rest in large writes: Nagle would only delay the last one.
        let _ = socket.set_nodelay(true);
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&socket, self.context.config.send_buffer);
        let connection = Mutex::new(Connection::new(peer, open >= max, &self.context.config));
        let key = self.next_key.fetch_add(1, Ordering::Relaxed);
        let entry = Arc::new(Entry { socket, connection });
        self.table().insert(key, entry.clone());
        let flags = EventFlags::IN | EventFlags::ONESHOT;
        if epoll::add(&self.epoll, &entry.socket, EventData::new_u64(key), flags).is_err() {
            self.table().remove(&key);
        }
    }

    fn serve(&self, key: u64, scratch: &mut [u8], may_wait: bool) {
        let Some(entry) = self.table().get(&key).cloned() else {
            return;
        };
        let driven = std::panic::catch_unwind(AssertUnwindSafe(|| {
            lock(&entry.connection).drive(&entry.socket, &self.context, scratch, may_wait)
        }));
        let flags = match driven {
            Ok(Next::Readable) => EventFlags::IN,
            Ok(Next::Writable) => EventFlags::OUT,
            Ok(Next::Disk) => {
                self.cold_turns.fetch_add(1, Ordering::Relaxed);
                lock(&self.cold).keys.push_back(key);
                self.chilled.notify_one();
                return;
            }
            Ok(Next::Close) => return self.forget(key, &entry),
            Err(_) => {
                tracing::error!("a request to the file plane panicked; its connection is closed");
                return self.forget(key, &entry);
            }
        };
        if epoll::modify(
            &self.epoll,
            &entry.socket,
            EventData::new_u64(key),
            flags | EventFlags::ONESHOT,
        )
        .is_err()
        {
            self.forget(key, &entry);
        }
    }

    fn forget(&self, key: u64, entry: &Entry) {
        self.table().remove(&key);
        let _ = epoll::delete(&self.epoll, &entry.socket);
    }

    /// Ends what is over time, and re-arms a paused listener.
    fn clock(&self, tick: Duration) {
        let mut stopping = lock(&self.stopping);
        while !*stopping {
            (stopping, _) = self
                .stopped
                .wait_timeout(stopping, tick)
                .unwrap_or_else(PoisonError::into_inner);
            self.context.blobs.forget_removed();
            if self.listeners_paused.swap(false, Ordering::AcqRel) {
                for (key, listener) in (STOP + 1..LISTENERS).zip(&self.listeners) {
                    self.arm(key, listener);
                }
            }
            let entries: Vec<Arc<Entry>> = self.table().values().cloned().collect();
            let now = Instant::now();
            for entry in entries {
                let connection = match entry.connection.try_lock() {
                    Ok(connection) => connection,
                    Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                    // Being served right now, so it is not late.
                    Err(TryLockError::WouldBlock) => continue,
                };
                if let Some(farewell) = connection.expired(now) {
                    let _ = rustix::net::send(&entry.socket, farewell, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
                    // The socket becomes ready, and a worker closes it.
                    let _ = entry.socket.shutdown(std::net::Shutdown::Both);
                }
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The calling thread gives way to the process's other threads: who reads an image does not notice milliseconds, who asks
/// the API does.
fn yield_to_others() {
    // On Linux a thread's id is what setpriority(2) takes, and a refusal costs nothing but the order.
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE);
}

fn raise_open_files(wanted: usize) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = wanted as u64;
    if limit.current.is_none_or(|current| current >= wanted) {
        return;
    }
    let current = Some(limit.maximum.map_or(wanted, |hard| hard.min(wanted)));
    if current != Some(wanted) || setrlimit(Resource::Nofile, Rlimit { current, ..limit }).is_err() {
        let _ = setrlimit(Resource::Nofile, Rlimit { current, ..limit });
        tracing::warn!(
            wanted,
            ?current,
            "few open files are allowed: raise the limit (LimitNOFILE=) to serve more BMCs"
        );
    }
}
