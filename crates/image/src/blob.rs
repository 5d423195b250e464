//! Content-addressed files: `blobs/sha256/ab/abcdef…`, written once, never changed in place.

use serde::{Deserialize, Serialize};

/// SHA-256 of a blob's bytes, and its name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BlobId(pub [u8; 32]);

impl std::fmt::Display for BlobId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl std::fmt::Debug for BlobId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BlobId({self})")
    }
}

impl TryFrom<String> for BlobId {
    type Error = hex::FromHexError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let mut id = [0; 32];
        hex::decode_to_slice(text, &mut id)?;
        Ok(Self(id))
    }
}

impl From<BlobId> for String {
    fn from(id: BlobId) -> Self {
        id.to_string()
    }
}

/// The folder of blobs.
#[derive(Debug)]
pub struct BlobDir {
    root: std::path::PathBuf,
}

impl BlobDir {
    /// Opens (and creates) the folder `root`, for instance `DATA/blobs`.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn open(root: &std::path::Path) -> std::io::Result<Self> {
        std::fs::create_dir_all(root.join("sha256"))?;
        Ok(Self {
            root: root.to_path_buf(),
        })
    }

    /// Takes in a stream: to a temporary name, fsync, rename, fsync of the folder. Idempotent.
    ///
    /// # Errors
    /// Of reading, or of the disk (full, read-only); nothing is left behind then.
    pub fn import(&self, _from: &mut dyn std::io::Read) -> std::io::Result<(BlobId, u64)> {
        todo!()
    }

    /// Opens a blob for reading.
    ///
    /// # Errors
    /// `NotFound` when there is no such blob.
    pub fn file(&self, id: &BlobId) -> std::io::Result<std::fs::File> {
        let name = id.to_string();
        std::fs::File::open(self.root.join("sha256").join(&name[..2]).join(&name))
    }
}
