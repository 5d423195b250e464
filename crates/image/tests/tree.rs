//! Discs and archives that other programs made, read as trees.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use isobar_image::{
    Archive, Base, BaseFile, BaseSpec, BlobDir, BlobId, Content, FileRole, ImageReader, ReadAt, Tree, TreeError,
    TreeNode, plan,
};
use proptest::prelude::*;
use proptest::sample::Index;

struct Bytes(Vec<u8>);

impl ReadAt for Bytes {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<()> {
        let from = usize::try_from(offset).unwrap();
        let part = self
            .0
            .get(from..from + buf.len())
            .ok_or(std::io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(part);
        Ok(())
    }
}

/// As installation media are: long names, links, folders in folders.
fn tree(root: &Path) -> Vec<(&'static str, &'static [u8])> {
    let files: Vec<(&str, &[u8])> = vec![
        ("install.amd/vmlinuz", b"kernel"),
        ("install.amd/gtk/initrd.gz", b"initrd"),
        (
            "dists/bookworm/main/binary-amd64/nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn.gz",
            b"packages",
        ),
        ("empty", b""),
        ("d1/d2/d3/d4/d5/d6/d7/d8/d9/deep.txt", b"deep"),
    ];
    for (path, content) in &files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    symlink("bookworm", root.join("dists/stable")).unwrap();
    symlink(".", root.join("debian")).unwrap();
    symlink("../../../etc/passwd", root.join("install.amd/out")).unwrap();
    symlink("round", root.join("round")).unwrap();
    files
}

fn run(program: &str, arguments: &[&str], folder: &Path) {
    let done = Command::new(program).args(arguments).current_dir(folder).output();
    let done = done.unwrap_or_else(|e| panic!("{program}: {e} (cargo xtask test installs it)"));
    assert!(
        done.status.success(),
        "{program}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
}

fn content(source: &Bytes, tree: &Tree, path: &str) -> Option<Vec<u8>> {
    let Some(TreeNode::File { offset, len }) = tree.find(path) else {
        return None;
    };
    let mut bytes = vec![0; usize::try_from(*len).unwrap()];
    source.read_at(&mut bytes, *offset).unwrap();
    Some(bytes)
}

fn made(program: &str, arguments: &[&str]) -> (Bytes, Vec<(&'static str, &'static [u8])>) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("tree");
    fs::create_dir(&root).unwrap();
    let files = tree(&root);
    run(program, arguments, folder.path());
    (Bytes(fs::read(folder.path().join("out")).unwrap()), files)
}

#[test]
fn the_files_of_other_programs_discs_and_archives_are_where_they_say() {
    let with_links: [(&str, &[&str]); 4] = [
        ("genisoimage", &["-quiet", "-R", "-o", "out", "tree"]),
        (
            "genisoimage",
            &["-quiet", "-R", "-J", "-joliet-long", "-o", "out", "tree"],
        ),
        ("xorriso", &["-as", "mkisofs", "-quiet", "-o", "out", "tree"]),
        ("tar", &["-cf", "out", "-C", "tree", "."]),
    ];
    for (program, arguments) in with_links {
        let (source, files) = made(program, arguments);
        let tree = Tree::read(&source).unwrap();
        for (path, want) in &files {
            assert_eq!(
                content(&source, &tree, path).as_deref(),
                Some(*want),
                "{program} {path}"
            );
        }
        let through_link = "debian/dists/stable/main/binary-amd64";
        let packages = files[2].0.rsplit('/').next().unwrap();
        assert_eq!(tree.names(through_link).unwrap(), [packages], "{program}");
        assert_eq!(
            content(&source, &tree, &format!("{through_link}/{packages}")).as_deref(),
            Some(&b"packages"[..]),
            "{program}"
        );
        for nowhere in [
            "install.amd/out",
            "round",
            "install.amd/../../x",
            "install.amd/vmlinuz/x",
            "INSTALL.AMD/vmlinuz",
        ] {
            assert_eq!(tree.find(nowhere), None, "{program} {nowhere}");
        }
        assert!(tree.find("install.amd/../empty").is_some(), "{program}");
        assert_eq!(tree.find(""), Some(&TreeNode::Folder));
        assert_eq!(
            tree.names("install.amd").unwrap(),
            ["gtk/", "out", "vmlinuz"],
            "{program}"
        );
        assert_eq!(Tree::parse(&tree.to_text()).unwrap(), tree, "{program}");
    }
}

#[test]
fn discs_without_rock_ridge_have_joliets_names_or_small_letters() {
    let joliet = ["-quiet", "-J", "-joliet-long", "-o", "out", "tree"];
    let (source, files) = made("genisoimage", &joliet);
    let tree = Tree::read(&source).unwrap();
    assert_eq!(
        content(&source, &tree, "install.amd/vmlinuz").as_deref(),
        Some(files[0].1)
    );
    let plain = ["-quiet", "-iso-level", "3", "-o", "out", "tree"];
    let (source, files) = made("genisoimage", &plain);
    let tree = Tree::read(&source).unwrap();
    for path in ["EMPTY", "empty"] {
        assert_eq!(content(&source, &tree, path).as_deref(), Some(&b""[..]), "{path}");
    }
    let kernel = tree
        .names("")
        .unwrap()
        .into_iter()
        .find(|name| name.starts_with("install"))
        .unwrap();
    assert_eq!(
        content(&source, &tree, &format!("{kernel}vmlinuz")).as_deref(),
        Some(files[0].1)
    );
}

#[test]
fn a_file_above_four_gigabytes_is_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = Arc::new(BlobDir::open(folder.path()).unwrap());
    let len = (4u64 << 30) + 4097;
    // Our own disc: no byte of the file is read, so there need not be any.
    let large = BaseFile {
        path: "folder/large".to_owned(),
        content: Content::Blob {
            id: BlobId([7; 32]),
            len,
        },
        role: FileRole::Other,
    };
    let spec = BaseSpec {
        volume_id: "LARGE".to_owned(),
        files: vec![large],
        catalog: "boot.catalog".to_owned(),
        ..BaseSpec::default()
    };
    let image = Arc::new(plan(&Arc::new(Base::build(&spec, &blobs).unwrap()), &[]).unwrap());
    let offset = image
        .files()
        .iter()
        .find(|file| file.path == "folder/large")
        .unwrap()
        .offset;
    let tree = Tree::read(&ImageReader::new(image, blobs)).unwrap();
    assert_eq!(tree.find("folder/large"), Some(&TreeNode::File { offset, len }));
}

