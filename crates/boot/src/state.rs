//! What all of booting shares: the parts, the rows, and what lives in memory of the boots under way.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use isobar_model::{ApiError, Object};
use isobar_objects::{BOOT_ERROR_META, Objects, Principal};
use isobar_store::{Delete, Expect, Store, StoreError, Txn};
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};

use crate::address::ServerAddr;
use crate::agents::AgentBook;
use crate::attempts::Attempts;
use crate::bases::Bases;
use crate::clock::BootClock;
use crate::consoles::Consoles;
use crate::evidence::Phase;
use crate::gate::Gate;
use crate::kernel_args;
use crate::operations::Flight;
use crate::post_mortem::Files;
use crate::reads::{AttemptReads, Now, ReadBook};
use crate::reason::Reason;
use crate::record::{self, Attempt, Boot, Intent, Operation, Row, State, kind, ms_of};
use crate::rolling::Ordered;
use crate::saga::Room;
use crate::settings::{KnownSettings, Settings, param};
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
    /// File of the exchanges that are under way, see [`crate::ledger`].
    pub ledger: PathBuf,
    /// Folder of post-mortems.
    pub post_mortems: PathBuf,
    /// All machines are in shadow mode: see [`crate::Shadowed`], which the connector has to be then.
    pub shadow: bool,
}

/// Moves a boot on until it is over; the saga.
pub(crate) type Runner = fn(Arc<Inner>, String) -> Pin<Box<dyn Future<Output = ()> + Send>>;

pub(crate) struct Inner {
    pub(crate) objects: Objects,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<BootClock>,
    pub(crate) gate: Gate,
    pub(crate) timing: Timing,
    pub(crate) bases: Arc<Bases>,
    pub(crate) attempts: Arc<Attempts>,
    pub(crate) book: Arc<ReadBook>,
    pub(crate) agents: AgentBook,
    pub(crate) options: BootOptions,
    pub(crate) known: KnownSettings,
    pub(crate) runner: Runner,
    pub(crate) runtime: Handle,
    pub(crate) lives: Mutex<HashMap<String, Arc<Life>>>,
    /// Actions under way, by id.
    pub(crate) flights: Mutex<HashMap<String, Arc<Flight>>>,
    /// What is kept of boots that failed.
    pub(crate) post_mortems: Files,
    /// For what boots and BMCs say to each other.
    pub(crate) room: Arc<Room>,
    /// Rolling boots under way, by id.
    pub(crate) rollings: Mutex<HashMap<String, Arc<Notify>>>,
    /// What rolling boots want the next change of a machine to become.
    pub(crate) ordered: Mutex<HashMap<String, Ordered>>,
    /// Serial consoles that are open.
    pub(crate) consoles: Consoles,
}

/// What lives in memory of a boot that is under way.
pub(crate) struct Life {
    bell: Notify,
    pub(crate) seq: watch::Sender<u64>,
    shown: Mutex<Option<Shown>>,
}

/// Reason of what may be better in a moment: the store did not answer.
pub(crate) const STORE: &str = "store";

