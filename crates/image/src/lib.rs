//! Boot images that are never written: a shared, immutable [`Base`] and a small per-machine delta.
//!
//! An [`Image`] is a plan for an ISO9660 disc. Its bytes exist only in the moment they are read: any
//! range of it is a short list of [`Segment`]s, and every segment says which file it belongs to, so
//! that the reads of a BMC tell how far a boot has got.
//!
//! This crate is pure: it knows no machine, opens no socket and is not async. The only I/O is the
//! blob folder ([`blob`]) and what a caller passes as [`vfs::ReadAt`].

pub mod blob;
pub mod cpio;
pub mod disc;
pub mod vfs;

pub use blob::{BlobDir, BlobId};
pub use disc::{Base, BaseDigest, BaseFile, BaseSpec, BuildError, Content, Image, OwnFile, PlanError, plan};
pub use vfs::{AttemptId, FileEntry, FileId, FileRole, Piece, ReadAt, Segment};
