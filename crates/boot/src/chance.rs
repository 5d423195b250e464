//! Chance for what must not happen everywhere at once: back-off and pauses. Not for secrets.

use std::sync::atomic::{AtomicU64, Ordering};

/// A generator that can be seeded, so that a run can be repeated (splitmix64, Steele et al. 2014).
pub(crate) struct Chance(AtomicU64);

impl Chance {
    pub(crate) fn new(seed: Option<u64>) -> Self {
        Self(AtomicU64::new(seed.unwrap_or_else(rand::random)))
    }

    /// At least 0, below 1.
    pub(crate) fn next(&self) -> f64 {
        let state = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Between half of it and all of it.
    pub(crate) fn spread(&self, pause: std::time::Duration) -> std::time::Duration {
        pause.mul_f64(0.5 + self.next() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_seed_repeats_itself_and_pauses_are_spread() {
        let (a, b) = (Chance::new(Some(7)), Chance::new(Some(7)));
        let pause = Duration::from_secs(10);
        let pauses: Vec<Duration> = (0..100).map(|_| a.spread(pause)).collect();
        assert!(pauses.iter().all(|p| *p >= pause / 2 && *p <= pause));
        assert!(pauses.iter().any(|p| *p < pause * 3 / 5) && pauses.iter().any(|p| *p > pause * 9 / 10));
        assert_eq!(pauses, (0..100).map(|_| b.spread(pause)).collect::<Vec<_>>());
    }
}
