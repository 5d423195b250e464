//! Who reads what: the observer of the file plane.
//!
//! Lives in memory, one small record an attempt; only the first read of an attempt is made durable, by the
//! boot that waits for it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use isobar_image::coverage::Coverage;
use isobar_image::vfs::{Knock, Read, ReadKind, ReadObserver};
use isobar_image::{AttemptId, FileEntry, FileRole, Image};
use tokio::sync::Notify;

use crate::clock::BootClock;
use crate::evidence::{self, FileReads, Phase, Reading, Reads};
use crate::record::{Attempt, Readers};

mod timeline;

/// Reads of all attempts that are live.
pub struct ReadBook {
    clock: Arc<BootClock>,
    /// Who came and got nothing, the last time.
    knocks: Mutex<HashMap<IpAddr, (Knock, SystemTime)>>,
    attempts: Mutex<HashMap<AttemptId, Arc<AttemptReads>>>,
}

/// Reads of one attempt.
pub struct AttemptReads {
    /// Of the image.
    files: Arc<[FileEntry]>,
    /// Length of the image, bytes.
    len: u64,
    state: Mutex<State>,
    /// Rings at the first read.
    pub first: Notify,
}

struct State {
    before: Stretch,
    after: Stretch,
    powered_on: Option<SystemTime>,
    bmc: Readers,
    /// Firmware downloads the image.
    download: bool,
    elsewhere: Option<IpAddr>,
    /// The BMC itself has read.
    own: bool,
    refused: Option<IpAddr>,
    rate: Rate,
    /// GRUB's menu has been read, or may have been while nobody watched.
    menu_read: bool,
}

impl State {
    /// Counts what is read of kernel and initrd before the menu.
    fn see_menu(&mut self) {
        for stretch in [&mut self.before, &mut self.after] {
            self.menu_read |= stretch.covered(FileRole::GrubConfig) > 0;
            if !self.menu_read {
                stretch.unguided = stretch.covered(FileRole::Kernel) + stretch.covered(FileRole::Initrd);
            }
        }
    }
}

/// Reads on one side of the power-on.
struct Stretch {
    coverage: Coverage,
    bytes: u64,
    requests: u64,
    first: Option<SystemTime>,
    last: Option<SystemTime>,
    /// Latest one that brought something new: who asks for the same again gets nowhere.
    progress: Option<SystemTime>,
    unguided: u64,
}

/// Bytes a second over the last few seconds.
#[derive(Default)]
struct Rate {
    since: Option<SystemTime>,
    bytes: u64,
    current: Option<f64>,
    last: Option<SystemTime>,
}

const RATE_WINDOW: Duration = Duration::from_secs(3);

impl Rate {
    fn add(&mut self, n: u64, at: SystemTime) {
        let since = *self.since.get_or_insert(at);
        self.bytes += n;
        self.last = Some(at);
        let passed = at.duration_since(since).unwrap_or_default();
        if passed >= RATE_WINDOW {
            self.current = Some(self.bytes as f64 / passed.as_secs_f64());
            (self.since, self.bytes) = (Some(at), 0);
        }
    }

    fn bps(&self, now: SystemTime) -> Option<f64> {
        let stale = self
            .last
            .is_none_or(|last| now.duration_since(last).unwrap_or_default() > RATE_WINDOW);
        self.current.filter(|_| !stale)
    }
}

impl Stretch {
    fn new(image: &Image) -> Self {
        Self {
            coverage: Coverage::new(image),
            bytes: 0,
            requests: 0,
            first: None,
            last: None,
            progress: None,
            unguided: 0,
        }
    }

    fn add(&mut self, read: &Read) {
        self.requests += 1;
        self.bytes += read.len;
        self.first.get_or_insert(read.at);
        self.last = Some(read.at);
        if read.len > 0 && self.coverage.add(read.offset..read.offset + read.len) {
            self.progress = Some(read.at);
        }
    }

    fn covered(&self, role: FileRole) -> u64 {
        let files = self.coverage.listed().iter().filter(|file| file.role == role);
        files.map(|file| self.coverage.covered(file.id)).sum()
    }

    fn reads(&self, files: &[FileEntry]) -> Reads {
        Reads {
            files: files
                .iter()
                .map(|f| FileReads {
                    covered: self.coverage.covered(f.id),
                    furthest: self.coverage.furthest(f.id),
                })
                .collect(),
            padding: self.coverage.padding(),
            unguided: self.unguided,
            bytes: self.bytes,
            requests: self.requests,
            first: self.first,
            last: self.progress,
        }
    }
}

