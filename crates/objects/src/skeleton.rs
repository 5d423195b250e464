//! Signatures only, for those who build on them; the bodies follow.
#![allow(unused_variables, clippy::todo, missing_docs, dead_code)]

use std::sync::Arc;
use std::time::Duration;

use isobar_model::{ApiError, Object};
use isobar_store::{Clock, Store, StoreError, Txn, Vault};
use serde_json::Value;

use crate::{ChangeHook, Presence, Principal};

/// How the objects are set up.
#[derive(Debug)]
pub struct Options {
    /// Isobar's own content pack (bootenvs `sledgehammer`, workflows `discover-base` …) beside the built-in layer.
    pub content: bool,
    /// Preferences that are set at the first start, such as `defaultWorkflow`.
    pub prefs: Vec<(String, String)>,
    /// Name and password of the first user, made when there is no user at all. Without a password a random one is
    /// made; [`Objects::first_password`] tells it once.
    pub first_user: (String, Option<String>),
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
}

/// Why the objects cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    #[error(transparent)]
    Store(#[from] StoreError),
    /// `vault.key` is not the one that this database was written with.
    #[error("the key file does not belong to this database: put the vault.key back that was beside it")]
    WrongKey,
    #[error("content layer {layer}: {reason}")]
    Content { layer: String, reason: String },
}

/// DRP's objects. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Objects {}

/// The value of a param for internal use, decrypted. `Debug` shows no secret.
#[derive(Clone)]
pub struct Resolved {
    pub value: Value,
    /// It was stored encrypted: keep it out of logs, errors and answers.
    pub secure: bool,
}

/// A fresh token. `Debug` shows no secret.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// The text that goes after `Bearer `.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenState {
    /// Never issued, expired, or revoked.
    Unknown,
    /// Issued, and not presented yet.
    Fresh,
    /// Presented at least once.
    Used,
}

/// What a user wants of a token (query of `GET /users/:name/token`).
#[derive(Clone, Debug, Default)]
pub struct UserTokenRequest {
    /// Default 3600 s.
    pub ttl: Option<Duration>,
    /// A subset of the user's roles.
    pub roles: Vec<String>,
    /// A claim that narrows the token: scope, action, specific.
    pub claim: Option<(String, String, String)>,
}

