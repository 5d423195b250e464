//! The first sectors of the disc: what a machine finds that sees it as a disk.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::sync::Arc;

use common::{Fixture, noise, own, real_files, real_own, real_spec, role, tool};
use isobar_image::{Base, BaseSpec, FileRole, Image, plan};

const BOOT_CODE: &str = "boot/grub/i386-pc/boot_hybrid.img";
const BIOS_IMAGE: &str = "boot/grub/i386-pc/eltorito.img";
const EFI_IMAGE: &str = "boot/grub/efi.img";

fn boot_code() -> Vec<u8> {
    let mut code = noise(30, 512);
    code[510..].copy_from_slice(&[0x55, 0xAA]);
    code
}

/// The files of a real base, and boot code if there is some.
fn base(fixture: &Fixture, code: Option<&[u8]>, change: impl Fn(&mut BaseSpec)) -> Arc<Base> {
    let mut files = real_files();
    files.extend(code.map(|code| (BOOT_CODE.to_owned(), code.to_vec())));
    let files = files
        .iter()
        .map(|(path, bytes)| fixture.file(path, bytes, role(path)))
        .collect();
    let mut spec = real_spec(files);
    change(&mut spec);
    Arc::new(Base::build(&spec, &fixture.blobs).unwrap())
}

fn le32(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes[..4].try_into().unwrap())
}

fn le64(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[..8].try_into().unwrap())
}

/// In sectors of a hard disk.
fn place(image: &Image, path: &str) -> u64 {
    image.file(path).unwrap().offset / 512
}

/// Status, type, start and length of an entry.
fn entry(disc: &[u8], n: usize) -> (u8, u8, u64, u64) {
    let entry = &disc[446 + 16 * n..][..16];
    (
        entry[0],
        entry[4],
        u64::from(le32(&entry[8..])),
        u64::from(le32(&entry[12..])),
    )
}

#[test]
fn the_table_has_the_disc_and_its_efi_partition() {
    let fixture = Fixture::new();
    let code = boot_code();
    let image = plan(&base(&fixture, Some(&code), |_| {}), &real_own()).unwrap();
    let disc = fixture.bytes(&image);
    assert_eq!(disc[..432], code[..432]);
    assert_eq!(disc[510..512], [0x55, 0xAA]);
    assert!(disc[512..16 * 2048].iter().all(|b| *b == 0));
    assert_eq!(entry(&disc, 0), (0x80, 0, 0, disc.len() as u64 / 512));
    let efi = image.file(EFI_IMAGE).unwrap();
    // Longer than the entry of the boot catalog: else GRUB would take the partition for its root.
    let len = efi.len.div_ceil(2048) * 4 + 4;
    assert_eq!(entry(&disc, 1), (0, 0xEF, efi.offset / 512, len));
    let next = image.files().iter().find(|file| file.offset > efi.offset).unwrap();
    assert!(
        efi.offset + len * 512 <= next.offset,
        "the partition reaches into {}",
        next.path
    );
    assert_eq!(disc[446 + 32..510], [0; 32]);
}

#[test]
fn boot_code_and_bios_image_point_to_what_they_load() {
    let fixture = Fixture::new();
    let image = plan(&base(&fixture, Some(&boot_code()), |_| {}), &real_own()).unwrap();
    let disc = fixture.bytes(&image);
    let bios = image.file(BIOS_IMAGE).unwrap();
    let start = bios.offset as usize;
    assert_eq!(le64(&disc[432..]), place(&image, BIOS_IMAGE) + 4);
    assert_eq!(le64(&disc[start + 2548..]), place(&image, BIOS_IMAGE) + 5);
    // The sum of the boot information table is over what is on the disc.
    let mut padded = disc[start + 64..start + bios.len as usize].to_vec();
    padded.resize(padded.len().next_multiple_of(4), 0);
    let sum = padded.chunks(4).fold(0_u32, |sum, word| sum.wrapping_add(le32(word)));
    assert_eq!(le32(&disc[start + 20..]), sum);
    // And nothing else of it has changed.
    let mut found = disc[start..start + bios.len as usize].to_vec();
    let original = &real_files()[BIOS_IMAGE];
    for range in [8..64, 2548..2556] {
        found[range.clone()].copy_from_slice(&original[range]);
    }
    assert!(found == *original);
}

