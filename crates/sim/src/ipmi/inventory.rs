//! Event log, sensors and inventory of a simulated BMC.

use isobar_ipmi::chassis::Control;
use isobar_ipmi::completion::{INVALID_COMMAND, LENGTH, NOT_PRESENT};
use isobar_ipmi::wire::Request;
use time::OffsetDateTime;

use super::command::{Answer, done, refuse};
use super::{EVENTS_MAX, Face};
use crate::bmc::Power;

/// A record of the event log.
pub(super) struct Event {
    id: u16,
    at: u32,
    /// Sensor type, number, event type, offset.
    what: [u8; 4],
}

/// Number, type, unit, name; and one raw step is so much (`M`).
const SENSORS: &[(u8, u8, u8, &str, u8)] = &[
    (1, 0x01, 1, "Inlet Temp", 1),
    (2, 0x01, 1, "CPU1 Temp", 1),
    (3, 0x04, 18, "Fan1", 60),
    (4, 0x0b, 6, "Power", 2),
];

fn reading(number: u8, on: bool) -> Option<u8> {
    match (number, on) {
        (1, _) => Some(21),
        (2, true) => Some(48),
        (3, true) => Some(120),
        (4, on) => Some(if on { 110 } else { 6 }),
        _ => None,
    }
}

/// A full sensor record (§43.1).
fn record(index: usize) -> Option<Vec<u8>> {
    let (number, kind, unit, name, step) = *SENSORS.get(index)?;
    let mut record = vec![0; 48];
    let id = u16::try_from(index + 1).unwrap_or(0).to_le_bytes();
    record[..3].copy_from_slice(&[id[0], id[1], 0x51]);
    record[3] = 0x01;
    (record[5], record[7]) = (0x20, number);
    // Entity: system board; threshold sensor, readable.
    (record[8], record[9], record[10], record[11]) = (7, 1, 0x67, 0x40);
    (record[12], record[13]) = (kind, 0x01);
    (record[21], record[24]) = (unit, step);
    record[47] = 0xc0 | u8::try_from(name.len()).unwrap_or(0);
    record.extend(name.as_bytes());
    record[4] = u8::try_from(record.len() - 5).unwrap_or(0);
    Some(record)
}

impl Event {
    fn record(&self) -> Vec<u8> {
        let mut record = self.id.to_le_bytes().to_vec();
        record.push(0x02);
        record.extend(self.at.to_le_bytes());
        let [kind, number, event, offset] = self.what;
        record.extend([0x20, 0, 0x04, kind, number, event, offset, 0xff, 0xff]);
        record
    }
}

impl Face {
    fn log(&mut self, what: [u8; 4]) {
        let at = u32::try_from(OffsetDateTime::now_utc().unix_timestamp()).unwrap_or(u32::MAX - 1);
        self.events.push_back(Event {
            id: self.next_event,
            at,
            what,
        });
        self.next_event = self.next_event.checked_add(1).filter(|id| *id != u16::MAX).unwrap_or(1);
        if self.events.len() > EVENTS_MAX {
            self.events.pop_front();
        }
    }

    /// Power unit: off, cycle; a reset is the system's.
    pub(super) fn note_power(&mut self, control: Control) {
        match control {
            Control::Off | Control::Soft => self.log([0x09, 0x70, 0x6f, 0x00]),
            Control::Cycle => self.log([0x09, 0x70, 0x6f, 0x01]),
            Control::On => self.log([0x1d, 0x71, 0x6f, 0x00]),
            Control::Reset => self.log([0x1d, 0x71, 0x6f, 0x01]),
            Control::Interrupt => {}
        }
    }

