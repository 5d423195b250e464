//! What is seen after the machine was handed over: reads, the agent, silence.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use isobar_bmc::{PowerState, Recorder};

use super::{Outcome, SETTLE, Saga, Stop, time_of};
use crate::evidence::{Phase, Reading, bytes};
use crate::gate::{Caller, Rank, Verb};
use crate::reason::worth_retrying;
use crate::record::{Attempt, Row, Way, ms_of};
use crate::state::lock;

impl Saga {
    /// Follows the reads until the agent is up, or a verdict is due.
    pub(super) async fn await_agent(&mut self, row: &mut Row) -> Result<Outcome, Stop> {
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
        // Who is heard from an older attempt has not rebooted: the answer that told it to was lost in a restart.
        if row.boot.way == Some(Way::Agent)
            && let Some(agent) = inner.agents.live(&row.boot.machine, inner.uptime())
            && agent.attempt != attempt.id
        {
            inner.agents.order_reboot(&row.boot.machine, &attempt.id);
        }
        self.strangers(row, &attempt);
        reads.powered_on(time_of(handed_over));
        let mut seen = reads.now(inner.now());
        // What was read before this server was started is known from the row alone.
        let before_start =
            seen.progress.is_none() && attempt.first_read_ms.is_some() && seen.reading.phase < row.boot.phase;
        if before_start {
            let last = row.boot.log.last().map_or("", |line| line.text.as_str());
            seen.reading = Reading {
                phase: row.boot.phase,
                detail: format!("{last}; nothing has been read since the server was started anew"),
                ..seen.reading
            };
        }
        if let Some(first) = seen.first
            && attempt.first_read_ms.is_none()
        {
            inner.first_read(&attempt, first, seen.elsewhere).await?;
        }
        // While nothing is read, what the BMC says is all that is known.
        if seen.reading.percent.is_none() && [Phase::Firmware, Phase::Copied].contains(&seen.reading.phase) {
            self.look_at_progress(row);
        }
        let detail = match (seen.rate_bps, seen.reading.left) {
            (Some(rate), Some(left)) if rate > 0.0 && left > 0 => format!(
                "{}, {}/s, {:.0} s left",
                seen.reading.detail,
                bytes(rate as u64),
                (left as f64 / rate).ceil()
            ),
            _ => match &row.boot.boot_progress {
                Some(progress) if seen.reading.phase == Phase::Firmware => {
                    format!("{}; the BMC says {progress}", seen.reading.detail)
                }
                _ => seen.reading.detail.clone(),
            },
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
            Some(_) if !attempt.http_boot && !seen.after_power_on && seen.reading.phase != Phase::Copied => {
                (since(handed_over) > timing.first_read()).then(|| self.not_booted_from_cd(row))
            }
            _ if seen.reading.stalled_for.is_some_and(|quiet| quiet > timing.stalled()) => {
                Some(self.read_stalled(row, &seen.reading.detail))
            }
            progress => {
                let quiet_since = progress.map_or(handed_over, ms_of).max(handed_over);
                (since(quiet_since) > timing.agent()).then(|| match seen.reading.phase {
                    Phase::Kernel | Phase::Initrd if before_start => self.read_stalled(row, &seen.reading.detail),
                    _ => self.agent_silent(row, &attempt, &seen.reading),
                })
            }
        };
        Ok(match verdict {
            None => Outcome::Stay(Duration::from_secs(1)),
            Some(reason) if seen.reading.phase == Phase::KernelStarted => Outcome::Fail(reason),
            Some(reason) => match self.explained(row, &attempt, &seen.reading, reason).await {
                Ok(reason) => Outcome::Fail(reason),
                Err(pause) => Outcome::Stay(pause),
            },
        })
    }

    pub(super) fn take_progress(&self, row: &mut Row) {
        if let Some(progress) = lock(&self.exchanges.progress).clone() {
            row.boot.boot_progress = Some(progress);
        }
    }

    /// Of a BMC that has said so once; nobody waits for it, and whoever else wants the BMC goes first.
    fn look_at_progress(&mut self, row: &mut Row) {
        self.take_progress(row);
        let (now, pause) = (self.inner.uptime(), self.inner.timing.poll() * 10);
        let due = self.looked.is_none_or(|last| now.saturating_sub(last) >= pause);
        if row.boot.boot_progress.is_none() || !due || self.exchanges.looking.swap(true, Ordering::AcqRel) {
            return;
        }
        self.looked = Some(now);
        let (inner, seen, boot) = (
            Arc::clone(&self.inner),
            Arc::clone(&self.exchanges),
            row.boot.id.clone(),
        );
        let settings = self.settings(row);
        self.inner.runtime.spawn(async move {
            if let Ok(settings) = settings
                && let Ok(endpoint) = &settings.endpoint
                && inner.gate.left_alone(endpoint).is_none()
            {
                let caller = Caller {
                    endpoint,
                    site: settings.site.as_deref(),
                    who: &boot,
                    rank: Rank::Idle,
                };
                let recorder = Arc::clone(&seen) as Arc<dyn Recorder>;
                if let Err(error) = inner.gate.exchange(caller, recorder, &Verb::PowerState).await {
                    tracing::debug!(boot, %error, "how far the machine has come");
                }
            }
            seen.looking.store(false, Ordering::Release);
        });
    }

    /// Writes into the history what the reads say, the phases between that went by unseen as well.
    pub(super) fn catch_up(&self, row: &mut Row, reading: &Reading) {
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

    pub(super) async fn await_operator(&self, row: &mut Row, attempt: &Attempt) -> Result<Outcome, Stop> {
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
    pub(super) async fn settle(&self, row: &mut Row) -> Result<Outcome, Stop> {
        self.note(row, Phase::AgentUp, "agent is up");
        match self.change(row, clearing([&self.attempt(row)?])).await {
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
            // The agent is up: no reason to fail.
            Err(Stop::LeftAlone(left)) => {
                row.boot.tries += 1;
                if row.boot.tries < self.inner.timing.tries {
                    return Ok(Outcome::Stay(left));
                }
            }
            Err(other) => return Err(other),
        }
        Ok(Outcome::Done)
    }
}

/// What a boot by these attempts has set, and how it is removed.
pub(super) fn clearing<'a>(attempts: impl IntoIterator<Item = &'a Attempt>) -> Verb {
    match attempts.into_iter().any(|attempt| attempt.http_boot) {
        true => Verb::ClearHttpBoot,
        false => Verb::ClearOverride,
    }
}

fn phase_began(phase: Phase) -> &'static str {
    match phase {
        Phase::Firmware => "the firmware is downloading the image",
        Phase::Grub => "GRUB has read its configuration",
        Phase::Kernel => "GRUB is reading the kernel",
        Phase::Initrd => "GRUB is reading the initrd",
        _ => "going on",
    }
}
