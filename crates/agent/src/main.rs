//! `isobar-agent`: `/init` of the live image. See the library.

use std::path::Path;
use std::process::ExitCode;

use isobar_agent::cmdline::Cmdline;
use isobar_agent::init::{self, Place};
use isobar_agent::network::Config;
use isobar_agent::run;
use isobar_host::{inventory, read_text};

const HELP: &str = "isobar-agent: /init of Isobar's live image.\n\
    Anywhere else it changes nothing: it prints what it would do on this machine, and the inventory that it \
    would report.\n\n\
    Options: --version, --help\n";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match init::place(&arguments) {
        Place::Init => init::init(),
        Place::Agent => {
            run::agent();
            ExitCode::SUCCESS
        }
        Place::Shells => run::shells(),
        Place::Host => host(&arguments),
    }
}

fn host(arguments: &[String]) -> ExitCode {
    match arguments.first().map(String::as_str) {
        Some("--version" | "-V") => println!("isobar-agent {}", env!("CARGO_PKG_VERSION")),
        Some("--help" | "-h") => print!("{HELP}"),
        Some(other) if other != "--dry-run" => {
            eprintln!("isobar-agent: {other:?} is unknown\n\n{HELP}");
            return ExitCode::from(2);
        }
        _ => {
            println!("isobar-agent is not /init of the live image here: nothing is changed. It would");
            println!("- mount /proc, /sys, /dev, /run; load the modules that the devices ask for");
            let cmdline = Cmdline::parse(&read_text(Path::new("/proc/cmdline")).unwrap_or_default());
            match Config::from_cmdline(&cmdline) {
                Ok(config) => {
                    let interface = config.interface.as_deref().unwrap_or("the first interface with a link");
                    match config.address {
                        Some(address) => println!("- set {address} on {interface}"),
                        None => println!("- ask for an address by DHCP on {interface}"),
                    }
                }
                Err(error) => println!("- stop, for {error}"),
            }
            println!(
                "- exchange the boot secret of {} for a token, check in, and report:",
                run::BOOT_FILE
            );
            println!("{:#}", inventory::collect(Path::new("/")));
        }
    }
    ExitCode::SUCCESS
}
