//! One exchange at a time per BMC, each with a deadline; several of them in one conversation, where they follow each other.
//!
//! Boots, actions and clean-ups all come through here. Nobody holds the gate while waiting for a
//! machine: a boot that takes an hour lets `powerstatus` through between any two of its exchanges.

mod survey;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use isobar_bmc::address::AddressPolicy;
use isobar_bmc::redfish;
use isobar_bmc::{
    Bmc, BmcError, BootTarget, Endpoint, ErrorClass, HostState, IpmiFace, Media, Mode, NoRecorder, Part, PowerAction,
    PowerState, Probe, Recorder,
};
use isobar_ipmi::sol::Console;

use crate::bmcs::Bmcs;
use crate::breaker::Breaker;
use crate::chance::Chance;
use crate::conversations::{Conversations, Kept};
use crate::ledger::{Entry, Ledger, Left};
use crate::line::{At, Line, Ticket, Waiting};
use crate::pins::Pins;
use crate::record::ms_of;
use crate::state::lock;
use crate::timing::Timing;
pub use crate::turns::Rank;
use crate::turns::{Lease, Turns};

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

    /// Nothing that changes a BMC is sent, to none of them.
    fn shadow(&self) -> bool {
        false
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
/// The same of ending a conversation.
const LOG_OUT: &str = "log-out";

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
    /// Remove the one-time HTTP boot, with its URL.
    ClearHttpBoot,
    /// The identify light, for so many seconds.
    Identify(u8),
    /// What the BMC knows of a part.
    Inventory(Part),
    /// What the machine is like, and how far it has come.
    Host,
    /// End the sessions that our user has left open.
    ClearSessions,
    /// Read these resources, as far as the time suffices.
    Walk(Vec<String>),
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
            Self::ClearHttpBoot => "clear-http-boot",
            Self::Identify(_) => "identify",
            Self::Inventory(_) => "inventory",
            Self::Host => "host",
            Self::ClearSessions => "clear-sessions",
            Self::Walk(_) => "walk",
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
    /// Of [`Verb::Walk`].
    Resources(Vec<(String, Option<serde_json::Value>)>),
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
    turns: Arc<Turns>,
    pub(crate) conversations: Conversations,
    /// Endpoints where an exchange that nobody waits for any more may still be under way, and until when.
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
    /// Who goes before whom.
    pub rank: Rank,
}

