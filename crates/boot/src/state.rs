//! What all of booting shares: the parts, the rows, and what lives in memory of the boots under way.

use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use isobar_model::{ApiError, Object};
use isobar_objects::{BOOT_ERROR_META, Objects, Principal};
use isobar_store::{Clock, Expect, Store, StoreError, Txn};
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};

use crate::address::ServerAddr;
use crate::agents::AgentBook;
use crate::attempts::Attempts;
use crate::bases::Bases;
use crate::evidence::Phase;
use crate::gate::Gate;
use crate::reads::{AttemptReads, Now, ReadBook};
use crate::reason::Reason;
use crate::record::{Attempt, Boot, Operation, Row, State, kind, ms_of};
use crate::settings::Settings;
use crate::timing::Timing;
use crate::view::{BootView, Shown};

/// How the booting side is set up.
pub struct BootOptions {
    /// Addresses and ports of this server.
    pub addr: ServerAddr,
    /// SHA-256 of the API's certificate, hex: what agents pin.
    pub fingerprint: String,
    /// Deadlines and pauses.
    pub timing: Timing,
    /// Only the BMC's own address may read an image.
    pub strict_bmc_address: bool,
    /// Serve `/dynamic_isos/…` on the plain file plane too.
    pub open_iso_names: bool,
}

/// Moves a boot on until it is over; the saga.
pub(crate) type Runner = fn(Arc<Inner>, String) -> Pin<Box<dyn Future<Output = ()> + Send>>;

pub(crate) struct Inner {
    pub(crate) objects: Objects,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) gate: Gate,
    pub(crate) timing: Timing,
    pub(crate) bases: Arc<Bases>,
    pub(crate) attempts: Arc<Attempts>,
    pub(crate) book: Arc<ReadBook>,
    pub(crate) agents: AgentBook,
    pub(crate) options: BootOptions,
    pub(crate) runner: Runner,
    pub(crate) started_ns: u64,
    pub(crate) runtime: Handle,
    pub(crate) lives: Mutex<HashMap<String, Arc<Life>>>,
}

/// What lives in memory of a boot that is under way.
pub(crate) struct Life {
    bell: Notify,
    pub(crate) seq: watch::Sender<u64>,
    shown: Mutex<Option<Shown>>,
}

