//! What is inside uploaded ISOs: each is indexed when it arrives, and its files are served as they lie. Which folder of the
//! file plane it is found under follows from the boot environments that name it; nothing of that is stored.

use std::collections::{BTreeSet, HashMap};
use std::io::{BufReader, Read};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use isobar_image::{Archive, BlobDir, BlobId, ReadAt, Tree, TreeError, TreeNode};
use isobar_model::bootenv::{iso_arches, iso_for, path_for};
use isobar_model::{ApiError, Object, noun};
use isobar_store::{Delete, Expect, Put, Store, StoreError, Txn};
use serde_json::{Value, json};

use crate::blobs::{BlobKind, StoredBlob};
use crate::core::{Core, Order, store_failed};
use crate::view::View;
use crate::{Objects, Principal};

/// Kind of the indexes, by the SHA-256 of what was uploaded.
const KIND: &str = "_trees";
/// Longest that a compressed archive may get, in bytes.
const MAX_UNPACKED: u64 = 64 << 30;

/// An ISO that is there.
#[derive(Debug)]
pub(crate) struct Install {
    /// Where its bytes are: the upload's own blob, or what a compressed one unpacks to.
    data: Option<BlobId>,
    /// Its files, or why there are none.
    tree: Result<Tree, String>,
}

/// A folder of the file plane that comes out of an ISO.
#[derive(Clone, Debug)]
struct Folder {
    bootenv: String,
    iso: String,
    sum: String,
}

/// What is remembered of the rows.
#[derive(Default)]
pub(crate) struct Trees {
    loaded: Mutex<HashMap<String, Arc<Install>>>,
    folders: Mutex<Option<Arc<HashMap<String, Folder>>>>,
    epoch: AtomicU64,
    /// Held while names of ISOs change: an index goes with its last name, and no sooner.
    naming: Mutex<()>,
}

impl Trees {
    /// Boot environments have changed, or which ISOs are there.
    pub(crate) fn bootenvs_changed(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
        *lock(&self.folders) = None;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why it is not known which blobs uploads need.
#[derive(Debug, thiserror::Error)]
pub enum UploadsError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A row that cannot be read may need any blob.
    #[error("the row of {0} cannot be read")]
    Unreadable(String),
}

/// The blobs that names of files and ISOs stand for, and those that ISOs were unpacked to.
///
/// # Errors
/// See [`UploadsError`].
pub fn uploaded_blobs(store: &dyn Store) -> Result<BTreeSet<BlobId>, UploadsError> {
    let mut needed = BTreeSet::new();
    for kind in [BlobKind::Files, BlobKind::Isos] {
        for doc in store.list(kind.kind())? {
            let row = serde_json::from_slice::<StoredBlob>(&doc.body).ok();
            let id = row.and_then(|row| row.blob.parse().ok());
            needed.insert(id.ok_or_else(|| UploadsError::Unreadable(format!("{}/{}", kind.name(), doc.key)))?);
        }
    }
    for doc in store.list(KIND)? {
        let install = Install::parse(&doc.body).ok_or_else(|| UploadsError::Unreadable(format!("tree {}", doc.key)))?;
        needed.extend(install.data);
    }
    Ok(needed)
}

impl Install {
    /// First line: where the bytes are, or what is wrong; then the tree.
    fn to_body(&self) -> Vec<u8> {
        match (&self.tree, &self.data) {
            (Ok(tree), Some(data)) => format!("{}\n{}", json!({ "data": data }), tree.to_text()).into_bytes(),
            (Err(error), _) => format!("{}\n", json!({ "error": error })).into_bytes(),
            (Ok(_), None) => Vec::new(),
        }
    }

