//! The booting side of the server: what the API, the file plane and the objects talk to.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use isobar_image::vfs::{ImageResolver, ReadObserver};
use isobar_image::{BlobDir, Image};
use isobar_objects::Objects;
use isobar_store::{StoreError, Vault};
use serde_json::Value;
use tokio::runtime::Handle;

use crate::agents::AgentBook;
use crate::attempts::Attempts;
use crate::bases::Bases;
use crate::bmcs::Bmcs;
use crate::clock::BootClock;
use crate::collect;
use crate::consoles::Consoles;
use crate::conversations;
use crate::gate::{Connector, Gate};
use crate::ledger::Ledger;
use crate::pins::Pins;
use crate::post_mortem::Files;
use crate::profiles;
use crate::reads::ReadBook;
use crate::record::{Attempt, Boot, kind};
use crate::saga;
use crate::settings::KnownSettings;
use crate::state::{BootOptions, Inner, lock};
use crate::view::{BootView, iso_name};

/// Why booting cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The file of exchanges under way.
    #[error("cannot use {path}: {source}")]
    Ledger {
        /// Where it is.
        path: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The booting side. Cheap to clone.
#[derive(Clone)]
pub struct Booter {
    pub(crate) inner: Arc<Inner>,
}

impl Booter {
    /// Puts it together and goes on with every boot that an earlier process left open.
    /// Has to be called inside a tokio runtime, on which the boots then run. It should be none that others wait for:
    /// boots read and write the store on its threads.
    ///
    /// # Errors
    /// Of the store, or of the file of exchanges.
    pub fn start(
        objects: Objects,
        blobs: Arc<BlobDir>,
        connector: Arc<dyn Connector>,
        options: BootOptions,
    ) -> Result<Self, StartError> {
        let timing = options.timing.clone();
        let longest = timing.insert().max(timing.exchange()) + timing.log_out();
        let (ledger, left) = Ledger::open(&options.ledger, longest).map_err(|source| StartError::Ledger {
            path: options.ledger.clone(),
            source,
        })?;
        for (bmc, time) in &left.doubts {
            tracing::info!(
                bmc,
                seconds = time.as_secs(),
                "waiting out an exchange of an earlier process"
            );
        }
        let store = Arc::clone(objects.store());
        let vault: Arc<Vault> = Arc::clone(objects.vault());
        let clock = Arc::new(BootClock::new(Arc::clone(objects.clock())));
        let bases = Arc::new(Bases::new(Arc::clone(&store), blobs));
        let book = Arc::new(ReadBook::new(Arc::clone(&clock)));
        let bmcs = Bmcs::open(Arc::clone(&store), Arc::clone(&vault))?;
        let attempts = Attempts::new(
            Arc::clone(&store),
            vault,
            Arc::clone(&bases),
            options.strict_bmc_address,
            options.open_iso_names,
        );
        let attempts = Arc::new(attempts.telling(Arc::clone(&book)));
        let inner = Arc::new(Inner {
            gate: Gate::new(
                connector,
                timing.clone(),
                ledger,
                left,
                Pins::new(Arc::clone(&store)),
                bmcs,
            ),
            timing,
            agents: AgentBook::new(options.timing.agent_gone()),
            book,
            known: KnownSettings::default(),
            runner: |inner, id| Box::pin(saga::run(inner, id)),
            runtime: Handle::current(),
            lives: Mutex::default(),
            flights: Mutex::default(),
            post_mortems: Files::new(options.post_mortems.clone()),
            room: Arc::default(),
            rollings: Mutex::default(),
            ordered: Mutex::default(),
            consoles: Consoles::default(),
            objects,
            store,
            clock,
            bases,
            attempts,
            options,
        });
        inner.resume()?;
        inner.resume_rolling()?;
        inner.resume_lights()?;
        inner.restore_profiles()?;
        collect::run(&inner);
        conversations::run(&inner);
        profiles::run(&inner);
        Ok(Self { inner })
    }

    /// Logs out of all BMCs, as far as that is done in `time`; from here on no session outlives its exchange.
    pub async fn log_out(&self, time: Duration) {
        let _ = tokio::time::timeout(time, self.inner.gate.close_all()).await;
    }

    /// What the file plane asks for images.
    #[must_use]
    pub fn resolver(&self) -> Arc<dyn ImageResolver> {
        Arc::clone(&self.inner.attempts) as Arc<dyn ImageResolver>
    }

    /// What the file plane tells of reads.
    #[must_use]
    pub fn observer(&self) -> Arc<dyn ReadObserver> {
        Arc::clone(&self.inner.book) as Arc<dyn ReadObserver>
    }

    /// The bases that images stand on.
    #[must_use]
    pub fn bases(&self) -> &Arc<Bases> {
        &self.inner.bases
    }

    /// Boots of a machine (none: of all) in a state (none: in any), newest first, at most so many.
    ///
    /// # Errors
    /// Of the store.
    pub fn boots(
        &self,
        machine: Option<&str>,
        state: Option<&str>,
        limit: Option<usize>,
    ) -> Result<Vec<BootView>, StoreError> {
        /// What the choice is made by.
        #[derive(serde::Deserialize)]
        struct Head {
            started_ms: u64,
            state: String,
        }
        let docs = match machine {
            Some(machine) => self.inner.store.find(kind::BOOTS, "Machine", machine)?,
            None => self.inner.store.list(kind::BOOTS)?,
        };
        let heads = docs.iter().filter_map(|doc| {
            let head: Head = serde_json::from_slice(&doc.body).ok()?;
            let wanted = state.is_none_or(|state| head.state == state);
            wanted.then_some((head.started_ms, doc))
        });
        let mut heads: Vec<_> = heads.collect();
        heads.sort_by_key(|(started, doc)| std::cmp::Reverse((*started, doc.rev)));
        heads.truncate(limit.unwrap_or(usize::MAX));
        let boots = heads
            .iter()
            .filter_map(|(_, doc)| serde_json::from_slice::<Boot>(&doc.body).ok());
        boots.map(|boot| self.inner.view(&boot)).collect()
    }

    /// One boot.
    ///
    /// # Errors
    /// Of the store.
    pub fn boot(&self, id: &str) -> Result<Option<BootView>, StoreError> {
        self.inner
            .boot_row(id)?
            .map(|row| self.inner.view(&row.boot))
            .transpose()
    }

    /// One boot as soon as there is news of it: its `seq` is above `after`; at the latest after `wait`.
    ///
    /// # Errors
    /// Of the store.
    pub async fn wait_boot(&self, id: &str, after: u64, wait: Duration) -> Result<Option<BootView>, StoreError> {
        let deadline = tokio::time::Instant::now() + wait;
        loop {
            let mut news = lock(&self.inner.lives).get(id).map(|life| life.seq.subscribe());
            let (booter, key) = (self.clone(), id.to_owned());
            // Only a runtime that is shutting down does not answer.
            let read = self.inner.runtime.spawn_blocking(move || booter.boot(&key)).await;
            let Some(view) = read.unwrap_or(Err(StoreError::Closed))? else {
                return Ok(None);
            };
            if view.seq > after || tokio::time::Instant::now() >= deadline {
                return Ok(Some(view));
            }
            match &mut news {
                Some(news) => {
                    let _ = tokio::time::timeout_at(deadline, news.wait_for(|seq| *seq > after)).await;
                }
                // Nobody moves this boot any more; there will be no news.
                None => return Ok(Some(view)),
            }
        }
    }

    /// Names for people of the discs that machines have: `dynamic_isos/UUID/{local,BOOTENV/boot.iso}`.
    ///
    /// # Errors
    /// Of the store.
    pub fn isos(&self) -> Result<Vec<Value>, StoreError> {
        let inner = &self.inner;
        let mut newest: HashMap<(String, String), Attempt> = HashMap::new();
        for doc in inner.store.list(kind::ATTEMPTS)? {
            let Ok(attempt) = serde_json::from_slice::<Attempt>(&doc.body) else {
                continue;
            };
            if crate::doctor::is_test_disc(&attempt) {
                continue;
            }
            let key = (attempt.machine.clone(), attempt.bootenv.clone());
            if newest
                .get(&key)
                .is_none_or(|known| known.created_ms <= attempt.created_ms)
            {
                newest.insert(key, attempt);
            }
        }
        let mut discs: Vec<Value> = Vec::new();
        let mut machines: Vec<String> = newest.keys().map(|(machine, _)| machine.clone()).collect();
        machines.sort();
        machines.dedup();
        for machine in &machines {
            // A bootenv without ISO has an empty folder, as people know it.
            discs.push(serde_json::json!({
                "machine": machine, "name": inner.machine_name(machine), "bootenv": "local",
                "path": format!("dynamic_isos/{machine}/local"), "size": 0, "etag": "",
            }));
        }
        for attempt in newest.values() {
            if inner.store.get(kind::IMAGES, &attempt.id)?.is_none() {
                continue;
            }
            discs.push(serde_json::json!({
                "machine": attempt.machine, "name": inner.machine_name(&attempt.machine),
                "bootenv": attempt.bootenv, "path": iso_name(&attempt.machine, &attempt.bootenv),
                "size": attempt.size, "etag": attempt.etag,
            }));
        }
        discs.sort_by_key(|disc| disc["path"].as_str().unwrap_or_default().to_owned());
        Ok(discs)
    }

    /// The newest disc of a machine in a bootenv.
    ///
    /// # Errors
    /// Of the store.
    pub fn iso_image(&self, machine: &str, bootenv: &str) -> Result<Option<Arc<Image>>, StoreError> {
        for (attempt, _) in self.inner.attempts.of_machine(machine)? {
            if attempt.bootenv == bootenv
                && let Some(image) = self.inner.attempts.image(&attempt.id)?
            {
                return Ok(Some(image));
            }
        }
        Ok(None)
    }
}
