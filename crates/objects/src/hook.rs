//! What the layers above tell this one, and what they are told.

use isobar_model::{ApiError, Object};
use isobar_store::Txn;

use crate::Objects;

/// Who wants a say in changes of machines, and to know of them: the boots.
///
/// Both calls are made on a thread that may block.
pub trait ChangeHook: Send + Sync {
    /// A machine is about to be created (`old` is none), changed, or deleted (`new` is none). Puts, deletes, events
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
        txn: &mut Txn,
    ) -> Result<(), ApiError>;

    /// A change of this machine (its UUID) has been committed.
    fn committed(&self, machine: &str);
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
