//! `fleet`: thousands of boots at once, through simulated BMCs that are as slow as real ones, in scaled time.
//!
//! The simulators and whoever plays the machines' operating systems run in this process, on the same processors as the
//! server; what is counted as the server's is its own process's.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use isobar_agent::protocol::{BootFile, Server};
use isobar_client::Client;
use isobar_sim::{FaultKind, OsExit, OsHook, OsUp, Sim, SimConfig};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Runtime;

use crate::Bench;
use crate::goal::{Bound, Goal, Limit, Source, Unit, goal, told};
use crate::samples::Samples;
use crate::setup::Setup;
use crate::stage::{BMC_USER, Stage};

/// Machines, each with a BMC of its own.
const MACHINES: usize = 10_000;
/// Conversations with BMCs at one time, the server's setting.
const AT_ONCE: usize = 48;
/// Least delay of every answer of a BMC, and how many steps of a millisecond the slowest has more. A boot is about a
/// dozen requests: 0.3 to 0.6 s, the half minute to a minute that operators wait, at 1:100.
const LATENCY_MS: u64 = 25;
const SPREAD_MS: u64 = 26;
/// Connections that create and patch.
const WRITERS: usize = 16;
const BMC_PASSWORD: &str = "calvin-and-hobbes";
/// Memory that the server may take: so much, and so much for each machine, bytes.
const MEMORY: f64 = 100e6;
const MEMORY_OF_MACHINE: f64 = 20e3;
const PATIENCE: Duration = Duration::from_secs(1_800);
const LOOK: Duration = Duration::from_millis(100);

pub(crate) const BENCH: Bench = Bench {
    name: "fleet",
    about: "boots of 10,000 machines through simulated BMCs at a hundredth of their latencies",
    runs: 1,
    goals: &[
        goal(
            "server's processor time a boot",
            Unit::Seconds,
            Bound::AtMost(4e-3),
            Source::Median("cpu"),
        ),
        goal(
            "time ÷ what latencies and concurrency allow",
            Unit::Times,
            Bound::AtMost(1.25),
            Source::Ratio("time", "bound"),
        ),
        Goal {
            name: "boots",
            unit: Unit::PerSecond,
            bound: Bound::AtLeast(50.0),
            source: Source::Median("rate"),
            limit: Some(Limit {
                what: "latencies and concurrency",
                series: "most",
            }),
        },
        goal(
            "server's memory ÷ (100 MB + 20 KB a machine)",
            Unit::Times,
            Bound::AtMost(1.0),
            Source::Ratio("memory", "memory allowed"),
        ),
        told("server's memory", Unit::Bytes, "memory"),
        told("BMC's requests a boot", Unit::Count, "requests"),
        told("a boot's BMC time", Unit::Seconds, "latency"),
        told("whole time", Unit::Seconds, "time"),
    ],
    measure,
};

fn measure(setup: &Setup, samples: &mut Samples) -> Result<()> {
    raise_open_files()?;
    let machines = if setup.quick { MACHINES / 10 } else { MACHINES };
    for run in 0..setup.runs {
        say(&format!("run {} of {}", run + 1, setup.runs));
        one_run(setup, machines, samples)?;
    }
    Ok(())
}

/// To standard error: what is measured goes to standard output.
fn say(what: &str) {
    eprintln!("fleet: {what}");
}

/// A listener for each BMC, and a connection to some of them.
fn raise_open_files() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let current = limit.maximum;
    setrlimit(Resource::Nofile, Rlimit { current, ..limit }).context("cannot raise the limit of open files")
}

