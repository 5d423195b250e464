//! Requests and answers.

use std::error::Error as _;
use std::io::{self, Read};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use ureq::http::{Method, Request as HttpRequest, Response as HttpResponse};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{Connector as _, TcpConnector};
use ureq::{Agent, Body, SendBody};

use crate::path::escape_query;
use crate::tls::TlsConnector;
use crate::{ApiErrorBody, Auth, ClientError, Endpoint, Secret, TlsTrust};

/// Headers of an answer.
pub use ureq::http::HeaderMap as Headers;

/// How long to wait for a connection, DNS and TLS included.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a server may stay silent unless [`Request::patience`] says otherwise. Actions on a BMC
/// are answered after a minute or more.
const PATIENCE: Duration = Duration::from_secs(180);
/// The longest JSON answer that is read: a list of some 100,000 machines.
const MAX_JSON: u64 = 1 << 30;
/// The longest error body that is looked at.
const MAX_ERROR: u64 = 1 << 20;

/// A connection pool to one server, under one identity. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    agent: Agent,
    endpoint: Endpoint,
    auth: Auth,
}

impl Client {
    /// Prepares requests to `endpoint`; nothing is sent yet.
    ///
    /// # Errors
    /// [`ClientError::Endpoint`] or [`ClientError::Fingerprint`] for what cannot be used.
    pub fn new(endpoint: &str, auth: Auth, trust: TlsTrust) -> Result<Self, ClientError> {
        let endpoint = Endpoint::parse(endpoint)?;
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // An API that redirects is not ours, and a token must not follow.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .user_agent(concat!("isobar/", env!("CARGO_PKG_VERSION")))
            .accept("application/json")
            .timeout_connect(Some(CONNECT))
            .timeout_per_write(Some(PATIENCE))
            .timeout_per_read(Some(PATIENCE))
            .build();
        let connector = ().chain(TcpConnector::default()).chain(TlsConnector(trust.config()?));
        Ok(Self {
            agent: Agent::with_parts(config, connector, DefaultResolver::default()),
            endpoint,
            auth,
        })
    }

    /// The same pool under another identity.
    #[must_use]
    pub fn with_auth(&self, auth: Auth) -> Self {
        Self { auth, ..self.clone() }
    }

    /// The token that requests are sent under, for programs that are started to talk to the same server.
    pub fn token(&self) -> Option<&Secret> {
        match &self.auth {
            Auth::Token(token) => Some(token),
            Auth::Basic { .. } | Auth::None => None,
        }
    }

    /// The server's address.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Begins a request. `path` is absolute and escaped, see [`path!`](crate::path!).
    pub fn request(&self, method: Method, path: &str) -> Request<'_> {
        Request {
            client: self,
            base: None,
            method,
            path: path.to_owned(),
            query: String::new(),
            headers: Vec::new(),
            patience: PATIENCE,
        }
    }

    /// GET, JSON answer.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.request(Method::GET, path).send()?.json()
    }

    /// POST of a JSON body, JSON answer.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn post<B: Serialize + ?Sized, T: DeserializeOwned>(&self, path: &str, body: &B) -> Result<T, ClientError> {
        self.request(Method::POST, path).send_json(body)?.json()
    }

    /// PATCH of a JSON body (RFC 6902 operations on DRP's routes), JSON answer.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn patch<B: Serialize + ?Sized, T: DeserializeOwned>(&self, path: &str, body: &B) -> Result<T, ClientError> {
        self.request(Method::PATCH, path).send_json(body)?.json()
    }

    /// PUT of a JSON body, JSON answer.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn put<B: Serialize + ?Sized, T: DeserializeOwned>(&self, path: &str, body: &B) -> Result<T, ClientError> {
        self.request(Method::PUT, path).send_json(body)?.json()
    }

    /// DELETE, JSON answer (DRP returns what was deleted; `null` where there is no body).
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.request(Method::DELETE, path).send()?.json()
    }

    /// HEAD: existence of an object, counts of a list.
    ///
    /// # Errors
    /// Any [`ClientError`]; 404 is one with [`ClientError::is_not_found`].
    pub fn head(&self, path: &str) -> Result<Headers, ClientError> {
        Ok(self.request(Method::HEAD, path).send()?.inner.into_parts().0.headers)
    }

    /// POST of a stream that is too large for memory: a bundle, an ISO.
    ///
    /// # Errors
    /// Any [`ClientError`]; an error of `body` comes as [`ClientError::Broken`].
    pub fn upload<T: DeserializeOwned>(
        &self,
        path: &str,
        content_type: &str,
        len: Option<u64>,
        body: &mut dyn Read,
    ) -> Result<T, ClientError> {
        self.request(Method::POST, path)
            .send_stream(content_type, len, body)?
            .json()
    }

    /// GET of a file of the static server, which asks for no credentials: plain HTTP on the same host.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn static_file(&self, port: u16, path: &str) -> Result<Response, ClientError> {
        let authority = self.endpoint.as_str().trim_start_matches("https://");
        let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
        // No TLS in between.
        let connector = ().chain(TcpConnector::default());
        let plain = Self {
            agent: Agent::with_parts(self.agent.config().clone(), connector, DefaultResolver::default()),
            ..self.clone()
        };
        let mut request = plain.request(Method::GET, path);
        request.base = Some(format!("http://{host}:{port}"));
        request.send()
    }

    /// GET of bytes, from `offset` on where it is not 0. The answer's [`Response::reader`] gives them;
    /// an answer of status 200 to an `offset` is the whole from its beginning.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn download(&self, path: &str, offset: u64) -> Result<Response, ClientError> {
        let mut request = self
            .request(Method::GET, path)
            .header("Accept", "*/*")
            // Ranges and lengths are those of the bytes themselves.
            .header("Accept-Encoding", "identity");
        if offset > 0 {
            request = request.header("Range", &format!("bytes={offset}-"));
        }
        request.send()
    }
}

