//! What all clones of [`Objects`](crate::Objects) share, and how a change gets from intention to commit.

use std::cell::Cell;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use isobar_model::params::ParamSchema;
use isobar_model::{ApiError, Noun, Object};
use isobar_store::{Clock, Store, StoreError, Txn, Vault};
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, Semaphore};

use crate::content::Content;
use crate::hook::{BootWindows, ChangeHook, NothingBoots, Presence};
use crate::hurry::{self, Pace, Submitted};
use crate::known::KnownTokens;
use crate::login::Logins;
use crate::trees::Trees;
use crate::view::{Found, View};

pub(crate) struct Core {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) vault: Arc<Vault>,
    pub(crate) clock: Arc<dyn Clock>,
    content: RwLock<Arc<Content>>,
    /// How often another content has come into force.
    content_changes: AtomicU64,
    pub(crate) hook: RwLock<Option<Arc<dyn ChangeHook>>>,
    pub(crate) presence: RwLock<Arc<dyn Presence>>,
    pub(crate) windows: RwLock<Arc<dyn BootWindows>>,
    pub(crate) schemas: Schemas,
    pub(crate) declared: Declared,
    pub(crate) trees: Trees,
    pub(crate) logins: Logins,
    pub(crate) known_tokens: KnownTokens,
    /// Changes that are under way.
    pub(crate) changing: AtomicUsize,
    /// For the others.
    pub(crate) turns: Semaphore,
    pub(crate) first_password: Mutex<Option<String>>,
    /// Shared: changes of objects that nothing refers to (machines, jobs, users, tokens); the revision of the changed
    /// document orders them. Exclusive: changes of what others refer to, which have to look at all of those.
    order: Arc<tokio::sync::RwLock<()>>,
    /// Those that collided try again one at a time for each object.
    crowded: [Mutex<()>; 64],
    hasher: RandomState,
}

/// A change in the making.
#[derive(Default)]
pub(crate) struct Draft {
    pub(crate) txn: Txn,
    /// The machines that it changes, by UUID, as it leaves them.
    pub(crate) machines: Vec<(String, Option<Arc<Object>>)>,
    /// Content objects whose availability it changes.
    pub(crate) content: Vec<(&'static Noun, String, Arc<Object>)>,
    /// The content layers after it, where it changes them.
    pub(crate) layers: Option<Arc<Content>>,
}

impl Draft {
    /// Nothing but rows that nobody else refers to: there is nothing to do after the commit but to tell.
    fn is_of_machines(&self) -> bool {
        let own = |kind: &str| kind != "params" && kind != "bootenvs";
        self.content.is_empty()
            && self.layers.is_none()
            && self.txn.puts.iter().all(|put| own(&put.kind))
            && self.txn.deletes.iter().all(|delete| own(&delete.kind))
    }
}

/// How a change is ordered against others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Shared,
    Exclusive,
}

impl Order {
    /// Of changes to objects of this type.
    pub(crate) fn of(noun: &Noun) -> Self {
        match noun.name {
            "machines" | "users" | "jobs" => Order::Shared,
            _ => Order::Exclusive,
        }
    }
}

/// Held until a change is committed.
enum Ordered {
    Shared(OwnedRwLockReadGuard<()>),
    #[expect(dead_code, reason = "it is held, and nothing else")]
    Exclusive(OwnedRwLockWriteGuard<()>),
}

/// Blocks; on threads that may.
fn wait<T>(future: impl Future<Output = T>) -> T {
    pollster::block_on(tokio::task::unconstrained(future))
}

/// Calls at one time that wait for the disk on threads of their own.
const TURNS: usize = 128;

/// A change that collides this often is up against something that is not chance.
const MAX_ATTEMPTS: usize = 100;

thread_local! {
    /// This thread is preparing a change: a second one inside it would wait for itself.
    static PREPARING: Cell<bool> = const { Cell::new(false) };
}

struct Preparing;

impl Preparing {
    fn begin() -> Result<Self, ApiError> {
        if PREPARING.replace(true) {
            let text = "a change was started from inside a change hook, which may only read";
            return Err(ApiError::new(500, "STORE_ERROR", "", "", text));
        }
        Ok(Preparing)
    }
}

impl Drop for Preparing {
    fn drop(&mut self) {
        PREPARING.set(false);
    }
}

