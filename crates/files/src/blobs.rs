//! A few blob files kept open.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError};

use isobar_image::{BlobDir, BlobId};

/// Open blob files, the least recently used closed first. Blobs never change, so a descriptor stays
/// good for as long as it is held, even when the blob was collected meanwhile; but it holds the disk's space.
pub(crate) struct OpenBlobs {
    dir: Arc<BlobDir>,
    capacity: usize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    clock: u64,
    files: HashMap<BlobId, (Arc<File>, u64)>,
}

impl OpenBlobs {
    pub(crate) fn new(dir: Arc<BlobDir>, capacity: usize) -> Self {
        Self {
            dir,
            capacity: capacity.max(1),
            inner: Mutex::default(),
        }
    }

    pub(crate) fn get(&self, id: &BlobId) -> io::Result<Arc<File>> {
        {
            let mut inner = self.lock();
            inner.clock += 1;
            let now = inner.clock;
            if let Some((file, used)) = inner.files.get_mut(id) {
                *used = now;
                return Ok(file.clone());
            }
        }
        // Opened without the lock: a slow disk must not hold up readers of other blobs.
        let file = Arc::new(self.dir.file(id)?);
        let mut inner = self.lock();
        inner.clock += 1;
        let now = inner.clock;
        if inner.files.len() >= self.capacity
            && let Some(oldest) = inner.files.iter().min_by_key(|(_, (_, used))| *used).map(|(id, _)| *id)
        {
            inner.files.remove(&oldest);
        }
        inner.files.insert(*id, (file.clone(), now));
        Ok(file)
    }

    /// Closes those whose blob was removed; who reads one goes on.
    pub(crate) fn forget_removed(&self) {
        let removed = |file: &File| file.metadata().is_ok_and(|metadata| metadata.nlink() == 0);
        self.lock().files.retain(|_, (file, _)| !removed(file));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn keeps_no_more_files_open_than_it_may() {
        let folder = tempfile::tempdir().unwrap();
        let dir = Arc::new(BlobDir::open(folder.path()).unwrap());
        let ids: Vec<BlobId> = (0..5u8).map(|i| dir.import(&mut [i].as_slice()).unwrap().0).collect();
        let open = OpenBlobs::new(dir, 2);
        let first = open.get(&ids[0]).unwrap();
        open.get(&ids[1]).unwrap();
        assert!(
            Arc::ptr_eq(&first, &open.get(&ids[0]).unwrap()),
            "a second read uses the open file"
        );
        for id in &ids {
            open.get(id).unwrap();
        }
        assert_eq!(open.lock().files.len(), 2);
        assert!(open.get(&BlobId([9; 32])).is_err());
    }

    #[test]
    fn a_removed_blob_is_not_kept_open() {
        let folder = tempfile::tempdir().unwrap();
        let dir = Arc::new(BlobDir::open(folder.path()).unwrap());
        let ids = [b"one", b"two"].map(|bytes| dir.import(&mut bytes.as_slice()).unwrap().0);
        let open = OpenBlobs::new(Arc::clone(&dir), 2);
        ids.iter().for_each(|id| drop(open.get(id).unwrap()));
        dir.remove(&ids[0]).unwrap();
        open.forget_removed();
        assert_eq!(open.lock().files.keys().collect::<Vec<_>>(), [&ids[1]]);
    }
}
