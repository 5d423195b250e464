//! Reads a disc as firmware and GRUB do: sector by sector, in their order, through a [`VirtualCd`].
//! Not a checker: it takes what it needs (ECMA-119, El Torito 1.0, Rock Ridge names).

use std::sync::Arc;

use bytes::Bytes;

use crate::medium::{ReadError, VirtualCd};

const SECTOR: u64 = 2048;
/// A directory larger than this is not one that a boot disc has.
const DIRECTORY_MAX: u32 = 4 << 20;
const CONTINUATIONS_MAX: usize = 16;

/// What is wrong with the disc.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum DiscError {
    /// The bytes did not come.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The disc is not what a boot needs.
    #[error("{0}")]
    Disc(String),
}

fn bad<T>(text: impl Into<String>) -> Result<T, DiscError> {
    Err(DiscError::Disc(text.into()))
}

/// Where a file lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// First byte.
    pub(crate) offset: u64,
    /// Bytes.
    pub(crate) length: u64,
}

struct Entry {
    name: String,
    directory: bool,
    extent: Extent,
}

/// An ISO9660 disc.
pub(crate) struct Disc {
    cd: Arc<dyn VirtualCd>,
    root: Extent,
    /// First sector of the El Torito catalog.
    catalog: Option<u32>,
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |b| u16::from_le_bytes([b[0], b[1]]))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

fn ascii(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches([' ', '\0']).to_owned()
}

impl Disc {
    /// Reads the volume descriptors (ECMA-119 §8).
    ///
    /// # Errors
    /// When the bytes do not come or there is no primary volume descriptor.
    pub(crate) async fn open(cd: Arc<dyn VirtualCd>) -> Result<Self, DiscError> {
        let (mut root, mut catalog) = (None, None);
        for sector in 16..48 {
            let bytes = cd.read_at(sector * SECTOR, 2048).await?;
            if bytes.get(1..6) != Some(b"CD001") {
                return bad(format!("sector {sector} is not a volume descriptor"));
            }
            match bytes[0] {
                0 if bytes[7..].starts_with(b"EL TORITO SPECIFICATION") => catalog = Some(u32_at(&bytes, 0x47)),
                1 => {
                    let (offset, length) = (u32_at(&bytes, 156 + 2), u32_at(&bytes, 156 + 10));
                    root = Some(Extent {
                        offset: u64::from(offset) * SECTOR,
                        length: length.into(),
                    });
                }
                255 => break,
                _ => {}
            }
        }
        match root {
            Some(root) => Ok(Self { cd, root, catalog }),
            None => bad("no primary volume descriptor"),
        }
    }

    /// The boot image for a platform (0: 80x86, 0xEF: EFI), El Torito §2.
    ///
    /// # Errors
    /// When the disc has none.
    pub(crate) async fn boot_image(&self, platform: u8) -> Result<Extent, DiscError> {
        let Some(catalog) = self.catalog else {
            return bad("no El Torito boot record");
        };
        let bytes = self.cd.read_at(u64::from(catalog) * SECTOR, 2048).await?;
        if bytes[0] != 1 || bytes[30..32] != [0x55, 0xAA] {
            return bad("the boot catalog has no validation entry");
        }
        if bytes[..32]
            .chunks(2)
            .fold(0u16, |sum, w| sum.wrapping_add(u16_at(w, 0)))
            != 0
        {
            return bad("the boot catalog's checksum is wrong");
        }
        let mut current = bytes[1];
        for entry in bytes[32..].chunks_exact(32) {
            match entry[0] {
                0x90 | 0x91 => current = entry[1],
                0x88 if current == platform => {
                    let sectors = u64::from(u16_at(entry, 6).max(1));
                    return Ok(Extent {
                        offset: u64::from(u32_at(entry, 8)) * SECTOR,
                        length: sectors * 512,
                    });
                }
                _ => {}
            }
        }
        bad(format!("the boot catalog has no entry for platform {platform:#04x}"))
    }

