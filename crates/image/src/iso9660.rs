//! The bytes of an ISO9660 volume (ECMA-119, 4th edition) with Rock Ridge (IEEE P1282) names.
//!
//! Knows records and descriptors, not which files exist or where they lie.

pub(crate) mod descriptor;
pub(crate) mod directory;
pub(crate) mod name;
pub(crate) mod path_table;

/// Bytes of a logical sector and block (ECMA-119 §6.1.2, §6.2.2).
pub(crate) const SECTOR: u64 = 2048;
/// The same as an index.
pub(crate) const SECTOR_USIZE: usize = 2048;
/// First sector after the system area: the primary volume descriptor (ECMA-119 §6.2.1).
pub(crate) const FIRST_DESCRIPTOR: u32 = 16;
/// Longest extent of one directory record: its length is 32 bits, and all extents of a file but the
/// last are whole sectors (ECMA-119 §6.5.1).
pub(crate) const MAX_EXTENT: u64 = 0xFFFF_F800;
/// Levels of the directory hierarchy, the root being the first (ECMA-119 §6.8.2.1).
pub(crate) const MAX_LEVELS: usize = 8;

/// Where a file or directory lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// First sector.
    pub(crate) lba: u32,
    /// Length in bytes.
    pub(crate) len: u64,
}

/// Number of sectors that hold `len` bytes.
pub(crate) const fn sectors(len: u64) -> u64 {
    len.div_ceil(SECTOR)
}

/// ECMA-119 §7.2.3: little-endian, then big-endian.
pub(crate) fn both_u16(v: u16) -> [u8; 4] {
    let (l, b) = (v.to_le_bytes(), v.to_be_bytes());
    [l[0], l[1], b[0], b[1]]
}

/// ECMA-119 §7.3.3: little-endian, then big-endian.
pub(crate) fn both_u32(v: u32) -> [u8; 8] {
    let (l, b) = (v.to_le_bytes(), v.to_be_bytes());
    [l[0], l[1], l[2], l[3], b[0], b[1], b[2], b[3]]
}

/// All times on a disc, so that the same input gives the same bytes: 1980-01-01 00:00:00 UTC, the
/// first that FAT knows too (ECMA-119 §9.1.5).
pub(crate) const RECORDED: [u8; 7] = [80, 1, 1, 0, 0, 0, 0];
/// The same as in volume descriptors (ECMA-119 §8.4.26.1).
pub(crate) const RECORDED_LONG: [u8; 17] = *b"1980010100000000\0";
