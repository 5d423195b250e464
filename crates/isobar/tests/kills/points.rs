//! One kill for all points of a boot at once: each machine's BMC holds its answer at another one.

use std::time::Instant;

use isobar_sim::{Fault, FaultKind, Firmware, Power, Sim};
use serde_json::{Value, json};

use crate::stage::{self, Options, PATIENCE, Players, Server, TIMING};
use crate::{boots, patch, set_bootenv, settled};

/// How a machine is when the boot begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    /// Off.
    Off,
    /// On, booted from something else.
    On,
    /// The same, and deaf to the power button.
    Deaf,
    /// The firmware leaves the one-time boot as it is.
    Forgetful,
    /// Our agent runs, nothing is mounted.
    Agent,
    /// Our agent runs from the disc that is to be taken out: the boot is a release.
    Mounted,
}

/// What becomes of the request whose answer nobody waits for any more.
#[derive(Clone, Copy, Debug)]
enum Deed {
    /// It was done before the kill.
    Done,
    /// It is done after the restart.
    Late,
    /// The BMC hears that the caller is gone, and does not do it.
    Never,
}

struct Point {
    step: &'static str,
    before: Before,
    method: &'static str,
    path: &'static str,
    /// Requests of this kind that pass first.
    skip: u32,
}

const fn point(step: &'static str, before: Before, method: &'static str, path: &'static str, skip: u32) -> Point {
    Point {
        step,
        before,
        method,
        path,
        skip,
    }
}

/// Every request that changes something, in each way of booting, and one of each kind around it.
const POINTS: &[Point] = &[
    point("decide: log in", Before::Off, "POST", "/Sessions", 0),
    point("decide: look at the power", Before::Off, "GET", "/Systems/1", 0),
    point(
        "log out, with nothing more to do",
        Before::Off,
        "DELETE",
        "/Sessions/",
        0,
    ),
    point("shut-down: ask", Before::On, "POST", "ComputerSystem.Reset", 0),
    point("shut-down: cut", Before::Deaf, "POST", "ComputerSystem.Reset", 1),
    point("shut-down: look at the power", Before::Deaf, "GET", "/Systems/1", 9),
    point("eject", Before::Off, "POST", "EjectMedia", 0),
    point("insert", Before::Off, "POST", "InsertMedia", 0),
    point("boot-once", Before::Off, "PATCH", "/Systems/1", 0),
    point("power-on", Before::Off, "POST", "ComputerSystem.Reset", 0),
    point("settle", Before::Forgetful, "PATCH", "/Systems/1", 1),
    point("eject under an agent", Before::Agent, "POST", "EjectMedia", 0),
    point("insert under an agent", Before::Agent, "POST", "InsertMedia", 0),
    point("boot-once under an agent", Before::Agent, "PATCH", "/Systems/1", 0),
    point("release", Before::Mounted, "POST", "EjectMedia", 0),
];

const DEEDS: [Deed; 3] = [Deed::Done, Deed::Late, Deed::Never];

/// Requests after which the machine is locked: the cursor stands at the next step, and nothing is under way.
const BETWEEN: [(&str, &str, &str); 3] = [
    ("between eject and insert", "POST", "EjectMedia"),
    ("between insert and boot-once", "POST", "InsertMedia"),
    ("between boot-once and power-on", "PATCH", "/Systems/1"),
];

/// A machine, its BMC, and where it is interrupted.
struct Case {
    name: String,
    before: Before,
    fault: Fault,
    uuid: String,
    sim: Sim,
    hold: u64,
}

fn cases(runtime: &tokio::runtime::Runtime, server: &Server, players: &Players) -> Vec<Case> {
    let held = POINTS.iter().flat_map(|point| {
        DEEDS.map(|deed| {
            let kind = match deed {
                Deed::Done => FaultKind::Hold { done: true },
                Deed::Late => FaultKind::Hold { done: false },
                Deed::Never => FaultKind::Hang,
            };
            let mut fault = Fault::from(kind).on(point.method, point.path).once();
            fault.skip = point.skip;
            (format!("{}, {deed:?}", point.step), point.before, fault)
        })
    });
    let between = BETWEEN.iter().map(|(name, method, path)| {
        let fault = Fault::from(FaultKind::Hold { done: true }).on(method, path).once();
        ((*name).to_owned(), Before::Off, fault)
    });
    let control = ("control".to_owned(), Before::Off, Fault::from(FaultKind::ButtonIgnored));
    let mut cases: Vec<Case> = held
        .chain(between)
        .chain([control])
        .enumerate()
        .map(|(n, (name, before, fault))| {
            let mut config = stage::sim_config();
            config.os_up = Some(players.hook(server.api_port()));
            // What boots at the kill goes on reading when the server is back.
            config.manners.read_patience_ms = 60_000;
            config.firmware = if n % 2 == 0 { Firmware::Uefi } else { Firmware::Bios };
            let sim = runtime.block_on(isobar_sim::start(config)).unwrap();
            match before {
                Before::Deaf => drop(sim.plant(FaultKind::ButtonIgnored)),
                Before::Forgetful => drop(sim.plant(FaultKind::OverrideKept)),
                _ => {}
            }
            Case {
                name,
                before,
                fault,
                uuid: String::new(),
                sim,
                hold: 0,
            }
        })
        .collect();
    let bmcs: Vec<_> = (cases.iter().enumerate())
        .map(|(n, case)| (format!("m-{n:02}"), case.sim.url().to_string()))
        .collect();
    for (case, uuid) in cases.iter_mut().zip(server.create_machines(&bmcs)) {
        case.uuid = uuid;
    }
    cases
}

