//! The shared part of many images.

use std::collections::{BTreeSet, HashMap};
use std::io::{self, Read};

use bytes::Bytes;

use super::draft::Draft;
use super::layout::{TooLarge, role_of_rank};
use super::path::{self, PathError};
use crate::blob::{BlobDir, BlobId};
use crate::iso9660::name::Identifier;
use crate::iso9660::{FIRST_DESCRIPTOR, SECTOR, SECTOR_USIZE, Span, path_table, sectors};
use crate::vfs::{FileEntry, FileId, FileRole};
use crate::wire::{Reader, WireError, seal_of};

pub(super) const MAGIC: [u8; 8] = *b"ISOBASE\n";
pub(super) const VERSION: u16 = 1;
/// Name of the region of descriptors, path tables and directories.
pub(super) const METADATA: &str = "<metadata>";

/// SHA-256 over a base's canonical form; names the base.
pub type BaseDigest = BlobId;

/// Where a base's file comes from.
#[derive(Clone)]
pub enum Content {
    /// Held in the base itself: small files.
    Bytes(Bytes),
    /// A blob.
    Blob {
        /// Which.
        id: BlobId,
        /// Its length in bytes.
        len: u64,
    },
}

impl Content {
    /// Files up to this length (bytes) are better held in the base than in a blob of their own.
    pub const INLINE_MAX: u64 = 4096;

    /// Reads a file to its end: small ones into memory, others into `blobs`.
    ///
    /// # Errors
    /// Of reading, or of the blob folder.
    pub fn take_in(from: &mut dyn Read, blobs: &BlobDir) -> io::Result<Self> {
        let mut head = Vec::new();
        from.take(Self::INLINE_MAX + 1).read_to_end(&mut head)?;
        if head.len() as u64 <= Self::INLINE_MAX {
            return Ok(Self::Bytes(head.into()));
        }
        let (id, len) = blobs.import(&mut head.as_slice().chain(from))?;
        Ok(Self::Blob { id, len })
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Blob { len, .. } => *len,
        }
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "Bytes({} bytes)", bytes.len()),
            Self::Blob { id, len } => write!(f, "Blob({id}, {len} bytes)"),
        }
    }
}

/// A file of a base.
#[derive(Clone, Debug)]
pub struct BaseFile {
    /// Path on the disc, without leading slash: `boot/grub/fonts/unicode.pf2`.
    pub path: String,
    /// Its bytes.
    pub content: Content,
    /// What it is for.
    pub role: FileRole,
}

/// What a base is made of.
#[derive(Clone, Debug, Default)]
pub struct BaseSpec {
    /// ISO9660 volume identifier, at most 32 d-characters: `A`-`Z`, `0`-`9` and `_`.
    pub volume_id: String,
    /// All files. Folders are implied.
    pub files: Vec<BaseFile>,
    /// Path of the file that is the El Torito BIOS image (GRUB's eltorito core). It gets its boot
    /// information table (`-boot-info-table`) patched when the base is built. If GRUB's `boot_hybrid.img` is
    /// among the files of its folder, it becomes the boot code of images that are presented as a disk.
    pub bios_image: Option<String>,
    /// Path of the file that is the El Torito EFI image (a FAT file system; see [`crate::esp`]).
    pub efi_image: Option<String>,
    /// Path under which the boot catalog shows: `boot.catalog`. Not used when there is no boot image.
    pub catalog: String,
    /// Nobody boots from it, so nothing lies between its regions and after them: it is as small as ISO9660 lets it be.
    pub compact: bool,
}

