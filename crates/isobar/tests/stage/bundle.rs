//! A live image to plan on, small, with nothing in it that runs.

use std::collections::HashMap;

use isobar_client::ClientError;
use isobar_sledgehammer::{Bundle, MANIFEST, TREE};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::Server;

impl Server {
    /// A live image to plan on: as large as it takes to see progress, and nothing in it that runs.
    pub fn import(&self) {
        self.import_version(1);
    }

    pub fn import_version(&self, version: u8) {
        self.import_sized(version, 1 << 20);
    }

    /// One whose kernel has twice and whose initrd three times `unit` bytes.
    pub fn import_sized(&self, version: u8, unit: usize) {
        let answer = self.try_import(version, unit).unwrap();
        assert_eq!(answer["name"], "sledgehammer");
    }

    pub fn try_import(&self, version: u8, unit: usize) -> Result<Value, ClientError> {
        let noise = |len: usize, seed: u8| -> Vec<u8> {
            let mut state = u64::from(seed) * 256 + u64::from(version);
            (0..len)
                .map(|_| {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    (state >> 56) as u8
                })
                .collect()
        };
        let files: HashMap<&str, (Vec<u8>, &str)> = HashMap::from([
            ("vmlinuz0", (noise(2 * unit, 1), "kernel")),
            ("stage1.img", (noise(3 * unit, 2), "initrd")),
            ("boot/grub/efi.img", (noise(unit, 3), "efi-image")),
            ("boot/grub/i386-pc/eltorito.img", (noise(32 << 10, 4), "bios-image")),
            // Nothing that boots reads it, but for who copies all.
            ("boot/grub/fonts/unicode.pf2", (noise(unit, 5), "other")),
            (".isobar/0123456789abcdef", (b"marker".to_vec(), "other")),
        ]);
        let listed: Vec<Value> = files
            .iter()
            .map(|(path, (bytes, role))| {
                json!({"path": path, "sha256": hex(&Sha256::digest(bytes)), "size": bytes.len(), "role": role})
            })
            .collect();
        let bundle = json!({
            "format": 1, "name": "sledgehammer", "version": version.to_string(), "arch": "amd64",
            "volume_id": "SLEDGEHAMMER", "bios_image": "boot/grub/i386-pc/eltorito.img",
            "efi_image": "boot/grub/efi.img", "catalog": "boot.catalog", "kernel": "vmlinuz0",
            "initrd": "stage1.img", "marker": ".isobar/0123456789abcdef", "files": listed,
        });
        let mut tar = tar::Builder::new(Vec::new());
        let mut add = |path: &str, bytes: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, path, bytes).unwrap();
        };
        add("bundle.json", bundle.to_string().as_bytes());
        for (path, (bytes, _)) in &files {
            add(&format!("tree/{path}"), bytes);
        }
        self.upload(&tar.into_inner().unwrap())
    }

    /// A live image that boots.
    pub fn import_bundle(&self, bundle: &Bundle) {
        let mut tar = tar::Builder::new(Vec::new());
        let tree = bundle.manifest.files.iter().map(|file| format!("{TREE}/{}", file.path));
        for name in std::iter::once(MANIFEST.to_owned()).chain(tree) {
            tar.append_path_with_name(bundle.dir.join(&name), &name).unwrap();
        }
        let answer = self.upload(&tar.into_inner().unwrap()).unwrap();
        assert_eq!(answer["name"], "sledgehammer");
    }

    fn upload(&self, mut tar: &[u8]) -> Result<Value, ClientError> {
        let len = tar.len() as u64;
        self.client().upload(
            "/isobar/v1/bases/sledgehammer",
            "application/x-tar",
            Some(len),
            &mut tar,
        )
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
