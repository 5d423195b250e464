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

/// How often a step is tried: after a rung of the ladder twice, which shows whether it has helped.
pub(super) fn tries(usual: u32, taken: &[RungTaken], step: &str) -> u32 {
    match taken.iter().any(|taken| taken.step == step) {
        true => usual.min(2),
        false => usual,
    }
}

/// The mildest rung that is allowed, may help this step against such a failure, and was not taken before.
fn next_rung(allowed: &[String], taken: &[RungTaken], step: &str, class: ErrorClass) -> Option<&'static Rung> {
    let was_taken = |rung: &Rung| {
        let mut before = taken.iter().filter(|taken| taken.rung == rung.name);
        before.any(|taken| rung.once || taken.step == step)
    };
    LADDER.iter().find(|rung| {
        allowed.iter().any(|name| name == rung.name)
            && rung.of.contains(&step)
            && rung.against.contains(&class)
            && !was_taken(rung)
    })
}

impl Saga {
    /// The next rung that may be taken and may help; none: the boot gives up.
    pub(super) fn climb(&self, row: &mut Row, why: &Recovering) -> Option<Outcome> {
        let allowed = self.settings(row).ok()?.rungs;
        let next = next_rung(&allowed, &row.boot.rungs, &why.step, why.class)?;
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
                let outcome = match self.once(row, Verb::Eject).await? {
                    Some(_) => "ejected in all places",
                    None => "ejected in all places, as far as is known: the server ended in the middle of it",
                };
                Ok(self.taken(row, "eject", outcome))
            }
            BY_SESSIONS => {
                self.note(row, row.boot.phase, "recovery: ending our sessions on the BMC");
                let outcome = match self.once(row, Verb::ClearSessions).await? {
                    Some(Answer::Cleared(ended)) => format!("{ended} sessions ended"),
                    _ => "sessions ended; how many is not known: the server ended in the middle of it".to_owned(),
                };
                Ok(self.taken(row, "sessions", &outcome))
            }
            BY_POST => self.wait_out_post(row).await,
            BY_RESET => self.reset(row).await,
            _ => self.after_reset(row).await,
        }
    }

    /// Sends what a rung does. None: an earlier process may have sent it, and so it counts as taken.
    async fn once(&self, row: &mut Row, verb: Verb) -> Result<Option<Answer>, Stop> {
        if row.boot.asked_ms.is_some() {
            return Ok(None);
        }
        // On disk together with the intent.
        row.boot.asked_ms = Some(self.inner.now_ms());
        let sent = self.change(row, verb).await;
        if sent.is_err() {
            row.boot.asked_ms = None;
        }
        sent.map(Some)
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
        let last = self.inner.gate.bmcs.resetting(&bmc, Some(now)).await;
        let sent = self.once(row, Verb::ResetBmc).await;
        // Not sent: no pause begins with it.
        if matches!(
            sent,
            Err(Stop::LeftAlone(_) | Stop::Locked | Stop::Settings(_) | Stop::Changed)
        ) {
            self.inner.gate.bmcs.resetting(&bmc, last).await;
        }
        sent.map(|_| Outcome::Next(AFTER_RESET))
    }

    /// Another machine that is in the middle of booting through the same BMC.
    pub(super) fn other_at(&self, row: &Row, bmc: &str) -> Result<Option<String>, Stop> {
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
        // It still answers for a moment before it goes down.
        let quiet = self.inner.timing.poll() * 5;
        let asked = *row.boot.asked_ms.get_or_insert(now);
        let left = (asked + millis(quiet)).saturating_sub(now);
        if left > 0 {
            let endpoint = self.settings(row)?.endpoint.map_err(Stop::Settings)?;
            self.note(
                row,
                row.boot.phase,
                "recovery: waiting for the BMC to come back from its reset",
            );
            let left = Duration::from_millis(left);
            self.inner.gate.keep_away(&gate::authority(&endpoint), left);
            return Ok(Outcome::Stay(left));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn all_taken(taken: &[(&str, &str)]) -> Vec<RungTaken> {
        let each = taken.iter().map(|&(rung, step)| RungTaken {
            rung: rung.to_owned(),
            step: step.to_owned(),
            at: String::new(),
            outcome: String::new(),
        });
        each.collect()
    }

    fn climbs(allowed: &[&str], taken: &[(&str, &str)], step: &str, class: ErrorClass) -> &'static str {
        let allowed: Vec<String> = allowed.iter().map(|&name| name.to_owned()).collect();
        next_rung(&allowed, &all_taken(taken), step, class).map_or("none", |rung| rung.name)
    }

    #[test]
    fn after_a_rung_its_step_is_tried_twice_and_others_as_usual() {
        let taken = all_taken(&[("eject", INSERT)]);
        assert_eq!([INSERT, BOOT_ONCE].map(|step| tries(4, &taken, step)), [2, 4]);
        assert_eq!(tries(1, &taken, INSERT), 1);
        assert_eq!(tries(4, &[], INSERT), 4);
    }

    const ALL: [&str; 4] = ["eject", "sessions", "post", "reset"];

    #[test]
    fn a_rung_is_taken_once_a_boot_or_once_a_step() {
        let mut taken = Vec::new();
        for (step, rungs) in [
            (INSERT, &ALL[..]),
            // What is once a boot is over; the self-test of this step is another matter.
            (BOOT_ONCE, &["post"]),
            (POWER_ON, &[]),
        ] {
            for rung in rungs {
                assert_eq!(climbs(&ALL, &taken, step, Busy), *rung, "{step} after {taken:?}");
                taken.push((rung, step));
            }
            assert_eq!(climbs(&ALL, &taken, step, Busy), "none", "{step} after {taken:?}");
        }
    }

    #[test]
    fn a_rung_is_taken_for_what_it_may_help() {
        let insert = [
            (Busy, "eject sessions post reset"),
            (Failing, "eject sessions post reset"),
            (Timeout, "eject reset"),
            (NotMounted, "eject reset"),
            (Protocol, "reset"),
            (ErrorClass::Auth, ""),
            (ErrorClass::Refused, ""),
            (ErrorClass::Unsupported, ""),
        ];
        let cases = insert.map(|(class, rungs)| (INSERT, class, rungs)).into_iter().chain([
            (BOOT_ONCE, Failing, "sessions post reset"),
            (HTTP_BOOT, Timeout, "reset"),
            (POWER_ON, Failing, "sessions"),
            (POWER_ON, Timeout, ""),
            (super::super::AWAIT, Failing, ""),
        ]);
        for (step, class, rungs) in cases {
            let mut taken = Vec::new();
            for _ in 0..2 * ALL.len() {
                match climbs(&ALL, &taken, step, class) {
                    "none" => break,
                    rung => taken.push((rung, step)),
                }
            }
            let names: Vec<&str> = taken.iter().map(|(rung, _)| *rung).collect();
            assert_eq!(names.join(" "), rungs, "{step} {class:?}");
        }
        assert_eq!(climbs(&["post"], &[], INSERT, Busy), "post", "others are not allowed");
    }
}
