//! What one BMC taught, for its siblings: same maker, model and firmware.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Profile;
use crate::Probe;

/// More models and firmwares than a site has; then what is known is forgotten, and learnt again.
const MOST: usize = 1000;

/// Maker, model, firmware.
pub(crate) type Kind = (String, String, String);

/// What was learnt in all conversations that share it. It lasts as long as the process.
#[derive(Debug, Default)]
pub struct Learnt(Mutex<HashMap<Kind, Profile>>);

impl Learnt {
    fn all(&self) -> MutexGuard<'_, HashMap<Kind, Profile>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
