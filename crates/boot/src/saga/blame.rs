//! What the operator is told when a boot ends without the machine: the reason, and what to look at.

use std::net::IpAddr;
use std::time::Duration;

use isobar_bmc::BmcError;
use isobar_bmc::redfish::same_image;

use super::{Outcome, Saga, Stop, http_boot, time_of};
use crate::evidence::{Phase, Reading};
use crate::gate::{Answer, Verb};
use crate::reason::{Reason, worth_retrying};
use crate::record::{Attempt, Row};
use crate::settings::param;
use crate::verdict::{self, Facts};

/// The BMC says "inserted", and nobody reads.
const NEVER_READ: &str = "image-never-read";

impl Saga {
    /// BMCs have lost power commands: one that had no effect inside its deadline is sent once more. What it asks for
    /// is not there yet, so that it cannot undo anything.
    pub(super) fn again_or_stuck(&self, row: &mut Row, wanted: &str) -> Outcome {
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

    pub(super) fn power_stuck(&self, row: &Row, wanted: &str) -> Reason {
        Reason::new(
            "power-stuck",
            format!(
                "{} took the power command, but the machine is not {wanted}",
                self.bmc_name(row)
            ),
            "look at the machine's console and the BMC's event log; it may want a BMC reset",
        )
    }

    /// A boot that got nowhere, because what it was to boot from is not there any more.
    async fn lost_medium(
        &self,
        row: &mut Row,
        attempt: &Attempt,
        reading: &Reading,
    ) -> Result<Option<Reason>, Duration> {
        if attempt.http_boot {
            return Ok(None);
        }
        let Ok(url) = self.inner.image_url(attempt) else {
            return Ok(None);
        };
        let Some(Answer::Media(media)) = self.asked(row, Verb::Media).await? else {
            return Ok(None);
        };
        let shows = match media.image.filter(|_| media.inserted) {
            _ if !media.inserted => "its virtual CD is empty",
            Some(image) if !same_image(&image, &url) => "another image is in its virtual CD",
            _ => return Ok(None),
        };
        Ok(Some(Reason::new(
            "media-lost",
            format!(
                "{} has lost the image: {shows} ({})",
                self.bmc_name(row),
                reading.detail
            ),
            "a BMC reset or another user's session takes media out, the BMC's event log tells; set the bootenv again",
        )))
    }

    /// What the BMC says, for a verdict; none: it does not say. Where it cannot say it just now, when to ask again: the
    /// machine is not coming any more, so that the verdict can wait for a better one.
    async fn asked(&self, row: &mut Row, verb: Verb) -> Result<Option<Answer>, Duration> {
        match self.look(row, verb).await {
            Ok(answer) => Ok(Some(answer)),
            Err(Stop::Bmc(error)) if worth_retrying(&error) && row.boot.tries + 1 < self.inner.timing.tries => {
                row.boot.tries += 1;
                Err(self.inner.timing.backoff(row.boot.tries, Duration::from_secs(10)))
            }
            Err(_) => Ok(None),
        }
    }

    /// The verdict on a boot that got nowhere, with what the BMC says of the medium and of the machine; `given` where nothing
    /// more exact is known. An error: when to ask the BMC again.
    pub(super) async fn explained(
        &self,
        row: &mut Row,
        attempt: &Attempt,
        reading: &Reading,
        given: Reason,
    ) -> Result<Reason, Duration> {
        if let Some(lost) = self.lost_medium(row, attempt, reading).await? {
            return Ok(lost);
        }
        let host = match self.asked(row, Verb::Host).await? {
            Some(Answer::Host(host)) => Some(host),
            _ => None,
        };
        let Ok(reads) = self.inner.follow(attempt) else {
            return Ok(given);
        };
        let bmc = self.bmc_name(row);
        let by_http = attempt.http_boot;
        let facts = Facts {
            machine: &row.boot.machine_name,
            bmc: &bmc,
            authority: place(row, attempt),
            touched: reads.touched(),
            elsewhere: row.boot.elsewhere,
            knock: self
                .inner
                .book
                .knock_of(&attempt.readers(), time_of(attempt.created_ms)),
            host: host.as_ref(),
            detail: &reading.detail,
        };
        Ok(match given.reason.as_str() {
            NEVER_READ if by_http && !host.as_ref().is_some_and(verdict::in_post) => match row.boot.refused {
                Some(reader) => Reason {
                    hint: refused_hint(reader, attempt),
                    ..given
                },
                None => http_boot::never_read(&facts),
            },
            NEVER_READ => {
                let mut reason = verdict::never_read(&facts);
                if let Some(reader) = row.boot.refused {
                    reason = Reason {
                        hint: refused_hint(reader, attempt),
                        ..given
                    };
                }
                reason
            }
            // The parts of a download tell nothing of what it is for.
            _ if by_http => given,
            _ => verdict::stopped(&facts).unwrap_or(given),
        })
    }

    pub(super) fn never_read(&self, row: &Row, attempt: &Attempt) -> Reason {
        let machine = &row.boot.machine_name;
        let text = match attempt.http_boot {
            true => format!("{machine} is set to UEFI HTTP boot, but nobody has read the image"),
            false => format!(
                "{} says that the image is inserted, but nobody has read it",
                self.bmc_name(row)
            ),
        };
        Reason::new("image-never-read", text, "")
    }

    pub(super) fn nothing_read(&self, attempt: &Attempt) -> bool {
        let reads = self.inner.follow(attempt);
        reads.is_ok_and(|reads| reads.now(self.inner.now()).first.is_none())
    }

    /// The BMC said no to the insert. What it could not fetch, it says in many ways or not at all.
    pub(super) fn insert_refused(&self, row: &mut Row, error: &BmcError) -> Reason {
        let mut reason = Reason::of_bmc(error);
        let Ok(attempt) = self.attempt(row) else { return reason };
        self.strangers(row, &attempt);
        let more = match row.boot.refused {
            Some(reader) => refused_hint(reader, &attempt),
            None if error.may_lack_route() && self.nothing_read(&attempt) => format!(
                "the BMC has asked for nothing: check that it can reach {} (route, VLAN, firewall), or set \
                 boot-virtual-iso-url to an address that it can",
                place(row, &attempt)
            ),
            None => return reason,
        };
        reason.hint = format!("{more}; {}", reason.hint);
        reason
    }

    pub(super) fn not_booted_from_cd(&self, row: &Row) -> Reason {
        Reason::new(
            "not-booted-from-cd",
            format!(
                "{} is on, but has not read its virtual CD since: it booted from something else",
                row.boot.machine_name
            ),
            "look at the machine's console and boot order; some firmware wants virtual media enabled as a boot device",
        )
    }

    pub(super) fn read_stalled(&self, row: &Row, detail: &str) -> Reason {
        Reason::new(
            "read-stalled",
            format!("{}: reading the image stopped: {detail}", row.boot.machine_name),
            "look at the machine's console; a slow or broken link between BMC and isobar shows here too",
        )
    }

    pub(super) fn agent_silent(&self, row: &Row, attempt: &Attempt, reading: &Reading) -> Reason {
        let agent = format!(
            "look at the machine's console for `isobar: agent:`; check network-data (interface, address, VLAN) and that \
             the machine can reach {} (else set {})",
            attempt.api,
            param::SERVER_FOR_MACHINE
        );
        let (machine, detail) = (&row.boot.machine_name, &reading.detail);
        if attempt.http_boot {
            return http_boot::silent(machine, place(row, attempt), reading, agent);
        }
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

/// Where the BMC was told to fetch the image.
fn place<'a>(row: &'a Row, attempt: &'a Attempt) -> &'a str {
    row.boot.image_at.as_deref().unwrap_or(&attempt.authority)
}

/// Why the BMC's own reads may have been refused.
fn refused_hint(reader: IpAddr, attempt: &Attempt) -> String {
    if attempt.http_boot {
        return format!(
            "{reader} asked for the image and was refused: if that is the machine's firmware, add its network to {}",
            param::IMAGE_PEERS
        );
    }
    format!(
        "{reader} asked for the image and was refused, because only the BMC ({}) may read it: if it reads from there (NAT, a \
         second address), add it to {}, or set {} to false",
        listed(&attempt.bmc_ips),
        param::IMAGE_PEERS,
        param::STRICT
    )
}

pub(super) fn listed(addresses: &[IpAddr]) -> String {
    let texts: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    texts.join(", ")
}
