//! What happened: requests to the BMC, ranges read from images, boots. Tests assert on these, so
//! on effects and not on calls. Bounded: the oldest entries go first, totals stay.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;
use tokio::sync::watch;

const REQUESTS_MAX: usize = 4096;
const READS_MAX: usize = 16384;
const BOOTS_MAX: usize = 256;

/// One request to the BMC.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Request {
    /// Number, from 1.
    pub seq: u64,
    /// Number of the connection that it came on, from 1.
    pub connection: u64,
    /// When it came.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// When the BMC was done with it, whether or not the caller still listened.
    #[serde(with = "time::serde::rfc3339::option")]
    pub ended: Option<OffsetDateTime>,
    /// Method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// How the caller proved itself: `none`, `basic`, `session`, `wrong`.
    pub auth: String,
    /// Body; passwords are `***`.
    pub body: Option<Value>,
    /// Answer; none while there is none, or when the connection was cut.
    pub status: Option<u16>,
    /// Name of the fault that met it.
    pub fault: Option<String>,
}

/// Why bytes of an image were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReadCause {
    /// Asked for its size (HEAD).
    Probe,
    /// At insert.
    Insert,
    /// The machine wanted it.
    Machine,
    /// Read ahead of the machine.
    Ahead,
}

/// One request to an image's server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Read {
    /// When it ended.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// Number of the inserted medium, from 1.
    pub medium: u64,
    /// Why.
    pub cause: ReadCause,
    /// First byte.
    pub offset: u64,
    /// Bytes that came.
    pub length: u64,
    /// HTTP status; none without an answer.
    pub status: Option<u16>,
    /// What went wrong.
    pub error: Option<String>,
}

/// Sums over all reads of one medium.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct MediumLog {
    /// Number, from 1.
    pub medium: u64,
    /// Where it came from.
    pub url: String,
    /// Requests to its server.
    pub requests: u64,
    /// Bytes that came.
    pub bytes: u64,
    /// Bytes that the machine read.
    pub machine_bytes: u64,
    /// Ranges that came, merged: start → end (exclusive).
    pub covered: BTreeMap<u64, u64>,
    /// Ranges that the machine read, merged.
    pub machine_covered: BTreeMap<u64, u64>,
}

/// One start of the machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BootLog {
    /// Number, from 1.
    pub boot: u64,
    /// When the firmware started.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// What the firmware was told to boot: `Cd`, `Hdd`, `Pxe` …
    pub device: String,
    /// Where that came from: `Once`, `Continuous`, or `Disabled` for the usual order.
    pub enabled: String,
    /// The medium in the CD slot at start.
    pub medium: Option<u64>,
    /// How far it came.
    pub stages: Vec<Stage>,
    /// The kernel's arguments (paper only).
    pub command_line: Option<String>,
    /// How it ended: `power-off`, `shutdown`, `reset`, `crashed: …`; none while it runs.
    pub ended: Option<String>,
}

impl BootLog {
    /// Whether the stage was reached.
    pub fn reached(&self, stage: &str) -> bool {
        self.stages.iter().any(|s| s.stage == stage)
    }
}

/// One step of a boot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stage {
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// `firmware`, `loader`, `menu`, `kernel`, `initrd`, `kernel-started`, `os-up`, `no-bootable-device`,
    /// `failed: …`.
    pub stage: String,
}

#[derive(Default)]
struct Entries {
    seq: u64,
    requests: VecDeque<Request>,
    reads: VecDeque<Read>,
    media: BTreeMap<u64, MediumLog>,
    boots: VecDeque<BootLog>,
}

/// The log of one simulator.
pub(crate) struct Log {
    entries: Mutex<Entries>,
    changed: watch::Sender<u64>,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            entries: Mutex::default(),
            changed: watch::Sender::new(0),
        }
    }
}

fn push<T>(queue: &mut VecDeque<T>, item: T, max: usize) {
    if queue.len() >= max {
        queue.pop_front();
    }
    queue.push_back(item);
}

