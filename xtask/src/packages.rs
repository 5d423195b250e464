//! Debian packages that the commands need.

use std::collections::BTreeSet;
use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::run::step;

/// A file that is there when the package is, and what the package is for.
struct Need {
    package: &'static str,
    file: &'static str,
    why: &'static str,
}

const fn need(package: &'static str, file: &'static str, why: &'static str) -> Need {
    Need { package, file, why }
}

/// What the demo needs: a machine, and tools to make its boot image.
pub(crate) const DEMO: &str = "demo";
/// What the peers need on top of the demo: machines, clients and tools of others.
pub(crate) const PEERS: &str = "peers";
/// What the tests need on top: judges of what we make.
pub(crate) const TEST: &str = "test";
/// What the trees need.
pub(crate) const TREES: &str = "trees";
/// What the benches need on top: peers to compare with.
pub(crate) const BENCH: &str = "bench";

const PYTHON: Need = need("python3", "/usr/bin/python3", "serving recorded BMC trees");
const TREES_NEEDS: &[Need] = &[PYTHON];

// `.cargo/cc` has installed the first two where there was nothing to link this program with.
const DEMO_NEEDS: &[Need] = &[
    need("gcc", "/usr/bin/cc", "C parts of crates (SQLite, ring)"),
    need("libc6-dev", "/usr/lib/x86_64-linux-gnu/libc.a", "the static agent"),
    need("qemu-system-x86", "/usr/bin/qemu-system-x86_64", "the machine"),
    need("ovmf", "/usr/share/OVMF/OVMF_CODE_4M.fd", "its UEFI firmware"),
    need("grub-common", "/usr/bin/grub-mkimage", "the boot loader of legacy BIOS"),
    need(
        "dpkg",
        "/usr/bin/dpkg-deb",
        "unpacking Debian's signed kernel and loaders",
    ),
    need("apt", "/usr/bin/apt-get", "downloading them"),
    need(
        "util-linux",
        "/usr/bin/setpriv",
        "a machine that ends with its simulator",
    ),
    need("procps", "/usr/bin/kill", "stopping what the demo starts"),
];

const TEST_NEEDS: &[Need] = &[
    need("xorriso", "/usr/bin/xorriso", "judging images"),
    need("genisoimage", "/usr/bin/isoinfo", "judging images"),
    need("p7zip-full", "/usr/bin/7z", "judging images"),
    need("qemu-utils", "/usr/bin/qemu-io", "reading the simulated CD"),
    need(
        "grub-pc-bin",
        "/usr/lib/grub/i386-pc/cdboot.img",
        "a boot sector for tests",
    ),
    need(
        "libfaketime",
        "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
        "servers whose clock jumps",
    ),
    need("e2fsprogs", "/sbin/mkfs.ext4", "disks that are full"),
    need("mount", "/usr/bin/mount", "disks that are full"),
    need("libnfs-utils", "/usr/bin/nfs-cat", "another NFS client"),
    PYTHON,
    need("iproute2", "/usr/sbin/ip", "networks of their own"),
];

const BENCH_NEEDS: &[Need] = &[need(
    "genisoimage",
    "/usr/bin/genisoimage",
    "the disc writer to compare with",
)];

const PEERS_NEEDS: &[Need] = &[
    need("libvirt-daemon", "/usr/sbin/libvirtd", "machines behind sushy-emulator"),
    need(
        "libvirt-daemon-driver-qemu",
        "/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so",
        "its machines are QEMU's",
    ),
    need("libvirt-clients", "/usr/bin/virsh", "defining them"),
    need(
        "python3-libvirt",
        "/usr/lib/python3/dist-packages/libvirt.py",
        "sushy-emulator's way to libvirt",
    ),
    need(
        "python3-venv",
        "/usr/lib/python3.11/ensurepip/__init__.py",
        "Python environments of their own",
    ),
    need(
        "qemu-block-extra",
        "/usr/lib/x86_64-linux-gnu/qemu/block-curl.so",
        "QEMU's HTTP client",
    ),
    need("qemu-utils", "/usr/bin/qemu-img", "copying by it"),
    need("diffutils", "/usr/bin/cmp", "comparing the copy"),
    need("ipmitool", "/usr/bin/ipmitool", "an IPMI client"),
    need("openipmi", "/usr/bin/ipmi_sim", "an IPMI BMC"),
    need("bsdutils", "/usr/bin/script", "a terminal for a client's console"),
];

/// Names what is missing for these purposes, and installs it.
pub(crate) fn ensure(purposes: &[&str]) -> Result<()> {
    let needs = |purpose: &&str| match *purpose {
        DEMO => DEMO_NEEDS,
        BENCH => BENCH_NEEDS,
        PEERS => PEERS_NEEDS,
        TREES => TREES_NEEDS,
        _ => TEST_NEEDS,
    };
    let missing: Vec<&Need> = purposes
        .iter()
        .flat_map(needs)
        .filter(|need| !Path::new(need.file).exists())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("missing packages:");
    for need in &missing {
        println!("  {:<18} {} ({})", need.package, need.why, need.file);
    }
    if !is_debian() {
        bail!("this is no Debian 12: install what provides these files, then run the command again");
    }
    let packages: BTreeSet<&str> = missing.iter().map(|need| need.package).collect();
    if !ask(&packages)? {
        bail!(
            "nothing installed: sudo apt-get install {}",
            packages.into_iter().collect::<Vec<_>>().join(" ")
        );
    }
    step(&mut apt(&["update", "-qq"]))?;
    let mut install = apt(&["install", "-y", "-qq", "--no-install-recommends"]);
    install.args(&packages).env("DEBIAN_FRONTEND", "noninteractive");
    step(&mut install)?;
    for need in missing {
        if !Path::new(need.file).exists() {
            bail!(
                "{} is installed, but {} is not there: is this Debian 12?",
                need.package,
                need.file
            );
        }
    }
    Ok(())
}

/// Names of packages are Debian's; elsewhere the same name may be something else.
fn is_debian() -> bool {
    std::fs::read_to_string("/etc/os-release").is_ok_and(|text| text.lines().any(|line| line == "ID=debian"))
}

fn is_root() -> bool {
    // The owner of our own process: no unsafe call is needed to ask.
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

fn apt(args: &[&str]) -> Command {
    let mut command = if is_root() {
        Command::new("apt-get")
    } else {
        Command::new("sudo")
    };
    if !is_root() {
        command.arg("apt-get");
    }
    // A machine that has just started updates itself, and holds the lock meanwhile.
    command.arg("-oDPkg::Lock::Timeout=300").args(args);
    command
}

/// Root needs no question; nobody is asked where nobody can answer.
fn ask(packages: &BTreeSet<&str>) -> Result<bool> {
    if is_root() {
        return Ok(true);
    }
    if !std::io::stdin().is_terminal() {
        return Ok(false);
    }
    print!(
        "install {} with sudo apt-get? [Y/n] ",
        packages.iter().copied().collect::<Vec<_>>().join(" ")
    );
    std::io::stdout().flush().context("cannot ask")?;
    let mut answer = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut answer)
        .context("cannot read the answer")?;
    Ok(matches!(answer.trim(), "" | "y" | "Y" | "yes"))
}