/// The right to have one exchange with one BMC: its lease.
pub struct Turn<'a> {
    gate: &'a Gate,
    endpoint: &'a Endpoint,
    site: Option<&'a str>,
    ticket: Ticket<'a>,
    last: bool,
    _lease: Lease,
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
            turns: Turns::new(timing.bmc_connections, timing.site_connections),
            conversations: Conversations::new(timing.bmc_connections, timing.bmc_idle()),
            doubts: Mutex::new(doubts.collect()),
            closed_until: now + left.everywhere,
            ledger,
            bmcs,
            breaker: Breaker::new(timing.breaker_failures, timing.breaker()),
            chance: Chance::new(timing.jitter_seed),
            line: Line::default(),
            pins,
            timing,
        }
    }

    /// Keeps everybody away from an endpoint for a while: an exchange that was begun before a crash, or whose deadline has
    /// passed, may still be under way there, and two at once is what locks BMCs up.
    pub fn keep_away(&self, authority: &str, time: Duration) {
        let until = Instant::now() + time;
        let mut doubts = lock(&self.doubts);
        let entry = doubts.entry(authority.to_owned()).or_insert(until);
        *entry = until.max(*entry);
    }

    /// Waits until this BMC is free, and its site and the server have room.
    pub async fn turn<'a>(&'a self, caller: Caller<'a>) -> Turn<'a> {
        let key = authority(caller.endpoint);
        let ticket = self.line.join(caller.who, &key);
        loop {
            if let Some(until) = self.doubtful(&key) {
                ticket.at(At::Doubt(until));
                tokio::time::sleep_until(until.into()).await;
                continue;
            }
            ticket.at(At::Turn(caller.site.map(str::to_owned)));
            let lease = self.turns.take(&key, caller.site, caller.rank).await;
            // The exchange before may have left some.
            if self.doubtful(&key).is_none() {
                return Turn {
                    gate: self,
                    endpoint: caller.endpoint,
                    site: caller.site,
                    ticket,
                    last: false,
                    _lease: lease,
                };
            }
        }
    }

    /// Until when it is not known whether something is under way at a BMC.
    fn doubtful(&self, key: &str) -> Option<Instant> {
        let now = Instant::now();
        let mut doubts = lock(&self.doubts);
        let until = match doubts.get(key) {
            Some(until) if *until > now => Some(*until),
            Some(_) => {
                doubts.remove(key);
                None
            }
            None => None,
        };
        until.max(Some(self.closed_until)).filter(|until| *until > now)
    }

    /// Ends a conversation that nobody has used for a while, unless somebody has meanwhile.
    pub(crate) async fn close_idle(&self, endpoint: &Endpoint, site: Option<&str>) {
        let caller = Caller {
            endpoint,
            site,
            who: LOG_OUT,
            rank: Rank::Idle,
        };
        let turn = self.turn(caller).await;
        if let Some(kept) = self.conversations.take_due(&authority(endpoint)) {
            turn.log_out_alone(kept.bmc).await;
        }
    }

    /// Ends all conversations, and keeps none from here on.
    pub(crate) async fn close_all(&self) {
        let mut closing: Vec<_> = Vec::new();
        for kept in self.conversations.end() {
            closing.push(Box::pin(async move {
                let caller = Caller {
                    endpoint: &kept.endpoint,
                    site: kept.site.as_deref(),
                    who: LOG_OUT,
                    rank: Rank::Idle,
                };
                self.turn(caller).await.log_out_alone(kept.bmc).await;
            }));
        }
        // As many at once as there are turns.
        std::future::poll_fn(|context| {
            closing.retain_mut(|one| one.as_mut().poll(context).is_pending());
            match closing.is_empty() {
                true => std::task::Poll::Ready(()),
                false => std::task::Poll::Pending,
            }
        })
        .await;
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

    /// What BMCs taught, where that is kept.
    pub(crate) fn learnt(&self) -> Option<&redfish::Learnt> {
        self.connector.learnt()
    }

    /// For how long a BMC that did not answer is left alone by all that does not hurry.
    pub(crate) fn left_alone(&self, endpoint: &Endpoint) -> Option<Duration> {
        let now = Instant::now();
        let until = self.breaker.open_until(&authority(endpoint), now)?;
        Some(until.saturating_duration_since(now))
    }

    /// Everybody in line.
    pub(crate) fn waiting(&self) -> Vec<Waiting> {
        self.line.waiting(Instant::now(), |bmc, site| self.turns.why(bmc, site))
    }

    /// Into the ledger, where it stays until the exchange has ended. Not on another thread: what is written goes to memory.
    fn enter(&self, endpoint: &Endpoint, time: Duration) -> Option<Entry> {
        match self.ledger.enter(&authority(endpoint), time) {
            Ok(entry) => Some(entry),
            Err(error) => {
                // Worse than to go on would be to stop watching machines that boot.
                tracing::error!(bmc = authority(endpoint), %error, "an exchange cannot be noted: after a kill it would not be waited out");
                None
            }
        }
    }
}

fn leave(endpoint: &Endpoint, entry: Option<Entry>) {
    if let Some(Err(error)) = entry.map(Entry::ended) {
        tracing::warn!(bmc = authority(endpoint), %error, "after a restart this exchange will be waited for");
    }
}