/// A machine that has read nothing for so long is not in the middle of loading.
const QUIET: Duration = Duration::from_secs(60);

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.clock.now_ns() / 1_000_000).unwrap_or(0)
    }

    /// Wall clock, for comparing with the times of reads.
    pub(crate) fn wall(&self) -> SystemTime {
        SystemTime::now()
    }

    pub(crate) fn steady(&self) -> Duration {
        Duration::from_nanos(self.clock.steady_ns())
    }

    pub(crate) fn resume(self: &Arc<Self>) -> Result<(), StoreError> {
        let now = self.now_ms();
        let left = |until: u64| Duration::from_millis(until.saturating_sub(now));
        for attempt in self.attempts.live()? {
            if let Some(image) = self.attempts.image(&attempt.id)? {
                self.book.follow(
                    attempt.attempt_id(),
                    &image,
                    attempt.bmc_ip.as_deref().and_then(|ip| ip.parse().ok()),
                );
            }
        }
        for doc in self.store.find(kind::OPERATIONS, "State", "running")? {
            let Ok(mut operation) = serde_json::from_slice::<Operation>(&doc.body) else {
                continue;
            };
            if let Some(intent) = operation.intent.take() {
                self.gate.keep_away(&intent.bmc, left(intent.until_ms));
            }
            "interrupted".clone_into(&mut operation.state);
            let put = operation.put(Expect::Rev(doc.rev));
            self.store.commit(Txn {
                puts: vec![put],
                ..Txn::default()
            })?;
        }
        for doc in self.store.find(kind::BOOTS, "State", "open")? {
            let Ok(boot) = serde_json::from_slice::<Boot>(&doc.body) else {
                continue;
            };
            if let Some(intent) = &boot.intent {
                self.gate.keep_away(&intent.bmc, left(intent.until_ms));
            }
            tracing::info!(
                boot = boot.id,
                machine = boot.machine_name,
                step = boot.step,
                "going on with a boot"
            );
            self.spawn(&boot.id);
        }
        Ok(())
    }

    /// Starts the task of a boot, unless it runs.
    pub(crate) fn spawn(self: &Arc<Self>, id: &str) {
        let mut lives = lock(&self.lives);
        if let Some(life) = lives.get(id) {
            life.bell.notify_one();
            return;
        }
        let life = Life {
            bell: Notify::new(),
            seq: watch::Sender::new(self.now_ms()),
            shown: Mutex::default(),
        };
        lives.insert(id.to_owned(), Arc::new(life));
        drop(lives);
        self.runtime.spawn((self.runner)(Arc::clone(self), id.to_owned()));
    }

    /// Wakes the tasks of a machine's open boots, and starts those that do not run yet.
    pub(crate) fn wake(self: &Arc<Self>, machine: &str) {
        match self.open_boots(machine) {
            Ok(rows) => rows.iter().for_each(|row| self.spawn(&row.boot.id)),
            Err(error) => tracing::error!(machine, %error, "cannot look for boots; they start after a restart"),
        }
        // A boot that was replaced is not open any more, but its task still sleeps.
        if let Ok(docs) = self.store.find(kind::BOOTS, "Machine", machine) {
            let lives = lock(&self.lives);
            docs.iter()
                .filter_map(|doc| lives.get(&doc.key))
                .for_each(|life| life.bell.notify_one());
        }
    }

    fn life(&self, id: &str) -> Option<Arc<Life>> {
        lock(&self.lives).get(id).cloned()
    }

    pub(crate) fn bell(&self, id: &str) -> Bell {
        Bell(self.life(id))
    }

    /// A boot has ended and owes nothing: its memory is given back.
    pub(crate) fn over(&self, boot: &Boot) {
        if let Some(attempt) = &boot.attempt {
            self.agents.drop_order(&boot.machine, attempt);
        }
        let life = lock(&self.lives).remove(&boot.id);
        if let Some(life) = life {
            self.bump(&life);
        }
    }

    /// A boot's row was written.
    pub(crate) fn changed(&self, boot: &Boot) {
        if let Some(life) = self.life(&boot.id) {
            self.bump(&life);
        }
    }

    fn bump(&self, life: &Life) {
        let now = self.now_ms();
        life.seq.send_modify(|seq| *seq = now.max(*seq + 1));
    }

    /// Progress that is worth telling, and not worth a write.
    pub(crate) fn show(&self, id: &str, phase: Phase, detail: &str, seen: &Now) {
        let Some(life) = self.life(id) else { return };
        let left = seen.reading.left.unwrap_or(0);
        let rate = seen.rate_bps.filter(|rate| *rate >= 1.0);
        let shown = Shown {
            phase,
            detail: detail.to_owned(),
            percent: seen.reading.percent.map(|p| p.clamp(0.0, 100.0) as u32),
            rate_bps: rate.map(|r| r as u64),
            eta_s: rate.filter(|_| left > 0).map(|r| (left as f64 / r).ceil() as u64),
            elsewhere: seen.elsewhere.map(|ip| ip.to_string()),
        };
        let mut current = lock(&life.shown);
        if current.as_ref() != Some(&shown) {
            *current = Some(shown);
            drop(current);
            self.bump(&life);
        }
    }

    pub(crate) fn view(&self, boot: &Boot) -> Result<BootView, StoreError> {
        let agent_up = boot.phase == Phase::AgentUp
            || match &boot.attempt {
                Some(id) if boot.state == State::Running => self.attempt(id)?.is_some_and(|a| a.agent_up_ms.is_some()),
                _ => false,
            };
        Ok(match self.life(&boot.id) {
            Some(life) => BootView::new(boot, lock(&life.shown).as_ref(), agent_up, *life.seq.borrow()),
            // After the task has ended its last number was at most a little above the clock of the last write.
            None => BootView::new(boot, None, agent_up, boot.updated_ms + 1_000_000),
        })
    }

    pub(crate) fn boot_row(&self, id: &str) -> Result<Option<Row>, StoreError> {
        Ok(self.store.get(kind::BOOTS, id)?.and_then(|doc| {
            serde_json::from_slice(&doc.body)
                .ok()
                .map(|boot| Row { boot, rev: doc.rev })
        }))
    }

    /// A machine's boots that are under way or owe a clean-up.
    pub(crate) fn open_boots(&self, machine: &str) -> Result<Vec<Row>, StoreError> {
        let docs = self.store.find(kind::BOOTS, "Machine", machine)?;
        let rows = docs.iter().filter_map(|doc| {
            serde_json::from_slice::<Boot>(&doc.body)
                .ok()
                .map(|boot| Row { boot, rev: doc.rev })
        });
        Ok(rows.filter(|row| row.boot.is_open()).collect())
    }

    /// Whether a newer boot of the machine is under way: it ejects, so nothing is owed by this one.
    pub(crate) fn is_superseded(&self, boot: &Boot) -> Result<bool, StoreError> {
        Ok(self.open_boots(&boot.machine)?.iter().any(|row| {
            row.boot.id != boot.id && row.boot.state == State::Running && row.boot.started_ms >= boot.started_ms
        }))
    }

    pub(crate) fn machine_name(&self, uuid: &str) -> String {
        match self.objects.find("machines", uuid) {
            Ok(Some(machine)) => machine.get("Name").and_then(Value::as_str).unwrap_or(uuid).to_owned(),
            _ => uuid.to_owned(),
        }
    }

    pub(crate) fn settings(&self, machine: &str) -> Result<Settings, Reason> {
        let gone = |message: String| Reason::new("machine-gone", message, "create the machine again");
        let machine = self
            .objects
            .get("machines", machine)
            .map_err(|error| gone(error.to_string()))?;
        Settings::of(&self.objects, &machine)
    }

    pub(crate) fn attempt(&self, id: &str) -> Result<Option<Attempt>, StoreError> {
        Ok(self.attempts.get(id)?.map(|(attempt, _)| attempt))
    }

    pub(crate) fn attempt_of_url(&self, url: &str) -> Result<Option<Attempt>, StoreError> {
        self.attempts.of_url(url)
    }

    pub(crate) fn image_url(&self, attempt: &Attempt) -> Result<String, Reason> {
        let token = self
            .attempts
            .unseal(&attempt.id, &attempt.token_sealed)
            .ok_or_else(|| {
                Reason::new(
                    "token-sealed",
                    "the token of this attempt cannot be decrypted",
                    "put the vault.key back that belongs to this data directory, or set the bootenv again",
                )
            })?;
        Ok(format!("{}/{token}/boot.iso", attempt.authority))
    }

    pub(crate) fn follow(&self, attempt: &Attempt) -> Result<Arc<AttemptReads>, Reason> {
        let image = self.attempts.image(&attempt.id).ok().flatten().ok_or_else(|| {
            Reason::new(
                "image-lost",
                "the image of this attempt is not in the store",
                "set the bootenv again: the machine gets a new image",
            )
        })?;
        let bmc: Option<IpAddr> = attempt.bmc_ip.as_deref().and_then(|ip| ip.parse().ok());
        Ok(self.book.follow(attempt.attempt_id(), &image, bmc))
    }

    pub(crate) fn powered_on(&self, attempt: &Attempt) {
        if let Ok(reads) = self.follow(attempt) {
            reads.powered_on(self.wall());
        }
    }

    /// Makes the first read of an attempt durable.
    pub(crate) async fn first_read(
        &self,
        attempt: &Attempt,
        at: SystemTime,
        elsewhere: Option<IpAddr>,
    ) -> Result<(), StoreError> {
        self.update_attempt(&attempt.id, |a| {
            a.first_read_ms.get_or_insert(ms_of(at));
            a.elsewhere = elsewhere.map(|ip| ip.to_string());
        })
        .await
        .map(|_| ())
    }

    /// Changes an attempt's row; again when somebody else was faster.
    pub(crate) async fn update_attempt(
        &self,
        id: &str,
        change: impl Fn(&mut Attempt),
    ) -> Result<Option<Attempt>, StoreError> {
        loop {
            let Some((mut attempt, rev)) = self.attempts.get(id)? else {
                return Ok(None);
            };
            change(&mut attempt);
            let txn = Txn {
                puts: vec![attempt.put(Expect::Rev(rev))],
                ..Txn::default()
            };
            match self.store.submit(txn).await {
                Ok(_) => {
                    self.attempts.changed(&attempt);
                    return Ok(Some(attempt));
                }
                Err(StoreError::Conflict { .. }) => {}
                Err(other) => return Err(other),
            }
        }
    }

    /// The machine's attempts but this one are over: their tokens answer "gone", their images are given up but for
    /// the newest, which people may still want to look at.
    pub(crate) async fn end_attempts(&self, machine: &str, but: Option<&str>) -> Result<(), StoreError> {
        let all = self.attempts.of_machine(machine)?;
        let newest = all.first().map(|(attempt, _)| attempt.id.clone());
        for (attempt, _) in all {
            if Some(attempt.id.as_str()) == but || attempt.over {
                continue;
            }
            self.update_attempt(&attempt.id, |a| {
                a.over = true;
                a.machine_token_sealed = None;
            })
            .await?;
            self.book.forget(attempt.attempt_id());
            if newest.as_deref() != Some(&attempt.id) {
                let delete = isobar_store::Delete {
                    kind: kind::IMAGES.to_owned(),
                    key: attempt.id.clone(),
                    expect: Expect::Any,
                };
                self.store
                    .submit(Txn {
                        deletes: vec![delete],
                        ..Txn::default()
                    })
                    .await?;
            }
        }
        Ok(())
    }

    /// After a restart an agent that was up needs a moment to be heard again.
    pub(crate) fn agent_may_return(&self, machine: &str) -> Result<Option<Duration>, StoreError> {
        let up = self
            .attempts
            .of_machine(machine)?
            .iter()
            .any(|(a, _)| a.agent_up_ms.is_some() && !a.over);
        let since = self.steady().saturating_sub(Duration::from_nanos(self.started_ns));
        let patience = Duration::from_secs(self.timing.heartbeat_s * 2 + 1);
        Ok((up && since < patience).then_some(Duration::from_secs(1)))
    }

    /// Whether nobody is in the middle of reading one of the machine's images.
    pub(crate) fn reads_quiet(&self, machine: &str) -> Result<bool, StoreError> {
        let now = self.wall();
        for (attempt, _) in self.attempts.of_machine(machine)? {
            if attempt.over {
                continue;
            }
            let last = self
                .book
                .get(attempt.attempt_id())
                .and_then(|reads| reads.now(now).last);
            // Who has not begun to read loses nothing: the firmware finds no disc and goes on to the next device.
            if last.is_some_and(|last| now.duration_since(last).unwrap_or_default() < QUIET) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// [`Inner::tell_boot_error`] from async code.
    pub(crate) async fn condition_changed(self: &Arc<Self>, machine: &str) {
        let (inner, uuid) = (Arc::clone(self), machine.to_owned());
        self.objects.run(move |_| inner.tell_boot_error(&uuid)).await;
    }

    /// Shows on the machine why its newest boot failed, or that it did not. Writes only when that has changed.
    pub(crate) fn tell_boot_error(&self, uuid: &str) {
        let told = || -> Result<(), ApiError> {
            let Some(machine) = self.objects.find("machines", uuid)? else {
                return Ok(());
            };
            let docs = self
                .store
                .find(kind::BOOTS, "Machine", uuid)
                .map_err(|e| store_error(&e))?;
            let boots = docs.iter().filter_map(|doc| {
                serde_json::from_slice::<Boot>(&doc.body)
                    .ok()
                    .map(|boot| (boot.started_ms, doc.rev, boot))
            });
            let newest = boots
                .max_by_key(|(started, rev, _)| (*started, *rev))
                .map(|(_, _, boot)| boot);
            let wanted = newest.and_then(|boot| boot.error.map(|error| format!("{}: {}", boot.bootenv, error.line())));
            let shown = |machine: &Object| {
                let meta = machine.get("Meta").and_then(|meta| meta.get(BOOT_ERROR_META));
                meta.and_then(Value::as_str).map(str::to_owned)
            };
            if shown(&machine) == wanted {
                return Ok(());
            }
            self.objects
                .update_with("machines", uuid, &Principal::system(), |machine| {
                    if let Some(Value::Object(meta)) = machine.get_mut("Meta") {
                        match &wanted {
                            Some(text) => drop(meta.insert(BOOT_ERROR_META.to_owned(), text.clone().into())),
                            None => drop(meta.remove(BOOT_ERROR_META)),
                        }
                    }
                    Ok(())
                })?;
            Ok(())
        };
        if let Err(error) = told() {
            tracing::warn!(machine = uuid, %error, "the machine could not be told how its boot ended");
        }
    }
}

/// Rings when something happened that a boot may wait for.
pub(crate) struct Bell(Option<Arc<Life>>);

impl Bell {
    pub(crate) async fn notified(&self) {
        match &self.0 {
            Some(life) => life.bell.notified().await,
            None => std::future::pending().await,
        }
    }
}

/// An error of the store as clients see it.
pub(crate) fn store_error(error: &StoreError) -> ApiError {
    ApiError::new(500, "STORE_ERROR", "", "", error.to_string())
}

/// Text member of an object.
pub(crate) fn member<'a>(object: &'a Object, name: &str) -> &'a str {
    object.get(name).and_then(Value::as_str).unwrap_or_default()
}
