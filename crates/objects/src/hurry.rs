//! Changes on threads that have other things to do than to wait: those that serve connections.
//!
//! A change in a hurry is tried once. What it would have to wait for ends the try, and it is made on a thread that may
//! wait. Nothing that such a thread holds between two steps of its tasks may be waited for by it: so deadlocks end here.

use std::cell::RefCell;
use std::sync::Arc;

use isobar_model::{ApiError, Object};
use isobar_store::{Announced, Pending, StoreError};
use tokio::sync::OwnedRwLockReadGuard;

use crate::core::Core;

thread_local! {
    static HURRY: RefCell<Option<Hurry>> = const { RefCell::new(None) };
}

/// A change in a hurry on this thread.
struct Hurry {
    /// Nobody else changes anything: it commits by itself, which takes as long as the disk does.
    alone: bool,
    submitted: Option<Submitted>,
    refused: bool,
}

/// A change that is on its way to the disk.
pub(crate) struct Submitted {
    pub(crate) pending: Pending,
    /// The machines that it changes, by UUID, as it leaves them.
    pub(crate) machines: Vec<(String, Option<Arc<Object>>)>,
    pub(crate) order: OwnedRwLockReadGuard<()>,
    pub(crate) announced: Announced,
}

/// How a try in a hurry ended.
pub(crate) enum Tried<T> {
    /// It is made, or there was nothing to do.
    Done(T),
    /// It is made if the commit succeeds.
    Submitted(T, Submitted),
    /// To be made on a thread that may wait.
    Refused,
}

/// What the change sees of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// It may wait.
    Patient,
    /// It commits by itself and waits for nothing else.
    Alone,
    /// It waits for nothing.
    Hurried,
}

pub(crate) fn pace() -> Pace {
    HURRY.with_borrow(|hurry| match hurry {
        None => Pace::Patient,
        Some(hurry) if hurry.alone => Pace::Alone,
        Some(_) => Pace::Hurried,
    })
}

/// Ends the try. What is returned is seen by nobody.
pub(crate) fn refuse() -> ApiError {
    HURRY.with_borrow_mut(|hurry| {
        if let Some(hurry) = hurry {
            hurry.refused = true;
        }
    });
    ApiError::new(503, "STORE_ERROR", "", "", "others are being waited for")
}

/// Leaves the commit to whoever tried. One that has submitted already cannot.
pub(crate) fn leave(submitted: Submitted) {
    HURRY.with_borrow_mut(|hurry| {
        if let Some(hurry) = hurry {
            hurry.submitted = Some(submitted);
        }
    });
}

/// Whether the change has submitted a transaction before.
pub(crate) fn has_submitted() -> bool {
    HURRY.with_borrow(|hurry| hurry.as_ref().is_some_and(|hurry| hurry.submitted.is_some()))
}

struct Begun;

impl Drop for Begun {
    fn drop(&mut self) {
        HURRY.set(None);
    }
}

/// Tries a change that may commit once.
pub(crate) fn attempt<T>(alone: bool, change: impl FnOnce() -> Result<T, ApiError>) -> Tried<Result<T, ApiError>> {
    let (submitted, refused) = (None, false);
    HURRY.set(Some(Hurry {
        alone,
        submitted,
        refused,
    }));
    let begun = Begun;
    let done = change();
    let hurry = HURRY.take();
    drop(begun);
    match hurry {
        Some(Hurry { refused: true, .. }) => Tried::Refused,
        Some(Hurry {
            submitted: Some(submitted),
            ..
        }) => Tried::Submitted(done, submitted),
        _ => Tried::Done(done),
    }
}

impl Submitted {
    /// Waits for the commit and tells of it, also when the caller goes away meanwhile.
    pub(crate) async fn settled(self, core: Arc<Core>) -> Result<(), StoreError> {
        let settling = tokio::spawn(async move {
            let Self {
                pending,
                machines,
                order,
                announced,
            } = self;
            let outcome = pending.await;
            drop((order, announced));
            if outcome.is_ok() {
                core.tell(&machines);
            }
            outcome.map(drop)
        });
        settling.await.unwrap_or(Err(StoreError::Closed))
    }
}
