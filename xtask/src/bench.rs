//! `cargo xtask bench`: builds for use, and runs the measurements of `benches/`.

use anyhow::{Context as _, Result};

use crate::packages::{self, BENCH, DEMO, TEST};
use crate::run::{build_agent, cargo, shown, step, target};

const BENCHES: &str = "isobar-benches";

/// Whether all goals are met, where that was to be checked; the arguments are those of the program.
pub(crate) fn bench(args: &[&str]) -> Result<bool> {
    if args.iter().all(|arg| arg.starts_with('-')) {
        let mut list = cargo(&["run", "--quiet", "--locked", "--package", BENCHES, "--"]);
        return Ok(list.args(args).status()?.success());
    }
    packages::ensure(&[DEMO, TEST, BENCH])?;
    let built = [
        "build",
        "--locked",
        "--release",
        "--package",
        "isobar",
        "--package",
        BENCHES,
    ];
    step(&mut cargo(&built))?;
    let agent = build_agent()?;
    let release = target().join("release");
    let mut command = std::process::Command::new(release.join(BENCHES));
    command.arg("--isobar").arg(release.join("isobar"));
    command.arg("--agent").arg(agent);
    command.arg("--work").arg(target().join("bench"));
    command.arg("--packages").arg(target().join("debian"));
    command.args(args);
    let status = command
        .status()
        .with_context(|| format!("cannot run {}", shown(&command)))?;
    Ok(status.success())
}
