//! A circuit breaker for each BMC endpoint: one that did not answer several times in a row is left alone for a while,
//! by all boots and clean-ups together. When the pause is over the next exchange is the probe.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use isobar_bmc::ErrorClass;

use crate::state::lock;

/// Longest pause, in shortest ones: it doubles with each probe that fails.
const LONGEST: u32 = 16;

#[derive(Default)]
struct State {
    failures: u32,
    /// Pauses so far, without an answer in between.
    opened: u32,
    until: Option<Instant>,
}

/// All BMCs that did not answer lately.
pub(crate) struct Breaker {
    /// Failures in a row; 0: never.
    threshold: u32,
    pause: Duration,
    bmcs: Mutex<HashMap<String, State>>,
}

/// Whether a failure says that nobody is there, and not that what was asked was wrong.
fn is_silence(class: ErrorClass) -> bool {
    matches!(class, ErrorClass::Unreachable | ErrorClass::Timeout | ErrorClass::Tls)
}

impl Breaker {
    pub(crate) fn new(threshold: u32, pause: Duration) -> Self {
        Self {
            threshold,
            pause,
            bmcs: Mutex::default(),
        }
    }

    /// Until when this BMC is left alone.
    pub(crate) fn open_until(&self, bmc: &str, now: Instant) -> Option<Instant> {
        lock(&self.bmcs).get(bmc)?.until.filter(|until| *until > now)
    }

    /// An exchange has ended. `jitter` is between 0 and 1.
    pub(crate) fn heard(&self, bmc: &str, failed: Option<ErrorClass>, now: Instant, jitter: f64) {
        let mut all = lock(&self.bmcs);
        if self.threshold == 0 || !failed.is_some_and(is_silence) {
            all.remove(bmc);
            return;
        }
        let state = all.entry(bmc.to_owned()).or_default();
        state.failures += 1;
        // After a pause one failure is enough.
        if state.failures >= self.threshold || state.opened > 0 {
            let factor = f64::from((1_u32 << state.opened.min(16)).min(LONGEST));
            state.opened += 1;
            state.until = Some(now + self.pause.mul_f64(factor * (0.75 + jitter / 2.0)));
        }
    }

    /// The operator wants to know now.
    pub(crate) fn close(&self, bmc: &str) -> bool {
        lock(&self.bmcs).remove(bmc).is_some_and(|state| state.until.is_some())
    }

    /// All BMCs that are left alone, and until when.
    pub(crate) fn open(&self, now: Instant) -> Vec<(String, Instant)> {
        let all = lock(&self.bmcs);
        let open = all
            .iter()
            .filter_map(|(bmc, state)| Some((bmc.clone(), state.until.filter(|until| *until > now)?)));
        let mut open: Vec<_> = open.collect();
        open.sort();
        open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_opens_it_and_any_answer_closes_it() {
        let breaker = Breaker::new(3, Duration::from_secs(10));
        let start = Instant::now();
        let silent = |at: u64| breaker.heard("a", Some(ErrorClass::Timeout), start + Duration::from_secs(at), 0.5);
        let left = |at: u64| {
            let now = start + Duration::from_secs(at);
            breaker
                .open_until("a", now)
                .map(|until| until.duration_since(now).as_secs())
        };
        silent(0);
        silent(1);
        assert_eq!(left(1), None, "two are not three");
        silent(2);
        assert_eq!(left(2), Some(10));
        assert_eq!(left(12), None, "the next exchange is the probe");
        silent(12);
        assert_eq!(left(12), Some(20), "which failed");
        for probe in 1..20 {
            silent(12 + probe);
        }
        assert_eq!(left(31), Some(160), "at most sixteen times as long");
        // A refusal is an answer.
        breaker.heard("a", Some(ErrorClass::Refused), start + Duration::from_secs(33), 0.5);
        silent(34);
        silent(35);
        assert_eq!(left(35), None);
        silent(36);
        assert_eq!(left(36), Some(10));
        assert!(breaker.close("a") && !breaker.close("a"));
        assert_eq!(left(36), None);
        let off = Breaker::new(0, Duration::from_secs(10));
        for _ in 0..9 {
            off.heard("a", Some(ErrorClass::Timeout), start, 0.5);
        }
        assert_eq!(off.open(start), []);
    }
}
