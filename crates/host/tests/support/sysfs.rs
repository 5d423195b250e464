//! A sysfs made of files.
#![allow(clippy::unwrap_used, unreachable_pub)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

/// A card in a sysfs made of files.
pub fn fake(sys: &Path, name: &str, index: u32, mac: &str, address: &str, carrier: Option<&str>) {
    let device = sys.join("devices/pci0000:00").join(address);
    let net = device.join("net").join(name);
    fs::create_dir_all(&net).unwrap();
    fs::create_dir_all(sys.join("bus/pci/drivers/e1000e")).unwrap();
    fs::create_dir_all(sys.join("class/net")).unwrap();
    symlink(sys.join("bus/pci/drivers/e1000e"), device.join("driver")).unwrap();
    symlink(&device, net.join("device")).unwrap();
    symlink(&net, sys.join("class/net").join(name)).unwrap();
    fs::write(net.join("ifindex"), format!("{index}\n")).unwrap();
    fs::write(net.join("address"), format!("{mac}\n")).unwrap();
    if let Some(carrier) = carrier {
        fs::write(net.join("carrier"), carrier).unwrap();
        fs::write(net.join("speed"), "1000\n").unwrap();
    }
}
