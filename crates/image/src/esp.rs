//! The EFI system partition: a FAT image that holds the EFI loaders, pointed to by the El Torito entry
//! for EFI.
//!
//! What firmware and GRUB make of it, seen with OVMF (Secure Boot on and off) and SeaBIOS in QEMU and
//! Debian 12's signed loaders (shim, `grubx64`, `gcdx64`, GRUB 2.06):
//!
//! - OVMF starts `EFI/BOOT/BOOTX64.EFI` (shim) from this image, and shim starts `EFI/BOOT/grubx64.efi`
//!   from it. From then on GRUB sees one device, `(cd0)`: the whole disc, not this partition. `root` is
//!   `cd0`, `cmdpath` is `(cd0)/EFI/BOOT`, so that a `grub.cfg` in here is *not* read from a CD. It is
//!   when a BMC presents the image as a disk.
//! - `grubx64` has the prefix `(cd0)/EFI/debian` and reads `grub.cfg` there when that folder is on the
//!   *disc*. `gcdx64` has the prefix `(cd0)/boot/grub`. Without its prefix either of them searches all
//!   disks for `/.disk/info`, takes `/boot/grub` there as its prefix and reads, of these, the first that
//!   is there: `x86_64-efi/grub.cfg`, `grub.cfg` (both below the prefix), `$cmdpath/grub.cfg`.
//! - With Secure Boot on, `$lockdown` is `y` and the unsigned `grub.cfg` is read all the same.
//! - SeaBIOS and GRUB's `i386-pc-eltorito` core with the prefix `/boot/grub`: `root` is `hd96` (the BIOS
//!   number of the CD drive) though `ls` names the device `(cd)`. A menu that is read by both must not
//!   name a device: `$root` is right in both.

use std::io::{self, Cursor, Write};

use fatfs::{Date, DateTime, FileSystem, FormatVolumeOptions, FsOptions, Time, TimeProvider};
use sha2::{Digest, Sha256};

use crate::eltorito::MAX_EFI_IMAGE;

/// A file of the partition.
#[derive(Clone, Copy, Debug)]
pub struct EspFile<'a> {
    /// Path without leading slash: `EFI/BOOT/BOOTX64.EFI`. Folders are implied.
    pub path: &'a str,
    /// Its bytes.
    pub bytes: &'a [u8],
}

/// Why the partition cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EspError {
    /// An El Torito entry counts in 16 bits.
    #[error("the EFI loaders take {len} bytes; an EFI boot image can have {MAX_EFI_IMAGE}")]
    TooLarge {
        /// Bytes of all files.
        len: u64,
    },
    /// FAT does not take a name.
    #[error("cannot write \"{path}\" into the EFI boot image")]
    File {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The file system cannot be made.
    #[error("cannot make the file system of the EFI boot image")]
    Format(#[source] io::Error),
}

/// Cluster and sector size: with 512-byte clusters a partition of a few MB is FAT16.
const CLUSTER: u64 = 512;
/// Space for boot sector, both FATs (2 bytes a cluster each), root folder and rounding.
const OVERHEAD: u64 = 128 * 1024;

/// The same first day of FAT for all times.
#[derive(Debug)]
struct FirstDay;

impl TimeProvider for FirstDay {
    fn get_current_date(&self) -> Date {
        Date {
            year: 1980,
            month: 1,
            day: 1,
        }
    }

    fn get_current_date_time(&self) -> DateTime {
        DateTime {
            date: self.get_current_date(),
            time: Time {
                hour: 0,
                min: 0,
                sec: 0,
                millis: 0,
            },
        }
    }
}

/// Builds the partition: the same files in the same order give the same bytes (the times are FAT's
/// first day, the serial number is the digest of the files).
///
/// # Errors
/// See [`EspError`].
pub fn build(files: &[EspFile<'_>]) -> Result<Vec<u8>, EspError> {
    let len: u64 = files
        .iter()
        .map(|file| (file.bytes.len() as u64).next_multiple_of(CLUSTER))
        .sum();
    // A folder takes at least a cluster, and each component of a path may be one.
    let folders: u64 = files
        .iter()
        .map(|file| (file.path.matches('/').count() as u64 + 1) * CLUSTER)
        .sum();
    let fats = (len + folders) / CLUSTER * 4;
    let size = (len + folders + fats + OVERHEAD).next_multiple_of(2048);
    if size > MAX_EFI_IMAGE {
        return Err(EspError::TooLarge { len });
    }
    let mut hash = Sha256::new();
    for file in files {
        hash.update(file.path.as_bytes());
        hash.update([0]);
        hash.update((file.bytes.len() as u64).to_le_bytes());
        hash.update(file.bytes);
    }
    let hash = hash.finalize();
    let mut image = vec![0; size as usize];
    let options = FormatVolumeOptions::new()
        .bytes_per_cluster(CLUSTER as u32)
        .volume_id(u32::from_le_bytes([hash[0], hash[1], hash[2], hash[3]]))
        .volume_label(*b"ISOBAR     ");
    fatfs::format_volume(Cursor::new(&mut image[..]), options).map_err(EspError::Format)?;
    {
        let fs = FileSystem::new(Cursor::new(&mut image[..]), FsOptions::new().time_provider(&FirstDay))
            .map_err(EspError::Format)?;
        for file in files {
            write_file(&fs, file).map_err(|source| EspError::File {
                path: file.path.to_owned(),
                source,
            })?;
        }
        fs.unmount().map_err(EspError::Format)?;
    }
    Ok(image)
}

fn write_file(fs: &FileSystem<Cursor<&mut [u8]>>, file: &EspFile<'_>) -> io::Result<()> {
    let mut folder = fs.root_dir();
    let (folders, name) = file.path.rsplit_once('/').unwrap_or(("", file.path));
    for component in folders.split('/').filter(|c| !c.is_empty()) {
        // Opens it when it is there.
        folder = folder.create_dir(component)?;
    }
    let mut to = folder.create_file(name)?;
    to.truncate()?;
    to.write_all(file.bytes)?;
    to.flush()
}
