//! How long things may take. All of it can be set in the configuration file, section `[timing]`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Deadlines, pauses and limits of boots. All times in seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timing {
    /// An exchange with a BMC, logging in included.
    pub exchange_s: f64,
    /// An insert: some BMCs copy the whole image before they answer.
    pub insert_s: f64,
    /// For an inserted image to show in its slot, and for an override to be read back.
    pub settle_s: f64,
    /// Tries of a step whose exchanges fail in a way that may pass.
    pub tries: u32,
    /// Pause after the first failed try; doubles with each further one, up to a minute.
    pub retry_s: f64,
    /// Pause between two looks at the power state.
    pub poll_s: f64,
    /// From asking the operating system to shut down until the power is cut.
    pub shutdown_s: f64,
    /// From a power command until its effect must show.
    pub power_s: f64,
    /// From asking the agent for its reboot until the power is cycled instead.
    pub agent_reboot_s: f64,
    /// From power-on until the first byte of the image must have been read: firmware self-tests can take long.
    pub first_read_s: f64,
    /// Silence in the middle of kernel or initrd until the boot has failed.
    pub stalled_s: f64,
    /// From the last byte read until the agent must have checked in.
    pub agent_s: f64,
    /// An agent whose last heartbeat is older is taken for gone.
    pub agent_gone_s: f64,
    /// Pause between two heartbeats of an agent.
    pub heartbeat_s: u64,
    /// Longest pause between two tries of a clean-up at a BMC that does not answer.
    pub cleanup_s: f64,
    /// For how long files of live images must have been of no use before they are removed.
    pub collect_s: f64,
    /// Conversations with BMCs at one time.
    pub bmc_connections: usize,
    /// Conversations with the BMCs of one site (`isobar/bmc-site`) at one time; 0: as many as with all.
    pub site_connections: usize,
    /// For how long a conversation with a BMC is kept open for another exchange; 0: it is closed after each.
    pub bmc_idle_s: f64,
    /// For how long the exchanges of one step may go on failing, pauses included.
    pub step_s: f64,
    /// Exchanges in a row that a BMC leaves unanswered until it is left alone for a while; 0: never.
    pub breaker_failures: u32,
    /// Shortest such while; doubles with each further one, up to sixteen times as long.
    pub breaker_s: f64,
    /// How long a machine's self-test is waited for, where the BMC refuses for as long.
    pub post_s: f64,
    /// How long a BMC that was reset may take until it answers again.
    pub reset_s: f64,
    /// Between two resets of one BMC.
    pub reset_pause_s: f64,
    /// Makes pauses repeatable, for tests.
    pub jitter_seed: Option<u64>,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            exchange_s: 60.0,
            insert_s: 180.0,
            settle_s: 20.0,
            tries: 4,
            retry_s: 2.0,
            poll_s: 2.0,
            shutdown_s: 90.0,
            power_s: 60.0,
            agent_reboot_s: 60.0,
            first_read_s: 600.0,
            stalled_s: 180.0,
            agent_s: 600.0,
            agent_gone_s: 20.0,
            heartbeat_s: 5,
            cleanup_s: 300.0,
            collect_s: 600.0,
            bmc_connections: 200,
            site_connections: 32,
            bmc_idle_s: 5.0,
            step_s: 900.0,
            breaker_failures: 5,
            breaker_s: 30.0,
            post_s: 600.0,
            reset_s: 960.0,
            reset_pause_s: 600.0,
            jitter_seed: None,
        }
    }
}

fn seconds(s: f64) -> Duration {
    Duration::try_from_secs_f64(s).unwrap_or(Duration::ZERO)
}

macro_rules! durations {
    ($($(#[$doc:meta])* $name:ident = $field:ident;)*) => {
        impl Timing {
            $($(#[$doc])* #[must_use] pub fn $name(&self) -> Duration { seconds(self.$field) })*
        }
    };
}

durations! {
    /// See [`Timing::exchange_s`].
    exchange = exchange_s;
    /// See [`Timing::insert_s`].
    insert = insert_s;
    /// See [`Timing::settle_s`].
    settle = settle_s;
    /// See [`Timing::poll_s`].
    poll = poll_s;
    /// See [`Timing::shutdown_s`].
    shutdown = shutdown_s;
    /// See [`Timing::power_s`].
    power = power_s;
    /// See [`Timing::agent_reboot_s`].
    agent_reboot = agent_reboot_s;
    /// See [`Timing::first_read_s`].
    first_read = first_read_s;
    /// See [`Timing::stalled_s`].
    stalled = stalled_s;
    /// See [`Timing::agent_s`].
    agent = agent_s;
    /// See [`Timing::agent_gone_s`].
    agent_gone = agent_gone_s;
    /// See [`Timing::cleanup_s`].
    cleanup = cleanup_s;
    /// See [`Timing::collect_s`].
    collect = collect_s;
    /// See [`Timing::bmc_idle_s`].
    bmc_idle = bmc_idle_s;
    /// See [`Timing::step_s`].
    step = step_s;
    /// See [`Timing::breaker_s`].
    breaker = breaker_s;
    /// See [`Timing::post_s`].
    post = post_s;
    /// See [`Timing::reset_s`].
    reset = reset_s;
    /// See [`Timing::reset_pause_s`].
    reset_pause = reset_pause_s;
}

impl Timing {
    /// For logging out, after an exchange or its deadline.
    #[must_use]
    pub fn log_out(&self) -> Duration {
        (self.exchange() / 4).min(Duration::from_secs(10))
    }

    /// Pause after `tries` failed tries, at most `limit`.
    #[must_use]
    pub fn backoff(&self, tries: u32, limit: Duration) -> Duration {
        seconds(self.retry_s * f64::from(1_u32 << tries.saturating_sub(1).min(16))).min(limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_their_limit() {
        let timing = Timing {
            retry_s: 2.0,
            ..Timing::default()
        };
        let limit = Duration::from_secs(60);
        let pauses = [1, 2, 3, 4, 5, 6, 40].map(|tries| timing.backoff(tries, limit).as_secs());
        assert_eq!(pauses, [2, 4, 8, 16, 32, 60, 60]);
    }
}
