//! What a change of a machine means for booting it: decided inside the change's own commit.

use std::sync::Arc;

use isobar_image::{AttemptId, FileRole, Image};
use isobar_model::bootenv::{boots_kernel, for_arch, os_name};
use isobar_model::{ApiError, Object};
use isobar_objects::{BootWindow, BootWindows, ChangeHook, Objects, Presence};
use isobar_store::{Delete, Expect, StoreError, Txn};
use rand::RngExt as _;
use serde_json::Value;

use crate::attempts::{hash, random_token};
use crate::evidence::Phase;
use crate::kernel_args;
use crate::reason::Reason;
use crate::record::{self, Attempt, Boot, Operation, State, kind};
use crate::render::{BootSecret, Disc, own_files};
use crate::saga::{DECIDE, REHEARSE, RELEASE};
use crate::service::Booter;
use crate::settings::{Method, Settings, param};
use crate::state::{Inner, member, store_error};

impl ChangeHook for Booter {
    fn machine_changing(
        &self,
        objects: &Objects,
        old: Option<&Object>,
        new: Option<&Object>,
        differ: &[&str],
        txn: &mut Txn,
    ) -> Result<(), ApiError> {
        let inner = &self.inner;
        let Some(new) = new else {
            return match old {
                Some(old) => inner.farewell(member(old, "Uuid"), txn).map_err(|e| store_error(&e)),
                None => Ok(()),
            };
        };
        // A locked machine is never touched.
        if new.get("Locked") == Some(&Value::Bool(true)) {
            return Ok(());
        }
        let env_changed = old.is_none_or(|old| member(old, "BootEnv") != member(new, "BootEnv"));
        let params_changed = old.is_some() && ["Params", "Profiles"].iter().any(|member| differ.contains(member));
        if !env_changed && !params_changed {
            return Ok(());
        }
        let wants_iso = |machine: &Object| {
            objects
                .resolve_in("machines", machine, param::BOOT_VIRTUAL_ISO)
                .is_ok_and(|v| v.is_some_and(|v| v.value == Value::Bool(true)))
        };
        let by_iso = wants_iso(new);
        let change = if env_changed && by_iso {
            match objects.find("bootenvs", member(new, "BootEnv"))? {
                Some(bootenv) if boots_kernel(&bootenv) => inner.begin(objects, new, &bootenv, txn),
                _ => inner.release(new, txn),
            }
        } else if !by_iso && old.is_some_and(wants_iso) {
            inner.release(new, txn)
        } else {
            Ok(())
        };
        change.map_err(|error| store_error(&error))
    }

    fn committed(&self, machine: &str, now: Option<&Object>) {
        self.inner.wake(machine);
        self.inner.post_mortem_of_early(machine);
        match now {
            Some(now) => self.inner.tell_boot_error_if(machine, now),
            None => self.inner.attempts.forget_all(),
        }
    }
}

impl Presence for Booter {
    fn file_present(&self, bootenv: &Object, _arch: &str, file: &str) -> bool {
        match self.inner.bases.by_name(os_name(bootenv)) {
            Ok(Some((row, _))) => row.files.iter().any(|f| f == file),
            _ => false,
        }
    }

    fn hint(&self, bootenv: &Object) -> Option<String> {
        (os_name(bootenv) == "sledgehammer").then(|| "run `isobar sledgehammer build`".to_owned())
    }
}

impl BootWindows for Booter {
    fn window(&self, machine: &str, pass: Option<&str>) -> Result<Option<BootWindow>, ApiError> {
        let attempts = &self.inner.attempts;
        let all = attempts.of_machine(machine).map_err(|error| store_error(&error))?;
        let mut live = all
            .iter()
            .filter(|(attempt, _)| !attempt.over)
            .filter_map(|(attempt, _)| {
                let token = attempts.unseal(&attempt.id, &attempt.token_sealed)?;
                Some(BootWindow::new(&attempt.id, &token))
            });
        // Hashes of what is secret: how long a comparison takes tells nothing of it.
        Ok(live.find(|window| pass.is_none_or(|pass| hash(pass) == hash(&window.pass))))
    }

    fn is_open(&self, machine: &str, attempt: &str) -> Result<bool, ApiError> {
        let known = self.inner.attempts.get(attempt).map_err(|error| store_error(&error))?;
        Ok(known.is_some_and(|(known, _)| known.machine == machine && !known.over))
    }
}

/// Boots, attempts and operations of a machine that are kept after their end.
const HISTORY: usize = 20;

