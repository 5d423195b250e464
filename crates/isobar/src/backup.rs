//! A backup: one tar file with the database, the blobs and, when asked for, the keys.
//!
//! Its first member says what it is, its last one what has to be in it: a backup that broke off is known as one. Blobs
//! are packed before the database, which refers to them, and once more what came meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{BufReader, BufWriter, IsTerminal as _, Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use isobar_image::{BlobDir, BlobId};
use isobar_store::sqlite;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Version of the format.
const FORMAT: u32 = 1;
const HEAD: &str = "isobar-backup.json";
const END: &str = "end.json";
const DATABASE: &str = "isobar.db";
const BLOBS: &str = "blobs/sha256/";
/// Files of the data directory that let their reader open secrets, or be this server.
const KEYS: &[&str] = &["vault.key", "tls.key", "tls.crt", "rocketskates.password"];
/// Largest of the small members, bytes.
const SMALL: u64 = 1 << 20;
const CHUNK: usize = 1 << 20;

/// First member.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    format: u32,
    /// Version of the program that made it.
    isobar: String,
    keys: bool,
}

/// Last member.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// Last commit that is in it.
    pub(crate) revision: u64,
    /// Schema version of the database.
    pub(crate) schema: u32,
    pub(crate) blobs: usize,
    /// SHA-256 of the members that are not blobs, whose names are theirs.
    sums: BTreeMap<String, String>,
}

/// How far it is, on standard error: a line that is written anew on a terminal, else one every ten seconds.
struct Progress {
    terminal: bool,
    told: Instant,
    pause: Duration,
}

impl Progress {
    fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        let pause = Duration::from_millis(if terminal { 200 } else { 10_000 });
        let told = Instant::now();
        Self { terminal, told, pause }
    }

    fn tell(&mut self, what: &str, done: u64, all: u64) {
        if self.told.elapsed() < self.pause {
            return;
        }
        self.told = Instant::now();
        let percent = done.saturating_mul(100) / all.max(1);
        let (begin, end) = if self.terminal { ("\r\x1b[K", "") } else { ("", "\n") };
        eprint!("{begin}{what}: {percent} % of {all}{end}");
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.terminal {
            eprint!("\r\x1b[K");
        }
    }
}

/// Hashes what passes.
struct Summed<T> {
    inner: T,
    hash: Sha256,
}

impl<T> Summed<T> {
    fn new(inner: T) -> Self {
        let hash = Sha256::new();
        Self { inner, hash }
    }

    fn sum(self) -> String {
        self.hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl<T: Read> Read for Summed<T> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.hash.update(&buf[..n]);
        Ok(n)
    }
}

