//! `cargo xtask trees`: resource trees of real BMCs, and our BMC layer against them.
//!
//! Trees and their mock server stay outside the repository.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use crate::packages::{self, TREES};
use crate::run::{cargo, root, step, target};

#[derive(Debug, Default)]
pub(crate) struct Options {
    dir: Option<PathBuf>,
    /// Of the mock server.
    more: Vec<String>,
}

impl Options {
    pub(crate) fn parse(args: &[&str]) -> Result<Self> {
        match args {
            [] => Ok(Self::default()),
            ["--dir"] => Err(anyhow!("--dir wants a value")),
            ["--dir", dir, rest @ ..] => Ok(Self {
                dir: Some(dir.into()),
                ..Self::parse(rest)?
            }),
            ["--", more @ ..] => Ok(Self {
                more: more.iter().map(|word| (*word).to_owned()).collect(),
                ..Self::default()
            }),
            [other, ..] => bail!("cargo xtask trees has no option {other}"),
        }
    }
}

pub(crate) fn trees(options: &Options) -> Result<()> {
    let given = root().join("../shared/bmc-trees");
    let dir = options.dir.clone().unwrap_or_else(|| given.clone());
    if !dir.is_dir() {
        let text = format!("no BMC trees in {}: give --dir", dir.display());
        ensure!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{text}");
        println!("SKIPPED: {text}");
        return Ok(());
    }
    // Other trees may come without a mock server of their own, or be a single one.
    let beside = [Some(dir.as_path()), dir.parent(), Some(given.as_path())];
    let serve = beside
        .into_iter()
        .flatten()
        .map(|folder| folder.join("serve"))
        .find(|path| path.is_file())
        .context("no mock server `serve` beside the trees")?;
    packages::ensure(&[TREES])?;
    step(&mut cargo(&["build", "--locked", "--workspace", "--example", "trees"]))?;
    step(
        Command::new(target().join("debug/examples/trees"))
            .arg(serve)
            .arg(dir)
            .args(&options.more),
    )
}
