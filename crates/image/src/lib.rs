//! Boot images that are never written: a shared, immutable [`Base`] and a small per-machine delta.
//!
//! An [`Image`] is a plan for an ISO9660 disc. Its bytes exist only in the moment they are read: any
//! range of it is a short list of [`Segment`]s, and every segment says which file it belongs to, so
//! that the reads of a BMC tell how far a boot has got.
//!
//! This crate is pure: it knows no machine, opens no socket and is not async. The only I/O is the
//! blob folder ([`blob`]) and what a caller passes as [`vfs::ReadAt`].
//!
//! | module | holds |
//! |---|---|
//! | [`disc`] | bases, images, planning |
//! | `iso9660` | the bytes of ECMA-119 and Rock Ridge |
//! | `eltorito` | the boot catalog and the boot information table |
//! | `mbr` | the master boot record, for machines that see the disc as a disk |
//! | [`esp`] | the FAT image that UEFI firmware boots from |
//! | [`coverage`] | how much of each file has been read |
//! | [`blob`] | the folder of content-addressed files |
//! | [`tree`] | the files inside an ISO or tar that somebody uploaded, served as they lie |
//! | [`cpio`] | archives that the kernel unpacks as an initramfs |
//! | [`vfs`] | what the planes that serve bytes have in common |

pub mod blob;
pub mod coverage;
pub mod cpio;
pub mod disc;
mod eltorito;
pub mod esp;
mod iso9660;
mod mbr;
pub mod tree;
pub mod vfs;
mod wire;

pub use blob::{BlobDir, BlobId};
pub use coverage::Coverage;
pub use disc::{
    Base, BaseDigest, BaseFile, BaseSpec, BuildError, Content, Image, ImageReader, OwnFile, PathError, PathProblem,
    PlanError, plan,
};
pub use tree::{Archive, Tree, TreeError, TreeNode};
pub use vfs::{AttemptId, FileEntry, FileId, FileRole, Piece, ReadAt, Segment};
