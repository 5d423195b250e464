//! What the tests of this crate share.

#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

pub mod volume;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use isobar_image::{Base, BaseFile, BaseSpec, BlobDir, Content, FileRole, Image, OwnFile};

/// A blob folder that goes away with the test.
pub struct Fixture {
    pub folder: tempfile::TempDir,
    pub blobs: Arc<BlobDir>,
}

impl Fixture {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Arc::new(BlobDir::open(&folder.path().join("blobs")).unwrap());
        Self { folder, blobs }
    }

    pub fn blob(&self, bytes: &[u8]) -> Content {
        let (id, len) = self.blobs.import(&mut &bytes[..]).unwrap();
        Content::Blob { id, len }
    }

    pub fn file(&self, path: &str, bytes: &[u8], role: FileRole) -> BaseFile {
        BaseFile {
            path: path.to_owned(),
            content: Content::take_in(&mut &bytes[..], &self.blobs).unwrap(),
            role,
        }
    }

    /// The files of [`real_files`] as a base.
    pub fn real_base(&self) -> Arc<Base> {
        let files = real_files()
            .iter()
            .map(|(path, bytes)| self.file(path, bytes, role(path)))
            .collect();
        Arc::new(Base::build(&real_spec(files), &self.blobs).unwrap())
    }

    pub fn bytes(&self, image: &Image) -> Vec<u8> {
        let mut out = Vec::new();
        image.export(&self.blobs, &mut out).unwrap();
        out
    }
}

/// Bytes that differ from seed to seed and have no period that a sector could hide.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        })
        .collect()
}

/// The shape of a real boot image: 300 files, most of them GRUB's modules.
pub fn real_files() -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for n in 0..285 {
        files.insert(
            format!("boot/grub/i386-pc/module_{n:03}.mod"),
            noise(n, 500 + 13 * n as usize),
        );
    }
    for (n, (path, len)) in [
        ("boot/grub/i386-pc/eltorito.img", 40_001),
        ("boot/grub/efi.img", 300_000),
        ("boot/grub/fonts/unicode.pf2", 24_000),
        ("boot/grub/grub.cfg", 10),
        ("EFI/BOOT/BOOTX64.EFI", 90_000),
        ("EFI/BOOT/grubx64.efi", 90_000),
        ("EFI/BOOT/mmx64.efi", 80_000),
        ("EFI/debian/grub.cfg", 99),
        ("vmlinuz0", 1_500_001),
        ("stage1.img", 2_000_003),
        (".isobar/0123456789abcdef", 0),
    ]
    .into_iter()
    .enumerate()
    {
        files.insert(path.to_owned(), noise(1000 + n as u64, len));
    }
    files
}

pub fn real_spec(files: Vec<BaseFile>) -> BaseSpec {
    BaseSpec {
        volume_id: "SLEDGEHAMMER".to_owned(),
        files,
        bios_image: Some("boot/grub/i386-pc/eltorito.img".to_owned()),
        efi_image: Some("boot/grub/efi.img".to_owned()),
        catalog: "boot.catalog".to_owned(),
        compact: false,
    }
}

pub fn role(path: &str) -> FileRole {
    match path {
        "vmlinuz0" => FileRole::Kernel,
        "stage1.img" => FileRole::Initrd,
        "boot/grub/grub.cfg" => FileRole::GrubConfig,
        _ => FileRole::Other,
    }
}

pub fn own(path: &str, bytes: impl Into<Bytes>, role: FileRole) -> OwnFile {
    OwnFile {
        path: path.to_owned(),
        bytes: bytes.into(),
        role,
    }
}

/// What the planner of a boot adds for a machine.
pub fn real_own() -> Vec<OwnFile> {
    let cfg = noise(7, 1_300);
    vec![
        own("boot/grub/grub.cfg", cfg.clone(), FileRole::GrubConfig),
        own("EFI/BOOT/grub.cfg", cfg.clone(), FileRole::GrubConfig),
        own("EFI/BOOT/BOOT.conf", cfg, FileRole::Other),
        own("isobar/own.img", noise(8, 1_024), FileRole::OwnInitrd),
        own(".disk/info", "Isobar sledgehammer", FileRole::Other),
    ]
}

/// Runs a Debian tool and returns what it wrote to stdout.
pub fn tool(package: &str, program: &str, args: &[&str], folder: &Path) -> String {
    let output = Command::new(program)
        .args(args)
        .current_dir(folder)
        .output()
        .unwrap_or_else(|e| panic!("cannot run {program}: {e}: install the Debian package {package}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program} {args:?}: {}\n{text}\n{errors}",
        output.status
    );
    text + &errors
}
