//! What an exchange that brought no answer says of the BMC and the way to it.

use std::time::Duration;

use reqwest::Method;

use super::Transport;
use crate::redfish::tls;
use crate::{BmcError, ErrorClass};

/// ENETUNREACH, in the words of the C library.
const NO_ROUTE: &str = "Network is unreachable";

pub(super) enum Failure {
    Http(reqwest::Error),
    TooLong,
    NotJson(u16),
    /// It was not sent.
    Shadow,
}

impl From<reqwest::Error> for Failure {
    fn from(err: reqwest::Error) -> Self {
        Self::Http(err)
    }
}

impl Transport {
    pub(super) fn failure(&self, failure: Failure, method: &Method, uri: &str, limit: Duration) -> BmcError {
        let seconds = limit.as_secs_f64().ceil();
        let err = match failure {
            Failure::TooLong => {
                return self.error(ErrorClass::Protocol, format!("the answer to {method} {uri} has no end"));
            }
            Failure::NotJson(status) => {
                return self.error(
                    ErrorClass::Protocol,
                    format!("the answer to {method} {uri} ({status}) is not JSON"),
                );
            }
            Failure::Shadow => {
                return self.error(ErrorClass::Shadow, format!("shadow mode: would send {method} {uri}"));
            }
            Failure::Http(err) => err,
        };
        let causes = chain(&err);
        if let Some(tls) = tls_error(&err) {
            let mismatch = matches!(
                tls,
                rustls::Error::InvalidCertificate(rustls::CertificateError::ApplicationVerificationFailure)
            );
            return match (mismatch, self.shown.get()) {
                (true, Some(shown)) => self
                    .error(
                        ErrorClass::Tls,
                        format!("its certificate is not the pinned one: it has SHA-256 {}", shown.fingerprint),
                    )
                    .hinted(
                        "if the BMC got a new certificate, set isobar/bmc-tls to that fingerprint; else somebody may stand between",
                    ),
                _ => {
                    let (text, hint) = tls::verdict(&tls);
                    let error = self.error(ErrorClass::Tls, text);
                    match hint {
                        Some(hint) => error.hinted(hint),
                        None => error,
                    }
                }
            };
        }
        if causes.contains("tls handshake") {
            let text = format!("it ended the TLS handshake: {causes}");
            return self.error(ErrorClass::Tls, text).hinted(
                "the port may speak plain HTTP (write http://HOST:PORT in ipmi/address), or only TLS older than 1.2",
            );
        }
        if err.is_connect() {
            let text = if err.is_timeout() {
                "no answer to the connection".to_owned()
            } else {
                format!("no connection: {causes}")
            };
            let error = self.error(ErrorClass::Unreachable, text);
            match causes.contains(NO_ROUTE) {
                true => error.hinted(format!(
                    "this server has no route to it: correct ipmi/address, or add a route (`ip route get {}` shows what the host knows)",
                    self.endpoint.url.host_str().unwrap_or_default().trim_matches(['[', ']'])
                )),
                false => error,
            }
        } else if err.is_timeout() {
            self.unanswered(method, format!("no answer to {method} {uri} within {seconds} s"))
        } else if causes.contains("invalid HTTP") || causes.contains("parse") {
            self.error(
                ErrorClass::Protocol,
                format!("no HTTP in the answer to {method} {uri}: {causes}"),
            )
            .hinted("check the scheme: an address without one means https")
        } else {
            // Reset or ended in the middle: what was asked may have happened, as with no answer.
            let text = format!("the connection was closed before {method} {uri} was answered: {causes}");
            self.unanswered(method, text)
        }
    }

    fn unanswered(&self, method: &Method, text: String) -> BmcError {
        let error = self.error(ErrorClass::Timeout, text);
        match *method {
            // What only reads has done nothing.
            Method::GET => error.hinted("look at the BMC's web page, and reset the BMC if it stays deaf"),
            _ => error,
        }
    }
}

/// An error with its causes, each once.
pub(super) fn chain(err: &dyn std::error::Error) -> String {
    let mut texts = vec![err.to_string()];
    let mut source = err.source();
    while let Some(err) = source {
        let text = err.to_string();
        if !texts.iter().any(|t| t.contains(&text)) {
            texts.push(text);
        }
        source = err.source();
    }
    // The first is reqwest's "error sending request for url (…)", which names the URL again.
    if texts.len() > 1 {
        texts.remove(0);
    }
    texts.join(": ")
}

/// The TLS error among the causes. An `io::Error` hides what it wraps from `source`.
fn tls_error(err: &(dyn std::error::Error + 'static)) -> Option<rustls::Error> {
    if let Some(tls) = err.downcast_ref::<rustls::Error>() {
        return Some(tls.clone());
    }
    let wrapped = err.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    match wrapped {
        Some(inner) => tls_error(inner),
        None => err.source().and_then(tls_error),
    }
}
