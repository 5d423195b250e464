//! Rolling boots: many machines, so many at a time, none any more once too many have failed.
//!
//! The row says which boots are in flight, each by an id that is given to it before it begins. A boot and the change
//! of its machine are one commit under that id, so after a crash the boot is there, and is waited for, or it is not,
//! and is begun: never twice. Which machines are meant is a row of its own that is written once.

mod order;
mod start;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use isobar_model::ApiError;
use isobar_objects::Principal;
use isobar_store::{Doc, Expect, Put, Rev, StoreError, Txn};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::task::JoinSet;

pub use order::{Candidate, Fleet, FlightView, Outcome, RollingOrder};
pub(crate) use start::Ordered;

use crate::reason::Reason;
use crate::record::{self, Boot, State, kind};
use crate::state::{Inner, STORE, lock};
use start::Started;

/// Machines in trouble that a row tells of; older ones are counted and can be found by their boots.
const TROUBLES: usize = 200;
/// Boots that are begun at the same time.
const STARTS: usize = 16;
/// Between two looks when nobody rings.
const LOOK: Duration = Duration::from_secs(1);
/// Before the store is tried again.
const STORE_PAUSE: Duration = Duration::from_secs(5);

/// How a rolling boot stands. What is in flight goes on to its end in every state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Course {
    /// More machines are begun.
    Running,
    /// Too many failed: no more are begun.
    Stopped,
    /// Somebody cancelled it: no more are begun.
    Cancelled,
    /// All were begun, and have ended.
    Done,
}

/// A rolling boot as it is on disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rolling {
    /// UUID.
    pub id: String,
    /// Who asked for it.
    pub principal: String,
    /// Begin; milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The bootenv that the machines get; none: each boots its own again.
    pub bootenv: Option<String>,
    /// Rehearsals: nothing is sent that changes a BMC.
    #[serde(default)]
    pub shadow: bool,
    /// Most boots in flight.
    pub parallel: usize,
    /// So many failed boots end it; 0: none do.
    pub stop_after: usize,
    /// Which machines, as it was asked for.
    pub filter: Vec<(String, String)>,
    /// How it stands.
    pub course: Course,
    /// Machines that are meant.
    pub total: usize,
    /// The first of them that was not begun yet.
    pub next: usize,
    /// Boots that ended well.
    pub booted: usize,
    /// Boots that failed.
    pub failed: usize,
    /// Machines that were not to be booted.
    pub skipped: usize,
    /// Boots that somebody else ended: cancelled, or replaced by a newer one.
    pub ended: usize,
    /// Under way.
    pub flights: Vec<InFlight>,
    /// The last machines in trouble, oldest first.
    pub troubles: VecDeque<Trouble>,
}

/// A boot that is under way, or about to begin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InFlight {
    /// Machine.
    pub machine: String,
    /// Its boot.
    pub boot: String,
}

/// A machine that was not booted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// Counted from 1.
    pub number: usize,
    /// Machine.
    pub machine: String,
    /// Its name.
    pub machine_name: String,
    /// Its boot, if it began.
    pub boot: Option<String>,
    /// `failed`, `skipped`, `cancelled`, `replaced`.
    pub outcome: String,
    /// Why.
    pub reason: Reason,
}

/// What became of a flight.
#[derive(Clone, Debug)]
enum Landed {
    Booted,
    Failed(Reason),
    Skipped(Reason),
    Ended(State, String),
}

