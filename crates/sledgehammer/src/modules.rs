//! Which kernel modules go into the initramfs, and the tables by which they are found again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::modinfo::{self, ModInfo, normal};

/// Modules of one purpose.
struct Group {
    /// A build fails when the kernel has one of these not; others are left out with a remark.
    required: bool,
    names: &'static [&'static str],
}

/// What servers have. Modules that these depend on join by themselves. Firmware files are not
/// shipped: drivers that do nothing without one (`bnx2`, `bnx2x`, `qed`, `cxgb4`) are left out.
const GROUPS: &[Group] = &[
    // Virtual machines, and with them the demo and the tests.
    Group {
        required: true,
        names: &[
            "virtio_pci",
            "virtio_net",
            "virtio_blk",
            "virtio_scsi",
            "e1000",
            "e1000e",
        ],
    },
    // VLAN and bonding; the UEFI variables that tell whether Secure Boot is on.
    Group {
        required: true,
        names: &["8021q", "bonding", "efivarfs"],
    },
    // Network cards of servers.
    Group {
        required: false,
        names: &[
            "igb",
            "igbvf",
            "igc",
            "ixgbe",
            "ixgbevf",
            "i40e",
            "iavf",
            "ice",
            "tg3",
            "bnxt_en",
            "mlx4_en",
            "mlx5_core",
            "be2net",
            "enic",
            "sfc",
            "amd-xgbe",
            "atlantic",
            "r8169",
            "vmxnet3",
            "hv_netvsc",
            "ena",
        ],
    },
    // Storage, so that the inventory has the disks.
    Group {
        required: false,
        names: &[
            "ahci",
            "ata_piix",
            "ata_generic",
            "nvme",
            "sd_mod",
            "megaraid_sas",
            "mpt3sas",
            "mpi3mr",
            "smartpqi",
            "hpsa",
            "aacraid",
            "vmw_pvscsi",
            "hv_storvsc",
        ],
    },
    // A keyboard for the shell on the console: BMCs show a USB one.
    Group {
        required: false,
        names: &["xhci-pci", "ehci-pci", "uhci-hcd", "ohci-pci", "usbhid", "hid-generic"],
    },
    // libcrc32c asks for it by its algorithm's name.
    Group {
        required: false,
        names: &["crc32c_generic", "crc32c-intel"],
    },
];

/// A chosen module.
#[derive(Debug)]
pub(crate) struct Module {
    /// Name as the kernel knows it.
    pub(crate) name: String,
    /// Path below `/lib/modules/RELEASE/`: `kernel/drivers/net/virtio_net.ko`.
    pub(crate) path: String,
    /// Where its bytes are now.
    pub(crate) file: PathBuf,
    info: ModInfo,
    /// All that has to be loaded before it: nearest last.
    before: Vec<String>,
}

/// The chosen modules, ordered by path, and their tables.
#[derive(Debug)]
pub(crate) struct Selection {
    /// The modules.
    pub(crate) modules: Vec<Module>,
    /// Of the table above, what this kernel does not have.
    pub(crate) absent: Vec<&'static str>,
}

impl Selection {
    /// Chooses from `dir`, an unpacked `/lib/modules/RELEASE`.
    pub(crate) fn from_dir(dir: &Path, release: &str) -> Result<Self, Error> {
        Self::choose(dir, release, GROUPS)
    }

    fn choose(dir: &Path, release: &str, groups: &[Group]) -> Result<Self, Error> {
        let mut files = BTreeMap::new();
        collect(dir, &dir.join("kernel"), &mut files)?;
        let mut infos: BTreeMap<String, ModInfo> = BTreeMap::new();
        let mut absent = Vec::new();
        let mut wanted = Vec::new();
        for group in groups {
            for name in group.names {
                if files.contains_key(&normal(name)) {
                    wanted.push(normal(name));
                } else if group.required {
                    return Err(Error::NoModule {
                        name: (*name).to_owned(),
                        release: release.to_owned(),
                    });
                } else {
                    absent.push(*name);
                }
            }
        }
        while let Some(name) = wanted.pop() {
            // A soft dependency may name an algorithm (`crc32c`) instead of a module: those are in the table.
            let Some((_, file)) = files.get(&name) else { continue };
            if infos.contains_key(&name) {
                continue;
            }
            let bytes = fs::read(file).map_err(|source| Error::io("read", file, source))?;
            let info = modinfo::parse(&bytes).ok_or_else(|| Error::BadModule { path: file.clone() })?;
            wanted.extend(info.depends.iter().chain(&info.soft).cloned());
            infos.insert(name, info);
        }
        let mut modules = Vec::new();
        for (name, info) in &infos {
            let mut before = Vec::new();
            order(name, &infos, &mut BTreeSet::new(), &mut before);
            // `order` ends with the module itself.
            before.pop();
            let (path, file) = files[name].clone();
            modules.push(Module {
                name: name.clone(),
                path,
                file,
                info: info.clone(),
                before,
            });
        }
        modules.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Self { modules, absent })
    }

    /// `modules.dep`: `PATH: PATH…`, a module's dependencies in the order in which to load them from
    /// the last to the first, as depmod writes it. Soft dependencies are among them: whoever loads by this
    /// table needs no other.
    pub(crate) fn dep(&self) -> String {
        let paths: BTreeMap<&str, &str> = self
            .modules
            .iter()
            .map(|m| (m.name.as_str(), m.path.as_str()))
            .collect();
        let mut out = String::new();
        for module in &self.modules {
            out.push_str(&module.path);
            out.push(':');
            for name in module.before.iter().rev() {
                out.push(' ');
                out.push_str(paths[name.as_str()]);
            }
            out.push('\n');
        }
        out
    }

    /// `modules.alias`: `alias GLOB NAME`.
    pub(crate) fn alias(&self) -> String {
        let mut out = String::new();
        for module in &self.modules {
            for alias in &module.info.aliases {
                out.push_str(&format!("alias {alias} {}\n", module.name));
            }
        }
        out
    }
}

