//! What is served is what is exported: at every range, for every machine, for as long as its token is good.
#![allow(clippy::unwrap_used)]

mod stage;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use isobar_sim::{Fault, FaultKind};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use stage::{Disc, MACHINE, Options, Server, Stage};

const READS: usize = 100_000;
/// A BMC has one connection or a few.
const CONNECTIONS: usize = 8;
const SECTOR: u64 = 2048;
const LONGEST: u64 = 1 << 20;

fn boot(stage: &Stage) -> String {
    let out = stage.isobar(&["machines", "workflow", MACHINE, "discover-base", "--wait", "agent"]);
    assert!(out.ok, "{out}");
    stage.wait_boot("done");
    stage.sim().cd().image.clone().unwrap()
}

/// The machine's ISO as the API gives it to people.
fn export(server: &Server, machine: &str) -> Vec<u8> {
    let out = server.dir().join("export.iso");
    let exported = server.isobar(&["isos", "export", machine, "-o", out.to_str().unwrap()]);
    assert!(exported.ok, "{exported}");
    std::fs::read(out).unwrap()
}

fn differ(found: &[u8], export: &[u8]) -> Option<usize> {
    if found == export {
        return None;
    }
    Some(found.iter().zip(export).take_while(|(a, b)| a == b).count())
}

/// Most reads of a boot are short; a few are as long as BMCs ask for.
fn length(rng: &mut StdRng) -> u64 {
    let longest = (LONGEST / SECTOR) as f64;
    let len = SECTOR as f64 * longest.powf(rng.random::<f64>().powi(4));
    let len = len as u64;
    if rng.random_bool(0.5) {
        len.next_multiple_of(SECTOR)
    } else {
        len
    }
}

/// One read: a range somewhere, or one of the other forms that a range has.
fn random_read(rng: &mut StdRng, size: u64) -> (String, std::ops::Range<u64>) {
    let len = length(rng).min(size);
    let start = rng.random_range(0..=size - len);
    let start = if rng.random_bool(0.5) {
        start / SECTOR * SECTOR
    } else {
        start
    };
    match rng.random_range(0..20) {
        0 => (format!("-{len}"), size - len..size),
        // To the end, and beyond it.
        1 => (format!("{}-", size - len), size - len..size),
        2 => (format!("{}-{}", size - len, size + len), size - len..size),
        _ => (format!("{start}-{}", start + len - 1), start..start + len),
    }
}

