//! The server is killed at random moments, while several machines boot again and again.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use isobar_client::Client;
use isobar_sim::{Fault, FaultKind, Firmware, ReadManner, Sim};
use serde_json::Value;

use crate::stage::{self, Habit, Options, PATIENCE, Players, Server};
use crate::{boots, set_bootenv, settled};

/// How often the server is killed in every run and in a full one, unless `ISOBAR_TEST_KILLS` says otherwise.
const KILLS: [usize; 2] = [40, 200];
/// Machines of each manner, in every run and in a full one, unless `ISOBAR_TEST_FLEET` says otherwise.
const FLEET: [usize; 2] = [1, 4];
/// Boots of all machines together that are begun in a full run at least.
const BOOTS: usize = 200;
/// One kill in so many comes while the server is still starting.
const WHILE_STARTING: u64 = 4;
/// One life in so many is long enough for a boot.
const LONG_LIFE: u64 = 6;

const TIMING: &str = "exchange_s=6,insert_s=8,settle_s=3,retry_s=0.2,poll_s=0.1,shutdown_s=2,power_s=30,first_read_s=60,\
                      stalled_s=60,agent_s=120,agent_reboot_s=30,agent_gone_s=3,heartbeat_s=1,cleanup_s=1,tries=50";

/// An insert's deadline in [`TIMING`]: no exchange is waited for any longer.
const LONGEST: Duration = Duration::from_secs(8);

/// How the BMC reads, what firmware its machine has, and what its agent does.
const MACHINES: [(ReadManner, Firmware, Habit, Option<u64>); 7] = [
    (ReadManner::Lazy, Firmware::Uefi, Habit::Beats, None),
    (ReadManner::Lazy, Firmware::Bios, Habit::Silent, None),
    (ReadManner::AtInsert, Firmware::Bios, Habit::Beats, None),
    (ReadManner::ReadAhead, Firmware::Uefi, Habit::Silent, None),
    (ReadManner::CopyAll, Firmware::Uefi, Habit::Beats, None),
    (ReadManner::CopyAll, Firmware::Bios, Habit::Silent, None),
    // Killed in the middle of its reads more often than not.
    (ReadManner::Lazy, Firmware::Uefi, Habit::Beats, Some(4_000_000)),
];

/// How long a BMC takes to insert.
const INSERT_MS: u64 = 250;

/// splitmix64: nothing but repeatable.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

struct Machine {
    uuid: String,
    sim: Sim,
    habit: Habit,
    /// The bootenv whose change was acknowledged last.
    bootenv: &'static str,
    /// One that was asked for and not acknowledged: it may have come to pass, or not.
    asked: Option<&'static str>,
    settled_at: Option<Instant>,
    begun: usize,
}

impl Machine {
    /// What a restarted server must know.
    fn check(&mut self, client: &Client) {
        let machine: Value = client.get(&format!("/api/v3/machines/{}", self.uuid)).unwrap();
        let is = machine["BootEnv"].as_str().unwrap();
        if let Some(asked) = self.asked.take().filter(|asked| *asked == is) {
            self.bootenv = asked;
        }
        assert_eq!(is, self.bootenv, "an acknowledged change was lost");
    }

    fn ask(&mut self, client: &Client, bootenv: &'static str) -> Option<()> {
        self.asked = Some(bootenv);
        self.settled_at = None;
        set_bootenv(client, &self.uuid, bootenv).ok()?;
        (self.bootenv, self.asked) = (bootenv, None);
        Some(())
    }

    /// The next boot, if the last one is over; nothing when the server has gone.
    fn go_on(&mut self, client: &Client) -> Option<()> {
        let boots = boots(client, &self.uuid).ok()?;
        if !settled(&boots) {
            self.settled_at = None;
            return Some(());
        }
        // An agent that is silent must not be taken for a live one.
        let since = *self.settled_at.get_or_insert_with(Instant::now);
        if self.habit == Habit::Silent && !boots.is_empty() && since.elapsed() < Duration::from_secs(4) {
            return Some(());
        }
        match (self.bootenv, self.habit) {
            ("sledgehammer", Habit::Beats) => self.ask(client, "local"),
            ("sledgehammer", Habit::Silent) => {
                // Nothing is ejected under it; the next boot takes over what is owed.
                self.ask(client, "local")?;
                self.begin(client)
            }
            _ => self.begin(client),
        }
    }

