//! Cipher suites (IPMI 2.0 §13.28, table 22-20), keys, integrity codes and encryption.

use aes::cipher::block_padding::NoPadding;
use aes::cipher::{BlockDecryptMut as _, BlockEncryptMut as _, KeyIvInit as _};
use hmac::{Hmac, Mac as _};
use sha1::Sha1;
use sha2::Sha256;

use crate::wire::{self, Malformed, Plus};

const BLOCK: usize = 16;
/// K1 and K2 are made of a constant of this length, whatever the hash (§13.32).
const CONSTANT: usize = 20;

/// How a session is authenticated, signed and encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suite {
    /// Number of the cipher suite.
    pub id: u8,
    hash: Hash,
    encrypted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hash {
    Sha1,
    Sha256,
}

/// Suite 17: RAKP-HMAC-SHA256, HMAC-SHA256-128, AES-CBC-128.
pub const SUITE_17: Suite = Suite {
    id: 17,
    hash: Hash::Sha256,
    encrypted: true,
};
/// Suite 3: RAKP-HMAC-SHA1, HMAC-SHA1-96, AES-CBC-128.
pub const SUITE_3: Suite = Suite {
    id: 3,
    hash: Hash::Sha1,
    encrypted: true,
};
/// Suite 16: as 17, and everybody on the way can read all of it, a console's keystrokes too.
pub const SUITE_16: Suite = Suite {
    id: 16,
    hash: Hash::Sha256,
    encrypted: false,
};
/// Suite 2: as 3, and everybody on the way can read all of it.
pub const SUITE_2: Suite = Suite {
    id: 2,
    hash: Hash::Sha1,
    encrypted: false,
};

/// What is tried unless the caller says otherwise, best first.
pub const USUAL: &[Suite] = &[SUITE_17, SUITE_3];
/// All that are known, best first. None is here that lets a packet be forged (0, 1, 15), or rests on MD5.
pub const KNOWN: &[Suite] = &[SUITE_17, SUITE_3, SUITE_16, SUITE_2];

impl Suite {
    /// By its number.
    #[must_use]
    pub fn by_id(id: u8) -> Option<Self> {
        KNOWN.iter().copied().find(|suite| suite.id == id)
    }

    /// By the numbers of its algorithms: authentication, integrity, confidentiality.
    #[must_use]
    pub fn by_algorithms(algorithms: [u8; 3]) -> Option<Self> {
        KNOWN.iter().copied().find(|suite| suite.algorithms() == algorithms)
    }

    /// Numbers of its algorithms (§13.28, §13.28.4, §13.28.5): authentication, integrity, confidentiality.
    #[must_use]
    pub fn algorithms(self) -> [u8; 3] {
        let (authentication, integrity) = match self.hash {
            Hash::Sha1 => (1, 1),
            Hash::Sha256 => (3, 4),
        };
        [authentication, integrity, u8::from(self.encrypted)]
    }

    /// Length of a key exchange code: of RAKP messages 2 and 3.
    pub(crate) fn exchange_length(self) -> usize {
        match self.hash {
            Hash::Sha1 => 20,
            Hash::Sha256 => 32,
        }
    }

    /// Length of an integrity code: of packets and of RAKP message 4.
    pub(crate) fn code_length(self) -> usize {
        match self.hash {
            Hash::Sha1 => 12,
            Hash::Sha256 => 16,
        }
    }

    pub(crate) fn hmac(self, key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
        match self.hash {
            Hash::Sha1 => sum(sha1(key), parts).finalize().into_bytes().to_vec(),
            Hash::Sha256 => sum(sha256(key), parts).finalize().into_bytes().to_vec(),
        }
    }

    /// Whether `code` is the beginning of the HMAC, compared in constant time; of `length` bytes exactly.
    pub(crate) fn holds(self, key: &[u8], parts: &[&[u8]], code: &[u8], length: usize) -> bool {
        code.len() == length
            && match self.hash {
                Hash::Sha1 => sum(sha1(key), parts).verify_truncated_left(code).is_ok(),
                Hash::Sha256 => sum(sha256(key), parts).verify_truncated_left(code).is_ok(),
            }
    }
}

// A key of any length is a key of an HMAC (RFC 2104 §2).
#[allow(clippy::unwrap_used)]
fn sha1(key: &[u8]) -> Hmac<Sha1> {
    Hmac::new_from_slice(key).unwrap()
}

#[allow(clippy::unwrap_used)]
fn sha256(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).unwrap()
}

fn sum<M: hmac::Mac>(mut mac: M, parts: &[&[u8]]) -> M {
    for part in parts {
        mac.update(part);
    }
    mac
}

/// Keys of a session, the same at both ends.
#[derive(Clone)]
pub struct Keys {
    suite: Suite,
    /// For integrity codes.
    k1: Vec<u8>,
    /// For encryption.
    k2: [u8; BLOCK],
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys")
            .field("suite", &self.suite)
            .finish_non_exhaustive()
    }
}

impl Keys {
    /// From the session integrity key (§13.32).
    #[must_use]
    pub fn of(suite: Suite, sik: &[u8]) -> Self {
        let k2 = suite.hmac(sik, &[&[2; CONSTANT]]);
        let mut key = [0; BLOCK];
        key.copy_from_slice(&k2[..BLOCK]);
        Self {
            suite,
            k1: suite.hmac(sik, &[&[1; CONSTANT]]),
            k2: key,
        }
    }

