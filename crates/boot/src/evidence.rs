//! From the reads of an image to what the machine is doing: a pure function.
//!
//! Reads are evidence, not proof. A BMC may fetch nothing before the machine is powered on, look at
//! the disc when it is inserted, read ahead in windows, or copy the whole image first. So percentages and stalls are
//! told only where the pattern allows it: when the reads are the machine's own.

use std::time::{Duration, SystemTime};

use isobar_image::{FileEntry, FileRole};
use serde::{Deserialize, Serialize};

/// Where a boot is, in the order in which a boot passes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Committed; nothing sent to the BMC yet.
    Planned,
    /// The machine is being switched off.
    PoweringOff,
    /// Old media are being ejected.
    Ejecting,
    /// The image is being inserted.
    Inserting,
    /// The BMC says that the image is in.
    Inserted,
    /// The one-time boot from the virtual CD is being set.
    BootOnce,
    /// The machine is being switched on.
    PoweringOn,
    /// The agent has been asked to reboot the machine.
    RebootAsked,
    /// Inserted and set; the power is the operator's.
    WaitingForPower,
    /// On; nothing read since, or only what firmware probes.
    Firmware,
    /// `grub.cfg` was read.
    Grub,
    /// The kernel is being read.
    Kernel,
    /// The initrd is being read.
    Initrd,
    /// All has been read that a boot reads.
    KernelStarted,
    /// The BMC, or the firmware that boots by HTTP, took a copy of the whole image; progress unknown until the agent.
    Copied,
    /// The agent has checked in.
    AgentUp,
    /// Media taken out, override removed: the end of a release.
    Released,
}

/// Bytes of one file that went out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileReads {
    /// Distinct bytes sent.
    pub covered: u64,
    /// End of the furthest byte sent, relative to the file. Tells the progress of a sequential reader
    /// even when earlier reads were seen by a server process that is gone.
    pub furthest: u64,
}

/// All reads of an attempt in one stretch of time (before or after the power came on).
#[derive(Clone, Debug, Default)]
pub struct Reads {
    /// Per file, in the order of [`isobar_image::Image::files`].
    pub files: Vec<FileReads>,
    /// Distinct bytes sent that belong to no file. A boot has no use for them; who copies reads them.
    pub padding: u64,
    /// Distinct bytes of kernel and initrd that went out before anything of GRUB's menu. GRUB has no use for them
    /// before it has read which files it is to load.
    pub unguided: u64,
    /// Bytes sent, repeated ones included.
    pub bytes: u64,
    /// Requests.
    pub requests: u64,
    /// First one.
    pub first: Option<SystemTime>,
    /// Latest one.
    pub last: Option<SystemTime>,
}

/// What the reads say.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// Where the boot is.
    pub phase: Phase,
    /// How much of the phase's file has been read, where that can be said.
    pub percent: Option<f64>,
    /// Bytes still to read of kernel and initrds, where that can be said.
    pub left: Option<u64>,
    /// For people.
    pub detail: String,
    /// Nothing has been read for a while in the middle of a file.
    pub stalled_for: Option<Duration>,
}

/// A read of a file's first bytes alone is a probe, or read-ahead of its neighbour.
const PROBE: u64 = 96 * 1024;
/// Share of kernel and initrd that must have gone out before power-on to call it a copy.
const COPY_SHARE: f64 = 0.9;
/// A copy is told from a boot by so much of kernel and initrd without the menu: a BMC that reads ahead of the machine
/// gets no further.
const AHEAD: u64 = 3 << 19;
/// Or, where so much that no boot needs lies before its furthest byte,
const COPY_LEAST: u64 = 2 << 20;
/// by this share of that.
const COPY_DENSITY: f64 = 0.9;
/// Nothing read for so long in the middle of a file: stalled.
pub const STALL: Duration = Duration::from_secs(20);

