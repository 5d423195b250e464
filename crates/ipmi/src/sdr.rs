//! Sensors: their records (IPMI 2.0 §33, §43) and readings (§35.14, §36.3).

use isobar_bmc::{BmcError, ErrorClass};
use serde::{Deserialize, Serialize};

use crate::completion;
use crate::fru;
use crate::sel::sensor_name;
use crate::session::{Command, Session};
use crate::wire::{Malformed, array};

/// Reserve SDR Repository (§33.11).
pub const RESERVE: Command = Command::new(0x0a, 0x22, "read the sensors");
/// Get SDR (§33.12).
pub const GET: Command = Command::new(0x0a, 0x23, "read the sensors");
/// Get Sensor Reading (§35.14).
pub const READING: Command = Command::new(0x04, 0x2d, "read a sensor");

const LAST: u16 = 0xffff;
/// Bytes asked for at a time: all BMCs give these.
const PIECE: u8 = 16;
/// No repository that is of interest has more records.
const MOST: usize = 1024;

/// A sensor and what it says now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sensor {
    /// Its name.
    pub name: String,
    /// Kind: `Temperature`, `Fan`.
    pub kind: String,
    /// Number.
    pub number: u8,
    /// Reading; none: it has none now, or it is one of states.
    pub value: Option<f64>,
    /// Unit of the reading: `degrees C`, `RPM`.
    pub unit: String,
    /// `ok`, `nc`, `cr`, `nr` by its thresholds; the states that hold, in hex; `ns`: no reading.
    pub status: String,
}

/// Units (§43.17, table 43-15), as far as machines have them.
const UNITS: &[(u8, &str)] = &[
    (1, "degrees C"),
    (2, "degrees F"),
    (3, "degrees K"),
    (4, "Volts"),
    (5, "Amps"),
    (6, "Watts"),
    (7, "Joules"),
    (18, "RPM"),
    (19, "Hz"),
    (29, "CFM"),
];

/// What a record says of a sensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    name: String,
    kind: u8,
    owner: u8,
    lun: u8,
    number: u8,
    threshold: bool,
    unit: String,
    scale: Option<Scale>,
}

/// Raw readings to values: `(M x + B 10^b) 10^r` (§36.3).
#[derive(Clone, Copy, Debug, PartialEq)]
struct Scale {
    signed: Option<Sign>,
    m: f64,
    b: f64,
    r: i32,
    linear: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    Ones,
    Twos,
}

/// Two's complement of so many bits.
fn signed(value: u16, bits: u32) -> i32 {
    let value = i32::from(value);
    if value >= 1 << (bits - 1) {
        value - (1 << bits)
    } else {
        value
    }
}

impl Scale {
    fn parse(record: &[u8]) -> Result<Option<Self>, Malformed> {
        let format = array::<1>(record, 20)?[0] >> 6;
        let [linear, m, m_high, b, b_high, _, exponents]: [u8; 7] = array(record, 23)?;
        let wide = |low: u8, high: u8| f64::from(signed(u16::from(low) | u16::from(high & 0xc0) << 2, 10));
        let b_exponent = signed(u16::from(exponents & 0x0f), 4);
        let scale = Self {
            signed: match format {
                1 => Some(Sign::Ones),
                2 => Some(Sign::Twos),
                _ => None,
            },
            m: wide(m, m_high),
            b: wide(b, b_high) * 10f64.powi(b_exponent),
            r: signed(u16::from(exponents >> 4), 4),
            linear: linear & 0x7f,
        };
        // Format 3: it has no analog reading. Of the curves, those that need more than the record are left out.
        Ok((format != 3 && scale.linear <= 11).then_some(scale))
    }

