//! Builds "mini Sledgehammer", the live image that machines boot: Debian's signed shim, GRUB and kernel,
//! and an initramfs with our agent, busybox and the modules that servers need.
//!
//! [`build`] downloads Debian's packages, unpacks them beside (nothing is installed, no root is
//! needed) and writes a bundle: `bundle.json` ([`Manifest`]) and `tree/` with the files of the disc. The server makes
//! a base of it; each machine adds its `grub.cfg` and its boot secret.

mod bundle;
mod debian;
mod grub;
mod initramfs;
mod modinfo;
mod modules;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use isobar_image::esp::EspFile;
use sha2::{Digest as _, Sha256};

pub use bundle::{Entry, MANIFEST, Manifest, Role, TREE, check};

use debian::Apt;
use modules::Selection;

const KERNEL: &str = "vmlinuz0";
const INITRD: &str = "stage1.img";
const BIOS_IMAGE: &str = "boot/grub/i386-pc/eltorito.img";
const EFI_IMAGE: &str = "boot/grub/efi.img";

/// What to build.
#[derive(Clone, Debug)]
pub struct BuildOptions {
    /// Folder of the bundle. An older bundle there is replaced, anything else is not.
    pub out: PathBuf,
    /// The static agent: `/init`.
    pub agent: PathBuf,
    /// Where downloaded packages are kept, and what takes long to make of them (90 MB).
    pub cache: PathBuf,
    /// Package of the kernel, `linux-image-6.1.0-56-amd64`; by default the release's current one.
    pub kernel: Option<String>,
}

