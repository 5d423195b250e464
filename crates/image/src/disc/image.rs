//! Images: what a token serves.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::base::{Base, BaseDigest, Node, Source};
use super::layout::{rank, role_of_rank};
use super::planner::PlanError;
use super::reader;
use crate::blob::{BlobDir, BlobId};
use crate::iso9660::{SECTOR, SECTOR_USIZE};
use crate::vfs::{FileEntry, FileId, FileRole, Piece, Segment};
use crate::wire::{Reader, WireError, Writer, seal_of};

const MAGIC: [u8; 8] = *b"ISODELTA";
/// Since 2 a delta may replace sectors of the system area.
const VERSION: u16 = 2;
/// Name of the region of directories and path tables that have no room in the base.
const OWN_METADATA: &str = "<own metadata>";

/// What goes into a delta.
pub(super) struct Delta<'a> {
    pub(super) base: BaseDigest,
    pub(super) sectors: u32,
    /// Indexes of the base's files that are not in the tree any more, sorted.
    pub(super) replaced: &'a [u32],
    /// Sectors of the system area and the base's metadata.
    pub(super) patches: &'a BTreeMap<u32, Vec<u8>>,
    /// First sector of `tail`.
    pub(super) tail_at: u32,
    /// Sectors of metadata after the base.
    pub(super) tail: &'a [u8],
    /// In the order of the disc.
    pub(super) own: &'a [OwnRegion<'a>],
}

pub(super) struct OwnRegion<'a> {
    pub(super) path: &'a str,
    pub(super) role: FileRole,
    pub(super) lba: u32,
    pub(super) bytes: &'a [u8],
}

pub(super) fn seal(delta: &Delta<'_>) -> Bytes {
    let own: usize = delta.own.iter().map(|own| own.path.len() + own.bytes.len() + 32).sum();
    let capacity = 64 + delta.patches.len() * (SECTOR_USIZE + 4) + delta.tail.len() + own;
    let mut w = Writer::new(MAGIC, VERSION, capacity);
    w.raw(&delta.base.0);
    w.u32(delta.sectors);
    w.count(delta.replaced.len());
    for file in delta.replaced {
        w.u32(*file);
    }
    w.count(delta.patches.len());
    for (lba, sector) in delta.patches {
        w.u32(*lba);
        w.raw(sector);
    }
    w.u32(delta.tail_at);
    w.sized(delta.tail);
    w.count(delta.own.len());
    for own in delta.own {
        w.sized(own.path.as_bytes());
        w.u8(rank(own.role));
        w.u32(own.lba);
        w.sized(own.bytes);
    }
    w.seal()
}

/// A run of bytes of the delta.
struct Region {
    /// First byte on the disc.
    offset: u64,
    /// Where its bytes lie in the delta.
    at: Range<usize>,
    kind: RegionKind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum RegionKind {
    /// Replaces sectors of the system area or the base's metadata.
    Patch,
    /// Metadata or a file after the base; counted from the first one.
    Tail(u32),
}

impl Region {
    fn len(&self) -> u64 {
        self.at.len() as u64
    }

    fn end(&self) -> u64 {
        self.offset + self.len()
    }
}

struct OwnEntry {
    /// Where its path lies in the delta; none for the metadata.
    path: Option<Range<usize>>,
    offset: u64,
    len: u64,
    role: FileRole,
}

/// A disc that can be read at any range at any time.
pub struct Image {
    base: Arc<Base>,
    delta: Bytes,
    sectors: u32,
    etag: String,
    /// Indexes of the base's files that are not in the tree any more, sorted.
    replaced: Vec<u32>,
    /// Patches, then the tail: in order of offsets, without overlaps, none empty.
    regions: Vec<Region>,
    own: Vec<OwnEntry>,
    /// Made when asked for: most of it repeats the base's.
    files: OnceLock<Arc<[FileEntry]>>,
}

/// Without the delta: it holds the machine's boot secret.
impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Image")
            .field("base", &self.base.digest())
            .field("etag", &self.etag)
            .field("len", &self.len())
            .field("delta", &self.delta.len())
            .finish_non_exhaustive()
    }
}

impl Image {
    /// Length in bytes; a multiple of 2048.
    #[must_use]
    pub fn len(&self) -> u64 {
        u64::from(self.sectors) * SECTOR
    }

    /// Never: a disc has descriptors.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Strong entity tag without quotes: changes when any byte does.
    #[must_use]
    pub fn etag(&self) -> &str {
        &self.etag
    }

    /// The base it stands on.
    #[must_use]
    pub fn base(&self) -> &Arc<Base> {
        &self.base
    }

    /// Blobs that must stay while this image can be read: the base's. The delta needs none.
    #[must_use]
    pub fn blobs(&self) -> Vec<BlobId> {
        self.base.blobs()
    }

