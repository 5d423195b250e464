//! Discs that others made: ECMA-119 directories with Rock Ridge names (IEEE P1282), else Joliet's, else as they are.

use std::collections::HashSet;

use super::{Tree, TreeError, TreeNode};
use crate::iso9660::{FIRST_DESCRIPTOR, SECTOR, SECTOR_USIZE};
use crate::vfs::ReadAt;

/// Descriptors that are looked at before the one that ends them.
const MAX_DESCRIPTORS: u32 = 64;
/// Bytes of one directory, and of all of them.
const MAX_DIRECTORY: u64 = 32 << 20;
const MAX_DIRECTORIES: u64 = 256 << 20;
/// Continuation areas of one record.
const MAX_CONTINUATIONS: usize = 32;
const MAX_DEPTH: usize = 64;

/// How the names on a disc are written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Names {
    /// System use fields begin so many bytes into their area (SUSP §5.3).
    RockRidge(usize),
    Joliet,
    Plain,
}

/// A directory that is still to be read.
struct Todo {
    path: String,
    lba: u32,
    len: u64,
    depth: usize,
}

fn damaged(what: impl Into<String>) -> TreeError {
    TreeError::Format(format!("is damaged: {}", what.into()))
}

pub(super) fn read(source: &dyn ReadAt) -> Result<Tree, TreeError> {
    let (mut primary, mut joliet) = (None, None);
    for n in 0..MAX_DESCRIPTORS {
        let mut sector = [0; SECTOR_USIZE];
        let at = u64::from(FIRST_DESCRIPTOR + n) * SECTOR;
        if at + SECTOR > source.len() {
            break;
        }
        source.read_at(&mut sector, at)?;
        // ECMA-119 §8.1.
        if &sector[1..6] != b"CD001" {
            break;
        }
        match sector[0] {
            1 if primary.is_none() => primary = Some(root_of(&sector)?),
            // Joliet: which level of UCS-2 does not matter here.
            2 if sector[88..90] == *b"%/" && matches!(sector[90], b'@' | b'C' | b'E') => {
                joliet = Some(root_of(&sector)?)
            }
            255 => break,
            _ => {}
        }
    }
    let primary = primary.ok_or_else(|| damaged("it has no primary volume descriptor"))?;
    let skip = rock_ridge(source, primary)?;
    let (names, root) = match (skip, joliet) {
        (Some(skip), _) => (Names::RockRidge(skip), primary),
        (None, Some(root)) => (Names::Joliet, root),
        (None, None) => (Names::Plain, primary),
    };
    let mut tree = Tree {
        folded: names == Names::Plain,
        ..Tree::default()
    };
    let (mut seen, mut total) = (HashSet::new(), 0);
    let mut todo = vec![Todo {
        path: String::new(),
        lba: root.0,
        len: root.1,
        depth: 0,
    }];
    while let Some(folder) = todo.pop() {
        // A directory that is its own descendant is read once.
        if !seen.insert(folder.lba) {
            continue;
        }
        total += folder.len;
        if folder.len > MAX_DIRECTORY || total > MAX_DIRECTORIES || folder.depth > MAX_DEPTH {
            return Err(TreeError::TooMuch("directories of a disc may".to_owned()));
        }
        let records = extent(source, folder.lba, folder.len, &folder.path)?;
        todo.extend(directory(source, &records, &folder, names, &mut tree)?);
    }
    Ok(tree)
}

/// Where the root directory lies: first block and length.
fn root_of(sector: &[u8]) -> Result<(u32, u64), TreeError> {
    // ECMA-119 §8.4.12, §8.4.18.
    if le16(sector, 128) != 2048 {
        let message = format!("has blocks of {} bytes instead of 2048", le16(sector, 128));
        return Err(TreeError::Format(message));
    }
    let record = &sector[156..190];
    Ok((
        le32(record, 2).saturating_add(u32::from(record[1])),
        u64::from(le32(record, 10)),
    ))
}

