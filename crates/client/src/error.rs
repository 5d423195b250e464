//! What can go wrong between a command and its answer, in words for the person who gave it.

use std::fmt;
use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// DRP's error body (drp-api §5).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ApiErrorBody {
    /// Prefix of the object's type, `machines`; may be empty.
    pub model: String,
    /// Key of the object as the caller wrote it; may be empty.
    pub key: String,
    /// HTTP verb, or one of DRP's words such as `ValidationError`.
    #[serde(rename = "Type")]
    pub kind: String,
    /// One or more texts.
    #[serde(deserialize_with = "null_is_empty")]
    pub messages: Vec<String>,
    /// The HTTP status.
    pub code: u16,
}

fn null_is_empty<'de, D: serde::Deserializer<'de>>(input: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::<Vec<String>>::deserialize(input)?.unwrap_or_default())
}

impl fmt::Display for ApiErrorBody {
    /// DRP's text form: `GET: machines/john: Not Found`; several messages each on a line of their own.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subject = [self.model.as_str(), self.key.as_str()]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join("/");
        let mut head = [self.kind.as_str(), subject.as_str()]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join(": ");
        match self.messages.as_slice() {
            [] => {
                if head.is_empty() {
                    head = format!("HTTP status {}", self.code);
                }
                f.write_str(&head)
            }
            [message] if head.is_empty() => f.write_str(message),
            [message] => write!(f, "{head}: {message}"),
            messages => {
                f.write_str(&head)?;
                for message in messages {
                    write!(f, "\n  {message}")?;
                }
                Ok(())
            }
        }
    }
}

/// Why a request brought no usable answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The server refused or failed and said why.
    #[error("{0}")]
    Api(ApiErrorBody),

    /// The server refused or failed without an error body of DRP's kind.
    #[error("{method} {path}: the server answered {status} {}", reason(*.status))]
    Status {
        /// HTTP method of the request.
        method: String,
        /// Path of the request.
        path: String,
        /// HTTP status of the answer.
        status: u16,
    },

    /// Login with user and password was refused.
    #[error(
        "{endpoint} refuses user {user}: wrong name or password. Set RS_KEY=user:password (a new `isobar serve` \
         writes the first password to rocketskates.password in its data directory)"
    )]
    Login {
        /// Address of the server.
        endpoint: String,
        /// Who tried.
        user: String,
    },

    /// The address is not usable.
    #[error("{endpoint:?} is not a server address: {why}. Set RS_ENDPOINT, such as https://127.0.0.1:8092")]
    Endpoint {
        /// As given, without user and password.
        endpoint: String,
        /// What is wrong with it.
        why: String,
    },

    /// No connection came about.
    #[error("cannot reach {endpoint}: {why}; is `isobar serve` running? Set RS_ENDPOINT if it listens elsewhere")]
    Unreachable {
        /// Address of the server.
        endpoint: String,
        /// In the system's words.
        why: String,
        /// The system's error, where there is one.
        source: Option<io::Error>,
    },

    /// A connection was made but no TLS session.
    #[error("{endpoint} is reached, but TLS fails: {why}")]
    Tls {
        /// Address of the server.
        endpoint: String,
        /// What failed.
        why: String,
    },

    /// The server fell silent.
    #[error("{method} {path}: no answer from {endpoint} within {} s", .after.as_secs())]
    Timeout {
        /// Address of the server.
        endpoint: String,
        /// HTTP method of the request.
        method: String,
        /// Path of the request.
        path: String,
        /// How long the client waited.
        after: Duration,
    },

    /// The connection broke on the way, or the answer was not HTTP.
    #[error("{method} {path}: the connection to {endpoint} broke: {why}")]
    Broken {
        /// Address of the server.
        endpoint: String,
        /// HTTP method of the request.
        method: String,
        /// Path of the request.
        path: String,
        /// What happened.
        why: String,
    },

    /// The answer is not the JSON that was expected.
    #[error("{method} {path}: the answer cannot be read: {source}")]
    Decode {
        /// HTTP method of the request.
        method: String,
        /// Path of the request.
        path: String,
        /// Where and why.
        source: serde_json::Error,
    },

    /// A value could not be made into JSON.
    #[error("the request cannot be written as JSON: {0}")]
    Encode(#[source] serde_json::Error),

    /// The fingerprint to pin is not one.
    #[error("{0:?} is not a SHA-256 fingerprint (64 hexadecimal digits)")]
    Fingerprint(String),
}

impl ClientError {
    /// The HTTP status, where an answer came.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Api(body) => Some(body.code),
            Self::Status { status, .. } => Some(*status),
            Self::Login { .. } => Some(403),
            _ => None,
        }
    }

    /// True for "no such object" and "no such route".
    pub fn is_not_found(&self) -> bool {
        self.status() == Some(404)
    }
}

fn reason(status: u16) -> &'static str {
    ureq::http::StatusCode::from_u16(status)
        .ok()
        .and_then(|status| status.canonical_reason())
        .unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(model: &str, key: &str, kind: &str, messages: &[&str]) -> ApiErrorBody {
        ApiErrorBody {
            model: model.into(),
            key: key.into(),
            kind: kind.into(),
            messages: messages.iter().map(|&m| m.to_owned()).collect(),
            code: 404,
        }
    }

    #[test]
    fn text_form_is_drps() {
        for (body, text) in [
            (
                body("machines", "john", "GET", &["Not Found"]),
                "GET: machines/john: Not Found",
            ),
            (
                body("bootenvs", "", "CREATE", &["Empty key not allowed"]),
                "CREATE: bootenvs: Empty key not allowed",
            ),
            (
                body("", "/api/v3/freds", "GET", &["No route"]),
                "GET: /api/v3/freds: No route",
            ),
            (body("", "", "", &["command: Not Found"]), "command: Not Found"),
            (
                body("stages", "s1", "StillInUseError", &["a", "b"]),
                "StillInUseError: stages/s1\n  a\n  b",
            ),
            (body("", "", "", &[]), "HTTP status 404"),
        ] {
            assert_eq!(body.to_string(), text);
        }
    }
}
