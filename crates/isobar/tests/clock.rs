//! The time of day jumps by a day, under a running server and between two of them. libfaketime sets it for the server's
//! process alone; the clocks that nobody sets go on.
#![allow(clippy::unwrap_used)]

mod stage;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use isobar_sim::{Fault, FaultKind};
use serde_json::json;
use stage::{MACHINE, Options, Server, Stage};

const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

/// A stage whose server has a time of day of its own.
struct Clocked {
    stage: Stage,
    file: PathBuf,
}

impl Clocked {
    /// None, loudly, where there is no libfaketime; in CI that is a failure.
    fn new(timing: &str) -> Option<Self> {
        if !Path::new(LIBRARY).exists() {
            assert!(std::env::var_os("CI").is_none(), "{LIBRARY} is missing");
            eprintln!("\nNOT TESTED: clock jumps need {LIBRARY} (Debian package libfaketime)\n");
            return None;
        }
        let mut server = Server::new(Options {
            timing: timing.to_owned(),
            ..Options::default()
        });
        let file = server.dir().join("clock");
        let env = |name: &str, value: &str| format!("{name}={value}");
        server.options.wrapper = vec![
            "env".to_owned(),
            env("LD_PRELOAD", LIBRARY),
            env("FAKETIME_TIMESTAMP_FILE", file.to_str().unwrap()),
            env("FAKETIME_NO_CACHE", "1"),
            env("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            env("NO_FAKE_STAT", "1"),
        ];
        set(&file, 0);
        Some(Self {
            // A machine may come on while the server is away.
            stage: Stage::over(server, |config| config.manners.read_patience_ms = 60_000),
            file,
        })
    }

    /// So many days from the right time; the server has to see it.
    fn set(&self, days: i64) {
        set(&self.file, days);
        self.seen(days);
    }

    fn seen(&self, days: i64) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.stage.files_port())).unwrap();
        write!(stream, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let date = answer.lines().find_map(|line| line.strip_prefix("Date: ")).unwrap();
        // It may have become midnight since.
        let wanted = ["", " -5 minutes"].map(|since| {
            let when = format!("{days:+} day{since}");
            let told = Command::new("date").args(["-u", "-d", &when, "+%d"]).output().unwrap();
            String::from_utf8(told.stdout).unwrap().trim().to_owned()
        });
        let day = date.split(' ').nth(1).unwrap();
        assert!(
            wanted.iter().any(|wanted| wanted == day),
            "{date} is not {days:+} days off"
        );
    }
}

fn set(file: &Path, days: i64) {
    let half = file.with_extension("new");
    std::fs::write(&half, format!("{days:+}d\n")).unwrap();
    std::fs::rename(half, file).unwrap();
}

#[test]
fn a_jump_under_a_running_server_ends_no_boot() {
    let Some(clocked) = Clocked::new(stage::TIMING) else {
        return;
    };
    let stage = &clocked.stage;
    stage.import();
    stage.add_machine(&json!({}));
    for (round, days) in [1, -1].into_iter().enumerate() {
        let held = Fault::from(FaultKind::Hold { done: true })
            .on("PATCH", "/Systems/1")
            .once();
        let hold = stage.sim().plant(held);
        let out = stage.isobar(&["machines", "workflow", MACHINE, "discover-base", "--no-wait"]);
        assert!(out.ok, "{out}");
        stage.wait("the override is held", |s| {
            s.sim().faults().iter().any(|f| f.id == hold && f.met > 0)
        });
        let beats = stage.heartbeats();
        clocked.set(days);
        stage.sim().release(hold);
        stage.wait_boot("done");
        assert_eq!(stage.machine()["Errors"], json!([]));
        // The agent's token is as good as before, and its heartbeats are heard.
        stage.wait("the agent goes on", |s| {
            s.oses() == round + 1 && s.heartbeats() > beats + 1
        });
        assert!(stage.isobar(&["machines", "workflow", MACHINE, ""]).ok);
        assert!(stage.isobar(&["machines", "bootenv", MACHINE, "local"]).ok);
        stage.wait("the disc is out", |s| s.sim().cd().image.is_none());
    }
    assert_eq!(
        stage.requests("ComputerSystem.Reset").len(),
        1,
        "the agent reboots, nobody cuts the power"
    );
}

#[test]
fn a_jump_between_two_servers_is_no_time_passed() {
    // The machine comes on late: that is what is waited for over each restart.
    let timing = format!("{},power_s=60", stage::TIMING);
    for days in [1, -1] {
        let Some(mut clocked) = Clocked::new(&timing) else {
            return;
        };
        clocked.stage.import();
        clocked.stage.add_machine(&json!({}));
        let stage = &clocked.stage;
        stage.sim().plant(FaultKind::PowerLag { ms: 8_000 });
        let out = stage.isobar(&["machines", "workflow", MACHINE, "discover-base", "--no-wait"]);
        assert!(out.ok, "{out}");
        stage.wait("the power-on is sent", |s| {
            !s.requests("ComputerSystem.Reset").is_empty()
        });
        stage.wait("and its row is written", |s| s.last_boot()["phase"] == "powering-on");
        clocked.stage.kill_server();
        set(&clocked.file, days);
        clocked.stage.start_server();
        clocked.seen(days);
        clocked.stage.wait_boot("done");
        let stage = &clocked.stage;
        assert_eq!(
            stage.requests("ComputerSystem.Reset").len(),
            1,
            "one power-on: {:?}",
            stage.requests("")
        );
        // The newest boot is the one that counts, also when the clock says it is the older one.
        let first = stage.last_boot()["id"].clone();
        assert!(stage.isobar(&["machines", "workflow", MACHINE, ""]).ok);
        assert!(stage.isobar(&["machines", "bootenv", MACHINE, "local"]).ok);
        let out = stage.isobar(&["machines", "workflow", MACHINE, "discover-base", "--wait", "agent"]);
        assert!(out.ok, "{out}");
        assert_ne!(stage.last_boot()["id"], first);
        assert_eq!(stage.last_boot()["bootenv"], "sledgehammer");
        assert_eq!(stage.machine()["Errors"], json!([]));
    }
}
