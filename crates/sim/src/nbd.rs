//! The CD's cable: an NBD server on a unix socket, read-only, fixed newstyle handshake
//! (NetworkBlockDevice/nbd, doc/proto.md). Each medium is an export of its own, so that a medium
//! that was changed can never be read as the one before.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

use crate::medium::VirtualCd;

const MAGIC: u64 = u64::from_be_bytes(*b"NBDMAGIC");
const OPTION_MAGIC: u64 = u64::from_be_bytes(*b"IHAVEOPT");
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;

const FLAG_FIXED_NEWSTYLE: u16 = 1;
const FLAG_NO_ZEROES: u16 = 2;
/// Has flags, read-only, several connections see the same.
const EXPORT_FLAGS: u16 = 1 | 2 | 1 << 8;

const OPTION_EXPORT_NAME: u32 = 1;
const OPTION_ABORT: u32 = 2;
const OPTION_LIST: u32 = 3;
const OPTION_INFO: u32 = 6;
const OPTION_GO: u32 = 7;

const REPLY_ACK: u32 = 1;
const REPLY_SERVER: u32 = 2;
const REPLY_INFO: u32 = 3;
const REPLY_UNSUPPORTED: u32 = 0x8000_0001;
const REPLY_INVALID: u32 = 0x8000_0003;
const REPLY_UNKNOWN: u32 = 0x8000_0006;

const INFO_EXPORT: u16 = 0;
const INFO_BLOCK_SIZE: u16 = 3;

const COMMAND_READ: u16 = 0;
const COMMAND_WRITE: u16 = 1;
const COMMAND_DISCONNECT: u16 = 2;
const COMMAND_FLUSH: u16 = 3;

const EPERM: u32 = 1;
const EIO: u32 = 5;
const EINVAL: u32 = 22;

/// An option longer than this is not one that we know.
const OPTION_MAX: u32 = 4096;
/// The protocol's own limit for one read.
const READ_MAX: u32 = 32 << 20;
/// Reads of one connection under way at a time.
const DEPTH: usize = 16;

type Exports = Arc<Mutex<HashMap<String, Arc<dyn VirtualCd>>>>;

/// The server; ends when dropped.
pub(crate) struct NbdServer {
    exports: Exports,
    task: JoinHandle<()>,
}

impl Drop for NbdServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl NbdServer {
    pub(crate) fn listen(socket: &Path) -> io::Result<Self> {
        let listener = UnixListener::bind(socket)?;
        let exports = Exports::default();
        let served = Arc::clone(&exports);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                while connections.try_join_next().is_some() {}
                match listener.accept().await {
                    Ok((stream, _)) => {
                        connections.spawn(connection(stream, Arc::clone(&served)));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "NBD accept");
                        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    }
                }
            }
        });
        Ok(Self { exports, task })
    }

    /// Offers a medium; its export's name.
    pub(crate) fn offer(&self, cd: Arc<dyn VirtualCd>) -> String {
        let name = export_name(&*cd);
        self.exports
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.clone(), cd);
        name
    }

    /// Offers it no more; connections that have it open get I/O errors once it is ejected.
    pub(crate) fn withdraw(&self, name: &str) {
        self.exports.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }
}

fn export_name(cd: &dyn VirtualCd) -> String {
    format!("cd-{}", cd.number())
}

