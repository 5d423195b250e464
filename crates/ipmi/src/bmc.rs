//! IPMI as a [`Bmc`]: power and the next boot, and no virtual media.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use isobar_bmc::{
    AddressPolicy, Bmc, BmcError, BootTarget, Certificate, Endpoint, ErrorClass, Exchange, HostState, Media, Part,
    PowerAction, PowerState, Probe, Recorder, Redactor, address,
};
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;

use crate::chassis::{BootFlags, Control, device};
use crate::completion;
use crate::crypto::{Suite, USUAL};
use crate::sel::Entry;
use crate::session::{Login, Session};

/// Pause between two looks at the power.
const POLL: Duration = Duration::from_millis(500);

/// Newest entries of the event log that are read.
const ENTRIES: usize = 256;

/// Limits of a conversation.
#[derive(Clone, Debug)]
pub struct Options {
    /// For logging in.
    pub log_in: Duration,
    /// End of the whole conversation, but for logging out.
    pub end: Instant,
    /// Networks where BMCs may be.
    pub addresses: AddressPolicy,
    /// Cipher suites that may be used, best first.
    pub suites: Vec<Suite>,
}

impl Options {
    /// The usual suites, everything within a time.
    #[must_use]
    pub fn within(time: Duration, addresses: AddressPolicy) -> Self {
        Self {
            log_in: time,
            end: Instant::now() + time,
            addresses,
            suites: USUAL.to_vec(),
        }
    }
}

/// A session at an endpoint's IPMI port: its address is checked as Redfish's is.
///
/// # Errors
/// The address is not allowed (nothing is sent), or as [`Session::open`].
pub async fn open(endpoint: &Endpoint, recorder: &dyn Recorder, options: &Options) -> Result<Session, BmcError> {
    let within = options
        .log_in
        .min(options.end.saturating_duration_since(Instant::now()));
    let found = address::resolve(endpoint, endpoint.ipmi.port, &options.addresses, within).await?;
    let login = Login {
        user: endpoint.username.clone(),
        password: endpoint.password.clone(),
        suites: options.suites.clone(),
        name: endpoint.ipmi_name(),
    };
    let mut last = None;
    for address in &found {
        match Session::open(*address, &login, within / u32::try_from(found.len()).unwrap_or(1)).await {
            Ok(mut session) => {
                session.until(options.end);
                if endpoint.shadow {
                    session.reads_only();
                }
                let mut addresses = vec![address.ip().to_canonical()];
                addresses.extend(found.iter().filter(|a| *a != address).map(|a| a.ip().to_canonical()));
                recorder.connected(&addresses);
                return Ok(session);
            }
            Err(error) if error.class == ErrorClass::Unreachable => last = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(last.unwrap_or_else(|| BmcError::new(ErrorClass::Unreachable, "log in over IPMI", "the BMC has no address")))
}

/// A conversation over IPMI.
pub struct Ipmi {
    session: Session,
    recorder: Arc<dyn Recorder>,
    redactor: Redactor,
    uefi: bool,
    /// A request was left unanswered: the BMC may have forgotten the session, and does not say so.
    doubtful: bool,
}

/// For a BMC to show that it still has a session that was kept.
const ALIVE: Duration = Duration::from_millis(2500);

impl std::fmt::Debug for Ipmi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ipmi")
            .field("session", &self.session)
            .finish_non_exhaustive()
    }
}

/// Opens a conversation.
///
/// # Errors
/// As [`open`].
pub async fn connect(endpoint: &Endpoint, recorder: Arc<dyn Recorder>, options: Options) -> Result<Ipmi, BmcError> {
    let mut redactor = Redactor::default();
    redactor.hide_login(&endpoint.username, endpoint.password.reveal());
    let began = Instant::now();
    let opened = open(endpoint, recorder.as_ref(), &options).await;
    let outcome = match &opened {
        Ok(session) => Ok(json!({"suite": session.suite().id})),
        Err(error) => Err(error),
    };
    record(
        recorder.as_ref(),
        &redactor,
        "session",
        None,
        outcome,
        Vec::new(),
        began,
    );
    Ok(Ipmi {
        session: opened?,
        recorder,
        redactor,
        uefi: endpoint.ipmi.uefi,
        doubtful: false,
    })
}

/// An IPMI exchange in the shape of the others: what was done as its path, no status, and a line for each command with
/// what came back.
fn record(
    recorder: &dyn Recorder,
    redactor: &Redactor,
    path: &str,
    request: Option<&Value>,
    outcome: Result<Value, &BmcError>,
    commands: Vec<String>,
    began: Instant,
) {
    // As with HTTP, no status is no answer.
    if !recorder.keeps("IPMI", outcome.is_ok().then_some(0)) {
        return;
    }
    let mut answer = match outcome {
        Ok(value) => json!({"outcome": value}),
        Err(error) => json!({"error": error.to_string()}),
    };
    if !commands.is_empty() {
        answer["commands"] = commands.into();
    }
    let mut exchange = Exchange::new("IPMI", path, request, Some((0, &answer)), began.elapsed(), redactor);
    exchange.status = None;
    recorder.record(exchange);
}