    fn parse(body: &[u8]) -> Option<Self> {
        let (head, rest) = std::str::from_utf8(body).ok()?.split_once('\n')?;
        let head: Value = serde_json::from_str(head).ok()?;
        if let Some(error) = head.get("error").and_then(Value::as_str) {
            return Some(Install {
                data: None,
                tree: Err(error.to_owned()),
            });
        }
        Some(Install {
            data: Some(head.get("data")?.as_str()?.parse().ok()?),
            tree: Ok(Tree::parse(rest)?),
        })
    }

    /// Looks into what was uploaded. An archive that is compressed is unpacked into a blob of its own first.
    fn of(blobs: &BlobDir, id: BlobId) -> std::io::Result<Self> {
        let file = BlobFile::open(blobs, &id)?;
        let (data, tree) = match Archive::of(&file)? {
            packed @ (Archive::Gzip | Archive::Zstd) => {
                let packed_file = BufReader::with_capacity(1 << 20, blobs.file(&id)?);
                let unpacked: Box<dyn Read> = match packed {
                    Archive::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(packed_file)),
                    _ => Box::new(zstd::stream::read::Decoder::with_buffer(packed_file)?),
                };
                match unpack(blobs, unpacked) {
                    Ok(data) => (data, Tree::read(&BlobFile::open(blobs, &data)?)),
                    Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Err(error),
                    Err(error) => (id, Err(TreeError::Format(format!("cannot be unpacked: {error}")))),
                }
            }
            _ => (id, Tree::read(&file)),
        };
        match tree {
            Err(TreeError::Io(error)) if error.kind() != std::io::ErrorKind::UnexpectedEof => Err(error),
            Ok(tree) => Ok(Install {
                data: Some(data),
                tree: Ok(tree),
            }),
            Err(error) => Ok(Install {
                data: None,
                tree: Err(error.to_string()),
            }),
        }
    }
}

/// Unpacks into a blob. One byte more than may be is a byte too many.
fn unpack(blobs: &BlobDir, from: Box<dyn Read>) -> std::io::Result<BlobId> {
    let mut from = from.take(MAX_UNPACKED + 1);
    let (id, len) = blobs.import(&mut from)?;
    if len > MAX_UNPACKED {
        return Err(std::io::Error::other(format!(
            "it unpacks to more than {MAX_UNPACKED} bytes"
        )));
    }
    Ok(id)
}

struct BlobFile {
    file: std::fs::File,
    len: u64,
}

impl BlobFile {
    fn open(blobs: &BlobDir, id: &BlobId) -> std::io::Result<Self> {
        let file = blobs.file(id)?;
        let len = file.metadata()?.len();
        Ok(Self { file, len })
    }
}

impl ReadAt for BlobFile {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }
}

/// Something that an ISO holds, for the file plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InstallFile {
    /// A run of bytes of a blob.
    File {
        /// Which blob.
        blob: BlobId,
        /// First byte within it.
        offset: u64,
        /// Length in bytes.
        len: u64,
    },
    /// The names in a folder; folders end in `/`.
    Folder(Vec<String>),
}

impl Objects {
    /// Takes in what was uploaded under a name and makes it known in one commit; an ISO with the index of its files. A
    /// start after a crash finds either all of it or nothing but a blob that is collected.
    ///
    /// # Errors
    /// 400 for what is no name, 409 where a folder of it is a file or the reverse; 507 when the disk is full.
    pub fn take_in(
        &self,
        kind: BlobKind,
        name: &str,
        from: &mut dyn Read,
        blobs: &BlobDir,
        by: &Principal,
    ) -> Result<(String, StoredBlob), ApiError> {
        let plain = self.blob_name(kind, name)?;
        let failed = |error: std::io::Error| disk_failed(kind, &plain, &error);
        let _held = blobs.hold();
        let (id, size) = blobs.import(from).map_err(failed)?;
        let stored = StoredBlob {
            blob: id.to_string(),
            size,
        };
        if kind == BlobKind::Files {
            self.name_blob_in(kind, &plain, &stored, Txn::default(), by)?;
            return Ok((plain, stored));
        }
        let known = self.core.store.get(KIND, &stored.blob).map_err(|e| store_failed(&e))?;
        let known = known.and_then(|doc| Install::parse(&doc.body));
        let whole = known.filter(|install| install.data.is_some_and(|data| blobs.contains(&data)));
        let install = match whole {
            Some(install) => install,
            None => Install::of(blobs, id).map_err(failed)?,
        };
        let naming = lock(&self.core.trees.naming);
        let mut txn = Txn {
            puts: vec![tree_row(&stored.blob, &install)],
            ..Txn::default()
        };
        if let Some(old) = self.blob(kind, &plain)?.filter(|old| old.blob != stored.blob) {
            txn.deletes.extend(self.without_tree(&old.blob, &plain)?);
        }
        self.name_blob_in(kind, &plain, &stored, txn, by)?;
        lock(&self.core.trees.loaded).remove(&stored.blob);
        drop(naming);
        self.iso_changed(&plain)?;
        Ok((plain, stored))
    }