async fn connection(stream: UnixStream, exports: Exports) {
    let (mut reader, mut writer) = stream.into_split();
    let outcome = async {
        match handshake(&mut reader, &mut writer, &exports).await? {
            Some(cd) => transmit(reader, writer, cd).await,
            None => Ok(()),
        }
    };
    if let Err(error) = outcome.await {
        tracing::debug!(%error, "NBD connection");
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Haggles over options; the chosen export, or none when the client only looked.
async fn handshake(
    reader: &mut OwnedReadHalf,
    writer: &mut OwnedWriteHalf,
    exports: &Exports,
) -> io::Result<Option<Arc<dyn VirtualCd>>> {
    let mut hello = Vec::with_capacity(18);
    hello.extend(MAGIC.to_be_bytes());
    hello.extend(OPTION_MAGIC.to_be_bytes());
    hello.extend((FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES).to_be_bytes());
    writer.write_all(&hello).await?;
    let no_zeroes = reader.read_u32().await? & u32::from(FLAG_NO_ZEROES) != 0;
    let find = |name: &[u8]| {
        let name = std::str::from_utf8(name).ok()?;
        exports
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .cloned()
    };
    loop {
        if reader.read_u64().await? != OPTION_MAGIC {
            return Err(invalid("no option magic"));
        }
        let (option, length) = (reader.read_u32().await?, reader.read_u32().await?);
        if length > OPTION_MAX {
            return Err(invalid("option too long"));
        }
        let mut data = vec![0; length as usize];
        reader.read_exact(&mut data).await?;
        match option {
            OPTION_EXPORT_NAME => {
                // This old option knows no error but hanging up.
                let cd = find(&data).ok_or_else(|| invalid("unknown export"))?;
                let size = cd.size().await.map_err(io::Error::other)?;
                let mut answer = size.to_be_bytes().to_vec();
                answer.extend(EXPORT_FLAGS.to_be_bytes());
                answer.extend(std::iter::repeat_n(0, if no_zeroes { 0 } else { 124 }));
                writer.write_all(&answer).await?;
                return Ok(Some(cd));
            }
            OPTION_ABORT => {
                option_reply(writer, option, REPLY_ACK, &[]).await?;
                return Ok(None);
            }
            OPTION_LIST => {
                let names: Vec<String> = exports
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .keys()
                    .cloned()
                    .collect();
                for name in names {
                    let mut entry = u32::try_from(name.len()).unwrap_or(0).to_be_bytes().to_vec();
                    entry.extend(name.as_bytes());
                    option_reply(writer, option, REPLY_SERVER, &entry).await?;
                }
                option_reply(writer, option, REPLY_ACK, &[]).await?;
            }
            OPTION_INFO | OPTION_GO => {
                let Some((name, wants_blocks)) = parse_go(&data) else {
                    option_reply(writer, option, REPLY_INVALID, b"malformed").await?;
                    continue;
                };
                let Some(cd) = find(name) else {
                    option_reply(writer, option, REPLY_UNKNOWN, b"no such medium").await?;
                    continue;
                };
                let size = match cd.size().await {
                    Ok(size) => size,
                    Err(error) => {
                        option_reply(writer, option, REPLY_UNKNOWN, error.to_string().as_bytes()).await?;
                        continue;
                    }
                };
                let mut info = INFO_EXPORT.to_be_bytes().to_vec();
                info.extend(size.to_be_bytes());
                info.extend(EXPORT_FLAGS.to_be_bytes());
                option_reply(writer, option, REPLY_INFO, &info).await?;
                if wants_blocks {
                    let mut info = INFO_BLOCK_SIZE.to_be_bytes().to_vec();
                    for size in [1, 2048, READ_MAX] {
                        info.extend(size.to_be_bytes());
                    }
                    option_reply(writer, option, REPLY_INFO, &info).await?;
                }
                option_reply(writer, option, REPLY_ACK, &[]).await?;
                if option == OPTION_GO {
                    return Ok(Some(cd));
                }
            }
            _ => option_reply(writer, option, REPLY_UNSUPPORTED, &[]).await?,
        }
    }
}

/// Name, and whether block sizes are asked for.
fn parse_go(data: &[u8]) -> Option<(&[u8], bool)> {
    let (length, rest) = data.split_first_chunk::<4>()?;
    let (name, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    let (count, rest) = rest.split_first_chunk::<2>()?;
    let count = usize::from(u16::from_be_bytes(*count));
    if rest.len() != count * 2 {
        return None;
    }
    Some((
        name,
        rest.chunks_exact(2).any(|kind| kind == INFO_BLOCK_SIZE.to_be_bytes()),
    ))
}

async fn option_reply(writer: &mut OwnedWriteHalf, option: u32, kind: u32, data: &[u8]) -> io::Result<()> {
    let mut reply = OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
    reply.extend(option.to_be_bytes());
    reply.extend(kind.to_be_bytes());
    reply.extend(u32::try_from(data.len()).unwrap_or(0).to_be_bytes());
    reply.extend(data);
    writer.write_all(&reply).await
}

async fn transmit(mut reader: OwnedReadHalf, writer: OwnedWriteHalf, cd: Arc<dyn VirtualCd>) -> io::Result<()> {
    let writer = Arc::new(tokio::sync::Mutex::new(writer));
    let depth = Arc::new(Semaphore::new(DEPTH));
    let mut reads = JoinSet::new();
    loop {
        while reads.try_join_next().is_some() {}
        if reader.read_u32().await? != REQUEST_MAGIC {
            return Err(invalid("no request magic"));
        }
        let _flags = reader.read_u16().await?;
        let command = reader.read_u16().await?;
        let handle = reader.read_u64().await?;
        let offset = reader.read_u64().await?;
        let length = reader.read_u32().await?;
        match command {
            COMMAND_DISCONNECT => return Ok(()),
            COMMAND_READ if length <= READ_MAX => {
                let Ok(permit) = Arc::clone(&depth).acquire_owned().await else {
                    return Ok(());
                };
                let (cd, writer) = (Arc::clone(&cd), Arc::clone(&writer));
                reads.spawn(async move {
                    let (error, bytes) = match cd.read_at(offset, length).await {
                        Ok(bytes) => (0, bytes),
                        Err(error) => {
                            tracing::debug!(offset, length, %error, "CD read");
                            (EIO, bytes::Bytes::new())
                        }
                    };
                    // The reading side notices when the client is gone.
                    let _ = reply(&writer, error, handle, &bytes).await;
                    drop(permit);
                });
            }
            COMMAND_WRITE => {
                let sent = u64::from(length);
                tokio::io::copy(&mut (&mut reader).take(sent), &mut tokio::io::sink()).await?;
                reply(&writer, EPERM, handle, &[]).await?;
            }
            COMMAND_FLUSH => reply(&writer, 0, handle, &[]).await?,
            _ => reply(&writer, EINVAL, handle, &[]).await?,
        }
    }
}

async fn reply(writer: &tokio::sync::Mutex<OwnedWriteHalf>, error: u32, handle: u64, data: &[u8]) -> io::Result<()> {
    let mut head = [0; 16];
    head[..4].copy_from_slice(&REPLY_MAGIC.to_be_bytes());
    head[4..8].copy_from_slice(&error.to_be_bytes());
    head[8..].copy_from_slice(&handle.to_be_bytes());
    let mut writer = writer.lock().await;
    writer.write_all(&head).await?;
    writer.write_all(data).await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use async_trait::async_trait;
    use bytes::Bytes;

    use super::*;
    use crate::medium::ReadError;

    /// A disc whose every byte tells where it is.
    struct Pattern(u64);

    fn byte_at(offset: u64) -> u8 {
        (offset ^ (offset >> 8) ^ (offset >> 16)) as u8
    }

    #[async_trait]
    impl VirtualCd for Pattern {
        fn number(&self) -> u64 {
            7
        }
        async fn size(&self) -> Result<u64, ReadError> {
            Ok(self.0)
        }
        async fn read_at(&self, offset: u64, length: u32) -> Result<Bytes, ReadError> {
            let end = offset + u64::from(length);
            if end > self.0 {
                return Err(ReadError::Beyond {
                    offset,
                    length: length.into(),
                    size: self.0,
                });
            }
            // Later requests may be answered first.
            tokio::time::sleep(std::time::Duration::from_millis(offset % 3)).await;
            Ok((offset..end).map(byte_at).collect())
        }
    }

    /// Reads an option reply: type and data.
    async fn option_reply(stream: &mut UnixStream, option: u32) -> (u32, Vec<u8>) {
        assert_eq!(stream.read_u64().await.unwrap(), OPTION_REPLY_MAGIC);
        assert_eq!(stream.read_u32().await.unwrap(), option);
        let kind = stream.read_u32().await.unwrap();
        let mut data = vec![0; stream.read_u32().await.unwrap() as usize];
        stream.read_exact(&mut data).await.unwrap();
        (kind, data)
    }

    async fn option(stream: &mut UnixStream, option: u32, data: &[u8]) {
        stream.write_u64(OPTION_MAGIC).await.unwrap();
        stream.write_u32(option).await.unwrap();
        stream.write_u32(data.len() as u32).await.unwrap();
        stream.write_all(data).await.unwrap();
    }

    fn go(name: &str) -> Vec<u8> {
        let mut data = (name.len() as u32).to_be_bytes().to_vec();
        data.extend(name.as_bytes());
        data.extend([0, 1, 0, 3]);
        data
    }

    async fn request(stream: &mut UnixStream, command: u16, handle: u64, offset: u64, length: u32) {
        stream.write_u32(REQUEST_MAGIC).await.unwrap();
        stream.write_u16(0).await.unwrap();
        stream.write_u16(command).await.unwrap();
        stream.write_u64(handle).await.unwrap();
        stream.write_u64(offset).await.unwrap();
        stream.write_u32(length).await.unwrap();
    }

    async fn reply_head(stream: &mut UnixStream) -> (u32, u64) {
        assert_eq!(stream.read_u32().await.unwrap(), REPLY_MAGIC);
        (stream.read_u32().await.unwrap(), stream.read_u64().await.unwrap())
    }

    async fn connect(folder: &Path) -> (NbdServer, UnixStream) {
        let socket = folder.join("nbd");
        let server = NbdServer::listen(&socket).unwrap();
        assert_eq!(server.offer(Arc::new(Pattern(1_000_001))), "cd-7");
        let mut stream = UnixStream::connect(&socket).await.unwrap();
        assert_eq!(stream.read_u64().await.unwrap(), MAGIC);
        assert_eq!(stream.read_u64().await.unwrap(), OPTION_MAGIC);
        assert_eq!(stream.read_u16().await.unwrap(), 3);
        stream.write_u32(3).await.unwrap();
        (server, stream)
    }

    #[tokio::test]
    async fn many_random_ranges_under_way_at_once_are_the_right_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let (_server, mut stream) = connect(folder.path()).await;
        option(&mut stream, OPTION_GO, &go("cd-7")).await;
        let (kind, info) = option_reply(&mut stream, OPTION_GO).await;
        assert_eq!((kind, &info[2..10]), (REPLY_INFO, &1_000_001u64.to_be_bytes()[..]));
        assert_eq!(info[11] & 3, 3, "read-only");
        assert_eq!(
            option_reply(&mut stream, OPTION_GO).await.0,
            REPLY_INFO,
            "block sizes, as asked"
        );
        assert_eq!(option_reply(&mut stream, OPTION_GO).await.0, REPLY_ACK);

        let ranges: Vec<(u64, u32)> = (0..200)
            .map(|_| {
                let offset = rand::random_range(0..1_000_000u64);
                (offset, rand::random_range(1..=(1_000_001 - offset).min(70_000)) as u32)
            })
            .collect();
        let (mut reader, mut writer) = stream.into_split();
        let asked = ranges.clone();
        let asking = tokio::spawn(async move {
            for (handle, (offset, length)) in asked.into_iter().enumerate() {
                let mut bytes = REQUEST_MAGIC.to_be_bytes().to_vec();
                bytes.extend([0, 0, 0, 0]);
                bytes.extend((handle as u64).to_be_bytes());
                bytes.extend(offset.to_be_bytes());
                bytes.extend(length.to_be_bytes());
                writer.write_all(&bytes).await.unwrap();
            }
            writer
        });
        for _ in 0..ranges.len() {
            assert_eq!(reader.read_u32().await.unwrap(), REPLY_MAGIC);
            assert_eq!(reader.read_u32().await.unwrap(), 0);
            let (offset, length) = ranges[reader.read_u64().await.unwrap() as usize];
            let mut bytes = vec![0; length as usize];
            reader.read_exact(&mut bytes).await.unwrap();
            assert!(
                bytes.iter().zip(offset..).all(|(byte, at)| *byte == byte_at(at)),
                "{offset}+{length}"
            );
        }
        asking.await.unwrap();
    }

    #[tokio::test]
    async fn what_is_not_there_or_not_allowed_is_an_error_and_the_connection_lives() {
        let folder = tempfile::tempdir().unwrap();
        let (_server, mut stream) = connect(folder.path()).await;
        option(&mut stream, 99, b"?").await;
        assert_eq!(option_reply(&mut stream, 99).await.0, REPLY_UNSUPPORTED);
        option(&mut stream, OPTION_GO, &[0, 0, 0, 9, 1]).await;
        assert_eq!(option_reply(&mut stream, OPTION_GO).await.0, REPLY_INVALID);
        option(&mut stream, OPTION_GO, &go("cd-8")).await;
        assert_eq!(option_reply(&mut stream, OPTION_GO).await.0, REPLY_UNKNOWN);
        option(&mut stream, OPTION_LIST, &[]).await;
        assert_eq!(
            option_reply(&mut stream, OPTION_LIST).await,
            (REPLY_SERVER, b"\0\0\0\x04cd-7".to_vec())
        );
        assert_eq!(option_reply(&mut stream, OPTION_LIST).await.0, REPLY_ACK);
        option(&mut stream, OPTION_EXPORT_NAME, b"cd-7").await;
        assert_eq!(stream.read_u64().await.unwrap(), 1_000_001);
        stream.read_u16().await.unwrap();

        request(&mut stream, COMMAND_READ, 1, 1_000_000, 2).await;
        assert_eq!(reply_head(&mut stream).await, (EIO, 1), "behind the end");
        request(&mut stream, COMMAND_WRITE, 2, 0, 3).await;
        stream.write_all(b"abc").await.unwrap();
        assert_eq!(reply_head(&mut stream).await, (EPERM, 2));
        request(&mut stream, 77, 3, 0, 0).await;
        assert_eq!(reply_head(&mut stream).await, (EINVAL, 3));
        request(&mut stream, COMMAND_READ, 4, 0, READ_MAX + 1).await;
        assert_eq!(reply_head(&mut stream).await, (EINVAL, 4));
        request(&mut stream, COMMAND_READ, 5, 256, 1).await;
        assert_eq!(reply_head(&mut stream).await, (0, 5));
        assert_eq!(stream.read_u8().await.unwrap(), byte_at(256));
    }
}
