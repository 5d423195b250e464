//! `boot`: from the operator's command to the agent, against QEMU booting the same disc from a file.
//!
//! Both ends are taken alike: the CLI has heard from the server that the agent has checked in. The peer is the
//! simulator's own QEMU command with the file in its CD drive. Its disc is that of a machine of its own, whose BMC has a
//! machine on paper: the attempt is live, and nobody has used its boot secret.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::time::{ClockId, clock_gettime};

use crate::Bench;
use crate::goal::{Bound, Goal, Limit, Source, Unit};
use crate::samples::Samples;
use crate::setup::{Setup, quiet};
use crate::stage::{Bmc, Program, Stage};

const MACHINE_SEES_US_AT: &str = "192.168.77.1";
const MAC: &str = "52:54:00:15:0b:a1";
const POWER_PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(5);

/// Signs on the serial console that a part of the boot is over, in their order: name of the part, and the sign.
const PARTS: [(&str, &str); 5] = [
    ("firmware", "isobar: loading kernel"),
    ("kernel read", "isobar: loading initrd"),
    ("initrd read", "Linux version"),
    ("kernel", "isobar: agent: "),
    ("network", "network up"),
];

const fn told(name: &'static str, series: &'static str, of_file: Option<&'static str>) -> Goal {
    Goal {
        name,
        unit: Unit::Seconds,
        bound: Bound::Told,
        source: Source::Median(series),
        limit: match of_file {
            Some(series) => Some(Limit {
                what: "a plain file",
                series,
            }),
            None => None,
        },
    }
}

pub(crate) const BENCH: Bench = Bench {
    name: "boot",
    about: "from the bootenv command to the agent, against QEMU booting the same disc from a file",
    runs: 5,
    goals: &[
        Goal {
            name: "command to agent ÷ plain file",
            unit: Unit::Times,
            bound: Bound::AtMost(1.3),
            source: Source::Ratio("ours", "file"),
            limit: None,
        },
        told("command to agent", "ours", None),
        told("plain file to agent", "file", None),
        told("command to power on", "ours power", None),
        told("firmware and GRUB", "ours firmware", Some("file firmware")),
        told("kernel read", "ours kernel read", Some("file kernel read")),
        told("initrd read", "ours initrd read", Some("file initrd read")),
        told("kernel runs", "ours kernel", Some("file kernel")),
        told("agent: network", "ours network", Some("file network")),
        told("agent: check-in", "ours check-in", Some("file check-in")),
    ],
    measure,
};

fn measure(setup: &Setup, samples: &mut Samples) -> Result<()> {
    let folder = setup.fresh("boot")?;
    let addresses = [
        "--address-for-bmc",
        "127.0.0.1",
        "--address-for-machine",
        MACHINE_SEES_US_AT,
    ];
    let stage = Stage::up(setup, &folder, &addresses)?;
    stage.import(setup)?;
    let serial = folder.join("serial.log");
    let shown = serial.display().to_string();
    let qemu = [
        "--machine",
        "qemu",
        "--firmware",
        &setup.firmware,
        "--mac",
        MAC,
        "--serial",
        &shown,
    ];
    let theirs = Theirs {
        stage: &stage,
        qemu: stage.bmc("qemu", &qemu)?,
        paper: stage.bmc("paper", &["--machine", "paper"])?,
        serial,
        folder: folder.clone(),
    };
    for run in 1..=setup.runs {
        let command = theirs.with_bmc(run, samples)?;
        theirs.without_bmc(run, &command, samples)?;
        let last = |series| samples.of(series).last().copied().unwrap_or_default();
        eprintln!(
            "boot: run {run} of {}: {:.1} s, from a file {:.1} s",
            setup.runs,
            last("ours"),
            last("file")
        );
    }
    Ok(())
}

/// The BMC with a real machine, and the one that keeps a disc alive.
struct Theirs<'a> {
    stage: &'a Stage,
    qemu: Bmc,
    paper: Bmc,
    serial: PathBuf,
    folder: PathBuf,
}

