//! Running programs, and where things are.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// The repository.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Where cargo puts what it builds.
pub(crate) fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// A cargo command in the repository.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(root());
    // What cargo tells xtask about xtask. Build scripts (ring's) look at the same names, and would run again, with all
    // that depends on them, after each change between `cargo xtask` and cargo itself.
    let about_us = |name: &str| ["CARGO_MANIFEST_", "CARGO_PKG_"].iter().any(|p| name.starts_with(p));
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(about_us) {
            command.env_remove(name);
        }
    }
    command
}

/// Prints a command, runs it, and fails when it does.
pub(crate) fn step(command: &mut Command) -> Result<()> {
    println!("$ {}", shown(command));
    let status = command
        .status()
        .with_context(|| format!("cannot run {}", shown(command)))?;
    if !status.success() {
        bail!("{} failed ({status})", shown(command));
    }
    Ok(())
}

/// A command as one would type it.
pub(crate) fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let mut words = vec![
        program
            .file_name()
            .unwrap_or(program.as_os_str())
            .to_string_lossy()
            .into_owned(),
    ];
    words.extend(command.get_args().map(|arg| {
        let arg = arg.to_string_lossy();
        let plain = !arg.is_empty()
            && arg
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_=/.:,@+%".contains(c));
        if plain {
            arg.into_owned()
        } else {
            format!("'{}'", arg.replace('\'', r"'\''"))
        }
    }));
    words.join(" ")
}

/// Builds the program; gives its path.
pub(crate) fn build_isobar() -> Result<PathBuf> {
    step(&mut cargo(&["build", "--locked", "--package", "isobar"]))?;
    Ok(target().join("debug/isobar"))
}

/// Builds the static agent; gives its path. `--target` keeps the flags away from build scripts and macros.
pub(crate) fn build_agent() -> Result<PathBuf> {
    const TARGET: &str = "x86_64-unknown-linux-gnu";
    let mut command = cargo(&[
        "build",
        "--locked",
        "--package",
        "isobar-agent",
        "--profile",
        "agent",
        "--target",
        TARGET,
    ]);
    command.env("RUSTFLAGS", "-Ctarget-feature=+crt-static");
    step(&mut command)?;
    Ok(target().join(TARGET).join("agent/isobar-agent"))
}