impl Rolling {
    /// More is to be begun or waited for.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.course == Course::Running || !self.flights.is_empty()
    }

    fn put(&self, expect: Expect) -> Put {
        let state = if self.is_open() { "open" } else { "closed" };
        record::put(kind::ROLLINGS, &self.id, self, expect, &[("State", state, false)])
    }

    fn land(&mut self, flight: &InFlight, name: String, landed: Landed) {
        let (outcome, reason) = match landed {
            Landed::Booted => {
                self.booted += 1;
                return;
            }
            Landed::Failed(reason) => {
                self.failed += 1;
                ("failed", reason)
            }
            Landed::Skipped(reason) => {
                self.skipped += 1;
                ("skipped", reason)
            }
            Landed::Ended(state, text) => {
                self.ended += 1;
                let outcome = if state == State::Replaced {
                    "replaced"
                } else {
                    "cancelled"
                };
                (outcome, Reason::new(outcome, text, ""))
            }
        };
        let number = self.failed + self.skipped + self.ended;
        if self.troubles.len() >= TROUBLES {
            self.troubles.pop_front();
        }
        self.troubles.push_back(Trouble {
            number,
            machine: flight.machine.clone(),
            machine_name: name,
            boot: (outcome != "skipped").then(|| flight.boot.clone()),
            outcome: outcome.to_owned(),
            reason,
        });
    }

    /// What comes after what has landed: no more, or these machines.
    fn go_on(&mut self, machines: &[Box<str>]) {
        if self.course == Course::Running && self.stop_after > 0 && self.failed >= self.stop_after {
            self.course = Course::Stopped;
        }
        while self.course == Course::Running && self.flights.len() < self.parallel {
            let Some(machine) = machines.get(self.next) else { break };
            self.next += 1;
            self.flights.push(InFlight {
                machine: machine.to_string(),
                boot: uuid::Uuid::new_v4().to_string(),
            });
        }
        if self.course == Course::Running && self.flights.is_empty() {
            self.course = Course::Done;
        }
    }
}

/// UUIDs, a line each.
fn machines_put(id: &str, machines: &[Box<str>]) -> Put {
    Put {
        kind: kind::ROLLING_MACHINES.to_owned(),
        key: id.to_owned(),
        body: Bytes::from(machines.join("\n")),
        expect: Expect::Absent,
        indexes: Vec::new(),
    }
}

impl Inner {
    pub(crate) fn rolling_row(&self, id: &str) -> Result<Option<(Rolling, Rev)>, StoreError> {
        let doc = self.store.get(kind::ROLLINGS, id)?;
        Ok(doc.and_then(|doc| Some((record::read(&doc)?, doc.rev))))
    }

    fn rolling_machines(&self, id: &str) -> Result<Vec<Box<str>>, StoreError> {
        let doc = self.store.get(kind::ROLLING_MACHINES, id)?;
        let text = |doc: Doc| String::from_utf8_lossy(&doc.body).lines().map(Into::into).collect();
        Ok(doc.map(text).unwrap_or_default())
    }

    /// Goes on with what an earlier process left.
    pub(crate) fn resume_rolling(self: &Arc<Self>) -> Result<(), StoreError> {
        for doc in self.store.find(kind::ROLLINGS, "State", "open")? {
            self.roll(&doc.key);
        }
        Ok(())
    }

    /// Starts the task of a rolling boot, unless it runs; then it looks again at once.
    pub(crate) fn roll(self: &Arc<Self>, id: &str) {
        let mut rollings = lock(&self.rollings);
        if let Some(bell) = rollings.get(id) {
            bell.notify_one();
            return;
        }
        let bell = Arc::new(Notify::new());
        rollings.insert(id.to_owned(), Arc::clone(&bell));
        drop(rollings);
        let (inner, id) = (Arc::clone(self), id.to_owned());
        self.runtime.spawn(async move {
            let _guard = Rolls {
                inner: Arc::clone(&inner),
                id: id.clone(),
            };
            loop {
                match inner.roll_on(&id, &bell).await {
                    Ok(()) | Err(StoreError::Closed) => return,
                    // Cancelled meanwhile.
                    Err(StoreError::Conflict { .. }) => {}
                    Err(error) => {
                        tracing::error!(rolling = id, %error, "the rolling boot cannot be saved; trying again");
                        tokio::time::sleep(STORE_PAUSE).await;
                    }
                }
            }
        });
    }

    /// A boot has moved: who rolls may go on.
    pub(crate) fn tell_rolling(&self, boot: &Boot) {
        if let Some(id) = boot.rolling.as_ref().filter(|_| boot.state != State::Running)
            && let Some(bell) = lock(&self.rollings).get(id)
        {
            bell.notify_one();
        }
    }

