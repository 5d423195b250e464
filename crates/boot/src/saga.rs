//! The boot saga: a durable row with a cursor, and a task that moves it on.
//!
//! ```text
//!  decide ──> shut-down ──> eject ──> insert ──> boot-once ──> power-on ──> await ──> settle ──> done
//!     │                       ^                      │                        ^
//!     └── agent or operator ──┘                      ├──> ask-agent ──────────┤
//!                                                    └──> (operator) ─────────┘
//!  release (media out, override cleared when that is safe) ──> done
//! ```
//!
//! Every step first observes, then acts, so that it can be repeated after a crash. A change of the BMC is
//! committed as an intent before it is sent. The task holds no lock while it waits.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use isobar_bmc::redfish::same_image;
use isobar_bmc::{BmcError, BootTarget, ErrorClass, Exchange, PowerAction, PowerState, Recorder};
use isobar_store::{Expect, Put, StoreError, Txn};

use crate::evidence::{Phase, Reading, bytes};
use crate::gate::{self, Answer, Verb};
use crate::reason::{Reason, worth_retrying};
use crate::record::{Attempt, Boot, Intent, POWER_ON, Row, State, Way, kind, ms_of};
use crate::settings::{Settings, param};
use crate::state::{Inner, STORE, lock};

/// What a step came to.
enum Outcome {
    /// On to this step.
    Next(&'static str),
    /// Look again after a pause, or when something happens.
    Stay(Duration),
    /// The end, with a reason.
    Fail(Reason),
    /// The end.
    Done,
}

/// Why the task stops.
enum Stop {
    /// The row was changed by someone else (replaced, cancelled): read it again.
    Changed,
    /// The store is gone or broken.
    Store(StoreError),
    /// The BMC said no.
    Bmc(BmcError),
    /// Nothing can be sent at all: the machine's settings do not say where.
    Settings(Reason),
    /// The operator has locked the machine: it is not to be touched.
    Locked,
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict { .. } => Self::Changed,
            other => Self::Store(other),
        }
    }
}

impl From<BmcError> for Stop {
    fn from(error: BmcError) -> Self {
        Self::Bmc(error)
    }
}

/// Keeps the last exchanges of a boot that say something: changes, and what went wrong.
#[derive(Default)]
pub(crate) struct Exchanges {
    kept: std::sync::Mutex<(VecDeque<Exchange>, bool)>,
    /// Where the BMC was last reached.
    addresses: std::sync::Mutex<Vec<IpAddr>>,
}

const EXCHANGES: usize = 24;

impl Recorder for Exchanges {
    fn record(&self, exchange: Exchange) {
        if exchange.method == "GET" && exchange.status.is_some_and(|status| status < 400) {
            return;
        }
        let mut kept = lock(&self.kept);
        if kept.0.len() >= EXCHANGES {
            kept.0.pop_front();
        }
        kept.0.push_back(exchange);
        kept.1 = true;
    }

    fn connected(&self, addresses: &[IpAddr]) {
        *lock(&self.addresses) = addresses.to_vec();
    }
}

impl Exchanges {
    /// The write of what has come since the last one.
    fn put(&self, boot: &str) -> Option<Put> {
        let mut kept = lock(&self.kept);
        std::mem::take(&mut kept.1).then(|| Put {
            kind: kind::EXCHANGES.to_owned(),
            key: boot.to_owned(),
            body: Bytes::from(serde_json::to_vec(&kept.0).unwrap_or_default()),
            expect: Expect::Any,
            indexes: Vec::new(),
        })
    }
}

/// Runs a boot until it is over and owes nothing to the BMC.
pub(crate) async fn run(inner: Arc<Inner>, id: String) {
    let mut task = Saga {
        inner,
        exchanges: Arc::default(),
        order: None,
        watching_since: None,
    };
    let _guard = LifeGuard {
        inner: Arc::clone(&task.inner),
        id: id.clone(),
    };
    let mut resumed = true;
    loop {
        let mut row = match task.inner.boot_row(&id) {
            Ok(Some(row)) => row,
            Ok(None) | Err(StoreError::Closed) => return,
            Err(error) => {
                tracing::error!(boot = id, %error, "the boot cannot be read; trying again");
                tokio::time::sleep(STORE_PAUSE).await;
                continue;
            }
        };
        if !row.boot.is_open() {
            // Somebody closed it while an exchange was under way: by now that has ended.
            if row.boot.intent.take().is_some() && matches!(task.save(&mut row).await, Err(Stop::Changed)) {
                continue;
            }
            let reason = row.boot.error.as_ref().map_or("", |error| &error.reason);
            let (machine, attempt) = (&row.boot.machine_name, row.boot.attempt_prefix());
            tracing::info!(boot = id, machine, attempt, state = ?row.boot.state, reason, "the boot is over");
            task.inner.over(&row.boot);
            return;
        }
        if std::mem::take(&mut resumed) {
            let Boot {
                machine_name,
                bootenv,
                step,
                ..
            } = &row.boot;
            let attempt = row.boot.attempt_prefix();
            tracing::info!(
                boot = id,
                machine = machine_name,
                attempt,
                bootenv,
                step,
                "a boot is under way"
            );
            forget_doubt(&mut row.boot);
        }
        match task.advance(row).await {
            Ok(()) | Err(Stop::Changed) => {}
            Err(Stop::Store(StoreError::Closed)) => return,
            Err(Stop::Store(error)) => {
                tracing::error!(boot = id, %error, "the boot cannot be saved; trying again");
                tokio::time::sleep(STORE_PAUSE).await;
            }
            // Dealt with inside `advance`.
            Err(Stop::Bmc(_) | Stop::Settings(_) | Stop::Locked) => {}
        }
    }
}

