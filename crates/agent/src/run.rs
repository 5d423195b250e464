//! The agent proper: from the first module to the heartbeat, for as long as the machine runs.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use isobar_client::ClientError;
use isobar_host::{inventory, nic};
use serde_json::json;

use crate::cmdline::Cmdline;
use crate::console::{self, Console};
use crate::modules::{Loader, Tables};
use crate::network::{Config, Network, Places};
use crate::protocol::{BootFile, Server, Verdict, explain, verdict};
use crate::read_text;

/// Where the disc's own file is.
pub const BOOT_FILE: &str = "/etc/isobar/boot.json";
/// Waits between tries: doubling up to the most.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const MOST_WAIT: Duration = Duration::from_secs(30);
/// Wait after the server has said no: it will hardly change its mind.
const REFUSED_WAIT: Duration = Duration::from_secs(60);

/// Runs for ever; returns only when the machine is about to reboot.
pub fn agent() {
    let sys = Path::new("/sys");
    let places = Places {
        sys: sys.to_path_buf(),
        run: PathBuf::from("/run/isobar"),
        resolv_conf: PathBuf::from("/etc/resolv.conf"),
    };
    let cmdline = cmdline();
    let console = Console::open(&console::names(&cmdline, sys), Path::new("/dev"));
    let release = read_text(Path::new("/proc/sys/kernel/osrelease")).unwrap_or_default();
    let image = read_text(Path::new("/etc/isobar/release")).unwrap_or_default();
    console.say(&format!(
        "{} on kernel {release}, image {image}, up {} s",
        env!("CARGO_PKG_VERSION"),
        uptime()
    ));

    load_modules(&console, &release, cmdline.get("provisioner.vlan").is_some());
    let config = match Config::from_cmdline(&cmdline) {
        Ok(config) => config,
        Err(error) => give_up(&console, &error.to_string()),
    };
    let file = match BootFile::read(Path::new(BOOT_FILE)) {
        Ok(file) => file,
        Err(error) => {
            console.say(&error.to_string());
            let _network = connect(&config, &places, &console);
            give_up(&console, "nothing more to do");
        }
    };
    let server = match Server::new(file, &places.run) {
        Ok(server) => server,
        Err(error) => give_up(
            &console,
            &format!("the boot secret is of no use: {error}. Boot the machine again"),
        ),
    };
    let network = connect(&config, &places, &console);
    serve(server, network, &places, &console);
    console.say("rebooting: the server asks for it");
    rustix::fs::sync();
    // Console output still on its way.
    thread::sleep(Duration::from_millis(200));
    if let Err(error) = rustix::system::reboot(rustix::system::RebootCommand::Restart) {
        console.say(&format!("cannot reboot: {error}; reset the machine"));
    }
}

/// Keeps a shell on each console, for ever.
pub fn shells() -> ! {
    for name in console::names(&cmdline(), Path::new("/sys")) {
        console::keep_shell(name);
    }
    loop {
        thread::park();
    }
}

fn cmdline() -> Cmdline {
    Cmdline::parse(&read_text(Path::new("/proc/cmdline")).unwrap_or_default())
}

/// Seconds since the kernel started.
fn uptime() -> u64 {
    let text = read_text(Path::new("/proc/uptime")).unwrap_or_default();
    text.split('.')
        .next()
        .and_then(|seconds| seconds.parse().ok())
        .unwrap_or_default()
}

/// Tells it, and leaves the machine to the shell.
fn give_up(console: &Console, text: &str) -> ! {
    loop {
        console.repeat("given up", text);
        thread::sleep(Duration::from_secs(60));
    }
}

/// Loads what the devices ask for until no new ones appear, then goes on looking in the background: controllers show
/// their disks late.
fn load_modules(console: &Console, release: &str, vlan: bool) {
    let tables = Tables::read(&Path::new("/lib/modules").join(release));
    if tables.is_empty() {
        console.say(&format!(
            "the image has no modules for kernel {release}; going on with what is built in"
        ));
    }
    let loader = Arc::new(Mutex::new(Loader::new(tables)));
    let scan = {
        let (loader, console) = (Arc::clone(&loader), console.clone());
        move || {
            let mut loader = loader.lock().unwrap_or_else(PoisonError::into_inner);
            loader.for_new_devices(Path::new("/sys"), &mut |error| console.say(&error.to_string()))
        }
    };
    let named = |name: &str| {
        let result = loader.lock().unwrap_or_else(PoisonError::into_inner).load(name);
        if let Err(error) = result {
            console.say(&error.to_string());
        }
    };
    let mut loaded = 0;
    loop {
        match scan() {
            0 => break,
            new => loaded += new,
        }
    }
    if vlan {
        named("8021q");
    }
    if Path::new("/sys/firmware/efi").is_dir() {
        named("efivarfs");
        // Only the inventory's Secure Boot state depends on it.
        let _ = rustix::mount::mount(
            "efivarfs",
            "/sys/firmware/efi/efivars",
            "efivarfs",
            rustix::mount::MountFlags::RDONLY,
            None,
        );
    }
    console.say(&format!("{loaded} modules loaded"));
    thread::spawn(move || {
        loop {
            // Devices appear by the kernel's doing; there is nothing to wait on but udev's socket, which
            // misses those from before it was opened.
            thread::sleep(Duration::from_secs(1));
            scan();
        }
    });
}

