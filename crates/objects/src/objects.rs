//! Opening, and what is asked of the whole.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};

use isobar_model::content::Pack;
use isobar_model::{ApiError, Noun, content, noun};
use isobar_store::vault::VaultError;
use isobar_store::{Clock, Expect, Put, Store, StoreError, SystemClock, Txn, Vault};

use crate::content::Content;
use crate::core::{Core, store_failed};
use crate::hook::{AllPresent, BootWindows, ChangeHook, Presence};
use crate::hurry::{self, Tried};

/// `info.features`: clients switch their behaviour on these, so each is something that works.
pub const FEATURES: &[&str] = &[
    "api-v3",
    "profileless-machine",
    "sane-exit-codes",
    "job-exit-states",
    "common-blob-size",
    "change-stage-map",
    "fsm-runner",
    "package-repository-handling",
    "separate-meta-api",
    "multiarch",
    "sprig",
    "tenants",
    "overridable-bootloaders",
    "centos-8",
    "workflows",
    "default-workflow",
    "http-range-header",
    "roles",
    "secure-params",
    "secure-param-upgrade",
    "slim-objects",
    "bundle-objects",
    "task-prerequisites",
    "virtual-media-boot",
];

/// Kinds of documents that are large, or grow in number for ever, and seldom read: not for memory
/// (`StoreOptions::cold`). What was held once is not added later.
pub const COLD: &[&str] = &["jobs", "_contents", "_joblogs", "_trees"];

/// How the objects are set up.
#[derive(Clone)]
pub struct Options {
    /// Isobar's own content pack: bootenv `sledgehammer`, workflows `discover-base`, the params of BMC actions and the
    /// like. The built-in layer is always there.
    pub content: bool,
    /// Further layers, nearest first: read from disk, or brought along by plugin providers.
    pub layers: Vec<Pack>,
    /// Preferences that are set when the database is new, such as `defaultWorkflow`.
    pub prefs: Vec<(String, String)>,
    /// Name and password of the first user, made when there is no user at all. Without a password a random one is made:
    /// see [`Objects::first_password`].
    pub first_user: (String, Option<String>),
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            content: true,
            layers: Vec::new(),
            prefs: Vec::new(),
            first_user: ("rocketskates".to_owned(), None),
            clock: Arc::new(SystemClock::default()),
        }
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("content", &self.content)
            .field("first_user", &self.first_user.0)
            .finish_non_exhaustive()
    }
}

/// Why the objects cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// `vault.key` is not the one that this database was written with.
    #[error("the key file does not belong to this database: put back the vault.key that was beside it ({0})")]
    WrongKey(VaultError),
    /// A content pack that comes with the program.
    #[error("content layer {layer}: {reason}")]
    Content {
        /// Its name.
        layer: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A content pack, an initial preference or the first user was refused.
    #[error(transparent)]
    Refused(#[from] ApiError),
}

/// DRP's objects. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Objects {
    pub(crate) core: Arc<Core>,
}

impl std::fmt::Debug for Objects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Objects(..)")
    }
}

