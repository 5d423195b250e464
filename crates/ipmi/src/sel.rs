//! The system event log (IPMI 2.0 §31, records §32).

use isobar_bmc::{BmcError, ErrorClass};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::completion;
use crate::session::{Command, Session};
use crate::wire::{Malformed, array};

/// Get SEL Info (§31.2).
pub const INFO: Command = Command::new(0x0a, 0x40, "read the event log");
/// Reserve SEL (§31.4).
pub const RESERVE: Command = Command::new(0x0a, 0x42, "reserve the event log");
/// Get SEL Entry (§31.5).
pub const ENTRY: Command = Command::new(0x0a, 0x43, "read the event log");
/// Clear SEL (§31.9).
pub const CLEAR: Command = Command::once(0x0a, 0x47, "clear the event log");

/// First and last record, as record numbers in requests and answers.
const FIRST: u16 = 0x0000;
const LAST: u16 = 0xffff;
/// A log is not longer: record numbers have two bytes.
const MOST: usize = 0xffff;
/// Below this, timestamps are seconds since the BMC started (§37).
const SINCE_START: u32 = 0x2000_0000;

/// How full the log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// Records in it.
    pub entries: u16,
    /// Room in bytes; 65535: or more.
    pub free: u16,
    /// Records were lost for want of room.
    pub overflow: bool,
}

impl Info {
    /// From the answer to [`INFO`].
    ///
    /// # Errors
    /// It is cut.
    pub fn parse(data: &[u8]) -> Result<Self, Malformed> {
        Ok(Self {
            entries: u16::from_le_bytes(array(data, 1)?),
            free: u16::from_le_bytes(array(data, 3)?),
            overflow: array::<1>(data, 13)?[0] & 0x80 != 0,
        })
    }
}

/// A record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Number.
    pub id: u16,
    /// When, by the BMC's clock; none: it had no time yet, or the record has none.
    #[serde(with = "time::serde::rfc3339::option")]
    pub at: Option<OffsetDateTime>,
    /// Kind of sensor: `Fan`, `Power Supply`.
    pub sensor: String,
    /// Number of the sensor.
    pub number: u8,
    /// What happened.
    pub event: String,
    /// It began; false: it ended.
    pub asserted: bool,
    /// The 16 bytes, in hex.
    pub raw: String,
}

/// Sensor types (§42.2, table 42-3).
pub const SENSORS: &[&str] = &[
    "reserved",
    "Temperature",
    "Voltage",
    "Current",
    "Fan",
    "Physical Security",
    "Platform Security",
    "Processor",
    "Power Supply",
    "Power Unit",
    "Cooling Device",
    "Other Units-based Sensor",
    "Memory",
    "Drive Slot",
    "POST Memory Resize",
    "System Firmware Progress",
    "Event Logging Disabled",
    "Watchdog 1",
    "System Event",
    "Critical Interrupt",
    "Button / Switch",
    "Module / Board",
    "Microcontroller",
    "Add-in Card",
    "Chassis",
    "Chip Set",
    "Other FRU",
    "Cable / Interconnect",
    "Terminator",
    "System Boot",
    "Boot Error",
    "OS Boot",
    "OS Stop",
    "Slot / Connector",
    "System ACPI Power State",
    "Watchdog 2",
    "Platform Alert",
    "Entity Presence",
    "Monitor ASIC",
    "LAN",
    "Management Subsystem Health",
    "Battery",
    "Session Audit",
    "Version Change",
    "FRU State",
];

/// Thresholds (§42.1, table 42-2, type 01h).
const THRESHOLDS: &[&str] = &[
    "lower non-critical, going low",
    "lower non-critical, going high",
    "lower critical, going low",
    "lower critical, going high",
    "lower non-recoverable, going low",
    "lower non-recoverable, going high",
    "upper non-critical, going low",
    "upper non-critical, going high",
    "upper critical, going low",
    "upper critical, going high",
    "upper non-recoverable, going low",
    "upper non-recoverable, going high",
];

