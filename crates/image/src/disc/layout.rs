//! Which regions of a disc lie where.

use crate::iso9660::sectors;
use crate::vfs::FileRole;

/// Sectors (512 KiB) between regions that a boot reads one after the other, so that reading ahead in one
/// does not look like reading the next.
const GAP: u64 = 512 * 1024 / 2048;

/// Sectors of padding after the last region, the number that mastering programs use. Readers fetch
/// more than they were asked for: GRUB reads blocks of 32 KiB, and under SeaBIOS one that reaches past
/// the end of the disc leaves other sectors' bytes in its buffer without an error.
const PADDING: u64 = 150;

/// The end of the disc so far.
pub(super) struct Cursor {
    next: u64,
    /// Whether the region before must be kept apart from the next.
    apart: bool,
    /// Nobody boots from it: nothing is kept apart, and nothing follows the last region.
    compact: bool,
}

/// The disc would have more sectors than 32 bits can number (8 TiB).
pub(super) struct TooLarge;

impl Cursor {
    /// After a region of metadata or of a base that ends at sector `next`.
    pub(super) fn new(next: u32) -> Self {
        Self {
            next: u64::from(next),
            apart: true,
            compact: false,
        }
    }

    /// The same on a disc that nobody boots from.
    pub(super) fn compact(next: u32) -> Self {
        Self {
            compact: true,
            ..Self::new(next)
        }
    }

    /// First sector of a new region of `len` bytes.
    pub(super) fn place(&mut self, role: FileRole, len: u64) -> Result<u32, TooLarge> {
        let apart = role != FileRole::Other;
        if !self.compact && (apart || self.apart) {
            self.next += GAP;
        }
        self.apart = apart;
        let at = u32::try_from(self.next).map_err(|_| TooLarge)?;
        self.next += sectors(len); // no overflow: less than 2^32 + 2^53
        self.end()?;
        Ok(at)
    }

    /// Sectors of the disc.
    pub(super) fn end(&self) -> Result<u32, TooLarge> {
        let padding = if self.compact { 0 } else { PADDING };
        u32::try_from(self.next + padding).map_err(|_| TooLarge)
    }
}

/// Roles in the order in which a boot reads their regions, which is the order of regions on the disc. A
/// role is stored as its place in this list: another order needs another version of both forms.
const ORDER: [FileRole; 9] = [
    FileRole::Metadata,
    FileRole::BootCatalog,
    FileRole::BiosImage,
    FileRole::EfiImage,
    FileRole::Other,
    FileRole::GrubConfig,
    FileRole::Kernel,
    FileRole::Initrd,
    FileRole::OwnInitrd,
];

/// Place of a role in [`ORDER`].
pub(super) fn rank(role: FileRole) -> u8 {
    match role {
        FileRole::Metadata => 0,
        FileRole::BootCatalog => 1,
        FileRole::BiosImage => 2,
        FileRole::EfiImage => 3,
        FileRole::Other => 4,
        FileRole::GrubConfig => 5,
        FileRole::Kernel => 6,
        FileRole::Initrd => 7,
        FileRole::OwnInitrd => 8,
    }
}

/// The reverse of [`rank`].
pub(super) fn role_of_rank(rank: u8) -> Option<FileRole> {
    ORDER.get(usize::from(rank)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_is_a_place_in_the_order() {
        for role in ORDER {
            assert_eq!(role_of_rank(rank(role)), Some(role));
        }
        assert_eq!(role_of_rank(9), None);
    }
}
