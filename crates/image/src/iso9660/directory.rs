//! Directories: records (ECMA-119 §9.1) with Rock Ridge names, modes and times in their system use
//! fields (SUSP and RRIP, IEEE P1281 and P1282).
//!
//! A directory is self-contained: names that do not fit their record go into continuation areas in the
//! sectors right after the records, so that it can be moved or written anew without touching others.

use super::{MAX_EXTENT, RECORDED, SECTOR, SECTOR_USIZE, Span, both_u16, both_u32};

/// File flag: a directory (ECMA-119 §9.1.6).
pub(crate) const DIRECTORY: u8 = 0x02;
/// File flag: another record of the same file follows.
const MULTI_EXTENT: u8 = 0x80;

/// Length of a record: one byte, and even.
const MAX_RECORD: usize = 254;
/// Fixed part of a record, before the identifier.
const FIXED: usize = 33;
/// What a system use entry can hold after its four byte header and the NM flags byte.
const MAX_NM: usize = 250;

const SP: [u8; 7] = [b'S', b'P', 7, 1, 0xBE, 0xEF, 0];
/// Extension reference without texts for people: they may be empty, and so fit the root's record.
const ER: [u8; 18] = *b"ER\x12\x01\x0A\x00\x00\x01RRIP_1991A";
const PX_LEN: usize = 36;
const TF_LEN: usize = 26;
const RR_LEN: usize = 5;
const CE_LEN: usize = 28;
const NM_LEN: usize = 5;
const ATTRIBUTES: usize = PX_LEN + TF_LEN + RR_LEN;

const FILE_MODE: u32 = 0o100_644;
const DIRECTORY_MODE: u32 = 0o040_755;

/// RR: which entries a record has (RRIP 1.09 §4.3).
const HAS_PX_TF: u8 = 0x81;
const HAS_NM: u8 = 0x08;

/// One name in a directory; `target` is whatever the caller knows it by.
#[derive(Clone, Copy)]
pub(crate) struct Member<'a, T> {
    pub(crate) identifier: &'a [u8],
    pub(crate) name: &'a str,
    pub(crate) directory: bool,
    /// Length in bytes, for files: decides how many records they need.
    pub(crate) len: u64,
    pub(crate) target: T,
}

/// Space a directory takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Sectors of records: the directory's length.
    pub(crate) records: u32,
    /// With the continuation areas after them.
    pub(crate) sectors: u32,
}

impl Shape {
    /// Length in bytes as recorded.
    pub(crate) fn len(self) -> u64 {
        u64::from(self.records) * SECTOR
    }
}

/// Next free byte, where nothing crosses a sector.
#[derive(Default)]
struct Packer {
    at: usize,
}

impl Packer {
    fn place(&mut self, len: usize) -> usize {
        if self.at % SECTOR_USIZE + len > SECTOR_USIZE {
            self.at = self.at.next_multiple_of(SECTOR_USIZE);
        }
        let place = self.at;
        self.at += len;
        place
    }

    fn sectors(&self) -> u32 {
        self.at.div_ceil(SECTOR_USIZE) as u32
    }
}

/// Bytes of a record and of its continuation area.
fn record_len(identifier: usize, name: usize) -> (usize, usize) {
    let head = (FIXED + identifier).next_multiple_of(2) + ATTRIBUTES;
    let inline = (head + NM_LEN + name).next_multiple_of(2);
    if inline <= MAX_RECORD {
        (inline, 0)
    } else {
        let continued = name + NM_LEN * name.div_ceil(MAX_NM);
        ((head + CE_LEN).next_multiple_of(2), continued)
    }
}

fn dot_len(root: bool) -> usize {
    let extra = if root { SP.len() + ER.len() } else { 0 };
    (FIXED + 1 + ATTRIBUTES + extra).next_multiple_of(2)
}

fn dot_dot_len() -> usize {
    (FIXED + 1 + ATTRIBUTES).next_multiple_of(2)
}

/// Records that a file of `len` bytes needs.
fn extents(len: u64) -> u64 {
    len.div_ceil(MAX_EXTENT).max(1)
}

