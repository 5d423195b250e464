//! Loading the modules that the hardware asks for: sysfs tells each device's `modalias`, `modules.alias` which
//! modules answer to it, `modules.dep` what has to be there before.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use isobar_host::entries;
use rustix::io::Errno;

use crate::read_text;

/// The tables that `depmod` writes, for the modules of the initramfs.
#[derive(Debug, Default)]
pub struct Tables {
    dir: PathBuf,
    /// Name to path and dependencies (paths, to be loaded from the last to the first).
    dep: BTreeMap<String, (String, Vec<String>)>,
    /// Bus (`pci`, up to the first `:`) to globs and names.
    alias: BTreeMap<String, Vec<(String, String)>>,
}

impl Tables {
    /// Reads the tables in `dir`, `/lib/modules/RELEASE`. What is not there is empty.
    #[must_use]
    pub fn read(dir: &Path) -> Self {
        let text = |name| read_text(&dir.join(name)).unwrap_or_default();
        let mut tables = Self::parse(&text("modules.dep"), &text("modules.alias"));
        tables.dir = dir.to_path_buf();
        tables
    }

    /// Reads the tables' texts. Lines that make no sense are passed over.
    #[must_use]
    pub fn parse(dep: &str, alias: &str) -> Self {
        let mut tables = Self::default();
        for line in dep.lines() {
            let Some((path, before)) = line.split_once(':') else {
                continue;
            };
            let before = before.split_whitespace().map(str::to_owned).collect();
            tables.dep.insert(name_of(path), (path.to_owned(), before));
        }
        for line in alias.lines() {
            let mut words = line.split_whitespace();
            if let (Some("alias"), Some(glob), Some(name)) = (words.next(), words.next(), words.next()) {
                let entries = tables.alias.entry(bus(glob).to_owned()).or_default();
                entries.push((glob.to_owned(), name.to_owned()));
            }
        }
        tables
    }

    /// Whether there are any modules at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.dep.is_empty()
    }

    /// Names of the modules that answer to a device.
    pub fn matching<'a>(&'a self, modalias: &'a str) -> impl Iterator<Item = &'a str> {
        let entries = self.alias.get(bus(modalias)).map(Vec::as_slice).unwrap_or_default();
        entries
            .iter()
            .filter(|(glob, _)| matches(glob, modalias))
            .map(|(_, name)| name.as_str())
    }

    /// Paths to load for a module, in order, itself last. Empty when there is no such module.
    #[must_use]
    pub fn order(&self, name: &str) -> Vec<&str> {
        let Some((path, before)) = self.dep.get(&name.replace('-', "_")) else {
            return Vec::new();
        };
        before.iter().rev().map(String::as_str).chain([path.as_str()]).collect()
    }
}

/// A module's name by its path.
fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

fn bus(alias: &str) -> &str {
    alias.split(':').next().unwrap_or(alias)
}

/// `fnmatch(3)` without flags: `*`, `?`, `[a-f]`, `[!a]`. Takes at most `glob.len() * text.len()` steps.
#[must_use]
pub fn matches(glob: &str, text: &str) -> bool {
    let (glob, text) = (glob.as_bytes(), text.as_bytes());
    let (mut g, mut t) = (0, 0);
    // Where to go on after the last star: one byte more for the star, the rest from here.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        let step = match glob.get(g) {
            None if t == text.len() => return true,
            None => None,
            Some(b'*') => {
                retry = Some((g + 1, t));
                g += 1;
                continue;
            }
            Some(_) => text.get(t).and_then(|byte| one(&glob[g..], *byte)),
        };
        match (step, retry) {
            (Some(len), _) => {
                g += len;
                t += 1;
            }
            (None, Some((star, from))) if from < text.len() => {
                retry = Some((star, from + 1));
                (g, t) = (star, from + 1);
            }
            (None, _) => return false,
        }
    }
}

/// Length of the pattern's first element if it accepts the byte.
fn one(glob: &[u8], byte: u8) -> Option<usize> {
    match glob {
        [b'?', ..] => Some(1),
        [b'[', rest @ ..] => {
            let (negated, set) = match rest {
                [b'!' | b'^', set @ ..] => (true, set),
                set => (false, set),
            };
            // A `]` in first place is a member, not the end.
            let end = 1 + set.iter().skip(1).position(|member| *member == b']')?;
            let mut found = false;
            let mut at = 0;
            while at < end {
                if at + 2 < end && set[at + 1] == b'-' {
                    found |= (set[at]..=set[at + 2]).contains(&byte);
                    at += 3;
                } else {
                    found |= set[at] == byte;
                    at += 1;
                }
            }
            (found != negated).then(|| 1 + usize::from(negated) + end + 1)
        }
        [first, ..] => (*first == byte).then_some(1),
        [] => None,
    }
}

/// The `modalias` of every device that the kernel knows now. `sys` is `/sys`.
#[must_use]
pub fn modaliases(sys: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for bus in entries(&sys.join("bus")) {
        for device in entries(&bus.join("devices")) {
            found.extend(read_text(&device.join("modalias")).filter(|alias| !alias.is_empty()));
        }
    }
    found
}

/// Loads modules, each once.
#[derive(Debug)]
pub struct Loader {
    tables: Tables,
    /// Devices that were looked at.
    seen: BTreeSet<String>,
    /// Paths that were tried.
    tried: BTreeSet<String>,
}

/// A module that the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("cannot load module {path}: {source}")]
pub struct LoadError {
    path: String,
    source: std::io::Error,
}

impl Loader {
    /// Nothing is loaded yet.
    #[must_use]
    pub fn new(tables: Tables) -> Self {
        Self {
            tables,
            seen: BTreeSet::new(),
            tried: BTreeSet::new(),
        }
    }