impl<T: Write> Write for Summed<T> {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        let n = self.inner.write(buf)?;
        self.hash.update(&buf[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

/// A file that is removed again unless it is kept.
struct Half(Option<PathBuf>);

impl Drop for Half {
    fn drop(&mut self) {
        if let Some(path) = self.0.take() {
            let _ = fs::remove_file(path);
        }
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// Makes a new file of mode 0600.
fn make(path: &Path) -> anyhow::Result<File> {
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    made.with_context(|| format!("making {}", path.display()))
}

/// Packs the data directory into a new file, also while a server uses it.
///
/// # Errors
/// A file that is there already, a folder that is no data directory, the disk.
pub(crate) fn backup(data: &Path, to: &Path, keys: bool) -> anyhow::Result<Summary> {
    let database = data.join(DATABASE);
    if !database.exists() {
        bail!(
            "{} is no data directory of isobar: there is no {DATABASE}",
            data.display()
        );
    }
    if to.exists() {
        bail!("{} is there already: name another file, or move it away", to.display());
    }
    let (part, copy) = (with_suffix(to, ".part"), with_suffix(to, ".db"));
    // What an interrupted backup left.
    for old in [&part, &copy] {
        let _ = fs::remove_file(old);
    }
    let file = make(&part)?;
    let mut part = Half(Some(part));
    let copied = Half(Some(copy.clone()));
    let mut progress = Progress::new();
    let mut tar = tar::Builder::new(BufWriter::with_capacity(CHUNK, file));
    let mut sums = BTreeMap::new();
    let head = Head {
        format: FORMAT,
        isobar: env!("CARGO_PKG_VERSION").to_owned(),
        keys,
    };
    append(&mut tar, HEAD, &mut serde_json::to_vec(&head)?.as_slice(), None)?;
    let mut packed = BTreeSet::new();
    blobs(&mut tar, data, &mut packed, &mut progress)?;
    let snapshot = sqlite::snapshot(&database, &copy, &mut |done, all| progress.tell("pages", done, all))?;
    // What came after the first look, for objects that the copy has.
    blobs(&mut tar, data, &mut packed, &mut progress)?;
    let mut source = Summed::new(BufReader::with_capacity(CHUNK, File::open(&copy)?));
    append(&mut tar, DATABASE, &mut source, Some(fs::metadata(&copy)?.len()))?;
    sums.insert(DATABASE.to_owned(), source.sum());
    drop(copied);
    for name in KEYS.iter().filter(|_| keys) {
        match fs::read(data.join(name)) {
            Ok(bytes) => {
                let mut source = Summed::new(bytes.as_slice());
                append(&mut tar, name, &mut source, Some(bytes.len() as u64))?;
                sums.insert((*name).to_owned(), source.sum());
            }
            // A certificate of the operator's own lies elsewhere; the password file may be removed.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && *name != "vault.key" => {}
            Err(e) => return Err(e).with_context(|| format!("reading {}", data.join(name).display())),
        }
    }
    let summary = Summary {
        revision: snapshot.rev.0,
        schema: snapshot.schema,
        blobs: packed.len(),
        sums,
    };
    append(&mut tar, END, &mut serde_json::to_vec(&summary)?.as_slice(), None)?;
    let written = tar
        .into_inner()?
        .into_inner()
        .map_err(std::io::IntoInnerError::into_error);
    let written = written.and_then(|file| file.sync_all());
    written.with_context(|| format!("writing {}", to.display()))?;
    if let Some(path) = part.0.take() {
        fs::rename(&path, to).with_context(|| format!("naming {}", to.display()))?;
    }
    sync_folder_of(to)?;
    Ok(summary)
}

fn sync_folder_of(path: &Path) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

type Archive = tar::Builder<BufWriter<File>>;

/// Adds a member; `len` where it is not all in memory.
fn append(tar: &mut Archive, name: &str, from: &mut dyn Read, len: Option<u64>) -> anyhow::Result<()> {
    let mut bytes = Vec::new();
    let len = match len {
        Some(len) => len,
        None => from.read_to_end(&mut bytes)? as u64,
    };
    let mut header = tar::Header::new_gnu();
    header.set_size(len);
    header.set_mode(0o600);
    let source = bytes.as_slice().chain(from.take(len));
    let added = tar.append_data(&mut header, name, source);
    added.with_context(|| format!("packing {name}"))
}

/// Packs the blobs that are not packed yet.
fn blobs(tar: &mut Archive, data: &Path, packed: &mut BTreeSet<BlobId>, progress: &mut Progress) -> anyhow::Result<()> {
    // Not `BlobDir::open`, which clears up what a server's imports have under way.
    let folder = data.join(BLOBS);
    if !folder.exists() {
        return Ok(());
    }
    let mut found = Vec::new();
    for shard in fs::read_dir(&folder)? {
        for blob in fs::read_dir(shard?.path())? {
            let path = blob?.path();
            let id: Option<BlobId> = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse().ok());
            found.extend(id.map(|id| (id, path)));
        }
    }
    found.sort_unstable();
    found.retain(|(id, _)| !packed.contains(id));
    let sizes = found.iter().map(|(_, path)| fs::metadata(path).map_or(0, |m| m.len()));
    let (mut done, all) = (0, sizes.sum());
    for (id, path) in found {
        let file = match File::open(&path) {
            Ok(file) => file,
            // Collected since: nothing in the database needs it.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e).with_context(|| format!("reading {}", path.display())),
        };
        let len = file.metadata()?.len();
        append(
            tar,
            &format!("{BLOBS}{id}"),
            &mut Counted {
                inner: file,
                done: &mut done,
                all,
                progress,
            },
            Some(len),
        )?;
        packed.insert(id);
    }
    Ok(())
}

struct Counted<'a> {
    inner: File,
    done: &'a mut u64,
    all: u64,
    progress: &'a mut Progress,
}

impl Read for Counted<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buf)?;
        *self.done += n as u64;
        self.progress.tell("bytes of blobs", *self.done, self.all);
        Ok(n)
    }
}

