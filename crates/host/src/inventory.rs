//! What the machine is made of, from `/sys` and `/proc`: the value of the param `gohai-inventory`.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::{entries, nic, read_text};

/// Disks and cards listed at most: a machine has tens, a storage network may show thousands.
const MAX_ITEMS: usize = 1024;

/// Collects the inventory below `root`, which is `/` but in tests. What cannot be read is left out.
#[must_use]
pub fn collect(root: &Path) -> Value {
    let sys = root.join("sys");
    let proc = root.join("proc");
    json!({
        "System": system(&sys, &proc),
        "DMI": dmi(&sys),
        "CPU": cpu(&read_text(&proc.join("cpuinfo")).unwrap_or_default()),
        "Memory": memory(&read_text(&proc.join("meminfo")).unwrap_or_default()),
        "Disks": disks(&sys),
        "Networking": networking(&sys),
    })
}

/// Whether UEFI Secure Boot is on; `None` on BIOS and where efivarfs is not mounted.
#[must_use]
pub fn secure_boot(sys: &Path) -> Option<bool> {
    let variable = "firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
    let mut bytes = Vec::new();
    File::open(sys.join(variable))
        .ok()?
        .take(16)
        .read_to_end(&mut bytes)
        .ok()?;
    // Four bytes of attributes come first (Linux, Documentation/filesystems/efivarfs.rst).
    bytes.get(4).map(|byte| *byte == 1)
}

fn system(sys: &Path, proc: &Path) -> Value {
    let id = sys.join("class/dmi/id");
    let mut map = Map::new();
    for (name, file) in [
        ("Manufacturer", "sys_vendor"),
        ("ProductName", "product_name"),
        ("Version", "product_version"),
        ("SerialNumber", "product_serial"),
        ("UUID", "product_uuid"),
        ("SKU", "product_sku"),
        ("Family", "product_family"),
    ] {
        insert(&mut map, name, &id.join(file));
    }
    let uefi = sys.join("firmware/efi").is_dir();
    map.insert("Firmware".to_owned(), json!(if uefi { "uefi" } else { "bios" }));
    map.insert("SecureBoot".to_owned(), json!(secure_boot(sys)));
    insert(&mut map, "Kernel", &proc.join("sys/kernel/osrelease"));
    map.insert("Arch".to_owned(), json!(std::env::consts::ARCH));
    Value::Object(map)
}

fn dmi(sys: &Path) -> Value {
    let id = sys.join("class/dmi/id");
    let mut sections = Map::new();
    for (section, fields) in [
        (
            "BIOS",
            &[
                ("Vendor", "bios_vendor"),
                ("Version", "bios_version"),
                ("Date", "bios_date"),
            ][..],
        ),
        (
            "Board",
            &[
                ("Vendor", "board_vendor"),
                ("Name", "board_name"),
                ("Version", "board_version"),
                ("Serial", "board_serial"),
                ("AssetTag", "board_asset_tag"),
            ],
        ),
        (
            "Chassis",
            &[
                ("Vendor", "chassis_vendor"),
                ("Type", "chassis_type"),
                ("Version", "chassis_version"),
                ("Serial", "chassis_serial"),
                ("AssetTag", "chassis_asset_tag"),
            ],
        ),
    ] {
        let mut map = Map::new();
        for (name, file) in fields {
            insert(&mut map, name, &id.join(file));
        }
        sections.insert(section.to_owned(), Value::Object(map));
    }
    Value::Object(sections)
}

fn insert(map: &mut Map<String, Value>, name: &str, file: &Path) {
    if let Some(text) = read_text(file).filter(|text| !text.is_empty()) {
        map.insert(name.to_owned(), Value::String(text));
    }
}

fn cpu(cpuinfo: &str) -> Value {
    let mut threads = 0u32;
    let (mut sockets, mut cores) = (BTreeSet::new(), BTreeSet::new());
    let mut first = Map::new();
    for block in cpuinfo.split("\n\n") {
        let field = |name: &str| {
            block.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                (key.trim() == name).then(|| value.trim())
            })
        };
        if field("processor").is_none() {
            continue;
        }
        threads += 1;
        let socket = field("physical id").unwrap_or("0");
        sockets.insert(socket);
        cores.insert((
            socket,
            field("core id").map_or_else(|| threads.to_string(), str::to_owned),
        ));
        if first.is_empty() {
            for (name, key) in [
                ("Vendor", "vendor_id"),
                ("Model", "model name"),
                ("Microcode", "microcode"),
            ] {
                if let Some(value) = field(key) {
                    first.insert(name.to_owned(), json!(value));
                }
            }
            let flags: Vec<&str> = field("flags").unwrap_or_default().split_whitespace().collect();
            first.insert("Flags".to_owned(), json!(flags));
        }
    }
    first.insert("Sockets".to_owned(), json!(sockets.len()));
    first.insert("Cores".to_owned(), json!(cores.len()));
    first.insert("Threads".to_owned(), json!(threads));
    Value::Object(first)
}

fn memory(meminfo: &str) -> Value {
    let bytes = |name: &str| {
        meminfo.lines().find_map(|line| {
            let value = line.strip_prefix(name)?.strip_prefix(':')?.trim().strip_suffix(" kB")?;
            value.parse::<u64>().ok()?.checked_mul(1024)
        })
    };
    json!({ "TotalBytes": bytes("MemTotal"), "AvailableBytes": bytes("MemAvailable") })
}