/// A planned attempt: what to commit, and the image to have at hand.
pub(crate) struct Planned {
    pub(crate) attempt: Attempt,
    pub(crate) image: Arc<Image>,
}

impl Inner {
    /// A new boot takes the place of what is under way.
    pub(crate) fn begin(
        &self,
        objects: &Objects,
        machine: &Object,
        bootenv: &Object,
        txn: &mut Txn,
    ) -> Result<(), StoreError> {
        let settings = Settings::of(objects, machine);
        let order = self.order_of(member(machine, "Uuid"), member(bootenv, "Name"));
        let shadow = self.options.shadow
            || order.as_ref().is_some_and(|order| order.shadow)
            || settings.as_ref().is_ok_and(|settings| settings.shadow);
        // A rehearsal takes the place of nothing.
        let owes = !shadow && self.replace(member(machine, "Uuid"), txn)?;
        let mut boot = self.new_boot(machine, if shadow { REHEARSE } else { DECIDE })?;
        if let Some(order) = order {
            (boot.id, boot.rolling) = (order.boot, Some(order.rolling));
        }
        (boot.inserted, boot.shadow) = (owes, shadow);
        let planned = settings.and_then(|settings| {
            boot.leave_power = settings.leave_power;
            settings.endpoint.as_ref().map_err(Clone::clone)?;
            self.plan(objects, machine, bootenv, &settings, Some(&boot.id))
        });
        match planned {
            Ok(planned) => {
                boot.attempt = Some(planned.attempt.id.clone());
                boot.note(boot.updated_ms, Phase::Planned, "image planned");
                self.commit_planned(&planned, txn);
            }
            Err(reason) => {
                self.post_mortems.expect(member(machine, "Uuid"), &boot.id);
                boot.state = State::Failed;
                boot.cleanup = owes;
                boot.note(boot.updated_ms, Phase::Planned, &reason.message);
                boot.error = Some(reason);
            }
        }
        txn.puts.push(boot.put(Expect::Absent));
        self.forget_old(member(machine, "Uuid"), txn)
    }

    /// A machine's history is bounded: the oldest boots that are closed, attempts that are over and operations that
    /// have ended go when a new boot begins.
    pub(crate) fn forget_old(&self, machine: &str, txn: &mut Txn) -> Result<(), StoreError> {
        let mut boots = Vec::new();
        for doc in self.store.find(kind::BOOTS, "Machine", machine)? {
            let Ok(boot) = serde_json::from_slice::<Boot>(&doc.body) else {
                continue;
            };
            if boot.state != State::Running && !boot.cleanup {
                boots.push((boot.started_ms, boot.id));
            }
        }
        let mut attempts = Vec::new();
        for (attempt, _) in self.attempts.of_machine(machine)? {
            if attempt.over {
                attempts.push((attempt.created_ms, attempt.id));
            }
        }
        let mut operations = Vec::new();
        for doc in self.store.find(kind::OPERATIONS, "Machine", machine)? {
            let Ok(operation) = serde_json::from_slice::<Operation>(&doc.body) else {
                continue;
            };
            if operation.state != "running" {
                operations.push((operation.at_ms, operation.id));
            }
        }
        let mut delete = |kinds: &[&str], mut rows: Vec<(u64, String)>| {
            rows.sort_unstable();
            rows.truncate(rows.len().saturating_sub(HISTORY));
            for (kind, key) in kinds
                .iter()
                .flat_map(|kind| rows.iter().map(move |(_, key)| (kind, key)))
            {
                // The rows of a boot that replaced it are written in this very transaction: those stay.
                if !txn.puts.iter().any(|put| put.kind == **kind && put.key == *key) {
                    txn.deletes.push(Delete {
                        kind: (*kind).to_owned(),
                        key: key.clone(),
                        expect: Expect::Any,
                    });
                }
            }
        };
        delete(&[kind::BOOTS, kind::EXCHANGES], boots);
        delete(&[kind::ATTEMPTS, kind::IMAGES], attempts);
        delete(&[kind::OPERATIONS], operations);
        Ok(())
    }

    /// Adds an attempt and its image to a transaction. The token is live as soon as it is committed.
    pub(crate) fn commit_planned(&self, planned: &Planned, txn: &mut Txn) {
        let Planned { attempt, image } = planned;
        txn.puts.push(attempt.put(Expect::Absent));
        txn.puts.push(self.attempts.put_image(&attempt.id, image));
    }