    /// Takes an ISO's name away, and the index of its files with the last name.
    pub(crate) fn forget_iso(&self, name: &str, blob: &StoredBlob, by: &Principal) -> Result<(), ApiError> {
        let naming = lock(&self.core.trees.naming);
        let mut deletes = vec![Delete {
            kind: BlobKind::Isos.kind().to_owned(),
            key: name.to_owned(),
            expect: Expect::Any,
        }];
        deletes.extend(self.without_tree(&blob.blob, name)?);
        let txn = Txn {
            deletes,
            audit: vec![by.audit("delete", BlobKind::Isos.name(), name, "")],
            ..Txn::default()
        };
        self.core.store.commit(txn).map_err(|e| store_failed(&e))?;
        lock(&self.core.trees.loaded).remove(&blob.blob);
        drop(naming);
        self.iso_changed(name)
    }

    /// The index of a blob goes when no ISO but the one of this name means it.
    fn without_tree(&self, blob: &str, name: &str) -> Result<Option<Delete>, ApiError> {
        let isos = self
            .core
            .store
            .list(BlobKind::Isos.kind())
            .map_err(|e| store_failed(&e))?;
        let means = |body: &[u8]| serde_json::from_slice::<StoredBlob>(body).is_ok_and(|other| other.blob == blob);
        let others = isos.iter().any(|doc| doc.key != name && means(&doc.body));
        Ok((!others).then(|| Delete {
            kind: KIND.to_owned(),
            key: blob.to_owned(),
            expect: Expect::Any,
        }))
    }

    /// Indexes ISOs that have no index: uploaded by an older Isobar, or restored. Returns how many.
    ///
    /// # Errors
    /// Of the store; a blob that cannot be read is told and left out.
    pub fn index_isos(&self, blobs: &BlobDir) -> Result<usize, ApiError> {
        let _held = blobs.hold();
        let mut made = 0;
        for doc in self
            .core
            .store
            .list(BlobKind::Isos.kind())
            .map_err(|e| store_failed(&e))?
        {
            let Ok(stored) = serde_json::from_slice::<StoredBlob>(&doc.body) else {
                continue;
            };
            if self
                .core
                .store
                .get(KIND, &stored.blob)
                .map_err(|e| store_failed(&e))?
                .is_some()
            {
                continue;
            }
            let install = stored.blob.parse().map_err(std::io::Error::other);
            match install.and_then(|id| Install::of(blobs, id)) {
                Ok(install) => {
                    let txn = Txn {
                        puts: vec![tree_row(&stored.blob, &install)],
                        ..Txn::default()
                    };
                    self.core.store.commit(txn).map_err(|e| store_failed(&e))?;
                    made += 1;
                }
                Err(error) => tracing::error!(iso = doc.key, %error, "an uploaded ISO cannot be read"),
            }
        }
        Ok(made)
    }

