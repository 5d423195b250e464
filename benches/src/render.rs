//! `render`: the files of the bootenv `sledgehammer` for a machine, rendered in this process on one core.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use isobar_model::content::{self, Pack};
use isobar_model::{Object, text};
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
