//! A reader of ISO9660 with Rock Ridge that shares nothing with the emitter: the tests' own judge.

#![allow(clippy::unwrap_used, unreachable_pub)]

use std::collections::{BTreeMap, BTreeSet};

/// A file as its records describe it.
#[derive(Debug)]
pub struct File {
    /// Sector and bytes of each extent.
    pub extents: Vec<(u32, u32)>,
    pub short: String,
}

impl File {
    pub fn len(&self) -> u64 {
        self.extents.iter().map(|(_, len)| u64::from(*len)).sum()
    }
}

#[derive(Debug)]
pub struct Volume {
    pub sectors: u32,
    pub files: BTreeMap<String, File>,
}

fn le32(b: &[u8]) -> u32 {
    u32::from_le_bytes(b[..4].try_into().unwrap())
}

/// Both halves of ECMA-119 §7.3.3 have to agree.
fn both32(b: &[u8]) -> u32 {
    let v = le32(b);
    assert_eq!(v, u32::from_be_bytes(b[4..8].try_into().unwrap()));
    v
}

#[derive(Clone)]
struct Directory {
    path: String,
    /// Sector and bytes.
    extent: (u32, u32),
    parent: (u32, u32),
    /// In the path table.
    number: u16,
}

struct Walk<'a> {
    read: &'a dyn Fn(u64, usize) -> Vec<u8>,
    files: BTreeMap<String, File>,
    /// Of each directory in the order of the path table: short name, sector, number of the parent.
    table: Vec<(Vec<u8>, u32, u16)>,
    queue: Vec<Directory>,
}

/// Reads a volume and checks everything that ECMA-119 says about what it has.
pub fn read(read: &dyn Fn(u64, usize) -> Vec<u8>) -> Volume {
    let pvd = read(16 * 2048, 2048);
    assert_eq!(pvd[..7], *b"\x01CD001\x01");
    assert_eq!(pvd[881], 1);
    let mut lba = 17;
    loop {
        let d = read(lba * 2048, 2048);
        assert_eq!(d[1..7], *b"CD001\x01");
        match d[0] {
            0 => lba += 1,
            255 => break,
            kind => panic!("descriptor of type {kind}"),
        }
    }
    let root = (both32(&pvd[158..]), both32(&pvd[166..]));
    let mut walk = Walk {
        read,
        files: BTreeMap::new(),
        table: vec![(vec![0], root.0, 1)],
        queue: vec![Directory {
            path: String::new(),
            extent: root,
            parent: root,
            number: 1,
        }],
    };
    let mut next = 0;
    while next < walk.queue.len() {
        let directory = walk.queue[next].clone();
        walk.directory(&directory);
        next += 1;
    }
    walk.check_path_tables(&pvd);
    Volume {
        sectors: both32(&pvd[80..]),
        files: walk.files,
    }
}