/// A request in the making.
#[derive(Debug)]
#[must_use = "nothing is sent before one of the send methods"]
pub struct Request<'a> {
    client: &'a Client,
    /// Another server than the API, which gets no credentials.
    base: Option<String>,
    method: Method,
    path: String,
    query: String,
    headers: Vec<(String, String)>,
    patience: Duration,
}

impl Request<'_> {
    /// Adds `name=value` to the query.
    pub fn query(mut self, name: &str, value: &str) -> Self {
        self.query.push(if self.query.is_empty() { '?' } else { '&' });
        self.query.push_str(&escape_query(name));
        self.query.push('=');
        self.query.push_str(&escape_query(value));
        self
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// How long the server may stay silent (default 3 minutes).
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Sends it without a body.
    ///
    /// # Errors
    /// Any [`ClientError`]; a status of 300 and above is one.
    pub fn send(self) -> Result<Response, ClientError> {
        self.run(SendBody::none())
    }

    /// Sends it with a JSON body.
    ///
    /// # Errors
    /// Any [`ClientError`]; a status of 300 and above is one.
    pub fn send_json<B: Serialize + ?Sized>(self, body: &B) -> Result<Response, ClientError> {
        let bytes = serde_json::to_vec(body).map_err(ClientError::Encode)?;
        let len = u64::try_from(bytes.len()).ok();
        self.send_stream("application/json", len, &mut bytes.as_slice())
    }

    /// Sends it with a body of `len` bytes, or of unknown length (chunked).
    ///
    /// # Errors
    /// Any [`ClientError`]; a status of 300 and above is one.
    pub fn send_stream(
        self,
        content_type: &str,
        len: Option<u64>,
        body: &mut dyn Read,
    ) -> Result<Response, ClientError> {
        let mut request = self.header("Content-Type", content_type);
        if let Some(len) = len {
            request = request.header("Content-Length", &len.to_string());
        }
        request.run(SendBody::from_reader(body))
    }

    fn run(self, body: SendBody<'_>) -> Result<Response, ClientError> {
        let about = About {
            endpoint: self.client.endpoint.to_string(),
            method: self.method.to_string(),
            path: self.path.clone(),
            patience: self.patience,
        };
        let mut request = HttpRequest::builder().method(self.method).uri(match &self.base {
            Some(base) => format!("{base}{}{}", self.path, self.query),
            None => format!("{}{}{}", self.client.endpoint, self.path, self.query),
        });
        if let Some(auth) = self.client.auth.header().filter(|_| self.base.is_none()) {
            request = request.header("Authorization", auth);
        }
        for (name, value) in self.headers {
            request = request.header(name, value);
        }
        let request = request.body(body).map_err(|error| about.broken(error.to_string()))?;
        let request = self
            .client
            .agent
            .configure_request(request)
            .timeout_per_read(Some(self.patience))
            .build();
        let inner = self.client.agent.run(request).map_err(|error| about.error(error))?;
        let response = Response { inner, about };
        if response.status() < 300 || response.status() == 304 {
            Ok(response)
        } else {
            Err(response.into_error())
        }
    }
}

/// What errors have to say about the request.
#[derive(Debug)]
struct About {
    endpoint: String,
    method: String,
    path: String,
    patience: Duration,
}

impl About {
    fn broken(&self, why: String) -> ClientError {
        ClientError::Broken {
            endpoint: self.endpoint.clone(),
            method: self.method.clone(),
            path: self.path.clone(),
            why,
        }
    }

