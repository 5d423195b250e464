//! A machine's own ISO, which exists only as it is read: what is on it, one of its files, all of it.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use isobar_client::{Method, escape_rest, path};
use serde::Deserialize;
use serde_json::Value;

use super::{Arity, Call, Verb, blobs, option, switch, verb};
use crate::CliError;
use crate::output::Output;
use crate::progress::Progress;
use crate::session::Session;
use crate::settings::Format;

pub(super) const VERBS: &[Verb] = &[
    verb(
        "dynamic",
        "",
        Arity::Exactly(0),
        dynamic,
        "Lists the machines' own ISOs",
        "isos dynamic",
    )
    .own(),
    verb(
        "tree",
        "[machine] [bootenv]",
        Arity::Between(1, 2),
        tree,
        "Shows what is on a machine's ISO",
        "isos tree Name:mach-01 sledgehammer",
    )
    .own()
    .flags(&[switch("sizes", "With the files' sizes")]),
    verb(
        "cat",
        "[machine] [bootenv] [file]",
        Arity::Between(2, 3),
        cat,
        "Prints a file of a machine's ISO",
        "isos cat Name:mach-01 boot/grub/grub.cfg",
    )
    .own(),
    verb(
        "export",
        "[machine] [bootenv]",
        Arity::Between(1, 2),
        export,
        "Writes a machine's ISO to a file",
        "isos export Name:mach-01 -o boot.iso",
    )
    .own()
    .flags(&[super::Flag {
        short: Some('o'),
        ..option("output", "FILE", "Where to, - for standard output [default: boot.iso]")
    }]),
];

/// How often a broken download goes on where it broke.
const TRIES: u32 = 5;

fn dynamic(session: &Session, _call: &Call) -> Result<Output, CliError> {
    let columns = ["name", "machine", "bootenv", "size", "path"]
        .map(str::to_owned)
        .to_vec();
    Ok(Output::Json {
        value: session.client()?.get("/isobar/v1/isos")?,
        columns,
    })
}

#[derive(Deserialize)]
struct Iso {
    machine: String,
    bootenv: String,
    #[serde(default)]
    size: Option<u64>,
}

/// Route of a machine's ISO: that of the given bootenv, else the one it has.
fn disc(session: &Session, id: &str, bootenv: Option<&str>) -> Result<String, CliError> {
    let machine = session.get_object("machines", id)?;
    let uuid = machine["Uuid"].as_str().unwrap_or(id);
    if let Some(bootenv) = bootenv {
        return Ok(path!("isobar", "v1", "isos", uuid, bootenv));
    }
    let isos: Vec<Iso> = session.client()?.get("/isobar/v1/isos")?;
    let mut own = isos
        .into_iter()
        .filter(|iso| iso.machine == uuid && iso.size.is_some_and(|size| size > 0));
    let first = own.next();
    let current = machine["BootEnv"].as_str().unwrap_or_default();
    let chosen = match &first {
        Some(iso) if iso.bootenv == current => first,
        _ => own.find(|iso| iso.bootenv == current).or(first),
    };
    match chosen {
        Some(iso) => Ok(path!("isobar", "v1", "isos", uuid, iso.bootenv)),
        None => Err(CliError::text(format!(
            "{id} has no ISO: set its param boot-virtual-iso to true, then change its BootEnv to one that boots from an \
             ISO, such as sledgehammer"
        ))),
    }
}

#[derive(Deserialize)]
struct Entry {
    path: String,
    #[serde(default)]
    size: u64,
}

fn tree(session: &Session, call: &Call) -> Result<Output, CliError> {
    let route = disc(session, call.arg(0), call.args.get(1).map(String::as_str))?;
    let entries: Value = session.client()?.get(&format!("{route}/tree"))?;
    if session.settings.format == Format::Yaml || call.flags.value_source("format").is_some_and(given) {
        return Ok(Output::json(entries));
    }
    let entries: Vec<Entry> = serde_json::from_value(entries)
        .map_err(|error| CliError::text(format!("the list of files cannot be read: {error}")))?;
    Ok(Output::Text(draw(&entries, call.is_set("sizes"))))
}

fn given(source: clap::parser::ValueSource) -> bool {
    source == clap::parser::ValueSource::CommandLine
}

/// A folder (`size` is `None`) or a file.
#[derive(Default)]
struct Node {
    size: Option<u64>,
    below: BTreeMap<(String, String), Node>,
}

/// As `tree` prints it, names sorted without regard to case.
fn draw(entries: &[Entry], sizes: bool) -> String {
    let mut root = Node::default();
    // Regions that are no files have names in angle brackets.
    for entry in entries.iter().filter(|entry| !entry.path.starts_with('<')) {
        let mut node = &mut root;
        for part in entry.path.split('/').filter(|part| !part.is_empty()) {
            node = node.below.entry((part.to_lowercase(), part.to_owned())).or_default();
        }
        node.size = (!entry.path.ends_with('/')).then_some(entry.size);
    }
    let mut text = ".\n".to_owned();
    let (mut folders, mut files) = (0, 0);
    branch(&root, "", sizes, &mut text, &mut folders, &mut files);
    let count = |n: u64, one: &str, many: &str| format!("{n} {}", if n == 1 { one } else { many });
    let summary = format!(
        "\n{}, {}\n",
        count(folders, "directory", "directories"),
        count(files, "file", "files")
    );
    text + &summary
}

