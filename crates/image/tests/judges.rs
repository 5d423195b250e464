//! The exported disc in the eyes of programs that other people wrote.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use common::{Fixture, noise, own, real_files, real_own, real_spec, role, tool};
use isobar_image::{Base, BaseFile, BaseSpec, BlobId, Content, FileRole, Segment, plan};

/// Every file that should be on the disc, and the disc in a folder.
struct Disc {
    fixture: Fixture,
    expected: BTreeMap<String, Vec<u8>>,
}

/// `continued`: with names so long that Rock Ridge continues them outside of their record.
fn disc(continued: bool) -> Disc {
    let fixture = Fixture::new();
    let mut expected = real_files();
    let n = if continued { 255 } else { 110 };
    expected.insert(format!("long/{}", "n".repeat(n)), noise(20, 3000));
    expected.insert("long/ümläut und 漢字.txt".to_owned(), noise(21, 3000));
    expected.insert("long/Case.txt".to_owned(), noise(22, 10));
    expected.insert("long/case.txt".to_owned(), noise(23, 10));
    expected.insert("a/b/c/d/e/f/g/deep".to_owned(), noise(24, 10));
    let files = expected
        .iter()
        .map(|(path, bytes)| fixture.file(path, bytes, role(path)))
        .collect();
    let base = Arc::new(Base::build(&real_spec(files), &fixture.blobs).unwrap());
    let mut own_files = real_own();
    // So many that their folders have to move.
    for n in 0..40 {
        own_files.push(own(&format!("boot/grub/own_{n}.cfg"), noise(n, 100), FileRole::Other));
        own_files.push(own(
            &format!("long/{}{n}", "o".repeat(if continued { 200 } else { 100 })),
            noise(n, 100),
            FileRole::Other,
        ));
    }
    for file in &own_files {
        expected.insert(file.path.clone(), file.bytes.to_vec());
    }
    let image = plan(&base, &own_files).unwrap();
    fs::write(fixture.folder.path().join("boot.iso"), fixture.bytes(&image)).unwrap();
    Disc { fixture, expected }
}

impl Disc {
    fn folder(&self) -> &Path {
        self.fixture.folder.path()
    }

    /// Compares a tree that a tool has extracted.
    fn check_tree(&self, root: &Path, tool: &str) {
        for (path, bytes) in &self.expected {
            let mut found = fs::read(root.join(path)).unwrap_or_else(|e| panic!("{tool} did not extract {path}: {e}"));
            if path.ends_with("eltorito.img") {
                // The boot information table is ours.
                assert_eq!(u32::from_le_bytes(found[8..12].try_into().unwrap()), 16);
                found[8..64].copy_from_slice(&bytes[8..64]);
            }
            assert!(found == *bytes, "{tool} extracted other bytes for {path}");
        }
        let mut count = 0;
        let mut folders = vec![root.to_path_buf()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_dir() {
                    folders.push(entry.path());
                } else if !entry.path().components().any(|c| c.as_os_str() == "[BOOT]") {
                    count += 1;
                }
            }
        }
        assert_eq!(count, self.expected.len() + 1, "{tool}: all files and the boot catalog");
    }
}

#[test]
fn xorriso_accepts_and_extracts_it() {
    let disc = disc(true);
    let report = tool(
        "xorriso",
        "xorriso",
        &[
            "-indev",
            "boot.iso",
            "-toc",
            "-report_el_torito",
            "plain",
            "-check_media",
            "--",
        ],
        disc.folder(),
    );
    assert!(report.contains("Volume id    : 'SLEDGEHAMMER'"), "{report}");
    assert!(report.contains("El Torito boot img :   1  BIOS  y   none"), "{report}");
    assert!(report.contains("El Torito boot img :   2  UEFI  y   none"), "{report}");
    assert!(
        report.contains("El Torito img path :   1  /boot/grub/i386-pc/eltorito.img"),
        "{report}"
    );
    assert!(report.contains("El Torito img opts :   1  boot-info-table"), "{report}");
    assert!(
        report.contains("El Torito img path :   2  /boot/grub/efi.img"),
        "{report}"
    );
    assert!(report.contains("El Torito cat path : /boot.catalog"), "{report}");
    assert!(!report.contains("WARNING") && !report.contains("FAILURE"), "{report}");
    tool(
        "xorriso",
        "xorriso",
        &["-osirrox", "on", "-indev", "boot.iso", "-extract", "/", "x"],
        disc.folder(),
    );
    disc.check_tree(&disc.folder().join("x"), "xorriso");
}

#[test]
fn isoinfo_lists_it_with_and_without_rock_ridge() {
    let disc = disc(true);
    let listing = tool("genisoimage", "isoinfo", &["-i", "boot.iso", "-l", "-R"], disc.folder());
    for path in disc.expected.keys() {
        let name = path.rsplit('/').next().unwrap();
        // isoinfo keeps no names longer than its buffer.
        if name.len() < 200 {
            assert!(listing.contains(name), "{name} is missing in\n{listing}");
        }
    }
    assert!(!listing.contains("BAD RRVERSION"), "{listing}");
    let short = tool("genisoimage", "isoinfo", &["-i", "boot.iso", "-f"], disc.folder());
    for path in [
        "/BOOT/GRUB/GRUB.CFG;1",
        "/VMLINUZ0.;1",
        "/EFI/BOOT/BOOTX64.EFI;1",
        "/ISOBAR/OWN.IMG;1",
    ] {
        assert!(short.lines().any(|line| line == path), "{path} is missing in\n{short}");
    }
    assert_eq!(short.lines().filter(|line| line.starts_with("/LONG/CASE")).count(), 2);
}

#[test]
fn sevenzip_lists_and_extracts_it() {
    // 7-Zip does not follow continuation areas and shows the short name there.
    let disc = disc(false);
    let listing = tool("p7zip-full", "7z", &["l", "boot.iso"], disc.folder());
    for path in disc.expected.keys() {
        assert!(listing.contains(path.as_str()), "{path} is missing in\n{listing}");
    }
    tool("p7zip-full", "7z", &["x", "-ox", "boot.iso"], disc.folder());
    disc.check_tree(&disc.folder().join("x"), "7z");
}

#[test]
fn xorriso_and_sevenzip_know_the_length_of_a_file_above_four_gigabytes() {
    let fixture = Fixture::new();
    let len = 9 * (1 << 30) + 12_345;
    let large = BaseFile {
        path: "large.img".to_owned(),
        content: Content::Blob {
            id: BlobId([7; 32]),
            len,
        },
        role: FileRole::Initrd,
    };
    let spec = BaseSpec {
        volume_id: "TEST".to_owned(),
        files: vec![large],
        ..BaseSpec::default()
    };
    let base = Arc::new(Base::build(&spec, &fixture.blobs).unwrap());
    let image = plan(&base, &[own("own", "x", FileRole::Other)]).unwrap();
    // The blob's bytes are a hole.
    let iso = fs::File::create(fixture.folder.path().join("large.iso")).unwrap();
    iso.set_len(image.len()).unwrap();
    for piece in image.iter(0..u64::MAX) {
        if let Segment::Bytes(bytes) = &piece.segment {
            iso.write_all_at(bytes, piece.offset).unwrap();
        }
    }
    let folder = fixture.folder.path();
    let xorriso = tool("xorriso", "xorriso", &["-indev", "large.iso", "-lsl", "/"], folder);
    assert!(xorriso.contains(&len.to_string()), "{xorriso}");
    let sevenzip = tool("p7zip-full", "7z", &["l", "large.iso"], folder);
    assert!(sevenzip.contains(&len.to_string()), "{sevenzip}");
}
