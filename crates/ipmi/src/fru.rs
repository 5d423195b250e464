//! What a machine's parts say of themselves: FRU inventory (IPMI 2.0 §34, FRU Information Storage Definition 1.0).

use isobar_bmc::{BmcError, ErrorClass};

use crate::session::{Command, Session};
use crate::wire::{Malformed, array};

/// Get FRU Inventory Area Info (§34.1).
pub const AREA: Command = Command::new(0x0a, 0x10, "read the FRU inventory");
/// Read FRU Data (§34.2).
pub const READ: Command = Command::new(0x0a, 0x11, "read the FRU inventory");

/// Bytes asked for at a time: all BMCs give these.
const PIECE: u8 = 16;
/// No inventory that is of interest is longer.
const MAX: u16 = 4096;

/// Texts of an inventory, in the order of their areas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fru {
    /// Manufacturer, product name, serial number, part number, FRU file …
    pub board: Vec<String>,
    /// Manufacturer, product name, part number, version, serial number, asset tag …
    pub product: Vec<String>,
}

impl Fru {
    /// From the whole inventory.
    ///
    /// # Errors
    /// The common header is none, or an area is cut.
    pub fn parse(data: &[u8]) -> Result<Self, Malformed> {
        let header: [u8; 8] = array(data, 0)?;
        if header[0] & 0x0f != 1 || header.iter().fold(0u8, |sum, b| sum.wrapping_add(*b)) != 0 {
            return Err(Malformed);
        }
        let area = |offset: u8, texts: usize| match usize::from(offset) * 8 {
            0 => Ok(Vec::new()),
            at => fields(data.get(at + texts..).ok_or(Malformed)?),
        };
        Ok(Self {
            // Version, length, language, and of a board the date in minutes.
            board: area(header[3], 6)?,
            product: area(header[4], 3)?,
        })
    }

    /// Name of the product, or else of its board.
    #[must_use]
    pub fn product_name(&self) -> Option<String> {
        let second = |area: &[String]| area.get(1).filter(|name| !name.is_empty()).cloned();
        second(&self.product).or_else(|| second(&self.board))
    }
}

/// Texts with type and length before each (§13); C1h ends them.
fn fields(mut data: &[u8]) -> Result<Vec<String>, Malformed> {
    let mut found = Vec::new();
    loop {
        let (kind, rest) = data.split_first().ok_or(Malformed)?;
        if *kind == 0xc1 {
            return Ok(found);
        }
        let length = usize::from(kind & 0x3f);
        found.push(text(kind >> 6, rest.get(..length).ok_or(Malformed)?));
        data = &rest[length..];
    }
}

/// A text in one of the four ways (§43.15).
pub(crate) fn text(kind: u8, bytes: &[u8]) -> String {
    let text: String = match kind & 3 {
        // Binary.
        0 => bytes.iter().map(|b| format!("{b:02x}")).collect(),
        // BCD plus.
        1 => bytes
            .iter()
            .flat_map(|b| [b >> 4, b & 0x0f])
            .map(|n| char::from(b"0123456789 -.:,_"[usize::from(n)]))
            .collect(),
        // Six bits each, from the blank on.
        2 => bytes
            .chunks(3)
            .flat_map(|three| {
                let bits = three.iter().rev().fold(0u32, |all, b| all << 8 | u32::from(*b));
                (0..three.len() * 8 / 6).map(move |n| char::from((bits >> (n * 6) & 0x3f).to_le_bytes()[0] + b' '))
            })
            .collect(),
        _ => bytes.iter().map(|b| char::from(*b)).collect(),
    };
    // What goes into a terminal later must not steer it.
    text.trim_matches(['\0', ' '])
        .chars()
        .filter(|c| !c.is_control())
        .collect()
}

impl Session {
    /// The inventory of a part; 0 is the machine's own.
    ///
    /// # Errors
    /// As [`Session::call`], or it is none.
    pub async fn fru(&mut self, id: u8) -> Result<Fru, BmcError> {
        let area = self.call(AREA, &[id]).await?;
        let size = array(&area, 0).map_or(0, u16::from_le_bytes).min(MAX);
        let mut data: Vec<u8> = Vec::new();
        while data.len() < usize::from(size) {
            let at = u16::try_from(data.len()).unwrap_or(MAX);
            let [low, high] = at.to_le_bytes();
            let count = PIECE.min(u8::try_from(size - at).unwrap_or(PIECE));
            let piece = self.call(READ, &[id, low, high, count]).await?;
            let bytes = piece.get(1..).unwrap_or_default();
            if bytes.is_empty() {
                break;
            }
            data.extend(bytes);
        }
        Fru::parse(&data)
            .map_err(|Malformed| self.error(ErrorClass::Protocol, READ.what, "its FRU inventory is damaged"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_are_read_in_all_four_ways() {
        assert_eq!(text(0, &[0xab, 1]), "ab01");
        assert_eq!(text(1, &[0x12, 0xc3]), "12.3");
        // The specification's own example of packed text (§43.15): "IPMI".
        assert_eq!(text(2, &[0x29, 0xdc, 0xa6]), "IPMI");
        assert_eq!(text(3, b"X11\x1b[2J\0"), "X11[2J");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0u8..20) {
            let _ = Fru::parse(&bytes);
            let mut whole = vec![1, 0, 0, at, 0, 0, 0, 0u8.wrapping_sub(1).wrapping_sub(at)];
            whole.extend(&bytes);
            let _ = Fru::parse(&whole);
        }
    }
}
