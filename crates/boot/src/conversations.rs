//! Conversations with BMCs that go on over several exchanges: a BMC takes long over a login, and has few sessions.
//!
//! There is one per BMC at most, and only who has the BMC's turn touches it. It is closed when nobody has used it for a
//! few seconds (others need sessions, too), when login, certificate or protocol are to be others, and after an error that
//! leaves it open whether the BMC is still at it. A process that is killed leaves its sessions to the BMC's own timeout.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use isobar_bmc::{Bmc, Endpoint, TlsTrust};
use tokio::sync::Notify;

use crate::state::{Inner, lock};

/// Then it is closed even if it is in use: a name may mean another address by now.
const LONGEST: Duration = Duration::from_secs(600);
/// Conversations that are kept, for each that may be under way.
const FOR_EACH: usize = 4;
/// Between two looks at what is idle, at least.
const LOOK: Duration = Duration::from_millis(100);

/// One that waits for its next exchange.
pub(crate) struct Kept {
    pub(crate) bmc: Box<dyn Bmc>,
    /// As it was last spoken to.
    pub(crate) endpoint: Endpoint,
    pub(crate) site: Option<String>,
    pub(crate) opened: Instant,
    /// Nothing but the end of its session may be asked for.
    pub(crate) doubtful: bool,
}

impl Kept {
    /// Whether an exchange with this endpoint may go on in it.
    pub(crate) fn serves(&self, endpoint: &Endpoint) -> bool {
        let Endpoint {
            url,
            username,
            password,
            tls,
            mode,
            ipmi,
            shadow,
            // Found anew in the same conversation.
            system: _,
            machine_uuid: _,
        } = &self.endpoint;
        let pinned_since = || match (tls, &endpoint.tls) {
            (TlsTrust::FirstUse, TlsTrust::Pinned(pin)) => {
                self.bmc.certificate().is_some_and(|shown| shown.fingerprint == *pin)
            }
            _ => false,
        };
        !self.doubtful
            && self.opened.elapsed() < LONGEST
            && *url == endpoint.url
            && *username == endpoint.username
            && password.reveal() == endpoint.password.reveal()
            && *mode == endpoint.mode
            && *ipmi == endpoint.ipmi
            && *shadow == endpoint.shadow
            && (*tls == endpoint.tls || pinned_since())
    }
}

struct Idle {
    kept: Kept,
    since: Instant,
    /// Somebody is on the way to close it.
    closing: bool,
}

/// All that are kept, by `host:port`.
pub(crate) struct Conversations {
    /// None: nothing is kept any more.
    idle: Mutex<Option<HashMap<String, Idle>>>,
    most: usize,
    time: Duration,
    more: Notify,
}

impl Conversations {
    pub(crate) fn new(at_once: usize, time: Duration) -> Self {
        Self {
            idle: Mutex::new(Some(HashMap::new())),
            most: at_once.saturating_mul(FOR_EACH),
            time,
            more: Notify::new(),
        }
    }

    pub(crate) fn take(&self, bmc: &str) -> Option<Kept> {
        let idle = lock(&self.idle).as_mut()?.remove(bmc)?;
        Some(idle.kept)
    }

    /// Keeps it, or gives it back where nothing more can be kept.
    pub(crate) fn keep(&self, bmc: &str, kept: Kept) -> Option<Kept> {
        let mut all = lock(&self.idle);
        let Some(all) = all.as_mut().filter(|all| !self.time.is_zero() && all.len() < self.most) else {
            return Some(kept);
        };
        let idle = Idle {
            kept,
            since: Instant::now(),
            closing: false,
        };
        all.insert(bmc.to_owned(), idle);
        self.more.notify_one();
        None
    }

    fn is_due(&self, idle: &Idle) -> bool {
        idle.since.elapsed() >= self.time
    }

    /// Takes it if nobody has used it meanwhile.
    pub(crate) fn take_due(&self, bmc: &str) -> Option<Kept> {
        let mut all = lock(&self.idle);
        let all = all.as_mut()?;
        let due = all.get(bmc).is_some_and(|idle| self.is_due(idle));
        due.then(|| all.remove(bmc)).flatten().map(|idle| idle.kept)
    }

    /// Those to be closed now, each once; and when the next one may be due.
    fn due(&self) -> (Vec<(Endpoint, Option<String>)>, Option<Instant>) {
        let (mut due, mut next) = (Vec::new(), None::<Instant>);
        for idle in lock(&self.idle).iter_mut().flat_map(HashMap::values_mut) {
            if idle.closing {
                continue;
            }
            if self.is_due(idle) {
                idle.closing = true;
                due.push((idle.kept.endpoint.clone(), idle.kept.site.clone()));
            } else {
                let then = idle.since + self.time;
                next = Some(next.map_or(then, |next| next.min(then)));
            }
        }
        (due, next)
    }

    /// From here on nothing is kept; what there is.
    pub(crate) fn end(&self) -> Vec<Kept> {
        let all = lock(&self.idle).take().unwrap_or_default();
        all.into_values().map(|idle| idle.kept).collect()
    }
}

