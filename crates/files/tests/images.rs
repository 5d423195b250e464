//! Boot images over real sockets: the bytes, and what the observer is told of them.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use bytes::Bytes;
use common::{Client, Fixture, export, noisy, planned, start, until};
use isobar_files::{Config, Denied, Opened, ReadKind};
use isobar_image::{AttemptId, BaseFile, BlobDir, Content, FileRole, Image, OwnFile};
use proptest::prelude::*;

const ATTEMPT: AttemptId = AttemptId(7);

fn image(blobs: &Arc<BlobDir>) -> Arc<Image> {
    let small = BaseFile {
        path: "boot/small.txt".into(),
        content: Content::Bytes(Bytes::from_static(b"small")),
        role: FileRole::Other,
    };
    let files = vec![
        noisy(blobs, "vmlinuz0", (1, 3_000_001), FileRole::Kernel),
        noisy(blobs, "stage1.img", (2, 5_000_077), FileRole::Initrd),
        small,
    ];
    let own = OwnFile {
        path: "boot/grub/grub.cfg".into(),
        bytes: Bytes::from_static(b"set timeout=0\n"),
        role: FileRole::GrubConfig,
    };
    planned(blobs, files, &[own])
}

fn plane() -> (Fixture, Arc<Image>, Vec<u8>) {
    let mut planned = None;
    let fixture = start(Config::default(), |blobs| {
        let image = image(blobs);
        planned = Some(image.clone());
        let open = |attempt| -> Result<Opened, Denied> {
            Ok(Opened::Image {
                image: image.clone(),
                attempt,
            })
        };
        vec![
            ("/token/boot.iso", open(Some(ATTEMPT))),
            ("/people/boot.iso", open(None)),
        ]
    });
    let image = planned.unwrap();
    let bytes = export(&image, &fixture.blobs);
    assert_eq!(bytes.len() as u64, image.len());
    (fixture, image, bytes)
}

#[test]
fn the_whole_image_is_the_export() {
    let (fixture, image, bytes) = plane();
    let answer = Client::connect(fixture.addr()).ask("GET", "/token/boot.iso", "");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["etag"], format!("\"{}\"", image.etag()));
    assert!(answer.body == bytes);
    until("all of it was reported", || {
        fixture.seen.0.lock().unwrap().iter().map(|r| r.len).sum::<u64>() == image.len()
    });
    let seen = fixture.seen.0.lock().unwrap();
    let mut at = 0;
    for read in seen.iter() {
        assert_eq!((read.attempt, read.offset, read.kind), (ATTEMPT, at, ReadKind::Whole));
        assert!(read.len > 0 && read.len <= 1 << 20);
        assert_eq!(read.peer.to_string(), "127.0.0.1");
        at += read.len;
    }
}

#[test]
fn any_range_is_the_same_range_of_the_export() {
    let (fixture, _, bytes) = plane();
    let len = bytes.len() as u64;
    let client = std::sync::Mutex::new(Client::connect(fixture.addr()));
    // Near the seams of the disc as well as anywhere; short as firmware asks, and long.
    let start = prop_oneof![0..len, (0..len / 2048).prop_map(|s| s * 2048), Just(len - 1)];
    let size = prop_oneof![Just(2048u64), 1..70_000u64, 1..4_000_000u64];
    proptest!(ProptestConfig::with_cases(300), |(start in start, size in size)| {
        let end = (start + size).min(len);
        let header = format!("Range: bytes={start}-{}\r\n", start + size - 1);
        let answer = client.lock().unwrap().ask("GET", "/token/boot.iso", &header);
        prop_assert_eq!(answer.status, 206);
        prop_assert_eq!(&answer.headers["content-range"], &format!("bytes {start}-{}/{len}", end - 1));
        prop_assert!(answer.body == bytes[start as usize..end as usize], "{}..{}", start, end);
    });
}

#[test]
fn ranges_are_reported_as_sent() {
    let (fixture, image, _) = plane();
    let mut client = Client::connect(fixture.addr());
    client.ask("GET", "/token/boot.iso", "Range: bytes=32768-34815\r\n");
    client.ask("HEAD", "/token/boot.iso", "");
    client.ask("GET", "/people/boot.iso", "Range: bytes=0-9\r\n");
    client.ask("GET", "/token/boot.iso", &format!("Range: bytes={}-\r\n", image.len()));
    client.ask("GET", "/token/boot.iso", "Range: bytes=-2048\r\n");
    until("the last was reported", || fixture.seen.0.lock().unwrap().len() == 3);
    let seen: Vec<_> = fixture
        .seen
        .0
        .lock()
        .unwrap()
        .iter()
        .map(|r| (r.kind, r.offset, r.len))
        .collect();
    assert_eq!(
        seen,
        [
            (ReadKind::Range, 32768, 2048),
            (ReadKind::Head, 0, 0),
            (ReadKind::Range, image.len() - 2048, 2048)
        ]
    );
}

