//! Every profile of the simulator × every fault, against one server that speaks HTTP, HTTPS and NFS: each boot ends booted or
//! with a reason that fits, inside its deadline, and nothing of it stays in the BMC once that is well again.
//!
//! A slice runs with the other tests: each profile without a fault, and each fault that passes quickly with one profile.
//! `cargo xtask faults` runs the whole.
#![allow(clippy::unwrap_used)]

mod stage;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use isobar_client::Client;
use isobar_sim::{Fault, Manners, Power, Sim, SlotView, Slots};
use serde_json::{Value, json};
use stage::{Options, PASSWORD, Players, Server};

/// Short, so that a fault that lasts ends soon.
const TIMING: &str = "exchange_s=10,insert_s=16,settle_s=2,tries=3,retry_s=0.5,poll_s=0.5,shutdown_s=2,power_s=8,first_read_s=20,\
                      stalled_s=20,agent_s=60,agent_gone_s=20,heartbeat_s=5,cleanup_s=5,bmc_connections=48";
/// Longest that a boot may take by these; a loaded host is given as much again.
const DEADLINE: Duration = Duration::from_secs(300);

/// Words of a fault that stand for a request of the profile's own.
const INSERT: &str = "INSERT";
const BOOT: &str = "BOOT";

struct Row {
    name: &'static str,
    /// As `POST /sim/v1/faults` takes it; `METHOD` and `PATH` are those of `request`.
    fault: &'static str,
    request: &'static str,
    /// Reasons that fit; `booted`.
    ends: &'static [&'static str],
    /// Ends within seconds: in the slice.
    quick: bool,
}

