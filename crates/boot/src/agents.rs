//! Which machines have a live agent, and what it has been told to do. In memory: an agent makes itself heard again
//! within seconds of a restart.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// An agent that was heard lately.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// Attempt that booted it, 32 hex digits.
    pub attempt: String,
    /// Its root does not need the medium.
    pub root_in_memory: bool,
    heard: Duration,
}

struct Order {
    /// The attempt that the reboot leads to: an agent of that attempt has already done it.
    attempt: String,
    taken: bool,
}

/// All agents.
pub struct AgentBook {
    gone_after: Duration,
    agents: Mutex<HashMap<String, Agent>>,
    orders: Mutex<HashMap<String, Order>>,
}

impl AgentBook {
    /// Agents that have been silent for `gone_after` are gone.
    #[must_use]
    pub fn new(gone_after: Duration) -> Self {
        Self {
            gone_after,
            agents: Mutex::default(),
            orders: Mutex::default(),
        }
    }

    /// An agent was heard at `now` on the steady clock.
    pub fn heard(&self, machine: &str, attempt: &str, root_in_memory: Option<bool>, now: Duration) {
        let mut agents = lock(&self.agents);
        // A heartbeat after a restart of the server does not repeat what the check-in said; our own image's root is in memory.
        let known = agents
            .get(machine)
            .filter(|a| a.attempt == attempt)
            .is_none_or(|a| a.root_in_memory);
        let agent = Agent {
            attempt: attempt.to_owned(),
            root_in_memory: root_in_memory.unwrap_or(known),
            heard: now,
        };
        agents.insert(machine.to_owned(), agent);
    }

    /// The machine's agent, if it was heard lately.
    pub fn live(&self, machine: &str, now: Duration) -> Option<Agent> {
        lock(&self.agents)
            .get(machine)
            .filter(|agent| now.saturating_sub(agent.heard) <= self.gone_after)
            .cloned()
    }

    /// The machine is off, or about to reboot: whatever agent was there is not there any more.
    pub fn forget(&self, machine: &str) {
        lock(&self.agents).remove(machine);
    }

    /// The machine's agent is to reboot into this attempt. Repeating it changes nothing.
    pub fn order_reboot(&self, machine: &str, attempt: &str) {
        let mut orders = lock(&self.orders);
        if orders.get(machine).is_none_or(|order| order.attempt != attempt) {
            orders.insert(
                machine.to_owned(),
                Order {
                    attempt: attempt.to_owned(),
                    taken: false,
                },
            );
        }
    }

    /// What to tell an agent of this attempt: `true` when it shall reboot.
    pub fn take_order(&self, machine: &str, attempt: &str) -> bool {
        match lock(&self.orders).get_mut(machine) {
            Some(order) if order.attempt != attempt => {
                order.taken = true;
                true
            }
            _ => false,
        }
    }

    /// Whether an agent has been told to reboot into this attempt.
    pub fn took_order(&self, machine: &str, attempt: &str) -> bool {
        lock(&self.orders)
            .get(machine)
            .is_some_and(|order| order.attempt == attempt && order.taken)
    }

    /// The boot that gave the order is over.
    pub fn drop_order(&self, machine: &str, attempt: &str) {
        let mut orders = lock(&self.orders);
        if orders.get(machine).is_some_and(|order| order.attempt == attempt) {
            orders.remove(machine);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn silence_ends_an_agent() {
        let book = AgentBook::new(S(20));
        book.heard("m", "a", Some(true), S(100));
        assert!(book.live("m", S(120)).is_some_and(|a| a.root_in_memory));
        assert_eq!(book.live("m", S(121)), None);
        book.heard("m", "a", None, S(130));
        assert!(book.live("m", S(131)).is_some());
    }

    #[test]
    fn an_order_is_for_the_agent_of_another_attempt() {
        let book = AgentBook::new(S(20));
        book.order_reboot("m", "new");
        assert!(!book.took_order("m", "new"));
        assert!(!book.take_order("m", "new"), "it is there already");
        assert!(book.take_order("m", "old"));
        book.order_reboot("m", "new");
        assert!(
            book.took_order("m", "new"),
            "repeating the order does not forget that it was taken"
        );
        book.drop_order("m", "new");
        assert!(!book.take_order("m", "old"));
    }
}
