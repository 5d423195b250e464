//! After a change that boots a machine: how far the boot is, on standard error, until the machine is on its
//! way. The boot itself lives in the server; ending this ends nothing there.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use isobar_client::{Client, ClientError, Method, path};
use serde::Deserialize;
use serde_json::Value;

use crate::CliError;
use crate::output::Output;
use crate::session::Session;
use crate::settings::WaitFor;

/// How long the server may hold back an answer in which nothing is new.
const LONG_POLL: Duration = Duration::from_secs(20);
/// Between two plain lines.
const LINE_INTERVAL: Duration = Duration::from_secs(1);
/// Between two plain lines that tell of progress within a phase.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);
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
}

/// Why a boot failed.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct BootError {
    pub(crate) message: String,
    pub(crate) hint: String,
}

impl Boot {
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
        if let Some(percent) = self.percent {
            line = format!("{line} {percent:.0} %");
        }
        if let Some(rate) = self.rate_bps.filter(|&rate| rate > 0.0) {
            line = format!("{line}, {:.1} MB/s", rate / 1e6);
        }
        if let Some(left) = self.eta_s {
            line = format!("{line}, {left:.0} s left");
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
        "ejecting" => "ejecting old media",
        "inserting" => "inserting the ISO",
        "inserted" => "ISO inserted",
        "boot-once" => "boot once set",
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
        follow(session, boot, session.settings.wait)?;
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

/// Follows a boot until the machine has been handed over, or the agent is up.
pub(crate) fn follow(session: &Session, boot: Boot, until: WaitFor) -> Result<(), CliError> {
    let at_most = session.settings.wait_at_most.unwrap_or(match until {
        WaitFor::Agent => AGENT_AT_MOST,
        _ => HANDED_OVER_AT_MOST,
    });
    let started = Instant::now();
    let client = session.client()?;
    let mut line = Line::new(session, &boot);
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
                line.troubled = false;
            }
            // The server may be restarting; the boot outlives that.
            Err(
                error @ (ClientError::Unreachable { .. } | ClientError::Broken { .. } | ClientError::Timeout { .. }),
            ) => {
                line.trouble(&error);
                std::thread::sleep(LINE_INTERVAL.min(left));
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

/// Where the boot is shown: one live line on a terminal, else a line for each change of phase.
struct Line<'a> {
    session: &'a Session<'a>,
    bar: Option<ProgressBar>,
    /// Phases that no line has told of yet.
    pending: Vec<String>,
    phase: String,
    last: Option<Instant>,
    troubled: bool,
}

impl<'a> Line<'a> {
    fn new(session: &'a Session<'a>, boot: &Boot) -> Self {
        let bar = session.host.stderr_is_terminal.then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix}: {wide_msg}") {
                bar.set_style(style);
            }
            bar.set_prefix(boot.subject());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self {
            session,
            bar,
            pending: Vec::new(),
            phase: String::new(),
            last: None,
            troubled: false,
        }
    }

    fn show(&mut self, boot: &Boot, elapsed: Duration) {
        let changed = boot.phase != self.phase;
        if let Some(bar) = &self.bar {
            if changed && !self.phase.is_empty() {
                bar.println(format!(
                    "  {}: {} ({} s)",
                    boot.subject(),
                    phase_words(&self.phase),
                    elapsed.as_secs()
                ));
            }
            bar.set_message(boot.line());
            self.phase.clone_from(&boot.phase);
            return;
        }
        if changed {
            self.pending.push(boot.phase.clone());
            self.phase.clone_from(&boot.phase);
        }
        let since = self.last.map_or(Duration::MAX, |last| last.elapsed());
        let due = if self.pending.is_empty() {
            boot.percent.is_some() && since >= PROGRESS_INTERVAL
        } else {
            since >= LINE_INTERVAL
        };
        if due {
            self.write(boot, elapsed);
        }
    }

    fn write(&mut self, boot: &Boot, elapsed: Duration) {
        // Phases that came faster than lines may: named on the next one.
        let passed = self.pending.len().saturating_sub(1);
        let passed: String = self
            .pending
            .drain(..)
            .take(passed)
            .map(|phase| format!("{} → ", phase_words(&phase)))
            .collect();
        self.session.host.note(&format!(
            "[{:>4} s] {}: {passed}{}",
            elapsed.as_secs(),
            boot.subject(),
            boot.line()
        ));
        self.last = Some(Instant::now());
    }

    fn trouble(&mut self, error: &ClientError) {
        match &self.bar {
            Some(bar) => bar.set_message(format!("{error}; trying again")),
            None if !self.troubled => self.session.host.note(&format!("{error}; trying again")),
            None => {}
        }
        self.troubled = true;
    }

    fn end(&mut self, boot: &Boot, elapsed: Duration) {
        match self.bar.take() {
            Some(bar) => {
                bar.println(format!(
                    "  {}: {} ({} s)",
                    boot.subject(),
                    boot.line(),
                    elapsed.as_secs()
                ));
                bar.finish_and_clear();
            }
            None if !self.pending.is_empty() => self.write(boot, elapsed),
            None => {}
        }
    }
}