/// A bundle that was built.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// Its folder.
    pub dir: PathBuf,
    /// Its manifest.
    pub manifest: Manifest,
    /// Modules of our list that this kernel does not have.
    pub absent_modules: Vec<&'static str>,
}

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tool of the host does not start.
    #[error(
        "cannot run {program}: {source}; the image is made from Debian's packages, on Debian 12 with apt, dpkg and grub-common"
    )]
    Tool {
        /// Its name.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// A tool of the host failed.
    #[error("{program} failed ({status}): {says}")]
    Failed {
        /// Its name.
        program: String,
        /// Exit status.
        status: String,
        /// What it said.
        says: String,
    },
    /// apt knows no such package.
    #[error(
        "apt offers no package {package}; the image is made from Debian 12 (bookworm), amd64: check /etc/apt/sources.list*, then run `apt-get update`"
    )]
    NoPackage {
        /// Its name.
        package: String,
    },
    /// A package lacks what the image needs.
    #[error(
        "Debian's package {package} has no {path}; the image cannot boot without it (is the kernel's package of this release and amd64?)"
    )]
    Missing {
        /// The package.
        package: String,
        /// The path in it.
        path: String,
    },
    /// The kernel has not a module that no machine of ours could do without.
    #[error("kernel {release} has no module {name}; name another kernel package")]
    NoModule {
        /// Its name.
        name: String,
        /// The kernel's release.
        release: String,
    },
    /// A file that should be a kernel module is not.
    #[error("{} is no kernel module that this program can read", path.display())]
    BadModule {
        /// The file.
        path: PathBuf,
    },
    /// The agent would not run as /init.
    #[error("{} is no static x86-64 program ({why}); build it with RUSTFLAGS=-Ctarget-feature=+crt-static cargo build -p isobar-agent --profile agent --target x86_64-unknown-linux-gnu", path.display())]
    BadAgent {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
    /// The output folder has something else in it.
    #[error("{} is not empty and holds no bundle; name another folder", dir.display())]
    Occupied {
        /// The folder.
        dir: PathBuf,
    },
    /// A folder is not a bundle, or a damaged one.
    #[error("{} is no good bundle: {why}; build it again", dir.display())]
    BadBundle {
        /// The folder.
        dir: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The initramfs cannot be compressed.
    #[error("cannot compress the initramfs")]
    Compress(#[source] io::Error),
    /// The ESP cannot be made.
    #[error(transparent)]
    Esp(#[from] isobar_image::esp::EspError),
    /// A file or folder.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// A verb.
        what: &'static str,
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn io(what: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            what,
            path: path.to_path_buf(),
            source,
        }
    }
}

/// Builds a bundle; `say` is told each step in a few words. The same packages and agent give the same bytes.
///
/// # Errors
/// Any [`Error`]; an older bundle in [`BuildOptions::out`] is then still there.
pub fn build(options: &BuildOptions, say: &mut dyn FnMut(&str)) -> Result<Bundle, Error> {
    check_agent(&options.agent)?;
    let out = &options.out;
    if out.exists() && !out.join(MANIFEST).is_file() {
        let mut entries = fs::read_dir(out).map_err(|source| Error::io("read", out, source))?;
        if entries.next().is_some() {
            return Err(Error::Occupied { dir: out.clone() });
        }
    }
    let apt = Apt::new(&options.cache, say)?;
    let kernel = match &options.kernel {
        Some(package) => package.clone(),
        None => apt.kernel_package()?,
    };
    let release = kernel.strip_prefix("linux-image-").unwrap_or(&kernel).to_owned();
    let mut packages = debian::PACKAGES.to_vec();
    packages.push(&kernel);
    let files = apt.download(&packages, say)?;

    let parent = match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent).map_err(|source| Error::io("make", parent, source))?;
    // Beside the bundle, so that it can be moved there in one step.
    let work = tempfile::Builder::new()
        .prefix(".sledgehammer-")
        .tempdir_in(parent)
        .map_err(|source| Error::io("make a folder in", parent, source))?;
    let root = work.path().join("root");
    say("unpacking Debian's packages");
    for file in &files {
        debian::unpack(file, &root)?;
    }

    let result = work.path().join("bundle");
    let tree = result.join(TREE);
    let need = |package: &str, path: &str| -> Result<PathBuf, Error> {
        let file = root.join(path);
        if file.is_file() {
            Ok(file)
        } else {
            Err(Error::Missing {
                package: package.to_owned(),
                path: path.to_owned(),
            })
        }
    };
    copy(&need(&kernel, &format!("boot/vmlinuz-{release}"))?, &tree.join(KERNEL))?;
    for shipped in grub::SHIPPED {
        copy(&need(shipped.package, shipped.from)?, &tree.join(shipped.to))?;
    }
    need("grub-pc-bin", "usr/lib/grub/i386-pc/normal.mod")?;
    copy_pc_modules(&root.join(grub::PC_MODULES.0), &tree.join(grub::PC_MODULES.1))?;
    grub::bios_core(&root, work.path(), &tree.join(BIOS_IMAGE))?;

    say("making the initramfs");
    let modules_dir = root.join("lib/modules").join(&release);
    if !modules_dir.join("kernel").is_dir() {
        return Err(Error::Missing {
            package: kernel.clone(),
            path: format!("lib/modules/{release}/kernel"),
        });
    }
    let modules = Selection::from_dir(&modules_dir, &release)?;
    let busybox = need("busybox-static", "bin/busybox")?;
    let version = format!("{}+{release}", env!("CARGO_PKG_VERSION"));
    let parts = initramfs::Parts {
        agent: &options.agent,
        applets: &debian::run(Command::new(&busybox).arg("--list"))?,
        busybox: &busybox,
        release: &release,
        modules: &modules,
        version: &version,
    };
    let initramfs = initramfs::build(&parts, &options.cache)?;
    write(&tree.join(INITRD), &initramfs)?;

    // The marker names what is on the disc so far; the files that follow name the marker.
    let role = |path: &str| match path {
        KERNEL => Role::Kernel,
        INITRD => Role::Initrd,
        BIOS_IMAGE => Role::BiosImage,
        EFI_IMAGE => Role::EfiImage,
        _ => Role::Other,
    };
    let mut hash = Sha256::new();
    for entry in bundle::entries(&tree, &role)? {
        hash.update(format!("{} {}\n", entry.sha256, entry.path));
    }
    let marker = format!(".isobar/{}", &hex::encode(hash.finalize())[..16]);
    write(&tree.join(&marker), format!("{version}\n").as_bytes())?;
    let config = grub::shared_config(&marker);
    write(&tree.join("EFI/debian/grub.cfg"), config.as_bytes())?;
    say("making the EFI system partition");
    let mut loaders: Vec<(&str, Vec<u8>)> = Vec::new();
    for shipped in grub::SHIPPED.iter().filter(|shipped| shipped.esp) {
        let file = tree.join(shipped.to);
        let bytes = fs::read(&file).map_err(|source| Error::io("read", &file, source))?;
        loaders.push((shipped.to, bytes));
    }
    let loaders = loaders.iter().map(|(path, bytes)| EspFile { path, bytes });
    let configs = grub::ESP_CONFIGS.iter().map(|path| EspFile {
        path,
        bytes: config.as_bytes(),
    });
    let esp = isobar_image::esp::build(&loaders.chain(configs).collect::<Vec<_>>())?;
    write(&tree.join(EFI_IMAGE), &esp)?;

    let manifest = Manifest {
        format: 1,
        name: "sledgehammer".to_owned(),
        version,
        arch: "amd64".to_owned(),
        volume_id: "SLEDGEHAMMER".to_owned(),
        bios_image: BIOS_IMAGE.to_owned(),
        efi_image: EFI_IMAGE.to_owned(),
        catalog: "boot.catalog".to_owned(),
        kernel: KERNEL.to_owned(),
        initrd: INITRD.to_owned(),
        marker,
        files: bundle::entries(&tree, &role)?,
    };
    let mut json = serde_json::to_vec_pretty(&manifest).map_err(|error| Error::io("write", &result, error.into()))?;
    json.push(b'\n');
    write(&result.join(MANIFEST), &json)?;
    if out.exists() {
        fs::remove_dir_all(out).map_err(|source| Error::io("remove", out, source))?;
    }
    fs::rename(&result, out).map_err(|source| Error::io("write", out, source))?;
    Ok(Bundle {
        dir: out.clone(),
        manifest,
        absent_modules: modules.absent,
    })
}

/// GRUB's modules and lists, without what only `grub-install` needs.
fn copy_pc_modules(from: &Path, to: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(from).map_err(|source| Error::io("read", from, source))? {
        let path = entry.map_err(|source| Error::io("read", from, source))?.path();
        let wanted = path
            .extension()
            .is_some_and(|extension| extension == "mod" || extension == "lst");
        if let (true, Some(name)) = (wanted, path.file_name()) {
            copy(&path, &to.join(name))?;
        }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    let bytes = fs::read(from).map_err(|source| Error::io("read", from, source))?;
    write(to, &bytes)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|source| Error::io("make", parent, source))?;
    }
    fs::write(path, bytes).map_err(|source| Error::io("write", path, source))
}

