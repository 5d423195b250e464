//! A connection whose other end takes nothing is given up. What waits to be sent would be kept for it otherwise.
//!
//! One that is closed while its other end still sends (a large body that was refused by its head) is read on for a while:
//! a socket that is closed with bytes unread is reset, and with it goes the answer (RFC 9112 §9.6).

use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// Most that is read and thrown away after the end, in bytes.
const MAX_REST: usize = 256 << 20;
/// Who has sent nothing for so long after the end sends nothing more.
const QUIET: Duration = Duration::from_millis(500);

/// A stream on which no single write waits longer than a patience.
pub(crate) struct Patient<S> {
    stream: S,
    patience: Duration,
    /// Runs while a write waits.
    deadline: Pin<Box<Sleep>>,
    waiting: bool,
    /// After the end: bytes that may still be thrown away, and until when.
    rest: Option<(usize, Instant)>,
}

impl<S> Patient<S> {
    pub(crate) fn new(stream: S, patience: Duration) -> Self {
        Self {
            stream,
            patience,
            deadline: Box::pin(tokio::time::sleep(patience)),
            waiting: false,
            rest: None,
        }
    }

    /// Lets a result through, and turns a wait that is too long into an error.
    fn judge<T>(&mut self, context: &mut Context<'_>, written: Poll<Result<T>>) -> Poll<Result<T>> {
        if written.is_ready() {
            self.waiting = false;
            return written;
        }
        if !self.waiting {
            self.waiting = true;
            let until = Instant::now() + self.patience;
            self.deadline.as_mut().reset(until);
        }
        ready!(self.deadline.as_mut().poll(context));
        Poll::Ready(Err(Error::new(ErrorKind::TimedOut, "the other end takes nothing")))
    }
}

impl<S: AsyncRead + Unpin> Patient<S> {
    /// Throws away what still comes: until the other end is done, or too much or too slow.
    fn poll_rest(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let (mut rest, end) = match self.rest {
            Some(rest) => rest,
            None => {
                self.quiet_until(Instant::now() + self.patience);
                (MAX_REST, Instant::now() + self.patience)
            }
        };
        let mut thrown_away = [0; 16 * 1024];
        loop {
            self.rest = Some((rest, end));
            let mut buffer = ReadBuf::new(&mut thrown_away);
            match Pin::new(&mut self.stream).poll_read(context, &mut buffer) {
                Poll::Pending => return self.deadline.as_mut().poll(context),
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(())) => {
                    let length = buffer.filled().len();
                    rest = rest.saturating_sub(length);
                    if length == 0 || rest == 0 {
                        return Poll::Ready(());
                    }
                    self.quiet_until(end);
                }
            }
        }
    }

    fn quiet_until(&mut self, end: Instant) {
        self.deadline.as_mut().reset(end.min(Instant::now() + QUIET));
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.judge(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.judge(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.judge(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        if self.rest.is_none() {
            let shut = Pin::new(&mut self.stream).poll_shutdown(context);
            ready!(self.judge(context, shut))?;
        }
        self.poll_rest(context).map(Ok)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}
