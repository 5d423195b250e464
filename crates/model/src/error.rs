//! The error body that every DRP client understands, and a constructor for each situation that
//! clients can tell apart.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An error as it travels in a response body.
///
/// `Display` gives the text that clients print after `Error: `.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ApiError {
    /// Type prefix of the object concerned (`machines`), or empty.
    #[serde(rename = "Model")]
    pub model: String,
    /// Key as the caller wrote it for lookups, the object's own key otherwise.
    #[serde(rename = "Key")]
    pub key: String,
    /// HTTP verb, or a word such as `ValidationError`.
    #[serde(rename = "Type")]
    pub type_: String,
    /// What is wrong, one text per reason.
    #[serde(rename = "Messages", deserialize_with = "null_as_empty")]
    pub messages: Vec<String>,
    /// HTTP status of the response.
    #[serde(rename = "Code")]
    pub code: u16,
    /// Seconds after which it is worth to try again, where that is known: the header `Retry-After` (RFC 9110 §10.2.3).
    #[serde(skip)]
    pub retry_after: Option<u64>,
}

fn null_as_empty<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::<Vec<String>>::deserialize(d)?.unwrap_or_default())
}

impl std::error::Error for ApiError {}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        if !self.type_.is_empty() {
            write!(f, "{}", self.type_)?;
            separator = ": ";
        }
        let object = match (self.model.is_empty(), self.key.is_empty()) {
            (false, false) => format!("{}/{}", self.model, self.key),
            (false, true) => self.model.clone(),
            (true, _) => self.key.clone(),
        };
        if !object.is_empty() {
            write!(f, "{separator}{object}")?;
            separator = ": ";
        }
        match self.messages.as_slice() {
            [] => Ok(()),
            [one] => write!(f, "{separator}{one}"),
            many => many.iter().try_for_each(|message| write!(f, "\n  {message}")),
        }
    }
}

impl ApiError {
    /// An error from its parts.
    pub fn new(code: u16, type_: &str, model: &str, key: &str, message: impl Into<String>) -> Self {
        ApiError {
            model: model.to_owned(),
            key: key.to_owned(),
            type_: type_.to_owned(),
            messages: vec![message.into()],
            code,
            retry_after: None,
        }
    }

    /// The same error for another verb: `err.with_type("PATCH")`.
    #[must_use]
    pub fn with_type(mut self, type_: &str) -> Self {
        self.type_ = type_.to_owned();
        self
    }

    /// The same error with the key it is about.
    #[must_use]
    pub fn with_key(mut self, key: &str) -> Self {
        self.key = key.to_owned();
        self
    }

    /// The same error with the time after which it is worth to try again.
    #[must_use]
    pub fn with_retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// 400: the body is no JSON, or JSON of the wrong shape.
    pub fn bad_request(verb: &str, model: &str, message: impl Into<String>) -> Self {
        Self::new(400, verb, model, "", message)
    }

    /// 404: no such object. `key` is what the caller wrote.
    pub fn not_found(verb: &str, model: &str, key: &str) -> Self {
        Self::new(404, verb, model, key, "Not Found")
    }

    /// 404: a path that leads nowhere.
    pub fn no_route(verb: &str, path: &str) -> Self {
        Self::new(404, verb, "", path, "No route")
    }

    /// 409: create of a key that is taken.
    pub fn already_exists(model: &str, key: &str) -> Self {
        Self::new(409, "CREATE", model, key, "already exists")
    }

    /// 400: create without a key.
    pub fn empty_key(model: &str) -> Self {
        Self::new(400, "CREATE", model, "", "Empty key not allowed")
    }

    /// 422: one reason why an object cannot be stored.
    pub fn validation(model: &str, key: &str, message: impl Into<String>) -> Self {
        Self::new(422, "ValidationError", model, key, message)
    }

    /// 422: all the reasons why an object cannot be stored.
    pub fn validations(model: &str, key: &str, messages: Vec<String>) -> Self {
        ApiError {
            model: model.to_owned(),
            key: key.to_owned(),
            type_: "ValidationError".to_owned(),
            messages,
            code: 422,
            retry_after: None,
        }
    }

    /// 409: the object is referred to; one message for each reference.
    pub fn still_in_use(model: &str, key: &str, reasons: Vec<String>) -> Self {
        ApiError {
            model: model.to_owned(),
            key: key.to_owned(),
            type_: "StillInUseError".to_owned(),
            messages: reasons,
            code: 409,
            retry_after: None,
        }
    }

