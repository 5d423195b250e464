//! What a boot comes to when its BMC fails: simulator faults × read manners, all machines at once against one server.
//! A boot ends booted and without harm, or with the reason that an operator can act on.
#![allow(clippy::unwrap_used)]

mod stage;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use isobar_client::Client;
use isobar_sim::{Fault, Power, ReadManner, Sim, SlotView};
use serde_json::{Value, json};
use stage::{Options, PASSWORD, Players, Server};

use End::{Booted, Failed};
use ReadManner::{AtInsert, CopyAll, Lazy, ReadAhead};
use Start::{Full, Off, On};

/// Short, so that a fault that lasts ends soon; the conversations at one time are bounded, so that those of the healthy
/// rows are not slowed by each other.
const TIMING: &str = "exchange_s=10,insert_s=16,settle_s=2,tries=3,retry_s=0.5,poll_s=0.5,shutdown_s=2,power_s=8,first_read_s=15,\
                      stalled_s=20,agent_s=30,agent_gone_s=15,heartbeat_s=5,cleanup_s=5,bmc_connections=24";
/// For all rows to end; none is cut off by it unless something is wrong.
const PATIENCE: Duration = Duration::from_secs(400);

/// How the machine is before its boot.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Start {
    Off,
    /// On, with nothing to boot: it hears the power button.
    On,
    /// Off, and another image is in the virtual CD.
    Full,
}

#[derive(Clone, Copy, Debug)]
enum End {
    /// With at most so many inserts.
    Booted(usize),
    /// Code, and words of message or hint that the operator needs.
    Failed(&'static str, &'static str),
}

struct Row {
    /// As `POST /sim/v1/faults` takes them.
    faults: &'static [&'static str],
    manners: &'static [ReadManner],
    start: Start,
    end: End,
}

const fn row(faults: &'static [&'static str], manners: &'static [ReadManner], start: Start, end: End) -> Row {
    Row {
        faults,
        manners,
        start,
        end,
    }
}

const ALL: &[ReadManner] = &[Lazy, AtInsert, ReadAhead, CopyAll];
/// Those who read at the insert and not all.
const PEEKS: &[ReadManner] = &[AtInsert, ReadAhead];
/// Where the reads play no part, one manner stands for all.
const ONE: &[ReadManner] = &[Lazy];
const OTHER: &[ReadManner] = &[AtInsert];

