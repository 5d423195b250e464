//! What is under way, waits or is owed: boots, clean-ups, actions, and BMCs that are left alone, with why and until when;
//! and the operator's word on them: cancel, retry.

use std::sync::{Arc, Mutex, OnceLock};

use isobar_model::bootenv::boots_kernel;
use isobar_model::{ApiError, Object};
use isobar_objects::Principal;
use isobar_store::{Expect, StoreError, Txn};
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::sync::Notify;

use crate::evidence::Phase;
use crate::gate::{Caller, Gate, Turn, authority};
use crate::line::Waiting;
use crate::reason::Reason;
use crate::record::{self, Boot, Operation, Row, State, kind, rfc3339};
use crate::rolling::Fleet;
use crate::service::Booter;
use crate::settings::{Settings, param};
use crate::state::{Inner, lock, member, store_error};

/// How ids of BMCs that are left alone, or whose login is held, begin; `host:port` follows.
const BMC: &str = "bmc:";

/// `GET /isobar/v1/operations`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OperationView {
    /// Id of the boot or action; `bmc:HOST:PORT` for a BMC.
    pub id: String,
    /// `boot`, `rolling-boot`, `clean-up`, `action`, `login-held`, `left-alone`.
    pub kind: &'static str,
    /// UUID of the machine; empty for a BMC, and for a rolling boot.
    pub machine: String,
    /// Its name.
    pub machine_name: String,
    /// Bootenv, command, or user of the login.
    pub what: String,
    /// `running`, `waiting`, or how it ended.
    pub state: String,
    /// Step of the boot, with its version.
    pub step: Option<String>,
    /// What it does or waits for, for people.
    pub why: String,
    /// At the latest then there is something new, RFC 3339; none: when somebody does something, or nothing is known.
    pub until: Option<String>,
    /// Begin, RFC 3339.
    pub since: String,
    /// `host:port`, where it is known.
    pub bmc: Option<String>,
    /// Tries of the step that failed.
    pub tries: u32,
    /// Who asked for it.
    pub by: Option<String>,
    /// Of a rolling boot: its machines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fleet: Option<Fleet>,
}

/// Whether an action can still be called off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Waiting,
    Sent,
    Cancelled,
}

/// An action that is under way or waits for its turn.
pub(crate) struct Flight {
    operation: Operation,
    stage: Mutex<Stage>,
    /// `host:port` of the BMC that nobody else is to examine meanwhile.
    bmc: OnceLock<String>,
    cancelled: Notify,
}

fn called_off() -> Reason {
    Reason::new("cancelled", "the action was cancelled before anything was sent", "")
}

impl Flight {
    pub(crate) fn new(operation: Operation) -> Arc<Self> {
        Arc::new(Self {
            operation,
            stage: Mutex::new(Stage::Waiting),
            bmc: OnceLock::new(),
            cancelled: Notify::new(),
        })
    }

    pub(crate) fn operation(&self) -> &Operation {
        &self.operation
    }

    /// The BMC is its own.
    pub(crate) fn at(&self, bmc: &str) {
        let _ = self.bmc.set(bmc.to_owned());
    }

    pub(crate) fn bmc(&self) -> Option<&String> {
        self.bmc.get()
    }

    /// Waits for its turn at the BMC.
    ///
    /// # Errors
    /// It was called off before anything was sent.
    pub(crate) async fn turn<'a>(&self, gate: &'a Gate, caller: Caller<'a>) -> Result<Turn<'a>, Reason> {
        let turn = tokio::select! {
            turn = gate.turn(caller) => turn,
            () = self.cancelled.notified() => return Err(called_off()),
        };
        if self.sends() { Ok(turn) } else { Err(called_off()) }
    }

    /// Its turn has come; false when it was called off.
    fn sends(&self) -> bool {
        let mut stage = lock(&self.stage);
        if *stage == Stage::Waiting {
            *stage = Stage::Sent;
        }
        *stage == Stage::Sent
    }

    fn cancel(&self) -> bool {
        let mut stage = lock(&self.stage);
        let waits = *stage == Stage::Waiting;
        if waits {
            *stage = Stage::Cancelled;
            self.cancelled.notify_one();
        }
        waits
    }
}

