//! Files from servers that are not ours: what an argument names by its URL.

use std::fmt;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use ureq::Agent;
use ureq::http::Uri;
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{Connector as _, TcpConnector};

use crate::tls::TlsConnector;

const CONNECT: Duration = Duration::from_secs(10);
/// How long a server may stay silent.
const PATIENCE: Duration = Duration::from_secs(60);
/// Steps from one path of a server to another.
const REDIRECTS: usize = 5;
/// Where systems keep the certificates that they trust, those of most of them first.
const ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Why a file could not be fetched.
#[derive(Debug, thiserror::Error)]
#[error("{url}: {why}")]
pub struct FetchError {
    url: String,
    why: String,
}

/// A file on its way.
pub struct Fetched {
    /// Its length in bytes, where the server says it.
    pub len: Option<u64>,
    /// Its bytes; ends with an error when fewer come than were announced.
    pub reader: Box<dyn Read>,
}

impl fmt::Debug for Fetched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetched")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

/// True for what [`fetch`] takes.
#[must_use]
pub fn is_url(text: &str) -> bool {
    ["http://", "https://"].iter().any(|scheme| text.starts_with(scheme))
}

/// GET of a file by `http` or `https`.
///
/// No credentials are sent. Certificates are checked against `roots` (PEM), by default the system's. A redirect is
/// followed on the same server alone: what was named is where it is fetched from.
///
/// # Errors
/// [`FetchError`] with what to do about it.
pub fn fetch(url: &str, roots: Option<&Path>) -> Result<Fetched, FetchError> {
    let failed = |why: String| FetchError {
        url: match url.rsplit_once('@') {
            Some((_, rest)) => format!("…@{rest}"),
            None => url.to_owned(),
        },
        why,
    };
    let mut uri: Uri = url.parse().map_err(|_| failed("it is not a URL".to_owned()))?;
    if uri
        .authority()
        .is_some_and(|authority| authority.as_str().contains('@'))
    {
        return Err(failed(
            "a URL with user and password shows them to everybody; fetch it first".to_owned(),
        ));
    }
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .user_agent(concat!("isobar/", env!("CARGO_PKG_VERSION")))
        .timeout_connect(Some(CONNECT))
        .timeout_per_write(Some(PATIENCE))
        .timeout_per_read(Some(PATIENCE))
        .build();
    let tcp = ().chain(TcpConnector::default());
    let agent = match uri.scheme_str() {
        Some("https") => {
            let tls = TlsConnector(trust(roots).map_err(failed)?);
            Agent::with_parts(config, tcp.chain(tls), DefaultResolver::default())
        }
        _ => Agent::with_parts(config, tcp, DefaultResolver::default()),
    };
    for _ in 0..=REDIRECTS {
        let request = agent
            .get(uri.clone())
            .header("Accept", "*/*")
            .header("Accept-Encoding", "identity");
        let answer = request.call().map_err(|error| {
            let hint = match error.to_string().contains("certificate") {
                true => "; if you trust it, name the file of its CA in SSL_CERT_FILE",
                false => "",
            };
            failed(format!("{error}{hint}"))
        })?;
        let status = answer.status();
        let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
        if status == 200 {
            let len = header("Content-Length").and_then(|len| len.parse().ok());
            return Ok(Fetched {
                len,
                reader: Box::new(answer.into_body().into_reader()),
            });
        }
        let Some(location) = header("Location").filter(|_| status.is_redirection()) else {
            return Err(failed(format!("the server answered {status}")));
        };
        let next =
            resolve(&uri, location).ok_or_else(|| failed(format!("it leads to {location:?}, which is no URL")))?;
        if next.scheme() != uri.scheme() || next.authority() != uri.authority() {
            return Err(failed(format!(
                "it leads to another server: {next}. Name that one if it is the right one"
            )));
        }
        uri = next;
    }
    Err(failed("it leads from one place to the next".to_owned()))
}

/// Where a `Location` leads (RFC 3986 §5.2, as far as servers use it).
fn resolve(from: &Uri, location: &str) -> Option<Uri> {
    if location.contains("://") {
        return location.parse().ok();
    }
    let base = format!("{}://{}", from.scheme_str()?, from.authority()?);
    let path = match location.strip_prefix('/') {
        Some(path) if path.starts_with('/') => return None,
        Some(path) => format!("/{path}"),
        None => format!("{}/{location}", from.path().rsplit_once('/')?.0),
    };
    format!("{base}{path}").parse().ok()
}

fn trust(roots: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
    let file = match roots {
        Some(file) => Some(file),
        None => ROOTS.iter().map(Path::new).find(|file| file.is_file()),
    };
    let file = file.ok_or("this system has no list of trusted certificates: name one in SSL_CERT_FILE")?;
    let mut store = RootCertStore::empty();
    let shown = file.display();
    let found = CertificateDer::pem_file_iter(file).map_err(|error| format!("{shown}: {error}"))?;
    store.add_parsable_certificates(found.filter_map(Result::ok));
    if store.is_empty() {
        return Err(format!("{shown} holds no certificates"));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(store)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

impl Fetched {
    /// All of it as bytes.
    ///
    /// # Errors
    /// When it is longer than `limit` bytes, or breaks off.
    pub fn into_bytes(self, limit: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let too_long = |len: u64| len > limit;
        if !self.len.is_some_and(too_long) {
            self.reader.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
        }
        match self.len.is_some_and(too_long) || u64::try_from(bytes.len()).is_ok_and(too_long) {
            true => Err(io::Error::other(format!("it is longer than {limit} bytes"))),
            false => Ok(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn redirects_are_resolved() {
        let from: Uri = "http://h:80/a/b".parse().unwrap();
        for (location, to) in [
            ("/c", Some("http://h:80/c")),
            ("c?d", Some("http://h:80/a/c?d")),
            ("https://g/x", Some("https://g/x")),
            ("//g/x", None),
        ] {
            assert_eq!(
                resolve(&from, location).map(|uri| uri.to_string()).as_deref(),
                to,
                "{location}"
            );
        }
    }

    #[test]
    fn passwords_in_urls_are_neither_used_nor_shown() {
        let error = fetch("http://u:hunter2@127.0.0.1:1/x", None).unwrap_err().to_string();
        assert!(
            error.contains("user and password") && !error.contains("hunter2"),
            "{error}"
        );
    }
}
