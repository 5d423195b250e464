//! The examination of a BMC before a machine boots through it: what it is, and whether it mounts, reads and boots what it
//! is given. What it changes it puts back; it switches no power and resets nothing.
//!
//! Each question is an exchange of its own through the gate, so that deadlines, limits and held logins are the same as
//! for boots, and a boot that begins meanwhile has the BMC: the examination ends then, and leaves that boot's medium alone.

mod disc;
mod look;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use isobar_bmc::{BootTarget, HostState, Media, Part, PowerState, Probe, Recorder};
use isobar_model::ApiError;
use isobar_objects::Principal;
use isobar_store::{Audit, Expect, StoreError, Txn};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::actions::{Landing, Reached, failure, store_reason};
use crate::gate::{self, Answer, Caller, Rank, Verb};
use crate::operations::Flight;
use crate::reason::Reason;
use crate::record::{Attempt, Intent, Operation, State};
use crate::service::Booter;
use crate::settings::Settings;
use crate::state::{Inner, lock};
use look::{LICENCES, clock_row, licence_row, slots_row};

/// Name of the operation.
pub(crate) const COMMAND: &str = "doctor";
/// A machine that is off makes most BMCs read nothing: no need to wait long to see it.
const OFF_PATIENCE: Duration = Duration::from_secs(5);
/// Reading has ended when nothing came for so long.
const QUIET: Duration = Duration::from_secs(1);
/// Between two looks at how much has been read.
const LOOK: Duration = Duration::from_millis(200);
/// From so many bytes on, a rate says something.
const TELLING: u64 = 256 << 10;
/// Rows that wait for whoever asked.
const ROWS: usize = 32;

/// How a row came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finding {
    /// As it should be.
    Good,
    /// A boot will fail on it, or may.
    Bad,
    /// Worth knowing, or not to be found out now.
    Note,
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// What was looked at: `login`, `insert`.
    pub row: &'static str,
    /// How it came out.
    pub finding: Finding,
    /// What was found.
    pub text: String,
    /// What to do next; empty where there is nothing to do.
    pub next: String,
}

impl Row {
    fn good(row: &'static str, text: impl Into<String>) -> Self {
        Self::new(row, Finding::Good, text, "")
    }

    fn note(row: &'static str, text: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(row, Finding::Note, text, next)
    }

    fn bad(row: &'static str, text: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(row, Finding::Bad, text, next)
    }

    fn new(row: &'static str, finding: Finding, text: impl Into<String>, next: impl Into<String>) -> Self {
        Self {
            row,
            finding,
            text: text.into(),
            next: next.into(),
        }
    }

    /// A question that failed, for the BMC's reason.
    fn failed(row: &'static str, reason: &Reason) -> Self {
        Self::bad(row, &reason.message, &reason.hint)
    }
}

/// Whether this is nobody's disc to boot from.
pub(crate) fn is_test_disc(attempt: &Attempt) -> bool {
    attempt.bootenv == disc::NAME
}

/// An examination that is under way.
struct Examination {
    inner: Arc<Inner>,
    settings: Settings,
    operation: Operation,
    flight: Arc<Flight>,
    reached: Arc<Reached>,
    by: Principal,
    rows: Vec<Row>,
    told: mpsc::Sender<Value>,
    /// What has to be put back.
    mounted: Option<Attempt>,
    overridden: Option<HostState>,
    /// The audit log knows of it.
    on_record: bool,
}

/// The examination goes no further.
struct Over;

impl Booter {
    /// Begins the examination of a machine's BMC; its rows come as they are found out, `{"row","finding","text","next"}`
    /// each, and last `{"done":true,"bad":N}`. It goes on when nobody takes them.
    ///
    /// # Errors
    /// As with actions; 409 where a boot or another examination has the BMC.
    pub async fn doctor(&self, machine: &str, key: &str, by: &Principal) -> Result<mpsc::Receiver<Value>, ApiError> {
        let (booter, uuid, named, by) = (self.clone(), machine.to_owned(), key.to_owned(), by.clone());
        self.inner
            .objects
            .run(move |_| booter.begin_doctor(&uuid, &named, by))
            .await
    }