impl Objects {
    /// Opens the objects in a store; in a new one makes the first user and sets the initial preferences.
    ///
    /// Stored objects keep their marks (`Available`, `Errors`) until [`Objects::set_presence`] or [`Objects::refresh`]:
    /// the server calls the first of them once it knows its boot files.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(store: Arc<dyn Store>, vault: Arc<Vault>, options: Options) -> Result<Self, OpenError> {
        check_key(store.as_ref(), &vault)?;
        let mut packs = vec![content::from_files(content::BUILTIN)?];
        if options.content {
            packs.push(content::from_files(content::ISOBAR)?);
        }
        packs.extend(options.layers.iter().cloned());
        let mut layers = Content::load(packs)?;
        layers.add_stored(store.as_ref())?;
        let mut shadowed = Vec::new();
        for (noun, key) in layers.ids() {
            if store.get(noun, key)?.is_some() {
                shadowed.push((noun, key.to_owned()));
            }
        }
        for (noun, key) in shadowed {
            // After an upgrade the operator's own object goes on working; ours is the newcomer.
            tracing::warn!(
                noun,
                key,
                "an object of this key exists already: the one from the content layer is left out"
            );
            layers.remove(noun, &key);
        }
        let core = Core::new(store, vault, Arc::clone(&options.clock), layers, Arc::new(AllPresent));
        let objects = Self { core: Arc::new(core) };
        objects.prepare_token_secrets()?;
        objects.seal_content()?;
        objects.make_first_objects()?;
        objects.refresh_content()?;
        objects.make_first_user(&options)?;
        objects.set_first_prefs(&options.prefs)?;
        objects.forget_expired_tokens()?;
        Ok(objects)
    }

    /// Says that the calling thread may wait in [`Objects::run_change`], for as long as a commit takes.
    pub fn lend_this_thread() {
        LENT.set(true);
    }

    /// A call that may block, on a thread of its own.
    ///
    /// # Panics
    /// Where the call does, and outside a Tokio runtime.
    pub async fn run<T: Send + 'static>(&self, call: impl FnOnce(&Objects) -> T + Send + 'static) -> T {
        let objects = self.clone();
        // Threads keep memory: a crowd of clients gets no more of them than help.
        let _turn = self.core.turns.acquire().await;
        match tokio::task::spawn_blocking(move || call(&objects)).await {
            Ok(done) => done,
            // Only a panic ends a blocking task early: it goes on where it was waited for.
            Err(failed) => std::panic::resume_unwind(failed.into_panic()),
        }
    }

    /// [`Objects::run`] of a change of one object of type `noun`, which is called again where it has to be. A machine is
    /// changed on the calling thread, if that was lent: each hand-over between threads costs a tenth of the change. Where
    /// others change something too, the task waits for the commit and not the thread.
    ///
    /// # Errors
    /// Those of the change.
    ///
    /// # Panics
    /// As [`Objects::run`].
    pub async fn run_change<T: Send + 'static>(
        &self,
        noun: &str,
        change: impl Fn(&Objects) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let changing = Changing::begin(&self.core.changing);
        if noun == "machines" && LENT.get() {
            match hurry::attempt(changing.alone, || change(self)) {
                Tried::Done(done) => return done,
                Tried::Submitted(done, submitted) => match submitted.settled(Arc::clone(&self.core)).await {
                    Ok(()) => return done,
                    Err(StoreError::Conflict { .. }) => {}
                    Err(error) => return Err(store_failed(&error)),
                },
                Tried::Refused => {}
            }
        }
        self.run(change).await
    }

    /// What the objects are kept in, for the internal kinds (`_boots` …) of other crates.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.core.store
    }

    /// How often another content has come into force: to be asked before anything is read of it, for what is concluded
    /// from that is good as long as this stays the same.
    #[must_use]
    pub fn content_changes(&self) -> u64 {
        self.core.content_changes()
    }

    /// What secrets are kept with.
    #[must_use]
    pub fn vault(&self) -> &Arc<Vault> {
        &self.core.vault
    }

    /// Where time comes from.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.core.clock
    }

    /// The random password made for the first user at this start, if one was made. Told once.
    #[must_use]
    pub fn first_password(&self) -> Option<String> {
        self.core
            .first_password
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// Registers who has a say in changes of machines; the last one set counts.
    pub fn set_hook(&self, hook: Arc<dyn ChangeHook>) {
        *self.core.hook.write().unwrap_or_else(PoisonError::into_inner) = Some(hook);
    }

    /// Sets who knows which boot files are there, and does [`Objects::refresh`]. Until then all are taken to be there.
    ///
    /// # Errors
    /// Of the store.
    pub fn set_presence(&self, presence: Arc<dyn Presence>) -> Result<usize, ApiError> {
        *self.core.presence.write().unwrap_or_else(PoisonError::into_inner) = presence;
        self.refresh()
    }

    /// From now on, templates ask this one whether a machine is booting.
    pub fn set_windows(&self, windows: Arc<dyn BootWindows>) {
        *self.core.windows.write().unwrap_or_else(PoisonError::into_inner) = windows;
    }

    /// For `info.features`.
    #[must_use]
    pub fn features(&self) -> &'static [&'static str] {
        FEATURES
    }
}

thread_local! {
    static LENT: Cell<bool> = const { Cell::new(false) };
}

/// A change that is under way, counted.
struct Changing<'a> {
    count: &'a AtomicUsize,
    alone: bool,
}

impl<'a> Changing<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        let alone = count.fetch_add(1, Ordering::Relaxed) == 0;
        Changing { count, alone }
    }
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The row of a type, or the 404 of a route that is not there.
pub(crate) fn row(name: &str) -> Result<&'static Noun, ApiError> {
    noun(name).ok_or_else(|| ApiError::no_route("GET", &format!("/api/v3/{name}")))
}

/// Refuses a key file that did not write this database, before anything is sealed with it.
fn check_key(store: &dyn Store, vault: &Vault) -> Result<(), OpenError> {
    const KIND: &str = "_meta";
    const KEY: &str = "vault";
    const CONTEXT: &str = "_meta/vault";
    if let Some(doc) = store.get(KIND, KEY)? {
        return vault
            .open_sealed(CONTEXT, &doc.body)
            .map(|_| ())
            .map_err(OpenError::WrongKey);
    }
    let mark = Put {
        kind: KIND.to_owned(),
        key: KEY.to_owned(),
        body: vault.seal(CONTEXT, b"isobar").into(),
        expect: Expect::Absent,
        indexes: Vec::new(),
    };
    store.commit(Txn {
        puts: vec![mark],
        ..Txn::default()
    })?;
    Ok(())
}
