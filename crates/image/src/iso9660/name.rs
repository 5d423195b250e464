//! Short names: file identifiers for readers that do not know Rock Ridge.
//!
//! Interchange level 2: upper case letters, digits and `_`, at most 30 characters without separators
//! and version (ECMA-119 §10.2). Directories get 30 as well, so that the longest path of eight levels
//! stays below 255 (ECMA-119 §6.8.2.1).

use std::cmp::Ordering;

const MAX: usize = 30;
/// An extension keeps this much, the stem gets the rest.
const MAX_EXTENSION: usize = 8;

/// A file or directory identifier as it is written into a record: `GRUB.CFG;1`, `BOOT`.
///
/// Ordered as ECMA-119 §9.3 wants records: by name, then by extension, each as if padded with spaces;
/// all d-characters are greater than the space, so comparing slices does that. A file and a
/// directory that differ in the separators only are equal: they must not be in one directory.
#[derive(Clone, Debug)]
pub(crate) struct Identifier(Box<[u8]>);

impl Identifier {
    /// Taken from stored bytes; `None` when a record cannot hold it.
    pub(crate) fn from_stored(bytes: &[u8]) -> Option<Self> {
        let fits = !bytes.is_empty() && bytes.len() <= MAX + 3;
        fits.then(|| Self(bytes.into()))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn key(&self) -> (&[u8], &[u8]) {
        let name = self.0.strip_suffix(b";1").unwrap_or(&self.0);
        match name.iter().position(|c| *c == b'.') {
            Some(dot) => (&name[..dot], &name[dot + 1..]),
            None => (name, &[]),
        }
    }
}

impl Ord for Identifier {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl PartialOrd for Identifier {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Identifier {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Identifier {}

/// A short name for `name` that is not `taken` in its directory.
pub(crate) fn shorten(name: &str, directory: bool, taken: impl Fn(&Identifier) -> bool) -> Identifier {
    // A leading dot begins a hidden name, not an extension.
    let (stem, extension) = match name.rfind('.') {
        Some(dot) if dot > 0 && !directory => (&name[..dot], &name[dot + 1..]),
        _ => (name, ""),
    };
    let extension: Vec<u8> = d_characters(extension).take(MAX_EXTENSION).collect();
    let room = MAX - extension.len();
    let stem: Vec<u8> = d_characters(stem).take(room).collect();
    let assemble = |suffix: &str| {
        let kept = stem.len().min(room - suffix.len());
        let mut id = Vec::with_capacity(MAX + 3);
        id.extend_from_slice(&stem[..kept]);
        id.extend_from_slice(suffix.as_bytes());
        if !directory {
            id.push(b'.');
            id.extend_from_slice(&extension);
            id.extend_from_slice(b";1");
        }
        Identifier(id.into_boxed_slice())
    };
    let mut id = assemble("");
    let mut n = 1_u64;
    while taken(&id) {
        id = assemble(&format!("_{n}"));
        n += 1;
    }
    id
}

/// One d-character (ECMA-119 §7.4.1) for each character.
fn d_characters(text: &str) -> impl Iterator<Item = u8> {
    text.chars().map(|c| match c {
        'a'..='z' | 'A'..='Z' | '0'..='9' => c.to_ascii_uppercase() as u8,
        _ => b'_',
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn short(name: &str, directory: bool) -> String {
        let id = shorten(name, directory, |_| false);
        String::from_utf8(id.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn names_become_d_characters() {
        for (name, file, directory) in [
            ("grub.cfg", "GRUB.CFG;1", "GRUB_CFG"),
            ("vmlinuz0", "VMLINUZ0.;1", "VMLINUZ0"),
            ("i386-pc", "I386_PC.;1", "I386_PC"),
            ("boot.catalog", "BOOT.CATALOG;1", "BOOT_CATALOG"),
            (".disk", "_DISK.;1", "_DISK"),
            ("a.tar.gz", "A_TAR.GZ;1", "A_TAR_GZ"),
            ("dot.", "DOT.;1", "DOT_"),
            ("漢字.é", "__._;1", "____"),
            ("x.abcdefghijkl", "X.ABCDEFGH;1", "X_ABCDEFGHIJKL"),
        ] {
            assert_eq!(short(name, false), file);
            assert_eq!(short(name, true), directory);
        }
        assert_eq!(short(&"n".repeat(255), false), format!("{}.;1", "N".repeat(30)));
        assert_eq!(
            short(&format!("{}.img", "n".repeat(251)), false),
            format!("{}.IMG;1", "N".repeat(27))
        );
    }

    #[test]
    fn taken_names_get_a_number() {
        let mut taken = std::collections::BTreeSet::new();
        for n in 0..200 {
            let id = shorten(&format!("{}{n}.img", "n".repeat(40)), false, |id| taken.contains(id));
            assert!(id.as_bytes().len() <= MAX + 3);
            assert!(taken.insert(id));
        }
        // A folder may not have the name of a file, which differs in its separators only.
        let file = shorten("a", false, |_| false);
        let folder = shorten("a", true, |id| *id == file);
        assert_eq!(folder.as_bytes(), b"A_1");
    }

    #[test]
    fn order_is_by_stem_then_extension() {
        let order = ["A.;1", "A.B;1", "A.C;1", "A1.A;1", "A_.;1", "B"];
        let ids: Vec<Identifier> = order
            .iter()
            .map(|id| Identifier::from_stored(id.as_bytes()).unwrap())
            .collect();
        assert!(ids.is_sorted_by(|a, b| a < b));
    }
}
