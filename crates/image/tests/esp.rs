//! The EFI image, read by another program.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;

use common::{noise, tool};
use isobar_image::esp::{self, EspError, EspFile};

#[test]
fn sevenzip_extracts_what_went_in() {
    let files = [
        ("EFI/BOOT/BOOTX64.EFI", noise(1, 1_000_000)),
        ("EFI/BOOT/grubx64.efi", noise(2, 4_000_000)),
        ("EFI/BOOT/mmx64.efi", noise(3, 850_000)),
        ("EFI/BOOT/grub.cfg", noise(4, 300)),
        ("EFI/debian/grub.cfg", noise(5, 0)),
        ("boot/grub/a-long-name.configuration", noise(6, 511)),
    ];
    let files: Vec<EspFile<'_>> = files.iter().map(|(path, bytes)| EspFile { path, bytes }).collect();
    let image = esp::build(&files).unwrap();
    assert_eq!(image, esp::build(&files).unwrap());
    let content: usize = files.iter().map(|file| file.bytes.len()).sum();
    assert!(image.len() < content + content / 16 + 200_000, "{} bytes", image.len());
    assert_eq!(image.len() % 2048, 0);

    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("efi.img"), &image).unwrap();
    let listing = tool("p7zip-full", "7z", &["l", "-slt", "efi.img"], folder.path());
    assert!(
        listing.contains("Type = FAT") && listing.contains("1980-01-01 00:00:00"),
        "{listing}"
    );
    tool("p7zip-full", "7z", &["x", "-ox", "efi.img"], folder.path());
    for file in &files {
        let found = fs::read(folder.path().join("x").join(file.path)).unwrap();
        assert!(found == file.bytes, "{}", file.path);
    }
}

#[test]
fn the_serial_number_says_which_files() {
    let serial = |bytes: &[u8]| {
        let image = esp::build(&[EspFile { path: "a", bytes }]).unwrap();
        image[39..43].to_vec()
    };
    assert_eq!(serial(b"one"), serial(b"one"));
    assert_ne!(serial(b"one"), serial(b"two"));
}

#[test]
fn many_small_files_fit() {
    let paths: Vec<String> = (0..300)
        .map(|n| format!("EFI/folder-{}/a long name {n}.cfg", n % 40))
        .collect();
    let files: Vec<EspFile<'_>> = paths
        .iter()
        .map(|path| EspFile {
            path,
            bytes: path.as_bytes(),
        })
        .collect();
    esp::build(&files).unwrap();
}

#[test]
fn what_el_torito_cannot_point_to_is_refused() {
    let bytes = vec![0; 33 * 1024 * 1024];
    let error = esp::build(&[EspFile {
        path: "a",
        bytes: &bytes,
    }])
    .unwrap_err();
    assert!(matches!(error, EspError::TooLarge { len } if len == bytes.len() as u64));
    let error = esp::build(&[EspFile {
        path: "a/b?",
        bytes: b"",
    }])
    .unwrap_err();
    assert!(error.to_string().contains("\"a/b?\""), "{error}");
}
