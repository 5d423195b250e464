//! Params of machines, profiles and stages, one by one and as a whole.

use std::sync::Arc;

use base64::Engine as _;
use isobar_model::patch::{Patch, Target};
use isobar_model::{ApiError, Noun, Object, params};
use serde_json::Value;

use crate::objects::row;
use crate::view::View;
use crate::write::How;
use crate::{Objects, Principal, secure};

/// The row of a type that has params.
fn with_params(noun: &str) -> Result<&'static Noun, ApiError> {
    let found = row(noun)?;
    if found.has_params {
        Ok(found)
    } else {
        Err(ApiError::no_route("GET", &format!("/api/v3/{noun}/params")))
    }
}

fn own(object: &Object) -> Object {
    object
        .get("Params")
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default()
}

impl Objects {
    /// All params of an object; with `aggregate` also those of its profiles, its stage and the profile `global`. Secure
    /// ones are boxes, unless `decode` asks for clear text: for callers whose `getSecure` was checked.
    ///
    /// # Errors
    /// 404.
    pub fn params(&self, noun: &str, key: &str, aggregate: bool, decode: bool) -> Result<Object, ApiError> {
        let noun = with_params(noun)?;
        let view = View::new(&self.core);
        let (_, found) = view.meant("GET", noun, key)?;
        let mut all = Object::new();
        for source in params::sources(noun, &found.object, &view) {
            let Some(values) = source.params() else { continue };
            let values = if decode {
                secure::opened(&view, &self.core.vault, source.noun, &source.key, values)?
            } else {
                values.clone()
            };
            for (param, value) in values {
                all.entry(param).or_insert(value);
            }
            if !aggregate {
                break;
            }
        }
        view.sound()?;
        Ok(all)
    }

    /// One param: `null` when it is unset. With `aggregate` also from profiles, stage and `global`, and at last the
    /// default of its schema. `decode` as in [`Objects::params`].
    ///
    /// # Errors
    /// 404 for the object, not for the param.
    pub fn param(&self, noun: &str, key: &str, param: &str, aggregate: bool, decode: bool) -> Result<Value, ApiError> {
        let noun = with_params(noun)?;
        let view = View::new(&self.core);
        let (key, found) = view.meant("GET", noun, key)?;
        let (holder, value) = if aggregate {
            match params::find(noun, &found.object, param, &view) {
                Some(found) => (found.holder, found.value),
                None => (None, Value::Null),
            }
        } else {
            let value = found.object.get("Params").and_then(|values| values.get(param)).cloned();
            (Some((noun.name, key)), value.unwrap_or(Value::Null))
        };
        let value = if decode {
            let holder = holder.as_ref().map(|(noun, key)| (*noun, key.as_str()));
            secure::opened_one(&view, &self.core.vault, holder, param, value)?.value
        } else {
            value
        };
        view.sound()?;
        Ok(value)
    }

    /// Sets one param. A secure one comes as a box made for [`Objects::pubkey`], or in clear and is boxed before it is
    /// stored. Returns the value as it is stored now.
    ///
    /// # Errors
    /// 404, 422 for a value that the declared schema refuses.
    pub fn set_param(
        &self,
        noun: &str,
        key: &str,
        param: &str,
        value: &Value,
        by: &Principal,
    ) -> Result<Value, ApiError> {
        let noun = with_params(noun)?;
        if !isobar_model::name::is_param_name(param) {
            return Err(ApiError::param_name("POST", noun.name, key, param));
        }
        let stored = self.change_params(noun, key, "POST", by, |values| {
            values.insert(param.to_owned(), value.clone());
            Ok(())
        })?;
        let value = stored.get("Params").and_then(|values| values.get(param));
        Ok(value.cloned().unwrap_or(Value::Null))
    }

    /// Removes one param and returns the old value.
    ///
    /// # Errors
    /// 404 for the object, and for a param that is not set.
    pub fn delete_param(&self, noun: &str, key: &str, param: &str, by: &Principal) -> Result<Value, ApiError> {
        let noun = with_params(noun)?;
        let mut old = Value::Null;
        self.change_params(noun, key, "DELETE", by, |values| {
            // Not `remove`, which would move the last member to its place.
            old = values
                .shift_remove(param)
                .ok_or_else(|| ApiError::param_not_set(param))?;
            Ok(())
        })?;
        Ok(old)
    }

    /// Replaces all params.
    ///
    /// # Errors
    /// As [`Objects::set_param`]; 400 for what is no map.
    pub fn set_params(&self, noun: &str, key: &str, input: &Value, by: &Principal) -> Result<Object, ApiError> {
        let noun = with_params(noun)?;
        let wanted = match input {
            Value::Null => Object::new(),
            Value::Object(wanted) => wanted.clone(),
            _ => return Err(ApiError::bad_request("POST", noun.name, "params are a JSON object")),
        };
        let changed = self.change_params(noun, key, "POST", by, |values| {
            values.clone_from(&wanted);
            Ok(())
        })?;
        Ok(own(&changed))
    }

    /// Applies `ops` (RFC 6902) to the map of params.
    ///
    /// # Errors
    /// As [`Objects::patch`].
    pub fn patch_params(&self, noun: &str, key: &str, ops: &Value, by: &Principal) -> Result<Object, ApiError> {
        let noun = with_params(noun)?;
        let patch = Patch::parse(ops)?;
        let changed = self.change_params(noun, key, "PATCH", by, |values| {
            let mut document = Value::Object(std::mem::take(values));
            patch.apply(&mut document, Target::Params)?;
            match document {
                Value::Object(patched) => {
                    *values = patched;
                    Ok(())
                }
                _ => Err(ApiError::bad_request("PATCH", noun.name, "params are a JSON object")),
            }
        })?;
        Ok(own(&changed))
    }

    /// Whether an action may be called with this value for a param.
    ///
    /// # Errors
    /// None for a secure param, which is never passed; else why its schema refuses the value.
    pub fn check_action_param(&self, param: &str, value: &Value) -> Result<(), Option<String>> {
        let view = View::new(&self.core);
        let Some(schema) = isobar_model::Lookup::param_schema(&view, param) else {
            return Ok(());
        };
        if schema.secure() {
            return Err(None);
        }
        schema.check(value).map_err(Some)
    }

    /// The public key for an object's secure params: base64 of 32 bytes.
    ///
    /// # Errors
    /// 404.
    pub fn pubkey(&self, noun: &str, key: &str) -> Result<String, ApiError> {
        let noun = with_params(noun)?;
        let (key, _) = View::new(&self.core).meant("GET", noun, key)?;
        let public = self.core.vault.param_public_key(noun.name, &key);
        Ok(base64::engine::general_purpose::STANDARD.encode(public))
    }

    fn change_params(
        &self,
        noun: &'static Noun,
        key: &str,
        verb: &str,
        by: &Principal,
        mut change: impl FnMut(&mut Object) -> Result<(), ApiError>,
    ) -> Result<Arc<Object>, ApiError> {
        let changed = self.change(noun, key, verb, How::of(by), |old| {
            let mut new = old.clone();
            let values = new.entry("Params").or_insert_with(|| Object::new().into());
            if !values.is_object() {
                *values = Object::new().into();
            }
            let Value::Object(values) = values else { return Ok(new) };
            change(values).map_err(|e| match e.model.as_str() {
                "" => ApiError {
                    model: noun.name.to_owned(),
                    key: noun.key_of(old).into_owned(),
                    ..e
                },
                _ => e,
            })?;
            Ok(new)
        })?;
        Ok(changed.object)
    }
}
