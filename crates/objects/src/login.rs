//! Guessing passwords is slow, and so is checking them: what keeps both in bounds.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use isobar_store::Clock;
use rand::TryRng as _;
use sha2::{Digest, Sha256};

/// How long a password that was right is not hashed again: scripts send it with every request.
const REMEMBERED_S: u64 = 60;
/// Entries of each table.
const TABLE: usize = 4096;
/// Memory of a hash that is checked.
const MAX_COST_KIB: u32 = 128 * 1024;
/// Between two searches for expired tokens.
const SWEEP_S: u64 = 600;
const SECOND: u64 = 1_000_000_000;

/// Wrong passwords fill it, time empties it. When it is full, the next try has to wait until one has run out.
struct Bucket {
    holds: u64,
    empties_in_s: u64,
}

/// Of one user from one place.
const PAIR: Bucket = Bucket {
    holds: 5,
    empties_in_s: 30,
};
/// Of one place, whoever they say they are.
const PLACE: Bucket = Bucket {
    holds: 20,
    empties_in_s: 5,
};
/// Of one user from anywhere. It holds up nobody who comes from this host, or from where this user has logged in before:
/// otherwise many places together could lock somebody out.
const USER: Bucket = Bucket {
    holds: 100,
    empties_in_s: 1,
};

impl Bucket {
    fn wait_ns(&self, empty_at: Option<&u64>, now: u64) -> u64 {
        let left = empty_at.map_or(0, |at| at.saturating_sub(now));
        left.saturating_sub(self.holds * self.empties_in_s * SECOND)
    }

    fn fill(&self, table: &mut HashMap<u64, u64>, key: u64, now: u64) {
        make_room(table, now);
        let empty_at = table.entry(key).or_insert(now);
        let most = now + (self.holds + 1) * self.empties_in_s * SECOND;
        *empty_at = ((*empty_at).max(now) + self.empties_in_s * SECOND).min(most);
    }
}

#[derive(Debug)]
pub(crate) struct Logins {
    clock: Arc<dyn Clock>,
    tables: Mutex<Tables>,
    /// One hash at a time: each takes 19 MiB.
    hashing: Mutex<()>,
    salt: [u8; 32],
    hasher: RandomState,
    /// When expired tokens were last looked for.
    swept: Mutex<Option<u64>>,
}

/// Keys are hashes: names that a client makes up take no room. Values are times.
#[derive(Debug, Default)]
struct Tables {
    /// When the buckets are empty.
    pairs: HashMap<u64, u64>,
    places: HashMap<u64, u64>,
    users: HashMap<u64, u64>,
    /// User and place of a login that went well, and when.
    welcome: HashMap<u64, u64>,
    /// Until when.
    right: HashMap<[u8; 32], u64>,
}

/// Who tries, by the hashes that the tables know.
#[derive(Clone, Copy)]
struct Keys {
    pair: u64,
    place: u64,
    user: u64,
    local: bool,
}