    fn value(self, raw: u8) -> f64 {
        let x = match self.signed {
            None => f64::from(raw),
            Some(Sign::Twos) => f64::from(raw.cast_signed()),
            Some(Sign::Ones) if raw & 0x80 != 0 => -f64::from(!raw),
            Some(Sign::Ones) => f64::from(raw),
        };
        let y = (self.m * x + self.b) * 10f64.powi(self.r);
        // Table 43-1, byte 24.
        match self.linear {
            1 => y.ln(),
            2 => y.log10(),
            3 => y.log2(),
            4 => y.exp(),
            5 => 10f64.powf(y),
            6 => y.exp2(),
            7 => y.recip(),
            8 => y * y,
            9 => y * y * y,
            10 => y.sqrt(),
            11 => y.cbrt(),
            _ => y,
        }
    }
}

impl Record {
    /// From a record: full (§43.1) or compact (§43.2); none for others.
    ///
    /// # Errors
    /// It is cut.
    pub fn parse(record: &[u8]) -> Result<Option<Self>, Malformed> {
        let [kind]: [u8; 1] = array(record, 3)?;
        let (name_at, full) = match kind {
            0x01 => (47, true),
            0x02 => (31, false),
            _ => return Ok(None),
        };
        let [owner, lun, number]: [u8; 3] = array(record, 5)?;
        let [sensor, event]: [u8; 2] = array(record, 12)?;
        let [units, base]: [u8; 2] = array(record, 20)?;
        let [coded]: [u8; 1] = array(record, name_at)?;
        let length = usize::from(coded & 0x1f);
        // Some are cut a little: what is there of the name is shown.
        let rest = record.get(name_at + 1..).unwrap_or_default();
        let name = fru::text(coded >> 6, rest.get(..length).unwrap_or(rest));
        let known = UNITS.iter().find(|(code, _)| *code == base);
        let unit = match (units & 1 != 0, known) {
            (true, _) => "percent".to_owned(),
            (false, Some((_, unit))) => (*unit).to_owned(),
            (false, None) if base == 0 => String::new(),
            (false, None) => format!("unit {base}"),
        };
        Ok(Some(Self {
            name,
            kind: sensor,
            owner,
            lun: lun & 3,
            number,
            threshold: event == 0x01,
            unit,
            scale: if full { Scale::parse(record)? } else { None },
        }))
    }

    /// What the sensor says: the answer to [`READING`], or none.
    #[must_use]
    pub fn read(&self, data: Option<&[u8]>) -> Sensor {
        let silent = Sensor {
            name: self.name.clone(),
            kind: sensor_name(self.kind),
            number: self.number,
            value: None,
            unit: self.unit.clone(),
            status: "ns".to_owned(),
        };
        // Bit 5: unavailable; bit 6: scanned.
        let Some([raw, flags, rest @ ..]) = data.filter(|data| data.get(1).is_some_and(|f| f & 0x60 == 0x40)) else {
            return silent;
        };
        let _ = flags;
        let states = rest.first().copied().unwrap_or(0);
        let status = match self.threshold {
            true if states & 0x24 != 0 => "nr".to_owned(),
            true if states & 0x12 != 0 => "cr".to_owned(),
            true if states & 0x09 != 0 => "nc".to_owned(),
            true => "ok".to_owned(),
            false => format!(
                "{:#06x}",
                u16::from_le_bytes([states, rest.get(1).copied().unwrap_or(0) & 0x7f])
            ),
        };
        let value = self.scale.filter(|_| self.threshold).map(|scale| scale.value(*raw));
        Sensor {
            value: value.filter(|value| value.is_finite()),
            status,
            ..silent
        }
    }
}

impl Session {
    /// All sensors of the BMC's own, with their readings.
    ///
    /// # Errors
    /// As [`Session::call`].
    pub async fn sensors(&mut self) -> Result<Vec<Sensor>, BmcError> {
        let mut found = Vec::new();
        let mut next = 0;
        let mut reservation = self.reserve(RESERVE).await?;
        for _ in 0..MOST {
            let (after, record) = self.sdr(&mut reservation, next).await?;
            // A record that is damaged is one sensor less.
            if let Ok(Some(record)) = Record::parse(&record)
                && record.owner == 0x20
                && record.lun == 0
            {
                let (code, data) = self.request(READING, &[record.number]).await?;
                found.push(record.read((code == 0).then_some(&data)));
            }
            if after == LAST || after == next {
                break;
            }
            next = after;
        }
        Ok(found)
    }