#[test]
fn a_reader_that_goes_away_is_reported_with_what_it_got() {
    let (fixture, image, _) = plane();
    let mut client = Client::connect(fixture.addr());
    client.send("GET /token/boot.iso HTTP/1.1\r\n\r\n");
    client.head_only();
    drop(client);
    until("it is forgotten", || fixture.plane.connections() == 0);
    let sent: u64 = fixture.seen.0.lock().unwrap().iter().map(|r| r.len).sum();
    assert!(sent < image.len(), "{sent} of {}", image.len());
}

#[test]
fn conditions() {
    let (fixture, image, bytes) = plane();
    let mut client = Client::connect(fixture.addr());
    let tag = format!("\"{}\"", image.etag());
    let mut status = |headers: String| client.ask("GET", "/token/boot.iso", &headers).status;
    assert_eq!(status(format!("If-None-Match: {tag}\r\n")), 304);
    assert_eq!(status(format!("If-None-Match: {tag}\r\nRange: bytes=0-1\r\n")), 304);
    assert_eq!(status("If-None-Match: \"x\"\r\nRange: bytes=0-1\r\n".into()), 206);
    assert_eq!(status(format!("If-Range: {tag}\r\nRange: bytes=0-1\r\n")), 206);
    assert_eq!(status(format!("If-Match: {tag}\r\nRange: bytes=0-1\r\n")), 206);
    assert_eq!(status("If-Match: \"x\"\r\n".into()), 412);
    let answer = client.ask("GET", "/token/boot.iso", "If-Range: \"x\"\r\nRange: bytes=0-1\r\n");
    assert_eq!((answer.status, answer.body.len()), (200, bytes.len()));
}

#[test]
fn a_missing_blob_cuts_the_answer_and_nothing_else() {
    let (fixture, _, bytes) = plane();
    std::fs::remove_dir_all(fixture.folder.path().join("sha256")).unwrap();
    let mut client = Client::connect(fixture.addr());
    client.send("GET /token/boot.iso HTTP/1.1\r\n\r\n");
    let (status, _) = client.head_only();
    assert_eq!(status, 200);
    let mut rest = Vec::new();
    let _ = std::io::Read::read_to_end(&mut client.0, &mut rest);
    assert!(rest.len() < bytes.len() && rest == bytes[..rest.len()]);
    let answer = Client::connect(fixture.addr()).ask("GET", "/token/boot.iso", "Range: bytes=32768-34815\r\n");
    assert_eq!(answer.body, &bytes[32768..34816]);
}

/// Whether the kernel forgot a blob and says so (`RWF_NOWAIT`): a tmpfs keeps it, some file systems cannot tell.
fn forgotten(blobs: &BlobDir) -> bool {
    let files: Vec<_> = blobs.list().unwrap().iter().map(|id| blobs.file(id).unwrap()).collect();
    for file in &files {
        file.sync_all().unwrap();
        rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    }
    files.iter().all(|file| {
        let mut byte = [0];
        let mut into = [std::io::IoSliceMut::new(&mut byte)];
        let read = rustix::io::preadv2(file, &mut into, 2 << 20, rustix::io::ReadWriteFlags::NOWAIT);
        read == Err(rustix::io::Errno::AGAIN)
    })
}

#[test]
fn what_is_not_in_memory_is_sent_by_threads_that_may_wait() {
    let (fixture, _, bytes) = plane();
    let cold = forgotten(&fixture.blobs);
    let mut client = Client::connect(fixture.addr());
    assert!(client.ask("GET", "/token/boot.iso", "").body == bytes, "cold");
    let turns = fixture.plane.disk_turns();
    assert!(turns > 0 || !cold, "the disk was read by the threads that may wait");
    // Pages go and come as the kernel likes; not always all of them.
    until("memory is read by the others", || {
        let turns = fixture.plane.disk_turns();
        assert!(client.ask("GET", "/token/boot.iso", "").body == bytes, "warm");
        fixture.plane.disk_turns() == turns
    });
}