/// Why a base cannot be built or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A path does not fit.
    #[error(transparent)]
    Path(#[from] PathError),
    /// Not at most 32 d-characters.
    #[error("\"{0}\" is no volume id: give 1 to 32 characters of A-Z, 0-9 and _")]
    VolumeId(String),
    /// A boot image that is not among the files.
    #[error("the {image} boot image \"{path}\" is not among the files of the base")]
    NoBootImage {
        /// `BIOS` or `EFI`.
        image: &'static str,
        /// What was asked for.
        path: String,
    },
    /// A boot image that cannot be one.
    #[error("the {image} boot image \"{path}\" has {len} bytes; it needs {needs}")]
    BootImageSize {
        /// `BIOS` or `EFI`.
        image: &'static str,
        /// Which.
        path: String,
        /// Its length in bytes.
        len: u64,
        /// The limit that it breaks.
        needs: String,
    },
    /// The BIOS image's blob cannot be read.
    #[error("the boot image \"{path}\" cannot be read")]
    Blob {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// More folders than a path table can number.
    #[error("{0} folders are more than an ISO9660 volume can have ({max})", max = path_table::MAX_ROWS)]
    TooManyFolders(usize),
    /// More than 8 TiB.
    #[error("the disc would be larger than 8 TiB")]
    TooLarge,
    /// Stored bytes that are no base.
    #[error("these bytes are not a base: {0}")]
    Damaged(&'static str),
    /// Stored by a newer Isobar.
    #[error("this base has format version {0}, this Isobar knows version {VERSION}: import its bundle again")]
    Version(u16),
}

impl From<TooLarge> for BuildError {
    fn from(_: TooLarge) -> Self {
        Self::TooLarge
    }
}

impl From<WireError> for BuildError {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Damaged(why) => Self::Damaged(why),
            WireError::Version(version) => Self::Version(version),
        }
    }
}

/// What a name in a directory stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    /// Index into [`Base::dirs`].
    Dir(u32),
    /// Index into [`Base::files`].
    File(u32),
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: Box<str>,
    pub(super) identifier: Identifier,
    pub(super) node: Node,
}

#[derive(Debug)]
pub(super) struct Dir {
    pub(super) span: Span,
    /// Sectors from its first that nothing else uses.
    pub(super) room: u32,
    /// Its parent; the root is its own.
    pub(super) parent: u32,
    /// In order of identifiers.
    pub(super) entries: Vec<Entry>,
}

/// A run of bytes of a base.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    pub(super) offset: u64,
    pub(super) len: u64,
    /// Index into [`Base::files`].
    pub(super) file: u32,
    pub(super) source: Source,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Source {
    /// From this index of the canonical form.
    Inline(usize),
    Blob {
        id: BlobId,
        offset: u64,
    },
    Zero,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct PathTables {
    pub(super) l: u32,
    pub(super) m: u32,
    /// Sectors that each of them may take.
    pub(super) room: u32,
    /// Bytes of each of them.
    pub(super) len: u32,
}

/// The shared part of many images: immutable, named by its digest.
pub struct Base {
    /// The canonical form; metadata and small files are slices of it.
    bytes: Bytes,
    digest: BaseDigest,
    pub(super) sectors: u32,
    pub(super) files: Vec<FileEntry>,
    /// In order of offsets, without overlaps.
    pub(super) extents: Vec<Extent>,
    /// In the order of the path table: breadth first, siblings by identifier.
    pub(super) dirs: Vec<Dir>,
    pub(super) by_path: HashMap<Box<str>, Node>,
    pub(super) path_tables: PathTables,
    /// The sectors from [`FIRST_DESCRIPTOR`] to the end of the metadata.
    pub(super) metadata: Bytes,
}

impl std::fmt::Debug for Base {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Base")
            .field("digest", &self.digest)
            .field("sectors", &self.sectors)
            .field("files", &self.files.len())
            .finish_non_exhaustive()
    }
}

impl Base {
    /// Lays the disc out. `blobs` is read for the BIOS image only (its boot information table).
    ///
    /// # Errors
    /// Names that do not fit ISO9660, missing boot images, duplicate paths.
    pub fn build(spec: &BaseSpec, blobs: &BlobDir) -> Result<Self, BuildError> {
        let bytes = Draft::new(spec)?.write(spec, blobs)?;
        Ok(Self::decode(bytes.clone(), Reader::open_trusted(&bytes, MAGIC))?)
    }

    /// Its name.
    #[must_use]
    pub fn digest(&self) -> BaseDigest {
        self.digest
    }

