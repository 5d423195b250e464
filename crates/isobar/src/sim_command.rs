//! `isobar sim`: one simulated BMC with a machine behind it.

use clap::{ArgMatches, Command};
use isobar_sim::{Sim, SimOptions};

use crate::options::Kind::{Number, Switch, Text};
use crate::options::{self, setting};

const TABLE: options::Settings = options::Settings {
    prefix: "ISOBAR_SIM",
    rows: &[
        setting(
            "listen",
            Text,
            "ADDR:PORT",
            "Where the BMC answers [default: 127.0.0.1:8443]",
        ),
        setting(
            "plain-http",
            Switch,
            "true|false",
            "HTTP instead of HTTPS [default: false]",
        ),
        setting(
            "ipmi",
            Text,
            "ADDR:PORT",
            "UDP address of an IPMI face [default: it has none]",
        ),
        setting("user", Text, "NAME", "Login of the BMC [default: admin]"),
        setting(
            "password-file",
            Text,
            "FILE",
            "Its password [default: a random one, in WORK-DIR/password]",
        ),
        setting(
            "machine",
            Text,
            "qemu|paper",
            "A virtual machine, or one that only reads its CD [default: qemu]",
        ),
        setting(
            "firmware",
            Text,
            "bios|uefi|secureboot",
            "Firmware of the machine [default: uefi]",
        ),
        setting("memory", Number, "MIB", "Memory of the machine"),
        setting("mac", Text, "MAC", "Address of its network interface"),
        setting("uuid", Text, "UUID", "Its SMBIOS UUID"),
        setting(
            "net",
            Text,
            "NETWORK",
            "Its network: a CIDR of QEMU's own (the host is the first address), tap:NAME, or unix:PATH",
        ),
        setting(
            "read-manner",
            Text,
            "MANNER",
            "How the BMC reads images: lazy, at-insert, read-ahead, copy-all",
        ),
        setting(
            "profile",
            Text,
            "NAME",
            "A vendor's manners: dell-idrac9, hpe-ilo5, lenovo-xcc … (docs/simulator.md)",
        ),
        setting(
            "replay",
            Text,
            "DIR",
            "Serve the resource tree in this folder, as `isobar bmc record` writes it",
        ),
        setting(
            "count",
            Number,
            "N",
            "So many BMCs with paper machines, on ports that follow each other; DIR/fleet.json lists them",
        ),
        setting(
            "time-scale",
            Number,
            "N",
            "All delays are divided by this: 100 makes a minute of a real BMC 0.6 s [default: 1]",
        ),
        setting(
            "replay-boot",
            Text,
            "FILE",
            "Answer as the BMC of this post-mortem did (`isobar boots post-mortem`), over plain HTTP, with no machine behind it",
        ),
        setting("rate", Number, "BYTES", "Speed limit of these reads, bytes a second"),
        setting("serial", Text, "FILE", "Where the serial console goes"),
        setting(
            "echo-serial",
            Switch,
            "true|false",
            "Copy the serial console to standard output",
        ),
        setting("work-dir", Text, "DIR", "Folder for what the simulator keeps"),
    ],
};

/// The command `sim`.
pub(crate) fn command() -> Command {
    Command::new("sim")
        .about("Run a simulated BMC with a QEMU machine behind it")
        .args(TABLE.args(None))
        .after_help(
            "Examples:\n  \
             isobar sim --work-dir /tmp/bmc1\n  \
             isobar sim --work-dir /tmp/bmc2 --listen 127.0.0.1:8444 --firmware secureboot --echo-serial\n  \
             isobar sim --work-dir /tmp/bmc3 --machine paper --read-manner copy-all --rate 4000000\n  \
             isobar sim --work-dir /tmp/fleet --machine paper --plain-http --listen 127.0.0.1:20000 --count 500 \\\n    \
             --profile dell-idrac9 --time-scale 100\n  \
             isobar sim --replay bmc-tree --machine paper --plain-http --work-dir /tmp/bmc4\n  \
             isobar sim --replay-boot mach-01.json --listen 127.0.0.1:8444",
        )
}

