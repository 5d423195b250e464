//! `cargo xtask tidy`: what a compiler does not check about the house.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::reasons;
use crate::run::{build_isobar, cargo, root, step};

/// A crate uses only crates of lower layers. Crates of the same rank do not know each other, but for
/// the orders written here as ranks of their own.
const LAYERS: &[(u32, &str, &[&str])] = &[
    (0, "pure", &["isobar-image", "isobar-model"]),
    (1, "pure, over model", &["isobar-template"]),
    (
        2,
        "one neighbour",
        &["isobar-store", "isobar-bmc", "isobar-files", "isobar-client"],
    ),
    (3, "one neighbour, over bmc", &["isobar-ipmi"]),
    (3, "one machine: the one it runs on", &["isobar-host"]),
    (3, "beside: builds the live image", &["isobar-sledgehammer"]),
    (4, "decides: objects", &["isobar-objects"]),
    (5, "decides: boots", &["isobar-boot"]),
    (6, "faces", &["isobar-api", "isobar-cli", "isobar-agent"]),
    (6, "beside: simulators", &["isobar-sim"]),
    (7, "top", &["isobar"]),
    (8, "commands of the house", &["xtask"]),
    (8, "measurements", &["isobar-benches"]),
    (8, "fuzz targets", &["isobar-fuzz"]),
];

/// Who must not be used by production code, and who may all the same.
const SIM: &str = "isobar-sim";
const MAY_USE_SIM: &[&str] = &["isobar", "isobar-benches"];

/// Crates that are not to come in, by any way, and why.
const BANNED: &[(&str, &str)] = &[
    ("aws-lc-sys", "slowest unit of the whole build: use ring"),
    ("aws-lc-rs", "use ring"),
    ("openssl-sys", "rustls is our TLS"),
    ("native-tls", "rustls is our TLS"),
    ("sqlx", "rusqlite is our SQLite; both cannot be in one build"),
    ("rust-ipmi", "GPL-3"),
    ("zerofs_nfsserve", "AGPL"),
    ("gtmpl", "gives up on DRP's method calls: gotmpl does not"),
];

/// Licences that fit Apache-2.0.
const LICENCES: &[&str] = &[
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "MIT",
    "MIT-0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "Unicode-3.0",
    "0BSD",
    "CC0-1.0",
    "Unlicense",
    "BSL-1.0",
    "CDLA-Permissive-2.0",
];

/// A file that is longer wants a reason.
const LONG_FILE: usize = 900;

pub(crate) fn tidy() -> Result<()> {
    step(&mut cargo(&["fmt", "--all", "--check"]))?;
    step(&mut cargo(&[
        "clippy",
        "--locked",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]))?;
    let mut wrong = Vec::new();
    let metadata = metadata()?;
    layers(&metadata, &mut wrong);
    crates(&metadata, &mut wrong);
    sources(&mut wrong)?;
    commands_in_docs(&mut wrong)?;
    reasons::check(&mut wrong)?;
    if wrong.is_empty() {
        println!("tidy");
        return Ok(());
    }
    bail!("not tidy:\n  {}", wrong.join("\n  "))
}

fn metadata() -> Result<Value> {
    let output = cargo(&["metadata", "--format-version", "1", "--locked"])
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    }
    serde_json::from_slice(&output.stdout).context("cargo metadata")
}