fn of_boot(boot: &Boot) -> OperationView {
    // Of a bootenv without an ISO, what is left to do is to clean up; of one that is over, what it still owes.
    let release = boot.attempt.is_none() && boot.error.is_none() && !boot.shadow;
    let owes = boot.is_open() && boot.state != State::Running;
    let kind = if release || owes { "clean-up" } else { "boot" };
    let waits = boot.wait_until_ms.is_some() || boot.phase == Phase::WaitingForPower;
    let state = match boot.state {
        _ if boot.is_open() && waits => "waiting",
        _ if boot.is_open() => "running",
        State::Failed => "failed",
        State::Cancelled => "cancelled",
        State::Replaced => "replaced",
        State::Running | State::Done => "done",
    };
    OperationView {
        id: boot.id.clone(),
        kind,
        machine: boot.machine.clone(),
        machine_name: boot.machine_name.clone(),
        what: boot.bootenv.clone(),
        state: state.to_owned(),
        step: boot.is_open().then(|| boot.step.clone()),
        why: match &boot.error {
            Some(error) if !boot.is_open() => error.line(),
            _ => boot.detail.clone(),
        },
        until: boot.wait_until_ms.filter(|_| boot.is_open()).map(rfc3339),
        since: rfc3339(boot.started_ms),
        bmc: boot.intent.as_ref().map(|intent| intent.bmc.clone()),
        tries: boot.tries,
        by: None,
        fleet: None,
    }
}

fn conflict(id: &str, text: impl Into<String>) -> ApiError {
    ApiError::new(409, "CONFLICT", "operations", id, text)
}

fn refused(id: &str, text: impl Into<String>) -> ApiError {
    ApiError::new(422, "POST", "operations", id, text)
}

impl Inner {
    fn of_action(&self, operation: &Operation) -> OperationView {
        let running = operation.state == "running";
        let why = match &operation.outcome {
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None if running => "about to ask for its turn".to_owned(),
            None => operation.state.clone(),
        };
        OperationView {
            id: operation.id.clone(),
            kind: "action",
            machine: operation.machine.clone(),
            machine_name: self.machine_name(&operation.machine),
            what: operation.command.clone(),
            state: operation.state.clone(),
            step: None,
            why,
            until: None,
            since: rfc3339(operation.at_ms),
            bmc: operation.intent.as_ref().map(|intent| intent.bmc.clone()),
            tries: 0,
            by: Some(operation.principal.clone()),
            fleet: None,
        }
    }

    /// With what the gate knows of it.
    fn with_line(&self, mut view: OperationView, line: &[Waiting]) -> OperationView {
        if let Some(place) = line.iter().find(|place| place.who == view.id) {
            view.bmc = Some(place.bmc.clone());
            if place.talking {
                "running".clone_into(&mut view.state);
                if view.kind == "action" {
                    view.why.clone_from(&place.why);
                }
            } else {
                "waiting".clone_into(&mut view.state);
                view.why.clone_from(&place.why);
            }
            view.until = place.left.map(|left| {
                let left = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
                rfc3339(self.now_ms().saturating_add(left))
            });
        }
        view
    }

    /// BMCs whose login is held, or which are left alone.
    fn of_bmcs(&self) -> Vec<OperationView> {
        let view = |bmc: String, kind, what, why, until, since| OperationView {
            id: format!("{BMC}{bmc}"),
            kind,
            machine: String::new(),
            machine_name: String::new(),
            what,
            state: "waiting".to_owned(),
            step: None,
            why,
            until,
            since,
            bmc: Some(bmc),
            tries: 0,
            by: None,
            fleet: None,
        };
        let held = self.gate.bmcs.holds().into_iter().map(|(bmc, hold)| {
            let why = "the BMC refused this login: it is not sent again until it is changed, or retried here";
            view(
                bmc,
                "login-held",
                hold.user,
                why.to_owned(),
                None,
                rfc3339(hold.since_ms),
            )
        });
        let now = std::time::Instant::now();
        let alone = self.gate.breaker.open(now).into_iter().map(|(bmc, until)| {
            let left = u64::try_from(until.duration_since(now).as_millis()).unwrap_or(u64::MAX);
            let until = rfc3339(self.now_ms().saturating_add(left));
            let why = "it did not answer several times in a row: boots and clean-ups leave it alone for a while";
            view(
                bmc,
                "left-alone",
                String::new(),
                why.to_owned(),
                Some(until),
                String::new(),
            )
        });
        held.chain(alone).collect()
    }

