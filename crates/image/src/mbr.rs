//! The master boot record in the system area: what makes the disc bootable where it is presented as a
//! disk (a BMC's USB stick, an exported ISO written to one).
//!
//! Two entries. The first is the whole disc, of type 0: operating systems that look at numbers take it (Linux
//! has the ISO9660 file system there), and firmware that looks at types does not see that it overlaps the second
//! (UEFI 2.10 §5.2.1: an MBR with overlapping partitions is not valid; type 0 is no partition). The second is
//! the EFI system partition (type 0xEF), the image that the boot catalog names for EFI.
//!
//! GRUB under EFI compares the boot catalog's entry that it was loaded by with the partitions that it sees, and one of
//! the same start and length becomes its root. Its root has to be the whole disc, so the partition is a sector of the
//! disc longer than the image. (OVMF and GRUB 2.06: `cd0` either way, also on a USB stick with El Torito.)
//!
//! The boot code is GRUB's `boot_hybrid.img`, which a base may have beside its BIOS image. It loads that image,
//! after El Torito's own first sector, from a place that is written into it; so does the sector that it loads.

use std::ops::Range;

use crate::iso9660::{SECTOR_USIZE, Span, sectors};

/// Name of the boot code, in the folder of the BIOS image.
pub(crate) const BOOT_CODE: &str = "boot_hybrid.img";
/// Where the BIOS image points to its third piece: at the end of its `diskboot.img`, the first block
/// list of GRUB's core (the convention of xorriso's `--grub2-boot-info`).
pub(crate) const SECOND_POINTER: Range<usize> = 2548..2556;

/// Sectors of a hard disk in one of the disc.
const PER_SECTOR: u64 = 4;
const LEN: usize = 512;
/// Where the boot code points to `diskboot.img` (the convention of xorriso's `--grub2-mbr`).
const FIRST_POINTER: Range<usize> = 432..440;
const DISK_SIGNATURE: Range<usize> = 440..444;
const ENTRIES: usize = 446;
const ENTRY: usize = 16;
const ACTIVE: u8 = 0x80;
const TYPE_WHOLE: u8 = 0;
const TYPE_ESP: u8 = 0xEF;
/// An address that cylinder, head and sector cannot say.
const BEYOND_CHS: [u8; 3] = [0xFE, 0xFF, 0xFF];
/// Where there is no boot code: INT 18h (go on with the next device), and a loop.
const NOT_BOOTABLE: [u8; 4] = [0xCD, 0x18, 0xEB, 0xFE];

/// What the master boot record tells.
pub(crate) struct Mbr<'a> {
    /// As in [`is_boot_code`].
    pub(crate) boot_code: Option<&'a [u8]>,
    pub(crate) bios: Option<Span>,
    pub(crate) efi: Option<Span>,
    /// Sectors of the disc.
    pub(crate) sectors: u32,
    pub(crate) signature: [u8; 4],
}

/// Whether `bytes`, beside a BIOS image of `bios_len` bytes, are boot code that can load it.
pub(crate) fn is_boot_code(bytes: &[u8], bios_len: u64) -> bool {
    bytes.len() == LEN && bytes[510..] == [0x55, 0xAA] && bios_len > SECOND_POINTER.end as u64
}

/// What belongs at [`SECOND_POINTER`] of a BIOS image at `lba`: its sixth piece of 512 bytes.
pub(crate) fn second_pointer(lba: u32) -> [u8; 8] {
    (u64::from(lba) * PER_SECTOR + 5).to_le_bytes()
}

impl Mbr<'_> {
    /// The first sector of the disc.
    pub(crate) fn sector(&self) -> [u8; SECTOR_USIZE] {
        let mut sector = [0; SECTOR_USIZE];
        let mut status = 0;
        match (self.boot_code, self.bios) {
            (Some(code), Some(bios)) => {
                sector[..FIRST_POINTER.start].copy_from_slice(&code[..FIRST_POINTER.start]);
                sector[FIRST_POINTER].copy_from_slice(&(u64::from(bios.lba) * PER_SECTOR + 4).to_le_bytes());
                status = ACTIVE;
            }
            _ => sector[..NOT_BOOTABLE.len()].copy_from_slice(&NOT_BOOTABLE),
        }
        sector[DISK_SIGNATURE].copy_from_slice(&self.signature);
        let whole = u64::from(self.sectors) * PER_SECTOR;
        write_entry(&mut sector, 0, status, TYPE_WHOLE, (0, whole));
        if let Some(efi) = self.efi {
            let len = (sectors(efi.len) + 1) * PER_SECTOR;
            write_entry(&mut sector, 1, 0, TYPE_ESP, (u64::from(efi.lba) * PER_SECTOR, len));
        }
        sector[510..LEN].copy_from_slice(&[0x55, 0xAA]);
        sector
    }
}

/// UEFI 2.10 §5.2.1. What lies beyond the 2 TiB that an entry can say is left out of it.
fn write_entry(sector: &mut [u8; SECTOR_USIZE], n: usize, status: u8, kind: u8, (start, len): (u64, u64)) {
    let Ok(start) = u32::try_from(start) else { return };
    let entry = &mut sector[ENTRIES + n * ENTRY..][..ENTRY];
    entry[0] = status;
    entry[1..4].copy_from_slice(if start == 0 { &[0, 1, 0] } else { &BEYOND_CHS });
    entry[4] = kind;
    entry[5..8].copy_from_slice(&BEYOND_CHS);
    entry[8..12].copy_from_slice(&start.to_le_bytes());
    entry[12..16].copy_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
}
