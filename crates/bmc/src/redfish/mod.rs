//! The Redfish client.
//!
//! It goes by what the BMC says of itself: links, actions, allowable values, settings objects and the
//! words of its refusals. What cannot be derived from those is a row of the table in `quirks`.

mod boot;
mod discover;
mod greeting;
mod host;
mod inventory;
mod json;
mod learnt;
mod media;
pub use greeting::{Greeting, greet};
pub use learnt::{Faces, Learnt, Taught};
pub use media::same_image;
mod message;
mod power;
mod quirks;
mod records;
mod schemes;
mod sessions;
mod sheet;
pub use sheet::sheet;
mod slots;
mod survey;
mod task;
mod tls;
mod transport;
mod walk;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    AddressPolicy, Bmc, BmcError, BootTarget, Certificate, Endpoint, ErrorClass, HostState, Media, Part, PowerAction,
    PowerState, Probe, Recorder,
};
use discover::Found;
use learnt::{Known, Places};
use transport::Transport;

/// Limits of a conversation. The defaults suit real BMCs, which are slow.
#[derive(Clone, Debug)]
pub struct Options {
    /// To a connection, with TLS.
    pub connect_timeout: Duration,
    /// From a GET to the end of its answer. A change may take as long as its call.
    pub request_timeout: Duration,
    /// For one call of the [`Bmc`] trait with all its requests, retries and waits.
    pub call_deadline: Duration,
    /// End of the whole conversation, but for logging out; none: each call has its own deadline alone.
    pub end: Option<Instant>,
    /// Longest pause that a BMC may ask for at a time (`Retry-After`).
    pub longest_wait: Duration,
    /// For an inserted image to show in its slot, and for an override to be read back.
    pub settle: Duration,
    /// Pause between two looks at something that is on its way.
    pub poll: Duration,
    /// Networks where BMCs may be.
    pub addresses: AddressPolicy,
    /// What worked with this BMC before.
    pub profile: Profile,
    /// What worked with its siblings, and is told them.
    pub learnt: Arc<Learnt>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(15),
            request_timeout: Duration::from_secs(60),
            call_deadline: Duration::from_secs(240),
            end: None,
            longest_wait: Duration::from_secs(30),
            settle: Duration::from_secs(20),
            poll: Duration::from_secs(1),
            addresses: AddressPolicy::default(),
            profile: Profile::default(),
            learnt: Arc::default(),
        }
    }
}

/// What was learnt about one model and firmware; spares its siblings the refusals.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Profile {
    /// Members of the payload that was accepted by an insert, beside `Image`.
    pub insert_members: Vec<String>,
    /// Schemes of images that were refused.
    pub refused_schemes: Vec<String>,
    /// URI of the slot that took it; others before it in the list may have refused.
    pub slot: Option<String>,
}

/// Opens a conversation: resolves and checks the address, reads the service root, logs in.
///
/// # Errors
/// The address is not allowed ([`ErrorClass::Refused`], nothing sent), no connection, TLS, wrong login,
/// or no Redfish there.
pub async fn connect(endpoint: Endpoint, recorder: Arc<dyn Recorder>, options: Options) -> Result<Redfish, BmcError> {
    let profile = options.profile.clone();
    let http = Transport::open(endpoint, recorder, options).await?;
    let mut redfish = Redfish {
        http,
        root: None,
        found: None,
        found_at: 0,
        profile,
    };
    match redfish.log_in().await {
        Ok(()) => Ok(redfish),
        Err(error) => {
            // Some want a login for the service root: it may be there, and the root not.
            redfish.close().await;
            Err(error)
        }
    }
}

/// A conversation with one BMC over Redfish. Call [`Bmc::close`] at its end: sessions are few.
pub struct Redfish {
    http: Transport,
    /// As it was read in this conversation.
    root: Option<Value>,
    found: Option<Found>,
    /// The login under which it was found.
    found_at: u32,
    profile: Profile,
}

impl std::fmt::Debug for Redfish {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redfish")
            .field("bmc", &self.http.name)
            .finish_non_exhaustive()
    }
}

impl Redfish {
    /// What was learnt, to be passed in [`Options`] next time.
    #[must_use]
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// Where to log in is known of a BMC that was talked to before; else its service root says so.
    async fn log_in(&mut self) -> Result<(), BmcError> {
        self.http.begin("connect");
        match self.http.options.learnt.places(&self.http.key()) {
            Some(places) => discover::learn_sessions(&mut self.http, &places.layout.root),
            None => self.root = Some(discover::root(&mut self.http).await?),
        }
        self.http.begin("log in");
        self.http.log_in().await
    }

