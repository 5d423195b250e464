//! Preferences: one small map.

use isobar_model::{ApiError, Lookup, Object};
use isobar_store::{Expect, Put, StoreError};
use serde_json::Value;

use crate::core::{Core, Order, store_failed};
use crate::view::View;
use crate::{Objects, Principal};

const KIND: &str = "_meta";
const KEY: &str = "prefs";

/// What a preference may hold.
#[derive(Clone, Copy)]
enum Holds {
    /// The name of an object of this type, or nothing.
    Name(&'static str),
    /// Seconds, as text.
    Seconds,
    /// A log level.
    Level,
    /// Mixed into every token: setting it revokes them all. Never shown. Number of bytes; 0: any.
    Secret(usize),
}

/// All preferences and their defaults.
const PREFS: &[(&str, Holds, &str)] = &[
    ("baseTokenSecret", Holds::Secret(32), ""),
    ("debugBootEnv", Holds::Level, "warn"),
    ("debugDhcp", Holds::Level, "warn"),
    ("debugFrontend", Holds::Level, "warn"),
    ("debugPlugins", Holds::Level, "warn"),
    ("debugRenderer", Holds::Level, "warn"),
    ("defaultBootEnv", Holds::Name("bootenvs"), "local"),
    ("defaultStage", Holds::Name("stages"), "none"),
    ("defaultWorkflow", Holds::Name("workflows"), ""),
    ("knownTokenTimeout", Holds::Seconds, "3600"),
    ("logLevel", Holds::Level, "warn"),
    ("systemGrantorSecret", Holds::Secret(0), ""),
    ("unknownBootEnv", Holds::Name("bootenvs"), "ignore"),
    ("unknownTokenTimeout", Holds::Seconds, "600"),
];

const LEVELS: &[&str] = &["trace", "debug", "info", "warn", "error", "fatal", "panic"];

/// All preferences that have a value; secrets are not among them.
pub(crate) fn read(core: &Core) -> Result<Object, StoreError> {
    let stored = stored(core)?.map(|(prefs, _)| prefs).unwrap_or_default();
    let value = |(name, holds, default): &(&str, Holds, &str)| {
        let value = stored.get(*name).and_then(Value::as_str).unwrap_or(default);
        let shown = !value.is_empty() && !matches!(holds, Holds::Secret(_));
        shown.then(|| ((*name).to_owned(), value.into()))
    };
    Ok(PREFS.iter().filter_map(value).collect())
}

fn stored(core: &Core) -> Result<Option<(Object, Expect)>, StoreError> {
    let Some(doc) = core.store.get(KIND, KEY)? else {
        return Ok(None);
    };
    let prefs = serde_json::from_slice(&doc.body)
        .map_err(|e| StoreError::Backend(format!("the preferences are damaged: {e}")))?;
    Ok(Some((prefs, Expect::Rev(doc.rev))))
}

/// Why a value is refused.
fn refused(holds: Holds, name: &str, value: &str, view: &View<'_>) -> Option<String> {
    match holds {
        Holds::Name("workflows") if value.is_empty() => None,
        Holds::Name(noun) => {
            let label = isobar_model::noun(noun).map_or(noun, |noun| noun.singular);
            let mut chars = label.chars();
            let label = chars
                .next()
                .map(|c| c.to_ascii_uppercase().to_string() + chars.as_str());
            let Some(object) = Lookup::get(view, noun, value) else {
                return Some(format!("{} {value} does not exist", label.unwrap_or_default()));
            };
            let unknown_only = object.get("OnlyUnknown").and_then(Value::as_bool) == Some(true);
            (noun == "bootenvs" && unknown_only != (name == "unknownBootEnv"))
                .then(|| format!("BootEnv {value} cannot be used for the {name}"))
        }
        Holds::Seconds => value
            .parse::<u32>()
            .is_err()
            .then(|| format!("{value} is no number of seconds")),
        Holds::Level => {
            let known = LEVELS.contains(&value) || value.parse::<i32>().is_ok();
            (!known).then(|| format!("{value} is none of {}", LEVELS.join(" ")))
        }
        Holds::Secret(bytes) => (bytes != 0 && value.len() != bytes).then(|| format!("Must be {bytes} bytes long")),
    }
}

/// A log level of old was a number: 0 for warnings, 1 for information, above that all.
fn in_words(holds: Holds, value: &str) -> &str {
    match (holds, value.parse::<i32>()) {
        (Holds::Level, Ok(level)) => match level {
            ..=0 => "warn",
            1 => "info",
            _ => "debug",
        },
        _ => value,
    }
}

impl Objects {
    /// All preferences that have a value. The token secrets are never among them: they can be set, not read.
    ///
    /// # Errors
    /// Of the store.
    pub fn prefs(&self) -> Result<Object, ApiError> {
        read(&self.core).map_err(|e| store_failed(&e))
    }

