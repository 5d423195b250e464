//! The data directory: made private, held by one server at a time.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rand::RngExt as _;

/// A data directory that this process holds until the value is dropped.
pub(crate) struct DataDir {
    path: PathBuf,
    /// Closing it gives the lock back, also when the process is killed.
    _lock: File,
}

impl DataDir {
    /// Makes the folder (mode 0700) if need be and locks it.
    ///
    /// # Errors
    /// When it cannot be made, or another server holds it.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let holders = holders_of_new(path);
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .with_context(|| format!("making the data directory {}", path.display()))?;
        // What is acknowledged later is worth nothing in a folder whose own name a power loss takes away.
        for holder in &holders {
            sync(holder).with_context(|| format!("writing {} to disk", holder.display()))?;
        }
        let path = path
            .canonicalize()
            .with_context(|| format!("the data directory {}", path.display()))?;
        let lock_path = path.join("isobar.lock");
        let mut lock = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .with_context(|| format!("opening {}", lock_path.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = lock.read_to_string(&mut holder);
                let holder = holder.trim();
                bail!(
                    "the data directory {} is in use by another isobar serve (process {}): stop that one, or name \
                     another directory with --data-dir",
                    path.display(),
                    if holder.is_empty() { "unknown" } else { holder }
                );
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("locking {}", lock_path.display()));
            }
        }
        // For the message above; nothing relies on it.
        let _ = lock.set_len(0);
        let _ = lock.rewind();
        let _ = writeln!(lock, "{}", std::process::id());
        Ok(Self { path, _lock: lock })
    }

    /// A path below it.
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// The folders that get a new name in them when this one is made.
fn holders_of_new(path: &Path) -> Vec<PathBuf> {
    let new = path.ancestors().take_while(|folder| !folder.exists());
    let holder = |folder: &Path| match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    };
    new.filter(|folder| !folder.as_os_str().is_empty())
        .map(holder)
        .collect()
}

fn sync(folder: &Path) -> std::io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Writes a secret to a new file of mode 0600, whole or not at all; replaces an old one.
pub(crate) fn write_secret(path: &Path, secret: &str) -> std::io::Result<()> {
    let half = path.with_extension("new");
    match std::fs::remove_file(&half) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&half)?;
    writeln!(file, "{secret}")?;
    file.sync_all()?;
    std::fs::rename(&half, path)?;
    path.parent().map_or(Ok(()), sync)
}

/// 24 characters that survive a shell, a URL and reading aloud: 139 bits.
pub(crate) fn random_password() -> String {
    // Without 0, 1, I, O, l and o.
    const LETTERS: &[u8] = b"23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnpqrstuvwxyz";
    let mut rng = rand::rng();
    (0..24)
        .map(|_| char::from(LETTERS[rng.random_range(0..LETTERS.len())]))
        .collect()
}

/// First line of a password file.
pub(crate) fn read_password(path: &Path) -> anyhow::Result<String> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("reading the password file {}", path.display()))?;
    match text.lines().next().map(str::trim_end) {
        Some(line) if !line.is_empty() => Ok(line.to_owned()),
        _ => bail!("the first line of the password file {} is empty", path.display()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn one_holder_at_a_time_and_a_private_folder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/data");
        let held = DataDir::open(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
        let error = DataDir::open(&path).err().unwrap().to_string();
        let pid = std::process::id().to_string();
        assert!(
            error.contains(&pid) && error.contains("deep/data") && error.contains("--data-dir"),
            "{error}"
        );
        drop(held);
        DataDir::open(&path).unwrap();
    }

    #[test]
    fn each_folder_that_gets_a_new_name_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path();
        assert_eq!(holders_of_new(&top.join("a/b")), [top.join("a"), top.to_path_buf()]);
        assert_eq!(holders_of_new(&top.join("a")), [top.to_path_buf()]);
        assert!(holders_of_new(top).is_empty() && holders_of_new(Path::new(".")).is_empty());
        let (one, two) = (Path::new("not-there"), Path::new("not-there/data"));
        assert_eq!(holders_of_new(one), [Path::new(".")]);
        assert_eq!(holders_of_new(two), [one, Path::new(".")]);
    }

    #[test]
    fn secrets_are_private_and_passwords_are_not_alike() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rocketskates.password");
        let password = random_password();
        assert_eq!(password.len(), 24);
        assert_ne!(password, random_password());
        write_secret(&path, "old").unwrap();
        write_secret(&path, &password).unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(read_password(&path).unwrap(), password);
    }

    #[test]
    fn a_password_is_the_first_line_of_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        std::fs::write(&path, "two words\r\nx").unwrap();
        assert_eq!(read_password(&path).unwrap(), "two words");
        std::fs::write(&path, "\nx").unwrap();
        assert!(read_password(&path).unwrap_err().to_string().contains("empty"));
    }
}