    /// The suite they are of.
    #[must_use]
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// A packet of the session: `session` as its receiver numbered it; `iv` never twice.
    #[must_use]
    pub fn seal(&self, kind: u8, session: u32, sequence: u32, payload: &[u8], iv: [u8; BLOCK]) -> Vec<u8> {
        let (flags, body) = match self.suite.encrypted {
            true => (0xc0, self.encrypt(payload, iv)),
            false => (0x40, payload.to_vec()),
        };
        let mut packet = wire::unsigned(kind | flags, session, sequence, &body);
        let from = wire::pad(&mut packet);
        let mut code = self.suite.hmac(&self.k1, &[&packet[from..]]);
        code.truncate(self.suite.code_length());
        packet.extend(code);
        packet
    }

    /// The payload of a packet of the session.
    ///
    /// # Errors
    /// It is not signed with these keys, not encrypted where it has to be, or is damaged.
    pub fn open(&self, packet: &Plus<'_>) -> Result<Vec<u8>, Malformed> {
        if !packet.authenticated || packet.encrypted != self.suite.encrypted {
            return Err(Malformed);
        }
        let length = self.suite.code_length();
        let (pad, code) = packet.split_trailer(length)?;
        if !self.suite.holds(&self.k1, &[packet.covered, pad], code, length) {
            return Err(Malformed);
        }
        match self.suite.encrypted {
            true => self.decrypt(packet.payload),
            false => Ok(packet.payload.to_vec()),
        }
    }

    /// Confidentiality header, data, pad 1, 2, 3 … and its length (§13.29).
    fn encrypt(&self, payload: &[u8], iv: [u8; BLOCK]) -> Vec<u8> {
        let count = (BLOCK - (payload.len() + 1) % BLOCK) % BLOCK;
        let mut data = payload.to_vec();
        data.extend((1..=BLOCK).take(count).map(|n| n.to_le_bytes()[0]));
        data.push(count.to_le_bytes()[0]);
        let cipher = cbc::Encryptor::<aes::Aes128>::new(&self.k2.into(), &iv.into());
        let mut out = iv.to_vec();
        out.extend(cipher.encrypt_padded_vec_mut::<NoPadding>(&data));
        out
    }

    fn decrypt(&self, body: &[u8]) -> Result<Vec<u8>, Malformed> {
        let iv: [u8; BLOCK] = wire::array(body, 0)?;
        let cipher = cbc::Decryptor::<aes::Aes128>::new(&self.k2.into(), &iv.into());
        let mut data = cipher
            .decrypt_padded_vec_mut::<NoPadding>(&body[BLOCK..])
            .map_err(|_| Malformed)?;
        let count = usize::from(data.pop().ok_or(Malformed)?);
        // Some BMCs fill with other bytes than the specification's: the integrity code covers them all the same.
        if count >= BLOCK {
            return Err(Malformed);
        }
        let length = data.len().checked_sub(count).ok_or(Malformed)?;
        data.truncate(length);
        Ok(data)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;
    use crate::wire::{Packet, parse};

    fn plus(packet: &[u8]) -> Plus<'_> {
        match parse(packet) {
            Ok(Packet::Plus(plus)) => plus,
            other => panic!("{other:?}"),
        }
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens_and_what_is_touched_does_not(
            which in 0..KNOWN.len(), payload in prop::collection::vec(any::<u8>(), 0..300), iv: [u8; 16], at: prop::sample::Index, bit in 0..8u8
        ) {
            let keys = Keys::of(KNOWN[which], b"the same at both ends");
            let packet = keys.seal(wire::payload::IPMI, 7, 9, &payload, iv);
            prop_assert_eq!(packet.len() % 4, 0);
            let good = plus(&packet);
            prop_assert_eq!((good.session, good.sequence, good.kind), (7, 9, 0));
            prop_assert_eq!(keys.open(&good), Ok(payload));
            prop_assert!(Keys::of(KNOWN[which], b"another").open(&good).is_err());
            let mut bad = packet.clone();
            let at = 4 + at.index(packet.len() - 4);
            bad[at] ^= 1 << bit;
            if let Ok(Packet::Plus(bad)) = parse(&bad) {
                prop_assert_eq!(keys.open(&bad), Err(Malformed));
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut packet = vec![0x06, 0, 0xff, 0x07, 0x06];
            packet.extend(&bytes);
            for candidate in [&bytes, &packet] {
                if let Ok(Packet::Plus(plus)) = parse(candidate) {
                    for suite in KNOWN {
                        let _ = Keys::of(*suite, b"x").open(&plus);
                    }
                }
            }
            let _ = Keys::of(SUITE_3, b"x").decrypt(&bytes);
        }
    }

    #[test]
    fn an_unencrypted_packet_is_not_taken_where_encryption_was_agreed_on() {
        let sik = b"sik";
        let packet = Keys::of(SUITE_2, sik).seal(0, 1, 1, b"plain", [0; 16]);
        assert_eq!(Keys::of(SUITE_2, sik).open(&plus(&packet)).unwrap(), b"plain");
        assert_eq!(Keys::of(SUITE_3, sik).open(&plus(&packet)), Err(Malformed));
    }

    #[test]
    fn weaker_suites_are_known_and_not_usual() {
        assert_eq!(USUAL.iter().map(|s| s.id).collect::<Vec<_>>(), [17, 3]);
        assert_eq!(Suite::by_algorithms([3, 4, 1]), Some(SUITE_17));
        assert_eq!(Suite::by_algorithms([1, 1, 0]), Some(SUITE_2));
        for id in [0, 1, 6, 15] {
            assert_eq!(Suite::by_id(id), None);
        }
    }
}
