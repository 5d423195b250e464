//! The `ipmi` provider's actions on machines: one exchange each, as durable operations.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use isobar_bmc::{BmcError, BootTarget, Exchange, Media, Part, PowerAction, PowerState, Recorder};
use isobar_model::params::ParamSchema;
use isobar_model::{ApiError, Object};
use isobar_objects::{Objects, Principal};
use isobar_store::{Audit, Expect, Txn};
use serde_json::{Map, Value, json};

use crate::attempts::parse_name;
use crate::gate::{self, Answer, Caller, Rank, Verb};
use crate::inventory;
use crate::operations::Flight;
use crate::reason::Reason;
use crate::record::{Intent, Operation, State};
use crate::service::Booter;
use crate::settings::{Settings, param};
use crate::state::{Inner, lock, member, store_error};
use crate::view::iso_name;

/// What an action does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    PowerStatus,
    /// The machine as its BMC sees it.
    Status,
    BootProgress,
    Power(PowerAction),
    BootOnce(BootTarget),
    BootAlways(BootTarget),
    BootHttp,
    Identify,
    Read(Part),
    /// The BMC's own network, onto the machine.
    Inventory,
    ResetBmc,
    ClearEventLog,
    MediaStatus,
    Mount,
    Unmount,
}

impl Deed {
    /// Whether IPMI cannot do it.
    fn needs_redfish(self) -> bool {
        match self {
            Self::Read(part) => !matches!(part, Part::EventLog | Part::Sensors | Part::Fru),
            Self::MediaStatus | Self::Mount | Self::Unmount | Self::BootHttp | Self::Inventory => true,
            _ => false,
        }
    }

    /// Whether the BMC is changed: what only looks leaves no row behind.
    fn changes(self) -> bool {
        !matches!(
            self,
            Self::PowerStatus | Self::MediaStatus | Self::Status | Self::BootProgress | Self::Read(_) | Self::Inventory
        )
    }
}

/// An action of the provider, as DRP lists it.
#[derive(Clone, Copy, Debug)]
pub struct Action {
    /// Name.
    pub command: &'static str,
    /// Params needed beside those of every action.
    pub extra: &'static [&'static str],
    /// Params that it uses when they are set, beside those of every action.
    pub optional: &'static [&'static str],
    deed: Deed,
}

/// Provider that offers them.
pub const PROVIDER: &str = "ipmi";
/// Params that every action needs.
pub const REQUIRED: &[&str] = &[
    param::IPMI_ADDRESS,
    param::IPMI_MODE,
    param::IPMI_PASSWORD,
    param::IPMI_USERNAME,
];
/// Params that every action uses when they are set.
pub const OPTIONAL: &[&str] = &[param::IPMI_PORT_UDP, param::IPMI_PORT, param::BIOS_MODE];
const URL: &str = "ipmi/virtual-media-url";
const BOOT: &str = "ipmi/virtual-media-boot";

const HTTP_URL: &str = "isobar/http-boot-url";
const IDENTIFY_SECONDS: &str = "ipmi/identify-duration";
const IDENTIFY_DEFAULT: u8 = 60;

const fn action(command: &'static str, deed: Deed) -> Action {
    Action {
        command,
        extra: &[],
        optional: &[],
        deed,
    }
}

/// All actions, by name: the 24 of DRP's provider, and those of ours.
pub const ACTIONS: &[Action] = &[
    action("bmcInventory", Deed::Inventory),
    action("bmcReset", Deed::ResetBmc),
    action("clearEventLog", Deed::ClearEventLog),
    action("forcebootdisk", Deed::BootAlways(BootTarget::Disk)),
    action("forcebootpxe", Deed::BootAlways(BootTarget::Pxe)),
    action("getBios", Deed::Read(Part::Bios)),
    action("getBoot", Deed::Read(Part::Boot)),
    action("getBootProgress", Deed::BootProgress),
    action("getEthernetInterfaces", Deed::Read(Part::EthernetInterfaces)),
    action("getEventLog", Deed::Read(Part::EventLog)),
    action("getFru", Deed::Read(Part::Fru)),
    action("getInfo", Deed::Read(Part::Info)),
    action("getMemory", Deed::Read(Part::Memory)),
    action("getNetworkInterfaces", Deed::Read(Part::NetworkInterfaces)),
    action("getProcessor", Deed::Read(Part::Processors)),
    action("getSecureBoot", Deed::Read(Part::SecureBoot)),
    action("getSensors", Deed::Read(Part::Sensors)),
    action("getSimpleStorage", Deed::Read(Part::SimpleStorage)),
    action("getStorage", Deed::Read(Part::Storage)),
    Action {
        optional: &[IDENTIFY_SECONDS],
        ..action("identify", Deed::Identify)
    },
    Action {
        extra: &[BOOT, URL],
        ..action("mountVirtualMedia", Deed::Mount)
    },
    action("nextbootcd", Deed::BootOnce(BootTarget::Cd)),
    action("nextbootdisk", Deed::BootOnce(BootTarget::Disk)),
    Action {
        extra: &[HTTP_URL],
        ..action("nextboothttp", Deed::BootHttp)
    },
    action("nextbootpxe", Deed::BootOnce(BootTarget::Pxe)),
    action("powercycle", Deed::Power(PowerAction::Cycle)),
    action("poweroff", Deed::Power(PowerAction::ForceOff)),
    action("poweron", Deed::Power(PowerAction::On)),
    action("powerstatus", Deed::PowerStatus),
    action("status", Deed::Status),
    action("statusVirtualMedia", Deed::MediaStatus),
    action("unmountVirtualMedia", Deed::Unmount),
];

