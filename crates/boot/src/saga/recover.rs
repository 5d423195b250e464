//! The ladder: what is done about a BMC that goes on failing, rung by rung, each a durable step of the boot.
//!
//! ```text
//!  retry ──> eject in all places ──> end our sessions ──> wait out the self-test ──> reset the BMC ──> give up
//! ```
//!
//! After each rung the step that failed is tried again. Which rungs may be taken is the machine's to say
//! (`isobar/bmc-recovery`); which of them can help is a table.

use std::time::Duration;

use isobar_bmc::{BmcError, ErrorClass, PowerState};
use isobar_store::Event;

use super::{BOOT_ONCE, DECIDE, EJECT, HTTP_BOOT, INSERT, Outcome, SHUT_DOWN, Saga, Stop, millis};
use crate::gate::{self, Answer, Verb};
use crate::reason::Reason;
use crate::record::{POWER_ON, Recovering, Row, RungTaken, State, rfc3339};
use crate::verdict;

const BY_EJECT: &str = "recover-eject/1";
const BY_SESSIONS: &str = "recover-sessions/1";
const BY_POST: &str = "recover-post/1";
const BY_RESET: &str = "recover-reset/1";
const AFTER_RESET: &str = "recover-wait/1";

/// A way out, and where it can be one.
struct Rung {
    name: &'static str,
    step: &'static str,
    /// Steps that it may be taken for.
    of: &'static [&'static str],
    /// Failures that it may help against.
    against: &'static [ErrorClass],
    /// Once for each boot, not for each step.
    once: bool,
}

use ErrorClass::{Busy, Failing, NotMounted, Protocol, Timeout};

/// From the mildest on.
const LADDER: [Rung; 4] = [
    Rung {
        name: "eject",
        step: BY_EJECT,
        of: &[INSERT],
        against: &[Busy, Failing, NotMounted, Timeout],
        once: false,
    },
    Rung {
        name: "sessions",
        step: BY_SESSIONS,
        of: &[DECIDE, SHUT_DOWN, EJECT, INSERT, BOOT_ONCE, HTTP_BOOT, POWER_ON],
        against: &[Busy, Failing],
        once: true,
    },
    Rung {
        name: "post",
        step: BY_POST,
        of: &[DECIDE, SHUT_DOWN, EJECT, INSERT, BOOT_ONCE, HTTP_BOOT],
        against: &[Busy, Failing],
        once: false,
    },
    // Not once the machine may have been switched on: its disc would go in the middle of its boot.
    Rung {
        name: "reset",
        step: BY_RESET,
        of: &[DECIDE, SHUT_DOWN, EJECT, INSERT, BOOT_ONCE, HTTP_BOOT],
        against: &[Busy, Failing, NotMounted, Protocol, Timeout],
        once: true,
    },
];

/// Whether a step is a rung of the ladder.
pub(super) fn is_rung(step: &str) -> bool {
    step == AFTER_RESET || LADDER.iter().any(|rung| rung.step == step)
}

impl Saga {
    /// The next rung that may be taken and may help; none: the boot gives up.
    pub(super) fn climb(&self, row: &mut Row, why: &Recovering) -> Option<Outcome> {
        let allowed = self.settings(row).ok()?.rungs;
        let taken = |rung: &Rung| {
            let before = row.boot.rungs.iter().filter(|taken| taken.rung == rung.name);
            before.into_iter().any(|taken| rung.once || taken.step == why.step)
        };
        let next = LADDER.iter().find(|rung| {
            allowed.iter().any(|name| name == rung.name)
                && rung.of.contains(&why.step.as_str())
                && rung.against.contains(&why.class)
                && !taken(rung)
        })?;
        row.boot.recovering = Some(why.clone());
        Some(Outcome::Next(next.step))
    }

    /// What has been tried, for who is told that it was in vain.
    pub(super) fn in_vain(&self, row: &Row, mut reason: Reason) -> Reason {
        let taken: Vec<&str> = row.boot.rungs.iter().map(|taken| taken.outcome.as_str()).collect();
        if !taken.is_empty() {
            reason.message = format!("{} (tried: {})", reason.message, taken.join("; "));
        }
        if !row.boot.rungs.iter().any(|taken| taken.rung == "reset") && reason.hint.contains("reset") {
            reason.hint = format!(
                "{} (isobar may do it where isobar/bmc-recovery holds `reset`)",
                reason.hint
            );
        }
        reason
    }

