//! Certificates of BMCs, pinned at first use.
//!
//! The first login that a BMC takes pins the certificate that it showed, by `host:port`; from then on nothing is sent to
//! another one. Param `isobar/bmc-tls` with a fingerprint pins that one instead; `ca` goes by `isobar/bmc-ca`; `any` checks nothing. Certificates whose
//! key the BMC cannot prove to us (X.509 v1, RSA below 2048 bits) are not pinned: anybody could show them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use isobar_bmc::{BmcError, Certificate, Endpoint, ErrorClass, TlsTrust};
use isobar_store::{Expect, Put, Store, Txn};

use crate::gate::authority;
use crate::reason::Reason;
use crate::record::kind;
use crate::state::lock;

/// The value of `isobar/bmc-tls` that checks nothing.
const ANY: &str = "any";
/// The one that is the default.
const FIRST_USE: &str = "first-use";
/// The one that goes by `isobar/bmc-ca`.
const BY_CA: &str = "ca";

/// What `isobar/bmc-tls` says.
pub(crate) fn trust(machine: &str, value: Option<&str>, ca: Option<&str>) -> Result<TlsTrust, Reason> {
    let value = match (value, ca) {
        (Some(value), _) => value,
        // Who gives a CA means it.
        (None, Some(_)) => BY_CA,
        (None, None) => FIRST_USE,
    };
    let fingerprint = value.replace(':', "").to_ascii_lowercase();
    match value {
        FIRST_USE => Ok(TlsTrust::FirstUse),
        ANY => Ok(TlsTrust::Insecure),
        BY_CA => match ca {
            Some(pem) => Ok(TlsTrust::Authority(pem.to_owned())),
            None => Err(Reason::new(
                "bmc-tls",
                format!("isobar/bmc-tls of {machine} is `{BY_CA}`, and it has no isobar/bmc-ca"),
                "set isobar/bmc-ca to the CA's certificate (PEM), on the machine, a profile or the profile global",
            )),
        },
        _ if fingerprint.len() == 64 && fingerprint.bytes().all(|b| b.is_ascii_hexdigit()) => {
            Ok(TlsTrust::Pinned(fingerprint))
        }
        _ => Err(Reason::new(
            "bmc-tls",
            format!("isobar/bmc-tls of {machine} is {value:?}"),
            format!(
                "set it to `{FIRST_USE}`, to `{BY_CA}`, to `{ANY}`, or to the SHA-256 fingerprint of the BMC's certificate (64 hex digits)"
            ),
        )),
    }
}

/// What is pinned.
pub struct Pins {
    store: Arc<dyn Store>,
    /// As the store has it, for the BMCs that were talked to.
    known: Mutex<HashMap<String, Option<String>>>,
}

impl Pins {
    /// Over the rows of a store.
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            known: Mutex::default(),
        }
    }

    /// The endpoint with the certificate that is pinned for it, where that is what it goes by.
    pub(crate) async fn apply(&self, endpoint: &Endpoint) -> Result<Endpoint, BmcError> {
        let mut endpoint = endpoint.clone();
        if endpoint.tls == TlsTrust::FirstUse && endpoint.url.scheme() == "https" {
            let key = authority(&endpoint);
            let pinned = self.pinned(&key).await.map_err(|error| {
                let text = format!("BMC {key}: its pinned certificate cannot be read: {error}");
                BmcError::new(ErrorClass::Busy, "connect", text)
            })?;
            if let Some(fingerprint) = pinned {
                endpoint.tls = TlsTrust::Pinned(fingerprint);
            }
        }
        Ok(endpoint)
    }

    /// A BMC took our login, under this certificate.
    pub(crate) async fn learn(&self, endpoint: &Endpoint, shown: Option<Certificate>) {
        let (key, Some(shown)) = (authority(endpoint), shown) else {
            return;
        };
        let checked = matches!(endpoint.tls, TlsTrust::FirstUse | TlsTrust::Pinned(_));
        let same = lock(&self.known)
            .get(&key)
            .is_some_and(|known| known.as_ref() == Some(&shown.fingerprint));
        if !checked || same {
            return;
        }
        if !shown.proven {
            tracing::warn!(
                bmc = key,
                "its certificate is too old or too weak to be pinned: whoever answers there is trusted"
            );
            return;
        }
        let put = Put {
            kind: kind::PINS.to_owned(),
            key: key.clone(),
            body: Bytes::from(shown.fingerprint.clone()),
            expect: Expect::Any,
            indexes: Vec::new(),
        };
        let store = Arc::clone(&self.store);
        let written = tokio::task::spawn_blocking(move || {
            store.commit(Txn {
                puts: vec![put],
                ..Txn::default()
            })
        });
        match written.await {
            Ok(Ok(_)) => {
                tracing::info!(bmc = key, fingerprint = shown.fingerprint, "its certificate is pinned");
                lock(&self.known).insert(key, Some(shown.fingerprint));
            }
            Ok(Err(error)) => {
                tracing::error!(bmc = key, %error, "its certificate cannot be pinned; the next login tries again")
            }
            Err(error) => tracing::error!(bmc = key, %error, "its certificate cannot be pinned"),
        }
    }

    async fn pinned(&self, key: &str) -> Result<Option<String>, String> {
        if let Some(known) = lock(&self.known).get(key) {
            return Ok(known.clone());
        }
        let (store, name) = (Arc::clone(&self.store), key.to_owned());
        let read = tokio::task::spawn_blocking(move || store.get(kind::PINS, &name)).await;
        let row = read
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())?;
        let pinned = row.map(|doc| String::from_utf8_lossy(&doc.body).into_owned());
        lock(&self.known).insert(key.to_owned(), pinned.clone());
        Ok(pinned)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_the_param_may_say() {
        let hex = "ab".repeat(32);
        let colons = hex
            .as_bytes()
            .chunks(2)
            .map(|c| String::from_utf8_lossy(c).to_uppercase())
            .collect::<Vec<_>>();
        for (value, want) in [
            (None, TlsTrust::FirstUse),
            (Some("first-use"), TlsTrust::FirstUse),
            (Some("any"), TlsTrust::Insecure),
            (Some(hex.as_str()), TlsTrust::Pinned(hex.clone())),
            (Some(colons.join(":").as_str()), TlsTrust::Pinned(hex.clone())),
        ] {
            assert_eq!(trust("m", value, None).unwrap(), want, "{value:?}");
        }
        let by_ca = TlsTrust::Authority("PEM".into());
        assert_eq!(trust("m", None, Some("PEM")).unwrap(), by_ca, "who gives a CA means it");
        assert_eq!(trust("m", Some("ca"), Some("PEM")).unwrap(), by_ca);
        assert_eq!(trust("m", Some("any"), Some("PEM")).unwrap(), TlsTrust::Insecure);
        assert!(trust("m", Some("ca"), None).unwrap_err().hint.contains("isobar/bmc-ca"));
        for value in ["no", "abcd", "Any", &"zz".repeat(32)] {
            assert!(trust("m", Some(value), None).unwrap_err().message.contains(value));
        }
    }
}