    /// One preference.
    ///
    /// # Errors
    /// Of the store.
    pub fn pref(&self, name: &str) -> Result<Option<String>, ApiError> {
        Ok(self.prefs()?.get(name).and_then(Value::as_str).map(str::to_owned))
    }

    /// Sets the preferences of a map, all or none, and returns all that have a value.
    ///
    /// # Errors
    /// 400 for an unknown preference or a value that it cannot have.
    pub fn set_prefs(&self, pairs: &Value, by: &Principal) -> Result<Object, ApiError> {
        let bad = |message: &str| ApiError::bad_request("POST", "prefs", message);
        let pairs = pairs.as_object().ok_or_else(|| bad("preferences are a JSON object"))?;
        if by.machine().is_some() {
            return Err(ApiError::token_refused());
        }
        self.core.write(Order::Exclusive, "prefs", |view, draft| {
            let (mut prefs, expect) = stored(&self.core)
                .map_err(|e| store_failed(&e))?
                .unwrap_or((Object::new(), Expect::Absent));
            for (name, value) in pairs {
                let known = PREFS.iter().find(|(known, ..)| known == name);
                let (_, holds, _) = known.ok_or_else(|| ApiError::pref_unknown(name))?;
                let value = value
                    .as_str()
                    .ok_or_else(|| ApiError::pref_refused(name, "must be text"))?;
                if let Some(reason) = refused(*holds, name, value, view) {
                    return Err(ApiError::pref_refused(name, &reason));
                }
                if matches!(holds, Holds::Secret(_)) {
                    self.set_token_secret(draft, name, value)?;
                } else {
                    prefs.insert(name.clone(), in_words(*holds, value).into());
                }
            }
            let mut told = Vec::new();
            for (name, value) in pairs {
                let secret = PREFS
                    .iter()
                    .any(|(known, holds, _)| known == name && matches!(holds, Holds::Secret(_)));
                told.push(match value.as_str().filter(|_| !secret) {
                    Some(value) => format!("{name}={value}"),
                    None => name.clone(),
                });
                if secret {
                    draft.txn.audit.push(by.audit("revoke", "tokens", "", "all tokens"));
                }
            }
            draft
                .txn
                .audit
                .push(by.audit("update", "preferences", "", told.join(" ")));
            let body = serde_json::to_vec(&prefs).map_err(|e| bad(&e.to_string()))?;
            draft.txn.puts.push(Put {
                kind: KIND.to_owned(),
                key: KEY.to_owned(),
                body: body.into(),
                expect,
                indexes: Vec::new(),
            });
            Ok(())
        })?;
        self.prefs()
    }

    /// The initial preferences of a new database.
    pub(crate) fn set_first_prefs(&self, pairs: &[(String, String)]) -> Result<(), ApiError> {
        if pairs.is_empty() || stored(&self.core).map_err(|e| store_failed(&e))?.is_some() {
            return Ok(());
        }
        let pairs: Object = pairs
            .iter()
            .map(|(name, value)| (name.clone(), value.as_str().into()))
            .collect();
        self.set_prefs(&Value::Object(pairs), &Principal::system()).map(|_| ())
    }
}