    /// 409: the state of affairs forbids it (`Machine U is not runnable`).
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(409, "Conflict", "", "", message)
    }

    /// 406: a list query that cannot be answered.
    pub fn filter(model: &str, message: impl Into<String>) -> Self {
        Self::new(406, "GET", model, "", message)
    }

    /// 400: PUT of an object whose own key is another one.
    pub fn key_change(model: &str, from: &str, to: &str) -> Self {
        Self::new(
            400,
            "PUT",
            model,
            from,
            format!("Key change from {from} to {to} not allowed"),
        )
    }

    /// 400: PATCH that changes the key.
    pub fn patch_key_change(model: &str, to: &str) -> Self {
        Self::new(400, "Update", "", "", format!("{model}:{to} does not already exist"))
    }

    /// 400: the object belongs to a content layer. DRP's own texts, short as they are.
    pub fn read_only(verb: &str, model: &str, key: &str) -> Self {
        match verb {
            "DELETE" => Self::new(400, verb, "", "", format!("readonly: {key}")),
            _ => Self::new(400, verb, model, key, key),
        }
    }

    /// 422: the profile `global` stays.
    pub fn global_profile() -> Self {
        Self::validation(
            "profiles",
            "global",
            "Profile global is the global profile, you cannot delete it",
        )
    }

    /// 422: `Locked` machines refuse everything but unlocking.
    pub fn locked(model: &str, key: &str) -> Self {
        Self::validation(
            model,
            key,
            format!("{model}/{key} is locked; set Locked to false first"),
        )
    }

    /// 422: a value that its param's schema refuses. `reason` comes from
    /// [`crate::params::ParamSchema::check`]; `value` is none for secure params.
    pub fn param_value(model: &str, key: &str, param: &str, value: Option<&serde_json::Value>, reason: &str) -> Self {
        let message = match value {
            Some(value) => crate::params::value_refused(param, value, reason),
            None => format!("Key '{param}': invalid val (not shown): {reason}"),
        };
        Self::validation(model, key, message)
    }

    /// 409: a param name that no param can have.
    pub fn param_name(verb: &str, model: &str, key: &str, param: &str) -> Self {
        Self::new(409, verb, model, key, format!("Invalid Param Name `{param}`"))
    }

    /// 404: DELETE of a param that is not set on the object.
    pub fn param_not_set(param: &str) -> Self {
        Self::new(404, "DELETE", "params", param, "Not Found")
    }

    /// 404: GET of an action that nobody offers.
    pub fn action_not_found(model: &str, key: &str, action: &str) -> Self {
        Self::new(404, "GET", model, key, format!("{action}: Not Found"))
    }

    /// 400: POST of an action that nobody offers. `key` is what the caller wrote.
    pub fn action_unknown(model: &str, key: &str, action: &str) -> Self {
        Self::new(
            400,
            "INVOKE",
            model,
            key,
            format!("Action {action} on {model}: Not Found"),
        )
    }

    /// 400: a required param has no value. `type_` is `GET` or `INVOKE`.
    pub fn action_missing_param(type_: &str, model: &str, key: &str, action: &str, param: &str) -> Self {
        Self::new(
            400,
            type_,
            model,
            key,
            format!("Action {action} Missing Parameter {param}"),
        )
    }

    /// 400: a param of the call that its schema refuses.
    pub fn action_bad_param(model: &str, key: &str, action: &str, param: &str, reason: &str) -> Self {
        Self::new(
            400,
            "INVOKE",
            model,
            key,
            format!("Action {action}: Invalid Parameter: {param}: : {reason}"),
        )
    }

    /// 400: secure params are never taken from the call.
    pub fn action_secure_param(model: &str, key: &str, action: &str, param: &str) -> Self {
        let message = format!("Action {action} cannot be passed secure parameter {param} via the API");
        Self::new(400, "INVOKE", model, key, message)
    }

    /// 400: a preference that does not exist.
    pub fn pref_unknown(pref: &str) -> Self {
        Self::new(400, "POST", "prefs", "", format!("Unknown Preference {pref}"))
    }

    /// 400: a preference's value is refused.
    pub fn pref_refused(pref: &str, reason: &str) -> Self {
        Self::new(400, "POST", "prefs", "", format!("{pref}: {reason}"))
    }

    /// 403 for a stale or unusable token.
    pub fn token_refused() -> Self {
        Self::new(403, "AUTH", "", "", "Validation failed")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn text_form_follows_the_number_of_messages() {
        let cases = [
            (
                ApiError::not_found("GET", "machines", "john"),
                "GET: machines/john: Not Found",
            ),
            (
                ApiError::empty_key("bootenvs"),
                "CREATE: bootenvs: Empty key not allowed",
            ),
            (
                ApiError::filter("machines", "Invalid address: fred"),
                "GET: machines: Invalid address: fred",
            ),
            (
                ApiError::no_route("GET", "/api/v3/freds"),
                "GET: /api/v3/freds: No route",
            ),
            (
                ApiError::read_only("DELETE", "templates", "etc"),
                "DELETE: readonly: etc",
            ),
            (
                ApiError::read_only("POST", "profiles", "englobal"),
                "POST: profiles/englobal: englobal",
            ),
            (
                ApiError::conflict("Machine U is not runnable"),
                "Conflict: Machine U is not runnable",
            ),
            (
                ApiError::validations("tasks", "t", vec!["one".into(), "two".into()]),
                "ValidationError: tasks/t\n  one\n  two",
            ),
            (
                ApiError::action_unknown("machines", "Name:m1", "fly"),
                "INVOKE: machines/Name:m1: Action fly on machines: Not Found",
            ),
            (
                ApiError::patch_key_change("machines", "NEW"),
                "Update: machines:NEW does not already exist",
            ),
        ];
        for (error, text) in cases {
            assert_eq!(error.to_string(), text);
        }
    }

    #[test]
    fn body_has_the_members_that_clients_read() {
        let body = serde_json::to_string(&ApiError::not_found("GET", "machines", "john")).unwrap();
        let want = r#"{"Model":"machines","Key":"john","Type":"GET","Messages":["Not Found"],"Code":404}"#;
        assert_eq!(body, want);
        let back: ApiError = serde_json::from_str(r#"{"Model":"x","Messages":null,"Other":1}"#).unwrap();
        assert!(back.messages.is_empty());
    }
}