#[rustfmt::skip]
static FAULTS: &[Row] = &[
    Row { name: "none", fault: "", request: "", ends: &["booted"], quick: true },
    Row { name: "slow", fault: r#"{"kind":"slow","ms":150}"#, request: "", ends: &["booted"], quick: true },
    Row { name: "insert hangs once", fault: r#"{"kind":"hang","times":1,"method":"METHOD","path":"PATH"}"#, request: INSERT, ends: &["booted"], quick: false },
    Row { name: "insert hangs", fault: r#"{"kind":"hang","method":"METHOD","path":"PATH"}"#, request: INSERT, ends: &["bmc-timeout"], quick: false },
    Row { name: "insert 500 once", fault: r#"{"kind":"status","code":500,"times":1,"method":"METHOD","path":"PATH"}"#, request: INSERT, ends: &["booted"], quick: true },
    Row { name: "insert 500", fault: r#"{"kind":"status","code":500,"method":"METHOD","path":"PATH"}"#, request: INSERT, ends: &["bmc-failing"], quick: false },
    Row { name: "insert 503 twice", fault: r#"{"kind":"status","code":503,"retry_after_s":1,"times":2,"method":"METHOD","path":"PATH"}"#, request: INSERT, ends: &["booted"], quick: true },
    Row { name: "insert reset once", fault: r#"{"kind":"reset","times":1,"method":"METHOD","path":"PATH"}"#, request: INSERT, ends: &["booted"], quick: true },
    Row { name: "all reset", fault: r#"{"kind":"reset"}"#, request: "", ends: &["bmc-timeout"], quick: true },
    Row { name: "insert's reply lost", fault: r#"{"kind":"lose-reply","times":1,"method":"METHOD","path":"PATH"}"#, request: INSERT, ends: &["booted"], quick: true },
    Row { name: "power's reply lost", fault: r#"{"kind":"lose-reply","times":1,"method":"POST","path":"ComputerSystem.Reset"}"#, request: "", ends: &["booted"], quick: true },
    Row { name: "override's reply lost", fault: r#"{"kind":"lose-reply","times":1,"method":"METHOD","path":"PATH"}"#, request: BOOT, ends: &["booted"], quick: true },
    Row { name: "204, not mounted", fault: r#"{"kind":"no-mount"}"#, request: "", ends: &["insert-not-mounted"], quick: true },
    Row { name: "inserted, not mounted", fault: r#"{"kind":"no-mount","inserted":true}"#, request: "", ends: &["image-never-read"], quick: false },
    Row { name: "session lost", fault: r#"{"kind":"lose-sessions","method":"GET","path":"Systems/1","skip":3,"times":1}"#, request: "", ends: &["booted"], quick: true },
    Row { name: "locked up until reset", fault: r#"{"kind":"lock-up","code":500,"message_id":"IDRAC.1.6.SYS446","method":"METHOD","path":"PATH"}"#, request: INSERT, ends: &["bmc-failing", "booted"], quick: false },
    Row { name: "media lost", fault: r#"{"kind":"media-lost","times":1,"method":"POST","path":"ComputerSystem.Reset"}"#, request: "", ends: &["media-lost"], quick: false },
    Row { name: "power lags", fault: r#"{"kind":"power-lag","ms":3000}"#, request: "", ends: &["booted"], quick: true },
    Row { name: "power ignored", fault: r#"{"kind":"power-ignored"}"#, request: "", ends: &["power-stuck"], quick: false },
    Row { name: "override ignored", fault: r#"{"kind":"override-ignored"}"#, request: "", ends: &["image-never-read", "not-booted-from-cd", "agent-silent"], quick: false },
];

impl Row {
    /// Whether a machine that boots by HTTP never meets it.
    fn is_of_media(&self) -> bool {
        self.request == INSERT || self.fault.contains("-mount") || self.fault.contains("media-lost")
    }
}

/// Reasons of a BMC that cannot do it, whatever else is wrong with it.
const UNABLE: &[&str] = &["bmc-unsupported"];

/// The request by which a profile does something.
fn request(of: &str, manners: &Manners) -> (&'static str, &'static str) {
    match of {
        INSERT => match manners.slots {
            Slots::Vmm => ("POST", "VmmControl"),
            Slots::Config => ("POST", "IsoConfig.Mount"),
            _ if manners.slots_by_patch => ("PATCH", "VirtualMedia/2"),
            _ => ("POST", "InsertMedia"),
        },
        _ if manners.boot_by_profile => ("POST", "ImportSystemConfiguration"),
        _ if manners.boot_at_settings => ("PATCH", "Systems/1/Settings"),
        _ => ("PATCH", "Systems/1"),
    }
}

/// One boot.
struct Case {
    profile: &'static str,
    row: &'static Row,
    uuid: String,
    sim: Sim,
}

impl Case {
    /// How it ended: `booted` or a reason, with a mark where that is wrong.
    fn end(&self, boot: &Value) -> (String, bool) {
        let end = match boot["state"].as_str() {
            Some("done") => "booted",
            _ => boot["error"]["reason"].as_str().unwrap_or("?"),
        };
        let manners = &self.sim.config().manners;
        let fits = match manners.has_media() || manners.boots_by_http() {
            true => self.row.ends.contains(&end) || (end == "booted" && !manners.has_media() && self.row.is_of_media()),
            // Deaf to begin with: it could not even say so.
            false => UNABLE.contains(&end) || (self.row.name == "all reset" && self.row.ends.contains(&end)),
        };
        let once = self
            .sim
            .boots()
            .iter()
            .filter(|boot| ["Cd", "UefiHttp"].contains(&boot.device.as_str()))
            .count()
            <= 1;
        (end.to_owned(), fits && once)
    }
}

fn create(client: &Client, name: &str, number: usize, sim: &Sim) -> String {
    let address = format!("192.168.{}.{}", 77 + number / 200, 10 + number % 200);
    let params = json!({
        "ipmi/address": sim.url().as_str(), "ipmi/username": "root", "ipmi/password": PASSWORD, "boot-virtual-iso": true,
        "network-data": {"prov": {"address": address, "netmask": "255.255.0.0"}},
    });
    let machine: Value = client
        .post("/api/v3/machines", &json!({"Name": name, "Params": params}))
        .unwrap();
    machine["Uuid"].as_str().unwrap().to_owned()
}

/// What is run: everything, or the slice; `ISOBAR_PRODUCT` may name a part of a profile's or a fault's name.
fn chosen() -> Vec<(&'static str, &'static Row)> {
    let all: Vec<_> = Manners::profiles()
        .flat_map(|profile| FAULTS.iter().map(move |row| (profile, row)))
        .collect();
    let wanted = std::env::var("ISOBAR_PRODUCT").unwrap_or_default();
    if !wanted.is_empty() {
        let fits =
            |(profile, row): &(&str, &Row)| wanted == "full" || format!("{profile} {}", row.name).contains(&wanted);
        return all.into_iter().filter(fits).collect();
    }
    let profiles: Vec<&str> = Manners::profiles().collect();
    let with_media = |name: &str| {
        Manners::default()
            .with_profile(name)
            .is_some_and(|manners| manners.has_media())
    };
    let able: Vec<&str> = profiles.iter().copied().filter(|name| with_media(name)).collect();
    let sound = profiles.into_iter().map(|profile| (profile, &FAULTS[0]));
    // Each fault meets another profile, by and by those with manners of their own.
    let faulty = FAULTS[1..].iter().filter(|row| row.quick).enumerate();
    let faulty = faulty.map(|(i, row)| (able[(i * 5 + 1) % able.len()], row));
    sound.chain(faulty).collect()
}

#[test]
fn every_profile_meets_every_fault_and_ends_as_it_should() {
    let nfs = stage::free_port();
    let mut server = Server::new(Options {
        timing: TIMING.to_owned(),
        log_level: "info".to_owned(),
        // Firmware that boots by HTTP reads by the machine's.
        addresses: ("127.0.0.1".to_owned(), "127.0.0.1".to_owned()),
        args: vec![format!("--nfs-listen=127.0.0.1:{nfs}")],
        ..Options::default()
    });
    let (players, runtime) = (Players::default(), stage::runtime());
    server.start();
    server.import();
    let client = server.client();
    let mut table: BTreeMap<&str, BTreeMap<usize, String>> = BTreeMap::new();
    let mut wrong = Vec::new();
    let mut dirty = Vec::new();
    let chosen = chosen();
    let began = Instant::now();
    // So many at once that timeouts pass side by side, and so few that nobody is slowed into one.
    for (batch, part) in chosen.chunks(64).enumerate() {
        let mut cases = Vec::new();
        for (number, (profile, row)) in part.iter().enumerate() {
            let mut config = stage::sim_config();
            config.manners = config.manners.with_profile(profile).unwrap();
            // A loaded host is slow, and no fault.
            config.manners.read_patience_ms = 15_000;
            config.os_up = Some(players.hook(server.api_port()));
            let (method, path) = request(row.request, &config.manners);
            let sim = runtime.block_on(isobar_sim::start(config)).unwrap();
            let name = format!("case-{batch:02}-{number:02}");
            let uuid = create(&client, &name, batch * 64 + number, &sim);
            if !row.fault.is_empty() {
                let fault = row.fault.replace("METHOD", method).replace("PATH", path);
                sim.plant(serde_json::from_str::<Fault>(&fault).unwrap());
            }
            cases.push(Case {
                profile,
                row,
                uuid,
                sim,
            });
        }
        for case in &cases {
            let bootenv = json!([{"op": "replace", "path": "/BootEnv", "value": "sledgehammer"}]);
            let _: Value = client
                .patch(&format!("/api/v3/machines/{}", case.uuid), &bootenv)
                .unwrap();
        }
        let boots = ended(&client, &cases);
        for case in &cases {
            let boot = &boots[&case.uuid];
            let (end, fits) = case.end(boot);
            if !fits {
                let starts = case.sim.boots().len();
                let told = format!("{} {}", boot["error"]["message"], boot["error"]["hint"]);
                wrong.push(format!(
                    "{} × {}: {end} ({starts} starts): {told}",
                    case.profile, case.row.name
                ));
            }
            let column = FAULTS.iter().position(|row| std::ptr::eq(row, case.row)).unwrap();
            // A fault that was never met proves nothing.
            let met = case.sim.faults().iter().all(|fault| fault.met > 0);
            if !met && case.sim.config().manners.has_media() {
                wrong.push(format!(
                    "{} × {}: {end}, and its fault was never met",
                    case.profile, case.row.name
                ));
            }
            let mark = match (fits, met) {
                (false, _) => " !",
                (true, false) => " -",
                (true, true) => "",
            };
            table
                .entry(case.profile)
                .or_default()
                .insert(column, format!("{end}{mark}"));
        }
        dirty.extend(unclean(&client, &cases, &boots));
        for case in cases {
            runtime.block_on(case.sim.shutdown());
        }
    }
    println!("{}", printed(&table));
    println!(
        "{} profiles, {} faults, {} boots, {} wrong, {} not cleaned up, {} s",
        table.len(),
        FAULTS.len(),
        chosen.len(),
        wrong.len(),
        dirty.len(),
        began.elapsed().as_secs()
    );
    assert!(
        wrong.is_empty() && dirty.is_empty(),
        "{}\n{}",
        wrong.join("\n"),
        dirty.join("\n")
    );
}

/// Waits until all have ended.
fn ended(client: &Client, cases: &[Case]) -> BTreeMap<String, Value> {
    let began = Instant::now();
    loop {
        let boots: Vec<Value> = client.get("/isobar/v1/boots").unwrap();
        let of = |case: &Case| boots.iter().find(|boot| boot["machine"] == case.uuid.as_str());
        let over = |boot: &Value| {
            matches!(
                boot["state"].as_str(),
                Some("done" | "failed" | "cancelled" | "replaced")
            )
        };
        let open: Vec<&Case> = cases.iter().filter(|case| !of(case).is_some_and(over)).collect();
        if open.is_empty() {
            return cases
                .iter()
                .map(|case| (case.uuid.clone(), of(case).unwrap().clone()))
                .collect();
        }
        let names: Vec<String> = open
            .iter()
            .map(|case| format!("{} × {}", case.profile, case.row.name))
            .collect();
        assert!(began.elapsed() < 2 * DEADLINE, "these do not end: {}", names.join(", "));
        std::thread::sleep(Duration::from_millis(300));
    }
}

/// What failed leaves nothing in a BMC that is well again, or a row says that it is owed until that is safe.
fn unclean(client: &Client, cases: &[Case], boots: &BTreeMap<String, Value>) -> Vec<String> {
    let failed: Vec<&Case> = cases
        .iter()
        .filter(|case| boots[&case.uuid]["state"] == "failed")
        .collect();
    for case in &failed {
        for fault in case.sim.faults() {
            case.sim.remove_fault(fault.id);
        }
    }
    let is_clean = |case: &&&Case| {
        let id = boots[&case.uuid]["id"].as_str().unwrap();
        let boot: Value = client.get(&format!("/isobar/v1/boots/{id}")).unwrap();
        let empty = SlotView::default() == case.sim.cd();
        match case.sim.power() {
            Power::Off => boot["cleanup"] == false && empty,
            // Nothing is ejected under a machine that may be running from it.
            _ => empty || boot["cleanup"] == true,
        }
    };
    let began = Instant::now();
    loop {
        let left: Vec<&&Case> = failed.iter().filter(|case| !is_clean(case)).collect();
        if left.is_empty() || began.elapsed() > DEADLINE {
            let told = |case: &&Case| {
                format!(
                    "{} × {}: not cleaned up: {:?}",
                    case.profile,
                    case.row.name,
                    case.sim.cd()
                )
            };
            return left.into_iter().map(told).collect();
        }
        std::thread::sleep(Duration::from_millis(300));
    }
}

/// A line a profile, a column a fault; `·` was not tried, `-` behind an end: without media, it came to no such request.
fn printed(table: &BTreeMap<&str, BTreeMap<usize, String>>) -> String {
    let mut text = String::new();
    for (number, row) in FAULTS.iter().enumerate() {
        writeln!(text, "{number:>3}  {}: {}", row.name, row.ends.join(" or ")).unwrap();
    }
    let width = |column: usize| {
        let cells = table.values().filter_map(|row| row.get(&column)).map(|cell| cell.len());
        cells.chain([2]).max().unwrap()
    };
    let widths: Vec<usize> = (0..FAULTS.len()).map(width).collect();
    write!(text, "\n{:<18}", "").unwrap();
    for (number, width) in widths.iter().enumerate() {
        write!(text, " {number:<width$}").unwrap();
    }
    for profile in Manners::profiles() {
        let Some(row) = table.get(profile) else { continue };
        write!(text, "\n{profile:<18}").unwrap();
        for (number, width) in widths.iter().enumerate() {
            let cell = row.get(&number).map_or("·", String::as_str);
            write!(text, " {cell:<width$}").unwrap();
        }
    }
    text + "\n"
}
