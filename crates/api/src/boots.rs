//! What the routes of our own ask of the booting side.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use isobar_image::Image;
use isobar_model::ApiError;
use isobar_objects::Principal;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::mpsc;

/// `POST /isobar/v1/agent/exchange`: a boot secret for a machine token.
#[derive(Clone, Deserialize)]
pub struct Exchange {
    /// UUID of the machine.
    pub machine: String,
    /// Attempt that the secret belongs to, 32 hex digits.
    pub attempt: String,
    /// The boot secret, base64url.
    pub secret: String,
    /// 32 random bytes of the agent, base64url, the same for one boot.
    pub nonce: String,
}

impl std::fmt::Debug for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Exchange({} {})", self.machine, self.attempt)
    }
}

/// `POST /isobar/v1/agent/checkin`.
#[derive(Clone, Debug, Deserialize)]
pub struct Checkin {
    /// UUID of the machine.
    pub machine: String,
    /// Attempt that booted it.
    pub attempt: String,
    /// Version of the agent.
    #[serde(default)]
    pub version: String,
    /// Seconds since its kernel started.
    #[serde(default)]
    pub uptime_s: u64,
    /// Whether its root does not need the medium any more.
    #[serde(default)]
    pub root_in_memory: bool,
}

/// `POST /isobar/v1/agent/heartbeat`.
#[derive(Clone, Debug, Deserialize)]
pub struct Heartbeat {
    /// UUID of the machine.
    pub machine: String,
    /// Attempt that booted it.
    pub attempt: String,
    /// Seconds since its kernel started.
    #[serde(default)]
    pub uptime_s: u64,
}

/// An action that some plugin offers for an object (DRP's `AvailableAction`).
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct AvailableAction {
    /// Plugin provider: `ipmi`.
    pub provider: String,
    /// Type prefix: `machines`.
    pub model: String,
    /// Its name: `powerstatus`.
    pub command: String,
    /// Params that must resolve to a value.
    pub required_params: Vec<String>,
    /// Params that are used when set.
    pub optional_params: Vec<String>,
}

/// An open serial console.
#[derive(Debug)]
pub struct Console {
    /// Its name, which nobody can guess.
    pub id: String,
    /// What the machine says; an error is the last item. Dropping it closes the console.
    pub screen: tokio::sync::mpsc::Receiver<Result<Vec<u8>, String>>,
}

/// What is typed into a console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Typed {
    /// Characters.
    Text(Vec<u8>),
    /// A break of the line.
    Break,
}

/// Boots that are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Which {
    /// UUID of a machine; none: of all.
    pub machine: Option<String>,
    /// As `state` of a boot says: `running`, `done`, `failed` …
    pub state: Option<String>,
    /// Not more than so many.
    pub limit: Option<usize>,
}

/// The booting side of the server: agents, boots, discs, bases, BMC actions.
///
/// Machines are named by UUID; the routes have resolved `Name:x`. Who may call is decided before.
#[async_trait]
pub trait Boots: Send + Sync {
    /// A boot secret for a machine token.
    ///
    /// # Errors
    /// 403 with the reason when secret, attempt or nonce are not (or no longer) good.
    async fn exchange(&self, request: Exchange) -> Result<String, ApiError>;
    /// The agent is up. The answer goes to the agent as it is.
    ///
    /// # Errors
    /// 403 when the boot is over.
    async fn checkin(&self, request: Checkin) -> Result<Value, ApiError>;
    /// The agent is still up. The answer goes to the agent as it is.
    ///
    /// # Errors
    /// 403 when the boot is over.
    async fn heartbeat(&self, request: Heartbeat) -> Result<Value, ApiError>;

    /// Boots, newest first.
    ///
    /// # Errors
    /// Of the store.
    async fn boots(&self, which: Which) -> Result<Vec<Value>, ApiError>;
    /// One boot. Has members `machine` (UUID) and `seq`.
    ///
    /// # Errors
    /// 404.
    async fn boot(&self, id: &str) -> Result<Value, ApiError>;
    /// Like [`Boots::boot`], as soon as its `seq` is above `after`, at the latest after `wait`.
    ///
    /// # Errors
    /// 404.
    async fn wait_boot(&self, id: &str, after: u64, wait: Duration) -> Result<Value, ApiError>;

    /// What is kept of a boot that failed, as JSON.
    ///
    /// # Errors
    /// 404.
    async fn post_mortem(&self, id: &str) -> Result<Value, ApiError>;

