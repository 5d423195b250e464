//! DMTF's protocol validator on our simulated BMC. It comes to its end, and finds no more amiss than is known.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::paper::{PASSWORD, Paper, USER};
use super::{Ground, Verdict, python};

const PASSES_AT_LEAST: u64 = 230;
/// Plain HTTP, one role alone, no `Link` header, unknown `$` queries and versions of OData that are let pass.
const FAILS_AT_MOST: u64 = 20;

pub(super) fn run(ground: &Ground) -> Result<Verdict> {
    let bin = python::JUDGES.bin()?;
    let dir = ground.folder("protocol")?;
    let paper = Paper::up(&ground.isobar, &dir, "127.0.0.1")?;
    let mut command = Command::new(bin.join("rf_protocol_validator"));
    // It takes its login as arguments alone; this one is known to everybody.
    command.args(["--user", USER, "--password", PASSWORD, "--rhost", &paper.url()]);
    command.arg("--report-dir").arg(dir.join("report"));
    let output = command.current_dir(&dir).output().context("rf_protocol_validator")?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    std::fs::write(dir.join("report.txt"), &said)?;
    let [pass, _, fail, _] = summary(&said).with_context(|| format!("it does not complete: {said}"))?;
    ensure!(
        pass >= PASSES_AT_LEAST && fail <= FAILS_AT_MOST,
        "{pass} pass, {fail} fail: see {}",
        dir.join("report").display()
    );
    Ok(Verdict::Held(format!("completes: {pass} pass, {fail} fail")))
}

/// `Summary - PASS: 251, WARN: 0, FAIL: 14, NOT_TESTED: 54`
fn summary(said: &str) -> Option<[u64; 4]> {
    let line = said.lines().find_map(|line| line.strip_prefix("Summary - "))?;
    let numbers = line
        .split(", ")
        .map(|part| part.split_once(": ")?.1.trim().parse().ok());
    numbers.collect::<Option<Vec<u64>>>()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::summary;

    #[test]
    fn the_summary_is_read() {
        let said = "ERROR:root:x\nSummary - PASS: 251, WARN: 0, FAIL: 14, NOT_TESTED: 54\nReport output:\n";
        assert_eq!(summary(said), Some([251, 0, 14, 54]));
        assert_eq!(summary("Traceback"), None);
    }
}