/// Events of sensor types (§42.2) that tell why a machine does not boot: type, offset, words.
const EVENTS: &[(u8, u8, &str)] = &[
    (0x05, 0x00, "general chassis intrusion"),
    (0x07, 0x00, "internal error"),
    (0x07, 0x01, "thermal trip"),
    (0x07, 0x04, "stuck, hang or failure in POST"),
    (0x07, 0x07, "presence detected"),
    (0x08, 0x00, "presence detected"),
    (0x08, 0x01, "failure detected"),
    (0x08, 0x02, "predictive failure"),
    (0x08, 0x03, "input lost"),
    (0x09, 0x00, "power off"),
    (0x09, 0x01, "power cycle"),
    (0x09, 0x04, "AC lost"),
    (0x09, 0x05, "soft power control failure"),
    (0x09, 0x06, "failure detected"),
    (0x0c, 0x00, "correctable ECC error"),
    (0x0c, 0x01, "uncorrectable ECC error"),
    (0x0d, 0x00, "drive present"),
    (0x0d, 0x01, "drive fault"),
    (0x0f, 0x00, "POST error"),
    (0x0f, 0x01, "firmware hang"),
    (0x0f, 0x02, "firmware progress"),
    (0x10, 0x02, "log area cleared"),
    (0x10, 0x04, "log full"),
    (0x13, 0x04, "PCI PERR"),
    (0x13, 0x05, "PCI SERR"),
    (0x13, 0x08, "uncorrectable bus error"),
    (0x14, 0x00, "power button pressed"),
    (0x14, 0x02, "reset button pressed"),
    (0x1d, 0x00, "initiated by power-up"),
    (0x1d, 0x01, "initiated by hard reset"),
    (0x1d, 0x07, "system restart"),
    (0x1e, 0x00, "no bootable media"),
    (0x1e, 0x01, "non-bootable diskette left in drive"),
    (0x1e, 0x02, "PXE server not found"),
    (0x1e, 0x03, "invalid boot sector"),
    (0x1f, 0x01, "C: boot completed"),
    (0x1f, 0x02, "PXE boot completed"),
    (0x1f, 0x05, "CD-ROM boot completed"),
    (0x20, 0x01, "run-time critical stop"),
    (0x22, 0x00, "S0/G0: working"),
    (0x22, 0x05, "S5/G2: soft off"),
    (0x23, 0x01, "hard reset"),
    (0x23, 0x02, "power down"),
    (0x23, 0x03, "power cycle"),
    (0x29, 0x00, "battery low"),
    (0x29, 0x01, "battery failed"),
];

/// Name of a sensor type.
#[must_use]
pub fn sensor_name(kind: u8) -> String {
    match SENSORS.get(usize::from(kind)) {
        Some(name) => (*name).to_owned(),
        None => format!("sensor type {kind:02X}h"),
    }
}

fn event_name(sensor: u8, event: u8, offset: u8) -> String {
    let known = match event {
        0x01 => THRESHOLDS.get(usize::from(offset)).copied(),
        0x6f => EVENTS
            .iter()
            .find(|(kind, o, _)| (*kind, *o) == (sensor, offset))
            .map(|(.., words)| *words),
        _ => None,
    };
    known.map_or_else(|| format!("event {event:02X}h/{offset:X}h"), str::to_owned)
}

impl Entry {
    /// From the 16 bytes of a record (§32.1, §32.2).
    #[must_use]
    pub fn parse(raw: &[u8; 16]) -> Self {
        let kind = raw[2];
        // Types from E0h on have no timestamp.
        let seconds = u32::from_le_bytes([raw[3], raw[4], raw[5], raw[6]]);
        let timed = kind < 0xe0 && (SINCE_START..u32::MAX).contains(&seconds);
        let at = timed
            .then(|| OffsetDateTime::from_unix_timestamp(i64::from(seconds)).ok())
            .flatten();
        let system = kind == 0x02;
        let event = match system {
            true => event_name(raw[10], raw[12] & 0x7f, raw[13] & 0x0f),
            false => format!("record of type {kind:02X}h"),
        };
        Self {
            id: u16::from_le_bytes([raw[0], raw[1]]),
            at,
            sensor: if system { sensor_name(raw[10]) } else { "OEM".to_owned() },
            number: if system { raw[11] } else { 0 },
            event,
            asserted: !system || raw[12] & 0x80 == 0,
            raw: raw.iter().map(|b| format!("{b:02x}")).collect(),
        }
    }
}

