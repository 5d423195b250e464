//! Secure params: what is stored is a box; what is used is opened on the way out.

use std::sync::Arc;

use isobar_model::params::{self, Source, is_encrypted};
use isobar_model::{ApiError, Lookup, Noun, Object, noun, same};
use isobar_store::Vault;
use isobar_store::vault::SealedParam;
use serde_json::Value;

use crate::core::Draft;
use crate::objects::row;
use crate::view::{Found, Place, View};
use crate::{Objects, Principal};

/// The value of a param for internal use, decrypted.
#[derive(Clone, PartialEq)]
pub struct Resolved {
    /// The value.
    pub value: Value,
    /// It was stored encrypted: keep it out of logs, errors and answers.
    pub secure: bool,
}

impl std::fmt::Debug for Resolved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.secure {
            f.write_str("Resolved(secret)")
        } else {
            f.debug_tuple("Resolved").field(&self.value).finish()
        }
    }
}

pub(crate) fn declared_secure(lookup: &dyn Lookup, param: &str) -> bool {
    let declared = lookup.get("params", param);
    declared.is_some_and(|param| param.get("Secure").and_then(Value::as_bool) == Some(true))
}

fn params_of(object: &Object) -> Option<&Object> {
    object.get("Params").and_then(Value::as_object)
}

fn open(vault: &Vault, noun: &str, key: &str, param: &str, boxed: &Value) -> Result<Value, String> {
    let sealed: SealedParam = serde_json::from_value(boxed.clone()).map_err(|_| "not a box".to_owned())?;
    let json = vault.open_param(noun, key, &sealed).map_err(|e| e.to_string())?;
    serde_json::from_slice(&json).map_err(|_| format!("what is in the box for {param} is no JSON"))
}

fn seal_value(vault: &Vault, noun: &str, key: &str, clear: &Value) -> Result<Value, ApiError> {
    let failed = |e: serde_json::Error| ApiError::new(500, "STORE_ERROR", noun, key, e.to_string());
    let json = serde_json::to_vec(clear).map_err(failed)?;
    serde_json::to_value(vault.seal_param(noun, key, &json)).map_err(failed)
}

/// Boxes the secure params of `new` that are in clear, and checks those that come in a box. Values that were there
/// before are left alone.
pub(crate) fn seal(
    view: &View<'_>,
    vault: &Vault,
    noun: &'static Noun,
    key: &str,
    old: Option<&Object>,
    new: &mut Object,
) -> Result<(), ApiError> {
    let Some(Value::Object(values)) = new.get_mut("Params") else {
        return Ok(());
    };
    let before = old.and_then(params_of);
    let mut problems = Vec::new();
    for (param, value) in values.iter_mut() {
        let boxed = is_encrypted(value);
        let before = before.and_then(|before| before.get(param));
        let unchanged = boxed && before.is_some_and(|before| same(before, value));
        if unchanged || !declared_secure(view, param) {
            continue;
        }
        let clear = if boxed {
            match open(vault, noun.name, key, param, value) {
                Ok(clear) => clear,
                Err(reason) => {
                    problems.push(format!(
                        "Key '{param}': {reason}; encrypt it for the public key of this object"
                    ));
                    continue;
                }
            }
        } else {
            value.clone()
        };
        match view.param_schema(param).map_or(Ok(()), |schema| schema.check(&clear)) {
            // Never with the value.
            Err(reason) => problems.push(format!("Key '{param}': invalid val: {reason}")),
            Ok(()) if boxed => {}
            Ok(()) => *value = seal_value(vault, noun.name, key, &clear)?,
        }
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(ApiError::validations(noun.name, key, problems))
    }
}

/// The params of an object with its own secure ones opened.
pub(crate) fn opened(
    lookup: &dyn Lookup,
    vault: &Vault,
    noun: &str,
    key: &str,
    values: &Object,
) -> Result<Object, ApiError> {
    let open = |(param, value): (&String, &Value)| {
        let value = opened_one(lookup, vault, Some((noun, key)), param, value.clone())?.value;
        Ok((param.clone(), value))
    };
    values.iter().map(open).collect()
}

