//! What BMCs and machines read, and what is made of it: traces as a table.

#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use isobar_bmc::{HostState, PowerState, SecureBoot};
use isobar_image::vfs::{Knock, Read, ReadKind};
use isobar_image::{AttemptId, Base, BaseFile, BaseSpec, BlobDir, Content, FileRole, Image, OwnFile, plan};

use isobar_store::SystemClock;

use crate::clock::BootClock;
use crate::evidence::Phase;
use crate::reads::{AttemptReads, ReadBook};
use crate::record::Attempt;
use crate::verdict::{self, Facts};

const KB: u64 = 1 << 10;
const MB: u64 = 1 << 20;

/// A piece of a trace.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The file with this role, in pieces of this size, up to this many percent.
    File(FileRole, u64, u64),
    /// The first bytes of the disc.
    Head(u64),
    /// The last bytes of the disc.
    Tail(u64),
    /// The disc from here to there, in percent, in pieces of 1 MiB.
    Sweep(u64, u64),
    /// The same file by two connections at once, one from its begin, one from its middle.
    Parallel(FileRole, u64),
    /// The disc from here to there, in percent, as one answer to a GET without a range.
    Whole(u64, u64),
    /// Reads come from an address that is not the BMC's from here on.
    Elsewhere,
    /// The machine is switched on.
    On,
    /// The server has been started anew and knows nothing of what was read before.
    Restart,
}
use FileRole::BiosImage;
use FileRole::{BootCatalog, EfiImage, GrubConfig, Initrd, Kernel, Metadata, OwnInitrd};
use Step::{Elsewhere, File, Head, On, Parallel, Restart, Sweep, Tail, Whole};

const LOADER: &[Step] = &[
    Head(64 * KB),
    File(Metadata, 2 * KB, 100),
    File(BootCatalog, 2 * KB, 100),
    File(EfiImage, 64 * KB, 100),
    File(GrubConfig, 2 * KB, 100),
];

/// Name, what comes first, what comes then, how far each read reads ahead, phase, percent, words.
type Trace = (
    &'static str,
    &'static [Step],
    &'static [Step],
    u64,
    Phase,
    Option<u32>,
    &'static str,
);

#[rustfmt::skip]
const TRACES: &[Trace] = &[
    ("lazy, GRUB", &[On], LOADER, 0, Phase::Grub, None, "GRUB"),
    ("lazy, in the kernel", &[On], &[LOADER[0], LOADER[3], LOADER[4], File(Kernel, 128 * KB, 50)], 0, Phase::Kernel, Some(50), "kernel 50 %"),
    ("lazy, in the initrd", &[On], &[LOADER[3], LOADER[4], File(Kernel, 128 * KB, 100), File(Initrd, 128 * KB, 50)], 0, Phase::Initrd, Some(50), "initrd 50 %"),
    ("lazy, all", &[On], &[LOADER[3], LOADER[4], File(Kernel, 128 * KB, 100), File(Initrd, 128 * KB, 100), File(OwnInitrd, 2 * KB, 100)], 0, Phase::KernelStarted, None, "waiting for the agent"),
    ("at the insert", &[Head(64 * KB), Tail(64 * KB), On], &[LOADER[3], LOADER[4], File(Kernel, 64 * KB, 25)], 0, Phase::Kernel, Some(25), "kernel 25 %"),
    ("reading ahead", &[Head(MB), On], &[LOADER[1], LOADER[2], LOADER[3], LOADER[4], File(Kernel, 128 * KB, 100), File(Initrd, 128 * KB, 50)], MB, Phase::Initrd, None, "initrd 5"),
    ("copied before the insert was answered", &[Sweep(0, 100), On], &[], 0, Phase::Copied, None, "copied to the BMC"),
    ("copying, before the power is on", &[Sweep(0, 40)], &[], 0, Phase::Inserted, None, "is copying"),
    ("copying, insert answered early, a little before the power-on", &[Sweep(0, 10), On], &[Sweep(10, 60)], 0, Phase::Copied, None, "is copying"),
    ("copying, insert answered early, most before the power-on", &[Sweep(0, 60), On], &[Sweep(60, 80)], 0, Phase::Copied, None, "is copying"),
    ("copying, insert answered early, at its end", &[Sweep(0, 60), On], &[Sweep(60, 100)], 0, Phase::Copied, None, "copied to the BMC"),
    ("copying from the power-on", &[On], &[Sweep(0, 60)], 0, Phase::Copied, None, "is copying"),
    ("copying, after a look at both ends", &[Head(64 * KB), Tail(MB), On], &[Sweep(0, 100)], 0, Phase::Copied, None, "copied to the BMC"),
    ("2 KiB at a time", &[On], &[LOADER[3], LOADER[4], File(Kernel, 2 * KB, 100), File(Initrd, 2 * KB, 25)], 0, Phase::Initrd, Some(25), "initrd 25 %"),
    ("two connections at once", &[On], &[LOADER[3], LOADER[4], File(Kernel, 64 * KB, 100), Parallel(Initrd, 64 * KB)], 0, Phase::Initrd, Some(100), "initrd 100 %"),
    ("sushy: one GET without a range, before the insert is answered", &[Whole(0, 100), On], &[], 0, Phase::Copied, None, "copied to the BMC"),
    ("sushy, while it reads", &[Whole(0, 30)], &[], 0, Phase::Inserted, None, "is copying"),
    ("a boot that a restart of the server fell into", &[Restart, On], &[File(Kernel, 128 * KB, 100), File(Initrd, 128 * KB, 50)], 0, Phase::Initrd, Some(50), "initrd 50 %"),
];

