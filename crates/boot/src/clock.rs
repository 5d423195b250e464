//! Time as boots measure it: the wall clock as it was when this process started, carried on by a clock that
//! nobody sets.
//!
//! Deadlines outlive a restart, so rows hold times of day; and a wall clock may jump by a day, so within one process
//! the jump must not be seen.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use isobar_store::Clock;

/// The clock of boots.
pub(crate) struct BootClock {
    clock: Arc<dyn Clock>,
    /// Both clocks at the start of the process.
    wall_ms: u64,
    steady_ns: u64,
}

impl BootClock {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        let wall_ms = u64::try_from(clock.now_ns() / 1_000_000).unwrap_or(0);
        Self {
            wall_ms,
            steady_ns: clock.steady_ns(),
            clock,
        }
    }

    /// Time since the process started.
    pub(crate) fn uptime(&self) -> Duration {
        Duration::from_nanos(self.clock.steady_ns().saturating_sub(self.steady_ns))
    }

    /// Milliseconds since the Unix epoch.
    pub(crate) fn now_ms(&self) -> u64 {
        self.wall_ms + u64::try_from(self.uptime().as_millis()).unwrap_or(0)
    }

    /// [`BootClock::now_ms`] as the standard library has it.
    pub(crate) fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.now_ms())
    }
}

#[cfg(test)]
mod tests {
    use isobar_store::ManualClock;

    use super::*;

    #[test]
    fn a_jump_of_the_wall_clock_is_no_time_passed() {
        let manual = Arc::new(ManualClock::new(1_000_000));
        let clock = BootClock::new(Arc::clone(&manual) as Arc<dyn Clock>);
        manual.advance(5);
        manual.jump_to(2_000_000);
        assert_eq!(clock.now_ms(), 1_000_005_000);
        assert_eq!(clock.uptime(), Duration::from_secs(5));
    }
}
