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
    /// It answers, with internal errors: nothing is wrong with what was asked.
    Failing,
    /// It accepted an image, and its virtual CD does not hold it.
    NotMounted,
    /// It refused what was asked.
    Refused,
    /// It answered something that is not Redfish.
    Protocol,
    /// Shadow mode: it was not sent.
    Shadow,
}

impl ErrorClass {
    /// What an operator can do about this class of failure, where nothing more exact is known.
    #[must_use]
    pub fn hint(self) -> &'static str {
        match self {
            Self::Unreachable => {
                "check ipmi/address and ipmi/port-redfish, and that this server has a route to the BMC's network"
            }
            Self::Timeout => {
                "the BMC may have done it all the same: look at its state, and reset the BMC if it stays deaf"
            }
            Self::Tls => "check that the port speaks HTTPS; if the BMC got a new certificate, pin that one",
            Self::Auth => "check ipmi/username and ipmi/password; wait before trying again, since BMCs lock users out",
            Self::Forbidden => "give the BMC user the rights for virtual media and power, and check the BMC's licence",
            Self::Unsupported => "check the BMC's model, firmware and licence",
            Self::Busy => "try again in a minute",
            Self::Failing => "look at the BMC's event log; a BMC reset often helps",
            Self::NotMounted => {
                "look at virtual media in the BMC's web page (licence, another session's media); a BMC reset often helps"
            }
            Self::Refused => "read the BMC's own words above",
            Self::Shadow => "nothing was sent; to let it be sent, take isobar/shadow and the server's shadow mode away",
            Self::Protocol => "check that ipmi/address and ipmi/port-redfish are those of a BMC that speaks Redfish",
        }
    }

    /// Whether the same request may succeed later with nothing changed by anybody.
    #[must_use]
    pub fn is_transient(self) -> bool {
        matches!(
            self,
            Self::Unreachable | Self::Timeout | Self::Busy | Self::Failing | Self::NotMounted | Self::Protocol
        )
    }
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

/// Messages (their last part) that say that images do not come by this scheme.
pub(crate) const OF_SCHEME: [&str; 3] = [
    "ResourceAtUriInUnknownFormat",
    "FileTransferProtocolMismatch",
    "SourceDoesNotSupportProtocol",
];

impl BmcError {
    /// An error with its class's hint.
    #[must_use]
    pub fn new(class: ErrorClass, what: &'static str, message: impl Into<String>) -> Self {
        Self {
            class,
            what,
            message: message.into(),
            message_id: None,
            status: None,
            hint: class.hint().to_owned(),
        }
    }

    /// Whether an insert that ended so may have failed because the BMC cannot reach the image.
    #[must_use]
    pub fn may_lack_route(&self) -> bool {
        use ErrorClass::{Failing, NotMounted, Refused, Timeout};
        let known = |id: &str| OF_SCHEME.iter().any(|known| known.eq_ignore_ascii_case(id));
        let of_scheme = self.message_id.as_deref().is_some_and(known);
        matches!(self.class, Failing | NotMounted | Refused | Timeout) && !of_scheme
    }

    /// The same with another hint.
    #[must_use]
    pub fn hinted(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }
}