    /// The BMC of a machine.
    fn bmc_of(&self, machine: &str) -> Option<String> {
        let endpoint = self.settings(machine).ok()?.endpoint.ok()?;
        Some(authority(&endpoint))
    }

    fn boot_view(&self, boot: &Boot, line: &[Waiting]) -> OperationView {
        let view = of_boot(boot);
        if boot.is_open() {
            self.with_line(view, line)
        } else {
            view
        }
    }

    /// A boot of this machine that has its power: somebody else's power command is refused meanwhile.
    pub(crate) fn power_is_taken(&self, machine: &str) -> Result<Option<Boot>, StoreError> {
        let open = self.open_boots(machine)?.into_iter().map(|row| row.boot);
        let mut taking = open.filter(|boot| {
            boot.state == State::Running
                && boot.attempt.is_some()
                && boot.phase != Phase::WaitingForPower
                && boot.phase != Phase::AgentUp
        });
        Ok(taking.next())
    }
}

impl Booter {
    /// What is under way, waits or is owed; with `all` also what has ended and is still known. Newest first.
    ///
    /// # Errors
    /// Of the store.
    pub fn operations(&self, machine: Option<&str>, all: bool) -> Result<Vec<OperationView>, StoreError> {
        let inner = &self.inner;
        let line = inner.gate.waiting();
        let docs = |of: &str| match machine {
            Some(machine) => inner.store.find(of, "Machine", machine),
            None => inner.store.list(of),
        };
        let boots: Vec<Boot> = match (machine, all) {
            (None, false) => inner.all_open()?,
            _ => docs(kind::BOOTS)?.iter().filter_map(record::read).collect(),
        };
        let boots = boots.iter().filter(|boot| all || boot.is_open());
        let mut found: Vec<OperationView> = boots.map(|boot| inner.boot_view(boot, &line)).collect();
        let flights: Vec<Arc<Flight>> = lock(&inner.flights).values().map(Arc::clone).collect();
        for flight in flights
            .iter()
            .filter(|f| machine.is_none_or(|m| m == f.operation.machine))
        {
            found.push(inner.with_line(inner.of_action(&flight.operation), &line));
        }
        if all {
            for operation in docs(kind::OPERATIONS)?.iter().filter_map(record::read::<Operation>) {
                if !found.iter().any(|known| known.id == operation.id) {
                    found.push(inner.of_action(&operation));
                }
            }
        }
        if machine.is_none() {
            found.extend(inner.rolling_views(all)?);
        }
        found.sort_by(|a, b| b.since.cmp(&a.since));
        let bmc = machine.and_then(|machine| inner.bmc_of(machine));
        let bmcs = inner.of_bmcs().into_iter();
        found.extend(bmcs.filter(|view| machine.is_none() || view.bmc == bmc));
        Ok(found)
    }

    /// One of them.
    ///
    /// # Errors
    /// Of the store.
    pub fn operation(&self, id: &str) -> Result<Option<OperationView>, StoreError> {
        let inner = &self.inner;
        if id.starts_with(BMC) {
            return Ok(inner.of_bmcs().into_iter().find(|view| view.id == id));
        }
        let line = inner.gate.waiting();
        if let Some(row) = inner.boot_row(id)? {
            return Ok(Some(inner.boot_view(&row.boot, &line)));
        }
        if let Some((rolling, _)) = inner.rolling_row(id)? {
            return Ok(Some(inner.of_rolling(&rolling)));
        }
        let flight = lock(&inner.flights).get(id).map(Arc::clone);
        if let Some(flight) = flight {
            return Ok(Some(inner.with_line(inner.of_action(&flight.operation), &line)));
        }
        let doc = inner.store.get(kind::OPERATIONS, id)?;
        Ok(doc
            .as_ref()
            .and_then(record::read::<Operation>)
            .map(|o| inner.of_action(&o)))
    }

