//! Who speaks: the login, its session, and its end.

use std::time::{Duration, Instant};

use reqwest::Method;
use reqwest::header::HeaderValue;
use serde_json::{Value, json};

use super::{Login, Reply, Transport};
use crate::redfish::json;
use crate::redfish::message;
use crate::{BmcError, ErrorClass};

/// How long a logout may take.
const LOGOUT: Duration = Duration::from_secs(10);

impl Transport {
    /// Logs in: a session, else Basic where there are no sessions or too many.
    pub(crate) async fn log_in(&mut self) -> Result<(), BmcError> {
        if let Login::Wrong(error) = &self.login {
            return Err(error.clone());
        }
        let mut places = self.sessions.clone().into_iter();
        let Some(first) = places.next() else {
            self.login = Login::Basic;
            return Ok(());
        };
        let mut uri = self.local(&first)?;
        let mut body = json!({
            "UserName": self.endpoint.username,
            "Password": self.endpoint.password.reveal(),
        });
        if let Some(oem) = self.session_oem.and_then(|oem| serde_json::from_str::<Value>(oem).ok()) {
            body["Oem"] = oem;
        }
        let (mut waits, mut not_now) = (0, None);
        loop {
            self.login = Login::Not;
            let reply = match self.send(Method::POST, &uri, Some(&body), None, true).await {
                Ok(reply) => reply,
                // The time ran out over "not now": that says more than the silence at its end.
                Err(err) if err.class == ErrorClass::Timeout && self.is_over() => return Err(not_now.unwrap_or(err)),
                Err(err) => return Err(err),
            };
            if (200..300).contains(&reply.status) {
                return self.logged_in(reply);
            }
            if message::is_session_limit(&reply.messages) {
                tracing::info!(bmc = %self.name, "no session is free on the BMC: using Basic authentication");
                self.login = Login::Basic;
                return Ok(());
            }
            let pause = reply.retry_after.unwrap_or(Duration::from_secs(5));
            let pause = pause.min(self.options.longest_wait);
            match reply.status {
                404 | 405 | 501 => match places.next() {
                    // Linked, and not there: it may be at its usual place.
                    Some(next) => uri = self.local(&next)?,
                    None => {
                        self.login = Login::Basic;
                        return Ok(());
                    }
                },
                401 | 403 => return Err(self.wrong_login("POST", &uri, &reply)),
                // A login that is refused as such is never repeated: BMCs count and lock users out.
                503 if waits < 3 && Instant::now() + pause < self.deadline => {
                    waits += 1;
                    not_now = Some(self.refusal("POST", &uri, &reply));
                    tokio::time::sleep(pause).await;
                }
                _ => return Err(self.refusal("POST", &uri, &reply)),
            }
        }
    }

    pub(super) fn logged_in(&mut self, reply: Reply) -> Result<(), BmcError> {
        let session = match reply.location.or_else(|| json::link(&reply.body, &[])) {
            Some(uri) => Some(self.local(&uri)?),
            None => None,
        };
        self.logins = self.logins.saturating_add(1);
        (self.emptied, self.system) = (None, None);
        self.login = match reply.token.as_deref().map(HeaderValue::from_str) {
            Some(Ok(mut token)) => {
                token.set_sensitive(true);
                self.redactor.hide(reply.token.as_deref().unwrap_or_default());
                Login::Token { token, session }
            }
            _ => Login::Basic,
        };
        Ok(())
    }

    pub(super) fn wrong_login(&mut self, method: &str, uri: &str, reply: &Reply) -> BmcError {
        let mut error = self.refusal(method, uri, reply);
        error.class = ErrorClass::Auth;
        let user = &self.endpoint.username;
        let words = message::words(&reply.messages, &Value::Null);
        let said = if words.is_empty() {
            String::new()
        } else {
            format!(" It says: {}", self.redactor.text(&words))
        };
        error.message = format!(
            "BMC {}: user {user:?} or its password is wrong ({}).{said}",
            self.name, reply.status
        );
        error.hint = ErrorClass::Auth.hint().to_owned();
        self.login = Login::Wrong(error.clone());
        error
    }

    /// Logged in, logged in again, and refused both times: the login is right, what it gave is not kept.
    pub(super) fn lost_session(&self, method: &Method, uri: &str) -> BmcError {
        let text = format!("it took the login, and answered {method} {uri} with 401 as if nobody had logged in, twice");
        let mut error = self
            .error(ErrorClass::Failing, text)
            .hinted("user and password are right; the BMC loses its sessions: a BMC reset often helps");
        error.status = Some(401);
        error
    }

    /// Where the BMC lists its sessions.
    pub(crate) fn session_list(&self) -> Option<String> {
        self.sessions.first().cloned()
    }

    pub(crate) fn user(&self) -> &str {
        &self.endpoint.username
    }

    /// Whether a session is the one of this conversation.
    pub(crate) fn is_own_session(&self, uri: &str) -> bool {
        matches!(&self.login, Login::Token { session: Some(own), .. } if json::same_uri(own, uri))
    }

    /// The BMC has forgotten it.
    pub(crate) fn forget_login(&mut self) {
        self.login = Login::Not;
    }

    /// Ends the session. Best effort, with a short deadline of its own.
    pub(crate) async fn log_out(&mut self) {
        if let Login::Token {
            session: Some(session), ..
        } = &self.login
        {
            let session = session.clone();
            self.begin("log out");
            self.deadline = Instant::now() + LOGOUT;
            // Sessions are few: a BMC that fails to end one is asked once more.
            for _ in 0..2 {
                match self.send(Method::DELETE, &session, None, None, true).await {
                    Ok(reply) if reply.status >= 500 => {}
                    Ok(_) => break,
                    Err(err) => {
                        tracing::debug!(bmc = %self.name, %err, "could not log out");
                        break;
                    }
                }
            }
        }
        // A login that was refused stays refused.
        if !matches!(self.login, Login::Wrong(_)) {
            self.login = Login::Not;
        }
    }
}

/// A conversation that was dropped in its middle logs out all the same: a BMC has few sessions, and keeps
/// them for minutes.
impl Drop for Transport {
    fn drop(&mut self) {
        let Login::Token {
            token,
            session: Some(session),
        } = &self.login
        else {
            return;
        };
        if let (Ok(runtime), Ok(url)) = (tokio::runtime::Handle::try_current(), self.endpoint.url.join(session)) {
            let request = self
                .client
                .delete(url)
                .header("X-Auth-Token", token.clone())
                .timeout(LOGOUT);
            runtime.spawn(request.send());
        }
    }
}
