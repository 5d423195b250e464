//! The bundle: a folder with `bundle.json` and `tree/`, which the server takes in as a base.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{Error, hash_file};

/// Name of the manifest.
pub const MANIFEST: &str = "bundle.json";
/// Name of the folder beside it with the disc's files.
pub const TREE: &str = "tree";

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The kernel.
    Kernel,
    /// The initramfs.
    Initrd,
    /// The El Torito image for BIOS.
    BiosImage,
    /// The El Torito image for UEFI.
    EfiImage,
    /// Anything else.
    Other,
}

/// A file of the disc.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Path on the disc, without leading slash.
    pub path: String,
    /// SHA-256 in hexadecimal.
    pub sha256: String,
    /// Length in bytes.
    pub size: u64,
    /// What it is for.
    pub role: Role,
}

/// `bundle.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this format: 1.
    pub format: u32,
    /// Name of the base: `sledgehammer`.
    pub name: String,
    /// Version of Isobar and of the kernel.
    pub version: String,
    /// Debian's name of the architecture.
    pub arch: String,
    /// ISO9660 volume identifier.
    pub volume_id: String,
    /// Path of the El Torito image for BIOS.
    pub bios_image: String,
    /// Path of the El Torito image for UEFI.
    pub efi_image: String,
    /// Path of the boot catalog, which the disc's builder makes.
    pub catalog: String,
    /// Path of the kernel.
    pub kernel: String,
    /// Path of the initramfs.
    pub initrd: String,
    /// Path of the file by which GRUB knows this disc.
    pub marker: String,
    /// All files, ordered by path.
    pub files: Vec<Entry>,
}

/// Reads a bundle's manifest and compares every file with it.
///
/// # Errors
/// A bundle of another format; a file that is missing or differs from what the manifest says.
pub fn check(dir: &Path) -> Result<Manifest, Error> {
    let path = dir.join(MANIFEST);
    let bytes = fs::read(&path).map_err(|source| Error::io("read", &path, source))?;
    let bad = |why: String| Error::BadBundle {
        dir: dir.to_path_buf(),
        why,
    };
    let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|error| bad(format!("{MANIFEST}: {error}")))?;
    if manifest.format != 1 {
        return Err(bad(format!(
            "it is of format {}, this program knows 1",
            manifest.format
        )));
    }
    for file in &manifest.files {
        if file.path.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(bad(format!("{:?} is no path on a disc", file.path)));
        }
        let path = dir.join(TREE).join(&file.path);
        let size = fs::metadata(&path)
            .map_err(|_| bad(format!("{} is missing", file.path)))?
            .len();
        if size != file.size || hash_file(&path)? != file.sha256 {
            return Err(bad(format!("{} is not the file that was built", file.path)));
        }
    }
    for path in [
        &manifest.kernel,
        &manifest.initrd,
        &manifest.bios_image,
        &manifest.efi_image,
        &manifest.marker,
    ] {
        if !manifest.files.iter().any(|file| file.path == *path) {
            return Err(bad(format!("it has no {path}")));
        }
    }
    Ok(manifest)
}

/// Lists the files below `tree`; `role` says what each path is for.
pub(crate) fn entries(tree: &Path, role: &dyn Fn(&str) -> Role) -> Result<Vec<Entry>, Error> {
    let mut out = Vec::new();
    let mut folders = vec![tree.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(|source| Error::io("read", &folder, source))? {
            let path = entry.map_err(|source| Error::io("read", &folder, source))?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let below = path.strip_prefix(tree).unwrap_or(&path).to_string_lossy().into_owned();
            out.push(Entry {
                sha256: hash_file(&path)?,
                size: fs::metadata(&path)
                    .map_err(|source| Error::io("read", &path, source))?
                    .len(),
                role: role(&below),
                path: below,
            });
        }
    }
    out.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn bundle() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join(TREE);
        for path in [
            "vmlinuz0",
            "stage1.img",
            "boot/grub/i386-pc/eltorito.img",
            "boot/grub/efi.img",
            "m/1",
        ] {
            let file = tree.join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, path).unwrap();
        }
        let manifest = Manifest {
            format: 1,
            name: "sledgehammer".to_owned(),
            version: "1".to_owned(),
            arch: "amd64".to_owned(),
            volume_id: "SLEDGEHAMMER".to_owned(),
            bios_image: "boot/grub/i386-pc/eltorito.img".to_owned(),
            efi_image: "boot/grub/efi.img".to_owned(),
            catalog: "boot.catalog".to_owned(),
            kernel: "vmlinuz0".to_owned(),
            initrd: "stage1.img".to_owned(),
            marker: "m/1".to_owned(),
            files: entries(&tree, &|path| {
                if path == "vmlinuz0" { Role::Kernel } else { Role::Other }
            })
            .unwrap(),
        };
        fs::write(dir.path().join(MANIFEST), serde_json::to_vec(&manifest).unwrap()).unwrap();
        dir
    }

    #[test]
    fn a_bundle_is_what_its_manifest_says() {
        let dir = bundle();
        let manifest = check(dir.path()).unwrap();
        let paths: Vec<_> = manifest.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "boot/grub/efi.img",
                "boot/grub/i386-pc/eltorito.img",
                "m/1",
                "stage1.img",
                "vmlinuz0"
            ]
        );
        assert_eq!(serde_json::to_value(Role::BiosImage).unwrap(), "bios-image");
    }

    #[test]
    fn damage_is_found_and_named() {
        let dir = bundle();
        let kernel = dir.path().join(TREE).join("vmlinuz0");
        fs::write(&kernel, "VMLINUZ0").unwrap();
        let error = check(dir.path()).unwrap_err().to_string();
        assert!(error.contains("vmlinuz0"), "{error}");
        fs::remove_file(&kernel).unwrap();
        let error = check(dir.path()).unwrap_err().to_string();
        assert!(error.contains("vmlinuz0 is missing"), "{error}");
    }
}
