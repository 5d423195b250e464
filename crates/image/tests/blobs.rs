//! The folder of blobs.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::Path;
use std::time::{Duration, SystemTime};

use common::{Fixture, noise};
use isobar_image::{BlobDir, BlobId, Content};

/// SHA-256 of `abc` (FIPS 180-2, B.1).
const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

fn files_below(folder: &Path) -> Vec<String> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push(path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    files.sort();
    files
}

#[test]
fn a_blob_is_named_by_its_digest_and_taken_in_once() {
    let fixture = Fixture::new();
    let root = fixture.folder.path().join("blobs");
    for _ in 0..2 {
        let (id, len) = fixture.blobs.import(&mut &b"abc"[..]).unwrap();
        assert_eq!((id.to_string().as_str(), len), (ABC, 3));
    }
    assert_eq!(files_below(&root), [format!("sha256/ba/{ABC}")]);
    assert!(
        fs::metadata(root.join("sha256/ba").join(ABC))
            .unwrap()
            .permissions()
            .readonly()
    );
    let id: BlobId = ABC.parse().unwrap();
    assert!(fixture.blobs.contains(&id));
    let mut bytes = Vec::new();
    fixture.blobs.file(&id).unwrap().read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, b"abc");
}

#[test]
fn large_blobs_survive_the_chunks() {
    let fixture = Fixture::new();
    let bytes = noise(1, 700_001);
    let (id, len) = fixture.blobs.import(&mut &bytes[..]).unwrap();
    assert_eq!(len, 700_001);
    let mut found = Vec::new();
    fixture.blobs.file(&id).unwrap().read_to_end(&mut found).unwrap();
    assert!(found == bytes);
}

#[test]
fn removed_blobs_are_gone() {
    let fixture = Fixture::new();
    let mut ids: Vec<BlobId> = (0..20)
        .map(|n| fixture.blobs.import(&mut &noise(n, 10)[..]).unwrap().0)
        .collect();
    ids.sort();
    // What is not ours is left alone and not listed.
    let stray = fixture.folder.path().join("blobs/sha256/README");
    fs::write(&stray, "x").unwrap();
    assert_eq!(fixture.blobs.list().unwrap(), ids);
    assert!(fixture.blobs.remove(&ids[3]).unwrap());
    assert!(!fixture.blobs.remove(&ids[3]).unwrap());
    assert!(!fixture.blobs.contains(&ids[3]));
    let error = fixture.blobs.file(&ids[3]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains(&ids[3].to_string()), "{error}");
    ids.remove(3);
    assert_eq!(fixture.blobs.list().unwrap(), ids);
}

#[test]
fn a_damaged_blob_is_mended_by_the_next_import() {
    let fixture = Fixture::new();
    fixture.blobs.import(&mut &b"abc"[..]).unwrap();
    let path = fixture.folder.path().join("blobs/sha256/ba").join(ABC);
    fs::remove_file(&path).unwrap();
    fs::write(&path, "").unwrap();
    fixture.blobs.import(&mut &b"abc"[..]).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"abc");
}

/// Fails after some bytes, as a connection does.
struct Broken(usize);

impl Read for Broken {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.0 == 0 {
            return Err(io::Error::new(ErrorKind::ConnectionReset, "reset"));
        }
        let n = self.0.min(buf.len());
        self.0 -= n;
        Ok(n)
    }
}

#[test]
fn a_failed_import_leaves_nothing() {
    let fixture = Fixture::new();
    let error = fixture.blobs.import(&mut Broken(300_000)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(files_below(&fixture.folder.path().join("blobs")).is_empty());
}

#[test]
fn leftovers_of_a_crash_go_when_they_are_old() {
    let fixture = Fixture::new();
    let root = fixture.folder.path().join("blobs");
    fs::write(root.join("tmp/young"), "x").unwrap();
    let old = File::create(root.join("tmp/old")).unwrap();
    old.set_modified(SystemTime::now() - Duration::from_secs(7200)).unwrap();
    BlobDir::open(&root).unwrap();
    assert_eq!(files_below(&root), ["tmp/young"]);
}

#[test]
fn ids_are_written_in_hex() {
    let id: BlobId = ABC.parse().unwrap();
    assert_eq!(serde_json::to_string(&id).unwrap(), format!("\"{ABC}\""));
    assert_eq!(serde_json::from_str::<BlobId>(&format!("\"{ABC}\"")).unwrap(), id);
    for wrong in ["", "ba78", "zz", &ABC[..63], &format!("{ABC}00")] {
        assert!(wrong.parse::<BlobId>().is_err(), "{wrong}");
    }
}

#[test]
fn small_files_are_held_in_the_base() {
    let fixture = Fixture::new();
    let max = Content::INLINE_MAX as usize;
    let small = Content::take_in(&mut &noise(1, max)[..], &fixture.blobs).unwrap();
    assert!(matches!(small, Content::Bytes(bytes) if bytes == noise(1, max)));
    let large = Content::take_in(&mut &noise(2, max + 1)[..], &fixture.blobs).unwrap();
    let Content::Blob { id, len } = large else { panic!() };
    assert_eq!(len, Content::INLINE_MAX + 1);
    let mut bytes = Vec::new();
    fixture.blobs.file(&id).unwrap().read_to_end(&mut bytes).unwrap();
    assert!(bytes == noise(2, max + 1));
}
