//! A command under way: settings, streams, and a connection once one is needed.

use std::cell::OnceCell;

use isobar_client::{Auth, Client, ClientError, Login, path};
use serde_json::Value;

use crate::host::Host;
use crate::settings::{Identity, Settings};
use crate::{CliError, Program};

/// A command under way.
pub(crate) struct Session<'a> {
    pub(crate) host: &'a Host,
    pub(crate) settings: &'a Settings,
    pub(crate) program: Program,
    client: OnceCell<Client>,
}

impl<'a> Session<'a> {
    pub(crate) fn new(host: &'a Host, settings: &'a Settings, program: Program) -> Self {
        Self {
            host,
            settings,
            program,
            client: OnceCell::new(),
        }
    }

    /// True when called as `isobar`: then we help where drpcli would not.
    pub(crate) fn helpful(&self) -> bool {
        self.program == Program::Isobar
    }

    /// The connection; logs in the first time. Of several endpoints the first that can be reached.
    pub(crate) fn client(&self) -> Result<&Client, CliError> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let mut unreachable = None;
        for endpoint in &self.settings.endpoints {
            match self.log_in(endpoint) {
                Ok(client) => return Ok(self.client.get_or_init(|| client)),
                Err(error @ ClientError::Unreachable { .. }) => unreachable = Some(error),
                Err(error) => return Err(error.into()),
            }
        }
        Err(unreachable.map_or_else(|| CliError::text("RS_ENDPOINTS names no server"), CliError::from))
    }

    fn log_in(&self, endpoint: &str) -> Result<Client, ClientError> {
        let client = Client::new(endpoint, Auth::None, self.settings.trust.clone())?;
        match &self.settings.identity {
            Identity::Token(token) => Ok(Login::with_token(&client, token.clone())?.client),
            Identity::Password {
                user,
                password,
                no_token: true,
            } => Ok(client.with_auth(Auth::Basic {
                user: user.clone(),
                password: password.clone(),
            })),
            Identity::Password {
                user,
                password,
                no_token: false,
            } => Ok(Login::with_password(&client, user, password, self.settings.cache.as_ref())?.client),
        }
    }

    /// GET of an object.
    pub(crate) fn get_object(&self, noun: &str, id: &str) -> Result<Value, CliError> {
        let client = self.client()?;
        client
            .get(&path!("api", "v3", noun, id))
            .map_err(|error| self.not_found_hint(noun, id, error))
    }

    /// Objects with a UUID for a key are known by name to people: says so when the name alone was given.
    pub(crate) fn not_found_hint(&self, noun: &str, id: &str, error: ClientError) -> CliError {
        let by_uuid = isobar_model::noun(noun).is_some_and(|row| row.key == isobar_model::table::KeyKind::Uuid);
        let about_it = matches!(&error, ClientError::Api(body) if body.code == 404 && body.key == id);
        if !(self.helpful() && by_uuid && about_it) || id.contains(':') {
            return error.into();
        }
        let named = self
            .client()
            .is_ok_and(|client| client.head(&path!("api", "v3", noun, format!("Name:{id}"))).is_ok());
        CliError::hinted(error, named.then(|| format!("Did you mean Name:{id}?")))
    }
}