    pub(super) async fn rung(&self, row: &mut Row, step: &str) -> Result<Outcome, Stop> {
        match step {
            BY_EJECT => {
                self.note(row, row.boot.phase, "recovery: ejecting in all places");
                self.change(row, Verb::Eject).await?;
                Ok(self.taken(row, "eject", "ejected in all places"))
            }
            BY_SESSIONS => {
                self.note(row, row.boot.phase, "recovery: ending our sessions on the BMC");
                let ended = match self.change(row, Verb::ClearSessions).await? {
                    Answer::Cleared(ended) => ended,
                    _ => 0,
                };
                Ok(self.taken(row, "sessions", &format!("{ended} sessions ended")))
            }
            BY_POST => self.wait_out_post(row).await,
            BY_RESET => self.reset(row).await,
            _ => self.after_reset(row).await,
        }
    }

    /// A rung could not be taken: on to the next, or the end.
    pub(super) fn rung_failed(&self, row: &mut Row, error: &BmcError) -> Outcome {
        let step = row.boot.step.clone();
        row.boot.intent = None;
        if step == AFTER_RESET {
            return self.deaf_after_reset(row);
        }
        let name = LADDER
            .iter()
            .find(|rung| rung.step == step)
            .map_or("", |rung| rung.name);
        if step == BY_RESET && error.class == Timeout {
            // It went down in the middle of its answer, as they do.
            "the BMC went down without an answer to its reset".clone_into(&mut row.boot.detail);
            return Outcome::Next(AFTER_RESET);
        }
        self.mark(row, name, &format!("{name} failed: {error}"));
        self.go_on(row)
    }

    /// The next rung for the sake of the step that failed, or the end of the boot with what the BMC had said to it.
    fn go_on(&self, row: &mut Row) -> Outcome {
        let Some(why) = row.boot.recovering.clone() else {
            return Outcome::Next(DECIDE);
        };
        match self.climb(row, &why) {
            Some(next) => next,
            None => Outcome::Fail(self.in_vain(row, why.error)),
        }
    }

    fn mark(&self, row: &mut Row, rung: &str, outcome: &str) {
        let now = self.inner.now_ms();
        let step = row.boot.recovering.as_ref().map(|why| why.step.clone());
        row.boot.rungs.push(RungTaken {
            rung: rung.to_owned(),
            step: step.unwrap_or_default(),
            at: rfc3339(now),
            outcome: outcome.to_owned(),
        });
        self.note(row, row.boot.phase, &format!("recovery: {outcome}"));
    }

    /// A rung was taken: back to the step that failed, or where its effect has to be made anew.
    fn taken(&self, row: &mut Row, rung: &str, outcome: &str) -> Outcome {
        self.mark(row, rung, outcome);
        let step = row.boot.recovering.take().map(|why| why.step).unwrap_or_default();
        let media_gone = rung == "reset" && [INSERT, BOOT_ONCE].contains(&step.as_str());
        let known = [DECIDE, SHUT_DOWN, EJECT, INSERT, BOOT_ONCE, HTTP_BOOT, POWER_ON];
        match known.into_iter().find(|known| *known == step) {
            _ if media_gone => Outcome::Next(EJECT),
            Some(step) => Outcome::Next(step),
            None => Outcome::Next(DECIDE),
        }
    }

    /// Firmware refuses changes during the self-test, and takes minutes for it.
    async fn wait_out_post(&self, row: &mut Row) -> Result<Outcome, Stop> {
        let Answer::Host(host) = self.look(row, Verb::Host).await? else {
            return Ok(self.go_on(row));
        };
        let in_post = verdict::in_post(&host);
        let progress = host.boot_progress.unwrap_or_default();
        let since = row.boot.asked_ms;
        let now = self.inner.now_ms();
        match since {
            None if !in_post => {
                self.mark(row, "post", "the machine is in no self-test that the BMC tells of");
                Ok(self.go_on(row))
            }
            Some(since) if !in_post => {
                let waited = now.saturating_sub(since) / 1000;
                Ok(self.taken(row, "post", &format!("waited {waited} s for the end of the self-test")))
            }
            Some(since) if now > since + millis(self.inner.timing.post()) => {
                self.mark(row, "post", &format!("the self-test had no end ({progress})"));
                Ok(self.go_on(row))
            }
            _ => {
                row.boot.asked_ms.get_or_insert(now);
                let text = format!("recovery: waiting for the end of the machine's self-test ({progress})");
                self.note(row, row.boot.phase, &text);
                Ok(Outcome::Stay(self.inner.timing.poll() * 5))
            }
        }
    }

