//! After a change that boots a machine: how far the boot is, on standard error, until the machine is on its
//! way. The boot itself lives in the server; ending this ends nothing there.

pub(crate) mod fleet;
mod line;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use isobar_client::{Client, ClientError, Method, path};
use serde::Deserialize;
use serde_json::Value;

use crate::CliError;
use crate::follow::line::Line;
use crate::output::Output;
use crate::session::Session;
use crate::settings::WaitFor;

/// How long the server may hold back an answer in which nothing is new.
const LONG_POLL: Duration = Duration::from_secs(20);
/// Between two tries to reach a server that is not there.
const TRY_AGAIN: Duration = Duration::from_secs(1);
const HANDED_OVER_AT_MOST: Duration = Duration::from_secs(120);
const AGENT_AT_MOST: Duration = Duration::from_secs(1800);

/// A boot as the server tells of it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Boot {
    pub(crate) id: String,
    pub(crate) machine: String,
    pub(crate) machine_name: String,
    pub(crate) bootenv: String,
    pub(crate) state: String,
    pub(crate) phase: String,
    pub(crate) detail: String,
    pub(crate) percent: Option<f64>,
    pub(crate) rate_bps: Option<f64>,
    pub(crate) eta_s: Option<f64>,
    pub(crate) handed_over: bool,
    pub(crate) agent_up: bool,
    pub(crate) error: Option<BootError>,
    pub(crate) seq: u64,
    /// Name of the ISO. Without one nothing is booted: the virtual CD is let go.
    pub(crate) iso: Option<String>,
    pub(crate) log: Vec<LogLine>,
}

/// A line of a boot's history.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct LogLine {
    pub(crate) phase: String,
    pub(crate) text: String,
}

/// Why a boot failed.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct BootError {
    pub(crate) message: String,
    pub(crate) hint: String,
}

impl Boot {
    /// The virtual CD is let go; nothing is booted.
    fn is_release(&self) -> bool {
        self.iso.is_none() && self.error.is_none()
    }

    fn running(&self) -> bool {
        self.state.is_empty() || self.state == "running"
    }

    fn name(&self) -> &str {
        if self.machine_name.is_empty() {
            &self.machine
        } else {
            &self.machine_name
        }
    }

    /// "initrd 63 %, 4.1 MB/s, 40 s left".
    pub(crate) fn line(&self) -> String {
        let mut line = phase_words(&self.phase).to_owned();
        // Speed without a share is of a file that has been read.
        if let Some(percent) = self.percent {
            line = format!("{line} {percent:.0} %");
            if let Some(rate) = self.rate_bps.filter(|&rate| rate > 0.0) {
                line = format!("{line}, {:.1} MB/s", rate / 1e6);
            }
            if let Some(left) = self.eta_s {
                line = format!("{line}, {left:.0} s left");
            }
        }
        // A percentage or an error says the same, and more.
        if self.detail.is_empty() || self.error.is_some() || self.percent.is_some() {
            line
        } else {
            format!("{line} ({})", self.detail)
        }
    }

    /// Which machine boots what.
    fn subject(&self) -> String {
        if self.bootenv.is_empty() {
            self.name().to_owned()
        } else {
            format!("{} {}", self.name(), self.bootenv)
        }
    }
}

fn phase_words(phase: &str) -> &str {
    match phase {
        "powering-off" => "powering off",
        "boot-once" => "boot once",
        "powering" | "powering-on" => "powering on",
        "reboot-asked" => "reboot asked",
        "waiting-for-power" => "waiting for power",
        "copied" => "copied to the BMC",
        "grub" => "GRUB",
        "kernel-started" => "kernel started",
        "agent-up" => "agent up",
        other => other,
    }
}

/// What to look out for after a change; made before it.
pub(crate) struct Follow(Option<Watch>);

struct Watch {
    /// UUID of the machine; `None`: the one that is about to be made.
    machine: Option<String>,
    /// Boots that were there before.
    known: BTreeSet<String>,
}

impl Follow {
    /// Nothing.
    pub(crate) fn nothing() -> Self {
        Self(None)
    }

    /// A boot of this machine, if the noun is machines, somebody waits, and the server tells of boots.
    pub(crate) fn machine(session: &Session, noun: &str, id: &str) -> Result<Self, CliError> {
        if noun != "machines" || session.settings.wait == WaitFor::Nothing {
            return Ok(Self(None));
        }
        let client = session.client()?;
        let uuid = match id.split_once(':') {
            None => id.to_owned(),
            Some(_) => match client.get::<Value>(&path!("api", "v3", noun, id)) {
                Ok(machine) => machine["Uuid"].as_str().unwrap_or(id).to_owned(),
                // The change itself will say what is wrong.
                Err(_) => return Ok(Self(None)),
            },
        };
        let Ok(boots) = boots_of(client, &uuid) else {
            return Ok(Self(None));
        };
        let known = boots.into_iter().map(|boot| boot.id).collect();
        Ok(Self(Some(Watch {
            machine: Some(uuid),
            known,
        })))
    }