/// What an action has to go on.
struct Call {
    operation: Operation,
    settings: Settings,
    deed: Deed,
    url: Option<String>,
    http_url: Option<String>,
    seconds: u8,
    boot: bool,
    reached: Arc<Reached>,
    flight: Arc<Flight>,
    by: Principal,
    /// Whether the audit log knows of it.
    told: bool,
}

impl Call {
    fn audit(&self, detail: &str) -> Audit {
        let action = format!("action:{}", self.operation.command);
        self.by.audit(&action, "machines", &self.operation.machine, detail)
    }
}

/// Where the BMC was reached; nothing else of an action's exchanges is kept.
#[derive(Default)]
pub(crate) struct Reached(Mutex<Vec<IpAddr>>);

impl Reached {
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        lock(&self.0).clone()
    }
}

impl Recorder for Reached {
    fn record(&self, _: Exchange) {}

    fn keeps(&self, _: &str, _: Option<u16>) -> bool {
        false
    }

    fn connected(&self, addresses: &[IpAddr]) {
        *lock(&self.0) = addresses.to_vec();
    }
}

/// How long a caller waits for an action: a little more than the longest exchange in front of it and its own.
fn patience(inner: &Inner) -> Duration {
    inner.timing.insert() * 2 + inner.timing.exchange() * 2
}

impl Booter {
    /// An action by name.
    #[must_use]
    pub fn action(command: &str) -> Option<&'static Action> {
        ACTIONS.iter().find(|action| action.command == command)
    }

    /// The first param that the action needs and this machine has not.
    ///
    /// # Errors
    /// No such machine.
    pub fn missing_param(&self, machine: &str, action: &Action) -> Result<Option<&'static str>, ApiError> {
        // These two are given per call; a machine without them can still take the action.
        for name in REQUIRED {
            if self
                .inner
                .objects
                .resolve(machine, name)?
                .is_none_or(|v| v.value.is_null())
            {
                return Ok(Some(name));
            }
        }
        let _ = action;
        Ok(None)
    }

    /// Runs an action. The caller's params go before the machine's. The work goes on when the caller is gone.
    ///
    /// # Errors
    /// In DRP's shapes: unknown action, missing or bad param (400), what the BMC says (with a hint).
    pub async fn run_action(
        &self,
        machine: &str,
        key: &str,
        command: &str,
        params: Map<String, Value>,
        by: &Principal,
    ) -> Result<Value, ApiError> {
        let (booter, uuid, named, verb) = (self.clone(), machine.to_owned(), key.to_owned(), command.to_owned());
        let by = by.clone();
        let work = self
            .inner
            .objects
            .run(move |_| booter.start_action(&uuid, &named, &verb, params, &by))
            .await?
            .1;
        match tokio::time::timeout(patience(&self.inner), work).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(ApiError::new(
                500,
                "INVOKE",
                "machines",
                machine,
                "the action was broken off",
            )),
            Err(_) => Err(ApiError::new(
                504,
                "INVOKE",
                "machines",
                machine,
                format!(
                    "{command} is still waiting for the BMC; it goes on, look again with statusVirtualMedia or powerstatus"
                ),
            )),
        }
    }
}

type Work = tokio::task::JoinHandle<Result<Value, ApiError>>;