    /// An ISO came or went: the boot environments that name it, and who uses those, are looked at again.
    fn iso_changed(&self, iso: &str) -> Result<(), ApiError> {
        self.core.trees.bootenvs_changed();
        self.core.write(Order::Exclusive, "bootenvs", |view, draft| {
            let Some(bootenvs) = noun("bootenvs") else {
                return Ok(());
            };
            for (key, found) in view.all(bootenvs) {
                let names = |arch: &&str| iso_for(&found.object, arch).is_some_and(|(name, _)| name == iso);
                if iso_arches(&found.object).iter().any(names) && self.look_again(view, draft, bootenvs, &key)? {
                    self.refresh_dependents(view, draft, bootenvs, &key)?;
                }
            }
            Ok(())
        })
    }

    /// What a path of the file plane (without leading slash) is in an uploaded ISO.
    ///
    /// # Errors
    /// Of the store.
    pub fn install_file(&self, path: &str) -> Result<Option<InstallFile>, ApiError> {
        let folders = self.install_folders()?;
        // The longest folder wins: `os/arm64` may also be a folder of the ISO of `os`.
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        let mut candidates: Vec<usize> = ends.take(4).collect();
        candidates.reverse();
        for end in candidates {
            let Some(folder) = folders.get(&path[..end]) else {
                continue;
            };
            let Some(install) = fitting(&self.core, &folder.iso, &folder.sum).map_err(|e| store_failed(&e))? else {
                continue;
            };
            let (Ok(tree), Some(blob)) = (&install.tree, install.data) else {
                continue;
            };
            let inside = path[end..].trim_start_matches('/');
            return Ok(match tree.find(inside) {
                Some(TreeNode::File { offset, len }) => Some(InstallFile::File {
                    blob,
                    offset: *offset,
                    len: *len,
                }),
                Some(TreeNode::Folder) => tree.names(inside).map(InstallFile::Folder),
                Some(TreeNode::Link(_)) | None => None,
            });
        }
        Ok(None)
    }

    /// Boot environments of an operating system whose ISO is there for an architecture, with the folder that it is served
    /// under: local install trees.
    pub(crate) fn local_trees(&self, os: &str, arch: &str) -> Result<Vec<(String, String)>, ApiError> {
        let folders = self.install_folders()?;
        let mut found = Vec::new();
        for (path, folder) in folders.iter() {
            let bootenv = self.find("bootenvs", &folder.bootenv)?;
            let of_os = bootenv.is_some_and(|bootenv| {
                isobar_model::bootenv::os_name(&bootenv) == os && path_for(&bootenv, arch, "").trim_matches('/') == path
            });
            let there = || fitting(&self.core, &folder.iso, &folder.sum).map_err(|e| store_failed(&e));
            if of_os && there()?.is_some_and(|install| install.tree.is_ok()) {
                found.push((folder.bootenv.clone(), path.clone()));
            }
        }
        found.sort();
        Ok(found)
    }

    /// The folders of the file plane that come out of ISOs, from the boot environments as they are.
    fn install_folders(&self) -> Result<Arc<HashMap<String, Folder>>, ApiError> {
        let trees = &self.core.trees;
        if let Some(folders) = lock(&trees.folders).clone() {
            return Ok(folders);
        }
        let epoch = trees.epoch.load(Ordering::SeqCst);
        let view = View::new(&self.core);
        let mut folders = HashMap::new();
        for (key, found) in noun("bootenvs").map(|noun| view.all(noun)).unwrap_or_default() {
            for arch in iso_arches(&found.object) {
                let path = path_for(&found.object, arch, "").trim_matches('/').to_owned();
                if let Some((iso, sum)) = iso_for(&found.object, arch).filter(|_| !path.is_empty()) {
                    let folder = Folder {
                        bootenv: key.clone(),
                        iso: iso.to_owned(),
                        sum: sum.to_owned(),
                    };
                    // Two that share a folder: the one whose ISO is there.
                    let there =
                        |folder: &Folder| fitting(&self.core, &folder.iso, &folder.sum).is_ok_and(|f| f.is_some());
                    if folders.get(&path).is_none_or(|other| !there(other)) {
                        folders.insert(path, folder);
                    }
                }
            }
        }
        view.sound()?;
        let folders = Arc::new(folders);
        let mut kept = lock(&trees.folders);
        if trees.epoch.load(Ordering::SeqCst) == epoch {
            *kept = Some(Arc::clone(&folders));
        }
        Ok(folders)
    }
}

