//! A libvirt of our own: its configuration, sockets, state and logs lie in a folder that goes away with it.
//!
//! libvirtd runs as a user's own ("session") daemon, so it looks at nothing below `/etc/libvirt` and `/var/lib/libvirt`. Root's
//! would be the system's, so it is put into a user namespace where it is somebody else; and into a PID namespace, whose end is
//! the end of all machines in it.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

use crate::program::Program;
use crate::run::step;

const CONFIGURATION: &str = "\
security_driver = \"none\"
cgroup_controllers = [ ]
namespaces = [ ]
remember_owner = 0
stdio_handler = \"file\"
";

pub(crate) struct Libvirt {
    daemon: Option<Program>,
    dir: PathBuf,
    host: Host,
}

impl Libvirt {
    pub(crate) fn up(log: PathBuf) -> Result<Self> {
        let host = Host::now();
        // Short, for the paths of sockets.
        let dir = std::env::temp_dir().join(format!("isobar-libvirt-{}", std::process::id()));
        for part in ["run", "config/libvirt", "cache", "data", "home", "tmp", "pool"] {
            std::fs::create_dir_all(dir.join(part))?;
        }
        std::fs::write(dir.join("config/libvirt/qemu.conf"), CONFIGURATION)?;
        let mut daemon = Command::new("unshare");
        daemon.args(["--user", "--map-user=1000", "--pid", "--fork", "--mount-proc"]);
        // A shell first: process 1 has to wait for orphans.
        daemon.args(["--kill-child=SIGKILL", "sh", "-c", "/usr/sbin/libvirtd & wait"]);
        environment(&mut daemon, &dir);
        let mut daemon = Program::start(daemon, log)?.killed();
        let socket = dir.join("run/libvirt/libvirt-sock");
        daemon.wait_until("libvirtd", || std::os::unix::net::UnixStream::connect(&socket).is_ok())?;
        let libvirt = Self {
            daemon: Some(daemon),
            dir,
            host,
        };
        let pool = libvirt.dir.join("pool").display().to_string();
        libvirt.virsh(&["pool-define-as", "default", "dir", "--target", &pool])?;
        libvirt.virsh(&["pool-start", "default"])?;
        Ok(libvirt)
    }

    pub(crate) fn uri(&self) -> String {
        let socket = self.dir.join("run/libvirt/libvirt-sock");
        format!("qemu+unix:///session?socket={}", socket.display())
    }

    /// Where temporary files of programs beside it may go.
    pub(crate) fn tmp(&self) -> PathBuf {
        self.dir.join("tmp")
    }

    pub(crate) fn virsh(&self, args: &[&str]) -> Result<()> {
        let mut virsh = Command::new("virsh");
        virsh.args(["--quiet", "--connect", &self.uri()]).args(args);
        environment(&mut virsh, &self.dir);
        step(&mut virsh)
    }

    /// Defines a machine, switched off, without a CD drive.
    pub(crate) fn define(&self, machine: &Domain<'_>) -> Result<()> {
        let Domain {
            name,
            uuid,
            mac,
            uefi,
            serial,
        } = machine;
        let at = |file: String| self.dir.join(file).display().to_string();
        let disk = at(format!("{name}.disk"));
        std::fs::File::create(&disk)?.set_len(64 << 20)?;
        let firmware = if *uefi {
            format!(
                "<loader readonly='yes' type='pflash'>{UEFI}</loader><nvram template='{UEFI_VARIABLES}'>{}</nvram>",
                at(format!("{name}.vars"))
            )
        } else {
            String::new()
        };
        let xml = format!(
            "<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>1024</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type>{firmware}<boot dev='hd'/></os>
<features><acpi/><apic/></features><cpu mode='maximum'/>
<devices>
<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{disk}'/><target dev='vda' bus='virtio'/></disk>
<interface type='user'><mac address='{mac}'/><model type='virtio'/><ip family='ipv4' address='{}' prefix='24'/></interface>
<serial type='file'><source path='{}'/></serial><video><model type='none'/></video>
<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng><memballoon model='none'/>
</devices></domain>",
            super::NETWORK,
            serial.display()
        );
        let file = at(format!("{name}.xml"));
        std::fs::write(&file, xml)?;
        self.virsh(&["define", &file])
    }

    /// Ends it with all its machines; the host has to be as it was.
    pub(crate) fn end(mut self) -> Result<()> {
        self.daemon = None;
        let now = Host::now();
        ensure!(
            now == self.host,
            "libvirt's folders of this host have changed: {}",
            now.differs(&self.host)
        );
        Ok(())
    }
}

impl Drop for Libvirt {
    fn drop(&mut self) {
        self.daemon = None;
        if !crate::program::keeps_all() {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

/// A machine.
pub(crate) struct Domain<'a> {
    pub(crate) name: &'a str,
    pub(crate) uuid: &'a str,
    pub(crate) mac: &'a str,
    pub(crate) uefi: bool,
    /// Where its serial console goes.
    pub(crate) serial: &'a Path,
}

pub(crate) const UEFI: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const UEFI_VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

/// Where everything goes that libvirt would put into somebody's home.
fn environment(command: &mut Command, dir: &Path) {
    for (variable, part) in [
        ("XDG_RUNTIME_DIR", "run"),
        ("XDG_CONFIG_HOME", "config"),
        ("XDG_CACHE_HOME", "cache"),
        ("XDG_DATA_HOME", "data"),
        ("HOME", "home"),
        ("TMPDIR", "tmp"),
    ] {
        command.env(variable, dir.join(part));
    }
}

/// What is in libvirt's folders of this host: sizes and times, by path.
#[derive(PartialEq, Eq)]
struct Host(BTreeMap<PathBuf, (u64, i64, i64)>);

impl Host {
    fn now() -> Self {
        let mut folders: Vec<PathBuf> = [
            "/etc/libvirt",
            "/var/lib/libvirt",
            "/var/log/libvirt",
            "/var/cache/libvirt",
            "/run/libvirt",
        ]
        .iter()
        .map(PathBuf::from)
        .collect();
        if let Some(home) = std::env::var_os("HOME").map(PathBuf::from) {
            folders.extend([".config/libvirt", ".cache/libvirt", ".local/share/libvirt"].map(|f| home.join(f)));
        }
        let mut all = BTreeMap::new();
        while let Some(path) = folders.pop() {
            let Ok(meta) = std::fs::symlink_metadata(&path) else {
                continue;
            };
            if meta.is_dir() {
                folders.extend(
                    std::fs::read_dir(&path)
                        .into_iter()
                        .flatten()
                        .flatten()
                        .map(|e| e.path()),
                );
            }
            all.insert(path, (meta.len(), meta.mtime(), meta.mtime_nsec()));
        }
        Self(all)
    }

    fn differs(&self, other: &Self) -> String {
        let paths = self.0.keys().chain(other.0.keys());
        let changed = paths.filter(|path| self.0.get(*path) != other.0.get(*path));
        let changed: std::collections::BTreeSet<String> = changed.map(|p| p.display().to_string()).collect();
        changed.into_iter().collect::<Vec<_>>().join(", ")
    }
}
