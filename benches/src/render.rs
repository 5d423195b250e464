//! `render`: the files of the bootenv `sledgehammer` for a machine, rendered in this process on one core.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use isobar_model::text;
use isobar_objects::{Objects, Options, Preview, Principal, ServedAt};
use isobar_store::{SqliteStore, Vault};
use serde_json::{Value, json};

use crate::Bench;
use crate::goal::{Bound, Goal, Source, Unit};
use crate::samples::Samples;
use crate::setup::Setup;

/// As long as one run takes.
const RUN: Duration = Duration::from_secs(3);
/// Params of the machine, as a real one has them after its inventory.
const PARAMS: usize = 30;

pub(crate) const BENCH: Bench = Bench {
    name: "render",
    about: "the kernel arguments and files of sledgehammer for a machine, in process, on one core",
    runs: 5,
    goals: &[
        Goal {
            name: "sledgehammer sets a second",
            unit: Unit::PerSecond,
            bound: Bound::AtLeast(1000.0),
            source: Source::Median("sets"),
            limit: None,
        },
        Goal {
            name: "templates a second",
            unit: Unit::PerSecond,
            bound: Bound::Told,
            source: Source::Median("templates"),
            limit: None,
        },
    ],
    measure,
};

fn measure(setup: &Setup, samples: &mut Samples) -> Result<()> {
    let store = SqliteStore::in_memory()?;
    let objects = Objects::open(Arc::new(store), Arc::new(Vault::ephemeral()), Options::default())?;
    let uuid = machine(&objects)?;
    let at = ServedAt {
        address: "192.168.77.1".to_owned(),
        files: "http://192.168.77.1:8091".to_owned(),
        api: "https://192.168.77.1:8092".to_owned(),
    };
    let arguments = Preview::Text("{{.BootParams}}".to_owned());
    let set = || -> Result<()> {
        let arguments = objects.preview(Some(&uuid), None, &arguments, &at)?;
        ensure!(arguments.contains("provisioner.ip=192.168.77.10/24"), "{arguments}");
        for path in ["192.168.77.10.ipxe", "52:54:00:00:00:01.ipxe"] {
            let file = objects
                .rendered_file(path, &at)?
                .context("no template makes the file")?;
            ensure!(file.contains("provisioner.ip=192.168.77.10/24"), "{file}");
        }
        Ok(())
    };
    set()?;
    for run in 1..=setup.runs {
        let (began, mut sets) = (Instant::now(), 0u32);
        while began.elapsed() < RUN {
            set()?;
            sets += 1;
        }
        let rate = f64::from(sets) / began.elapsed().as_secs_f64();
        samples.add("sets", rate);
        // The arguments, and two files with the arguments in them.
        samples.add("templates", rate * 5.0);
        eprintln!("render: run {run} of {}: {rate:.0} sets a second", setup.runs);
    }
    Ok(())
}

/// A machine in the bootenv, with what its templates ask for and more.
fn machine(objects: &Objects) -> Result<String> {
    let mut params = json!({"network-data": {"prov": {"address": "192.168.77.10", "netmask": "255.255.255.0",
        "gateway": "192.168.77.1", "interface": "eth0", "vlan": "1020", "dns-servers": ["192.168.77.2"]}}});
    for n in 0..PARAMS {
        params[format!("inventory/{n}")] =
            json!({"vendor": "ACME", "serial": n, "sizes": [1, 2, 3], "note": "x".repeat(100)});
    }
    let machine: Value = json!({"Name": "mach-01", "BootEnv": "sledgehammer", "Address": "192.168.77.10",
        "HardwareAddrs": ["52:54:00:00:00:01"], "Params": params});
    let made = objects.create("machines", &machine, &Principal::system())?;
    Ok(text(&made, "Uuid").to_owned())
}