    /// A boot of the machine that is about to be made.
    pub(crate) fn new_machine(session: &Session, noun: &str) -> Self {
        let wanted = noun == "machines" && session.settings.wait != WaitFor::Nothing;
        Self(wanted.then(|| Watch {
            machine: None,
            known: BTreeSet::new(),
        }))
    }

    /// Prints what the change answered, then follows the boot that it started, if it did.
    ///
    /// # Errors
    /// The boot failed, or did not get as far as `--wait agent` asks.
    pub(crate) fn after(self, session: &Session, answer: Value) -> Result<Output, CliError> {
        let Some(watch) = self.0 else {
            return Ok(Output::json(answer));
        };
        let machine = match watch.machine {
            Some(machine) => machine,
            None => answer["Uuid"].as_str().unwrap_or_default().to_owned(),
        };
        let client = session.client()?;
        let boot = boots_of(client, &machine)
            .ok()
            .and_then(|boots| boots.into_iter().find(|boot| !watch.known.contains(&boot.id)));
        let Some(boot) = boot else {
            return Ok(Output::json(answer));
        };
        session
            .host
            .out(Output::json(answer).render(session.settings)?.as_bytes())?;
        session.host.flush()?;
        if boot.is_release() {
            session.host.note(&format!("{}: {}", boot.name(), boot.detail));
            return Ok(Output::Nothing);
        }
        follow(session, boot, session.settings.wait, Since::Begin)?;
        Ok(Output::Nothing)
    }
}

/// Boots of a machine, newest first.
pub(crate) fn boots_of(client: &Client, machine: &str) -> Result<Vec<Boot>, ClientError> {
    client
        .request(Method::GET, "/isobar/v1/boots")
        .query("machine", machine)
        .send()?
        .json()
}

/// From where a boot's history is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Since {
    /// All of it: the boot has just begun.
    Begin,
    /// How it stands, and what comes.
    Now,
}

/// Follows a boot until the machine has been handed over, or the agent is up.
pub(crate) fn follow(session: &Session, boot: Boot, until: WaitFor, since: Since) -> Result<(), CliError> {
    let at_most = session.settings.wait_at_most.unwrap_or(match until {
        WaitFor::Agent => AGENT_AT_MOST,
        _ => HANDED_OVER_AT_MOST,
    });
    let started = Instant::now();
    let client = session.client()?;
    let mut line = Line::new(session, &boot, since);
    let mut boot = boot;
    loop {
        line.show(&boot, started.elapsed());
        if let Some(error) = &boot.error
            && !boot.running()
        {
            line.end(&boot, started.elapsed());
            let mut text = format!(
                "the boot of {} failed at {}: {}",
                boot.name(),
                phase_words(&boot.phase),
                error.message
            );
            if !error.hint.is_empty() {
                text = format!("{text}\n{}", error.hint);
            }
            return Err(CliError::text(text));
        }
        let there = match until {
            WaitFor::Agent => boot.agent_up,
            _ => boot.handed_over || boot.agent_up,
        };
        if there || !boot.running() {
            line.end(&boot, started.elapsed());
            return match boot.state.as_str() {
                "failed" => Err(CliError::text(format!(
                    "the boot of {} failed: {}",
                    boot.name(),
                    boot.detail
                ))),
                _ if there || until != WaitFor::Agent || boot.state == "done" => Ok(()),
                state => Err(CliError::text(format!(
                    "the boot of {} was {state} before the agent came up",
                    boot.name()
                ))),
            };
        }
        let left = at_most.saturating_sub(started.elapsed());
        if left.is_zero() {
            line.end(&boot, started.elapsed());
            let text = format!(
                "{} is not there yet after {} s: {}. The boot goes on; `isobar boots watch {}` follows it",
                boot.name(),
                at_most.as_secs(),
                boot.line(),
                boot.id
            );
            if until == WaitFor::Agent {
                return Err(CliError::text(text));
            }
            session.host.note(&text);
            return Ok(());
        }
        match next(client, &boot, left) {
            Ok(newer) => {
                boot = newer;
                line.well();
            }
            // The server may be restarting; the boot outlives that.
            Err(
                error @ (ClientError::Unreachable { .. } | ClientError::Broken { .. } | ClientError::Timeout { .. }),
            ) => {
                line.trouble(&error);
                std::thread::sleep(TRY_AGAIN.min(left));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn next(client: &Client, boot: &Boot, left: Duration) -> Result<Boot, ClientError> {
    let wait = LONG_POLL.min(left).as_secs().max(1);
    client
        .request(Method::GET, &path!("isobar", "v1", "boots", boot.id))
        .query("after", &boot.seq.to_string())
        .query("wait", &wait.to_string())
        .patience(LONG_POLL + Duration::from_secs(10))
        .send()?
        .json()
}
