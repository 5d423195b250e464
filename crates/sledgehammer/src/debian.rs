//! Debian's packages, as files: downloaded and unpacked, never installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{Error, hash_file};

/// The package that depends on the release's current kernel.
pub(crate) const KERNEL: &str = "linux-image-amd64";

/// What else is needed, and for what.
pub(crate) const PACKAGES: &[&str] = &[
    "shim-signed",               // BOOTX64.EFI, signed by Microsoft
    "shim-helpers-amd64-signed", // mmx64.efi, signed by Debian
    "grub-efi-amd64-signed",     // grubx64.efi, signed by Debian
    "grub-pc-bin",               // GRUB for legacy BIOS
    "grub-common",               // grub-mkimage, unicode.pf2
    "busybox-static",            // the shell, and udhcpc
];

/// A package as the archive has it.
#[derive(Debug, PartialEq, Eq)]
struct Offer {
    /// File name that `apt-get download` gives it.
    file: String,
    size: u64,
    sha256: Option<String>,
}

/// The host's apt.
#[derive(Debug)]
pub(crate) struct Apt {
    cache: PathBuf,
    options: Vec<String>,
}

impl Apt {
    /// `cache` is where packages are downloaded to. The host's package lists are used if there are some;
    /// else lists are fetched into the cache. Neither needs root.
    pub(crate) fn new(cache: &Path, say: &mut dyn FnMut(&str)) -> Result<Self, Error> {
        fs::create_dir_all(cache).map_err(|source| Error::io("make", cache, source))?;
        let cache = fs::canonicalize(cache).map_err(|source| Error::io("open", cache, source))?;
        let mut apt = Self {
            // As root, apt would drop to a user of its own, who may not write here.
            options: vec!["-oAPT::Sandbox::User=root".to_owned()],
            cache,
        };
        if apt.kernel_package().is_err() {
            say("fetching Debian's package lists (this system has none)");
            for (option, name) in [("Dir::State::Lists", "lists"), ("Dir::Cache", "apt")] {
                let dir = apt.cache.join(name);
                fs::create_dir_all(dir.join("partial")).map_err(|source| Error::io("make", &dir, source))?;
                apt.options.push(format!("-o{option}={}", dir.display()));
            }
            apt.run("apt-get", &["update", "-qq"])?;
        }
        Ok(apt)
    }

    /// Name of the package with the current kernel: `linux-image-6.1.0-56-amd64`.
    pub(crate) fn kernel_package(&self) -> Result<String, Error> {
        let text = self.run("apt-cache", &["depends", "--important", KERNEL])?;
        dependency(&text).ok_or_else(|| Error::NoPackage {
            package: KERNEL.to_owned(),
        })
    }

    /// Downloads what is not in the cache yet; the answer has a file for each name, in order.
    pub(crate) fn download(&self, packages: &[&str], say: &mut dyn FnMut(&str)) -> Result<Vec<PathBuf>, Error> {
        let mut files = Vec::new();
        for package in packages {
            // It is silent about files that lie in the current folder already.
            let uris = self.run_in(Path::new("/"), "apt-get", &["download", "--print-uris", package])?;
            let offer = offer(&uris).ok_or_else(|| Error::NoPackage {
                package: (*package).to_owned(),
            })?;
            let file = self.cache.join(&offer.file);
            if !cached(&file, &offer)? {
                say(&format!("downloading {package}, {:.1} MB", offer.size as f64 / 1e6));
                // apt checks the signature of the lists, and by them this file.
                self.run("apt-get", &["download", "-qq", package])?;
            }
            if !file.is_file() {
                return Err(Error::NoPackage {
                    package: (*package).to_owned(),
                });
            }
            files.push(file);
        }
        Ok(files)
    }

    fn run(&self, program: &str, args: &[&str]) -> Result<String, Error> {
        self.run_in(&self.cache, program, args)
    }

    fn run_in(&self, dir: &Path, program: &str, args: &[&str]) -> Result<String, Error> {
        run(Command::new(program).args(&self.options).args(args).current_dir(dir))
    }
}

/// Unpacks a package file into `dir`.
pub(crate) fn unpack(deb: &Path, dir: &Path) -> Result<(), Error> {
    run(Command::new("dpkg-deb").arg("-x").arg(deb).arg(dir)).map(drop)
}

/// Runs a tool of the host and returns what it prints.
pub(crate) fn run(command: &mut Command) -> Result<String, Error> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map_err(|source| Error::Tool {
            program: program.clone(),
            source,
        })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let says = String::from_utf8_lossy(&output.stderr);
    Err(Error::Failed {
        program,
        status: output.status.to_string(),
        says: says
            .lines()
            .filter(|line| !line.trim().is_empty())
            .collect::<Vec<_>>()
            .join("; "),
    })
}

/// First `linux-image-…` that `apt-cache depends` names.
fn dependency(text: &str) -> Option<String> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-"))
        .map(str::to_owned)
}

/// Reads `'URI' FILE SIZE SHA256:HEX`.
fn offer(text: &str) -> Option<Offer> {
    let line = text.lines().find(|line| line.starts_with('\''))?;
    let mut words = line.split_whitespace().skip(1);
    let file = words.next()?;
    let size = words.next()?.parse().ok()?;
    let sha256 = words.find_map(|word| word.strip_prefix("SHA256:")).map(str::to_owned);
    // It becomes a path.
    (!file.contains('/')).then(|| Offer {
        file: file.to_owned(),
        size,
        sha256,
    })
}

fn cached(file: &Path, offer: &Offer) -> Result<bool, Error> {
    match fs::metadata(file) {
        Ok(meta) if meta.len() == offer.size => match &offer.sha256 {
            Some(sha256) => Ok(hash_file(file)? == *sha256),
            None => Ok(false),
        },
        _ => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use sha2::{Digest as _, Sha256};

    use super::*;

    #[test]
    fn reads_apts_answers() {
        let text = "linux-image-amd64\n  Depends: linux-image-6.1.0-56-amd64\n";
        assert_eq!(dependency(text).as_deref(), Some("linux-image-6.1.0-56-amd64"));
        assert_eq!(dependency("linux-image-amd64\n"), None);
        let text = "'http://deb.debian.org/a/b_1%3a2.deb' b_1%3a2_amd64.deb 928188 SHA256:00ff\n";
        let expected = Offer {
            file: "b_1%3a2_amd64.deb".to_owned(),
            size: 928_188,
            sha256: Some("00ff".to_owned()),
        };
        assert_eq!(offer(text), Some(expected));
        assert_eq!(offer("'x' ../../etc/passwd 1 SHA256:00"), None);
        assert_eq!(offer(""), None);
    }

    #[test]
    fn a_cached_file_counts_only_if_it_is_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.deb");
        let offer = Offer {
            file: "x.deb".to_owned(),
            size: 3,
            sha256: Some(hex::encode(Sha256::digest(b"abc"))),
        };
        assert!(!cached(&file, &offer).unwrap());
        fs::write(&file, "abd").unwrap();
        assert!(!cached(&file, &offer).unwrap());
        fs::write(&file, "abc").unwrap();
        assert!(cached(&file, &offer).unwrap());
    }

    #[test]
    fn a_missing_tool_is_named() {
        let error = run(&mut Command::new("isobar-no-such-tool")).unwrap_err().to_string();
        assert!(error.contains("isobar-no-such-tool"), "{error}");
        let error = run(Command::new("sh").args(["-c", "echo why >&2; exit 3"]))
            .unwrap_err()
            .to_string();
        assert!(error.contains("why") && error.contains('3'), "{error}");
    }
}