    /// Files and metadata regions, ordered by offset. A file of the base that an own file replaces is
    /// not among them.
    #[must_use]
    pub fn files(&self) -> &[FileEntry] {
        self.listed()
    }

    /// [`Image::files`], for those who outlive the image.
    pub(crate) fn listed(&self) -> &Arc<[FileEntry]> {
        self.files.get_or_init(|| {
            let kept = (0_u32..)
                .zip(&self.base.files)
                .filter(|(index, _)| self.replaced.binary_search(index).is_err())
                .map(|(_, file)| file.clone());
            let own = self.own.iter().map(|own| FileEntry {
                id: FileId(0),
                path: match &own.path {
                    // Decoding checked that it is UTF-8.
                    Some(path) => String::from_utf8_lossy(&self.delta[path.clone()]).into_owned(),
                    None => OWN_METADATA.to_owned(),
                },
                offset: own.offset,
                len: own.len,
                role: own.role,
            });
            let mut files: Vec<FileEntry> = kept.chain(own).collect();
            for (id, file) in (0..).zip(&mut files) {
                file.id = FileId(id);
            }
            files.into()
        })
    }

    /// The file at `path`: the machine's own, or else the base's.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<&FileEntry> {
        let own = self.own.iter().position(|own| {
            own.path
                .as_ref()
                .is_some_and(|at| self.delta[at.clone()] == *path.as_bytes())
        });
        let id = match own {
            Some(n) => self.own_id(n as u32),
            None => match self.base.by_path.get(path)? {
                Node::File(file) => self.base_id(*file)?,
                Node::Dir(_) => return None,
            },
        };
        self.files().get(id.0 as usize)
    }

    /// The pieces of a range, in order, without gaps; the range is cut at the end of the disc.
    #[must_use]
    pub fn pieces(&self, range: Range<u64>) -> Vec<Piece> {
        self.iter(range).collect()
    }

    /// As [`Image::pieces`], one at a time.
    pub fn iter(&self, range: Range<u64>) -> impl Iterator<Item = Piece> + '_ {
        let end = range.end.min(self.len());
        let at = range.start.min(end);
        Pieces {
            image: self,
            at,
            end,
            region: self.regions.partition_point(|region| region.end() <= at),
            extent: self.base.extents.partition_point(|e| e.offset + e.len <= at),
        }
    }

    /// Writes the whole disc: the same bytes that its ranges have.
    ///
    /// # Errors
    /// Of writing; of a blob that is missing or shorter than it should be, with the file's path.
    pub fn export(&self, blobs: &BlobDir, to: &mut dyn Write) -> io::Result<()> {
        self.write_range(0..self.len(), blobs, to)
    }

    /// Writes a range (cut at the end of the disc), for instance that of one of [`Image::files`].
    ///
    /// # Errors
    /// As of [`Image::export`].
    pub fn write_range(&self, range: Range<u64>, blobs: &BlobDir, to: &mut dyn Write) -> io::Result<()> {
        for piece in self.iter(range) {
            reader::write_piece(self, &piece, blobs, to)?;
        }
        Ok(())
    }

    /// The delta's bytes: with the base, all that is needed to serve the same bytes for ever.
    #[must_use]
    pub fn delta(&self) -> Bytes {
        self.delta.clone()
    }

    /// The reverse of [`Image::delta`].
    ///
    /// # Errors
    /// Damaged bytes, or the delta of another base.
    pub fn from_delta(base: Arc<Base>, delta: &[u8]) -> Result<Self, PlanError> {
        let delta = Bytes::copy_from_slice(delta);
        let mut r = Reader::open(&delta, MAGIC, VERSION)?;
        let wanted = BlobId(r.array()?);
        if wanted != base.digest() {
            return Err(PlanError::OtherBase {
                wanted,
                given: base.digest(),
            });
        }
        Ok(Self::decode(base, delta.clone(), r)?)
    }

    /// The image of a delta that was sealed a moment ago.
    pub(super) fn from_sealed(base: Arc<Base>, delta: Bytes) -> Result<Self, WireError> {
        let mut r = Reader::open_trusted(&delta, MAGIC);
        r.array::<32>()?;
        Self::decode(base, delta.clone(), r)
    }

    /// Takes the form apart after the digest of its base; every number in it is checked, so that
    /// nothing later needs to.
    fn decode(base: Arc<Base>, delta: Bytes, mut r: Reader<'_>) -> Result<Self, WireError> {
        const OUTSIDE: WireError = WireError::Damaged("regions overlap or lie outside of the disc");
        let sectors = r.u32()?;
        if sectors < base.sectors {
            return Err(OUTSIDE);
        }
        let mut replaced: Vec<u32> = Vec::new();
        for _ in 0..r.count()? {
            let file = r.u32()?;
            let sorted = replaced.last().is_none_or(|last| *last < file);
            // File 0 is the metadata.
            if !sorted || file == 0 || file as usize >= base.files.len() {
                return Err(WireError::Damaged("a wrong list of replaced files"));
            }
            replaced.push(file);
        }
        let mut regions: Vec<Region> = Vec::new();
        let mut first_free = 0;
        for _ in 0..r.count()? {
            let lba = r.u32()?;
            if lba < first_free || lba >= base.metadata_end() {
                return Err(OUTSIDE);
            }
            first_free = lba + 1;
            let at = r.position();
            r.raw(SECTOR_USIZE)?;
            regions.push(Region {
                offset: u64::from(lba) * SECTOR,
                at: at..at + SECTOR_USIZE,
                kind: RegionKind::Patch,
            });
        }
        let mut own: Vec<OwnEntry> = Vec::new();
        let mut end = u64::from(base.sectors) * SECTOR;
        let mut add = |path, role, lba: u32, at: Range<usize>| {
            let offset = u64::from(lba) * SECTOR;
            let len = at.len() as u64;
            if offset < end || offset + len > u64::from(sectors) * SECTOR {
                return Err(OUTSIDE);
            }
            end = offset + len;
            if len > 0 {
                regions.push(Region {
                    offset,
                    at,
                    kind: RegionKind::Tail(own.len() as u32),
                });
            }
            own.push(OwnEntry {
                path,
                offset,
                len,
                role,
            });
            Ok(())
        };
        let tail_at = r.u32()?;
        let tail = r.sized()?.len();
        if tail > 0 {
            add(None, FileRole::Metadata, tail_at, r.position() - tail..r.position())?;
        }
        for _ in 0..r.count()? {
            let path = r.text()?.len();
            let path = r.position() - path..r.position();
            let role = role_of_rank(r.u8()?).ok_or(WireError::Damaged("an unknown role"))?;
            let lba = r.u32()?;
            let len = r.sized()?.len();
            add(Some(path), role, lba, r.position() - len..r.position())?;
        }
        r.end()?;
        Ok(Self {
            etag: hex::encode(&seal_of(&delta)[..16]),
            base,
            delta,
            sectors,
            replaced,
            regions,
            own,
            files: OnceLock::new(),
        })
    }

    /// The id of one of the base's files; none when it was replaced.
    fn base_id(&self, file: u32) -> Option<FileId> {
        match self.replaced.binary_search(&file) {
            Ok(_) => None,
            Err(before) => Some(FileId(file - before as u32)),
        }
    }

    fn own_id(&self, n: u32) -> FileId {
        FileId((self.base.files.len() - self.replaced.len()) as u32 + n)
    }
}

