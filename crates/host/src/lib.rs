//! The machine that a program runs on: what it is made of ([`inventory`], [`nic`]), and the jobs that it has to do
//! ([`jobs`]). The agent in the live image and the command line share it.

pub mod inventory;
pub mod jobs;
pub mod nic;

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// The longest file that is read from the initramfs, `/proc` or `/sys`.
const MAX_FILE: u64 = 4 << 20;

/// Reads a small text file, without the blanks around it. `None` when there is none, when it cannot be read (sysfs
/// answers that way for what a device does not know) or when it is no text.
#[must_use]
pub fn read_text(path: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(MAX_FILE).read_to_string(&mut text).ok()?;
    let trimmed = text.trim();
    Some(trimmed.to_owned())
}

/// What is in a folder, sorted; nothing when there is none.
#[must_use]
pub fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    paths.sort();
    paths
}

/// A sysfs made of files, for tests.
#[cfg(test)]
#[path = "../tests/support/sysfs.rs"]
mod sysfs;
