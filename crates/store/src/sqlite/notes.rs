//! Audit entries that belong to no commit: they wait for the next one, at most a second, and the same one again is
//! counted instead of written. Reads stay free of fsyncs, and guessing passwords does not fill the disk.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::{Audit, AuditClass};

/// An entry waits so long for a commit to ride with.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two rows of the same content.
const AGAIN: Duration = Duration::from_secs(60);
/// Different entries that are known at one time; further ones become one row that counts them.
const MOST: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Notes {
    lines: HashMap<Audit, Line>,
}

#[derive(Debug)]
struct Line {
    unwritten: u32,
    /// When it is written at the latest, if it is unwritten; when it may be forgotten, if it is not.
    due: Instant,
    /// It is not written before.
    rests_until: Option<Instant>,
}

impl Notes {
    pub(super) fn add(&mut self, entry: Audit, now: Instant) {
        let full = self.lines.len() >= MOST && !self.lines.contains_key(&entry);
        let entry = if full { overflow(entry.class) } else { entry };
        let line = self.lines.entry(entry).or_insert(Line {
            unwritten: 0,
            due: now,
            rests_until: None,
        });
        if line.unwritten == 0 {
            line.due = line.rests_until.unwrap_or(now).max(now + PATIENCE);
        }
        line.unwritten = line.unwritten.saturating_add(1);
    }

    /// How long until the first one has waited long enough; none when nothing waits.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        let waiting = self.lines.values().filter(|line| line.unwritten > 0);
        waiting
            .map(|line| line.due)
            .min()
            .map(|due| due.saturating_duration_since(now))
    }

    /// What goes with the commit that is made now; `all`: there will be no other.
    pub(super) fn take(&mut self, now: Instant, all: bool) -> Vec<(Audit, u32)> {
        if self.lines.is_empty() {
            return Vec::new();
        }
        let mut taken = Vec::new();
        self.lines.retain(|entry, line| {
            let rests = line.rests_until.is_some_and(|until| until > now);
            if rests && !all {
                return true;
            }
            if line.unwritten == 0 {
                return false;
            }
            taken.push((entry.clone(), std::mem::take(&mut line.unwritten)));
            line.rests_until = Some(now + AGAIN);
            true
        });
        taken
    }

    /// They could not be written: once more, later.
    pub(super) fn put_back(&mut self, entries: Vec<(Audit, u32)>, now: Instant) {
        for (entry, times) in entries {
            if let Some(line) = self.lines.get_mut(&entry) {
                line.unwritten = line.unwritten.saturating_add(times);
                line.due = now + AGAIN;
            }
        }
    }
}

fn overflow(class: AuditClass) -> Audit {
    Audit {
        class,
        principal: String::new(),
        source: String::new(),
        action: "more".to_owned(),
        kind: String::new(),
        key: String::new(),
        detail: "further entries of this minute, too many to be told one by one".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(source: &str) -> Audit {
        Audit {
            source: source.to_owned(),
            action: "login".to_owned(),
            ..overflow(AuditClass::Refused)
        }
    }

    #[test]
    fn the_same_is_counted_and_written_once_a_minute() {
        let (mut notes, begin) = (Notes::default(), Instant::now());
        assert_eq!(notes.wait(begin), None);
        notes.add(refused("a"), begin);
        notes.add(refused("a"), begin);
        assert_eq!(notes.wait(begin), Some(PATIENCE));
        assert_eq!(notes.take(begin, false), [(refused("a"), 2)], "rides with a commit");
        assert_eq!(notes.wait(begin), None);
        for _ in 0..7 {
            notes.add(refused("a"), begin);
        }
        assert_eq!(notes.wait(begin), Some(AGAIN));
        assert_eq!(notes.take(begin + PATIENCE, false), []);
        assert_eq!(notes.take(begin + AGAIN, false), [(refused("a"), 7)]);
        assert_eq!(notes.take(begin + AGAIN * 3, false), []);
        assert!(notes.lines.is_empty(), "forgotten");
    }

    #[test]
    fn a_flood_is_one_row_more() {
        let (mut notes, now) = (Notes::default(), Instant::now());
        for source in 0..MOST + 500 {
            notes.add(refused(&source.to_string()), now);
        }
        let taken = notes.take(now, false);
        assert_eq!(taken.len(), MOST + 1);
        assert!(taken.contains(&(overflow(AuditClass::Refused), 500)));
        notes.put_back(taken, now);
        assert_eq!(notes.take(now, true).iter().map(|(_, times)| times).sum::<u32>(), 1524);
    }
}