fn one_run(setup: &Setup, machines: usize, samples: &mut Samples) -> Result<()> {
    let work = setup.fresh("fleet")?;
    let timing = format!("bmc_connections={AT_ONCE},site_connections=0,poll_s=0.1,heartbeat_s=3600,agent_gone_s=7200");
    let args = [
        "--log-level",
        "warn",
        "--address-for-bmc",
        "127.0.0.1",
        "--timing",
        &timing,
    ];
    let stage = Stage::up(setup, &work, &args)?;
    let client = stage.client()?;
    import(&client)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let up = Arc::new(AtomicUsize::new(0));
    let fleet = fleet(
        &runtime,
        machines,
        operating_system(stage.api(), &work.join("agents"), &up),
    )?;
    let resident = || -> Result<String> {
        Ok(format!(
            "the server has {:.0} MiB",
            stage.serve.memory("VmRSS:")? / 1_048_576.0
        ))
    };
    say(&format!("{machines} BMCs listen; {}", resident()?));
    let uuids = create(&client, &fleet)?;
    say(&format!("{machines} machines; {}", resident()?));

    let (began, cpu) = (Instant::now(), stage.serve.processor_time()?);
    let bootenv = json!([{"op": "replace", "path": "/BootEnv", "value": "sledgehammer"}]);
    side_by_side(&client, uuids.len(), |client, n| {
        let path = format!("/api/v3/machines/{}", uuids[n]);
        client.patch::<_, Value>(&path, &bootenv).map(drop)
    })?;
    say(&format!(
        "all asked for after {:.1} s; {}",
        began.elapsed().as_secs_f64(),
        resident()?
    ));
    let mut told = Instant::now();
    while up.load(Ordering::SeqCst) < machines {
        ensure!(
            began.elapsed() < PATIENCE,
            "{} of {machines} are up",
            up.load(Ordering::SeqCst)
        );
        if told.elapsed() > Duration::from_secs(10) {
            told = Instant::now();
            say(&format!("{} are up; {}", up.load(Ordering::SeqCst), resident()?));
            none_failed(&client)?;
        }
        sleep(LOOK);
    }
    let (time, cpu) = (began.elapsed().as_secs_f64(), stage.serve.processor_time()? - cpu);
    all_done(&client)?;

    let (mut requests, mut latency) = (0.0, 0.0);
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for (n, sim) in fleet.iter().enumerate() {
        let sent = sim.requests();
        for request in &sent {
            *kinds.entry(kind(request)).or_default() += 1;
        }
        let count = sent.len() as f64;
        requests += count;
        latency += count * delay_ms(n) as f64 / 1e3;
    }
    let n = machines as f64;
    for (kind, count) in kinds {
        say(&format!("{:6.2} a boot: {kind}", count as f64 / n));
    }
    let bound = latency / AT_ONCE as f64;
    for (series, sample) in [
        ("cpu", cpu / n),
        ("time", time),
        ("bound", bound),
        ("rate", n / time),
        ("most", n / bound),
        ("memory", stage.serve.memory("VmHWM:")?),
        ("memory allowed", MEMORY + MEMORY_OF_MACHINE * n),
        ("requests", requests / n),
        ("latency", latency / n),
    ] {
        samples.add(series, sample);
    }
    drop(stage);
    runtime.block_on(async {
        for sim in fleet {
            sim.shutdown().await;
        }
    });
    Ok(())
}

/// What was asked for, without the numbers of sessions.
fn kind(request: &isobar_sim::Request) -> String {
    let path = request.path.trim_start_matches("/redfish/v1");
    match path.split_once("/Sessions/") {
        Some((before, _)) => format!("{} {before}/Sessions/…", request.method),
        None => format!("{} {path}", request.method),
    }
}

fn delay_ms(machine: usize) -> u64 {
    LATENCY_MS + machine as u64 % SPREAD_MS
}

fn fleet(runtime: &Runtime, machines: usize, os_up: OsHook) -> Result<Vec<Sim>> {
    let config = SimConfig {
        user: BMC_USER.to_owned(),
        password: BMC_PASSWORD.to_owned(),
        os_up: Some(os_up),
        ..SimConfig::quick()
    };
    let fleet = runtime.block_on(isobar_sim::start_fleet(config, u16::try_from(machines)?))?;
    for (n, sim) in fleet.iter().enumerate() {
        sim.plant(FaultKind::Slow { ms: delay_ms(n) });
    }
    Ok(fleet)
}

/// Machines with these BMCs; their UUIDs.
fn create(client: &Client, fleet: &[Sim]) -> Result<Vec<String>> {
    let login = json!({"ipmi/username": BMC_USER, "ipmi/password": BMC_PASSWORD, "boot-virtual-iso": true});
    let _: Value = client.post("/api/v3/profiles", &json!({"Name": "bmcs", "Params": login}))?;
    let uuids: Vec<String> = fleet.iter().map(|sim| sim.config().uuid.to_string()).collect();
    side_by_side(client, fleet.len(), |client, n| {
        // Not the network's own address.
        let host = n + 1;
        let address = format!("10.{}.{}.{}", host >> 16, host >> 8 & 255, host & 255);
        let network = json!({"prov": {"address": address, "netmask": "255.0.0.0", "gateway": "10.255.255.254"}});
        let params = json!({"ipmi/address": fleet[n].url().as_str(), "network-data": network});
        let machine = json!({
            "Name": format!("node-{n:05}"), "Uuid": uuids[n], "Profiles": ["bmcs"], "Workflow": "", "BootEnv": "local",
            "Params": params,
        });
        client.post::<_, Value>("/api/v3/machines", &machine).map(drop)
    })?;
    Ok(uuids)
}

/// Calls for each of `count`, on [`WRITERS`] connections.
fn side_by_side(
    client: &Client,
    count: usize,
    call: impl Fn(&Client, usize) -> Result<(), isobar_client::ClientError> + Sync,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let work = || -> Result<()> {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= count {
                    return Ok(());
                }
                call(client, n)?;
            }
        };
        let threads: Vec<_> = (0..WRITERS).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            thread.join().map_err(|_| anyhow!("a thread panicked"))??;
        }
        Ok(())
    })
}