#[test]
fn every_range_is_the_exports_and_a_token_that_is_over_serves_none() {
    let options = Options {
        args: vec!["--open-isos".to_owned()],
        // An eject is held for as long as some reads take.
        timing: format!("{},exchange_s=120", stage::TIMING),
        ..Options::default()
    };
    let stage = Stage::with(options, |_| {});
    stage.import();
    stage.add_machine(&json!({}));
    let url = boot(&stage);
    let first = export(&stage, MACHINE);
    let size = first.len() as u64;

    let began = Instant::now();
    let done = reads(&url, &first, READS);
    eprintln!(
        "{READS} reads, {} MB, {CONNECTIONS} connections: {:.1} s",
        done >> 20,
        began.elapsed().as_secs_f64()
    );
    // Two bytes across the end of each sector: whatever lies beside whatever.
    let mut disc = Disc::open(&url);
    for at in (SECTOR..size).step_by(SECTOR as usize) {
        assert_eq!(
            differ(disc.bytes(at - 1..at + 1), &first[at as usize - 1..at as usize + 1]),
            None,
            "at {at}"
        );
    }
    // And across both ends of each file, which need not end with a sector.
    let uuid = stage.machine()["Uuid"].as_str().unwrap().to_owned();
    let tree: Vec<Value> = stage
        .client()
        .get(&format!("/isobar/v1/isos/{uuid}/sledgehammer/tree"))
        .unwrap();
    assert!(tree.len() > 12, "{tree:?}");
    for file in &tree {
        let (offset, len) = (file["offset"].as_u64().unwrap(), file["size"].as_u64().unwrap());
        for at in [offset, offset + len] {
            let range = at.saturating_sub(1000)..(at + 1000).min(size);
            let found = disc.bytes(range.clone());
            assert_eq!(
                differ(found, &first[range.start as usize..range.end as usize]),
                None,
                "{file} at {at}"
            );
        }
    }

    // A second attempt begins while the first is still in the drive: each has its own bytes, secret and all.
    let hold = stage.sim().plant(
        Fault::from(FaultKind::Hold { done: false })
            .on("POST", "EjectMedia")
            .once(),
    );
    for words in [["workflow", MACHINE, ""], ["bootenv", MACHINE, "local"]] {
        assert!(stage.isobar(&[&["machines"], &words[..], &["--no-wait"]].concat()).ok);
    }
    let again = ["machines", "workflow", MACHINE, "discover-base", "--no-wait"];
    assert!(stage.isobar(&again).ok);
    stage.wait("the eject is held", |s| {
        s.sim().faults().iter().any(|f| f.id == hold && f.met > 0)
    });
    let second = export(&stage, MACHINE);
    assert_ne!(first, second);
    let name = format!(
        "http://127.0.0.1:{}/dynamic_isos/{uuid}/sledgehammer/boot.iso",
        stage.files_port()
    );
    let mut started = Disc::open(&url);
    std::thread::scope(|scope| {
        scope.spawn(|| reads(&url, &first, READS / 100));
        scope.spawn(|| reads(&name, &second, READS / 100));
    });
    // One read of the old is under way when it ends.
    let head = started.ask("GET", None);
    assert_eq!((head.status, head.length), (200, size));
    started.read(size / 8);
    assert_eq!(differ(&started.body, &first[..size as usize / 8]), None);
    stage.sim().release(hold);
    stage.wait("the second image is in", |s| {
        s.sim().cd().image.is_some_and(|image| image != url)
    });
    stage.wait_boot("done");
    started.read(size - size / 8);
    assert_eq!(
        differ(&started.body, &first[size as usize / 8..]),
        None,
        "what began, ends with the same bytes"
    );
    let new = stage.sim().cd().image.clone().unwrap();
    reads(&new, &second, READS / 100);

    // On connections that were there before, and on new ones; by range, whole and HEAD.
    for disc in [&mut started, &mut disc, &mut Disc::open(&url)] {
        for range in [Some("0-2047"), Some("-2048"), None] {
            let head = disc.get(range);
            assert_eq!((head.status, head.range), (410, None));
            let says = String::from_utf8_lossy(&disc.body).into_owned();
            assert!(says.contains("is over"), "{says}");
        }
        assert_eq!(disc.ask("HEAD", None).status, 410);
    }
    assert_eq!(
        stage.action(&["unmountVirtualMedia", "ipmi/mode", "redfish"]),
        "Success"
    );
    assert_eq!(Disc::open(&new).get(Some("0-2047")).status, 410);
}

/// Reads by range on several connections, and the whole on each, without asking for anything before. Bytes that came.
fn reads(url: &str, export: &[u8], count: usize) -> u64 {
    let (size, next, came) = (export.len() as u64, AtomicUsize::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for connection in 0..CONNECTIONS {
            let (next, came) = (&next, &came);
            scope.spawn(move || {
                let mut rng = StdRng::seed_from_u64(connection as u64);
                let mut disc = Disc::open(url);
                while next.fetch_add(1, Ordering::Relaxed) < count {
                    let (asked, range) = random_read(&mut rng, size);
                    let head = disc.get(Some(&asked));
                    let said = format!("bytes {}-{}/{size}", range.start, range.end - 1);
                    assert_eq!((head.status, head.range), (206, Some(said)), "{asked}");
                    let wanted = &export[range.start as usize..range.end as usize];
                    assert_eq!(differ(&disc.body, wanted), None, "{asked}");
                    came.fetch_add(head.length, Ordering::Relaxed);
                }
                let head = disc.get(None);
                assert_eq!((head.status, head.range), (200, None));
                assert_eq!(differ(&disc.body, export), None, "the whole");
            });
        }
    });
    came.into_inner()
}

/// Put into the bootenv together, each with a BMC of its own.
const FLEET: (usize, usize) = (200, 1000);
/// What a machine in the bootenv may cost on disk.
const KIB_A_MACHINE: u64 = 48;

/// Name, bytes and time of change of each file.
fn listing(dir: &std::path::Path) -> Vec<(std::path::PathBuf, u64, std::time::SystemTime)> {
    let mut files: Vec<_> = stage::files_below(dir)
        .into_iter()
        .map(|path| {
            let meta = std::fs::metadata(&path).unwrap();
            (path, meta.len(), meta.modified().unwrap())
        })
        .collect();
    files.sort();
    files
}

