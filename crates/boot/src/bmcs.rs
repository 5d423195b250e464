//! What is known of each BMC beyond one boot, and over restarts: which logins it has refused, and when it was reset.
//!
//! BMCs count refused logins and lock accounts. So a login that was refused is held: it is not sent again, by nobody,
//! until user or password change, or the operator lifts the hold (`isobar operations retry`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use isobar_bmc::{BmcError, Endpoint, ErrorClass};
use isobar_store::{Expect, Put, Store, StoreError, Txn, Vault};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::gate::authority;
use crate::record::{self, kind, rfc3339};
use crate::state::lock;

/// Logins of one BMC that are held; the oldest goes first.
const HELD: usize = 8;

/// A row, by `host:port`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Row {
    held: Vec<SealedLogin>,
    reset_ms: Option<u64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct SealedLogin {
    /// Digest of user and password, sealed: in the clear, it could be guessed at.
    login: String,
    user: String,
    since_ms: u64,
}

type Digest = [u8; 32];

#[derive(Clone, Debug, Default)]
struct Known {
    held: Vec<(Digest, Hold)>,
    reset_ms: Option<u64>,
}

/// A login that is not sent any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// User name.
    pub user: String,
    /// When the BMC refused it; milliseconds since the Unix epoch.
    pub since_ms: u64,
}

impl Hold {
    /// What who asks is told instead of an answer of the BMC.
    fn error(&self, bmc: &str) -> BmcError {
        let text = format!(
            "BMC {bmc}: user {:?} or its password was refused at {}; this login is held, nothing was sent",
            self.user,
            rfc3339(self.since_ms)
        );
        BmcError::new(ErrorClass::Auth, "log in", text).hinted(format!(
            "set ipmi/username or ipmi/password; if they are right and the BMC was put in order, `isobar operations retry bmc:{bmc}`"
        ))
    }
}

/// All BMCs that something is known of.
pub struct Bmcs {
    store: Arc<dyn Store>,
    vault: Arc<Vault>,
    known: Mutex<HashMap<String, Known>>,
    /// Rows are written in the order of what they tell.
    writing: tokio::sync::Mutex<()>,
}

impl Bmcs {
    /// Reads what earlier processes wrote.
    ///
    /// # Errors
    /// Of the store.
    pub fn open(store: Arc<dyn Store>, vault: Arc<Vault>) -> Result<Self, StoreError> {
        let mut known = HashMap::new();
        for doc in store.list(kind::BMCS)? {
            let Some(row) = record::read::<Row>(&doc) else { continue };
            let held = row.held.iter().filter_map(|held| {
                let sealed = URL_SAFE_NO_PAD.decode(&held.login).ok()?;
                let digest = vault.open_sealed(&context(&doc.key), &sealed).ok()?;
                let hold = Hold {
                    user: held.user.clone(),
                    since_ms: held.since_ms,
                };
                Some((digest.try_into().ok()?, hold))
            });
            let held = held.collect();
            let reset_ms = row.reset_ms;
            known.insert(doc.key, Known { held, reset_ms });
        }
        Ok(Self {
            store,
            vault,
            known: Mutex::new(known),
            writing: tokio::sync::Mutex::default(),
        })
    }

    /// Whether this very login is held.
    #[must_use]
    pub fn held(&self, endpoint: &Endpoint) -> Option<Hold> {
        let digest = digest(endpoint);
        let known = lock(&self.known);
        let held = &known.get(&authority(endpoint))?.held;
        held.iter()
            .find(|(login, _)| *login == digest)
            .map(|(_, hold)| hold.clone())
    }

    /// The error that stands for an exchange with a login that is held.
    pub(crate) fn refusal(&self, endpoint: &Endpoint) -> Option<BmcError> {
        self.held(endpoint).map(|hold| hold.error(&authority(endpoint)))
    }

    /// The BMC has refused this login.
    pub(crate) async fn refused(&self, endpoint: &Endpoint, now_ms: u64) {
        let (digest, user) = (digest(endpoint), endpoint.username.clone());
        self.change(&authority(endpoint), |known| {
            known.held.retain(|(login, _)| *login != digest);
            if known.held.len() >= HELD {
                known.held.remove(0);
            }
            known.held.push((digest, Hold { user, since_ms: now_ms }));
        })
        .await;
    }

    /// The BMC has taken this login.
    pub(crate) async fn accepted(&self, endpoint: &Endpoint) {
        if self.held(endpoint).is_some() {
            let digest = digest(endpoint);
            self.change(&authority(endpoint), |known| {
                known.held.retain(|(login, _)| *login != digest);
            })
            .await;
        }
    }

    /// The operator says that the BMC is in order again; whether anything was held.
    pub(crate) async fn lift(&self, authority: &str) -> bool {
        let any = lock(&self.known).get(authority).is_some_and(|bmc| !bmc.held.is_empty());
        if any {
            self.change(authority, |known| known.held.clear()).await;
        }
        any
    }

    /// The BMC is about to be reset; or it was not, and the time of the reset before holds on. Gives that.
    pub(crate) async fn resetting(&self, authority: &str, at_ms: Option<u64>) -> Option<u64> {
        let last = self.last_reset(authority);
        self.change(authority, |known| known.reset_ms = at_ms).await;
        last
    }

