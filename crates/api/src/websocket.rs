//! The server's side of a websocket (RFC 6455): as much as a feed of events needs. Text frames come in, text frames
//! go out; whoever does not read loses the connection.

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

/// What the key of a handshake is completed with (RFC 6455 §1.3).
const MAGIC: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Longest message from a client in bytes: it registers patterns, nothing else.
const MAX_MESSAGE: usize = 4096;
/// A reader that takes nothing for so long is gone.
const PATIENCE: Duration = Duration::from_secs(20);

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

type Io = TokioIo<Upgraded>;

/// The answer to a handshake's `Sec-WebSocket-Key`.
pub(crate) fn accept(key: &str) -> String {
    let digest = ring::digest::digest(
        &ring::digest::SHA1_FOR_LEGACY_USE_ONLY,
        format!("{key}{MAGIC}").as_bytes(),
    );
    BASE64_STANDARD.encode(digest)
}

/// What a client says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Text(String),
    Ping(Vec<u8>),
}

/// Both halves of an upgraded connection.
pub(crate) fn split(upgraded: Upgraded) -> (Reader, Writer) {
    let (read, write) = tokio::io::split(TokioIo::new(upgraded));
    (Reader(read), Writer(write))
}

pub(crate) struct Reader(ReadHalf<Io>);

impl Reader {
    /// The next message; none at the end, whatever the reason.
    pub(crate) async fn next(&mut self) -> Option<Said> {
        let mut whole: Vec<u8> = Vec::new();
        loop {
            let (last, opcode, payload) = self.frame().await?;
            match opcode {
                PING => return Some(Said::Ping(payload)),
                PONG => {}
                CONTINUATION | TEXT | BINARY => {
                    if whole.len() + payload.len() > MAX_MESSAGE {
                        return None;
                    }
                    whole.extend(payload);
                    if last {
                        return String::from_utf8(whole).ok().map(Said::Text);
                    }
                }
                // A farewell, or nonsense.
                _ => return None,
            }
        }
    }

    async fn frame(&mut self) -> Option<(bool, u8, Vec<u8>)> {
        let mut head = [0; 2];
        self.0.read_exact(&mut head).await.ok()?;
        // Clients mask what they send (RFC 6455 §5.1).
        if head[1] & 0x80 == 0 {
            return None;
        }
        let length = match head[1] & 0x7f {
            126 => usize::from(self.0.read_u16().await.ok()?),
            127 => usize::try_from(self.0.read_u64().await.ok()?).ok()?,
            short => usize::from(short),
        };
        if length > MAX_MESSAGE {
            return None;
        }
        let mut mask = [0; 4];
        self.0.read_exact(&mut mask).await.ok()?;
        let mut payload = vec![0; length];
        self.0.read_exact(&mut payload).await.ok()?;
        for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
            *byte ^= mask;
        }
        Some((head[0] & 0x80 != 0, head[0] & 0x0f, payload))
    }
}

pub(crate) struct Writer(WriteHalf<Io>);

impl Writer {
    /// Sends a text; false when the reader is gone or too slow.
    pub(crate) async fn text(&mut self, text: &str) -> bool {
        self.frame(TEXT, text.as_bytes()).await
    }

    pub(crate) async fn ping(&mut self) -> bool {
        self.frame(PING, b"").await
    }

    pub(crate) async fn pong(&mut self, payload: &[u8]) -> bool {
        self.frame(PONG, payload).await
    }

    /// Says farewell with a status (RFC 6455 §7.4).
    pub(crate) async fn close(&mut self, status: u16) {
        self.frame(CLOSE, &status.to_be_bytes()).await;
        let _ = tokio::time::timeout(PATIENCE, self.0.shutdown()).await;
    }

    async fn frame(&mut self, opcode: u8, payload: &[u8]) -> bool {
        let mut frame = Vec::with_capacity(payload.len() + 10);
        frame.push(0x80 | opcode);
        match payload.len() {
            length @ 0..126 => frame.push(length.to_le_bytes()[0]),
            length => match u16::try_from(length) {
                Ok(length) => {
                    frame.push(126);
                    frame.extend(length.to_be_bytes());
                }
                Err(_) => {
                    frame.push(127);
                    frame.extend((length as u64).to_be_bytes());
                }
            },
        }
        frame.extend(payload);
        let sent = tokio::time::timeout(PATIENCE, async {
            self.0.write_all(&frame).await?;
            self.0.flush().await
        });
        matches!(sent.await, Ok(Ok(())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handshake_is_that_of_the_standard() {
        // RFC 6455 §1.3.
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
