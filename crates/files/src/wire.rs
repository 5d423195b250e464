//! What lies between a connection and its socket: nothing, or TLS.
//!
//! Both are served on the same port: the first byte of a connection tells them apart (a TLS record of type handshake
//! begins with 22, RFC 8446 §5.1; no HTTP method does).

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use rustls::ServerConnection;

use crate::Config;

pub(crate) const HANDSHAKE: u8 = 22;
/// Bytes that wait to be encrypted or sent for one connection. They count as sent.
const BUFFER: usize = 32 * 1024;

pub(crate) enum Wire {
    /// Nothing has come yet.
    Unknown,
    Plain,
    Tls(Box<ServerConnection>),
}

/// A socket that is never waited for, as rustls wants it.
struct Nonblocking<'a>(&'a TcpStream);

impl io::Read for Nonblocking<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let (n, _) = rustix::net::recv(self.0, buf, RecvFlags::empty())?;
        Ok(n)
    }
}

impl io::Write for Nonblocking<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(self.0, buf, SendFlags::NOSIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn errno(error: &io::Error) -> Errno {
    match error.kind() {
        io::ErrorKind::WouldBlock => Errno::AGAIN,
        io::ErrorKind::Interrupted => Errno::INTR,
        _ => Errno::from_io_error(error).unwrap_or(Errno::CONNRESET),
    }
}

impl Wire {
    /// Finds out which it is; `AGAIN` until the first byte is there.
    fn settle(&mut self, socket: &TcpStream, config: &Config) -> Result<(), Errno> {
        if !matches!(self, Self::Unknown) {
            return Ok(());
        }
        let mut first = [0; 1];
        let (n, _) = rustix::net::recv(socket, &mut first, RecvFlags::PEEK)?;
        *self = match &config.tls {
            Some(tls) if n == 1 && first[0] == HANDSHAKE => {
                let mut tls = ServerConnection::new(tls.clone()).map_err(|error| {
                    tracing::error!(%error, "the file plane cannot speak TLS");
                    Errno::CONNRESET
                })?;
                tls.set_buffer_limit(Some(BUFFER));
                Self::Tls(Box::new(tls))
            }
            _ => Self::Plain,
        };
        Ok(())
    }

    /// Bytes of the peer, decrypted; 0 at the end.
    pub(crate) fn recv(&mut self, socket: &TcpStream, buf: &mut [u8], config: &Config) -> Result<usize, Errno> {
        self.settle(socket, config)?;
        let Self::Tls(tls) = self else {
            return rustix::net::recv(socket, buf, RecvFlags::empty()).map(|(n, _)| n);
        };
        loop {
            match tls.reader().read(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // An end without the word for it is an end.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                done => return done.map_err(|error| errno(&error)),
            }
            flush_tls(tls, socket)?;
            if tls.read_tls(&mut Nonblocking(socket)).map_err(|error| errno(&error))? == 0 {
                return Ok(0);
            }
            if let Err(error) = tls.process_new_packets() {
                // The alert says why; whether it arrives is all the same.
                let _ = flush_tls(tls, socket);
                tracing::debug!(%error, "a TLS connection to the file plane failed");
                return Err(Errno::CONNRESET);
            }
        }
    }

    /// Takes bytes to be sent; how many of them. `more` follow at once.
    pub(crate) fn send(&mut self, socket: &TcpStream, bytes: &[u8], more: bool) -> Result<usize, Errno> {
        let Self::Tls(tls) = self else {
            let flags = SendFlags::NOSIGNAL | if more { SendFlags::MORE } else { SendFlags::empty() };
            return rustix::net::send(socket, bytes, flags);
        };
        flush_tls(tls, socket)?;
        // Nothing waits now, so at least a part of it is taken.
        let taken = tls.writer().write(bytes).map_err(|error| errno(&error))?;
        match flush_tls(tls, socket) {
            Ok(()) | Err(Errno::AGAIN) => Ok(taken),
            Err(error) => Err(error),
        }
    }

    /// `AGAIN` while bytes that were taken are still to be sent.
    pub(crate) fn flush(&mut self, socket: &TcpStream) -> Result<(), Errno> {
        match self {
            Self::Tls(tls) => flush_tls(tls, socket),
            Self::Unknown | Self::Plain => Ok(()),
        }
    }

    /// The peer has begun with TLS and has not come to an agreement.
    pub(crate) fn in_handshake(&self) -> bool {
        matches!(self, Self::Tls(tls) if tls.is_handshaking())
    }

    pub(crate) fn has_unsent(&self) -> bool {
        matches!(self, Self::Tls(tls) if tls.wants_write())
    }

    /// Says that nothing follows.
    pub(crate) fn farewell(&mut self, socket: &TcpStream) {
        if let Self::Tls(tls) = self {
            tls.send_close_notify();
            let _ = flush_tls(tls, socket);
        }
    }
}

fn flush_tls(tls: &mut ServerConnection, socket: &TcpStream) -> Result<(), Errno> {
    while tls.wants_write() {
        match tls.write_tls(&mut Nonblocking(socket)) {
            Ok(0) => return Err(Errno::PIPE),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(errno(&error)),
        }
    }
    Ok(())
}
