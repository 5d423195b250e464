//! Serial over LAN (IPMI 2.0 §15, §26): the console of a machine as a stream.

use std::time::{Duration, Instant};

use isobar_bmc::{BmcError, ErrorClass};
use tokio::sync::mpsc;

use crate::session::{Came, Command, Session};
use crate::wire::{Malformed, array, payload};

/// Activate Payload (§24.1).
pub const ACTIVATE: Command = Command::new(0x06, 0x48, "open the console");
/// Deactivate Payload (§24.2).
pub const DEACTIVATE: Command = Command::new(0x06, 0x49, "close the console");
/// Completion code of [`ACTIVATE`]: somebody else has it.
pub const ALREADY_ACTIVE: u8 = 0x80;

/// Payload type and instance.
const SOL: [u8; 2] = [payload::SOL, 1];
/// Encrypted (bit 7) and authenticated (bit 6).
const PROTECTED: u8 = 0xc0;
const AUTHENTICATED: u8 = 0x40;
/// Characters in a packet, where the BMC takes them.
const MOST: usize = 200;
/// An acknowledgement is waited for this long, then the characters are sent again.
const ACK_WAIT: Duration = Duration::from_millis(500);
/// Characters that were sent so often without an answer go to nobody.
const RETRIES: u32 = 10;
/// Nothing is heard for this long: something harmless is asked, so that the session does not end (§6.12.15: 60 s).
const KEEP_ALIVE: Duration = Duration::from_secs(20);
const DEAF: Duration = Duration::from_secs(75);

/// Bits of a packet to a BMC (§15.9).
pub mod operation {
    /// The characters were not taken.
    pub const NACK: u8 = 0x40;
    /// Generate a break.
    pub const BREAK: u8 = 0x10;
}

/// Bits of a packet from a BMC (§15.9).
pub mod status {
    /// Some characters were not taken.
    pub const NACK: u8 = 0x40;
    /// It takes none now.
    pub const UNAVAILABLE: u8 = 0x20;
    /// The console ends here.
    pub const DEACTIVATED: u8 = 0x10;
}

/// A packet of Serial over LAN (§15.9, table 15-2), the same in both directions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SolPacket {
    /// Number, 1 to 15; 0: it only acknowledges.
    pub number: u8,
    /// The packet that it acknowledges; 0: none.
    pub acknowledges: u8,
    /// How many characters of that were taken.
    pub taken: u8,
    /// Of [`operation`] or [`status`].
    pub flags: u8,
    /// Characters.
    pub data: Vec<u8>,
}

impl SolPacket {
    /// As it travels.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![self.number & 0x0f, self.acknowledges & 0x0f, self.taken, self.flags];
        out.extend(&self.data);
        out
    }

    /// Reads one.
    ///
    /// # Errors
    /// It is cut.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let [number, acknowledges, taken, flags]: [u8; 4] = array(bytes, 0)?;
        Ok(Self {
            number: number & 0x0f,
            acknowledges: acknowledges & 0x0f,
            taken,
            flags,
            data: bytes[4..].to_vec(),
        })
    }
}

/// One end of a console: what is said is acknowledged, what is not acknowledged is said again. The same for a console
/// and for a BMC.
#[derive(Debug)]
pub struct Line {
    number: u8,
    /// Characters under way: number, text, how often, and when last.
    under_way: Option<(u8, Vec<u8>, u32, Instant)>,
    /// Last packet that was taken.
    heard: u8,
    most: usize,
}

