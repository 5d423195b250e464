//! `api`: what the API does in a second, on one connection and on many, against SQLite alone and against what is asked.

mod connection;
mod fsyncs;
mod machines;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::Value;

use crate::Bench;
use crate::goal::{Bound, Goal, Limit, Source, Unit, goal, told};
use crate::samples::Samples;
use crate::setup::Setup;
use crate::stage::Stage;
use connection::{Api, Connection};
use fsyncs::Fsyncs;
use machines::{machine, uuid};

/// Machines that are there while the first part is measured.
const MACHINES: usize = 10_000;
/// Connections of the parts that have many.
const MANY: usize = 64;
/// Requests of a kind in one run on one connection.
const SINGLE: usize = 1_000;
/// Writes in one run on many connections.
const WRITES: usize = 6_400;
/// What every fsync takes longer in the part with a slow disk.
const SLOW: Duration = Duration::from_millis(5);
/// Numbers of machines at which keyed work is measured. `--quick` ends at the second last.
const GROWTH: [usize; 4] = [100, 1_000, 10_000, 100_000];

const fn rate(name: &'static str, least: f64, series: &'static str) -> Goal {
    goal(name, Unit::PerSecond, Bound::AtLeast(least), Source::Median(series))
}

/// Orientation of the four rates: what DRP 3.13.3 did on one connection with 300 machines and two processors (182, 1,359,
/// 208 and 217 a second); ten times that for writes, five times for gets.
pub(crate) const BENCH: Bench = Bench {
    name: "api",
    about: "creates, gets, patches, lists a second with 10,000 machines; creates against SQLite alone; growth to 100,000",
    runs: 3,
    goals: &[
        Goal {
            name: "creates ÷ SQLite's rows, one fsync each",
            unit: Unit::Times,
            bound: Bound::AtLeast(0.5),
            source: Source::Ratio("create", "sqlite"),
            limit: None,
        },
        Goal {
            name: "creates, one connection",
            unit: Unit::PerSecond,
            bound: Bound::AtLeast(1_820.0),
            source: Source::Median("create"),
            limit: Some(Limit {
                what: "one row an fsync",
                series: "sqlite",
            }),
        },
        rate("gets, one connection", 6_795.0, "get"),
        rate("patches, one connection", 2_080.0, "patch"),
        rate("params set, one connection", 2_170.0, "set"),
        told("creates, 64 connections", Unit::PerSecond, "creates of many"),
        goal(
            "fsyncs a write, 64 connections",
            Unit::Count,
            Bound::AtMost(0.1),
            Source::Median("fsyncs of many"),
        ),
        rate(
            "creates, 64 connections, fsync + 5 ms",
            3_000.0,
            "creates of many, slow",
        ),
        goal(
            "fsyncs a write, fsync + 5 ms",
            Unit::Count,
            Bound::AtMost(0.1),
            Source::Median("fsyncs of many, slow"),
        ),
        told(
            "patches, 64 connections, fsync + 5 ms",
            Unit::PerSecond,
            "patches of many, slow",
        ),
        told("list by an index", Unit::Seconds, "list by index"),
        told("list by a param", Unit::Seconds, "list by param"),
        told("full list", Unit::Seconds, "full list"),
        told("full list, to its first byte", Unit::Seconds, "full list's head"),
        told("full list's text", Unit::Bytes, "text"),
        goal(
            "resident ÷ documents' text",
            Unit::Times,
            Bound::AtMost(2.0),
            Source::Ratio("resident", "text"),
        ),
        told("most resident ÷ documents' text", Unit::Times, "peak of text"),
        told("get with 100 machines", Unit::Seconds, "get at 100"),
        told("get with the most machines", Unit::Seconds, "get at most"),
        goal(
            "get, most ÷ 100 machines",
            Unit::Times,
            Bound::AtMost(1.5),
            Source::Ratio("get at most", "get at 100"),
        ),
        told("patch with 100 machines", Unit::Seconds, "patch at 100"),
        told("patch with the most machines", Unit::Seconds, "patch at most"),
        goal(
            "patch, most ÷ 100 machines",
            Unit::Times,
            Bound::AtMost(1.5),
            Source::Ratio("patch at most", "patch at 100"),
        ),
        goal(
            "create, most ÷ 100 machines",
            Unit::Times,
            Bound::AtMost(1.5),
            Source::Ratio("create at most", "create at 100"),
        ),
    ],
    measure,
};

fn measure(setup: &Setup, samples: &mut Samples) -> Result<()> {
    let work = setup.fresh("api")?;
    let fsyncs = Fsyncs::new(&work)?;
    let machines = if setup.quick { MACHINES / 10 } else { MACHINES };
    let mut server = Server::start(setup, &work.join("many"), &fsyncs)?;
    server.fill(machines)?;
    fsyncs.ensure_counts()?;
    for run in 0..setup.runs {
        say(&format!("run {} of {}", run + 1, setup.runs));
        server.one_connection(samples)?;
        samples.add("sqlite", rows_by_sqlite(&work.join(format!("rows-{run}.db")))?);
        server.many_connections(samples, "")?;
        fsyncs.slow_down(SLOW)?;
        let slow = server
            .many_connections(samples, ", slow")
            .and_then(|()| server.patches_of_many(samples));
        fsyncs.slow_down(Duration::ZERO)?;
        slow?;
        server.lists(samples)?;
    }
    drop(server);
    grow(setup, &work, &fsyncs, samples)
}