#[test]
fn without_boot_code_the_bios_image_stays_and_nothing_is_active() {
    let fixture = Fixture::new();
    for code in [None, Some(&[0x55; 512][..]), Some(&boot_code()[..511])] {
        let image = plan(&base(&fixture, code, |_| {}), &real_own()).unwrap();
        let disc = fixture.bytes(&image);
        assert_eq!(disc[..5], [0xCD, 0x18, 0xEB, 0xFE, 0], "INT 18h, then a loop");
        assert!(disc[5..440].iter().all(|b| *b == 0));
        assert_eq!(entry(&disc, 0), (0, 0, 0, disc.len() as u64 / 512));
        assert_eq!(entry(&disc, 1).1, 0xEF);
        let start = image.file(BIOS_IMAGE).unwrap().offset as usize;
        assert_eq!(disc[start + 64..start + 4096], real_files()[BIOS_IMAGE][64..4096]);
    }
}

#[test]
fn what_is_not_booted_from_has_no_table() {
    let fixture = Fixture::new();
    let disc = |change: &dyn Fn(&mut BaseSpec)| {
        let base = base(&fixture, Some(&boot_code()), change);
        fixture.bytes(&plan(&base, &real_own()).unwrap())
    };
    let data = disc(&|spec| {
        spec.bios_image = None;
        spec.efi_image = None;
    });
    assert!(data[..16 * 2048].iter().all(|b| *b == 0));
    let bios = disc(&|spec| spec.efi_image = None);
    assert_eq!((entry(&bios, 0).0, entry(&bios, 1)), (0x80, (0, 0, 0, 0)));
    let efi = disc(&|spec| spec.bios_image = None);
    assert_eq!((entry(&efi, 0).0, entry(&efi, 1).1), (0, 0xEF));
}

#[test]
fn it_follows_the_length_of_the_image_and_nothing_else() {
    let fixture = Fixture::new();
    let base = base(&fixture, Some(&boot_code()), |_| {});
    let longer = {
        let mut own_files = real_own();
        own_files.push(own("more.bin", noise(9, 1 << 20), FileRole::Other));
        own_files
    };
    let first = |own: &[_]| {
        let image = plan(&base, own).unwrap();
        let disc = fixture.bytes(&image);
        assert_eq!(entry(&disc, 0).3, image.len() / 512);
        // Kept with the image: a stored one serves the same bytes.
        let stored = Image::from_delta(Arc::clone(&base), &image.delta()).unwrap();
        assert!(fixture.bytes(&stored) == disc);
        disc[..2048].to_vec()
    };
    let (short, long) = (first(&real_own()), first(&longer));
    assert_eq!(short, first(&real_own()), "the same image twice");
    let differ: Vec<usize> = (0..2048).filter(|n| short[*n] != long[*n]).collect();
    assert!(
        !differ.is_empty() && differ.iter().all(|n| (458..462).contains(n)),
        "{differ:?}"
    );
    assert_eq!(entry(&first(&[]), 0).0, 0x80, "an image without own files");
}

#[test]
fn xorriso_and_sevenzip_see_it() {
    let fixture = Fixture::new();
    let image = plan(&base(&fixture, Some(&boot_code()), |_| {}), &real_own()).unwrap();
    let folder = fixture.folder.path();
    fs::write(folder.join("boot.iso"), fixture.bytes(&image)).unwrap();
    let report = tool(
        "xorriso",
        "xorriso",
        &[
            "-indev",
            "boot.iso",
            "-report_system_area",
            "plain",
            "-report_el_torito",
            "plain",
        ],
        folder,
    );
    let lines: Vec<String> = report
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    let efi = image.file(EFI_IMAGE).unwrap();
    for line in [
        format!("ISO image size/512 : {}", image.len() / 512),
        format!("MBR partition : 1 0x80 0x00 0 {}", image.len() / 512),
        format!(
            "MBR partition : 2 0x00 0xef {} {}",
            efi.offset / 512,
            efi.len.div_ceil(2048) * 4 + 4
        ),
        format!("MBR partition path : 2 /{EFI_IMAGE}"),
        "El Torito img opts : 1 boot-info-table grub2-boot-info".to_owned(),
    ] {
        assert!(lines.contains(&line), "no {line:?} in\n{report}");
    }
    assert!(!report.contains("WARNING") && !report.contains("FAILURE"), "{report}");
    let listing = tool("p7zip-full", "7z", &["l", "boot.iso"], folder);
    assert!(
        listing.contains("Type = Iso") && listing.contains("vmlinuz0"),
        "{listing}"
    );
}
