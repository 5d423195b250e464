//! Time as the store sees it: a seam, so that tests decide how late it is.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Two clocks: the wall's, for what people read, and a steady one, for how long something may take.
///
/// A wall clock may jump by a day; leases and deadlines must not.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Nanoseconds since the Unix epoch.
    fn now_ns(&self) -> i128;
    /// Nanoseconds since some moment of this process; never goes back.
    fn steady_ns(&self) -> u64;
}

/// The clocks of the system.
#[derive(Debug)]
pub struct SystemClock {
    started: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self {
            started: Instant::now(),
        }
    }
}

impl Clock for SystemClock {
    fn now_ns(&self) -> i128 {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => i128::try_from(since.as_nanos()).unwrap_or(i128::MAX),
            Err(before) => i128::try_from(before.duration().as_nanos()).map_or(i128::MIN, |ns| -ns),
        }
    }

    fn steady_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Clocks that stand still until they are told.
#[derive(Debug)]
pub struct ManualClock {
    wall_ns: AtomicI64,
    steady_ns: AtomicU64,
}

impl ManualClock {
    /// Both clocks stopped; the wall shows `unix_seconds`.
    #[must_use]
    pub fn new(unix_seconds: i64) -> Self {
        Self {
            wall_ns: AtomicI64::new(unix_seconds.saturating_mul(1_000_000_000)),
            steady_ns: AtomicU64::new(0),
        }
    }

    /// Lets time pass on both clocks.
    pub fn advance(&self, seconds: u32) {
        let ns = u64::from(seconds) * 1_000_000_000;
        self.steady_ns.fetch_add(ns, Ordering::SeqCst);
        self.wall_ns
            .fetch_add(i64::try_from(ns).unwrap_or(i64::MAX), Ordering::SeqCst);
    }

    /// Sets the wall clock, as an operator or NTP does; the steady one does not notice.
    pub fn jump_to(&self, unix_seconds: i64) {
        self.wall_ns
            .store(unix_seconds.saturating_mul(1_000_000_000), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now_ns(&self) -> i128 {
        i128::from(self.wall_ns.load(Ordering::SeqCst))
    }

    fn steady_ns(&self) -> u64 {
        self.steady_ns.load(Ordering::SeqCst)
    }
}
