//! A boot as clients see it.

use std::net::IpAddr;

use serde::Serialize;

use crate::evidence::Phase;
use crate::reason::Reason;
use crate::record::{Boot, LogLine, RungTaken, State, rfc3339};

/// `GET /isobar/v1/boots/ID`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BootView {
    /// UUID.
    pub id: String,
    /// Machine.
    pub machine: String,
    /// Its name.
    pub machine_name: String,
    /// Bootenv.
    pub bootenv: String,
    /// How it stands.
    pub state: State,
    /// Where it is.
    pub phase: Phase,
    /// For people.
    pub detail: String,
    /// Share of the phase's file that was read.
    pub percent: Option<u32>,
    /// Bytes a second.
    pub rate_bps: Option<u64>,
    /// Seconds until all has been read at this rate.
    pub eta_s: Option<u64>,
    /// The power is on, or the agent was asked: no more BMC exchanges are to come but for looking.
    pub handed_over: bool,
    /// The agent has checked in.
    pub agent_up: bool,
    /// How far the BMC last said that the machine has come, where it says.
    pub boot_progress: Option<String>,
    /// The BMC is still owed a clean-up.
    pub cleanup: bool,
    /// Address of a reader that is not the BMC, and was served.
    pub read_from_elsewhere: Option<IpAddr>,
    /// Address of a reader that is not the BMC, and was refused.
    pub refused_reader: Option<IpAddr>,
    /// The next try comes then, RFC 3339.
    pub next_try: Option<String>,
    /// Rungs of the ladder of recovery that were taken.
    pub recovery: Vec<RungTaken>,
    /// What went wrong.
    pub error: Option<Reason>,
    /// The rolling boot that it is part of.
    pub rolling: Option<String>,
    /// A rehearsal: nothing was sent that changes the BMC.
    pub shadow: bool,
    /// Of a rehearsal: what would have been sent.
    pub would_send: Vec<String>,
    /// Begin, RFC 3339.
    pub started: String,
    /// Last change, RFC 3339.
    pub updated: String,
    /// Grows with every change that can be seen here.
    pub seq: u64,
    /// Name of the disc for people.
    pub iso: Option<String>,
    /// Phases as they were entered.
    pub log: Vec<LogLine>,
}

/// What is known beyond the row: progress that lives in memory.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shown {
    pub(crate) phase: Phase,
    pub(crate) detail: String,
    pub(crate) percent: Option<u32>,
    pub(crate) rate_bps: Option<u64>,
    pub(crate) eta_s: Option<u64>,
}

impl BootView {
    pub(crate) fn new(boot: &Boot, shown: Option<&Shown>, agent_up: bool, seq: u64) -> Self {
        // Progress is of a boot that is under way; its row knows the end better.
        let shown = shown.filter(|s| boot.state == State::Running && s.phase >= boot.phase && !agent_up);
        let release = boot.attempt.is_none() && boot.error.is_none();
        Self {
            id: boot.id.clone(),
            machine: boot.machine.clone(),
            machine_name: boot.machine_name.clone(),
            bootenv: boot.bootenv.clone(),
            state: boot.state,
            phase: if agent_up {
                Phase::AgentUp
            } else {
                shown.map_or(boot.phase, |s| s.phase)
            },
            detail: shown.map_or_else(|| boot.detail.clone(), |s| s.detail.clone()),
            percent: shown.and_then(|s| s.percent),
            rate_bps: shown.and_then(|s| s.rate_bps),
            eta_s: shown.and_then(|s| s.eta_s),
            handed_over: release || boot.handed_over_ms.is_some(),
            agent_up,
            boot_progress: boot.boot_progress.clone(),
            cleanup: boot.cleanup,
            read_from_elsewhere: boot.elsewhere,
            refused_reader: boot.refused,
            next_try: boot.wait_until_ms.filter(|_| boot.is_open()).map(rfc3339),
            recovery: boot.rungs.clone(),
            error: boot.error.clone(),
            rolling: boot.rolling.clone(),
            shadow: boot.shadow,
            would_send: boot.would_send.clone(),
            started: rfc3339(boot.started_ms),
            updated: rfc3339(boot.updated_ms),
            seq,
            iso: boot.attempt.as_ref().map(|_| iso_name(&boot.machine, &boot.bootenv)),
            log: boot.log.clone(),
        }
    }
}

/// `dynamic_isos/UUID/BOOTENV/boot.iso`.
#[must_use]
pub fn iso_name(machine: &str, bootenv: &str) -> String {
    format!("dynamic_isos/{machine}/{bootenv}/boot.iso")
}
