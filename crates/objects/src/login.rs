//! Guessing passwords is slow, and so is checking them: what keeps both in bounds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use isobar_store::Clock;
use rand::TryRng as _;
use sha2::{Digest, Sha256};

/// Wrong passwords in a row that cost nothing.
const FREE_FAILURES: u32 = 5;
/// Longest wait after a wrong password.
const MAX_WAIT_S: u64 = 30;
/// How long a password that was right is not hashed again: scripts send it with every request.
const REMEMBERED_S: u64 = 60;
/// Entries of each table.
const TABLE: usize = 4096;
/// Between two searches for expired tokens.
const SWEEP_S: u64 = 600;
const SECOND: u64 = 1_000_000_000;

#[derive(Debug)]
pub(crate) struct Logins {
    clock: Arc<dyn Clock>,
    tables: Mutex<Tables>,
    /// One hash at a time: each takes 19 MiB.
    hashing: Mutex<()>,
    salt: [u8; 32],
    /// When expired tokens were last looked for.
    swept: Mutex<Option<u64>>,
}

#[derive(Debug, Default)]
struct Tables {
    failures: HashMap<(String, String), Failures>,
    /// Until when.
    right: HashMap<[u8; 32], u64>,
}

#[derive(Clone, Copy, Debug)]
struct Failures {
    count: u32,
    until: u64,
}

impl Logins {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            tables: Mutex::default(),
            hashing: Mutex::new(()),
            salt: random(),
            swept: Mutex::default(),
        }
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        // Whole after every statement.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Seconds that this user has to wait before the next try from this place; 0: none.
    pub(crate) fn wait(&self, user: &str, from: &str) -> u64 {
        let now = self.clock.steady_ns();
        let tables = self.tables();
        let failures = tables.failures.get(&(user.to_owned(), from.to_owned()));
        failures.map_or(0, |f| f.until.saturating_sub(now).div_ceil(SECOND))
    }

    /// Whether `hash` (PHC text) is the password's. Without a hash it takes as long and is wrong.
    pub(crate) fn check(&self, user: &str, password: &str, from: &str, hash: Option<&str>) -> bool {
        let fingerprint = self.fingerprint(user, password, hash.unwrap_or_default());
        let who = (user.to_owned(), from.to_owned());
        let now = self.clock.steady_ns();
        if hash.is_some() {
            let mut tables = self.tables();
            if tables.right.get(&fingerprint).is_some_and(|until| *until > now) {
                tables.failures.remove(&who);
                return true;
            }
        }
        let right = {
            let _one = self.hashing.lock().unwrap_or_else(PoisonError::into_inner);
            match hash.map(PasswordHash::new) {
                Some(Ok(hash)) => argon2::Argon2::default()
                    .verify_password(password.as_bytes(), &hash)
                    .is_ok(),
                Some(Err(_)) | None => {
                    let _ = hashed(password);
                    false
                }
            }
        };
        let mut tables = self.tables();
        if right {
            tables.failures.remove(&who);
            make_room(&mut tables.right, |until| *until <= now);
            tables.right.insert(fingerprint, now + REMEMBERED_S * SECOND);
        } else {
            make_room(&mut tables.failures, |f| f.until <= now);
            let failures = tables.failures.entry(who).or_insert(Failures { count: 0, until: 0 });
            failures.count = failures.count.saturating_add(1);
            if let Some(over) = failures.count.checked_sub(FREE_FAILURES + 1) {
                let wait = 1_u64.checked_shl(over.min(10)).unwrap_or(MAX_WAIT_S).min(MAX_WAIT_S);
                failures.until = now + wait * SECOND;
            }
        }
        right
    }

    /// Makes a hash for storing.
    pub(crate) fn hash(&self, password: &str) -> Result<String, argon2::password_hash::Error> {
        let _one = self.hashing.lock().unwrap_or_else(PoisonError::into_inner);
        hashed(password)
    }

    /// Whether to look for expired tokens now: at the start, then at most every ten minutes.
    pub(crate) fn sweep_is_due(&self) -> bool {
        let now = self.clock.steady_ns();
        let mut swept = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
        let due = swept.is_none_or(|at| now.saturating_sub(at) >= SWEEP_S * SECOND);
        if due {
            *swept = Some(now);
        }
        due
    }

    fn fingerprint(&self, user: &str, password: &str, hash: &str) -> [u8; 32] {
        let mut digest = Sha256::new_with_prefix(self.salt);
        for part in [user, password, hash] {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        digest.finalize().into()
    }
}

fn hashed(password: &str) -> Result<String, argon2::password_hash::Error> {
    let salt = SaltString::encode_b64(&random::<16>())?;
    Ok(argon2::Argon2::default()
        .hash_password(password.as_bytes(), &salt)?
        .to_string())
}

/// Drops what is over; if that is nothing, everything: the table guards against guessing, not against memory loss.
fn make_room<K: Eq + std::hash::Hash, V>(table: &mut HashMap<K, V>, over: impl Fn(&V) -> bool) {
    if table.len() >= TABLE {
        table.retain(|_, value| !over(value));
    }
    if table.len() >= TABLE {
        table.clear();
    }
}

pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::rngs::SysRng
        .try_fill_bytes(&mut bytes)
        .unwrap_or_else(|e| panic!("the system has no random numbers, nothing can be kept secret: {e}"));
    bytes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use isobar_store::ManualClock;

    use super::*;

    #[test]
    fn wrong_passwords_cost_time_and_right_ones_do_not() {
        let clock = Arc::new(ManualClock::new(0));
        let logins = Logins::new(clock.clone());
        let hash = logins.hash("right").unwrap();
        let check = |password, from| logins.check("jane", password, from, Some(&hash));
        assert!(check("right", "a") && !check("wrong", "a"));
        assert_eq!(logins.wait("jane", "a"), 0);
        for _ in 0..FREE_FAILURES {
            assert!(!check("wrong", "a"));
        }
        assert_eq!(
            (
                logins.wait("jane", "a"),
                logins.wait("jane", "b"),
                logins.wait("joe", "a")
            ),
            (1, 0, 0)
        );
        clock.advance(1);
        assert_eq!(logins.wait("jane", "a"), 0);
        assert!(check("right", "a"));
        assert!(!check("wrong", "a"));
        assert_eq!(logins.wait("jane", "a"), 0, "counted from the start again");
    }

    #[test]
    fn no_hash_fits_no_password() {
        let logins = Logins::new(Arc::new(ManualClock::new(0)));
        for hash in [None, Some(""), Some("not a hash")] {
            assert!(!logins.check("jane", "", "a", hash), "{hash:?}");
        }
    }
}