impl Session {
    /// How full the event log is.
    ///
    /// # Errors
    /// As [`Session::call`].
    pub async fn sel_info(&mut self) -> Result<Info, BmcError> {
        let data = self.call(INFO, &[]).await?;
        Info::parse(&data).map_err(|Malformed| self.error(ErrorClass::Protocol, INFO.what, "an answer is cut"))
    }

    /// The last `most` records, oldest first.
    ///
    /// # Errors
    /// As [`Session::call`].
    pub async fn sel(&mut self, most: usize) -> Result<Vec<Entry>, BmcError> {
        let mut found = std::collections::VecDeque::new();
        let mut next = FIRST;
        // A BMC whose records go round is not followed for ever.
        for _ in 0..MOST {
            let [low, high] = next.to_le_bytes();
            let (code, data) = self.request(ENTRY, &[0, 0, low, high, 0, 0xff]).await?;
            match code {
                0 => {}
                // Empty, or cleared meanwhile.
                completion::NOT_PRESENT => break,
                code => return Err(self.completed(ENTRY, code)),
            }
            let (Ok(after), Ok(raw)) = (array(&data, 0), array::<16>(&data, 2)) else {
                return Err(self.error(ErrorClass::Protocol, ENTRY.what, "a record is cut"));
            };
            found.push_back(Entry::parse(&raw));
            if found.len() > most {
                found.pop_front();
            }
            let after = u16::from_le_bytes(after);
            if after == LAST || after == next {
                break;
            }
            next = after;
        }
        Ok(found.into())
    }

    /// Clears the event log, and waits until it is cleared.
    ///
    /// # Errors
    /// As [`Session::call`].
    pub async fn clear_sel(&mut self) -> Result<(), BmcError> {
        let [low, high] = self.reserve(RESERVE).await?;
        let ask = |act| [low, high, b'C', b'L', b'R', act];
        self.call(CLEAR, &ask(0xaa)).await?;
        // Bits 3:0 of the answer: 1 is done.
        while self
            .call(CLEAR, &ask(0))
            .await?
            .first()
            .is_some_and(|state| state & 0x0f == 0)
        {
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
        Ok(())
    }

    /// A reservation of a log or repository (§31.4, §33.11).
    pub(crate) async fn reserve(&mut self, command: Command) -> Result<[u8; 2], BmcError> {
        let data = self.call(command, &[]).await?;
        array(&data, 0).map_err(|Malformed| self.error(ErrorClass::Protocol, command.what, "an answer is cut"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_record_is_read() {
        let raw = [
            0x07, 0x00, 0x02, 0x00, 0xf1, 0x53, 0x65, 0x20, 0x00, 0x04, 0x08, 0x51, 0x6f, 0xa3, 0xff, 0xff,
        ];
        let entry = Entry::parse(&raw);
        assert_eq!((entry.id, entry.number, entry.asserted), (7, 0x51, true));
        assert_eq!(
            (entry.sensor.as_str(), entry.event.as_str()),
            ("Power Supply", "input lost")
        );
        assert_eq!(entry.at.unwrap().unix_timestamp(), 0x6553_f100);
        let mut early = raw;
        (early[3], early[4], early[5], early[6], early[12]) = (9, 0, 0, 0, 0x81);
        early[13] = 0x52;
        let early = Entry::parse(&early);
        assert_eq!((early.at, early.asserted), (None, false));
        assert_eq!(early.event, "lower critical, going low");
    }
}
