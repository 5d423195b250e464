//! Setting up a session: Open Session and RAKP messages 1 to 4 (IPMI 2.0 §13.17 to §13.24).
//!
//! Who can send RAKP message 1 gets a BMC to answer with a hash of the user's password (message 2): that is the
//! protocol, and no client can mend it. See `docs/security.md`.

use crate::crypto::{Keys, Suite};
use crate::wire::{Malformed, array};

/// Longest user name (§13.20).
pub const USER_MAX: usize = 16;
/// Longest password (§22.30).
pub const PASSWORD_MAX: usize = 20;
/// Privilege level of an administrator (§6.8).
pub const ADMINISTRATOR: u8 = 4;
/// The user is looked for by name alone (§13.20, byte 25 bit 4).
pub const BY_NAME: u8 = 0x10;

/// Status codes (§13.24, table 13-15).
pub mod status {
    /// Done.
    pub const OK: u8 = 0x00;
    /// No room for another session.
    pub const NO_RESOURCES: u8 = 0x01;
    /// No such session.
    pub const NO_SESSION: u8 = 0x02;
    /// That authentication algorithm is not offered.
    pub const NO_AUTHENTICATION: u8 = 0x04;
    /// That integrity algorithm is not offered.
    pub const NO_INTEGRITY: u8 = 0x05;
    /// The user has not this privilege.
    pub const NO_ROLE: u8 = 0x09;
    /// No user of that name.
    pub const NO_NAME: u8 = 0x0d;
    /// The password is wrong.
    pub const WRONG_CODE: u8 = 0x0f;
    /// That confidentiality algorithm is not offered.
    pub const NO_CONFIDENTIALITY: u8 = 0x10;
    /// No such combination of algorithms.
    pub const NO_SUITE: u8 = 0x11;

    /// In the specification's words.
    #[must_use]
    pub fn words(status: u8) -> &'static str {
        match status {
            OK => "no error",
            NO_RESOURCES => "insufficient resources to create a session",
            NO_SESSION => "invalid session ID",
            0x03 => "invalid payload type",
            NO_AUTHENTICATION => "invalid authentication algorithm",
            NO_INTEGRITY => "invalid integrity algorithm",
            0x06 => "no matching authentication payload",
            0x07 => "no matching integrity payload",
            0x08 => "inactive session ID",
            NO_ROLE => "invalid role",
            0x0a => "unauthorized role or privilege level requested",
            0x0b => "insufficient resources to create a session at the requested role",
            0x0c => "invalid name length",
            NO_NAME => "unauthorized name",
            0x0e => "unauthorized GUID",
            WRONG_CODE => "invalid integrity check value",
            NO_CONFIDENTIALITY => "invalid confidentiality algorithm",
            NO_SUITE => "no cipher suite match with proposed security algorithms",
            0x12 => "illegal or unrecognized parameter",
            _ => "a status that the specification does not know",
        }
    }
}

/// Open Session Request (§13.17).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenRequest {
    /// Comes back in the answer.
    pub tag: u8,
    /// Highest privilege of the session; 0: as the BMC has it.
    pub privilege: u8,
    /// The console's number of the session.
    pub console: u32,
    /// Authentication, integrity, confidentiality.
    pub algorithms: [u8; 3],
}

fn algorithms(numbers: [u8; 3]) -> impl Iterator<Item = u8> {
    (0u8..)
        .zip(numbers)
        .flat_map(|(kind, number)| [kind, 0, 0, 8, number, 0, 0, 0])
}

fn read_algorithms(bytes: &[u8], at: usize) -> Result<[u8; 3], Malformed> {
    let mut numbers = [0; 3];
    for (n, number) in numbers.iter_mut().enumerate() {
        let [kind, _, _, length, algorithm, ..]: [u8; 8] = array(bytes, at + n * 8)?;
        if usize::from(kind) != n || !matches!(length, 0 | 8) {
            return Err(Malformed);
        }
        // A length of 0 leaves the choice to the BMC: none is what nobody here means.
        *number = if length == 0 { 0 } else { algorithm & 0x3f };
    }
    Ok(numbers)
}

impl OpenRequest {
    /// As it travels.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![self.tag, self.privilege, 0, 0];
        out.extend(self.console.to_le_bytes());
        out.extend(algorithms(self.algorithms));
        out
    }

    /// Reads one.
    ///
    /// # Errors
    /// It is cut or none.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let [tag, privilege]: [u8; 2] = array(bytes, 0)?;
        Ok(Self {
            tag,
            privilege: privilege & 0x0f,
            console: u32::from_le_bytes(array(bytes, 4)?),
            algorithms: read_algorithms(bytes, 8)?,
        })
    }
}

/// Open Session Response (§13.18).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenResponse {
    /// Of the request.
    pub tag: u8,
    /// One of [`status`].
    pub status: u8,
    /// Highest privilege of the session.
    pub privilege: u8,
    /// The console's number of the session.
    pub console: u32,
    /// The BMC's number of the session.
    pub bmc: u32,
    /// What was agreed on.
    pub algorithms: [u8; 3],
}

