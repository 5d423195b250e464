//! Why a BMC did not do what was asked.

/// What kind of failure, and so what to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorClass {
    /// No connection: wrong address, no route, refused.
    Unreachable,
    /// Connected, but no answer inside the deadline. What was asked may have happened.
    Timeout,
    /// TLS could not be agreed on, or the certificate is not the pinned one.
    Tls,
    /// Wrong user or password.
    Auth,
    /// Logged in, but the user or the licence does not allow it.
    Forbidden,
    /// The BMC has no such function.
    Unsupported,
    /// Busy now: retry later.
    Busy,
    /// It refused what was asked.
    Refused,
    /// It answered something that is not Redfish.
    Protocol,
}

/// An answer of a BMC that was not the wanted one, in words for the operator.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{what}: {message}")]
pub struct BmcError {
    /// Kind.
    pub class: ErrorClass,
    /// What was being done: `insert media`.
    pub what: &'static str,
    /// What went wrong, with the BMC's address and its own words; never a secret.
    pub message: String,
    /// The BMC's MessageId, last part, if it gave one.
    pub message_id: Option<String>,
    /// HTTP status, if there was one.
    pub status: Option<u16>,
    /// What to do about it.
    pub hint: String,
}