fn text<'a>(value: &'a Value, member: &str) -> &'a str {
    value.get(member).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(value: &'a Value, member: &str) -> impl Iterator<Item = &'a Value> {
    value.get(member).and_then(Value::as_array).into_iter().flatten()
}

fn layers(metadata: &Value, wrong: &mut Vec<String>) {
    let rank: BTreeMap<&str, u32> = LAYERS
        .iter()
        .flat_map(|(rank, _, crates)| crates.iter().map(|name| (*name, *rank)))
        .collect();
    let members: BTreeSet<&str> = list(metadata, "workspace_members").filter_map(Value::as_str).collect();
    for package in list(metadata, "packages").filter(|p| members.contains(text(p, "id"))) {
        let name = text(package, "name");
        let Some(own) = rank.get(name) else {
            wrong.push(format!("{name} stands in no layer (xtask/src/tidy.rs)"));
            continue;
        };
        for dependency in list(package, "dependencies").filter(|d| text(d, "kind") != "dev") {
            let used = text(dependency, "name");
            if rank.get(used).is_some_and(|used| used >= own) {
                wrong.push(format!("{name} uses {used}, which is not of a lower layer"));
            }
            if used == SIM && !MAY_USE_SIM.contains(&name) {
                wrong.push(format!("{name} uses {SIM}: simulators stay out of production code"));
            }
        }
    }
}

fn crates(metadata: &Value, wrong: &mut Vec<String>) {
    for package in list(metadata, "packages").filter(|p| p.get("source").is_some_and(Value::is_string)) {
        let (name, licence) = (text(package, "name"), text(package, "license"));
        if let Some((_, why)) = BANNED.iter().find(|(banned, _)| *banned == name) {
            wrong.push(format!("{name} is banned: {why}"));
        }
        if !licence_fits(licence) {
            wrong.push(format!(
                "{name}: licence `{licence}` is not among those that fit (xtask/src/tidy.rs)"
            ));
        }
    }
}

/// SPDX expressions as crates write them: `A OR B`, `A AND B`, `A/B`, with parentheses.
fn licence_fits(expression: &str) -> bool {
    let plain = expression.replace(['(', ')'], " ").replace('/', " OR ");
    let any_of = |part: &str| part.split(" OR ").any(|one| LICENCES.contains(&one.trim()));
    !plain.trim().is_empty() && plain.split(" AND ").all(any_of)
}

fn sources(wrong: &mut Vec<String>) -> Result<()> {
    for path in files(&root(), &["rs", "md", "toml", "yaml", "yml", "sh"])? {
        let Ok(source) = std::fs::read_to_string(&path) else {
            continue;
        };
        let name = path.strip_prefix(root()).unwrap_or(&path).display().to_string();
        if source
            .lines()
            .any(|line| line.ends_with([' ', '\t']) && !name.ends_with(".md"))
        {
            wrong.push(format!("{name}: blanks at the end of a line"));
        }
        if name.ends_with(".rs") {
            if source.lines().count() > LONG_FILE && !source.contains("Long because") {
                wrong.push(format!(
                    "{name}: over {LONG_FILE} lines; split it, or say `Long because …` in its doc"
                ));
            }
            for (n, line) in source.lines().enumerate() {
                if line.trim_start().starts_with("#[ignore") {
                    wrong.push(format!("{name}:{}: a test that is ignored tests nothing", n + 1));
                }
            }
        }
    }
    Ok(())
}

/// Files of these extensions that git would track.
pub(crate) fn files(dir: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" && name != ".git" {
                found.extend(files(&path, extensions)?);
            }
        } else if path
            .extension()
            .is_some_and(|e| extensions.iter().any(|wanted| e == *wanted))
        {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Every command in a code block of the documentation is one that exists.
fn commands_in_docs(wrong: &mut Vec<String>) -> Result<()> {
    let isobar = build_isobar()?;
    let mut seen = BTreeSet::new();
    for path in files(&root(), &["md"])? {
        let source = std::fs::read_to_string(&path)?;
        let name = path.strip_prefix(root()).unwrap_or(&path).display().to_string();
        let mut in_block = false;
        for line in source.lines() {
            if line.trim_start().starts_with("```") {
                in_block = !in_block;
                continue;
            }
            let line = line.trim().trim_start_matches("$ ");
            let assigns = |word: &&str| {
                word.split_once('=')
                    .is_some_and(|(name, _)| name.chars().all(env_letter))
            };
            let words: Vec<&str> = line.split_whitespace().skip_while(assigns).collect();
            match words.as_slice() {
                ["cargo", "xtask", command, ..]
                    if in_block && !["bench", "cases", "demo", "test", "tidy", "dist"].contains(command) =>
                {
                    wrong.push(format!("{name}: `{line}`: no such command"));
                }
                ["isobar" | "drpcli", rest @ ..] if in_block => {
                    let plain = |word: &&&str| word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
                    let verbs: Vec<&str> = rest.iter().take_while(plain).take(2).copied().collect();
                    if !verbs.is_empty() && seen.insert(verbs.join(" ")) && !exists(&isobar, &verbs) {
                        wrong.push(format!("{name}: `{line}`: isobar does not know `{}`", verbs.join(" ")));
                    }
                }
                _ => {}
            }
        }
    }
    Ok(())
}

fn env_letter(c: char) -> bool {
    c.is_ascii_uppercase() || c == '_'
}

fn exists(isobar: &Path, verbs: &[&str]) -> bool {
    std::process::Command::new(isobar)
        .args(verbs)
        .arg("--help")
        .output()
        .is_ok_and(|output| output.status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licences_are_read_as_expressions() {
        assert!(licence_fits("MIT OR Apache-2.0"));
        assert!(licence_fits("MIT/Apache-2.0"));
        assert!(licence_fits("(MIT OR Apache-2.0) AND Unicode-3.0"));
        assert!(licence_fits("GPL-3.0 OR MIT"));
        assert!(!licence_fits("MIT AND GPL-3.0"));
        assert!(!licence_fits(""));
    }
}
