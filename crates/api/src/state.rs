//! What all handlers share.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use isobar_image::BlobDir;
use isobar_objects::{Objects, Principal};
use tokio::sync::Semaphore;

use crate::boots::Boots;
use crate::call::MEMORY_UNIT;
use crate::plugins::Plugins;

/// Passwords checked at once: each check costs a core and some 20 MB for as long as it takes.
const LOGINS: usize = 4;

/// Bytes of JSON bodies that are worked on at once. As values they take up to sixteen times as much.
const MEMORY: usize = 128 << 20;

/// Programs of plugin providers that run at once.
const PROGRAMS: usize = 16;

/// Readers of the feed of events at once.
const WATCHERS: usize = 512;
/// Those of one machine's token: none keeps others from watching.
const WATCHERS_OF_A_MACHINE: usize = 8;
/// The same of one user.
const WATCHERS_OF_A_USER: usize = 256;

/// What the server says about itself in `GET /info`.
#[derive(Clone, Debug)]
pub struct ServerInfo {
    /// Name of this endpoint; may be empty.
    pub id: String,
    /// `v0.1.0-…`.
    pub version: String,
    /// Port of the REST API.
    pub api_port: u16,
    /// Port of the file plane.
    pub file_port: u16,
    /// Address under which machines reach the server; may be empty.
    pub address: String,
}

/// Gives the latest log lines, in DRP's shape.
pub type Logs = Arc<dyn Fn() -> Vec<serde_json::Value> + Send + Sync>;

/// The parts that the routes work on. Cheap to clone.
#[derive(Clone)]
pub struct AppState {
    pub(crate) objects: Objects,
    pub(crate) boots: Arc<dyn Boots>,
    pub(crate) blobs: Arc<BlobDir>,
    pub(crate) spool: Arc<PathBuf>,
    pub(crate) server: Arc<ServerInfo>,
    pub(crate) plugins: Arc<Plugins>,
    pub(crate) logs: Logs,
    pub(crate) logins: Arc<Semaphore>,
    pub(crate) watchers: Watchers,
    pub(crate) programs: Arc<Semaphore>,
    pub(crate) memory: Arc<Semaphore>,
    pub(crate) uploads: Uploads,
}

impl AppState {
    /// `spool`: folder for uploads that are under way; on the file system of the blobs, so that the disk that fills up
    /// is the one that is watched.
    #[must_use]
    pub fn new(
        objects: Objects,
        boots: Arc<dyn Boots>,
        blobs: Arc<BlobDir>,
        spool: PathBuf,
        server: ServerInfo,
    ) -> Self {
        Self {
            objects,
            boots,
            blobs,
            spool: Arc::new(spool),
            server: Arc::new(server),
            plugins: Arc::default(),
            logs: Arc::new(Vec::new),
            logins: Arc::new(Semaphore::new(LOGINS)),
            watchers: Watchers::default(),
            programs: Arc::new(Semaphore::new(PROGRAMS)),
            memory: Arc::new(Semaphore::new(MEMORY / MEMORY_UNIT)),
            uploads: Uploads::default(),
        }
    }
}

/// The files and ISOs that are being uploaded.
#[derive(Clone, Debug, Default)]
pub(crate) struct Uploads(Arc<Mutex<HashSet<String>>>);

/// A name that is taken for one upload; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Uploading {
    uploads: Uploads,
    name: String,
}

impl Uploads {
    /// Takes a name, if nobody has it.
    pub(crate) fn begin(&self, name: String) -> Option<Uploading> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Made only when it holds: dropping it gives the name back.
        all.insert(name.clone()).then(|| Uploading {
            uploads: self.clone(),
            name,
        })
    }
}

impl Drop for Uploading {
    fn drop(&mut self) {
        let mut all = self.uploads.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(&self.name);
    }
}

/// Who reads the feed of events, by their names in it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watchers(Arc<Mutex<HashMap<String, usize>>>);

/// A reader's place; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Watching {
    watchers: Watchers,
    name: String,
}

impl Watchers {
    /// A place for one more, if there is one.
    pub(crate) fn enter(&self, who: &Principal) -> Option<Watching> {
        let most = match who.machine() {
            Some(_) => WATCHERS_OF_A_MACHINE,
            None => WATCHERS_OF_A_USER,
        };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.values().sum::<usize>() >= WATCHERS || all.get(who.name()).is_some_and(|own| *own >= most) {
            return None;
        }
        let name = who.name().to_owned();
        *all.entry(name.clone()).or_default() += 1;
        let watchers = self.clone();
        Some(Watching { watchers, name })
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let mut all = self.watchers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = all.get_mut(&self.name) {
            *own -= 1;
            if *own == 0 {
                all.remove(&self.name);
            }
        }
    }
}

impl AppState {
    /// The same with log lines to show.
    #[must_use]
    pub fn with_logs(self, logs: Logs) -> Self {
        Self { logs, ..self }
    }

    /// The same with plugin providers.
    #[must_use]
    pub fn with_plugins(self, plugins: Plugins) -> Self {
        Self {
            plugins: Arc::new(plugins),
            ..self
        }
    }
}

impl std::fmt::Debug for AppState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AppState({:?})", self.server)
    }
}
