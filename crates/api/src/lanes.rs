//! The threads that serve connections: each has a few of them, and does all that a request needs by itself. Work that
//! moves between threads costs more than most requests do.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use isobar_objects::Objects;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// While one of them waits for the disk with a change, the connections of the others go on.
const LANES: usize = 4;
/// Threads of one of them for what takes long.
const BLOCKING_THREADS: usize = 64;
/// A thread that idles keeps a few megabytes of what it last worked on.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// At the end, for blocking calls: commits and reads of the disk, which end by themselves.
const GRACE: Duration = Duration::from_secs(5);

/// Ends its threads when it is dropped.
#[derive(Debug)]
pub(crate) struct Lanes(Vec<Lane>);

#[derive(Debug)]
struct Lane {
    runtime: Handle,
    connections: Arc<AtomicUsize>,
    /// Dropped, it ends the thread.
    _end: oneshot::Sender<()>,
}

impl Lanes {
    pub(crate) fn start() -> std::io::Result<Self> {
        (0..LANES).map(|_| Lane::start()).collect::<Result<_, _>>().map(Self)
    }

    /// Serves a connection where there are the fewest.
    pub(crate) fn serve(&self, connections: &mut JoinSet<()>, connection: impl Future<Output = ()> + Send + 'static) {
        let fewest = self
            .0
            .iter()
            .min_by_key(|lane| lane.connections.load(Ordering::Relaxed));
        let Some(lane) = fewest else { return };
        let counted = Counted::new(&lane.connections);
        let serving = async move {
            connection.await;
            drop(counted);
        };
        connections.spawn_on(serving, &lane.runtime);
    }
}

impl Lane {
    fn start() -> std::io::Result<Self> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_THREADS)
            .thread_keep_alive(KEEP_ALIVE)
            .thread_name("isobar")
            .build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel::<()>();
        thread::Builder::new().name("api".to_owned()).spawn(move || {
            Objects::lend_this_thread();
            // Nothing is ever sent.
            let _ = runtime.block_on(ended);
            runtime.shutdown_timeout(GRACE);
        })?;
        Ok(Self {
            runtime: handle,
            connections: Arc::default(),
            _end: end,
        })
    }
}

struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(connections: &Arc<AtomicUsize>) -> Self {
        connections.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(connections))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
