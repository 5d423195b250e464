//! A plane on a free port, a resolver of fixed paths, an observer that remembers, and a client that
//! sees every byte.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub, missing_docs)]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read as _, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use isobar_files::{Config, Denied, FilePlane, ImageResolver, Opened, Read, ReadObserver};
use isobar_image::{Base, BaseFile, BaseSpec, BlobDir, Content, FileRole, Image, OwnFile, Segment, plan};

pub struct Fixed(pub HashMap<String, Result<Opened, Denied>>);

impl ImageResolver for Fixed {
    fn open(&self, path: &str, _peer: IpAddr) -> Result<Opened, Denied> {
        assert_ne!(path, "/panic", "asked for");
        self.0.get(path).cloned().unwrap_or(Err(Denied::NotFound))
    }
}

#[derive(Default)]
pub struct Seen(pub Mutex<Vec<Read>>);

impl ReadObserver for Seen {
    fn seen(&self, read: Read) {
        self.0.lock().unwrap().push(read);
    }
}

pub struct Fixture {
    pub plane: FilePlane,
    pub seen: Arc<Seen>,
    pub blobs: Arc<BlobDir>,
    pub folder: tempfile::TempDir,
}

impl Fixture {
    pub fn addr(&self) -> SocketAddr {
        self.plane.local_addr()
    }
}

/// Starts a plane; `paths` may use the blob folder.
pub fn start(
    config: Config,
    paths: impl FnOnce(&Arc<BlobDir>) -> Vec<(&'static str, Result<Opened, Denied>)>,
) -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let blobs = Arc::new(BlobDir::open(folder.path()).unwrap());
    let paths = paths(&blobs)
        .into_iter()
        .map(|(path, what)| (path.to_owned(), what))
        .collect();
    let seen = Arc::new(Seen::default());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let plane = FilePlane::start(listener, config, Arc::new(Fixed(paths)), seen.clone(), blobs.clone()).unwrap();
    Fixture {
        plane,
        seen,
        blobs,
        folder,
    }
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

pub struct Client(pub BufReader<TcpStream>);

impl Client {
    pub fn connect(addr: SocketAddr) -> Self {
        let socket = TcpStream::connect(addr).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Self(BufReader::new(socket))
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.get_mut().write_all(bytes.as_ref()).unwrap();
    }

    pub fn ask(&mut self, method: &str, path: &str, headers: &str) -> Answer {
        self.send(format!("{method} {path} HTTP/1.1\r\nHost: t\r\n{headers}\r\n"));
        self.answer(method == "HEAD")
    }

    pub fn head_only(&mut self) -> (u16, HashMap<String, String>) {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        let status = line
            .split(' ')
            .nth(1)
            .unwrap_or_else(|| panic!("no status in {line:?}"))
            .parse()
            .unwrap();
        let mut headers = HashMap::new();
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).unwrap();
            match line.trim_end().split_once(": ") {
                Some((name, value)) => headers.insert(name.to_lowercase(), value.to_owned()),
                None => return (status, headers),
            };
        }
    }

    pub fn answer(&mut self, head: bool) -> Answer {
        let (status, headers) = self.head_only();
        let len = if head || status == 304 {
            0
        } else {
            headers["content-length"].parse().unwrap()
        };
        let mut body = vec![0; len];
        self.0.read_exact(&mut body).unwrap();
        Answer { status, headers, body }
    }

    /// Whether the server has closed, within the read timeout.
    pub fn closed(&mut self) -> bool {
        loop {
            return match self.0.fill_buf() {
                Ok(rest) => rest.is_empty(),
                // This process stood still for a while.
                Err(err) if err.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(err) => err.kind() == std::io::ErrorKind::ConnectionReset,
            };
        }
    }
}

/// Waits until `condition` holds; fails after 60 s.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < limit, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Bytes that differ everywhere, the same for the same seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// An image of these files of the base and these of the machine's own.
pub fn planned(blobs: &Arc<BlobDir>, files: Vec<BaseFile>, own: &[OwnFile]) -> Arc<Image> {
    let spec = BaseSpec {
        volume_id: "TEST".into(),
        files,
        bios_image: None,
        efi_image: None,
        catalog: "boot.catalog".into(),
        compact: false,
    };
    Arc::new(plan(&Arc::new(Base::build(&spec, blobs).unwrap()), own).unwrap())
}

/// A file of a base whose bytes are noise.
pub fn noisy(blobs: &BlobDir, path: &str, (seed, len): (u64, usize), role: FileRole) -> BaseFile {
    let (id, len) = blobs.import(&mut noise(seed, len).as_slice()).unwrap();
    BaseFile {
        path: path.into(),
        content: Content::Blob { id, len },
        role,
    }
}

/// The whole image, put together without the plane.
pub fn export(image: &Image, blobs: &BlobDir) -> Vec<u8> {
    use std::os::unix::fs::FileExt as _;
    let mut out = Vec::new();
    for piece in image.pieces(0..image.len()) {
        match piece.segment {
            Segment::Bytes(bytes) => out.extend_from_slice(&bytes),
            Segment::Zero { len } => out.resize(out.len() + len as usize, 0),
            Segment::Blob { id, offset, len } => {
                let start = out.len();
                out.resize(start + len as usize, 0);
                let file = blobs.file(&id).unwrap();
                file.read_exact_at(&mut out[start..], offset).unwrap();
            }
        }
    }
    out
}