/// Of a server that is stopped, with its log written into its database.
fn bytes_of(server: &Server) -> u64 {
    let database = rusqlite::Connection::open(server.data().join("isobar.db")).unwrap();
    let checkpoint = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
    let busy = database.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], checkpoint);
    assert_eq!(busy.unwrap(), 0);
    drop(database);
    assert!(!server.data().join("isobar.db-wal").exists());
    listing(&server.data()).iter().map(|(_, len, _)| len).sum()
}

#[test]
fn a_fleet_costs_no_file_and_each_machine_reads_its_own_disc() {
    let machines = stage::count("machines in the bootenv at once", FLEET.0, FLEET.1);
    let began = Instant::now();
    let lap = |what: &str| eprintln!("{:>6.1} s  {what}", began.elapsed().as_secs_f64());
    let mut server = Server::new(Options {
        // The machines stay at the power-on, and nobody looks at them often. Fewer conversations at a time leave each
        // of them more of the processor.
        timing: "bmc_connections=16,poll_s=60,power_s=3600".to_owned(),
        ..Options::default()
    });
    server.start();
    server.import_sized(1, 64 << 10);
    let login = server.dir().join("bmc.password");
    std::fs::write(&login, stage::PASSWORD).unwrap();
    let from = format!("@{}", login.display());
    for words in [
        &[
            "profiles",
            "create",
            r#"{"Name":"fleet","Params":{"ipmi/username":"root","boot-virtual-iso":true}}"#,
        ][..],
        &["profiles", "set", "fleet", "param", "ipmi/password", "to", &from],
    ] {
        let out = server.isobar(words);
        assert!(out.ok, "{out}");
    }
    server.stop();
    let before = bytes_of(&server);
    let blobs = listing(&server.data().join("blobs"));
    assert!(blobs.len() >= 4, "{blobs:?}");
    server.start();
    lap("a server with a live image");

    let runtime = stage::runtime();
    let sims: Vec<_> = (0..machines)
        .map(|_| {
            let sim = runtime.block_on(isobar_sim::start(stage::sim_config())).unwrap();
            // Nothing reads but this test.
            sim.plant(FaultKind::PowerIgnored);
            sim
        })
        .collect();
    lap("as many BMCs");
    let client = server.client();
    on_all(machines, |n| {
        let network = json!({"prov": {
            "address": format!("10.9.{}.{}", n / 250, n % 250 + 1), "netmask": "255.255.0.0", "gateway": "10.9.255.1",
        }});
        let params = json!({"ipmi/address": sims[n].url().as_str(), "network-data": network});
        let machine = json!({"Name": format!("m{n:04}"), "Profiles": ["fleet"], "Params": params});
        let _: Value = client.post("/api/v3/machines", &machine).unwrap();
    });
    lap("machines made");
    on_all(machines, |n| {
        let change = [json!({"op": "replace", "path": "/BootEnv", "value": "sledgehammer"})];
        let _: Value = client
            .patch(&format!("/api/v3/machines/Name:m{n:04}"), &change)
            .unwrap();
    });
    lap("put in the bootenv");
    let (mut inserted, mut since) = (0, Instant::now());
    while inserted < machines {
        let now = sims.iter().filter(|sim| sim.cd().image.is_some()).count();
        if now > inserted {
            (inserted, since) = (now, Instant::now());
        }
        assert!(
            since.elapsed() < stage::PATIENCE,
            "{inserted} images are inserted, and no more come"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    lap("inserted");

    let configs = std::sync::Mutex::new(std::collections::BTreeSet::new());
    on_all(machines, |n| {
        let name = format!("m{n:04}");
        let machine: Value = client.get(&format!("/api/v3/machines/Name:{name}")).unwrap();
        let uuid = machine["Uuid"].as_str().unwrap();
        let mut rng = StdRng::seed_from_u64(n as u64);
        let url = sims[n].cd().image.clone().unwrap();
        let mut disc = Disc::open(&url);
        let head = disc.ask("HEAD", None);
        assert_eq!(head.status, 200);
        let config = String::from_utf8(disc.file("BOOT/GRUB/GRUB.CFG")).unwrap();
        for own in [
            format!("rs.uuid={uuid} "),
            format!("provisioner.ip=10.9.{}.{}/16 ", n / 250, n % 250 + 1),
        ] {
            assert!(config.contains(&own), "{name}: no {own} in {config}");
        }
        assert!(
            configs.lock().unwrap().insert(config),
            "{name} has another machine's grub.cfg"
        );
        let mut export = Vec::new();
        let mut answer = client
            .download(&format!("/isobar/v1/isos/{uuid}/sledgehammer/boot.iso"), 0)
            .unwrap()
            .reader();
        std::io::Read::read_to_end(&mut answer, &mut export).unwrap();
        assert_eq!(head.length, export.len() as u64, "{name}");
        for _ in 0..3 {
            let (asked, range) = random_read(&mut rng, head.length);
            assert_eq!(disc.get(Some(&asked)).status, 206);
            let wanted = &export[range.start as usize..range.end as usize];
            assert_eq!(differ(&disc.body, wanted), None, "{name}: {asked}");
        }
    });
    assert_eq!(configs.into_inner().unwrap().len(), machines);
    lap("each disc read and compared with its export");

    server.stop();
    assert_eq!(
        listing(&server.data().join("blobs")),
        blobs,
        "no bytes for what is shared"
    );
    let grown = bytes_of(&server) - before;
    let each = grown as f64 / machines as f64 / 1024.0;
    lap(&format!(
        "{grown} bytes more in the data directory, {each:.1} KiB a machine"
    ));
    assert!(
        grown <= machines as u64 * (KIB_A_MACHINE << 10),
        "{each:.1} KiB a machine"
    );
}

/// As many at once as a server under load has.
fn on_all(count: usize, each: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..CONNECTIONS {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= count {
                        return;
                    }
                    each(n);
                }
            });
        }
    });
}

