//! What the store keeps of boots: rows that a restarted server goes on from, and how they are written.

use std::net::IpAddr;

use bytes::Bytes;
use isobar_bmc::{ErrorClass, Network};
use isobar_image::AttemptId;
use isobar_store::{Doc, Expect, IndexEntry, Put, Rev};
use serde::{Deserialize, Serialize};

use crate::evidence::Phase;
use crate::reason::Reason;

/// Kinds of internal rows.
pub mod kind {
    /// Imported bases by name; JSON [`super::BaseRow`].
    pub const BASES: &str = "_bases";
    /// The bytes of a base by digest, as [`isobar_image::Base::to_bytes`] made them.
    pub const BASE_BYTES: &str = "_base_bytes";
    /// An attempt's image: base digest, then the sealed delta.
    pub const IMAGES: &str = "_images";
    /// Attempts; JSON [`super::Attempt`].
    pub const ATTEMPTS: &str = "_attempts";
    /// Boots; JSON [`super::Boot`].
    pub const BOOTS: &str = "_boots";
    /// Recorded exchanges of a boot, a bounded JSON list.
    pub const EXCHANGES: &str = "_exchanges";
    /// SHA-256 of the certificate that is pinned for a BMC, hex, by `host:port`.
    pub const PINS: &str = "_bmc_pins";
    /// What is known of a BMC beyond one boot, by `host:port`; see [`crate::bmcs`].
    pub const BMCS: &str = "_bmcs";
    /// What inserts taught, by a digest of maker, model and firmware; see [`crate::profiles`].
    pub const PROFILES: &str = "_bmc_profiles";
    /// Actions that users asked for; JSON [`super::Operation`].
    pub const OPERATIONS: &str = "_operations";
    /// Identify lights that are to be switched off, by machine; see [`crate::lights`].
    pub const LIGHTS: &str = "_lights";
    /// Rolling boots; JSON [`crate::rolling::Rolling`].
    pub const ROLLINGS: &str = "_rolling_boots";
    /// Machines of a rolling boot: UUIDs, a line each.
    pub const ROLLING_MACHINES: &str = "_rolling_boot_machines";
}

/// Kinds that are large and seldom read: not for memory (`StoreOptions::cold`). What was held once is not
/// added later.
pub const COLD: &[&str] = &[kind::BASE_BYTES, kind::EXCHANGES, kind::IMAGES, kind::ROLLING_MACHINES];

/// Step at which the machine is switched on; see the saga.
pub(crate) const POWER_ON: &str = "power-on/1";

/// A row as it was written; one that cannot be read is told of and skipped.
pub(crate) fn read<T: serde::de::DeserializeOwned>(doc: &Doc) -> Option<T> {
    serde_json::from_slice(&doc.body)
        .inspect_err(|error| tracing::error!(kind = doc.kind, key = doc.key, %error, "a row cannot be read"))
        .ok()
}

/// An imported base.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BaseRow {
    /// Name: the `OS.Name` of the bootenvs that boot it.
    pub name: String,
    /// Digest of the base.
    pub digest: String,
    /// The bundle's own version text.
    pub version: String,
    /// Size of an image without own files, in bytes.
    pub size: u64,
    /// Paths on the disc: what bootenvs may name as kernel and initrd.
    pub files: Vec<String>,
}

