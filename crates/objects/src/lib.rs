//! DRP's objects over a [`Store`]: the one place that writes them.
//!
//! [`Objects`] knows keys and references, params and secrets, content layers, users and tokens. It validates what it
//! writes, keeps `Available` true to what an object refers to, and commits each change together with its events.
//!
//! Everything here is synchronous and may wait for the disk. Async code goes through [`Objects::run`], which keeps the
//! other tasks of its thread going meanwhile; what [`Objects::at_hand`] says is answered from memory needs no such care:
//!
//! ```no_run
//! # async fn example(objects: isobar_objects::Objects) -> Result<(), isobar_model::ApiError> {
//! let machine = objects.run(|o| o.get("machines", "Name:mach-01")).await?;
//! # Ok(())
//! # }
//! ```
//!
//! Where to look: `write` is the way of every change; `core` orders and retries it; `view` is the world that it sees;
//! `rules` asks the model what is well-formed and usable; `refs` knows who refers to whom.

mod audit;
mod blobs;
mod content;
mod core;
mod grants;
mod hook;
mod hurry;
mod jobs;
mod known;
mod login;
mod objects;
mod packs;
mod params;
mod prefs;
mod preview;
mod principal;
mod read;
mod refs;
mod render;
mod rules;
mod secure;
mod tokens;
mod trees;
mod users;
mod view;
mod write;

#[cfg(doc)]
use isobar_store::Store;

pub use blobs::{BlobKind, StoredBlob};
pub use hook::{AllPresent, BootWindow, BootWindows, ChangeHook, NothingBoots, Presence};
pub use jobs::NextJob;
pub use objects::COLD;
pub use objects::{FEATURES, Objects, OpenError, Options};
pub use preview::Preview;
pub use principal::{Claim, Principal};
pub use read::{Listing, Row, Rows};
pub use render::ServedAt;
pub use secure::{Params, Resolved};
pub use tokens::{Token, TokenState, UserTokenRequest};
pub use trees::{InstallFile, UploadsError, uploaded_blobs};
pub use write::{Saved, WHERE_THE_BMC_IS};

/// Key of the machine's `Meta` whose text [`Objects`] also shows in the machine's `Errors`: why its last boot failed.
/// It does not make the machine unavailable. Whoever sets it removes it.
pub const BOOT_ERROR_META: &str = "isobar/boot-error";