/// Files of live images, by name.
fn blobs(server: &Server) -> std::collections::BTreeSet<std::path::PathBuf> {
    stage::files_below(&server.data().join("blobs")).into_iter().collect()
}

#[test]
fn files_are_kept_while_an_image_needs_them_and_go_when_none_does() {
    let mut stage = Stage::timed(&format!("{},collect_s=0.5", stage::TIMING), |_| {});
    stage.import();
    let old = blobs(&stage);
    stage.add_machine(&json!({}));
    let url = boot(&stage);
    let export = export(&stage, MACHINE);
    // What nobody refers to goes; it tells that looks have been taken, at the others too.
    let litter = |stage: &Stage| {
        let name = hex_of(&std::time::SystemTime::now());
        let folder = stage.data().join("blobs/sha256").join(&name[..2]);
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join(name);
        std::fs::write(&path, "litter").unwrap();
        stage.wait("what nobody refers to is removed", |_| !path.exists());
    };
    stage.import_version(2);
    let both = blobs(&stage);
    let new: std::collections::BTreeSet<_> = both.difference(&old).cloned().collect();
    assert!(new.len() >= 4 && both.is_superset(&old), "{both:?}");
    litter(&stage);
    // Mounted, or out and still shown to people: the old image has its files, in a server that has just started too.
    stage.kill_server();
    stage.start_server();
    litter(&stage);
    assert_eq!(blobs(&stage), both);
    assert_eq!(differ(Disc::open(&url).bytes(0..export.len() as u64), &export), None);

    for words in [["workflow", MACHINE, ""], ["bootenv", MACHINE, "local"]] {
        assert!(stage.isobar(&[&["machines"], &words[..], &["--no-wait"]].concat()).ok);
    }
    let again = boot(&stage);
    // Killed in the middle of it: what is left goes with the next.
    stage.wait("a file goes", |s| blobs(s) != both);
    stage.kill_server();
    stage.start_server();
    stage.wait("the old files are gone", |s| blobs(s) == new);
    litter(&stage);
    assert_eq!(blobs(&stage), new);
    let export = self::export(&stage, MACHINE);
    assert_eq!(differ(Disc::open(&again).bytes(0..export.len() as u64), &export), None);
}

/// A name as blobs have it.
fn hex_of(time: &std::time::SystemTime) -> String {
    let nanos = time.duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    format!("{nanos:064x}").chars().rev().collect()
}
