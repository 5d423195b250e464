//! Python environments with pinned packages. There are two, since packages of both have a module of the same name.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::run::{step, target};

/// An environment: its name, the packages, and Debian's modules that it borrows.
pub(crate) struct Environment {
    name: &'static str,
    packages: &'static str,
    borrowed: &'static [&'static str],
}

/// Emulated BMCs and clients. libvirt's bindings have to be of libvirt's own version: Debian's.
pub(crate) const BMC: Environment = Environment {
    name: "bmc",
    packages: include_str!("bmc.txt"),
    borrowed: &["libvirt.py", "libvirtmod.cpython-311-x86_64-linux-gnu.so"],
};

/// DMTF's judges.
pub(crate) const JUDGES: Environment = Environment {
    name: "judges",
    packages: include_str!("judges.txt"),
    borrowed: &[],
};

/// What tries APIs by their description.
pub(crate) const API: Environment = Environment {
    name: "api",
    packages: include_str!("api.txt"),
    borrowed: &[],
};

/// Debian's, since its libvirt module is for this one.
const PYTHON: &str = "/usr/bin/python3";

impl Environment {
    /// Its folder of programs. Made once, and again when the list of packages has changed.
    pub(crate) fn bin(&self) -> Result<PathBuf> {
        let dir = target().join("python").join(self.name);
        let installed = dir.join("installed.txt");
        let bin = dir.join("bin");
        if std::fs::read_to_string(&installed).is_ok_and(|list| list == self.packages) {
            return Ok(bin);
        }
        if dir.exists() {
            std::fs::remove_dir_all(&dir)?;
        }
        step(Command::new(PYTHON).args(["-m", "venv"]).arg(&dir))?;
        let list = dir.join("packages.txt");
        std::fs::write(&list, self.packages)?;
        // The list is complete: what it does not name is not installed.
        let mut pip = Command::new(bin.join("pip"));
        pip.args(["install", "--quiet", "--disable-pip-version-check", "--no-deps", "-r"]);
        step(pip.arg(&list))?;
        for module in self.borrowed {
            let from = Path::new("/usr/lib/python3/dist-packages").join(module);
            let to = dir.join("lib/python3.11/site-packages").join(module);
            std::os::unix::fs::symlink(&from, &to).with_context(|| format!("cannot link {}", to.display()))?;
        }
        std::fs::write(&installed, self.packages)?;
        Ok(bin)
    }
}