    /// Everything but the blobs: what is kept in the store.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        self.bytes.clone()
    }

    /// The reverse of [`Base::to_bytes`].
    ///
    /// # Errors
    /// Not a base, or of a version that we do not know.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BuildError> {
        let bytes = Bytes::copy_from_slice(bytes);
        Ok(Self::decode(bytes.clone(), Reader::open(&bytes, MAGIC, VERSION)?)?)
    }

    /// Blobs it needs, sorted, each once.
    #[must_use]
    pub fn blobs(&self) -> Vec<BlobId> {
        let ids: BTreeSet<BlobId> = self
            .extents
            .iter()
            .filter_map(|extent| match extent.source {
                Source::Blob { id, .. } => Some(id),
                Source::Inline(_) | Source::Zero => None,
            })
            .collect();
        ids.into_iter().collect()
    }

    /// Its files as they lie on the disc.
    #[must_use]
    pub fn files(&self) -> &[FileEntry] {
        &self.files
    }

    /// One of its files.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<&FileEntry> {
        match self.by_path.get(path)? {
            Node::File(file) => self.files.get(*file as usize),
            Node::Dir(_) => None,
        }
    }

    pub(super) fn inline(&self, at: usize, len: usize) -> Bytes {
        self.bytes.slice(at..at + len)
    }

    /// The bytes of a file that is held in the base itself.
    pub(super) fn inline_file(&self, path: &str) -> Option<Bytes> {
        let Some(Node::File(file)) = self.by_path.get(path) else {
            return None;
        };
        let entry = &self.files[*file as usize];
        let first = self.extents.partition_point(|extent| extent.file < *file);
        match self.extents.get(first)? {
            Extent {
                file: of,
                len,
                source: Source::Inline(at),
                ..
            } if of == file && *len == entry.len => Some(self.inline(*at, *len as usize)),
            _ => None,
        }
    }

    /// A sector of the metadata.
    pub(super) fn metadata_sector(&self, lba: u32) -> &[u8] {
        let at = (lba - FIRST_DESCRIPTOR) as usize * SECTOR_USIZE;
        &self.metadata[at..at + SECTOR_USIZE]
    }

    /// First sector after the metadata.
    pub(super) fn metadata_end(&self) -> u32 {
        FIRST_DESCRIPTOR + (self.metadata.len() / SECTOR_USIZE) as u32
    }

    /// Takes the form apart; every number in it is checked, so that nothing later needs to.
    fn decode(bytes: Bytes, mut r: Reader<'_>) -> Result<Self, WireError> {
        let sectors = r.u32()?;
        let path_tables = PathTables {
            l: r.u32()?,
            m: r.u32()?,
            room: r.u32()?,
            len: r.u32()?,
        };
        let (mut files, extents) = decode_files(&mut r, sectors)?;
        let metadata = match extents[..] {
            [
                Extent {
                    offset: 0,
                    len,
                    file: 0,
                    source: Source::Zero,
                },
                Extent {
                    len: metadata,
                    file: 0,
                    source: Source::Inline(at),
                    ..
                },
                ..,
            ] if len == u64::from(FIRST_DESCRIPTOR) * SECTOR && metadata > 0 && metadata % SECTOR == 0 => {
                bytes.slice(at..at + metadata as usize)
            }
            _ => return Err(WireError::Damaged("the metadata is not where it belongs")),
        };
        if files.iter().skip(1).any(|file| file.role == FileRole::Metadata) {
            return Err(WireError::Damaged("two regions are metadata"));
        }
        let metadata_end = u64::from(FIRST_DESCRIPTOR) + sectors_of(&metadata);
        let within = |lba: u32, room: u32| {
            lba > FIRST_DESCRIPTOR && room > 0 && u64::from(lba) + u64::from(room) <= metadata_end
        };
        if !within(path_tables.l, path_tables.room)
            || !within(path_tables.m, path_tables.room)
            || u64::from(path_tables.len) > u64::from(path_tables.room) * SECTOR
        {
            return Err(WireError::Damaged("a path table lies outside of the metadata"));
        }
        let (dirs, by_path) = decode_dirs(&mut r, &mut files, within)?;
        r.end()?;
        Ok(Self {
            digest: BlobId(seal_of(&bytes)),
            bytes,
            sectors,
            files,
            extents,
            dirs,
            by_path,
            path_tables,
            metadata,
        })
    }
}

fn sectors_of(bytes: &[u8]) -> u64 {
    sectors(bytes.len() as u64)
}