    fn error(&self, error: ureq::Error) -> ClientError {
        let endpoint = self.endpoint.clone();
        match error {
            ureq::Error::HostNotFound => ClientError::Unreachable {
                why: "the host name does not resolve".to_owned(),
                source: None,
                endpoint,
            },
            ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => ClientError::Unreachable {
                why: format!("no connection within {} s", CONNECT.as_secs()),
                source: None,
                endpoint,
            },
            ureq::Error::Timeout(_) => ClientError::Timeout {
                endpoint,
                method: self.method.clone(),
                path: self.path.clone(),
                after: self.patience,
            },
            ureq::Error::Rustls(error) => ClientError::Tls {
                endpoint,
                why: tls_reason(&error),
            },
            ureq::Error::Tls(why) => ClientError::Tls {
                endpoint,
                why: why.to_owned(),
            },
            ureq::Error::Io(error) => self.io(error),
            other => self.broken(other.to_string()),
        }
    }

    fn io(&self, error: io::Error) -> ClientError {
        // rustls reports through io::Error when it reads and writes by itself.
        if let Some(inner) = error.get_ref() {
            if let Some(tls) = inner.downcast_ref::<rustls::Error>() {
                return ClientError::Tls {
                    endpoint: self.endpoint.clone(),
                    why: tls_reason(tls),
                };
            }
            if inner.downcast_ref::<ureq::Error>().is_some() {
                return match error
                    .into_inner()
                    .and_then(|inner| inner.downcast::<ureq::Error>().ok())
                {
                    Some(inner) => self.error(*inner),
                    None => self.broken("unknown".to_owned()),
                };
            }
        }
        match error.kind() {
            io::ErrorKind::ConnectionRefused
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::AddrNotAvailable
            | io::ErrorKind::NetworkDown => ClientError::Unreachable {
                endpoint: self.endpoint.clone(),
                why: words(&error),
                source: Some(error),
            },
            io::ErrorKind::UnexpectedEof => self.broken("the server closed it".to_owned()),
            _ => {
                let mut why = words(&error);
                if let Some(source) = error.source() {
                    why = format!("{why}: {source}");
                }
                self.broken(why)
            }
        }
    }
}

/// "connection refused" rather than "Connection refused (os error 111)".
fn words(error: &io::Error) -> String {
    if error.raw_os_error().is_some() {
        error.kind().to_string()
    } else {
        error.to_string()
    }
}

fn tls_reason(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(rustls::CertificateError::ApplicationVerificationFailure) => {
            "the server shows another certificate than the one whose fingerprint is known".to_owned()
        }
        rustls::Error::InvalidMessage(_) => "what answers there does not speak TLS".to_owned(),
        other => other.to_string(),
    }
}

/// An answer whose body has not been read yet.
#[derive(Debug)]
pub struct Response {
    inner: HttpResponse<Body>,
    about: About,
}

impl Response {
    /// The HTTP status.
    pub fn status(&self) -> u16 {
        self.inner.status().as_u16()
    }

    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.inner.headers().get(name)?.to_str().ok()
    }

    /// Length of the body, where the server said it.
    pub fn content_length(&self) -> Option<u64> {
        self.header("Content-Length")?.parse().ok()
    }

    /// Reads the body as JSON; an empty one is `null`.
    ///
    /// # Errors
    /// [`ClientError::Decode`], or whatever breaks on the way.
    pub fn json<T: DeserializeOwned>(self) -> Result<T, ClientError> {
        let Self { inner, about } = self;
        let bytes = inner
            .into_body()
            .into_with_config()
            .limit(MAX_JSON)
            .read_to_vec()
            .map_err(|error| about.error(error))?;
        let text: &[u8] = if bytes.is_empty() { b"null" } else { &bytes };
        serde_json::from_slice(text).map_err(|source| ClientError::Decode {
            method: about.method,
            path: about.path,
            source,
        })
    }

    /// Reads the body as a stream of any length.
    pub fn reader(self) -> impl Read {
        self.inner.into_body().into_with_config().limit(u64::MAX).reader()
    }

    fn into_error(self) -> ClientError {
        let status = self.status();
        let Self { inner, about } = self;
        let bytes = inner
            .into_body()
            .into_with_config()
            .limit(MAX_ERROR)
            .read_to_vec()
            .unwrap_or_default();
        match serde_json::from_slice::<ApiErrorBody>(&bytes) {
            Ok(mut body) if !(body.kind.is_empty() && body.messages.is_empty()) => {
                if body.code == 0 {
                    body.code = status;
                }
                ClientError::Api(body)
            }
            _ => ClientError::Status {
                method: about.method,
                path: about.path,
                status,
            },
        }
    }
}
