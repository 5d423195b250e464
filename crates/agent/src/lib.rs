//! The program inside Sledgehammer: `/init` of the live image's initramfs.
//!
//! As PID 1 it mounts what a kernel needs, starts itself once more as the agent proper and as the keeper of the shells,
//! and from then on only reaps: if one of them dies, it is started again instead of the kernel panicking. The agent loads the modules that
//! the hardware asks for, brings the network up as the kernel command line says, exchanges the disc's boot
//! secret for a machine token, reports the inventory and sends heartbeats. On each console is a shell.
//!
//! Anywhere else the program prints what it would do and changes nothing.

pub mod cmdline;
pub mod console;
pub mod init;
pub mod inventory;
pub mod modules;
pub mod netlink;
pub mod network;
pub mod nic;
pub mod protocol;
pub mod run;

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// The longest file that is read from the initramfs, `/proc` or `/sys`.
const MAX_FILE: u64 = 4 << 20;

/// Reads a small text file, without the blanks around it. `None` when there is none, when it cannot be read (sysfs
/// answers that way for what a device does not know) or when it is no text.
#[must_use]
pub fn read_text(path: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(MAX_FILE).read_to_string(&mut text).ok()?;
    let trimmed = text.trim();
    Some(trimmed.to_owned())
}
