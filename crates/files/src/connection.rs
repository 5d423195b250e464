//! One connection: a small state machine that is driven while its socket lets it.

use std::net::{IpAddr, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::time::{Instant, SystemTime};

use isobar_image::Segment;
use isobar_image::blob::BlobId;
use isobar_image::vfs::{Denied, ImageResolver, Knock, Read, ReadKind, ReadObserver};
use rustix::io::Errno;
use rustix::net::RecvFlags;

use crate::blobs::OpenBlobs;
use crate::request::{self, Parsed, Rejection};
use crate::response::{Response, Source};
use crate::wire::{HANDSHAKE, Wire};
use crate::{Config, TURN};

static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// A small request counts this much of a turn, so that thousands of pipelined ones do not hold a worker.
const REQUEST_COST: u64 = TURN / 64;
/// How much of a refused request is read and dropped, so that the refusal is not lost in a reset.
const LINGER_BYTES: usize = 256 * 1024;
const LINGER_TIME: std::time::Duration = std::time::Duration::from_secs(2);

/// What connections need of the plane.
pub(crate) struct Context {
    pub(crate) config: Config,
    pub(crate) resolver: std::sync::Arc<dyn ImageResolver>,
    pub(crate) observer: std::sync::Arc<dyn ReadObserver>,
    pub(crate) blobs: OpenBlobs,
}

/// What a connection waits for next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Readable,
    Writable,
    /// A thread that may wait for a disk.
    Disk,
    Close,
}

enum Phase {
    /// Between requests, or in the middle of a head.
    Head,
    /// Sending an answer; so many bytes of its head are out.
    Sending(Box<Response>, usize),
    /// Answered and shut for writing; reading what the peer still sends, at most so much.
    Lingering(usize),
}

pub(crate) struct Connection {
    peer: IpAddr,
    wire: Wire,
    /// Over the limit of connections: the first request is answered 503.
    refused: bool,
    phase: Phase,
    buf: Vec<u8>,
    deadline: Instant,
}

impl Connection {
    pub(crate) fn new(peer: IpAddr, refused: bool, config: &Config) -> Self {
        Self {
            peer: peer.to_canonical(),
            wire: Wire::Unknown,
            refused,
            phase: Phase::Head,
            buf: Vec::new(),
            deadline: Instant::now() + config.head_timeout,
        }
    }

    /// Whether its time is up; `farewell` is what may be said before closing.
    pub(crate) fn expired(&self, now: Instant) -> Option<&'static [u8]> {
        match self.phase {
            _ if now < self.deadline => None,
            Phase::Head if !self.buf.is_empty() && matches!(self.wire, Wire::Plain) => Some(
                b"HTTP/1.1 408 Request Timeout\r\nServer: isobar\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            ),
            _ => Some(b""),
        }
    }

    /// Goes on until the socket would block, a turn is used up or the connection is over; without `may_wait` also
    /// until bytes have to come from a disk.
    pub(crate) fn drive(&mut self, socket: &TcpStream, context: &Context, scratch: &mut [u8], may_wait: bool) -> Next {
        let mut turn = TURN;
        loop {
            let done = match &mut self.phase {
                Phase::Head => self.head(socket, context, scratch),
                Phase::Sending(response, head_sent) => {
                    let before = turn;
                    let mut way = Way {
                        socket,
                        wire: &mut self.wire,
                        context,
                        scratch,
                        may_wait,
                    };
                    let step = way.send(self.peer, response, head_sent, &mut turn);
                    if turn < before {
                        self.deadline = Instant::now() + context.config.stall_timeout;
                    }
                    match step {
                        Step::Done => {
                            turn = turn.saturating_sub(REQUEST_COST);
                            tracing::trace!(peer = %self.peer, status = response.status, "answered");
                            self.next_request(socket, context);
                            None
                        }
                        Step::Blocked => Some(Next::Writable),
                        Step::Cold => Some(Next::Disk),
                        Step::Broken => Some(Next::Close),
                    }
                }
                Phase::Lingering(left) => match rustix::net::recv(socket, &mut *scratch, RecvFlags::empty()) {
                    Ok((n, _)) if n > 0 && n < *left => {
                        *left -= n;
                        None
                    }
                    Err(Errno::AGAIN) => Some(Next::Readable),
                    Err(Errno::INTR) => None,
                    Ok(_) | Err(_) => Some(Next::Close),
                },
            };
            match done {
                Some(next) => return next,
                // There is more to do, but the others come first; a writable socket is ready at once.
                None if turn == 0 => return Next::Writable,
                None => {}
            }
        }
    }

