//! What BMCs and machines read, and what is made of it: traces as a table.

#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use isobar_image::vfs::{Read, ReadKind};
use isobar_image::{AttemptId, Base, BaseFile, BaseSpec, BlobDir, Content, FileRole, Image, OwnFile, plan};

use isobar_store::SystemClock;

use crate::clock::BootClock;
use crate::evidence::Phase;
use crate::reads::{AttemptReads, ReadBook};
use crate::record::Attempt;

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
    /// The machine is switched on.
    On,
    /// The server has been started anew and knows nothing of what was read before.
    Restart,
}
use FileRole::{BootCatalog, EfiImage, GrubConfig, Initrd, Kernel, Metadata, OwnInitrd};
use Step::{File, Head, On, Restart, Sweep, Tail};

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
    ("a boot that a restart of the server fell into", &[Restart, On], &[File(Kernel, 128 * KB, 100), File(Initrd, 128 * KB, 50)], 0, Phase::Initrd, Some(50), "initrd 50 %"),
];

fn image(blobs: &BlobDir) -> Arc<Image> {
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
        ],
        bios_image: None,
        efi_image: Some("boot/grub/efi.img".to_owned()),
        catalog: "boot.catalog".to_owned(),
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
    ReadBook::new(Arc::new(BootClock::new(Arc::new(SystemClock::default())))).follow(&attempt, image)
}

fn play(reads: &AttemptReads, image: &Image, step: Step, ahead: u64, clock: &mut SystemTime) {
    let mut read = |offset: u64, len: u64| {
        *clock += Duration::from_millis(10);
        reads.seen(&Read {
            attempt: AttemptId(1),
            peer: IpAddr::V4(Ipv4Addr::LOCALHOST),
            offset,
            len: (len + ahead).min(image.len() - offset),
            kind: ReadKind::Range,
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
        Sweep(from, to) => pieces(image.len() * from / 100, image.len() * to / 100, MB),
        File(role, size, percent) => {
            let file = image.files().iter().find(|file| file.role == role).unwrap();
            pieces(file.offset, file.offset + file.len * percent / 100, size);
        }
        On => reads.powered_on(*clock),
        Restart => reads.goes_on(),
    }
}

#[test]
fn traces_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let image = image(&BlobDir::open(folder.path()).unwrap());
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
    let image = image(&BlobDir::open(folder.path()).unwrap());
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