impl Theirs<'_> {
    fn machine(&self, name: &str, bmc: &Bmc) -> Result<String> {
        let network = serde_json::json!({"prov": {
            "address": "192.168.77.10", "netmask": "255.255.255.0", "gateway": MACHINE_SEES_US_AT, "interface": MAC,
        }});
        self.stage
            .machine(name, bmc, &[("network-data", &network.to_string())])?;
        Ok(format!("Name:{name}"))
    }

    /// The whole way; gives QEMU's arguments. The machine is off before and after.
    fn with_bmc(&self, run: usize, samples: &mut Samples) -> Result<Vec<String>> {
        let machine = self.machine(&format!("booted-{run}"), &self.qemu)?;
        let mut console = Console::open(&self.serial)?;
        let (began, since_start) = (Instant::now(), clock_gettime(ClockId::Boottime));
        let done = console.watch(|| {
            self.stage
                .run(&["machines", "bootenv", &machine, "sledgehammer", "--wait", "agent"])
        })?;
        samples.add("ours", (done - began).as_secs_f64());
        let (pid, arguments) = child_of(self.qemu.program.pid())?;
        let power = started(pid)? - (since_start.tv_sec as f64 + since_start.tv_nsec as f64 * 1e-9);
        // The kernel counts a process's start in hundredths of a second.
        samples.add("ours power", power.max(0.0));
        let power_on = began + Duration::from_secs_f64(power.max(0.0));
        console.parts("ours", power_on, done, samples)?;
        self.power_off(&machine)?;
        Ok(arguments)
    }

    fn power_off(&self, machine: &str) -> Result<()> {
        self.stage.run(&["machines", "runaction", machine, "poweroff"])?;
        let deadline = Instant::now() + POWER_PATIENCE;
        while !self
            .stage
            .run(&["machines", "runaction", machine, "powerstatus"])?
            .contains("Off")
        {
            ensure!(Instant::now() < deadline, "{machine} does not go off");
            sleep(LOOK);
        }
        Ok(())
    }

    fn without_bmc(&self, run: usize, simulated: &[String], samples: &mut Samples) -> Result<()> {
        let name = format!("plain-{run}");
        let machine = self.machine(&name, &self.paper)?;
        self.stage.run(&["machines", "bootenv", &machine, "sledgehammer"])?;
        let iso = self.folder.join("plain.iso");
        self.stage
            .run(&["isos", "export", &machine, "-o", &iso.display().to_string()])?;
        let arguments = plain(simulated, &iso, &self.folder)?;
        let (program, arguments) = arguments.split_first().context("QEMU has no arguments")?;
        let mut command = Command::new(program);
        command.args(arguments);
        let log = self.folder.join("plain.log");
        fs::write(&log, "")?;
        let mut console = Console::open(&log)?;
        let began = Instant::now();
        let mut qemu = Program::start(command, &log)?;
        let done = console.watch(|| quiet(&mut self.stage.command(&["boots", "watch", &machine])?));
        qemu.ensure_runs().context("QEMU")?;
        let done = done?;
        samples.add("file", (done - began).as_secs_f64());
        console.parts("file", began, done, samples)?;
        drop(qemu);
        self.stage
            .run(&["machines", "bootenv", &machine, "local", "--no-wait"])?;
        Ok(())
    }
}

/// QEMU's arguments for a disc in a file: the monitor goes, and nobody has to say "go"; firmware variables and disk are
/// copies.
fn plain(simulated: &[String], iso: &Path, folder: &Path) -> Result<Vec<String>> {
    let mut arguments = Vec::new();
    let mut words = simulated.iter();
    let mut filled = false;
    while let Some(word) = words.next() {
        if word == "-S" {
            continue;
        }
        let Some(value) = words.as_slice().first().filter(|_| word.starts_with('-')) else {
            arguments.push(word.clone());
            continue;
        };
        if matches!(word.as_str(), "-mon" | "-chardev") && value.contains("monitor") {
            words.next();
        } else if value.starts_with("ide-cd,") {
            words.next();
            filled = true;
            let file = serde_json::json!({
                "driver": "raw", "node-name": "plain", "read-only": true,
                "file": {"driver": "file", "filename": iso},
            });
            arguments.extend(["-blockdev".to_owned(), file.to_string()]);
            arguments.extend([word.clone(), format!("{value},drive=plain")]);
        } else if word == "-blockdev" {
            words.next();
            arguments.extend([word.clone(), with_copy(value, folder)?]);
        } else {
            arguments.push(word.clone());
        }
    }
    ensure!(filled, "the simulator's QEMU has no CD drive");
    Ok(arguments)
}

/// A block device on a copy of its file: the original is locked by the simulator's machine.
fn with_copy(blockdev: &str, folder: &Path) -> Result<String> {
    let mut node: serde_json::Value = serde_json::from_str(blockdev).context("a block device of QEMU's")?;
    let original = node["file"]["filename"]
        .as_str()
        .context("a block device has no file")?;
    if node["read-only"] == true {
        return Ok(blockdev.to_owned());
    }
    let name = Path::new(original)
        .file_name()
        .context("a block device's file has no name")?;
    let copy = folder.join("plain").join(name);
    fs::create_dir_all(folder.join("plain"))?;
    if !copy.exists() {
        fs::copy(original, &copy).with_context(|| format!("cannot copy {original}"))?;
    }
    node["file"]["filename"] = copy.display().to_string().into();
    Ok(node.to_string())
}

/// A machine's serial console, as it comes in a file.
struct Console {
    path: PathBuf,
    from: u64,
    /// When the sign of each part was seen.
    seen: Vec<Instant>,
}

/// The last part: it ends when the server has told of the check-in, which may be before the console does.
const CHECK_IN: &str = "check-in";

