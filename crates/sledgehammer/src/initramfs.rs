//! `stage1.img`: the initramfs, small because every byte of it comes over a virtual CD.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::path::Path;

use isobar_image::cpio::{Archive, Kind};
use sha2::{Digest as _, Sha256};

use crate::Error;
use crate::modules::Selection;

/// zstd's level. Under emulation gzip unpacks no faster and is a third larger; lz4 saves half a second
/// there and costs 5 MB more over the wire, which real BMCs carry at a few MB/s.
const LEVEL: i32 = 19;

/// Text files of the initramfs. Names are resolved from files and DNS only: anything else would make a static
/// glibc load a shared one.
const FILES: &[(&str, u32, &str)] = &[
    (
        "etc/nsswitch.conf",
        0o644,
        "passwd: files\ngroup: files\nhosts: files dns\n",
    ),
    ("etc/hosts", 0o644, "127.0.0.1 localhost\n::1 localhost\n"),
    ("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\n"),
    ("etc/group", 0o644, "root:x:0:\n"),
    (
        "etc/profile",
        0o644,
        "export PATH=/bin:/sbin HOME=/root PS1='sledgehammer:\\w# '\ncd\n",
    ),
    // udhcpc tells the lease through its environment; the agent reads it from the file.
    (
        "etc/isobar/udhcpc",
        0o755,
        "#!/bin/sh\n\
         case \"$1\" in bound|renew) ;; *) exit 0 ;; esac\n\
         file=/run/isobar/lease.$interface\n\
         for name in ip mask router dns mtu lease serverid; do\n\
         \teval \"echo $name=\\$$name\"\n\
         done > $file.new && mv $file.new $file\n",
    ),
];

/// Folders that are there before anything is mounted.
const FOLDERS: &[&str] = &["dev", "mnt", "proc", "root", "run", "sys", "tmp", "var"];

/// Its parts.
pub(crate) struct Parts<'a> {
    pub(crate) agent: &'a Path,
    pub(crate) busybox: &'a Path,
    /// Names under which busybox is to be found, from `busybox --list`.
    pub(crate) applets: &'a str,
    /// `6.1.0-56-amd64`.
    pub(crate) release: &'a str,
    pub(crate) modules: &'a Selection,
    /// Shown by the agent and by `cat /etc/isobar/release`.
    pub(crate) version: &'a str,
}

type File = (String, Kind, u32, Vec<u8>);

/// Puts it together; the same parts give the same bytes. They are two archives, one behind the other: what comes from
/// Debian, whose compressed form is kept in `cache` (it takes half a minute to make), and what is ours.
pub(crate) fn build(parts: &Parts<'_>, cache: &Path) -> Result<Vec<u8>, Error> {
    let mut image = kept(&archive(debians(parts)?), cache)?;
    image.extend(compress(&archive(ours(parts)?))?);
    Ok(image)
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::io("read", path, source))
}

fn debians(parts: &Parts<'_>) -> Result<Vec<File>, Error> {
    let mut files: Vec<File> = Vec::new();
    let modules = format!("lib/modules/{}", parts.release);
    for module in &parts.modules.modules {
        files.push((
            format!("{modules}/{}", module.path),
            Kind::File,
            0o644,
            read(&module.file)?,
        ));
    }
    for (name, text) in [
        ("modules.dep", parts.modules.dep()),
        ("modules.alias", parts.modules.alias()),
    ] {
        files.push((format!("{modules}/{name}"), Kind::File, 0o644, text.into_bytes()));
    }
    files.push(("bin/busybox".to_owned(), Kind::File, 0o755, read(parts.busybox)?));
    for applet in parts.applets.lines().map(str::trim) {
        // `init` would be a second one, and a path is no name.
        if !applet.is_empty() && !applet.contains('/') && !["busybox", "init", "linuxrc"].contains(&applet) {
            files.push((format!("bin/{applet}"), Kind::Symlink, 0o777, b"busybox".to_vec()));
        }
    }
    // The kernel calls it for modules that it misses: algorithms, file systems.
    files.push((
        "sbin/modprobe".to_owned(),
        Kind::Symlink,
        0o777,
        b"../bin/busybox".to_vec(),
    ));
    Ok(files)
}

fn ours(parts: &Parts<'_>) -> Result<Vec<File>, Error> {
    let mut files: Vec<File> = Vec::new();
    for (path, mode, text) in FILES {
        files.push(((*path).to_owned(), Kind::File, *mode, text.as_bytes().to_vec()));
    }
    let release = format!("{}\n", parts.version);
    files.push(("etc/isobar/release".to_owned(), Kind::File, 0o644, release.into_bytes()));
    files.push(("init".to_owned(), Kind::File, 0o755, read(parts.agent)?));
    // What the kernel gives /init as its standard input and output.
    files.push(("dev/console".to_owned(), Kind::CharDevice(5, 1), 0o600, Vec::new()));
    files.push(("dev/null".to_owned(), Kind::CharDevice(1, 3), 0o666, Vec::new()));
    files.extend(
        FOLDERS
            .iter()
            .map(|path| ((*path).to_owned(), Kind::Dir, 0o755, Vec::new())),
    );
    Ok(files)
}