impl Turn<'_> {
    /// Nothing is expected to follow: the conversation is over with this exchange, and others have room for theirs.
    pub(crate) fn last(self) -> Self {
        Self { last: true, ..self }
    }

    /// Does one thing: in the conversation that was kept, or in one that it logs in for.
    ///
    /// # Errors
    /// Of the BMC; [`ErrorClass::Timeout`] when the deadline passed, and then it is unknown what the BMC did.
    pub async fn exchange(self, recorder: Arc<dyn Recorder>, verb: &Verb) -> Result<Answer, BmcError> {
        if let Some(held) = self.gate.bmcs.refusal(self.endpoint) {
            return Err(held);
        }
        let longest = verb.longest(&self.gate.timing);
        let until = Instant::now() + longest;
        self.ticket.at(At::Talking(verb.name(), until));
        let entry = self.gate.enter(self.endpoint, longest);
        // In a box: those who wait for their turn are many, and need no room for what comes after it.
        let answer = Box::pin(self.talk(recorder, verb)).await;
        let (failed, jitter) = (answer.as_ref().err().map(|error| error.class), self.gate.chance.next());
        let key = authority(self.endpoint);
        self.gate.breaker.heard(&key, failed, Instant::now(), jitter);
        self.ended(&key, failed, until, longest);
        leave(self.endpoint, entry);
        answer
    }

    /// Where the time of an exchange is over, the BMC may be at it for as long as after a kill.
    fn ended(&self, key: &str, failed: Option<ErrorClass>, until: Instant, longest: Duration) {
        let left = until.saturating_duration_since(Instant::now());
        if failed == Some(ErrorClass::Timeout) && left <= longest / 4 {
            self.gate.keep_away(key, left);
        }
    }

    async fn talk(&self, recorder: Arc<dyn Recorder>, verb: &Verb) -> Result<Answer, BmcError> {
        let gate = self.gate;
        let deadline = verb.deadline(&gate.timing);
        let end = tokio::time::Instant::now() + deadline;
        let late = |_| Err(timed_out(self.endpoint, verb, deadline));
        let mut endpoint = gate.pins.apply(self.endpoint).await?;
        endpoint.shadow |= gate.connector.shadow();
        let key = authority(&endpoint);
        let mut kept = gate.conversations.take(&key);
        if let Some(old) = kept.take_if(|kept| !kept.serves(&endpoint)) {
            self.log_out(old.bmc).await;
        }
        let left = end.saturating_duration_since(tokio::time::Instant::now());
        let within = left.saturating_sub(deadline / 50);
        let mut kept = match kept {
            Some(mut kept) => {
                kept.bmc.go_on(&endpoint, recorder, within);
                kept.endpoint = endpoint;
                kept
            }
            None => Kept {
                bmc: self.connect(&endpoint, recorder, within, end, verb).await?,
                endpoint,
                site: self.site.map(str::to_owned),
                opened: Instant::now(),
                doubtful: false,
            },
        };
        let answer = tokio::time::timeout_at(end, act(kept.bmc.as_mut(), verb))
            .await
            .unwrap_or_else(late);
        // Beside IPMI, Redfish is spoken only when it is needed.
        gate.pins.learn(&kept.endpoint, kept.bmc.certificate()).await;
        self.put_by(&key, kept, answer.as_ref().err().map(|error| error.class))
            .await;
        answer
    }

    async fn connect(
        &self,
        endpoint: &Endpoint,
        recorder: Arc<dyn Recorder>,
        within: Duration,
        end: tokio::time::Instant,
        verb: &Verb,
    ) -> Result<Box<dyn Bmc>, BmcError> {
        let connect = self.gate.connector.connect(endpoint, recorder, within);
        let late = |_| Err(timed_out(self.endpoint, verb, verb.deadline(&self.gate.timing)));
        let connected = tokio::time::timeout_at(end, connect).await.unwrap_or_else(late);
        match &connected {
            Ok(_) => self.gate.bmcs.accepted(self.endpoint).await,
            Err(error) if error.class == ErrorClass::Auth => self.hold().await,
            Err(_) => {}
        }
        connected
    }

    /// Keeps a conversation for the next exchange, or closes it: a session that is left behind is one of few.
    async fn put_by(&self, key: &str, mut kept: Kept, failed: Option<ErrorClass>) {
        let keep = match failed {
            // With Basic authentication the first request is the login.
            Some(ErrorClass::Auth) => {
                self.hold().await;
                false
            }
            // What was asked may still be under way: its session is ended at the next turn, and not beside it.
            Some(ErrorClass::Timeout) => {
                kept.doubtful = true;
                true
            }
            Some(ErrorClass::Unreachable | ErrorClass::Tls | ErrorClass::Protocol) => false,
            _ if self.last => false,
            _ => {
                let rest = kept.bmc.rest();
                let rests = tokio::time::timeout(self.gate.timing.log_out(), rest).await;
                rests.unwrap_or(false)
            }
        };
        let back = match keep {
            true => self.gate.conversations.keep(key, kept),
            false => Some(kept),
        };
        if let Some(kept) = back {
            self.log_out(kept.bmc).await;
        }
    }

    async fn log_out(&self, mut bmc: Box<dyn Bmc>) {
        let _ = tokio::time::timeout(self.gate.timing.log_out(), bmc.close()).await;
    }

    /// Logs out, as an exchange of its own.
    async fn log_out_alone(self, bmc: Box<dyn Bmc>) {
        let time = self.gate.timing.log_out();
        self.ticket.at(At::Talking(LOG_OUT, Instant::now() + time));
        let entry = self.gate.enter(self.endpoint, time);
        self.log_out(bmc).await;
        leave(self.endpoint, entry);
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
        Verb::ClearHttpBoot => bmc.clear_http_boot().await.map(|()| Answer::Done)?,
        Verb::Identify(seconds) => Answer::Identified(bmc.identify(*seconds).await?),
        Verb::Inventory(part) => Answer::Inventory(bmc.inventory(*part).await?),
        Verb::Host => Answer::Host(bmc.host().await?),
        Verb::ClearSessions => Answer::Cleared(bmc.clear_sessions().await?),
        Verb::Walk(uris) => Answer::Resources(bmc.resources(uris).await?),
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::{BufRead as _, BufReader, Write as _};

    use isobar_bmc::{Secret, TlsTrust};
    use isobar_store::{SqliteStore, Store, Vault};

    use super::*;

    /// BMCs that nobody gets an answer from, and when they were asked.
    #[derive(Default)]
    struct Hanging(Mutex<Vec<Instant>>);

    #[async_trait]
    impl Connector for Hanging {
        async fn connect(&self, _: &Endpoint, _: Arc<dyn Recorder>, _: Duration) -> Result<Box<dyn Bmc>, BmcError> {
            lock(&self.0).push(Instant::now());
            std::future::pending().await
        }
    }

    const LONGEST: Duration = Duration::from_millis(500);

    fn endpoint(address: &str) -> Endpoint {
        let password = Secret::new("one".to_owned());
        Endpoint::from_params(address, None, "root", password, TlsTrust::Insecure, None).unwrap()
    }

    fn gate(connector: Arc<dyn Connector>, timing: Timing, left: Left, dir: &std::path::Path) -> Gate {
        let store: Arc<dyn Store> = Arc::new(SqliteStore::in_memory().unwrap());
        let (ledger, _) = Ledger::open(&dir.join("exchanges"), Duration::ZERO).unwrap();
        let bmcs = Bmcs::open(Arc::clone(&store), Arc::new(Vault::ephemeral())).unwrap();
        Gate::new(connector, timing, ledger, left, Pins::new(store), bmcs)
    }

    /// A gate whose exchanges take 0.4 s and are in doubt for another 0.1 s, and what is asked of it at once.
    async fn asked(left: Left, who: [(&str, &str); 2]) -> Vec<Duration> {
        let (connector, dir) = (Arc::new(Hanging::default()), tempfile::tempdir().unwrap());
        let timing = Timing {
            exchange_s: 0.4,
            ..Timing::default()
        };
        assert_eq!(Verb::PowerState.longest(&timing), LONGEST);
        let began = Instant::now();
        let gate = gate(Arc::clone(&connector) as Arc<dyn Connector>, timing, left, dir.path());
        let ask = async |who: &str, address: &str| {
            let endpoint = endpoint(address);
            let caller = Caller {
                endpoint: &endpoint,
                site: None,
                who,
                rank: Rank::Asked,
            };
            gate.exchange(caller, Arc::new(NoRecorder), &Verb::PowerState).await
        };
        // Both are in line at once, the first one before the other.
        let (first, second) = tokio::join!(ask(who[0].0, who[0].1), ask(who[1].0, who[1].1));
        for answer in [first, second] {
            assert_eq!(answer.unwrap_err().class, ErrorClass::Timeout);
        }
        let asked = lock(&connector.0);
        asked.iter().map(|at| at.duration_since(began)).collect()
    }

    #[tokio::test]
    async fn who_had_waited_for_its_turn_stays_away_as_long_as_the_one_before_may_be_at_it() {
        let at = asked(Left::default(), [("first", "10.0.0.5"), ("second", "10.0.0.5")]).await;
        assert_eq!(at.len(), 2);
        assert!(at[1] >= LONGEST, "{at:?}");
    }

    /// A BMC that takes a service root to be asked for, and answers what follows with this status, or not at all.
    fn bmc(status: Option<u16>) -> Endpoint {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let root = r#"{"RedfishVersion":"1.6.0","Systems":{"@odata.id":"/redfish/v1/Systems"},
            "Links":{"Sessions":{"@odata.id":"/redfish/v1/SessionService/Sessions"}}}"#;
        // Ends with the process.
        std::thread::spawn(move || {
            let mut kept = Vec::new();
            for mut stream in listener.incoming().map_while(Result::ok) {
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let first = lines.next().unwrap().unwrap();
                lines
                    .map_while(Result::ok)
                    .take_while(|line| !line.is_empty())
                    .for_each(drop);
                let (status, body) = match first.starts_with("GET /redfish/v1/ ") {
                    true => (Some(200), root),
                    false => (status, "{}"),
                };
                match status {
                    Some(status) => {
                        let head = format!("HTTP/1.1 {status} x\r\nConnection: close\r\nContent-Length: ");
                        write!(stream, "{head}{}\r\n\r\n{body}", body.len()).unwrap();
                    }
                    None => kept.push(stream),
                }
            }
        });
        endpoint(&format!("http://127.0.0.1:{port}"))
    }

    #[tokio::test]
    async fn a_survey_that_comes_to_nothing_is_waited_out_and_a_login_that_it_was_refused_is_held() {
        // Who has to be heard has time for it.
        for (status, exchange_s, class) in [(None, 0.4, ErrorClass::Timeout), (Some(401), 30.0, ErrorClass::Auth)] {
            let (connector, dir) = (Arc::new(Hanging::default()), tempfile::tempdir().unwrap());
            let timing = Timing {
                exchange_s,
                ..Timing::default()
            };
            let gate = gate(
                Arc::clone(&connector) as Arc<dyn Connector>,
                timing,
                Left::default(),
                dir.path(),
            );
            let endpoint = bmc(status);
            let caller = Caller {
                endpoint: &endpoint,
                site: None,
                who: "survey",
                rank: Rank::Idle,
            };
            let began = Instant::now();
            let surveyed = gate.turn(caller).await.survey(Arc::new(NoRecorder)).await;
            assert!(began.elapsed() < Duration::from_secs(60), "{surveyed:?}");
            let asked = gate.exchange(caller, Arc::new(NoRecorder), &Verb::PowerState).await;
            assert_eq!(asked.unwrap_err().class, class);
            match lock(&connector.0).first() {
                Some(at) => assert!(at.duration_since(began) >= LONGEST && status.is_none()),
                None => assert!(gate.login_refused(&endpoint) && status.is_some()),
            }
        }
    }

    #[tokio::test]
    async fn what_an_earlier_process_left_is_waited_out() {
        let time = Duration::from_millis(300);
        let here = Left {
            doubts: vec![("10.0.0.5:443".to_owned(), time)],
            everywhere: Duration::ZERO,
        };
        let at = asked(here, [("first", "10.0.0.5"), ("other", "10.0.0.6")]).await;
        // The other BMC is asked meanwhile.
        assert!(at.len() == 2 && at[0] < at[1] && at[1] >= time, "{at:?}");
        let everywhere = Left {
            doubts: Vec::new(),
            everywhere: time,
        };
        let at = asked(everywhere, [("first", "10.0.0.5"), ("other", "10.0.0.6")]).await;
        assert!(at.len() == 2 && at.iter().all(|at| *at >= time), "{at:?}");
    }
}
