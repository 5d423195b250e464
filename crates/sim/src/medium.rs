//! The virtual CD: an inserted URL, read by HTTP ranges in one of several manners.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::{StatusCode, header};
use time::OffsetDateTime;
use tokio::sync::{OnceCell, watch};
use tokio::time::Instant;
use url::Url;

use crate::config::ms;
use crate::error::SimError;
use crate::fault::{FaultKind, Faults};
use crate::log::{Log, Read, ReadCause};
use crate::manners::{Manners, ReadManner};
use crate::nfs::{NfsError, NfsImage};

/// Pieces kept in memory per medium; a BMC has some MB for this.
const CACHE_BYTES: u64 = 32 << 20;
/// Nothing came for this long: the request is given up.
const IDLE: Duration = Duration::from_secs(10);
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// So often a read is tried at least.
const TRIES: u32 = 3;

/// Why the machine got no bytes.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// Ejected meanwhile.
    #[error("the medium was ejected")]
    Gone,
    /// Behind the end of the image.
    #[error("bytes {offset}+{length} are behind the end of the image ({size} bytes)")]
    Beyond {
        /// First byte asked for.
        offset: u64,
        /// Bytes asked for.
        length: u64,
        /// Size of the image.
        size: u64,
    },
    /// The image's server refused.
    #[error("the image's server answered {0}")]
    Status(u16),
    /// The NFS server refused.
    #[error("the NFS server answered {0}")]
    Nfs(u32),
    /// No usable answer.
    #[error("reading the image: {0}")]
    Http(String),
    /// The local copy failed.
    #[error("the copy of the image: {0}")]
    Copy(String),
}

impl ReadError {
    /// Not worth another try.
    fn is_final(&self) -> bool {
        match self {
            Self::Status(code) => (400..500).contains(code),
            // NFS3ERR_JUKEBOX: not now (RFC 1813 §2.6).
            Self::Http(_) | Self::Nfs(10_008) => false,
            _ => true,
        }
    }
}

/// A CD as the machine sees it.
#[async_trait]
pub(crate) trait VirtualCd: Send + Sync {
    /// Number of the medium, from 1; each insert gets its own.
    fn number(&self) -> u64;
    /// Bytes on it. Asks the image's server when nobody did yet.
    async fn size(&self) -> Result<u64, ReadError>;
    /// Reads `length` bytes at `offset` for the machine.
    async fn read_at(&self, offset: u64, length: u32) -> Result<Bytes, ReadError>;
}

#[derive(Default)]
struct Cache {
    blocks: BTreeMap<u64, Bytes>,
    order: VecDeque<u64>,
}

impl Cache {
    fn put(&mut self, block: u64, bytes: Bytes, max: usize) {
        if self.blocks.insert(block, bytes).is_none() {
            self.order.push_back(block);
        }
        while self.order.len() > max {
            if let Some(oldest) = self.order.pop_front() {
                self.blocks.remove(&oldest);
            }
        }
    }
}

/// An image inserted by URL.
pub(crate) struct Medium {
    number: u64,
    url: Url,
    client: reqwest::Client,
    manners: Manners,
    log: Arc<Log>,
    faults: Arc<Faults>,
    size: OnceCell<u64>,
    cache: Mutex<Cache>,
    /// One request to the image's server at a time, as BMCs do.
    line: tokio::sync::Mutex<()>,
    /// Of an image on an NFS share, while it works.
    share: tokio::sync::Mutex<Option<NfsImage>>,
    copy: OnceLock<File>,
    closed: watch::Sender<bool>,
    /// Bytes that the machine has read.
    taken: AtomicU64,
    /// Whether a window is being read ahead; one at a time.
    ahead: AtomicBool,
    /// For the task that does so.
    me: Weak<Self>,
}

/// The client for image URLs: no redirects, and any certificate or one alone.
pub(crate) fn client(certificate: Option<&Path>) -> Result<reqwest::Client, SimError> {
    let unusable = |error: reqwest::Error| SimError::Config(format!("HTTP client: {}", chain(&error)));
    let builder = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(Duration::from_secs(5))
        .no_proxy();
    let builder = match certificate {
        None => builder.danger_accept_invalid_certs(true),
        Some(path) => {
            let pem = std::fs::read(path).map_err(|source| SimError::io("read the certificate", path, source))?;
            builder.tls_certs_only([reqwest::Certificate::from_pem(&pem).map_err(unusable)?])
        }
    };
    builder.build().map_err(unusable)
}