fn disks(sys: &Path) -> Value {
    let mut disks = Vec::new();
    for path in entries(&sys.join("block")) {
        // RAM disks, loops and the like stand on no device.
        if !path.join("device").exists() || disks.len() == MAX_ITEMS {
            continue;
        }
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        let number = |file: &str| read_text(&path.join(file))?.parse::<u64>().ok();
        let flag = |file: &str| number(file).map(|value| value == 1);
        let mut map = Map::new();
        map.insert("Name".to_owned(), json!(name));
        // `size` counts 512-byte sectors whatever the disk's own are.
        map.insert(
            "SizeBytes".to_owned(),
            json!(number("size").and_then(|n| n.checked_mul(512))),
        );
        map.insert("SectorBytes".to_owned(), json!(number("queue/logical_block_size")));
        map.insert("Rotational".to_owned(), json!(flag("queue/rotational")));
        map.insert("Removable".to_owned(), json!(flag("removable")));
        map.insert("ReadOnly".to_owned(), json!(flag("ro")));
        for (name, files) in [
            ("Vendor", &["device/vendor"][..]),
            ("Model", &["device/model"]),
            ("Serial", &["device/serial", "serial"]),
            ("Firmware", &["device/firmware_rev", "device/rev"]),
            ("WWID", &["wwid", "device/wwid"]),
        ] {
            let found = files
                .iter()
                .find_map(|file| read_text(&path.join(file)).filter(|text| !text.is_empty()));
            if let Some(text) = found {
                map.insert(name.to_owned(), json!(text));
            }
        }
        disks.push(Value::Object(map));
    }
    Value::Array(disks)
}

fn networking(sys: &Path) -> Value {
    let nics = nic::list(sys).into_iter().take(MAX_ITEMS).map(|nic| {
        json!({
            "Name": nic.name,
            "MAC": nic.mac,
            "Driver": nic.driver,
            "BusAddress": nic.bus_address,
            "Carrier": nic.carrier,
            "SpeedMbps": nic.speed,
            "AlternativeNames": nic.aliases,
        })
    });
    Value::Array(nics.collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    fn put(root: &Path, path: &str, text: &[u8]) {
        let file = root.join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }

    #[test]
    fn a_whole_machine() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        put(root, "sys/class/dmi/id/sys_vendor", b"QEMU\n");
        put(
            root,
            "sys/class/dmi/id/product_uuid",
            b"bb1eadf9-4b5e-46a7-a577-d07e2a33138f\n",
        );
        put(root, "sys/class/dmi/id/bios_version", b"1.16\n");
        put(root, "sys/class/dmi/id/chassis_serial", b"\n");
        put(
            root,
            "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c",
            &[6, 0, 0, 0, 1],
        );
        let cpu = |id: u32, core: u32| {
            format!("processor\t: {id}\nmodel name\t: X\nphysical id\t: 0\ncore id\t: {core}\nflags\t: fpu sse2\n\n")
        };
        put(
            root,
            "proc/cpuinfo",
            [cpu(0, 0), cpu(1, 0), cpu(2, 1), cpu(3, 1)].concat().as_bytes(),
        );
        put(
            root,
            "proc/meminfo",
            b"MemTotal:        1000 kB\nMemFree: 5 kB\nMemAvailable:     500 kB\n",
        );
        put(root, "sys/block/nvme0n1/size", b"2048\n");
        put(root, "sys/block/nvme0n1/queue/rotational", b"0\n");
        put(root, "sys/block/nvme0n1/device/serial", b" S123 \n");
        put(root, "sys/block/loop0/size", b"0\n");
        crate::sysfs::fake(
            &root.join("sys"),
            "eth0",
            2,
            "52:54:00:aa:bb:01",
            "0000:00:02.0",
            Some("1"),
        );

        let inventory = collect(root);
        let expect = |pointer: &str, value: Value| assert_eq!(inventory.pointer(pointer), Some(&value), "{pointer}");
        expect("/System/Manufacturer", json!("QEMU"));
        expect("/System/UUID", json!("bb1eadf9-4b5e-46a7-a577-d07e2a33138f"));
        expect("/System/Firmware", json!("uefi"));
        expect("/System/SecureBoot", json!(true));
        expect("/DMI/BIOS/Version", json!("1.16"));
        expect("/DMI/Chassis", json!({}));
        expect("/CPU/Sockets", json!(1));
        expect("/CPU/Cores", json!(2));
        expect("/CPU/Threads", json!(4));
        expect("/CPU/Flags", json!(["fpu", "sse2"]));
        expect("/Memory", json!({ "TotalBytes": 1_024_000, "AvailableBytes": 512_000 }));
        assert_eq!(inventory["Disks"].as_array().unwrap().len(), 1);
        expect("/Disks/0/SizeBytes", json!(1_048_576));
        expect("/Disks/0/Serial", json!("S123"));
        expect("/Disks/0/Rotational", json!(false));
        expect("/Networking/0/MAC", json!("52:54:00:aa:bb:01"));
        expect("/Networking/0/SpeedMbps", json!(1000));
    }

    #[test]
    fn an_empty_machine_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let inventory = collect(dir.path());
        assert_eq!(inventory.pointer("/System/Firmware"), Some(&json!("bios")));
        assert_eq!(inventory.pointer("/System/SecureBoot"), Some(&Value::Null));
        assert_eq!(inventory.pointer("/CPU/Threads"), Some(&json!(0)));
        assert_eq!(inventory.pointer("/Disks"), Some(&json!([])));
    }

    proptest! {
        #[test]
        fn odd_texts_are_not_fatal(text in "(processor|MemTotal|core id|[a-z ]{0,6})[:\t =]{0,3}[0-9]{0,25}( kB)?\n{0,2}") {
            let _ = (cpu(&text), memory(&text));
        }
    }
}
