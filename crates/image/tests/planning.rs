//! Whatever is planned reads back as the tree that was asked for, at any range.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::{Fixture, noise, own, real_own, real_spec, volume};
use isobar_image::{
    Base, BaseFile, BaseSpec, BlobDir, Content, FileRole, Image, ImageReader, OwnFile, PathProblem, PlanError, ReadAt,
    Segment, plan,
};
use proptest::prelude::*;
use proptest::sample::{Index, select};

const GAP: u64 = 512 * 1024;
/// Readers fetch more than they were asked for.
const PADDING: u64 = 150 * 2048;

/// Components that collide: in case, in what short names drop, with long common beginnings.
fn component() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => select(vec!["boot", "grub", "EFI", "BOOT", "a", "A", "b.c", "B_C", "b-c", ".d", "x.tar.gz", "x.tar_gz"])
            .prop_map(str::to_owned),
        2 => "[a-z]{1,3}(\\.[a-z]{0,3})?",
        1 => "[äöü漢字 é~]{1,5}",
        1 => (select(vec![29_usize, 30, 31, 100, 115, 116, 117, 118, 249, 250, 251, 254]), "[ab]")
            .prop_map(|(len, end)| "n".repeat(len) + &end),
    ]
}

fn file_path() -> impl Strategy<Value = String> {
    prop::collection::vec(component(), 1..=4).prop_map(|components| components.join("/"))
}

fn file_role() -> impl Strategy<Value = FileRole> {
    select(vec![
        FileRole::Other,
        FileRole::Other,
        FileRole::GrubConfig,
        FileRole::Kernel,
        FileRole::OwnInitrd,
    ])
}

fn len() -> impl Strategy<Value = usize> {
    prop_oneof![Just(0), Just(1), Just(2047), Just(2048), Just(2049), 0..20_000_usize]
}

type Tree = BTreeMap<String, (usize, FileRole)>;

/// A set of paths in which no file is the folder of another.
fn tree(size: usize) -> impl Strategy<Value = Tree> {
    prop::collection::vec((file_path(), len(), file_role()), 0..size).prop_map(|files| {
        let mut tree = Tree::new();
        for (path, len, role) in files {
            if fits(&tree, &path) {
                tree.insert(path, (len, role));
            }
        }
        tree
    })
}

fn fits(tree: &Tree, path: &str) -> bool {
    let below = format!("{path}/");
    let is_folder = tree
        .range(below.clone()..)
        .next()
        .is_some_and(|(p, _)| p.starts_with(&below));
    let in_file = path.match_indices('/').any(|(at, _)| tree.contains_key(&path[..at]));
    !is_folder && !in_file
}

struct Case {
    fixture: Fixture,
    base: Arc<Base>,
    own: Vec<OwnFile>,
    expected: BTreeMap<String, Vec<u8>>,
}

/// `flood`: so many own files for the folder of one of the base's files, with so long names.
fn case(base_tree: &Tree, own_tree: &Tree, flood: (Index, usize, usize)) -> Case {
    let fixture = Fixture::new();
    let mut expected = BTreeMap::new();
    let mut files = Vec::new();
    for (n, (path, (len, role))) in base_tree.iter().enumerate() {
        let bytes = noise(n as u64, *len);
        files.push(fixture.file(path, &bytes, *role));
        expected.insert(path.clone(), bytes);
    }
    let spec = BaseSpec {
        volume_id: "TEST".to_owned(),
        files,
        ..BaseSpec::default()
    };
    let base = Arc::new(Base::build(&spec, &fixture.blobs).unwrap());
    let mut own_files = Vec::new();
    for (n, (path, (len, role))) in own_tree.iter().enumerate() {
        // What does not fit the base's tree is left out.
        let mut both: Tree = base_tree.clone();
        both.remove(path);
        if fits(&both, path) {
            let bytes = noise(1_000_000 + n as u64, *len);
            own_files.push(own(path, bytes.clone(), *role));
            expected.insert(path.clone(), bytes);
        }
    }
    let folders: Vec<&str> = base_tree
        .keys()
        .map(|path| path.rsplit_once('/').map_or("", |(f, _)| f))
        .collect();
    if !folders.is_empty() {
        let folder = flood.0.get(&folders);
        for n in 0..flood.1 {
            let name = format!("flood {n:03}{}", "x".repeat(flood.2));
            let path = if folder.is_empty() {
                name
            } else {
                format!("{folder}/{name}")
            };
            own_files.push(own(&path, vec![n as u8; n], FileRole::Other));
            expected.insert(path, vec![n as u8; n]);
        }
    }
    Case {
        fixture,
        base,
        own: own_files,
        expected,
    }
}