impl Logins {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            tables: Mutex::default(),
            hashing: Mutex::new(()),
            salt: random(),
            hasher: RandomState::new(),
            swept: Mutex::default(),
        }
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        // Whole after every statement.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keys(&self, user: &str, from: &str) -> Keys {
        let place = place(from);
        let hash = |what: &dyn Fn(&mut std::hash::DefaultHasher)| {
            use std::hash::Hasher;
            let mut hasher = self.hasher.build_hasher();
            what(&mut hasher);
            hasher.finish()
        };
        Keys {
            pair: hash(&|h| (user, &place).hash(h)),
            place: hash(&|h| place.hash(h)),
            user: hash(&|h| user.hash(h)),
            local: matches!(place, Place::Local),
        }
    }

    /// Seconds that this user has to wait before the next try from this place; 0: none.
    pub(crate) fn wait(&self, user: &str, from: &str) -> u64 {
        let (keys, now) = (self.keys(user, from), self.clock.steady_ns());
        let tables = self.tables();
        let pair = PAIR.wait_ns(tables.pairs.get(&keys.pair), now);
        let place = PLACE.wait_ns(tables.places.get(&keys.place), now);
        let user = if keys.local || tables.welcome.contains_key(&keys.pair) {
            0
        } else {
            USER.wait_ns(tables.users.get(&keys.user), now)
        };
        pair.max(place).max(user).div_ceil(SECOND)
    }

    /// Whether `hash` (PHC text) is the password's. Without a hash it takes as long and is wrong.
    pub(crate) fn check(&self, user: &str, password: &str, from: &str, hash: Option<&str>) -> bool {
        let fingerprint = self.fingerprint(user, password, hash.unwrap_or_default());
        let (keys, now) = (self.keys(user, from), self.clock.steady_ns());
        let remembered = hash.is_some() && self.tables().right.get(&fingerprint).is_some_and(|until| *until > now);
        let right = remembered || {
            let _one = self.hashing.lock().unwrap_or_else(PoisonError::into_inner);
            match hash.map(PasswordHash::new) {
                Some(Ok(hash)) if is_bearable(&hash) => argon2::Argon2::default()
                    .verify_password(password.as_bytes(), &hash)
                    .is_ok(),
                _ => {
                    let _ = hashed(password);
                    false
                }
            }
        };
        let mut tables = self.tables();
        if right {
            // The place's own bucket stays as it is: who has one password may still be guessing others.
            tables.pairs.remove(&keys.pair);
            make_room(&mut tables.welcome, 0);
            tables.welcome.insert(keys.pair, now);
            if !remembered {
                make_room(&mut tables.right, now);
                tables.right.insert(fingerprint, now + REMEMBERED_S * SECOND);
            }
        } else {
            PAIR.fill(&mut tables.pairs, keys.pair, now);
            PLACE.fill(&mut tables.places, keys.place, now);
            USER.fill(&mut tables.users, keys.user, now);
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

/// Whoever may write users may bring hashes made elsewhere; what one costs is for the server to bound.
fn is_bearable(hash: &PasswordHash<'_>) -> bool {
    argon2::Params::try_from(hash)
        .is_ok_and(|costs| costs.m_cost() <= MAX_COST_KIB && costs.t_cost() <= 16 && costs.p_cost() <= 16)
}

fn hashed(password: &str) -> Result<String, argon2::password_hash::Error> {
    let salt = SaltString::encode_b64(&random::<16>())?;
    Ok(argon2::Argon2::default()
        .hash_password(password.as_bytes(), &salt)?
        .to_string())
}

/// Makes room for one more: drops what is over, else the half that is over first (or is oldest).
fn make_room<K: Eq + Hash>(table: &mut HashMap<K, u64>, now: u64) {
    if table.len() < TABLE {
        return;
    }
    table.retain(|_, time| *time > now);
    if table.len() >= TABLE {
        let mut times: Vec<u64> = table.values().copied().collect();
        let (_, &mut middle, _) = times.select_nth_unstable(TABLE / 2);
        table.retain(|_, time| *time > middle);
    }
}

/// Where somebody comes from, as coarse as addresses are given out: of IPv6 a host has 2^64.
#[derive(Hash)]
enum Place {
    Local,
    V4([u8; 4]),
    V6([u16; 4]),
    Other(String),
}

fn place(from: &str) -> Place {
    match from.parse::<IpAddr>().map(|address| address.to_canonical()) {
        Ok(address) if address.is_loopback() => Place::Local,
        Ok(IpAddr::V4(address)) => Place::V4(address.octets()),
        Ok(IpAddr::V6(address)) => {
            let [a, b, c, d, ..] = address.segments();
            Place::V6([a, b, c, d])
        }
        Err(_) => Place::Other(from.to_owned()),
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

    /// Fills the buckets without hashing.
    fn fail(logins: &Logins, user: &str, from: &str) {
        let (keys, now) = (logins.keys(user, from), logins.clock.steady_ns());
        let mut tables = logins.tables();
        PAIR.fill(&mut tables.pairs, keys.pair, now);
        PLACE.fill(&mut tables.places, keys.place, now);
        USER.fill(&mut tables.users, keys.user, now);
    }

    #[test]
    fn wrong_passwords_cost_time_and_right_ones_do_not() {
        let clock = Arc::new(ManualClock::new(0));
        let logins = Logins::new(clock.clone());
        let hash = logins.hash("right").unwrap();
        let check = |password, from| logins.check("jane", password, from, Some(&hash));
        assert!(check("right", "a") && !check("wrong", "a"));
        assert_eq!(logins.wait("jane", "a"), 0);
        for _ in 0..PAIR.holds {
            assert!(!check("wrong", "a"));
        }
        let waits = || {
            [
                logins.wait("jane", "a"),
                logins.wait("jane", "b"),
                logins.wait("joe", "a"),
            ]
        };
        assert_eq!(waits(), [30, 0, 0]);
        clock.advance(29);
        assert_eq!(waits(), [1, 0, 0]);
        clock.advance(1);
        assert_eq!(logins.wait("jane", "a"), 0);
        assert!(check("right", "a"));
        assert!(!check("wrong", "a"));
        assert_eq!(logins.wait("jane", "a"), 0, "counted from the start again");
    }

    #[test]
    fn a_place_that_tries_many_names_waits_and_others_do_not() {
        let logins = Logins::new(Arc::new(ManualClock::new(0)));
        for n in 0..=PLACE.holds {
            fail(&logins, &format!("user-{n}"), "2001:db8::1");
        }
        assert_eq!(logins.wait("someone", "2001:db8::ffff:1"), 5, "the same network");
        assert_eq!(logins.wait("someone", "2001:db8:0:1::1"), 0);
        assert_eq!(logins.wait("someone", "::ffff:10.0.0.1"), 0);
    }

    #[test]
    fn many_places_slow_a_user_down_but_not_from_home() {
        let clock = Arc::new(ManualClock::new(0));
        let logins = Logins::new(clock.clone());
        let hash = logins.hash("right").unwrap();
        assert!(logins.check("jane", "right", "10.9.9.9", Some(&hash)));
        for n in 0..=USER.holds {
            fail(&logins, "jane", &format!("10.0.0.{n}"));
        }
        assert_eq!(logins.wait("jane", "10.1.1.1"), 1, "never longer than this");
        for home in ["10.9.9.9", "127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(logins.wait("jane", home), 0, "{home}");
        }
        assert_eq!(logins.wait("joe", "10.1.1.1"), 0);
        clock.advance(1);
        assert_eq!(logins.wait("jane", "10.1.1.1"), 0);
    }

    #[test]
    fn the_tables_are_bounded_and_forget_the_harmless_first() {
        let logins = Logins::new(Arc::new(ManualClock::new(0)));
        for _ in 0..=PAIR.holds {
            fail(&logins, "jane", "10.0.0.1");
        }
        for n in 0..3 * TABLE {
            fail(&logins, &format!("user-{n}"), &format!("place-{n}"));
        }
        let tables = logins.tables();
        assert!(
            [&tables.pairs, &tables.places, &tables.users]
                .iter()
                .all(|table| table.len() <= TABLE)
        );
        drop(tables);
        assert_eq!(logins.wait("jane", "10.0.0.1"), 30);
    }

    #[test]
    fn hashes_are_slow_and_salted() {
        let logins = Logins::new(Arc::new(ManualClock::new(0)));
        let (a, b) = (logins.hash("same").unwrap(), logins.hash("same").unwrap());
        // OWASP's least for Argon2id, with a salt of 128 bits.
        assert!(a.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{a}");
        assert!(a != b && a.split('$').nth(4).unwrap().len() >= 22);
    }

    #[test]
    fn no_hash_fits_no_password() {
        let logins = Logins::new(Arc::new(ManualClock::new(0)));
        // The last would take 4 GiB.
        let huge = "$argon2id$v=19$m=4194304,t=1000,p=1$c2FsdHNhbHRzYWx0c2FsdA$aGFzaGhhc2hoYXNoaGFzaA";
        for hash in [None, Some(""), Some("not a hash"), Some(huge)] {
            assert!(!logins.check("jane", "", "a", hash), "{hash:?}");
        }
    }
}