    /// Takes the next request out of the buffer, or more bytes from the socket.
    fn head(&mut self, socket: &TcpStream, context: &Context, scratch: &mut [u8]) -> Option<Next> {
        // RFC 9112 §2.2: empty lines before a request are skipped.
        let blank = self.buf.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
        self.buf.drain(..blank);
        match request::parse(&self.buf, context.config.max_head) {
            Parsed::Partial => {
                let room = (context.config.max_head + 1)
                    .saturating_sub(self.buf.len())
                    .min(scratch.len());
                match self.wire.recv(socket, &mut scratch[..room], &context.config) {
                    Ok(0) => Some(self.gone(context)),
                    Ok(n) => {
                        if self.buf.is_empty() {
                            self.deadline = Instant::now() + context.config.head_timeout;
                        }
                        self.buf.extend_from_slice(&scratch[..n]);
                        None
                    }
                    // A handshake's answer that does not fit into the socket is waited for.
                    Err(Errno::AGAIN) if self.wire.has_unsent() => Some(Next::Writable),
                    Err(Errno::AGAIN) => Some(Next::Readable),
                    Err(Errno::INTR) => None,
                    Err(_) => Some(self.gone(context)),
                }
            }
            Parsed::Request(len, request) => {
                self.buf.drain(..len);
                let response = if self.refused {
                    let reason = "too many connections: try again in a few seconds";
                    let mut response = Response::error(Rejection { status: 503, reason }, None);
                    response.keep_alive = false;
                    response
                } else {
                    match context.resolver.open(&request.path, self.peer) {
                        Ok(opened) => Response::opened(opened, &request),
                        Err(denied) => {
                            if matches!(denied, Denied::NotFound | Denied::Gone) {
                                context.observer.knocked(self.peer, Knock::Path);
                            }
                            Response::denied(denied, &request)
                        }
                    }
                };
                tracing::debug!(
                    peer = %self.peer,
                    method = ?request.method,
                    path = request::shortened(&request.path),
                    range = request.range.as_deref(),
                    status = response.status,
                    "file plane request"
                );
                self.answer(response, context);
                None
            }
            Parsed::Rejected(rejection) => {
                tracing::debug!(peer = %self.peer, status = rejection.status, rejection.reason, "refused a request");
                let knock = match self.buf.first() {
                    Some(&HANDSHAKE) => Knock::Tls,
                    _ => Knock::Request,
                };
                context.observer.knocked(self.peer, knock);
                self.buf.clear();
                self.answer(Response::error(rejection, None), context);
                None
            }
        }
    }

    /// The peer has gone without a request.
    fn gone(&self, context: &Context) -> Next {
        if self.wire.in_handshake() {
            context.observer.knocked(self.peer, Knock::Tls);
        }
        Next::Close
    }

    fn answer(&mut self, response: Response, context: &Context) {
        self.deadline = Instant::now() + context.config.stall_timeout;
        self.phase = Phase::Sending(Box::new(response), 0);
    }

