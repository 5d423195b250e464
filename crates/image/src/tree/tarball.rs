//! tar archives (POSIX.1-2017, pax; GNU's long names), uncompressed.

use std::io::{self, Read, Seek, SeekFrom};

use tar::EntryType;

use super::{Tree, TreeError, TreeNode};
use crate::vfs::ReadAt;

pub(super) fn read(source: &dyn ReadAt) -> Result<Tree, TreeError> {
    let mut tree = Tree::default();
    let mut archive = tar::Archive::new(Cursor { source, at: 0 });
    let mut hard = Vec::new();
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let target = || {
            entry
                .link_name_bytes()
                .map(|name| String::from_utf8_lossy(&name).into_owned())
        };
        match entry.header().entry_type() {
            EntryType::Regular | EntryType::Continuous => {
                let (offset, len) = (entry.raw_file_position(), entry.size());
                tree.add(&path, TreeNode::File { offset, len })?;
            }
            EntryType::Directory => tree.add(&path, TreeNode::Folder)?,
            EntryType::Symlink => {
                if let Some(target) = target() {
                    tree.add(&path, TreeNode::Link(target))?;
                }
            }
            // Another name of a file that came before.
            EntryType::Link => hard.extend(target().map(|target| (path, target))),
            EntryType::GNUSparse => {
                let message = format!("{path} is stored with holes (GNU sparse), which cannot be served as it lies");
                return Err(TreeError::Format(message));
            }
            _ => {}
        }
    }
    for (path, target) in hard {
        if let Some(node) = tree.find(&target).cloned() {
            tree.add(&path, node)?;
        }
    }
    Ok(tree)
}

/// Reads from a place that moves.
struct Cursor<'a> {
    source: &'a dyn ReadAt,
    at: u64,
}

impl Read for Cursor<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.source.len().saturating_sub(self.at);
        let n = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        self.source.read_at(&mut buf[..n], self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

impl Seek for Cursor<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let to = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.source.len().checked_add_signed(by),
        };
        self.at = to.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "before the first byte"))?;
        Ok(self.at)
    }
}