/// Closes what is idle, for as long as the runtime lives.
pub(crate) fn run(inner: &Arc<Inner>) {
    let inner = Arc::clone(inner);
    let runtime = inner.runtime.clone();
    runtime.spawn(async move {
        loop {
            let conversations = &inner.gate.conversations;
            let (due, next) = conversations.due();
            for (endpoint, site) in due {
                let inner = Arc::clone(&inner);
                tokio::spawn(async move { inner.gate.close_idle(&endpoint, site.as_deref()).await });
            }
            match next {
                Some(next) => tokio::time::sleep_until(next.max(Instant::now() + LOOK).into()).await,
                None => conversations.more.notified().await,
            }
        }
    });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use async_trait::async_trait;
    use isobar_bmc::{
        BmcError, BootTarget, Certificate, ErrorClass, HostState, IpmiFace, Media, Mode, PowerAction, PowerState,
        Probe, Secret,
    };

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// Says nothing, and has shown this certificate.
    struct Mute(Option<&'static str>);

    fn nothing<T>() -> Result<T, BmcError> {
        Err(BmcError::new(ErrorClass::Unsupported, "talk", "it is mute".to_owned()))
    }

    #[async_trait]
    impl Bmc for Mute {
        async fn probe(&mut self) -> Result<Probe, BmcError> {
            nothing()
        }
        async fn media(&mut self) -> Result<Media, BmcError> {
            nothing()
        }
        async fn eject(&mut self) -> Result<(), BmcError> {
            nothing()
        }
        async fn insert_one_of(&mut self, _: &[String]) -> Result<Media, BmcError> {
            nothing()
        }
        async fn boot_once(&mut self, _: BootTarget) -> Result<(), BmcError> {
            nothing()
        }
        async fn boot_http_once(&mut self, _: &str) -> Result<(), BmcError> {
            nothing()
        }
        async fn host(&mut self) -> Result<HostState, BmcError> {
            nothing()
        }
        async fn reset_bmc(&mut self) -> Result<(), BmcError> {
            nothing()
        }
        async fn clear_boot_override(&mut self) -> Result<(), BmcError> {
            nothing()
        }
        async fn power_state(&mut self) -> Result<PowerState, BmcError> {
            nothing()
        }
        async fn power(&mut self, _: PowerAction) -> Result<(), BmcError> {
            nothing()
        }
        fn certificate(&self) -> Option<Certificate> {
            Some(Certificate {
                fingerprint: self.0?.to_owned(),
                proven: true,
            })
        }
        async fn close(&mut self) {}
    }

    fn endpoint() -> Endpoint {
        Endpoint {
            url: "https://10.0.0.5/".parse().unwrap(),
            username: "root".to_owned(),
            password: Secret::new("one".to_owned()),
            tls: TlsTrust::FirstUse,
            system: None,
            machine_uuid: None,
            mode: Mode::default(),
            ipmi: IpmiFace::default(),
            shadow: false,
        }
    }

    fn kept() -> Kept {
        Kept {
            bmc: Box::new(Mute(Some("ab"))),
            endpoint: endpoint(),
            site: None,
            opened: Instant::now(),
            doubtful: false,
        }
    }

    #[test]
    fn a_conversation_goes_on_with_whom_it_was_opened_for() {
        type Change = fn(&mut Endpoint);
        let changes: [(&str, Change, bool); 11] = [
            ("nothing", |_| {}, true),
            ("system", |e| e.system = Some("2".to_owned()), true),
            ("machine", |e| e.machine_uuid = Some("u".to_owned()), true),
            ("pinned since", |e| e.tls = TlsTrust::Pinned("ab".to_owned()), true),
            ("pin", |e| e.tls = TlsTrust::Pinned("cd".to_owned()), false),
            ("user", |e| e.username = "admin".to_owned(), false),
            ("password", |e| e.password = Secret::new("two".to_owned()), false),
            ("scheme", |e| e.url = "http://10.0.0.5:443/".parse().unwrap(), false),
            ("mode", |e| e.mode = Mode::Redfish, false),
            ("IPMI port", |e| e.ipmi.port = 6230, false),
            ("shadow", |e| e.shadow = true, false),
        ];
        for (what, change, serves) in changes {
            let mut other = endpoint();
            change(&mut other);
            assert_eq!(kept().serves(&other), serves, "{what}");
        }
        let doubtful = Kept {
            doubtful: true,
            ..kept()
        };
        assert!(!doubtful.serves(&endpoint()));
        if let Some(opened) = Instant::now().checked_sub(LONGEST) {
            assert!(
                !Kept { opened, ..kept() }.serves(&endpoint()),
                "it has gone on for long"
            );
        }
    }

    #[test]
    fn what_is_kept_is_bounded_closed_once_and_nothing_after_the_end() {
        let conversations = Conversations::new(1, HOUR);
        for n in 0..FOR_EACH {
            assert!(conversations.keep(&n.to_string(), kept()).is_none());
        }
        assert!(conversations.keep("more", kept()).is_some(), "it comes back");
        assert!(conversations.take_due("0").is_none(), "somebody has used it just now");
        assert!(conversations.due().0.is_empty() && conversations.due().1.is_some());
        assert!(conversations.take("0").is_some() && conversations.take("0").is_none());
        assert!(conversations.keep("more", kept()).is_none(), "there is room again");
        assert_eq!(conversations.end().len(), FOR_EACH);
        assert!(conversations.keep("late", kept()).is_some());

        let conversations = Conversations::new(1, Duration::from_nanos(1));
        assert!(conversations.keep("a", kept()).is_none());
        let due = |conversations: &Conversations| conversations.due().0.len();
        assert_eq!(
            (due(&conversations), due(&conversations)),
            (1, 0),
            "one is sent to close it"
        );
        assert!(conversations.take_due("a").is_some() && conversations.take_due("a").is_none());
        assert!(
            Conversations::new(1, Duration::ZERO).keep("a", kept()).is_some(),
            "0 keeps none"
        );
    }
}