    /// After an answer: the next request, or the end.
    fn next_request(&mut self, socket: &TcpStream, context: &Context) {
        let keep = matches!(&self.phase, Phase::Sending(response, _) if response.keep_alive);
        if keep {
            self.deadline = Instant::now()
                + if self.buf.is_empty() {
                    context.config.idle_timeout
                } else {
                    context.config.head_timeout
                };
            self.phase = Phase::Head;
            if self.buf.is_empty() {
                self.buf = Vec::new();
            }
        } else {
            self.wire.farewell(socket);
            // Closing with unread bytes in the socket would send a reset, which may overtake the answer.
            let _ = socket.shutdown(std::net::Shutdown::Write);
            self.deadline = Instant::now() + LINGER_TIME;
            self.phase = Phase::Lingering(LINGER_BYTES);
        }
    }
}

enum Step {
    Done,
    /// The socket is full, or the turn is used up.
    Blocked,
    /// The next bytes are not in memory.
    Cold,
    Broken,
}

/// What sending an answer takes.
struct Way<'a> {
    socket: &'a TcpStream,
    wire: &'a mut Wire,
    context: &'a Context,
    scratch: &'a mut [u8],
    may_wait: bool,
}

impl Way<'_> {
    /// Sends what is left of an answer, as far as the socket and the turn allow.
    fn send(&mut self, peer: IpAddr, response: &mut Response, head_sent: &mut usize, turn: &mut u64) -> Step {
        let fresh = *head_sent < response.head.len();
        while *head_sent < response.head.len() {
            let more = !response.body.is_empty();
            match self.wire.send(self.socket, &response.head[*head_sent..], more) {
                Ok(n) => {
                    *head_sent += n;
                    *turn = turn.saturating_sub(n as u64);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Step::Blocked,
                Err(_) => return Step::Broken,
            }
        }
        if fresh && response.kind == ReadKind::Head {
            report(self.context, peer, response, 0, 0);
        }
        while !response.body.is_empty() && *turn > 0 {
            let start = response.body.start;
            let wanted = start..start + (response.body.end - start).min(*turn);
            let (sent, step) = self.send_range(response, wanted);
            response.body.start += sent;
            *turn -= sent;
            if sent > 0 {
                report(self.context, peer, response, start, sent);
            }
            match step {
                Step::Done if sent == 0 => return Step::Broken,
                Step::Done => {}
                other => return other,
            }
        }
        if !response.body.is_empty() {
            return Step::Blocked;
        }
        match self.wire.flush(self.socket) {
            Ok(()) => Step::Done,
            Err(err) => step_of(err),
        }
    }

    /// Sends a range of the source; answers how much went out.
    fn send_range(&mut self, response: &Response, wanted: std::ops::Range<u64>) -> (u64, Step) {
        let end = response.body.end;
        let image = match &response.source {
            Source::Image { image, .. } => image,
            Source::Bytes(bytes) => {
                let part = &bytes[as_len(wanted.start)..as_len(wanted.end)];
                return self.send_bytes(part, wanted.end < end);
            }
            Source::Blob(id, from) => {
                let (offset, len) = (from + wanted.start, wanted.end - wanted.start);
                return self.send_blob(id, offset, len);
            }
            Source::None => return (0, Step::Broken),
        };
        let mut total = 0;
        for piece in image.pieces(wanted) {
            let more = piece.offset + piece.segment.len() < end;
            let (sent, step) = match &piece.segment {
                Segment::Bytes(bytes) => self.send_bytes(bytes, more),
                Segment::Zero { len } => self.send_zeros(*len, more),
                Segment::Blob { id, offset, len } => self.send_blob(id, *offset, *len),
            };
            total += sent;
            if !matches!(step, Step::Done) {
                return (total, step);
            }
        }
        (total, Step::Done)
    }

    fn send_blob(&mut self, id: &BlobId, offset: u64, len: u64) -> (u64, Step) {
        match self.context.blobs.get(id) {
            Ok(file) => self.send_file(&file, offset, len),
            Err(err) => {
                tracing::error!(blob = %id, %err, "cannot open a blob that is being read");
                (0, Step::Broken)
            }
        }
    }

    fn send_bytes(&mut self, bytes: &[u8], more: bool) -> (u64, Step) {
        let mut sent = 0;
        while sent < bytes.len() {
            match self.wire.send(self.socket, &bytes[sent..], more) {
                Ok(n) => sent += n,
                Err(Errno::INTR) => {}
                Err(err) => return (sent as u64, step_of(err)),
            }
        }
        (sent as u64, Step::Done)
    }

    fn send_zeros(&mut self, len: u64, more: bool) -> (u64, Step) {
        let mut total = 0;
        while total < len {
            let part = &ZEROS[..ZEROS.len().min(as_len(len - total))];
            let (sent, step) = self.send_bytes(part, more || total + (part.len() as u64) < len);
            total += sent;
            if !matches!(step, Step::Done) {
                return (total, step);
            }
        }
        (total, Step::Done)
    }

    fn send_file(&mut self, file: &std::fs::File, offset: u64, len: u64) -> (u64, Step) {
        let (mut position, end) = (offset, offset + len);
        if self.may_wait {
            // One file is shared by all its readers, so the kernel sees no sequence to read ahead of.
            let ahead = std::num::NonZeroU64::new(len.min(TURN));
            let _ = rustix::fs::fadvise(file, position, ahead, rustix::fs::Advice::WillNeed);
        }
        while position < end {
            let part = (end - position).min(PROBED);
            if !self.may_wait && !in_memory(file, position, part) {
                return (position - offset, Step::Cold);
            }
            let part_end = position + part;
            while position < part_end {
                match self.send_part(file, &mut position, part_end) {
                    Ok(0) => {
                        tracing::error!(
                            position,
                            "a blob is shorter than the image says; the blob folder is damaged"
                        );
                        return (position - offset, Step::Broken);
                    }
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(err) => return (position - offset, step_of(err)),
                }
            }
        }
        (len, Step::Done)
    }

    /// By sendfile, or encrypted by way of a buffer.
    fn send_part(&mut self, file: &std::fs::File, position: &mut u64, end: u64) -> Result<usize, Errno> {
        if matches!(self.wire, Wire::Plain) {
            let left = as_len(end - *position);
            return rustix::fs::sendfile(self.socket, file, Some(position), left);
        }
        let len = self.scratch.len().min(as_len(end - *position));
        let read = file.read_at(&mut self.scratch[..len], *position);
        let read = read.map_err(|err| Errno::from_io_error(&err).unwrap_or(Errno::IO))?;
        if read == 0 {
            return Ok(0);
        }
        let sent = self.wire.send(self.socket, &self.scratch[..read], true)?;
        *position += sent as u64;
        Ok(sent)
    }
}