/// Which parts of an image were read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Touched {
    pub(crate) catalog: bool,
    pub(crate) bios: bool,
    pub(crate) efi: bool,
    pub(crate) menu: bool,
    pub(crate) kernel: bool,
    pub(crate) whole_kernel: bool,
    pub(crate) initrd: bool,
    /// The image has a boot image for BIOS at all.
    pub(crate) has_bios: bool,
    /// Any of it by the BMC itself.
    pub(crate) by_the_bmc: bool,
}

/// What is known of an attempt's reads now.
#[derive(Clone, Debug)]
pub struct Now {
    /// The verdict.
    pub reading: Reading,
    /// Bytes a second, when something flows.
    pub rate_bps: Option<f64>,
    /// First read ever.
    pub first: Option<SystemTime>,
    /// Latest read of bytes that had not been read before.
    pub progress: Option<SystemTime>,
    /// Bytes sent.
    pub bytes: u64,
    /// Something was read after the power came on.
    pub after_power_on: bool,
    /// Address of a reader that is not the BMC, and was served.
    pub elsewhere: Option<IpAddr>,
    /// Address of a reader that is not the BMC, and was refused.
    pub refused: Option<IpAddr>,
}

impl ReadBook {
    pub(crate) fn new(clock: Arc<BootClock>) -> Self {
        Self {
            clock,
            knocks: Mutex::default(),
            attempts: Mutex::default(),
        }
    }

    /// Goes on to follow an attempt that is followed.
    pub fn followed(&self, attempt: &Attempt) -> Option<Arc<AttemptReads>> {
        let reads = self.get(attempt.attempt_id())?;
        reads.is_of(attempt);
        Some(reads)
    }

    /// Begins (or goes on) to follow an attempt. Where its BMC is may have been learnt meanwhile.
    pub fn follow(&self, attempt: &Attempt, image: &Image) -> Arc<AttemptReads> {
        let mut attempts = lock(&self.attempts);
        let reads = attempts.entry(attempt.attempt_id()).or_insert_with(|| {
            let before = Stretch::new(image);
            Arc::new(AttemptReads {
                files: Arc::clone(before.coverage.listed()),
                len: image.len(),
                state: Mutex::new(State {
                    before,
                    after: Stretch::new(image),
                    powered_on: None,
                    bmc: Readers::default(),
                    download: false,
                    elsewhere: None,
                    own: false,
                    refused: None,
                    rate: Rate::default(),
                    menu_read: false,
                }),
                first: Notify::new(),
            })
        });
        reads.is_of(attempt);
        Arc::clone(reads)
    }

    /// Somebody who is not the BMC was refused.
    pub(crate) fn refused(&self, attempt: AttemptId, reader: IpAddr) {
        if let Some(reads) = self.get(attempt)
            && lock(&reads.state).refused.replace(reader) != Some(reader)
        {
            tracing::warn!(attempt = %attempt, %reader, "refused to serve an image to an address that is not its BMC's");
        }
    }

    /// How one of these readers came and got nothing since then; none: nobody did.
    pub(crate) fn knock_of(&self, readers: &Readers, since: SystemTime) -> Option<Knock> {
        let knocks = lock(&self.knocks);
        let theirs = knocks
            .iter()
            .filter(|(peer, (_, at))| readers.has(**peer) && *at >= since);
        theirs.max_by_key(|(_, (_, at))| *at).map(|(_, (knock, _))| *knock)
    }

    /// The reads of an attempt that is being followed.
    pub fn get(&self, attempt: AttemptId) -> Option<Arc<AttemptReads>> {
        lock(&self.attempts).get(&attempt).cloned()
    }

    /// Stops to follow.
    pub fn forget(&self, attempt: AttemptId) {
        lock(&self.attempts).remove(&attempt);
    }
}

impl ReadObserver for ReadBook {
    fn seen(&self, mut read: Read) {
        // The file plane's time of day may jump; ours does not.
        read.at = self.clock.now();
        if let Some(reads) = self.get(read.attempt) {
            reads.seen(&read);
        }
    }

