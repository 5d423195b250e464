//! Packets: RMCP (IPMI 2.0 §13.1.3), the session headers of IPMI 1.5 and of RMCP+ (§13.6), messages (§13.8).
//!
//! Nothing here panics on any bytes.

/// UDP port of BMCs (§13.1.2).
pub const PORT: u16 = 623;
/// No packet is longer: payloads fit into one Ethernet frame (§13.6).
pub const MAX_PACKET: usize = 1500;

/// RMCP version 6, no acknowledgement wanted, class IPMI.
const RMCP: [u8; 4] = [0x06, 0x00, 0xff, 0x07];
const FORMAT_NONE: u8 = 0x00;
const FORMAT_RMCP_PLUS: u8 = 0x06;
/// Of an RMCP+ session header, from the format on.
const HEADER: usize = 12;
const NEXT_HEADER: u8 = 0x07;

/// Payload types (§13.27.3).
pub mod payload {
    /// A message.
    pub const IPMI: u8 = 0x00;
    /// Serial over LAN.
    pub const SOL: u8 = 0x01;
    /// Open Session Request.
    pub const OPEN_REQUEST: u8 = 0x10;
    /// Open Session Response.
    pub const OPEN_RESPONSE: u8 = 0x11;
    /// RAKP message 1; 2, 3 and 4 follow.
    pub const RAKP1: u8 = 0x12;
    /// RAKP message 2.
    pub const RAKP2: u8 = 0x13;
    /// RAKP message 3.
    pub const RAKP3: u8 = 0x14;
    /// RAKP message 4.
    pub const RAKP4: u8 = 0x15;
}

/// A packet that is none, or not for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// A packet as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    /// IPMI 1.5 format without authentication: what is said before a session.
    Plain {
        /// A message.
        payload: &'a [u8],
    },
    /// RMCP+.
    Plus(Plus<'a>),
}

/// An RMCP+ packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plus<'a> {
    /// One of [`payload`].
    pub kind: u8,
    /// The payload is encrypted.
    pub encrypted: bool,
    /// There is an integrity code.
    pub authenticated: bool,
    /// Session, as the receiver numbered it.
    pub session: u32,
    /// Sequence number of the packet.
    pub sequence: u32,
    /// As it travels: encrypted or not.
    pub payload: &'a [u8],
    /// From the format byte to the end of the payload.
    pub(crate) covered: &'a [u8],
    /// Integrity pad, its length, next header and code.
    pub(crate) trailer: &'a [u8],
}

impl<'a> Plus<'a> {
    /// Splits the trailer in what the code is over (with [`Self::covered`]) and a code of `length` bytes.
    pub(crate) fn split_trailer(&self, length: usize) -> Result<(&'a [u8], &'a [u8]), Malformed> {
        let at = self.trailer.len().checked_sub(length).ok_or(Malformed)?;
        let (pad, code) = self.trailer.split_at(at);
        match pad {
            [.., count, NEXT_HEADER] if usize::from(*count) + 2 == pad.len() => Ok((pad, code)),
            _ => Err(Malformed),
        }
    }
}

/// Reads a packet's headers.
///
/// # Errors
/// It is not RMCP, not IPMI, cut, or of an authentication type of IPMI 1.5.
pub fn parse(packet: &[u8]) -> Result<Packet<'_>, Malformed> {
    let rest = match packet {
        // The third byte asks for an acknowledgement or not: nobody does for IPMI.
        [0x06, _, _, class, rest @ ..] if class & 0x1f == 0x07 => rest,
        _ => return Err(Malformed),
    };
    match *rest.first().ok_or(Malformed)? {
        FORMAT_NONE => {
            let (length, body) = rest.get(9..).and_then(<[u8]>::split_first).ok_or(Malformed)?;
            let payload = body.get(..usize::from(*length)).ok_or(Malformed)?;
            Ok(Packet::Plain { payload })
        }
        FORMAT_RMCP_PLUS => plus(rest).map(Packet::Plus),
        _ => Err(Malformed),
    }
}

fn plus(rest: &[u8]) -> Result<Plus<'_>, Malformed> {
    let kind = *rest.get(1).ok_or(Malformed)?;
    // Payload type 2 carries six more bytes: nobody's here.
    if kind & 0x3f == 0x02 {
        return Err(Malformed);
    }
    let length = u16::from_le_bytes(array(rest, 10)?);
    let end = HEADER + usize::from(length);
    Ok(Plus {
        kind: kind & 0x3f,
        encrypted: kind & 0x80 != 0,
        authenticated: kind & 0x40 != 0,
        session: u32::from_le_bytes(array(rest, 2)?),
        sequence: u32::from_le_bytes(array(rest, 6)?),
        payload: rest.get(HEADER..end).ok_or(Malformed)?,
        covered: rest.get(..end).ok_or(Malformed)?,
        trailer: rest.get(end..).ok_or(Malformed)?,
    })
}

/// `N` bytes at an offset.
pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], Malformed> {
    let end = at.checked_add(N).ok_or(Malformed)?;
    bytes
        .get(at..end)
        .and_then(|part| part.try_into().ok())
        .ok_or(Malformed)
}

/// A packet outside of a session, in the format of IPMI 1.5.
#[must_use]
pub fn plain(payload: &[u8]) -> Vec<u8> {
    let mut packet = RMCP.to_vec();
    packet.extend([FORMAT_NONE, 0, 0, 0, 0, 0, 0, 0, 0, payload.len().to_le_bytes()[0]]);
    packet.extend(payload);
    packet
}

