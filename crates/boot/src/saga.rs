//! The boot saga: a durable row with a cursor, and a task that moves it on.
//!
//! ```text
//!  decide ──> shut-down ──> eject ──> insert ──> boot-once ──> power-on ──> await ──> settle ──> done
//!     │                       ^ │                    │ ^                      ^
//!     └── agent or operator ──┘ └──── http-boot ─────┼─┘ (in place of both)   │
//!                                                    ├──> ask-agent ──────────┤
//!                                                    └──> (operator) ─────────┘
//!  release (media out, override cleared when that is safe) ──> done
//! ```
//!
//! A step whose exchanges go on failing climbs the ladder of `recover`, rung by rung, and comes back.
//!
//! Every step first observes, then acts, so that it can be repeated after a crash. A change of the BMC is
//! committed as an intent before it is sent. The task holds no lock while it waits.

mod blame;
mod clean_up;
mod conversation;
mod exchanges;
mod hand_over;
mod http_boot;
mod rank;
mod recover;
mod rehearse;
mod watch;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use isobar_bmc::{BmcError, Endpoint, ErrorClass, PowerState, Recorder};
use isobar_objects::Principal;
use isobar_store::{Expect, Rev, StoreError, Txn};

use crate::evidence::Phase;
use crate::gate::{self, Answer, Caller, Rank, Verb};
use crate::reason::{Reason, worth_retrying};
use crate::record::{Attempt, Boot, Intent, POWER_ON, Recovering, Row, State};
use crate::settings::Settings;
use crate::state::{Inner, STORE, lock};

pub(crate) use conversation::Room;
use exchanges::Exchanges;
use rank::rank;

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
    /// The BMC did not answer lately, and is left alone for so long.
    LeftAlone(Duration),
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