/// To standard error: what is measured goes to standard output.
fn say(what: &str) {
    eprintln!("api: {what}");
}

/// Keyed work on one connection while there are more and more machines.
fn grow(setup: &Setup, work: &Path, fsyncs: &Fsyncs, samples: &mut Samples) -> Result<()> {
    let mut server = Server::start(setup, &work.join("growth"), fsyncs)?;
    let sizes = if setup.quick {
        &GROWTH[..GROWTH.len() - 1]
    } else {
        &GROWTH
    };
    for (at, size) in sizes.iter().enumerate() {
        server.fill(*size)?;
        let mut connection = server.api.connect()?;
        let mut took = Samples::default();
        // The median of several passes: one that met something else does not count.
        for _ in 0..5 {
            let (get, patch, create) = (
                server.gets(&mut connection, SINGLE)?,
                server.patches(&mut connection, SINGLE / 5)?,
                server.creates_on(&mut connection, SINGLE / 5)?,
            );
            for (what, rate) in [("get", get), ("patch", patch), ("create", create)] {
                took.add(what, 1.0 / rate);
            }
        }
        for what in ["get", "patch", "create"] {
            let median = took.measured(Source::Median(what))?.median;
            eprintln!(
                "api: with {size:>6} machines a {what:<6} takes {}",
                Unit::Seconds.text(median)
            );
            let ends = [(0, "100"), (sizes.len() - 1, "most")];
            for (_, name) in ends.iter().filter(|(end, _)| *end == at) {
                samples.add(&format!("{what} at {name}"), median);
            }
        }
    }
    Ok(())
}

/// A row of a machine's text in a transaction of its own, as fast as SQLite does it; how many a second.
fn rows_by_sqlite(path: &Path) -> Result<f64> {
    let conn = rusqlite::Connection::open(path)?;
    conn.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.execute_batch("CREATE TABLE documents (key TEXT PRIMARY KEY, body BLOB NOT NULL)")?;
    let rows: Vec<_> = (0..SINGLE).map(|n| (uuid(n), machine(n))).collect();
    let began = Instant::now();
    let mut insert = conn.prepare("INSERT INTO documents VALUES (?1, ?2)")?;
    for row in &rows {
        insert.execute(rusqlite::params![row.0, row.1])?;
    }
    Ok(SINGLE as f64 / began.elapsed().as_secs_f64())
}

struct Server<'a> {
    stage: Stage,
    api: Api,
    fsyncs: &'a Fsyncs,
    /// Machines that there are: those of the numbers below.
    machines: usize,
    /// Makes each patch another one.
    turn: usize,
}

impl<'a> Server<'a> {
    fn start(setup: &Setup, folder: &Path, fsyncs: &'a Fsyncs) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let stage = Stage::prepared(setup, folder, &["--log-level", "warn"], |command| fsyncs.watch(command))?;
        let token = stage.run(&["users", "token", "rocketskates", "ttl", "86400"])?;
        let token: Value = serde_json::from_str(&token).context("the token")?;
        let token = token["Token"].as_str().context("the token")?;
        let api = Api::new(stage.api(), &folder.join("data/tls.crt"), token)?;
        let (machines, turn) = (0, 0);
        Ok(Self {
            stage,
            api,
            fsyncs,
            machines,
            turn,
        })
    }

    /// Creates machines until there are so many.
    fn fill(&mut self, to: usize) -> Result<()> {
        if to > self.machines {
            let began = Instant::now();
            self.create_many(to - self.machines)?;
            say(&format!("{to} machines after {:.1} s", began.elapsed().as_secs_f64()));
        }
        Ok(())
    }

    fn one_connection(&mut self, samples: &mut Samples) -> Result<()> {
        let mut connection = self.api.connect()?;
        samples.add("create", self.creates_on(&mut connection, SINGLE)?);
        samples.add("get", self.gets(&mut connection, 5 * SINGLE)?);
        samples.add("patch", self.patches(&mut connection, SINGLE)?);
        samples.add("set", self.sets(&mut connection, SINGLE)?);
        Ok(())
    }

    fn many_connections(&mut self, samples: &mut Samples, manner: &str) -> Result<()> {
        let before = self.fsyncs.count()?;
        let rate = self.create_many(WRITES)?;
        let fsyncs = self.fsyncs.count()? - before;
        samples.add(&format!("creates of many{manner}"), rate);
        samples.add(&format!("fsyncs of many{manner}"), fsyncs as f64 / WRITES as f64);
        Ok(())
    }

