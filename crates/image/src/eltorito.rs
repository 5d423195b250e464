//! El Torito 1.0: what firmware boots a CD from.

use std::io::{self, Read};

use crate::iso9660::{FIRST_DESCRIPTOR, SECTOR_USIZE, Span};

/// El Torito counts in sectors of a hard disk.
const VIRTUAL_SECTOR: u64 = 512;
/// Sectors that a BIOS loads: one CD sector, GRUB's core loads the rest itself.
const BIOS_LOAD: u16 = 4;
const PLATFORM_BIOS: u8 = 0;
/// UEFI 2.10 §13.3.2.1.
const PLATFORM_EFI: u8 = 0xEF;

/// Largest EFI image: its length is 16 bits of 512-byte sectors.
pub(crate) const MAX_EFI_IMAGE: u64 = u16::MAX as u64 * VIRTUAL_SECTOR;

/// Where the boot information table lies in a BIOS image.
pub(crate) const INFO_TABLE: std::ops::Range<usize> = 8..64;

/// The boot catalog: validation entry, default entry, and a section for EFI if both are there.
/// `None` when there is nothing to boot.
pub(crate) fn catalog(bios: Option<Span>, efi: Option<Span>) -> Option<[u8; SECTOR_USIZE]> {
    let mut catalog = [0; SECTOR_USIZE];
    let efi = efi.map(|span| entry(span.lba, span.len.div_ceil(VIRTUAL_SECTOR) as u16)); // at most MAX_EFI_IMAGE
    let (platform, default, section) = match bios {
        Some(bios) => (PLATFORM_BIOS, entry(bios.lba, BIOS_LOAD), efi),
        None => (PLATFORM_EFI, efi?, None),
    };
    catalog[..32].copy_from_slice(&validation(platform));
    catalog[32..64].copy_from_slice(&default);
    if let Some(section) = section {
        catalog[64..68].copy_from_slice(&[0x91, PLATFORM_EFI, 1, 0]); // last section, one entry
        catalog[96..128].copy_from_slice(&section);
    }
    Some(catalog)
}

fn validation(platform: u8) -> [u8; 32] {
    let mut entry = [0; 32];
    entry[0] = 1;
    entry[1] = platform;
    entry[30] = 0x55;
    entry[31] = 0xAA;
    // All 16-bit words of the entry add up to zero.
    let sum = entry
        .chunks_exact(2)
        .fold(0_u16, |sum, w| sum.wrapping_add(u16::from_le_bytes([w[0], w[1]])));
    entry[28..30].copy_from_slice(&sum.wrapping_neg().to_le_bytes());
    entry
}

/// Bootable, no emulation.
fn entry(lba: u32, virtual_sectors: u16) -> [u8; 32] {
    let mut entry = [0; 32];
    entry[0] = 0x88;
    entry[6..8].copy_from_slice(&virtual_sectors.to_le_bytes());
    entry[8..12].copy_from_slice(&lba.to_le_bytes());
    entry
}

/// The boot information table for an image at `span` (the convention of mkisofs' `-boot-info-table`):
/// where the volume descriptor and the image itself lie, its length, and the sum of its 32-bit
/// words from byte 64 on. GRUB's core finds the rest of itself by it.
///
/// `image` is read from its start.
pub(crate) fn info_table(span: Span, mut image: impl Read) -> io::Result<[u8; 56]> {
    io::copy(&mut (&mut image).take(INFO_TABLE.end as u64), &mut io::sink())?;
    let mut sum = 0_u32;
    let mut chunk = [0; 4096];
    loop {
        let mut filled = 0;
        while filled < chunk.len() {
            match image.read(&mut chunk[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        // Only the last chunk can be short: the sum takes it as if padded with zeros.
        chunk[filled..].fill(0);
        for w in chunk.chunks_exact(4) {
            sum = sum.wrapping_add(u32::from_le_bytes([w[0], w[1], w[2], w[3]]));
        }
        if filled < chunk.len() {
            break;
        }
    }
    let mut table = [0; 56];
    table[0..4].copy_from_slice(&FIRST_DESCRIPTOR.to_le_bytes());
    table[4..8].copy_from_slice(&span.lba.to_le_bytes());
    table[8..12].copy_from_slice(&(span.len as u32).to_le_bytes());
    table[12..16].copy_from_slice(&sum.to_le_bytes());
    Ok(table)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const BIOS: Span = Span { lba: 100, len: 40_000 };
    const EFI: Span = Span {
        lba: 0x0102_0304,
        len: 5_000_001,
    };

    #[test]
    fn both_firmwares_find_their_image() {
        let catalog = catalog(Some(BIOS), Some(EFI)).unwrap();
        // Validation entry: words add up to zero, key bytes at its end.
        let sum = catalog[..32]
            .chunks(2)
            .fold(0_u16, |sum, w| sum.wrapping_add(u16::from_le_bytes([w[0], w[1]])));
        assert_eq!(
            (catalog[0], catalog[1], sum, &catalog[30..32]),
            (1, 0, 0, &[0x55, 0xAA][..])
        );
        assert_eq!(catalog[32..44], [0x88, 0, 0, 0, 0, 0, 4, 0, 100, 0, 0, 0]);
        assert_eq!(catalog[64..68], [0x91, 0xEF, 1, 0]);
        // 9766 sectors of 512 bytes.
        assert_eq!(catalog[96..108], [0x88, 0, 0, 0, 0, 0, 0x26, 0x26, 4, 3, 2, 1]);
        assert!(catalog[108..].iter().all(|b| *b == 0));
    }

    #[test]
    fn one_firmware_is_enough() {
        let bios = catalog(Some(BIOS), None).unwrap();
        assert!(bios[64..].iter().all(|b| *b == 0));
        let efi = catalog(None, Some(EFI)).unwrap();
        assert_eq!((efi[1], &efi[40..44]), (0xEF, &[4, 3, 2, 1][..]));
        assert_eq!(catalog(None, None), None);
    }

    #[test]
    fn the_table_sums_up_the_image() {
        for len in [64, 65, 67, 68, 4159, 4160, 4161, 9001] {
            let image: Vec<u8> = (0..len).map(|n: usize| (n * 31) as u8).collect();
            let table = info_table(BIOS, &image[..]).unwrap();
            let mut padded = image[64..].to_vec();
            padded.resize(padded.len().next_multiple_of(4), 0);
            let sum = padded.chunks(4).fold(0_u32, |sum, w| {
                sum.wrapping_add(u32::from_le_bytes(w.try_into().unwrap()))
            });
            let words: Vec<u32> = table
                .chunks(4)
                .map(|w| u32::from_le_bytes(w.try_into().unwrap()))
                .collect();
            assert_eq!(words[..4], [16, 100, 40_000, sum], "{len}");
            assert!(words[4..].iter().all(|w| *w == 0));
        }
    }
}
