//! Reason codes of boots in the source and in the manual: the same ones.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::run::root;

const MANUAL: &str = "docs/troubleshooting.md";

/// Complains of codes that only one of the two has.
pub(crate) fn check(wrong: &mut Vec<String>) -> Result<()> {
    let source = root().join("crates/boot/src");
    let mut used = BTreeSet::new();
    for file in crate::tidy::files(&source, &["rs"])? {
        used.extend(in_source(&read(&file)?));
    }
    let told = in_manual(&read(&root().join(MANUAL))?);
    for code in used.difference(&told) {
        wrong.push(format!("{MANUAL}: no row for the reason `{code}` of crates/boot"));
    }
    for code in told.difference(&used) {
        wrong.push(format!("{MANUAL}: `{code}` is no reason that crates/boot gives"));
    }
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// What stands as a literal after `Reason::new(` or after an error class of a BMC.
fn in_source(source: &str) -> BTreeSet<String> {
    let after = |mark: &str| -> Vec<String> {
        source
            .split(mark)
            .skip(1)
            .filter_map(|rest| {
                rest.trim_start()
                    .strip_prefix('"')?
                    .split('"')
                    .next()
                    .map(str::to_owned)
            })
            .collect()
    };
    let classes = source.lines().filter_map(|line| {
        let (class, code) = line.trim().split_once(" => \"")?;
        class
            .starts_with("ErrorClass::")
            .then(|| code.split('"').next().unwrap_or_default().to_owned())
    });
    after("Reason::new(").into_iter().chain(classes).collect()
}

/// The codes in the first column of the table.
fn in_manual(manual: &str) -> BTreeSet<String> {
    manual
        .lines()
        .filter(|line| line.starts_with("| `"))
        .filter_map(|row| row.split('|').nth(1))
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn set(codes: &[&str]) -> BTreeSet<String> {
        codes.iter().map(|code| (*code).to_owned()).collect()
    }

    #[test]
    fn finds_codes() {
        let source =
            "Reason::new(\n    \"a-b\",\n x) Reason::new(code, y)\n ErrorClass::Tls => \"c\",\n other => \"d\",";
        assert_eq!(in_source(source), set(&["a-b", "c"]));
        let manual = "| reason | |\n|---|---|\n| `a-b`, `c` | `d` |\n";
        assert_eq!(in_manual(manual), set(&["a-b", "c"]));
    }

    #[test]
    fn the_manual_has_every_reason_and_no_other() {
        let mut wrong = Vec::new();
        check(&mut wrong).unwrap();
        assert_eq!(wrong, Vec::<String>::new());
    }
}
