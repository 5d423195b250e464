//! Asking for a rolling boot, and how it is shown.

use std::collections::VecDeque;
use std::sync::Arc;

use isobar_model::bootenv::boots_kernel;
use isobar_model::{ApiError, Object};
use isobar_objects::Principal;
use isobar_store::{Delete, Expect, StoreError, Txn};
use serde::{Deserialize, Serialize};

use super::{Course, InFlight, Rolling, Trouble, machines_put};
use crate::operations::OperationView;
use crate::reason::Reason;
use crate::record::{self, Boot, State, kind, rfc3339};
use crate::service::Booter;
use crate::state::{Inner, member, store_error};

/// Most machines of one rolling boot.
const MACHINES: usize = 100_000;
/// Most boots in flight of one.
const PARALLEL: usize = 1_000;
/// Most of them under way at one time.
const OPEN: usize = 16;
/// So many are known after their end.
const HISTORY: usize = 20;

/// What is asked for: `POST /isobar/v1/operations`.
#[derive(Clone, Debug, Deserialize)]
pub struct RollingOrder {
    /// Which machines: index and value, as a list of machines takes them.
    pub filter: Vec<(String, String)>,
    /// The bootenv that they get; none: each boots its own again.
    #[serde(default)]
    pub bootenv: Option<String>,
    /// Most boots in flight.
    #[serde(default = "parallel")]
    pub parallel: usize,
    /// So many failed boots end it; 0: none do. Not said: none of a rehearsal, which tells of all machines, else 5.
    #[serde(default)]
    pub stop_after: Option<usize>,
    /// Rehearsals: nothing is sent that changes a BMC, and no machine is changed.
    #[serde(default)]
    pub shadow: bool,
    /// Nothing is begun; the answer says who would boot.
    #[serde(default)]
    pub dry_run: bool,
}

fn parallel() -> usize {
    10
}

/// Failed boots that end a rolling boot where nothing is said.
const STOP_AFTER: usize = 5;

/// Whether a machine would boot.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Candidate {
    /// UUID.
    pub machine: String,
    /// Its name.
    pub machine_name: String,
    /// What it would boot; none: it would not.
    pub bootenv: Option<String>,
    /// Why not.
    pub reason: Option<Reason>,
}

/// A rolling boot as clients see it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fleet {
    /// Machines that are meant.
    pub total: usize,
    /// Boots that ended well.
    pub booted: usize,
    /// Boots that failed.
    pub failed: usize,
    /// Machines that were not to be booted.
    pub skipped: usize,
    /// Boots that somebody cancelled, or that newer ones replaced.
    pub ended: usize,
    /// Machines that were not begun yet.
    pub left: usize,
    /// Most boots in flight.
    pub parallel: usize,
    /// So many failed boots end it; 0: none do.
    pub stop_after: usize,
    /// Under way.
    pub in_flight: Vec<FlightView>,
    /// The last machines in trouble, oldest first, numbered from 1.
    pub troubles: Vec<Trouble>,
}

/// What became of a machine of a rolling boot.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// Machine.
    pub machine: String,
    /// Its name.
    pub machine_name: String,
    /// `booted`, `would-boot`, `in-flight`, `failed`, `cancelled`, `replaced`, `skipped`, `left`; `forgotten` where newer
    /// boots have taken its place in the history.
    pub outcome: String,
    /// How it stands, or why it did not boot.
    pub why: String,
    /// Its boot.
    pub boot: Option<String>,
    /// Of a rehearsal: what would have been sent.
    pub would_send: Vec<String>,
}

/// A boot that is under way.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FlightView {
    /// Machine.
    pub machine: String,
    /// Its name.
    pub machine_name: String,
    /// The boot.
    pub boot: String,
    /// Where it is, for people.
    pub detail: String,
    /// Something is tried again, or on the ladder of recovery.
    pub troubled: bool,
}

fn refused(text: impl Into<String>) -> ApiError {
    ApiError::new(422, "POST", "operations", "", text)
}

