//! What is counted as read.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::{Arc, OnceLock};

use common::{Fixture, noise, own};
use isobar_image::{Base, BaseSpec, Coverage, FileId, FileRole, Image, plan};
use proptest::prelude::*;

fn image() -> Arc<Image> {
    static IMAGE: OnceLock<Arc<Image>> = OnceLock::new();
    Arc::clone(IMAGE.get_or_init(make_image))
}

fn make_image() -> Arc<Image> {
    let fixture = Fixture::new();
    let spec = BaseSpec {
        volume_id: "TEST".to_owned(),
        files: vec![
            fixture.file("vmlinuz0", &noise(1, 100_000), FileRole::Kernel),
            fixture.file("a", &noise(2, 100), FileRole::Other),
            fixture.file("b", &noise(3, 5_000), FileRole::Other),
            fixture.file("boot/grub/grub.cfg", &noise(4, 1_000), FileRole::GrubConfig),
        ],
        ..BaseSpec::default()
    };
    let base = Arc::new(Base::build(&spec, &fixture.blobs).unwrap());
    let own_files = [
        own("boot/grub/grub.cfg", noise(5, 2_500), FileRole::GrubConfig),
        own("isobar/own.img", noise(6, 3_000), FileRole::OwnInitrd),
    ];
    Arc::new(plan(&base, &own_files).unwrap())
}

fn id(image: &Image, path: &str) -> FileId {
    image.file(path).unwrap().id
}

#[test]
fn a_file_is_followed_from_its_first_byte_to_its_last() {
    let image = image();
    let kernel = image.file("vmlinuz0").unwrap();
    let (id, start, end) = (kernel.id, kernel.offset, kernel.offset + kernel.len);
    let mut coverage = Coverage::new(&image);
    assert_eq!(
        (coverage.covered(id), coverage.sequential(id), coverage.furthest(id)),
        (0, 0, 0)
    );
    // With some padding before it.
    coverage.add(start - 10_000..start + 10_000);
    assert_eq!((coverage.covered(id), coverage.sequential(id)), (10_000, 10_000));
    // A retry counts once.
    coverage.add(start..start + 10_000);
    assert_eq!(coverage.covered(id), 10_000);
    coverage.add(start + 50_000..start + 60_000);
    assert_eq!(
        (coverage.covered(id), coverage.sequential(id), coverage.furthest(id)),
        (20_000, 10_000, 60_000)
    );
    assert!(!coverage.complete(id));
    coverage.add(start..end);
    assert_eq!((coverage.covered(id), coverage.sequential(id)), (100_000, 100_000));
    assert!(coverage.complete(id));
    assert_eq!(coverage.touched().collect::<Vec<_>>(), [(id, 100_000)]);
}

#[test]
fn a_copy_of_the_whole_disc_completes_every_file() {
    let image = image();
    let mut coverage = Coverage::new(&image);
    coverage.add(0..u64::MAX);
    for file in image.files() {
        assert_eq!(coverage.covered(file.id), file.len, "{}", file.path);
        assert!(coverage.complete(file.id));
    }
    // Not the file of the base that an own one replaced.
    assert_eq!(coverage.touched().count(), image.files().len());
}

#[test]
fn scattered_reads_are_bounded_and_never_more_than_the_file() {
    let image = image();
    let kernel = image.file("vmlinuz0").unwrap();
    let mut coverage = Coverage::new(&image);
    for n in 0..10_000 {
        let at = kernel.offset + n * 7919 % (kernel.len / 10) * 10;
        coverage.add(at..at + 1);
        assert!(coverage.covered(kernel.id) <= coverage.furthest(kernel.id));
    }
    assert!(coverage.furthest(kernel.id) <= kernel.len);
    // Nothing of the neighbours is claimed.
    assert_eq!((coverage.touched().count(), coverage.padding()), (1, 0));
    coverage.add(kernel.offset..kernel.offset + kernel.len);
    assert_eq!(coverage.covered(kernel.id), kernel.len);
}

#[test]
fn bytes_between_files_are_counted_apart() {
    let image = image();
    let kernel = image.file("vmlinuz0").unwrap();
    let mut coverage = Coverage::new(&image);
    coverage.add(kernel.offset - 7_000..kernel.offset + 1);
    assert_eq!((coverage.padding(), coverage.covered(kernel.id)), (7_000, 1));
    coverage.add(0..image.len());
    let files: u64 = image.files().iter().map(|file| file.len).sum();
    assert_eq!(coverage.padding(), image.len() - files);
}

proptest! {
    #[test]
    fn as_a_map_of_bytes(ranges in prop::collection::vec((0..110_000_u64, 0..9_000_u64), 0..40)) {
        let image = image();
        let kernel = image.file("vmlinuz0").unwrap();
        let mut coverage = Coverage::new(&image);
        let mut map = vec![false; kernel.len as usize];
        for (start, len) in ranges {
            let start = kernel.offset - 5_000 + start;
            coverage.add(start..start + len);
            for at in start..start + len {
                if let Some(byte) = at.checked_sub(kernel.offset).and_then(|at| map.get_mut(at as usize)) {
                    *byte = true;
                }
            }
        }
        let covered = map.iter().filter(|b| **b).count() as u64;
        prop_assert_eq!(coverage.covered(kernel.id), covered);
        let sequential = map.iter().take_while(|b| **b).count() as u64;
        prop_assert_eq!(coverage.sequential(kernel.id), sequential);
        let furthest = map.iter().rposition(|b| *b).map_or(0, |at| at as u64 + 1);
        prop_assert_eq!(coverage.furthest(kernel.id), furthest);
        prop_assert_eq!(coverage.covered(id(&image, "isobar/own.img")), 0);
    }
}