/// SHA-256 in hexadecimal.
pub(crate) fn hash_file(path: &Path) -> Result<String, Error> {
    let failed = |source| Error::io("read", path, source);
    let mut hash = Sha256::new();
    io::copy(&mut fs::File::open(path).map_err(failed)?, &mut hash).map_err(failed)?;
    Ok(hex::encode(hash.finalize()))
}

/// A dynamic /init would make the kernel panic with nothing on the console but "error -2".
fn check_agent(path: &Path) -> Result<(), Error> {
    let bytes = fs::read(path).map_err(|source| Error::io("read", path, source))?;
    let bad = |why| {
        Err(Error::BadAgent {
            path: path.to_path_buf(),
            why,
        })
    };
    if bytes.get(..6) != Some(b"\x7fELF\x02\x01") || bytes.get(18..20) != Some(&[62, 0]) {
        return bad("it is no ELF file for x86-64");
    }
    // Program headers, ELF-64 Object File Format; PT_INTERP (3) names the dynamic loader.
    let number = |at: usize, len: usize| {
        let field = bytes.get(at..at + len)?;
        Some(
            field
                .iter()
                .rev()
                .fold(0usize, |value, byte| value << 8 | usize::from(*byte)),
        )
    };
    let (Some(table), Some(size), Some(count)) = (number(0x20, 8), number(0x36, 2), number(0x38, 2)) else {
        return bad("it is cut short");
    };
    let dynamic = (0..count).any(|index| {
        let at = index
            .checked_mul(size)
            .and_then(|at| at.checked_add(table))
            .filter(|at| *at < bytes.len());
        at.and_then(|at| number(at, 4)) == Some(3)
    });
    if dynamic {
        bad("it needs a dynamic loader")
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_dynamic_agent_is_refused_with_the_way_out() {
        let error = check_agent(&std::env::current_exe().unwrap()).unwrap_err().to_string();
        assert!(
            error.contains("dynamic loader") && error.contains("crt-static"),
            "{error}"
        );
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("agent");
        fs::write(&script, "#!/bin/sh\n").unwrap();
        let error = check_agent(&script).unwrap_err().to_string();
        assert!(error.contains("no ELF"), "{error}");
        let error = check_agent(&dir.path().join("none")).unwrap_err().to_string();
        assert!(error.contains("none"), "{error}");
    }
}