impl Medium {
    pub(crate) fn new(
        number: u64,
        url: Url,
        client: reqwest::Client,
        manners: Manners,
        log: Arc<Log>,
        faults: Arc<Faults>,
    ) -> Arc<Self> {
        log.medium(number, url.as_str());
        Arc::new_cyclic(|me| Self {
            number,
            url,
            client,
            manners,
            log,
            faults,
            size: OnceCell::new(),
            cache: Mutex::default(),
            line: tokio::sync::Mutex::default(),
            share: tokio::sync::Mutex::default(),
            copy: OnceLock::new(),
            closed: watch::Sender::new(false),
            taken: AtomicU64::new(0),
            ahead: AtomicBool::new(false),
            me: me.clone(),
        })
    }

    /// What the manner does before InsertMedia is answered.
    pub(crate) async fn inserted(&self, folder: &Path) -> Result<(), ReadError> {
        match self.manners.read {
            ReadManner::Lazy => Ok(()),
            ReadManner::AtInsert | ReadManner::ReadAhead => {
                let size = self.size().await?;
                let first = size.min(u64::from(self.manners.block.max(2048)));
                self.fill(0, first, ReadCause::Insert).await
            }
            ReadManner::CopyAll => self.copy_all(folder).await,
        }
    }

    /// Whether it was ejected or lost.
    pub(crate) fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    /// Ends every read, now and later.
    pub(crate) fn close(&self) {
        self.closed.send_replace(true);
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn block(&self) -> u64 {
        u64::from(self.manners.block.max(2048))
    }

    /// Runs `work` unless the medium is ejected first.
    async fn while_in<T>(&self, work: impl Future<Output = Result<T, ReadError>>) -> Result<T, ReadError> {
        let mut closed = self.closed.subscribe();
        tokio::select! {
            biased;
            _ = closed.wait_for(|closed| *closed) => Err(ReadError::Gone),
            done = work => done,
        }
    }

    /// Tries until it works, is refused, or patience ends: not after the first tries, however long a loaded host took for
    /// them.
    async fn patiently<T, F>(&self, mut attempt: impl FnMut() -> F) -> Result<T, ReadError>
    where
        F: Future<Output = Result<T, ReadError>>,
    {
        let end = Instant::now() + ms(self.manners.read_patience_ms);
        let mut tries = 0;
        loop {
            tries += 1;
            match attempt().await {
                Err(error) if !error.is_final() && (Instant::now() < end || tries < TRIES) => {
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                done => return done,
            }
        }
    }

    /// One request; `sink` is given the body's pieces. Logged whatever happens.
    async fn request(
        &self,
        method: http::Method,
        range: Option<(u64, u64)>,
        cause: ReadCause,
        sink: impl FnMut(&[u8]) -> Result<(), ReadError> + Send,
    ) -> Result<(StatusCode, http::HeaderMap), ReadError> {
        let mut read = Read {
            at: OffsetDateTime::now_utc(),
            medium: self.number,
            cause,
            offset: range.map_or(0, |(start, _)| start),
            length: 0,
            status: None,
            error: None,
        };
        let done = self.request_inner(method, range, sink, &mut read).await;
        read.at = OffsetDateTime::now_utc();
        read.error = done.as_ref().err().map(ToString::to_string);
        self.log.read(read);
        done
    }

    async fn request_inner(
        &self,
        method: http::Method,
        range: Option<(u64, u64)>,
        mut sink: impl FnMut(&[u8]) -> Result<(), ReadError> + Send,
        read: &mut Read,
    ) -> Result<(StatusCode, http::HeaderMap), ReadError> {
        if let Some(mut met) = self
            .faults
            .meet_deed(|kind| matches!(kind, FaultKind::ReadError | FaultKind::ReadStall))
        {
            match met.kind {
                FaultKind::ReadStall => met.released().await,
                _ => return Err(ReadError::Http("connection lost (simulated fault)".into())),
            }
        }
        if self.url.scheme() == "nfs" {
            return self.read_share(method == http::Method::HEAD, range, sink, read).await;
        }
        let mut request = self
            .client
            .request(method, self.url.clone())
            .header(header::ACCEPT_ENCODING, "identity");
        if let Some((start, end)) = range {
            request = request.header(header::RANGE, format!("bytes={start}-{}", end - 1));
        }
        let http = |error: reqwest::Error| ReadError::Http(chain(&error.without_url()));
        let idle = |_| ReadError::Http(format!("nothing came for {} s", IDLE.as_secs()));
        let mut answer = tokio::time::timeout(IDLE, request.send())
            .await
            .map_err(idle)?
            .map_err(http)?;
        let status = answer.status();
        read.status = Some(status.as_u16());
        if !status.is_success() {
            return Err(ReadError::Status(status.as_u16()));
        }
        if range.is_some_and(|(start, _)| start > 0) && status != StatusCode::PARTIAL_CONTENT {
            return Err(ReadError::Http(format!(
                "the server answered {status} to a range request"
            )));
        }
        let wanted = range.map_or(u64::MAX, |(start, end)| end - start);
        let headers = answer.headers().clone();
        let started = Instant::now();
        while let Some(chunk) = tokio::time::timeout(IDLE, answer.chunk())
            .await
            .map_err(idle)?
            .map_err(http)?
        {
            let take = u64::try_from(chunk.len()).unwrap_or(u64::MAX).min(wanted - read.length);
            sink(&chunk[..usize::try_from(take).unwrap_or(chunk.len())])?;
            read.length += take;
            self.keep_to_rate(started, read.length).await;
            if read.length == wanted {
                break;
            }
        }
        Ok((status, headers))
    }

    /// The same from an NFS share: its attributes stand for the answer to HEAD.
    async fn read_share(
        &self,
        head: bool,
        range: Option<(u64, u64)>,
        mut sink: impl FnMut(&[u8]) -> Result<(), ReadError> + Send,
        read: &mut Read,
    ) -> Result<(StatusCode, http::HeaderMap), ReadError> {
        let failed = |error| match error {
            NfsError::Status(status) => ReadError::Nfs(status),
            NfsError::Lost(text) => ReadError::Http(format!("NFS: {text}")),
        };
        let idle = |_| ReadError::Http(format!("nothing came for {} s", IDLE.as_secs()));
        let mut share = self.share.lock().await;
        // Taken out for as long as it is used: what failed is mounted anew.
        let mut image = match share.take() {
            Some(image) => image,
            None => {
                let mounted = tokio::time::timeout(IDLE, NfsImage::mount(&self.url)).await;
                mounted.map_err(idle)?.map_err(failed)?
            }
        };
        let (start, end) = match range {
            _ if head => (0, 0),
            Some((start, end)) => (start, end.min(image.size)),
            None => (0, image.size),
        };
        let started = Instant::now();
        while start + read.length < end {
            let piece = image.read(start + read.length, end - start - read.length);
            let piece = tokio::time::timeout(IDLE, piece).await.map_err(idle)?.map_err(failed)?;
            if piece.is_empty() {
                return Err(ReadError::Http("NFS: the file ends before its size".to_owned()));
            }
            sink(&piece)?;
            read.length += piece.len() as u64;
            self.keep_to_rate(started, read.length).await;
        }
        let mut headers = http::HeaderMap::new();
        headers.insert(header::CONTENT_LENGTH, image.size.into());
        *share = Some(image);
        Ok((StatusCode::OK, headers))
    }

    async fn keep_to_rate(&self, started: Instant, length: u64) {
        if let Some(rate) = self.manners.rate_bps.filter(|rate| *rate > 0) {
            let due = Duration::from_secs_f64(length as f64 / rate as f64);
            tokio::time::sleep_until(started + due).await;
        }
    }

    async fn ask_size(&self) -> Result<u64, ReadError> {
        let (_, headers) = self
            .request(http::Method::HEAD, None, ReadCause::Probe, |_| Ok(()))
            .await?;
        let length = headers
            .get(header::CONTENT_LENGTH)
            .and_then(|v| v.to_str().ok())
            .and_then(|v| v.parse().ok());
        match length {
            Some(length) if length > 0 => Ok(length),
            _ => Err(ReadError::Http("HEAD gave no Content-Length".into())),
        }
    }

    /// Gets `start..end` (end clipped) into the cache.
    async fn fill(&self, start: u64, end: u64, cause: ReadCause) -> Result<(), ReadError> {
        let (size, block) = (self.size().await?, self.block());
        let _line = self.while_in(async { Ok(self.line.lock().await) }).await?;
        let last = end.min(size).div_ceil(block);
        let mut next = start / block;
        while next < last {
            if self.cache().blocks.contains_key(&next) {
                next += 1;
                continue;
            }
            let mut run = next + 1;
            while run < last && !self.cache().blocks.contains_key(&run) {
                run += 1;
            }
            let (from, to) = (next * block, (run * block).min(size));
            let bytes = self.while_in(self.patiently(|| self.range(from, to, cause))).await?;
            let max = usize::try_from(CACHE_BYTES / block).unwrap_or(16).max(16);
            let mut cache = self.cache();
            for (number, from) in (next..run).zip((0..).step_by(usize::try_from(block).unwrap_or(2048))) {
                let to = bytes.len().min(from + usize::try_from(block).unwrap_or(2048));
                cache.put(number, bytes.slice(from..to), max);
            }
            next = run;
        }
        Ok(())
    }

    async fn range(&self, start: u64, end: u64, cause: ReadCause) -> Result<Bytes, ReadError> {
        let wanted = usize::try_from(end - start).map_err(|_| ReadError::Http("range too long".into()))?;
        let mut bytes = BytesMut::with_capacity(wanted);
        self.request(http::Method::GET, Some((start, end)), cause, |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })
        .await?;
        if bytes.len() != wanted {
            return Err(ReadError::Http(format!("{} of {wanted} bytes came", bytes.len())));
        }
        Ok(bytes.freeze())
    }

    async fn copy_all(&self, folder: &Path) -> Result<(), ReadError> {
        let failed = |error: std::io::Error| ReadError::Copy(error.to_string());
        let path = folder.join(format!("medium-{}.img", self.number));
        let copy = self
            .while_in(self.patiently(|| async {
                let mut options = File::options();
                let mut file = options
                    .create(true)
                    .truncate(true)
                    .read(true)
                    .write(true)
                    .open(&path)
                    .map_err(failed)?;
                let (_, headers) = self
                    .request(http::Method::GET, None, ReadCause::Insert, |piece| {
                        file.write_all(piece).map_err(failed)
                    })
                    .await?;
                let length = file.metadata().map_err(failed)?.len();
                let promised: Option<u64> = headers
                    .get(header::CONTENT_LENGTH)
                    .and_then(|v| v.to_str().ok())
                    .and_then(|v| v.parse().ok());
                if promised.is_some_and(|promised| promised != length) || length == 0 {
                    return Err(ReadError::Http(format!(
                        "{length} bytes came, {promised:?} were promised"
                    )));
                }
                Ok((file, length))
            }))
            .await;
        // Open or failed, the name is not needed any more.
        let _ = std::fs::remove_file(&path);
        let (file, length) = copy?;
        // Set once: this runs once per medium.
        let _ = self.size.set(length);
        let _ = self.copy.set(file);
        Ok(())
    }

    async fn read_cached(&self, offset: u64, length: u32) -> Result<Bytes, ReadError> {
        let (block, end) = (self.block(), offset + u64::from(length));
        let mut bytes = BytesMut::with_capacity(length as usize);
        let mut at = offset;
        while at < end {
            let found = self.cache().blocks.get(&(at / block)).cloned();
            let Some(found) = found else {
                // In pieces that the cache can hold.
                self.fill(at, end.min(at + CACHE_BYTES / 4), ReadCause::Machine).await?;
                continue;
            };
            let skip = usize::try_from(at % block).unwrap_or(0);
            let take = found
                .len()
                .saturating_sub(skip)
                .min(usize::try_from(end - at).unwrap_or(usize::MAX));
            if take == 0 {
                return Err(ReadError::Http("short block".into()));
            }
            bytes.extend_from_slice(&found[skip..skip + take]);
            at += take as u64;
        }
        if self.manners.read == ReadManner::ReadAhead
            && !self.ahead.swap(true, Ordering::AcqRel)
            && let Some(me) = self.me.upgrade()
        {
            let window = end..end + u64::from(self.manners.window);
            tokio::spawn(async move {
                // What cannot be read ahead is read, and complained about, when it is needed.
                let _ = me.fill(window.start, window.end, ReadCause::Ahead).await;
                me.ahead.store(false, Ordering::Release);
            });
        }
        Ok(bytes.freeze())
    }
}

#[async_trait]
impl VirtualCd for Medium {
    fn number(&self) -> u64 {
        self.number
    }