/// An intent of an earlier process may or may not have been carried out. The gate has waited it out; from
/// here on the state of the BMC tells, and the command may be sent once more if it shows no effect.
fn forget_doubt(boot: &mut Boot) {
    if let Some(intent) = boot.intent.take() {
        match intent.verb.as_str() {
            "power-off" => boot.forced_ms = None,
            "shutdown" | "power-on" => boot.asked_ms = None,
            _ => {}
        }
    }
}

/// What a clean-up waits for that the BMC did not let in.
const LOGIN_OWED: &str =
    "clean-up is owed; the BMC refuses the login: it goes on when ipmi/username or ipmi/password change";

/// Pause after the store has failed.
const STORE_PAUSE: Duration = Duration::from_secs(5);

/// However the task ends, the next change of the machine can start another one.
struct LifeGuard {
    inner: Arc<Inner>,
    id: String,
}

impl Drop for LifeGuard {
    fn drop(&mut self) {
        lock(&self.inner.lives).remove(&self.id);
    }
}

struct Saga {
    inner: Arc<Inner>,
    exchanges: Arc<Exchanges>,
    /// The order to the agent that this process has given.
    order: Option<Order>,
    /// When this process began to watch the reads.
    watching_since: Option<Duration>,
}

struct Order {
    /// Uptime of the process.
    since: Duration,
    /// An earlier process may have had it carried out.
    repeated: bool,
}

