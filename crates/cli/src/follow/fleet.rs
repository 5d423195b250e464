//! A rolling boot as it goes on: a line for each machine in trouble, one summary for the rest. It lives in the server;
//! ending this ends nothing there.

use std::collections::BTreeSet;
use std::sync::mpsc;
use std::task::Poll;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use isobar_client::{ClientError, path};
use serde::Deserialize;
use serde_json::Value;

use crate::CliError;
use crate::session::Session;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// Between two plain summaries.
const SUMMARY: Duration = Duration::from_secs(30);

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Operation {
    id: String,
    state: String,
    why: String,
    fleet: Fleet,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Fleet {
    failed: usize,
    in_flight: Vec<Flight>,
    troubles: Vec<Trouble>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Flight {
    machine_name: String,
    boot: String,
    detail: String,
    troubled: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Trouble {
    number: usize,
    machine_name: String,
    outcome: String,
    reason: Reason,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Reason {
    reason: String,
    message: String,
    hint: String,
}

impl Operation {
    fn of(value: Value) -> Result<Self, CliError> {
        serde_json::from_value(value).map_err(|error| CliError::text(format!("the server's answer: {error}")))
    }

    fn is_over(&self) -> bool {
        !matches!(self.state.as_str(), "running" | "stopping" | "cancelling")
    }
}

/// Where it is shown.
struct Screen<'a> {
    session: &'a Session<'a>,
    bar: Option<ProgressBar>,
    /// Troubles up to this one have been told.
    told: usize,
    /// Boots in flight whose trouble has been told.
    troubled: BTreeSet<String>,
    said: String,
    last: Instant,
    away: bool,
}

impl<'a> Screen<'a> {
    fn new(session: &'a Session<'a>) -> Self {
        let bar = session.host.stderr_is_terminal.then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg} {elapsed}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self {
            session,
            bar,
            told: 0,
            troubled: BTreeSet::new(),
            said: String::new(),
            last: Instant::now(),
            away: false,
        }
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| self.session.host.note(text)),
            None => self.session.host.note(text),
        }
    }

    fn show(&mut self, operation: &Operation) {
        self.away = false;
        let troubles = &operation.fleet.troubles;
        if let Some(first) = troubles.first()
            && first.number > self.told + 1
        {
            let more = first.number - self.told - 1;
            self.line(&format!(
                "… {more} more machines in trouble: `isobar boots list` has them"
            ));
        }
        for trouble in troubles.iter().filter(|trouble| trouble.number > self.told) {
            let Reason { reason, message, hint } = &trouble.reason;
            let hint = match hint.as_str() {
                "" => String::new(),
                hint => format!(" ({hint})"),
            };
            self.line(&format!(
                "{}: {} [{reason}]: {message}{hint}",
                trouble.machine_name, trouble.outcome
            ));
        }
        self.told = troubles.last().map_or(self.told, |trouble| trouble.number);
        let flights = &operation.fleet.in_flight;
        let now: BTreeSet<String> = (flights.iter().filter(|flight| flight.troubled))
            .map(|flight| flight.boot.clone())
            .collect();
        for flight in flights
            .iter()
            .filter(|flight| flight.troubled && !self.troubled.contains(&flight.boot))
        {
            self.line(&format!("{}: in trouble: {}", flight.machine_name, flight.detail));
        }
        self.troubled = now;
        match &self.bar {
            Some(bar) => bar.set_message(operation.why.clone()),
            None if self.said != operation.why && self.last.elapsed() >= SUMMARY => self.summary(operation),
            None => {}
        }
    }

    /// Once: at the end it may have been said just before.
    fn summary(&mut self, operation: &Operation) {
        if self.said == operation.why {
            return;
        }
        self.session.host.note(&operation.why);
        self.said.clone_from(&operation.why);
        self.last = Instant::now();
    }

    fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn trouble(&mut self, error: &ClientError) {
        if !std::mem::replace(&mut self.away, true) {
            self.line(&format!("{error}; trying again"));
        }
    }
}

/// Hears Ctrl-C from now on. Where it cannot be heard, it ends the program as always.
fn interrupts() -> mpsc::Receiver<()> {
    let (tell, heard) = mpsc::channel();
    let (ready, listens) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let pressed = async {
            let mut pressed = std::pin::pin!(tokio::signal::ctrl_c());
            // It is heard from its first poll on.
            let first = std::future::poll_fn(|context| Poll::Ready(pressed.as_mut().poll(context))).await;
            drop(ready);
            match first {
                Poll::Ready(done) => done,
                Poll::Pending => pressed.await,
            }
        };
        if runtime.is_ok_and(|runtime| runtime.block_on(pressed).is_ok()) {
            // Nobody looks any more: the command is over.
            let _ = tell.send(());
        } else {
            std::thread::park();
        }
    });
    // An error, since nothing is ever sent: it listens.
    let _: Result<(), _> = listens.recv();
    heard
}

/// Follows a rolling boot to its end.
///
/// # Errors
/// Boots failed.
pub(crate) fn watch(session: &Session, operation: Value) -> Result<(), CliError> {
    let mut operation = Operation::of(operation)?;
    let route = path!("isobar", "v1", "operations", operation.id);
    let again = format!("isobar operations watch {}", operation.id);
    let interrupts = interrupts();
    let mut screen = Screen::new(session);
    screen.line(&format!("rolling boot {}; Ctrl-C leaves it running", operation.id));
    loop {
        screen.show(&operation);
        if operation.is_over() {
            screen.end();
            screen.summary(&operation);
            return match operation.fleet.failed {
                0 => Ok(()),
                failed => Err(CliError::text(format!(
                    "{failed} {} failed; `isobar operations retry {}` takes up what failed, and what was left, again",
                    if failed == 1 { "machine" } else { "machines" },
                    operation.id
                ))),
            };
        }
        match interrupts.recv_timeout(LOOK) {
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => {
                screen.end();
                screen.summary(&operation);
                session.host.note(&format!(
                    "it goes on; `{again}` shows it again, `isobar operations cancel {}` ends it",
                    operation.id
                ));
                return Ok(());
            }
        }
        match session.client()?.get(&route) {
            Ok(value) => operation = Operation::of(value)?,
            Err(
                error @ (ClientError::Unreachable { .. } | ClientError::Broken { .. } | ClientError::Timeout { .. }),
            ) => screen.trouble(&error),
            Err(error) => return Err(error.into()),
        }
    }
}
