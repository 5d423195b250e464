//! schemathesis on the server's own description of its API: no request may end in a server error or in a status that the
//! description does not have.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::{Ground, Verdict, python};
use crate::run::shown;
use crate::server::Server;

/// For all of it, in seconds.
const TIME: &str = "45";
/// Tries of one operation beyond those that follow from its parameters.
const TRIES: &str = "4";
/// Fewer would mean that it has not got at the API.
const REQUESTS_AT_LEAST: u64 = 1000;
/// What must hold.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance";
/// Left out: a websocket and an endless stream, and what takes away the login under which everything else is tried.
const LEFT_OUT: &str = "^/api/v3/ws$|^/isobar/v1/events$|/users|/roles|/prefs|/system/";

pub(super) fn run(ground: &Ground) -> Result<Verdict> {
    let bin = python::API.bin()?;
    let dir = ground.folder("schemathesis")?;
    let server = Server::up(ground.isobar.clone(), dir.clone(), "127.0.0.1")?;
    let token = server
        .command(&["users", "token", "rocketskates", "ttl", "3600"])?
        .output()?;
    let token: serde_json::Value = serde_json::from_slice(&token.stdout).context("users token")?;
    let token = token["Token"].as_str().context("users token gave none")?.to_owned();
    // The login is in a file's words, not in an argument's.
    let config = dir.join("schemathesis.toml");
    std::fs::write(&config, "headers = { Authorization = \"Bearer ${ISOBAR_TOKEN}\" }\n")?;
    let mut command = Command::new(bin.join("schemathesis"));
    command.arg("--config-file").arg(&config).arg("run");
    command.arg(format!("https://127.0.0.1:{}/api/v3/swagger.json", server.api));
    command.args([
        "--tls-verify",
        "false",
        "--checks",
        CHECKS,
        "--exclude-path-regex",
        LEFT_OUT,
    ]);
    command.args([
        "--phases",
        "examples,coverage,fuzzing",
        "--max-examples",
        TRIES,
        "--max-time",
        TIME,
    ]);
    command.args([
        "--workers",
        // One: CPython 3.11's `ast.parse` miscounts recursion when two threads use it, and a run ends by that.
        "1",
        "--seed",
        "1",
        "--no-shrink",
        "--continue-on-failure",
        "--warnings",
        "off",
    ]);
    command.args(["--request-timeout", "20", "--suppress-health-check", "all"]);
    println!("$ {}", shown(&command));
    let output = command
        .env("ISOBAR_TOKEN", token)
        .current_dir(&dir)
        .output()
        .context("schemathesis")?;
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    std::fs::write(dir.join("report.txt"), &report)?;
    let requests =
        cases(&report).with_context(|| format!("it reports no cases: {}", String::from_utf8_lossy(&output.stderr)))?;
    ensure!(
        output.status.success() && requests >= REQUESTS_AT_LEAST,
        "{requests} requests, {}: see {}",
        output.status,
        dir.join("report.txt").display()
    );
    Ok(Verdict::Held(format!("{requests} requests")))
}

/// The number of `1234 generated`.
fn cases(report: &str) -> Option<u64> {
    report.lines().rev().find_map(|line| {
        let (before, _) = line.split_once(" generated")?;
        before.split_whitespace().last()?.replace(',', "").parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::cases;

    #[test]
    fn cases_are_those_that_were_generated() {
        let report = "Test cases:\n  3,121 generated, 3,121 passed, 6 skipped\n\nSeed: 1\n";
        assert_eq!(cases(report), Some(3121));
        assert_eq!(cases("Traceback"), None);
    }
}