/// A machine that has read nothing for so long is not in the middle of loading.
const QUIET: Duration = Duration::from_secs(60);

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    pub(crate) fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// For comparing with the times of reads.
    pub(crate) fn now(&self) -> SystemTime {
        self.clock.now()
    }

    /// For what only this process knows: when an agent was heard, how long a task has watched.
    pub(crate) fn uptime(&self) -> Duration {
        self.clock.uptime()
    }

    /// Takes up what an earlier process left: first all that may still be under way at a BMC, then the boots.
    pub(crate) fn resume(self: &Arc<Self>) -> Result<(), StoreError> {
        for doc in self.store.find(kind::OPERATIONS, "State", "running")? {
            let Some(mut operation) = record::read::<Operation>(&doc) else {
                continue;
            };
            self.wait_out(operation.intent.take());
            if operation.command == crate::doctor::COMMAND && self.finish_doctor(&operation) {
                continue;
            }
            "interrupted".clone_into(&mut operation.state);
            self.store.commit(Txn {
                puts: vec![operation.put(Expect::Rev(doc.rev))],
                ..Txn::default()
            })?;
        }
        for doc in self.store.find(kind::BOOTS, "State", "doubt")? {
            let Some(mut boot) = record::read::<Boot>(&doc) else {
                continue;
            };
            self.wait_out(boot.intent.take());
            self.store.commit(Txn {
                puts: vec![boot.put(Expect::Rev(doc.rev))],
                ..Txn::default()
            })?;
        }
        let (mut open, mut txn, now) = (Vec::new(), Txn::default(), self.now_ms());
        for doc in self.store.find(kind::BOOTS, "State", "open")? {
            let Some(mut boot) = record::read::<Boot>(&doc) else {
                continue;
            };
            boot.taken_up(now);
            txn.puts.push(boot.put(Expect::Rev(doc.rev)));
            open.push(boot);
        }
        if !open.is_empty() {
            match self.store.commit(txn) {
                // The rows have their old times, which are as good unless the clock was set: no reason to serve nothing.
                Err(error @ StoreError::Full { .. }) => tracing::error!(%error, "going on with boots as they are"),
                other => drop(other?),
            }
        }
        for boot in &open {
            self.wait_out(boot.intent.clone());
            let Some(attempt) = boot
                .attempt
                .as_deref()
                .map(|id| self.attempt(id))
                .transpose()?
                .flatten()
            else {
                continue;
            };
            let Ok(reads) = self.follow(&attempt) else { continue };
            reads.goes_on();
            // What is read from here on is the machine's own, if it may have been on by then.
            if boot.handed_over_ms.is_some() || (boot.step == crate::record::POWER_ON && boot.asked_ms.is_some()) {
                reads.powered_on(self.now());
            }
        }
        for attempt in self.attempts.live()? {
            let _ = self.follow(&attempt);
        }
        for boot in &open {
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

    /// An exchange of an earlier process may still be under way at its BMC.
    fn wait_out(&self, intent: Option<Intent>) {
        if let Some(intent) = intent {
            // Never longer than the exchange could have taken, whatever became of the wall clock.
            let left = intent
                .until_ms
                .saturating_sub(self.now_ms())
                .min(intent.until_ms.saturating_sub(intent.at_ms));
            self.gate.keep_away(&intent.bmc, Duration::from_millis(left));
        }
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
        // A boot that was replaced is not open any more, but its task still sleeps. One that was cancelled must not
        // have its machine rebooted, from this moment on.
        if let Ok(docs) = self.store.find(kind::BOOTS, "Machine", machine) {
            for boot in docs.iter().filter_map(record::read::<Boot>) {
                if boot.state != State::Running {
                    self.withdraw_order(&boot);
                }
                if let Some(life) = self.life(&boot.id) {
                    self.bump(&life);
                    life.bell.notify_one();
                }
            }
        }
    }

    fn life(&self, id: &str) -> Option<Arc<Life>> {
        lock(&self.lives).get(id).cloned()
    }

    pub(crate) fn bell(&self, id: &str) -> Bell {
        Bell(self.life(id))
    }

    /// A BMC that was left alone has answered: whoever waits for one looks again.
    pub(crate) fn ring_who_waits(&self) {
        let open = self.all_open().unwrap_or_default();
        for boot in open.iter().filter(|boot| boot.wait_until_ms.is_some()) {
            if let Some(life) = self.life(&boot.id) {
                life.bell.notify_one();
            }
        }
    }

    /// A boot has ended and owes nothing: its memory is given back.
    pub(crate) fn over(&self, boot: &Boot) {
        self.withdraw_order(boot);
        let life = lock(&self.lives).remove(&boot.id);
        if let Some(life) = life {
            self.bump(&life);
        }
        self.tell_rolling(boot);
    }

    /// The agent is not to reboot the machine for this boot any more.
    pub(crate) fn withdraw_order(&self, boot: &Boot) {
        if let Some(attempt) = &boot.attempt {
            self.agents.drop_order(&boot.machine, attempt);
        }
    }

    /// A boot's row was written.
    pub(crate) fn changed(&self, boot: &Boot) {
        if let Some(life) = self.life(&boot.id) {
            self.bump(&life);
        }
        self.tell_rolling(boot);
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
            rate_bps: rate
                .filter(|_| seen.reading.phase != Phase::KernelStarted)
                .map(|r| r as u64),
            eta_s: rate.filter(|_| left > 0).map(|r| (left as f64 / r).ceil() as u64),
        };
        let mut current = lock(&life.shown);
        if current.as_ref() != Some(&shown) {
            *current = Some(shown);
            drop(current);
            self.bump(&life);
        }
    }

    /// What was shown is over: the row says more.
    pub(crate) fn show_no_more(&self, id: &str) {
        if let Some(life) = self.life(id) {
            *lock(&life.shown) = None;
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
            // Its task is about to start, and goes on from there.
            None if boot.is_open() => BootView::new(boot, None, agent_up, boot.updated_ms),
            // Its task has ended: above every number that was given out meanwhile.
            None => BootView::new(boot, None, agent_up, boot.updated_ms + 1_000_000),
        })
    }

    pub(crate) fn boot_row(&self, id: &str) -> Result<Option<Row>, StoreError> {
        Ok(self.store.get(kind::BOOTS, id)?.and_then(|doc| Row::of(&doc)))
    }

    /// [`Inner::boot_row`] for one who has read it before.
    pub(crate) fn boot_row_again(&self, id: &str, known: Option<Row>) -> Result<Option<Row>, StoreError> {
        let doc = self.store.get(kind::BOOTS, id)?;
        Ok(doc.and_then(|doc| match known {
            Some(row) if row.rev == doc.rev => Some(row),
            _ => Row::of(&doc),
        }))
    }

    /// A machine's boots that are under way or owe a clean-up.
    pub(crate) fn open_boots(&self, machine: &str) -> Result<Vec<Row>, StoreError> {
        let docs = self.store.find(kind::BOOTS, "Machine", machine)?;
        let rows = docs.iter().filter_map(Row::of);
        Ok(rows.filter(|row| row.boot.is_open()).collect())
    }

    /// All boots that are under way or owe a clean-up.
    pub(crate) fn all_open(&self) -> Result<Vec<Boot>, StoreError> {
        let docs = self.store.find(kind::BOOTS, "State", "open")?;
        Ok(docs.iter().filter_map(record::read).collect())
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
        self.known.of(&self.objects, machine, || self.read_settings(machine))
    }

    fn read_settings(&self, machine: &str) -> Result<Settings, Reason> {
        let machine = self
            .objects
            .get("machines", machine)
            .map_err(|error| match error.code {
                404 => Reason::new("machine-gone", error.to_string(), "create the machine again"),
                _ => Reason::new(STORE, error.to_string(), "look at the server's log"),
            })?;
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

    /// All places of an attempt's image that its BMC may choose from.
    pub(crate) fn image_urls(&self, attempt: &Attempt) -> Result<Vec<String>, Reason> {
        let (url, scheme) = (self.image_url(attempt)?, self.settings(&attempt.machine)?.scheme);
        let path = url.strip_prefix(&attempt.authority).unwrap_or_default();
        let places = self.options.addr.places(&attempt.authority, scheme);
        if let (true, Some(scheme)) = (places.is_empty(), scheme) {
            return Err(Reason::new(
                "image-scheme",
                format!(
                    "param {} wants {}, which this server does not serve",
                    param::IMAGE_SCHEME,
                    scheme.name()
                ),
                "set --nfs-listen for nfs, or the param to auto; then set the bootenv again",
            ));
        }
        Ok(places.into_iter().map(|place| place + path).collect())
    }

    /// Where firmware that boots by HTTP finds an attempt's image.
    pub(crate) fn http_boot_url(&self, attempt: &Attempt) -> Result<String, Reason> {
        let mut urls = self.image_urls(attempt)?;
        urls.retain(|url| url.starts_with("http"));
        urls.into_iter().next().ok_or_else(|| {
            Reason::new(
                "image-scheme",
                format!(
                    "param {} wants a scheme that UEFI HTTP boot does not know",
                    param::IMAGE_SCHEME
                ),
                "set it to http, https or auto; then set the bootenv again",
            )
        })
    }

    /// Scheme, host and port of images for a machine that reads them itself.
    pub(crate) async fn place_for_machine(&self, machine: &str) -> Result<String, Reason> {
        let (settings, addr, uuid) = (self.settings(machine)?, self.options.addr.clone(), machine.to_owned());
        self.objects
            .run(move |objects| {
                let machine = objects.get("machines", &uuid);
                let machine =
                    machine.map_err(|error| Reason::new(STORE, error.to_string(), "look at the server's log"))?;
                let toward = kernel_args::static_address(objects, &machine);
                settings.machine_url(toward, |set| addr.machine_files_url(set, toward))
            })
            .await
    }

    /// The BMC has been reached at these addresses, the first of them: there its reads come from, and there the route
    /// leads by which it is told to reach us. What was known already is not written again.
    pub(crate) async fn place(&self, attempt: Attempt, addresses: &[IpAddr]) -> Result<Attempt, Reason> {
        let Some(reached) = addresses.first().filter(|_| !attempt.http_boot) else {
            return Ok(attempt);
        };
        let authority = match self.options.addr.bmc_url_toward(*reached) {
            Ok(url) if attempt.by_route => url,
            Err(error) if attempt.by_route && attempt.authority.is_empty() => {
                return Err(Reason::new(
                    "server-address",
                    format!(
                        "which address of this server the BMC {reached} reaches is unknown: no route to it ({error})"
                    ),
                    format!(
                        "set --address-for-bmc, or param {} on the machine or a profile, or add a route; then set the bootenv again",
                        param::SERVER_FOR_BMC
                    ),
                ));
            }
            _ => attempt.authority.clone(),
        };
        if attempt.bmc_ips == addresses && attempt.authority == authority {
            return Ok(attempt);
        }
        let placed = self.update_attempt(&attempt.id, |attempt| {
            attempt.bmc_ips = addresses.to_vec();
            attempt.authority.clone_from(&authority);
        });
        let placed = placed
            .await
            .map_err(|e| Reason::new(STORE, e.to_string(), "look at the server's log"))?;
        Ok(placed.unwrap_or(attempt))
    }

    pub(crate) fn follow(&self, attempt: &Attempt) -> Result<Arc<AttemptReads>, Reason> {
        // Of thousands under way not every image is in memory, and to open one is work.
        if let Some(reads) = self.book.followed(attempt) {
            return Ok(reads);
        }
        let image = self.attempts.image(&attempt.id);
        let image = image
            .map_err(|e| Reason::new(STORE, e.to_string(), "look at the server's log"))?
            .ok_or_else(|| {
                Reason::new(
                    "image-lost",
                    "the image of this attempt is not in the store",
                    "set the bootenv again: the machine gets a new image",
                )
            })?;
        Ok(self.book.follow(attempt, &image))
    }

    pub(crate) fn powered_on(&self, attempt: &Attempt) {
        if let Ok(reads) = self.follow(attempt) {
            reads.powered_on(self.now());
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

    /// The machine's attempts that are not over, but for this one.
    pub(crate) fn live_attempts(&self, machine: &str, but: Option<&str>) -> Result<Vec<Attempt>, StoreError> {
        let all = self
            .attempts
            .of_machine(machine)?
            .into_iter()
            .map(|(attempt, _)| attempt);
        Ok(all
            .filter(|attempt| !attempt.over && Some(attempt.id.as_str()) != but)
            .collect())
    }

    /// These attempts are over: their tokens answer "gone". Images of attempts of the machine that are over by now are
    /// given up, but for the newest attempt's, which people may still want to look at.
    ///
    /// Which ones has to be said before their disc is taken out: an attempt that began meanwhile is not among them.
    pub(crate) async fn end_attempts(&self, machine: &str, ending: &[Attempt]) -> Result<(), StoreError> {
        for attempt in ending {
            self.update_attempt(&attempt.id, |a| {
                a.over = true;
                a.machine_token_sealed = None;
            })
            .await?;
            self.book.forget(attempt.attempt_id());
        }
        let image = |attempt: Attempt| Delete {
            kind: kind::IMAGES.to_owned(),
            key: attempt.id,
            expect: Expect::Any,
        };
        let old = self
            .attempts
            .of_machine(machine)?
            .into_iter()
            .skip(1)
            .map(|(attempt, _)| attempt);
        let mut deletes = Vec::new();
        for attempt in old.filter(|attempt| attempt.over) {
            // History is longer than images are kept.
            if self.store.get(kind::IMAGES, &attempt.id)?.is_some() {
                deletes.push(image(attempt));
            }
        }
        if deletes.is_empty() {
            return Ok(());
        }
        self.store
            .submit(Txn {
                deletes,
                ..Txn::default()
            })
            .await?;
        Ok(())
    }

    /// After a restart an agent that was up needs a moment to be heard again.
    pub(crate) fn agent_may_return(&self, machine: &str) -> Result<Option<Duration>, StoreError> {
        let up = self
            .attempts
            .of_machine(machine)?
            .iter()
            .any(|(a, _)| a.agent_up_ms.is_some() && !a.over);
        let since = self.uptime();
        let patience = Duration::from_secs(self.timing.heartbeat_s * 2 + 1);
        Ok((up && since < patience).then_some(Duration::from_secs(1)))
    }

    /// Whether nobody is in the middle of reading one of the machine's images.
    pub(crate) fn reads_quiet(&self, machine: &str) -> Result<bool, StoreError> {
        let now = self.now();
        for (attempt, _) in self.attempts.of_machine(machine)? {
            if attempt.over {
                continue;
            }
            let reads = self.book.get(attempt.attempt_id()).map(|reads| reads.now(now));
            // Who has not begun to read loses nothing: the firmware finds no disc and goes on to the next device.
            let quiet = match reads.and_then(|reads| reads.progress) {
                Some(progress) => now.duration_since(progress).unwrap_or_default() >= QUIET,
                // An earlier process has seen reads; this one has not watched for long enough to know.
                None => attempt.first_read_ms.is_none() || self.uptime() >= QUIET,
            };
            if !quiet {
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
        match self.objects.find("machines", uuid) {
            Ok(Some(machine)) => self.tell_boot_error_if(uuid, &machine),
            Ok(None) => {}
            Err(error) => untold(uuid, &error),
        }
    }

    /// The same, when the machine as it is now shows something else.
    pub(crate) fn tell_boot_error_if(&self, uuid: &str, machine: &Object) {
        let told = || -> Result<(), ApiError> {
            let docs = self
                .store
                .find(kind::BOOTS, "Machine", uuid)
                .map_err(|e| store_error(&e))?;
            let boots = docs.iter().filter_map(|doc| {
                let boot = record::read::<Boot>(doc).filter(|boot| !boot.shadow)?;
                Some((boot.started_ms, doc.rev, boot))
            });
            let newest = boots
                .max_by_key(|(started, rev, _)| (*started, *rev))
                .map(|(_, _, boot)| boot);
            let wanted = newest.and_then(|boot| boot.error.map(|error| format!("{}: {}", boot.bootenv, error.line())));
            let shown = machine.get("Meta").and_then(|meta| meta.get(BOOT_ERROR_META));
            if shown.and_then(Value::as_str) == wanted.as_deref() {
                return Ok(());
            }
            let changed = self
                .objects
                .update_with("machines", uuid, &Principal::system(), |machine| {
                    if let Some(Value::Object(meta)) = machine.get_mut("Meta") {
                        match &wanted {
                            Some(text) => drop(meta.insert(BOOT_ERROR_META.to_owned(), text.clone().into())),
                            None => drop(meta.remove(BOOT_ERROR_META)),
                        }
                    }
                    Ok(())
                });
            match changed {
                // Deleted meanwhile.
                Err(error) if error.code == 404 => Ok(()),
                changed => changed.map(drop),
            }
        };
        if let Err(error) = told() {
            untold(uuid, &error);
        }
    }
}

fn untold(uuid: &str, error: &ApiError) {
    tracing::warn!(machine = uuid, %error, "the machine could not be told how its boot ended");
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
    let code = match error {
        StoreError::Full { .. } => 507,
        StoreError::Closed => 503,
        _ => 500,
    };
    ApiError::new(code, "STORE_ERROR", "", "", error.to_string())
}

/// Text member of an object.
pub(crate) fn member<'a>(object: &'a Object, name: &str) -> &'a str {
    object.get(name).and_then(Value::as_str).unwrap_or_default()
}
