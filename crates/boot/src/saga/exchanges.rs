//! The conversations of a boot with its BMC, as far as they are worth keeping.

use std::collections::VecDeque;
use std::net::IpAddr;

use bytes::Bytes;
use isobar_bmc::{Exchange, Recorder};
use isobar_store::{Expect, Put};

use crate::record::kind;
use crate::state::lock;

/// Keeps the last exchanges of a boot that say something: changes, and what went wrong.
#[derive(Default)]
pub(crate) struct Exchanges {
    kept: std::sync::Mutex<(VecDeque<Exchange>, bool)>,
    /// Where the BMC was last reached.
    pub(super) addresses: std::sync::Mutex<Vec<IpAddr>>,
}

const EXCHANGES: usize = 24;

impl Recorder for Exchanges {
    fn keeps(&self, method: &str, status: Option<u16>) -> bool {
        method != "GET" || status.is_none_or(|status| status >= 400)
    }

    fn record(&self, exchange: Exchange) {
        if !self.keeps(&exchange.method, exchange.status) {
            return;
        }
        let mut kept = lock(&self.kept);
        if kept.0.len() >= EXCHANGES {
            kept.0.pop_front();
        }
        kept.0.push_back(exchange);
        kept.1 = true;
    }

    fn connected(&self, addresses: &[IpAddr]) {
        *lock(&self.addresses) = addresses.to_vec();
    }
}

impl Exchanges {
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
