//! `cargo xtask test`.

use anyhow::{Result, bail};

use crate::demo::{self, Firmware};
use crate::packages::{self, DEMO, TEST};
use crate::run::{cargo, step};

pub(crate) fn test(args: &[&str]) -> Result<()> {
    let full = match args {
        [] => false,
        ["--full"] => true,
        other => bail!("cargo xtask test knows --full, not {}", other.join(" ")),
    };
    packages::ensure(&[DEMO, TEST])?;
    step(&mut cargo(&["test", "--locked", "--workspace", "--no-fail-fast"]))?;
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
