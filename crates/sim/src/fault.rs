//! Faults that a test or an operator plants while the simulator runs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::log::Log;

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum FaultKind {
    /// A request is not answered and not done.
    Hang,
    /// A request is answered with this status and not done.
    Status {
        /// HTTP status.
        code: u16,
        /// Retry-After, seconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after_s: Option<u32>,
        /// MessageId of the answer (`Base.1.18.GeneralError`).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message_id: Option<String>,
        /// Its Message.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message: Option<String>,
    },
    /// A request is done and answered so much later.
    Slow {
        /// How much, ms.
        ms: u64,
    },
    /// As [`Self::Status`], until the BMC is reset.
    LockUp {
        /// HTTP status.
        code: u16,
        /// MessageId of the answer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message_id: Option<String>,
    },
    /// The connection is reset before the request is done.
    Reset,
    /// The request is done, then the connection is reset.
    LoseReply,
    /// The reply waits until the fault is released or removed, and so does the deed of a caller that hung up.
    Hold {
        /// The request is done before the wait; else after it.
        #[serde(default)]
        done: bool,
    },
    /// All sessions end; the request (if the fault has a matcher) meets 401.
    LoseSessions,
    /// The medium goes away under the machine and the slot shows empty.
    MediaLost,
    /// The medium goes away under the machine when that has read so much of it.
    MediaLostAt {
        /// Bytes.
        bytes: u64,
    },
    /// A request is answered with what no Redfish service answers, and not done.
    Malformed {
        /// With what.
        form: Malformed,
    },
    /// InsertMedia answers 204, mounts nothing and reads nothing.
    NoMount {
        /// What the slot says afterwards.
        #[serde(default)]
        inserted: bool,
    },
    /// After an eject the slot goes on saying that the old image is inserted.
    StaleInserted {
        /// For how long, ms; none: until the fault is removed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        for_ms: Option<u64>,
    },
    /// Power changes take this much longer.
    PowerLag {
        /// How much, ms.
        ms: u64,
    },
    /// A Reset is accepted and nothing happens.
    PowerIgnored,
    /// The boot override is accepted, shown, and not followed.
    OverrideIgnored,
    /// A one-time override stays after it was followed.
    OverrideKept,
    /// The operating system does not hear the power button.
    ButtonIgnored,
    /// Reads from the image's server fail.
    ReadError,
    /// Reads from the image's server stop coming until the fault is removed.
    ReadStall,
}

impl FaultKind {
    /// Its name in the API.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hang => "hang",
            Self::Status { .. } => "status",
            Self::Slow { .. } => "slow",
            Self::LockUp { .. } => "lock-up",
            Self::Reset => "reset",
            Self::LoseReply => "lose-reply",
            Self::Hold { .. } => "hold",
            Self::LoseSessions => "lose-sessions",
            Self::MediaLost => "media-lost",
            Self::MediaLostAt { .. } => "media-lost-at",
            Self::Malformed { .. } => "malformed",
            Self::NoMount { .. } => "no-mount",
            Self::StaleInserted { .. } => "stale-inserted",
            Self::PowerLag { .. } => "power-lag",
            Self::PowerIgnored => "power-ignored",
            Self::OverrideIgnored => "override-ignored",
            Self::OverrideKept => "override-kept",
            Self::ButtonIgnored => "button-ignored",
            Self::ReadError => "read-error",
            Self::ReadStall => "read-stall",
        }
    }

    /// Met by a request, and not by a deed of the BMC.
    fn of_requests(&self) -> bool {
        matches!(
            self,
            Self::Hang
                | Self::Status { .. }
                | Self::Slow { .. }
                | Self::LockUp { .. }
                | Self::Reset
                | Self::LoseReply
                | Self::Hold { .. }
                | Self::LoseSessions
                | Self::MediaLost
                | Self::Malformed { .. }
        )
    }
}

/// An answer that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Malformed {
    /// JSON that ends in its middle.
    Truncated,
    /// A web page.
    Html,
    /// A body without an end, as fast as it is taken.
    Endless,
    /// A body without an end, a byte a second.
    Drip,
    /// A redirect to another host.
    Redirect,
}

/// A planted fault: what, and which requests meet it.
///
/// `{"kind":"status","code":503,"method":"POST","path":"InsertMedia","skip":1,"times":2}`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// What.
    #[serde(flatten)]
    pub kind: FaultKind,
    /// Only requests with this method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Only requests whose path holds this, in any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Lets this many pass first.
    #[serde(default)]
    pub skip: u32,
    /// Gone after it was met this often; none: stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u32>,
}

impl From<FaultKind> for Fault {
    fn from(kind: FaultKind) -> Self {
        Self {
            kind,
            method: None,
            path: None,
            skip: 0,
            times: None,
        }
    }
}

impl Fault {
    /// Met by requests whose path holds `path`.
    #[must_use]
    pub fn on(mut self, method: &str, path: &str) -> Self {
        self.method = Some(method.to_owned());
        self.path = Some(path.to_owned());
        self
    }

    /// Gone after it was met once.
    #[must_use]
    pub fn once(mut self) -> Self {
        self.times = Some(1);
        self
    }

    pub(crate) fn has_matcher(&self) -> bool {
        self.method.is_some() || self.path.is_some()
    }

    fn matches(&self, method: &str, path: &str) -> bool {
        self.method.as_deref().is_none_or(|m| m.eq_ignore_ascii_case(method))
            && self
                .path
                .as_deref()
                .is_none_or(|p| path.to_ascii_lowercase().contains(&p.to_ascii_lowercase()))
    }
}

