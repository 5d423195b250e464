//! A command under way: settings, streams, and a connection once one is needed.

use std::cell::OnceCell;

use isobar_client::{ApiErrorBody, Auth, Client, ClientError, Login, Method, path};
use isobar_model::table::KeyKind;
use serde_json::Value;

use crate::host::Host;
use crate::nearest::nearest;
use crate::settings::{Identity, Settings};
use crate::{CliError, Program};

/// A command under way.
pub(crate) struct Session<'a> {
    pub(crate) host: &'a Host,
    pub(crate) settings: &'a Settings,
    pub(crate) program: Program,
    /// Commands of the binary's own.
    pub(crate) extra: &'a [clap::Command],
    client: OnceCell<Client>,
}

impl<'a> Session<'a> {
    pub(crate) fn new(host: &'a Host, settings: &'a Settings, program: Program, extra: &'a [clap::Command]) -> Self {
        Self {
            host,
            settings,
            program,
            extra,
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
        let client = self.connect()?;
        Ok(self.client.get_or_init(|| client))
    }

    /// A connection with a token that is good now.
    pub(crate) fn connect(&self) -> Result<Client, ClientError> {
        let mut unreachable = None;
        for endpoint in &self.settings.endpoints {
            match self.log_in(endpoint) {
                Err(error @ ClientError::Unreachable { .. }) => unreachable = Some(error),
                result => return result,
            }
        }
        Err(unreachable.unwrap_or_else(|| ClientError::Endpoint {
            endpoint: String::new(),
            why: "RS_ENDPOINTS names no server".to_owned(),
        }))
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

    /// What was probably meant by a name that is not there: by the bare name of what is known by its UUID, or by a
    /// name that is nearly one of those.
    pub(crate) fn not_found_hint(&self, noun: &str, id: &str, error: ClientError) -> CliError {
        let row = isobar_model::noun(noun).filter(|row| matches!(row.key, KeyKind::Uuid | KeyKind::Name | KeyKind::Id));
        let about_it = matches!(&error, ClientError::Api(body) if body.code == 404 && body.key == id && plainly(body));
        let Some(row) = row.filter(|_| self.helpful() && about_it) else {
            return error.into();
        };
        // What has a UUID is called Name:x, all else by its name.
        let index = if row.key == KeyKind::Uuid { "Name:" } else { "" };
        let exists = |id: &str| {
            self.client()
                .is_ok_and(|client| client.head(&path!("api", "v3", noun, id)).is_ok())
        };
        let hint = match id.split_once(':') {
            None if !index.is_empty() && exists(&format!("Name:{id}")) => Some(format!("Did you mean Name:{id}?")),
            None | Some(("Name", _)) => self
                .similar(noun, id.strip_prefix("Name:").unwrap_or(id))
                .map(|name| format!("Did you mean {index}{name}?")),
            Some(_) => None,
        };
        let hint = hint.unwrap_or_else(|| format!("`isobar {noun} list` shows those that there are"));
        CliError::hinted(error, Some(hint))
    }

    /// What an answer of Isobar's own calls is; where there is no such thing, which command lists them.
    pub(crate) fn listed<T>(&self, noun: &str, answer: Result<T, ClientError>) -> Result<T, CliError> {
        answer.map_err(|error| {
            let missing = matches!(&error, ClientError::Api(body) if body.code == 404 && plainly(body));
            let hint = || format!("`isobar {noun} list` shows those that there are");
            CliError::hinted(error, missing.then(hint))
        })
    }

    /// An object of nearly this name.
    pub(crate) fn similar(&self, noun: &str, name: &str) -> Option<String> {
        let all: Vec<Value> = self
            .client()
            .ok()?
            .request(Method::GET, &path!("api", "v3", noun))
            .query("slim", "Params,Meta")
            .send()
            .ok()?
            .json()
            .ok()?;
        let member = isobar_model::noun(noun).map_or("Name", |row| match row.key {
            KeyKind::Id => "ID",
            _ => "Name",
        });
        let names = all.iter().filter_map(|object| object[member].as_str());
        nearest(name, names).map(str::to_owned)
    }
}

/// The object itself is missing, and not something of it, such as an action.
fn plainly(body: &ApiErrorBody) -> bool {
    body.messages.iter().all(|message| message == "Not Found")
}
