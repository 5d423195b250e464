//! Loaders: which ones, where they lie on the disc, and how GRUB finds the disc it came from.
//!
//! UEFI: the firmware starts shim from the El Torito ESP, shim starts the signed `gcdx64`, whose prefix is
//! `/boot/grub` on the device it was loaded from. For a CD that device is the whole disc (`cd0`), so the
//! machine's own `/boot/grub/grub.cfg` is the first file it opens, and nothing is searched. Debian's other
//! signed build, `grubx64`, differs in its prefix, `/EFI/debian`, and in modules for disks. Both
//! search for `/.disk/info`, and may find another disk's, only if the prefix does not exist; so the
//! paths of both exist on the disc *and* in the ESP (which is what the prefix is on when a BMC shows
//! the image as a USB disk), and in the ESP they look for the marker, a file that only this base has.
//!
//! BIOS: the El Torito image is GRUB's core with all modules that a boot needs, prefix `/boot/grub` on the CD.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Error;
use crate::debian::run;

/// A file of the disc that comes from a package as it is.
pub(crate) struct Shipped {
    pub(crate) package: &'static str,
    /// Path in the package.
    pub(crate) from: &'static str,
    /// Path on the disc.
    pub(crate) to: &'static str,
    /// Whether the ESP has it too.
    pub(crate) esp: bool,
}

/// Loaders and fonts.
pub(crate) const SHIPPED: &[Shipped] = &[
    Shipped {
        package: "shim-signed",
        from: "usr/lib/shim/shimx64.efi.signed",
        to: "EFI/BOOT/BOOTX64.EFI",
        esp: true,
    },
    Shipped {
        package: "grub-efi-amd64-signed",
        from: "usr/lib/grub/x86_64-efi-signed/gcdx64.efi.signed",
        to: "EFI/BOOT/grubx64.efi",
        esp: true,
    },
    Shipped {
        package: "shim-helpers-amd64-signed",
        from: "usr/lib/shim/mmx64.efi.signed",
        to: "EFI/BOOT/mmx64.efi",
        esp: true,
    },
    Shipped {
        package: "grub-pc-bin",
        from: "usr/lib/grub/i386-pc/boot_hybrid.img",
        // Beside the BIOS image: images are made with it as the boot code of their first sector.
        to: "boot/grub/i386-pc/boot_hybrid.img",
        esp: false,
    },
    Shipped {
        package: "grub-common",
        from: "usr/share/grub/unicode.pf2",
        to: "EFI/BOOT/fonts/unicode.pf2",
        esp: false,
    },
    Shipped {
        package: "grub-common",
        from: "usr/share/grub/unicode.pf2",
        to: "boot/grub/fonts/unicode.pf2",
        esp: false,
    },
];

/// Paths in the ESP at which one of the signed GRUBs looks for its configuration.
pub(crate) const ESP_CONFIGS: &[&str] = &["EFI/BOOT/grub.cfg", "EFI/debian/grub.cfg", "boot/grub/grub.cfg"];

/// Where the package with the BIOS modules has them, and where the disc has them.
pub(crate) const PC_MODULES: (&str, &str) = ("usr/lib/grub/i386-pc", "boot/grub/i386-pc");

/// What the BIOS core holds, so that a boot reads no module one by one through a slow BMC.
const CORE: &[&str] = &[
    "biosdisk",
    "iso9660",
    "normal",
    "configfile",
    "linux",
    "boot",
    "echo",
    "test",
    "true",
    "search",
    "search_fs_file",
    "serial",
    "terminal",
    "minicmd",
    "ls",
    "cat",
    "sleep",
    "reboot",
    "halt",
];

/// Run by the BIOS core before `grub.cfg`. Where there is no serial port the command fails and the screen is used
/// alone. (Under UEFI the firmware's console is used, which has the serial port where the operator asked for it.)
const EARLY: &str = "serial --unit=0 --speed=115200\nterminal_input --append serial\nterminal_output --append serial\n";

/// The configuration that is the same for all machines: find the disc, go on with the machine's own.
pub(crate) fn shared_config(marker: &str) -> String {
    format!(
        "# The disc GRUB came from, else the one disc with this file; never /.disk/info, which others have too.\n\
         search --no-floppy --file --hint=$root --set=root /{marker}\n\
         if [ -f ($root)/{marker} ]; then\n  configfile ($root)/boot/grub/grub.cfg\nfi\n\
         echo \"isobar: GRUB finds no disc with /{marker}.\"\n\
         echo \"Is the virtual medium still inserted? See it with: runaction MACHINE statusVirtualMedia\"\n\
         sleep 30\n"
    )
}

/// Makes the El Torito image for BIOS from unpacked packages in `root`, into `out`.
pub(crate) fn bios_core(root: &Path, work: &Path, out: &Path) -> Result<(), Error> {
    let early = work.join("early.cfg");
    std::fs::write(&early, EARLY).map_err(|source| Error::io("write", &early, source))?;
    let mut result = Ok(String::new());
    // The package's own fits its modules best, but may miss a library that the host does not have.
    for program in [root.join("usr/bin/grub-mkimage"), PathBuf::from("grub-mkimage")] {
        result = run(Command::new(program)
            .args(["--format", "i386-pc-eltorito", "--prefix", "/boot/grub"])
            .arg("--directory")
            .arg(root.join(PC_MODULES.0))
            .arg("--config")
            .arg(&early)
            .arg("--output")
            .arg(out)
            .args(CORE));
        if result.is_ok() {
            break;
        }
    }
    result.map(drop)
}
