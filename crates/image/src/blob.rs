//! Content-addressed files: `blobs/sha256/ab/abcdef…`, written once, never changed in place.

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Bytes read from the source at a time.
const CHUNK: usize = 256 * 1024;

/// What a crash in the middle of an import left behind is removed at the next start when it is this
/// old; a younger one may belong to another process that is importing at this moment.
const LEFTOVER: Duration = Duration::from_secs(3600);

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
        text.parse()
    }
}

impl std::str::FromStr for BlobId {
    type Err = hex::FromHexError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
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
    root: PathBuf,
    /// Shared by those who take in what nothing refers to yet; whoever removes blobs has it alone.
    users: RwLock<()>,
}

impl BlobDir {
    /// Opens (and creates) the folder `root`, for instance `DATA/blobs`, and removes what interrupted
    /// imports left there.
    ///
    /// # Errors
    /// When the folder cannot be made or read.
    pub fn open(root: &Path) -> io::Result<Self> {
        let dir = Self {
            root: root.to_path_buf(),
            users: RwLock::new(()),
        };
        for folder in [dir.root.join("sha256"), dir.tmp()] {
            fs::create_dir_all(&folder).map_err(|e| at(&folder, "cannot make the blob folder", e))?;
        }
        dir.remove_leftovers()?;
        Ok(dir)
    }

    /// For as long as this is held nothing is removed: from before a blob is taken in until something refers to it.
    pub fn hold(&self) -> RwLockReadGuard<'_, ()> {
        self.users.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// For removing blobs; none while somebody takes something in, which may be what is to be removed. Does not wait: who
    /// waits keeps others from beginning.
    #[must_use]
    pub fn alone(&self) -> Option<RwLockWriteGuard<'_, ()>> {
        match self.users.try_write() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Takes in a stream: to a temporary name, fsync, rename, fsync of the folder. Idempotent.
    ///
    /// # Errors
    /// Of reading, or of the disk (full, read-only); nothing is left behind then.
    pub fn import(&self, from: &mut dyn Read) -> io::Result<(BlobId, u64)> {
        let tmp = self.tmp();
        // Dropped on every way out before `persist`, which removes it.
        let mut file = tempfile::NamedTempFile::new_in(&tmp).map_err(|e| at(&tmp, "cannot write a blob", e))?;
        let mut hash = Sha256::new();
        let mut len = 0;
        let mut chunk = vec![0; CHUNK];
        loop {
            let n = match from.read(&mut chunk) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            hash.update(&chunk[..n]);
            file.write_all(&chunk[..n])
                .map_err(|e| at(&tmp, "cannot write a blob", e))?;
            len += n as u64;
        }
        let id = BlobId(hash.finalize().into());
        let path = self.path(&id);
        // One of another length was damaged from outside: the rename below mends it.
        if fs::metadata(&path).is_ok_and(|m| m.len() == len) {
            return Ok((id, len));
        }
        let write_error = |e| at(&path, "cannot write the blob", e);
        file.as_file()
            .set_permissions(Permissions::from_mode(0o444))
            .map_err(write_error)?;
        file.as_file().sync_all().map_err(write_error)?;
        let top = self.root.join("sha256");
        let folder = top.join(shard(&id));
        match fs::create_dir(&folder) {
            Ok(()) => sync_folder(&top)?,
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(e) => return Err(write_error(e)),
        }
        file.persist(&path).map_err(|e| write_error(e.error))?;
        sync_folder(&folder)?;
        Ok((id, len))
    }

    /// Opens a blob for reading.
    ///
    /// # Errors
    /// `NotFound` when there is no such blob.
    pub fn file(&self, id: &BlobId) -> io::Result<File> {
        let path = self.path(id);
        File::open(&path).map_err(|e| at(&path, "cannot open the blob", e))
    }

    /// Whether the blob is there.
    #[must_use]
    pub fn contains(&self, id: &BlobId) -> bool {
        self.path(id).is_file()
    }

    /// Removes a blob; `false` when there was none. Readers that have it open keep it.
    ///
    /// # Errors
    /// Of the disk.
    pub fn remove(&self, id: &BlobId) -> io::Result<bool> {
        let path = self.path(id);
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
            Err(e) => Err(at(&path, "cannot remove the blob", e)),
        }
    }

    /// All blobs, sorted. Files with other names are left out.
    ///
    /// # Errors
    /// Of the disk.
    pub fn list(&self) -> io::Result<Vec<BlobId>> {
        let top = self.root.join("sha256");
        let mut ids = Vec::new();
        let list_error = |e| at(&top, "cannot list the blobs", e);
        for folder in fs::read_dir(&top).map_err(list_error)? {
            let folder = folder.map_err(list_error)?;
            if !folder.file_type().map_err(list_error)?.is_dir() {
                continue;
            }
            for blob in fs::read_dir(folder.path()).map_err(list_error)? {
                let name = blob.map_err(list_error)?.file_name();
                let id: Option<BlobId> = name.to_str().and_then(|name| name.parse().ok());
                ids.extend(id.filter(|id| folder.file_name() == *shard(id)));
            }
        }
        ids.sort_unstable();
        Ok(ids)
    }

    fn path(&self, id: &BlobId) -> PathBuf {
        let mut path = self.root.join("sha256");
        path.push(shard(id));
        path.push(id.to_string());
        path
    }

    fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    fn remove_leftovers(&self) -> io::Result<()> {
        let tmp = self.tmp();
        let read_error = |e| at(&tmp, "cannot read the blob folder", e);
        for entry in fs::read_dir(&tmp).map_err(read_error)? {
            let entry = entry.map_err(read_error)?;
            let age = entry
                .metadata()
                .and_then(|m| m.modified())
                .ok()
                .and_then(|modified| SystemTime::now().duration_since(modified).ok());
            if age.is_some_and(|age| age > LEFTOVER) {
                // Another process may have been faster.
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(())
    }
}

/// Folder of a blob within `sha256`: the first byte of its name.
fn shard(id: &BlobId) -> String {
    hex::encode(&id.0[..1])
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)
        .and_then(|f| f.sync_all())
        .map_err(|e| at(folder, "cannot make a blob durable", e))
}

/// Keeps the kind (callers match on it) and says where it happened.
fn at(path: &Path, what: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what} ({}): {error}", path.display()))
}