/// Runs it until SIGINT or SIGTERM.
///
/// # Errors
/// Settings that do not fit, a port that is taken, QEMU that does not start.
pub(crate) fn run(matches: &ArgMatches) -> anyhow::Result<()> {
    let options: SimOptions = TABLE.read(matches, None)?;
    if options.replay.is_some() && options.replay_boot.is_some() {
        anyhow::bail!("the simulator: --replay serves a tree, --replay-boot a post-mortem: give one of them");
    }
    if let Some(file) = &options.replay_boot {
        let listen = options.listen.unwrap_or_else(|| ([127, 0, 0, 1], 8443).into());
        let told = |replay: &isobar_sim::Replay| {
            eprintln!("BMC at {}", replay.url());
            eprintln!("that boot ended with {}: {}", replay.reason, replay.message);
            eprintln!("any user and password will do");
        };
        return isobar_sim::replay_boot_blocking(file, listen, told).map_err(failed);
    }
    let folder = options.work_dir.clone();
    isobar_sim::run_blocking(options, |fleet| {
        let [sim, rest @ ..] = fleet else { return };
        eprintln!("BMC at {}", sim.url());
        if let Some(fingerprint) = sim.fingerprint() {
            eprintln!("certificate SHA-256 {fingerprint}");
        }
        if let Some(address) = sim.ipmi() {
            eprintln!("IPMI at {address} (UDP)");
        }
        eprintln!("user {}; the password is in the password file", sim.config().user);
        if rest.is_empty() {
            return;
        }
        if let Some(folder) = folder {
            let path = folder.join("fleet.json");
            match std::fs::write(&path, listed(fleet)) {
                Ok(()) => eprintln!("{} BMCs, listed in {}", fleet.len(), path.display()),
                Err(error) => eprintln!("{} BMCs; cannot write {}: {error}", fleet.len(), path.display()),
            }
        }
    })
    .map_err(failed)
}

/// The error says its cause itself.
fn failed(error: isobar_sim::SimError) -> anyhow::Error {
    anyhow::anyhow!("the simulator: {error}")
}

/// Addresses, UUIDs and MAC addresses, a line each.
fn listed(fleet: &[Sim]) -> String {
    let line = |sim: &Sim| {
        let config = sim.config();
        let machine = serde_json::json!({"bmc": sim.url().as_str(), "uuid": config.uuid, "mac": config.mac});
        machine.to_string()
    };
    let lines: Vec<String> = fleet.iter().map(line).collect();
    format!("[\n{}\n]\n", lines.join(",\n"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_row_is_an_option_of_the_simulator() {
        let args = [
            "sim",
            "--listen=127.0.0.1:0",
            "--ipmi=127.0.0.1:0",
            "--plain-http",
            "--user=root",
            "--password-file=p",
            "--machine=paper",
            "--firmware=bios",
            "--memory=512",
            "--mac=52:54:00:00:00:01",
            "--uuid=1987e6d3-75ef-4a61-bf0d-2fa4b26f8215",
            "--net=10.0.0.0/24",
            "--read-manner=copy-all",
            "--rate=1000",
            "--serial=s",
            "--echo-serial",
            "--work-dir=w",
            "--profile=dell-idrac9",
            "--replay=tree",
            "--count=500",
            "--time-scale=100",
            "--replay-boot=f",
        ];
        assert_eq!(args.len(), TABLE.rows.len() + 1);
        let options: SimOptions = TABLE.read(&command().get_matches_from(args), None).unwrap();
        assert!(options.plain_http && options.echo_serial);
        assert_eq!(options.memory, Some(512));
        assert_eq!(options.user.as_deref(), Some("root"));
        assert_eq!(options.profile.as_deref(), Some("dell-idrac9"));
        assert_eq!((options.count, options.time_scale), (Some(500), Some(100)));
    }
}
