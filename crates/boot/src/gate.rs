//! One exchange at a time per BMC, each with a deadline.
//!
//! Boots, actions and clean-ups all come through here. Nobody holds the gate while waiting for a
//! machine: a boot that takes an hour lets `powerstatus` through between any two of its exchanges.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use isobar_bmc::address::AddressPolicy;
use isobar_bmc::redfish;
use isobar_bmc::{
    Bmc, BmcError, BootTarget, Endpoint, ErrorClass, HostState, IpmiFace, Media, Mode, NoRecorder, Part, PowerAction,
    PowerState, Probe, Recorder,
};
use isobar_ipmi::sol::Console;
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use crate::bmcs::Bmcs;
use crate::breaker::Breaker;
use crate::chance::Chance;
use crate::ledger::{Entry, Ledger, Left};
use crate::line::{At, Line, Ticket, Waiting};
use crate::pins::Pins;
use crate::record::ms_of;
use crate::timing::Timing;

/// Opens conversations with BMCs.
#[async_trait]
pub trait Connector: Send + Sync {
    /// Logs in. The whole conversation has `within`: who ends it can say what it was waiting for, the gate cannot.
    async fn connect(
        &self,
        endpoint: &Endpoint,
        recorder: Arc<dyn Recorder>,
        within: Duration,
    ) -> Result<Box<dyn Bmc>, BmcError>;

    /// Networks where BMCs may be.
    fn addresses(&self) -> AddressPolicy {
        AddressPolicy::default()
    }

    /// What BMCs taught, where that is kept.
    fn learnt(&self) -> Option<&redfish::Learnt> {
        None
    }

    /// Opens the serial console.
    async fn console(&self, endpoint: &Endpoint, take_over: bool, within: Duration) -> Result<Console, BmcError> {
        let _ = (take_over, within);
        let text = format!("BMC {}: there is no way to its console", endpoint.name());
        Err(BmcError::new(ErrorClass::Unsupported, "open the console", text))
    }
}

/// What opening a console is called where it waits.
const CONSOLE: &str = "console";

/// Speaks Redfish or IPMI, as the endpoint's mode says.
#[derive(Clone, Debug)]
pub struct NetworkConnector {
    /// Networks where BMCs may be.
    pub addresses: AddressPolicy,
    /// For what was changed to show: see [`Timing::settle_s`].
    pub settle: Duration,
    /// Deadline of an exchange: see [`Timing::exchange_s`].
    pub exchange: Duration,
    /// What BMCs taught, for their siblings.
    pub learnt: Arc<redfish::Learnt>,
}

#[async_trait]
impl Connector for NetworkConnector {
    async fn connect(
        &self,
        endpoint: &Endpoint,
        recorder: Arc<dyn Recorder>,
        within: Duration,
    ) -> Result<Box<dyn Bmc>, BmcError> {
        let usual = redfish::Options::default();
        let options = redfish::Options {
            call_deadline: within,
            end: Some(Instant::now() + within),
            addresses: self.addresses.clone(),
            settle: self.settle,
            learnt: Arc::clone(&self.learnt),
            // Well before the exchange ends: that there is no connection says more than that nothing was done in time.
            connect_timeout: usual.connect_timeout.min(self.exchange / 2),
            ..usual
        };
        let ipmi = isobar_ipmi::Options::within(within, self.addresses.clone());
        isobar_ipmi::auto::connect(endpoint, recorder, options, ipmi).await
    }

    fn addresses(&self) -> AddressPolicy {
        self.addresses.clone()
    }

    fn learnt(&self) -> Option<&redfish::Learnt> {
        Some(&self.learnt)
    }

    async fn console(&self, endpoint: &Endpoint, take_over: bool, within: Duration) -> Result<Console, BmcError> {
        let options = isobar_ipmi::Options::within(within, self.addresses.clone());
        let session = isobar_ipmi::bmc::open(endpoint, &NoRecorder, &options).await?;
        Console::open(session, take_over).await
    }
}