    fn begin_doctor(&self, machine: &str, key: &str, by: Principal) -> Result<mpsc::Receiver<Value>, ApiError> {
        let inner = &self.inner;
        let settings = inner.settings(machine).map_err(|reason| failure(key, &reason))?;
        let endpoint = settings.endpoint.clone().map_err(|reason| failure(key, &reason))?;
        let bmc = gate::authority(&endpoint);
        inner
            .boots_through(&bmc)
            .and_then(|boot| match boot {
                Some(reason) => Err(reason),
                None => Ok(()),
            })
            .map_err(|reason| failure(key, &reason))?;
        let operation = Operation {
            id: uuid::Uuid::new_v4().to_string(),
            machine: machine.to_owned(),
            command: COMMAND.to_owned(),
            given: Vec::new(),
            principal: by.name().to_owned(),
            at_ms: inner.now_ms(),
            state: "running".to_owned(),
            intent: None,
            outcome: None,
        };
        let flight = Flight::new(operation.clone());
        {
            let mut flights = lock(&inner.flights);
            let same = |flight: &&Arc<Flight>| flight.operation().command == COMMAND && flight.bmc() == Some(&bmc);
            if flights.values().any(|flight| same(&flight)) {
                let reason = Reason::new(
                    "boot-under-way",
                    format!("BMC {bmc} is being examined already: nothing was sent"),
                    "wait for that report",
                );
                return Err(failure(key, &reason));
            }
            flight.at(&bmc);
            flights.insert(operation.id.clone(), Arc::clone(&flight));
        }
        let landing = Landing::new(Arc::clone(inner), operation.id.clone());
        let (told, rows) = mpsc::channel(ROWS);
        let examination = Examination {
            inner: Arc::clone(inner),
            settings,
            operation,
            flight,
            reached: Arc::default(),
            by,
            rows: Vec::new(),
            told,
            mounted: None,
            overridden: None,
            on_record: false,
        };
        inner.runtime.spawn(async move {
            let _landing = landing;
            examination.run().await;
        });
        Ok(rows)
    }
}

impl Inner {
    /// Why a BMC is not to be changed by others: a machine boots through it.
    pub(crate) fn boots_through(&self, bmc: &str) -> Result<Option<Reason>, Reason> {
        for boot in self.all_open().map_err(store_reason)? {
            let through = || {
                let settings = self.settings(&boot.machine);
                settings.is_ok_and(|s| s.endpoint.is_ok_and(|endpoint| gate::authority(&endpoint) == bmc))
            };
            if boot.state == State::Running && boot.attempt.is_some() && through() {
                return Ok(Some(Reason::new(
                    "boot-under-way",
                    format!(
                        "{} boots through BMC {bmc} (boot {}): this would take out its media; nothing was sent",
                        boot.machine_name, boot.id
                    ),
                    format!("let it go on, or end it first: `isobar operations cancel {}`", boot.id),
                )));
            }
        }
        Ok(None)
    }

    /// What an examination of an earlier process has left in a BMC is taken out; false: there is nothing to take out. Until
    /// it is done its row says that it runs.
    pub(crate) fn finish_doctor(self: &Arc<Self>, operation: &Operation) -> bool {
        let (Ok(Some(attempt)), Ok(settings)) = (
            self.doctors_attempt(&operation.machine),
            self.settings(&operation.machine),
        ) else {
            return false;
        };
        let (told, _) = mpsc::channel(1);
        let examination = Examination {
            inner: Arc::clone(self),
            settings,
            flight: Flight::new(operation.clone()),
            operation: operation.clone(),
            reached: Arc::default(),
            by: Principal::system(),
            rows: Vec::new(),
            told,
            mounted: Some(attempt),
            // How it was before is not known any more: an ordinary boot is what most want.
            overridden: Some(HostState::default()),
            on_record: true,
        };
        self.runtime.spawn(async move {
            let mut examination = examination;
            examination.put_back().await;
            examination.end("interrupted").await;
        });
        true
    }
}

impl Examination {
    async fn run(mut self) {
        let _ = self.examine().await;
        self.put_back().await;
        self.end("done").await;
    }

    async fn tell(&mut self, row: Row) {
        // Whoever has gone reads it in `operations show`.
        let _ = self.told.send(json!(row)).await;
        self.rows.push(row);
    }

