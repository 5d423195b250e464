//! drpcli's way to a token (drp-api §1): the cached one while the server takes it, else user and
//! password for a token, and with that a second one, valid for two hours, which is cached.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::{Auth, Client, ClientError, Endpoint, Method, Secret, path};

/// How long a cached token is to live, in seconds.
const CACHED_TTL: &str = "7200";

/// Tokens in files of mode 0600, one for each server and user.
#[derive(Clone, Debug)]
pub struct TokenCache {
    folder: PathBuf,
}

impl TokenCache {
    /// A cache in `folder`, which is made (0700) when the first token is kept.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    fn file(&self, endpoint: &Endpoint, user: &str) -> PathBuf {
        let safe = |text: &str| -> String {
            text.chars()
                .map(|c| {
                    if c.is_alphanumeric() || "-_.".contains(c) {
                        c
                    } else {
                        '_'
                    }
                })
                .collect()
        };
        let host = endpoint.as_str().trim_start_matches("https://");
        self.folder.join(format!(".{}.{}.token", safe(host), safe(user)))
    }

    /// The token of an earlier command. A file that others could have written is not believed.
    fn load(&self, endpoint: &Endpoint, user: &str) -> Option<Secret> {
        let file = self.file(endpoint, user);
        let mode = fs::metadata(&file).ok()?.permissions().mode();
        if mode & 0o077 != 0 {
            return None;
        }
        let text = fs::read_to_string(file).ok()?;
        let text = text.trim();
        (!text.is_empty()).then(|| Secret::new(text))
    }

    fn save(&self, endpoint: &Endpoint, user: &str, token: &Secret) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        let file = self.file(endpoint, user);
        // Another command may read at any time: it must see a whole token.
        let new = file.with_extension(format!("{}.new", std::process::id()));
        let written = write_private(&new, token).and_then(|()| fs::rename(&new, &file));
        if written.is_err() {
            let _ = fs::remove_file(&new);
        }
        written
    }
}

fn write_private(file: &Path, token: &Secret) -> io::Result<()> {
    let mut out = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(file)?;
    out.write_all(token.expose().as_bytes())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TokenAnswer {
    token: String,
    #[serde(default)]
    info: Value,
}

/// A client that is logged in, and what the server said about itself.
#[derive(Debug)]
pub struct Login {
    /// Sends under the token.
    pub client: Client,
    /// The server's info object (drp-api §16).
    pub info: Value,
}

impl Login {
    /// Logs in with user and password; with a cache the way of drpcli.
    ///
    /// A cache that cannot be written costs a login the next time, nothing else.
    ///
    /// # Errors
    /// [`ClientError::Login`] when the server refuses; whatever else fails on the way.
    pub fn with_password(
        client: &Client,
        user: &str,
        password: &Secret,
        cache: Option<&TokenCache>,
    ) -> Result<Self, ClientError> {
        let endpoint = client.endpoint().clone();
        if let Some(token) = cache.and_then(|cache| cache.load(&endpoint, user)) {
            let cached = client.with_auth(Auth::Token(token));
            match cached.get("/api/v3/info") {
                Ok(info) => return Ok(Self { client: cached, info }),
                Err(error) if error.status().is_some() => {} // stale: log in again
                Err(error) => return Err(error),
            }
        }
        let route = path!("api", "v3", "users", user, "token");
        let basic = client.with_auth(Auth::Basic {
            user: user.to_owned(),
            password: password.clone(),
        });
        let first: TokenAnswer = basic.get(&route).map_err(|error| match error {
            // DRP's answer to a wrong password has no body; an answer with one says more than we can.
            ClientError::Status { status: 401 | 403, .. } => ClientError::Login {
                endpoint: endpoint.to_string(),
                user: user.to_owned(),
            },
            error => error,
        })?;
        let client = client.with_auth(Auth::token(first.token));
        let Some(cache) = cache else {
            return Ok(Self {
                client,
                info: first.info,
            });
        };
        let second: TokenAnswer = client
            .request(Method::GET, &route)
            .query("ttl", CACHED_TTL)
            .send()?
            .json()?;
        let token = Secret::new(second.token);
        let _ = cache.save(&endpoint, user, &token);
        Ok(Self {
            client: client.with_auth(Auth::Token(token)),
            info: second.info,
        })
    }

    /// Takes a token that the user brought, and asks the server whether it is good.
    ///
    /// # Errors
    /// Whatever the server says to it.
    pub fn with_token(client: &Client, token: Secret) -> Result<Self, ClientError> {
        let client = client.with_auth(Auth::Token(token));
        let info = client.get("/api/v3/info")?;
        Ok(Self { client, info })
    }
}
