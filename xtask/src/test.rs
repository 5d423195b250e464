//! `cargo xtask test`.

use anyhow::{Result, bail};

use crate::demo::{self, Firmware};
use crate::packages::{self, DEMO, TEST};
use crate::run::{cargo, step};

/// `kill -9` at random moments; without `--full` the test's own, smaller number.
const RANDOM_KILLS: &str = "200";

pub(crate) fn test(args: &[&str]) -> Result<()> {
    let full = match args {
        [] => false,
        ["--full"] => true,
        other => bail!("cargo xtask test knows --full, not {}", other.join(" ")),
    };
    packages::ensure(&[DEMO, TEST])?;
    let mut tests = cargo(&["test", "--locked", "--workspace", "--no-fail-fast"]);
    if full {
        tests.env("ISOBAR_TEST_KILLS", RANDOM_KILLS);
        // Read by tests whose numbers are too large for every run.
        tests.env("ISOBAR_TEST_FULL", "1");
    }
    step(&mut tests)?;
    if full {
        for firmware in [Firmware::Bios, Firmware::Uefi, Firmware::SecureBoot] {
            demo::demo(&demo::Options {
                firmware,
                ..demo::Options::default()
            })?;
        }
        demo::demo(&demo::Options {
            dhcp: true,
            ..demo::Options::default()
        })?;
    }
    Ok(())
}

/// `cargo xtask faults`: every profile of the simulator × every fault.
pub(crate) fn faults(part: &str) -> Result<()> {
    packages::ensure(&[DEMO, TEST])?;
    let mut tests = cargo(&[
        "test",
        "--locked",
        "--workspace",
        "--test",
        "product",
        "--",
        "--nocapture",
    ]);
    step(tests.env("ISOBAR_PRODUCT", part))
}
