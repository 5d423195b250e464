//! What people see, on every console: the serial line and the screen.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use crate::cmdline::Cmdline;
use crate::read_text;

/// The consoles of this machine.
#[derive(Clone, Debug)]
pub struct Console(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    outputs: Vec<File>,
    /// What was said of each subject, and when.
    said: Mutex<BTreeMap<(&'static str, String), Instant>>,
}

/// How often the same trouble is told again.
const AGAIN: Duration = Duration::from_secs(60);
/// Troubles that are remembered; texts with changing numbers in them must not fill the memory.
const MAX_SAID: usize = 64;

/// Names of the consoles: those of the command line (also behind `--`) and those that the kernel uses.
#[must_use]
pub fn names(cmdline: &Cmdline, sys: &Path) -> Vec<String> {
    let active = read_text(&sys.join("class/tty/console/active")).unwrap_or_default();
    let mut names: Vec<String> = Vec::new();
    let given = cmdline.all("console").filter_map(|value| value.split(',').next());
    for name in given.chain(active.split_whitespace()) {
        let good = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if good && !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
}

impl Console {
    /// Opens consoles below `dev`; one that is not there is left out.
    #[must_use]
    pub fn open(names: &[String], dev: &Path) -> Self {
        // A serial line whose other end holds the flow must not hold us: what does not fit is lost.
        let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
        let open = |name: &String| {
            let path = dev.join(name);
            OpenOptions::new().write(true).custom_flags(flags).open(path).ok()
        };
        Self(Arc::new(Inner {
            outputs: names.iter().filter_map(open).collect(),
            said: Mutex::default(),
        }))
    }

    /// Shows a line.
    pub fn say(&self, text: &str) {
        let line = format!("isobar: agent: {text}\n");
        for mut output in &self.0.outputs {
            // There is nobody to tell that a console is gone.
            let _ = output.write_all(line.as_bytes());
        }
    }

    /// Shows a line that may come again and again: at first, and then once a minute.
    pub fn repeat(&self, subject: &'static str, text: &str) {
        let mut said = self.0.said.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (subject, text.to_owned());
        if said.get(&key).is_some_and(|at| at.elapsed() < AGAIN) {
            return;
        }
        if said.len() >= MAX_SAID {
            said.clear();
        }
        said.insert(key, Instant::now());
        drop(said);
        self.say(text);
    }

    /// Forgets what was said, so that the same trouble is told at once when it comes back.
    pub fn settled(&self, subject: &'static str) {
        let mut said = self.0.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.retain(|(about, _), _| *about != subject);
    }
}

/// Keeps a shell on a console. It waits for Enter first, so that its prompt does not stand among our lines.
pub fn keep_shell(name: String) {
    const SHELL: &str = "echo 'isobar: agent: press Enter for a shell'; read _ && exec /bin/busybox sh -l";
    thread::spawn(move || {
        let path = Path::new("/dev").join(&name);
        loop {
            let started = Instant::now();
            // `setsid -c` makes it the session's terminal, so that Ctrl-C works.
            let shell = open_terminal(&path).and_then(|[stdin, stdout, stderr]| {
                Command::new("/bin/busybox")
                    .args(["setsid", "-c", "/bin/busybox", "sh", "-c", SHELL])
                    .env_clear()
                    .envs([("TERM", if name.starts_with("ttyS") { "vt100" } else { "linux" })])
                    .envs([("PATH", "/bin:/sbin"), ("HOME", "/root")])
                    .stdin(stdin)
                    .stdout(stdout)
                    .stderr(stderr)
                    .status()
            });
            // A terminal that is gone, or a broken one, must not keep the processor busy.
            if shell.is_err() || started.elapsed() < Duration::from_secs(1) {
                thread::sleep(Duration::from_secs(5));
            }
        }
    });
}

fn open_terminal(path: &Path) -> std::io::Result<[Stdio; 3]> {
    let flags = OFlags::NOCTTY.bits().cast_signed();
    let terminal = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags)
        .open(path)?;
    Ok([
        Stdio::from(terminal.try_clone()?),
        Stdio::from(terminal.try_clone()?),
        Stdio::from(terminal),
    ])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use super::*;

    #[test]
    fn consoles_of_both_sources_once() {
        let sys = tempfile::tempdir().unwrap();
        let tty = sys.path().join("class/tty/console");
        fs::create_dir_all(&tty).unwrap();
        fs::write(tty.join("active"), "tty0 hvc0\n").unwrap();
        let cmdline = Cmdline::parse("x -- console=ttyS0,115200 console=tty0 console=../../etc/x");
        assert_eq!(names(&cmdline, sys.path()), ["ttyS0", "tty0", "hvc0"]);
    }

    #[test]
    fn the_same_trouble_is_told_once() {
        let dev = tempfile::tempdir().unwrap();
        fs::write(dev.path().join("ttyS0"), "").unwrap();
        let console = Console::open(&["ttyS0".to_owned(), "gone".to_owned()], dev.path());
        for text in ["a", "b", "a", "b"] {
            console.repeat("network", text);
        }
        console.settled("network");
        console.repeat("network", "b");
        let text = fs::read_to_string(dev.path().join("ttyS0")).unwrap();
        assert_eq!(text, "isobar: agent: a\nisobar: agent: b\nisobar: agent: b\n");
    }
}