    async fn size(&self) -> Result<u64, ReadError> {
        self.while_in(async {
            self.size
                .get_or_try_init(|| self.patiently(|| self.ask_size()))
                .await
                .copied()
        })
        .await
    }

    async fn read_at(&self, offset: u64, length: u32) -> Result<Bytes, ReadError> {
        let size = self.size().await?;
        let length_64 = u64::from(length);
        if offset.checked_add(length_64).is_none_or(|end| end > size) {
            return Err(ReadError::Beyond {
                offset,
                length: length_64,
                size,
            });
        }
        let taken = self.taken.fetch_add(length_64, Ordering::Relaxed);
        let is_due = |kind: &FaultKind| matches!(kind, FaultKind::MediaLostAt { bytes } if *bytes <= taken);
        if self.faults.meet_deed(is_due).is_some() {
            self.close();
            self.log.touch();
        }
        let bytes = match self.copy.get() {
            Some(file) => self.while_in(read_copy(file, offset, length)).await?,
            None => self.read_cached(offset, length).await?,
        };
        self.log.machine_read(self.number, offset, length_64);
        Ok(bytes)
    }
}

async fn read_copy(file: &File, offset: u64, length: u32) -> Result<Bytes, ReadError> {
    let failed = |error: String| ReadError::Copy(error);
    let file = file.try_clone().map_err(|e| failed(e.to_string()))?;
    tokio::task::spawn_blocking(move || {
        let mut bytes = vec![0; length as usize];
        file.read_exact_at(&mut bytes, offset).map(|()| Bytes::from(bytes))
    })
    .await
    .map_err(|e| failed(e.to_string()))?
    .map_err(|e| failed(e.to_string()))
}

/// An error with its causes: reqwest's own words alone say little.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
    use tokio::net::TcpListener;