/// All that holds for every image.
fn check(image: &Arc<Image>, blobs: &Arc<BlobDir>, expected: &BTreeMap<String, Vec<u8>>) -> Vec<u8> {
    let mut disc = Vec::new();
    image.export(blobs, &mut disc).unwrap();
    assert_eq!(disc.len() as u64, image.len());

    let volume = volume::read(&|offset, len| disc[offset as usize..][..len].to_vec());
    assert_eq!(u64::from(volume.sectors) * 2048, image.len());
    let found: Vec<&String> = volume.files.keys().collect();
    assert_eq!(found, expected.keys().collect::<Vec<_>>());
    for (path, bytes) in expected {
        let file = &volume.files[path];
        let (lba, len) = file.extents[0];
        let offset = u64::from(lba) * 2048;
        assert!(disc[offset as usize..][..len as usize] == bytes[..], "bytes of {path}");
        let entry = image.file(path).unwrap();
        assert_eq!(
            (&entry.path, entry.offset, entry.len),
            (path, offset, bytes.len() as u64)
        );
    }

    let files = image.files();
    for (n, file) in files.iter().enumerate() {
        assert_eq!(file.id.0 as usize, n);
        assert!(
            file.offset + file.len + PADDING <= image.len(),
            "no padding after {}",
            file.path
        );
    }
    for pair in files.windows(2) {
        let end = pair[0].offset + pair[0].len;
        let together = pair[0].role == FileRole::Other && pair[1].role == FileRole::Other;
        let gap = if together { 0 } else { GAP };
        assert!(pair[1].offset >= end + gap, "{} then {}", pair[0].path, pair[1].path);
    }

    let mut at = 0;
    let mut labelled = vec![0; files.len()];
    for piece in image.pieces(0..u64::MAX) {
        assert_eq!(piece.offset, at);
        assert!(!piece.segment.is_empty());
        at += piece.segment.len();
        if let Some(id) = piece.file {
            let file = &files[id.0 as usize];
            assert!(piece.offset >= file.offset && at <= file.offset + file.len);
            labelled[id.0 as usize] += piece.segment.len();
        }
    }
    assert_eq!(at, image.len());
    assert_eq!(labelled, files.iter().map(|file| file.len).collect::<Vec<_>>());
    disc
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn an_image_is_the_base_with_own_files(
        base in tree(40),
        own in tree(12),
        flood in (any::<Index>(), prop_oneof![Just(0), 0..80_usize], 1..240_usize),
        ranges in prop::collection::vec((any::<Index>(), any::<Index>(), 1..70_000_usize), 1..20),
    ) {
        let case = case(&base, &own, flood);
        let image = Arc::new(plan(&case.base, &case.own).unwrap());
        let disc = check(&image, &case.fixture.blobs, &case.expected);

        // Served = exported, near the edges of regions and anywhere.
        let reader = ImageReader::new(Arc::clone(&image), Arc::clone(&case.fixture.blobs));
        for (near, at, len) in ranges {
            let file = &image.files()[near.index(image.files().len())];
            for start in [at.index(disc.len()), (file.offset + file.len) as usize - (file.len as usize).min(len / 2)] {
                let end = (start + len).min(disc.len());
                let mut bytes = vec![0xEE; end - start];
                reader.read_at(&mut bytes, start as u64).unwrap();
                prop_assert!(bytes == disc[start..end]);
                let mut written = Vec::new();
                image.write_range(start as u64..(start + len) as u64, &case.fixture.blobs, &mut written).unwrap();
                prop_assert!(written == disc[start..end]);
            }
        }

        // The same bytes from what the store keeps.
        let base = Arc::new(Base::from_bytes(&case.base.to_bytes()).unwrap());
        prop_assert_eq!(base.digest(), case.base.digest());
        prop_assert_eq!(base.files(), case.base.files());
        let again = Image::from_delta(base, &image.delta()).unwrap();
        prop_assert_eq!(again.etag(), image.etag());
        prop_assert_eq!(again.files(), image.files());
        prop_assert!(case.fixture.bytes(&again) == disc);

        // The order of own files says nothing.
        let mut reversed = case.own;
        reversed.reverse();
        prop_assert_eq!(plan(&case.base, &reversed).unwrap().delta(), image.delta());
    }

    #[test]
    fn a_base_does_not_depend_on_the_order_of_its_files(tree in tree(20)) {
        let fixture = Fixture::new();
        let mut files: Vec<BaseFile> = tree
            .iter()
            .map(|(path, (len, role))| fixture.file(path, &noise(1, *len), *role))
            .collect();
        let build = |files| Base::build(
            &BaseSpec { volume_id: "TEST".to_owned(), files, ..BaseSpec::default() },
            &fixture.blobs,
        ).unwrap();
        let one = build(files.clone());
        files.reverse();
        let two = build(files);
        prop_assert_eq!(one.to_bytes(), two.to_bytes());
        prop_assert_eq!(one.digest(), two.digest());
    }
}

