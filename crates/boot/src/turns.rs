//! Whose turn it is: one exchange at a time per BMC, so many per site and in all; among those who could begin, who is
//! furthest along.
//!
//! Of a thousand boots that take turns step by step the first is up when all are: better that some are up soon. So that
//! nobody waits for ever, one turn in [`FAIR`] is the oldest's.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;

use crate::state::lock;

/// One turn in so many goes by who came first.
const FAIR: u64 = 8;

/// Who goes before whom: the lower the earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// Somebody waits for the answer.
    Asked,
    /// A boot that has so many steps before it.
    Boot(u8),
    /// Nothing depends on it.
    Idle,
}

/// What an exchange takes up.
#[derive(Clone, Debug)]
struct Place {
    bmc: String,
    site: Option<String>,
}

struct Waiter {
    place: Place,
    turn: oneshot::Sender<Lease>,
}

/// Why somebody waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// Another exchange with the same BMC.
    Bmc,
    /// As many conversations with the site as there may be.
    Site,
    /// As many in all.
    All,
}

#[derive(Default)]
struct State {
    busy: HashSet<String>,
    sites: HashMap<String, usize>,
    taken: usize,
    given: u64,
    came: u64,
    waiting: BTreeMap<(Rank, u64), Waiter>,
    /// Those who wait, in the order in which they came.
    line: BTreeMap<u64, Rank>,
}

/// All turns there are.
pub(crate) struct Turns {
    state: Mutex<State>,
    all: usize,
    /// 0: no limit of its own.
    per_site: usize,
}

/// A turn, given back when it is dropped.
pub(crate) struct Lease {
    turns: Arc<Turns>,
    place: Place,
}

impl Turns {
    pub(crate) fn new(all: usize, per_site: usize) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            all: all.max(1),
            per_site,
        })
    }

    /// Waits until this BMC is free, and its site and the server have room.
    pub(crate) async fn take(self: &Arc<Self>, bmc: &str, site: Option<&str>, rank: Rank) -> Lease {
        let place = Place {
            bmc: bmc.to_owned(),
            site: site.filter(|_| self.per_site > 0).map(str::to_owned),
        };
        loop {
            let (sender, receiver) = oneshot::channel();
            let number = {
                let mut state = lock(&self.state);
                // Whoever waits already could not begin, and nothing has become free since.
                if self.full(&state, &place).is_none() {
                    return self.give(&mut state, place);
                }
                state.came += 1;
                let number = state.came;
                state.line.insert(number, rank);
                let waiter = Waiter {
                    place: place.clone(),
                    turn: sender,
                };
                state.waiting.insert((rank, number), waiter);
                number
            };
            let _leaves = Leaves {
                turns: self,
                rank,
                number,
            };
            if let Ok(lease) = receiver.await {
                return lease;
            }
        }
    }

    /// What keeps such a caller from beginning at once.
    pub(crate) fn why(&self, bmc: &str, site: Option<&str>) -> Option<Full> {
        let place = Place {
            bmc: bmc.to_owned(),
            site: site.filter(|_| self.per_site > 0).map(str::to_owned),
        };
        self.full(&lock(&self.state), &place)
    }

    fn full(&self, state: &State, place: &Place) -> Option<Full> {
        let at_site = place.site.as_ref().and_then(|site| state.sites.get(site));
        if state.busy.contains(&place.bmc) {
            Some(Full::Bmc)
        } else if at_site.is_some_and(|taken| *taken >= self.per_site) {
            Some(Full::Site)
        } else {
            (state.taken >= self.all).then_some(Full::All)
        }
    }

    fn give(self: &Arc<Self>, state: &mut State, place: Place) -> Lease {
        state.busy.insert(place.bmc.clone());
        if let Some(site) = &place.site {
            *state.sites.entry(site.clone()).or_default() += 1;
        }
        state.taken += 1;
        state.given += 1;
        Lease {
            turns: Arc::clone(self),
            place,
        }
    }

    /// Who waits and could begin: the one that is furthest along, or now and then the one that came first.
    fn next(self: &Arc<Self>, state: &mut State) -> Option<(oneshot::Sender<Lease>, Lease)> {
        if state.taken >= self.all {
            return None;
        }
        let free = |key: &(Rank, u64)| {
            let waiter = state.waiting.get(key)?;
            self.full(state, &waiter.place).is_none().then_some(*key)
        };
        let key = match (state.given + 1).is_multiple_of(FAIR) {
            true => state.line.iter().find_map(|(number, rank)| free(&(*rank, *number))),
            false => state.waiting.keys().find_map(free),
        }?;
        let waiter = state.waiting.remove(&key)?;
        state.line.remove(&key.1);
        let lease = self.give(state, waiter.place);
        Some((waiter.turn, lease))
    }
}