impl Ipmi {
    fn no_media<T>(&self, what: &'static str) -> Result<T, BmcError> {
        let error = self
            .session
            .error(ErrorClass::Unsupported, what, "IPMI has no virtual media");
        Err(error.hinted("set ipmi/mode to redfish or auto, where the BMC has Redfish"))
    }

    fn note<T>(&mut self, path: &str, request: Option<Value>, outcome: &Result<T, BmcError>, began: Instant) {
        self.doubtful |= outcome.as_ref().is_err_and(unanswered);
        let outcome = outcome.as_ref().map(|_| json!("done"));
        let commands = self.session.lines();
        record(
            self.recorder.as_ref(),
            &self.redactor,
            path,
            request.as_ref(),
            outcome,
            commands,
            began,
        );
    }

    /// Whether the session may be kept for another exchange.
    pub(crate) fn rests(&self) -> bool {
        !self.doubtful
    }

    /// Another exchange begins in the session that was kept; whether the BMC still has it. What is asked for that changes
    /// nothing, so that no command is lost in a session that is not there.
    pub(crate) async fn go_on(&mut self, endpoint: &Endpoint, recorder: Arc<dyn Recorder>, end: Instant) -> bool {
        (self.recorder, self.uefi) = (recorder, endpoint.ipmi.uefi);
        self.session.until(end.min(Instant::now() + ALIVE));
        let there = self.session.is_on().await.is_ok();
        self.session.lines();
        self.session.until(end);
        there
    }

    async fn do_power(&mut self, action: PowerAction) -> Result<(), BmcError> {
        let on = self.session.is_on().await?;
        match action {
            PowerAction::On if on => Ok(()),
            PowerAction::ForceOff | PowerAction::GracefulShutdown if !on => Ok(()),
            PowerAction::On => self.session.control(Control::On, "switch the power on").await,
            PowerAction::ForceOff => self.session.control(Control::Off, "switch the power off").await,
            PowerAction::GracefulShutdown => self.session.control(Control::Soft, "ask for a shutdown").await,
            // Cycling what is off is refused by most, and does nothing on others.
            PowerAction::Cycle if !on => self.session.control(Control::On, "cycle the power").await,
            PowerAction::Cycle => self.cycle().await,
        }
    }

    async fn cycle(&mut self) -> Result<(), BmcError> {
        let what = "cycle the power";
        match self.session.control(Control::Cycle, what).await {
            Ok(()) => return Ok(()),
            // Refused, so nothing was done: another way is safe.
            Err(error) if error.message_id.is_some() && error.class != ErrorClass::Forbidden => {
                tracing::debug!(%error, "no power cycle: off and on instead");
            }
            Err(error) => return Err(error),
        }
        self.session.control(Control::Off, what).await?;
        while self.session.is_on().await? {
            tokio::time::sleep(POLL).await;
        }
        self.session.control(Control::On, what).await
    }
}

#[async_trait]
impl Bmc for Ipmi {
    async fn probe(&mut self) -> Result<Probe, BmcError> {
        let began = Instant::now();
        let id = self.session.device_id().await;
        self.note("mc/device-id", None, &id, began);
        let id = id?;
        // Not all have FRU data, and then there is no name.
        let model = match self.session.fru(0).await {
            Ok(fru) => fru.product_name().unwrap_or_default(),
            Err(error) if error.message_id.is_some() || error.class == ErrorClass::Protocol => String::new(),
            Err(error) => return Err(error),
        };
        Ok(Probe {
            vendor: id.maker_name(),
            model,
            firmware: format!("{}.{:02}", id.firmware.0, id.firmware.1),
            ..Probe::default()
        })
    }

    async fn media(&mut self) -> Result<Media, BmcError> {
        self.no_media("read the virtual CD")
    }

    async fn eject(&mut self) -> Result<(), BmcError> {
        self.no_media("eject media")
    }

    async fn insert_one_of(&mut self, _: &[String]) -> Result<Media, BmcError> {
        self.no_media("insert media")
    }

    async fn boot_once(&mut self, target: BootTarget) -> Result<(), BmcError> {
        let began = Instant::now();
        let done = self.session.boot_once(target, self.uefi).await;
        self.note("chassis/boot-flags", Some(json!(target)), &done, began);
        done
    }

    async fn boot_always(&mut self, target: BootTarget) -> Result<(), BmcError> {
        let began = Instant::now();
        let done = self.session.boot_always(target, self.uefi).await;
        self.note("chassis/boot-flags", Some(json!({"always": target})), &done, began);
        done
    }

    async fn identify(&mut self, seconds: u8) -> Result<bool, BmcError> {
        let began = Instant::now();
        let done = self.session.identify(Some(seconds)).await;
        self.note("chassis/identify", Some(json!(seconds)), &done, began);
        done.map(|()| true)
    }