/// Whether system use fields are in use, and how far into their area they begin: the root's own record says so.
fn rock_ridge(source: &dyn ReadAt, (lba, len): (u32, u64)) -> Result<Option<usize>, TreeError> {
    let first = extent(source, lba, len.min(SECTOR), "")?;
    let Some(record) = first.first().and_then(|n| first.get(..usize::from(*n))) else {
        return Ok(None);
    };
    let area = system_use(record);
    Ok(match area {
        [b'S', b'P', length, _, 0xBE, 0xEF, skip, ..] if *length >= 7 => Some(usize::from(*skip)),
        _ => None,
    })
}

fn extent(source: &dyn ReadAt, lba: u32, len: u64, path: &str) -> Result<Vec<u8>, TreeError> {
    let (offset, end) = (u64::from(lba) * SECTOR, u64::from(lba) * SECTOR + len);
    if end > source.len() {
        return Err(TreeError::Short {
            path: format!("/{path}"),
            end,
            len: source.len(),
        });
    }
    let mut bytes = vec![0; usize::try_from(len).map_err(|_| damaged("a directory is too long"))?];
    source.read_at(&mut bytes, offset)?;
    Ok(bytes)
}

/// Adds what is in one directory; returns the directories in it.
fn directory(
    source: &dyn ReadAt,
    records: &[u8],
    folder: &Todo,
    names: Names,
    tree: &mut Tree,
) -> Result<Vec<Todo>, TreeError> {
    let mut below = Vec::new();
    // A file in several extents: where it began, and how long it is so far.
    let mut begun: Option<(u64, u64)> = None;
    let mut at = 0;
    while at < records.len() {
        let length = usize::from(records[at]);
        if length == 0 {
            // ECMA-119 §6.8.1.1: no record crosses a sector.
            at = (at / SECTOR_USIZE + 1) * SECTOR_USIZE;
            continue;
        }
        let record = records.get(at..at + length).filter(|record| record.len() >= 34);
        let record = record.ok_or_else(|| damaged(format!("a record of /{} is cut", folder.path)))?;
        at += length;
        let identifier = record
            .get(33..33 + usize::from(record[32]))
            .ok_or_else(|| damaged(format!("a name in /{} is cut", folder.path)))?;
        if matches!(identifier, [0 | 1]) {
            continue;
        }
        let fields = match names {
            Names::RockRidge(skip) => Fields::of(source, system_use(record).get(skip..).unwrap_or_default())?,
            Names::Joliet | Names::Plain => Fields::default(),
        };
        if fields.moved {
            continue;
        }
        let name = match (&fields.name, names) {
            (Some(name), _) => name.clone(),
            (None, Names::Joliet) => unversioned(&ucs2(identifier)).to_owned(),
            (None, _) => unversioned(&String::from_utf8_lossy(identifier))
                .trim_end_matches('.')
                .to_owned(),
        };
        if name.is_empty() || name.contains('/') || matches!(name.as_str(), "." | "..") {
            continue;
        }
        let path = match folder.path.as_str() {
            "" => name,
            parent => format!("{parent}/{name}"),
        };
        let (lba, len) = (
            le32(record, 2).saturating_add(u32::from(record[1])),
            u64::from(le32(record, 10)),
        );
        let flags = record[25];
        if let Some(target) = fields.link {
            tree.add(&path, TreeNode::Link(target))?;
        } else if flags & 0x02 != 0 || fields.child.is_some() {
            let (lba, len) = match fields.child {
                // RRIP §4.1.5: the directory was moved; its own first record knows its length.
                Some(child) => (child, u64::from(le32(&extent(source, child, SECTOR, &path)?, 10))),
                None => (lba, len),
            };
            tree.add(&path, TreeNode::Folder)?;
            below.push(Todo {
                path,
                lba,
                len,
                depth: folder.depth + 1,
            });
        } else {
            let offset = u64::from(lba) * SECTOR;
            let (start, length) = match begun.take() {
                None => (offset, len),
                Some((start, length)) if start + length == offset => (start, length + len),
                Some(_) => {
                    let message = format!("{path} lies in several places, which cannot be served as it lies");
                    return Err(TreeError::Format(message));
                }
            };
            if flags & 0x80 != 0 {
                begun = Some((start, length));
            } else {
                let node = TreeNode::File {
                    offset: start,
                    len: length,
                };
                tree.add(&path, node)?;
            }
        }
    }
    Ok(below)
}

