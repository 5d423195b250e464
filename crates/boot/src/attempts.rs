//! Attempts: planning a machine's image, its token and secret, and serving it again for as long as it is mounted.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use isobar_image::vfs::{Denied, ImageResolver, Opened};
use isobar_image::{AttemptId, Image};
use isobar_store::{Doc, Expect, Put, Rev, Store, StoreError, Vault};
use rand::Rng as _;
use sha2::{Digest as _, Sha256};

use crate::bases::Bases;
use crate::reads::ReadBook;
use crate::record::{self, Attempt, kind};

/// SHA-256 as hex: how tokens, secrets and nonces are stored.
#[must_use]
pub fn hash(text: &str) -> String {
    hex::encode(Sha256::digest(text.as_bytes()))
}

/// 256 random bits as 43 characters of base64url.
#[must_use]
pub fn random_token() -> String {
    let mut bytes = [0; 32];
    rand::rng().fill_bytes(&mut bytes);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Images that lie in memory; the rest is made again from its row.
const CACHED: usize = 512;

/// The attempts of a store, and the images that stand behind their tokens.
pub struct Attempts {
    store: Arc<dyn Store>,
    vault: Arc<Vault>,
    bases: Arc<Bases>,
    /// Is told who was refused.
    book: Option<Arc<ReadBook>>,
    images: Mutex<HashMap<String, Arc<Image>>>,
    /// By token hash; what the file plane asks for many times a second.
    tokens: Mutex<HashMap<String, Arc<Attempt>>>,
    /// Grows with each change: what was read before it is not put into `tokens` after it.
    epoch: AtomicU64,
    /// Only the BMC's own address may read.
    strict: bool,
    /// `/dynamic_isos/…` is served on the plain file plane as well.
    open_names: bool,
}

fn parse(doc: &Doc) -> Option<Attempt> {
    record::read(doc)
}

impl Attempts {
    /// Over a store; `strict` and `open_names` are the operator's choices.
    pub fn new(store: Arc<dyn Store>, vault: Arc<Vault>, bases: Arc<Bases>, strict: bool, open_names: bool) -> Self {
        Self {
            store,
            vault,
            bases,
            book: None,
            images: Mutex::default(),
            tokens: Mutex::default(),
            epoch: AtomicU64::new(0),
            strict,
            open_names,
        }
    }

    /// Who is refused is told to this book.
    #[must_use]
    pub(crate) fn telling(mut self, book: Arc<ReadBook>) -> Self {
        self.book = Some(book);
        self
    }

    /// One attempt with the revision of its row.
    ///
    /// # Errors
    /// Of the store.
    pub fn get(&self, id: &str) -> Result<Option<(Attempt, Rev)>, StoreError> {
        Ok(self
            .store
            .get(kind::ATTEMPTS, id)?
            .and_then(|doc| Some((parse(&doc)?, doc.rev))))
    }

    /// [`Attempts::get`] for one who has read it before.
    pub(crate) fn again(&self, id: &str, known: Option<(Attempt, Rev)>) -> Result<Option<(Attempt, Rev)>, StoreError> {
        let doc = self.store.get(kind::ATTEMPTS, id)?;
        Ok(doc.and_then(|doc| match known {
            Some((attempt, rev)) if rev == doc.rev => Some((attempt, rev)),
            _ => Some((parse(&doc)?, doc.rev)),
        }))
    }

    /// A machine's attempts, newest first.
    ///
    /// # Errors
    /// Of the store.
    pub fn of_machine(&self, machine: &str) -> Result<Vec<(Attempt, Rev)>, StoreError> {
        let docs = self.store.find(kind::ATTEMPTS, "Machine", machine)?;
        let mut attempts: Vec<_> = docs.iter().filter_map(|doc| Some((parse(doc)?, doc.rev))).collect();
        attempts.sort_by_key(|(attempt, rev)| std::cmp::Reverse((attempt.created_ms, *rev)));
        Ok(attempts)
    }

    /// All attempts that are not over.
    ///
    /// # Errors
    /// Of the store.
    pub fn live(&self) -> Result<Vec<Attempt>, StoreError> {
        Ok(self
            .store
            .find(kind::ATTEMPTS, "State", "live")?
            .iter()
            .filter_map(parse)
            .collect())
    }

    /// The attempt of an image URL, if the URL is one of ours.
    ///
    /// # Errors
    /// Of the store.
    pub fn of_url(&self, url: &str) -> Result<Option<Attempt>, StoreError> {
        let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
        match rest
            .split_once('/')
            .map(|(_, path)| path)
            .and_then(|path| path.strip_suffix("/boot.iso"))
        {
            Some(token) => Ok(self.by_token(token)?.map(|a| (*a).clone())),
            None => Ok(None),
        }
    }

    /// Opens sealed text of an attempt.
    #[must_use]
    pub fn unseal(&self, attempt: &str, sealed: &str) -> Option<String> {
        let bytes = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        String::from_utf8(self.vault.open_sealed(&context(attempt), &bytes).ok()?).ok()
    }

    /// Seals text of an attempt.
    #[must_use]
    pub fn seal(&self, attempt: &str, clear: &str) -> String {
        URL_SAFE_NO_PAD.encode(self.vault.seal(&context(attempt), clear.as_bytes()))
    }

    /// The write of an attempt's image: the base's digest and the sealed delta, which holds the boot secret.
    #[must_use]
    pub fn put_image(&self, attempt: &str, image: &Image) -> Put {
        let mut body = image.base().digest().0.to_vec();
        body.extend(self.vault.seal(&context(attempt), &image.delta()));
        Put {
            kind: kind::IMAGES.to_owned(),
            key: attempt.to_owned(),
            body: Bytes::from(body),
            expect: Expect::Any,
            indexes: Vec::new(),
        }
    }

    /// The image of an attempt: the same bytes for as long as the row lives, whatever was imported since.
    ///
    /// # Errors
    /// Of the store; a row that cannot be opened counts as none, and is logged.
    pub fn image(&self, attempt: &str) -> Result<Option<Arc<Image>>, StoreError> {
        if let Some(image) = self.images.lock().unwrap_or_else(PoisonError::into_inner).get(attempt) {
            return Ok(Some(Arc::clone(image)));
        }
        let Some(doc) = self.store.get(kind::IMAGES, attempt)? else {
            return Ok(None);
        };
        let Some((digest, sealed)) = doc.body.split_first_chunk::<32>() else {
            return Ok(None);
        };
        let Some(base) = self.bases.by_digest(&hex::encode(digest))? else {
            tracing::error!(attempt, "the base of an image is missing");
            return Ok(None);
        };
        let delta = match self.vault.open_sealed(&context(attempt), sealed) {
            Ok(delta) => delta,
            Err(error) => {
                tracing::error!(attempt, %error, "an image cannot be opened");
                return Ok(None);
            }
        };
        let image = match Image::from_delta(base, &delta) {
            Ok(image) => Arc::new(image),
            Err(error) => {
                tracing::error!(attempt, %error, "an image cannot be read");
                return Ok(None);
            }
        };
        self.keep_image(attempt, &image);
        Ok(Some(image))
    }

    fn keep_image(&self, attempt: &str, image: &Arc<Image>) {
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        if images.len() >= CACHED {
            // Any will do: what is being read comes back from its row in well under a millisecond.
            if let Some(key) = images.keys().next().cloned() {
                images.remove(&key);
            }
        }
        images.insert(attempt.to_owned(), Arc::clone(image));
    }

    /// An attempt's row was changed: what the file plane knows of it is old.
    pub fn changed(&self, attempt: &Attempt) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
        self.tokens
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&attempt.token_hash);
        if attempt.over {
            self.images
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&attempt.id);
        }
    }

    /// Rows were changed in somebody else's transaction.
    pub fn forget_all(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.images.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn by_token(&self, token: &str) -> Result<Option<Arc<Attempt>>, StoreError> {
        if token.len() < 22
            || !token
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        {
            return Ok(None);
        }
        let hash = hash(token);
        if let Some(attempt) = self.tokens.lock().unwrap_or_else(PoisonError::into_inner).get(&hash) {
            return Ok(Some(Arc::clone(attempt)));
        }
        let epoch = self.epoch.load(Ordering::SeqCst);
        let Some(attempt) = self.store.find(kind::ATTEMPTS, "Token", &hash)?.iter().find_map(parse) else {
            return Ok(None);
        };
        let attempt = Arc::new(attempt);
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if tokens.len() >= CACHED * 4 {
            tokens.clear();
        }
        if self.epoch.load(Ordering::SeqCst) == epoch {
            tokens.insert(hash, Arc::clone(&attempt));
        }
        Ok(Some(attempt))
    }

    fn by_name(&self, path: &str) -> Result<Option<Arc<Image>>, StoreError> {
        let Some((machine, bootenv)) = parse_name(path) else {
            return Ok(None);
        };
        for (attempt, _) in self.of_machine(machine)? {
            if attempt.bootenv == bootenv
                && let Some(image) = self.image(&attempt.id)?
            {
                return Ok(Some(image));
            }
        }
        Ok(None)
    }
}