impl Walk<'_> {
    fn directory(&mut self, directory: &Directory) {
        let (path, number) = (&directory.path, directory.number);
        let (lba, len) = directory.extent;
        assert!(len > 0 && len.is_multiple_of(2048), "{path}: {len}");
        let sectors = (self.read)(u64::from(lba) * 2048, len as usize);
        let mut last: Option<Vec<u8>> = None;
        let mut names = BTreeSet::new();
        let mut count = 0;
        let mut open: Option<(String, File)> = None;
        for sector in sectors.chunks(2048) {
            let mut at = 0;
            while at < 2048 && sector[at] != 0 {
                let record = &sector[at..at + usize::from(sector[at])];
                at += record.len();
                assert_eq!(record.len() % 2, 0);
                let extent = (both32(&record[2..]), both32(&record[10..]));
                let identifier = &record[33..33 + usize::from(record[32])];
                let is_directory = record[25] & 2 != 0;
                let name = self.rock_ridge_name(record, number == 1 && count == 0);
                count += 1;
                match count {
                    1 => assert_eq!((identifier, extent), (&[0][..], (lba, len)), ". of {path}"),
                    2 => assert_eq!((identifier, extent), (&[1][..], directory.parent), ".. of {path}"),
                    _ => {
                        let key = sort_key(identifier, is_directory);
                        let again = open.is_some();
                        assert!(
                            last.as_ref().is_none_or(|l| if again { *l == key } else { *l < key }),
                            "{path}: order at {name}"
                        );
                        last = Some(key);
                        let child = if path.is_empty() {
                            name
                        } else {
                            format!("{path}/{name}")
                        };
                        if is_directory {
                            assert!(names.insert(child.clone()), "{child} twice");
                            self.queue.push(Directory {
                                path: child,
                                extent,
                                parent: directory.extent,
                                number: self.table.len() as u16 + 1,
                            });
                            self.table.push((identifier.to_vec(), extent.0, number));
                            continue;
                        }
                        let (child_open, mut file) = open.take().unwrap_or_else(|| {
                            assert!(names.insert(child.clone()), "{child} twice");
                            let short = String::from_utf8(identifier.to_vec()).unwrap();
                            let extents = Vec::new();
                            (child.clone(), File { extents, short })
                        });
                        assert_eq!(child_open, child);
                        file.extents.push(extent);
                        if record[25] & 0x80 != 0 {
                            open = Some((child, file));
                        } else {
                            self.files.insert(child, file);
                        }
                    }
                }
            }
            assert!(
                sector[at..].iter().all(|b| *b == 0),
                "{path}: bytes after the last record"
            );
        }
        assert!(open.is_none());
    }

    /// SUSP 1.12 and RRIP 1.12; checks what every record must have.
    fn rock_ridge_name(&self, record: &[u8], first: bool) -> String {
        let start = (33 + usize::from(record[32])).next_multiple_of(2);
        let mut area = record[start..].to_vec();
        let mut name = Vec::new();
        let mut seen = BTreeSet::new();
        let mut more = false;
        loop {
            let mut next = None;
            let mut at = 0;
            while at + 4 <= area.len() {
                let entry = &area[at..at + usize::from(area[at + 2])];
                at += entry.len();
                let signature = String::from_utf8_lossy(&entry[..2]).into_owned();
                match &entry[..2] {
                    b"NM" => {
                        name.extend_from_slice(&entry[5..]);
                        more = entry[4] == 1;
                    }
                    b"CE" => {
                        let (lba, offset, len) = (both32(&entry[4..]), both32(&entry[12..]), both32(&entry[20..]));
                        assert!(offset + len <= 2048, "a continuation area crosses a sector");
                        next = Some((self.read)(u64::from(lba) * 2048 + u64::from(offset), len as usize));
                    }
                    b"PX" => assert_eq!(both32(&entry[4..]) & 0o170_000 == 0o040_000, record[25] & 2 != 0),
                    b"SP" => assert_eq!(entry, b"SP\x07\x01\xBE\xEF\x00"),
                    b"TF" | b"RR" | b"ER" => {}
                    other => panic!("entry {other:?}"),
                }
                seen.insert(signature);
            }
            match next {
                Some(next_area) => area = next_area,
                None => break,
            }
        }
        assert!(!more, "a name goes on nowhere");
        assert!(seen.contains("PX") && seen.contains("TF"));
        assert_eq!(first, seen.contains("SP") && seen.contains("ER"));
        String::from_utf8(name).unwrap()
    }

    fn check_path_tables(&self, pvd: &[u8]) {
        let len = both32(&pvd[132..]) as usize;
        let (l, m) = (le32(&pvd[140..]), u32::from_be_bytes(pvd[148..152].try_into().unwrap()));
        for (lba, big) in [(l, false), (m, true)] {
            let table = (self.read)(u64::from(lba) * 2048, len);
            let mut at = 0;
            for (identifier, lba, parent) in &self.table {
                let row = &table[at..];
                let (row_lba, row_parent) = (row[2..6].try_into().unwrap(), row[6..8].try_into().unwrap());
                let found = if big {
                    (u32::from_be_bytes(row_lba), u16::from_be_bytes(row_parent))
                } else {
                    (u32::from_le_bytes(row_lba), u16::from_le_bytes(row_parent))
                };
                assert_eq!(found, (*lba, *parent));
                assert_eq!(row[8..8 + usize::from(row[0])], identifier[..]);
                at += 8 + identifier.len().next_multiple_of(2);
            }
            assert_eq!(at, len, "the path table has more rows than there are directories");
        }
    }
}

/// ECMA-119 §9.3: name and extension, padded with spaces.
fn sort_key(identifier: &[u8], directory: bool) -> Vec<u8> {
    let text = std::str::from_utf8(identifier).unwrap();
    let (stem, extension) = if directory {
        (text, "")
    } else {
        let (name, version) = text.split_once(';').unwrap();
        assert_eq!(version, "1");
        name.split_once('.').unwrap()
    };
    assert!(stem.len() + extension.len() <= 30 && !stem.is_empty(), "{text}");
    for c in stem.bytes().chain(extension.bytes()) {
        assert!(c.is_ascii_uppercase() || c.is_ascii_digit() || c == b'_', "{text}");
    }
    format!("{stem:<31}{extension:<31}").into_bytes()
}