impl Booter {
    /// Begins an action and does not wait for it.
    pub(crate) fn begin_action(
        &self,
        machine: &str,
        key: &str,
        command: &str,
        params: Map<String, Value>,
        by: &Principal,
    ) -> Result<Operation, ApiError> {
        Ok(self.start_action(machine, key, command, params, by)?.0)
    }

    fn start_action(
        &self,
        machine: &str,
        key: &str,
        command: &str,
        params: Map<String, Value>,
        by: &Principal,
    ) -> Result<(Operation, Work), ApiError> {
        let action = Self::action(command).ok_or_else(|| ApiError::action_not_found("machines", key, command))?;
        let mut call = prepare(&self.inner.objects, machine, key, action, params, by.clone())?;
        if let Deed::Power(_) = call.deed {
            self.inner
                .power_is_free(machine)
                .map_err(|reason| failure(key, &reason))?;
        }
        call.operation.at_ms = self.inner.now_ms();
        call.flight = Flight::new(call.operation.clone());
        let operation = call.operation.clone();
        lock(&self.inner.flights).insert(operation.id.clone(), Arc::clone(&call.flight));
        let landing = Landing::new(Arc::clone(&self.inner), operation.id.clone());
        let inner = Arc::clone(&self.inner);
        let work = self.inner.runtime.spawn(async move {
            let _landing = landing;
            inner.perform(call).await
        });
        Ok((operation, work))
    }
}

/// However an action ends, it is under way no more.
pub(crate) struct Landing {
    inner: Arc<Inner>,
    id: String,
}

impl Landing {
    pub(crate) fn new(inner: Arc<Inner>, id: String) -> Self {
        Self { inner, id }
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        lock(&self.inner.flights).remove(&self.id);
    }
}

fn prepare(
    objects: &Objects,
    uuid: &str,
    key: &str,
    action: &Action,
    params: Map<String, Value>,
    by: Principal,
) -> Result<Call, ApiError> {
    let command = action.command;
    let mut machine: Object = (*objects.get("machines", uuid)?).clone();
    for (name, value) in &params {
        let declared = objects.find("params", name)?;
        if declared.is_some_and(|p| p.get("Secure") == Some(&Value::Bool(true))) {
            return Err(ApiError::action_secure_param("machines", key, command, name));
        }
        if REQUIRED.contains(&name.as_str())
            || OPTIONAL.contains(&name.as_str())
            || action.extra.contains(&name.as_str())
            || action.optional.contains(&name.as_str())
        {
            check(objects, name, value)
                .map_err(|reason| ApiError::action_bad_param("machines", key, command, name, &reason))?;
        }
    }
    let given = params.keys().cloned().collect();
    // What the caller says stands before what the machine has.
    if let Some(Value::Object(own)) = machine.get_mut("Params") {
        own.extend(params);
    }
    let value = |name: &str| objects.resolve_in("machines", &machine, name);
    for name in REQUIRED {
        if value(name)?.is_none_or(|v| v.value.is_null()) {
            return Err(ApiError::action_missing_param("INVOKE", "machines", key, command, name));
        }
    }
    let mode = value(param::IPMI_MODE)?.map(|v| v.value);
    let mode = mode.as_ref().and_then(Value::as_str).unwrap_or("auto");
    let refused = match mode {
        "auto" | "redfish" => None,
        "ipmitool" if action.deed.needs_redfish() => {
            Some(format!("Action {command} not supported on ipmi driver: {mode}"))
        }
        "ipmitool" => None,
        _ => Some(format!("Unavailable ipmi driver: {mode}")),
    };
    if let Some(text) = refused {
        return Err(ApiError::new(404, "INVOKE", "machines", key, text));
    }
    let url = value(URL)?
        .and_then(|v| v.value.as_str().map(str::to_owned))
        .filter(|url| !url.is_empty());
    let http_url = value(HTTP_URL)?
        .and_then(|v| v.value.as_str().map(str::to_owned))
        .filter(|url| !url.is_empty());
    if action.deed == Deed::BootHttp && http_url.is_none() {
        return Err(ApiError::action_missing_param(
            "INVOKE", "machines", key, command, HTTP_URL,
        ));
    }
    // A light that is to shine for longer is lit again.
    let seconds = value(IDENTIFY_SECONDS)?.and_then(|v| v.value.as_u64());
    let seconds = seconds.map_or(IDENTIFY_DEFAULT, |s| u8::try_from(s).unwrap_or(u8::MAX));
    let boot = value(BOOT)?.is_some_and(|v| v.value == Value::Bool(true));
    let settings = Settings::of(objects, &machine).map_err(|reason| failure(key, &reason))?;
    if settings.locked && action.deed.changes() {
        return Err(ApiError::locked("machines", key));
    }
    let operation = Operation {
        id: uuid::Uuid::new_v4().to_string(),
        machine: uuid.to_owned(),
        command: command.to_owned(),
        given,
        principal: by.name().to_owned(),
        at_ms: 0,
        state: "running".to_owned(),
        intent: None,
        outcome: None,
    };
    Ok(Call {
        flight: Flight::new(operation.clone()),
        operation,
        settings,
        deed: action.deed,
        url,
        http_url,
        seconds,
        boot,
        reached: Arc::default(),
        by,
        told: false,
    })
}

