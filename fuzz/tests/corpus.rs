//! The corpora, and copies of them with bytes changed, through the functions that a fuzzer calls.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use isobar_fuzz::TARGETS;

/// Changed copies of each file.
const COPIES: u64 = 60;
/// What grammars are made of.
const WORDS: &[&[u8]] = &[
    b"{{",
    b"}}",
    b"\"",
    b"[",
    b"]",
    b"{",
    b"}",
    b"(",
    b")",
    b"/",
    b"~1",
    b":",
    b",",
    b"%",
    b"&",
    b"=",
    b"null",
    b"-1",
    b"99999999999999999999",
    b"\xff",
    b"\0",
    b"|",
    b".",
    b"$",
];

/// xorshift64: the same copies each time.
struct Dice(u64);

impl Dice {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % below.max(1) as u64).unwrap()
    }
}

fn changed(bytes: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=dice.next(4) {
        let at = dice.next(bytes.len() + 1);
        match dice.next(4) {
            0 if at < bytes.len() => bytes[at] = u8::try_from(dice.next(256)).unwrap(),
            1 => drop(bytes.splice(at..at, WORDS[dice.next(WORDS.len())].iter().copied())),
            2 => {
                let end = (at + dice.next(8)).min(bytes.len());
                bytes.drain(at..end);
            }
            _ => {
                let end = (at + dice.next(16)).min(bytes.len());
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
        }
    }
    bytes
}

#[test]
fn the_corpora_and_changed_copies_of_them_hold() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (name, target) in TARGETS {
        let mut files: Vec<_> = std::fs::read_dir(corpora.join(name))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        assert!(files.len() >= 5, "{name} has {} files", files.len());
        for (number, file) in (1u64..).zip(files) {
            let bytes = std::fs::read(&file).unwrap();
            let mut dice = Dice(0x9e37_79b9_7f4a_7c15 ^ number);
            for copy in 0..=COPIES {
                let input = if copy == 0 {
                    bytes.clone()
                } else {
                    changed(&bytes, &mut dice)
                };
                let held = std::panic::catch_unwind(|| target(&input));
                assert!(
                    held.is_ok(),
                    "{name}, {}, copy {copy}: {:?}",
                    file.display(),
                    String::from_utf8_lossy(&input)
                );
            }
        }
    }
}
