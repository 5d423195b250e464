//! What one BMC taught, for its siblings (same maker, model and firmware) and for its own next conversations.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::sync::Notify;

use super::Profile;
use super::discover::Layout;
use super::slots::Slot;
use crate::Probe;

/// More models and firmwares than a site has; then what is known is forgotten, and learnt again.
const MOST: usize = 1000;
/// The same of BMCs.
const MOST_BMCS: usize = 100_000;

/// The same of machines whose BMCs' layout is kept: 2 to 3 KB each.
const MOST_LAYOUTS: usize = 50_000;

/// Maker, model, firmware.
pub(crate) type Kind = (String, String, String);

/// How a BMC may be spoken to, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faces {
    /// It has taken a login over Redfish.
    pub redfish: bool,
    /// It has refused over IPMI the login that it takes over Redfish.
    pub ipmi_refuses: bool,
}

/// Beside the layout: what the BMC says of itself that only another firmware changes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Known {
    /// The slots that take our CD, best first, without what is in them.
    pub(crate) slots: Vec<Slot>,
    /// Parameters of actions, by the URI of their ActionInfo; empty where there is none.
    pub(crate) infos: Vec<(String, Vec<Value>)>,
}

/// Where things are at one BMC, and how they are used.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Places {
    pub(crate) layout: Layout,
    pub(crate) known: Known,
}

/// What is known, or no longer known, of BMCs of one maker, model and firmware.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taught {
    /// Maker.
    pub vendor: String,
    /// Model.
    pub model: String,
    /// Firmware of the manager.
    pub firmware: String,
    /// None: it was refused, and is forgotten.
    pub profile: Option<Profile>,
}

/// What was learnt in all conversations that share it. It lasts as long as the process; what is to last longer, whoever
/// [`Learnt::changed`] wakes keeps.
#[derive(Debug, Default)]
pub struct Learnt {
    kinds: Mutex<HashMap<Kind, Profile>>,
    unsaved: Mutex<HashSet<Kind>>,
    more: Notify,
    faces: Mutex<HashMap<String, Faces>>,
    places: Mutex<HashMap<String, Arc<Places>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Learnt {
    fn all(&self) -> MutexGuard<'_, HashMap<Kind, Profile>> {
        lock(&self.kinds)
    }

    /// What is known of a BMC, by [`Endpoint::name`](crate::Endpoint::name).
    #[must_use]
    pub fn faces(&self, bmc: &str) -> Faces {
        lock(&self.faces).get(bmc).copied().unwrap_or_default()
    }

    /// Keeps it for the next conversation.
    pub fn set_faces(&self, bmc: &str, known: Faces) {
        let mut faces = lock(&self.faces);
        if faces.len() >= MOST_BMCS && !faces.contains_key(bmc) {
            faces.clear();
        }
        faces.insert(bmc.to_owned(), known);
    }

    /// What an earlier conversation has found, by the BMC and the system that is meant.
    pub(crate) fn places(&self, system: &str) -> Option<Arc<Places>> {
        lock(&self.places).get(system).cloned()
    }

    pub(crate) fn set_places(&self, system: String, found: Places) {
        let mut places = lock(&self.places);
        if places.len() >= MOST_LAYOUTS && !places.contains_key(&system) {
            places.clear();
        }
        places.insert(system, Arc::new(found));
    }

    pub(crate) fn forget_places(&self, system: &str) {
        lock(&self.places).remove(system);
    }

    pub(crate) fn of(&self, kind: &Kind) -> Option<Profile> {
        self.all().get(kind).cloned()
    }

    pub(crate) fn remember(&self, kind: Kind, profile: Profile) {
        // A BMC that does not say what it is has no siblings.
        if kind.1.is_empty() || kind.2.is_empty() {
            return;
        }
        let mut all = self.all();
        if all.len() >= MOST && !all.contains_key(&kind) {
            all.clear();
        }
        if all.insert(kind.clone(), profile.clone()) != Some(profile) {
            self.tell(kind);
        }
    }

    /// What was known of these has failed.
    pub(crate) fn forget(&self, kind: &Kind) {
        if self.all().remove(kind).is_some() {
            self.tell(kind.clone());
        }
    }

    fn tell(&self, kind: Kind) {
        let mut unsaved = lock(&self.unsaved);
        // Where nobody keeps anything, nothing piles up.
        if unsaved.len() >= MOST {
            unsaved.clear();
        }
        unsaved.insert(kind);
        self.more.notify_one();
    }

    /// Waits until there is something new to keep.
    pub async fn changed(&self) {
        self.more.notified().await;
    }

    /// What is new since this was asked last.
    #[must_use]
    pub fn unsaved(&self) -> Vec<Taught> {
        let kinds = std::mem::take(&mut *lock(&self.unsaved));
        let all = self.all();
        let taught = kinds.into_iter().map(|kind| {
            let profile = all.get(&kind).cloned();
            let (vendor, model, firmware) = kind;
            Taught {
                vendor,
                model,
                firmware,
                profile,
            }
        });
        taught.collect()
    }

    /// What an earlier process has kept.
    pub fn restore(&self, taught: Taught) {
        let Taught {
            vendor,
            model,
            firmware,
            profile,
        } = taught;
        if let Some(profile) = profile {
            self.all().insert((vendor, model, firmware), profile);
        }
    }

    /// What is known of the BMC that answered this.
    #[must_use]
    pub fn profile(&self, probe: &Probe) -> Option<Profile> {
        self.of(&(probe.vendor.clone(), probe.model.clone(), probe.firmware.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn siblings_alone_and_not_without_end() {
        let learnt = Learnt::default();
        let kind = |model: &str, firmware: &str| ("AMI".to_owned(), model.to_owned(), firmware.to_owned());
        let taught = Profile {
            insert_members: vec!["TransferProtocolType".into()],
            ..Profile::default()
        };
        learnt.remember(kind("H262", "1.0"), taught.clone());
        assert_eq!(learnt.of(&kind("H262", "1.0")), Some(taught.clone()));
        assert_eq!(learnt.of(&kind("H262", "2.0")), None);
        learnt.remember(kind("", ""), taught.clone());
        assert_eq!(learnt.of(&kind("", "")), None, "it does not say what it is");
        for n in 0..3 * MOST {
            learnt.remember(kind("H262", &n.to_string()), taught.clone());
        }
        assert!(learnt.all().len() <= MOST);
    }

    #[test]
    fn what_is_new_is_told_once_and_what_is_forgotten_too() {
        let learnt = Learnt::default();
        let kind = ("AMI".to_owned(), "H262".to_owned(), "1.0".to_owned());
        let taught = Profile {
            refused_schemes: vec!["http".into()],
            ..Profile::default()
        };
        learnt.remember(kind.clone(), taught.clone());
        let told = learnt.unsaved().remove(0);
        assert_eq!((told.model.as_str(), told.profile.as_ref()), ("H262", Some(&taught)));
        learnt.remember(kind.clone(), taught.clone());
        assert_eq!(learnt.unsaved(), [], "nothing new");
        let other = Learnt::default();
        other.restore(told);
        assert_eq!((other.of(&kind), other.unsaved()), (Some(taught), vec![]));
        other.forget(&kind);
        assert_eq!(other.unsaved().first().map(|told| told.profile.clone()), Some(None));
        assert_eq!(other.of(&kind), None);
    }
}