impl Booter {
    /// Who would boot, and why others would not: the machines that fit and that the caller may change.
    ///
    /// # Errors
    /// 406 for a filter that makes no sense, 403 for machines that the caller may not change.
    pub fn candidates(&self, order: &RollingOrder, by: &Principal) -> Result<Vec<Candidate>, ApiError> {
        let machines = self.meant(order, by)?;
        let candidate = |uuid: &str| {
            let machine: Arc<Object> = self.inner.objects.get("machines", uuid)?;
            let (bootenv, reason) = match self.inner.would_boot(&machine, order.bootenv.as_deref()) {
                Ok(bootenv) => (Some(bootenv), None),
                Err(reason) => (None, Some(reason)),
            };
            Ok(Candidate {
                machine: uuid.to_owned(),
                machine_name: member(&machine, "Name").to_owned(),
                bootenv,
                reason,
            })
        };
        let all = machines.iter().map(|uuid| candidate(uuid));
        // Deleted meanwhile.
        all.filter(|found| !found.as_ref().is_err_and(|error: &ApiError| error.code == 404))
            .collect()
    }

    /// Begins a rolling boot, which goes on in the server.
    ///
    /// # Errors
    /// As [`Booter::candidates`]; 422 for numbers that make no sense, 409 when too many are under way.
    pub fn begin_rolling(&self, order: &RollingOrder, by: &Principal) -> Result<OperationView, ApiError> {
        if !(1..=PARALLEL).contains(&order.parallel) {
            return Err(refused(format!(
                "parallel is {}, and may be 1 to {PARALLEL}",
                order.parallel
            )));
        }
        let machines = self.meant(order, by)?;
        if let Some(name) = &order.bootenv
            && let Some(bootenv) = self.inner.objects.find("bootenvs", name)?
            && !boots_kernel(&bootenv)
        {
            return Err(refused(format!(
                "bootenv {name} boots no kernel, so that no machine would boot: name another one, such as sledgehammer"
            )));
        }
        self.begin_with(order, machines, by)
    }

    fn begin_with(
        &self,
        order: &RollingOrder,
        machines: Vec<Box<str>>,
        by: &Principal,
    ) -> Result<OperationView, ApiError> {
        let inner = &self.inner;
        if machines.is_empty() {
            return Err(refused(
                "no machine fits: `isobar machines list` with the same filter shows which do",
            ));
        }
        let open = inner
            .store
            .find(kind::ROLLINGS, "State", "open")
            .map_err(|e| store_error(&e))?;
        if open.len() >= OPEN {
            let text = format!("{OPEN} rolling boots are under way: wait for one, or cancel one");
            return Err(ApiError::new(409, "CONFLICT", "operations", "", text));
        }
        let rolling = Rolling {
            id: uuid::Uuid::new_v4().to_string(),
            principal: by.name().to_owned(),
            at_ms: inner.now_ms(),
            bootenv: order.bootenv.clone(),
            shadow: order.shadow,
            parallel: order.parallel,
            stop_after: order.stop_after.unwrap_or(if order.shadow { 0 } else { STOP_AFTER }),
            filter: order.filter.clone(),
            course: Course::Running,
            total: machines.len(),
            next: 0,
            booted: 0,
            failed: 0,
            skipped: 0,
            ended: 0,
            flights: Vec::new(),
            troubles: VecDeque::new(),
        };
        let told = format!("rolling boot {}: {} machines", rolling.id, rolling.total);
        let mut txn = Txn {
            puts: vec![rolling.put(Expect::Absent), machines_put(&rolling.id, &machines)],
            audit: vec![by.audit("rolling-boot", "machines", "", told)],
            ..Txn::default()
        };
        inner.forget_rollings(&mut txn).map_err(|e| store_error(&e))?;
        inner.store.commit(txn).map_err(|e| store_error(&e))?;
        inner.roll(&rolling.id);
        Ok(inner.of_rolling(&rolling))
    }

    /// Another one, of those that failed and those that were not begun.
    pub(crate) fn roll_again(&self, id: &str, by: &Principal) -> Result<Option<OperationView>, ApiError> {
        let inner = &self.inner;
        let Some((rolling, _)) = inner.rolling_row(id).map_err(|e| store_error(&e))? else {
            return Ok(None);
        };
        if rolling.is_open() {
            return Err(ApiError::new(409, "CONFLICT", "operations", id, "it is under way"));
        }
        let again = inner.not_booted(&rolling).map_err(|e| store_error(&e))?;
        let order = RollingOrder {
            filter: rolling.filter,
            bootenv: rolling.bootenv,
            shadow: rolling.shadow,
            parallel: rolling.parallel,
            stop_after: Some(rolling.stop_after),
            dry_run: false,
        };
        if again.is_empty() {
            return Err(ApiError::new(
                422,
                "POST",
                "operations",
                id,
                "none of its machines failed or is left",
            ));
        }
        self.begin_with(&order, again, by).map(Some)
    }

