//! Rolling boots over simulated BMCs: so many at a time, none twice, however the server ends.
#![allow(clippy::unwrap_used)]

mod stage;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use isobar_sim::{Fault, FaultKind, ReadManner, Sim};
use serde_json::{Value, json};
use stage::{Options, PATIENCE, Players, Server};

/// A server and machines, each with a BMC of its own.
struct Yard {
    server: Server,
    sims: Vec<Sim>,
    uuids: Vec<String>,
    players: Players,
    runtime: tokio::runtime::Runtime,
}

impl Yard {
    fn new(machines: usize) -> Self {
        let (runtime, players) = (stage::runtime(), Players::default());
        let mut server = Server::new(Options::default());
        server.start();
        server.import();
        let start = |_| {
            let mut config = stage::sim_config();
            config.manners.read = ReadManner::CopyAll;
            config.os_up = Some(players.hook(server.api_port()));
            runtime.block_on(isobar_sim::start(config)).unwrap()
        };
        let sims: Vec<Sim> = (0..machines).map(start).collect();
        let bmcs: Vec<_> = (sims.iter().enumerate())
            .map(|(n, sim)| (format!("m-{n:02}"), sim.url().to_string()))
            .collect();
        let uuids = server.create_machines(&bmcs);
        Self {
            server,
            sims,
            uuids,
            players,
            runtime,
        }
    }

    fn refuses_inserts(&self, machine: usize) {
        let fault = Fault::from(FaultKind::Status {
            code: 403,
            retry_after_s: None,
            message_id: None,
            message: None,
        });
        self.sims[machine].plant(fault.on("POST", "InsertMedia"));
    }

    fn boot(&self, words: &[&str]) -> Value {
        let out = self.server.isobar(&[&["machines", "boot"], words].concat());
        assert!(out.ok, "{out}");
        serde_json::from_str(&out.stdout).unwrap()
    }

    fn operation(&self, id: &str) -> Value {
        self.server
            .client()
            .get(&format!("/isobar/v1/operations/{id}"))
            .unwrap()
    }