    fn knocked(&self, peer: IpAddr, knock: Knock) {
        let (now, mut knocks) = (self.clock.now(), lock(&self.knocks));
        if knocks.len() >= KNOCKS && !knocks.contains_key(&peer) {
            let oldest = knocks.iter().min_by_key(|(_, (_, at))| *at).map(|(peer, _)| *peer);
            oldest.map(|peer| knocks.remove(&peer));
        }
        knocks.insert(peer, (knock, now));
    }
}

/// Peers of whom it is known that they got nothing.
const KNOCKS: usize = 1024;

impl AttemptReads {
    fn is_of(&self, attempt: &Attempt) {
        let mut state = lock(&self.state);
        (state.bmc, state.download) = (attempt.readers(), attempt.http_boot);
    }

    /// An earlier process may have seen reads that this one does not know of.
    pub(crate) fn goes_on(&self) {
        lock(&self.state).menu_read = true;
    }

    /// From here on, reads are the machine's.
    pub fn powered_on(&self, at: SystemTime) {
        let mut state = lock(&self.state);
        if state.powered_on.is_none() {
            state.powered_on = Some(at);
            // A reader that began before the power came on is at work for itself; what it goes on with is no boot.
            state.rate = Rate::default();
        }
    }

    /// As [`Self::powered_on`], of a machine that somebody else switched on a while before: what looks like its boot so far is
    /// its boot.
    pub fn found_on(&self, at: SystemTime) {
        let boot = self.look_like_a_boot(at);
        let mut state = lock(&self.state);
        if boot && state.powered_on.is_none() {
            let State { before, after, .. } = &mut *state;
            std::mem::swap(before, after);
        }
        drop(state);
        self.powered_on(at);
    }

    /// The verdict on what has been read so far.
    pub fn now(&self, now: SystemTime) -> Now {
        let state = lock(&self.state);
        let files = &self.files;
        let (before, after) = (state.before.reads(files), state.after.reads(files));
        Now {
            reading: match state.download {
                true => evidence::download(self.len, &before, &after, state.powered_on, now),
                false => evidence::classify(files, &before, &after, state.powered_on, now),
            },
            rate_bps: state.rate.bps(now),
            first: state.before.first.or(state.after.first),
            progress: state.after.progress.or(state.before.progress),
            bytes: state.before.bytes + state.after.bytes,
            after_power_on: state.after.requests > 0,
            elsewhere: state.elsewhere,
            refused: state.refused,
        }
    }

    /// Which parts of the image the machine has read, whoever asked for it.
    pub(crate) fn touched(&self) -> Touched {
        let state = lock(&self.state);
        let files = &self.files;
        let stretch = if state.after.requests > 0 {
            &state.after
        } else {
            &state.before
        };
        let of = |role: FileRole| {
            let all = files.iter().filter(|file| file.role == role);
            let (mut len, mut read) = (0, 0);
            for file in all {
                len += file.len;
                read += stretch.coverage.covered(file.id);
            }
            (len, read)
        };
        let any = |role| of(role).1 > 0;
        let (kernel_len, kernel) = of(FileRole::Kernel);
        Touched {
            catalog: any(FileRole::BootCatalog),
            bios: any(FileRole::BiosImage),
            efi: any(FileRole::EfiImage),
            menu: any(FileRole::GrubConfig),
            kernel: kernel > 0,
            whole_kernel: kernel_len > 0 && kernel >= kernel_len,
            initrd: any(FileRole::Initrd),
            has_bios: of(FileRole::BiosImage).0 > 0,
            by_the_bmc: state.own,
        }
    }

    /// Whether the reads from before a known power-on are a machine's that boots: somebody else has switched it on.
    pub fn look_like_a_boot(&self, now: SystemTime) -> bool {
        let state = lock(&self.state);
        if state.download {
            return state.before.bytes > 0;
        }
        let files = &self.files;
        let reads = state.before.reads(files);
        let reading = evidence::classify(
            files,
            &Reads {
                files: vec![FileReads::default(); files.len()],
                ..Reads::default()
            },
            &reads,
            Some(now),
            now,
        );
        matches!(reading.phase, Phase::Kernel | Phase::Initrd | Phase::KernelStarted)
    }