    fn patches_of_many(&mut self, samples: &mut Samples) -> Result<()> {
        self.turn += 1;
        let (machines, turn) = (self.machines, self.turn);
        let rate = self.by_many(WRITES, |connection, n| {
            let body = format!(r#"[{{"op":"replace","path":"/Description","value":"turn {turn}"}}]"#);
            connection.ask("PATCH", &path(n % machines), body.as_bytes()).map(drop)
        })?;
        samples.add("patches of many, slow", rate);
        Ok(())
    }

    fn lists(&self, samples: &mut Samples) -> Result<()> {
        let mut connection = self.api.connect()?;
        let some = self.machines / 2;
        let index = connection.drain(&format!("/api/v3/machines?Name=mach-{some:06}"))?;
        samples.add("list by index", index.whole.as_secs_f64());
        let param = connection.drain(&format!("/api/v3/machines?site/param-01={some}"))?;
        ensure!(param.bytes > 2_000, "the filter by a param finds nothing");
        samples.add("list by param", param.whole.as_secs_f64());
        let full = connection.drain("/api/v3/machines")?;
        samples.add("full list", full.whole.as_secs_f64());
        samples.add("full list's head", full.first.as_secs_f64());
        samples.add("text", full.bytes as f64);
        samples.add("resident", self.stage.serve.memory("VmRSS:")?);
        samples.add("peak of text", self.stage.serve.memory("VmHWM:")? / full.bytes as f64);
        Ok(())
    }

    /// Creates a second on one connection.
    fn creates_on(&mut self, connection: &mut Connection, count: usize) -> Result<f64> {
        let bodies: Vec<_> = (self.machines..self.machines + count).map(machine).collect();
        self.machines += count;
        rated(count, |n| {
            connection.ask("POST", "/api/v3/machines", &bodies[n]).map(drop)
        })
    }

    fn gets(&self, connection: &mut Connection, count: usize) -> Result<f64> {
        let machines = self.machines;
        // Here and there, as an operator's questions are.
        rated(count, |n| {
            let body = connection.ask("GET", &path(n.wrapping_mul(7_919) % machines), b"")?;
            ensure!(body.len() > 4_000, "a get answers {} bytes", body.len());
            Ok(())
        })
    }

    fn patches(&mut self, connection: &mut Connection, count: usize) -> Result<f64> {
        self.turn += 1;
        let (machines, turn) = (self.machines, self.turn);
        rated(count, |n| {
            let body = format!(r#"[{{"op":"replace","path":"/Description","value":"turn {turn}, {n}"}}]"#);
            connection
                .ask("PATCH", &path(n.wrapping_mul(7_919) % machines), body.as_bytes())
                .map(drop)
        })
    }

    fn sets(&mut self, connection: &mut Connection, count: usize) -> Result<f64> {
        self.turn += 1;
        let (machines, turn) = (self.machines, self.turn);
        rated(count, |n| {
            let param = format!("{}/params/site/param-01", path(n.wrapping_mul(7_919) % machines));
            connection
                .ask("POST", &param, format!("\"turn {turn}, {n}\"").as_bytes())
                .map(drop)
        })
    }

    fn create_many(&mut self, count: usize) -> Result<f64> {
        let first = self.machines;
        let bodies: Vec<_> = (first..first + count).map(machine).collect();
        self.machines += count;
        self.by_many(count, |connection, n| {
            connection.ask("POST", "/api/v3/machines", &bodies[n]).map(drop)
        })
    }

    /// So many requests on [`MANY`] connections; how many a second.
    fn by_many(&self, count: usize, ask: impl Fn(&mut Connection, usize) -> Result<()> + Sync) -> Result<f64> {
        let connections = (0..MANY).map(|_| {
            let mut connection = self.api.connect()?;
            // The handshake is not what is measured.
            connection.ask("GET", "/api/v3/prefs", b"")?;
            Ok(connection)
        });
        let connections = connections.collect::<Result<Vec<_>>>()?;
        let (next, ask) = (AtomicUsize::new(0), &ask);
        let began = Instant::now();
        std::thread::scope(|scope| {
            let work = |mut connection: Connection| {
                let next = &next;
                move || -> Result<()> {
                    loop {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        if n >= count {
                            return Ok(());
                        }
                        ask(&mut connection, n)?;
                    }
                }
            };
            let threads: Vec<_> = connections.into_iter().map(|c| scope.spawn(work(c))).collect();
            for thread in threads {
                thread.join().map_err(|_| anyhow!("a thread panicked"))??;
            }
            Ok::<_, anyhow::Error>(())
        })?;
        Ok(count as f64 / began.elapsed().as_secs_f64())
    }
}

fn path(number: usize) -> String {
    format!("/api/v3/machines/{}", uuid(number))
}

/// Does something so many times; how often a second.
fn rated(count: usize, mut ask: impl FnMut(usize) -> Result<()>) -> Result<f64> {
    let began = Instant::now();
    (0..count).try_for_each(&mut ask)?;
    Ok(count as f64 / began.elapsed().as_secs_f64())
}
