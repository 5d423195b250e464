//! A disk that loses power: what it may hold afterwards.

use std::collections::BTreeMap;
use std::path::Path;

use crate::vfs::Op;

/// What a disk writes whole or not at all, bytes.
const SECTOR: usize = 512;

/// Numbers that are the same for the same seed (SplitMix64).
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit.max(1) as u64) as usize
    }
}

/// What becomes of writes that were not synced when the power went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// None is there.
    Lost,
    /// All are there.
    Kept,
    /// Some are, in any order, some of them torn.
    Mixed,
}

/// One file: what is certainly on the disk, and what was done since.
#[derive(Default)]
struct File {
    safe: Option<Vec<u8>>,
    since: Vec<Op>,
}

#[derive(Default)]
pub struct Disk(BTreeMap<String, File>);

impl Disk {
    /// The next thing that happens.
    pub fn happens(&mut self, op: &Op) {
        let (name, safe) = match op {
            Op::Write { file, .. } | Op::Truncate { file, .. } => (file, false),
            Op::Delete { file, synced } => (file, *synced),
            Op::Sync { file } => (file, true),
            Op::Acknowledged(_) => return,
        };
        let file = self.0.entry(name.clone()).or_default();
        file.since.push(op.clone());
        if safe {
            for op in std::mem::take(&mut file.since) {
                apply(&mut file.safe, &op);
            }
        }
    }

    /// Writes the files as they may be after the power went, into an empty folder.
    pub fn after(&self, fate: Fate, dice: &mut Dice, folder: &Path) -> std::io::Result<()> {
        for (name, file) in &self.0 {
            let mut bytes = file.safe.clone();
            let mut since: Vec<Op> = if fate == Fate::Lost {
                Vec::new()
            } else {
                file.since.clone()
            };
            if fate == Fate::Mixed {
                since = since.into_iter().filter_map(|op| torn(op, dice)).collect();
                for at in (1..since.len()).rev() {
                    since.swap(at, dice.below(at + 1));
                }
            }
            since.iter().for_each(|op| apply(&mut bytes, op));
            if let Some(bytes) = bytes {
                std::fs::write(folder.join(name), bytes)?;
            }
        }
        Ok(())
    }
}

/// A third is lost, a third is torn at the border of a sector, a third is whole.
fn torn(op: Op, dice: &mut Dice) -> Option<Op> {
    match (dice.below(3), op) {
        (0, _) => None,
        (1, Op::Write { file, at, mut bytes }) => {
            let sectors = (at + bytes.len()).div_ceil(SECTOR) - at / SECTOR;
            let end = (at / SECTOR + dice.below(sectors)) * SECTOR;
            bytes.truncate(end.saturating_sub(at));
            (!bytes.is_empty()).then_some(Op::Write { file, at, bytes })
        }
        (_, op) => Some(op),
    }
}

fn apply(bytes: &mut Option<Vec<u8>>, op: &Op) {
    match op {
        Op::Write { at, bytes: new, .. } => {
            let bytes = bytes.get_or_insert_default();
            bytes.resize(bytes.len().max(at + new.len()), 0);
            bytes[*at..at + new.len()].copy_from_slice(new);
        }
        Op::Truncate { len, .. } => bytes.get_or_insert_default().resize(*len, 0),
        // A file that is empty and not there is the same to SQLite, but the first sync makes it a file.
        Op::Sync { .. } => drop(bytes.get_or_insert_default()),
        Op::Delete { .. } => *bytes = None,
        Op::Acknowledged(_) => {}
    }
}