    /// Until it is over; an error where it stands otherwise than this task thought.
    async fn roll_on(self: &Arc<Self>, id: &str, bell: &Notify) -> Result<(), StoreError> {
        let machines = self.rolling_machines(id)?;
        // What this process has seen of those whose boots say nothing.
        let mut begun: HashSet<String> = HashSet::new();
        let mut landed: HashMap<String, Landed> = HashMap::new();
        loop {
            let Some((mut rolling, rev)) = self.rolling_row(id)? else {
                return Ok(());
            };
            let before = rolling.clone();
            let (mut flying, mut waiting) = (Vec::new(), Vec::new());
            for flight in std::mem::take(&mut rolling.flights) {
                match self.landed(&flight, &mut landed, &begun)? {
                    Some(end) => {
                        begun.remove(&flight.boot);
                        let name = self.machine_name(&flight.machine);
                        rolling.land(&flight, name, end);
                    }
                    None => flying.push(flight),
                }
            }
            rolling.flights = flying;
            rolling.go_on(&machines);
            if rolling != before {
                let txn = Txn {
                    puts: vec![rolling.put(Expect::Rev(rev))],
                    ..Txn::default()
                };
                self.store.submit(txn).await?;
            }
            if !rolling.is_open() {
                let Rolling {
                    booted,
                    failed,
                    skipped,
                    course,
                    ..
                } = &rolling;
                tracing::info!(rolling = id, booted, failed, skipped, ?course, "a rolling boot is over");
                return Ok(());
            }
            for flight in &rolling.flights {
                if !begun.contains(&flight.boot) && self.boot_row(&flight.boot)?.is_none() {
                    waiting.push(flight.clone());
                }
            }
            if waiting.is_empty() {
                let _ = tokio::time::timeout(LOOK, bell.notified()).await;
                continue;
            }
            self.begin_all(&rolling, waiting, &mut begun, &mut landed).await?;
        }
    }

    async fn begin_all(
        self: &Arc<Self>,
        rolling: &Rolling,
        flights: Vec<InFlight>,
        begun: &mut HashSet<String>,
        landed: &mut HashMap<String, Landed>,
    ) -> Result<(), StoreError> {
        let rolling = Arc::new(rolling.clone());
        let mut starts = JoinSet::new();
        let mut flights = flights.into_iter();
        loop {
            while starts.len() < STARTS
                && let Some(flight) = flights.next()
            {
                let (inner, rolling) = (Arc::clone(self), Arc::clone(&rolling));
                starts.spawn_blocking_on(
                    move || {
                        let started = inner.start_one(&rolling, &flight);
                        (flight, started)
                    },
                    &self.runtime,
                );
            }
            let Some(joined) = starts.join_next().await else {
                return Ok(());
            };
            // A start that panicked is begun again, or is there.
            let Ok((flight, started)) = joined else { continue };
            match started {
                Started::Begun => drop(begun.insert(flight.boot)),
                Started::Skipped(reason) => drop(landed.insert(flight.boot, Landed::Skipped(reason))),
                Started::Failed(reason) => drop(landed.insert(flight.boot, Landed::Failed(reason))),
                Started::Store(error) => return Err(error),
            }
        }
    }

    fn landed(
        &self,
        flight: &InFlight,
        landed: &mut HashMap<String, Landed>,
        begun: &HashSet<String>,
    ) -> Result<Option<Landed>, StoreError> {
        if let Some(landed) = landed.remove(&flight.boot) {
            return Ok(Some(landed));
        }
        let Some(row) = self.boot_row(&flight.boot)? else {
            // Its history is gone, since other boots came after it.
            let forgotten = || Landed::Ended(State::Replaced, "replaced by newer boots".to_owned());
            return Ok(begun.contains(&flight.boot).then(forgotten));
        };
        let boot = row.boot;
        Ok(match boot.state {
            State::Running => None,
            State::Done => Some(Landed::Booted),
            State::Failed => {
                let untold = || Reason::new(STORE, boot.detail.clone(), "");
                Some(Landed::Failed(boot.error.clone().unwrap_or_else(untold)))
            }
            ended @ (State::Cancelled | State::Replaced) => Some(Landed::Ended(ended, boot.detail)),
        })
    }