#[test]
fn a_machine_costs_little() {
    let fixture = Fixture::new();
    let base = fixture.real_base();
    let image = plan(&base, &real_own()).unwrap();
    assert!(
        image.delta().len() <= 24 * 1024,
        "delta of {} bytes",
        image.delta().len()
    );
    let blobs = base.blobs();
    assert_eq!(blobs, image.blobs());
    assert!(blobs.iter().all(|id| fixture.blobs.contains(id)));
}

#[test]
fn a_base_alone_is_a_disc() {
    let fixture = Fixture::new();
    let mut files = common::real_files();
    let base = fixture.real_base();
    let image = Arc::new(plan(&base, &[]).unwrap());
    // Two files are ours to write.
    let mut eltorito = files.remove("boot/grub/i386-pc/eltorito.img").unwrap();
    let entry = base.file("boot/grub/i386-pc/eltorito.img").unwrap();
    assert_eq!(entry.role, FileRole::BiosImage);
    let sum = eltorito[64..].chunks(4).fold(0_u32, |sum, w| {
        let mut word = [0; 4];
        word[..w.len()].copy_from_slice(w);
        sum.wrapping_add(u32::from_le_bytes(word))
    });
    eltorito[8..64].fill(0);
    for (n, v) in [16, (entry.offset / 2048) as u32, eltorito.len() as u32, sum]
        .into_iter()
        .enumerate()
    {
        eltorito[8 + 4 * n..12 + 4 * n].copy_from_slice(&v.to_le_bytes());
    }
    files.insert("boot/grub/i386-pc/eltorito.img".to_owned(), eltorito);
    let mut catalog = Vec::new();
    let entry = image.file("boot.catalog").unwrap();
    assert_eq!((entry.role, entry.len), (FileRole::BootCatalog, 2048));
    image
        .write_range(entry.offset..entry.offset + entry.len, &fixture.blobs, &mut catalog)
        .unwrap();
    files.insert("boot.catalog".to_owned(), catalog);
    check(&image, &fixture.blobs, &files);
    assert_eq!(image.files(), base.files());
}

#[test]
fn own_files_of_any_length_move_what_has_no_room() {
    let fixture = Fixture::new();
    let base = fixture.real_base();
    // The base's own `grub.cfg` has 10 bytes; the folder of 286 modules gets 600 more files,
    // and 600 new folders are too many for the path tables.
    let mut own_files = vec![own("boot/grub/grub.cfg", noise(1, 3_000_000), FileRole::GrubConfig)];
    for n in 0..600 {
        own_files.push(own(
            &format!("boot/grub/i386-pc/own_{n}.mod"),
            noise(n, 10),
            FileRole::Other,
        ));
        own_files.push(own(&format!("new/{n}/file"), noise(n, 10), FileRole::Other));
    }
    let image = Arc::new(plan(&base, &own_files).unwrap());
    let mut expected: BTreeMap<String, Vec<u8>> = common::real_files();
    for file in &own_files {
        expected.insert(file.path.clone(), file.bytes.to_vec());
    }
    for ours in ["boot/grub/i386-pc/eltorito.img", "boot.catalog"] {
        let entry = image.file(ours).unwrap();
        let mut bytes = Vec::new();
        image
            .write_range(entry.offset..entry.offset + entry.len, &fixture.blobs, &mut bytes)
            .unwrap();
        expected.insert(ours.to_owned(), bytes);
    }
    check(&image, &fixture.blobs, &expected);
    assert!(image.files().iter().any(|file| file.path == "<own metadata>"));
}

