//! The address of the server.

use std::fmt;

use ureq::http::Uri;

use crate::ClientError;

/// Scheme, host and port of an API server, `https://127.0.0.1:8092`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint(String);

impl Endpoint {
    /// Reads an address; one without a scheme is taken as `https`.
    ///
    /// # Errors
    /// [`ClientError::Endpoint`] for anything but https, and for an address that has a path, a query
    /// or a user in it: a password belongs into `RS_KEY`, where no log and no process list shows it.
    pub fn parse(text: &str) -> Result<Self, ClientError> {
        let bad = |why: &str| ClientError::Endpoint {
            endpoint: match text.rsplit_once('@') {
                Some((_, host)) => format!("…@{host}"),
                None => text.to_owned(),
            },
            why: why.to_owned(),
        };
        let text = text.trim();
        let full = match text.split_once("://") {
            Some(("https", _)) => text.to_owned(),
            Some((scheme, _)) => return Err(bad(&format!("the API is served over https, not {scheme}"))),
            None => format!("https://{text}"),
        };
        if full.contains('@') {
            return Err(bad("give user and password in RS_KEY, not in the address"));
        }
        let uri: Uri = full.parse().map_err(|_| bad("it is not a URL"))?;
        let authority = uri.authority().ok_or_else(|| bad("it names no host"))?;
        if authority.host().is_empty() {
            return Err(bad("it names no host"));
        }
        if uri.query().is_some() || !matches!(uri.path(), "" | "/") {
            return Err(bad("it must end after the port"));
        }
        Ok(Self(format!("https://{authority}")))
    }

    /// The address as text, without a slash at its end.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn accepts_what_users_write() {
        for (text, endpoint) in [
            ("https://127.0.0.1:8092", "https://127.0.0.1:8092"),
            ("https://drp.example.net:8092/", "https://drp.example.net:8092"),
            ("drp:8092", "https://drp:8092"),
            ("https://[fd00::1]:8092", "https://[fd00::1]:8092"),
        ] {
            assert_eq!(Endpoint::parse(text).unwrap().as_str(), endpoint);
        }
    }

    #[test]
    fn refuses_the_rest_and_says_why() {
        for (text, why) in [
            ("http://127.0.0.1:8092", "over https"),
            ("https://u:hunter2@h:1", "RS_KEY"),
            ("https://", "not a URL"),
            ("https://h:1/api/v3", "end after the port"),
            ("", "not a URL"),
        ] {
            let error = Endpoint::parse(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
            assert!(!error.contains("hunter2"));
        }
    }
}