impl Core {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        vault: Arc<Vault>,
        clock: Arc<dyn Clock>,
        content: Content,
        presence: Arc<dyn Presence>,
    ) -> Self {
        Self {
            logins: Logins::new(Arc::clone(&clock)),
            store,
            vault,
            clock,
            content: RwLock::new(Arc::new(content)),
            content_changes: AtomicU64::new(0),
            hook: RwLock::new(None),
            presence: RwLock::new(presence),
            windows: RwLock::new(Arc::new(NothingBoots)),
            schemas: Schemas::default(),
            declared: Declared::default(),
            trees: Trees::default(),
            known_tokens: KnownTokens::default(),
            changing: AtomicUsize::new(0),
            turns: Semaphore::new(TURNS),
            first_password: Mutex::new(None),
            order: Arc::default(),
            crowded: [const { Mutex::new(()) }; 64],
            hasher: RandomState::new(),
        }
    }

    pub(crate) fn content(&self) -> Arc<Content> {
        Arc::clone(&self.content.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Another number when another content is in force. To be asked before anything is read of it.
    pub(crate) fn content_changes(&self) -> u64 {
        self.content_changes.load(Ordering::Acquire)
    }

    pub(crate) fn presence(&self) -> Arc<dyn Presence> {
        Arc::clone(&self.presence.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn windows(&self) -> Arc<dyn BootWindows> {
        Arc::clone(&self.windows.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn hook(&self) -> Option<Arc<dyn ChangeHook>> {
        self.hook.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Prepares a change and commits it; prepares it again when somebody else was faster. `about` names the object, so
    /// that changes which collide on it queue up. An empty draft is no commit.
    pub(crate) fn write<T>(
        &self,
        order: Order,
        about: &str,
        mut prepare: impl FnMut(&View<'_>, &mut Draft) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        let pace = hurry::pace();
        if hurry::has_submitted() {
            let text = "a change in a hurry commits once";
            return Err(ApiError::new(500, "STORE_ERROR", "", "", text));
        }
        if pace != Pace::Patient && order == Order::Exclusive {
            return Err(hurry::refuse());
        }
        let stripe = &self.crowded[self.hasher.hash_one(about) as usize % self.crowded.len()];
        let announced = self.store.announce();
        let mut waited = None;
        for _ in 0..MAX_ATTEMPTS {
            let preparing = Preparing::begin()?;
            let Some(ordered) = self.ordered(order, pace) else {
                return Err(hurry::refuse());
            };
            let view = View::new(self);
            let mut draft = Draft::default();
            let prepared = prepare(&view, &mut draft);
            // A failed read explains a failed preparation better than what was concluded from it.
            view.sound()?;
            let outcome = prepared?;
            drop(preparing);
            let ordered = match ordered {
                Ordered::Shared(order) if pace == Pace::Hurried && draft.is_of_machines() => {
                    let (txn, machines) = (draft.txn, draft.machines);
                    if !txn.is_empty() {
                        let pending = self.store.submit(txn);
                        hurry::leave(Submitted {
                            pending,
                            machines,
                            order,
                            announced,
                        });
                    }
                    return Ok(outcome);
                }
                ordered => ordered,
            };
            match self.commit(&mut draft) {
                Ok(()) => {
                    drop((ordered, waited));
                    self.tell(&draft.machines);
                    return Ok(outcome);
                }
                Err(StoreError::Conflict { .. }) if pace != Pace::Patient => return Err(hurry::refuse()),
                Err(StoreError::Conflict { .. }) => {
                    drop(ordered);
                    waited.get_or_insert_with(|| stripe.lock().unwrap_or_else(PoisonError::into_inner));
                }
                Err(e) => return Err(store_failed(&e)),
            }
        }
        let text = "was changed by others again and again; try once more";
        Err(ApiError::new(409, "Conflict", "", "", format!("{about} {text}")))
    }

    /// None: it would have to be waited for.
    fn ordered(&self, order: Order, pace: Pace) -> Option<Ordered> {
        let lock = Arc::clone(&self.order);
        Some(match (order, pace) {
            (Order::Shared, Pace::Patient) => Ordered::Shared(wait(lock.read_owned())),
            (Order::Shared, _) => Ordered::Shared(lock.try_read_owned().ok()?),
            (Order::Exclusive, _) => Ordered::Exclusive(wait(lock.write_owned())),
        })
    }

    fn commit(&self, draft: &mut Draft) -> Result<(), StoreError> {
        let txn = std::mem::take(&mut draft.txn);
        let touches =
            |kind: &str| txn.puts.iter().any(|p| p.kind == kind) || txn.deletes.iter().any(|d| d.kind == kind);
        let (declares, boots) = (touches("params"), touches("bootenvs"));
        if !txn.is_empty() {
            self.store.commit(txn)?;
        }
        // Still inside the exclusive order: nobody checks a value between the two.
        if declares {
            self.schemas.clear();
            self.declared.clear();
        }
        let layers = draft.layers.take();
        if layers.is_some() {
            self.schemas.clear();
        }
        let boots = boots || layers.is_some();
        if layers.is_some() || !draft.content.is_empty() {
            let mut content = Content::clone(&layers.unwrap_or_else(|| self.content()));
            for (noun, key, object) in draft.content.drain(..) {
                content.put(noun, &key, object);
            }
            *self.content.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(content);
            self.content_changes.fetch_add(1, Ordering::Release);
        }
        if boots {
            self.trees.bootenvs_changed();
        }
        Ok(())
    }

    pub(crate) fn tell(&self, machines: &[(String, Option<Arc<Object>>)]) {
        if let Some(hook) = self.hook() {
            machines
                .iter()
                .for_each(|(machine, now)| hook.committed(machine, now.as_deref()));
        }
    }
}

/// What a failure of the store is to a client.
pub(crate) fn store_failed(error: &StoreError) -> ApiError {
    match error {
        StoreError::Conflict { kind, key } => ApiError::new(409, "Conflict", kind, key, "was changed by someone else"),
        StoreError::Taken {
            kind,
            index,
            value,
            holder,
        } => {
            let (what, who) = match (kind.as_str(), index.as_str()) {
                ("machines", "Address") => ("IP address", format!("Machine {holder}")),
                _ => (index.as_str(), format!("{kind}/{holder}")),
            };
            ApiError::validation(kind, "", format!("{who} already has {what} {value}"))
        }
        StoreError::Full { .. } => ApiError::new(507, "STORE_ERROR", "", "", error.to_string()),
        StoreError::Closed => ApiError::new(503, "STORE_ERROR", "", "", error.to_string()),
        _ => ApiError::new(500, "STORE_ERROR", "", "", error.to_string()),
    }
}

/// Stored declarations of params, and that there is none: a machine has thirty params, and each change of it asks for all.
#[derive(Debug, Default)]
pub(crate) struct Declared(RwLock<(u64, HashMap<String, Option<Found>>)>);

impl Declared {
    /// Names of params come from clients: more of them are not remembered.
    const MOST: usize = 10_000;

    pub(crate) fn get(
        &self,
        param: &str,
        read: impl FnOnce() -> Result<Option<Found>, StoreError>,
    ) -> Result<Option<Found>, StoreError> {
        let generation = {
            let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(found) = known.1.get(param) {
                return Ok(found.clone());
            }
            known.0
        };
        let found = read()?;
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        // What was read before a declaration changed is not kept.
        if known.0 == generation {
            if known.1.len() >= Self::MOST {
                known.1.clear();
            }
            known.1.insert(param.to_owned(), found.clone());
        }
        Ok(found)
    }

    fn clear(&self) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        known.0 += 1;
        known.1.clear();
    }
}

/// Compiled schemas of declared params, until a declaration changes.
#[derive(Debug, Default)]
pub(crate) struct Schemas(RwLock<HashMap<String, Arc<ParamSchema>>>);

impl Schemas {
    pub(crate) fn get(
        &self,
        param: &str,
        compile: impl FnOnce() -> Option<Arc<ParamSchema>>,
    ) -> Option<Arc<ParamSchema>> {
        if let Some(schema) = self.0.read().unwrap_or_else(PoisonError::into_inner).get(param) {
            return Some(Arc::clone(schema));
        }
        let schema = compile()?;
        let mut schemas = self.0.write().unwrap_or_else(PoisonError::into_inner);
        schemas.insert(param.to_owned(), Arc::clone(&schema));
        Some(schema)
    }

    fn clear(&self) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