/// `dynamic_isos/UUID/BOOTENV/boot.iso`, the name for people, taken apart.
#[must_use]
pub fn parse_name(path: &str) -> Option<(&str, &str)> {
    let rest = path.trim_start_matches('/').strip_prefix("dynamic_isos/")?;
    let (machine, rest) = rest.split_once('/')?;
    Some((machine, rest.strip_suffix("/boot.iso")?))
}

fn context(attempt: &str) -> String {
    format!("attempt/{attempt}")
}

impl ImageResolver for Attempts {
    fn open(&self, path: &str, peer: IpAddr) -> Result<Opened, Denied> {
        let failed = |error: StoreError| {
            tracing::error!(%error, "the store does not answer the file plane");
            Denied::Unavailable
        };
        if self.open_names && path.starts_with("/dynamic_isos/") {
            let image = self.by_name(path).map_err(failed)?.ok_or(Denied::NotFound)?;
            return Ok(Opened::Image { image, attempt: None });
        }
        let token = path
            .strip_prefix('/')
            .and_then(|p| p.strip_suffix("/boot.iso"))
            .ok_or(Denied::NotFound)?;
        let attempt = self.by_token(token).map_err(failed)?.ok_or(Denied::NotFound)?;
        if attempt.over {
            return Err(Denied::Gone);
        }
        if (self.strict || attempt.strict) && !attempt.may_read(peer) {
            if let Some(book) = &self.book {
                book.refused(attempt.attempt_id(), peer);
            }
            return Err(Denied::Forbidden);
        }
        let image = self.image(&attempt.id).map_err(failed)?.ok_or(Denied::NotFound)?;
        Ok(Opened::Image {
            image,
            attempt: Some(AttemptId(attempt.attempt_id().0)),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A store whose disk does not answer.
    struct Silent(isobar_store::SqliteStore);

    fn silent<T>() -> Result<T, StoreError> {
        Err(StoreError::Backend("disk I/O error".to_owned()))
    }

    impl Store for Silent {
        fn get(&self, _: &str, _: &str) -> Result<Option<Doc>, StoreError> {
            silent()
        }
        fn find(&self, _: &str, _: &str, _: &str) -> Result<Vec<Doc>, StoreError> {
            silent()
        }
        fn list(&self, _: &str) -> Result<Vec<Doc>, StoreError> {
            silent()
        }
        fn count(&self, _: &str) -> Result<u64, StoreError> {
            silent()
        }
        fn heads(&self, _: &str, _: u32) -> Result<Vec<Bytes>, StoreError> {
            silent()
        }
        fn at_hand(&self, kind: &str) -> bool {
            self.0.at_hand(kind)
        }
        fn changed(&self, kind: &str) -> isobar_store::Rev {
            self.0.changed(kind)
        }
        fn announce(&self) -> isobar_store::Announced {
            self.0.announce()
        }
        fn submit(&self, txn: isobar_store::Txn) -> isobar_store::Pending {
            self.0.submit(txn)
        }
        fn watch(&self) -> tokio::sync::broadcast::Receiver<Arc<isobar_store::Committed>> {
            self.0.watch()
        }
        fn events(&self, _: isobar_store::Rev, _: usize) -> Result<isobar_store::History, StoreError> {
            silent()
        }
        fn note(&self, entry: isobar_store::Audit) {
            self.0.note(entry);
        }
        fn audit(&self, _: &isobar_store::AuditQuery) -> Result<Vec<isobar_store::Audited>, StoreError> {
            silent()
        }
        fn rev(&self) -> Result<isobar_store::Rev, StoreError> {
            silent()
        }
        fn claim(&self, _: &str, _: &str, _: &str, _: u64) -> Result<Option<isobar_store::Lease>, StoreError> {
            silent()
        }
        fn renew(&self, _: &isobar_store::Lease, _: u64) -> Result<bool, StoreError> {
            silent()
        }
        fn release(&self, _: &isobar_store::Lease) -> Result<bool, StoreError> {
            silent()
        }
    }

    #[test]
    fn a_store_that_fails_is_not_a_token_that_nobody_issued() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Arc::new(isobar_image::BlobDir::open(dir.path()).unwrap());
        let over = |store: Arc<dyn Store>| {
            let bases = Arc::new(Bases::new(Arc::clone(&store), Arc::clone(&blobs)));
            Attempts::new(store, Arc::new(Vault::ephemeral()), bases, false, true)
        };
        let memory = || isobar_store::SqliteStore::in_memory().unwrap();
        let (good, failing) = (over(Arc::new(memory())), over(Arc::new(Silent(memory()))));
        let token = format!("/{}/boot.iso", random_token());
        for path in [token.as_str(), "/dynamic_isos/u/b/boot.iso"] {
            let denied = |attempts: &Attempts| attempts.open(path, IpAddr::from([127, 0, 0, 1])).err();
            assert_eq!(denied(&good), Some(Denied::NotFound), "{path}");
            assert_eq!(denied(&failing), Some(Denied::Unavailable), "{path}");
        }
    }

    #[test]
    fn names_for_people_are_taken_apart() {
        assert_eq!(
            parse_name("/dynamic_isos/u-1/sledgehammer/boot.iso"),
            Some(("u-1", "sledgehammer"))
        );
        assert_eq!(parse_name("dynamic_isos/u-1/local"), None);
        assert_eq!(parse_name("/isos/u-1/x/boot.iso"), None);
    }

    #[test]
    fn tokens_are_long_and_never_the_same() {
        let (a, b) = (random_token(), random_token());
        assert_eq!(a.len(), 43);
        assert_ne!(a, b);
    }
}