/// A value against the schema of its param; what is not declared is free.
fn check(objects: &Objects, param: &str, value: &Value) -> Result<(), String> {
    match objects.find("params", param) {
        Ok(Some(declared)) => ParamSchema::compile(&declared)?.check(value),
        Ok(None) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

pub(crate) fn failure(machine: &str, reason: &Reason) -> ApiError {
    let code = match reason.reason.as_str() {
        "bmc-not-configured" | "bmc-address" | "image-peers" | "network-data" | "bootenv" | "other-machines-iso"
        | "template" => 400,
        "machine-gone" => 404,
        "boot-under-way" | "cancelled" | "shadow-mode" => 409,
        "bmc-timeout" | "bmc-unreachable" => 504,
        "missing-kernel" | "base-damaged" => 422,
        _ => 502,
    };
    let mut error = ApiError::new(code, "INVOKE", "machines", machine, reason.message.clone());
    if !reason.hint.is_empty() {
        error.messages.push(reason.hint.clone());
    }
    error
}

impl Inner {
    async fn perform(self: Arc<Self>, mut call: Call) -> Result<Value, ApiError> {
        let machine = call.operation.machine.clone();
        if !call.deed.changes() {
            self.objects.note(call.audit(""));
        }
        let result = self.act(&mut call).await.map_err(|reason| failure(&machine, &reason));
        let operation = &mut call.operation;
        operation.intent = None;
        let (state, outcome) = match &result {
            Ok(value) => ("done", value.clone()),
            Err(error) => ("failed", json!(error.to_string())),
        };
        state.clone_into(&mut operation.state);
        operation.outcome = Some(outcome);
        tracing::info!(machine, command = operation.command, state, "action");
        if call.deed.changes() {
            let mut txn = Txn {
                puts: vec![operation.put(Expect::Any)],
                audit: result.is_err().then(|| call.audit("failed")).into_iter().collect(),
                ..Txn::default()
            };
            self.forget_old(&machine, &mut txn).map_err(|e| store_error(&e))?;
            self.store.submit(txn).await.map_err(|e| store_error(&e))?;
        }
        result
    }

    async fn act(self: &Arc<Self>, call: &mut Call) -> Result<Value, Reason> {
        let success = || json!("Success");
        match call.deed {
            Deed::PowerStatus => match self.ask(call, Verb::PowerState).await? {
                Answer::Power(PowerState::On | PowerState::PoweringOff) => Ok(json!("On")),
                Answer::Power(PowerState::Off | PowerState::PoweringOn) => Ok(json!("Off")),
                _ => Ok(json!("Unknown")),
            },
            Deed::Power(action) => self.ask(call, Verb::Power(action)).await.map(|_| success()),
            Deed::BootOnce(target) => self.ask(call, Verb::BootOnce(target)).await.map(|_| success()),
            Deed::BootAlways(target) => self.ask(call, Verb::BootAlways(target)).await.map(|_| success()),
            Deed::BootHttp => {
                let url = call.http_url.clone().unwrap_or_default();
                self.ask(call, Verb::BootHttp(url)).await.map(|_| success())
            }
            Deed::ResetBmc => {
                self.bmc_is_free(call)?;
                self.ask(call, Verb::ResetBmc).await.map(|_| success())
            }
            Deed::ClearEventLog => self.ask(call, Verb::ClearEventLog).await.map(|_| success()),
            Deed::Identify => {
                let seconds = call.seconds;
                let by_itself = matches!(self.ask(call, Verb::Identify(seconds)).await?, Answer::Identified(true));
                if !by_itself && seconds > 0 {
                    self.light_goes_out(&call.operation.machine, Duration::from_secs(seconds.into()))
                        .await
                        .map_err(store_reason)?;
                }
                Ok(success())
            }
            Deed::Status => match self.ask(call, Verb::Host).await? {
                Answer::Host(host) => Ok(inventory::status(&host)),
                _ => Ok(Value::Null),
            },
            Deed::BootProgress => match self.ask(call, Verb::Host).await? {
                Answer::Host(host) => Ok(host.boot_progress.into()),
                _ => Ok(Value::Null),
            },
            Deed::Read(part) => match self.ask(call, Verb::Inventory(part)).await? {
                Answer::Inventory(found) => Ok(found),
                _ => Ok(Value::Null),
            },
            Deed::Inventory => {
                let Answer::Inventory(ports) = self.ask(call, Verb::Inventory(Part::Lan)).await? else {
                    return Ok(Value::Null);
                };
                let params = inventory::of_the_bmc(&ports, &call.reached.addresses());
                self.take_in(call, params).await
            }
            Deed::MediaStatus => match self.ask(call, Verb::Media).await? {
                Answer::Media(media) => self.media_status(&media),
                _ => Ok(Value::Null),
            },
            Deed::Unmount => {
                let ending = self
                    .live_attempts(&call.operation.machine, None)
                    .map_err(store_reason)?;
                self.ask(call, Verb::Eject).await?;
                let busy = self.open_boots(&call.operation.machine).map_err(store_reason)?;
                if !busy.iter().any(|row| row.boot.state == State::Running) {
                    self.end_attempts(&call.operation.machine, &ending)
                        .await
                        .map_err(store_reason)?;
                }
                Ok(success())
            }
            Deed::Mount => {
                let older = self
                    .live_attempts(&call.operation.machine, None)
                    .map_err(store_reason)?;
                let urls = self.mount_urls(call).await?;
                self.ask(call, Verb::Insert(urls)).await?;
                // What was mounted before is out now; a boot under way looks after its own.
                let by_hand: Vec<_> = older.into_iter().filter(|attempt| attempt.boot.is_none()).collect();
                self.end_attempts(&call.operation.machine, &by_hand)
                    .await
                    .map_err(store_reason)?;
                if call.boot {
                    self.ask(call, Verb::BootOnce(BootTarget::Cd)).await?;
                }
                Ok(success())
            }
        }
    }

    /// A URL of ours, by its name for people or not given at all, means a fresh token; any other is passed on as it is.
    async fn mount_urls(self: &Arc<Self>, call: &mut Call) -> Result<Vec<String>, Reason> {
        let uuid = call.operation.machine.clone();
        let named = match &call.url {
            None => None,
            Some(url) => {
                let path = url.split_once("://").map_or(url.as_str(), |(_, rest)| {
                    rest.split_once('/').map_or("", |(_, path)| path)
                });
                match parse_name(path) {
                    None => return Ok(vec![url.clone()]),
                    Some((machine, _)) if machine != uuid => {
                        return Err(Reason::new(
                            "other-machines-iso",
                            format!("{url} is the ISO of another machine"),
                            "leave ipmi/virtual-media-url out: the machine's own ISO is mounted then",
                        ));
                    }
                    Some((_, bootenv)) => Some(bootenv.to_owned()),
                }
            }
        };
        let inner = Arc::clone(self);
        let settings = self.settings(&uuid)?;
        let planned = self
            .objects
            .run(move |objects| {
                let api = |error: ApiError| Reason::new("bootenv", error.to_string(), "name a bootenv that has an ISO");
                let machine = objects.get("machines", &uuid).map_err(api)?;
                let env = named.unwrap_or_else(|| member(&machine, "BootEnv").to_owned());
                let bootenv = objects.get("bootenvs", &env).map_err(api)?;
                if !isobar_model::bootenv::boots_kernel(&bootenv) {
                    return Err(Reason::new(
                        "bootenv",
                        format!("bootenv {env} has no ISO"),
                        format!(
                            "give ipmi/virtual-media-url, for instance http://SERVER:8091/{}",
                            iso_name(&uuid, "sledgehammer")
                        ),
                    ));
                }
                inner.plan(objects, &machine, &bootenv, &settings, None)
            })
            .await?;
        let mut txn = Txn::default();
        self.commit_planned(&planned, &mut txn);
        self.store.submit(txn).await.map_err(store_reason)?;
        // Where the BMC is, its answer tells; its reads are told from others' by that.
        self.ask(call, Verb::Media).await?;
        let attempt = self.place(planned.attempt, &call.reached.addresses()).await?;
        self.follow(&attempt)?;
        // A mount by hand is followed by a power cycle by hand: all its reads may be the machine's.
        self.image_urls(&attempt)
    }

    fn media_status(&self, media: &Media) -> Result<Value, Reason> {
        let image = media.image.clone().unwrap_or_default();
        let shown = match self.attempt_of_url(&image).map_err(store_reason)? {
            // The token is a secret; people know the disc by its name.
            Some(attempt) => format!("{}/{}", attempt.authority, iso_name(&attempt.machine, &attempt.bootenv)),
            None => image,
        };
        Ok(json!({"Image": shown, "Inserted": media.inserted}))
    }

    async fn ask(&self, call: &mut Call, verb: Verb) -> Result<Answer, Reason> {
        let endpoint = call.settings.endpoint.clone()?;
        let (who, site) = (call.operation.id.clone(), call.settings.site.clone());
        let caller = Caller {
            endpoint: &endpoint,
            site: site.as_deref(),
            who: &who,
            rank: Rank::Asked,
        };
        let turn = call.flight.turn(&self.gate, caller).await?;
        // A boot may have begun while this waited.
        match verb {
            Verb::Power(_) => self.power_is_free(&call.operation.machine)?,
            Verb::ResetBmc => {
                self.bmc_is_free(call)?;
                let now = Some(self.now_ms());
                self.gate.bmcs.resetting(&gate::authority(&endpoint), now).await;
            }
            _ => {}
        }
        let now = self.now_ms();
        let longest = u64::try_from(verb.longest(&self.timing).as_millis()).unwrap_or(u64::MAX);
        call.operation.intent = Some(Intent {
            verb: verb.name().to_owned(),
            bmc: gate::authority(&endpoint),
            at_ms: now,
            until_ms: now.saturating_add(longest),
        });
        if call.deed.changes() {
            let told = std::mem::replace(&mut call.told, true);
            let txn = Txn {
                puts: vec![call.operation.put(Expect::Any)],
                audit: (!told).then(|| call.audit("")).into_iter().collect(),
                ..Txn::default()
            };
            self.store.submit(txn).await.map_err(store_reason)?;
        }
        let was_left_alone = self.gate.left_alone(&endpoint).is_some();
        let recorder = Arc::clone(&call.reached) as Arc<dyn Recorder>;
        let answer = turn.exchange(recorder, &verb).await;
        if was_left_alone && self.gate.left_alone(&endpoint).is_none() {
            self.ring_who_waits();
        }
        answer.map_err(|error: BmcError| Reason::of_bmc(&error))
    }
}

impl Inner {
    /// A boot has the machine's power until the agent is up: a power command of somebody else would break it off in its
    /// middle, or be undone by it.
    fn power_is_free(&self, machine: &str) -> Result<(), Reason> {
        match self.power_is_taken(machine).map_err(store_reason)? {
            None => Ok(()),
            Some(boot) => Err(Reason::new(
                "boot-under-way",
                format!(
                    "{} is booting {} (boot {}), which switches its power by itself: nothing was sent",
                    boot.machine_name, boot.bootenv, boot.id
                ),
                format!(
                    "let it go on (`isobar boots watch {0}`), or end it first: `isobar operations cancel {0}`",
                    boot.id
                ),
            )),
        }
    }
}

impl Inner {
    /// A reset takes out the media of everybody who boots through that BMC.
    fn bmc_is_free(&self, call: &Call) -> Result<(), Reason> {
        let Ok(endpoint) = &call.settings.endpoint else {
            return Ok(());
        };
        match self.boots_through(&gate::authority(endpoint))? {
            Some(reason) => Err(reason),
            None => Ok(()),
        }
    }

    /// What an inventory found becomes params of the machine.
    async fn take_in(&self, call: &Call, params: Map<String, Value>) -> Result<Value, Reason> {
        let (uuid, found) = (call.operation.machine.clone(), params.clone());
        let written = self
            .objects
            .run(move |objects| {
                objects.update_with("machines", &uuid, &Principal::system(), |machine| {
                    if let Some(Value::Object(own)) = machine.get_mut("Params") {
                        own.extend(found.clone());
                    }
                    Ok(())
                })
            })
            .await;
        match written {
            Ok(_) => Ok(params.into()),
            Err(error) => Err(Reason::new("store", error.to_string(), "look at the server's log")),
        }
    }
}

pub(crate) fn store_reason(error: isobar_store::StoreError) -> Reason {
    Reason::new("store", error.to_string(), "look at the server's log")
}