#[test]
fn files_above_four_gigabytes_have_several_extents() {
    let fixture = Fixture::new();
    let small = fixture.file("vmlinuz0", b"kernel", FileRole::Kernel);
    let len = 9 * (1 << 30) + 12_345;
    let id = isobar_image::BlobId([7; 32]);
    let large = BaseFile {
        path: "large.img".to_owned(),
        content: Content::Blob { id, len },
        role: FileRole::Initrd,
    };
    let spec = BaseSpec {
        volume_id: "TEST".to_owned(),
        files: vec![small, large],
        ..BaseSpec::default()
    };
    let base = Arc::new(Base::build(&spec, &fixture.blobs).unwrap());
    let image = plan(&base, &[own("own", "x", FileRole::Other)]).unwrap();
    let volume = volume::read(&|offset, len| {
        let mut bytes = Vec::new();
        image
            .write_range(offset..offset + len as u64, &fixture.blobs, &mut bytes)
            .unwrap();
        bytes
    });
    let file = &volume.files["large.img"];
    assert_eq!(file.len(), len);
    assert_eq!(file.extents.len(), 3);
    let mut at = image.file("large.img").unwrap().offset;
    for (lba, len) in &file.extents {
        assert_eq!(u64::from(*lba) * 2048, at);
        at += u64::from(*len);
    }
    let piece = &image.pieces(at - 10..at)[0];
    assert_eq!(
        piece.segment,
        Segment::Blob {
            id,
            offset: len - 10,
            len: 10
        }
    );
}

#[test]
fn a_replaced_file_is_in_the_tree_once() {
    let fixture = Fixture::new();
    let base = fixture.real_base();
    let image = plan(&base, &[own("vmlinuz0", "mine", FileRole::Kernel)]).unwrap();
    assert_eq!(image.files().iter().filter(|file| file.path == "vmlinuz0").count(), 1);
    let entry = image.file("vmlinuz0").unwrap();
    assert_eq!(
        (entry.len, entry.offset >= base.file("vmlinuz0").unwrap().offset),
        (4, true)
    );
    // The old bytes are still there, but belong to no file.
    let old = base.file("vmlinuz0").unwrap();
    assert_eq!(image.pieces(old.offset..old.offset + 1)[0].file, None);
}

#[test]
fn ranges_are_cut_at_the_end() {
    let fixture = Fixture::new();
    let base = fixture.real_base();
    let image = Arc::new(plan(&base, &real_own()).unwrap());
    let end = image.len();
    assert!(image.pieces(end..end + 10).is_empty());
    assert!(image.pieces(u64::MAX - 1..u64::MAX).is_empty());
    #[allow(clippy::reversed_empty_ranges)]
    let reversed = image.pieces(10..5);
    assert!(reversed.is_empty());
    assert_eq!(image.pieces(end - 1..u64::MAX).len(), 1);
    let reader = ImageReader::new(Arc::clone(&image), Arc::clone(&fixture.blobs));
    let error = reader.read_at(&mut [0; 2], end - 1).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
}

#[test]
fn paths_that_do_not_fit_are_refused() {
    let fixture = Fixture::new();
    let base = fixture.real_base();
    let long = "n".repeat(256);
    for (paths, problem) in [
        (vec![""], PathProblem::EmptyComponent),
        (vec!["/boot"], PathProblem::EmptyComponent),
        (vec!["boot/"], PathProblem::EmptyComponent),
        (vec!["a//b"], PathProblem::EmptyComponent),
        (vec!["a/../b"], PathProblem::Dots),
        (vec!["."], PathProblem::Dots),
        (vec!["a\0b"], PathProblem::Nul),
        (vec![&long], PathProblem::LongName),
        (vec!["1/2/3/4/5/6/7/8/9"], PathProblem::TooDeep),
        (vec!["boot/grub"], PathProblem::IsFolder),
        (vec!["vmlinuz0/x"], PathProblem::ParentIsFile),
        (vec!["new", "new/x"], PathProblem::ParentIsFile),
        (vec!["new", "new"], PathProblem::Duplicate),
        (vec!["vmlinuz0", "vmlinuz0"], PathProblem::Duplicate),
    ] {
        let files: Vec<OwnFile> = paths.iter().map(|path| own(path, "x", FileRole::Other)).collect();
        match plan(&base, &files) {
            Err(PlanError::Path(error)) => assert_eq!(error.problem, problem, "{paths:?}"),
            other => panic!("{paths:?}: {other:?}"),
        }
    }
    for path in ["boot.catalog", "boot/grub/efi.img", "boot/grub/i386-pc/eltorito.img"] {
        let result = plan(&base, &[own(path, "x", FileRole::Other)]);
        assert!(matches!(result, Err(PlanError::BootImage(_))), "{path}: {result:?}");
    }
    plan(&base, &[own("1/2/3/4/5/6/7/8", "x", FileRole::Other)]).unwrap();
}

