//! The manual's pages of commands are those of the program.
#![allow(clippy::unwrap_used)]

use std::process::Command;

fn isobar(words: &[&str]) -> String {
    let out = Command::new(env!("CARGO_BIN_EXE_isobar")).args(words).output().unwrap();
    assert!(
        out.status.success(),
        "{words:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn the_reference_is_the_programs() {
    let file = include_str!("../../../docs/cli.md");
    let now = isobar(&["reference"]);
    let differs = file.lines().zip(now.lines()).find(|(old, new)| old != new);
    assert!(
        file == now,
        "run `isobar reference > docs/cli.md`; it differs at {differs:#?}"
    );
    // Commands of the binary's own stand there, too.
    for command in ["isobar serve", "isobar sim", "isobar sledgehammer build"] {
        let row = now.lines().find(|line| line.starts_with(&format!("| `{command}`")));
        let example = row.and_then(|row| row.rsplit(" | ").next()).unwrap();
        assert!(example.starts_with(&format!("`{command}")), "{command}: {example}");
    }
}

#[test]
fn there_is_a_man_page_for_each_noun() {
    let folder = tempfile::tempdir().unwrap();
    isobar(&["man", folder.path().to_str().unwrap()]);
    for page in ["isobar", "isobar-machines", "isobar-boots", "isobar-serve"] {
        let text = std::fs::read_to_string(folder.path().join(format!("{page}.1"))).unwrap();
        assert!(
            text.starts_with(&format!(".TH {} 1", page.to_uppercase())) && text.contains(".SH COMMANDS"),
            "{page}"
        );
    }
}