/// What an exchange does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Who are you.
    Probe,
    /// State of the virtual CD.
    Media,
    /// Take out whatever is in.
    Eject,
    /// Put one of these in: places of the same image, best first.
    Insert(Vec<String>),
    /// Boot from there once.
    BootOnce(BootTarget),
    /// Remove the one-time boot.
    ClearOverride,
    /// Is it on.
    PowerState,
    /// Change the power.
    Power(PowerAction),
    /// Boot from there from now on.
    BootAlways(BootTarget),
    /// Boot this URL once by UEFI HTTP.
    BootHttp(String),
    /// The identify light, for so many seconds.
    Identify(u8),
    /// What the BMC knows of a part.
    Inventory(Part),
    /// What the machine is like, and how far it has come.
    Host,
    /// End the sessions that our user has left open.
    ClearSessions,
    /// Empty the event log.
    ClearEventLog,
    /// Restart the BMC itself.
    ResetBmc,
}

impl Verb {
    /// Name in intents and logs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Probe => "probe",
            Self::Media => "media",
            Self::Eject => "eject",
            Self::Insert(_) => "insert",
            Self::BootOnce(_) => "boot-once",
            Self::ClearOverride => "clear-override",
            Self::PowerState => "power-state",
            Self::Power(PowerAction::On) => "power-on",
            Self::Power(PowerAction::ForceOff) => "power-off",
            Self::Power(PowerAction::GracefulShutdown) => "shutdown",
            Self::Power(PowerAction::Cycle) => "power-cycle",
            Self::BootAlways(_) => "boot-always",
            Self::BootHttp(_) => "boot-http",
            Self::Identify(_) => "identify",
            Self::Inventory(_) => "inventory",
            Self::Host => "host",
            Self::ClearSessions => "clear-sessions",
            Self::ClearEventLog => "clear-event-log",
            Self::ResetBmc => "reset-bmc",
        }
    }

    /// How long it may take, logging in included.
    #[must_use]
    pub fn deadline(&self, timing: &Timing) -> Duration {
        match self {
            Self::Insert(_) => timing.insert(),
            _ => timing.exchange(),
        }
    }

    /// After this time the BMC is free again, whatever became of the exchange.
    #[must_use]
    pub fn longest(&self, timing: &Timing) -> Duration {
        self.deadline(timing) + timing.log_out()
    }
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Of [`Verb::Probe`].
    Probe(Probe),
    /// Of [`Verb::Media`] and [`Verb::Insert`].
    Media(Media),
    /// Of [`Verb::PowerState`].
    Power(PowerState),
    /// Of [`Verb::Host`].
    Host(HostState),
    /// Of [`Verb::Inventory`].
    Inventory(serde_json::Value),
    /// Of [`Verb::Identify`]: it goes out by itself.
    Identified(bool),
    /// Of [`Verb::ClearSessions`]: how many.
    Cleared(u32),
    /// Of all others.
    Done,
}

/// The door to all BMCs.
pub struct Gate {
    connector: Arc<dyn Connector>,
    doors: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
    /// Endpoints where an exchange of an earlier process may still be under way, and until when.
    doubts: Mutex<HashMap<String, Instant>>,
    /// No exchange with anybody before.
    closed_until: Instant,
    /// Where a process after this one finds what was under way.
    ledger: Arc<Ledger>,
    pub(crate) bmcs: Bmcs,
    pub(crate) breaker: Breaker,
    pub(crate) chance: Chance,
    pub(crate) line: Line,
    pins: Pins,
    all: Semaphore,
    sites: Mutex<HashMap<String, Arc<Semaphore>>>,
    timing: Timing,
}

/// Who wants an exchange, and with whom.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// The BMC.
    pub endpoint: &'a Endpoint,
    /// Its site, where one is named: a site takes so many conversations at a time.
    pub site: Option<&'a str>,
    /// Id of the boot or operation.
    pub who: &'a str,
}

/// The right to have one exchange with one BMC: its lease.
pub struct Turn<'a> {
    gate: &'a Gate,
    endpoint: &'a Endpoint,
    ticket: Ticket<'a>,
    _door: OwnedMutexGuard<()>,
    _site: Option<OwnedSemaphorePermit>,
    _slot: Option<SemaphorePermit<'a>>,
}

