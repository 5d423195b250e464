//! Tokens and passwords.

use std::time::Duration;

use http::{Method, StatusCode};
use isobar_model::ApiError;
use isobar_objects::UserTokenRequest;
use serde::Deserialize;
use serde_json::json;

use super::doc::{Query, Shape, query};
use super::{Access, On, Table, info, right};
use crate::call::Call;
use crate::reply::{self, Answer};

/// Life of a token when nobody says how long, in seconds.
const DEFAULT_TTL: u64 = 3600;

pub(super) fn add(table: &mut Table) {
    table.noun = isobar_model::noun("users");
    table
        .add(
            Method::GET,
            "/api/v3/users/{key}/token",
            right("users", "token", On::Key),
            token,
        )
        .is("Makes a token.")
        .asks(&[
            TTL,
            query("roles", "string", "Only these roles, with commas between."),
            query("scope", "string", "Only this scope."),
            query("action", "string", "Only this action."),
            query("specific", "string", "Only these keys."),
        ])
        .gives(200, Shape::of("Token"))
        .refuses(&[404, 422]);
    table
        .add(
            Method::PUT,
            "/api/v3/users/{key}/password",
            right("users", "password", On::Key),
            password,
        )
        .is("Sets a password and revokes the user's tokens.")
        .takes(Shape::of("Password"))
        .gives(200, Shape::of("users"))
        .refuses(&[404, 409, 422]);
    // DRP has no way to revoke tokens but a new password.
    table
        .add(
            Method::DELETE,
            "/isobar/v1/users/{key}/tokens",
            right("users", "token", On::Key),
            revoke_all,
        )
        .is("Revokes all tokens of a user.")
        .gives(204, Shape::Nothing)
        .refuses(&[404]);
    table.noun = isobar_model::noun("machines");
    let renew = right("machines", "token", On::Key);
    table
        .add(Method::GET, "/api/v3/machines/{key}/token", renew, machine_token)
        .is("Makes a token for a machine's agent.")
        .asks(&[TTL])
        .gives(200, Shape::of("Token"))
        .refuses(&[404]);
    table
        .add(Method::DELETE, "/isobar/v1/machines/{key}/tokens", renew, revoke_all)
        .is("Revokes all tokens of a machine.")
        .gives(204, Shape::Nothing)
        .refuses(&[404]);
    table.noun = None;
    table
        .add(Method::DELETE, "/isobar/v1/token", Access::Known, revoke)
        .is("Revokes the token that the request comes with.")
        .gives(204, Shape::Nothing)
        .refuses(&[400]);
}

/// All tokens of a user or a machine.
async fn revoke_all(call: Call) -> Answer {
    let (model, key) = (call.model(), call.key().to_owned());
    call.objects(move |objects, who| objects.revoke_all(model, &key, who))
        .await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

/// The token of this request.
async fn revoke(call: Call) -> Answer {
    if !call.objects(|objects, who| objects.revoke_own(who)).await? {
        return Err(call.bad_request("this request came with a password: there is no token to revoke"));
    }
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

const TTL: Query = query("ttl", "integer", "Life of the token in seconds.");

async fn token(call: Call) -> Answer {
    let query = &call.query;
    let text = |name: &str| query.get(name).unwrap_or_default().to_owned();
    let part = |name: &str| Some(text(name)).filter(|t| !t.is_empty());
    let narrowed = ["scope", "action", "specific"].iter().any(|name| part(name).is_some());
    let part = |name: &str| part(name).unwrap_or_else(|| "*".to_owned());
    let claim = || (part("scope"), part("action"), part("specific"));
    let request = UserTokenRequest {
        ttl: Some(ttl(&call)?),
        roles: text("roles")
            .split(',')
            .filter(|r| !r.is_empty())
            .map(str::to_owned)
            .collect(),
        claim: narrowed.then(claim),
    };
    let user = call.key().to_owned();
    let token = call
        .objects(move |objects, who| objects.issue_user_token(&user, &request, who))
        .await?;
    reply::ok(&json!({ "Token": token.as_str(), "Info": info::info(&call).await? }))
}

async fn machine_token(call: Call) -> Answer {
    let (machine, ttl) = (call.key().to_owned(), ttl(&call)?);
    let token = call
        .objects(move |objects, who| objects.issue_machine_token(&machine, ttl, who))
        .await?;
    reply::ok(&json!({ "Token": token.as_str(), "Info": info::info(&call).await? }))
}

fn ttl(call: &Call) -> Result<Duration, ApiError> {
    match call.query.get("ttl") {
        None | Some("" | "0") => Ok(Duration::from_secs(DEFAULT_TTL)),
        Some(text) => match text.parse() {
            Ok(seconds) => Ok(Duration::from_secs(seconds)),
            Err(_) => Err(call.bad_request(format!("ttl must be a number of seconds, not {text}"))),
        },
    }
}

#[derive(Deserialize)]
struct NewPassword {
    #[serde(rename = "Password", alias = "password")]
    password: String,
}

async fn password(mut call: Call) -> Answer {
    let new: NewPassword = call.typed().await?;
    if new.password.is_empty() {
        return Err(call.bad_request("the new password is empty"));
    }
    let user = call.key().to_owned();
    let turn = call.app.logins.clone().acquire_owned().await;
    let object = call
        .objects(move |objects, who| {
            let _turn = turn;
            objects
                .set_password(&user, &new.password, who)
                .map_err(|e| match e.code {
                    404 => e.with_type("PUT"),
                    _ => e,
                })
        })
        .await?;
    let shown = call.noun.map_or_else(|| (*object).clone(), |noun| noun.public(&object));
    reply::ok(&shown)
}