    /// What became of each machine; none: there is no such rolling boot.
    ///
    /// # Errors
    /// Of the store.
    pub fn rolling_report(&self, id: &str) -> Result<Option<Vec<Outcome>>, StoreError> {
        let inner = &self.inner;
        let Some((rolling, _)) = inner.rolling_row(id)? else {
            return Ok(None);
        };
        let machines = inner.rolling_machines(id)?;
        let outcomes = machines.iter().enumerate();
        outcomes
            .map(|(number, machine)| inner.outcome_of(&rolling, number, machine))
            .collect::<Result<_, _>>()
            .map(Some)
    }

    /// The machines that are meant.
    fn meant(&self, order: &RollingOrder, by: &Principal) -> Result<Vec<Box<str>>, ApiError> {
        if let Some(bootenv) = &order.bootenv {
            self.inner.objects.get("bootenvs", bootenv)?;
        }
        let mut query = order.filter.clone();
        if !query.iter().any(|(name, _)| name == "sort") {
            query.push(("sort".to_owned(), "Name".to_owned()));
        }
        let found = self.inner.objects.rows("machines", &query, by)?.rows;
        if found.len() > MACHINES {
            return Err(refused(format!("{} machines fit, and {MACHINES} is most", found.len())));
        }
        let mut machines = Vec::with_capacity(found.len());
        for row in found {
            let uuid = member(&*row.object()?, "Uuid").to_owned();
            if !by.allows("machines", "update", &uuid) {
                let text = format!("{} does not have the right machines:update here", by.name());
                return Err(ApiError::new(403, "AUTH", "machines", &uuid, text));
            }
            machines.push(uuid.into_boxed_str());
        }
        Ok(machines)
    }
}

impl Inner {
    /// [`Inner::bootable`], and all that planning would find.
    fn would_boot(&self, machine: &Object, bootenv: Option<&str>) -> Result<String, Reason> {
        let wanted = self.bootable(machine, bootenv)?;
        let settings = crate::settings::Settings::of(&self.objects, machine)?;
        settings.endpoint.as_ref().map_err(Clone::clone)?;
        let env = self.objects.get("bootenvs", &wanted);
        let env = env.map_err(|error| Reason::new("store", error.to_string(), "look at the server's log"))?;
        let mut changed = machine.clone();
        changed.insert("BootEnv".to_owned(), wanted.as_str().into());
        self.plan(&self.objects, &changed, &env, &settings, None)?;
        Ok(wanted)
    }

    /// Machines whose boot of this operation failed and is their newest, and those that were not begun.
    fn not_booted(&self, rolling: &Rolling) -> Result<Vec<Box<str>>, StoreError> {
        let machines = self.rolling_machines(&rolling.id)?;
        let mut again = Vec::new();
        for (number, machine) in machines.into_iter().enumerate() {
            let failed = || -> Result<bool, StoreError> {
                let boots = self.store.find(kind::BOOTS, "Machine", &machine)?;
                let boots = boots.iter().filter_map(record::read::<Boot>);
                let newest = boots.max_by_key(|boot| boot.started_ms);
                Ok(newest.is_some_and(|b| b.state == State::Failed && b.rolling.as_deref() == Some(&rolling.id)))
            };
            if number >= rolling.next || failed()? {
                again.push(machine);
            }
        }
        Ok(again)
    }

    fn outcome_of(&self, rolling: &Rolling, number: usize, machine: &str) -> Result<Outcome, StoreError> {
        let docs = self.store.find(kind::BOOTS, "Machine", machine)?;
        let mut boots = docs.iter().filter_map(record::read::<Boot>);
        let boot = boots.find(|boot| boot.rolling.as_deref() == Some(&rolling.id));
        let trouble = rolling.troubles.iter().find(|trouble| trouble.machine == machine);
        let (outcome, why) = match (&boot, trouble) {
            (Some(boot), _) => {
                let why = boot.error.as_ref().map_or_else(|| boot.detail.clone(), Reason::line);
                let outcome = match boot.state {
                    State::Running => "in-flight",
                    State::Done if rolling.shadow => "would-boot",
                    State::Done => "booted",
                    State::Failed => "failed",
                    State::Cancelled => "cancelled",
                    State::Replaced => "replaced",
                };
                (outcome, why)
            }
            (None, Some(trouble)) => (trouble.outcome.as_str(), trouble.reason.line()),
            (None, None) if number >= rolling.next => ("left", String::new()),
            (None, None) => ("forgotten", String::new()),
        };
        Ok(Outcome {
            machine: machine.to_owned(),
            machine_name: self.machine_name(machine),
            outcome: outcome.to_owned(),
            why,
            would_send: boot.as_ref().map(|boot| boot.would_send.clone()).unwrap_or_default(),
            boot: boot.map(|boot| boot.id),
        })
    }