    /// The last resort, where it is allowed: with a pause between two, and not under somebody else's boot.
    async fn reset(&self, row: &mut Row) -> Result<Outcome, Stop> {
        if row.boot.asked_ms.is_some() {
            // An earlier process may have sent it, and twice is worse than not at all.
            return Ok(Outcome::Next(AFTER_RESET));
        }
        let endpoint = self.settings(row)?.endpoint.map_err(Stop::Settings)?;
        let (bmc, now) = (gate::authority(&endpoint), self.inner.now_ms());
        let pause = millis(self.inner.timing.reset_pause());
        if let Some(last) = self.inner.gate.bmcs.last_reset(&bmc)
            && now < last + pause
        {
            let text = format!(
                "no reset of the BMC: the last one was {} s ago, and {} s lie between two",
                now.saturating_sub(last) / 1000,
                pause / 1000
            );
            self.mark(row, "reset", &text);
            return Ok(self.go_on(row));
        }
        if let Some(other) = self.other_at(row, &bmc)? {
            let text = format!("no reset of the BMC: {other} boots through it as well");
            self.mark(row, "reset", &text);
            return Ok(self.go_on(row));
        }
        self.note(row, row.boot.phase, "recovery: resetting the BMC");
        row.boot.asked_ms = Some(now);
        self.inner.gate.bmcs.resetting(&bmc, now).await;
        self.change(row, Verb::ResetBmc).await?;
        Ok(Outcome::Next(AFTER_RESET))
    }

    /// Another machine that is in the middle of booting through the same BMC.
    fn other_at(&self, row: &Row, bmc: &str) -> Result<Option<String>, Stop> {
        let open = self.inner.all_open()?;
        let others = open
            .into_iter()
            .filter(|boot| boot.machine != row.boot.machine && boot.state == State::Running && boot.attempt.is_some());
        for other in others {
            let settings = self.inner.settings(&other.machine);
            if settings.is_ok_and(|s| s.endpoint.is_ok_and(|endpoint| gate::authority(&endpoint) == bmc)) {
                return Ok(Some(other.machine_name));
            }
        }
        Ok(None)
    }

    /// Until the BMC answers again.
    async fn after_reset(&self, row: &mut Row) -> Result<Outcome, Stop> {
        let now = self.inner.now_ms();
        if row.boot.asked_ms.is_none() {
            row.boot.asked_ms = Some(now);
            let endpoint = self.settings(row)?.endpoint.map_err(Stop::Settings)?;
            // It still answers for a moment before it goes down.
            self.note(
                row,
                row.boot.phase,
                "recovery: waiting for the BMC to come back from its reset",
            );
            let quiet = self.inner.timing.poll() * 5;
            self.inner.gate.keep_away(&gate::authority(&endpoint), quiet);
            return Ok(Outcome::Stay(quiet));
        }
        match self.power(row).await? {
            PowerState::Unknown => Ok(self.deaf_after_reset(row)),
            _ => {
                let seconds = row.boot.asked_ms.map_or(0, |asked| now.saturating_sub(asked) / 1000);
                Ok(self.taken(row, "reset", &format!("BMC reset, back after {seconds} s")))
            }
        }
    }

    fn deaf_after_reset(&self, row: &mut Row) -> Outcome {
        let asked = row.boot.asked_ms.unwrap_or(row.boot.step_ms);
        if self.inner.now_ms() < asked + millis(self.inner.timing.reset()) {
            return Outcome::Stay((self.inner.timing.poll() * 5).max(Duration::from_millis(100)));
        }
        self.mark(row, "reset", "BMC reset; it did not come back");
        self.go_on(row)
    }
}

/// What everybody who listens is told of a rung.
pub(super) fn event(row: &Row) -> Option<Event> {
    let new = row.boot.rungs.len() > row.stored.rungs.len();
    let last = row.boot.rungs.last().filter(|_| new)?;
    let told = serde_json::json!({
        "Machine": row.boot.machine, "Boot": row.boot.id, "Step": last.step, "Rung": last.rung, "Outcome": last.outcome,
    });
    Some(Event {
        kind: "boots".to_owned(),
        action: "recovery".to_owned(),
        key: row.boot.machine.clone(),
        principal: "system".to_owned(),
        object: Some(told.to_string().into()),
        original: None,
    })
}