impl Saga {
    /// One move of the cursor, or one wait.
    async fn advance(&mut self, mut row: Row) -> Result<(), Stop> {
        let step = row.boot.step.clone();
        let outcome = if row.boot.state == State::Running {
            self.step(&mut row, &step).await
        } else {
            self.inner.withdraw_order(&row.boot);
            self.clean_up(&mut row).await
        };
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(Stop::Bmc(error)) => self.after_error(&mut row, &error),
            Err(Stop::Settings(reason)) if reason.reason == STORE => {
                return Err(Stop::Store(StoreError::Backend(reason.message)));
            }
            Err(Stop::Settings(reason)) => Outcome::Fail(reason),
            Err(Stop::Locked) => {
                "the machine is locked: the boot goes on when it is unlocked".clone_into(&mut row.boot.detail);
                Outcome::Stay(self.inner.timing.poll() * 5)
            }
            Err(other) => return Err(other),
        };
        let now = self.inner.now_ms();
        match outcome {
            Outcome::Next(next) => {
                let boot = &mut row.boot;
                next.clone_into(&mut boot.step);
                (boot.tries, boot.step_ms, boot.intent) = (0, now, None);
                (boot.asked_ms, boot.forced_ms) = (None, None);
                self.save(&mut row).await
            }
            Outcome::Stay(pause) => {
                if row.boot != row.stored {
                    self.save(&mut row).await?;
                }
                let bell = self.inner.bell(&row.boot.id);
                let _ = tokio::time::timeout(pause, bell.notified()).await;
                Ok(())
            }
            Outcome::Fail(reason) if row.boot.state == State::Running => {
                self.end_unused(&row).await?;
                let boot = &mut row.boot;
                tracing::warn!(
                    boot = boot.id,
                    machine = boot.machine_name,
                    reason = reason.reason,
                    "{}",
                    reason.line()
                );
                boot.state = State::Failed;
                boot.intent = None;
                boot.cleanup = boot.inserted || boot.override_set;
                (boot.tries, boot.step_ms) = (0, now);
                let phase = boot.phase;
                boot.note(now, phase, &reason.message);
                boot.error = Some(reason);
                self.save(&mut row).await?;
                self.inner.condition_changed(&row.boot.machine).await;
                Ok(())
            }
            Outcome::Fail(reason) => {
                // A clean-up that can never succeed (the login is gone) is over, and says so.
                let boot = &mut row.boot;
                boot.cleanup = false;
                let phase = boot.phase;
                boot.note(now, phase, &format!("clean-up given up: {}", reason.message));
                self.save(&mut row).await
            }
            Outcome::Done => {
                let boot = &mut row.boot;
                boot.intent = None;
                if boot.state == State::Running {
                    boot.state = State::Done;
                }
                boot.cleanup = false;
                self.save(&mut row).await?;
                self.inner.condition_changed(&row.boot.machine).await;
                Ok(())
            }
        }
    }

    /// Nothing was ever sent that could have put the image into the BMC: its token is over.
    async fn end_unused(&self, row: &Row) -> Result<(), Stop> {
        let own = row.boot.attempt.as_deref().filter(|_| !row.boot.inserted);
        if let Some(attempt) = own.map(|id| self.inner.attempt(id)).transpose()?.flatten() {
            self.inner.end_attempts(&[attempt]).await?;
        }
        Ok(())
    }

    async fn step(&mut self, row: &mut Row, step: &str) -> Result<Outcome, Stop> {
        match step {
            DECIDE => self.decide(row).await,
            SHUT_DOWN => self.shut_down(row).await,
            EJECT => self.eject(row).await,
            INSERT => self.insert(row).await,
            BOOT_ONCE => self.boot_once(row).await,
            POWER_ON => self.power_on(row).await,
            ASK_AGENT => self.ask_agent(row).await,
            AWAIT => self.await_agent(row).await,
            SETTLE => self.settle(row).await,
            RELEASE => self.release(row).await,
            other => Ok(Outcome::Fail(Reason::new(
                "unknown-step",
                format!("this boot stands at step `{other}`, which this program does not know"),
                "it was begun by a newer isobar: start that one, or set the bootenv again",
            ))),
        }
    }

    /// Who reboots the machine.
    async fn decide(&self, row: &mut Row) -> Result<Outcome, Stop> {
        let machine = row.boot.machine.clone();
        if self
            .inner
            .agents
            .live(&machine, self.inner.uptime())
            .is_some_and(|agent| agent.root_in_memory)
        {
            row.boot.way = Some(Way::Agent);
            return Ok(Outcome::Next(EJECT));
        }
        if let Some(pause) = self.inner.agent_may_return(&machine)? {
            "waiting for the agent to be heard again after the restart".clone_into(&mut row.boot.detail);
            return Ok(Outcome::Stay(pause));
        }
        let power = self.power(row).await?;
        let way = if power != PowerState::Off && row.boot.leave_power {
            Way::Operator
        } else {
            Way::Power
        };
        row.boot.way = Some(way);
        Ok(Outcome::Next(if way == Way::Power { SHUT_DOWN } else { EJECT }))
    }

    /// Graceful shutdown with a deadline, then the power is cut, and it is seen to be off.
    async fn shut_down(&self, row: &mut Row) -> Result<Outcome, Stop> {
        let timing = &self.inner.timing;
        let now = self.inner.now_ms();
        match self.power(row).await? {
            PowerState::Off => {
                self.inner.agents.forget(&row.boot.machine);
                return Ok(Outcome::Next(EJECT));
            }
            // On its way already; it has as long as if we had asked.
            PowerState::PoweringOff => drop(row.boot.asked_ms.get_or_insert(now)),
            _ => {}
        }
        let graceful = row.boot.shutdown_ms.unwrap_or_else(|| millis(timing.shutdown()));
        match row.boot.asked_ms {
            None => {
                row.boot.asked_ms = Some(now);
                self.note(row, Phase::PoweringOff, "asking the operating system to shut down");
                match self.change(row, Verb::Power(PowerAction::GracefulShutdown)).await {
                    Ok(_) => {}
                    Err(Stop::Bmc(error))
                        if matches!(error.class, ErrorClass::Unsupported | ErrorClass::Refused)
                            || row.boot.tries + 1 >= timing.tries =>
                    {
                        row.boot.tries = 0;

                        row.boot.asked_ms = Some(now.saturating_sub(graceful));
                    }
                    Err(other) => {
                        row.boot.asked_ms = None;
                        return Err(other);
                    }
                }
                Ok(Outcome::Stay(timing.poll()))
            }
            Some(asked) if now < asked + graceful => Ok(Outcome::Stay(timing.poll())),
            Some(_) => match row.boot.forced_ms {
                None => {
                    row.boot.forced_ms = Some(now);
                    self.note(row, Phase::PoweringOff, "cutting the power");
                    if let Err(stop) = self.change(row, Verb::Power(PowerAction::ForceOff)).await {
                        row.boot.forced_ms = None;
                        return Err(stop);
                    }
                    Ok(Outcome::Stay(timing.poll()))
                }
                Some(forced) if now < forced + millis(timing.power()) => Ok(Outcome::Stay(timing.poll())),
                Some(_) => Ok(self.again_or_stuck(row, "off")),
            },
        }
    }

    async fn eject(&self, row: &mut Row) -> Result<Outcome, Stop> {
        if row.boot.way == Some(Way::Operator) && self.foreign_root_may_be_mounted(row).await? {
            self.note(
                row,
                Phase::Planned,
                "waiting for the machine to be off: another image is in its virtual CD",
            );
            return Ok(Outcome::Stay(self.inner.timing.poll() * 5));
        }
        self.note(row, Phase::Ejecting, "ejecting what is in the virtual CD");
        let ending = self
            .inner
            .live_attempts(&row.boot.machine, row.boot.attempt.as_deref())?;
        self.change(row, Verb::Eject).await?;
        self.inner.end_attempts(&ending).await?;
        Ok(Outcome::Next(INSERT))
    }

    async fn insert(&self, row: &mut Row) -> Result<Outcome, Stop> {
        let attempt = self.placed(row).await?;
        let url = self.inner.image_url(&attempt).map_err(Stop::Settings)?;
        // Some BMCs read while they insert: the observer is there before the command is.
        let reads = self.inner.follow(&attempt).map_err(Stop::Settings)?;
        if row.boot.inserted {
            // An earlier try or process may have got through.
            if let Answer::Media(media) = self.look(row, Verb::Media).await?
                && media.inserted
                && media.image.as_deref().is_some_and(|image| same_image(image, &url))
            {
                self.note(row, Phase::Inserted, &reads.now(self.inner.now()).reading.detail);
                return Ok(Outcome::Next(BOOT_ONCE));
            }
        }
        row.boot.inserted = true;
        self.note(row, Phase::Inserting, "inserting the image");
        let id = row.boot.id.clone();
        let answer = {
            let mut inserting = std::pin::pin!(self.change(row, Verb::Insert(url.clone())));
            loop {
                tokio::select! {
                    answer = &mut inserting => break answer,
                    // Some copy the whole image before they answer.
                    () = tokio::time::sleep(Duration::from_secs(1)) => {
                        let seen = reads.now(self.inner.now());
                        let (read, size) = (bytes(seen.bytes), bytes(attempt.size));
                        let detail = format!("inserting the image; the BMC has read {read} of {size}");
                        self.inner.show(&id, Phase::Inserting, &detail, &seen);
                    }
                }
            }
        };
        // Whether what it shows is ours, the BMC's own reading back has judged.
        answer?;
        self.note(row, Phase::Inserted, &reads.now(self.inner.now()).reading.detail);
        Ok(Outcome::Next(BOOT_ONCE))
    }

    /// The attempt, with the addresses at which this process has reached the BMC: only there is a name of a BMC worth
    /// anything.
    async fn placed(&self, row: &mut Row) -> Result<Attempt, Stop> {
        if lock(&self.exchanges.addresses).is_empty() {
            self.power(row).await?;
        }
        let addresses = lock(&self.exchanges.addresses).clone();
        let placed = self.inner.place(self.attempt(row)?, &addresses).await;
        placed.map_err(Stop::Settings)
    }

    /// Tells of readers that are not the BMC.
    fn strangers(&self, row: &mut Row, attempt: &Attempt) {
        let Ok(reads) = self.inner.follow(attempt) else { return };
        let seen = reads.now(self.inner.now());
        let (now, phase) = (self.inner.now_ms(), row.boot.phase);
        let bmc = listed(&attempt.bmc_ips);
        if let Some(reader) = seen.elsewhere
            && row.boot.elsewhere.is_none()
        {
            row.boot.elsewhere = Some(reader);
            let text = format!("the image is read from {reader}, which is not the BMC ({bmc})");
            row.boot.note(now, phase, &text);
        }
        if let Some(reader) = seen.refused
            && row.boot.refused.is_none()
        {
            row.boot.refused = Some(reader);
            let text = format!("{reader} asked for the image and was refused: it is not the BMC ({bmc})");
            row.boot.note(now, phase, &text);
        }
    }

    async fn boot_once(&self, row: &mut Row) -> Result<Outcome, Stop> {
        row.boot.override_set = true;
        self.note(row, Phase::BootOnce, "setting one-time boot from the virtual CD");
        self.change(row, Verb::BootOnce(BootTarget::Cd)).await?;
        Ok(Outcome::Next(match row.boot.way {
            Some(Way::Agent) => ASK_AGENT,
            Some(Way::Operator) => AWAIT,
            Some(Way::Power) | None => POWER_ON,
        }))
    }

    async fn power_on(&self, row: &mut Row) -> Result<Outcome, Stop> {
        let timing = &self.inner.timing;
        let power = self.power(row).await?;
        if power == PowerState::On {
            self.handed_over(row, Phase::Firmware, "machine is on");
            return Ok(Outcome::Next(AWAIT));
        }
        let now = self.inner.now_ms();
        match row.boot.asked_ms {
            // A lazy BMC shows the old state for a while.
            Some(asked) if now <= asked + millis(timing.power()) => Ok(Outcome::Stay(timing.poll())),
            Some(_) => Ok(self.again_or_stuck(row, "on")),
            None => {
                row.boot.asked_ms = Some(now);
                self.note(row, Phase::PoweringOn, "switching the machine on");
                // Reads from here on may be the machine's own.
                self.inner.powered_on(&self.attempt(row)?);
                if let Err(stop) = self.change(row, Verb::Power(PowerAction::On)).await {
                    row.boot.asked_ms = None;
                    return Err(stop);
                }
                Ok(Outcome::Stay(timing.poll()))
            }
        }
    }

    async fn ask_agent(&mut self, row: &mut Row) -> Result<Outcome, Stop> {
        let attempt = self.attempt(row)?;
        let told = self.inner.agents.took_order(&row.boot.machine, &attempt.id);
        if told || attempt.agent_up_ms.is_some() {
            self.inner.agents.forget(&row.boot.machine);
            self.inner.powered_on(&attempt);
            self.handed_over(
                row,
                Phase::RebootAsked,
                "the agent has been asked to reboot the machine",
            );
            return Ok(Outcome::Next(AWAIT));
        }
        let repeated = row.boot.asked_ms.is_some();
        if !repeated {
            // On disk first: after a crash it must be known that the machine may be on its way.
            row.boot.asked_ms = Some(self.inner.now_ms());
            self.save(row).await?;
        }
        let now = self.inner.uptime();
        let order = self.order.get_or_insert(Order { since: now, repeated });
        self.inner.agents.order_reboot(&row.boot.machine, &attempt.id);
        if now.saturating_sub(order.since) < self.inner.timing.agent_reboot() {
            self.note(
                row,
                Phase::BootOnce,
                "waiting for the agent to take the order to reboot",
            );
            return Ok(Outcome::Stay(Duration::from_secs(1)));
        }
        if order.repeated {
            // It may have rebooted into this very image: cutting its power now would be worse than waiting.
            self.inner.powered_on(&attempt);
            self.handed_over(
                row,
                Phase::RebootAsked,
                "the agent may have rebooted the machine while isobar was away",
            );
            return Ok(Outcome::Next(AWAIT));
        }
        self.note(row, Phase::BootOnce, "the agent is silent: the power is cycled instead");
        self.inner.agents.drop_order(&row.boot.machine, &attempt.id);
        row.boot.way = Some(Way::Power);
        Ok(Outcome::Next(SHUT_DOWN))
    }

    /// Follows the reads until the agent is up, or a verdict is due.
    async fn await_agent(&mut self, row: &mut Row) -> Result<Outcome, Stop> {
        let inner = Arc::clone(&self.inner);
        let watching_since = *self.watching_since.get_or_insert(inner.uptime());
        let (timing, now) = (&inner.timing, inner.now_ms());
        let attempt = self.attempt(row)?;
        if attempt.agent_up_ms.is_some() {
            self.strangers(row, &attempt);
            if let Ok(reads) = inner.follow(&attempt) {
                self.catch_up(row, &reads.now(inner.now()).reading);
            }
            self.handed_over(row, Phase::AgentUp, "agent is up");
            return Ok(Outcome::Next(SETTLE));
        }
        let Some(handed_over) = row.boot.handed_over_ms else {
            return self.await_operator(row, &attempt).await;
        };
        let reads = inner.follow(&attempt).map_err(Stop::Settings)?;
        self.strangers(row, &attempt);
        reads.powered_on(time_of(handed_over));
        let seen = reads.now(inner.now());
        if let Some(first) = seen.first
            && attempt.first_read_ms.is_none()
        {
            inner.first_read(&attempt, first, seen.elsewhere).await?;
        }
        let detail = match (seen.rate_bps, seen.reading.left) {
            (Some(rate), Some(left)) if rate > 0.0 && left > 0 => format!(
                "{}, {}/s, {:.0} s left",
                seen.reading.detail,
                bytes(rate as u64),
                (left as f64 / rate).ceil()
            ),
            _ => seen.reading.detail.clone(),
        };
        inner.show(&row.boot.id, seen.reading.phase, &detail, &seen);
        self.catch_up(row, &seen.reading);
        // No verdict on a time in which nobody watched.
        let watched = inner.uptime().saturating_sub(watching_since);
        let since = |at: u64| Duration::from_millis(now.saturating_sub(at)).min(watched);
        let verdict = match seen.progress {
            None if attempt.first_read_ms.is_none() => {
                (since(handed_over) > timing.first_read()).then(|| self.never_read(row, &attempt))
            }
            Some(_) if !seen.after_power_on && seen.reading.phase != Phase::Copied => {
                (since(handed_over) > timing.first_read()).then(|| self.not_booted_from_cd(row))
            }
            _ if seen.reading.stalled_for.is_some_and(|quiet| quiet > timing.stalled()) => {
                Some(self.read_stalled(row, &seen.reading.detail))
            }
            progress => {
                let quiet_since = progress.map_or(handed_over, ms_of).max(handed_over);
                (since(quiet_since) > timing.agent()).then(|| self.agent_silent(row, &attempt, &seen.reading))
            }
        };
        Ok(match verdict {
            None => Outcome::Stay(Duration::from_secs(1)),
            Some(reason) if seen.reading.phase == Phase::KernelStarted => Outcome::Fail(reason),
            Some(reason) => Outcome::Fail(self.lost_medium(row, &attempt, &seen.reading).await.unwrap_or(reason)),
        })
    }

    /// Writes into the history what the reads say, the phases between that went by unseen as well.
    fn catch_up(&self, row: &mut Row, reading: &Reading) {
        if reading.phase <= Phase::KernelStarted {
            for phase in [Phase::Grub, Phase::Kernel, Phase::Initrd] {
                if row.boot.phase < phase && phase < reading.phase {
                    self.note(row, phase, phase_began(phase));
                }
            }
        }
        if row.boot.phase < reading.phase {
            let text = match reading.percent {
                Some(_) => phase_began(reading.phase),
                None => &reading.detail,
            };
            self.note(row, reading.phase, text);
        }
    }

    /// A boot that got nowhere, because what it was to boot from is not there any more.
    async fn lost_medium(&self, row: &mut Row, attempt: &Attempt, reading: &Reading) -> Option<Reason> {
        let url = self.inner.image_url(attempt).ok()?;
        let Ok(Answer::Media(media)) = self.look(row, Verb::Media).await else {
            return None;
        };
        let shows = match media.image.filter(|_| media.inserted) {
            _ if !media.inserted => "its virtual CD is empty",
            Some(image) if !same_image(&image, &url) => "another image is in its virtual CD",
            _ => return None,
        };
        Some(Reason::new(
            "media-lost",
            format!(
                "{} has lost the image: {shows} ({})",
                self.bmc_name(row),
                reading.detail
            ),
            "a BMC reset or another user's session takes media out, the BMC's event log tells; set the bootenv again",
        ))
    }

    async fn await_operator(&self, row: &mut Row, attempt: &Attempt) -> Result<Outcome, Stop> {
        self.note(
            row,
            Phase::WaitingForPower,
            "image and one-time boot are set; the power is left to the operator: cycle it when it suits",
        );
        let reads = self.inner.follow(attempt).map_err(Stop::Settings)?;
        self.strangers(row, attempt);
        // Off and on again, or reads that only a boot makes.
        match self.power(row).await? {
            PowerState::Off | PowerState::PoweringOn => row.boot.asked_ms = Some(self.inner.now_ms()),
            PowerState::On if row.boot.asked_ms.is_some() => {
                reads.found_on(self.inner.now());
                self.handed_over(row, Phase::Firmware, "machine is on");
            }
            _ if reads.look_like_a_boot(self.inner.now()) => {
                reads.found_on(self.inner.now());
                self.handed_over(row, Phase::Grub, "the machine is booting from its virtual CD");
            }
            _ => {}
        }
        Ok(Outcome::Stay(self.inner.timing.poll() * 3))
    }

    /// The agent is up: an override that the firmware has not used up would boot the CD again.
    async fn settle(&self, row: &mut Row) -> Result<Outcome, Stop> {
        self.note(row, Phase::AgentUp, "agent is up");
        match self.change(row, Verb::ClearOverride).await {
            Ok(_) => row.boot.override_set = false,
            Err(Stop::Bmc(error)) => {
                row.boot.tries += 1;
                if row.boot.tries < self.inner.timing.tries && worth_retrying(&error) {
                    return Ok(Outcome::Stay(
                        self.inner.timing.backoff(row.boot.tries, Duration::from_secs(10)),
                    ));
                }
                tracing::warn!(machine = row.boot.machine_name, %error, "the one-time boot could not be cleared");
            }
            Err(other) => return Err(other),
        }
        Ok(Outcome::Done)
    }

    /// Media out and override cleared, when that is safe; nothing is rebooted.
    async fn release(&self, row: &mut Row) -> Result<Outcome, Stop> {
        if let Some(outcome) = self.login_refused(row)? {
            return Ok(outcome);
        }
        if let Some(why) = self.unsafe_to_eject(row).await? {
            self.note(row, Phase::Ejecting, &format!("the virtual CD is ejected when {why}"));
            return Ok(Outcome::Stay(self.inner.timing.poll() * 3));
        }
        self.take_out(row).await?;
        self.note(
            row,
            Phase::Released,
            "the virtual CD is empty, the one-time boot is cleared",
        );
        Ok(Outcome::Done)
    }

    /// What an unsuccessful boot owes to the BMC.
    async fn clean_up(&self, row: &mut Row) -> Result<Outcome, Stop> {
        if self.inner.is_superseded(&row.boot)? {
            return Ok(Outcome::Done);
        }
        if let Some(outcome) = self.login_refused(row)? {
            return Ok(outcome);
        }
        if self.unsafe_to_eject(row).await?.is_some() {
            return Ok(Outcome::Stay(self.inner.timing.poll() * 3));
        }
        self.take_out(row).await?;
        let phase = row.boot.phase;
        row.boot.note(
            self.inner.now_ms(),
            phase,
            "cleaned up: media ejected, one-time boot cleared",
        );
        Ok(Outcome::Done)
    }

    /// A login that was refused is not tried again by itself: BMCs count, and lock the account.
    fn login_refused(&self, row: &mut Row) -> Result<Option<Outcome>, Stop> {
        let endpoint = self.settings(row)?.endpoint.map_err(Stop::Settings)?;
        Ok(self.inner.gate.login_refused(&endpoint).then(|| {
            LOGIN_OWED.clone_into(&mut row.boot.detail);
            Outcome::Stay(self.inner.timing.cleanup())
        }))
    }

    async fn take_out(&self, row: &mut Row) -> Result<(), Stop> {
        let ending = self.inner.live_attempts(&row.boot.machine, None)?;
        if self.foreign_image(row).await? {
            self.note(
                row,
                Phase::Ejecting,
                "another image is in the virtual CD: it is left alone",
            );
        } else {
            self.change(row, Verb::Eject).await?;
        }
        row.boot.inserted = false;
        self.inner.end_attempts(&ending).await?;
        match self.change(row, Verb::ClearOverride).await {
            Err(Stop::Bmc(error)) if !worth_retrying(&error) => {
                tracing::warn!(machine = row.boot.machine_name, %error, "the one-time boot could not be cleared");
            }
            other => drop(other?),
        }
        row.boot.override_set = false;
        Ok(())
    }

    /// Nothing is ejected under a root that lives on the medium, or in the middle of a boot's reads.
    async fn unsafe_to_eject(&self, row: &mut Row) -> Result<Option<&'static str>, Stop> {
        let live = self.inner.agents.live(&row.boot.machine, self.inner.uptime());
        if live.is_some_and(|agent| agent.root_in_memory) || self.inner.reads_quiet(&row.boot.machine)? {
            return Ok(None);
        }
        Ok(match self.power(row).await? {
            PowerState::Off => None,
            _ => Some("the machine is off or has stopped reading"),
        })
    }

    async fn foreign_root_may_be_mounted(&self, row: &mut Row) -> Result<bool, Stop> {
        Ok(self.foreign_image(row).await? && self.power(row).await? != PowerState::Off)
    }

    /// Whether somebody else's image is in the virtual CD.
    async fn foreign_image(&self, row: &mut Row) -> Result<bool, Stop> {
        let Answer::Media(media) = self.look(row, Verb::Media).await? else {
            return Ok(false);
        };
        match media.image.filter(|_| media.inserted) {
            Some(image) => Ok(self.inner.attempt_of_url(&image)?.is_none()),
            None => Ok(false),
        }
    }

    fn after_error(&self, row: &mut Row, error: &BmcError) -> Outcome {
        let cleaning = row.boot.state != State::Running || row.boot.step == RELEASE;
        row.boot.tries += 1;
        row.boot.intent = None;
        let tries = row.boot.tries;
        if cleaning && error.class == ErrorClass::Auth {
            LOGIN_OWED.clone_into(&mut row.boot.detail);
            return Outcome::Stay(self.inner.timing.cleanup());
        }
        if !worth_retrying(error) || (!cleaning && tries >= self.inner.timing.tries) {
            return Outcome::Fail(match row.boot.step == INSERT {
                true => self.insert_refused(row, error),
                false => Reason::of_bmc(error),
            });
        }
        let limit = if cleaning {
            self.inner.timing.cleanup()
        } else {
            Duration::from_secs(60)
        };
        let pause = self.inner.timing.backoff(tries, limit);
        row.boot.detail = if cleaning {
            format!(
                "clean-up is owed; the BMC does not answer ({error}); next try in {:.0} s",
                pause.as_secs_f64()
            )
        } else {
            format!(
                "{error}; try {tries} of {}, next in {:.0} s",
                self.inner.timing.tries,
                pause.as_secs_f64()
            )
        };
        Outcome::Stay(pause)
    }

    /// An exchange that changes nothing.
    async fn look(&self, row: &mut Row, verb: Verb) -> Result<Answer, Stop> {
        let endpoint = self.settings(row)?.endpoint.map_err(Stop::Settings)?;
        let recorder: Arc<dyn Recorder> = Arc::clone(&self.exchanges) as Arc<dyn Recorder>;
        Ok(self.inner.gate.exchange(&endpoint, recorder, &verb).await?)
    }

    async fn power(&self, row: &mut Row) -> Result<PowerState, Stop> {
        match self.look(row, Verb::PowerState).await? {
            Answer::Power(state) => Ok(state),
            _ => Ok(PowerState::Unknown),
        }
    }

    /// An exchange that changes the BMC: its turn, then the intent on disk, then the wire.
    async fn change(&self, row: &mut Row, verb: Verb) -> Result<Answer, Stop> {
        let settings = self.settings(row)?;
        if settings.locked {
            return Err(Stop::Locked);
        }
        let endpoint = settings.endpoint.map_err(Stop::Settings)?;
        let turn = self.inner.gate.turn(&endpoint).await;
        let now = self.inner.now_ms();
        row.boot.intent = Some(Intent {
            verb: verb.name().to_owned(),
            bmc: gate::authority(&endpoint),
            at_ms: now,
            until_ms: now + millis(verb.longest(&self.inner.timing)),
        });
        self.save(row).await?;
        let recorder: Arc<dyn Recorder> = Arc::clone(&self.exchanges) as Arc<dyn Recorder>;
        let answer = turn.exchange(recorder, &verb).await;
        row.boot.intent = None;
        Ok(answer?)
    }

    async fn save(&self, row: &mut Row) -> Result<(), Stop> {
        row.boot.updated_ms = self.inner.now_ms();
        let mut txn = Txn {
            puts: vec![row.boot.put(Expect::Rev(row.rev))],
            ..Txn::default()
        };
        txn.puts.extend(self.exchanges.put(&row.boot.id));
        row.rev = self.inner.store.submit(txn).await?;
        if row.boot.phase != row.stored.phase {
            let Boot {
                id,
                machine_name,
                phase,
                detail,
                ..
            } = &row.boot;
            let attempt = row.boot.attempt_prefix();
            tracing::info!(boot = id, machine = machine_name, attempt, ?phase, "{detail}");
        }
        row.stored = row.boot.clone();
        self.inner.changed(&row.boot);
        Ok(())
    }

    fn note(&self, row: &mut Row, phase: Phase, text: &str) {
        row.boot.note(self.inner.now_ms(), phase, text);
    }

    fn handed_over(&self, row: &mut Row, phase: Phase, text: &str) {
        let now = self.inner.now_ms();
        row.boot.handed_over_ms.get_or_insert(now);
        row.boot.note(now, phase, text);
    }

    fn settings(&self, row: &Row) -> Result<Settings, Stop> {
        self.inner.settings(&row.boot.machine).map_err(Stop::Settings)
    }

    fn attempt(&self, row: &Row) -> Result<Attempt, Stop> {
        let id = row.boot.attempt.as_deref().unwrap_or_default();
        self.inner.attempt(id)?.ok_or_else(|| {
            Stop::Settings(Reason::new(
                "attempt-lost",
                format!("the attempt {id} of this boot is not in the store"),
                "set the bootenv again: the machine gets a new image",
            ))
        })
    }

    fn bmc_name(&self, row: &Row) -> String {
        match self.settings(row).map(|s| s.endpoint) {
            Ok(Ok(endpoint)) => format!("BMC {} of {}", gate::authority(&endpoint), row.boot.machine_name),
            _ => format!("the BMC of {}", row.boot.machine_name),
        }
    }

    /// BMCs have lost power commands: one that had no effect inside its deadline is sent once more. What it asks for
    /// is not there yet, so that it cannot undo anything.
    fn again_or_stuck(&self, row: &mut Row, wanted: &str) -> Outcome {
        if row.boot.tries > 0 {
            return Outcome::Fail(self.power_stuck(row, wanted));
        }
        row.boot.tries = 1;
        match wanted {
            "off" => row.boot.forced_ms = None,
            _ => row.boot.asked_ms = None,
        }
        let phase = row.boot.phase;
        self.note(row, phase, "the power command had no effect: sending it once more");
        Outcome::Stay(Duration::ZERO)
    }

    fn power_stuck(&self, row: &Row, wanted: &str) -> Reason {
        Reason::new(
            "power-stuck",
            format!(
                "{} took the power command, but the machine is not {wanted}",
                self.bmc_name(row)
            ),
            "look at the machine's console and the BMC's event log; it may want a BMC reset",
        )
    }

    fn never_read(&self, row: &Row, attempt: &Attempt) -> Reason {
        let message = format!(
            "{} says that the image is inserted, but never asked for it, nor did the machine since its power-on",
            self.bmc_name(row)
        );
        let hint = match row.boot.refused {
            Some(reader) => refused_hint(reader, attempt),
            None => format!(
                "check that the BMC can reach {} (route, VLAN, firewall), or set boot-virtual-iso-url to an address that \
                 it can; if it can, look at the machine's console: it may have booted from something else",
                attempt.authority
            ),
        };
        Reason::new("image-never-read", message, hint)
    }

    fn nothing_read(&self, attempt: &Attempt) -> bool {
        let reads = self.inner.follow(attempt);
        reads.is_ok_and(|reads| reads.now(self.inner.now()).first.is_none())
    }

    /// The BMC said no to the insert. What it could not fetch, it says in many ways or not at all.
    fn insert_refused(&self, row: &mut Row, error: &BmcError) -> Reason {
        let mut reason = Reason::of_bmc(error);
        let Ok(attempt) = self.attempt(row) else { return reason };
        self.strangers(row, &attempt);
        let more = match row.boot.refused {
            Some(reader) => refused_hint(reader, &attempt),
            None if error.may_lack_route() && self.nothing_read(&attempt) => format!(
                "the BMC has asked for nothing: check that it can reach {} (route, VLAN, firewall), or set \
                 boot-virtual-iso-url to an address that it can",
                attempt.authority
            ),
            None => return reason,
        };
        reason.hint = format!("{more}; {}", reason.hint);
        reason
    }

    fn not_booted_from_cd(&self, row: &Row) -> Reason {
        Reason::new(
            "not-booted-from-cd",
            format!(
                "{} is on, but has not read its virtual CD since: it booted from something else",
                row.boot.machine_name
            ),
            "look at the machine's console and boot order; some firmware wants virtual media enabled as a boot device",
        )
    }

    fn read_stalled(&self, row: &Row, detail: &str) -> Reason {
        Reason::new(
            "read-stalled",
            format!("{}: reading the image stopped: {detail}", row.boot.machine_name),
            "look at the machine's console; a slow or broken link between BMC and isobar shows here too",
        )
    }

    fn agent_silent(&self, row: &Row, attempt: &Attempt, reading: &Reading) -> Reason {
        let agent = format!(
            "look at the machine's console for `isobar: agent:`; check network-data (interface, address, VLAN) and that \
             the machine can reach {} (else set {})",
            attempt.api,
            param::SERVER_FOR_MACHINE
        );
        let (machine, detail) = (&row.boot.machine_name, &reading.detail);
        match reading.phase {
            Phase::Copied => Reason::new(
                "agent-silent",
                format!(
                    "{machine}: the BMC took a copy of the image, so nobody sees whether the machine boots from it, and no \
                     agent has checked in"
                ),
                format!("see on the console that it boots from its virtual CD, not from something else; then {agent}"),
            ),
            phase if phase < Phase::Kernel => Reason::new(
                "loader-stopped",
                format!("{machine} began to boot from its virtual CD and stopped before the kernel ({detail})"),
                "look at its console: a Secure Boot violation and the wrong boot mode (BIOS, UEFI) end here",
            ),
            _ => Reason::new(
                "agent-silent",
                format!("{machine} has read the image ({detail}), but no agent has checked in"),
                agent,
            ),
        }
    }
}