    /// A rolling boot begins no more machines, and those in flight go on; a boot ends and cleans up; a clean-up is given up; an action that waits for its turn is called off.
    ///
    /// # Errors
    /// 404; 409 for what has ended or cannot be called back; 422 for a BMC.
    pub fn cancel_operation(&self, id: &str, by: &Principal) -> Result<OperationView, ApiError> {
        let inner = &self.inner;
        if id.starts_with(BMC) {
            return Err(refused(id, "a BMC is not cancelled: retry lifts what is held"));
        }
        let flight = lock(&inner.flights).get(id).map(Arc::clone);
        if let Some(flight) = flight {
            if !flight.cancel() {
                return Err(conflict(id, "it has been sent to the BMC, which cannot be called back"));
            }
            inner
                .objects
                .note(by.audit("operation:cancel", "machines", &flight.operation.machine, id));
            let mut view = inner.of_action(&flight.operation);
            "cancelled".clone_into(&mut view.state);
            "cancelled before anything was sent".clone_into(&mut view.why);
            return Ok(view);
        }
        if inner.cancel_rolling(id, by)? {
            let view = self.operation(id).map_err(|e| store_error(&e))?;
            return view.ok_or_else(|| ApiError::not_found("POST", "operations", id));
        }
        let boot = self.change_boot(id, "operation:cancel", by, |boot| {
            let phase = boot.phase;
            if boot.state == State::Running {
                boot.state = State::Cancelled;
                boot.cleanup = boot.inserted || boot.override_set || boot.intent.is_some();
                (boot.tries, boot.recovering) = (0, None);
                boot.note(inner.now_ms(), phase, &format!("cancelled by {}", by.name()));
            } else if boot.cleanup {
                boot.cleanup = false;
                let text = format!(
                    "clean-up given up by {}: media and override may still be set",
                    by.name()
                );
                boot.note(inner.now_ms(), phase, &text);
            } else {
                return Err(conflict(id, "it is over"));
            }
            Ok(())
        })?;
        Ok(inner.boot_view(&boot, &[]))
    }

    /// Tries again now: what waits, what failed (as a new boot), what a rolling boot did not boot (as a new one), a login that is held, a BMC that is left alone.
    ///
    /// # Errors
    /// 404; 409 for what is under way; 422 for what cannot be repeated as it was.
    pub async fn retry_operation(&self, id: &str, by: &Principal) -> Result<OperationView, ApiError> {
        if let Some(bmc) = id.strip_prefix(BMC) {
            return self.retry_bmc(id, bmc, by).await;
        }
        let (booter, id, by) = (self.clone(), id.to_owned(), by.clone());
        self.inner.objects.run(move |_| booter.retry_now(&id, &by)).await
    }

    fn retry_now(&self, id: &str, by: &Principal) -> Result<OperationView, ApiError> {
        let inner = &self.inner;
        if let Some(row) = inner.boot_row(id).map_err(|e| store_error(&e))? {
            return match row.boot.is_open() {
                true => self.hurry(row, by),
                false => self.boot_again(&row.boot, by),
            };
        }
        if let Some(view) = self.roll_again(id, by)? {
            return Ok(view);
        }
        if lock(&inner.flights).contains_key(id) {
            return Err(conflict(id, "it is under way"));
        }
        let doc = inner.store.get(kind::OPERATIONS, id).map_err(|e| store_error(&e))?;
        let operation: Operation = doc
            .as_ref()
            .and_then(record::read)
            .ok_or_else(|| ApiError::not_found("POST", "operations", id))?;
        if !operation.given.is_empty() {
            let text = format!(
                "{} was called with params, which are not kept: run it again",
                operation.command
            );
            return Err(refused(id, text));
        }
        let (machine, command) = (operation.machine.clone(), operation.command.clone());
        let again = self.begin_action(&machine, &machine, &command, Map::new(), by)?;
        inner
            .objects
            .note(by.audit("operation:retry", "machines", &machine, id));
        Ok(inner.of_action(&again))
    }

    /// What a boot waits for is tried at once.
    fn hurry(&self, row: Row, by: &Principal) -> Result<OperationView, ApiError> {
        let inner = &self.inner;
        if let Some(bmc) = inner.bmc_of(&row.boot.machine) {
            inner.gate.breaker.close(&bmc);
        }
        let boot = self.change_boot(&row.boot.id, "operation:retry", by, |boot| {
            boot.wait_until_ms = None;
            format!("{} wants it tried at once", by.name()).clone_into(&mut boot.detail);
            Ok(())
        })?;
        Ok(inner.boot_view(&boot, &[]))
    }