/// Walks the delta's regions and the base's extents side by side; the delta's win.
struct Pieces<'a> {
    image: &'a Image,
    at: u64,
    end: u64,
    /// First region that ends after `at`.
    region: usize,
    /// First extent that ends after `at`.
    extent: usize,
}

impl Iterator for Pieces<'_> {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        if self.at >= self.end {
            return None;
        }
        let image = self.image;
        let at = self.at;
        let mut end = self.end;
        let region = image.regions.get(self.region);
        let extent = image.base.extents.get(self.extent);
        let (file, segment) = if let Some(region) = region.filter(|r| r.offset <= at) {
            end = end.min(region.end());
            let from = region.at.start + (at - region.offset) as usize;
            let file = match region.kind {
                RegionKind::Patch => FileId(0),
                RegionKind::Tail(n) => image.own_id(n),
            };
            let bytes = image.delta.slice(from..from + (end - at) as usize);
            (Some(file), Segment::Bytes(bytes))
        } else {
            if let Some(region) = region {
                end = end.min(region.offset);
            }
            if let Some(extent) = extent.filter(|e| e.offset <= at) {
                end = end.min(extent.offset + extent.len);
                let skip = at - extent.offset;
                let len = end - at;
                let segment = match extent.source {
                    Source::Inline(from) => Segment::Bytes(image.base.inline(from + skip as usize, len as usize)),
                    Source::Blob { id, offset } => Segment::Blob {
                        id,
                        offset: offset + skip,
                        len,
                    },
                    Source::Zero => Segment::Zero { len },
                };
                (image.base_id(extent.file), segment)
            } else {
                if let Some(extent) = extent {
                    end = end.min(extent.offset);
                }
                (None, Segment::Zero { len: end - at })
            }
        };
        self.at = end;
        if region.is_some_and(|r| r.end() <= end) {
            self.region += 1;
        }
        while image
            .base
            .extents
            .get(self.extent)
            .is_some_and(|e| e.offset + e.len <= end)
        {
            self.extent += 1;
        }
        Some(Piece {
            offset: at,
            file,
            segment,
        })
    }
}