/// Judges an attempt's reads. `before` and `after` are split at the moment when the machine was
/// powered on (`powered_on`; none: not yet, all reads are in `before`).
#[must_use]
pub fn classify(
    files: &[FileEntry],
    before: &Reads,
    after: &Reads,
    powered_on: Option<SystemTime>,
    now: SystemTime,
) -> Reading {
    let copied = share(files, before) >= COPY_SHARE;
    let Some(_) = powered_on else {
        let detail = if copied {
            "inserted; copied to the BMC".to_owned()
        } else if is_copying(files, before) {
            format!(
                "inserted; the BMC is copying the image ({} so far)",
                bytes(before.bytes)
            )
        } else if before.requests == 0 {
            "inserted; the BMC has not read anything yet (many read only once the machine is on)".to_owned()
        } else {
            format!("inserted; the BMC has read {} of it", bytes(before.bytes))
        };
        return reading(Phase::Inserted, detail);
    };
    if copied {
        return reading(
            Phase::Copied,
            "copied to the BMC; progress unknown until the agent checks in".to_owned(),
        );
    }
    let all = together(before, after);
    if is_copying(files, &all) {
        return reading(
            Phase::Copied,
            if share(files, &all) >= COPY_SHARE {
                "copied to the BMC; progress unknown until the agent checks in".to_owned()
            } else {
                format!(
                    "the BMC is copying the image ({} so far); progress unknown until the agent checks in",
                    bytes(all.bytes)
                )
            },
        );
    }
    guest(files, after, now)
}

/// Judges the reads of firmware that downloads the whole image (UEFI HTTP boot): nobody else reads it.
#[must_use]
pub fn download(size: u64, before: &Reads, after: &Reads, powered_on: Option<SystemTime>, now: SystemTime) -> Reading {
    let all = together(before, after);
    let got = all.files.iter().map(|file| file.covered).sum::<u64>() + all.padding;
    let left = size.saturating_sub(got);
    if got == 0 {
        let detail = match powered_on {
            None => "the one-time HTTP boot is set; the firmware reads the image once the machine is on",
            Some(_) => "machine is on; its firmware has not asked for the image yet",
        };
        let phase = powered_on.map_or(Phase::BootOnce, |_| Phase::Firmware);
        return reading(phase, detail.to_owned());
    }
    if left == 0 {
        return reading(
            Phase::Copied,
            "the firmware has downloaded the whole image; progress unknown until the agent checks in".to_owned(),
        );
    }
    let percent = got as f64 * 100.0 / size as f64;
    let quiet = all.last.and_then(|last| now.duration_since(last).ok());
    let stalled_for = quiet.filter(|quiet| *quiet >= STALL);
    let stalled = stalled_for.map_or_else(String::new, |quiet| {
        format!(", stalled: nothing read for {} s", quiet.as_secs())
    });
    Reading {
        phase: Phase::Firmware,
        percent: Some(percent),
        left: Some(left),
        detail: format!("the firmware is downloading the image: {percent:.0} %{stalled}"),
        stalled_for,
    }
}