impl Gate {
    /// `timing.bmc_connections` bounds the conversations with all BMCs together; what an earlier process left is
    /// waited out.
    pub fn new(
        connector: Arc<dyn Connector>,
        timing: Timing,
        ledger: Arc<Ledger>,
        left: Left,
        pins: Pins,
        bmcs: Bmcs,
    ) -> Self {
        let now = Instant::now();
        let doubts = left.doubts.into_iter().map(|(authority, time)| (authority, now + time));
        Self {
            connector,
            doors: Mutex::default(),
            doubts: Mutex::new(doubts.collect()),
            closed_until: now + left.everywhere,
            ledger,
            bmcs,
            breaker: Breaker::new(timing.breaker_failures, timing.breaker()),
            chance: Chance::new(timing.jitter_seed),
            line: Line::default(),
            pins,
            all: Semaphore::new(timing.bmc_connections.max(1)),
            sites: Mutex::default(),
            timing,
        }
    }

    /// Keeps everybody away from an endpoint for a while: an exchange that was begun before a crash may still be
    /// under way there, and two at once is what locks BMCs up.
    pub fn keep_away(&self, authority: &str, time: Duration) {
        let until = Instant::now() + time;
        let mut doubts = self.doubts.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = doubts.entry(authority.to_owned()).or_insert(until);
        *entry = until.max(*entry);
    }

    /// Waits until this BMC is free, and its site and the server have room.
    pub async fn turn<'a>(&'a self, caller: Caller<'a>) -> Turn<'a> {
        let key = authority(caller.endpoint);
        let ticket = self.line.join(caller.who, &key);
        let door = self.door(&key).lock_owned().await;
        ticket.at(At::Doubt(self.closed_until));
        tokio::time::sleep_until(self.closed_until.into()).await;
        let doubt = self.doubts.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        if let Some(until) = doubt {
            // A caller that gives up here must not take the doubt with it.
            let restore = RestoreDoubt {
                gate: self,
                key: &key,
                until,
            };
            ticket.at(At::Doubt(until));
            tokio::time::sleep_until(until.into()).await;
            std::mem::forget(restore);
        }
        let site = match caller.site.filter(|_| self.timing.site_connections > 0) {
            Some(name) => {
                ticket.at(At::Site(name.to_owned()));
                self.site(name).acquire_owned().await.ok()
            }
            None => None,
        };
        ticket.at(At::All);
        let slot = self.all.acquire().await.ok();
        Turn {
            gate: self,
            endpoint: caller.endpoint,
            ticket,
            _door: door,
            _site: site,
            _slot: slot,
        }
    }

    /// [`Gate::turn`] and [`Turn::exchange`].
    ///
    /// # Errors
    /// As the latter's.
    pub async fn exchange(
        &self,
        caller: Caller<'_>,
        recorder: Arc<dyn Recorder>,
        verb: &Verb,
    ) -> Result<Answer, BmcError> {
        self.turn(caller).await.exchange(recorder, verb).await
    }

    /// Whether this BMC has refused this very login, and it is not sent again.
    #[must_use]
    pub fn login_refused(&self, endpoint: &Endpoint) -> bool {
        self.bmcs.held(endpoint).is_some()
    }

    /// Networks where BMCs may be.
    pub(crate) fn addresses(&self) -> AddressPolicy {
        self.connector.addresses()
    }

    /// What is known of BMCs of this model and firmware.
    pub(crate) fn profile(&self, probe: &Probe) -> Option<redfish::Profile> {
        self.connector.learnt()?.profile(probe)
    }

    /// For how long a BMC that did not answer is left alone by all that does not hurry.
    pub(crate) fn left_alone(&self, endpoint: &Endpoint) -> Option<Duration> {
        let now = Instant::now();
        let until = self.breaker.open_until(&authority(endpoint), now)?;
        Some(until.saturating_duration_since(now))
    }

    /// Everybody in line.
    pub(crate) fn waiting(&self) -> Vec<Waiting> {
        self.line.waiting(Instant::now())
    }

    fn site(&self, name: &str) -> Arc<Semaphore> {
        let mut sites = self.sites.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = self.timing.site_connections;
        // Sites that nobody is at are forgotten: names come and go.
        sites.retain(|known, site| known == name || Arc::strong_count(site) > 1);
        Arc::clone(
            sites
                .entry(name.to_owned())
                .or_insert_with(|| Arc::new(Semaphore::new(limit))),
        )
    }