/// A value found somewhere, opened if the param is secure. `holder`: the object that has it, none for a default.
pub(crate) fn opened_one(
    lookup: &dyn Lookup,
    vault: &Vault,
    holder: Option<(&str, &str)>,
    param: &str,
    value: Value,
) -> Result<Resolved, ApiError> {
    let secure = declared_secure(lookup, param);
    match holder {
        Some((noun, key)) if secure && is_encrypted(&value) => {
            let value = open(vault, noun, key, param, &value)
                .map_err(|reason| ApiError::new(500, "STORE_ERROR", noun, key, format!("Key '{param}': {reason}")))?;
            Ok(Resolved { value, secure })
        }
        _ => Ok(Resolved { value, secure }),
    }
}

/// Params of an object, as they were at one time.
pub(crate) struct Sources {
    objects: Objects,
    sources: Vec<Source<'static>>,
}

impl Sources {
    /// As [`Objects::resolve_in`].
    pub(crate) fn resolve(&self, param: &str) -> Result<Option<Resolved>, ApiError> {
        let objects = &self.objects;
        objects.resolve_among(&View::new(&objects.core), &self.sources, param)
    }

    /// As [`Objects::compose_in`].
    pub(crate) fn compose(&self, param: &str) -> Result<Option<Value>, ApiError> {
        let objects = &self.objects;
        objects.compose_among(&View::new(&objects.core), &self.sources, param)
    }
}

/// Params of an object at hand, for one who asks for many of them: where they come from is looked up once.
pub struct Params<'a> {
    objects: &'a Objects,
    view: View<'a>,
    sources: Vec<Source<'a>>,
}

impl Params<'_> {
    /// As [`Objects::resolve_in`].
    ///
    /// # Errors
    /// A value that cannot be decrypted.
    pub fn resolve(&self, param: &str) -> Result<Option<Resolved>, ApiError> {
        self.objects.resolve_among(&self.view, &self.sources, param)
    }
}

impl Objects {
    /// The params of an object, one by one.
    ///
    /// # Errors
    /// Of the store.
    pub fn params_in<'a>(&'a self, noun: &str, object: &'a Object) -> Result<Params<'a>, ApiError> {
        let view = View::new(&self.core);
        let sources = params::sources(row(noun)?, object, &view);
        view.sound()?;
        Ok(Params {
            objects: self,
            view,
            sources,
        })
    }

    /// What a param comes to for a machine (`key` as in [`Objects::get`]): its own value, else that of its profiles, its
    /// stage, the profile `global`, else the schema's default; decrypted. None where nothing sets it.
    ///
    /// # Errors
    /// 404, or a value that cannot be decrypted.
    pub fn resolve(&self, machine: &str, param: &str) -> Result<Option<Resolved>, ApiError> {
        let machine = self.get("machines", machine)?;
        self.resolve_in("machines", &machine, param)
    }

    /// The same for an object at hand, such as the one that a hook is shown.
    ///
    /// # Errors
    /// A value that cannot be decrypted.
    pub fn resolve_in(&self, noun: &str, object: &Object, param: &str) -> Result<Option<Resolved>, ApiError> {
        let view = View::new(&self.core);
        self.resolve_among(&view, &params::sources(row(noun)?, object, &view), param)
    }