/// One that failed would be waited for in vain.
fn none_failed(client: &Client) -> Result<()> {
    let failed: Vec<Value> = client.get("/isobar/v1/boots?state=failed&limit=1")?;
    match failed.first() {
        Some(boot) => bail!("{}: {}", boot["machine_name"], boot["error"]),
        None => Ok(()),
    }
}

/// Every machine's boot came to its end, and a good one.
fn all_done(client: &Client) -> Result<()> {
    let began = Instant::now();
    loop {
        none_failed(client)?;
        let running: Vec<Value> = client.get("/isobar/v1/boots?state=running&limit=1")?;
        let Some(other) = running.first() else {
            return Ok(());
        };
        ensure!(began.elapsed() < Duration::from_secs(60), "not done: {other}");
        sleep(LOOK);
    }
}

/// Plays the machines' operating system: our agent's own protocol as far as its report, without a kernel.
fn operating_system(api: u16, folder: &Path, up: &Arc<AtomicUsize>) -> OsHook {
    let (folder, up) = (folder.to_owned(), Arc::clone(up));
    Arc::new(move |os: OsUp| {
        let (folder, up) = (folder.clone(), Arc::clone(&up));
        Box::pin(async move {
            let OsUp {
                uuid,
                initrds,
                mut power_button,
                ..
            } = os;
            let run = folder.join(uuid.to_string());
            let agent = tokio::task::spawn_blocking(move || report(api, &run, &initrds));
            match agent.await.map_err(anyhow::Error::from).flatten() {
                Ok(()) => drop(up.fetch_add(1, Ordering::SeqCst)),
                Err(error) => say(&format!("agent of {uuid}: {error:#}")),
            }
            // Never comes: nobody presses it.
            let _ = power_button.recv().await;
            OsExit::PowerOff
        })
    })
}

fn report(api: u16, run: &PathBuf, initrds: &[(String, Vec<u8>)]) -> Result<()> {
    let mut boot = initrds
        .iter()
        .find_map(|(_, archive)| secret_of(archive))
        .context("no initrd has the boot secret")?;
    boot["api"] = json!([format!("https://127.0.0.1:{api}")]);
    fs::create_dir_all(run)?;
    let file = run.join("boot.json");
    fs::write(&file, boot.to_string())?;
    let mut server = Server::new(BootFile::read(&file)?, run)?;
    server.log_in()?;
    server.check_in(1)?;
    Ok(server.set_machine("", &[])?)
}

/// The JSON in a newc archive that holds one file with some.
fn secret_of(archive: &[u8]) -> Option<Value> {
    let from = archive.iter().position(|byte| *byte == b'{')?;
    let mut values = serde_json::Deserializer::from_slice(&archive[from..]).into_iter();
    values.next()?.ok()
}

/// A live image in which nothing runs: small, as the bytes of kernel and initrd are for the bench `files`.
fn import(client: &Client) -> Result<()> {
    let noise = |kib: usize, seed: u8| -> Vec<u8> {
        let word = |n: usize| Sha256::digest([n.to_le_bytes().as_slice(), &[seed]].concat());
        (0..kib * 32).flat_map(word).collect()
    };
    let files: HashMap<&str, (Vec<u8>, &str)> = HashMap::from([
        ("vmlinuz0", (noise(64, 1), "kernel")),
        ("stage1.img", (noise(96, 2), "initrd")),
        ("boot/grub/efi.img", (noise(32, 3), "efi-image")),
        ("boot/grub/i386-pc/eltorito.img", (noise(32, 4), "bios-image")),
        (".isobar/0123456789abcdef", (b"marker".to_vec(), "other")),
    ]);
    let listed: Vec<Value> = files
        .iter()
        .map(|(path, (bytes, role))| {
            let digest: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            json!({"path": path, "sha256": digest, "size": bytes.len(), "role": role})
        })
        .collect();
    let bundle = json!({
        "format": 1, "name": "sledgehammer", "version": "1", "arch": "amd64", "volume_id": "SLEDGEHAMMER",
        "bios_image": "boot/grub/i386-pc/eltorito.img", "efi_image": "boot/grub/efi.img", "catalog": "boot.catalog",
        "kernel": "vmlinuz0", "initrd": "stage1.img", "marker": ".isobar/0123456789abcdef", "files": listed,
    });
    let mut archive = tar::Builder::new(Vec::new());
    let mut add = |path: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, path, bytes)
    };
    add("bundle.json", bundle.to_string().as_bytes())?;
    for (path, (bytes, _)) in &files {
        add(&format!("tree/{path}"), bytes)?;
    }
    let archive = archive.into_inner()?;
    let len = archive.len() as u64;
    let _: Value = client.upload(
        "/isobar/v1/bases/sledgehammer",
        "application/x-tar",
        Some(len),
        &mut archive.as_slice(),
    )?;
    Ok(())
}