fn decode_files(r: &mut Reader<'_>, total: u32) -> Result<(Vec<FileEntry>, Vec<Extent>), WireError> {
    const OVERLAP: WireError = WireError::Damaged("regions overlap or reach past the end");
    let count = r.count()?;
    let mut files = Vec::with_capacity(count.min(1 << 16));
    let mut extents = Vec::with_capacity(count.min(1 << 16));
    let mut end = 0;
    for id in 0..count {
        let role = role_of_rank(r.u8()?).ok_or(WireError::Damaged("an unknown role"))?;
        let start = u64::from(r.u32()?) * SECTOR;
        if start < end {
            return Err(OVERLAP);
        }
        end = start;
        for _ in 0..r.count()? {
            let kind = r.u8()?;
            let len = r.u64()?;
            let source = match kind {
                0 => Source::Zero,
                1 => {
                    let at = r.position();
                    r.raw(usize::try_from(len).map_err(|_| OVERLAP)?)?;
                    Source::Inline(at)
                }
                2 => Source::Blob {
                    id: BlobId(r.array()?),
                    offset: r.u64()?,
                },
                _ => return Err(WireError::Damaged("an unknown kind of content")),
            };
            if len == 0 {
                return Err(WireError::Damaged("an empty run of bytes"));
            }
            if let Source::Blob { offset, .. } = source {
                offset.checked_add(len).ok_or(OVERLAP)?;
            }
            extents.push(Extent {
                offset: end,
                len,
                // `count` is bounded by the length in bytes of the form.
                file: id as u32,
                source,
            });
            end = end.checked_add(len).ok_or(OVERLAP)?;
        }
        if end > u64::from(total) * SECTOR {
            return Err(OVERLAP);
        }
        files.push(FileEntry {
            id: FileId(id as u32),
            path: String::new(),
            offset: start,
            len: end - start,
            role,
        });
    }
    Ok((files, extents))
}

type Tree = (Vec<Dir>, HashMap<Box<str>, Node>);

/// Reads the directories and writes the paths of `files`.
fn decode_dirs(
    r: &mut Reader<'_>,
    files: &mut [FileEntry],
    within: impl Fn(u32, u32) -> bool,
) -> Result<Tree, WireError> {
    let count = r.count()?;
    if count == 0 || count > path_table::MAX_ROWS {
        return Err(WireError::Damaged("a wrong number of folders"));
    }
    let mut dirs: Vec<Dir> = Vec::with_capacity(count);
    let mut by_path = HashMap::with_capacity(files.len() + count);
    // Path of every folder that has been named; the root is known from the start.
    let mut names: Vec<Option<(String, u32)>> = vec![None; count];
    names[0] = Some((String::new(), 0));
    files[0].path = METADATA.to_owned();
    for id in 0..count {
        // A folder is named by its parent, which comes before it.
        let Some((prefix, parent)) = names[id].clone() else {
            return Err(WireError::Damaged("a folder without a parent"));
        };
        let span = Span {
            lba: r.u32()?,
            len: u64::from(r.u32()?),
        };
        let room = r.u32()?;
        if !within(span.lba, room) || span.len == 0 || span.len > u64::from(room) * SECTOR {
            return Err(WireError::Damaged("a folder lies outside of the metadata"));
        }
        let entries = r.count()?;
        let mut dir = Dir {
            span,
            room,
            parent,
            entries: Vec::with_capacity(entries.min(1 << 12)),
        };
        for _ in 0..entries {
            let name = r.text()?;
            let identifier = Identifier::from_stored(r.sized()?).ok_or(WireError::Damaged("a wrong short name"))?;
            let kind = r.u8()?;
            let index = r.u32()?;
            let path = if prefix.is_empty() {
                name.to_owned()
            } else {
                format!("{prefix}/{name}")
            };
            if name.contains('/') || path::check(&path).is_err() {
                return Err(WireError::Damaged("a wrong path"));
            }
            let node = match kind {
                0 => {
                    // All up to this one have a name, so that there are no cycles.
                    let slot = names.get_mut(index as usize).filter(|slot| slot.is_none());
                    *slot.ok_or(WireError::Damaged("a folder is in two places"))? = Some((path.clone(), id as u32));
                    Node::Dir(index)
                }
                1 => {
                    let file = files.get_mut(index as usize).filter(|file| file.path.is_empty());
                    file.ok_or(WireError::Damaged("a file is in two places"))?.path = path.clone();
                    Node::File(index)
                }
                _ => return Err(WireError::Damaged("an unknown kind of entry")),
            };
            if dir
                .entries
                .last()
                .is_some_and(|last: &Entry| last.identifier >= identifier)
            {
                return Err(WireError::Damaged("short names are not in order"));
            }
            if by_path.insert(path.into_boxed_str(), node).is_some() {
                return Err(WireError::Damaged("two files have one path"));
            }
            dir.entries.push(Entry {
                name: name.into(),
                identifier,
                node,
            });
        }
        dirs.push(dir);
    }
    if files.iter().any(|file| file.path.is_empty()) {
        return Err(WireError::Damaged("a file without a path"));
    }
    Ok((dirs, by_path))
}