#[test]
fn what_is_no_tree_says_why() {
    let said = |bytes: Vec<u8>| Tree::read(&Bytes(bytes)).unwrap_err().to_string();
    assert_eq!(said(b"hello".to_vec()), "is neither an ISO 9660 disc nor a tar");
    assert!(said(vec![0xfd, b'7', b'z', b'X', b'Z', 0]).contains("compressed with xz"));
    let (disc, _) = made("genisoimage", &["-quiet", "-R", "-o", "out", "tree"]);
    let kernel = match Tree::read(&disc).unwrap().find("install.amd/vmlinuz") {
        Some(TreeNode::File { offset, .. }) => usize::try_from(*offset).unwrap(),
        other => panic!("{other:?}"),
    };
    let cut = Tree::read(&Bytes(disc.0[..kernel + 1].to_vec())).unwrap_err();
    assert!(matches!(&cut, TreeError::Short { .. }), "{cut}");
    let (tar, _) = made("tar", &["-cf", "out", "-C", "tree", "."]);
    assert_eq!(Archive::of(&tar).unwrap(), Archive::Tar);
    assert!(Tree::read(&Bytes(tar.0[..1600].to_vec())).is_err());
}

fn discs() -> &'static [Vec<u8>] {
    static DISCS: std::sync::OnceLock<Vec<Vec<u8>>> = std::sync::OnceLock::new();
    DISCS.get_or_init(|| {
        let disc = |arguments: &[&str]| made("genisoimage", arguments).0.0;
        vec![
            disc(&["-quiet", "-R", "-o", "out", "tree"]),
            disc(&["-quiet", "-J", "-o", "out", "tree"]),
            made("tar", &["-cf", "out", "-C", "tree", "."]).0.0,
        ]
    })
}

proptest! {
    #[test]
    fn damaged_ones_are_refused_or_read_but_never_panic(
        which in 0usize..3,
        hits in proptest::collection::vec((any::<Index>(), any::<u8>()), 1..12),
        cut in any::<Index>(),
        shorter in any::<bool>(),
    ) {
        let mut bytes = discs()[which].clone();
        // Where directories and descriptors are.
        let interesting = bytes.len().min(120 << 10);
        for (at, byte) in hits {
            let at = at.index(interesting);
            bytes[at] = byte;
        }
        if shorter {
            bytes.truncate(cut.index(bytes.len()));
        }
        let source = Bytes(bytes);
        if let Ok(tree) = Tree::read(&source) {
            for name in tree.names("").unwrap_or_default() {
                let _ = tree.find(name.trim_end_matches('/'));
            }
            prop_assert_eq!(Tree::parse(&tree.to_text()), Some(tree));
        }
    }
}