    /// Machine + bootenv -> image, token, secret. Writes nothing.
    pub(crate) fn plan(
        &self,
        objects: &Objects,
        machine: &Object,
        bootenv: &Object,
        settings: &Settings,
        boot: Option<&str>,
    ) -> Result<Planned, Reason> {
        let (uuid, env) = (member(machine, "Uuid"), member(bootenv, "Name"));
        let store = |error: StoreError| Reason::new("store", error.to_string(), "look at the server's log");
        let os = os_name(bootenv);
        let missing = |what: String| {
            Reason::new(
                "missing-kernel",
                format!("bootenv {env} cannot boot: {what}"),
                if os == "sledgehammer" {
                    "run `isobar sledgehammer build`, then set the bootenv again".to_owned()
                } else {
                    format!("import a base named {os}, then set the bootenv again")
                },
            )
        };
        let (row, base) = self
            .bases
            .by_name(os)
            .map_err(store)?
            .ok_or_else(|| missing(format!("there is no base `{os}` yet")))?;
        let arch = member(machine, "Arch");
        let files = for_arch(bootenv, arch).ok_or_else(|| missing(format!("it has no kernel for {arch}")))?;
        for file in std::iter::once(&files.kernel).chain(&files.initrds) {
            if !row.files.contains(file) {
                return Err(missing(format!("its base has no file {file}")));
            }
        }
        if let Some((path, blob)) = self.bases.damaged(&base) {
            return Err(Reason::new(
                "base-damaged",
                format!("{path} of the base {os} is cut or missing on this server (blob {blob})"),
                if os == "sledgehammer" {
                    "run `isobar sledgehammer build`, which puts it back; then set the bootenv again".to_owned()
                } else {
                    format!("import the base {os} once more, which puts it back; then set the bootenv again")
                },
            ));
        }
        let attempt_id = AttemptId(rand::rng().random());
        let (token, secret) = (random_token(), random_token());
        let arguments = kernel_args::render(
            objects,
            machine,
            bootenv,
            &files.boot_params,
            settings,
            &self.options.addr,
            &BootWindow::new(&attempt_id.to_string(), &token),
        )?;
        let for_bmc = kernel_args::bmc_address(objects, machine, bootenv, settings, &self.options.addr)?;
        let older = self.attempts.of_machine(uuid).map_err(store)?;
        let older = older.first().map(|(attempt, _)| attempt.created_ms);
        let toward = kernel_args::static_address(objects, machine);
        let api = settings.machine_url(toward, |set| self.options.addr.machine_api_url(set, toward))?;
        let http_boot = settings.method == Method::UefiHttp;
        let authority = match http_boot {
            true => Some(settings.machine_url(toward, |set| self.options.addr.machine_files_url(set, toward))?),
            false => self.options.addr.bmc_url(for_bmc.as_deref()),
        };
        let boot_secret = BootSecret {
            machine: uuid.to_owned(),
            attempt: attempt_id.to_string(),
            secret: secret.clone(),
            api: vec![api.clone()],
            fingerprint: self.options.fingerprint.clone(),
        };
        let own = own_files(&Disc {
            title: &title(env),
            kernel: &files.kernel,
            initrds: &files.initrds,
            arguments: &arguments,
            secret: &boot_secret,
        });
        let image = isobar_image::plan(&base, &own).map_err(|error| {
            Reason::new(
                "plan",
                format!("no disc can be made for {}: {error}", settings.name),
                "report this as a defect",
            )
        })?;
        debug_assert!(image.files().iter().any(|f| f.role == FileRole::Kernel));
        let id = attempt_id.to_string();
        Ok(Planned {
            attempt: Attempt {
                machine: uuid.to_owned(),
                bootenv: env.to_owned(),
                boot: boot.map(str::to_owned),
                token_hash: hash(&token),
                token_sealed: self.attempts.seal(&id, &token),
                secret_hash: hash(&secret),
                nonce_hash: None,
                machine_token_sealed: None,
                over: false,
                bmc_ips: settings.bmc_ip().into_iter().collect(),
                peers: settings.image_peers.clone(),
                http_boot,
                size: image.len(),
                etag: image.etag().to_owned(),
                by_route: authority.is_none(),
                authority: authority.unwrap_or_default(),
                api,
                strict: settings.strict,
                created_ms: after(older, self.now_ms()),
                first_read_ms: None,
                elsewhere: None,
                agent_up_ms: None,
                id,
            },
            image: Arc::new(image),
        })
    }