/// Why the BMC's own reads may have been refused.
fn refused_hint(reader: IpAddr, attempt: &Attempt) -> String {
    format!(
        "{reader} asked for the image and was refused, because only the BMC ({}) may read it: if it reads from there (NAT, a \
         second address), add it to {}, or set {} to false",
        listed(&attempt.bmc_ips),
        param::IMAGE_PEERS,
        param::STRICT
    )
}

fn listed(addresses: &[IpAddr]) -> String {
    let texts: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    texts.join(", ")
}

/// Steps by name and version: what the rows say.
pub(crate) const DECIDE: &str = "decide/1";
const SHUT_DOWN: &str = "shut-down/1";
const EJECT: &str = "eject/1";
const INSERT: &str = "insert/1";
const BOOT_ONCE: &str = "boot-once/1";
pub(crate) const ASK_AGENT: &str = "ask-agent/1";
pub(crate) const AWAIT: &str = "await/1";
const SETTLE: &str = "settle/1";
pub(crate) const RELEASE: &str = "release/1";

fn phase_began(phase: Phase) -> &'static str {
    match phase {
        Phase::Grub => "GRUB has read its configuration",
        Phase::Kernel => "GRUB is reading the kernel",
        Phase::Initrd => "GRUB is reading the initrd",
        _ => "going on",
    }
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

fn time_of(ms: u64) -> std::time::SystemTime {
    std::time::UNIX_EPOCH + Duration::from_millis(ms)
}