/// Runs a boot until it is over and owes nothing to the BMC.
pub(crate) async fn run(inner: Arc<Inner>, id: String) {
    let mut task = Saga {
        exchanges: Arc::new(Exchanges::new(Arc::clone(&inner.room))),
        inner,
        attempt: Mutex::default(),
        order: None,
        watching_since: None,
        looked: None,
    };
    let _guard = LifeGuard {
        inner: Arc::clone(&task.inner),
        id: id.clone(),
    };
    let (mut resumed, mut known) = (true, None);
    loop {
        let mut row = match task.inner.boot_row_again(&id, known.take()) {
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
            task.inner.unfollow_console(&row.boot);
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
            Ok(row) => known = Some(row),
            Err(Stop::Changed) => {}
            Err(Stop::Store(StoreError::Closed)) => return,
            Err(Stop::Store(error)) => {
                tracing::error!(boot = id, %error, "the boot cannot be saved; trying again");
                tokio::time::sleep(STORE_PAUSE).await;
            }
            // Dealt with inside `advance`.
            Err(Stop::Bmc(_) | Stop::Settings(_) | Stop::Locked | Stop::LeftAlone(_)) => {}
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
    /// The attempt as it was read last.
    attempt: Mutex<Option<(Attempt, Rev)>>,
    /// The order to the agent that this process has given.
    order: Option<Order>,
    /// When this process began to watch the reads.
    watching_since: Option<Duration>,
    /// Uptime at the last look at how far the machine has come.
    looked: Option<Duration>,
}

struct Order {
    /// Uptime of the process.
    since: Duration,
    /// An earlier process may have had it carried out.
    repeated: bool,
}

impl Saga {
    /// One move of the cursor, or one wait. The row as it was saved.
    async fn advance(&mut self, mut row: Row) -> Result<Row, Stop> {
        let step = row.boot.step.clone();
        row.boot.wait_until_ms = None;
        let outcome = if row.boot.state == State::Running {
            self.follow_console(&row).await;
            self.step(&mut row, &step).await
        } else {
            self.inner.withdraw_order(&row.boot);
            self.inner.unfollow_console(&row.boot);
            Box::pin(self.clean_up(&mut row)).await
        };
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(Stop::Bmc(error)) if row.boot.state == State::Running && recover::is_rung(&step) => {
                self.rung_failed(&mut row, &error)
            }
            Err(Stop::Bmc(error)) => self.after_error(&mut row, &error),
            Err(Stop::LeftAlone(left)) => self.wait_alone(&mut row, left),
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
                self.save(&mut row).await?;
            }
            Outcome::Stay(pause) => {
                if row.boot != row.stored {
                    self.save(&mut row).await?;
                }
                let bell = self.inner.bell(&row.boot.id);
                let _ = tokio::time::timeout(pause, bell.notified()).await;
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
                self.write_post_mortem(&row).await;
                self.save(&mut row).await?;
                self.survey(&row);
                self.inner.condition_changed(&row.boot.machine).await;
            }
            Outcome::Fail(reason) => {
                // A clean-up that can never succeed (the login is gone) is over, and says so.
                let boot = &mut row.boot;
                boot.cleanup = false;
                let phase = boot.phase;
                boot.note(now, phase, &format!("clean-up given up: {}", reason.message));
                self.save(&mut row).await?;
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
            }
        }
        Ok(row)
    }

    /// Nothing was ever sent that could have put the image into the BMC: its token is over.
    async fn end_unused(&self, row: &Row) -> Result<(), Stop> {
        let own = row
            .boot
            .attempt
            .as_deref()
            .filter(|_| !row.boot.inserted && !row.boot.override_set);
        if let Some(attempt) = own.map(|id| self.inner.attempt(id)).transpose()?.flatten() {
            self.inner.end_attempts(&row.boot.machine, &[attempt]).await?;
        }
        Ok(())
    }

    /// From the boot override on, what the machine says is of this boot.
    async fn follow_console(&self, row: &Row) {
        if row.boot.override_set
            && let Ok(settings) = self.settings(row)
        {
            self.inner.follow_console(&row.boot, &settings).await;
        }
    }

    /// Each step in a box of its own: thousands wait in the first one, and need no room for the largest.
    async fn step(&mut self, row: &mut Row, step: &str) -> Result<Outcome, Stop> {
        match step {
            DECIDE => Box::pin(self.decide(row)).await,
            REHEARSE => Box::pin(self.rehearse(row)).await,
            SHUT_DOWN => Box::pin(self.shut_down(row)).await,
            EJECT => Box::pin(self.eject(row)).await,
            INSERT => Box::pin(self.insert(row)).await,
            BOOT_ONCE => Box::pin(self.boot_once(row)).await,
            HTTP_BOOT => Box::pin(self.http_boot(row)).await,
            POWER_ON => Box::pin(self.power_on(row)).await,
            ASK_AGENT => Box::pin(self.ask_agent(row)).await,
            AWAIT => Box::pin(self.await_agent(row)).await,
            SETTLE => Box::pin(self.settle(row)).await,
            RELEASE => Box::pin(self.release(row)).await,
            rung if recover::is_rung(rung) => Box::pin(self.rung(row, rung)).await,
            other => Ok(Outcome::Fail(Reason::new(
                "unknown-step",
                format!("this boot stands at step `{other}`, which this program does not know"),
                "it was begun by a newer isobar: start that one, or set the bootenv again",
            ))),
        }
    }

    fn after_error(&self, row: &mut Row, error: &BmcError) -> Outcome {
        let cleaning = row.boot.state != State::Running || row.boot.step == RELEASE;
        row.boot.tries += 1;
        row.boot.intent = None;
        let tries = row.boot.tries;
        if cleaning && error.class == ErrorClass::Shadow {
            row.boot.detail = format!("clean-up is owed; {}", error.message);
            return Outcome::Stay(self.inner.timing.cleanup());
        }
        if cleaning && error.class == ErrorClass::Auth {
            LOGIN_OWED.clone_into(&mut row.boot.detail);
            return Outcome::Stay(self.inner.timing.cleanup());
        }
        let limit = recover::tries(self.inner.timing.tries, &row.boot.rungs, &row.boot.step);
        let spent = Duration::from_millis(self.inner.now_ms().saturating_sub(row.boot.step_ms));
        let retry = worth_retrying(error);
        if !retry || (!cleaning && (tries >= limit || spent > self.inner.timing.step())) {
            let reason = match row.boot.step == INSERT {
                true => self.insert_refused(row, error),
                false => Reason::of_bmc(error),
            };
            let why = Recovering {
                step: row.boot.step.clone(),
                error: reason.clone(),
                class: error.class,
            };
            let rung = (retry && !cleaning).then(|| self.climb(row, &why)).flatten();
            return rung.unwrap_or_else(|| Outcome::Fail(self.in_vain(row, reason)));
        }
        let longest = if cleaning {
            self.inner.timing.cleanup()
        } else {
            Duration::from_secs(60)
        };
        let pause = self.inner.gate.chance.spread(self.inner.timing.backoff(tries, longest));
        row.boot.wait_until_ms = Some(self.inner.now_ms() + millis(pause));
        row.boot.detail = if cleaning {
            format!(
                "clean-up is owed; the BMC does not answer ({error}); next try in {:.0} s",
                pause.as_secs_f64()
            )
        } else {
            format!("{error}; try {tries} of {limit}, next in {:.0} s", pause.as_secs_f64())
        };
        Outcome::Stay(pause)
    }

    /// Nothing is sent to a BMC that did not answer lately; the time for the step goes on.
    fn wait_alone(&self, row: &mut Row, left: Duration) -> Outcome {
        row.boot.intent = None;
        let now = self.inner.now_ms();
        let spent = Duration::from_millis(now.saturating_sub(row.boot.step_ms));
        let owed = row.boot.state != State::Running || row.boot.step == RELEASE || row.boot.step == AWAIT;
        if !owed && !recover::is_rung(&row.boot.step) && spent > self.inner.timing.step() {
            return Outcome::Fail(Reason::new(
                "bmc-silent",
                format!(
                    "{} did not answer for {} s, over several boots and tries",
                    self.bmc_name(row),
                    spent.as_secs()
                ),
                "check its power, its network and its web page; when it answers again, `isobar operations retry` of this boot",
            ));
        }
        row.boot.wait_until_ms = Some(now + millis(left));
        row.boot.detail = format!(
            "{} did not answer several times in a row: it is left alone for another {} s",
            self.bmc_name(row),
            left.as_secs() + 1
        );
        let rest = if owed {
            left
        } else {
            self.inner.timing.step().saturating_sub(spent)
        };
        Outcome::Stay(left.min(rest) + Duration::from_millis(10))
    }

    /// An exchange that changes nothing.
    async fn look(&self, row: &mut Row, verb: Verb) -> Result<Answer, Stop> {
        let settings = self.settings(row)?;
        let mut endpoint = settings.endpoint.map_err(Stop::Settings)?;
        endpoint.shadow |= row.boot.shadow;
        self.not_left_alone(&endpoint)?;
        let recorder: Arc<dyn Recorder> = Arc::clone(&self.exchanges) as Arc<dyn Recorder>;
        let caller = Caller {
            endpoint: &endpoint,
            site: settings.site.as_deref(),
            who: &row.boot.id,
            rank: rank(&row.boot),
        };
        let answer = self.inner.gate.exchange(caller, recorder, &verb).await;
        self.take_progress(row);
        Ok(answer?)
    }

    fn not_left_alone(&self, endpoint: &Endpoint) -> Result<(), Stop> {
        match self.inner.gate.left_alone(endpoint) {
            Some(left) => Err(Stop::LeftAlone(left)),
            None => Ok(()),
        }
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
        let mut endpoint = settings.endpoint.map_err(Stop::Settings)?;
        endpoint.shadow |= row.boot.shadow;
        self.not_left_alone(&endpoint)?;
        let who = row.boot.id.clone();
        let caller = Caller {
            endpoint: &endpoint,
            site: settings.site.as_deref(),
            who: &who,
            rank: rank(&row.boot),
        };
        let mut turn = self.inner.gate.turn(caller).await;
        if verb == Verb::ResetBmc && self.other_at(row, &gate::authority(&endpoint))?.is_some() {
            // It has begun while this waited: all is to be looked at again.
            return Err(Stop::Changed);
        }
        if row.boot.step == SETTLE {
            turn = turn.last();
        }
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

    /// On disk before the boot is seen to have failed; one that cannot be written is no reason not to end it.
    async fn write_post_mortem(&self, row: &Row) {
        let (inner, boot, told) = (Arc::clone(&self.inner), row.boot.clone(), self.exchanges.told());
        let written = self.inner.objects.run(move |_| {
            let document = inner.post_mortem(&boot, told).map_err(std::io::Error::other)?;
            inner.post_mortems.write(&boot.id, &document)
        });
        if let Err(error) = written.await {
            tracing::error!(boot = row.boot.id, %error, "the post-mortem cannot be written");
        }
    }

    /// What a replay needs beside the boot's own exchanges, where the BMC answers; nobody waits for it.
    fn survey(&self, row: &Row) {
        let silent =
            |error: &Reason| ["bmc-timeout", "bmc-unreachable", "bmc-tls", "bmc-password"].contains(&&*error.reason);
        let Ok(settings) = self.settings(row) else { return };
        let (Ok(endpoint), false) = (settings.endpoint, row.boot.error.as_ref().is_some_and(silent)) else {
            return;
        };
        if self.not_left_alone(&endpoint).is_err() {
            return;
        }
        let (inner, boot) = (Arc::clone(&self.inner), row.boot.id.clone());
        self.inner.runtime.spawn(async move {
            let seen = Arc::new(Exchanges::new(Arc::clone(&inner.room)));
            let caller = Caller {
                endpoint: &endpoint,
                site: settings.site.as_deref(),
                who: &boot,
                rank: Rank::Idle,
            };
            let turn = inner.gate.turn(caller).await;
            if let Err(error) = turn.survey(Arc::clone(&seen) as Arc<dyn Recorder>).await {
                tracing::debug!(boot, %error, "the survey for its post-mortem");
            }
            let (told, post_mortems) = (seen.told().0, inner.post_mortems.clone());
            let added = inner
                .objects
                .run(move |_| post_mortems.add(&boot, "survey", told.into()))
                .await;
            if let Err(error) = added {
                tracing::warn!(%error, "a post-mortem stays without its survey");
            }
        });
    }

    async fn save(&self, row: &mut Row) -> Result<(), Stop> {
        row.boot.updated_ms = self.inner.now_ms();
        let mut txn = Txn {
            puts: vec![row.boot.put(Expect::Rev(row.rev))],
            ..Txn::default()
        };
        txn.puts.extend(self.exchanges.put(&row.boot.id));
        txn.events.extend(recover::event(row));
        let sent_ms = |boot: &Boot| boot.intent.as_ref().map(|intent| intent.at_ms);
        if let Some(intent) = row
            .boot
            .intent
            .as_ref()
            .filter(|_| sent_ms(&row.boot) != sent_ms(&row.stored))
        {
            let (action, detail) = (format!("bmc:{}", intent.verb), format!("boot {}", row.boot.id));
            let told = Principal::system().audit(&action, "machines", &row.boot.machine, detail);
            txn.audit.push(told);
        }
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
        let mut known = lock(&self.attempt);
        *known = self.inner.attempts.again(id, known.take())?;
        let attempt = known.as_ref().map(|(attempt, _)| attempt.clone());
        attempt.ok_or_else(|| {
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
}

/// Steps by name and version: what the rows say.
pub(crate) const DECIDE: &str = "decide/1";
/// Shadow mode has this one step.
pub(crate) const REHEARSE: &str = "rehearse/1";
const SHUT_DOWN: &str = "shut-down/1";
const EJECT: &str = "eject/1";
const INSERT: &str = "insert/1";
const BOOT_ONCE: &str = "boot-once/1";
/// In place of an insert and of [`BOOT_ONCE`].
const HTTP_BOOT: &str = "http-boot/1";
pub(crate) const ASK_AGENT: &str = "ask-agent/1";
pub(crate) const AWAIT: &str = "await/1";
const SETTLE: &str = "settle/1";
pub(crate) const RELEASE: &str = "release/1";

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

fn time_of(ms: u64) -> std::time::SystemTime {
    std::time::UNIX_EPOCH + Duration::from_millis(ms)
}