    /// Storage and sensors (§31, §33, §34, §35).
    pub(super) fn inventory(&mut self, request: &Request<'_>) -> Answer {
        let on = self.bmc.power() == Power::On;
        match (request.netfn, request.command, request.data) {
            (0x04, 0x2d, [number]) => match SENSORS.iter().any(|(known, ..)| known == number) {
                // Scanned; bit 5: no reading now.
                true => match reading(*number, on) {
                    Some(raw) => (0, vec![raw, 0x40, 0xc0]),
                    None => (0, vec![0, 0x60, 0xc0]),
                },
                false => refuse(NOT_PRESENT),
            },
            (0x0a, 0x10, [0]) => (0, vec![self.fru().len().to_le_bytes()[0], 0, 0]),
            (0x0a, 0x11, [0, low, high, count]) => {
                let fru = self.fru();
                let at = usize::from(u16::from_le_bytes([*low, *high]));
                let Some(rest) = fru.get(at..) else {
                    return refuse(NOT_PRESENT);
                };
                let piece = &rest[..rest.len().min(usize::from(*count))];
                let mut answer = vec![piece.len().to_le_bytes()[0]];
                answer.extend(piece);
                (0, answer)
            }
            (0x0a, 0x10 | 0x11, _) => refuse(NOT_PRESENT),
            (0x0a, 0x20, []) => {
                let count = SENSORS.len().to_le_bytes();
                // Reservations are supported (bit 1).
                (
                    0,
                    vec![0x51, count[0], count[1], 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0x02],
                )
            }
            (0x0a, 0x22 | 0x42, []) => (0, vec![1, 0]),
            (0x0a, 0x23, [_, _, low, high, at, count]) => sdr(u16::from_le_bytes([*low, *high]), *at, *count),
            (0x0a, 0x40, []) => {
                let count = self.events.len().to_le_bytes();
                let at = self.events.back().map_or(0, |event| event.at).to_le_bytes();
                let mut answer = vec![0x51, count[0], count[1], 0xff, 0x0f];
                answer.extend(at);
                answer.extend([0; 4]);
                answer.push(0x02);
                (0, answer)
            }
            (0x0a, 0x43, [_, _, low, high, ..]) => self.event(u16::from_le_bytes([*low, *high])),
            (0x0a, 0x47, [_, _, b'C', b'L', b'R', act]) => {
                if *act == 0xaa {
                    self.events.clear();
                }
                (0, vec![0x01])
            }
            // Get SEL Time (§31.10).
            (0x0a, 0x48, []) => {
                let now = u32::try_from(OffsetDateTime::now_utc().unix_timestamp()).unwrap_or(0);
                (0, now.to_le_bytes().to_vec())
            }
            (0x0a, 0x49, _) => done(),
            (0x0a, 0x20 | 0x22 | 0x23 | 0x40 | 0x43 | 0x47, _) => refuse(LENGTH),
            _ => refuse(INVALID_COMMAND),
        }
    }

    fn event(&self, id: u16) -> Answer {
        let at = match id {
            0 => 0,
            u16::MAX => self.events.len().saturating_sub(1),
            id => match self.events.iter().position(|event| event.id == id) {
                Some(at) => at,
                None => return refuse(NOT_PRESENT),
            },
        };
        let Some(event) = self.events.get(at) else {
            return refuse(NOT_PRESENT);
        };
        let next = self.events.get(at + 1).map_or(u16::MAX, |event| event.id);
        let mut answer = next.to_le_bytes().to_vec();
        answer.extend(event.record());
        (0, answer)
    }

    /// Product area alone (FRU Information Storage Definition §12).
    fn fru(&self) -> Vec<u8> {
        let manners = &self.bmc.config.manners;
        let serial = self.bmc.config.serial_number();
        let mut area = vec![0x01, 0, 0];
        for text in [&manners.manufacturer, &manners.model, "", "", &serial] {
            let text: Vec<u8> = text.bytes().take(32).collect();
            area.push(0xc0 | text.len().to_le_bytes()[0]);
            // One byte of text would be read as the end.
            area.extend(text);
        }
        area.push(0xc1);
        while area.len() % 8 != 7 {
            area.push(0);
        }
        area[1] = ((area.len() + 1) / 8).to_le_bytes()[0];
        area.push(area.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte)));
        let mut fru = vec![0x01, 0, 0, 0, 0x01, 0, 0, 0xfe];
        fru.extend(area);
        fru
    }
}

fn sdr(id: u16, at: u8, count: u8) -> Answer {
    let index = match id {
        0 => 0,
        u16::MAX => SENSORS.len() - 1,
        id => usize::from(id) - 1,
    };
    let Some(record) = record(index) else {
        return refuse(NOT_PRESENT);
    };
    let next = match index + 1 {
        next if next < SENSORS.len() => u16::try_from(next + 1).unwrap_or(u16::MAX),
        _ => u16::MAX,
    };
    let rest = record.get(usize::from(at)..).unwrap_or_default();
    let mut answer = next.to_le_bytes().to_vec();
    answer.extend(&rest[..rest.len().min(usize::from(count))]);
    (0, answer)
}
