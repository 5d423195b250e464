//! What one BMC taught, for its siblings (same maker, model and firmware) and for its own next conversations.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;

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

/// What was learnt in all conversations that share it. It lasts as long as the process.
#[derive(Debug, Default)]
pub struct Learnt {
    kinds: Mutex<HashMap<Kind, Profile>>,
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
        all.insert(kind, profile);
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
}