/// A change to a good spec, and what the error says.
type BadSpec<'a> = (&'a dyn Fn(&mut BaseSpec), &'a str);

#[test]
fn specs_that_do_not_fit_are_refused() {
    let fixture = Fixture::new();
    let file = |path: &str, len| fixture.file(path, &noise(1, len), FileRole::Other);
    let good = || {
        real_spec(vec![
            file("boot/grub/i386-pc/eltorito.img", 64),
            file("boot/grub/efi.img", 1),
        ])
    };
    Base::build(&good(), &fixture.blobs).unwrap();
    let message = |change: &dyn Fn(&mut BaseSpec)| {
        let mut spec = good();
        change(&mut spec);
        Base::build(&spec, &fixture.blobs).unwrap_err().to_string()
    };
    let cases: [BadSpec<'_>; 9] = [
        (&|s| s.volume_id = "lower".to_owned(), "\"lower\" is no volume id"),
        (&|s| s.volume_id = "X".repeat(33), "is no volume id"),
        (
            &|s| s.efi_image = Some("no".to_owned()),
            "EFI boot image \"no\" is not among",
        ),
        (
            &|s| s.files[0] = file("boot/grub/i386-pc/eltorito.img", 63),
            "63 bytes; it needs 64 to",
        ),
        (
            &|s| s.files[1] = file("boot/grub/efi.img", 0),
            "0 bytes; it needs 1 to 33553920",
        ),
        (&|s| s.catalog = "boot".to_owned(), "one of its parents is a file"),
        (&|s| s.catalog = String::new(), "empty component"),
        (
            &|s| s.files.push(file("boot/grub/efi.img", 1)),
            "two files have this path",
        ),
        (
            &|s| s.files.push(file("boot/grub/efi.img/x", 1)),
            "one of its parents is a file",
        ),
    ];
    for (change, words) in cases {
        let found = message(change);
        assert!(found.contains(words), "{found}");
    }
    // The BIOS image is the one blob that building reads.
    let gone = fixture.blob(&noise(3, 5000));
    let Content::Blob { id, .. } = gone else { panic!() };
    fixture.blobs.remove(&id).unwrap();
    let found = message(&|s| s.files[0].content = gone.clone());
    assert!(found.contains("eltorito.img\" cannot be read"), "{found}");
}

#[test]
fn a_missing_or_short_blob_is_an_error_that_names_the_file() {
    let fixture = Fixture::new();
    let base = fixture.real_base();
    let image = Arc::new(plan(&base, &real_own()).unwrap());
    let kernel = image.file("vmlinuz0").unwrap().clone();
    let Segment::Blob { id, .. } = image.pieces(kernel.offset..kernel.offset + 1)[0].segment else {
        panic!("the kernel is no blob")
    };
    let path = fixture
        .folder
        .path()
        .join("blobs/sha256")
        .join(&id.to_string()[..2])
        .join(id.to_string());
    let read = || {
        let reader = ImageReader::new(Arc::clone(&image), Arc::clone(&fixture.blobs));
        let random = reader
            .read_at(&mut [0; 10], kernel.offset + kernel.len - 10)
            .unwrap_err();
        let export = image.export(&fixture.blobs, &mut std::io::sink()).unwrap_err();
        [random.to_string(), export.to_string()]
    };
    std::fs::remove_file(&path).unwrap();
    for message in read() {
        assert!(
            message.contains("\"vmlinuz0\"") && message.contains(&id.to_string()),
            "{message}"
        );
    }
    std::fs::write(&path, b"short").unwrap();
    for message in read() {
        assert!(
            message.contains("\"vmlinuz0\"") && message.contains("shorter"),
            "{message}"
        );
    }
}

#[test]
fn secrets_are_not_shown() {
    let fixture = Fixture::new();
    let base = fixture.real_base();
    let file = own("isobar/own.img", "hunter2", FileRole::OwnInitrd);
    let image = plan(&base, std::slice::from_ref(&file)).unwrap();
    let entry = image.file("isobar/own.img").unwrap();
    let pieces = image.pieces(entry.offset..entry.offset + entry.len);
    let shown = format!("{file:?} {image:?} {pieces:?}");
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(shown.contains("Bytes(7 bytes)"), "{shown}");
}