/// Depth first: what `name` needs, then `name`. A circle ends where it closes.
fn order(name: &str, infos: &BTreeMap<String, ModInfo>, seen: &mut BTreeSet<String>, out: &mut Vec<String>) {
    let Some(info) = infos.get(name) else { return };
    if !seen.insert(name.to_owned()) {
        return;
    }
    for before in info.soft.iter().chain(&info.depends) {
        order(before, infos, seen, out);
    }
    out.push(name.to_owned());
}

/// All `*.ko` below `at`: name to path below `root`, and file.
fn collect(root: &Path, at: &Path, files: &mut BTreeMap<String, (String, PathBuf)>) -> Result<(), Error> {
    let entries = fs::read_dir(at).map_err(|source| Error::io("read", at, source))?;
    for entry in entries {
        let entry = entry.map_err(|source| Error::io("read", at, source))?;
        let path = entry.path();
        let kind = entry.file_type().map_err(|source| Error::io("read", &path, source))?;
        if kind.is_dir() {
            collect(root, &path, files)?;
        } else if let Some(name) = entry.file_name().to_str().and_then(|name| name.strip_suffix(".ko")) {
            let below = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            files.insert(normal(name), (below, path));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn tree(modules: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, modinfo) in modules {
            let file = dir.path().join("kernel").join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, modinfo::fake(modinfo.replace(' ', "\0").as_bytes())).unwrap();
        }
        dir
    }

    const TREE: &[(&str, &str)] = &[
        (
            "net/virtio-net.ko",
            "alias=virtio:d00000001v* depends=virtio,virtio-ring",
        ),
        ("virtio/virtio.ko", "depends="),
        ("virtio/virtio_ring.ko", "depends=virtio"),
        ("other/unwanted.ko", "depends=virtio"),
    ];

    #[test]
    fn dependencies_join_and_come_first() {
        let dir = tree(TREE);
        let group = Group {
            required: true,
            names: &["virtio_net"],
        };
        let chosen = Selection::choose(dir.path(), "6", &[group]).unwrap();
        assert_eq!(
            chosen.dep(),
            "kernel/net/virtio-net.ko: kernel/virtio/virtio_ring.ko kernel/virtio/virtio.ko\n\
             kernel/virtio/virtio.ko:\nkernel/virtio/virtio_ring.ko: kernel/virtio/virtio.ko\n"
        );
        assert_eq!(chosen.alias(), "alias virtio:d00000001v* virtio_net\n");
    }

    #[test]
    fn circles_end() {
        let dir = tree(&[("a.ko", "depends=b"), ("b.ko", "depends=a")]);
        let group = Group {
            required: true,
            names: &["a"],
        };
        let chosen = Selection::choose(dir.path(), "6", &[group]).unwrap();
        assert_eq!(chosen.dep(), "kernel/a.ko: kernel/b.ko\nkernel/b.ko: kernel/a.ko\n");
    }

    #[test]
    fn what_is_required_must_be_there() {
        let dir = tree(TREE);
        let need = |required| {
            [Group {
                required,
                names: &["e1000"],
            }]
        };
        let error = Selection::choose(dir.path(), "6.1.0-9-amd64", &need(true))
            .unwrap_err()
            .to_string();
        assert!(error.contains("e1000") && error.contains("6.1.0-9-amd64"), "{error}");
        assert_eq!(
            Selection::choose(dir.path(), "6", &need(false)).unwrap().absent,
            ["e1000"]
        );
    }
}