    /// No more virtual media for this machine: what is under way is cancelled, what is mounted is taken out when
    /// that is safe. Nothing is rebooted.
    fn release(&self, machine: &Object, txn: &mut Txn) -> Result<(), StoreError> {
        let uuid = member(machine, "Uuid");
        let cancelled = self.cancel(uuid, txn)?;
        let mounted = self.attempts.of_machine(uuid)?.iter().any(|(attempt, _)| !attempt.over);
        if mounted && !cancelled {
            let mut boot = self.new_boot(machine, RELEASE)?;
            boot.note(
                boot.updated_ms,
                Phase::Planned,
                "the virtual CD is to be ejected when that is safe",
            );
            txn.puts.push(boot.put(Expect::Absent));
        }
        Ok(())
    }

    /// Ends a machine's open boots for the operator; whether one of them still has media to take out.
    fn cancel(&self, machine: &str, txn: &mut Txn) -> Result<bool, StoreError> {
        let mut owes = false;
        for row in self.open_boots(machine)? {
            let mut boot = row.boot;
            if boot.state == State::Running {
                boot.state = State::Cancelled;
                boot.cleanup = boot.inserted || boot.override_set || boot.intent.is_some();
                boot.tries = 0;
                let phase = boot.phase;
                boot.note(
                    self.now_ms(),
                    phase,
                    "cancelled: the machine is not to boot from its virtual CD any more",
                );
            }
            owes |= boot.cleanup;
            txn.puts.push(boot.put(Expect::Rev(row.rev)));
        }
        Ok(owes)
    }

    /// Ends a machine's open boots for a newer one, which takes over what they owe: whether there is anything.
    fn replace(&self, machine: &str, txn: &mut Txn) -> Result<bool, StoreError> {
        let mut owes = !self.live_attempts(machine, None)?.is_empty();
        for row in self.open_boots(machine)? {
            let mut boot = row.boot;
            owes |= boot.inserted || boot.override_set || boot.cleanup || boot.intent.is_some();
            if boot.state == State::Running {
                boot.state = State::Replaced;
                let phase = boot.phase;
                boot.note(self.now_ms(), phase, "replaced by a newer boot");
            }
            boot.cleanup = false;
            txn.puts.push(boot.put(Expect::Rev(row.rev)));
        }
        Ok(owes)
    }

    /// The machine is deleted: nothing can be sent to its BMC any more, and nothing of it is served.
    fn farewell(&self, machine: &str, txn: &mut Txn) -> Result<(), StoreError> {
        self.cancel(machine, txn)?;
        for (mut attempt, rev) in self.attempts.of_machine(machine)? {
            let (kind, key) = (kind::IMAGES.to_owned(), attempt.id.clone());
            txn.deletes.push(Delete {
                kind,
                key,
                expect: Expect::Any,
            });
            if !attempt.over {
                attempt.over = true;
                attempt.machine_token_sealed = None;
                txn.puts.push(attempt.put(Expect::Rev(rev)));
            }
        }
        Ok(())
    }

    fn new_boot(&self, machine: &Object, step: &str) -> Result<Boot, StoreError> {
        let now = self.now_ms();
        let docs = self.store.find(kind::BOOTS, "Machine", member(machine, "Uuid"))?;
        let older = docs
            .iter()
            .filter_map(record::read::<Boot>)
            .map(|boot| boot.started_ms)
            .max();
        Ok(Boot {
            id: uuid::Uuid::new_v4().to_string(),
            machine: member(machine, "Uuid").to_owned(),
            machine_name: member(machine, "Name").to_owned(),
            bootenv: member(machine, "BootEnv").to_owned(),
            attempt: None,
            rolling: None,
            image_at: None,
            shadow: false,
            would_send: Vec::new(),
            state: State::Running,
            step: step.to_owned(),
            tries: 0,
            step_ms: now,
            asked_ms: None,
            forced_ms: None,
            intent: None,
            way: None,
            leave_power: false,
            shutdown_ms: None,
            recovering: None,
            rungs: Vec::new(),
            wait_until_ms: None,
            inserted: false,
            override_set: false,
            cleanup: false,
            handed_over_ms: None,
            boot_progress: None,
            phase: Phase::Planned,
            error: None,
            elsewhere: None,
            refused: None,
            detail: String::new(),
            started_ms: after(older, now),
            updated_ms: now,
            log: Vec::new(),
        })
    }
}

/// A time after that of the machine's newest row, also when the wall clock was set back in between: the newest is the one
/// that counts.
fn after(older: Option<u64>, now: u64) -> u64 {
    older.map_or(now, |older| now.max(older + 1))
}

/// `sledgehammer` -> `Sledgehammer`: what the menu shows.
fn title(bootenv: &str) -> String {
    let mut letters = bootenv.chars();
    letters
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