/// Tries until there is a network.
fn connect(config: &Config, places: &Places, console: &Console) -> Network {
    let mut wait = FIRST_WAIT;
    loop {
        match Network::bring_up(config, places, &|text| console.repeat("network step", text)) {
            Ok(network) => {
                console.settled("network");
                console.say(&format!(
                    "network up: {} on {} ({})",
                    network.address, network.interface, network.nic.mac
                ));
                return network;
            }
            Err(error) => console.repeat("network", &error.to_string()),
        }
        thread::sleep(wait);
        wait = (wait * 2).min(Duration::from_secs(5));
    }
}

/// Calls the server until it answers; says what is wrong, and waits longer from try to try.
fn insist<T>(
    server: &mut Server,
    console: &Console,
    what: &str,
    mut call: impl FnMut(&mut Server) -> Result<T, ClientError>,
) -> T {
    let mut wait = FIRST_WAIT;
    loop {
        let error = match call(server) {
            Ok(value) => {
                console.settled("server");
                return value;
            }
            Err(error) => error,
        };
        match verdict(&error) {
            Verdict::Refused => {
                console.repeat(
                    "server",
                    &format!(
                        "{what}: {}. Boot the machine again for a new disc; trying on, slowly",
                        explain(&error)
                    ),
                );
                thread::sleep(REFUSED_WAIT);
            }
            Verdict::Later => {
                console.repeat("server", &format!("{what}: {}; trying on", explain(&error)));
                server.next_address();
                thread::sleep(wait);
                wait = (wait * 2).min(MOST_WAIT);
            }
        }
    }
}

/// Everything with the server; returns when it asks for a reboot.
fn serve(mut server: Server, mut network: Network, places: &Places, console: &Console) {
    console.say(&format!(
        "reporting to {} as machine {}",
        server.address(),
        server.machine()
    ));
    insist(&mut server, console, "cannot exchange the boot secret", Server::log_in);
    let mut orders = insist(&mut server, console, "cannot check in", |server| {
        server.check_in(uptime())
    });
    console.say("checked in");
    let mut report = Report::Due;
    loop {
        if orders.reboot {
            return;
        }
        let started = Instant::now();
        report = report.go_on(&server, &network, places, console);
        match network.refresh(places) {
            Ok(true) => {
                console.say(&format!("the DHCP server gave another address: {}", network.address));
                report = Report::Due;
            }
            Ok(false) => {}
            Err(error) => console.repeat("network", &error.to_string()),
        }
        thread::sleep(orders.heartbeat.saturating_sub(started.elapsed()));
        orders = insist(&mut server, console, "no heartbeat", |server| {
            server.heartbeat(uptime())
        });
    }
}

/// Where the report of machine and inventory stands. It must not hold up the heartbeat: what fails is tried again
/// after the next one.
enum Report {
    Due,
    Done,
}

impl Report {
    fn go_on(self, server: &Server, network: &Network, places: &Places, console: &Console) -> Self {
        if let Self::Done = self {
            return self;
        }
        match send_report(server, network, places) {
            Ok(summary) => {
                console.settled("report");
                console.say(&summary);
                Self::Done
            }
            Err((what, error)) => {
                console.repeat("report", &format!("cannot report {what}: {}", explain(&error)));
                match verdict(&error) {
                    // It would not be taken the next time either.
                    Verdict::Refused => Self::Done,
                    Verdict::Later => Self::Due,
                }
            }
        }
    }
}

fn send_report(server: &Server, network: &Network, places: &Places) -> Result<String, (&'static str, ClientError)> {
    let macs: Vec<String> = nic::list(&places.sys).into_iter().map(|nic| nic.mac).collect();
    server
        .set_machine(&network.address.address.to_string(), &macs)
        .map_err(|error| ("the machine's address", error))?;
    let inventory = inventory::collect(Path::new("/"));
    for (param, value) in [
        ("gohai-inventory", &inventory),
        ("last-boot-interface", &json!(network.interface)),
        ("last-boot-macaddr", &json!(network.nic.mac)),
    ] {
        server.set_param(param, value).map_err(|error| (param, error))?;
    }
    let count = |name: &str| inventory[name].as_array().map_or(0, Vec::len);
    Ok(format!(
        "inventory sent: {} disks, {} network cards",
        count("Disks"),
        count("Networking")
    ))
}
