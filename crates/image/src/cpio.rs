//! The `newc` cpio format: what the kernel unpacks as an initramfs.
//!
//! Source: Linux `Documentation/driver-api/early-userspace/buffer-format.rst`. An archive may be
//! appended to another one, which is how a machine's own files join the shared initrd. Output is deterministic:
//! inode numbers count up, times are zero, owner is root.

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A folder.
    Dir,
    /// A regular file.
    File,
    /// A symbolic link; the data is its target.
    Symlink,
    /// A character device with major and minor number.
    CharDevice(u32, u32),
}

/// Writes an archive into memory.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

/// Without the bytes: a machine's own archive holds its boot secret.
impl std::fmt::Debug for Archive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Archive")
            .field("len", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

impl Archive {
    /// An empty archive.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an entry. `path` has no leading slash; folders have to come before what is in them.
    /// `mode` holds the permission bits only.
    pub fn add(&mut self, path: &str, kind: Kind, mode: u32, data: &[u8]) {
        self.inode += 1;
        let (format, major, minor) = match kind {
            Kind::Dir => (0o040_000, 0, 0),
            Kind::File => (0o100_000, 0, 0),
            Kind::Symlink => (0o120_000, 0, 0),
            Kind::CharDevice(major, minor) => (0o020_000, major, minor),
        };
        let links = if kind == Kind::Dir { 2 } else { 1 };
        self.entry(path, self.inode, format | (mode & 0o7777), links, (major, minor), data);
    }

    /// Closes the archive: the trailer, padded to a multiple of 512 bytes.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, 0, 1, (0, 0), &[]);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self.bytes
    }

    fn entry(&mut self, path: &str, inode: u32, mode: u32, links: u32, device: (u32, u32), data: &[u8]) {
        let size = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let name_size = path.len() as u32 + 1;
        self.bytes.extend_from_slice(b"070701");
        // inode, mode, uid, gid, links, mtime, size, device major/minor, rdev major/minor, name size, checksum
        for field in [
            inode, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1, name_size, 0,
        ] {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_is_newc() {
        let mut archive = Archive::new();
        archive.add("etc", Kind::Dir, 0o755, &[]);
        archive.add("etc/x", Kind::File, 0o600, b"hello");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 512, 0);
        assert_eq!(&bytes[..6], b"070701");
        assert_eq!(&bytes[6..22], b"00000001000041ed");
        // The first header and its name take 110 + 4 bytes, padded to 116.
        assert_eq!(&bytes[116..122], b"070701");
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.contains("etc/x\0") && text.contains("hello") && text.contains("TRAILER!!!"));
    }
}