impl OpenResponse {
    /// As it travels; a refusal is short.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![self.tag, self.status, self.privilege, 0];
        out.extend(self.console.to_le_bytes());
        if self.status == status::OK {
            out.extend(self.bmc.to_le_bytes());
            out.extend(algorithms(self.algorithms));
        }
        out
    }

    /// Reads one.
    ///
    /// # Errors
    /// It is cut or none.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let [tag, status]: [u8; 2] = array(bytes, 0)?;
        if status != status::OK {
            return Ok(Self {
                tag,
                status,
                privilege: 0,
                console: array(bytes, 4).map_or(0, u32::from_le_bytes),
                bmc: 0,
                algorithms: [0; 3],
            });
        }
        Ok(Self {
            tag,
            status,
            privilege: array::<1>(bytes, 2)?[0],
            console: u32::from_le_bytes(array(bytes, 4)?),
            bmc: u32::from_le_bytes(array(bytes, 8)?),
            algorithms: read_algorithms(bytes, 12)?,
        })
    }
}

/// RAKP message 1 (§13.20).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rakp1 {
    /// Comes back in the answer.
    pub tag: u8,
    /// The BMC's number of the session.
    pub bmc: u32,
    /// The console's random number.
    pub random: [u8; 16],
    /// Privilege, and how the user is looked for.
    pub role: u8,
    /// User name.
    pub user: Vec<u8>,
}

impl Rakp1 {
    /// As it travels.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![self.tag, 0, 0, 0];
        out.extend(self.bmc.to_le_bytes());
        out.extend(self.random);
        out.extend([self.role, 0, 0, self.user.len().to_le_bytes()[0]]);
        out.extend(&self.user);
        out
    }

    /// Reads one.
    ///
    /// # Errors
    /// It is cut, or the name is too long.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let length = usize::from(array::<1>(bytes, 27)?[0]);
        if length > USER_MAX {
            return Err(Malformed);
        }
        Ok(Self {
            tag: array::<1>(bytes, 0)?[0],
            bmc: u32::from_le_bytes(array(bytes, 4)?),
            random: array(bytes, 8)?,
            role: array::<1>(bytes, 24)?[0],
            user: bytes.get(28..28 + length).ok_or(Malformed)?.to_vec(),
        })
    }
}

/// RAKP message 2 (§13.21).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rakp2 {
    /// Of message 1.
    pub tag: u8,
    /// One of [`status`].
    pub status: u8,
    /// The console's number of the session.
    pub console: u32,
    /// The BMC's random number.
    pub random: [u8; 16],
    /// The BMC's GUID.
    pub guid: [u8; 16],
    /// Key exchange code.
    pub code: Vec<u8>,
}

impl Rakp2 {
    /// As it travels; a refusal is short.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![self.tag, self.status, 0, 0];
        out.extend(self.console.to_le_bytes());
        if self.status == status::OK {
            out.extend(self.random);
            out.extend(self.guid);
            out.extend(&self.code);
        }
        out
    }

    /// Reads one.
    ///
    /// # Errors
    /// It is cut.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let [tag, status]: [u8; 2] = array(bytes, 0)?;
        if status != status::OK {
            return Ok(Self {
                tag,
                status,
                console: array(bytes, 4).map_or(0, u32::from_le_bytes),
                random: [0; 16],
                guid: [0; 16],
                code: Vec::new(),
            });
        }
        Ok(Self {
            tag,
            status,
            console: u32::from_le_bytes(array(bytes, 4)?),
            random: array(bytes, 8)?,
            guid: array(bytes, 24)?,
            code: bytes.get(40..).ok_or(Malformed)?.to_vec(),
        })
    }
}

/// RAKP messages 3 (§13.22, `session` is the BMC's) and 4 (§13.23, the console's).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rakp34 {
    /// Of message 3.
    pub tag: u8,
    /// One of [`status`].
    pub status: u8,
    /// The receiver's number of the session.
    pub session: u32,
    /// Key exchange code, or integrity check value.
    pub code: Vec<u8>,
}

impl Rakp34 {
    /// As it travels.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![self.tag, self.status, 0, 0];
        out.extend(self.session.to_le_bytes());
        out.extend(&self.code);
        out
    }

    /// Reads one.
    ///
    /// # Errors
    /// It is cut.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let [tag, status]: [u8; 2] = array(bytes, 0)?;
        let session = match status {
            status::OK => u32::from_le_bytes(array(bytes, 4)?),
            _ => array(bytes, 4).map_or(0, u32::from_le_bytes),
        };
        Ok(Self {
            tag,
            status,
            session,
            code: bytes.get(8..).unwrap_or_default().to_vec(),
        })
    }
}