    pub(crate) fn seen(&self, read: &Read) {
        let mut state = lock(&self.state);
        if state.bmc.known() && !state.bmc.has(read.peer) && state.elsewhere.is_none() {
            state.elsewhere = Some(read.peer);
            tracing::warn!(attempt = %read.attempt, reader = %read.peer, "an image is read from an address that is not its BMC's");
        }
        state.own |= !state.bmc.known() || state.bmc.has(read.peer);
        let first = state.before.first.is_none() && state.after.first.is_none();
        let stretch = if state.powered_on.is_some() {
            &mut state.after
        } else {
            &mut state.before
        };
        stretch.add(read);
        state.see_menu();
        if read.kind != ReadKind::Head {
            state.rate.add(read.len, read.at);
        }
        drop(state);
        if first {
            self.first.notify_waiters();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use bytes::Bytes;
    use isobar_image::{Base, BaseFile, BaseSpec, BlobDir, Content, FileRole, OwnFile, plan};
    use isobar_store::ManualClock;

    use super::*;

    const KERNEL: usize = 3 << 20;
    const INITRD: usize = 5 << 20;

    fn image() -> Arc<Image> {
        let dir = tempfile::tempdir().unwrap();
        let file = |path: &str, len: usize, role| BaseFile {
            path: path.into(),
            content: Content::Bytes(Bytes::from(vec![7; len])),
            role,
        };
        let spec = BaseSpec {
            volume_id: "TEST".into(),
            files: vec![
                file("vmlinuz0", KERNEL, FileRole::Kernel),
                file("stage1.img", INITRD, FileRole::Initrd),
            ],
            bios_image: None,
            efi_image: None,
            catalog: "boot.catalog".into(),
            compact: false,
        };
        let base = Arc::new(Base::build(&spec, &BlobDir::open(dir.path()).unwrap()).unwrap());
        let own = |path: &str, role| OwnFile {
            path: path.into(),
            bytes: Bytes::from_static(b"own"),
            role,
        };
        let own = [
            own("boot/grub/grub.cfg", FileRole::GrubConfig),
            own("isobar/own.img", FileRole::OwnInitrd),
        ];
        Arc::new(plan(&base, &own).unwrap())
    }

    /// Reads of an attempt in which these files went out before anybody knew of the power.
    fn read(image: &Arc<Image>, wanted: impl Fn(&FileEntry) -> bool) -> Arc<AttemptReads> {
        let attempt = AttemptId(7);
        let book = ReadBook::new(Arc::new(BootClock::new(Arc::new(ManualClock::new(1_000_000)))));
        let row: Attempt = serde_json::from_value(serde_json::json!({
            "id": format!("{:032x}", attempt.0), "machine": "", "bootenv": "", "boot": null, "token_hash": "",
            "token_sealed": "", "secret_hash": "", "nonce_hash": null, "machine_token_sealed": null, "over": false,
            "size": 0, "etag": "", "authority": "", "created_ms": 0, "first_read_ms": null, "elsewhere": null,
            "agent_up_ms": null,
        }))
        .unwrap();
        let reads = book.follow(&row, image);
        let mut wanted: Vec<_> = image.files().iter().filter(|file| wanted(file)).collect();
        // As GRUB: the menu says which files there are to load.
        wanted.sort_by_key(|file| file.role != FileRole::GrubConfig);
        for file in wanted {
            book.seen(Read {
                attempt,
                peer: [127, 0, 0, 1].into(),
                offset: file.offset,
                len: file.len,
                kind: ReadKind::Range,
                at: SystemTime::now(),
            });
        }
        reads
    }

    #[test]
    fn what_a_machine_read_before_it_was_found_on_is_its_boot() {
        let image = image();
        let roles = [
            FileRole::GrubConfig,
            FileRole::Kernel,
            FileRole::Initrd,
            FileRole::OwnInitrd,
        ];
        let now = SystemTime::now();
        let reads = read(&image, |file| roles.contains(&file.role));
        reads.found_on(now);
        let seen = reads.now(now);
        assert_eq!((seen.reading.phase, seen.after_power_on), (Phase::KernelStarted, true));
        // A BMC that was seen to read all that before the power came on has copied it.
        let reads = read(&image, |file| roles.contains(&file.role));
        reads.powered_on(now);
        assert_eq!(reads.now(now).reading.phase, Phase::Copied);
        // And a look at the disc is no boot.
        let reads = read(&image, |file| file.role == FileRole::GrubConfig);
        reads.found_on(now);
        assert_eq!(
            (reads.now(now).reading.phase, reads.now(now).after_power_on),
            (Phase::Firmware, false)
        );
    }
}
