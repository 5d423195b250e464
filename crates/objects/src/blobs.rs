//! Names of uploaded files and ISOs. What they hold is in the folder of blobs; here is which blob a name means.

use isobar_model::ApiError;
use isobar_store::{Delete, Expect, Put, Txn};
use serde::{Deserialize, Serialize};

use crate::core::store_failed;
use crate::{Objects, Principal};

/// Longest name in bytes.
const MAX_NAME: usize = 1024;

/// Which name space a name is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlobKind {
    /// `/files`: names with folders.
    Files,
    /// `/isos`: flat names.
    Isos,
}

impl BlobKind {
    pub(crate) fn kind(self) -> &'static str {
        match self {
            BlobKind::Files => "_files",
            BlobKind::Isos => "_isos",
        }
    }

    /// As errors and routes call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            BlobKind::Files => "files",
            BlobKind::Isos => "isos",
        }
    }
}

/// What a name means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredBlob {
    /// SHA-256 of its bytes, in hex: the blob's name.
    pub blob: String,
    /// Bytes.
    pub size: u64,
}

/// The one form of a name; none when it is no name: empty, with `..`, or with what no file system takes.
fn plain(kind: BlobKind, name: &str) -> Option<String> {
    let parts: Vec<&str> = name.split('/').filter(|part| !part.is_empty()).collect();
    let fits = |part: &&str| !matches!(*part, "." | "..") && !part.chars().any(char::is_control);
    let flat = kind == BlobKind::Files || parts.len() == 1;
    (flat && !parts.is_empty() && name.len() <= MAX_NAME && parts.iter().all(fits)).then(|| parts.join("/"))
}

impl Objects {
    /// What a name means; none for one that means nothing.
    ///
    /// # Errors
    /// Of the store.
    pub fn blob(&self, kind: BlobKind, name: &str) -> Result<Option<StoredBlob>, ApiError> {
        let Some(name) = plain(kind, name) else { return Ok(None) };
        let doc = self.core.store.get(kind.kind(), &name).map_err(|e| store_failed(&e))?;
        Ok(doc.and_then(|doc| serde_json::from_slice(&doc.body).ok()))
    }

    /// The plain form of a name that may be given to something.
    pub(crate) fn blob_name(&self, kind: BlobKind, name: &str) -> Result<String, ApiError> {
        let refused = |code, text: String| ApiError::new(code, "POST", kind.name(), name, text);
        let name = plain(kind, name).ok_or_else(|| refused(400, format!("{name} is no name for a file")))?;
        let all = self.core.store.list(kind.kind()).map_err(|e| store_failed(&e))?;
        if let Some(file) = all.iter().find(|doc| name.starts_with(&format!("{}/", doc.key))) {
            return Err(refused(409, format!("Cannot create directory /{}", file.key)));
        }
        if all.iter().any(|doc| doc.key.starts_with(&format!("{name}/"))) {
            return Err(refused(409, format!("/{name} is a directory")));
        }
        Ok(name)
    }

    /// Gives a name to a blob that is there, in one commit with what is in `txn`; returns the name's plain form.
    pub(crate) fn name_blob_in(
        &self,
        kind: BlobKind,
        name: &str,
        blob: &StoredBlob,
        mut txn: Txn,
        by: &Principal,
    ) -> Result<String, ApiError> {
        // Looked at once more: the bytes took their time.
        let name = self.blob_name(kind, name)?;
        let refused = |text: String| ApiError::new(500, "POST", kind.name(), &name, text);
        let body = serde_json::to_vec(blob).map_err(|e| refused(e.to_string()))?;
        txn.puts.push(Put {
            kind: kind.kind().to_owned(),
            key: name.clone(),
            body: body.into(),
            expect: Expect::Any,
            indexes: Vec::new(),
        });
        let detail = format!("{} bytes, sha256 {}", blob.size, blob.blob);
        txn.audit.push(by.audit("post", kind.name(), &name, detail));
        self.core.store.commit(txn).map_err(|e| store_failed(&e))?;
        Ok(name)
    }

    /// Takes a name away; whether there was one. What it meant is removed some time after nothing else means it.
    ///
    /// # Errors
    /// Of the store.
    pub fn forget_blob(&self, kind: BlobKind, name: &str, by: &Principal) -> Result<bool, ApiError> {
        let (Some(name), Some(blob)) = (plain(kind, name), self.blob(kind, name)?) else {
            return Ok(false);
        };
        if kind == BlobKind::Isos {
            return self.forget_iso(&name, &blob, by).map(|()| true);
        }
        let delete = Delete {
            kind: kind.kind().to_owned(),
            key: name,
            expect: Expect::Any,
        };
        let txn = Txn {
            audit: vec![by.audit("delete", kind.name(), &delete.key, "")],
            deletes: vec![delete],
            ..Txn::default()
        };
        self.core.store.commit(txn).map_err(|e| store_failed(&e))?;
        Ok(true)
    }

    /// Names in a folder, sorted; folders end in `/`. None when there is no such folder.
    ///
    /// # Errors
    /// Of the store.
    pub fn blob_names(&self, kind: BlobKind, folder: &str) -> Result<Option<Vec<String>>, ApiError> {
        let folder = plain(kind, folder)
            .map(|folder| format!("{folder}/"))
            .unwrap_or_default();
        let all = self.core.store.list(kind.kind()).map_err(|e| store_failed(&e))?;
        let inside = all.iter().filter_map(|doc| doc.key.strip_prefix(&folder));
        let mut names: Vec<String> = inside
            .map(|rest| match rest.split_once('/') {
                Some((folder, _)) => format!("{folder}/"),
                None => rest.to_owned(),
            })
            .collect();
        names.sort();
        names.dedup();
        Ok((folder.is_empty() || !names.is_empty()).then_some(names))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_do_not_lead_out_of_their_folder() {
        for (kind, name, want) in [
            (BlobKind::Files, "/a//b/c", Some("a/b/c")),
            (BlobKind::Files, "a/../b", None),
            (BlobKind::Files, "..", None),
            (BlobKind::Files, "", None),
            (BlobKind::Files, "a\nb", None),
            (BlobKind::Isos, "x.iso", Some("x.iso")),
            (BlobKind::Isos, "a/x.iso", None),
        ] {
            assert_eq!(plain(kind, name).as_deref(), want, "{name}");
        }
        assert_eq!(plain(BlobKind::Files, &"x".repeat(MAX_NAME + 1)), None);
    }
}