/// Measures a directory.
pub(crate) fn shape<T>(members: &[Member<'_, T>], root: bool) -> Shape {
    let (mut records, mut continued) = (Packer::default(), Packer::default());
    records.place(dot_len(root));
    records.place(dot_dot_len());
    for member in members {
        let (record, continuation) = record_len(member.identifier.len(), member.name.len());
        for _ in 0..if member.directory { 1 } else { extents(member.len) } {
            records.place(record);
        }
        if continuation > 0 {
            continued.place(continuation);
        }
    }
    Shape {
        records: records.sectors(),
        sectors: records.sectors() + continued.sectors(),
    }
}

/// Appends the sectors of the directory at `lba` to `out`. `members` are in order of identifiers;
/// `shape` is what [`shape`] said about them.
pub(crate) fn emit<T: Copy>(
    out: &mut Vec<u8>,
    lba: u32,
    shape: Shape,
    parent: Option<Span>,
    members: &[Member<'_, T>],
    span: impl Fn(T) -> Span,
) {
    let start = out.len();
    out.resize(start + shape.sectors as usize * SECTOR_USIZE, 0);
    let out = &mut out[start..];
    let this = Span { lba, len: shape.len() };
    let mut records = Packer::default();
    let mut continued = Packer::default();

    let len = dot_len(parent.is_none());
    let mut field = Field::new(&mut out[records.place(len)..][..len]);
    field.record(&[0], this, DIRECTORY);
    if parent.is_none() {
        field.put(&SP);
    }
    field.attributes(DIRECTORY_MODE, HAS_PX_TF);
    if parent.is_none() {
        field.put(&ER);
    }

    let len = dot_dot_len();
    let mut field = Field::new(&mut out[records.place(len)..][..len]);
    field.record(&[1], parent.unwrap_or(this), DIRECTORY);
    field.attributes(DIRECTORY_MODE, HAS_PX_TF);

    for member in members {
        let place = span(member.target);
        let (len, continuation) = record_len(member.identifier.len(), member.name.len());
        let continuation_at = (continuation > 0).then(|| continued.place(continuation));
        let (mode, flags, count) = if member.directory {
            (DIRECTORY_MODE, DIRECTORY, 1)
        } else {
            (FILE_MODE, 0, extents(place.len))
        };
        for n in 0..count {
            let last = n + 1 == count;
            let extent = Span {
                // All sectors of an image have 32-bit numbers: see `Cursor`.
                lba: place.lba + (n * (MAX_EXTENT / SECTOR)) as u32,
                len: if last { place.len - n * MAX_EXTENT } else { MAX_EXTENT },
            };
            let at = records.place(len);
            let mut field = Field::new(&mut out[at..at + len]);
            field.record(
                member.identifier,
                extent,
                if last { flags } else { flags | MULTI_EXTENT },
            );
            field.attributes(mode, HAS_PX_TF | HAS_NM);
            match continuation_at {
                None => field.names(member.name),
                Some(at) => {
                    let sector = lba + shape.records + (at / SECTOR_USIZE) as u32;
                    field.continued(sector, at % SECTOR_USIZE, continuation);
                }
            }
        }
        if let Some(at) = continuation_at {
            let at = shape.records as usize * SECTOR_USIZE + at;
            Field::new(&mut out[at..at + continuation]).names(member.name);
        }
    }
}

/// Lets the `..` of a directory point to `parent`, given its first sector; `false` when that is none.
pub(crate) fn set_parent(sector: &mut [u8], parent: Span) -> bool {
    let at = sector.first().map_or(0, |len| usize::from(*len));
    let Some(record) = sector.get_mut(at..at + FIXED).filter(|_| at > FIXED) else {
        return false;
    };
    record[2..10].copy_from_slice(&both_u32(parent.lba));
    record[10..18].copy_from_slice(&both_u32(parent.len as u32));
    true
}

/// A record with a one-byte identifier and no system use field, as volume descriptors hold it.
pub(crate) fn bare_record(identifier: &[u8; 1], span: Span, flags: u8) -> [u8; FIXED + 1] {
    let mut record = [0; FIXED + 1];
    Field::new(&mut record).record(identifier, span, flags);
    record
}

/// A record or continuation area being filled.
struct Field<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl<'a> Field<'a> {
    fn new(bytes: &'a mut [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }

    /// ECMA-119 §9.1, up to the system use field.
    fn record(&mut self, identifier: &[u8], span: Span, flags: u8) {
        let len = self.bytes.len() as u8; // at most MAX_RECORD
        self.put(&[len, 0]);
        self.put(&both_u32(span.lba));
        self.put(&both_u32(span.len as u32)); // at most MAX_EXTENT
        self.put(&RECORDED);
        self.put(&[flags, 0, 0]);
        self.put(&both_u16(1)); // volume number
        self.put(&[identifier.len() as u8]);
        self.put(identifier);
        self.at = self.at.next_multiple_of(2);
    }

    fn attributes(&mut self, mode: u32, has: u8) {
        // One link also for directories, which says "not counted" (as btrfs does): a true count would
        // change the `..` of every sibling whenever a directory is added.
        self.put(b"PX\x24\x01");
        self.put(&both_u32(mode));
        self.put(&both_u32(1));
        self.put(&both_u32(0));
        self.put(&both_u32(0));
        self.put(b"TF\x1A\x01\x0E"); // modified, accessed, attributes changed
        for _ in 0..3 {
            self.put(&RECORDED);
        }
        self.put(&[b'R', b'R', 5, 1, has]);
    }

    fn names(&mut self, name: &str) {
        let mut chunks = name.as_bytes().chunks(MAX_NM).peekable();
        while let Some(chunk) = chunks.next() {
            let more = u8::from(chunks.peek().is_some());
            self.put(&[b'N', b'M', (NM_LEN + chunk.len()) as u8, 1, more]);
            self.put(chunk);
        }
    }

    fn continued(&mut self, sector: u32, offset: usize, len: usize) {
        self.put(b"CE\x1C\x01");
        self.put(&both_u32(sector));
        self.put(&both_u32(offset as u32));
        self.put(&both_u32(len as u32));
    }
}