    /// Loads what devices ask for that were not there at the last call; the answer tells how many modules
    /// were loaded. A device whose module fails is not tried again.
    pub fn for_new_devices(&mut self, sys: &Path, failed: &mut dyn FnMut(LoadError)) -> usize {
        let mut loaded = 0;
        for alias in modaliases(sys) {
            if !self.seen.insert(alias.clone()) {
                continue;
            }
            let names: Vec<String> = self.tables.matching(&alias).map(str::to_owned).collect();
            for name in names {
                match self.load(&name) {
                    Ok(count) => loaded += count,
                    Err(error) => failed(error),
                }
            }
        }
        loaded
    }

    /// Loads a module by name with what it needs; the answer tells how many were loaded.
    ///
    /// # Errors
    /// When the kernel refuses one of them, or the initramfs does not have it.
    pub fn load(&mut self, name: &str) -> Result<usize, LoadError> {
        let paths: Vec<String> = self.tables.order(name).into_iter().map(str::to_owned).collect();
        if paths.is_empty() {
            return Err(LoadError {
                path: name.to_owned(),
                source: std::io::ErrorKind::NotFound.into(),
            });
        }
        let mut loaded = 0;
        for path in paths {
            if !self.tried.insert(path.clone()) {
                continue;
            }
            let result = File::open(self.tables.dir.join(&path)).and_then(|file| {
                match rustix::system::finit_module(&file, c"", 0) {
                    // Another one was faster, such as the kernel's own modprobe.
                    Ok(()) | Err(Errno::EXIST) => Ok(()),
                    Err(error) => Err(error.into()),
                }
            });
            match result {
                Ok(()) => loaded += 1,
                Err(source) => return Err(LoadError { path, source }),
            }
        }
        Ok(loaded)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use std::fs;

    use super::*;

    const E1000: &str = "pci:v00008086d0000100Esv00001AF4sd00001100bc02sc00i00";

    #[test]
    fn globs_of_modules_alias() {
        assert!(matches("pci:v00008086d0000100Esv*sd*bc*sc*i*", E1000));
        assert!(!matches("pci:v00008086d0000100Fsv*sd*bc*sc*i*", E1000));
        assert!(matches("pci:v*d*sv*sd*bc02sc00i00*", E1000));
        assert!(matches("virtio:d00000001v*", "virtio:d00000001v00001AF4"));
        assert!(matches(
            "usb:v*p*d*dc*dsc*dp*ic03isc*ip*in*",
            "usb:v0627p0001d0000dc00dsc00dp00ic03isc01ip01in00"
        ));
        assert!(matches("input:b*v*p*e*-e*1,*k*[0-9A-F]x", "input:b0v0p0e0-e01,k77Ax"));
        assert!(matches("a[!0-9]c?", "abcd") && !matches("a[!0-9]c?", "a1cd"));
        assert!(matches("a[]]b", "a]b") && matches("*", "") && matches("", ""));
        assert!(!matches("a[", "a[") && !matches("abc", "ab") && !matches("ab", "abc") && !matches("?", ""));
    }

    const DEP: &str = "kernel/drivers/net/virtio-net.ko: kernel/virtio_ring.ko kernel/virtio.ko\n\
                       kernel/virtio_ring.ko: kernel/virtio.ko\nkernel/virtio.ko:\nnonsense\n";

    #[test]
    fn dependencies_first() {
        let tables = Tables::parse(DEP, "alias virtio:d00000001v* virtio_net\nalias\n# x\n");
        let order = [
            "kernel/virtio.ko",
            "kernel/virtio_ring.ko",
            "kernel/drivers/net/virtio-net.ko",
        ];
        assert_eq!(tables.order("virtio_net"), order);
        assert_eq!(tables.order("virtio-net"), order);
        assert!(tables.order("none").is_empty());
        let found: Vec<_> = tables.matching("virtio:d00000001v00001AF4").collect();
        assert_eq!(found, ["virtio_net"]);
        assert_eq!(tables.matching("pci:x").count(), 0);
    }

    #[test]
    fn devices_of_a_sysfs() {
        let dir = tempfile::tempdir().unwrap();
        for (path, alias) in [
            ("bus/pci/devices/0000:00:02.0", E1000),
            ("bus/virtio/devices/virtio0", "virtio:x\n"),
        ] {
            fs::create_dir_all(dir.path().join(path)).unwrap();
            fs::write(dir.path().join(path).join("modalias"), alias).unwrap();
        }
        let found = modaliases(dir.path());
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [E1000, "virtio:x"]);
        assert!(modaliases(Path::new("/nonexistent")).is_empty());
    }

    #[test]
    fn a_module_that_is_not_there_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("modules.dep"), "kernel/a.ko:\n").unwrap();
        let mut loader = Loader::new(Tables::read(dir.path()));
        let error = loader.load("a").unwrap_err();
        assert!(error.to_string().contains("kernel/a.ko"), "{error}");
        assert!(loader.load("b").unwrap_err().to_string().contains('b'));
        // It is tried once.
        assert_eq!(loader.load("a").unwrap(), 0);
    }

    proptest! {
        #[test]
        fn a_text_matches_itself_and_its_stars(text in "[a-zA-Z0-9:_-]{0,40}", cut: prop::sample::Index) {
            prop_assert!(matches(&text, &text));
            let cut = cut.index(text.len() + 1);
            let starred = format!("{}*{}", &text[..cut], &text[cut..]);
            prop_assert!(matches(&starred, &text));
            let prefix = format!("{}*", &text[..cut]);
            prop_assert!(matches(&prefix, &text));
        }

        #[test]
        fn any_glob_ends(glob in "[ab*?\\[\\]!-]{0,24}", text in "[ab]{0,40}") {
            let _ = matches(&glob, &text);
        }
    }
}
