//! UEFI HTTP boot: the machine's firmware downloads the image into memory, and the BMC only tells it from where.

use isobar_bmc::{BmcError, ErrorClass};

use super::hand_over::{place_of, reboot_by};
use super::{HTTP_BOOT, INSERT, Outcome, Saga, Stop};
use crate::evidence::{Phase, Reading};
use crate::gate::Verb;
use crate::reason::Reason;
use crate::record::{Attempt, Recovering, Row};
use crate::settings::{Method, param};
use crate::verdict::Facts;

impl Saga {
    /// The BMC has no virtual media. The step that goes on without, unless the operator wants nothing else.
    pub(super) async fn without_media(&self, row: &mut Row, error: BmcError) -> Result<&'static str, Stop> {
        if self.attempt(row)?.http_boot {
            return Ok(HTTP_BOOT);
        }
        if self.settings(row)?.method != Method::Auto {
            return Err(Stop::Bmc(error));
        }
        let place = self.inner.place_for_machine(&row.boot.machine).await;
        let place = place.map_err(Stop::Settings)?;
        let id = row.boot.attempt.clone().unwrap_or_default();
        let change = |attempt: &mut Attempt| {
            attempt.http_boot = true;
            attempt.by_route = false;
            attempt.authority.clone_from(&place);
        };
        self.inner.update_attempt(&id, change).await?;
        // Nothing can be in what is not there.
        row.boot.inserted = false;
        row.boot.recovering = Some(Recovering {
            step: INSERT.to_owned(),
            class: error.class,
            error: Reason::of_bmc(&error),
        });
        let text = format!("no virtual media ({}): trying UEFI HTTP boot", error.message);
        self.note(row, Phase::BootOnce, &text);
        Ok(HTTP_BOOT)
    }

    /// The one-time boot and the image's URL, by which the firmware knows where to read.
    pub(super) async fn http_boot(&self, row: &mut Row) -> Result<Outcome, Stop> {
        let attempt = self.attempt(row)?;
        let url = self.inner.http_boot_url(&attempt).map_err(Stop::Settings)?;
        // The observer is there before anybody reads.
        self.inner.follow(&attempt).map_err(Stop::Settings)?;
        let before = row.boot.override_set;
        row.boot.override_set = true;
        row.boot.image_at = Some(place_of(&url).to_owned());
        self.note(row, Phase::BootOnce, "setting one-time UEFI HTTP boot of the image");
        match self.change(row, Verb::BootHttp(url)).await {
            Err(Stop::Bmc(error)) if error.class == ErrorClass::Unsupported => {
                row.boot.override_set = before;
                Ok(Outcome::Fail(not_offered(row.boot.recovering.take(), &error)))
            }
            Err(other) => Err(other),
            Ok(_) => {
                row.boot.recovering = None;
                Ok(Outcome::Next(reboot_by(row.boot.way)))
            }
        }
    }
}

/// It takes no `HttpBootUri`; `media` where it has no virtual media, either.
fn not_offered(media: Option<Recovering>, error: &BmcError) -> Reason {
    let mut reason = Reason::of_bmc(error);
    match media {
        Some(media) => {
            reason.message = format!("{}; nor UEFI HTTP boot: {}", media.error.message, error.message);
            reason.hint = media.error.hint;
        }
        None => {
            reason.hint = format!("set {} to virtual-media or auto; {}", param::BOOT_METHOD, reason.hint);
        }
    }
    reason
}

/// Where firmware that boots by HTTP is stopped before it asks for anything.
fn firmware_hint(place: &str) -> String {
    let by = match place.starts_with("https:") {
        true => "the server's certificate is enrolled in it (TLS Auth Configuration)",
        false => "it takes URLs that are plain http",
    };
    format!(
        "look at the machine's console, and in its firmware's settings: HTTP boot (network stack, IPv4 HTTP) is on, the boot \
         network's port has a link and an address there (DHCP, or static IP settings of the firmware), it reaches {place}, and {by}"
    )
}

/// The one-time HTTP boot is set, and nobody has read.
pub(super) fn never_read(facts: &Facts) -> Reason {
    let Facts { machine, authority, .. } = facts;
    let host = facts.host;
    let progress = host.and_then(|host| host.boot_progress.as_deref());
    let used = match host.and_then(|host| host.boot_enabled.as_deref()) {
        Some("Disabled") => "; the one-time boot is used up",
        Some("Once" | "Continuous") => "; the one-time boot is still set",
        _ => "",
    };
    let at = progress.map_or_else(String::new, |progress| format!("; it says {progress}"));
    Reason::new(
        "image-never-read",
        format!(
            "{machine} is on and set to UEFI HTTP boot, but its firmware never asked {authority} for the image{used}{at}"
        ),
        firmware_hint(authority),
    )
}

/// The firmware began to read, or has read everything, and no agent came of it.
pub(super) fn silent(machine: &str, place: &str, reading: &Reading, agent: String) -> Reason {
    match reading.phase {
        Phase::Copied => Reason::new(
            "agent-silent",
            format!(
                "{machine}: its firmware has downloaded the whole image, so nobody sees what it does with it, and no agent has \
                 checked in"
            ),
            format!(
                "see on its console that it boots what it has downloaded: Secure Boot may refuse the loader, and the image has \
                 to fit into memory as a RAM disk; then {agent}"
            ),
        ),
        _ => Reason::new(
            "read-stalled",
            format!(
                "{machine}: its firmware has not downloaded the whole image ({})",
                reading.detail
            ),
            firmware_hint(place),
        ),
    }
}
