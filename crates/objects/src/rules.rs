//! What the model says of an object, and the little that only this layer knows.

use isobar_model::machine::Change;
use isobar_model::{ApiError, Lookup, Noun, Object, validate};
use serde_json::Value;

use crate::BOOT_ERROR_META;

/// Makes a created or changed object ready to be stored.
pub(crate) fn admit(
    noun: &'static Noun,
    old: Option<&Object>,
    new: &mut Object,
    change: Change,
    lookup: &dyn Lookup,
) -> Result<(), ApiError> {
    validate::admit(noun, old, new, lookup, change)?;
    if noun.name == "users" {
        check_roles(noun, new, lookup)?;
    }
    tell_boot_error(noun, new);
    Ok(())
}

/// Marks a stored object anew. One that could not be stored any more stays, with the reasons.
pub(crate) fn mark(noun: &'static Noun, object: &mut Object, lookup: &dyn Lookup) {
    // The reasons are in the marks.
    let _ = validate::mark(noun, object, lookup);
    tell_boot_error(noun, object);
}

/// Why the machine's last boot failed: shown where operators look first.
fn tell_boot_error(noun: &Noun, object: &mut Object) {
    let text = object
        .get("Meta")
        .and_then(|meta| meta.get(BOOT_ERROR_META))
        .and_then(Value::as_str);
    if noun.name == "machines"
        && let Some(text) = text.filter(|text| !text.is_empty()).map(|text| format!("boot: {text}"))
        && let Some(Value::Array(errors)) = object.get_mut("Errors")
    {
        errors.push(text.into());
    }
}

fn check_roles(noun: &Noun, user: &Object, lookup: &dyn Lookup) -> Result<(), ApiError> {
    let roles = user
        .get("Roles")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str);
    let missing: Vec<_> = roles
        .filter(|role| lookup.get("roles", role).is_none())
        .map(|role| format!("Role {role} does not exist"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(ApiError::validations(noun.name, &noun.key_of(user), missing))
}

/// Refuses to delete what has to stay whether or not it is in use.
pub(crate) fn deletable(noun: &Noun, key: &str, object: &Object) -> Result<(), ApiError> {
    if noun.name == "profiles" && key == "global" {
        return Err(ApiError::global_profile());
    }
    if object.get("Locked").and_then(Value::as_bool) == Some(true) {
        return Err(ApiError::locked(noun.name, key));
    }
    Ok(())
}