    async fn end(&mut self, state: &str) {
        let bad = self.rows.iter().filter(|row| row.finding == Finding::Bad).count();
        let operation = &mut self.operation;
        operation.intent = None;
        state.clone_into(&mut operation.state);
        operation.outcome = Some(json!(self.rows));
        tracing::info!(machine = operation.machine, bad, "examined a BMC");
        let mut txn = Txn {
            puts: vec![operation.put(Expect::Any)],
            ..Txn::default()
        };
        let machine = operation.machine.clone();
        let written = match self.inner.forget_old(&machine, &mut txn) {
            Ok(()) => self.inner.store.submit(txn).await.map(drop),
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            tracing::error!(machine, %error, "the report on a BMC cannot be written");
        }
        let _ = self
            .told
            .send(json!({"done": true, "bad": bad, "operation": self.operation.id}))
            .await;
    }

    fn audit(&self) -> Audit {
        self.by
            .audit(&format!("action:{COMMAND}"), "machines", &self.operation.machine, "")
    }

    /// One exchange; what changes the BMC is a row before it is sent.
    async fn ask(&mut self, verb: Verb) -> Result<Answer, Reason> {
        let endpoint = self.settings.endpoint.clone()?;
        let (who, site) = (self.operation.id.clone(), self.settings.site.clone());
        let bmc = gate::authority(&endpoint);
        let inner = Arc::clone(&self.inner);
        let caller = Caller {
            endpoint: &endpoint,
            site: site.as_deref(),
            who: &who,
            rank: Rank::Asked,
        };
        let turn = self.flight.turn(&inner.gate, caller).await?;
        let changes = matches!(
            verb,
            Verb::Insert(_) | Verb::Eject | Verb::BootOnce(_) | Verb::BootAlways(_) | Verb::ClearOverride
        );
        // A boot may have begun while this waited.
        if changes && let Some(reason) = inner.boots_through(&bmc)? {
            return Err(reason);
        }
        if changes {
            let now = inner.now_ms();
            let longest = u64::try_from(verb.longest(&inner.timing).as_millis()).unwrap_or(u64::MAX);
            self.operation.intent = Some(Intent {
                verb: verb.name().to_owned(),
                bmc,
                at_ms: now,
                until_ms: now.saturating_add(longest),
            });
        }
        if changes || !self.on_record {
            let told = std::mem::replace(&mut self.on_record, true);
            let txn = Txn {
                puts: vec![self.operation.put(Expect::Any)],
                audit: (!told).then(|| self.audit()).into_iter().collect(),
                ..Txn::default()
            };
            inner.store.submit(txn).await.map_err(store_reason)?;
        }
        turn.exchange(Arc::clone(&self.reached) as Arc<dyn Recorder>, &verb)
            .await
            .map_err(|error| Reason::of_bmc(&error))
    }

    async fn examine(&mut self) -> Result<(), Over> {
        let probe = self.reach().await?;
        if let Some(row) = self
            .part(Part::Clock)
            .await
            .map(|answer| clock_row(answer, SystemTime::now()))
        {
            self.tell(row).await;
        }
        if let Some(answer) = self.part(Part::Licences).await {
            self.tell(licence_row(answer, &probe.vendor, LICENCES)).await;
        }
        let slots = match self.part(Part::Slots).await {
            Some(answer) => {
                let row = slots_row(&answer);
                self.tell(row).await;
                answer.is_ok()
            }
            None => {
                let next = "boot this machine by PXE, or give it a BMC with Redfish";
                self.tell(Row::bad("slots", "IPMI has no virtual media", next)).await;
                false
            }
        };
        let host = match self.ask(Verb::Host).await {
            Ok(Answer::Host(host)) => host,
            Ok(_) => return Err(Over),
            Err(reason) => {
                self.tell(Row::failed("machine", &reason)).await;
                return Err(Over);
            }
        };
        // IPMI knows a mode of its override alone, not of the machine.
        let host = match probe.system.is_empty() {
            true => HostState {
                boot_mode: None,
                ..host
            },
            false => host,
        };
        self.tell(look::machine_row(&host)).await;
        if self.settings.locked {
            let next = "unlock it (`isobar machines update`, Locked false) to have media and boot override tried";
            self.tell(Row::note(
                "insert",
                "the machine is locked: its BMC was looked at, and nothing tried",
                next,
            ))
            .await;
            return Err(Over);
        }
        if slots {
            self.try_media(&host, &probe).await?;
        }
        self.try_override(&host).await
    }

