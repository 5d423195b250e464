//! Bases and images.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::blob::{BlobDir, BlobId};
use crate::vfs::{FileEntry, FileRole, Piece};

/// SHA-256 over a base's canonical form; names the base.
pub type BaseDigest = BlobId;

/// Where a base's file comes from.
#[derive(Clone, Debug)]
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
    /// ISO9660 volume identifier, at most 32 d-characters.
    pub volume_id: String,
    /// All files. Folders are implied.
    pub files: Vec<BaseFile>,
    /// Path of the file that is the El Torito BIOS image (GRUB's eltorito core). It gets its boot
    /// information table (`-boot-info-table`) patched when the base is built.
    pub bios_image: Option<String>,
    /// Path of the file that is the El Torito EFI image (a FAT file system).
    pub efi_image: Option<String>,
    /// Path under which the boot catalog shows: `boot.catalog`.
    pub catalog: String,
}

/// Why a base cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// Nothing to see here yet.
    #[error("{0}")]
    Invalid(String),
}

/// Why an image cannot be planned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// Nothing to see here yet.
    #[error("{0}")]
    Invalid(String),
}

/// The shared part of many images: immutable, named by its digest.
#[derive(Debug)]
pub struct Base {}

impl Base {
    /// Lays the disc out. `blobs` is read for the BIOS image only (its boot information table).
    ///
    /// # Errors
    /// Names that do not fit ISO9660, missing boot images, duplicate paths.
    pub fn build(_spec: &BaseSpec, _blobs: &BlobDir) -> Result<Self, BuildError> {
        todo!()
    }
    /// Its name.
    #[must_use]
    pub fn digest(&self) -> BaseDigest {
        todo!()
    }
    /// Everything but the blobs: what is kept in the store.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        todo!()
    }
    /// The reverse of [`Base::to_bytes`].
    ///
    /// # Errors
    /// Not a base, or of a version that we do not know.
    pub fn from_bytes(_bytes: &[u8]) -> Result<Self, BuildError> {
        todo!()
    }
    /// Blobs it needs.
    #[must_use]
    pub fn blobs(&self) -> Vec<BlobId> {
        todo!()
    }
    /// Its files as they lie on the disc.
    #[must_use]
    pub fn files(&self) -> &[FileEntry] {
        todo!()
    }
}

/// A file of one machine: replaces the base's file of that path or is added to the tree.
#[derive(Clone, Debug)]
pub struct OwnFile {
    /// Path on the disc.
    pub path: String,
    /// Its bytes.
    pub bytes: Bytes,
    /// What it is for.
    pub role: FileRole,
}

/// Base + own files -> image. Pure and deterministic.
///
/// # Errors
/// A path that does not fit ISO9660 or whose folder is a file.
pub fn plan(_base: &Arc<Base>, _own: &[OwnFile]) -> Result<Image, PlanError> {
    todo!()
}

/// A disc that can be read at any range at any time.
#[derive(Debug)]
pub struct Image {}

impl Image {
    /// Length in bytes; a multiple of 2048.
    #[must_use]
    pub fn len(&self) -> u64 {
        todo!()
    }
    /// Never: a disc has descriptors.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }
    /// Strong entity tag without quotes: changes when any byte does.
    #[must_use]
    pub fn etag(&self) -> &str {
        todo!()
    }
    /// The base it stands on.
    #[must_use]
    pub fn base(&self) -> &Arc<Base> {
        todo!()
    }
    /// Files and metadata regions, ordered by offset.
    #[must_use]
    pub fn files(&self) -> &[FileEntry] {
        todo!()
    }
    /// The pieces of a range, in order, without gaps; the range is cut at the end of the disc.
    #[must_use]
    pub fn pieces(&self, _range: Range<u64>) -> Vec<Piece> {
        todo!()
    }
    /// The delta's bytes: with the base, all that is needed to serve the same bytes for ever.
    #[must_use]
    pub fn delta(&self) -> Bytes {
        todo!()
    }
    /// The reverse of [`Image::delta`].
    ///
    /// # Errors
    /// Damaged bytes, or the delta of another base.
    pub fn from_delta(_base: Arc<Base>, _delta: &[u8]) -> Result<Self, PlanError> {
        todo!()
    }
}
