//! What the layers above tell this one, and what they are told.

use base64::Engine as _;
use isobar_model::{ApiError, Object};
use isobar_store::Txn;
use sha2::Digest as _;

use crate::Objects;

/// Who wants a say in changes of machines, and to know of them: the boots.
///
/// Both calls are made on a thread that may block.
pub trait ChangeHook: Send + Sync {
    /// A machine is about to be created (`old` is none), changed, or deleted (`new` is none); `differ` names the members in
    /// which the two differ. Puts, deletes, events
    /// and fences added to `txn` are committed together with the change, or not at all; an error refuses the change.
    ///
    /// A change that collides with another one is prepared again, with a fresh `txn`: this may be called several times
    /// for one change and must have no effect but on `txn`. It must read only: a write through `objects` from here is
    /// refused. `objects` still shows the state before the change.
    ///
    /// # Errors
    /// Whatever the caller of the change is to see.
    fn machine_changing(
        &self,
        objects: &Objects,
        old: Option<&Object>,
        new: Option<&Object>,
        differ: &[&str],
        txn: &mut Txn,
    ) -> Result<(), ApiError>;

    /// A change of this machine (its UUID) has been committed, and left it like this; none: it is deleted.
    fn committed(&self, machine: &str, now: Option<&Object>);
}

/// Knows which files of boot environments are there.
pub trait Presence: Send + Sync {
    /// Whether the kernel or initial RAM disk `file` of this boot environment is there for the architecture (in DRP's
    /// spelling, `amd64`).
    fn file_present(&self, bootenv: &Object, arch: &str, file: &str) -> bool;

    /// How to get the missing files of this boot environment, for people.
    fn hint(&self, _bootenv: &Object) -> Option<String> {
        None
    }
}

/// A [`Presence`] for which every file is there.
#[derive(Clone, Copy, Debug, Default)]
pub struct AllPresent;

impl Presence for AllPresent {
    fn file_present(&self, _bootenv: &Object, _arch: &str, _file: &str) -> bool {
        true
    }
}

/// A machine's boot that is under way, for what only that machine is to get.
#[derive(Clone)]
pub struct BootWindow {
    /// The attempt.
    pub attempt: String,
    /// What stands in front of the paths of the machine's files while it boots. Who knows it read the machine's disc.
    pub pass: String,
    /// Secret of the attempt that tokens are made of.
    seed: String,
}

impl BootWindow {
    /// Of an attempt and its image's token.
    #[must_use]
    pub fn new(attempt: &str, image_token: &str) -> Self {
        let derived = |what: &str| {
            let digest = sha2::Sha256::digest(format!("{what}\0{image_token}"));
            base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(digest)
        };
        Self {
            attempt: attempt.to_owned(),
            pass: derived("pass"),
            seed: derived("seed"),
        }
    }

    pub(crate) fn seed(&self) -> &str {
        &self.seed
    }
}

impl std::fmt::Debug for BootWindow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BootWindow({})", self.attempt)
    }
}

/// Knows which machines are booting.
pub trait BootWindows: Send + Sync {
    /// The newest boot of a machine (its UUID) whose image may still be read; with `pass` the one that has it.
    ///
    /// # Errors
    /// Of the store.
    fn window(&self, machine: &str, pass: Option<&str>) -> Result<Option<BootWindow>, ApiError>;

    /// Whether an attempt of a machine is not over.
    ///
    /// # Errors
    /// Of the store.
    fn is_open(&self, machine: &str, attempt: &str) -> Result<bool, ApiError>;
}

/// [`BootWindows`] of a server on which nothing boots.
#[derive(Clone, Copy, Debug, Default)]
pub struct NothingBoots;

impl BootWindows for NothingBoots {
    fn window(&self, _machine: &str, _pass: Option<&str>) -> Result<Option<BootWindow>, ApiError> {
        Ok(None)
    }

    fn is_open(&self, _machine: &str, _attempt: &str) -> Result<bool, ApiError> {
        Ok(false)
    }
}