    /// Into the ledger, where it stays until the exchange has ended.
    async fn enter(&self, endpoint: &Endpoint, verb: &Verb) -> Option<Entry> {
        let (ledger, key, time) = (
            Arc::clone(&self.ledger),
            authority(endpoint),
            verb.longest(&self.timing),
        );
        let entered = tokio::task::spawn_blocking(move || ledger.enter(&key, time)).await;
        match entered.map_err(std::io::Error::other).and_then(|entry| entry) {
            Ok(entry) => Some(entry),
            Err(error) => {
                // Worse than to go on would be to stop watching machines that boot.
                tracing::error!(bmc = authority(endpoint), %error, "an exchange cannot be noted: after a kill it would not be waited out");
                None
            }
        }
    }

    /// Per endpoint, not per machine: four nodes can share one BMC.
    fn door(&self, key: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut doors = self.doors.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(door) = doors.get(key).and_then(Weak::upgrade) {
            return door;
        }
        doors.retain(|_, door| door.strong_count() > 0);
        let door = Arc::new(tokio::sync::Mutex::new(()));
        doors.insert(key.to_owned(), Arc::downgrade(&door));
        door
    }
}

struct RestoreDoubt<'a> {
    gate: &'a Gate,
    key: &'a str,
    until: Instant,
}

impl Drop for RestoreDoubt<'_> {
    fn drop(&mut self) {
        self.gate
            .keep_away(self.key, self.until.saturating_duration_since(Instant::now()));
    }
}

impl Turn<'_> {
    /// Logs in, does one thing, logs out.
    ///
    /// # Errors
    /// Of the BMC; [`ErrorClass::Timeout`] when the deadline passed, and then it is unknown what the BMC did.
    pub async fn exchange(self, recorder: Arc<dyn Recorder>, verb: &Verb) -> Result<Answer, BmcError> {
        if let Some(held) = self.gate.bmcs.refusal(self.endpoint) {
            return Err(held);
        }
        let until = Instant::now() + verb.longest(&self.gate.timing);
        self.ticket.at(At::Talking(verb.name(), until));
        let entry = self.gate.enter(self.endpoint, verb).await;
        let answer = self.talk(recorder, verb).await;
        let (failed, jitter) = (answer.as_ref().err().map(|error| error.class), self.gate.chance.next());
        let key = authority(self.endpoint);
        self.gate.breaker.heard(&key, failed, Instant::now(), jitter);
        if let Some(entry) = entry {
            let ended = tokio::task::spawn_blocking(move || entry.ended()).await;
            if let Err(error) = ended.map_err(std::io::Error::other).and_then(|ended| ended) {
                tracing::warn!(bmc = authority(self.endpoint), %error, "after a restart this exchange will be waited for");
            }
        }
        answer
    }

    async fn talk(&self, recorder: Arc<dyn Recorder>, verb: &Verb) -> Result<Answer, BmcError> {
        let deadline = verb.deadline(&self.gate.timing);
        let end = tokio::time::Instant::now() + deadline;
        let late = |_| Err(timed_out(self.endpoint, verb, deadline));
        let within = deadline.saturating_sub(deadline / 50);
        let endpoint = self.gate.pins.apply(self.endpoint).await?;
        let connect = self.gate.connector.connect(&endpoint, recorder, within);
        let connected = tokio::time::timeout_at(end, connect)
            .await
            .unwrap_or_else(|_| Err(timed_out(self.endpoint, verb, deadline)));
        match &connected {
            Ok(_) => self.gate.bmcs.accepted(self.endpoint).await,
            Err(error) if error.class == ErrorClass::Auth => self.hold().await,
            Err(_) => {}
        }
        let mut bmc = connected?;
        self.gate.pins.learn(&endpoint, bmc.certificate()).await;
        let answer = tokio::time::timeout_at(end, act(bmc.as_mut(), verb))
            .await
            .unwrap_or_else(late);
        // Beside IPMI, Redfish is spoken only when it is needed.
        if endpoint.mode == Mode::Ipmi {
            self.gate.pins.learn(&endpoint, bmc.certificate()).await;
        }
        if answer.as_ref().is_err_and(|error| error.class == ErrorClass::Auth) {
            // With Basic authentication the first request is the login.
            self.hold().await;
        }
        // A session that is left behind is one of few.
        let _ = tokio::time::timeout(self.gate.timing.log_out(), bmc.close()).await;
        answer
    }

    /// Opens the serial console. The turn is over with that, not with the console.
    ///
    /// # Errors
    /// Of the BMC.
    pub async fn console(self, take_over: bool) -> Result<Console, BmcError> {
        if let Some(held) = self.gate.bmcs.refusal(self.endpoint) {
            return Err(held);
        }
        let within = self.gate.timing.exchange();
        self.ticket.at(At::Talking(CONSOLE, Instant::now() + within));
        let opened = self.gate.connector.console(self.endpoint, take_over, within).await;
        match &opened {
            Ok(_) => self.gate.bmcs.accepted(self.endpoint).await,
            Err(error) if error.class == ErrorClass::Auth => self.hold().await,
            Err(_) => {}
        }
        opened
    }

    async fn hold(&self) {
        let now = ms_of(std::time::SystemTime::now());
        self.gate.bmcs.refused(self.endpoint, now).await;
    }
}