/// An RMCP+ packet without an integrity code. `flags` go into the byte of the payload type.
pub(crate) fn unsigned(kind: u8, session: u32, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let mut packet = RMCP.to_vec();
    packet.extend([FORMAT_RMCP_PLUS, kind]);
    packet.extend(session.to_le_bytes());
    packet.extend(sequence.to_le_bytes());
    packet.extend(u16::try_from(payload.len()).unwrap_or(u16::MAX).to_le_bytes());
    packet.extend(payload);
    packet
}

/// An RMCP+ packet outside of a session: what sets one up.
#[must_use]
pub fn set_up(kind: u8, payload: &[u8]) -> Vec<u8> {
    unsigned(kind, 0, 0, payload)
}

/// Fills up to a multiple of four, as the integrity code wants it (§13.28.4), and answers where the covered part begins.
pub(crate) fn pad(packet: &mut Vec<u8>) -> usize {
    let covered = packet.len() - RMCP.len() + 2;
    let count = (4 - covered % 4) % 4;
    packet.extend(std::iter::repeat_n(0xff, count));
    packet.extend([count.to_le_bytes()[0], NEXT_HEADER]);
    RMCP.len()
}

/// Address of a BMC on its own bus (§5.5).
const BMC: u8 = 0x20;
/// Address of a remote console's software (§5.5).
const CONSOLE: u8 = 0x81;

/// A request to a BMC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// Network function: even.
    pub netfn: u8,
    /// Command.
    pub command: u8,
    /// Number by which the answer is known, 0 to 63.
    pub number: u8,
    /// Who asks.
    pub from: u8,
    /// Logical unit there.
    pub lun: u8,
    /// Body.
    pub data: &'a [u8],
}

/// A BMC's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response<'a> {
    /// Network function of the request.
    pub netfn: u8,
    /// Command.
    pub command: u8,
    /// Number of the request.
    pub number: u8,
    /// Completion code (§5.2); 0 is success.
    pub completion: u8,
    /// Body.
    pub data: &'a [u8],
}

fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte))
}

/// Both checksums of a message hold, and it has its seven bytes and those of its own.
fn sums(message: &[u8], least: usize) -> Result<(), Malformed> {
    let whole = message.len() >= least && checksum(&message[..3]) == 0 && checksum(&message[3..]) == 0;
    whole.then_some(()).ok_or(Malformed)
}

fn message(head: [u8; 2], tail: &[u8], data: &[u8]) -> Vec<u8> {
    let mut message = vec![head[0], head[1], checksum(&head)];
    message.extend(tail);
    message.extend(data);
    message.push(checksum(&message[3..]));
    message
}

impl<'a> Request<'a> {
    /// Of a console.
    #[must_use]
    pub fn new(netfn: u8, command: u8, number: u8, data: &'a [u8]) -> Self {
        Self {
            netfn,
            command,
            number: number & 0x3f,
            from: CONSOLE,
            lun: 0,
            data,
        }
    }

    /// As it travels (§13.8).
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let number = self.number << 2 | self.lun & 3;
        message([BMC, self.netfn << 2], &[self.from, number, self.command], self.data)
    }

    /// Reads one.
    ///
    /// # Errors
    /// It is cut or damaged, or not for a BMC.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        sums(bytes, 7)?;
        let netfn = bytes[1] >> 2;
        if bytes[0] != BMC || !netfn.is_multiple_of(2) {
            return Err(Malformed);
        }
        Ok(Self {
            netfn,
            command: bytes[5],
            number: bytes[4] >> 2,
            from: bytes[3],
            lun: bytes[4] & 3,
            data: &bytes[6..bytes.len() - 1],
        })
    }

    /// The answer to it, as it travels.
    #[must_use]
    pub fn answer(&self, completion: u8, data: &[u8]) -> Vec<u8> {
        let head = [self.from, (self.netfn | 1) << 2 | self.lun & 3];
        message(head, &[BMC, self.number << 2, self.command, completion], data)
    }
}

impl<'a> Response<'a> {
    /// Reads one.
    ///
    /// # Errors
    /// It is cut or damaged, or no answer.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        sums(bytes, 8)?;
        let netfn = bytes[1] >> 2;
        if netfn.is_multiple_of(2) {
            return Err(Malformed);
        }
        Ok(Self {
            netfn: netfn & !1,
            command: bytes[5],
            number: bytes[4] >> 2,
            completion: bytes[6],
            data: &bytes[7..bytes.len() - 1],
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_request_is_that_of_the_specification() {
        // Get Channel Authentication Capabilities (§22.13) as consoles send it.
        let request = Request::new(0x06, 0x38, 0, &[0x8e, 0x04]);
        assert_eq!(
            plain(&request.encode()),
            [
                0x06, 0x00, 0xff, 0x07, 0x00, 0, 0, 0, 0, 0, 0, 0, 0, 0x09, 0x20, 0x18, 0xc8, 0x81, 0x00, 0x38, 0x8e,
                0x04, 0xb5
            ]
        );
        let packet = plain(&request.encode());
        match parse(&packet) {
            Ok(Packet::Plain { payload }) => assert_eq!(Request::parse(payload), Ok(request)),
            other => panic!("{other:?}"),
        }
        let answer = request.answer(0, &[1, 2, 3]);
        let response = Response::parse(&answer).unwrap();
        assert_eq!((response.number, response.command, response.netfn), (0, 0x38, 0x06));
        assert_eq!((response.completion, response.data), (0, &[1u8, 2, 3][..]));
    }

    #[test]
    fn what_is_damaged_is_refused() {
        let good = Request::new(0x06, 0x01, 9, &[7, 7]).encode();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert_eq!(Request::parse(&bad), Err(Malformed), "byte {at}");
            assert_eq!(Request::parse(&good[..at]), Err(Malformed), "cut at {at}");
        }
    }
}
