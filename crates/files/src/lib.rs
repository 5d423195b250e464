//! The file plane: boot images and small files over HTTP/1.1, to readers that are mostly BMCs.
//!
//! It serves and reports; it decides nothing. What a path stands for is the [`ImageResolver`]'s
//! business, what a read means is the [`ReadObserver`]'s.
//!
//! # How it stays fair
//!
//! All sockets are non-blocking and registered, one-shot, with one epoll instance that a few worker
//! threads share. A worker takes *one* ready connection, moves at most [`TURN`] bytes and puts the
//! connection back at the end of the kernel's ready list. So
//!
//! - a slow reader costs one small connection record and no thread; a thousand of them cost nothing
//!   while their socket buffers are full;
//! - a fast reader cannot keep a worker: after its turn the others come first;
//! - bytes that are not in the page cache are sent by threads of their own, which may wait for the disk, first come first
//!   served: whoever reads what is in memory waits for no disk, and no async runtime ever does;
//! - its threads are nicer than the process's others: reads give way to the API;
//! - memory is bounded by [`Config::max_connections`]: a record holds a request head of at most
//!   [`Config::max_head`] bytes and a position in an image, never a body.
//!
//! A thread for each connection was the alternative; it bounds the readers by the threads, and BMCs
//! hold connections open for as long as the medium is mounted.
//!
//! HTTP/2 is deliberately absent: this is the plane that firmware reads. TLS is for BMCs that take nothing else; it is
//! spoken on the same port, and costs a copy of each byte.

mod blobs;
mod connection;
mod nfs;
mod plane;
pub mod range;
mod request;
mod response;
mod wire;

use std::sync::Arc;
use std::time::Duration;

pub use isobar_image::vfs::{Denied, ImageResolver, Opened, Read, ReadKind, ReadObserver};
pub use nfs::{NfsConfig, NfsPlane};
pub use plane::{FilePlane, StartError};

/// Most bytes that one connection may send before the others get their turn, and so the longest
/// slice reported in one [`Read`].
pub const TURN: u64 = 1024 * 1024;

/// Limits of a [`FilePlane`].
#[derive(Clone, Debug)]
pub struct Config {
    /// Worker threads: for requests, and for bytes that are in memory.
    pub workers: usize,
    /// Threads for bytes that have to come from a disk: as many reads of it are under way at once.
    pub disk_workers: usize,
    /// Connections served at a time; those beyond are answered 503.
    pub max_connections: usize,
    /// Bytes of request line and headers; more is answered 431 (414 when the path alone is too long).
    pub max_head: usize,
    /// From a request's first byte (or from the connection) to its last header.
    pub head_timeout: Duration,
    /// Between two requests. Long: BMCs keep a connection while the medium is mounted.
    pub idle_timeout: Duration,
    /// Without one byte taken by the reader. Long: some BMCs send one open-ended request and read on
    /// as the machine does.
    pub stall_timeout: Duration,
    /// Bytes that the kernel may hold for one reader (`SO_SNDBUF`). Small: what is in there counts as
    /// sent, so it is how far the reported progress may run ahead of the reader, and it bounds the
    /// kernel's memory for thousands of readers. 256 KiB carry 2.5 MB/s over 100 ms of round trip.
    pub send_buffer: usize,
    /// Blob files kept open between reads.
    pub open_blobs: usize,
    /// Certificate and key for those who speak TLS; none: nobody may.
    pub tls: Option<Arc<rustls::ServerConfig>>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            workers: 4,
            disk_workers: 8,
            max_connections: 4096,
            max_head: 16 * 1024,
            head_timeout: Duration::from_secs(20),
            idle_timeout: Duration::from_secs(300),
            stall_timeout: Duration::from_secs(600),
            send_buffer: 256 * 1024,
            open_blobs: 64,
            tls: None,
        }
    }
}
