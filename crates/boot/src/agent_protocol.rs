//! What the agent in a booted machine asks for: its token, and to be heard.

use std::sync::Arc;
use std::time::Duration;

use isobar_model::ApiError;
use isobar_objects::TokenState;
use isobar_store::{Expect, StoreError, Txn};
use serde_json::{Value, json};

use crate::attempts::hash;
use crate::evidence::Phase;
use crate::record::State;
use crate::service::Booter;
use crate::state::{Inner, store_error};

/// A machine token outlives the boot: the agent goes on until the machine is booted into something else.
const TOKEN_TTL: Duration = Duration::from_secs(7 * 24 * 3600);

fn refused(machine: &str, why: &str) -> ApiError {
    ApiError::new(403, "AUTH", "machines", machine, why)
}

impl Booter {
    /// A boot secret for a machine token. The same nonce gets the same token until the token is first used, so that
    /// a lost reply does no harm; another nonce never.
    ///
    /// # Errors
    /// 403 with the reason.
    pub async fn exchange(&self, machine: &str, attempt: &str, secret: &str, nonce: &str) -> Result<String, ApiError> {
        let (machine, attempt) = (machine.to_owned(), attempt.to_owned());
        let (secret, nonce) = (hash(secret), hash(nonce));
        let booter = self.clone();
        self.inner
            .objects
            .run(move |_| booter.inner.exchange(&machine, &attempt, &secret, &nonce))
            .await
    }

    /// The agent of an attempt is up.
    ///
    /// # Errors
    /// Of the store.
    pub async fn checkin(&self, machine: &str, attempt: &str, root_in_memory: bool) -> Result<Value, ApiError> {
        let (booter, machine, attempt) = (self.clone(), machine.to_owned(), attempt.to_owned());
        let up = async move { booter.agent_up(&machine, &attempt, root_in_memory).await };
        let done = self.inner.runtime.spawn(up).await;
        done.unwrap_or_else(|_| Err(store_error(&StoreError::Closed)))
    }

    async fn agent_up(&self, machine: &str, attempt: &str, root_in_memory: bool) -> Result<Value, ApiError> {
        let inner = &self.inner;
        inner
            .agents
            .heard(machine, attempt, Some(root_in_memory), inner.uptime());
        let now = inner.now_ms();
        let updated = inner
            .update_attempt(attempt, |a| {
                if a.machine == machine && !a.over {
                    a.agent_up_ms.get_or_insert(now);
                    a.machine_token_sealed = None;
                }
            })
            .await
            .map_err(|e| store_error(&e))?;
        if let Some(attempt) = updated {
            let booter = self.clone();
            let (boot, machine) = (attempt.boot.filter(|_| !attempt.over), machine.to_owned());
            inner
                .objects
                .run(move |_| booter.inner.after_all(&machine, boot.as_deref()))
                .await?;
            inner.wake(&attempt.machine);
        }
        Ok(json!({"heartbeat_s": inner.timing.heartbeat_s}))
    }

    /// The agent is still there; tells it what to do.
    #[must_use]
    pub fn heartbeat(&self, machine: &str, attempt: &str) -> Value {
        let inner = &self.inner;
        inner.agents.heard(machine, attempt, None, inner.uptime());
        let reboot = inner.agents.take_order(machine, attempt);
        if reboot {
            let (inner, machine) = (Arc::clone(inner), machine.to_owned());
            self.inner.runtime.spawn_blocking(move || inner.wake(&machine));
        }
        json!({"command": reboot.then_some("reboot"), "heartbeat_s": inner.timing.heartbeat_s})
    }
}

impl Inner {
    /// A boot that was given up has come up after all.
    fn after_all(&self, machine: &str, boot: Option<&str>) -> Result<(), ApiError> {
        let Some(boot) = boot else { return Ok(()) };
        while let Some(mut row) = self.boot_row(boot).map_err(|e| store_error(&e))? {
            if row.boot.state != State::Failed {
                return Ok(());
            }
            (row.boot.state, row.boot.error, row.boot.cleanup) = (State::Done, None, false);
            row.boot.note(self.now_ms(), Phase::AgentUp, "agent is up, after all");
            match self.store.commit(Txn {
                puts: vec![row.boot.put(Expect::Rev(row.rev))],
                ..Txn::default()
            }) {
                Ok(_) => break,
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(store_error(&error)),
            }
        }
        self.tell_boot_error(machine);
        Ok(())
    }

    fn exchange(&self, machine: &str, id: &str, secret: &str, nonce: &str) -> Result<String, ApiError> {
        loop {
            let known = self.attempts.get(id).map_err(|e| store_error(&e))?;
            // One answer for all that does not fit: who guesses learns nothing.
            let Some((mut attempt, rev)) = known.filter(|(a, _)| a.machine == machine && a.secret_hash == secret)
            else {
                return Err(refused(machine, "the boot secret is not one of this machine's"));
            };
            if attempt.over {
                return Err(refused(
                    machine,
                    "this boot is over: the machine was given a newer image, or its boot was cancelled; boot it again",
                ));
            }
            let token = attempt
                .machine_token_sealed
                .as_deref()
                .and_then(|sealed| self.attempts.unseal(id, sealed));
            match (&attempt.nonce_hash, token) {
                (None, _) => {}
                (Some(known), Some(token)) if known == nonce => {
                    if self.objects.token_state(&token)? == TokenState::Fresh {
                        return Ok(token);
                    }
                    return Err(refused(
                        machine,
                        "this boot secret was exchanged, and its token is in use",
                    ));
                }
                (Some(known), None) if known == nonce => {
                    return Err(refused(
                        machine,
                        "this boot secret was exchanged, and its token is in use",
                    ));
                }
                (Some(_), _) => {
                    return Err(refused(
                        machine,
                        "this boot secret was already exchanged by someone else",
                    ));
                }
            }
            let mut txn = Txn::default();
            let token = self.objects.prepare_machine_token(machine, TOKEN_TTL, &mut txn)?;
            attempt.nonce_hash = Some(nonce.to_owned());
            attempt.machine_token_sealed = Some(self.attempts.seal(id, token.as_str()));
            txn.puts.push(attempt.put(Expect::Rev(rev)));
            match self.store.commit(txn) {
                Ok(_) => {
                    self.attempts.changed(&attempt);
                    return Ok(token.as_str().to_owned());
                }
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(store_error(&error)),
            }
        }
    }
}