    /// Address, TLS, login, and who it is.
    async fn reach(&mut self) -> Result<Probe, Over> {
        let answer = self.ask(Verb::Probe).await;
        let Ok(endpoint) = self.settings.endpoint.clone() else {
            return Err(Over);
        };
        let reason = match answer {
            Ok(Answer::Probe(probe)) => {
                let by = self
                    .reached
                    .addresses()
                    .first()
                    .map(ToString::to_string)
                    .unwrap_or_default();
                self.tell(look::reach_row(&endpoint, &by, &probe)).await;
                self.tell(Row::good("login", format!("user {} is taken", endpoint.username)))
                    .await;
                self.tell(look::model_row(&probe)).await;
                // IPMI inserts nothing.
                if !probe.system.is_empty() {
                    let known = self.inner.gate.profile(&probe);
                    self.tell(look::profile_row(known.as_ref())).await;
                }
                return Ok(probe);
            }
            Ok(_) => return Err(Over),
            Err(reason) => reason,
        };
        let row = match reason.reason.as_str() {
            "bmc-password" => "login",
            "bmc-tls" => "tls",
            "bmc-forbidden" => "rights",
            "bmc-unsupported" | "bmc-failing" | "bmc-busy" => "model",
            _ => "reach",
        };
        if !matches!(row, "reach" | "tls") {
            let text = format!("{} answers", gate::authority(&endpoint));
            self.tell(Row::good("reach", text)).await;
        }
        self.tell(Row::failed(row, &reason)).await;
        Err(Over)
    }

    /// A part of what it knows; none: it is spoken to in a way that has no words for it.
    async fn part(&mut self, part: Part) -> Option<Result<Value, Reason>> {
        match self.ask(Verb::Inventory(part)).await {
            Ok(Answer::Inventory(found)) => Some(Ok(found)),
            Ok(_) => None,
            Err(reason) if reason.message.contains("has no such function") => None,
            Err(reason) => Some(Err(reason)),
        }
    }

    /// The test disc goes in, and is seen to be read.
    async fn try_media(&mut self, host: &HostState, probe: &Probe) -> Result<(), Over> {
        match self.ask(Verb::Media).await {
            Ok(Answer::Media(Media {
                inserted: true, image, ..
            })) => {
                let image = image.unwrap_or_else(|| "something that it does not name".to_owned());
                let shown = self.inner.shown_image(&image);
                self.tell(Row::note(
                    "insert",
                    format!("its virtual CD holds {shown}: that was left in, so no test disc was tried"),
                    format!(
                        "`isobar machines runaction {} unmountVirtualMedia` if nobody needs it, then run this again",
                        self.operation.machine
                    ),
                ))
                .await;
                return Ok(());
            }
            Ok(_) => {}
            Err(reason) => {
                self.tell(Row::failed("insert", &reason)).await;
                return Ok(());
            }
        }
        let planned = disc::plan(&self.inner, &self.settings, &self.reached.addresses()).await;
        let (attempt, reads) = match planned {
            Ok(planned) => planned,
            Err(reason) => {
                self.tell(Row::failed("insert", &reason)).await;
                return Ok(());
            }
        };
        // Whatever becomes of the insert, it may be in.
        self.mounted = Some(attempt.clone());
        let urls = match self.inner.image_urls(&attempt) {
            Ok(urls) => urls,
            Err(reason) => {
                self.tell(Row::failed("insert", &reason)).await;
                return Ok(());
            }
        };
        let asked = self.inner.now();
        let inserted = self.ask(Verb::Insert(urls)).await;
        let took = self.inner.now().duration_since(asked).unwrap_or_default();
        match inserted {
            Ok(_) => {
                let learnt = self.inner.gate.profile(probe);
                self.tell(look::insert_row(took, learnt.as_ref(), &attempt.authority))
                    .await;
            }
            Err(reason) => {
                self.tell(Row::failed("insert", &reason)).await;
                if reason.reason == "boot-under-way" {
                    self.mounted = None;
                    disc::remove(&self.inner, &attempt).await;
                    return Err(Over);
                }
                return Ok(());
            }
        }
        let patience = match host.power {
            PowerState::Off => self.inner.timing.settle().min(OFF_PATIENCE),
            _ => self.inner.timing.settle(),
        };
        disc::wait_for_a_read(&self.inner, &reads, patience).await;
        disc::wait_for_silence(&self.inner, &reads, self.inner.timing.settle()).await;
        for row in look::read_rows(&self.inner, &attempt, &reads, host, patience) {
            self.tell(row).await;
        }
        Ok(())
    }