    /// Whether the system has still to be looked for.
    fn is_lost(&self) -> bool {
        self.found.is_none() || self.found_at != self.http.logins
    }

    /// The system and its manager, found once for each login.
    async fn found(&mut self) -> Result<(&mut Transport, &Found), BmcError> {
        if self.is_lost() {
            self.found = None;
            self.found = Some(self.find().await?);
            self.found_at = self.http.logins;
        }
        match &self.found {
            Some(found) => Ok((&mut self.http, found)),
            None => Err(self.http.error(ErrorClass::Protocol, "its system was not found")),
        }
    }

    /// Where it was last time, or by links from the service root.
    async fn find(&mut self) -> Result<Found, BmcError> {
        let learnt = Arc::clone(&self.http.options.learnt);
        let key = self.http.key();
        if let Some(places) = learnt.places(&key) {
            self.http.set_known(places.known.clone());
            if let Some(found) = discover::again(&mut self.http, &places.layout).await? {
                return Ok(found);
            }
            tracing::debug!(bmc = %self.http.name, "it is not what it was: looking for everything again");
            self.forget();
        }
        let root = match self.root.clone() {
            Some(root) => root,
            None => discover::root(&mut self.http).await?,
        };
        let found = discover::discover(&mut self.http, root).await?;
        self.keep(&found);
        Ok(found)
    }

    fn keep(&mut self, found: &Found) {
        self.http.learnt_more();
        let places = Places {
            layout: found.layout(),
            known: self.http.known().clone(),
        };
        self.http.options.learnt.set_places(self.http.key(), places);
    }

    /// Nothing that was found before is relied on any more.
    fn forget(&mut self) {
        self.http.options.learnt.forget_places(&self.http.key());
        self.http.set_known(Known::default());
        (self.root, self.found) = (None, None);
    }

    /// Keeps what a call has taught; after one that was answered with "there is no such thing", nothing.
    fn learnt<T>(&mut self, answer: Result<T, BmcError>) -> Result<T, BmcError> {
        match &answer {
            Err(error) if matches!(error.class, ErrorClass::Unsupported | ErrorClass::Protocol) => self.forget(),
            _ if self.http.learnt_more() => {
                if let Some(found) = self.found.take() {
                    self.keep(&found);
                    self.found = Some(found);
                }
            }
            _ => {}
        }
        answer
    }
}

#[async_trait]
impl Bmc for Redfish {
    async fn probe(&mut self) -> Result<Probe, BmcError> {
        self.http.begin("probe");
        let (http, found) = self.found().await?;
        let slot = match slots::slots(http, found, slots::Enable::No).await {
            Ok(slots) => slots.into_iter().next().map(|s| s.uri),
            Err(err) if err.class == ErrorClass::Unsupported => None,
            Err(err) => return Err(err),
        };
        let text = |value: &Value, name: &str| json::text(value, &[name]).unwrap_or_default().to_owned();
        Ok(Probe {
            vendor: found.vendor.clone(),
            model: text(&found.system, "Model"),
            firmware: text(&found.manager, "FirmwareVersion"),
            redfish_version: text(&found.root, "RedfishVersion"),
            system_uuid: json::text(&found.system, &["UUID"]).map(str::to_ascii_lowercase),
            system: found.system_uri.clone(),
            manager: found.manager_uri.clone().unwrap_or_default(),
            media_slot: slot,
        })
    }

    async fn media(&mut self) -> Result<Media, BmcError> {
        self.http.begin("read the virtual CD");
        let (http, found) = self.found().await?;
        let answer = media::state(http, found).await;
        self.learnt(answer)
    }

    async fn eject(&mut self) -> Result<(), BmcError> {
        self.http.begin("eject media");
        let (http, found) = self.found().await?;
        let answer = media::eject_all(http, found).await.map(|_| ());
        self.learnt(answer)
    }

    async fn insert_one_of(&mut self, urls: &[String]) -> Result<Media, BmcError> {
        self.http.begin("insert media");
        let learnt = Arc::clone(&self.http.options.learnt);
        let mut known = self.profile.clone();
        let (http, found) = self.found().await?;
        let kind = found.kind();
        if let Some(sibling) = learnt.of(&kind).filter(|_| known == Profile::default()) {
            known = sibling;
        }
        let inserted = media::insert(http, found, urls, &known).await;
        if let Err(error) = &inserted
            && matches!(error.class, ErrorClass::Refused | ErrorClass::Unsupported)
        {
            // Whether or not what was known is to blame: the next insert finds out by itself.
            learnt.forget(&kind);
            self.profile = Profile::default();
        }
        let inserted = self.learnt(inserted)?;
        self.profile = Profile {
            insert_members: inserted.members,
            refused_schemes: inserted.refused,
            slot: Some(inserted.media.slot.clone()),
        };
        learnt.remember(kind, self.profile.clone());
        Ok(inserted.media)
    }

