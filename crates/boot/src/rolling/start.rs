//! One machine of a rolling boot: whether it is to boot, and its begin.

use std::sync::Arc;

use isobar_model::bootenv::boots_kernel;
use isobar_model::{ApiError, Object};
use isobar_objects::Principal;
use isobar_store::{StoreError, Txn};
use serde_json::Value;

use super::{InFlight, Rolling};
use crate::reason::Reason;
use crate::record::State;
use crate::settings::param;
use crate::state::{Inner, lock, member};

/// The boot that the next change of a machine to this bootenv is to become.
#[derive(Clone, Debug)]
pub(crate) struct Ordered {
    pub(crate) boot: String,
    pub(crate) rolling: String,
    pub(crate) bootenv: String,
    pub(crate) shadow: bool,
}

/// What came of the begin.
pub(super) enum Started {
    /// Its row is there.
    Begun,
    /// It is not to boot.
    Skipped(Reason),
    /// It could not begin.
    Failed(Reason),
    /// Not known: try again.
    Store(StoreError),
}

/// An order stands until its change is done.
struct Standing<'a> {
    inner: &'a Inner,
    machine: &'a str,
}

impl Drop for Standing<'_> {
    fn drop(&mut self) {
        lock(&self.inner.ordered).remove(self.machine);
    }
}

impl Inner {
    /// What a rolling boot wants a change to this bootenv to become.
    pub(crate) fn order_of(&self, machine: &str, bootenv: &str) -> Option<Ordered> {
        let order = lock(&self.ordered).get(machine).cloned();
        order.filter(|order| order.bootenv == bootenv)
    }

    /// The bootenv that a machine of a rolling boot would boot, or why it is left alone.
    pub(super) fn bootable(&self, machine: &Object, bootenv: Option<&str>) -> Result<String, Reason> {
        let name = member(machine, "Name");
        let api = |error: ApiError| Reason::new("store", error.to_string(), "look at the server's log");
        if machine.get("Locked") == Some(&Value::Bool(true)) {
            return Err(Reason::new(
                "locked",
                format!("{name} is locked"),
                format!("isobar machines update Name:{name} '{{\"Locked\": false}}'"),
            ));
        }
        let by_iso = self
            .objects
            .resolve_in("machines", machine, param::BOOT_VIRTUAL_ISO)
            .map_err(api)?;
        if by_iso.is_none_or(|v| v.value != Value::Bool(true)) {
            return Err(Reason::new(
                "no-virtual-iso",
                format!(
                    "{name} does not boot from an ISO: its {} is not true",
                    param::BOOT_VIRTUAL_ISO
                ),
                format!(
                    "isobar machines set Name:{name} param {} to true",
                    param::BOOT_VIRTUAL_ISO
                ),
            ));
        }
        let wanted = bootenv.unwrap_or_else(|| member(machine, "BootEnv"));
        match self.objects.find("bootenvs", wanted).map_err(api)? {
            Some(found) if boots_kernel(&found) => {}
            Some(_) => {
                return Err(Reason::new(
                    "no-kernel",
                    format!("bootenv {wanted} of {name} boots no kernel"),
                    "name one that does with --bootenv",
                ));
            }
            None => {
                return Err(Reason::new(
                    "no-kernel",
                    format!("there is no bootenv {wanted}"),
                    "name one that there is with --bootenv",
                ));
            }
        }
        let open = self
            .open_boots(member(machine, "Uuid"))
            .map_err(|e| Reason::new("store", e.to_string(), "look at the server's log"))?;
        if let Some(row) = open
            .iter()
            .find(|row| row.boot.state == State::Running && row.boot.attempt.is_some())
        {
            return Err(Reason::new(
                "boot-under-way",
                format!("{name} is booting {} already (boot {})", row.boot.bootenv, row.boot.id),
                format!("isobar boots watch {}", row.boot.id),
            ));
        }
        Ok(wanted.to_owned())
    }

    /// Begins the boot of this flight, which has no row yet. Blocks.
    pub(super) fn start_one(self: &Arc<Self>, rolling: &Rolling, flight: &InFlight) -> Started {
        let machine = match self.objects.find("machines", &flight.machine) {
            Ok(Some(machine)) => machine,
            Ok(None) => {
                let text = format!("machine {} was deleted", flight.machine);
                return Started::Skipped(Reason::new("machine-gone", text, ""));
            }
            Err(error) => return Started::Store(StoreError::Backend(error.to_string())),
        };
        let wanted = match self.bootable(&machine, rolling.bootenv.as_deref()) {
            Ok(wanted) => wanted,
            Err(reason) if reason.reason == "store" => return Started::Store(StoreError::Backend(reason.message)),
            Err(reason) => return Started::Skipped(reason),
        };
        lock(&self.ordered).insert(
            flight.machine.clone(),
            Ordered {
                boot: flight.boot.clone(),
                rolling: rolling.id.clone(),
                bootenv: wanted.clone(),
                shadow: rolling.shadow,
            },
        );
        let _standing = Standing {
            inner: self,
            machine: &flight.machine,
        };
        let begun = match member(&machine, "BootEnv") == wanted {
            true => self.begin_again(&machine, &wanted),
            // Of a rehearsal the machine itself knows nothing.
            false if rolling.shadow => {
                let mut changed = (*machine).clone();
                changed.insert("BootEnv".to_owned(), wanted.as_str().into());
                self.begin_again(&changed, &wanted)
            }
            false => self.change_bootenv(&flight.machine, &wanted),
        };
        if let Err(error) = begun {
            return match error.code {
                503 | 507 => Started::Store(StoreError::Backend(error.to_string())),
                _ => Started::Failed(Reason::new(
                    "not-begun",
                    error.to_string(),
                    "set its bootenv by hand to see more",
                )),
            };
        }
        self.wake(&flight.machine);
        match self.boot_row(&flight.boot) {
            Ok(Some(_)) => Started::Begun,
            Ok(None) => {
                let text = format!("{} was changed by somebody else meanwhile", member(&machine, "Name"));
                Started::Skipped(Reason::new("changed-meanwhile", text, "look at its bootenv"))
            }
            Err(error) => Started::Store(error),
        }
    }

    fn begin_again(&self, machine: &Object, bootenv: &str) -> Result<(), ApiError> {
        let failed = |error: StoreError| crate::state::store_error(&error);
        let bootenv = self.objects.get("bootenvs", bootenv)?;
        loop {
            let mut txn = Txn::default();
            self.begin(&self.objects, machine, &bootenv, &mut txn).map_err(failed)?;
            match self.store.commit(txn) {
                Ok(_) => return Ok(()),
                // What is under way of the machine has moved on.
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }

    fn change_bootenv(&self, machine: &str, bootenv: &str) -> Result<(), ApiError> {
        let system = Principal::system();
        let set = |machine: &mut Object| {
            machine.insert("BootEnv".to_owned(), bootenv.into());
            Ok(())
        };
        self.objects.update_with("machines", machine, &system, set).map(drop)
    }
}