fn disk_failed(kind: BlobKind, name: &str, error: &std::io::Error) -> ApiError {
    let full = error.kind() == std::io::ErrorKind::StorageFull;
    let mut refused = ApiError::new(
        if full { 507 } else { 500 },
        "POST",
        kind.name(),
        name,
        format!("the upload cannot be kept: {error}"),
    );
    if full {
        let hint = "free some space there, about twice the upload's size, then try again";
        refused.messages.push(hint.to_owned());
    }
    refused
}

fn tree_row(blob: &str, install: &Install) -> Put {
    Put {
        kind: KIND.to_owned(),
        key: blob.to_owned(),
        body: install.to_body().into(),
        expect: Expect::Any,
        indexes: Vec::new(),
    }
}

/// The ISO of this name if it has the wanted sum.
fn fitting(core: &Core, iso: &str, sum: &str) -> Result<Option<Arc<Install>>, StoreError> {
    let Some(stored) = named(core, iso)? else {
        return Ok(None);
    };
    if !sum.is_empty() && !sum.eq_ignore_ascii_case(&stored.blob) {
        return Ok(None);
    }
    let mut loaded = lock(&core.trees.loaded);
    if let Some(install) = loaded.get(&stored.blob) {
        return Ok(Some(Arc::clone(install)));
    }
    let Some(doc) = core.store.get(KIND, &stored.blob)? else {
        return Ok(None);
    };
    let Some(install) = Install::parse(&doc.body) else {
        tracing::error!(iso, "the index of an ISO cannot be read: upload it once more");
        return Ok(None);
    };
    let install = Arc::new(install);
    loaded.insert(stored.blob, Arc::clone(&install));
    Ok(Some(install))
}

fn named(core: &Core, iso: &str) -> Result<Option<StoredBlob>, StoreError> {
    let doc = core.store.get(BlobKind::Isos.kind(), iso)?;
    Ok(doc.and_then(|doc| serde_json::from_slice(&doc.body).ok()))
}

/// Whether a file of a boot environment is in its ISO.
pub(crate) fn holds(core: &Core, bootenv: &Object, arch: &str, file: &str) -> Result<bool, StoreError> {
    let Some((iso, sum)) = iso_for(bootenv, arch) else {
        return Ok(false);
    };
    let install = fitting(core, iso, sum)?;
    Ok(install.is_some_and(|install| {
        let tree = install.tree.as_ref().ok();
        tree.is_some_and(|tree| matches!(tree.find(file), Some(TreeNode::File { .. })))
    }))
}

/// What is wrong with the ISOs of a boot environment that are there, for people.
pub(crate) fn complaint(core: &Core, bootenv: &Object) -> Result<Option<String>, StoreError> {
    for arch in iso_arches(bootenv) {
        let Some((iso, sum)) = iso_for(bootenv, arch) else {
            continue;
        };
        let Some(stored) = named(core, iso)? else { continue };
        if !sum.is_empty() && !sum.eq_ignore_ascii_case(&stored.blob) {
            return Ok(Some(format!(
                "the uploaded {iso} has the SHA-256 {}, and {sum} is wanted: upload the right one",
                stored.blob
            )));
        }
        if let Some(Err(error)) = fitting(core, iso, sum)?.as_ref().map(|install| &install.tree) {
            return Ok(Some(format!("the uploaded {iso} {error}")));
        }
    }
    Ok(None)
}