#[rustfmt::skip]
const ROWS: &[Row] = &[
    // Nothing wrong.
    row(&[], ALL, Off, Booted(1)),
    row(&[], ONE, On, Booted(1)),
    row(&[], OTHER, Full, Booted(1)),
    // Login.
    row(&[r#"{"kind":"hang","method":"POST","path":"Sessions","times":1}"#], ONE, Off, Booted(1)),
    row(&[r#"{"kind":"hang","method":"POST","path":"Sessions"}"#], ONE, Off, Failed("bmc-timeout", "reset the BMC")),
    row(&[r#"{"kind":"reset","method":"POST","path":"Sessions","times":2}"#], ONE, Off, Booted(1)),
    row(&[r#"{"kind":"reset","path":"/"}"#], ONE, Off, Failed("bmc-timeout", "connection was closed")),
    row(&[r#"{"kind":"status","code":503,"retry_after_s":1,"method":"POST","path":"Sessions","times":2}"#], ONE, Off, Booted(1)),
    row(&[r#"{"kind":"status","code":503,"method":"POST","path":"Sessions"}"#], ONE, Off, Failed("bmc-busy", "503")),
    row(&[r#"{"kind":"status","code":500,"method":"POST","path":"Sessions","times":1}"#], ONE, Off, Booted(1)),
    row(&[r#"{"kind":"status","code":500,"method":"POST","path":"Sessions"}"#], ONE, Off, Failed("bmc-failing", "BMC reset")),
    row(&[r#"{"kind":"status","code":401,"method":"POST","path":"Sessions"}"#], ONE, Off, Failed("bmc-password", "ipmi/password")),
    // What every exchange reads.
    row(&[r#"{"kind":"status","code":500,"method":"GET","path":"Systems/1","times":2}"#], ONE, Off, Booted(1)),
    row(&[r#"{"kind":"status","code":500,"method":"GET","path":"Systems/1"}"#], ONE, Off, Failed("bmc-failing", "500")),
    row(&[r#"{"kind":"status","code":404,"method":"GET","path":"VirtualMedia"}"#], ONE, Off, Failed("bmc-unsupported", "virtual media")),
    row(&[r#"{"kind":"lose-sessions","method":"GET","path":"Systems/1","skip":3,"times":1}"#], ONE, Off, Booted(1)),
    row(&[r#"{"kind":"lose-sessions","method":"GET","path":"Systems/1"}"#], ONE, Off, Failed("bmc-failing", "password are right")),
    row(&[r#"{"kind":"malformed","form":"html","method":"GET","path":"Systems/1","times":1}"#], ONE, Off, Booted(1)),
    row(&[r#"{"kind":"malformed","form":"html","method":"GET","path":"Systems/1"}"#], ONE, Off, Failed("bmc-protocol", "not JSON")),
    row(&[r#"{"kind":"malformed","form":"truncated","method":"GET","path":"Systems/1"}"#], ONE, Off, Failed("bmc-protocol", "not JSON")),
    row(&[r#"{"kind":"malformed","form":"endless","method":"GET","path":"Systems/1"}"#], ONE, Off, Failed("bmc-protocol", "no end")),
    row(&[r#"{"kind":"malformed","form":"redirect","method":"GET","path":"Systems/1"}"#], ONE, Off, Failed("bmc-protocol", "ipmi/address")),
    row(&[r#"{"kind":"malformed","form":"drip","method":"GET","path":"Systems/1"}"#], ONE, Off, Failed("bmc-timeout", "no answer")),
    // Power off.
    row(&[r#"{"kind":"button-ignored"}"#], ONE, On, Booted(1)),
    row(&[r#"{"kind":"power-lag","ms":3000}"#], ALL, On, Booted(1)),
    row(&[r#"{"kind":"power-ignored","times":1}"#], ONE, On, Booted(1)),
    row(&[r#"{"kind":"power-ignored","times":2}"#], OTHER, On, Booted(1)),
    row(&[r#"{"kind":"power-ignored"}"#], ONE, On, Failed("power-stuck", "is not off")),
    row(&[r#"{"kind":"lose-reply","method":"POST","path":"Reset","times":2}"#], ONE, On, Booted(1)),
    row(&[r#"{"kind":"hang","method":"POST","path":"Reset","times":1}"#], ONE, On, Booted(1)),
    row(&[r#"{"kind":"hang","method":"POST","path":"Reset"}"#], ONE, On, Failed("bmc-timeout", "ComputerSystem.Reset")),
    row(&[r#"{"kind":"status","code":500,"method":"POST","path":"Reset"}"#], ONE, On, Failed("bmc-failing", "ComputerSystem.Reset")),
    // Eject.
    row(&[r#"{"kind":"hang","method":"POST","path":"EjectMedia","times":1}"#], ONE, Full, Booted(1)),
    row(&[r#"{"kind":"hang","method":"POST","path":"EjectMedia"}"#], ONE, Full, Failed("bmc-timeout", "EjectMedia")),
    row(&[r#"{"kind":"status","code":500,"method":"POST","path":"EjectMedia","times":1}"#], OTHER, Full, Booted(1)),
    row(&[r#"{"kind":"status","code":500,"method":"POST","path":"EjectMedia"}"#], ONE, Full, Failed("bmc-failing", "EjectMedia")),
    row(&[r#"{"kind":"reset","method":"POST","path":"EjectMedia","times":2}"#], ONE, Full, Booted(1)),
    row(&[r#"{"kind":"lose-reply","method":"POST","path":"EjectMedia","times":1}"#], ONE, Full, Booted(1)),
    row(&[r#"{"kind":"stale-inserted","for_ms":3000,"times":1}"#], ALL, Full, Booted(1)),
    row(&[r#"{"kind":"stale-inserted"}"#], ONE, Full, Failed("bmc-busy", "does not let go")),
    // Insert.
    row(&[r#"{"kind":"hang","method":"POST","path":"InsertMedia","times":1}"#], ONE, Off, Booted(1)),
    row(&[r#"{"kind":"hang","method":"POST","path":"InsertMedia"}"#], ONE, Off, Failed("bmc-timeout", "can reach http://127.0.0.1")),
    row(&[r#"{"kind":"status","code":503,"retry_after_s":1,"method":"POST","path":"InsertMedia","times":2}"#], OTHER, Off, Booted(1)),
    row(&[r#"{"kind":"status","code":500,"method":"POST","path":"InsertMedia","times":1}"#], ONE, Off, Booted(1)),
    row(&[r#"{"kind":"status","code":500,"method":"POST","path":"InsertMedia"}"#], ONE, Off, Failed("bmc-failing", "can reach http://127.0.0.1")),
    row(&[r#"{"kind":"status","code":403,"method":"POST","path":"InsertMedia"}"#], ONE, Off, Failed("bmc-forbidden", "rights")),
    row(&[r#"{"kind":"reset","method":"POST","path":"InsertMedia","times":1}"#], OTHER, Off, Booted(1)),
    row(&[r#"{"kind":"lose-reply","method":"POST","path":"InsertMedia","times":1}"#], ALL, Off, Booted(1)),
    row(&[r#"{"kind":"lose-reply","method":"POST","path":"InsertMedia"}"#], OTHER, Off, Booted(1)),
    row(&[r#"{"kind":"lose-sessions","method":"POST","path":"InsertMedia","times":1}"#], OTHER, Off, Booted(1)),
    row(&[r#"{"kind":"no-mount","inserted":false,"times":1}"#], ALL, Off, Booted(1)),
    row(&[r#"{"kind":"no-mount","inserted":false}"#], ONE, Off, Failed("insert-not-mounted", "stays empty")),
    row(&[r#"{"kind":"no-mount","inserted":true}"#], ALL, Off, Failed("image-never-read", "boot-virtual-iso-url")),
    row(&[r#"{"kind":"read-error","times":1}"#], ALL, Off, Booted(1)),
    row(&[r#"{"kind":"read-error"}"#], &[AtInsert, ReadAhead, CopyAll], Off, Failed("bmc-refused", "can reach http://127.0.0.1")),
    row(&[r#"{"kind":"read-stall"}"#], &[CopyAll], Off, Failed("bmc-timeout", "can reach http://127.0.0.1")),
    // One-time boot.
    row(&[r#"{"kind":"hang","method":"PATCH","path":"Systems/1","times":1}"#], ONE, Off, Booted(1)),
    row(&[r#"{"kind":"hang","method":"PATCH","path":"Systems/1"}"#], ONE, Off, Failed("bmc-timeout", "PATCH")),
    row(&[r#"{"kind":"status","code":500,"method":"PATCH","path":"Systems/1","times":1}"#], ONE, Off, Booted(1)),
    row(&[r#"{"kind":"status","code":400,"method":"PATCH","path":"Systems/1","message":"Boot order is locked."}"#], ONE, Off, Failed("bmc-refused", "Boot order is locked")),
    row(&[r#"{"kind":"lose-reply","method":"PATCH","path":"Systems/1","times":1}"#], ALL, Off, Booted(1)),
    row(&[r#"{"kind":"override-kept"}"#], ONE, Off, Booted(1)),
    row(&[r#"{"kind":"override-ignored"}"#], ONE, Off, Failed("image-never-read", "console")),
    row(&[r#"{"kind":"override-ignored"}"#], PEEKS, Off, Failed("not-booted-from-cd", "boot order")),
    row(&[r#"{"kind":"override-ignored"}"#], &[CopyAll], Off, Failed("agent-silent", "boots from its virtual CD")),
    // Power on.
    row(&[r#"{"kind":"power-lag","ms":3000}"#], ALL, Off, Booted(1)),
    row(&[r#"{"kind":"power-lag","ms":60000}"#], ONE, Off, Failed("power-stuck", "is not on")),
    row(&[r#"{"kind":"power-ignored","times":1}"#], ALL, Off, Booted(1)),
    row(&[r#"{"kind":"power-ignored"}"#], ONE, Off, Failed("power-stuck", "is not on")),
    row(&[r#"{"kind":"lose-reply","method":"POST","path":"Reset"}"#], ALL, Off, Booted(1)),
    row(&[r#"{"kind":"hang","method":"POST","path":"Reset","times":1}"#], ONE, Off, Booted(1)),
    row(&[r#"{"kind":"status","code":500,"method":"POST","path":"Reset","times":1}"#], ONE, Off, Booted(1)),
    row(&[r#"{"kind":"reset","method":"POST","path":"Reset","times":1}"#], ONE, Off, Booted(1)),
    row(&[r#"{"kind":"media-lost","method":"POST","path":"Reset","times":1}"#], ALL, Off, Failed("media-lost", "virtual CD is empty")),
    // Under the reading machine.
    row(&[r#"{"kind":"media-lost-at","bytes":3500000}"#], ALL, Off, Failed("media-lost", "virtual CD is empty")),
    row(&[r#"{"kind":"read-error","skip":6,"times":2}"#], PEEKS, Off, Booted(1)),
    row(&[r#"{"kind":"read-error"}"#], ONE, Off, Failed("image-never-read", "can reach")),
    row(&[r#"{"kind":"read-error","skip":6}"#], ONE, Off, Failed("loader-stopped", "Secure Boot")),
    row(&[r#"{"kind":"read-error","skip":45}"#], &[Lazy, AtInsert], Off, Failed("read-stalled", "console")),
    row(&[r#"{"kind":"read-stall","skip":45}"#], &[Lazy, AtInsert], Off, Failed("read-stalled", "stalled")),
];

/// Params of a machine that cannot be booted with (`BMC`: host and port of its simulator), and what it is told.
const PARAMS: &[(&str, &str, &str)] = &[
    (r#"{"ipmi/address": ""}"#, "bmc-not-configured", "has no ipmi/address"),
    (r#"{"ipmi/username": ""}"#, "bmc-not-configured", "has no ipmi/username"),
    (
        r#"{"ipmi/address": "gopher://10.0.0.5"}"#,
        "bmc-address",
        "ipmi/address",
    ),
    (r#"{"ipmi/address": "https://BMC"}"#, "bmc-tls", "http://HOST:PORT"),
    (r#"{"ipmi/address": "http://127.0.0.1:9"}"#, "bmc-unreachable", "route"),
    (r#"{"ipmi/password": "not the one"}"#, "bmc-password", "ipmi/password"),
    (
        r#"{"network-data": {"prov": {"address": "192.168.77.300"}}}"#,
        "network-data",
        "192.168.77.300",
    ),
    (
        r#"{"boot-virtual-iso-url": "http://{{.NoSuchThing}}:8091"}"#,
        "template",
        "NoSuchThing",
    ),
];

/// Actions of a machine (`OWN`, `OTHER`: UUIDs) that cannot be done, and what is said.
const ACTIONS: &[(&[&str], &str, &str)] = &[
    (
        &[
            "mountVirtualMedia",
            "ipmi/virtual-media-url",
            "http://10.0.0.1/dynamic_isos/OWN/local/boot.iso",
        ],
        "bootenv",
        "bootenv local has no ISO",
    ),
    (
        &[
            "mountVirtualMedia",
            "ipmi/virtual-media-url",
            "http://10.0.0.1/dynamic_isos/OTHER/sledgehammer/boot.iso",
        ],
        "other-machines-iso",
        "is the ISO of another machine",
    ),
];

/// Reasons that other tests provoke, by the file that names them.
const ELSEWHERE: &[(&str, &str)] = &[
    ("image-tls", "../boot/src/traces.rs"),
    ("image-path", "../boot/src/traces.rs"),
    ("image-protocol", "../boot/src/traces.rs"),
    ("image-read-elsewhere", "../boot/src/traces.rs"),
    ("in-self-test", "../boot/src/traces.rs"),
    ("legacy-mode", "../boot/src/traces.rs"),
    ("secure-boot", "../boot/src/traces.rs"),
    ("bmc-silent", "tests/recovery.rs"),
    ("boot-under-way", "tests/recovery.rs"),
    ("cancelled", "tests/recovery.rs"),
    ("shadow-mode", "tests/shadow.rs"),
    ("locked", "tests/fleets.rs"),
    ("no-virtual-iso", "tests/fleets.rs"),
    ("no-kernel", "tests/fleets.rs"),
    ("base-damaged", "tests/kills/bytes.rs"),
    ("server-address", "tests/networks.rs"),
    ("image-scheme", "tests/schemes.rs"),
];

/// Reasons that no test provokes, and why.
const UNPROVOKED: &[(&str, &str)] = &[
    (
        "missing-kernel",
        "a bootenv without its base is not available, and is refused before there is a boot",
    ),
    (
        "image-peers",
        "a param of another form: crates/boot's own tests have the forms",
    ),
    (
        "param-unreadable",
        "a secret boxed for a key that is gone: the vault's own tests have it",
    ),
    (
        "changed-meanwhile",
        "another change between two reads of a rolling boot",
    ),
    (
        "not-begun",
        "a change of the bootenv that the objects refuse: their own tests have those",
    ),
    ("attempt-lost", "a row that somebody took out of the database"),
    ("image-lost", "a row that somebody took out of the database"),
    ("token-sealed", "a vault.key that is not this data directory's"),
    ("plan", "the planner refuses nothing that rendering can make"),
    ("store", "a database that fails for good: what passes is tried again"),
    ("unknown-step", "a row that a newer program wrote"),
    (
        "machine-gone",
        "a machine deleted between two moments of its own action",
    ),
];

/// Reasons that can only come after the machine was switched on.
const AFTER_POWER_ON: &[&str] = &[
    "image-never-read",
    "not-booted-from-cd",
    "media-lost",
    "read-stalled",
    "loader-stopped",
    "agent-silent",
];

/// One row with one manner.
struct Case {
    name: String,
    uuid: String,
    row: &'static Row,
    manner: ReadManner,
    sim: Sim,
}

impl Case {
    fn what(&self) -> String {
        format!(
            "{} {:?} {:?} {:?}",
            self.name, self.row.faults, self.manner, self.row.start
        )
    }

    /// What is wrong with how this boot ended; nothing when all is well.
    fn wrong(&self, boot: &Value) -> Option<String> {
        let reason = boot["error"]["reason"].as_str().unwrap_or_default();
        let phases: Vec<&str> = boot["log"]
            .as_array()?
            .iter()
            .filter_map(|l| l["phase"].as_str())
            .collect();
        let told = format!("{} {}", boot["error"]["message"], boot["error"]["hint"]);
        let switched_on = phases.contains(&"powering-on");
        let mut wrong = Vec::new();
        match self.row.end {
            Booted(inserts) => {
                if boot["state"] != "done" {
                    wrong.push(format!("not booted but {reason}: {told}"));
                }
                if self.sim.media().len() > inserts {
                    wrong.push(format!("{} inserts", self.sim.media().len()));
                }
                let copied = phases.contains(&"copied");
                if copied != (self.manner == CopyAll) {
                    wrong.push(format!("copied: {copied}"));
                }
                for phase in ["firmware", "grub", "kernel", "initrd"] {
                    if !copied && !phases.contains(&phase) {
                        wrong.push(format!("no {phase} in the history: {phases:?}"));
                    }
                }
            }
            Failed(code, says) => {
                if reason != code {
                    wrong.push(format!("{reason} instead of {code}: {told}"));
                } else if !told.contains(says) {
                    wrong.push(format!("{says:?} is not told: {told}"));
                }
                if AFTER_POWER_ON.contains(&reason) && !switched_on {
                    wrong.push(format!("failed before its power-on: {phases:?}"));
                }
            }
        }
        // No harm: one start from the CD, and no power is cut once the machine was switched on.
        let resets: Vec<String> = self
            .sim
            .requests()
            .iter()
            .filter(|r| r.path.ends_with(".Reset"))
            .filter_map(|r| Some(r.body.as_ref()?["ResetType"].as_str()?.to_owned()))
            .collect();
        if let Some(on) = resets.iter().position(|kind| kind == "On")
            && resets[on..].iter().any(|kind| kind != "On")
        {
            wrong.push(format!("power changed under a machine that was booting: {resets:?}"));
        }
        let starts = self.sim.boots().iter().filter(|b| b.device == "Cd").count();
        if starts > 1 {
            wrong.push(format!("{starts} starts from the CD"));
        }
        (!wrong.is_empty()).then(|| format!("{}\n    {}", self.what(), wrong.join("\n    ")))
    }
}

/// A machine before its boot.
async fn prepare(case: &Case) {
    match case.row.start {
        Off => {}
        On => {
            case.sim.switch_on();
            assert!(case.sim.wait_until(stage::PATIENCE, |s| s.power() == Power::On).await);
        }
        Full => case.sim.occupy("http://192.0.2.7/older/boot.iso"),
    }
    for fault in case.row.faults {
        case.sim.plant(serde_json::from_str::<Fault>(fault).unwrap());
    }
}

/// A machine behind this simulator, ready to boot; `params` go over the usual ones.
fn create(client: &Client, name: &str, sim: &Sim, number: usize, params: &Value) -> String {
    let mut all = json!({
        "ipmi/address": sim.url().as_str(),
        "ipmi/username": "root",
        "ipmi/password": PASSWORD,
        "boot-virtual-iso": true,
        "network-data": {"prov": {"address": format!("192.168.77.{}", 10 + number), "netmask": "255.255.255.0"}},
    });
    all.as_object_mut().unwrap().extend(params.as_object().unwrap().clone());
    // What is not set at all.
    all.as_object_mut().unwrap().retain(|_, value| value != "");
    let machine: Value = client
        .post("/api/v3/machines", &json!({"Name": name, "Params": all}))
        .unwrap();
    machine["Uuid"].as_str().unwrap().to_owned()
}

fn ended(boot: &Value) -> bool {
    matches!(
        boot["state"].as_str(),
        Some("done" | "failed" | "cancelled" | "replaced")
    )
}

#[test]
fn every_fault_ends_booted_or_with_the_right_reason() {
    let mut server = Server::new(Options {
        timing: TIMING.to_owned(),
        ..Options::default()
    });
    let (players, runtime) = (Players::default(), stage::runtime());
    server.start();
    server.import();
    let client = server.client();
    let only = std::env::var("ISOBAR_FAULTS_ROW").ok();
    let mut cases = Vec::new();
    let rows = ROWS
        .iter()
        .flat_map(|row| row.manners.iter().map(move |manner| (row, *manner)));
    for (number, (row, manner)) in rows.enumerate() {
        let name = format!("row-{number:03}");
        if only
            .as_ref()
            .is_some_and(|only| !format!("{name} {:?}", row.faults).contains(only.as_str()))
        {
            continue;
        }
        let mut config = stage::sim_config();
        config.manners.read = manner;
        config.os_up = Some(players.hook(server.api_port()));
        let sim = runtime.block_on(isobar_sim::start(config)).unwrap();
        let uuid = create(&client, &name, &sim, number, &json!({}));
        let case = Case {
            name,
            uuid,
            row,
            manner,
            sim,
        };
        runtime.block_on(prepare(&case));
        cases.push(case);
    }
    let mut refused = Vec::new();
    for (number, (params, code, says)) in PARAMS.iter().enumerate().filter(|_| only.is_none()) {
        let config = stage::sim_config();
        let sim = runtime.block_on(isobar_sim::start(config)).unwrap();
        let params = params.replace("BMC", &sim.address().to_string());
        let params: Value = serde_json::from_str(&params).unwrap();
        let uuid = create(&client, &format!("params-{number}"), &sim, 200 + number, &params);
        refused.push((uuid, params, *code, *says, sim));
    }
    for uuid in cases
        .iter()
        .map(|case| &case.uuid)
        .chain(refused.iter().map(|(uuid, ..)| uuid))
    {
        let bootenv = json!([{"op": "replace", "path": "/BootEnv", "value": "sledgehammer"}]);
        let _: Value = client.patch(&format!("/api/v3/machines/{uuid}"), &bootenv).unwrap();
    }

    let began = Instant::now();
    let boots = loop {
        let boots: Vec<Value> = client.get("/isobar/v1/boots").unwrap();
        let open: Vec<&Value> = boots.iter().filter(|boot| !ended(boot)).collect();
        if open.is_empty() && boots.len() == cases.len() + refused.len() {
            break boots;
        }
        assert!(began.elapsed() < PATIENCE, "these do not end: {open:#?}");
        std::thread::sleep(Duration::from_millis(300));
    };
    let boot_of_machine = |uuid: &str| boots.iter().find(|boot| boot["machine"] == uuid).unwrap();
    let boot_of = |case: &Case| boot_of_machine(&case.uuid);
    for (uuid, params, code, says, sim) in &refused {
        let error = &boot_of_machine(uuid)["error"];
        assert_eq!(error["reason"], *code, "{params}: {error}");
        assert!(
            error.to_string().contains(says),
            "{params}: {says:?} is not told: {error}"
        );
        assert_eq!(sim.power(), Power::Off, "{params}");
    }
    let wrong: Vec<String> = cases.iter().filter_map(|case| case.wrong(boot_of(case))).collect();
    assert!(
        wrong.is_empty(),
        "{} of {} rows are wrong:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );

    if let [own, other, ..] = &cases[..] {
        for (words, _, says) in ACTIONS {
            let words: Vec<String> = words
                .iter()
                .map(|w| w.replace("OWN", &own.uuid).replace("OTHER", &other.uuid))
                .collect();
            let mut line = vec!["machines", "runaction", own.uuid.as_str()];
            line.extend(words.iter().map(String::as_str));
            let out = server.isobar(&line);
            assert!(!out.ok && out.stderr.contains(says), "{words:?}: {out}");
        }
    }

    // What failed before its machine was switched on leaves nothing behind, once the BMC is well again.
    let failed: Vec<&Case> = cases
        .iter()
        .filter(|case| matches!(case.row.end, Failed(code, _) if !AFTER_POWER_ON.contains(&code)))
        .filter(|case| case.sim.power() == Power::Off)
        .collect();
    for case in &failed {
        for fault in case.sim.faults() {
            case.sim.remove_fault(fault.id);
        }
    }
    let clean = |case: &Case| {
        let boot: Value = client
            .get(&format!("/isobar/v1/boots/{}", boot_of(case)["id"].as_str().unwrap()))
            .unwrap();
        // Somebody else's image is not ours to take out.
        boot["cleanup"] == false && (case.row.start == Full || case.sim.cd() == SlotView::default())
    };
    let began = Instant::now();
    while let Some(case) = failed.iter().find(|case| !clean(case)) {
        assert!(
            began.elapsed() < stage::PATIENCE,
            "never cleaned up: {}: {:?}",
            case.what(),
            case.sim.cd()
        );
        std::thread::sleep(Duration::from_millis(300));
    }
}

#[test]
fn every_reason_is_provoked_or_says_why_not() {
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manual = std::fs::read_to_string(home.join("../../docs/troubleshooting.md")).unwrap();
    let cells = manual
        .lines()
        .filter(|line| line.starts_with("| `"))
        .filter_map(|line| line.split('|').nth(1));
    let documented: BTreeSet<&str> = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    let mut known = BTreeSet::new();
    known.extend(ROWS.iter().filter_map(|row| match row.end {
        Failed(code, _) => Some(code),
        Booted(_) => None,
    }));
    known.extend(PARAMS.iter().map(|(_, code, _)| *code));
    known.extend(ACTIONS.iter().map(|(_, code, _)| *code));
    for (code, file) in ELSEWHERE {
        let text = std::fs::read_to_string(home.join(file)).unwrap();
        assert!(text.contains(&format!("\"{code}\"")), "{file} does not name {code}");
        known.insert(code);
    }
    known.extend(UNPROVOKED.iter().map(|(code, _)| *code));
    assert_eq!(
        documented.symmetric_difference(&known).collect::<Vec<_>>(),
        Vec::<&&str>::new()
    );
}
