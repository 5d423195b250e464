//! The BMC itself: who made it, and its reset (IPMI 2.0 §20).

use isobar_bmc::{BmcError, ErrorClass};

use crate::session::{Command, Session};
use crate::wire::{Malformed, array};

/// Get Device ID (§20.1).
pub const GET_ID: Command = Command::new(0x06, 0x01, "ask who it is");
/// Cold Reset (§20.2).
pub const COLD_RESET: Command = Command::once(0x06, 0x02, "reset the BMC");

/// Private enterprise numbers (IANA) of makers of BMCs.
const MAKERS: &[(u32, &str)] = &[
    (2, "IBM"),
    (11, "Hewlett-Packard"),
    (343, "Intel"),
    (674, "Dell"),
    (2011, "Huawei"),
    (4128, "Arm"),
    (5703, "NVIDIA"),
    (5771, "Cisco"),
    (7154, "IPMI forum"),
    (7244, "Quanta"),
    (10368, "Fujitsu"),
    (10876, "Supermicro"),
    (15370, "Gigabyte"),
    (19046, "Lenovo"),
    (20301, "IBM"),
    (37945, "Inspur"),
    (47196, "Hewlett Packard Enterprise"),
    (48_512, "Inventec"),
    (49_622, "OpenBMC"),
];

/// What a BMC says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceId {
    /// Firmware, major and minor.
    pub firmware: (u8, u8),
    /// Version of IPMI, major and minor.
    pub ipmi: (u8, u8),
    /// Enterprise number of its maker.
    pub maker: u32,
    /// Product number of the maker's.
    pub product: u16,
}

impl DeviceId {
    /// From the answer to [`GET_ID`].
    ///
    /// # Errors
    /// It is cut.
    pub fn parse(data: &[u8]) -> Result<Self, Malformed> {
        let [_, _, major, minor, version, _, maker @ ..]: [u8; 9] = array(data, 0)?;
        Ok(Self {
            firmware: (major & 0x7f, (minor >> 4) * 10 + (minor & 0x0f)),
            ipmi: (version & 0x0f, version >> 4),
            maker: u32::from_le_bytes([maker[0], maker[1], maker[2] & 0x0f, 0]),
            product: u16::from_le_bytes(array(data, 9)?),
        })
    }

    /// As it travels.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (major, minor) = self.firmware;
        let [a, b, c, _] = self.maker.to_le_bytes();
        let bcd = ((minor / 10) << 4) | (minor % 10);
        let version = self.ipmi.1 << 4 | self.ipmi.0;
        // Chassis, SEL, FRU, SDR repository and sensors (§20.1, byte 7).
        let mut out = vec![0x20, 0x01, major, bcd, version, 0x8f, a, b, c];
        out.extend(self.product.to_le_bytes());
        out
    }

    /// Name of the maker, or its number.
    #[must_use]
    pub fn maker_name(&self) -> String {
        let row = MAKERS.iter().find(|(number, _)| *number == self.maker);
        row.map_or_else(|| format!("IANA {}", self.maker), |(_, name)| (*name).to_owned())
    }
}

impl Session {
    /// What the BMC says of itself.
    ///
    /// # Errors
    /// As [`Session::call`].
    pub async fn device_id(&mut self) -> Result<DeviceId, BmcError> {
        let data = self.call(GET_ID, &[]).await?;
        DeviceId::parse(&data)
            .map_err(|Malformed| self.error(ErrorClass::Protocol, GET_ID.what, "its device ID is cut"))
    }

    /// Restarts the BMC. Some answer, some are gone by then.
    ///
    /// # Errors
    /// It refuses.
    pub async fn reset_bmc(&mut self) -> Result<(), BmcError> {
        match self.call(COLD_RESET, &[]).await {
            Err(error) if error.class == ErrorClass::Timeout => Ok(()),
            done => done.map(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_id_is_read() {
        let data = [
            0x20, 0x81, 0x84, 0x40, 0x02, 0xdf, 0xa2, 0x02, 0x00, 0x00, 0x01, 0, 0, 0, 0,
        ];
        let id = DeviceId::parse(&data).unwrap();
        assert_eq!((id.firmware, id.ipmi, id.product), ((4, 40), (2, 0), 0x100));
        assert_eq!(id.maker_name(), "Dell");
        assert_eq!(DeviceId::parse(&id.encode()), Ok(id));
        assert!(DeviceId::parse(&data[..10]).is_err());
    }
}
