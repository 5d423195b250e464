//! Whether KVM works. A `/dev/kvm` that can be opened proves nothing (nested hosts, containers):
//! a tiny guest has to run, with the processor that the machines will have.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::OnceCell;

pub(crate) const QEMU: &str = "qemu-system-x86_64";

/// How QEMU runs its guests here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accel {
    /// In hardware.
    Kvm,
    /// Translated, some 10 to 20 times slower.
    Tcg,
}

impl Accel {
    /// QEMU's arguments for it.
    pub(crate) fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Self::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max"],
        }
    }
}

/// A ROM that goes the way of firmware and kernel, real mode, protected mode with the FPU, long
/// mode with SSE, and writes 42 to the debug-exit device at its end. Some hosts run the first steps
/// of it and hang in a later one.
#[rustfmt::skip]
const PROBE: [u8; 190] = [
    // Real mode, at f000:0000: cli; lgdt cs:[gdtr]; set CR0.PE; jump to 32 bit
    0xFA, 0x2E, 0x66, 0x0F, 0x01, 0x16, 0xB8, 0x00, 0x0F, 0x20, 0xC0, 0x0C, 0x01, 0x0F, 0x22, 0xC0,
    0x66, 0xEA, 0x18, 0x00, 0x0F, 0x00, 0x08, 0x00,
    // mov ax, 16; mov ds, ax; mov es, ax; fwait; fninit
    0x66, 0xB8, 0x10, 0x00, 0x8E, 0xD8, 0x8E, 0xC0, 0x9B, 0xDB, 0xE3,
    // Clear three page tables at 0x1000: cld; rep stosd
    0xBF, 0x00, 0x10, 0x00, 0x00, 0x31, 0xC0, 0xB9, 0x00, 0x0C, 0x00, 0x00, 0xFC, 0xF3, 0xAB,
    // Map the first 2 MiB
    0xC7, 0x05, 0x00, 0x10, 0x00, 0x00, 0x03, 0x20, 0x00, 0x00,
    0xC7, 0x05, 0x00, 0x20, 0x00, 0x00, 0x03, 0x30, 0x00, 0x00,
    0xC7, 0x05, 0x00, 0x30, 0x00, 0x00, 0x83, 0x00, 0x00, 0x00,
    // CR4: PAE and OSFXSR; CR3; EFER.LME; CR0.PG; jump to 64 bit
    0x0F, 0x20, 0xE0, 0x0D, 0x20, 0x02, 0x00, 0x00, 0x0F, 0x22, 0xE0,
    0xB8, 0x00, 0x10, 0x00, 0x00, 0x0F, 0x22, 0xD8,
    0xB9, 0x80, 0x00, 0x00, 0xC0, 0x0F, 0x32, 0x0D, 0x00, 0x01, 0x00, 0x00, 0x0F, 0x30,
    0x0F, 0x20, 0xC0, 0x0D, 0x00, 0x00, 0x00, 0x80, 0x0F, 0x22, 0xC0,
    0xEA, 0x83, 0x00, 0x0F, 0x00, 0x18, 0x00,
    // 42 through an SSE register to port 0xf4; hlt
    0xB8, 0x2A, 0x00, 0x00, 0x00, 0x66, 0x48, 0x0F, 0x6E, 0xC0, 0x66, 0x48, 0x0F, 0x7E, 0xC0,
    0x66, 0xBA, 0xF4, 0x00, 0xEE, 0xF4,
    // GDT: null, 32-bit code, data, 64-bit code; its register
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xFF, 0xFF, 0x00, 0x00, 0x00, 0x9A, 0xCF, 0x00,
    0xFF, 0xFF, 0x00, 0x00, 0x00, 0x92, 0xCF, 0x00, 0xFF, 0xFF, 0x00, 0x00, 0x00, 0x9A, 0xAF, 0x00,
    0x1F, 0x00, 0x98, 0x00, 0x0F, 0x00,
];

fn rom() -> Vec<u8> {
    /// jmp f000:0000
    const RESET: [u8; 5] = [0xEA, 0x00, 0x00, 0x00, 0xF0];
    let mut rom = vec![0xF4; 64 << 10];
    rom[..PROBE.len()].copy_from_slice(&PROBE);
    let reset = rom.len() - 16;
    rom[reset..reset + RESET.len()].copy_from_slice(&RESET);
    rom
}

/// Where KVM works, the probe takes a tenth of a second.
const PATIENCE: Duration = Duration::from_secs(10);

/// What `isa-debug-exit` makes of 42.
const RAN: i32 = 42 << 1 | 1;

async fn runs(folder: &Path, accel: Accel) -> bool {
    let path = folder.join(format!("probe-{accel:?}.rom"));
    if let Err(error) = std::fs::write(&path, rom()) {
        tracing::warn!(%error, ?accel, "cannot be tried");
        return false;
    }
    let qemu = Command::new(QEMU)
        .args(accel.arguments())
        .args([
            "-machine",
            "pc",
            "-m",
            "16",
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
        ])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04", "-bios"])
        .arg(&path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .status();
    let status = tokio::time::timeout(PATIENCE, qemu).await;
    // A probe that stays behind lies in a folder that is removed.
    let _ = std::fs::remove_file(&path);
    matches!(status, Ok(Ok(status)) if status.code() == Some(RAN))
}

/// KVM if a guest runs under it, else TCG. Tried once per process.
pub(crate) async fn choose(folder: &Path) -> Accel {
    static CHOSEN: OnceCell<Accel> = OnceCell::const_new();
    *CHOSEN
        .get_or_init(|| async {
            let kvm = Path::new("/dev/kvm").exists() && runs(folder, Accel::Kvm).await;
            let accel = if kvm { Accel::Kvm } else { Accel::Tcg };
            tracing::info!(?accel, "QEMU");
            accel
        })
        .await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn the_tiny_guest_runs_where_guests_run_for_sure() {
        let folder = tempfile::tempdir().unwrap();
        assert!(
            runs(folder.path(), Accel::Tcg).await,
            "the probe does not run: apt-get install qemu-system-x86"
        );
        std::fs::create_dir(folder.path().join("probe-Tcg.rom")).unwrap();
        assert!(
            !runs(folder.path(), Accel::Tcg).await,
            "what cannot be tried does not run"
        );
    }
}
