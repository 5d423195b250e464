//! What the benches stand on: the programs that were built for them, and the live image.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// Programs and folders.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// The product, built for use.
    pub(crate) isobar: PathBuf,
    /// The static agent.
    pub(crate) agent: PathBuf,
    /// Folder for whatever a bench needs. It may stay between runs.
    pub(crate) work: PathBuf,
    /// Downloaded Debian packages.
    pub(crate) packages: PathBuf,
    /// Firmware of machines: `bios`, `uefi` or `secureboot`.
    pub(crate) firmware: String,
    /// How many runs to take.
    pub(crate) runs: usize,
    /// A tenth of what is asked for, where a bench has such a thing.
    pub(crate) quick: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            isobar: PathBuf::new(),
            agent: PathBuf::new(),
            work: PathBuf::new(),
            packages: PathBuf::new(),
            firmware: "uefi".to_owned(),
            runs: 1,
            quick: false,
        }
    }
}

impl Setup {
    /// A folder of a bench, empty.
    pub(crate) fn fresh(&self, name: &str) -> Result<PathBuf> {
        let folder = self.work.join(name);
        if folder.exists() {
            std::fs::remove_dir_all(&folder).with_context(|| format!("cannot clear {}", folder.display()))?;
        }
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(folder)
    }

    /// The live image's bundle; built when there is none that is younger than the programs.
    pub(crate) fn bundle(&self) -> Result<PathBuf> {
        let folder = self.work.join("bundle");
        let made = |path: &Path| std::fs::metadata(path).and_then(|meta| meta.modified());
        let manifest = made(&folder.join("bundle.json"));
        if let (Ok(bundle), Ok(isobar), Ok(agent)) = (manifest, made(&self.isobar), made(&self.agent))
            && bundle > isobar.max(agent)
        {
            return Ok(folder);
        }
        let mut command = Command::new(&self.isobar);
        command.args(["sledgehammer", "build", "--no-import", "--agent"]);
        command.arg(&self.agent).arg("--out").arg(&folder);
        command.arg("--cache").arg(&self.packages);
        quiet(&mut command)?;
        Ok(folder)
    }
}

/// Runs a command to its end and gives what it printed; what it complains of goes into the error.
pub(crate) fn quiet(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        let complaints = String::from_utf8_lossy(&output.stderr);
        bail!("{program} failed ({}): {}", output.status, complaints.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