/// What the BMC says of the machine.
#[derive(Clone, Copy, Debug)]
enum Says {
    Nothing,
    /// `BootSourceOverrideMode`.
    Mode(&'static str),
    /// `SecureBootCurrentBoot` is `Enabled`.
    Secure,
    /// `BootProgress.LastState`.
    Progress(&'static str),
    /// `BootSourceOverrideEnabled`.
    Override(&'static str),
}
use Says::{Mode, Nothing, Override, Progress, Secure};

/// Name, trace, what the BMC says, how it came and got nothing, reason, words of message or hint.
type Case = (
    &'static str,
    &'static [Step],
    Says,
    Option<Knock>,
    &'static str,
    &'static str,
);

/// What is told of a boot whose trace ends so: "" where nothing more exact than `given` is known.
#[rustfmt::skip]
const VERDICTS: &[Case] = &[
    // Inserted, and never read.
    ("nobody came", &[On], Nothing, None, "image-never-read", "boot-virtual-iso-url"),
    ("nobody came, the URL has a name", &[On], Nothing, None, "image-never-read", "DNS knows the name"),
    ("lazy, and the machine has not come to it", &[On], Override("Once"), None, "image-never-read", "still set"),
    ("the machine has come to it, and found nothing", &[On], Override("Disabled"), None, "image-never-read", "found nothing"),
    ("in its self-test", &[On], Progress("MemoryInitializationStarted"), None, "in-self-test", "first_read_s"),
    ("HPE's word for it", &[On], Progress("InPost"), None, "in-self-test", "first_read_s"),
    ("booted from the disk", &[On], Progress("OSRunning"), None, "not-booted-from-cd", "something else"),
    ("it does not trust us", &[On], Nothing, Some(Knock::Tls), "image-tls", "isobar/image-scheme"),
    ("it asked for another path", &[On], Nothing, Some(Knock::Path), "image-path", "eject"),
    ("it spoke another protocol", &[On], Nothing, Some(Knock::Request), "image-protocol", "isobar/image-scheme"),
    // Begun, and stopped.
    ("read from elsewhere alone", &[Elsewhere, On, LOADER[0], LOADER[2]], Nothing, None, "image-read-elsewhere", "10.9.9.9"),
    ("a proxy, and the kernel goes", &[Elsewhere, On, LOADER[3], LOADER[4], File(Kernel, 128 * KB, 40)], Nothing, None, "", ""),
    ("the catalog, never the EFI image", &[On, LOADER[0], LOADER[2]], Nothing, None, "legacy-mode", "read, never the EFI image"),
    ("the catalog, and the BMC says legacy", &[On, LOADER[2]], Mode("Legacy"), None, "legacy-mode", "UEFI"),
    ("the catalog, and the BMC says UEFI", &[On, LOADER[2]], Mode("UEFI"), None, "", ""),
    ("the EFI image, and nothing after it", &[On, LOADER[2], LOADER[3]], Nothing, None, "", ""),
    ("the loader was refused", &[On, LOADER[2], LOADER[3]], Secure, None, "secure-boot", "refused the boot loader"),
    ("stopped after grub.cfg", &[On, LOADER[3], LOADER[4]], Secure, None, "secure-boot", "stopped after grub.cfg: Secure Boot refused the kernel"),
    ("the kernel was refused", &[On, LOADER[3], LOADER[4], File(Kernel, 128 * KB, 100)], Secure, None, "secure-boot", "refused the kernel"),
    ("stopped after grub.cfg, no Secure Boot", &[On, LOADER[3], LOADER[4]], Mode("UEFI"), None, "", ""),
    ("stopped in the kernel, a bad line", &[On, LOADER[3], LOADER[4], File(Kernel, 128 * KB, 40)], Secure, None, "", ""),
    ("stopped in the initrd", &[On, LOADER[3], LOADER[4], File(Kernel, 128 * KB, 100), File(Initrd, 128 * KB, 40)], Secure, None, "", ""),
    ("reading ahead of a firmware that stops", &[Head(MB), On, LOADER[2]], Mode("Legacy"), None, "legacy-mode", "legacy mode"),
];

/// The same of an image that boots by BIOS, too.
#[rustfmt::skip]
const BOTH_VERDICTS: &[Case] = &[
    ("the catalog alone, which both read", &[On, LOADER[2]], Nothing, None, "", ""),
    ("the catalog alone, and the BMC says legacy", &[On, LOADER[2]], Mode("Legacy"), None, "legacy-mode", "read, never the EFI image"),
    ("the image for BIOS, and nothing after it", &[On, LOADER[2], File(BiosImage, 2 * KB, 100)], Nothing, None, "legacy-mode", "the boot image for BIOS was read and stopped there"),
    ("the image for BIOS, and the BMC says UEFI", &[On, File(BiosImage, 2 * KB, 100)], Mode("UEFI"), None, "legacy-mode", "read and stopped there"),
    ("the image for BIOS, and GRUB's menu", &[On, File(BiosImage, 2 * KB, 100), LOADER[4]], Nothing, None, "", ""),
];

fn host(says: Says) -> Option<HostState> {
    let mut host = HostState {
        power: PowerState::On,
        ..HostState::default()
    };
    match says {
        Nothing => return None,
        Mode(mode) => host.boot_mode = Some(mode.to_owned()),
        Progress(word) => host.boot_progress = Some(word.to_owned()),
        Override(word) => host.boot_enabled = Some(word.to_owned()),
        Secure => {
            host.secure_boot = Some(SecureBoot {
                in_force: Some(true),
                ..SecureBoot::default()
            });
        }
    }
    Some(host)
}

#[test]
fn a_trace_that_ends_has_its_verdict() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = BlobDir::open(folder.path()).unwrap();
    let (efi, both) = (image(&blobs, false), image(&blobs, true));
    let cases = VERDICTS.iter().map(|case| (&efi, case));
    for (image, (name, steps, says, knock, code, words)) in cases.chain(BOTH_VERDICTS.iter().map(|case| (&both, case)))
    {
        let reads = followed(image);
        let mut clock = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        for step in *steps {
            play(&reads, image, *step, 0, &mut clock);
        }
        let (seen, host) = (reads.now(clock), host(*says));
        let facts = Facts {
            machine: "m1",
            bmc: "BMC 10.0.0.5:443 of m1",
            authority: if name.contains("a name") {
                "http://files.example:8091"
            } else {
                "http://10.0.0.1:8091"
            },
            touched: reads.touched(),
            elsewhere: seen.elsewhere,
            knock: *knock,
            host: host.as_ref(),
            detail: &seen.reading.detail,
        };
        let told = match seen.first {
            None => Some(verdict::never_read(&facts)),
            Some(_) => verdict::stopped(&facts),
        };
        let got = told.as_ref().map_or("", |reason| reason.reason.as_str());
        assert_eq!(got, *code, "{name}: {told:?}");
        let line = told.map(|reason| reason.line()).unwrap_or_default();
        assert!(line.contains(words), "{name}: {line}");
    }
}

/// For UEFI alone, or for BIOS as well.
fn image(blobs: &BlobDir, bios: bool) -> Arc<Image> {
    let file = |path: &str, len: u64, role| BaseFile {
        path: path.to_owned(),
        content: Content::take_in(&mut &vec![7; usize::try_from(len).unwrap()][..], blobs).unwrap(),
        role,
    };
    let spec = BaseSpec {
        volume_id: "TRACES".to_owned(),
        files: vec![
            file("boot/grub/efi.img", 4 * MB, FileRole::Other),
            file("EFI/BOOT/grubx64.efi", 3 * MB, FileRole::Other),
            file("vmlinuz0", 8 * MB, Kernel),
            file("stage1.img", 20 * MB, Initrd),
            file("boot/grub/bios.img", 32 * KB, FileRole::Other),
        ],
        bios_image: bios.then(|| "boot/grub/bios.img".to_owned()),
        efi_image: Some("boot/grub/efi.img".to_owned()),
        catalog: "boot.catalog".to_owned(),
        compact: false,
    };
    let own = |path: &str, len: usize, role| OwnFile {
        path: path.to_owned(),
        bytes: Bytes::from(vec![1; len]),
        role,
    };
    let base = Arc::new(Base::build(&spec, blobs).unwrap());
    let own = [
        own("boot/grub/grub.cfg", 900, GrubConfig),
        own("isobar/own.img", 1500, OwnInitrd),
    ];
    Arc::new(plan(&base, &own).unwrap())
}

fn followed(image: &Arc<Image>) -> Arc<AttemptReads> {
    let attempt: Attempt = serde_json::from_value(serde_json::json!({
        "id": AttemptId(1).to_string(), "machine": "", "bootenv": "", "token_hash": "", "token_sealed": "",
        "secret_hash": "", "over": false, "size": image.len(), "etag": "", "authority": "", "created_ms": 0,
    }))
    .unwrap();
    let attempt = Attempt {
        bmc_ips: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
        http_boot: false,
        ..attempt
    };
    ReadBook::new(Arc::new(BootClock::new(Arc::new(SystemClock::default())))).follow(&attempt, image)
}

fn play(reads: &AttemptReads, image: &Image, step: Step, ahead: u64, clock: &mut SystemTime) {
    // Stays elsewhere once it was.
    let peer = match (step, reads.now(*clock).elsewhere) {
        (Elsewhere, _) | (_, Some(_)) => IpAddr::V4(Ipv4Addr::new(10, 9, 9, 9)),
        _ => IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
    let kind = if matches!(step, Whole(..)) {
        ReadKind::Whole
    } else {
        ReadKind::Range
    };
    let mut read = |offset: u64, len: u64| {
        *clock += Duration::from_millis(10);
        reads.seen(&Read {
            attempt: AttemptId(1),
            peer,
            offset,
            len: (len + ahead).min(image.len() - offset),
            kind,
            at: *clock,
        });
    };
    let mut pieces = |from: u64, to: u64, size: u64| {
        let mut at = from;
        while at < to {
            read(at, size.min(to - at));
            at += size;
        }
    };
    match step {
        Head(len) => pieces(0, len, len),
        Tail(len) => pieces(image.len() - len, image.len(), len),
        Sweep(from, to) | Whole(from, to) => pieces(image.len() * from / 100, image.len() * to / 100, MB),
        File(role, size, percent) => {
            let file = image.files().iter().find(|file| file.role == role).unwrap();
            pieces(file.offset, file.offset + file.len * percent / 100, size);
        }
        Parallel(role, size) => {
            let file = image.files().iter().find(|file| file.role == role).unwrap();
            let (middle, end) = (file.offset + file.len / 2, file.offset + file.len);
            let mut at = 0;
            while file.offset + at < middle {
                for from in [file.offset + at, middle + at] {
                    pieces(from, (from + size).min(end), size);
                }
                at += size;
            }
        }
        // A look at the disc, from there.
        Elsewhere => pieces(0, 2 * KB, 2 * KB),
        On => reads.powered_on(*clock),
        Restart => reads.goes_on(),
    }
}

#[test]
fn traces_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let image = image(&BlobDir::open(folder.path()).unwrap(), false);
    for (name, first, then, ahead, phase, percent, words) in TRACES {
        let reads = followed(&image);
        let mut clock = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        for step in first.iter().chain(*then) {
            play(&reads, &image, *step, *ahead, &mut clock);
        }
        let reading = reads.now(clock).reading;
        assert_eq!(reading.phase, *phase, "{name}: {}", reading.detail);
        assert!(reading.detail.contains(words), "{name}: {}", reading.detail);
        if let Some(percent) = percent {
            assert_eq!(reading.percent.map(|p| p.round() as u32), Some(*percent), "{name}");
        }
    }
}

#[test]
fn a_rate_is_of_what_flows() {
    let folder = tempfile::tempdir().unwrap();
    let image = image(&BlobDir::open(folder.path()).unwrap(), false);
    let reads = followed(&image);
    let mut clock = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
    reads.powered_on(clock);
    for piece in 0..10 {
        clock += Duration::from_secs(1);
        play(&reads, &image, Sweep(piece * 10, piece * 10 + 10), 0, &mut clock);
    }
    assert!(reads.now(clock).rate_bps.is_some());
    assert_eq!(
        reads.now(clock + Duration::from_secs(4)).rate_bps,
        None,
        "nothing flows any more"
    );
}