impl Objects {
    pub fn open(store: Arc<dyn Store>, vault: Arc<Vault>, options: Options) -> Result<Self, OpenError> {
        todo!()
    }
    /// A call on a thread that may block.
    pub async fn run<T: Send + 'static>(&self, call: impl FnOnce(&Objects) -> T + Send + 'static) -> T {
        todo!()
    }
    pub fn store(&self) -> &Arc<dyn Store> {
        todo!()
    }
    pub fn vault(&self) -> &Arc<Vault> {
        todo!()
    }
    pub fn clock(&self) -> &Arc<dyn Clock> {
        todo!()
    }
    /// Password made for the first user at this start, told once.
    pub fn first_password(&self) -> Option<String> {
        todo!()
    }
    /// One hook; the last one set counts.
    pub fn set_hook(&self, hook: Arc<dyn ChangeHook>) {
        todo!()
    }
    /// Sets who knows the files, and does [`Objects::refresh`].
    pub fn set_presence(&self, presence: Arc<dyn Presence>) -> Result<usize, ApiError> {
        todo!()
    }
    /// Looks again which objects are available (a base was imported or removed); the number that changed.
    pub fn refresh(&self) -> Result<usize, ApiError> {
        todo!()
    }

    // Reading. `key` is what the caller wrote: `Name:mach-01`, a UUID. Errors repeat it.
    /// 404 as `GET`.
    pub fn get(&self, noun: &str, key: &str) -> Result<Arc<Object>, ApiError> {
        todo!()
    }
    /// None instead of 404.
    pub fn find(&self, noun: &str, key: &str) -> Result<Option<Arc<Object>>, ApiError> {
        todo!()
    }
    /// All, by key. (`list` with model's filters follows.)
    pub fn all(&self, noun: &str) -> Result<Vec<Arc<Object>>, ApiError> {
        todo!()
    }
    pub fn count(&self, noun: &str) -> Result<u64, ApiError> {
        todo!()
    }

    // Writing. All return the object as it is stored now.
    pub fn create(&self, noun: &str, input: &Value, by: &Principal) -> Result<Arc<Object>, ApiError> {
        todo!()
    }
    /// `ops`: RFC 6902. `force` allows a change of stage or bootenv that DRP refuses without it.
    pub fn patch(
        &self,
        noun: &str,
        key: &str,
        ops: &Value,
        force: bool,
        by: &Principal,
    ) -> Result<Arc<Object>, ApiError> {
        todo!()
    }
    pub fn replace(
        &self,
        noun: &str,
        key: &str,
        input: &Value,
        force: bool,
        by: &Principal,
    ) -> Result<Arc<Object>, ApiError> {
        todo!()
    }
    pub fn delete(&self, noun: &str, key: &str, by: &Principal) -> Result<Arc<Object>, ApiError> {
        todo!()
    }
    /// Reads, changes, validates, commits; again from the start when somebody else was faster.
    pub fn update_with(
        &self,
        noun: &str,
        key: &str,
        by: &Principal,
        change: impl FnMut(&mut Object) -> Result<(), ApiError>,
    ) -> Result<Arc<Object>, ApiError> {
        todo!()
    }

    // Params of machines, profiles, stages.
    pub fn params(&self, noun: &str, key: &str, aggregate: bool, decode: bool) -> Result<Object, ApiError> {
        todo!()
    }
    /// `null` when unset; with `aggregate` also from profiles and the schema's default.
    pub fn param(&self, noun: &str, key: &str, param: &str, aggregate: bool, decode: bool) -> Result<Value, ApiError> {
        todo!()
    }
    /// Secure params: a box made for [`Objects::pubkey`], or clear text, which is boxed before it is stored.
    pub fn set_param(
        &self,
        noun: &str,
        key: &str,
        param: &str,
        value: &Value,
        by: &Principal,
    ) -> Result<Value, ApiError> {
        todo!()
    }
    /// The old value.
    pub fn delete_param(&self, noun: &str, key: &str, param: &str, by: &Principal) -> Result<Value, ApiError> {
        todo!()
    }
    pub fn set_params(&self, noun: &str, key: &str, params: &Value, by: &Principal) -> Result<Object, ApiError> {
        todo!()
    }
    pub fn patch_params(&self, noun: &str, key: &str, ops: &Value, by: &Principal) -> Result<Object, ApiError> {
        todo!()
    }
    /// Base64 of the 32 bytes.
    pub fn pubkey(&self, noun: &str, key: &str) -> Result<String, ApiError> {
        todo!()
    }
    /// What a param comes to for a machine: its own value, its profiles', stage's, `global`'s, the schema's default;
    /// decrypted.
    pub fn resolve(&self, machine: &str, param: &str) -> Result<Option<Resolved>, ApiError> {
        todo!()
    }
    /// The same for an object at hand (in a hook).
    pub fn resolve_in(&self, noun: &str, object: &Object, param: &str) -> Result<Option<Resolved>, ApiError> {
        todo!()
    }
    /// The object with its secure params decrypted, for callers whose `getSecure` was checked.
    pub fn decoded(&self, noun: &str, object: &Object) -> Result<Object, ApiError> {
        todo!()
    }

    // Users and tokens.
    /// `from` is the peer's address: too many wrong passwords from there slow it down.
    pub fn authenticate(&self, user: &str, password: &str, from: &str) -> Result<Principal, ApiError> {
        todo!()
    }
    pub fn set_password(&self, user: &str, password: &str, by: &Principal) -> Result<Arc<Object>, ApiError> {
        todo!()
    }
    pub fn issue_user_token(&self, user: &str, request: &UserTokenRequest, by: &Principal) -> Result<Token, ApiError> {
        todo!()
    }
    /// May what an agent needs for its own machine.
    pub fn issue_machine_token(&self, uuid: &str, ttl: Duration) -> Result<Token, ApiError> {
        todo!()
    }
    /// [`Objects::issue_machine_token`] as part of the caller's own transaction.
    pub fn prepare_machine_token(&self, uuid: &str, ttl: Duration, txn: &mut Txn) -> Result<Token, ApiError> {
        todo!()
    }
    /// 403 for what is unknown, expired or revoked. The first call for a machine's token marks it as used, durably.
    pub fn verify(&self, token: &str) -> Result<Principal, ApiError> {
        todo!()
    }
    pub fn token_state(&self, token: &str) -> Result<TokenState, ApiError> {
        todo!()
    }
    pub fn revoke(&self, token: &str) -> Result<(), ApiError> {
        todo!()
    }

    // Prefs and info.
    pub fn prefs(&self) -> Result<Object, ApiError> {
        todo!()
    }
    pub fn pref(&self, name: &str) -> Result<Option<String>, ApiError> {
        todo!()
    }
    /// All or nothing; the stored pairs.
    pub fn set_prefs(&self, pairs: &Value, by: &Principal) -> Result<Object, ApiError> {
        todo!()
    }
    /// For `info.features`.
    pub fn features(&self) -> &'static [&'static str] {
        todo!()
    }
}