    fn begin(&mut self, client: &Client) -> Option<()> {
        self.ask(client, "sledgehammer")?;
        self.begun += 1;
        Some(())
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// What goes wrong at BMCs whose boots climb the ladder, how often at most: enough for each rung, not always for the last.
const TROUBLE: [(&str, &str, FaultKind); 4] = [
    ("POST", "InsertMedia", FaultKind::NoMount { inserted: false }),
    ("POST", "InsertMedia", FaultKind::Reset),
    ("POST", "EjectMedia", FaultKind::LoseReply),
    ("PATCH", "Systems/1", FaultKind::Reset),
];

#[test]
fn boots_complete_however_often_the_server_is_killed() {
    let fleet = number("ISOBAR_TEST_FLEET").map(|fleet| usize::try_from(fleet).unwrap());
    let fleet = fleet.unwrap_or_else(|| stage::count("machines of each manner", FLEET[0], FLEET[1]));
    let manners: Vec<Manner> = (0..fleet).flat_map(|_| MACHINES).collect();
    let kills = stage::count("kills", KILLS[0], KILLS[1]);
    let begun = killed(kills, TIMING, &manners, false);
    assert!(kills < KILLS[1] || begun >= BOOTS, "{begun} boots");
}

/// Exchanges of the ladder's rungs are hit, too: a boot may fail then, and does no harm.
#[test]
fn the_ladder_does_no_harm_however_often_the_server_is_killed() {
    let timing = format!("{TIMING},tries=2,reset_pause_s=3,reset_s=20,settle_s=1,breaker_s=0.5");
    killed(KILLS[0] / 4, &timing, &MACHINES[..3], true);
}

/// Another trouble once the last one is used up; each machine begins with one of its own.
fn plant(sim: &Sim, number: usize, random: &mut Random) {
    if sim.faults().is_empty() {
        let (which, times) = match sim.requests().is_empty() {
            true => (number, 5),
            false => (usize::try_from(random.below(4)).unwrap(), 1 + random.below(8)),
        };
        let (method, path, kind) = &TROUBLE[which];
        let mut fault = Fault::from(kind.clone()).on(method, path);
        fault.times = Some(u32::try_from(times).unwrap());
        sim.plant(fault);
    }
}

/// What the machine and its BMC have to say, where a boot came to nothing.
fn seen(sim: &Sim) -> String {
    let reads = sim.reads();
    let broken: Vec<_> = reads.iter().filter(|read| read.error.is_some()).collect();
    format!("boots: {:#?}\nbroken reads: {broken:#?}", sim.boots())
}

type Manner = (ReadManner, Firmware, Habit, Option<u64>);

/// How many boots were begun.
fn killed(kills: usize, timing: &str, manners: &[Manner], trouble: bool) -> usize {
    let kills = number("ISOBAR_TEST_KILLS").map_or(kills, |kills| kills.try_into().unwrap());
    let seed = number("ISOBAR_TEST_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    eprintln!("{kills} kills, ISOBAR_TEST_SEED={seed}");
    let mut random = Random(seed);
    let (runtime, players) = (stage::runtime(), Players::default());
    let mut server = Server::new(Options {
        timing: timing.to_owned(),
        ..Options::default()
    });
    server.start();
    server.import();
    let mut machines: Vec<Machine> = manners
        .iter()
        .map(|(read, firmware, habit, rate)| {
            let mut config = stage::sim_config();
            (config.manners.read, config.firmware, config.manners.rate_bps) = (*read, *firmware, *rate);
            // So that kills come upon BMCs that are busy.
            config.manners.insert_ms = INSERT_MS;
            // A server that is killed for a minute is away most of it: a machine that gives up amid its reads is another test's.
            config.manners.read_patience_ms = 30_000;
            config.os_up = Some(players.hook_of(server.api_port(), *habit));
            Machine {
                uuid: String::new(),
                sim: runtime.block_on(isobar_sim::start(config)).unwrap(),
                habit: *habit,
                bootenv: "local",
                asked: None,
                settled_at: None,
                begun: 0,
            }
        })
        .collect();
    let bmcs: Vec<_> = (machines.iter().enumerate())
        .map(|(n, machine)| (format!("m-{n}"), machine.sim.url().to_string()))
        .collect();
    for (machine, uuid) in machines.iter_mut().zip(server.create_machines(&bmcs)) {
        machine.uuid = uuid;
    }
    if trouble {
        let rungs = r#"["eject", "sessions", "post", "reset"]"#;
        let out = server.isobar(&["profiles", "set", "bmcs", "param", "isobar/bmc-recovery", "to", rungs]);
        assert!(out.ok, "{out}");
    }

    for kill in 0..kills {
        let client = server.client();
        if trouble {
            let each = machines.iter().enumerate();
            each.for_each(|(number, machine)| plant(&machine.sim, number, &mut random));
        }
        machines.iter_mut().for_each(|machine| machine.check(&client));
        let life = match random.below(LONG_LIFE) {
            0 => 3000 + random.below(2000),
            _ => random.below(1000),
        };
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // Asks on until the server is gone in the middle of it.
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    if machines.iter_mut().any(|machine| machine.go_on(&client).is_none()) {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
            });
            std::thread::sleep(Duration::from_millis(life));
            server.kill();
            over.store(true, Ordering::Relaxed);
        });
        server.spawn();
        if random.below(WHILE_STARTING) == 0 && kill + 1 < kills {
            std::thread::sleep(Duration::from_millis(random.below(400)));
            server.kill();
            server.spawn();
        }
        server.wait_up();
    }