fn cover(map: &mut BTreeMap<u64, u64>, mut start: u64, mut end: u64) {
    if start >= end {
        return;
    }
    while let Some((&from, &to)) = map.range(..=end).next_back() {
        if to < start {
            break;
        }
        start = start.min(from);
        end = end.max(to);
        map.remove(&from);
    }
    map.insert(start, end);
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells waiters that something happened.
    pub(crate) fn touch(&self) {
        self.changed.send_modify(|n| *n = n.wrapping_add(1));
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(crate) fn request(&self, connection: u64, method: &str, path: &str, body: Option<Value>) -> u64 {
        let seq = {
            let mut entries = self.lock();
            entries.seq += 1;
            let seq = entries.seq;
            let request = Request {
                seq,
                connection,
                at: OffsetDateTime::now_utc(),
                ended: None,
                method: method.to_owned(),
                path: path.to_owned(),
                auth: "none".into(),
                body,
                status: None,
                fault: None,
            };
            push(&mut entries.requests, request, REQUESTS_MAX);
            seq
        };
        self.touch();
        seq
    }

    pub(crate) fn amend(&self, seq: u64, change: impl FnOnce(&mut Request)) {
        if let Some(request) = self.lock().requests.iter_mut().rev().find(|r| r.seq == seq) {
            change(request);
        }
        self.touch();
    }

    /// The BMC is done with a request; without a status when it answers nothing.
    pub(crate) fn ended(&self, seq: u64, status: Option<u16>) {
        self.amend(seq, |request| {
            request.status = status;
            request.ended = Some(OffsetDateTime::now_utc());
        });
    }

    pub(crate) fn medium(&self, medium: u64, url: &str) {
        let mut entries = self.lock();
        entries.media.insert(
            medium,
            MediumLog {
                medium,
                url: url.to_owned(),
                ..MediumLog::default()
            },
        );
        if entries.media.len() > BOOTS_MAX {
            entries.media.pop_first();
        }
    }

    pub(crate) fn read(&self, read: Read) {
        {
            let mut entries = self.lock();
            if let Some(sums) = entries.media.get_mut(&read.medium) {
                sums.requests += 1;
                sums.bytes += read.length;
                cover(&mut sums.covered, read.offset, read.offset + read.length);
            }
            push(&mut entries.reads, read, READS_MAX);
        }
        self.touch();
    }

    pub(crate) fn machine_read(&self, medium: u64, offset: u64, length: u64) {
        if let Some(sums) = self.lock().media.get_mut(&medium) {
            sums.machine_bytes += length;
            cover(&mut sums.machine_covered, offset, offset + length);
        }
        self.touch();
    }

    pub(crate) fn boot(&self, device: &str, enabled: &str, medium: Option<u64>) -> u64 {
        let boot = {
            let mut entries = self.lock();
            let boot = entries.boots.back().map_or(1, |last| last.boot + 1);
            let log = BootLog {
                boot,
                at: OffsetDateTime::now_utc(),
                device: device.to_owned(),
                enabled: enabled.to_owned(),
                medium,
                stages: Vec::new(),
                command_line: None,
                ended: None,
            };
            push(&mut entries.boots, log, BOOTS_MAX);
            boot
        };
        self.touch();
        boot
    }

    pub(crate) fn amend_boot(&self, boot: u64, change: impl FnOnce(&mut BootLog)) {
        if let Some(log) = self.lock().boots.iter_mut().rev().find(|b| b.boot == boot) {
            change(log);
        }
        self.touch();
    }

    pub(crate) fn stage(&self, boot: u64, stage: impl Into<String>) {
        let stage = Stage {
            at: OffsetDateTime::now_utc(),
            stage: stage.into(),
        };
        tracing::debug!(boot, stage = %stage.stage, "machine");
        self.amend_boot(boot, |b| b.stages.push(stage));
    }

    /// Requests so far, oldest first.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.lock().requests.iter().cloned().collect()
    }

    /// Requests to image servers so far, oldest first.
    pub(crate) fn reads(&self) -> Vec<Read> {
        self.lock().reads.iter().cloned().collect()
    }

    /// Sums of the media inserted so far, oldest first.
    pub(crate) fn media(&self) -> Vec<MediumLog> {
        self.lock().media.values().cloned().collect()
    }

    /// Boots so far, oldest first.
    pub(crate) fn boots(&self) -> Vec<BootLog> {
        self.lock().boots.iter().cloned().collect()
    }
}

const SECRET_MEMBERS: [&str; 4] = ["password", "token", "x-auth-token", "secret"];

/// A body without its secrets.
pub(crate) fn redact(mut value: Value) -> Value {
    redact_in(&mut value);
    value
}

fn redact_in(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                if SECRET_MEMBERS.iter().any(|s| name.eq_ignore_ascii_case(s)) {
                    *member = "***".into();
                } else {
                    redact_in(member);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(redact_in),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn covered_ranges_merge() {
        let mut map = BTreeMap::new();
        for (start, end) in [
            (10, 20),
            (30, 40),
            (20, 25),
            (24, 31),
            (50, 50),
            (0, 5),
            (100, 110),
            (90, 105),
        ] {
            cover(&mut map, start, end);
        }
        assert_eq!(map, BTreeMap::from([(0, 5), (10, 40), (90, 110)]));
    }

    #[test]
    fn secrets_are_redacted_at_any_depth() {
        let body = serde_json::json!({"UserName": "a", "Password": "p", "List": [{"password": "q"}]});
        assert_eq!(
            redact(body).to_string(),
            r#"{"UserName":"a","Password":"***","List":[{"password":"***"}]}"#
        );
    }
}
