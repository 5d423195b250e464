//! The EFI system partition as a file: FAT, as small as its content allows.

use std::io::{Cursor, Write as _};

use crate::Error;

/// Makes one with these files.
pub(crate) fn build(files: &[(&str, Vec<u8>)]) -> Result<Vec<u8>, Error> {
    let content: usize = files
        .iter()
        .map(|(_, bytes)| bytes.len().next_multiple_of(4096) + 4096)
        .sum();
    let size = (content + content / 32 + (1 << 18)).next_multiple_of(1 << 18);
    let mut disk = Cursor::new(vec![0u8; size]);
    let label = *b"ISOBAR ESP ";
    fatfs::format_volume(
        &mut disk,
        fatfs::FormatVolumeOptions::new()
            .volume_label(label)
            .volume_id(0x1505_ba12),
    )
    .map_err(Error::Esp)?;
    {
        let fs = fatfs::FileSystem::new(&mut disk, fatfs::FsOptions::new()).map_err(Error::Esp)?;
        for (path, bytes) in files {
            let mut dir = fs.root_dir();
            let (folders, name) = path.rsplit_once('/').unwrap_or(("", path));
            for folder in folders.split('/').filter(|folder| !folder.is_empty()) {
                dir = dir.create_dir(folder).map_err(Error::Esp)?;
            }
            let mut file = dir.create_file(name).map_err(Error::Esp)?;
            file.write_all(bytes).map_err(Error::Esp)?;
        }
    }
    Ok(disk.into_inner())
}
