//! Which BMCs are being talked to, for the process that comes after a kill.
//!
//! A look at a BMC (power state, media) is no row in the database: an fsync for every poll would be dear. But what a
//! killed process has written to a file is still there, without any fsync, for as long as the host runs. So every
//! exchange stands in a small file from before its first byte is sent until it has ended, and a new process stays away
//! from those BMCs until these exchanges have ended, whatever became of them. When the host itself went down the file
//! says nothing; then no BMC is talked to until the host has been up for as long as the longest exchange takes.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// One slot: `MILLISECONDS AUTHORITY`, filled up with blanks. Divides a page, so that a kill tears none apart.
const SLOT: usize = 512;
/// More are not read: more conversations than anybody configures.
const SLOTS_MAX: u64 = 1 << 16;
const MAGIC: &str = "isobar exchanges 1";

/// The file of exchanges under way.
pub struct Ledger {
    file: File,
    slots: Mutex<Vec<Slot>>,
}

#[derive(Clone, Copy)]
struct Slot {
    busy: bool,
    /// Not to be written over before, ms since the host started.
    until: u64,
}

/// What an earlier process left.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// BMCs (`host:port`) with an exchange that may still be under way, and for how long.
    pub doubts: Vec<(String, Duration)>,
    /// The host was down meanwhile: any BMC may be busy for as long.
    pub everywhere: Duration,
}

/// An exchange in the file. Dropped without [`Entry::ended`] it stays there until its time is over.
pub struct Entry {
    ledger: Arc<Ledger>,
    slot: usize,
}

impl Ledger {
    /// Opens or makes the file; `longest` is how long any exchange takes at most.
    ///
    /// # Errors
    /// Of the disk.
    pub fn open(path: &Path, longest: Duration) -> io::Result<(Arc<Self>, Left)> {
        let host = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self::open_on(path, longest, host.trim())
    }

    fn open_on(path: &Path, longest: Duration, host: &str) -> io::Result<(Arc<Self>, Left)> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        let len = file.metadata()?.len();
        let header = format!("{MAGIC} {host}");
        let (now, mut slots, mut left) = (now_ms(), Vec::new(), Left::default());
        if len > 0 && !host.is_empty() && read(&file, 0)? == header {
            for number in 1..(len / SLOT as u64).min(SLOTS_MAX) {
                let text = read(&file, number)?;
                let (until, authority) = text.split_once(' ').unwrap_or_default();
                // Never longer than an exchange can take: damage must not keep anybody away for ever.
                let until = until.parse().unwrap_or(0).min(now.saturating_add(ms(longest)));
                if until > now {
                    left.doubts
                        .push((authority.to_owned(), Duration::from_millis(until - now)));
                }
                slots.push(Slot { busy: false, until });
            }
        } else {
            if len > 0 {
                left.everywhere = longest.saturating_sub(Duration::from_millis(now));
            }
            file.set_len(0)?;
            write(&file, 0, &header)?;
        }
        let slots = Mutex::new(slots);
        Ok((Arc::new(Self { file, slots }), left))
    }

    /// An exchange begins and takes at most `time`.
    ///
    /// # Errors
    /// Of the disk: a kill during this exchange would not be known.
    pub fn enter(self: &Arc<Self>, authority: &str, time: Duration) -> io::Result<Entry> {
        let now = now_ms();
        let until = now.saturating_add(ms(time));
        let slot = {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            let taken = Slot { busy: true, until };
            match slots.iter().position(|slot| !slot.busy && slot.until <= now) {
                Some(free) => {
                    slots[free] = taken;
                    free
                }
                None => {
                    slots.push(taken);
                    slots.len() - 1
                }
            }
        };
        let entry = Entry {
            ledger: Arc::clone(self),
            slot,
        };
        write(&self.file, slot as u64 + 1, &format!("{until} {authority}"))?;
        Ok(entry)
    }

    fn free(&self, slot: usize, until: Option<u64>) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get_mut(slot) {
            slot.busy = false;
            slot.until = until.unwrap_or(slot.until);
        }
    }
}

impl Entry {
    /// The exchange has ended.
    ///
    /// # Errors
    /// Of the disk: after a restart it would be waited for.
    pub fn ended(self) -> io::Result<()> {
        write(&self.ledger.file, self.slot as u64 + 1, "0 ")?;
        self.ledger.free(self.slot, Some(0));
        Ok(())
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.ledger.free(self.slot, None);
    }
}

fn read(file: &File, slot: u64) -> io::Result<String> {
    let mut bytes = [0; SLOT];
    file.read_exact_at(&mut bytes, slot * SLOT as u64)?;
    Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
}

fn write(file: &File, slot: u64, text: &str) -> io::Result<()> {
    let mut bytes = [b' '; SLOT];
    // A host's name has at most 253 bytes (RFC 1035 §2.3.4).
    let text = &text.as_bytes()[..text.len().min(SLOT)];
    bytes[..text.len()].copy_from_slice(text);
    file.write_all_at(&bytes, slot * SLOT as u64)
}

/// Time since the host started, sleep included: the same clock for the process after this one, and nobody sets it.
fn now_ms() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1000 + u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000_000
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    fn names(left: &Left) -> Vec<&str> {
        left.doubts.iter().map(|(name, _)| name.as_str()).collect()
    }

    #[test]
    fn what_has_not_ended_is_known_to_the_next_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("exchanges");
        let (ledger, left) = Ledger::open_on(&path, LONG, "host").unwrap();
        assert_eq!(left, Left::default());
        let a = ledger.enter("a:443", LONG).unwrap();
        let b = ledger.enter("b:443", LONG * 2).unwrap();
        let c = ledger.enter("c:443", Duration::ZERO).unwrap();
        a.ended().unwrap();
        std::mem::forget((b, c));
        let (ledger, left) = Ledger::open_on(&path, LONG, "host").unwrap();
        assert_eq!(names(&left), ["b:443"]);
        assert!(left.doubts[0].1 <= LONG, "never longer than an exchange takes");
        // What is in doubt is not written over, and is known to the process after that, too.
        let d = ledger.enter("d:443", LONG).unwrap();
        drop(ledger.enter("e:443", LONG).unwrap());
        d.ended().unwrap();
        let (_, left) = Ledger::open_on(&path, LONG, "host").unwrap();
        assert_eq!(names(&left), ["b:443", "e:443"]);
    }

    #[test]
    fn after_the_host_was_down_everybody_is_kept_away_for_a_while() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("exchanges");
        let (ledger, _) = Ledger::open_on(&path, LONG, "host").unwrap();
        std::mem::forget(ledger.enter("a:443", LONG).unwrap());
        let up = Duration::from_millis(now_ms());
        let (_, left) = Ledger::open_on(&path, up + LONG, "host again").unwrap();
        assert_eq!(names(&left), [""; 0]);
        assert!(left.everywhere > LONG / 2 && left.everywhere <= LONG, "{left:?}");
        let (_, left) = Ledger::open_on(&path, up / 2, "and again").unwrap();
        assert_eq!(left, Left::default(), "it has been up for long enough");
    }
}