/// Who waited does so no more.
struct Leaves<'a> {
    turns: &'a Turns,
    rank: Rank,
    number: u64,
}

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.turns.state);
        state.line.remove(&self.number);
        state.waiting.remove(&(self.rank, self.number));
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut given = Vec::new();
        {
            let mut state = lock(&self.turns.state);
            state.busy.remove(&self.place.bmc);
            if let Some(site) = &self.place.site
                && let Some(taken) = state.sites.get_mut(site)
            {
                *taken -= 1;
                if *taken == 0 {
                    state.sites.remove(site);
                }
            }
            state.taken -= 1;
            while let Some(next) = self.turns.next(&mut state) {
                given.push(next);
            }
        }
        // Not under the lock: whoever has left meanwhile gives the turn back at once.
        for (waiter, lease) in given {
            drop(waiter.send(lease));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Waits = tokio::task::JoinHandle<Lease>;

    /// Waits for a turn, and has joined the line when this returns, or had its turn at once.
    async fn waits(turns: &Arc<Turns>, bmc: &str, site: Option<&str>, rank: Rank) -> Waits {
        let before = lock(&turns.state).came;
        let (all, bmc, site) = (Arc::clone(turns), bmc.to_owned(), site.map(str::to_owned));
        let waits = tokio::spawn(async move { all.take(&bmc, site.as_deref(), rank).await });
        while lock(&turns.state).came == before && !waits.is_finished() {
            tokio::task::yield_now().await;
        }
        waits
    }

    async fn settle() {
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn one_at_a_time_at_a_bmc_and_so_many_at_a_site_and_in_all() {
        let turns = Turns::new(3, 1);
        let first = turns.take("a", Some("oslo"), Rank::Boot(1)).await;
        let same = waits(&turns, "a", None, Rank::Asked).await;
        let site = waits(&turns, "b", Some("oslo"), Rank::Asked).await;
        assert_eq!(turns.why("a", None), Some(Full::Bmc));
        assert_eq!(turns.why("b", Some("oslo")), Some(Full::Site));
        let (second, third) = (
            turns.take("c", None, Rank::Idle).await,
            turns.take("d", Some("rome"), Rank::Idle).await,
        );
        assert_eq!(turns.why("e", None), Some(Full::All));
        settle().await;
        assert!(!same.is_finished() && !site.is_finished());
        drop((second, third));
        settle().await;
        assert!(
            !same.is_finished() && !site.is_finished(),
            "BMC and site are still taken"
        );
        drop(first);
        let (same, site) = (same.await, site.await);
        assert!(same.is_ok() && site.is_ok());
        assert_eq!(lock(&turns.state).taken, 2);
        drop((same, site));
        let state = lock(&turns.state);
        assert!(state.busy.is_empty() && state.sites.is_empty() && state.taken == 0);
    }

    #[tokio::test]
    async fn who_is_further_along_goes_first_and_nobody_waits_for_ever() {
        let turns = Turns::new(1, 0);
        let mut held = turns.take("x", None, Rank::Idle).await;
        let oldest = waits(&turns, "old", None, Rank::Idle).await;
        let mut young = Vec::new();
        for n in 0..20 {
            young.push(waits(&turns, &format!("{n}"), None, Rank::Boot(9)).await);
        }
        let asked = waits(&turns, "asked", None, Rank::Asked).await;
        drop(held);
        let Ok(lease) = asked.await else { panic!() };
        held = lease;
        let mut before = 0;
        while !oldest.is_finished() {
            drop(held);
            settle().await;
            let Some(n) = young.iter().position(Waits::is_finished) else {
                break;
            };
            let Ok(lease) = young.remove(n).await else { panic!() };
            held = lease;
            before += 1;
        }
        assert!(oldest.is_finished() && before < FAIR as usize && before > 2, "{before}");
    }

    #[tokio::test]
    async fn who_gives_up_takes_nothing_with_it() {
        let turns = Turns::new(1, 0);
        let held = turns.take("a", None, Rank::Idle).await;
        let gone = waits(&turns, "a", None, Rank::Asked).await;
        let stays = waits(&turns, "a", None, Rank::Idle).await;
        gone.abort();
        settle().await;
        let lines = |state: &State| (state.line.len(), state.waiting.len());
        assert_eq!(lines(&lock(&turns.state)), (1, 1), "nobody waits in its place");
        drop(held);
        assert!(stays.await.is_ok());
        assert_eq!(lock(&turns.state).taken, 0);
    }
}