fn guest(files: &[FileEntry], reads: &Reads, now: SystemTime) -> Reading {
    let role = |role: FileRole| Sum::of(files, reads, role);
    let (kernel, initrd, own) = (
        role(FileRole::Kernel),
        role(FileRole::Initrd),
        role(FileRole::OwnInitrd),
    );
    let left = kernel.left() + initrd.left() + own.left();
    let in_file = |phase, sum: Sum, to_come: u64, name: &str| {
        let quiet = reads
            .last
            .and_then(|last| now.duration_since(last).ok())
            .filter(|quiet| *quiet >= STALL);
        let percent = sum.percent();
        let stalled_for = quiet.filter(|_| to_come > 0);
        let detail = match stalled_for {
            Some(quiet) => format!("{name} {percent:.0} %, stalled: nothing read for {} s", quiet.as_secs()),
            None => format!("{name} {percent:.0} %"),
        };
        Reading {
            phase,
            percent: Some(percent),
            left: Some(left),
            detail,
            stalled_for,
        }
    };
    if own.len > 0 && own.left() == 0 && initrd.left() * 20 <= initrd.len {
        return reading(
            Phase::KernelStarted,
            "kernel and initrd read; waiting for the agent".to_owned(),
        );
    }
    if initrd.furthest > PROBE || (initrd.len <= PROBE && initrd.furthest > 0) {
        return in_file(Phase::Initrd, initrd, initrd.left(), "initrd");
    }
    if kernel.furthest > PROBE || (kernel.len <= PROBE && kernel.furthest > 0) {
        return in_file(Phase::Kernel, kernel, left, "kernel");
    }
    if role(FileRole::GrubConfig).furthest > 0 {
        return reading(Phase::Grub, "GRUB has read its configuration".to_owned());
    }
    if role(FileRole::EfiImage).furthest > 0 {
        return reading(Phase::Firmware, "firmware is loading the EFI boot image".to_owned());
    }
    if role(FileRole::BiosImage).furthest > 0 {
        return reading(Phase::Firmware, "firmware is loading the BIOS boot image".to_owned());
    }
    let detail = if reads.requests == 0 {
        "machine is on; nothing read yet"
    } else {
        "firmware has found the disc"
    };
    reading(Phase::Firmware, detail.to_owned())
}

fn reading(phase: Phase, detail: String) -> Reading {
    Reading {
        phase,
        percent: None,
        left: None,
        detail,
        stalled_for: None,
    }
}

/// Files of one role together.
#[derive(Clone, Copy, Default)]
struct Sum {
    len: u64,
    covered: u64,
    furthest: u64,
}

impl Sum {
    fn of(files: &[FileEntry], reads: &Reads, role: FileRole) -> Self {
        files
            .iter()
            .zip(&reads.files)
            .filter(|(file, _)| file.role == role)
            .fold(Self::default(), |sum, (file, r)| Self {
                len: sum.len + file.len,
                covered: sum.covered + r.covered,
                furthest: sum.furthest + r.furthest.min(file.len),
            })
    }

    /// Coverage is exact; the furthest byte stands in for it after a restart of the server.
    fn done(self) -> u64 {
        self.covered.max(self.furthest)
    }

    fn left(self) -> u64 {
        self.len.saturating_sub(self.done())
    }

    fn percent(self) -> f64 {
        if self.len == 0 {
            100.0
        } else {
            self.done() as f64 * 100.0 / self.len as f64
        }
    }
}

fn share(files: &[FileEntry], reads: &Reads) -> f64 {
    let (kernel, initrd) = (
        Sum::of(files, reads, FileRole::Kernel),
        Sum::of(files, reads, FileRole::Initrd),
    );
    let len = kernel.len + initrd.len;
    if len == 0 {
        0.0
    } else {
        (kernel.covered + initrd.covered) as f64 / len as f64
    }
}

/// Who reads kernel and initrd before the menu that names them, or nearly all of the gaps and files that a boot leaves
/// out, is copying.
fn is_copying(files: &[FileEntry], reads: &Reads) -> bool {
    if reads.unguided > AHEAD {
        return true;
    }
    let both = || files.iter().zip(&reads.files);
    let ends = both()
        .filter(|(_, r)| r.furthest > 0)
        .map(|(f, r)| f.offset + r.furthest);
    let furthest = ends.max().unwrap_or(0);
    let needed = files.iter().filter(|f| f.role != FileRole::Other);
    let needed: u64 = needed.map(|f| furthest.saturating_sub(f.offset).min(f.len)).sum();
    let others = both().filter(|(f, _)| f.role == FileRole::Other);
    let read = reads.padding + others.map(|(_, r)| r.covered).sum::<u64>();
    let needless = furthest - needed;
    needless >= COPY_LEAST && read as f64 >= needless as f64 * COPY_DENSITY
}

