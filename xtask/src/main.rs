//! The commands of the house. The only place for them: README and CI call these and nothing else.

mod bench;
mod cases;
mod demo;
mod packages;
mod peers;
mod program;
mod reasons;
mod run;
mod server;
mod test;
mod tidy;
mod trees;

use std::process::ExitCode;

const HELP: &str = "\
cargo xtask COMMAND

  demo [--firmware bios|uefi|secureboot] [--dhcp] [--keep]
          boots a real virtual machine from its own ISO through a simulated BMC, as an operator would
          --firmware  what the machine has (default uefi)
          --dhcp      the machine asks for its address instead of having a static one
          --keep      leaves everything running at the end, and says where
  peers [schemathesis] [validator] [protocol] [sushy-profiles] [sushy] [qemu-http] [sushy-emulator] [--keep]
          programs that others wrote, against isobar and its simulator (docs/peers.md): all of them, or those named
          --keep      leaves what was started running
  cases [--dir DIR] [--cli PATH] [--tests A,B] [--have incrementer] [--show N] [--at-least PERCENT]
          conformance cases of drpcli, each test function against a fresh server; prints the pass rate of each
          --dir       folder of the cases (default ../shared/drp-cases; not there: skipped, with CI=true a failure)
          --cli       the client (default: ours, called drpcli)
          --have      features of the test bed without which cases are skipped (default incrementer)
          --show      print that many failures in full
          --at-least  fail below this rate
  trees [--dir DIR]
          resource trees of real BMCs, each served by its mock server: finds, inserts, boots once, power, ejects, and
          compares what was sent with the tree's answer sheet; a row each
          --dir       folder of the trees, or one tree (default ../shared/bmc-trees; not there: skipped, with CI=true a failure)
  faults [PART]
          every profile of the simulator × every fault, as a table: how each boot ended. PART of a profile's or fault's name
  test [--full]
          all tests; --full adds the demo with every firmware, 200 random kills, 200 boots and 1,000 machines
  bench [NAME…] [--check] [--runs N] [--firmware F] [--json]
          measures, in builds for use, and compares with goals and peers; without a name lists what there is
          --check     fails when a goal is missed
  dist    builds isobar and the agent for use, into target/dist
  tidy    format, lints, layers, licences, banned crates, commands and reasons in the documentation

All of them name the Debian packages that are missing and install them (as root at once, else after asking).
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args.split_first() {
        Some((&"demo", rest)) => demo::Options::parse(rest).and_then(|options| demo::demo(&options)),
        Some((&"peers", rest)) => peers::Options::parse(rest).and_then(|options| peers::peers(&options)),
        Some((&"cases", rest)) => cases::Options::parse(rest).and_then(|options| cases::cases(&options)),
        Some((&"trees", rest)) => trees::Options::parse(rest).and_then(|options| trees::trees(&options)),
        Some((&"faults", [])) => test::faults("full"),
        Some((&"faults", [part])) => test::faults(part),
        Some((&"test", rest)) => test::test(rest),
        Some((&"bench", rest)) => match bench::bench(rest) {
            // It has said why.
            Ok(false) => return ExitCode::FAILURE,
            other => other.map(drop),
        },
        Some((&"dist", [])) => dist(),
        Some((&"tidy", [])) => tidy::tidy(),
        None | Some((&("help" | "--help" | "-h"), _)) => {
            print!("{HELP}");
            Ok(())
        }
        Some((command, _)) => Err(anyhow::anyhow!(
            "cargo xtask {command}: no such command or option\n\n{HELP}"
        )),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Both programs side by side: `isobar sledgehammer build` looks for the agent beside itself.
fn dist() -> anyhow::Result<()> {
    packages::ensure(&[packages::DEMO])?;
    run::step(&mut run::cargo(&[
        "build",
        "--locked",
        "--release",
        "--package",
        "isobar",
    ]))?;
    let agent = run::build_agent()?;
    let dist = run::target().join("dist");
    std::fs::create_dir_all(&dist)?;
    for (built, name) in [
        (run::target().join("release/isobar"), "isobar"),
        (agent, "isobar-agent"),
    ] {
        std::fs::copy(&built, dist.join(name))?;
    }
    println!(
        "{0}/isobar and {0}/isobar-agent: keep them in one folder",
        dist.display()
    );
    Ok(())
}