    /// The discs that machines have now. Each has a member `machine` (UUID).
    ///
    /// # Errors
    /// Of the store.
    async fn isos(&self) -> Result<Vec<Value>, ApiError>;
    /// The disc of a machine in a bootenv.
    ///
    /// # Errors
    /// 404.
    async fn iso_image(&self, machine: &str, bootenv: &str) -> Result<Arc<Image>, ApiError>;

    /// Bases that images can be planned on.
    ///
    /// # Errors
    /// Of the store.
    async fn bases(&self) -> Result<Vec<Value>, ApiError>;
    /// Takes in a bundle, a tar that has been received whole.
    ///
    /// # Errors
    /// 422 when it is no bundle, 507 when the disk is full.
    async fn import_base(&self, name: &str, tar: std::fs::File, by: &Principal) -> Result<Value, ApiError>;

    /// All actions on machines; which of them a machine can take now is [`Boots::actions`]'s to say.
    ///
    /// # Errors
    /// 404 when there is no such machine.
    async fn actions(&self, machine: &str) -> Result<Vec<AvailableAction>, ApiError>;
    /// Describes one action: 404 when nobody offers it, 400 naming the first param that is missing.
    ///
    /// # Errors
    /// As said.
    async fn action(&self, machine: &str, command: &str) -> Result<AvailableAction, ApiError>;
    /// Runs an action with the caller's params (the rest comes from the machine) and gives what it returned.
    /// `key` is the machine as the client wrote it, for errors.
    ///
    /// # Errors
    /// As DRP's, see the reference's section on actions; BMC errors with a hint.
    async fn run_action(
        &self,
        machine: &str,
        key: &str,
        command: &str,
        params: Map<String, Value>,
        by: &Principal,
    ) -> Result<Value, ApiError>;

    /// Examines a machine's BMC: findings as they are made, the last one with `done`. It goes on when nobody takes them.
    ///
    /// # Errors
    /// As with actions; 409 where a boot has the BMC.
    async fn doctor(&self, machine: &str, key: &str, by: &Principal) -> Result<mpsc::Receiver<Value>, ApiError>;

    /// All that a machine's BMC shows: `path` and `body` each, as they are read, the last one with `done`. It ends when
    /// nobody takes it.
    ///
    /// # Errors
    /// As with actions.
    async fn record(&self, machine: &str, key: &str, by: &Principal) -> Result<mpsc::Receiver<Value>, ApiError>;

    /// Looks for BMCs, as the request says: what is found as it is found, the last one with `done`. It ends when nobody
    /// takes it.
    ///
    /// # Errors
    /// 400: the request is none, or asks for too much.
    async fn scan(&self, request: Value, by: &Principal) -> Result<mpsc::Receiver<Value>, ApiError>;

    /// What is under way, waits or is owed at BMCs: of a machine, or of all; with `all` what has ended, too. Each has
    /// members `id` and `machine` (UUID; empty: a BMC that several may share).
    ///
    /// # Errors
    /// Of the store.
    async fn operations(&self, machine: Option<&str>, all: bool) -> Result<Vec<Value>, ApiError>;
    /// One of them.
    ///
    /// # Errors
    /// 404.
    async fn operation(&self, id: &str) -> Result<Value, ApiError>;
    /// Begins a rolling boot, or with `dry_run` says who would boot.
    ///
    /// # Errors
    /// 403 for machines that the caller may not change; 406 and 422 for what makes no sense; 409 when too many are under
    /// way.
    async fn rolling_boot(&self, order: Map<String, Value>, by: &Principal) -> Result<Value, ApiError>;
    /// What became of each machine of a rolling boot.
    ///
    /// # Errors
    /// 404.
    async fn rolling_report(&self, id: &str) -> Result<Value, ApiError>;
    /// Ends it, as far as it can be called back.
    ///
    /// # Errors
    /// 404; 409 for what is over or has been sent.
    async fn cancel_operation(&self, id: &str, by: &Principal) -> Result<Value, ApiError>;
    /// Tries it again now.
    ///
    /// # Errors
    /// 404; 409 for what is under way; 422 for what cannot be repeated.
    async fn retry_operation(&self, id: &str, by: &Principal) -> Result<Value, ApiError>;

    /// Opens the serial console of a machine; `take_over`: whoever has it loses it.
    ///
    /// # Errors
    /// 404 where there is no way to it, 409 when somebody else has it or too many are open; of the BMC as with actions.
    async fn open_console(
        &self,
        machine: &str,
        key: &str,
        take_over: bool,
        by: &Principal,
    ) -> Result<Console, ApiError>;
    /// Types into an open console of this machine.
    ///
    /// # Errors
    /// 404 when it is not open.
    async fn type_into(&self, machine: &str, console: &str, typed: Typed) -> Result<(), ApiError>;
}