    /// Until it is over; at no moment are more in flight than this.
    fn end(&self, id: &str, parallel: usize) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let operation = self.operation(id);
            let flying = operation["fleet"]["in_flight"].as_array().unwrap().len();
            assert!(flying <= parallel, "{operation:#}");
            if !["running", "stopping", "cancelling"].contains(&operation["state"].as_str().unwrap()) {
                return operation;
            }
            assert!(
                Instant::now() < deadline,
                "never over: {operation:#}\n{}",
                self.server.log()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Boots of each machine that are part of this.
    fn boots_of(&self, id: &str) -> BTreeMap<String, usize> {
        let boots: Vec<Value> = self.server.client().get("/isobar/v1/boots").unwrap();
        let mut count = BTreeMap::new();
        for boot in boots.iter().filter(|boot| boot["rolling"] == id) {
            *count.entry(boot["machine"].as_str().unwrap().to_owned()).or_default() += 1;
        }
        count
    }
}

impl Drop for Yard {
    fn drop(&mut self) {
        for sim in self.sims.drain(..) {
            self.runtime.block_on(sim.shutdown());
        }
    }
}

/// What a watcher says after these words; then they are heard, whatever is sent to it.
fn said_after(child: &mut Child, words: &str) -> impl Iterator<Item = String> + use<> {
    let mut told = BufReader::new(child.stderr.take().unwrap())
        .lines()
        .map_while(Result::ok);
    assert!(told.any(|line| line.contains(words)), "it never says {words:?}");
    told
}

#[test]
fn every_machine_boots_once_though_the_server_is_killed_again_and_again() {
    let mut yard = Yard::new(12);
    yard.refuses_inserts(3);
    let who = ["--filter", "Name=Re(^m-)", "--bootenv", "sledgehammer"];
    let dry = yard.boot(&[&who[..], &["--dry-run"]].concat());
    assert_eq!(dry.as_array().unwrap().len(), 12);
    assert!(
        dry.as_array().unwrap().iter().all(|m| m["bootenv"] == "sledgehammer"),
        "{dry:#}"
    );
    assert!(
        yard.sims.iter().all(|sim| sim.requests().is_empty()),
        "a dry run asks nobody"
    );

    let operation = yard.boot(&[&who[..], &["--parallel", "4"]].concat());
    let id = operation["id"].as_str().unwrap().to_owned();
    let mut command = yard.server.command(&["operations", "watch", &id]);
    let mut watcher = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut told = BufReader::new(watcher.stderr.take().unwrap()).lines();
    assert!(told.next().unwrap().unwrap().contains("Ctrl-C leaves it running"));
    for ms in [150, 400, 50, 300, 700] {
        std::thread::sleep(Duration::from_millis(ms));
        yard.server.kill();
        yard.server.start();
    }
    let operation = yard.end(&id, 4);
    assert_eq!(operation["state"], "failed", "{operation:#}");
    let fleet = &operation["fleet"];
    assert_eq!(
        (&fleet["booted"], &fleet["failed"], &fleet["left"]),
        (&json!(11), &json!(1), &json!(0))
    );
    assert_eq!(
        fleet["troubles"][0]["reason"]["reason"], "bmc-forbidden",
        "{operation:#}"
    );
    assert_eq!(fleet["troubles"][0]["machine_name"], "m-03");
    let once: BTreeMap<String, usize> = yard.uuids.iter().map(|uuid| (uuid.clone(), 1)).collect();
    assert_eq!(yard.boots_of(&id), once);
    let up: BTreeSet<usize> = yard.players.by_machine().into_values().collect();
    assert_eq!(up, BTreeSet::from([1]), "no machine came up twice");
    for sim in &yard.sims {
        assert_eq!(stage::overlaps(&sim.requests(), &yard.server.starts), [""; 0]);
        assert_eq!(stage::cuts_while_booting(sim), [""; 0]);
    }
    // Who watched has seen the server come and go, one line for the machine in trouble, and the end.
    let text = told.map_while(Result::ok).collect::<Vec<_>>().join("\n");
    assert!(!watcher.wait().unwrap().success(), "{text}");
    let lines = |what: &str| text.lines().filter(|line| line.contains(what)).count();
    assert_eq!(lines("m-03: failed [bmc-forbidden]"), 1, "{text}");
    assert_eq!(lines("11 of 12 booted, 0 in flight, 1 failed"), 1, "{text}");
    assert!(text.contains("operations retry"), "{text}");
    let listed = |words: &[&str]| {
        let out = yard.server.isobar(&[&["boots", "list"], words].concat());
        assert!(out.ok, "{out}");
        let boots: Vec<Value> = serde_json::from_str(&out.stdout).unwrap();
        let of = |boot: &Value, name: &str| boot[name].as_str().unwrap().to_owned();
        let names = boots.iter().map(|boot| (of(boot, "machine_name"), of(boot, "state")));
        names.collect::<Vec<_>>()
    };
    assert_eq!(
        listed(&["--state", "failed"]),
        [("m-03".to_owned(), "failed".to_owned())]
    );
    assert_eq!(listed(&["--state", "done"]).len(), 11);
    assert_eq!(
        listed(&["--state", "done", "--limit", "2"]),
        listed(&["--state", "done"])[..2]
    );
    assert_eq!(listed(&["--limit", "5"]), listed(&[])[..5]);
    let out = yard.server.isobar(&["boots", "list", "--state", "finished"]);
    assert!(!out.ok && out.to_string().contains("running, done, failed"), "{out}");

    // What failed boots when it is retried, and nothing else.
    yard.sims[3]
        .faults()
        .iter()
        .for_each(|fault| assert!(yard.sims[3].remove_fault(fault.id)));
    let out = yard.server.isobar(&["operations", "retry", &id]);
    assert!(out.ok, "{out}");
    let again: Value = serde_json::from_str(&out.stdout).unwrap();
    let again = yard.end(again["id"].as_str().unwrap(), 4);
    assert_eq!(
        (&again["state"], &again["fleet"]["total"]),
        (&json!("done"), &json!(1)),
        "{again:#}"
    );
}

#[test]
fn failures_stop_it_and_a_word_of_the_operator_does() {
    let yard = Yard::new(6);
    (0..6).for_each(|machine| yard.refuses_inserts(machine));
    let all = ["--all", "--bootenv", "sledgehammer", "--parallel", "1"];
    let operation = yard.boot(&[&all[..], &["--stop-after", "2"]].concat());
    let operation = yard.end(operation["id"].as_str().unwrap(), 1);
    assert_eq!(operation["state"], "stopped", "{operation:#}");
    let fleet = &operation["fleet"];
    assert_eq!(
        (&fleet["failed"], &fleet["left"], &fleet["booted"]),
        (&json!(2), &json!(4), &json!(0))
    );
    assert!(
        yard.sims[2..].iter().all(|sim| sim.requests().is_empty()),
        "nobody else is asked"
    );

    // Who would not boot, and why.
    for (words, code) in [
        (
            &["machines", "update", "Name:m-02", r#"{"Locked": true}"#][..],
            "locked",
        ),
        (
            &[
                "machines",
                "set",
                "Name:m-03",
                "param",
                "boot-virtual-iso",
                "to",
                "false",
            ],
            "no-virtual-iso",
        ),
        (&["machines", "show", "Name:m-04"], "no-kernel"),
    ] {
        let out = yard.server.isobar(words);
        assert!(out.ok, "{out}");
        let machine = format!("Name={}", words[2].trim_start_matches("Name:"));
        let dry = yard.boot(&[&machine, "--dry-run"]);
        assert_eq!(dry[0]["reason"]["reason"], code, "{dry:#}");
    }
    yard.server.isobar(&[
        "machines",
        "set",
        "Name:m-03",
        "param",
        "boot-virtual-iso",
        "to",
        "true",
    ]);

    let local = yard.server.isobar(&["machines", "boot", "--all", "--bootenv", "local"]);
    assert!(!local.ok && local.stderr.contains("boots no kernel"), "{local}");

    // Cancelled: what is in flight lands, no more begin. A machine that is locked is left alone.
    for sim in &yard.sims {
        sim.faults()
            .iter()
            .for_each(|fault| assert!(sim.remove_fault(fault.id)));
    }
    let out = yard
        .server
        .isobar(&["machines", "update", "Name:m-02", r#"{"Locked": true}"#]);
    assert!(out.ok, "{out}");
    // It stays in flight until it is let go.
    let held = yard.sims[3].plant(Fault::from(FaultKind::Hold { done: false }).on("POST", "InsertMedia"));
    let begun = yard.boot(&["Name=Re(m-0[2345])", "--bootenv", "sledgehammer", "--parallel", "1"]);
    let id = begun["id"].as_str().unwrap();
    yard.server.wait("one is in flight", |_| {
        yard.operation(id)["fleet"]["skipped"] == 1 && !yard.sims[3].requests().is_empty()
    });
    let dry = yard.boot(&["Name=m-03", "--bootenv", "sledgehammer", "--dry-run"]);
    assert_eq!(dry[0]["reason"]["reason"], "boot-under-way", "{dry:#}");
    let out = yard.server.isobar(&["operations", "cancel", id]);
    assert!(out.ok, "{out}");
    assert!(yard.sims[3].remove_fault(held));
    let ended = yard.end(id, 1);
    assert_eq!(ended["state"], "cancelled", "{ended:#}");
    let fleet = &ended["fleet"];
    assert_eq!(
        (&fleet["booted"], &fleet["left"], &fleet["skipped"]),
        (&json!(1), &json!(2), &json!(1))
    );
    assert_eq!(fleet["troubles"][0]["reason"]["reason"], "locked", "{ended:#}");
    assert!(yard.sims[4].requests().is_empty() && yard.sims[2].requests().is_empty());
    let out = yard.server.isobar(&["operations", "cancel", id]);
    assert!(!out.ok && out.stderr.contains("it is over"), "{out}");
}

#[test]
fn whoever_stops_watching_leaves_it_running() {
    let yard = Yard::new(2);
    let words = [
        "machines",
        "boot",
        "--all",
        "--bootenv",
        "sledgehammer",
        "--parallel",
        "1",
        "--watch",
    ];
    let mut command = yard.server.command(&words);
    let mut watcher = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let told = said_after(&mut watcher, "Ctrl-C leaves it running");
    yard.server
        .wait("it has begun", |_| !yard.sims[0].requests().is_empty());
    let pid = watcher.id().to_string();
    assert!(
        std::process::Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .unwrap()
            .success()
    );
    let text: Vec<String> = told.collect();
    assert!(watcher.wait().unwrap().success(), "{text:?}");
    let look = text
        .iter()
        .find(|line| line.contains("isobar operations watch "))
        .unwrap();
    let id = look
        .split_whitespace()
        .skip_while(|word| *word != "`isobar")
        .nth(3)
        .unwrap();
    let ended = yard.end(id.trim_end_matches('`'), 1);
    assert_eq!(ended["fleet"]["booted"], 2, "{ended:#}");
}