fn branch(node: &Node, indent: &str, sizes: bool, text: &mut String, folders: &mut u64, files: &mut u64) {
    let last = node.below.len().saturating_sub(1);
    for (at, ((_, name), child)) in node.below.iter().enumerate() {
        let (turn, further) = if at == last {
            ("└── ", "    ")
        } else {
            ("├── ", "│   ")
        };
        let is_file = child.below.is_empty() && child.size.is_some();
        let size = if sizes && is_file {
            format!("  {}", child.size.unwrap_or(0))
        } else {
            String::new()
        };
        text.push_str(&format!("{indent}{turn}{name}{size}\n"));
        if is_file {
            *files += 1;
        } else {
            *folders += 1;
            branch(child, &format!("{indent}{further}"), sizes, text, folders, files);
        }
    }
}

fn cat(session: &Session, call: &Call) -> Result<Output, CliError> {
    let (bootenv, file) = match call.args.len() {
        2 => (None, call.arg(1)),
        _ => (Some(call.arg(1)), call.arg(2)),
    };
    let route = disc(session, call.arg(0), bootenv)?;
    let file = escape_rest(file.trim_start_matches('/'));
    let answer = session.client()?.download(&format!("{route}/files/{file}"), 0)?;
    blobs::to_stdout(session, &mut answer.reader())?;
    Ok(Output::Nothing)
}

fn export(session: &Session, call: &Call) -> Result<Output, CliError> {
    let route = format!(
        "{}/boot.iso",
        disc(session, call.arg(0), call.args.get(1).map(String::as_str))?
    );
    match call.option("output").unwrap_or("boot.iso") {
        "-" => {
            let answer = session.client()?.download(&route, 0)?;
            blobs::to_stdout(session, &mut answer.reader())?;
        }
        file => {
            let size = to_file(session, &route, Path::new(file))?;
            session.host.note(&format!("{file}: {size} bytes"));
        }
    }
    Ok(Output::Nothing)
}

/// Downloads into `file`, which appears when it is whole; goes on where a broken connection left off,
/// as long as the ISO is still the same.
fn to_file(session: &Session, route: &str, file: &Path) -> Result<u64, CliError> {
    let mut part = file.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let fetched = fetch(session, route, &part);
    let result = fetched.and_then(|size| {
        fs::rename(&part, file).map_err(CliError::io(file.display().to_string()))?;
        Ok(size)
    });
    if result.is_err() {
        let _ = fs::remove_file(&part);
    }
    result
}

fn fetch(session: &Session, route: &str, part: &Path) -> Result<u64, CliError> {
    let failed = || CliError::io(part.display().to_string());
    let mut out: File = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(part)
        .map_err(failed())?;
    let (mut done, mut tag, mut size): (u64, Option<String>, Option<u64>) = (0, None, None);
    let mut bar: Option<Progress> = None;
    let mut broke = None;
    for _ in 0..TRIES {
        let mut request = session
            .client()?
            .request(Method::GET, route)
            .header("Accept", "*/*")
            .header("Accept-Encoding", "identity")
            .patience(Duration::from_secs(60));
        if done > 0 {
            request = request.header("Range", &format!("bytes={done}-"));
            if let Some(tag) = &tag {
                request = request.header("If-Range", tag);
            }
        }
        let answer = request.send()?;
        if done > 0 && answer.status() != 206 {
            // Another ISO by now: all over again.
            done = 0;
            out.set_len(0)
                .and_then(|()| out.seek(SeekFrom::Start(0)))
                .map_err(failed())?;
        }
        if done == 0 {
            size = answer.content_length();
            tag = answer.header("ETag").map(str::to_owned);
            bar = Some(Progress::bytes(session, size));
        }
        let start = done;
        let copied = blobs::copy(&mut answer.reader(), &mut out, |n| {
            done = start + n;
            if let Some(bar) = &bar {
                bar.at(done);
            }
        });
        match copied {
            Ok(_) if size.is_none_or(|size| size == done) => {
                out.sync_all().map_err(failed())?;
                return Ok(done);
            }
            Ok(_) => broke = Some("the server ended early".to_owned()),
            Err(error) => broke = Some(error.to_string()),
        }
    }
    let why = broke.unwrap_or_default();
    Err(CliError::text(format!(
        "the download broke {TRIES} times, last after {done} bytes: {why}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_as_tree_does() {
        let entry = |path: &str, size| Entry {
            path: path.to_owned(),
            size,
        };
        let entries = [
            entry("vmlinuz0", 9),
            entry("boot/grub/grub.cfg", 700),
            entry("boot/grub/fonts/unicode.pf2", 1),
            entry("boot.catalog", 2048),
            entry("/EFI/BOOT/BOOTX64.EFI", 3),
            entry("boot/grub/roms/", 0),
        ];
        let expected = "\
.
├── boot
│   └── grub
│       ├── fonts
│       │   └── unicode.pf2
│       ├── grub.cfg
│       └── roms
├── boot.catalog
├── EFI
│   └── BOOT
│       └── BOOTX64.EFI
└── vmlinuz0

6 directories, 5 files
";
        assert_eq!(draw(&entries, false), expected);
        assert!(draw(&entries, true).contains("└── vmlinuz0  9\n"));
    }
}