/// What the system use fields of a record say.
#[derive(Default)]
struct Fields {
    name: Option<String>,
    link: Option<String>,
    /// First block of a directory that was moved.
    child: Option<u32>,
    /// It stands here only because it was moved.
    moved: bool,
}

impl Fields {
    fn of(source: &dyn ReadAt, area: &[u8]) -> Result<Self, TreeError> {
        let mut fields = Fields::default();
        let (mut name, mut link) = (Vec::new(), Link::default());
        let mut area = area.to_vec();
        for _ in 0..MAX_CONTINUATIONS {
            let mut next = None;
            let mut rest = area.as_slice();
            while let [a, b, length, _, ..] = rest {
                let (tag, length) = ([*a, *b], usize::from(*length));
                let Some(field) = rest.get(..length).filter(|field| field.len() >= 4) else {
                    break;
                };
                rest = &rest[length..];
                match &tag {
                    // NM: the flags say whether it is a name at all.
                    b"NM" if length >= 5 && field[4] & 0x06 == 0 => name.extend_from_slice(&field[5..]),
                    b"SL" if length >= 5 => link.add(&field[5..]),
                    b"CL" if length >= 8 => fields.child = Some(le32(field, 4)),
                    b"RE" => fields.moved = true,
                    b"CE" if length >= 28 => next = Some((le32(field, 4), le32(field, 12), le32(field, 20))),
                    b"ST" => break,
                    _ => {}
                }
            }
            let Some((block, offset, length)) = next else { break };
            let from = u64::from(block) * SECTOR + u64::from(offset);
            let len = u64::from(length).min(SECTOR);
            if from + len > source.len() {
                return Err(damaged("a continuation area lies behind its end"));
            }
            area = vec![0; usize::try_from(len).unwrap_or(0)];
            source.read_at(&mut area, from)?;
        }
        fields.name = (!name.is_empty()).then(|| String::from_utf8_lossy(&name).into_owned());
        fields.link = link.target;
        Ok(fields)
    }
}

/// The target of a symbolic link, which comes in components (RRIP §4.1.3).
#[derive(Default)]
struct Link {
    target: Option<String>,
    /// The last component goes on in the next one.
    open: bool,
}

impl Link {
    fn add(&mut self, components: &[u8]) {
        let mut rest = components;
        while let [flags, length, tail @ ..] = rest {
            let Some(bytes) = tail.get(..usize::from(*length)) else {
                return;
            };
            rest = &tail[usize::from(*length)..];
            let target = self.target.get_or_insert_default();
            if !(self.open || target.is_empty() || target.ends_with('/')) {
                target.push('/');
            }
            match flags & 0x0e {
                0x02 => target.push('.'),
                0x04 => target.push_str(".."),
                0x08 => target.push('/'),
                _ => target.push_str(&String::from_utf8_lossy(bytes)),
            }
            self.open = flags & 0x01 != 0;
        }
    }
}

fn system_use(record: &[u8]) -> &[u8] {
    let name = usize::from(record.get(32).copied().unwrap_or_default());
    // ECMA-119 §9.1.12: the identifier is padded to an even end.
    record.get(33 + name + (name + 1) % 2..).unwrap_or_default()
}

fn unversioned(name: &str) -> &str {
    name.rsplit_once(';').map_or(name, |(name, _)| name)
}

fn ucs2(bytes: &[u8]) -> String {
    let units = bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    char::decode_utf16(units).map(|c| c.unwrap_or('\u{fffd}')).collect()
}

fn le16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
