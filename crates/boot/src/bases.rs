//! Bases: taking in a sledgehammer bundle, and finding it again.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use isobar_image::vfs::Segment;
use isobar_image::{Base, BaseFile, BaseSpec, BlobDir, BlobId, BuildError, Content, FileRole};
use isobar_objects::Principal;
use isobar_store::{Expect, Put, Store, StoreError, Txn};
use serde::Deserialize;

use crate::record::{BaseRow, kind};

/// `bundle.json`: what a bundle is made of. Unknown members are a newer format's and refused.
#[derive(Debug, Deserialize)]
struct Bundle {
    format: u32,
    version: String,
    volume_id: String,
    bios_image: Option<String>,
    efi_image: Option<String>,
    catalog: String,
    files: Vec<BundleFile>,
}

#[derive(Debug, Deserialize)]
struct BundleFile {
    path: String,
    sha256: String,
    size: u64,
    role: String,
}

/// Why a bundle is not taken in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// Not a tar, cut short, or the disk.
    #[error("the bundle cannot be read or stored: {0}")]
    Io(#[from] io::Error),
    /// Something in it is not as its `bundle.json` says.
    #[error("not a usable bundle: {0}")]
    Bundle(String),
    /// The disc cannot be laid out.
    #[error("no disc can be made of this bundle: {0}")]
    Build(#[from] BuildError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Files up to this size are kept in the base itself.
const INLINE: u64 = 4096;
/// Nobody's `bundle.json` is larger.
const MANIFEST_LIMIT: u64 = 4 << 20;

/// The imported bases.
pub struct Bases {
    store: Arc<dyn Store>,
    blobs: Arc<BlobDir>,
    loaded: Mutex<HashMap<String, Arc<Base>>>,
}

impl Bases {
    /// Over a store and a blob folder.
    pub fn new(store: Arc<dyn Store>, blobs: Arc<BlobDir>) -> Self {
        Self {
            store,
            blobs,
            loaded: Mutex::default(),
        }
    }

    /// The store that it is over.
    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// A base is not in the store any more.
    pub(crate) fn forget(&self, digest: &str) {
        self.loaded
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(digest);
    }

    /// The blobs.
    #[must_use]
    pub fn blobs(&self) -> &Arc<BlobDir> {
        &self.blobs
    }

    /// All rows, by name.
    ///
    /// # Errors
    /// Of the store.
    pub fn rows(&self) -> Result<Vec<BaseRow>, StoreError> {
        Ok(self
            .store
            .list(kind::BASES)?
            .iter()
            .filter_map(|doc| serde_json::from_slice(&doc.body).ok())
            .collect())
    }

    /// A base by name: what new images stand on.
    ///
    /// # Errors
    /// Of the store.
    pub fn by_name(&self, name: &str) -> Result<Option<(BaseRow, Arc<Base>)>, StoreError> {
        let Some(doc) = self.store.get(kind::BASES, name)? else {
            return Ok(None);
        };
        let Ok(row) = serde_json::from_slice::<BaseRow>(&doc.body) else {
            return Ok(None);
        };
        Ok(self.by_digest(&row.digest)?.map(|base| (row, base)))
    }

    /// A base by digest: what an image that is already mounted stands on, whatever its name means by now.
    ///
    /// # Errors
    /// Of the store.
    pub fn by_digest(&self, digest: &str) -> Result<Option<Arc<Base>>, StoreError> {
        if let Some(base) = self.loaded.lock().unwrap_or_else(PoisonError::into_inner).get(digest) {
            return Ok(Some(Arc::clone(base)));
        }
        let Some(doc) = self.store.get(kind::BASE_BYTES, digest)? else {
            return Ok(None);
        };
        let base = match Base::from_bytes(&doc.body) {
            Ok(base) => Arc::new(base),
            Err(error) => {
                tracing::error!(digest, %error, "a base in the store cannot be read");
                return Ok(None);
            }
        };
        self.loaded
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(digest.to_owned(), Arc::clone(&base));
        Ok(Some(base))
    }

    /// A file of a base whose blob is missing or cut, if there is one: path and blob. What is in a blob is not read.
    #[must_use]
    pub fn damaged(&self, base: &Arc<Base>) -> Option<(String, BlobId)> {
        let plain = isobar_image::plan(base, &[]).ok()?;
        let pieces = plain.pieces(0..plain.len());
        pieces.iter().find_map(|piece| {
            let Segment::Blob { id, offset, len } = &piece.segment else {
                return None;
            };
            let file = self.blobs.file(id).and_then(|file| file.metadata());
            if file.is_ok_and(|file| file.len() >= offset + len) {
                return None;
            }
            let path = piece.file.and_then(|file| plain.files().get(file.0 as usize));
            Some((path.map_or_else(String::new, |file| file.path.clone()), *id))
        })
    }

    /// Takes in a bundle: blobs first, each checked against its sum, then one commit that makes it the base `name`.
    ///
    /// # Errors
    /// See [`ImportError`]. Blobs of a refused bundle stay behind unused, until they are collected.
    pub fn import(&self, name: &str, tar: &mut dyn Read, by: &Principal) -> Result<BaseRow, ImportError> {
        let _held = self.blobs.hold();
        let (bundle, contents) = self.unpack(tar)?;
        if bundle.format != 1 {
            return Err(ImportError::Bundle(format!(
                "format {} is not known: use a newer isobar",
                bundle.format
            )));
        }
        let mut files = Vec::with_capacity(bundle.files.len());
        for file in &bundle.files {
            let Some((id, len, inline)) = contents.get(&file.path) else {
                return Err(ImportError::Bundle(format!("{} is missing", file.path)));
            };
            if id.to_string() != file.sha256 || *len != file.size {
                return Err(ImportError::Bundle(format!(
                    "{} is not the file that bundle.json names",
                    file.path
                )));
            }
            files.push(BaseFile {
                path: file.path.clone(),
                content: match inline {
                    Some(bytes) => Content::Bytes(bytes.clone()),
                    None => Content::Blob { id: *id, len: *len },
                },
                role: role(&file.role),
            });
        }
        let spec = BaseSpec {
            volume_id: bundle.volume_id,
            files,
            bios_image: bundle.bios_image,
            efi_image: bundle.efi_image,
            catalog: bundle.catalog,
            compact: false,
        };
        let base = Arc::new(Base::build(&spec, &self.blobs)?);
        let plain = isobar_image::plan(&base, &[]).map_err(|e| ImportError::Bundle(e.to_string()))?;
        let row = BaseRow {
            name: name.to_owned(),
            digest: base.digest().to_string(),
            version: bundle.version,
            size: plain.len(),
            files: bundle.files.into_iter().map(|f| f.path).collect(),
        };
        let put = |kind: &str, key: &str, body: Bytes| Put {
            kind: kind.to_owned(),
            key: key.to_owned(),
            body,
            expect: Expect::Any,
            indexes: Vec::new(),
        };
        self.store.commit(Txn {
            audit: vec![by.audit("post", "bases", name, format!("digest={}", row.digest))],
            puts: vec![
                put(kind::BASE_BYTES, &row.digest, base.to_bytes()),
                put(
                    kind::BASES,
                    name,
                    Bytes::from(serde_json::to_vec(&row).unwrap_or_default()),
                ),
            ],
            ..Txn::default()
        })?;
        self.loaded
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(row.digest.clone(), base);
        Ok(row)
    }

    #[allow(clippy::type_complexity)]
    fn unpack(
        &self,
        tar: &mut dyn Read,
    ) -> Result<(Bundle, HashMap<String, (BlobId, u64, Option<Bytes>)>), ImportError> {
        let mut archive = tar::Archive::new(tar);
        let mut bundle = None;
        let mut contents = HashMap::new();
        for entry in archive.entries()? {
            let mut entry = entry?;
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let path = String::from_utf8_lossy(&entry.path_bytes())
                .trim_start_matches("./")
                .to_owned();
            if path == "bundle.json" {
                let parsed = serde_json::from_reader(entry.take(MANIFEST_LIMIT));
                bundle = Some(parsed.map_err(|e| ImportError::Bundle(format!("bundle.json: {e}")))?);
            } else if let Some(path) = path.strip_prefix("tree/") {
                let size = entry.header().size()?;
                if size <= INLINE {
                    let mut bytes = Vec::new();
                    entry.read_to_end(&mut bytes)?;
                    let (id, len) = (sha256(&bytes), bytes.len() as u64);
                    contents.insert(path.to_owned(), (id, len, Some(Bytes::from(bytes))));
                } else {
                    let (id, len) = self.blobs.import(&mut entry)?;
                    contents.insert(path.to_owned(), (id, len, None));
                }
            }
        }
        let bundle = bundle.ok_or_else(|| ImportError::Bundle("it has no bundle.json".to_owned()))?;
        Ok((bundle, contents))
    }
}

fn sha256(bytes: &[u8]) -> BlobId {
    use sha2::Digest as _;
    BlobId(sha2::Sha256::digest(bytes).into())
}

fn role(name: &str) -> FileRole {
    match name {
        "kernel" => FileRole::Kernel,
        "initrd" => FileRole::Initrd,
        "bios-image" => FileRole::BiosImage,
        "efi-image" => FileRole::EfiImage,
        _ => FileRole::Other,
    }
}
