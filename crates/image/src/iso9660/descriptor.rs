//! Volume descriptors (ECMA-119 §8), one sector each.

use super::{RECORDED, RECORDED_LONG, SECTOR_USIZE, Span, both_u16, both_u32, directory};

/// What the primary volume descriptor says that differs between an image and its base.
pub(crate) struct Volume {
    /// Sectors of the volume.
    pub(crate) sectors: u32,
    /// Bytes of one path table.
    pub(crate) path_table_len: u32,
    /// Sector of the path table of type L.
    pub(crate) path_table_l: u32,
    /// Sector of the path table of type M.
    pub(crate) path_table_m: u32,
    /// The root directory.
    pub(crate) root: Span,
}

type Sector = [u8; SECTOR_USIZE];

fn put(sector: &mut Sector, at: usize, bytes: &[u8]) {
    sector[at..at + bytes.len()].copy_from_slice(bytes);
}

fn header(kind: u8) -> Sector {
    let mut sector = [0; SECTOR_USIZE];
    sector[0] = kind;
    put(&mut sector, 1, b"CD001\x01");
    sector
}

/// Primary volume descriptor (ECMA-119 §8.4).
pub(crate) fn primary(volume_id: &str, volume: &Volume) -> Sector {
    const APPLICATION: &[u8] = b"ISOBAR";
    let mut sector = header(1);
    sector[8..72].fill(b' ');
    put(&mut sector, 40, volume_id.as_bytes());
    put(&mut sector, 120, &both_u16(1)); // volumes in the set
    put(&mut sector, 124, &both_u16(1)); // number of this one
    put(&mut sector, 128, &both_u16(SECTOR_USIZE as u16));
    put(
        &mut sector,
        156,
        &directory::bare_record(&[0], volume.root, directory::DIRECTORY),
    );
    sector[190..813].fill(b' '); // volume set, publisher, preparer, application, copyright, abstract, bibliographic
    put(&mut sector, 574, APPLICATION);
    for at in [813, 830] {
        put(&mut sector, at, &RECORDED_LONG); // created, modified
    }
    for at in [847, 864] {
        put(&mut sector, at, b"0000000000000000\0"); // expires, effective: not specified
    }
    sector[881] = 1; // file structure version
    set_volume(&mut sector, volume);
    sector
}

/// Writes what differs between an image and its base into a primary volume descriptor.
pub(crate) fn set_volume(sector: &mut Sector, volume: &Volume) {
    put(sector, 80, &both_u32(volume.sectors));
    put(sector, 132, &both_u32(volume.path_table_len));
    put(sector, 140, &volume.path_table_l.to_le_bytes());
    put(sector, 148, &volume.path_table_m.to_be_bytes());
    put(sector, 158, &both_u32(volume.root.lba));
    put(sector, 166, &both_u32(volume.root.len as u32)); // directories are far below 4 GiB
    put(sector, 174, &RECORDED);
}

/// Boot record that points to the boot catalog (El Torito 1.0, figure 7).
pub(crate) fn boot_record(catalog: u32) -> Sector {
    let mut sector = header(0);
    put(&mut sector, 7, b"EL TORITO SPECIFICATION");
    put(&mut sector, 71, &catalog.to_le_bytes());
    sector
}

/// Volume descriptor set terminator (ECMA-119 §8.3).
pub(crate) fn terminator() -> Sector {
    header(255)
}