/// One try to boot, with its own token and secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Attempt {
    /// 32 hex digits.
    pub id: String,
    /// Machine.
    pub machine: String,
    /// Bootenv that the image is of.
    pub bootenv: String,
    /// The boot that made it; none for a mount by hand.
    pub boot: Option<String>,
    /// SHA-256 of the URL token, hex: what a path is looked up by.
    pub token_hash: String,
    /// The URL token, sealed: an insert may have to be repeated after a restart.
    pub token_sealed: String,
    /// SHA-256 of the boot secret, hex.
    pub secret_hash: String,
    /// SHA-256 of the nonce that the secret was exchanged with, hex.
    pub nonce_hash: Option<String>,
    /// The machine token of the exchange, sealed, until it is first used.
    pub machine_token_sealed: Option<String>,
    /// Ejected, replaced or failed: the token answers "gone".
    pub over: bool,
    /// Addresses of the BMC, to tell its reads from others': the one that it was reached at, then others of its name.
    /// None before a BMC that is given by name has been reached.
    #[serde(default, alias = "bmc_ip", deserialize_with = "addresses")]
    pub bmc_ips: Vec<IpAddr>,
    /// Networks that count as the BMC's own: its reads come from there.
    #[serde(default)]
    pub peers: Vec<Network>,
    /// Nobody but the BMC's own address may read.
    #[serde(default)]
    pub strict: bool,
    /// The machine's firmware downloads the image (UEFI HTTP boot), from wherever it is: the BMC reads nothing.
    #[serde(default)]
    pub http_boot: bool,
    /// Size of the image in bytes.
    pub size: u64,
    /// Entity tag of the image.
    pub etag: String,
    /// URL of the image that was (or is to be) given to the BMC, without the token: scheme, host and port. Empty until the BMC has been
    /// reached, where the route toward it decides.
    pub authority: String,
    /// The route toward the BMC decides: nobody has set the address.
    #[serde(default)]
    pub by_route: bool,
    /// URL of the API that the machine's agent is given.
    #[serde(default)]
    pub api: String,
    /// Milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// First read by anyone; durable as soon as it happens.
    pub first_read_ms: Option<u64>,
    /// Address of a reader that is not the BMC.
    pub elsewhere: Option<String>,
    /// Agent's check-in.
    pub agent_up_ms: Option<u64>,
}

/// One address or none, as earlier versions wrote it, or a list.
fn addresses<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<IpAddr>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        Many(Vec<IpAddr>),
        One(Option<IpAddr>),
    }
    Ok(match Form::deserialize(from)? {
        Form::Many(all) => all,
        Form::One(one) => one.into_iter().collect(),
    })
}

/// Where a BMC's reads come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readers {
    addresses: Vec<IpAddr>,
    networks: Vec<Network>,
}

impl Readers {
    /// Whether anything is known: nothing is before a BMC that is given by name has been reached.
    #[must_use]
    pub fn known(&self) -> bool {
        !self.addresses.is_empty() || !self.networks.is_empty()
    }

    /// Whether a reader is the BMC. `::ffff:10.0.0.1` is 10.0.0.1.
    #[must_use]
    pub fn has(&self, reader: IpAddr) -> bool {
        let reader = reader.to_canonical();
        self.addresses.iter().any(|ip| ip.to_canonical() == reader)
            || self.networks.iter().any(|network| network.contains(reader))
    }
}

impl Attempt {
    /// Who may be taken for the BMC when the image is read; of firmware that downloads it, the networks alone that the
    /// operator has named: nothing else is known of its address.
    #[must_use]
    pub fn readers(&self) -> Readers {
        let addresses = match self.http_boot {
            true => Vec::new(),
            false => self.bmc_ips.clone(),
        };
        Readers {
            addresses,
            networks: self.peers.clone(),
        }
    }

    /// Whether somebody there may read, where nobody but the right one may.
    #[must_use]
    pub fn may_read(&self, reader: IpAddr) -> bool {
        let readers = self.readers();
        readers.has(reader) || (self.http_boot && !readers.known())
    }

    /// The id as the file plane knows it. Zero for a damaged row, which no attempt has.
    #[must_use]
    pub fn attempt_id(&self) -> AttemptId {
        AttemptId(u128::from_str_radix(&self.id, 16).unwrap_or(0))
    }
}

/// State of a boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Under way.
    Running,
    /// The agent is up (or, for a release, all is cleared).
    Done,
    /// Ended with a reason.
    Failed,
    /// The operator chose a bootenv without ISO.
    Cancelled,
    /// A newer boot took its place.
    Replaced,
}

/// Who reboots the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// We: off, media, on.
    Power,
    /// Its agent, whose root is in memory.
    Agent,
    /// The operator (policy `wait`).
    Operator,
}

/// A change of the BMC that has been committed to and not been seen to end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// What: `insert`, `power-off`.
    pub verb: String,
    /// `host:port` of the BMC.
    pub bmc: String,
    /// When it was committed; milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// It has ended by this time, whatever became of it: the exchange's deadline and its log-out.
    pub until_ms: u64,
}

/// Why a boot is on the ladder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovering {
    /// The step that could not be done.
    pub step: String,
    /// What the BMC said to it.
    pub error: Reason,
    /// Class of that error.
    pub class: ErrorClass,
}

