//! The fsyncs of a running program, counted and slowed down from outside: a small library that is preloaded.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::setup::quiet;

/// What the library and we share: how many there were, and how much longer each is to take.
pub(super) struct Fsyncs {
    library: PathBuf,
    path: PathBuf,
    shared: File,
}

impl Fsyncs {
    /// Builds the library in `folder`.
    pub(super) fn new(folder: &Path) -> Result<Self> {
        let (source, library, path) = (folder.join("fsyncs.c"), folder.join("fsyncs.so"), folder.join("fsyncs"));
        fs::write(&source, include_str!("fsyncs.c"))?;
        quiet(
            Command::new("cc")
                .args(["-O2", "-shared", "-fPIC", "-o"])
                .arg(&library)
                .arg(&source)
                .arg("-ldl"),
        )?;
        fs::write(&path, [0; 16])?;
        let shared = OpenOptions::new().read(true).write(true).open(&path)?;
        Ok(Self { library, path, shared })
    }

    /// Has a program counted that is not started yet.
    pub(super) fn watch(&self, command: &mut Command) {
        command
            .env("LD_PRELOAD", &self.library)
            .env("ISOBAR_BENCH_FSYNCS", &self.path);
    }

    pub(super) fn count(&self) -> Result<u64> {
        let mut bytes = [0; 8];
        self.shared.read_exact_at(&mut bytes, 0)?;
        Ok(u64::from_ne_bytes(bytes))
    }

    /// Makes every fsync take this much longer from now on.
    pub(super) fn slow_down(&self, by: Duration) -> Result<()> {
        let us = u64::try_from(by.as_micros())?;
        Ok(self.shared.write_all_at(&us.to_ne_bytes(), 8)?)
    }

    /// # Errors
    /// When nothing was counted: the library is not in the program.
    pub(super) fn ensure_counts(&self) -> Result<()> {
        ensure!(
            self.count()? > 0,
            "the server's fsyncs are not counted: is it linked statically?"
        );
        Ok(())
    }
}
