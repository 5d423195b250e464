//! What the planes that serve bytes have in common: segments, files, the resolver and the observer.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use crate::blob::BlobId;
use crate::disc::Image;

/// Random access to bytes of known length: a file, a blob, an image, a foreign ISO.
pub trait ReadAt: Send + Sync {
    /// Length in bytes.
    fn len(&self) -> u64;
    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` when the range reaches past [`ReadAt::len`]; otherwise the error of the source.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
    /// Whether there are no bytes at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A run of bytes and where to get it from.
#[derive(Clone, PartialEq, Eq)]
pub enum Segment {
    /// Bytes in memory: descriptors, directories, a machine's own files.
    Bytes(Bytes),
    /// `len` bytes of a blob from `offset`: can go from disk to socket without passing through us.
    Blob {
        /// Which blob.
        id: BlobId,
        /// First byte within the blob.
        offset: u64,
        /// Number of bytes.
        len: u64,
    },
    /// `len` zero bytes: padding between regions.
    Zero {
        /// Number of bytes.
        len: u64,
    },
}

/// Without the bytes: they may hold a machine's boot secret.
impl std::fmt::Debug for Segment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "Bytes({} bytes)", bytes.len()),
            Self::Blob { id, offset, len } => write!(f, "Blob({id}, {len} bytes from {offset})"),
            Self::Zero { len } => write!(f, "Zero({len} bytes)"),
        }
    }
}

impl Segment {
    /// Number of bytes this segment stands for.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(b) => b.len() as u64,
            Self::Blob { len, .. } | Self::Zero { len } => *len,
        }
    }

    /// Whether it stands for no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Position of a file in [`Image::files`]. Stable for one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(pub u32);

/// What a region of the image is for: the evidence rules are written in these words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileRole {
    /// Descriptors, path tables, directories: what firmware and operating systems probe.
    Metadata,
    /// El Torito boot catalog (read by firmware that intends to boot this disc).
    BootCatalog,
    /// The BIOS boot image (El Torito default entry).
    BiosImage,
    /// The FAT image with the EFI loaders (El Torito EFI entry).
    EfiImage,
    /// `boot/grub/grub.cfg`: the machine's own menu, read by GRUB alone.
    GrubConfig,
    /// The kernel.
    Kernel,
    /// The shared initrd.
    Initrd,
    /// The machine's own second initrd with its boot secret.
    OwnInitrd,
    /// Anything else.
    Other,
}

/// One file (or metadata region) of an image, as it lies on the disc.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// Its position in [`Image::files`].
    pub id: FileId,
    /// Path without leading slash, `/`-separated, in the spelling of Rock Ridge; regions that are no
    /// files have names in angle brackets, such as `<metadata>`.
    pub path: String,
    /// First byte on the disc.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
    /// What it is for.
    pub role: FileRole,
}

/// A part of a range read: `segment` lies at `offset` of the image and belongs to `file` (none: padding).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// First byte on the disc.
    pub offset: u64,
    /// File that the bytes belong to.
    pub file: Option<FileId>,
    /// The bytes.
    pub segment: Segment,
}

/// One try to boot a machine, with a token of its own. The same image may have many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AttemptId(pub u128);

impl std::fmt::Display for AttemptId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// What a path of the file plane stands for.
#[derive(Clone)]
pub enum Opened {
    /// A boot image; reads of it are reported to the observer under `attempt` (none: a person's download).
    Image {
        /// The plan to serve.
        image: Arc<Image>,
        /// Whom the reads belong to.
        attempt: Option<AttemptId>,
    },
    /// A whole blob: a file that somebody uploaded.
    Blob {
        /// Which.
        id: BlobId,
        /// Its length in bytes.
        len: u64,
    },
    /// A run of bytes of a blob: a file inside an ISO that somebody uploaded.
    Part {
        /// Which blob.
        id: BlobId,
        /// First byte within it.
        offset: u64,
        /// Length in bytes.
        len: u64,
    },
    /// A small file rendered for this request.
    Bytes {
        /// The body.
        body: Bytes,
        /// `Content-Type`.
        content_type: &'static str,
    },
}

/// Why a path of the file plane is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No such path, or a token nobody issued.
    #[error("not found")]
    NotFound,
    /// A token that was good once: ejected, replaced or expired. Served as 410.
    #[error("this token is no longer valid: the attempt that it belonged to is over")]
    Gone,
    /// A good token from an address that may not use it (strict mode). Served as 403.
    #[error("this address may not read this image")]
    Forbidden,
    /// What the path stands for cannot be looked up now; in a moment it may. Served as 503 with `Retry-After`: a BMC
    /// that is told 404 gives the medium up.
    #[error("the server cannot look this up right now")]
    Unavailable,
}

/// Maps a path of the file plane to what it stands for. Decides; the plane only serves.
pub trait ImageResolver: Send + Sync {
    /// `path` is the decoded, normalised absolute path (`/TOKEN/boot.iso`), without query.
    ///
    /// # Errors
    /// See [`Denied`]; the plane turns it into a status and logs no more than the token's prefix.
    fn open(&self, path: &str, peer: IpAddr) -> Result<Opened, Denied>;
}

/// How the bytes of a [`Read`] were asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadKind {
    /// `HEAD`: nothing sent.
    Head,
    /// `GET` of the whole image.
    Whole,
    /// `GET` with a range.
    Range,
}

/// Bytes of an image that were handed to a peer's socket.
#[derive(Clone, Copy, Debug)]
pub struct Read {
    /// Whose image.
    pub attempt: AttemptId,
    /// Who asked.
    pub peer: IpAddr,
    /// First byte sent.
    pub offset: u64,
    /// Bytes *sent*, not bytes asked for.
    pub len: u64,
    /// Form of the request.
    pub kind: ReadKind,
    /// When they had been sent.
    pub at: SystemTime,
}

/// Is told of every read while it happens: long bodies are reported in slices of at most 1 MiB.
/// Must return at once; it is called on the file plane's threads.
pub trait ReadObserver: Send + Sync {
    /// Some bytes went out.
    fn seen(&self, read: Read);
    /// Somebody came and got nothing. Said once for each connection or request.
    fn knocked(&self, peer: IpAddr, knock: Knock) {
        let _ = (peer, knock);
    }
}

/// How somebody came and got nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Knock {
    /// A TLS handshake that did not come to its end, or one where none is spoken.
    Tls,
    /// What was sent is no request.
    Request,
    /// A path that is not there, or not any more.
    Path,
}