    use super::*;

    /// Serves the bytes, whole or by range, one request a connection.
    async fn serve(content: Arc<Vec<u8>>) -> Url {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/x.iso", listener.local_addr().unwrap());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let content = Arc::clone(&content);
                tokio::spawn(async move {
                    let mut stream = BufReader::new(stream);
                    let (mut lines, mut line) = (Vec::new(), String::new());
                    while stream.read_line(&mut line).await.unwrap() > 2 {
                        lines.push(std::mem::take(&mut line).to_ascii_lowercase());
                    }
                    let range = lines.iter().find_map(|l| l.strip_prefix("range: bytes="));
                    let (status, body) = match range.and_then(|r| r.trim().split_once('-')) {
                        Some((from, to)) => (206, &content[from.parse().unwrap()..=to.parse().unwrap()]),
                        None => (200, &content[..]),
                    };
                    let length = body.len();
                    let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
                    stream.get_mut().write_all(head.as_bytes()).await.unwrap();
                    if lines[0].starts_with("get") {
                        stream.get_mut().write_all(body).await.unwrap();
                    }
                });
            }
        });
        Url::parse(&url).unwrap()
    }

    #[tokio::test]
    async fn every_range_is_the_images_own_in_every_manner() {
        let content: Arc<Vec<u8>> = Arc::new((0..300_007u32).map(|i| (i ^ (i >> 7)) as u8).collect());
        let url = serve(Arc::clone(&content)).await;
        let folder = tempfile::tempdir().unwrap();
        // As `start` does.
        let _ = rustls::crypto::ring::default_provider().install_default();
        for read in [
            ReadManner::Lazy,
            ReadManner::AtInsert,
            ReadManner::ReadAhead,
            ReadManner::CopyAll,
        ] {
            let manners = Manners {
                read,
                block: 4096,
                window: 20_000,
                ..Manners::instant()
            };
            let log = Arc::new(Log::default());
            let medium = Medium::new(
                1,
                url.clone(),
                client(None).unwrap(),
                manners,
                Arc::clone(&log),
                Arc::default(),
            );
            medium.inserted(folder.path()).await.unwrap();
            assert_eq!(medium.size().await.unwrap(), 300_007);
            let mut ranges: Vec<(usize, usize)> = vec![(0, 1), (0, 300_007), (4095, 2), (300_006, 1), (8192, 4096)];
            ranges.extend((0..100).map(|_| {
                let start = rand::random_range(0..300_007);
                (start, rand::random_range(0..=(300_007 - start).min(30_000)))
            }));
            for (start, length) in ranges {
                let bytes = medium.read_at(start as u64, length as u32).await.unwrap();
                assert!(bytes == content[start..start + length], "{read:?} {start}+{length}");
            }
            assert!(matches!(
                medium.read_at(300_000, 8).await,
                Err(ReadError::Beyond { .. })
            ));
            assert_eq!(log.media()[0].machine_covered, [(0, 300_007)].into());
            medium.close();
            assert!(
                matches!(medium.read_at(0, 1).await, Err(ReadError::Gone)),
                "{read:?}: ejected"
            );
        }
        assert_eq!(
            std::fs::read_dir(folder.path()).unwrap().count(),
            0,
            "copies have no name"
        );
    }
}
