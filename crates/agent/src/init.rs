//! PID 1: mounts, starts the agent, reaps, and never ends, for the kernel panics when it does.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::mount::{MountFlags, mount};
use rustix::process::{WaitOptions, getpid, getppid, wait};

/// Argument with which PID 1 starts the agent proper.
pub const AGENT: &str = "agent";

/// statfs(2): what the root of an initramfs is.
const MEMORY_ROOTS: &[u64] = &[0x8584_58f6, 0x0102_1994];

/// What this process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// PID 1 of an initramfs.
    Init,
    /// The agent that PID 1 started.
    Agent,
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
    match arguments {
        [argument] if argument == AGENT && under_init => Place::Agent,
        _ => Place::Host,
    }
}

/// Does PID 1's work, for ever.
pub fn init() -> ! {
    prepare();
    loop {
        let child = Command::new("/proc/self/exe").arg(AGENT).env_clear().spawn();
        match child {
            Ok(child) => reap_until(child.id()),
            Err(error) => complain(&format!("cannot start the agent: {error}")),
        }
        complain("the agent has ended; starting it again");
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

/// Waits for every process that ends, orphans too, until this one does.
fn reap_until(child: u32) {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if u32::try_from(pid.as_raw_nonzero().get()).is_ok_and(|pid| pid == child) => {
                complain(&format!("the agent ended: {status:?}"));
                return;
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            // Not even the agent is left.
            Err(_) => return,
        }
    }
}
