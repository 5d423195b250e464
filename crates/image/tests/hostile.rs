//! Stored bytes that are not what we wrote: refused or harmless, never a panic.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::{Arc, OnceLock};

use common::{Fixture, noise, own, real_own, real_spec};
use isobar_image::{Base, BuildError, Coverage, FileRole, Image, PlanError, plan};
use proptest::prelude::*;
use proptest::sample::Index;
use sha2::{Digest, Sha256};

/// A small base and the delta of an image on it that has patches, a tail and replaced files.
fn stored() -> &'static (Vec<u8>, Vec<u8>) {
    static STORED: OnceLock<(Vec<u8>, Vec<u8>)> = OnceLock::new();
    STORED.get_or_init(|| {
        let fixture = Fixture::new();
        let names = [
            "boot/grub/i386-pc/eltorito.img",
            "boot/grub/efi.img",
            "vmlinuz0",
            "boot/grub/grub.cfg",
        ];
        let files = (0..)
            .zip(names)
            .map(|(n, path)| fixture.file(path, &noise(n, 5000), common::role(path)))
            .collect();
        let base = Arc::new(Base::build(&real_spec(files), &fixture.blobs).unwrap());
        let delta = plan(&base, &real_own()).unwrap().delta();
        (base.to_bytes().to_vec(), delta.to_vec())
    })
}

/// Makes the checksum right again, so that what is behind it is tried.
fn reseal(bytes: &mut [u8]) {
    if let Some((body, seal)) = bytes.split_last_chunk_mut::<32>() {
        seal.copy_from_slice(&Sha256::digest(&*body));
    }
}

fn change(bytes: &[u8], changes: &[(Index, u8)], cut: Option<Index>) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    // Numbers lie close together at both ends; in between are sectors.
    for (at, value) in changes {
        let at = at.index(bytes.len());
        bytes[at] = *value;
    }
    if let Some(cut) = cut {
        bytes.truncate(cut.index(bytes.len()));
    }
    reseal(&mut bytes);
    bytes
}

fn changes() -> impl Strategy<Value = (Vec<(Index, u8)>, Option<Index>)> {
    let value = prop_oneof![Just(0_u8), Just(1), Just(0xFF), any::<u8>()];
    (
        prop::collection::vec((any::<Index>(), value), 0..6),
        prop::option::weighted(0.1, any::<Index>()),
    )
}

/// Everything that is done with an image except reading blobs.
fn use_image(image: Image) {
    let image = Arc::new(image);
    let end = image.len();
    let files: Vec<_> = image.files().to_vec();
    let mut coverage = Coverage::new(&image);
    for (n, file) in files.iter().enumerate() {
        let _ = image.file(&file.path);
        let range = file.offset.saturating_sub(5000)..file.offset.saturating_add(file.len.min(1 << 20));
        assert!(
            image
                .pieces(range.clone())
                .iter()
                .all(|piece| !piece.segment.is_empty())
        );
        if n < 100 {
            coverage.add(range);
            let _ = coverage.complete(file.id);
        }
    }
    let sum: u64 = image.iter(0..u64::MAX).map(|piece| piece.segment.len()).sum();
    assert_eq!(sum, end);
}

fn check_order(base: &Base) {
    for pair in base.files().windows(2) {
        assert!(pair[0].offset + pair[0].len <= pair[1].offset, "{pair:?}");
    }
}

fn use_base(base: Base) {
    let base = Arc::new(base);
    check_order(&base);
    for own_files in [
        real_own(),
        vec![],
        (0..60)
            .map(|n| own(&format!("boot/grub/{n}"), "x", FileRole::Other))
            .collect(),
    ] {
        if let Ok(image) = plan(&base, &own_files) {
            use_image(image);
        }
    }
    let _ = base.blobs();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400), seal in any::<bool>()) {
        let (base, delta) = stored();
        let base = Arc::new(Base::from_bytes(base).unwrap());
        for magic in [&[][..], &stored().0[..10], &delta[..10]] {
            let mut bytes = [magic, &bytes].concat();
            if seal {
                reseal(&mut bytes);
            }
            prop_assert!(Base::from_bytes(&bytes).is_err());
            prop_assert!(Image::from_delta(Arc::clone(&base), &bytes).is_err());
        }
    }

    #[test]
    fn changed_bases((changes, cut) in changes()) {
        if let Ok(base) = Base::from_bytes(&change(&stored().0, &changes, cut)) {
            use_base(base);
        }
    }

    #[test]
    fn changed_deltas((changes, cut) in changes()) {
        let (base, delta) = stored();
        let base = Arc::new(Base::from_bytes(base).unwrap());
        if let Ok(image) = Image::from_delta(base, &change(delta, &changes, cut)) {
            use_image(image);
        }
    }
}

/// Every number of the form at its extremes: random changes seldom hit one.
#[test]
fn every_byte_of_a_base_and_a_delta() {
    let (base_bytes, delta_bytes) = stored();
    let base = Arc::new(Base::from_bytes(base_bytes).unwrap());
    // Sectors of metadata have no meaning to us; where they begin and end is found by trying.
    let interesting = |bytes: &[u8]| -> Vec<usize> {
        let (head, tail) = (600.min(bytes.len()), bytes.len().saturating_sub(3000));
        (0..head).chain(tail.max(head)..bytes.len() - 32).collect()
    };
    for value in [0, 1, 0xFF] {
        for at in interesting(base_bytes) {
            let mut bytes = base_bytes.clone();
            bytes[at] = value;
            reseal(&mut bytes);
            if let Ok(base) = Base::from_bytes(&bytes) {
                check_order(&base);
                let _ = plan(&Arc::new(base), &real_own());
            }
        }
        for at in interesting(delta_bytes) {
            let mut bytes = delta_bytes.clone();
            bytes[at] = value;
            reseal(&mut bytes);
            if let Ok(image) = Image::from_delta(Arc::clone(&base), &bytes) {
                use_image(image);
            }
        }
    }
}

#[test]
fn damage_is_told_from_newer_versions_and_other_bases() {
    let (base_bytes, delta_bytes) = stored();
    let mut damaged = base_bytes.clone();
    damaged[1000] ^= 1;
    assert!(matches!(Base::from_bytes(&damaged), Err(BuildError::Damaged(_))));
    let mut newer = base_bytes.clone();
    newer[8] = 9;
    assert!(matches!(Base::from_bytes(&newer), Err(BuildError::Version(9))));

    let base = Arc::new(Base::from_bytes(base_bytes).unwrap());
    let mut damaged = delta_bytes.clone();
    damaged[1000] ^= 1;
    let result = Image::from_delta(Arc::clone(&base), &damaged);
    assert!(matches!(result, Err(PlanError::Damaged(_))));
    let mut newer = delta_bytes.clone();
    newer[8] = 9;
    let result = Image::from_delta(Arc::clone(&base), &newer);
    assert!(matches!(result, Err(PlanError::Version(9))));
    // Version 1 had no system area.
    let mut older = delta_bytes.clone();
    older[8] = 1;
    reseal(&mut older);
    assert!(Image::from_delta(Arc::clone(&base), &older).is_ok());
    older[8] = 0;
    reseal(&mut older);
    let result = Image::from_delta(Arc::clone(&base), &older);
    assert!(matches!(result, Err(PlanError::Version(0))));
    let other = Fixture::new().real_base();
    match Image::from_delta(Arc::clone(&other), delta_bytes) {
        Err(PlanError::OtherBase { wanted, given }) => assert_eq!((wanted, given), (base.digest(), other.digest())),
        result => panic!("{result:?}"),
    }
}