    /// Ends it: what is in flight goes on.
    pub(crate) fn cancel_rolling(self: &Arc<Self>, id: &str, by: &Principal) -> Result<bool, ApiError> {
        loop {
            let row = self.rolling_row(id).map_err(|e| crate::state::store_error(&e))?;
            let Some((mut rolling, rev)) = row else {
                return Ok(false);
            };
            if rolling.course != Course::Running {
                let text = match rolling.flights.len() {
                    0 => "it is over".to_owned(),
                    _ => "no more machines are begun; those in flight are cancelled one by one".to_owned(),
                };
                return Err(ApiError::new(409, "CONFLICT", "operations", id, text));
            }
            rolling.course = Course::Cancelled;
            let txn = Txn {
                puts: vec![rolling.put(Expect::Rev(rev))],
                audit: vec![by.audit("operation:cancel", "machines", "", id)],
                ..Txn::default()
            };
            match self.store.commit(txn) {
                Ok(_) => {
                    self.roll(id);
                    return Ok(true);
                }
                // It has moved on.
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(crate::state::store_error(&error)),
            }
        }
    }
}

/// However the task ends, another one can begin.
struct Rolls {
    inner: Arc<Inner>,
    id: String,
}

impl Drop for Rolls {
    fn drop(&mut self) {
        lock(&self.inner.rollings).remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn rolling(parallel: usize, stop_after: usize) -> Rolling {
        Rolling {
            id: "r".to_owned(),
            principal: "jane".to_owned(),
            at_ms: 1,
            bootenv: None,
            shadow: false,
            parallel,
            stop_after,
            filter: Vec::new(),
            course: Course::Running,
            total: 1000,
            next: 0,
            booted: 0,
            failed: 0,
            skipped: 0,
            ended: 0,
            flights: Vec::new(),
            troubles: VecDeque::new(),
        }
    }

    fn failed() -> Landed {
        Landed::Failed(Reason::new(STORE, "y", ""))
    }

    fn machines(count: usize) -> Vec<Box<str>> {
        (0..count).map(|n| format!("m{n}").into()).collect()
    }

    #[test]
    fn so_many_are_in_flight_and_none_comes_twice() {
        let (mut rolling, machines) = (rolling(7, 0), machines(1000));
        let mut seen = HashSet::new();
        rolling.go_on(&machines);
        while rolling.is_open() {
            assert!((1..=7).contains(&rolling.flights.len()));
            let flight = rolling.flights.remove(0);
            assert!(seen.insert(flight.machine.clone()));
            let landed = match seen.len() % 3 {
                0 => failed(),
                _ => Landed::Booted,
            };
            rolling.land(&flight, String::new(), landed);
            rolling.go_on(&machines);
        }
        assert_eq!((rolling.course, seen.len()), (Course::Done, 1000));
        assert_eq!((rolling.booted, rolling.failed), (667, 333));
        // Bounded, and the newest are kept.
        assert_eq!(
            (rolling.troubles.len(), rolling.troubles.back().unwrap().number),
            (TROUBLES, 333)
        );
    }

    #[test]
    fn enough_failures_stop_it_and_what_is_in_flight_lands() {
        let (mut rolling, machines) = (rolling(5, 2), machines(100));
        rolling.go_on(&machines);
        for _ in 0..2 {
            let flight = rolling.flights.remove(0);
            rolling.land(&flight, String::new(), failed());
            rolling.go_on(&machines);
        }
        assert_eq!(
            (rolling.course, rolling.flights.len(), rolling.next),
            (Course::Stopped, 4, 6)
        );
        while !rolling.flights.is_empty() {
            assert!(rolling.is_open());
            let flight = rolling.flights.remove(0);
            rolling.land(&flight, String::new(), Landed::Booted);
            rolling.go_on(&machines);
        }
        assert!(!rolling.is_open());
        assert_eq!((rolling.next, rolling.booted), (6, 4));
    }
}