    let client = server.client();
    let deadline = Instant::now() + PATIENCE * 2;
    for machine in &mut machines {
        machine.check(&client);
        for fault in machine.sim.faults() {
            machine.sim.remove_fault(fault.id);
        }
        loop {
            let boots = boots(&client, &machine.uuid).unwrap();
            if machine.bootenv == "sledgehammer" && settled(&boots) && boots[0]["state"] == "done" {
                break;
            }
            let failed = settled(&boots) && boots[0]["state"] == "failed";
            assert!(
                Instant::now() < deadline && (trouble || !failed),
                "seed {seed}: never done: {:#}\n{}\nserver started at {:?}",
                boots[0],
                seen(&machine.sim),
                server.starts
            );
            if machine.bootenv == "local" {
                machine.begin(&client).unwrap();
            } else if failed {
                machine.ask(&client, "local").unwrap();
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    let mut rungs = BTreeMap::<String, usize>::new();
    for (machine, manner) in machines.iter().zip(manners) {
        let what = format!("seed {seed}, {manner:?}");
        for boot in boots(&client, &machine.uuid).unwrap() {
            for rung in boot["recovery"].as_array().unwrap() {
                *rungs.entry(rung["rung"].as_str().unwrap().to_owned()).or_default() += 1;
            }
            assert!(
                (trouble && boot["state"] == "failed")
                    || ["done", "replaced"].contains(&boot["state"].as_str().unwrap()),
                "{what}: {boot:#}"
            );
        }
        assert_eq!(
            stage::overlaps_within(&machine.sim.requests(), &server.starts, Some(LONGEST)),
            [""; 0],
            "{what}"
        );
        assert_eq!(stage::cuts_while_booting(&machine.sim), [""; 0], "{what}");
        let oses = players.by_machine().get(&machine.uuid).copied().unwrap_or(0);
        eprintln!("{manner:?}: {} boots acknowledged, {oses} systems up", machine.begun);
        assert!(
            trouble || oses >= machine.begun,
            "{what}: {oses} systems up in {} boots",
            machine.begun
        );
    }
    eprintln!("rungs taken: {rungs:?}");
    assert!(
        !trouble || rungs.contains_key("eject"),
        "seed {seed}: no rung was taken: {rungs:?}"
    );
    let begun = machines.iter().map(|machine| machine.begun).sum();
    eprintln!(
        "{kills} kills, {} starts of the server, {begun} boots",
        server.starts.len()
    );
    begun
}
