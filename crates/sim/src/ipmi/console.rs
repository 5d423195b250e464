//! Serial over LAN (IPMI 2.0 §15): the machine's serial console.

use std::time::Instant;

use isobar_ipmi::completion::{INVALID_COMMAND, INVALID_DATA, LENGTH};
use isobar_ipmi::sol::{ALREADY_ACTIVE, Line, SolPacket, status};
use isobar_ipmi::wire::{Request, payload};

use super::Face;
use super::command::{Answer, done, refuse};

/// Characters in a packet, each way.
const MOST: usize = 200;
/// What a console that is not read is sent later at most; more is lost, as on a serial line.
const BUFFER: usize = 64 << 10;
/// Completion code of Deactivate Payload: it is not active (§24.2).
const NOT_ACTIVE: u8 = 0x80;

/// An active console.
pub(super) struct Sol {
    pub(super) session: u32,
    line: Line,
    text: Vec<u8>,
}

impl Sol {
    pub(super) fn print(&mut self, text: &[u8]) {
        if self.text.len() + text.len() <= BUFFER {
            self.text.extend(text);
        } else {
            self.lost();
        }
    }

    pub(super) fn lost(&mut self) {
        self.text.clear();
        self.text.extend(b"\r\n[some output was lost]\r\n");
    }
}

impl Face {
    pub(super) fn activate(&mut self, session: u32, data: &[u8]) -> Answer {
        let [payload::SOL, 1, ..] = data else {
            return refuse(INVALID_DATA);
        };
        if self.sol.is_some() {
            return refuse(ALREADY_ACTIVE);
        }
        self.sol = Some(Sol {
            session,
            line: Line::new(MOST),
            text: Vec::new(),
        });
        let size = u16::try_from(MOST + 4).unwrap_or(u16::MAX).to_le_bytes();
        let mut answer = vec![0; 4];
        answer.extend(size);
        answer.extend(size);
        answer.extend(self.port.to_le_bytes());
        // No VLAN.
        answer.extend([0xff, 0xff]);
        (0, answer)
    }

    pub(super) fn deactivate(&mut self, data: &[u8]) -> Answer {
        let [payload::SOL, 1, ..] = data else {
            return refuse(INVALID_DATA);
        };
        match self.sol.take() {
            Some(sol) => {
                self.over = Some(sol.session);
                done()
            }
            None => refuse(NOT_ACTIVE),
        }
    }

    /// SOL configuration (§26.2, §26.3): enabled, for administrators, at 115200.
    pub(super) fn configuration(&self, request: &Request<'_>) -> Answer {
        let (0x22, [_, parameter, ..]) = (request.command, request.data) else {
            return refuse(INVALID_COMMAND);
        };
        let value: &[u8] = match parameter {
            0 => &[0],
            1 => &[1],
            2 => &[0xc4],
            3 => &[12, 96],
            4 => &[7, 50],
            5 | 6 => &[0x0a],
            7 => &[1],
            8 => &self.port.to_le_bytes(),
            // Parameter not supported.
            _ => return refuse(0x80),
        };
        if request.data.len() < 4 {
            return refuse(LENGTH);
        }
        let mut answer = vec![0x11];
        answer.extend(value);
        (0, answer)
    }

    pub(super) async fn hear_console(&mut self, session: u32, body: &[u8]) {
        let Ok(packet) = SolPacket::parse(body) else { return };
        let Some(sol) = self.sol.as_mut().filter(|sol| sol.session == session) else {
            return;
        };
        let (keys, answer) = sol.line.hear(packet, &mut sol.text);
        if !keys.is_empty() {
            self.bmc.console.type_in(keys);
        }
        if let Some(answer) = answer {
            self.send_console(session, &answer).await;
        }
        self.talk().await;
    }

    /// Sends what the machine has said, or again what was not heard.
    pub(super) async fn talk(&mut self) {
        if let Some(session) = self.over.take() {
            let over = SolPacket {
                flags: status::DEACTIVATED,
                ..SolPacket::default()
            };
            self.send_console(session, &over).await;
        }
        let now = Instant::now();
        let Some(sol) = &mut self.sol else { return };
        let packet = match sol.line.due() {
            None => sol.line.say(&mut sol.text, now),
            Some(due) if due <= now => sol.line.again(now),
            Some(_) => return,
        };
        let (session, gone) = (sol.session, packet.is_none() && !sol.line.is_free());
        match packet {
            Some(packet) => self.send_console(session, &packet).await,
            // It does not listen any more.
            None if gone => self.sol = None,
            None => {}
        }
    }

    async fn send_console(&mut self, session: u32, packet: &SolPacket) {
        let Some(peer) = self.sessions.iter().find(|s| s.id == session).map(|s| s.peer) else {
            return;
        };
        if let Some(sealed) = self.seal(session, payload::SOL, &packet.encode()) {
            self.send(&sealed, peer).await;
        }
    }
}