    async fn continuation(&self, area: &[u8], name: &mut Vec<u8>) -> Result<Option<Extent>, DiscError> {
        let (mut at, mut next) = (0, None);
        while area.len() >= at + 4 {
            let length = usize::from(area[at + 2]);
            if length < 4 || at + length > area.len() {
                break;
            }
            let field = &area[at..at + length];
            match &field[..2] {
                b"NM" if field.len() > 5 => name.extend_from_slice(&field[5..]),
                b"CE" if field.len() >= 28 => {
                    next = Some(Extent {
                        offset: u64::from(u32_at(field, 4)) * SECTOR + u64::from(u32_at(field, 12)),
                        length: u32_at(field, 20).min(2048).into(),
                    });
                }
                b"ST" => break,
                _ => {}
            }
            at += length;
        }
        Ok(next)
    }

    /// The Rock Ridge name of a record (RRIP §4.1.4), else its ISO name in small letters.
    async fn name(&self, record: &[u8]) -> Result<String, DiscError> {
        let length = usize::from(record[32]);
        let start = 33 + length + usize::from(length % 2 == 0);
        let mut name = Vec::new();
        let mut area = Bytes::copy_from_slice(record.get(start..).unwrap_or_default());
        for _ in 0..CONTINUATIONS_MAX {
            match self.continuation(&area, &mut name).await? {
                Some(next) => {
                    area = self
                        .cd
                        .read_at(next.offset, u32::try_from(next.length).unwrap_or(0))
                        .await?
                }
                None => break,
            }
        }
        if name.is_empty() {
            let iso = ascii(record.get(33..33 + length).unwrap_or_default()).to_ascii_lowercase();
            let iso = iso
                .split(';')
                .next()
                .unwrap_or_default()
                .trim_end_matches('.')
                .to_owned();
            return Ok(iso);
        }
        Ok(String::from_utf8_lossy(&name).into_owned())
    }

    async fn list(&self, directory: Extent) -> Result<Vec<Entry>, DiscError> {
        let length = u32::try_from(directory.length).unwrap_or(u32::MAX);
        if length > DIRECTORY_MAX {
            return bad(format!("a directory of {length} bytes"));
        }
        let bytes = self.cd.read_at(directory.offset, length).await?;
        let (mut entries, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            let length = usize::from(bytes[at]);
            if length == 0 {
                // Records do not cross sectors: the rest of this one is empty.
                at = (at / 2048 + 1) * 2048;
                continue;
            }
            let Some(record) = bytes.get(at..at + length).filter(|r| r.len() > 33) else {
                return bad("a directory record is cut short");
            };
            at += length;
            if record[32] == 1 && record[33] <= 1 {
                continue; // "." and ".."
            }
            let extent = Extent {
                offset: u64::from(u32_at(record, 2)) * SECTOR,
                length: u32_at(record, 10).into(),
            };
            entries.push(Entry {
                name: self.name(record).await?,
                directory: record[25] & 2 != 0,
                extent,
            });
        }
        Ok(entries)
    }

    /// Finds a file; path with or without a leading slash.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) async fn find(&self, path: &str) -> Result<Extent, DiscError> {
        let mut directory = self.root;
        let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
        for (n, part) in parts.iter().enumerate() {
            let entries = self.list(directory).await?;
            let Some(entry) = entries.into_iter().find(|e| e.name == *part) else {
                return bad(format!("no file {path} on the disc"));
            };
            match (n + 1 < parts.len(), entry.directory) {
                (true, true) => directory = entry.extent,
                (false, false) => return Ok(entry.extent),
                _ => return bad(format!("{path}: {part} is not what a path needs there")),
            }
        }
        bad("an empty path")
    }

    /// Reads a whole extent in pieces; keeps the bytes when they are at most `keep`.
    ///
    /// # Errors
    /// When the bytes do not come.
    pub(crate) async fn read(&self, extent: Extent, piece: u32, keep: u64) -> Result<Vec<u8>, DiscError> {
        let mut kept = Vec::new();
        let mut at = 0;
        while at < extent.length {
            let take = u32::try_from((extent.length - at).min(piece.max(512).into())).unwrap_or(piece);
            let bytes = self.cd.read_at(extent.offset + at, take).await?;
            if extent.length <= keep {
                kept.extend_from_slice(&bytes);
            }
            at += u64::from(take);
        }
        Ok(kept)
    }
}
