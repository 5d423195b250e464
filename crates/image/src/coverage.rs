//! How much of each file of an image has been read.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use crate::disc::Image;
use crate::vfs::{FileEntry, FileId};

/// Runs of bytes that are remembered for one file.
const MAX_RUNS: usize = 64;

/// The bytes of an image that have been read at least once, by file, and those between files. Memory is
/// bounded: a file whose reads are so scattered that they leave more than 64 runs has the smallest gap
/// between two of them counted as read.
#[derive(Clone, Debug)]
pub struct Coverage {
    /// Where the image's files are. Not the image: reads are counted for longer than its bytes are in use.
    listed: Arc<[FileEntry]>,
    /// Of the image.
    len: u64,
    files: BTreeMap<FileId, Runs>,
    /// Offsets within the image.
    padding: Runs,
}

/// Sorted, disjoint, not adjacent; offsets within the file.
#[derive(Clone, Debug, Default)]
struct Runs {
    runs: Vec<Range<u64>>,
    covered: u64,
}

impl Coverage {
    /// Nothing read yet.
    #[must_use]
    pub fn new(image: &Image) -> Self {
        Self {
            listed: Arc::clone(image.listed()),
            len: image.len(),
            files: BTreeMap::new(),
            padding: Runs::default(),
        }
    }

    /// The files of the image whose reads are counted, as [`Image::files`] has them.
    #[must_use]
    pub fn listed(&self) -> &Arc<[FileEntry]> {
        &self.listed
    }

    /// Counts a range of the image (bytes) as read; what lies past its end is left out. Whether any of it was new.
    pub fn add(&mut self, range: Range<u64>) -> bool {
        let (mut at, end) = (range.start, range.end.min(self.len));
        let mut new = false;
        let first = self.listed.partition_point(|file| file.offset + file.len <= at);
        for file in &self.listed[first..] {
            if file.offset >= end {
                break;
            }
            if at < file.offset {
                new |= self.padding.add(at..file.offset);
                at = file.offset;
            }
            let upto = end.min(file.offset + file.len);
            if at < upto {
                let within = at - file.offset..upto - file.offset;
                new |= self.files.entry(file.id).or_default().add(within);
                at = upto;
            }
        }
        if at < end {
            new |= self.padding.add(at..end);
        }
        new
    }

    /// Bytes of a file that have been read at least once.
    #[must_use]
    pub fn covered(&self, file: FileId) -> u64 {
        self.files.get(&file).map_or(0, |runs| runs.covered)
    }

    /// Bytes between the files that have been read at least once. A boot has no use for them: who reads many of them
    /// is copying.
    #[must_use]
    pub fn padding(&self) -> u64 {
        self.padding.covered
    }

    /// Bytes from the start of a file that have been read without a gap.
    #[must_use]
    pub fn sequential(&self, file: FileId) -> u64 {
        let first = self.files.get(&file).and_then(|runs| runs.runs.first());
        first.filter(|run| run.start == 0).map_or(0, |run| run.end)
    }

    /// End (bytes from the start of the file) of the furthest read of a file; 0 when there was none.
    #[must_use]
    pub fn furthest(&self, file: FileId) -> u64 {
        let last = self.files.get(&file).and_then(|runs| runs.runs.last());
        last.map_or(0, |run| run.end)
    }

    /// Whether every byte of a file has been read. An empty file cannot be read: never.
    #[must_use]
    pub fn complete(&self, file: FileId) -> bool {
        let entry = self.listed.get(file.0 as usize);
        entry.is_some_and(|entry| entry.len > 0 && self.covered(file) == entry.len)
    }

    /// Files of which anything has been read, in the order of the disc, with the bytes covered.
    pub fn touched(&self) -> impl Iterator<Item = (FileId, u64)> + '_ {
        self.files.iter().map(|(id, runs)| (*id, runs.covered))
    }
}

impl Runs {
    /// Whether any of it was new.
    fn add(&mut self, new: Range<u64>) -> bool {
        let known = self.covered;
        // Everything that overlaps or touches `new` becomes one run.
        let first = self.runs.partition_point(|run| run.end < new.start);
        let after = self.runs.partition_point(|run| run.start <= new.end);
        let merged = match self.runs.get(first..after) {
            Some([]) | None => new,
            Some([one]) => new.start.min(one.start)..new.end.max(one.end),
            Some([a, .., b]) => new.start.min(a.start)..new.end.max(b.end),
        };
        let before: u64 = self.runs[first..after].iter().map(|run| run.end - run.start).sum();
        self.covered += merged.end - merged.start - before;
        self.runs.splice(first..after, [merged]);
        let grown = self.covered > known;
        if self.runs.len() > MAX_RUNS {
            self.close_smallest_gap();
        }
        grown
    }

    fn close_smallest_gap(&mut self) {
        let gaps = self.runs.windows(2).map(|pair| pair[1].start - pair[0].end);
        let Some((n, gap)) = gaps.enumerate().min_by_key(|(_, gap)| *gap) else {
            return;
        };
        self.runs[n].end = self.runs[n + 1].end;
        self.runs.remove(n + 1);
        self.covered += gap;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_bounded_and_count_the_gaps_they_close() {
        let mut runs = Runs::default();
        let mut read = 0;
        for n in 0..10_000 {
            let at = n * 7919 % 100_000 * 3;
            runs.add(at..at + 1);
            read += 1;
            assert!(runs.runs.len() <= MAX_RUNS);
            assert_eq!(
                runs.covered,
                runs.runs.iter().map(|run| run.end - run.start).sum::<u64>()
            );
            assert!(runs.runs.windows(2).all(|pair| pair[0].end < pair[1].start));
        }
        assert!(runs.covered > read);
    }

    #[test]
    fn neighbours_are_one_run() {
        let mut runs = Runs::default();
        for start in [20, 0, 10, 30] {
            runs.add(start..start + 10);
        }
        assert_eq!((runs.runs.len(), runs.covered), (1, 40));
    }
}