impl Line {
    /// A line whose packets carry `most` characters.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self {
            number: 0,
            under_way: None,
            heard: 0,
            most: most.clamp(1, 255),
        }
    }

    /// Nothing is under way: more can be said.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.under_way.is_none()
    }

    /// Says as much of `text` as fits; the rest stays in it.
    pub fn say(&mut self, text: &mut Vec<u8>, now: Instant) -> Option<SolPacket> {
        if text.is_empty() || !self.is_free() {
            return None;
        }
        let rest = text.split_off(text.len().min(self.most));
        let part = std::mem::replace(text, rest);
        // 1 to 15, and 1 again.
        self.number = self.number % 15 + 1;
        self.under_way = Some((self.number, part.clone(), 1, now));
        Some(SolPacket {
            number: self.number,
            data: part,
            ..SolPacket::default()
        })
    }

    /// When something has to be said again.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.under_way.as_ref().map(|(.., at)| *at + ACK_WAIT)
    }

    /// Says again what was not acknowledged; none when that was done too often.
    pub fn again(&mut self, now: Instant) -> Option<SolPacket> {
        let (number, data, times, at) = self.under_way.as_mut()?;
        if *times >= RETRIES {
            return None;
        }
        *times += 1;
        *at = now;
        Some(SolPacket {
            number: *number,
            data: data.clone(),
            ..SolPacket::default()
        })
    }

    /// Hears a packet: characters that are new, and the acknowledgement to send. What the other end did not take is
    /// put before `text`.
    pub fn hear(&mut self, packet: SolPacket, text: &mut Vec<u8>) -> (Vec<u8>, Option<SolPacket>) {
        if let Some((number, data, ..)) = &self.under_way
            && packet.acknowledges == *number
        {
            let taken = usize::from(packet.taken).min(data.len());
            let refused = packet.flags & status::NACK != 0;
            if refused && packet.flags & status::UNAVAILABLE == 0 && taken < data.len() {
                let mut rest = data[taken..].to_vec();
                rest.append(text);
                *text = rest;
            }
            // Unavailable: nobody is there to take them, and so they are lost, as on a cable that is not plugged in.
            self.under_way = None;
        }
        if packet.number == 0 {
            return (Vec::new(), None);
        }
        let answer = SolPacket {
            acknowledges: packet.number,
            taken: u8::try_from(packet.data.len()).unwrap_or(u8::MAX),
            ..SolPacket::default()
        };
        let new = packet.number != self.heard;
        self.heard = packet.number;
        (if new { packet.data } else { Vec::new() }, Some(answer))
    }
}

/// What goes to a console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// Characters.
    Text(Vec<u8>),
    /// A break of the line.
    Break,
}

/// An open console. [`Console::run`] lasts until one of its ends is dropped, or the BMC ends it.
#[derive(Debug)]
pub struct Console {
    session: Session,
    line: Line,
    text: Vec<u8>,
    /// The BMC ended it: it may be somebody else's by now.
    over: bool,
}

impl Console {
    /// Activates the console. `take_over`: somebody else who has it loses it.
    ///
    /// # Errors
    /// The BMC has none, or somebody else has it ([`ErrorClass::Busy`]).
    pub async fn open(mut session: Session, take_over: bool) -> Result<Self, BmcError> {
        match activate(&mut session, take_over).await {
            Ok(most) => Ok(Self {
                session,
                line: Line::new(most),
                text: Vec::new(),
                over: false,
            }),
            Err(error) => {
                session.close().await;
                Err(error)
            }
        }
    }

    /// Carries characters both ways. Ends well when `keys` is closed or nobody takes `screen`; then the console is
    /// given back and the session closed.
    ///
    /// # Errors
    /// The BMC ended it, or is not heard any more.
    pub async fn run(mut self, keys: mpsc::Receiver<Key>, screen: mpsc::Sender<Vec<u8>>) -> Result<(), BmcError> {
        let done = self.carry(keys, screen).await;
        self.session.until(Instant::now() + Duration::from_secs(3));
        if !self.over {
            // It is dropped anyway when the session ends.
            let _ = self.session.request(DEACTIVATE, &[SOL[0], SOL[1], 0, 0, 0, 0]).await;
        }
        self.session.close().await;
        done
    }