/// Waits until it holds for all; names those for which it does not come.
fn wait_all<'a>(server: &Server, cases: impl Iterator<Item = &'a Case>, what: &str, is: impl Fn(&Case) -> bool) {
    let mut missing: Vec<&Case> = cases.collect();
    let deadline = Instant::now() + PATIENCE * 2;
    while !missing.is_empty() {
        missing.retain(|case| !is(case));
        let late = || -> Vec<String> {
            let of = |case: &&Case| {
                let boots = boots(&server.client(), &case.uuid).unwrap_or_default();
                format!("{}: {:#?}", case.name, boots.first())
            };
            missing.iter().map(of).collect()
        };
        assert!(Instant::now() < deadline, "never {what}: {:#?}", late());
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

fn done(server: &Server, cases: &[Case], which: impl Fn(&Case) -> bool) {
    let client = server.client();
    let is = |case: &Case| {
        let boots = boots(&client, &case.uuid).unwrap();
        assert_ne!(boots[0]["state"], "failed", "{}: {:#}", case.name, boots[0]);
        settled(&boots) && boots[0]["state"] == "done"
    };
    wait_all(server, cases.iter().filter(|case| which(case)), "done", is);
}

/// As each machine is to be before the boot that is interrupted.
fn prepare(server: &Server, cases: &[Case]) {
    let client = server.client();
    let ours = |case: &Case| matches!(case.before, Before::Agent | Before::Mounted);
    for case in cases {
        match case.before {
            Before::On | Before::Deaf => {
                let path = format!("/api/v3/machines/{}/actions/poweron", case.uuid);
                assert_eq!(client.post::<_, Value>(&path, &json!({})).unwrap(), "Success");
            }
            Before::Agent | Before::Mounted => set_bootenv(&client, &case.uuid, "sledgehammer").unwrap(),
            Before::Off | Before::Forgetful => {}
        }
    }
    let on = cases
        .iter()
        .filter(|case| matches!(case.before, Before::On | Before::Deaf));
    wait_all(server, on, "on", |case| {
        case.sim
            .boots()
            .last()
            .is_some_and(|boot| boot.reached("no-bootable-device"))
    });
    done(server, cases, ours);
    for case in cases.iter().filter(|case| case.before == Before::Agent) {
        set_bootenv(&client, &case.uuid, "local").unwrap();
    }
    done(server, cases, ours);
}

#[test]
fn a_boot_goes_on_after_a_kill_at_any_of_its_steps() {
    // Long enough for all machines to be held at the same time, and for ten looks at one that hears no button.
    let timing = format!("{TIMING},exchange_s=45,insert_s=45,shutdown_s=10");
    let mut server = Server::new(Options {
        timing,
        ..Options::default()
    });
    let (runtime, players) = (stage::runtime(), Players::default());
    server.start();
    server.import();
    let mut cases = cases(&runtime, &server, &players);
    prepare(&server, &cases);

    for case in &mut cases {
        case.hold = case.sim.plant(case.fault.clone());
    }
    let held = |case: &Case| {
        case.sim
            .faults()
            .iter()
            .any(|fault| fault.id == case.hold && fault.met > 0)
    };
    let client = server.client();
    let (first, rest) = cases.split_at(POINTS.len() * DEEDS.len());
    let (control, between) = rest.split_last().unwrap();
    for case in between {
        set_bootenv(&client, &case.uuid, "sledgehammer").unwrap();
    }
    wait_all(&server, between.iter(), "held", held);
    for case in between {
        patch(&client, &case.uuid, "/Locked", &json!(true)).unwrap();
        assert!(case.sim.release(case.hold));
    }
    wait_all(&server, between.iter(), "locked", |case| {
        boots(&client, &case.uuid).unwrap()[0]["detail"]
            .to_string()
            .contains("locked")
    });
    // A log-out has less time than all else: those machines come last.
    let (last, others): (Vec<&Case>, Vec<&Case>) = first
        .iter()
        .partition(|case| case.fault.method.as_deref() == Some("DELETE"));
    for wave in [others, last] {
        for case in &wave {
            let bootenv = match case.before {
                Before::Mounted => "local",
                _ => "sledgehammer",
            };
            set_bootenv(&client, &case.uuid, bootenv).unwrap();
        }
        wait_all(&server, wave.into_iter(), "held", held);
    }

    server.kill();
    server.start();
    let client = server.client();
    // The new server talks to who is free, so it would have talked to the others by now.
    let path = format!("/api/v3/machines/{}/actions/powerstatus", control.uuid);
    assert_eq!(client.post::<_, Value>(&path, &json!({})).unwrap(), "Off");
    for case in first {
        case.sim.release(case.hold);
    }
    for case in between {
        patch(&client, &case.uuid, "/Locked", &json!(false)).unwrap();
    }
    done(&server, &cases, |case| case.name != "control");

    for case in first.iter().chain(between) {
        let (name, sim) = (&case.name, &case.sim);
        assert_eq!(stage::overlaps(&sim.requests(), &server.starts), [""; 0], "{name}");
        assert_eq!(stage::cuts_while_booting(sim), [""; 0], "{name}");
        let oses = players.by_machine().get(&case.uuid).copied().unwrap_or(0);
        let cd = sim.cd();
        match case.before {
            Before::Mounted => assert_eq!((oses, cd.image), (1, None), "{name}: it was taken out"),
            before => {
                assert_eq!(oses, if before == Before::Agent { 2 } else { 1 }, "{name}: booted once");
                assert!(cd.mounted, "{name}");
                assert_eq!(server.get_image(&cd.image.unwrap(), Some("bytes=0-9")).0, 206, "{name}");
            }
        }
        assert_eq!(sim.power(), Power::On, "{name}");
    }
}