/// What was read before and after the power came on. Distinct bytes are counted as if nothing was read in both: right
/// for who copies from begin to end, and no boot reads what makes the difference.
fn together(before: &Reads, after: &Reads) -> Reads {
    let files = before.files.iter().zip(&after.files).map(|(b, a)| FileReads {
        covered: b.covered + a.covered,
        furthest: b.furthest.max(a.furthest),
    });
    Reads {
        files: files.collect(),
        padding: before.padding + after.padding,
        unguided: before.unguided + after.unguided,
        bytes: before.bytes + after.bytes,
        requests: before.requests + after.requests,
        first: before.first.or(after.first),
        last: after.last.or(before.last),
    }
}

/// `3.4 MB`.
#[must_use]
pub fn bytes(n: u64) -> String {
    match n {
        0..1000 => format!("{n} B"),
        1000..1_000_000 => format!("{:.1} KB", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", n as f64 / 1e6),
        _ => format!("{:.2} GB", n as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use isobar_image::FileId;

    use super::*;

    const MB: u64 = 1 << 20;

    fn disc() -> Vec<FileEntry> {
        let mut offset = 0;
        [
            ("<metadata>", 64 * 1024, FileRole::Metadata),
            ("boot.catalog", 2048, FileRole::BootCatalog),
            ("boot/grub/efi.img", 6 * MB, FileRole::EfiImage),
            ("boot/grub/grub.cfg", 900, FileRole::GrubConfig),
            ("vmlinuz0", 8 * MB, FileRole::Kernel),
            ("stage1.img", 20 * MB, FileRole::Initrd),
            ("isobar/own.img", 1024, FileRole::OwnInitrd),
        ]
        .iter()
        .enumerate()
        .map(|(i, (path, len, role))| {
            let entry = FileEntry {
                id: FileId(i as u32),
                path: (*path).into(),
                offset,
                len: *len,
                role: *role,
            };
            offset += len + 512 * 1024;
            entry
        })
        .collect()
    }

    /// `read` of each file, by role.
    fn reads(read: &[(FileRole, u64)], padding: u64) -> Reads {
        let files = disc()
            .iter()
            .map(|f| {
                let n = read.iter().find(|(role, _)| *role == f.role).map_or(0, |(_, n)| *n);
                FileReads {
                    covered: n,
                    furthest: n,
                }
            })
            .collect::<Vec<_>>();
        let bytes = files.iter().map(|f| f.covered).sum::<u64>() + padding;
        let now = Some(SystemTime::UNIX_EPOCH);
        Reads {
            files,
            padding,
            unguided: 0,
            bytes,
            requests: u64::from(bytes > 0),
            first: now,
            last: now,
        }
    }

    #[test]
    fn a_download_by_firmware_is_told_up_to_its_end() {
        let (none, began) = (reads(&[], 0), Some(SystemTime::UNIX_EPOCH));
        let size = disc().iter().map(|f| f.len).sum::<u64>() + 4 * MB;
        let at = |reads: &Reads, seconds| {
            download(
                size,
                &none,
                reads,
                began,
                SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
            )
        };
        let waits = at(&none, 0);
        assert_eq!((waits.phase, waits.percent), (Phase::Firmware, None));
        assert_eq!(
            download(size, &none, &none, None, SystemTime::UNIX_EPOCH).phase,
            Phase::BootOnce
        );
        // All of it in one GET: no copy by a BMC, no boot loader, no legacy mode.
        let half = reads(
            &[
                (FileRole::Metadata, 64 * 1024),
                (FileRole::BootCatalog, 2048),
                (FileRole::EfiImage, 6 * MB),
            ],
            MB,
        );
        let told = at(&half, 1);
        assert_eq!((told.phase, told.stalled_for), (Phase::Firmware, None));
        assert!(
            told.percent.is_some_and(|percent| (17.0..19.0).contains(&percent)),
            "{told:?}"
        );
        assert!(told.left.is_some() && at(&half, 60).stalled_for.is_some());
        let roles = disc().iter().map(|f| (f.role, f.len)).collect::<Vec<_>>();
        let whole = reads(&roles, 4 * MB);
        assert_eq!(
            (at(&whole, 60).phase, at(&whole, 60).stalled_for),
            (Phase::Copied, None)
        );
    }

    fn phase_after(read: &[(FileRole, u64)]) -> (Phase, Option<f64>) {
        let r = classify(
            &disc(),
            &reads(&[], 0),
            &reads(read, 0),
            Some(SystemTime::UNIX_EPOCH),
            SystemTime::UNIX_EPOCH + Duration::from_secs(1),
        );
        (r.phase, r.percent)
    }

    #[test]
    fn a_guest_is_followed_file_by_file() {
        use FileRole::*;
        assert_eq!(phase_after(&[]).0, Phase::Firmware);
        assert_eq!(
            phase_after(&[(Metadata, 4096), (BootCatalog, 2048), (EfiImage, MB)]).0,
            Phase::Firmware
        );
        assert_eq!(phase_after(&[(EfiImage, 6 * MB), (GrubConfig, 900)]).0, Phase::Grub);
        assert_eq!(
            phase_after(&[(GrubConfig, 900), (Kernel, 2 * MB)]),
            (Phase::Kernel, Some(25.0))
        );
        assert_eq!(
            phase_after(&[(Kernel, 8 * MB), (Initrd, 5 * MB)]),
            (Phase::Initrd, Some(25.0))
        );
        assert_eq!(
            phase_after(&[(Kernel, 8 * MB), (Initrd, 20 * MB), (OwnInitrd, 1024)]).0,
            Phase::KernelStarted
        );
    }

    #[test]
    fn reading_ahead_into_the_next_file_is_not_progress() {
        use FileRole::*;
        assert_eq!(phase_after(&[(GrubConfig, 900), (Kernel, 64 * 1024)]).0, Phase::Grub);
    }

    #[test]
    fn before_power_on_nothing_is_a_boot() {
        use FileRole::*;
        let all = reads(
            &[
                (EfiImage, 6 * MB),
                (GrubConfig, 900),
                (Kernel, 8 * MB),
                (Initrd, 20 * MB),
            ],
            3 * MB,
        );
        let now = SystemTime::UNIX_EPOCH;
        let r = classify(&disc(), &all, &reads(&[], 0), None, now);
        assert_eq!((r.phase, r.percent), (Phase::Inserted, None));
        assert_eq!(r.detail, "inserted; copied to the BMC");
        let r = classify(&disc(), &all, &reads(&[], 0), Some(now), now);
        assert_eq!(
            (r.phase, r.percent),
            (Phase::Copied, None),
            "no initrd 100 % from a copy"
        );
    }

    #[test]
    fn a_copy_after_power_on_is_told_from_a_boot() {
        use FileRole::*;
        let copy = reads(
            &[
                (Metadata, 65536),
                (BootCatalog, 2048),
                (EfiImage, 6 * MB),
                (GrubConfig, 900),
                (Kernel, 4 * MB),
            ],
            2 * MB,
        );
        let now = SystemTime::UNIX_EPOCH;
        assert_eq!(
            classify(&disc(), &reads(&[], 0), &copy, Some(now), now).phase,
            Phase::Copied
        );
    }

    #[test]
    fn silence_in_the_middle_of_a_file_is_a_stall_and_at_its_end_is_not() {
        use FileRole::*;
        let later = SystemTime::UNIX_EPOCH + Duration::from_secs(60);
        let judge = |r: &Reads| classify(&disc(), &reads(&[], 0), r, Some(SystemTime::UNIX_EPOCH), later).stalled_for;
        assert_eq!(
            judge(&reads(&[(Kernel, 8 * MB), (Initrd, 5 * MB)], 0)),
            Some(Duration::from_secs(60))
        );
        assert_eq!(judge(&reads(&[(Kernel, 8 * MB), (Initrd, 20 * MB)], 0)), None);
    }
}