impl Console {
    fn open(path: &Path) -> Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            from: fs::metadata(path).map_or(0, |meta| meta.len()),
            seen: Vec::new(),
        })
    }

    /// Notes the signs while `work` runs; gives its end.
    fn watch<T>(&mut self, work: impl FnOnce() -> Result<T>) -> Result<Instant> {
        let over = AtomicBool::new(false);
        scope(|threads| {
            let watcher = threads.spawn(|| self.follow(&over));
            let result = work();
            let done = Instant::now();
            over.store(true, Ordering::Relaxed);
            match watcher.join() {
                Ok(Ok(())) => result.map(|_| done),
                Ok(Err(error)) => Err(error),
                Err(_) => bail!("the console's watcher broke off"),
            }
        })
    }

    fn follow(&mut self, over: &AtomicBool) -> Result<()> {
        let mut text = Vec::new();
        let mut at = 0;
        loop {
            // What came before the end counts.
            let last = over.load(Ordering::Relaxed);
            if let Ok(mut file) = File::open(&self.path) {
                file.seek(SeekFrom::Start(self.from + text.len() as u64))?;
                file.read_to_end(&mut text)?;
            }
            while let Some((_, sign)) = PARTS.get(self.seen.len())
                && let Some(found) = text[at..].windows(sign.len()).position(|part| part == sign.as_bytes())
            {
                at += found;
                self.seen.push(Instant::now());
            }
            if last {
                return Ok(());
            }
            sleep(LOOK);
        }
    }

    fn parts(&self, whose: &str, power_on: Instant, done: Instant, samples: &mut Samples) -> Result<()> {
        ensure!(
            self.seen.len() == PARTS.len(),
            "{}: never saw `{}`",
            self.path.display(),
            PARTS.get(self.seen.len()).map_or("", |(_, sign)| sign)
        );
        let mut before = power_on;
        let ends = PARTS.iter().map(|(part, _)| *part).zip(self.seen.iter().copied());
        for (part, seen) in ends.chain([(CHECK_IN, done)]) {
            let took = seen.saturating_duration_since(before);
            samples.add(&format!("{whose} {part}"), took.as_secs_f64());
            before = seen;
        }
        Ok(())
    }
}

/// The machine of a simulator: its process and its arguments, the program first.
fn child_of(parent: u32) -> Result<(u32, Vec<String>)> {
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if stat(pid).is_ok_and(|fields| fields.get(1) == Some(&parent.to_string())) {
            let words = fs::read(entry.path().join("cmdline"))?;
            let words = words.split(|byte| *byte == 0).filter(|word| !word.is_empty());
            let words: Vec<String> = words.map(|word| String::from_utf8_lossy(word).into_owned()).collect();
            if words.first().is_some_and(|program| program.contains("qemu-system")) {
                return Ok((pid, words));
            }
        }
    }
    bail!("the simulator runs no QEMU")
}

/// Fields of `/proc/PID/stat` behind the name: state, parent, … (proc(5)).
fn stat(pid: u32) -> Result<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = text.rsplit_once(')').context("stat")?;
    Ok(fields.split_whitespace().map(str::to_owned).collect())
}

/// When a process started, seconds since the system did.
fn started(pid: u32) -> Result<f64> {
    /// `USER_HZ`, the unit of times in `/proc`.
    const TICKS: f64 = 100.0;
    let ticks = stat(pid)?.get(19).and_then(|field| field.parse::<f64>().ok());
    Ok(ticks.context("a process without a start")? / TICKS)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_peer_is_the_simulators_machine_with_a_file_in_its_drive() {
        let folder = std::env::temp_dir();
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let simulated = words(
            "qemu-system-x86_64 -nodefaults -m 1024 -S -chardev stdio,id=console -device ide-cd,id=cd,bus=ide.0 \
             -chardev socket,id=monitor,path=/s -mon chardev=monitor,mode=control",
        );
        let arguments = plain(&simulated, Path::new("/boot.iso"), &folder).unwrap();
        let expected = words(
            "qemu-system-x86_64 -nodefaults -m 1024 -chardev stdio,id=console -blockdev JSON -device \
             ide-cd,id=cd,bus=ide.0,drive=plain",
        );
        let given: Vec<_> = arguments
            .iter()
            .map(|word| if word.starts_with('{') { "JSON" } else { word })
            .collect();
        assert_eq!(given, expected);
        assert!(plain(&simulated[..6], Path::new("/boot.iso"), &folder).is_err());
    }

    #[test]
    fn signs_are_seen_in_their_order() {
        let path = std::env::temp_dir().join(format!("isobar-benches-{}", std::process::id()));
        let boot: String = PARTS.iter().map(|(part, sign)| format!("{part}: {sign}\r\n")).collect();
        fs::write(&path, format!("{boot}network up of an earlier boot")).unwrap();
        let mut console = Console::open(&path).unwrap();
        let mut samples = Samples::default();
        console
            .watch(|| Ok(fs::write(&path, format!("{boot}network up of an earlier boot{boot}"))?))
            .unwrap();
        let now = Instant::now();
        console.parts("ours", now, now, &mut samples).unwrap();
        assert_eq!(samples.of("ours check-in").len(), 1);
        let mut silent = Console::open(&path).unwrap();
        silent.watch(|| Ok(())).unwrap();
        let error = silent.parts("ours", now, now, &mut samples).unwrap_err();
        fs::remove_file(&path).unwrap();
        assert!(error.to_string().contains("loading kernel"), "{error}");
    }
}
