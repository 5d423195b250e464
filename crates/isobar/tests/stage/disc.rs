//! The file plane as a BMC sees it: one connection that is kept, ranges, and the volume that they make.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::ops::Range;

/// A connection to the file plane.
pub struct Disc {
    stream: BufReader<TcpStream>,
    path: String,
    /// Body of the last answer.
    pub body: Vec<u8>,
}

/// Head of an answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Head {
    pub status: u16,
    pub length: u64,
    pub range: Option<String>,
    pub etag: Option<String>,
}

impl Disc {
    /// Of an image's URL.
    pub fn open(url: &str) -> Self {
        let (host, path) = url.split_once("://").unwrap().1.split_once('/').unwrap();
        let stream = TcpStream::connect(host).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream: BufReader::with_capacity(1 << 16, stream),
            path: format!("/{path}"),
            body: Vec::new(),
        }
    }

    /// Sends a request and reads the head of its answer; of a body nothing yet.
    pub fn ask(&mut self, method: &str, range: Option<&str>) -> Head {
        let range = range.map(|r| format!("Range: bytes={r}\r\n")).unwrap_or_default();
        let request = format!("{method} {} HTTP/1.1\r\nHost: isobar\r\n{range}\r\n", self.path);
        self.stream.get_mut().write_all(request.as_bytes()).unwrap();
        let mut head = Head {
            status: 0,
            length: 0,
            range: None,
            etag: None,
        };
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.stream.read_line(&mut line).unwrap() > 0, "the server hung up");
            let text = line.trim_end();
            if text.is_empty() {
                return head;
            }
            if head.status == 0 {
                head.status = text.split(' ').nth(1).unwrap().parse().unwrap();
            } else if let Some((name, value)) = text.split_once(": ") {
                match name.to_ascii_lowercase().as_str() {
                    "content-length" => head.length = value.parse().unwrap(),
                    "content-range" => head.range = Some(value.to_owned()),
                    "etag" => head.etag = Some(value.to_owned()),
                    _ => {}
                }
            }
        }
    }

    /// The next bytes of the answer's body.
    pub fn read(&mut self, len: u64) {
        self.body.resize(usize::try_from(len).unwrap(), 0);
        self.stream.read_exact(&mut self.body).unwrap();
    }

    /// GET with its body.
    pub fn get(&mut self, range: Option<&str>) -> Head {
        let head = self.ask("GET", range);
        self.read(head.length);
        head
    }

    /// These bytes of the disc.
    pub fn bytes(&mut self, range: Range<u64>) -> &[u8] {
        let head = self.get(Some(&format!("{}-{}", range.start, range.end - 1)));
        assert_eq!((head.status, head.length), (206, range.end - range.start), "{range:?}");
        &self.body
    }

    /// A file of the ISO9660 tree by its short names: `BOOT/GRUB/GRUB.CFG`.
    pub fn file(&mut self, path: &str) -> Vec<u8> {
        let number = |b: &[u8]| u64::from(u32::from_le_bytes(b[..4].try_into().unwrap()));
        let volume = self.bytes(16 * 2048..17 * 2048).to_vec();
        assert_eq!(&volume[1..6], b"CD001");
        let mut extent = (number(&volume[158..]), number(&volume[166..]));
        for name in path.split('/') {
            let folder = self.bytes(extent.0 * 2048..extent.0 * 2048 + extent.1).to_vec();
            let records = folder.chunks(2048).flat_map(|sector| {
                let mut at = 0;
                std::iter::from_fn(move || {
                    let len = usize::from(*sector.get(at)?);
                    let record = sector.get(at..at + len).filter(|_| len > 0)?;
                    at += len;
                    Some(record)
                })
            });
            let found = records
                .map(|r| (&r[33..33 + usize::from(r[32])], number(&r[2..]), number(&r[10..])))
                .find(|(id, ..)| id.split(|b| *b == b';').next() == Some(name.as_bytes()));
            let (_, at, len) = found.unwrap_or_else(|| panic!("no {name} of {path}"));
            extent = (at, len);
        }
        self.bytes(extent.0 * 2048..extent.0 * 2048 + extent.1).to_vec()
    }
}