/// A fault as the API lists it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Planted {
    /// Number, for removal and release.
    pub id: u64,
    /// How often it was met.
    pub met: u32,
    /// The fault.
    #[serde(flatten)]
    pub fault: Fault,
}

struct Entry {
    planted: Planted,
    /// Dropped when the fault is removed, true when it is released: ends holds and stalls.
    over: watch::Sender<bool>,
    spent: bool,
}

/// A fault that was just met.
pub(crate) struct Met {
    pub(crate) kind: FaultKind,
    over: watch::Receiver<bool>,
}

impl Met {
    /// Until the fault is released or removed.
    pub(crate) async fn released(&mut self) {
        // An error means that the fault was removed: over as well.
        let _ = self.over.wait_for(|released| *released).await;
    }
}

/// The faults of one simulator.
#[derive(Default)]
pub(crate) struct Faults {
    entries: Mutex<(u64, Vec<Entry>)>,
    /// Whose waiters hear of faults that are met.
    log: Arc<Log>,
}

impl Faults {
    pub(crate) fn new(log: Arc<Log>) -> Self {
        Self {
            entries: Mutex::default(),
            log,
        }
    }

    fn lock(&self) -> MutexGuard<'_, (u64, Vec<Entry>)> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn plant(&self, fault: Fault) -> u64 {
        let mut entries = self.lock();
        entries.0 += 1;
        let id = entries.0;
        let planted = Planted { id, met: 0, fault };
        entries.1.push(Entry {
            planted,
            over: watch::Sender::new(false),
            spent: false,
        });
        id
    }

    /// Removes one; holds and stalls of it end.
    pub(crate) fn remove(&self, id: u64) -> bool {
        let mut entries = self.lock();
        let before = entries.1.len();
        entries.1.retain(|e| e.planted.id != id);
        entries.1.len() != before
    }

    /// What a reset of the BMC mends.
    pub(crate) fn end_lock_ups(&self) {
        let is = |entry: &Entry| matches!(entry.planted.fault.kind, FaultKind::LockUp { .. });
        self.lock().1.retain(|entry| !is(entry));
    }

    pub(crate) fn clear(&self) {
        self.lock().1.clear();
    }

    /// Lets what waits on it go on; later requests meet it no more.
    pub(crate) fn release(&self, id: u64) -> bool {
        let mut entries = self.lock();
        let Some(entry) = entries.1.iter_mut().find(|e| e.planted.id == id) else {
            return false;
        };
        entry.spent = true;
        entry.over.send_replace(true);
        true
    }

    pub(crate) fn list(&self) -> Vec<Planted> {
        self.lock().1.iter().map(|e| e.planted.clone()).collect()
    }

    fn meet(&self, wanted: impl Fn(&Fault) -> bool) -> Option<Met> {
        let mut entries = self.lock();
        for entry in entries.1.iter_mut().filter(|e| !e.spent) {
            if !wanted(&entry.planted.fault) {
                continue;
            }
            if entry.planted.fault.skip > 0 {
                entry.planted.fault.skip -= 1;
                continue;
            }
            entry.planted.met += 1;
            if entry
                .planted
                .fault
                .times
                .is_some_and(|times| entry.planted.met >= times)
            {
                entry.spent = true;
            }
            let met = Met {
                kind: entry.planted.fault.kind.clone(),
                over: entry.over.subscribe(),
            };
            drop(entries);
            self.log.touch();
            return Some(met);
        }
        None
    }

    /// The fault that a request meets.
    pub(crate) fn meet_request(&self, method: &str, path: &str) -> Option<Met> {
        self.meet(|fault| fault.kind.of_requests() && fault.matches(method, path))
    }

    /// The fault of a deed that `wanted` looks for.
    pub(crate) fn meet_deed(&self, wanted: impl Fn(&FaultKind) -> bool) -> Option<Met> {
        self.meet(|fault| !fault.kind.of_requests() && wanted(&fault.kind))
    }

    /// Whether such a fault is there, without it counting as met.
    pub(crate) fn has(&self, wanted: impl Fn(&FaultKind) -> bool) -> bool {
        self.lock().1.iter().any(|e| !e.spent && wanted(&e.planted.fault.kind))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_fault_reads_as_flat_json() {
        let text = r#"{"kind":"status","code":503,"method":"POST","path":"InsertMedia","times":2}"#;
        let fault: Fault = serde_json::from_str(text).unwrap();
        assert!(matches!(fault.kind, FaultKind::Status { code: 503, .. }));
        assert_eq!(fault.times, Some(2));
        let hold: Fault = serde_json::from_str(r#"{"kind":"hold"}"#).unwrap();
        assert_eq!(hold.kind, FaultKind::Hold { done: false });
    }

    #[test]
    fn skip_and_times_are_counted() {
        let faults = Faults::default();
        let mut fault = Fault::from(FaultKind::Hang).on("GET", "/systems");
        fault.skip = 1;
        fault.times = Some(2);
        faults.plant(fault);
        let met = |path| faults.meet_request("GET", path).is_some();
        assert!(!met("/redfish/v1/Managers"));
        assert!(!met("/redfish/v1/Systems/1"), "skipped");
        assert!(met("/redfish/v1/Systems/1"));
        assert!(met("/redfish/v1/Systems/1"));
        assert!(!met("/redfish/v1/Systems/1"), "spent");
        assert_eq!(faults.list()[0].met, 2);
    }

    #[tokio::test]
    async fn removing_a_fault_releases_what_waits() {
        let faults = Faults::default();
        let id = faults.plant(FaultKind::Hold { done: true }.into());
        let mut met = faults.meet_request("POST", "/x").unwrap();
        assert!(faults.remove(id));
        met.released().await;
        assert!(!faults.release(id));
    }
}