/// A rung of the ladder that was taken, or that could not be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RungTaken {
    /// `eject`, `sessions`, `post`, `reset`.
    pub rung: String,
    /// For the sake of this step.
    pub step: String,
    /// When; RFC 3339.
    pub at: String,
    /// What came of it.
    pub outcome: String,
}

/// The durable saga.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Boot {
    /// UUID.
    pub id: String,
    /// Machine.
    pub machine: String,
    /// Its name when the boot began.
    pub machine_name: String,
    /// Bootenv.
    pub bootenv: String,
    /// Attempt; none for a release (nothing is booted, media are taken out) and for a boot that failed in planning.
    pub attempt: Option<String>,
    /// The rolling boot that it is part of.
    #[serde(default)]
    pub rolling: Option<String>,
    /// Where the BMC was told to fetch the image, without the token: scheme, host and port.
    #[serde(default)]
    pub image_at: Option<String>,
    /// A rehearsal: nothing is sent that changes the BMC.
    #[serde(default)]
    pub shadow: bool,
    /// Of a rehearsal: what would have been sent.
    #[serde(default)]
    pub would_send: Vec<String>,
    /// State.
    pub state: State,
    /// Cursor: name and version of the step, `insert/1`.
    pub step: String,
    /// Tries of this step that failed.
    pub tries: u32,
    /// When the step began.
    pub step_ms: u64,
    /// Step-local: when the graceful shutdown, or the power-on, was asked for.
    pub asked_ms: Option<u64>,
    /// Step-local: when the power was cut.
    pub forced_ms: Option<u64>,
    /// Change in flight.
    pub intent: Option<Intent>,
    /// Who reboots.
    pub way: Option<Way>,
    /// Policy of the machine when the boot began: leave the power to the operator.
    pub leave_power: bool,
    /// The machine's own time for a graceful shutdown; none: the server's.
    #[serde(default)]
    pub shutdown_ms: Option<u64>,
    /// The ladder of recovery: the step that could not be done, while a rung of it is taken.
    #[serde(default)]
    pub recovering: Option<Recovering>,
    /// Rungs that were taken.
    #[serde(default)]
    pub rungs: Vec<RungTaken>,
    /// The next try comes then; milliseconds since the Unix epoch.
    #[serde(default)]
    pub wait_until_ms: Option<u64>,
    /// Something of ours may be in the BMC: to be taken out when this boot does not succeed.
    pub inserted: bool,
    /// An override of ours may be set.
    pub override_set: bool,
    /// Clean-up is owed to the BMC.
    pub cleanup: bool,
    /// Power was seen on, or the reboot asked for: the machine has been handed over.
    pub handed_over_ms: Option<u64>,
    /// How far the BMC last said that the machine has come (`BootProgress`), where it says.
    #[serde(default)]
    pub boot_progress: Option<String>,
    /// Last phase, for a reader after a restart.
    pub phase: Phase,
    /// What went wrong.
    pub error: Option<Reason>,
    /// Address of a reader that is not the BMC, and was served.
    #[serde(default)]
    pub elsewhere: Option<IpAddr>,
    /// Address of a reader that is not the BMC, and was refused.
    #[serde(default)]
    pub refused: Option<IpAddr>,
    /// What is being waited for, for people.
    pub detail: String,
    /// Begin.
    pub started_ms: u64,
    /// Last change.
    pub updated_ms: u64,
    /// Phases as they were entered.
    pub log: Vec<LogLine>,
}

/// A line of a boot's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// RFC 3339.
    pub at: String,
    /// Phase.
    pub phase: Phase,
    /// What happened.
    pub text: String,
}

/// Lines kept of a boot's history.
pub const LOG_LINES: usize = 64;

impl Boot {
    /// Appends to the history; repeats and what does not fit are dropped.
    pub fn note(&mut self, at_ms: u64, phase: Phase, text: &str) {
        self.phase = phase;
        text.clone_into(&mut self.detail);
        if self.log.len() < LOG_LINES && self.log.last().is_none_or(|l| l.text != text) {
            self.log.push(LogLine {
                at: rfc3339(at_ms),
                phase,
                text: text.to_owned(),
            });
        }
    }
}