/// Makes an archive, ordered by path, with the folders that the files lie in.
fn archive(mut files: Vec<File>) -> Vec<u8> {
    let mut folders = BTreeSet::new();
    for (path, ..) in &files {
        folders.extend(path.match_indices('/').map(|(at, _)| path[..at].to_owned()));
    }
    folders.retain(|folder| !files.iter().any(|(path, ..)| path == folder));
    files.extend(folders.into_iter().map(|path| (path, Kind::Dir, 0o755, Vec::new())));
    files.sort_by(|a, b| a.0.cmp(&b.0));
    let mut archive = Archive::new();
    for (path, kind, mode, data) in &files {
        archive.add(path, *kind, *mode, data);
    }
    archive.finish()
}

/// Compresses, unless that was done before.
fn kept(plain: &[u8], cache: &Path) -> Result<Vec<u8>, Error> {
    let file = cache.join(format!("debian-{}.cpio.zst", hex::encode(Sha256::digest(plain))));
    // What was compressed with another level or version differs, but unpacks to the same.
    if let Ok(image) = fs::read(&file)
        && unpacks_to(&image, plain)
    {
        return Ok(image);
    }
    let image = compress(plain)?;
    fs::create_dir_all(cache).map_err(|source| Error::io("make", cache, source))?;
    fs::write(&file, &image).map_err(|source| Error::io("write", &file, source))?;
    Ok(image)
}

fn unpacks_to(image: &[u8], plain: &[u8]) -> bool {
    let mut unpacked = Vec::with_capacity(plain.len());
    let frame = zstd::stream::read::Decoder::new(image).map(zstd::stream::read::Decoder::single_frame);
    let read = frame.and_then(|frame| frame.take(plain.len() as u64 + 1).read_to_end(&mut unpacked));
    read.is_ok() && unpacked == plain
}

/// Compresses, with the length padded to the 4 bytes at which the kernel looks for an archive that follows.
fn compress(plain: &[u8]) -> Result<Vec<u8>, Error> {
    let mut out = zstd::bulk::compress(plain, LEVEL).map_err(Error::Compress)?;
    out.resize(out.len().next_multiple_of(4), 0);
    Ok(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn unpack(image: &[u8]) -> String {
        let mut out = Vec::new();
        let mut frame = zstd::stream::read::Decoder::new(image).unwrap().single_frame();
        std::io::copy(&mut frame, &mut out).unwrap();
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn folders_come_first_and_all_is_reproducible() {
        let dir = tempfile::tempdir().unwrap();
        let agent = dir.path().join("agent");
        fs::write(&agent, "the agent").unwrap();
        let modules = Selection {
            modules: Vec::new(),
            absent: Vec::new(),
        };
        let parts = Parts {
            agent: &agent,
            busybox: &agent,
            applets: "sh\nip\nbusybox\n../x\n",
            release: "6.1.0-1-amd64",
            modules: &modules,
            version: "1",
        };
        let cache = dir.path().join("cache");
        let image = build(&parts, &cache).unwrap();
        let kept = fs::read_dir(&cache).unwrap().next().unwrap().unwrap().path();
        // From the cache, and from one that was damaged.
        assert_eq!(image, build(&parts, &cache).unwrap());
        let debian = fs::read(&kept).unwrap();
        fs::write(&kept, &debian[..debian.len() / 2]).unwrap();
        assert_eq!(image, build(&parts, &cache).unwrap());

        assert_eq!((image.len() % 4, debian.len() % 4), (0, 0));
        let (first, second) = (unpack(&image), unpack(&image[debian.len()..]));
        let at = |text: &str, name: &str| text.find(&format!("{name}\0")).unwrap_or_else(|| panic!("no {name}"));
        assert!(at(&second, "etc") < at(&second, "etc/isobar"));
        assert!(at(&second, "etc/isobar") < at(&second, "etc/isobar/udhcpc"));
        assert!(at(&second, "dev/console") < at(&second, "init") && second.contains("the agent"));
        assert!(at(&first, "lib/modules/6.1.0-1-amd64") < at(&first, "lib/modules/6.1.0-1-amd64/modules.dep"));
        assert!(at(&first, "bin/sh") > 0 && !first.contains("../x"));
    }
}
