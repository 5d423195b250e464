//! The conversations of a boot with its BMC, as far as they are worth keeping.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use isobar_bmc::{Exchange, Recorder};
use isobar_store::{Expect, Put};
use serde_json::Value;

use super::conversation::{Conversation, Room};
use crate::record::kind;
use crate::state::lock;

/// Keeps the last exchanges of a boot that say something: changes, and what went wrong.
pub(crate) struct Exchanges {
    /// All of them, for a post-mortem.
    all: std::sync::Mutex<Conversation>,
    kept: std::sync::Mutex<(VecDeque<Exchange>, bool)>,
    /// Where the BMC was last reached.
    pub(super) addresses: std::sync::Mutex<Vec<IpAddr>>,
    /// How far the BMC last said that the machine has come.
    pub(super) progress: std::sync::Mutex<Option<String>>,
    /// Nobody waits for a look that is under way.
    pub(super) looking: AtomicBool,
}

const EXCHANGES: usize = 24;

impl Recorder for Exchanges {
    fn keeps(&self, method: &str, status: Option<u16>) -> bool {
        let bad = status.is_none_or(|status| status >= 400);
        if bad {
            lock(&self.all).troubled();
        }
        // Reads that went well are for a post-mortem alone.
        bad || method != "GET" || lock(&self.all).wants_reads()
    }

    fn record(&self, exchange: Exchange) {
        lock(&self.all).add(&exchange);
        if exchange.method == "GET" && exchange.status.is_some_and(|status| status < 400) {
            return;
        }
        let mut kept = lock(&self.kept);
        if kept.0.len() >= EXCHANGES {
            kept.0.pop_front();
        }
        kept.0.push_back(exchange.shortened());
        kept.1 = true;
    }

    fn connected(&self, addresses: &[IpAddr]) {
        *lock(&self.addresses) = addresses.to_vec();
    }

    fn progress(&self, state: &str) {
        *lock(&self.progress) = Some(state.to_owned());
    }
}

impl Exchanges {
    pub(super) fn new(room: Arc<Room>) -> Self {
        Self {
            all: std::sync::Mutex::new(Conversation::new(room)),
            kept: std::sync::Mutex::default(),
            addresses: std::sync::Mutex::default(),
            progress: std::sync::Mutex::default(),
            looking: AtomicBool::new(false),
        }
    }

    /// The whole conversation of this process, as far as there was room, and how much there was not.
    pub(super) fn told(&self) -> (Vec<Value>, usize) {
        lock(&self.all).told()
    }

    /// The write of what has come since the last one.
    pub(super) fn put(&self, boot: &str) -> Option<Put> {
        let mut kept = lock(&self.kept);
        std::mem::take(&mut kept.1).then(|| Put {
            kind: kind::EXCHANGES.to_owned(),
            key: boot.to_owned(),
            body: Bytes::from(serde_json::to_vec(&kept.0).unwrap_or_default()),
            expect: Expect::Any,
            indexes: Vec::new(),
        })
    }
}
