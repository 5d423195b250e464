//! Shadow mode: the steps of a boot as far as they read, and what each would send.

use std::sync::Arc;

use isobar_bmc::{BootTarget, ErrorClass, PowerAction, PowerState};

use super::{Outcome, Saga, Stop};
use crate::evidence::Phase;
use crate::gate::{Answer, Verb};
use crate::record::Row;
use crate::state::lock;

impl Saga {
    /// Every exchange of a boot with this BMC, without what would change it: that ends in [`ErrorClass::Shadow`], any
    /// other error ends the rehearsal as it would end the boot.
    pub(super) async fn rehearse(&self, row: &mut Row) -> Result<Outcome, Stop> {
        let inner = Arc::clone(&self.inner);
        let power = self.power(row).await?;
        let media = match self.attempt(row)?.http_boot {
            true => false,
            false => match self.look(row, Verb::Media).await {
                Ok(Answer::Media(media)) => media.inserted,
                Err(Stop::Bmc(error)) if error.class == ErrorClass::Unsupported => {
                    self.without_media(row, error).await?;
                    false
                }
                other => {
                    other?;
                    return Ok(Outcome::Done);
                }
            },
        };
        let addresses = lock(&self.exchanges.addresses).clone();
        let attempt = self.attempt(row)?;
        let attempt = inner.place(attempt, &addresses).await.map_err(Stop::Settings)?;
        let mut verbs = Vec::new();
        if power != PowerState::Off && !row.boot.leave_power {
            verbs.push(Verb::Power(PowerAction::ForceOff));
        }
        if media {
            verbs.push(Verb::Eject);
        }
        match attempt.http_boot {
            true => verbs.push(Verb::BootHttp(inner.http_boot_url(&attempt).map_err(Stop::Settings)?)),
            false => {
                let urls = inner.image_urls(&attempt).map_err(Stop::Settings)?;
                verbs.extend([Verb::Insert(urls), Verb::BootOnce(BootTarget::Cd)]);
            }
        }
        if power == PowerState::Off || !row.boot.leave_power {
            verbs.push(Verb::Power(PowerAction::On));
        }
        row.boot.would_send.clear();
        for verb in verbs {
            let name = verb.name();
            let would = match self.look(row, verb).await {
                Err(Stop::Bmc(error)) if error.class == ErrorClass::Shadow => error.message,
                Err(other) => return Err(other),
                // As it is, there is nothing to change: on a machine that is on, the last of them.
                Ok(_) => "nothing to send as the BMC is now".to_owned(),
            };
            row.boot.would_send.push(format!("{name}: {would}"));
        }
        let ending = inner.live_attempts(&row.boot.machine, None)?;
        let ending: Vec<_> = ending.into_iter().filter(|own| own.id == attempt.id).collect();
        inner.end_attempts(&row.boot.machine, &ending).await?;
        let on = match power {
            PowerState::Off => "off",
            _ if row.boot.leave_power => "on, and its power is the operator's",
            _ => "on: it would be shut down first",
        };
        self.note(
            row,
            Phase::Planned,
            &format!("shadow mode: it would boot; nothing was sent; the machine is {on}"),
        );
        Ok(Outcome::Done)
    }
}