    async fn carry(&mut self, mut keys: mpsc::Receiver<Key>, screen: mpsc::Sender<Vec<u8>>) -> Result<(), BmcError> {
        let mut heard = Instant::now();
        let mut asked = heard;
        loop {
            let now = Instant::now();
            if now.duration_since(heard) > DEAF {
                return Err(self.session.error(
                    ErrorClass::Timeout,
                    "follow the console",
                    "the BMC is not heard any more",
                ));
            }
            if now.duration_since(heard.max(asked)) > KEEP_ALIVE {
                asked = now;
                self.keep_alive().await?;
            }
            if let Some(packet) = self.line.say(&mut self.text, now) {
                self.send(&packet).await?;
            } else if self.line.due().is_some_and(|due| due <= now) {
                match self.line.again(now) {
                    Some(packet) => self.send(&packet).await?,
                    None => {
                        let text = "the BMC does not acknowledge what is typed";
                        return Err(self.session.error(ErrorClass::Timeout, "type into the console", text));
                    }
                }
            }
            let until = self.line.due().unwrap_or(now + KEEP_ALIVE).min(now + KEEP_ALIVE);
            tokio::select! {
                () = screen.closed() => return Ok(()),
                key = keys.recv(), if self.text.is_empty() && self.line.is_free() => match key {
                    Some(Key::Text(text)) => self.text = text,
                    Some(Key::Break) => {
                        let packet = SolPacket { flags: operation::BREAK, ..SolPacket::default() };
                        self.send(&packet).await?;
                    }
                    None => return Ok(()),
                },
                came = self.session.next(until) => {
                    let came = came.map_err(|e| self.session.error(ErrorClass::Unreachable, "follow the console", e))?;
                    if came.is_some() {
                        heard = Instant::now();
                    }
                    if let Some(Came::Sol(bytes)) = came
                        && let Ok(packet) = SolPacket::parse(&bytes)
                        && !self.hear(packet, &screen).await?
                    {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Takes a packet; false when nobody looks any more.
    async fn hear(&mut self, packet: SolPacket, screen: &mpsc::Sender<Vec<u8>>) -> Result<bool, BmcError> {
        let over = packet.flags & status::DEACTIVATED != 0;
        let (text, answer) = self.line.hear(packet, &mut self.text);
        // Who looks slowly slows the BMC: the acknowledgement comes after the text has been taken.
        if !text.is_empty() && screen.send(text).await.is_err() {
            return Ok(false);
        }
        if let Some(answer) = answer {
            self.send(&answer).await?;
        }
        if over {
            self.over = true;
            let text = "the BMC ended it: somebody else took it over, or the BMC restarts";
            return Err(self.session.error(ErrorClass::Refused, "follow the console", text));
        }
        Ok(true)
    }

    async fn send(&mut self, packet: &SolPacket) -> Result<(), BmcError> {
        let sent = self.session.send(payload::SOL, &packet.encode()).await;
        sent.map_err(|e| self.session.error(ErrorClass::Unreachable, "follow the console", e))
    }

    /// Asks who it is; the answer, taken as any packet, says that the BMC is there.
    async fn keep_alive(&mut self) -> Result<(), BmcError> {
        let request = crate::wire::Request::new(0x06, 0x01, 0x3f, &[]).encode();
        let sent = self.session.send(payload::IPMI, &request).await;
        sent.map_err(|e| self.session.error(ErrorClass::Unreachable, "follow the console", e))
    }
}

/// Activates the payload; how many characters a packet to the BMC may carry.
async fn activate(session: &mut Session, take_over: bool) -> Result<usize, BmcError> {
    let protection = match session.suite().algorithms()[2] {
        0 => AUTHENTICATED,
        _ => PROTECTED,
    };
    let ask = [SOL[0], SOL[1], protection, 0, 0, 0];
    let mut answer = session.request(ACTIVATE, &ask).await?;
    if answer.0 == ALREADY_ACTIVE && take_over {
        session.request(DEACTIVATE, &[SOL[0], SOL[1], 0, 0, 0, 0]).await?;
        answer = session.request(ACTIVATE, &ask).await?;
    }
    match answer {
        // Inbound payload size, with the four bytes before the characters (§24.1).
        (0, data) => {
            let size = array(&data, 4).map_or(MOST, |size| usize::from(u16::from_le_bytes(size)));
            Ok(size.saturating_sub(4).clamp(1, MOST))
        }
        (code, _) => Err(refusal(session, code)),
    }
}

/// Completion codes of Activate Payload (§24.1).
fn refusal(session: &Session, code: u8) -> BmcError {
    let (class, text, hint) = match code {
        ALREADY_ACTIVE => (
            ErrorClass::Busy,
            "somebody else has the console",
            "take it over with --take-over, or wait: a session that was left ends after a minute",
        ),
        0x81 => (
            ErrorClass::Unsupported,
            "Serial over LAN is switched off",
            "enable Serial over LAN in the BMC, for its user too",
        ),
        0x82 => (ErrorClass::Busy, "too many consoles are open", "close another one"),
        0x83 | 0x84 => (
            ErrorClass::Unsupported,
            "it does not take a console in this session's encryption",
            "look at the BMC's settings of Serial over LAN",
        ),
        code => return session.completed(ACTIVATE, code),
    };
    session.error(class, ACTIVATE.what, text).hinted(hint)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Two lines with a wire between them that loses and repeats packets: every character arrives, once and in order.
        #[test]
        fn a_lossy_wire_loses_no_character(text in prop::collection::vec(any::<u8>(), 1..200), fate in prop::collection::vec(0..3u8, 1..40)) {
            let (mut near, mut far) = (Line::new(7), Line::new(7));
            let (mut left, mut got, mut none) = (text.clone(), Vec::new(), Vec::new());
            let mut now = Instant::now();
            let mut fates = fate.iter().cycle();
            let mut lost = 0;
            while !(left.is_empty() && near.is_free()) {
                let packet = match near.say(&mut left, now) {
                    Some(packet) => packet,
                    None => {
                        now += ACK_WAIT;
                        near.again(now).unwrap()
                    }
                };
                // Never ten in a row: that would end it.
                let fate = if lost > 6 { 1 } else { *fates.next().unwrap() };
                lost = if fate == 1 { 0 } else { lost + 1 };
                let times = match fate { 0 => 0, 1 => 1, _ => 2 };
                for turn in 0..times {
                    let (new, answer) = far.hear(packet.clone(), &mut none);
                    got.extend(new);
                    // Of what came twice, the first answer is lost.
                    if turn + 1 == times && fate == 1 {
                        near.hear(answer.unwrap(), &mut left);
                    }
                }
            }
            prop_assert_eq!(got, text);
        }

        #[test]
        fn packets_come_back_as_they_were(number in 0u8..16, acknowledges in 0u8..16, taken: u8, flags: u8, data in prop::collection::vec(any::<u8>(), 0..50)) {
            let packet = SolPacket { number, acknowledges, taken, flags, data };
            prop_assert_eq!(SolPacket::parse(&packet.encode()), Ok(packet.clone()));
        }
    }

    #[test]
    fn what_was_not_taken_is_said_again() {
        let mut line = Line::new(10);
        let mut text = b"abcdef".to_vec();
        let now = Instant::now();
        let said = line.say(&mut text, now).unwrap();
        text = b"gh".to_vec();
        let nack = SolPacket {
            acknowledges: said.number,
            taken: 2,
            flags: status::NACK,
            ..SolPacket::default()
        };
        line.hear(nack, &mut text);
        assert_eq!(text, b"cdefgh");
        assert_eq!(line.say(&mut text, now).unwrap().number, 2);
        for _ in 1..RETRIES {
            assert!(line.again(now).is_some());
        }
        assert_eq!(line.again(now), None);
    }
}
