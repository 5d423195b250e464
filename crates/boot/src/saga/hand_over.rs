//! From the decision who reboots the machine to power on: what changes the BMC.

use std::time::Duration;

use isobar_bmc::redfish::same_image;
use isobar_bmc::{BootTarget, ErrorClass, PowerAction, PowerState};

use super::blame::listed;
use super::{ASK_AGENT, AWAIT, BOOT_ONCE, EJECT, HTTP_BOOT, INSERT, Order, Outcome, SHUT_DOWN, Saga, Stop, millis};
use crate::evidence::{Phase, bytes};
use crate::gate::{Answer, Verb};
use crate::record::{Attempt, POWER_ON, Row, Way};
use crate::state::lock;

impl Saga {
    /// Who reboots the machine.
    pub(super) async fn decide(&self, row: &mut Row) -> Result<Outcome, Stop> {
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
        if power == PowerState::Off {
            self.inner.agents.forget(&machine);
            return Ok(Outcome::Next(EJECT));
        }
        Ok(Outcome::Next(if way == Way::Power { SHUT_DOWN } else { EJECT }))
    }

    /// Graceful shutdown with a deadline, then the power is cut, and it is seen to be off.
    pub(super) async fn shut_down(&self, row: &mut Row) -> Result<Outcome, Stop> {
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

    pub(super) async fn eject(&self, row: &mut Row) -> Result<Outcome, Stop> {
        let by_http = self.attempt(row)?.http_boot;
        if !by_http && row.boot.way == Some(Way::Operator) && self.foreign_root_may_be_mounted(row).await? {
            self.note(
                row,
                Phase::Planned,
                "waiting for the machine to be off: another image is in its virtual CD",
            );
            return Ok(Outcome::Stay(self.inner.timing.poll() * 5));
        }
        let ending = self
            .inner
            .live_attempts(&row.boot.machine, row.boot.attempt.as_deref())?;
        let mut next = if by_http { HTTP_BOOT } else { INSERT };
        // Of our own, what an earlier boot has left.
        if !by_http || ending.iter().any(|attempt| !attempt.http_boot) {
            self.note(row, Phase::Ejecting, "ejecting what is in the virtual CD");
            match self.change(row, Verb::Eject).await {
                Err(Stop::Bmc(error)) if error.class == ErrorClass::Unsupported => {
                    next = self.without_media(row, error).await?;
                }
                other => drop(other?),
            }
        }
        self.inner.end_attempts(&row.boot.machine, &ending).await?;
        Ok(Outcome::Next(next))
    }

    pub(super) async fn insert(&self, row: &mut Row) -> Result<Outcome, Stop> {
        let attempt = self.placed(row).await?;
        let urls = self.inner.image_urls(&attempt).map_err(Stop::Settings)?;
        // Some BMCs read while they insert: the observer is there before the command is.
        let reads = self.inner.follow(&attempt).map_err(Stop::Settings)?;
        if row.boot.inserted {
            // An earlier try or process may have got through.
            if let Answer::Media(media) = self.look(row, Verb::Media).await?
                && media.inserted
                && media
                    .image
                    .as_deref()
                    .is_some_and(|image| urls.iter().any(|url| same_image(image, url)))
            {
                self.note(row, Phase::Inserted, &reads.now(self.inner.now()).reading.detail);
                return Ok(Outcome::Next(BOOT_ONCE));
            }
        }
        row.boot.inserted = true;
        row.boot.image_at = Some(urls.iter().map(|url| place_of(url)).collect::<Vec<_>>().join(" or "));
        self.note(row, Phase::Inserting, "inserting the image");
        let id = row.boot.id.clone();
        let answer = {
            let mut inserting = std::pin::pin!(self.change(row, Verb::Insert(urls.clone())));
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
        self.inner.show_no_more(&id);
        // Whether what it shows is ours, the BMC's own reading back has judged.
        let answer = match answer {
            Err(Stop::Bmc(error)) if error.class == ErrorClass::Unsupported => {
                return Ok(Outcome::Next(self.without_media(row, error).await?));
            }
            other => other?,
        };
        row.boot.image_at = match answer {
            Answer::Media(media) => taken(&urls, media.image.as_deref()),
            _ => None,
        };
        self.note(row, Phase::Inserted, &reads.now(self.inner.now()).reading.detail);
        Ok(Outcome::Next(BOOT_ONCE))
    }

    /// The attempt, with the addresses at which this process has reached the BMC: only there is a name of a BMC worth
    /// anything.
    pub(super) async fn placed(&self, row: &mut Row) -> Result<Attempt, Stop> {
        if lock(&self.exchanges.addresses).is_empty() {
            self.power(row).await?;
        }
        let addresses = lock(&self.exchanges.addresses).clone();
        let placed = self.inner.place(self.attempt(row)?, &addresses).await;
        placed.map_err(Stop::Settings)
    }

    /// Tells of readers that are not the BMC.
    pub(super) fn strangers(&self, row: &mut Row, attempt: &Attempt) {
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

    pub(super) async fn boot_once(&self, row: &mut Row) -> Result<Outcome, Stop> {
        row.boot.override_set = true;
        self.note(row, Phase::BootOnce, "setting one-time boot from the virtual CD");
        self.change(row, Verb::BootOnce(BootTarget::Cd)).await?;
        Ok(Outcome::Next(reboot_by(row.boot.way)))
    }

    pub(super) async fn power_on(&self, row: &mut Row) -> Result<Outcome, Stop> {
        let timing = &self.inner.timing;
        let now = self.inner.now_ms();
        let asked = row.boot.asked_ms;
        // What is on already the command does not touch; so nobody has to look before it.
        if asked.is_some() && self.power(row).await? == PowerState::On {
            self.handed_over(row, Phase::Firmware, "machine is on");
            return Ok(Outcome::Next(AWAIT));
        }
        match asked {
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

    pub(super) async fn ask_agent(&mut self, row: &mut Row) -> Result<Outcome, Stop> {
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
}

/// The step that gets the machine to boot what is set.
pub(super) fn reboot_by(way: Option<Way>) -> &'static str {
    match way {
        Some(Way::Agent) => ASK_AGENT,
        Some(Way::Operator) => AWAIT,
        Some(Way::Power) | None => POWER_ON,
    }
}

/// Scheme, host and port of an image's URL, without its secret.
pub(super) fn place_of(url: &str) -> &str {
    url.rsplitn(3, '/').nth(2).unwrap_or_default()
}

/// Where the image is fetched from, by what the BMC shows of it.
fn taken(urls: &[String], shown: Option<&str>) -> Option<String> {
    let of_scheme = |shown: &str| {
        let (scheme, _) = shown.split_once("://")?;
        urls.iter().find(|url| {
            url.split_once("://")
                .is_some_and(|(of, _)| of.eq_ignore_ascii_case(scheme))
        })
    };
    let only = urls.first().filter(|_| urls.len() == 1);
    only.or_else(|| shown.and_then(of_scheme))
        .map(|url| place_of(url).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_is_the_one_that_the_bmc_shows() {
        let urls = ["http://h:8091/t/boot.iso", "https://h/t/boot.iso", "nfs://h/t/boot.iso"].map(str::to_owned);
        assert_eq!(taken(&urls, Some("https://h/t/boot.iso")).as_deref(), Some("https://h"));
        assert_eq!(taken(&urls, Some("NFS://h/x")).as_deref(), Some("nfs://h"));
        assert_eq!(taken(&urls, Some("h:/t/boot.iso")), None);
        assert_eq!(taken(&urls[..1], None).as_deref(), Some("http://h:8091"));
    }
}