    fn resolve_among(
        &self,
        view: &View<'_>,
        sources: &[Source<'_>],
        param: &str,
    ) -> Result<Option<Resolved>, ApiError> {
        let found = params::find_in(sources, param, view);
        view.sound()?;
        let Some(found) = found else { return Ok(None) };
        let holder = found.holder.as_ref().map(|(noun, key)| (*noun, key.as_str()));
        let resolved = opened_one(view, &self.core.vault, holder, param, found.value)?;
        view.sound()?;
        Ok(Some(resolved))
    }

    /// What all sources of a param come to when they are merged (objects by member, lists appended, nearest first).
    ///
    /// # Errors
    /// A secure param: a merged value would have no holder whose key opens it.
    pub fn compose_in(&self, noun: &str, object: &Object, param: &str) -> Result<Option<Value>, ApiError> {
        let view = View::new(&self.core);
        self.compose_among(&view, &params::sources(row(noun)?, object, &view), param)
    }

    fn compose_among(&self, view: &View<'_>, sources: &[Source<'_>], param: &str) -> Result<Option<Value>, ApiError> {
        let composed = params::compose_in(sources, param, view);
        let secure = view.param_schema(param).is_some_and(|schema| schema.secure());
        view.sound()?;
        if secure {
            let (noun, key) = sources.first().map_or(("", ""), |own| (own.noun, own.key.as_str()));
            let text = format!("{param} is secure and cannot be composed");
            return Err(ApiError::validation(noun, key, text));
        }
        Ok(composed)
    }

    /// Where the params of an object come from now, for one who asks for many of them.
    ///
    /// # Errors
    /// Of the store.
    pub(crate) fn sources(&self, noun: &str, object: &Arc<Object>) -> Result<Sources, ApiError> {
        let view = View::new(&self.core);
        let sources = params::held_sources(row(noun)?, object, &view);
        view.sound()?;
        Ok(Sources {
            objects: self.clone(),
            sources,
        })
    }

    /// The object with its secure params in clear, for callers whose `getSecure` was checked.
    ///
    /// # Errors
    /// A value that cannot be decrypted.
    pub fn decoded(&self, noun: &str, object: &Object) -> Result<Object, ApiError> {
        let noun = row(noun)?;
        let mut decoded = object.clone();
        if let Some(values) = params_of(object) {
            let view = View::new(&self.core);
            let values = opened(&view, &self.core.vault, noun.name, &noun.key_of(object), values)?;
            view.sound()?;
            decoded.insert("Params".to_owned(), values.into());
        }
        Ok(decoded)
    }

    /// A param was declared: where it is secure now and was not before, the values that are there are boxed in the same
    /// commit.
    pub(crate) fn seal_declared(
        &self,
        view: &View<'_>,
        draft: &mut Draft,
        old: Option<&Object>,
        declared: &Object,
        by: &Principal,
    ) -> Result<(), ApiError> {
        let secure = |param: &Object| param.get("Secure").and_then(Value::as_bool) == Some(true);
        if !secure(declared) || old.is_some_and(secure) {
            return Ok(());
        }
        let Some(param) = declared.get("Name").and_then(Value::as_str) else {
            return Ok(());
        };
        let holders = isobar_model::table::NOUNS.iter().filter(|noun| noun.has_params);
        for holder in holders.filter_map(|holder| noun(holder.name)) {
            for (key, found) in view.all(holder) {
                let clear = params_of(&found.object).and_then(|values| values.get(param));
                let Some(clear) = clear.filter(|value| !is_encrypted(value)) else {
                    continue;
                };
                let boxed = seal_value(&self.core.vault, holder.name, &key, clear)?;
                let mut new = Object::clone(&found.object);
                if let Some(Value::Object(values)) = new.get_mut("Params") {
                    values.insert(param.to_owned(), boxed);
                }
                if found.place == Place::Content {
                    continue;
                }
                let object = Arc::new(new);
                // Watchers are told of the box alone, not of what the object was before.
                let found = Found {
                    object: Arc::clone(&object),
                    text: None,
                    ..found
                };
                self.put(
                    view,
                    draft,
                    holder,
                    &key,
                    Some(&found),
                    &object,
                    (found.place, "save", by, &["Params"]),
                )?;
            }
        }
        Ok(())
    }
}
