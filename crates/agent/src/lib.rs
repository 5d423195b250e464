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
pub mod modules;
pub mod netlink;
pub mod network;
pub mod protocol;
pub mod run;

use isobar_host::read_text;
