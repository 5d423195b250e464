//! The API client that the command line and the agent share: blocking, HTTP/1.1 over TLS, small.
//!
//! [`Client`] speaks DRP's REST API and our own routes: JSON in and out, streams for what is large,
//! DRP's error bodies as [`ClientError::Api`]. [`Login`] is drpcli's way to a token: a cached one
//! while it is good, else password, token, and a second token that is cached.
//!
//! ```no_run
//! use isobar_client::{Auth, Client, TlsTrust, path};
//! # fn main() -> Result<(), isobar_client::ClientError> {
//! let client = Client::new("https://127.0.0.1:8092", Auth::None, TlsTrust::Insecure)?
//!     .with_auth(Auth::basic("rocketskates", "from a file"));
//! let machine: serde_json::Value = client.get(&path!("api", "v3", "machines", "Name:mach-01"))?;
//! # Ok(()) }
//! ```

mod auth;
mod client;
mod endpoint;
mod error;
mod fetch;
mod login;
mod path;
mod tls;

pub use auth::{Auth, Secret};
pub use client::{Client, Headers, Request, Response};
pub use endpoint::Endpoint;
pub use error::{ApiErrorBody, ClientError};
pub use fetch::{FetchError, Fetched, fetch, is_url};
pub use login::{Login, TokenCache};
pub use path::{escape_rest, escape_segment};
pub use tls::TlsTrust;

/// Methods for [`Client::request`].
pub use ureq::http::Method;
