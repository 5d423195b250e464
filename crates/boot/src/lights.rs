//! Identify lights of BMCs that do not switch them off by themselves: we do, also after a restart.

use std::sync::Arc;
use std::time::Duration;

use isobar_bmc::NoRecorder;
use isobar_store::{Delete, Expect, StoreError, Txn};
use serde::{Deserialize, Serialize};

use crate::gate::{Caller, Rank, Verb};
use crate::record::{self, kind};
use crate::state::Inner;

/// Tries to reach the BMC, a minute apart.
const TRIES: usize = 10;
const PAUSE: Duration = Duration::from_secs(60);

/// A light that is on, by its machine.
#[derive(Debug, Serialize, Deserialize)]
struct Light {
    machine: String,
    /// When it goes out; milliseconds since the Unix epoch.
    until_ms: u64,
}

impl Inner {
    /// It goes out after this time, unless it is lit again meanwhile.
    pub(crate) async fn light_goes_out(self: &Arc<Self>, machine: &str, after: Duration) -> Result<(), StoreError> {
        let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        let light = Light {
            machine: machine.to_owned(),
            until_ms: self.now_ms().saturating_add(after_ms),
        };
        let txn = Txn {
            puts: vec![record::put(kind::LIGHTS, machine, &light, Expect::Any, &[])],
            ..Txn::default()
        };
        self.store.submit(txn).await?;
        self.switch_off_later(light, after);
        Ok(())
    }

    /// Goes on with what an earlier process lit.
    pub(crate) fn resume_lights(self: &Arc<Self>) -> Result<(), StoreError> {
        let now = self.now_ms();
        for doc in self.store.list(kind::LIGHTS)? {
            if let Some(light) = record::read::<Light>(&doc) {
                // Never longer than any light shines, whatever became of the wall clock.
                let left = light.until_ms.saturating_sub(now).min(u64::from(u8::MAX) * 1000);
                self.switch_off_later(light, Duration::from_millis(left));
            }
        }
        Ok(())
    }

    fn switch_off_later(self: &Arc<Self>, light: Light, after: Duration) {
        let inner = Arc::clone(self);
        self.runtime.spawn(async move {
            tokio::time::sleep(after).await;
            for _ in 0..TRIES {
                match inner.is_due(&light) {
                    Ok(true) => {}
                    Ok(false) | Err(_) => return,
                }
                if inner.switch_off(&light.machine).await {
                    break;
                }
                tokio::time::sleep(PAUSE).await;
            }
            let over = Txn {
                deletes: vec![Delete {
                    kind: kind::LIGHTS.to_owned(),
                    key: light.machine.clone(),
                    expect: Expect::Any,
                }],
                ..Txn::default()
            };
            match inner.store.submit(over).await {
                Ok(_) => tracing::info!(machine = light.machine, "the identify light is done with"),
                Err(error) => {
                    tracing::warn!(machine = light.machine, %error, "after a restart the light is switched off once more");
                }
            }
        });
    }

    /// Nobody has lit it again.
    fn is_due(&self, light: &Light) -> Result<bool, StoreError> {
        let doc = self.store.get(kind::LIGHTS, &light.machine)?;
        let known = doc.as_ref().and_then(record::read::<Light>);
        Ok(known.is_some_and(|known| known.until_ms == light.until_ms))
    }

    async fn switch_off(&self, machine: &str) -> bool {
        // The machine or its login is gone: nobody can.
        let Ok(settings) = self.settings(machine) else {
            return true;
        };
        let Ok(endpoint) = settings.endpoint else { return true };
        let caller = Caller {
            endpoint: &endpoint,
            site: settings.site.as_deref(),
            who: "identify",
            rank: Rank::Asked,
        };
        let done = self
            .gate
            .exchange(caller, Arc::new(NoRecorder), &Verb::Identify(0))
            .await;
        if let Err(error) = &done {
            tracing::warn!(machine, %error, "the identify light could not be switched off");
        }
        done.is_ok()
    }
}