    /// The one-time boot is set, read back, and set back.
    async fn try_override(&mut self, before: &HostState) -> Result<(), Over> {
        if let Some(row) = look::untried_override(before) {
            self.tell(row).await;
            return Ok(());
        }
        self.overridden = Some(before.clone());
        if let Err(reason) = self.ask(Verb::BootOnce(BootTarget::Cd)).await {
            self.tell(Row::failed("override", &reason)).await;
            return Ok(());
        }
        let row = match self.ask(Verb::Host).await {
            Ok(Answer::Host(now)) => look::override_row(&now),
            Ok(_) => return Err(Over),
            Err(reason) => Row::failed("override", &reason),
        };
        self.tell(row).await;
        Ok(())
    }

    /// Everything as it was, as far as a boot has not begun that sees to it itself.
    async fn put_back(&mut self) {
        if let Some(before) = self.overridden.take() {
            let verb = look::back_to(&before);
            let put = self.ask(verb).await;
            let row = match put {
                Err(reason) if reason.reason == "boot-under-way" => {
                    Row::note("put back", "a boot has begun: the override is its own now", "")
                }
                Err(reason) => Row::failed("put back", &reason),
                Ok(_) => match self.ask(Verb::Host).await {
                    Ok(Answer::Host(now)) => look::back_row(&before, &now),
                    Ok(_) => return,
                    Err(reason) => Row::failed("put back", &reason),
                },
            };
            self.tell(row).await;
        }
        let Some(attempt) = self.mounted.take() else { return };
        let row = match self.ask(Verb::Eject).await {
            Ok(_) => self.is_out(&attempt).await,
            Err(reason) if reason.reason == "boot-under-way" => {
                Row::note("eject", "a boot has begun: it takes the test disc out itself", "")
            }
            Err(reason) => Row::failed("eject", &reason),
        };
        disc::remove(&self.inner, &attempt).await;
        self.tell(row).await;
    }

    /// Whether what was ejected is shown no more; some BMCs show it for a while.
    async fn is_out(&mut self, attempt: &Attempt) -> Row {
        let since = tokio::time::Instant::now();
        loop {
            let media = match self.ask(Verb::Media).await {
                Ok(Answer::Media(media)) => media,
                Ok(_) => return Row::good("eject", "the test disc is out"),
                Err(reason) => return Row::failed("eject", &reason),
            };
            if !self.still_holds(&media, attempt) {
                let took = since.elapsed();
                let text = match took < Duration::from_secs(1) {
                    true => "the test disc is out".to_owned(),
                    false => format!(
                        "the test disc is out; it was shown for {:.0} s more",
                        took.as_secs_f64()
                    ),
                };
                return Row::good("eject", text);
            }
            if since.elapsed() >= self.inner.timing.settle() {
                return Row::bad(
                    "eject",
                    format!(
                        "it took the eject, and goes on showing the test disc after {:.0} s",
                        since.elapsed().as_secs_f64()
                    ),
                    format!(
                        "look again in a minute (`isobar machines runaction {0} statusVirtualMedia`); `isobar bmc reset {0}` \
                         if it stays",
                        self.operation.machine
                    ),
                );
            }
            tokio::time::sleep(self.inner.timing.poll()).await;
        }
    }

    fn still_holds(&self, media: &Media, attempt: &Attempt) -> bool {
        let url = self.inner.image_url(attempt).unwrap_or_default();
        let shown = media.image.as_deref();
        media.inserted && shown.is_some_and(|shown| isobar_bmc::redfish::same_image(shown, &url))
    }
}

impl Inner {
    fn doctors_attempt(&self, machine: &str) -> Result<Option<Attempt>, StoreError> {
        let all = self.attempts.of_machine(machine)?.into_iter();
        Ok(all.map(|(attempt, _)| attempt).find(is_test_disc))
    }

    /// An image's URL as people may see it: tokens of ours are secret.
    fn shown_image(&self, image: &str) -> String {
        match self.attempt_of_url(image) {
            Ok(Some(attempt)) => format!(
                "{}/{}",
                attempt.authority,
                crate::view::iso_name(&attempt.machine, &attempt.bootenv)
            ),
            _ => image.to_owned(),
        }
    }
}