    /// When it was last reset by us.
    pub(crate) fn last_reset(&self, authority: &str) -> Option<u64> {
        lock(&self.known).get(authority)?.reset_ms
    }

    /// All that is held, by `host:port`.
    #[must_use]
    pub fn holds(&self) -> Vec<(String, Hold)> {
        let known = lock(&self.known);
        let each = known
            .iter()
            .flat_map(|(bmc, known)| known.held.iter().map(|(_, hold)| (bmc.clone(), hold.clone())));
        let mut all: Vec<_> = each.collect();
        all.sort_by(|a, b| (&a.0, a.1.since_ms).cmp(&(&b.0, b.1.since_ms)));
        all
    }

    /// Changes what is known, in memory at once and on disk before this returns.
    async fn change(&self, authority: &str, change: impl FnOnce(&mut Known)) {
        let _writing = self.writing.lock().await;
        let now = {
            let mut all = lock(&self.known);
            let known = all.entry(authority.to_owned()).or_default();
            change(known);
            known.clone()
        };
        let seal = |(digest, hold): &(Digest, Hold)| SealedLogin {
            login: URL_SAFE_NO_PAD.encode(self.vault.seal(&context(authority), digest)),
            user: hold.user.clone(),
            since_ms: hold.since_ms,
        };
        let row = Row {
            held: now.held.iter().map(seal).collect(),
            reset_ms: now.reset_ms,
        };
        let put = Put {
            kind: kind::BMCS.to_owned(),
            key: authority.to_owned(),
            body: Bytes::from(serde_json::to_vec(&row).unwrap_or_default()),
            expect: Expect::Any,
            indexes: Vec::new(),
        };
        let txn = Txn {
            puts: vec![put],
            ..Txn::default()
        };
        if let Err(error) = self.store.submit(txn).await {
            tracing::error!(bmc = authority, %error, "what was learnt of a BMC cannot be written: a restart forgets it");
        }
    }
}

fn context(authority: &str) -> String {
    format!("bmc login {authority}")
}

fn digest(endpoint: &Endpoint) -> Digest {
    let mut hash = Sha256::new();
    for part in [
        endpoint.username.as_bytes(),
        &[0],
        endpoint.password.reveal().as_bytes(),
    ] {
        hash.update(part);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use isobar_bmc::{Secret, TlsTrust};
    use isobar_store::SqliteStore;

    use super::*;

    fn endpoint(password: &str) -> Endpoint {
        Endpoint {
            url: "https://10.0.0.5/".parse().unwrap(),
            username: "root".to_owned(),
            password: Secret::new(password.to_owned()),
            tls: TlsTrust::Insecure,
            system: None,
            machine_uuid: None,
            mode: isobar_bmc::Mode::default(),
            ipmi: isobar_bmc::IpmiFace::default(),
            shadow: false,
        }
    }

    #[tokio::test]
    async fn a_refused_login_is_held_over_a_restart_until_it_is_lifted_or_another() {
        let store: Arc<dyn Store> = Arc::new(SqliteStore::in_memory().unwrap());
        let vault = Arc::new(Vault::ephemeral());
        let open = || Bmcs::open(Arc::clone(&store), Arc::clone(&vault)).unwrap();
        let bmcs = open();
        bmcs.refused(&endpoint("wrong-canary"), 5).await;
        assert_eq!(bmcs.resetting("10.0.0.5:443", Some(7)).await, None);
        let again = open();
        let error = again.refusal(&endpoint("wrong-canary")).unwrap();
        assert_eq!(error.class, ErrorClass::Auth);
        assert_eq!(again.held(&endpoint("right")), None, "another login is another matter");
        assert_eq!(again.last_reset("10.0.0.5:443"), Some(7));
        let row = store.get(kind::BMCS, "10.0.0.5:443").unwrap().unwrap();
        let plain = URL_SAFE_NO_PAD.encode(digest(&endpoint("wrong-canary")));
        let text = String::from_utf8_lossy(&row.body).into_owned();
        assert!(!text.contains(&plain) && !text.contains("canary"), "{text}");
        assert!(again.lift("10.0.0.5:443").await);
        assert_eq!(open().held(&endpoint("wrong-canary")), None);
        assert!(!again.lift("10.0.0.5:443").await, "nothing is held any more");
    }

    #[tokio::test]
    async fn what_is_held_of_one_bmc_is_bounded() {
        let store: Arc<dyn Store> = Arc::new(SqliteStore::in_memory().unwrap());
        let bmcs = Bmcs::open(store, Arc::new(Vault::ephemeral())).unwrap();
        for n in 0..HELD as u64 + 3 {
            bmcs.refused(&endpoint(&n.to_string()), n).await;
        }
        assert_eq!(bmcs.holds().len(), HELD);
        assert_eq!(bmcs.held(&endpoint("0")), None);
        bmcs.accepted(&endpoint("5")).await;
        assert_eq!(bmcs.holds().len(), HELD - 1);
    }
}
