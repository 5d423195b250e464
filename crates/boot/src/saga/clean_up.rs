//! The medium out and the one-time boot cleared, when that is safe and the BMC answers.

use isobar_bmc::{ErrorClass, PowerState};

use super::watch::clearing;
use super::{LOGIN_OWED, Outcome, Saga, Stop};
use crate::evidence::Phase;
use crate::gate::{Answer, Verb};
use crate::reason::worth_retrying;
use crate::record::{Attempt, Row};

impl Saga {
    /// Media out and override cleared, when that is safe; nothing is rebooted.
    pub(super) async fn release(&self, row: &mut Row) -> Result<Outcome, Stop> {
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
    pub(super) async fn clean_up(&self, row: &mut Row) -> Result<Outcome, Stop> {
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
    pub(super) fn login_refused(&self, row: &mut Row) -> Result<Option<Outcome>, Stop> {
        let endpoint = self.settings(row)?.endpoint.map_err(Stop::Settings)?;
        Ok(self.inner.gate.login_refused(&endpoint).then(|| {
            LOGIN_OWED.clone_into(&mut row.boot.detail);
            Outcome::Stay(self.inner.timing.cleanup())
        }))
    }

    pub(super) async fn take_out(&self, row: &mut Row) -> Result<(), Stop> {
        let ending = self.inner.live_attempts(&row.boot.machine, None)?;
        let by_http = |attempt: &Attempt| attempt.http_boot;
        if !ending.is_empty() && ending.iter().all(by_http) && !row.boot.inserted {
            // The virtual CD was not ours.
        } else if self.foreign_image(row).await? {
            self.note(
                row,
                Phase::Ejecting,
                "another image is in the virtual CD: it is left alone",
            );
        } else {
            match self.change(row, Verb::Eject).await {
                // It has no virtual CD.
                Err(Stop::Bmc(error)) if error.class == ErrorClass::Unsupported && ending.iter().any(by_http) => {}
                other => drop(other?),
            }
        }
        row.boot.inserted = false;
        self.inner.end_attempts(&row.boot.machine, &ending).await?;
        match self.change(row, clearing(&ending)).await {
            Err(Stop::Bmc(error)) if !worth_retrying(&error) => {
                tracing::warn!(machine = row.boot.machine_name, %error, "the one-time boot could not be cleared");
            }
            other => drop(other?),
        }
        row.boot.override_set = false;
        Ok(())
    }

    /// Nothing is ejected under a root that lives on the medium, or in the middle of a boot's reads.
    pub(super) async fn unsafe_to_eject(&self, row: &mut Row) -> Result<Option<&'static str>, Stop> {
        let live = self.inner.agents.live(&row.boot.machine, self.inner.uptime());
        if live.is_some_and(|agent| agent.root_in_memory) || self.inner.reads_quiet(&row.boot.machine)? {
            return Ok(None);
        }
        Ok(match self.power(row).await? {
            PowerState::Off => None,
            _ => Some("the machine is off or has stopped reading"),
        })
    }

    pub(super) async fn foreign_root_may_be_mounted(&self, row: &mut Row) -> Result<bool, Stop> {
        Ok(self.foreign_image(row).await? && self.power(row).await? != PowerState::Off)
    }

    /// Whether somebody else's image is in the virtual CD.
    pub(super) async fn foreign_image(&self, row: &mut Row) -> Result<bool, Stop> {
        let media = match self.look(row, Verb::Media).await {
            Ok(Answer::Media(media)) => media,
            Ok(_) => return Ok(false),
            // It has no virtual CD.
            Err(Stop::Bmc(error)) if error.class == ErrorClass::Unsupported => return Ok(false),
            Err(other) => return Err(other),
        };
        match media.image.filter(|_| media.inserted) {
            Some(image) => Ok(self.inner.attempt_of_url(&image)?.is_none()),
            None => Ok(false),
        }
    }
}
