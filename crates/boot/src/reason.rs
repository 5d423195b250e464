//! Why a boot ended: a code for scripts, a sentence for the operator, and the next thing to try.

use isobar_bmc::{BmcError, ErrorClass};
use serde::{Deserialize, Serialize};

/// A reason as it is stored, shown and documented (`docs/troubleshooting.md` has a place for each code).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// Stable code: `bmc-unreachable`.
    pub reason: String,
    /// What happened, to which machine or BMC.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}

impl Reason {
    /// Puts one together.
    pub fn new(reason: &str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            reason: reason.to_owned(),
            message: message.into(),
            hint: hint.into(),
        }
    }

    /// The reason that a BMC's error is. The BMC crate's words already name the BMC.
    #[must_use]
    pub fn of_bmc(error: &BmcError) -> Self {
        let code = match error.class {
            ErrorClass::Unreachable => "bmc-unreachable",
            ErrorClass::Timeout => "bmc-timeout",
            ErrorClass::Tls => "bmc-tls",
            ErrorClass::Auth => "bmc-password",
            ErrorClass::Forbidden => "bmc-forbidden",
            ErrorClass::Unsupported => "bmc-unsupported",
            ErrorClass::Busy => "bmc-busy",
            ErrorClass::Failing => "bmc-failing",
            ErrorClass::NotMounted => "insert-not-mounted",
            ErrorClass::Refused => "bmc-refused",
            ErrorClass::Protocol => "bmc-protocol",
            ErrorClass::Shadow => "shadow-mode",
        };
        Self::new(code, error.to_string(), error.hint.clone())
    }

    /// One line: message and hint.
    #[must_use]
    pub fn line(&self) -> String {
        if self.hint.is_empty() {
            self.message.clone()
        } else {
            format!("{}; {}", self.message.trim_end_matches('.'), self.hint)
        }
    }
}

/// Whether trying the same again can help.
#[must_use]
pub fn worth_retrying(error: &BmcError) -> bool {
    error.class.is_transient()
}