    async fn boot_http_once(&mut self, _: &str) -> Result<(), BmcError> {
        let error = self.session.error(
            ErrorClass::Unsupported,
            "set the one-time HTTP boot",
            "IPMI takes no URL",
        );
        Err(error)
    }

    async fn inventory(&mut self, part: Part) -> Result<Value, BmcError> {
        let began = Instant::now();
        let (path, found) = match part {
            Part::EventLog => ("sel", self.session.sel(ENTRIES).await.map(|entries| events(&entries))),
            Part::Sensors => ("sdr", self.session.sensors().await.map(|sensors| json!(sensors))),
            Part::Fru => {
                let fru = self.session.fru(0).await;
                (
                    "fru",
                    fru.map(|fru| json!({"board": fru.board, "product": fru.product})),
                )
            }
            _ => {
                let text = "IPMI has no such function";
                return Err(self.session.error(ErrorClass::Unsupported, "read the inventory", text));
            }
        };
        self.note(path, None, &found, began);
        found
    }

    async fn clear_event_log(&mut self) -> Result<(), BmcError> {
        let began = Instant::now();
        let done = self.session.clear_sel().await;
        self.note("sel/clear", None, &done, began);
        done
    }

    async fn host(&mut self) -> Result<HostState, BmcError> {
        let power = self.power_state().await?;
        let began = Instant::now();
        let flags = self.session.boot_flags().await;
        self.note("chassis/boot-flags", None, &flags, began);
        let flags = match flags {
            Err(error) if error.message_id.is_none() => return Err(error),
            flags => flags.ok(),
        };
        let target = |code| match code {
            device::PXE => "Pxe",
            device::DISK => "Hdd",
            device::CD | device::REMOTE_CD => "Cd",
            device::SETUP => "BiosSetup",
            device::FLOPPY => "Floppy",
            _ => "None",
        };
        Ok(HostState {
            power,
            boot_mode: flags.map(|f| if f.uefi { "UEFI" } else { "Legacy" }.to_owned()),
            boot_target: flags.map(|f| target(f.device).to_owned()),
            boot_enabled: flags.map(|f| enabled(f).to_owned()),
            ..HostState::default()
        })
    }

    async fn reset_bmc(&mut self) -> Result<(), BmcError> {
        let began = Instant::now();
        let done = self.session.reset_bmc().await;
        self.note("mc/reset/cold", None, &done, began);
        done
    }

    async fn clear_boot_override(&mut self) -> Result<(), BmcError> {
        let began = Instant::now();
        let done = self.session.set_boot_flags(BootFlags::default()).await;
        // Some do not take flags that are not valid: then those of an ordinary boot.
        let done = match done {
            Err(error) if error.message_id == Some(format!("{:02X}h", completion::INVALID_DATA)) => {
                let ordinary = BootFlags {
                    valid: true,
                    uefi: self.uefi,
                    device: device::NONE,
                    persistent: false,
                };
                self.session.set_boot_flags(ordinary).await
            }
            done => done,
        };
        self.note("chassis/boot-flags", Some(json!("none")), &done, began);
        done
    }

    async fn power_state(&mut self) -> Result<PowerState, BmcError> {
        let began = Instant::now();
        let on = self.session.is_on().await;
        let state = on.map(|on| if on { PowerState::On } else { PowerState::Off });
        self.doubtful |= state.as_ref().is_err_and(unanswered);
        let outcome = state.as_ref().map(|state| json!(state));
        record(
            self.recorder.as_ref(),
            &self.redactor,
            "chassis/status",
            None,
            outcome,
            self.session.lines(),
            began,
        );
        state
    }

    async fn power(&mut self, action: PowerAction) -> Result<(), BmcError> {
        let began = Instant::now();
        let done = self.do_power(action).await;
        self.note("chassis/control", Some(json!(action)), &done, began);
        done
    }

    fn certificate(&self) -> Option<Certificate> {
        None
    }

    async fn close(&mut self) {
        self.session.close().await;
    }
}

fn unanswered(error: &BmcError) -> bool {
    matches!(error.class, ErrorClass::Timeout | ErrorClass::Unreachable)
}

/// As an event log is shown, whatever the BMC was asked by.
fn events(entries: &[Entry]) -> Value {
    let each = entries.iter().map(|entry| {
        let at = entry.at.and_then(|at| at.format(&Rfc3339).ok());
        let event = match entry.asserted {
            true => entry.event.clone(),
            false => format!("{} (over)", entry.event),
        };
        json!({"id": entry.id, "at": at, "sensor": entry.sensor, "number": entry.number, "event": event, "raw": entry.raw})
    });
    each.collect()
}

fn enabled(flags: BootFlags) -> &'static str {
    match (flags.valid, flags.persistent) {
        (false, _) => "Disabled",
        (true, false) => "Once",
        (true, true) => "Continuous",
    }
}
