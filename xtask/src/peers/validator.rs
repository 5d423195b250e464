//! DMTF's service validator on our simulated BMC: what it says has to be Redfish, or our tests prove nothing.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::paper::{PASSWORD, Paper, USER};
use super::{Ground, Verdict, python};
use crate::run::{root, shown};

/// What is looked at: three makers' manners.
const PROFILES: &[&str] = &["hpe-ilo6", "supermicro-x13", "dell-idrac10"];
/// Checks that sushy-emulator passes; fewer would mean that it has not looked at the service.
const PASSES_AT_LEAST: u64 = 556;

/// DMTF's schema files (`csdl/` of its Redfish publications), beside the repository: the judge would load them from
/// the internet.
fn schemas() -> PathBuf {
    match std::env::var_os("ISOBAR_REDFISH_CSDL") {
        Some(dir) => dir.into(),
        None => root().join("../shared/redfish-csdl"),
    }
}

pub(super) fn run(ground: &Ground) -> Result<Verdict> {
    let schemas = schemas();
    if !schemas.is_dir() {
        return Ok(Verdict::Skipped(format!(
            "no schema files in {}: name their folder in ISOBAR_REDFISH_CSDL",
            schemas.display()
        )));
    }
    let bin = python::JUDGES.bin()?;
    let mut figures = Vec::new();
    for profile in PROFILES {
        let dir = ground.folder(&format!("validator/{profile}"))?;
        let paper = Paper::of_profile(&ground.isobar, &dir, profile)?;
        let config = login(&dir, &paper)?;
        let mut command = Command::new(bin.join("rf_service_validator"));
        command.arg("--config").arg(&config);
        command.arg("--logdir").arg(dir.join("report"));
        command.arg("--schema_directory").arg(&schemas);
        println!("$ {}", shown(&command));
        let output = command.current_dir(&dir).output().context("rf_service_validator")?;
        let report = String::from_utf8_lossy(&output.stdout).into_owned();
        std::fs::write(dir.join("report.txt"), &report)?;
        let [pass, warn, fail, not_tested] = totals(&report)
            .with_context(|| format!("it reports no totals: {}", String::from_utf8_lossy(&output.stderr)))?;
        let line = format!("{profile}: {pass} pass, {warn} warn, {fail} fail, {not_tested} not tested");
        println!("{line}");
        ensure!(
            fail == 0 && pass >= PASSES_AT_LEAST,
            "{line}: see {}",
            dir.join("report.txt").display()
        );
        figures.push(format!("{profile} {pass} pass, {fail} fail"));
    }
    Ok(Verdict::Held(figures.join("; ")))
}

/// The login is a file's, not an argument's.
fn login(dir: &Path, paper: &Paper) -> Result<PathBuf> {
    let config = dir.join("validator.ini");
    let url = paper.url();
    std::fs::write(
        &config,
        format!(
            "[Authentication]\nuser = {USER}\npassword = {PASSWORD}\nauthtype = Basic\n\n[Connection]\nrhost = {url}\n"
        ),
    )?;
    Ok(config)
}

/// The row of numbers under `PASS | WARN | FAIL | NOT TESTED`.
fn totals(report: &str) -> Option<[u64; 4]> {
    report.lines().rev().find_map(|line| {
        let cells: Vec<u64> = line
            .trim()
            .trim_matches('|')
            .split('|')
            .map(|cell| cell.trim().parse())
            .collect::<Result<_, _>>()
            .ok()?;
        cells.try_into().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::totals;

    #[test]
    fn totals_are_the_last_row_of_numbers() {
        let report = "| PASS | WARN | FAIL | NOT TESTED |\n+---+\n|     294      |      4       |      0       |     390      |\n+---+\n\nHTML Report: x\n";
        assert_eq!(totals(report), Some([294, 4, 0, 390]));
        assert_eq!(totals("Traceback"), None);
    }
}
