//! Who asks, and whether they may.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::header::{AUTHORIZATION, SEC_WEBSOCKET_KEY};
use isobar_model::ApiError;
use isobar_objects::{Objects, Principal};

use crate::call::Call;
use crate::routes::{Access, On};

/// Why a request is not let in.
pub(crate) enum Refusal {
    /// 401.
    NoCredentials,
    /// 403 without a body.
    WrongPassword,
    /// An error with a body.
    Error(ApiError),
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self::Error(error)
    }
}

/// Finds out who asks and checks that they may call a route.
pub(crate) async fn admit(call: &mut Call, access: Access) -> Result<(), Refusal> {
    if access == Access::Open {
        return Ok(());
    }
    let who = authenticate(call).await?.at(&call.source());
    match access {
        Access::Open | Access::Known => {}
        Access::Agent => {
            if who.machine().is_none() {
                return Err(denied("machines", "", "only the agent of a machine may do this").into());
            }
        }
        Access::Right { scope, action, on } => authorise(call, &who, scope, action, on).await?,
        Access::Action { scope } => {
            let one = format!("action:{}", call.param("command"));
            authorise(call, &who, scope, &one, On::Key).await?;
        }
    }
    call.who = Some(who);
    Ok(())
}

/// Whether `who` may do this to the object whose own key is `key`; `""` for objects in general.
///
/// # Errors
/// 403 that names the right.
pub(crate) fn check(who: &Principal, scope: &str, action: &str, key: &str) -> Result<(), ApiError> {
    if who.allows(scope, action, key) {
        return Ok(());
    }
    let message = format!("{} does not have the right {scope}:{action} here", who.name());
    Err(denied(scope, key, &message))
}

async fn authorise(call: &Call, who: &Principal, scope: &str, action: &str, on: On) -> Result<(), ApiError> {
    let key = match on {
        On::Some => return Ok(()),
        On::All => None,
        On::Key | On::Part => Some(call.key()),
        On::MachineQuery => call.query.get("machine"),
    };
    // A machine sees its own jobs alone, and whoever has logged in may stay so.
    if scope == "jobs" && who.machine().is_some() && matches!(on, On::Key | On::Part) {
        own_job(call, who).await?;
    }
    if scope == "users" && action == "token" && who.user().is_some_and(|user| Some(user) == key) {
        return Ok(());
    }
    // Most hold the right on all objects: no need to know which one it is.
    if who.allows(scope, action, "") {
        return Ok(());
    }
    let Some(key) = key else {
        return check(who, scope, action, "");
    };
    let own_key = match call.resolve(scope, key).await {
        Ok(own_key) => own_key,
        // Whether it exists is nothing that the caller may learn.
        Err(error) if error.code == 404 => key.to_owned(),
        Err(error) => return Err(error),
    };
    // Of what is changed then, the objects look at each part.
    if on == On::Part && who.allows_some_update(scope, &own_key) {
        return Ok(());
    }
    check(who, scope, action, &own_key).map_err(|error| error.with_key(key))
}

/// Whether `who` may see the secrets of an object, which is put on record.
///
/// # Errors
/// 403 that names the right.
pub(crate) fn check_decode(objects: &Objects, who: &Principal, scope: &str, key: &str) -> Result<(), ApiError> {
    check(who, scope, "getSecure", key)?;
    objects.note(who.audit("getSecure", scope, key, ""));
    Ok(())
}

async fn own_job(call: &Call, who: &Principal) -> Result<(), ApiError> {
    let key = call.key().to_owned();
    let job = call.app.objects.run(move |objects| objects.find("jobs", &key)).await?;
    match job {
        Some(job) if who.machine() == job.get("Machine").and_then(|uuid| uuid.as_str()) => Ok(()),
        _ => Err(denied("jobs", call.key(), "a machine sees its own jobs alone")),
    }
}

fn denied(scope: &str, key: &str, message: &str) -> ApiError {
    ApiError::new(403, "AUTH", scope, key, message)
}

async fn authenticate(call: &Call) -> Result<Principal, Refusal> {
    let Some(header) = call.headers.get(AUTHORIZATION) else {
        // Who opens a websocket cannot always set headers. The query is in no log.
        let token = call
            .query
            .get("token")
            .filter(|_| call.headers.contains_key(SEC_WEBSOCKET_KEY));
        return match token {
            Some(token) => bearer(call, token.to_owned()).await,
            None => Err(Refusal::NoCredentials),
        };
    };
    let refused = || Refusal::Error(ApiError::token_refused());
    let (scheme, value) = header
        .to_str()
        .ok()
        .and_then(|text| text.trim().split_once(' '))
        .ok_or_else(refused)?;
    let value = value.trim().to_owned();
    let from = call.source();
    if scheme.eq_ignore_ascii_case("bearer") {
        return bearer(call, value).await;
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(refused());
    }
    let clear = BASE64_STANDARD
        .decode(value)
        .ok()
        .and_then(|b| String::from_utf8(b).ok());
    let Some((user, password)) = clear.as_deref().and_then(|c| c.split_once(':')) else {
        return Err(Refusal::WrongPassword);
    };
    let (user, password) = (user.to_owned(), password.to_owned());
    // Never closed, so this waits for a turn and nothing else.
    let turn = call.app.logins.clone().acquire_owned().await;
    let checked = call
        .app
        .objects
        .run(move |o| {
            let _turn = turn;
            o.authenticate(&user, &password, &from)
        })
        .await;
    checked.map_err(|error| {
        if error.code == 403 {
            Refusal::WrongPassword
        } else {
            Refusal::Error(error)
        }
    })
}

async fn bearer(call: &Call, token: String) -> Result<Principal, Refusal> {
    if let Some(who) = call.app.objects.verified_before(&token) {
        return Ok(who);
    }
    let from = call.source();
    let verified = call.app.objects.run(move |o| {
        let verified = o.verify(&token);
        if verified.as_ref().is_err_and(|error| error.code == 403) {
            o.note_refused_token(&from);
        }
        verified
    });
    Ok(verified.await?)
}
