//! Who is talking to which BMC, and who waits for what: the lease of each endpoint, as people see it.
//!
//! The lease itself is one of [`crate::turns`]; its durable half is [`crate::ledger`].

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::state::lock;
use crate::turns::Full;

/// What somebody in line is at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// Its turn, which the BMC, its site or the server may have no room for.
    Turn(Option<String>),
    /// An exchange that nobody waits for any more may still be under way there.
    Doubt(Instant),
    /// Its own exchange, which has ended by then.
    Talking(&'static str, Instant),
}

#[derive(Clone, Debug)]
struct Place {
    who: String,
    bmc: String,
    at: At,
    since: Instant,
}

/// All who wait for a BMC or talk to one.
#[derive(Default)]
pub(crate) struct Line {
    places: Mutex<(u64, BTreeMap<u64, Place>)>,
}

/// A place in line; given up when it is dropped.
pub(crate) struct Ticket<'a> {
    line: &'a Line,
    number: u64,
}

/// A place as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// Id of the boot or operation.
    pub(crate) who: String,
    /// `host:port`.
    pub(crate) bmc: String,
    /// For people.
    pub(crate) why: String,
    /// Its own exchange is under way.
    pub(crate) talking: bool,
    /// At the latest after this time there is something new.
    pub(crate) left: Option<Duration>,
    pub(crate) since: Duration,
}

impl Line {
    pub(crate) fn join(&self, who: &str, bmc: &str) -> Ticket<'_> {
        let mut places = lock(&self.places);
        places.0 += 1;
        let number = places.0;
        let place = Place {
            who: who.to_owned(),
            bmc: bmc.to_owned(),
            at: At::Turn(None),
            since: Instant::now(),
        };
        places.1.insert(number, place);
        Ticket { line: self, number }
    }

    /// Everybody, in the order in which they came. `why` tells what keeps an exchange with a BMC of a site from beginning.
    pub(crate) fn waiting(&self, now: Instant, why: impl Fn(&str, Option<&str>) -> Option<Full>) -> Vec<Waiting> {
        let places = lock(&self.places);
        let talking = places.1.values().filter_map(|place| match &place.at {
            At::Talking(verb, until) => Some((place.bmc.as_str(), (place.who.as_str(), *verb, *until))),
            _ => None,
        });
        let talking: HashMap<&str, _> = talking.collect();
        let show = |place: &Place| {
            let (why, until) = match &place.at {
                At::Turn(site) => match (why(&place.bmc, site.as_deref()), talking.get(place.bmc.as_str())) {
                    (Some(Full::Bmc), Some((who, verb, until))) => (
                        format!("waits for BMC {}: `{verb}` of {who} is under way there", place.bmc),
                        Some(*until),
                    ),
                    (Some(Full::Site), _) => {
                        let site = site.as_deref().unwrap_or_default();
                        let text = format!("waits for a free connection to site {site} (site_connections)");
                        (text, None)
                    }
                    (Some(Full::All), _) => ("waits for a free connection to BMCs (bmc_connections)".to_owned(), None),
                    _ => (format!("waits for its turn at BMC {}", place.bmc), None),
                },
                At::Doubt(until) => (
                    format!("waits out what may still be under way at BMC {}", place.bmc),
                    Some(*until),
                ),
                At::Talking(verb, until) => (format!("`{verb}` is under way at BMC {}", place.bmc), Some(*until)),
            };
            Waiting {
                who: place.who.clone(),
                bmc: place.bmc.clone(),
                why,
                talking: matches!(place.at, At::Talking(..)),
                left: until.map(|until| until.saturating_duration_since(now)),
                since: now.saturating_duration_since(place.since),
            }
        };
        places.1.values().map(show).collect()
    }
}

impl Ticket<'_> {
    pub(crate) fn at(&self, at: At) {
        if let Some(place) = lock(&self.line.places).1.get_mut(&self.number) {
            place.at = at;
        }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        lock(&self.line.places).1.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_is_told_for_whom_and_until_when() {
        let line = Line::default();
        let now = Instant::now();
        let first = line.join("boot-1", "a:443");
        first.at(At::Talking("insert", now + Duration::from_secs(9)));
        let second = line.join("boot-2", "a:443");
        let other = line.join("boot-3", "b:443");
        other.at(At::Turn(Some("oslo".to_owned())));
        let why = |bmc: &str, _: Option<&str>| Some(if bmc == "a:443" { Full::Bmc } else { Full::Site });
        let told = line.waiting(now, why);
        assert_eq!(
            told.iter().map(|w| (w.who.as_str(), w.talking)).collect::<Vec<_>>(),
            [("boot-1", true), ("boot-2", false), ("boot-3", false)]
        );
        assert!(told[1].why.contains("`insert` of boot-1") && told[1].left == Some(Duration::from_secs(9)));
        assert!(told[2].why.contains("site oslo"));
        drop((first, second));
        assert_eq!(line.waiting(now, why).len(), 1);
    }
}