fn report(context: &Context, peer: IpAddr, response: &Response, offset: u64, len: u64) {
    if let Source::Image {
        attempt: Some(attempt), ..
    } = &response.source
    {
        context.observer.seen(Read {
            attempt: *attempt,
            peer,
            offset,
            len,
            kind: response.kind,
            at: SystemTime::now(),
        });
    }
}

/// Sent between two looks at whether the next bytes are in memory.
const PROBED: u64 = 128 * 1024;

/// Whether these bytes can be sent without waiting for a disk. Looks at both ends: what lies between was read together.
/// A file system that cannot tell (`RWF_NOWAIT`, preadv2(2)) counts as fast.
fn in_memory(file: &std::fs::File, offset: u64, len: u64) -> bool {
    let there = |at: u64| {
        let mut byte = [0; 1];
        let mut into = [std::io::IoSliceMut::new(&mut byte)];
        !matches!(
            rustix::io::preadv2(file, &mut into, at, rustix::io::ReadWriteFlags::NOWAIT),
            Err(Errno::AGAIN)
        )
    };
    there(offset) && there(offset + len - 1)
}

fn step_of(err: Errno) -> Step {
    match err {
        Errno::AGAIN => Step::Blocked,
        Errno::PIPE | Errno::CONNRESET | Errno::TIMEDOUT => Step::Broken,
        err => {
            tracing::warn!(%err, "cannot send");
            Step::Broken
        }
    }
}

/// Lengths here are at most a turn or the length of something in memory, so they fit.
fn as_len(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}