    /// A record, in pieces, and the number of the next one.
    async fn sdr(&mut self, reservation: &mut [u8; 2], id: u16) -> Result<(u16, Vec<u8>), BmcError> {
        let cut = |session: &Self| session.error(ErrorClass::Protocol, GET.what, "a sensor's record is cut");
        let (mut record, mut after, mut size) = (Vec::new(), LAST, 5);
        let mut renewed = 0;
        while record.len() < size {
            let [low, high] = id.to_le_bytes();
            let at = u8::try_from(record.len()).map_err(|_| cut(self))?;
            let count = u8::try_from(size - record.len()).unwrap_or(PIECE).min(PIECE);
            let ask = [reservation[0], reservation[1], low, high, at, count];
            let (code, data) = self.request(GET, &ask).await?;
            match code {
                0 => {}
                // Somebody else changed or reserved it meanwhile.
                0xc5 if renewed < 3 => {
                    renewed += 1;
                    *reservation = self.reserve(RESERVE).await?;
                    continue;
                }
                completion::NOT_PRESENT if id == 0 => return Ok((LAST, Vec::new())),
                code => return Err(self.completed(GET, code)),
            }
            after = u16::from_le_bytes(array(&data, 0).map_err(|Malformed| cut(self))?);
            let piece = data.get(2..).unwrap_or_default();
            if piece.is_empty() {
                return Err(cut(self));
            }
            record.extend(piece);
            if let Some(length) = record.get(4) {
                size = 5 + usize::from(*length);
            }
        }
        Ok((after, record))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    /// A full record of a temperature sensor: one degree a step, with `m`, `b` and exponents as given.
    fn record(format: u8, scale: [u8; 7]) -> Vec<u8> {
        let mut record = vec![0; 48];
        record[3] = 0x01;
        (record[5], record[7], record[12], record[13]) = (0x20, 0x30, 0x01, 0x01);
        (record[20], record[21]) = (format << 6, 1);
        record[23..30].copy_from_slice(&scale);
        record[47] = 0xc0 | 5;
        record.extend(b"Inlet");
        record
    }

    #[test]
    fn readings_are_scaled() {
        // 50 x - 100 × 10¹, × 10⁻²; M is 50, B is -100 in ten bits.
        let scaled = Record::parse(&record(0, [0, 50, 0, 0x9c, 0xc0, 0, 0xe1]))
            .unwrap()
            .unwrap();
        let shown = scaled.read(Some(&[60, 0x40, 0xc0]));
        assert_eq!((shown.name.as_str(), shown.unit.as_str()), ("Inlet", "degrees C"));
        assert_eq!((shown.value, shown.status.as_str()), (Some(20.0), "ok"));
        assert_eq!(scaled.read(Some(&[60, 0x40, 0xd0])).status, "cr");
        assert_eq!(scaled.read(Some(&[60, 0x60, 0])).status, "ns");
        assert_eq!(scaled.read(None).value, None);
        let twos = Record::parse(&record(2, [0, 1, 0, 0, 0, 0, 0])).unwrap().unwrap();
        assert_eq!(twos.read(Some(&[0xfb, 0x40, 0])).value, Some(-5.0));
        let none = Record::parse(&record(3, [0, 1, 0, 0, 0, 0, 0])).unwrap().unwrap();
        assert_eq!(none.read(Some(&[5, 0x40, 0])).value, None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..80), kind in 0u8..4, reading in prop::collection::vec(any::<u8>(), 0..5)) {
            if let Some(byte) = bytes.get_mut(3) {
                *byte = kind;
            }
            if let Ok(Some(record)) = Record::parse(&bytes) {
                let _ = record.read(Some(&reading));
            }
        }
    }
}
