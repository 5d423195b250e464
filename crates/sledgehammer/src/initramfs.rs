//! `stage1.img`: the initramfs, small because every byte of it comes over a virtual CD.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use isobar_image::cpio::{Archive, Kind};

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

/// Puts it together; the same parts give the same bytes.
pub(crate) fn build(parts: &Parts<'_>) -> Result<Vec<u8>, Error> {
    let read = |path: &Path| fs::read(path).map_err(|source| Error::io("read", path, source));
    let mut entries: Vec<(String, Kind, u32, Vec<u8>)> = Vec::new();
    let modules = format!("lib/modules/{}", parts.release);
    for module in &parts.modules.modules {
        entries.push((
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
        entries.push((format!("{modules}/{name}"), Kind::File, 0o644, text.into_bytes()));
    }
    for (path, mode, text) in FILES {
        entries.push(((*path).to_owned(), Kind::File, *mode, text.as_bytes().to_vec()));
    }
    let release = format!("{}\n", parts.version);
    entries.push(("etc/isobar/release".to_owned(), Kind::File, 0o644, release.into_bytes()));
    entries.push(("init".to_owned(), Kind::File, 0o755, read(parts.agent)?));
    entries.push(("bin/busybox".to_owned(), Kind::File, 0o755, read(parts.busybox)?));
    for applet in parts.applets.lines().map(str::trim) {
        // `init` would be a second one, and a path is no name.
        if !applet.is_empty() && !applet.contains('/') && !["busybox", "init", "linuxrc"].contains(&applet) {
            entries.push((format!("bin/{applet}"), Kind::Symlink, 0o777, b"busybox".to_vec()));
        }
    }
    // The kernel calls it for modules that it misses: algorithms, file systems.
    entries.push((
        "sbin/modprobe".to_owned(),
        Kind::Symlink,
        0o777,
        b"../bin/busybox".to_vec(),
    ));
    // What the kernel gives /init as its standard input and output.
    entries.push(("dev/console".to_owned(), Kind::CharDevice(5, 1), 0o600, Vec::new()));
    entries.push(("dev/null".to_owned(), Kind::CharDevice(1, 3), 0o666, Vec::new()));

    let mut folders: BTreeSet<String> = FOLDERS.iter().map(|name| (*name).to_owned()).collect();
    for (path, ..) in &entries {
        let parents = path.match_indices('/').map(|(at, _)| path[..at].to_owned());
        folders.extend(parents);
    }
    entries.extend(folders.into_iter().map(|path| (path, Kind::Dir, 0o755, Vec::new())));
    entries.sort_by(|a, b| a.0.cmp(&b.0));

    let mut archive = Archive::new();
    for (path, kind, mode, data) in &entries {
        archive.add(path, *kind, *mode, data);
    }
    compress(&archive.finish())
}

/// Compresses, with the length padded to the 4 bytes at which the kernel looks for an archive that follows.
fn compress(plain: &[u8]) -> Result<Vec<u8>, Error> {
    let mut out = zstd::bulk::compress(plain, LEVEL).map_err(Error::Compress)?;
    out.resize(out.len().next_multiple_of(512), 0);
    Ok(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

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
        let image = build(&parts).unwrap();
        assert_eq!(image, build(&parts).unwrap());
        assert_eq!(image.len() % 512, 0);
        let plain = zstd::bulk::decompress(&image[..], 1 << 20);
        // The padding behind the frame is no frame; take the stream instead.
        let plain = plain.unwrap_or_else(|_| {
            let mut out = Vec::new();
            let mut frame = zstd::stream::read::Decoder::new(&image[..]).unwrap().single_frame();
            std::io::copy(&mut frame, &mut out).unwrap();
            out
        });
        let text = String::from_utf8_lossy(&plain);
        let at = |name: &str| text.find(&format!("{name}\0")).unwrap_or_else(|| panic!("no {name}"));
        assert!(at("etc") < at("etc/isobar") && at("etc/isobar") < at("etc/isobar/udhcpc"));
        assert!(at("dev/console") < at("init") && at("bin/sh") > 0 && at("lib/modules/6.1.0-1-amd64/modules.dep") > 0);
        assert!(!text.contains("../x"));
    }
}
