//! On a host the program changes nothing.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::process::Command;

fn state() -> [String; 4] {
    let names = |dir: &str| {
        let mut names: Vec<String> = fs::read_dir(dir)
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names.join(" ")
    };
    [
        fs::read_to_string("/proc/self/mounts").unwrap(),
        fs::read_to_string("/proc/sys/kernel/hostname").unwrap(),
        names("/sys/class/net"),
        names("/run/isobar"),
    ]
}

#[test]
fn nothing_is_mounted_named_or_made() {
    let before = state();
    // The last two are what PID 1 passes to its children; that must not be enough.
    for arguments in [&[][..], &["--dry-run"], &["agent"], &["shells"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_isobar-agent"))
            .args(arguments)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        if arguments == ["agent"] || arguments == ["shells"] {
            assert_eq!(output.status.code(), Some(2));
        } else {
            assert!(output.status.success() && text.contains("nothing is changed"), "{text}");
            let report: serde_json::Value = serde_json::from_str(&text[text.find("\n{").unwrap()..]).unwrap();
            assert!(
                report
                    .pointer("/CPU/Threads")
                    .and_then(serde_json::Value::as_u64)
                    .unwrap()
                    > 0
            );
        }
    }
    assert_eq!(before, state());
}