    async fn boot_once(&mut self, target: BootTarget) -> Result<(), BmcError> {
        self.http.begin("set the one-time boot");
        let (http, found) = self.found().await?;
        let answer = boot::once(http, found, target).await;
        self.learnt(answer)
    }

    async fn boot_http_once(&mut self, url: &str) -> Result<(), BmcError> {
        self.http.begin("set the one-time HTTP boot");
        let (http, found) = self.found().await?;
        let answer = boot::http_once(http, found, url).await;
        self.learnt(answer)
    }

    async fn boot_always(&mut self, target: BootTarget) -> Result<(), BmcError> {
        self.http.begin("set the boot device for good");
        let (http, found) = self.found().await?;
        let answer = boot::always(http, found, target).await;
        self.learnt(answer)
    }

    async fn identify(&mut self, seconds: u8) -> Result<bool, BmcError> {
        self.http.begin("identify");
        let (http, found) = self.found().await?;
        let answer = inventory::identify(http, found, seconds > 0).await;
        self.learnt(answer)?;
        // Redfish knows no time for it.
        Ok(false)
    }

    async fn inventory(&mut self, part: Part) -> Result<Value, BmcError> {
        self.http.begin("read the inventory");
        let (http, found) = self.found().await?;
        let answer = inventory::read(http, found, part).await;
        self.learnt(answer)
    }

    async fn resources(&mut self, uris: &[String]) -> Result<Vec<(String, Option<Value>)>, BmcError> {
        self.http.begin("read its resources");
        walk::read(&mut self.http, uris).await
    }

    async fn clear_event_log(&mut self) -> Result<(), BmcError> {
        self.http.begin("clear the event log");
        let (http, found) = self.found().await?;
        records::clear(http, found).await
    }

    async fn host(&mut self) -> Result<HostState, BmcError> {
        self.http.begin("look at the machine");
        let (http, found) = self.found().await?;
        let answer = host::state(http, found).await;
        self.learnt(answer)
    }

    async fn reset_bmc(&mut self) -> Result<(), BmcError> {
        self.http.begin("reset the BMC");
        let (http, found) = self.found().await?;
        let answer = host::reset_bmc(http, found).await;
        self.learnt(answer)
    }

    async fn clear_sessions(&mut self) -> Result<u32, BmcError> {
        self.http.begin("end sessions");
        sessions::clear(&mut self.http).await
    }

    async fn clear_boot_override(&mut self) -> Result<(), BmcError> {
        self.http.begin("clear the one-time boot");
        let (http, found) = self.found().await?;
        let answer = boot::clear(http, found).await;
        self.learnt(answer)
    }

    async fn clear_http_boot(&mut self) -> Result<(), BmcError> {
        self.http.begin("clear the one-time HTTP boot");
        let (http, found) = self.found().await?;
        let answer = boot::clear_http(http, found).await;
        self.learnt(answer)
    }

    async fn power_state(&mut self) -> Result<PowerState, BmcError> {
        self.http.begin("read the power state");
        let just_read = self.is_lost();
        let (http, found) = self.found().await?;
        let answer = match just_read {
            true => {
                host::tell_progress(http, &found.system);
                Ok(power::state_of(&found.system))
            }
            false => power::state(http, found).await,
        };
        self.learnt(answer)
    }

    async fn power(&mut self, action: PowerAction) -> Result<(), BmcError> {
        self.http.begin(match action {
            PowerAction::On => "switch the power on",
            PowerAction::ForceOff => "switch the power off",
            PowerAction::GracefulShutdown => "ask for a shutdown",
            PowerAction::Cycle => "cycle the power",
        });
        let (http, found) = self.found().await?;
        let answer = power::act(http, found, action).await;
        self.learnt(answer)
    }

    fn certificate(&self) -> Option<Certificate> {
        self.http.certificate()
    }

    async fn rest(&mut self) -> bool {
        self.http.is_logged_in()
    }

    fn go_on(&mut self, endpoint: &Endpoint, recorder: Arc<dyn Recorder>, within: Duration) {
        if self.http.go_on(endpoint, recorder, within) {
            (self.root, self.found) = (None, None);
        }
    }

    async fn close(&mut self) {
        self.http.log_out().await;
    }
}
