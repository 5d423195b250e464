//! Measurements beside peers: how Isobar does on this machine, against what is asked of it and against what the machine
//! can do at all. `cargo xtask bench` builds and runs this program; `docs/benches.md` tells how to read what it prints.
//!
//! A bench is a row of [`BENCHES`]: its goals, and a function that takes the samples. Runs of ours and of the peer
//! alternate, so that what else the machine does meets both.

mod api;
mod boot;
mod files;
mod fleet;
mod goal;
mod image;
mod render;
mod report;
mod samples;
mod setup;
mod slow_readers;
mod stage;

use std::process::ExitCode;

use anyhow::{Result, anyhow, bail};

use goal::Goal;
use report::{Load, Report};
use samples::Samples;
use setup::Setup;

/// Something that is measured.
struct Bench {
    /// As in `cargo xtask bench NAME`.
    name: &'static str,
    /// What it compares.
    about: &'static str,
    /// How many times, unless `--runs` says otherwise.
    runs: usize,
    goals: &'static [Goal],
    /// Takes `setup.runs` samples of each series that the goals name.
    measure: fn(&Setup, &mut Samples) -> Result<()>,
}

const BENCHES: &[&Bench] = &[
    &api::BENCH,
    &boot::BENCH,
    &files::BENCH,
    &fleet::BENCH,
    &image::BENCH,
    &render::BENCH,
    &slow_readers::BENCH,
];

const HELP: &str =
    "cargo xtask bench [NAME…] [--check] [--runs N] [--quick] [--firmware bios|uefi|secureboot] [--json]";

#[derive(Default)]
struct Options {
    names: Vec<String>,
    check: bool,
    json: bool,
    runs: Option<usize>,
    setup: Setup,
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self::default();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| anyhow!("{arg} wants a value: {HELP}"));
            match arg.as_str() {
                "--check" => options.check = true,
                "--json" => options.json = true,
                "--quick" => options.setup.quick = true,
                "--runs" => {
                    let runs = value()?.parse().ok().filter(|runs| *runs > 0);
                    options.runs = Some(runs.ok_or_else(|| anyhow!("--runs wants a number above 0"))?);
                }
                "--firmware" => options.setup.firmware = value()?,
                "--isobar" => options.setup.isobar = value()?.into(),
                "--agent" => options.setup.agent = value()?.into(),
                "--work" => options.setup.work = value()?.into(),
                "--packages" => options.setup.packages = value()?.into(),
                name if !name.starts_with('-') => options.names.push(name.to_owned()),
                other => bail!("no option {other}: {HELP}"),
            }
        }
        Ok(options)
    }
}

fn main() -> ExitCode {
    match Options::parse(std::env::args().skip(1)).and_then(run) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all that was to be checked is met.
fn run(mut options: Options) -> Result<bool> {
    if options.names.is_empty() {
        println!("{HELP}\n");
        for bench in BENCHES {
            println!("  {:<14} {} ({} runs)", bench.name, bench.about, bench.runs);
        }
        return Ok(true);
    }
    let chosen: Vec<&Bench> = options
        .names
        .iter()
        .map(|name| {
            let known = BENCHES.iter().find(|bench| bench.name == name);
            known
                .copied()
                .ok_or_else(|| anyhow!("no bench {name}: `cargo xtask bench` lists them"))
        })
        .collect::<Result<_>>()?;
    let mut met = true;
    for bench in chosen {
        options.setup.runs = options.runs.unwrap_or(bench.runs);
        let before = Load::now();
        let mut samples = Samples::default();
        (bench.measure)(&options.setup, &mut samples)?;
        let report = Report::new(bench.name, bench.goals, &samples, before)?;
        if options.json {
            println!("{}", report.json());
        } else {
            print!("{}", report.text());
        }
        met &= report.met();
    }
    Ok(met || !options.check)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(words: &[&str]) -> Result<Options> {
        Options::parse(words.iter().map(|word| (*word).to_owned()))
    }

    #[test]
    fn words_without_dashes_are_benches() {
        let options = parse(&["image", "--runs", "3", "--check", "boot"]).unwrap();
        assert_eq!(options.names, ["image", "boot"]);
        assert!(options.check && !options.json);
        assert_eq!(options.runs, Some(3));
        for bad in [&["--runs"][..], &["--runs", "0"], &["--fast"]] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        assert!(run(parse(&["nothing"]).unwrap()).is_err());
    }

    #[test]
    fn every_bench_and_goal_has_a_name_of_its_own() {
        let mut names: Vec<&str> = BENCHES.iter().map(|bench| bench.name).collect();
        names.extend(BENCHES.iter().flat_map(|bench| bench.goals).map(|goal| goal.name));
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
