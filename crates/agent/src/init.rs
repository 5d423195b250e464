//! PID 1: mounts, starts the agent, reaps, and never ends, for the kernel panics when it does.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::mount::{MountFlags, mount};
use rustix::process::{WaitOptions, getpid, getppid, wait};

/// What PID 1 starts, by the argument that it gives. Shells are a process of their own, so that trouble in the agent
/// does not take the console away.
const CHILDREN: [(&str, Place); 2] = [("agent", Place::Agent), ("shells", Place::Shells)];

/// statfs(2): what the root of an initramfs is.
const MEMORY_ROOTS: &[u64] = &[0x8584_58f6, 0x0102_1994];

/// What this process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// PID 1 of an initramfs.
    Init,
    /// The agent that PID 1 started.
    Agent,
    /// The keeper of the shells that PID 1 started.
    Shells,
    /// A program on a host: nothing may be changed.
    Host,
}

/// Finds out. Whoever started it with which arguments does not matter for being PID 1: the kernel passes on
/// what it does not understand of its command line.
#[must_use]
pub fn place(arguments: &[String]) -> Place {
    let memory =
        rustix::fs::statfs("/").is_ok_and(|stat| MEMORY_ROOTS.contains(&u64::from_ne_bytes(stat.f_type.to_ne_bytes())));
    if !memory {
        // Also PID 1 of a container.
        return Place::Host;
    }
    if getpid().as_raw_nonzero().get() == 1 {
        return Place::Init;
    }
    let under_init = getppid().is_some_and(|parent| parent.as_raw_nonzero().get() == 1)
        && matches!((fs::read_link("/proc/1/exe"), fs::read_link("/proc/self/exe")), (Ok(a), Ok(b)) if a == b);
    let started_as = match arguments {
        [argument] if under_init => CHILDREN.iter().find(|(name, _)| name == argument),
        _ => None,
    };
    started_as.map_or(Place::Host, |(_, place)| *place)
}

/// Does PID 1's work, for ever.
pub fn init() -> ! {
    prepare();
    let mut running: Vec<(u32, &str)> = Vec::new();
    loop {
        for (name, _) in CHILDREN {
            if running.iter().any(|(_, running)| *running == name) {
                continue;
            }
            match Command::new("/proc/self/exe").arg(name).env_clear().spawn() {
                Ok(child) => running.push((child.id(), name)),
                Err(error) => complain(&format!("cannot start {name}: {error}")),
            }
        }
        if running.len() == CHILDREN.len() {
            reap(&mut running);
        }
        // One that ends at once must not keep the processor busy.
        thread::sleep(Duration::from_secs(2));
    }
}

/// Standard error is `/dev/console`.
fn complain(text: &str) {
    eprintln!("isobar: init: {text}");
}

fn prepare() {
    let none = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
    let device = MountFlags::NOSUID | MountFlags::NOEXEC;
    for (what, at, kind, flags, data) in [
        ("proc", "/proc", "proc", none, None),
        ("sysfs", "/sys", "sysfs", none, None),
        ("devtmpfs", "/dev", "devtmpfs", device, Some(c"mode=0755")),
        ("devpts", "/dev/pts", "devpts", device, Some(c"mode=0620,ptmxmode=0666")),
        (
            "tmpfs",
            "/run",
            "tmpfs",
            MountFlags::NOSUID | MountFlags::NODEV,
            Some(c"mode=0755"),
        ),
        (
            "tmpfs",
            "/tmp",
            "tmpfs",
            MountFlags::NOSUID | MountFlags::NODEV,
            Some(c"mode=1777"),
        ),
    ] {
        // It is there already, or the mount says why not.
        let _ = fs::create_dir_all(at);
        if let Err(error) = mount(what, at, kind, flags, data) {
            complain(&format!("cannot mount {at}: {error}"));
        }
    }
    let run = Path::new("/run/isobar");
    let private = fs::create_dir_all(run).and_then(|()| fs::set_permissions(run, fs::Permissions::from_mode(0o700)));
    if let Err(error) = private {
        complain(&format!("cannot make {}: {error}", run.display()));
    }
    // A name for the shell's prompt and for DHCP; any other does as well.
    let _ = rustix::system::sethostname(b"sledgehammer");
}

/// Waits for every process that ends, orphans too, until it is one of ours.
fn reap(running: &mut Vec<(u32, &str)>) {
    loop {
        let (pid, status) = match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) => (u32::try_from(pid.as_raw_nonzero().get()).unwrap_or(0), status),
            Ok(None) | Err(rustix::io::Errno::INTR) => continue,
            // Nobody is left.
            Err(_) => return running.clear(),
        };
        if let Some(at) = running.iter().position(|(running, _)| *running == pid) {
            let (_, name) = running.swap_remove(at);
            let how = match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => format!("with status {code}"),
                (None, Some(signal)) => format!("by signal {signal}"),
                (None, None) => "for no known reason".to_owned(),
            };
            complain(&format!("{name} ended {how}; starting it again"));
            return;
        }
    }
}