    async fn retry_bmc(&self, id: &str, bmc: &str, by: &Principal) -> Result<OperationView, ApiError> {
        let inner = &self.inner;
        let Some(mut view) = inner.of_bmcs().into_iter().find(|view| view.id == id) else {
            return Err(ApiError::not_found("POST", "operations", id));
        };
        let lifted = inner.gate.bmcs.lift(bmc).await;
        let closed = inner.gate.breaker.close(bmc);
        inner.objects.note(by.audit("operation:retry", "bmcs", bmc, ""));
        for boot in inner.all_open().map_err(|e| store_error(&e))? {
            inner.wake(&boot.machine);
        }
        "done".clone_into(&mut view.state);
        view.until = None;
        view.why = match (lifted, closed) {
            (true, _) => "the login may be sent again".to_owned(),
            _ => "it is talked to again".to_owned(),
        };
        Ok(view)
    }

    /// A boot that is over is begun anew, as if the bootenv had been set again.
    fn boot_again(&self, old: &Boot, by: &Principal) -> Result<OperationView, ApiError> {
        let inner = &self.inner;
        let machine: Arc<Object> = inner.objects.get("machines", &old.machine)?;
        if machine.get("Locked") == Some(&Value::Bool(true)) {
            return Err(ApiError::locked("machines", &old.machine));
        }
        let open = inner.open_boots(&old.machine).map_err(|e| store_error(&e))?;
        if let Some(row) = open.iter().find(|row| row.boot.state == State::Running) {
            return Err(conflict(
                &old.id,
                format!("boot {} of this machine is under way", row.boot.id),
            ));
        }
        let env = member(&machine, "BootEnv");
        let by_iso = inner
            .objects
            .resolve_in("machines", &machine, param::BOOT_VIRTUAL_ISO)?
            .is_some_and(|v| v.value == Value::Bool(true));
        let bootenv = inner.objects.get("bootenvs", env)?;
        if !by_iso || !boots_kernel(&bootenv) {
            let text = format!(
                "{} does not boot from its ISO now: its bootenv is {env}",
                old.machine_name
            );
            return Err(refused(&old.id, text));
        }
        // What is settled here is planned with.
        Settings::of(&inner.objects, &machine).map_err(|reason| refused(&old.id, reason.line()))?;
        let mut txn = Txn::default();
        inner
            .begin(&inner.objects, &machine, &bootenv, &mut txn)
            .map_err(|e| store_error(&e))?;
        txn.audit
            .push(by.audit("operation:retry", "machines", &old.machine, &old.id));
        inner.store.commit(txn).map_err(|e| store_error(&e))?;
        inner.wake(&old.machine);
        let newest = inner.open_boots(&old.machine).map_err(|e| store_error(&e))?;
        let newest = newest
            .into_iter()
            .map(|row| row.boot)
            .max_by_key(|boot| boot.started_ms);
        // One that failed in planning is not open.
        match newest {
            Some(boot) => Ok(of_boot(&boot)),
            None => Err(refused(&old.id, "it failed at once: see the machine's newest boot")),
        }
    }

    fn change_boot(
        &self,
        id: &str,
        told: &str,
        by: &Principal,
        change: impl Fn(&mut Boot) -> Result<(), ApiError>,
    ) -> Result<Boot, ApiError> {
        let inner = &self.inner;
        loop {
            let row = inner.boot_row(id).map_err(|e| store_error(&e))?;
            let row = row.ok_or_else(|| ApiError::not_found("POST", "operations", id))?;
            let mut boot = row.boot;
            change(&mut boot)?;
            let txn = Txn {
                puts: vec![boot.put(Expect::Rev(row.rev))],
                audit: vec![by.audit(told, "machines", &boot.machine, id)],
                ..Txn::default()
            };
            match inner.store.commit(txn) {
                Ok(_) => {
                    inner.wake(&boot.machine);
                    return Ok(boot);
                }
                // The boot has moved on.
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(store_error(&error)),
            }
        }
    }
}