async fn act(bmc: &mut dyn Bmc, verb: &Verb) -> Result<Answer, BmcError> {
    Ok(match verb {
        Verb::Probe => Answer::Probe(bmc.probe().await?),
        Verb::Media => Answer::Media(bmc.media().await?),
        Verb::Insert(urls) => Answer::Media(bmc.insert_one_of(urls).await?),
        Verb::PowerState => Answer::Power(bmc.power_state().await?),
        Verb::Eject => bmc.eject().await.map(|()| Answer::Done)?,
        Verb::BootOnce(target) => bmc.boot_once(*target).await.map(|()| Answer::Done)?,
        Verb::ClearOverride => bmc.clear_boot_override().await.map(|()| Answer::Done)?,
        Verb::Power(action) => bmc.power(*action).await.map(|()| Answer::Done)?,
        Verb::BootAlways(target) => bmc.boot_always(*target).await.map(|()| Answer::Done)?,
        Verb::BootHttp(url) => bmc.boot_http_once(url).await.map(|()| Answer::Done)?,
        Verb::Identify(seconds) => Answer::Identified(bmc.identify(*seconds).await?),
        Verb::Inventory(part) => Answer::Inventory(bmc.inventory(*part).await?),
        Verb::Host => Answer::Host(bmc.host().await?),
        Verb::ClearSessions => Answer::Cleared(bmc.clear_sessions().await?),
        Verb::ClearEventLog => bmc.clear_event_log().await.map(|()| Answer::Done)?,
        Verb::ResetBmc => bmc.reset_bmc().await.map(|()| Answer::Done)?,
    })
}

/// `host:port` of a BMC, the same for both of its faces; but where only the IPMI port tells several BMCs at one address
/// apart, that one.
#[must_use]
pub fn authority(endpoint: &Endpoint) -> String {
    let port = match endpoint.mode {
        Mode::Ipmi if endpoint.ipmi.port != IpmiFace::default().port => endpoint.ipmi.port,
        _ => endpoint.url.port_or_known_default().unwrap_or_default(),
    };
    format!("{}:{port}", endpoint.url.host_str().unwrap_or_default())
}

fn timed_out(endpoint: &Endpoint, verb: &Verb, deadline: Duration) -> BmcError {
    BmcError {
        class: ErrorClass::Timeout,
        what: "waiting for the BMC",
        message: format!(
            "BMC {} did not finish `{}` within {} s",
            authority(endpoint),
            verb.name(),
            deadline.as_secs()
        ),
        message_id: None,
        status: None,
        hint: match verb {
            Verb::Insert(_) => {
                "some BMCs copy the whole image before they answer: raise insert_s in the server's [timing] \
                                if this one does; else it may be locked up: look at its web page, or reset it"
            }
            _ => "the BMC may be locked up: look at its web page, or reset it",
        }
        .to_owned(),
    }
}