/// What a restored data directory lacks.
#[derive(Debug)]
pub(crate) struct Restored {
    pub(crate) summary: Summary,
    pub(crate) keys: bool,
}

/// Unpacks a backup into a data directory that is empty or not there yet. Everything is checked; the database gets its
/// name last, so that what an interrupted restore leaves is no data directory.
///
/// # Errors
/// A folder with something in it, a file that is no whole backup, a database of a newer program, the disk.
pub(crate) fn restore(from: &Path, data: &Path) -> anyhow::Result<Restored> {
    let file = File::open(from).with_context(|| format!("opening {}", from.display()))?;
    let all = file.metadata()?.len();
    if fs::read_dir(data).is_ok_and(|mut files| files.next().is_some()) {
        bail!(
            "{} is not empty: restore into a new folder (--data-dir), or move away what is in it",
            data.display()
        );
    }
    let held = crate::data_dir::DataDir::open(data)?;
    let (store, database) = (BlobDir::open(&held.join("blobs"))?, held.join(DATABASE));
    let half = with_suffix(&database, ".part");
    let mut progress = Progress::new();
    let (mut head, mut end) = (None::<Head>, None::<Summary>);
    let (mut sums, mut blobs, mut done) = (BTreeMap::new(), 0, 0);
    let mut archive = tar::Archive::new(BufReader::with_capacity(CHUNK, file));
    let broken = || format!("{} is no backup of isobar, or a damaged one", from.display());
    for entry in archive.entries().with_context(broken)? {
        let mut entry = entry.with_context(broken)?;
        let name = String::from_utf8(entry.path_bytes().into_owned()).with_context(broken)?;
        let size = entry.size();
        match name.as_str() {
            _ if end.is_some() => bail!("{}: {name} comes after its end", broken()),
            HEAD => {
                let read: Head = serde_json::from_slice(&small(&mut entry)?).with_context(broken)?;
                if read.format > FORMAT {
                    bail!(
                        "{} was made by a newer isobar ({}): use that one",
                        from.display(),
                        read.isobar
                    );
                }
                head = Some(read);
            }
            _ if head.is_none() => bail!(broken()),
            END => {
                let read: Summary = serde_json::from_slice(&small(&mut entry)?).with_context(broken)?;
                if read.schema > sqlite::SCHEMA {
                    bail!(
                        "{} has schema version {}, this program knows up to {}: use a newer isobar",
                        from.display(),
                        read.schema,
                        sqlite::SCHEMA
                    );
                }
                end = Some(read);
            }
            _ if name == DATABASE || KEYS.contains(&name.as_str()) => {
                let path = if name == DATABASE {
                    half.clone()
                } else {
                    held.join(&name)
                };
                let mut to = Summed::new(make(&path)?);
                let written = std::io::copy(&mut entry, &mut to).and_then(|_| to.inner.sync_all());
                written.with_context(|| format!("writing {}", path.display()))?;
                sums.insert(name, to.sum());
            }
            _ => {
                let id: Option<BlobId> = name.strip_prefix(BLOBS).and_then(|id| id.parse().ok());
                let id = id.with_context(|| format!("{}: it has a member {name:?}", broken()))?;
                let (found, _) = store.import(&mut entry)?;
                if found != id {
                    bail!("{}: blob {id} has other bytes than its name says", broken());
                }
                blobs += 1;
            }
        }
        done += size;
        progress.tell("bytes", done, all);
    }
    drop(progress);
    let (Some(head), Some(summary)) = (head, end) else {
        bail!(
            "{} broke off before its end: nothing of it can be trusted",
            from.display()
        );
    };
    if sums != summary.sums || blobs != summary.blobs {
        bail!("{}: not all is in it that should be, or not as it was", broken());
    }
    fs::rename(&half, &database)?;
    File::open(held.path())?.sync_all()?;
    let keys = head.keys;
    Ok(Restored { summary, keys })
}

fn small(entry: &mut dyn Read) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    entry.take(SMALL).read_to_end(&mut bytes)?;
    Ok(bytes)
}
