//! DRP's objects over a [`Store`](isobar_store::Store): the one place that writes them.
//!
//! [`Objects`] knows keys and references, params and secrets, content layers, users and tokens. It validates what it
//! writes, keeps `Available` true to what an object refers to, and commits each change together with its events.
//!
//! Everything here is synchronous and may wait for the disk. Async code goes through [`Objects::run`], which moves the
//! call to a thread that may block:
//!
//! ```ignore
//! let machine = objects.run(|o| o.get("machines", "Name:mach-01")).await?;
//! ```

mod hook;
mod principal;
mod skeleton;

pub use hook::{AllPresent, ChangeHook, Presence};
pub use principal::Principal;
pub use skeleton::{Objects, OpenError, Options, Resolved, Token, TokenState, UserTokenRequest};