/// An action that a user asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Operation {
    /// UUID.
    pub id: String,
    /// Machine.
    pub machine: String,
    /// Command: `powercycle`.
    pub command: String,
    /// Names of the params that were given with the call; their values are not kept.
    #[serde(default)]
    pub given: Vec<String>,
    /// Who asked.
    pub principal: String,
    /// When.
    pub at_ms: u64,
    /// `running`, `done`, `failed`, `interrupted`.
    pub state: String,
    /// Change of the BMC in flight.
    pub intent: Option<Intent>,
    /// Result or error text.
    pub outcome: Option<serde_json::Value>,
}

/// Milliseconds since the Unix epoch as RFC 3339.
#[must_use]
pub fn rfc3339(ms: u64) -> String {
    time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000)
        .ok()
        .and_then(|t| t.format(&time::format_description::well_known::Rfc3339).ok())
        .unwrap_or_default()
}

/// Milliseconds since the Unix epoch.
pub(crate) fn ms_of(time: std::time::SystemTime) -> u64 {
    let since = time.duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// A boot and the revision that it was read at.
pub(crate) struct Row {
    pub(crate) boot: Boot,
    pub(crate) rev: Rev,
    /// What is in the store.
    pub(crate) stored: Boot,
}

impl Row {
    pub(crate) fn of(doc: &Doc) -> Option<Self> {
        let boot: Boot = read(doc)?;
        Some(Self {
            stored: boot.clone(),
            boot,
            rev: doc.rev,
        })
    }
}

pub(crate) fn put(
    kind: &str,
    key: &str,
    row: &impl Serialize,
    expect: Expect,
    indexes: &[(&'static str, &str, bool)],
) -> Put {
    Put {
        kind: kind.to_owned(),
        key: key.to_owned(),
        // Plain structs of texts and numbers: there is nothing in them that JSON could not hold.
        body: Bytes::from(serde_json::to_vec(row).unwrap_or_default()),
        expect,
        indexes: indexes
            .iter()
            .map(|(name, value, unique)| IndexEntry {
                name,
                value: (*value).to_owned(),
                unique: *unique,
            })
            .collect(),
    }
}

impl Boot {
    /// Another process goes on with it. How long nobody was there no wall clock can be trusted to tell: what is measured
    /// from times in this row goes on from where it stood at the last write, be it a second or a day ago, or tomorrow.
    pub(crate) fn taken_up(&mut self, now_ms: u64) {
        let written = self.updated_ms;
        let times = [&mut self.asked_ms, &mut self.forced_ms, &mut self.handed_over_ms];
        for at in times.into_iter().flatten().chain([&mut self.step_ms]) {
            *at = now_ms.saturating_sub(written.saturating_sub(*at));
        }
        self.updated_ms = now_ms;
    }

    /// Under way, or a clean-up is owed.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.state == State::Running || self.cleanup
    }

    /// Begin of the attempt's id, for logs.
    pub(crate) fn attempt_prefix(&self) -> &str {
        let id = self.attempt.as_deref().unwrap_or_default();
        id.get(..8).unwrap_or(id)
    }

    /// The write of its row.
    #[must_use]
    pub fn put(&self, expect: Expect) -> Put {
        let state = match (self.is_open(), &self.intent) {
            (true, _) => "open",
            // Its last exchange has not been seen to end.
            (false, Some(_)) => "doubt",
            (false, None) => "closed",
        };
        put(
            kind::BOOTS,
            &self.id,
            self,
            expect,
            &[("Machine", &self.machine, false), ("State", state, false)],
        )
    }
}

impl Attempt {
    /// The write of its row.
    #[must_use]
    pub fn put(&self, expect: Expect) -> Put {
        let state = if self.over { "over" } else { "live" };
        let indexes = [
            ("Token", &self.token_hash[..], true),
            ("Machine", &self.machine, false),
            ("State", state, false),
        ];
        put(kind::ATTEMPTS, &self.id, self, expect, &indexes)
    }
}

impl Operation {
    /// The write of its row.
    #[must_use]
    pub fn put(&self, expect: Expect) -> Put {
        let indexes = [("Machine", &self.machine[..], false), ("State", &self.state, false)];
        put(kind::OPERATIONS, &self.id, self, expect, &indexes)
    }
}