/// What both ends know when the codes are made (§13.31).
#[derive(Clone, Debug)]
pub struct Transcript {
    /// Agreed on.
    pub suite: Suite,
    /// The console's number of the session.
    pub console: u32,
    /// The BMC's number of the session.
    pub bmc: u32,
    /// The console's random number.
    pub console_random: [u8; 16],
    /// The BMC's random number.
    pub bmc_random: [u8; 16],
    /// The BMC's GUID.
    pub guid: [u8; 16],
    /// As in message 1.
    pub role: u8,
    /// As in message 1.
    pub user: Vec<u8>,
}

impl Transcript {
    fn named(&self) -> Vec<u8> {
        let mut named = vec![self.role, self.user.len().to_le_bytes()[0]];
        named.extend(&self.user);
        named
    }

    fn second(&self) -> Vec<u8> {
        let mut all = Vec::new();
        all.extend(self.console.to_le_bytes());
        all.extend(self.bmc.to_le_bytes());
        all.extend(self.console_random);
        all.extend(self.bmc_random);
        all.extend(self.guid);
        all.extend(self.named());
        all
    }

    fn third(&self) -> Vec<u8> {
        let mut all = self.bmc_random.to_vec();
        all.extend(self.console.to_le_bytes());
        all.extend(self.named());
        all
    }

    fn fourth(&self) -> Vec<u8> {
        let mut all = self.console_random.to_vec();
        all.extend(self.bmc.to_le_bytes());
        all.extend(self.guid);
        all
    }

    /// Code of message 2.
    #[must_use]
    pub fn code2(&self, password: &[u8]) -> Vec<u8> {
        self.suite.hmac(password, &[&self.second()])
    }

    /// Whether message 2 is of somebody who knows the password.
    #[must_use]
    pub fn holds2(&self, password: &[u8], code: &[u8]) -> bool {
        let length = self.suite.exchange_length();
        self.suite.holds(password, &[&self.second()], code, length)
    }

    /// Code of message 3.
    #[must_use]
    pub fn code3(&self, password: &[u8]) -> Vec<u8> {
        self.suite.hmac(password, &[&self.third()])
    }

    /// Whether message 3 is of somebody who knows the password.
    #[must_use]
    pub fn holds3(&self, password: &[u8], code: &[u8]) -> bool {
        let length = self.suite.exchange_length();
        self.suite.holds(password, &[&self.third()], code, length)
    }

    /// The session integrity key; `key` is the BMC's K_G, or the password where it has none.
    #[must_use]
    pub fn sik(&self, key: &[u8]) -> Vec<u8> {
        let parts: [&[u8]; 3] = [&self.console_random, &self.bmc_random, &self.named()];
        self.suite.hmac(key, &parts)
    }

    /// Check value of message 4.
    #[must_use]
    pub fn code4(&self, sik: &[u8]) -> Vec<u8> {
        let mut code = self.suite.hmac(sik, &[&self.fourth()]);
        code.truncate(self.suite.code_length());
        code
    }

    /// Whether message 4 is of somebody who has the same key.
    #[must_use]
    pub fn holds4(&self, sik: &[u8], code: &[u8]) -> bool {
        self.suite.holds(sik, &[&self.fourth()], code, self.suite.code_length())
    }

    /// Keys of the session.
    #[must_use]
    pub fn keys(&self, sik: &[u8]) -> Keys {
        Keys::of(self.suite, sik)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn messages_come_back_as_they_were(tag: u8, console: u32, bmc: u32, random: [u8; 16], guid: [u8; 16], user in prop::collection::vec(any::<u8>(), 0..=16)) {
            let open = OpenRequest { tag, privilege: 4, console, algorithms: [3, 4, 1] };
            prop_assert_eq!(OpenRequest::parse(&open.encode()), Ok(open));
            let opened = OpenResponse { tag, status: 0, privilege: 4, console, bmc, algorithms: [1, 1, 1] };
            prop_assert_eq!(OpenResponse::parse(&opened.encode()), Ok(opened));
            let first = Rakp1 { tag, bmc, random, role: 0x14, user };
            prop_assert_eq!(Rakp1::parse(&first.encode()), Ok(first));
            let second = Rakp2 { tag, status: 0, console, random, guid, code: vec![9; 32] };
            prop_assert_eq!(Rakp2::parse(&second.encode()), Ok(second));
            let third = Rakp34 { tag, status: 0, session: bmc, code: vec![8; 20] };
            prop_assert_eq!(Rakp34::parse(&third.encode()), Ok(third));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = (OpenRequest::parse(&bytes), OpenResponse::parse(&bytes), Rakp1::parse(&bytes));
            let _ = (Rakp2::parse(&bytes), Rakp34::parse(&bytes));
        }
    }

    #[test]
    fn a_refusal_may_be_short() {
        assert_eq!(OpenResponse::parse(&[1, 0x11]).unwrap().status, status::NO_SUITE);
        assert_eq!(Rakp2::parse(&[1, 0x0d, 0, 0]).unwrap().status, status::NO_NAME);
        assert!(OpenResponse::parse(&[1, 0]).is_err());
        assert!(Rakp34::parse(&[1, 0]).is_err());
    }
}