    /// The oldest that are over go when a new one begins.
    fn forget_rollings(&self, txn: &mut Txn) -> Result<(), StoreError> {
        let closed = self.store.find(kind::ROLLINGS, "State", "closed")?;
        let mut closed: Vec<(u64, String)> = (closed.iter().filter_map(record::read::<Rolling>))
            .map(|rolling| (rolling.at_ms, rolling.id))
            .collect();
        closed.sort_unstable();
        closed.truncate(closed.len().saturating_sub(HISTORY));
        for (_, id) in closed {
            txn.deletes
                .extend([kind::ROLLINGS, kind::ROLLING_MACHINES].map(|kind| Delete {
                    kind: kind.to_owned(),
                    key: id.clone(),
                    expect: Expect::Any,
                }));
        }
        Ok(())
    }

    /// All that are known, or those that are under way.
    pub(crate) fn rolling_views(&self, all: bool) -> Result<Vec<OperationView>, StoreError> {
        let docs = match all {
            true => self.store.list(kind::ROLLINGS)?,
            false => self.store.find(kind::ROLLINGS, "State", "open")?,
        };
        let rollings = docs.iter().filter_map(record::read::<Rolling>);
        Ok(rollings.map(|rolling| self.of_rolling(&rolling)).collect())
    }

    pub(crate) fn of_rolling(&self, rolling: &Rolling) -> OperationView {
        let Rolling {
            booted,
            failed,
            skipped,
            ended,
            total,
            next,
            ..
        } = rolling;
        let (flying, left) = (rolling.flights.len(), total - next);
        let in_flight = rolling.flights.iter().map(|flight| self.flight_view(flight)).collect();
        let state = match (rolling.course, flying) {
            (Course::Running, _) => "running",
            (Course::Stopped, 0) => "stopped",
            (Course::Stopped, _) => "stopping",
            (Course::Cancelled, 0) => "cancelled",
            (Course::Cancelled, _) => "cancelling",
            (Course::Done, _) if *failed > 0 => "failed",
            (Course::Done, _) => "done",
        };
        let well = if rolling.shadow { "would boot" } else { "booted" };
        let mut why = format!("{booted} of {total} {well}, {flying} in flight, {failed} failed, {skipped} skipped");
        if *ended > 0 {
            why = format!("{why}, {ended} cancelled or replaced");
        }
        why = match rolling.course {
            Course::Running | Course::Done => format!("{why}, {left} to come"),
            Course::Stopped => format!("{why}, {left} left out after {failed} failures"),
            Course::Cancelled => format!("{why}, {left} left out"),
        };
        if flying > 0 && rolling.course != Course::Running {
            why = format!("{why}; those in flight go on: `isobar operations cancel` of a boot ends that one");
        }
        OperationView {
            id: rolling.id.clone(),
            kind: "rolling-boot",
            machine: String::new(),
            machine_name: String::new(),
            what: rolling.bootenv.clone().unwrap_or_default(),
            state: state.to_owned(),
            step: None,
            why,
            until: None,
            since: rfc3339(rolling.at_ms),
            bmc: None,
            tries: 0,
            by: Some(rolling.principal.clone()),
            fleet: Some(Fleet {
                total: *total,
                booted: *booted,
                failed: *failed,
                skipped: *skipped,
                ended: *ended,
                left,
                parallel: rolling.parallel,
                stop_after: rolling.stop_after,
                in_flight,
                troubles: rolling.troubles.iter().cloned().collect(),
            }),
        }
    }

    fn flight_view(&self, flight: &InFlight) -> FlightView {
        let boot = self.boot_row(&flight.boot).ok().flatten().map(|row| row.boot);
        FlightView {
            machine: flight.machine.clone(),
            machine_name: match &boot {
                Some(boot) => boot.machine_name.clone(),
                None => self.machine_name(&flight.machine),
            },
            boot: flight.boot.clone(),
            detail: boot
                .as_ref()
                .map_or_else(|| "about to begin".to_owned(), |boot| boot.detail.clone()),
            troubled: boot.is_some_and(|boot| boot.tries > 0 || boot.recovering.is_some()),
        }
    }
}
