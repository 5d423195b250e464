//! A port of a switch, trunk on the machine's side, access on the other: 802.1Q by hand, since not every kernel has it.
//!
//! Both sides are QEMU's `-netdev stream`: frames, each after its length in four bytes, big end first.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::Netns;

const TAG: [u8; 2] = [0x81, 0x00];
/// Behind the two MAC addresses.
const TYPE: usize = 12;

/// What went by.
#[derive(Default)]
pub struct Seen {
    /// Frames of the machine with the port's tag.
    pub tagged: AtomicUsize,
    /// Frames of the machine without it, or with another one: dropped.
    pub dropped: AtomicUsize,
}

/// The port; ends with the test.
pub struct Port {
    pub seen: Arc<Seen>,
    trunk: PathBuf,
    tap: Child,
}

impl Port {
    /// Between a machine that tags its frames with `vlan` and a tap device, which is made here with this address.
    pub fn new(dir: &Path, vlan: u16, netns: &Netns, device: &str, address: &str) -> Self {
        netns.ip(&format!("tuntap add {device} mode tap"));
        netns.address(device, address);
        netns.ip(&format!("link set {device} up"));
        let (trunk, access) = (dir.join("trunk"), dir.join("access"));
        let (machines, taps) = (
            UnixListener::bind(&trunk).unwrap(),
            UnixListener::bind(&access).unwrap(),
        );
        // Opening a tap is an ioctl; QEMU does it, as a bridge between tap and socket that runs no machine.
        let wrapper = netns.wrapper();
        let tap = Command::new(&wrapper[0])
            .args(&wrapper[1..])
            .args([
                "qemu-system-x86_64",
                "-machine",
                "none",
                "-nodefaults",
                "-display",
                "none",
            ])
            .args([
                "-netdev",
                &format!("tap,id=tap,ifname={device},script=no,downscript=no,vnet_hdr=off"),
            ])
            .args(["-netdev", "hubport,id=a,hubid=0,netdev=tap"])
            .arg("-netdev")
            .arg(format!(
                "stream,id=port,server=off,addr.type=unix,addr.path={}",
                access.display()
            ))
            .args(["-netdev", "hubport,id=b,hubid=0,netdev=port"])
            .stdin(Stdio::null())
            // Its hub has no NIC, as it complains.
            .stderr(std::fs::File::create(dir.join("tap.log")).unwrap())
            .spawn()
            .unwrap();
        let seen = Arc::new(Seen::default());
        let count = Arc::clone(&seen);
        std::thread::spawn(move || {
            let (tap, _) = taps.accept().unwrap();
            let machine: Arc<Mutex<Option<UnixStream>>> = Arc::default();
            let down = Arc::clone(&machine);
            let from_tap = tap.try_clone().unwrap();
            std::thread::spawn(move || to_machine(from_tap, vlan, &down));
            // Each start of the machine plugs in anew.
            while let Ok((trunk, _)) = machines.accept() {
                *machine.lock().unwrap() = Some(trunk.try_clone().unwrap());
                let (tap, count) = (tap.try_clone().unwrap(), Arc::clone(&count));
                std::thread::spawn(move || from_machine(trunk, vlan, tap, &count));
            }
        });
        Self { seen, trunk, tap }
    }

    /// For `isobar sim --net unix:PATH`.
    pub fn socket(&self) -> &Path {
        &self.trunk
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        // The threads end with the sockets, or with the test.
        let _ = self.tap.kill();
        let _ = self.tap.wait();
    }
}

fn frame(from: &mut impl Read) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let mut frame = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap()];
    from.read_exact(&mut frame)?;
    Ok(frame)
}

fn send(to: &mut impl Write, frame: &[u8]) -> std::io::Result<()> {
    let mut packet = u32::try_from(frame.len()).unwrap().to_be_bytes().to_vec();
    packet.extend_from_slice(frame);
    to.write_all(&packet)
}

fn from_machine(mut machine: UnixStream, vlan: u16, mut tap: UnixStream, seen: &Seen) {
    while let Ok(mut frame) = frame(&mut machine) {
        let tagged = frame.len() >= TYPE + 4
            && frame[TYPE..TYPE + 2] == TAG
            && u16::from_be_bytes([frame[TYPE + 2], frame[TYPE + 3]]) & 0xfff == vlan;
        if !tagged {
            seen.dropped.fetch_add(1, Ordering::SeqCst);
            continue;
        }
        seen.tagged.fetch_add(1, Ordering::SeqCst);
        frame.drain(TYPE..TYPE + 4);
        if send(&mut tap, &frame).is_err() {
            return;
        }
    }
}

fn to_machine(mut tap: UnixStream, vlan: u16, machine: &Mutex<Option<UnixStream>>) {
    while let Ok(mut frame) = frame(&mut tap) {
        if frame.len() < TYPE {
            continue;
        }
        let tag = [TAG, vlan.to_be_bytes()].concat();
        frame.splice(TYPE..TYPE, tag);
        let mut machine = machine.lock().unwrap();
        if machine.as_mut().is_some_and(|to| send(to, &frame).is_err()) {
            *machine = None;
        }
    }
}
