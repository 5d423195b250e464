//! Boots, as people and the command line follow them.

use std::time::Duration;

use http::Method;
use isobar_model::ApiError;

use super::doc::{Shape, query};
use super::{On, Table, right};
use crate::auth;
use crate::boots::Which;
use crate::call::Call;
use crate::reply::{self, Answer};

/// Longest wait of a long poll. Proxies and clients give up after a minute or so.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// What a boot's `state` may be.
const STATES: &[&str] = &["running", "done", "failed", "cancelled", "replaced"];

pub(super) fn add(table: &mut Table) {
    let of_machine = right("machines", "get", On::MachineQuery);
    table
        .add(Method::GET, "/isobar/v1/boots", of_machine, list)
        .is("Lists boots, newest first.")
        .asks(&[
            query("machine", "string", "Only those of this machine."),
            query(
                "state",
                "string",
                "Only those that are running, done, failed, cancelled or replaced.",
            ),
            query("limit", "integer", "Not more than so many."),
        ])
        .gives(200, Shape::list("Map"))
        .refuses(&[400, 404]);
    // Which machine it is about shows only when it has been read: checked in the handler.
    table
        .add(
            Method::GET,
            "/isobar/v1/boots/{key}",
            right("machines", "get", On::Some),
            show,
        )
        .is("Shows a boot; with after, as soon as it has news.")
        .asks(&[
            query("after", "integer", "The seq that the caller knows."),
            query("wait", "integer", "Seconds to wait for news, at most 60."),
        ])
        .gives(200, Shape::of("Map"))
        .refuses(&[404]);
    table
        .add(
            Method::GET,
            "/isobar/v1/boots/{key}/post-mortem",
            right("machines", "get", On::Some),
            post_mortem,
        )
        .is("Gives what is kept of a boot that failed: exchanges, reads, settings; no secrets.")
        .gives(200, Shape::of("Map"))
        .refuses(&[404]);
}

async fn post_mortem(call: Call) -> Answer {
    let boot = call.app.boots.boot(call.key()).await?;
    let machine = boot.get("machine").and_then(|m| m.as_str()).unwrap_or_default();
    auth::check(call.who()?, "machines", "get", machine)?;
    reply::ok(&call.app.boots.post_mortem(call.key()).await?)
}

async fn list(call: Call) -> Answer {
    let limit = number(&call, "limit")?;
    let state = call.query.get("state").map(str::to_owned);
    if let Some(state) = state.as_deref().filter(|state| !STATES.contains(state)) {
        return Err(call.bad_request(format!("state must be one of {}, not {state}", STATES.join(", "))));
    }
    let which = Which {
        machine: match call.query.get("machine") {
            Some(key) => Some(call.resolve("machines", key).await?),
            None => None,
        },
        state,
        limit: limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
    };
    reply::ok(&call.app.boots.boots(which).await?)
}

fn number(call: &Call, name: &str) -> Result<Option<u64>, ApiError> {
    let refused = |text: &str| call.bad_request(format!("{name} must be a whole number, not {text}"));
    let asked = call.query.get(name);
    asked.map(|text| text.parse().map_err(|_| refused(text))).transpose()
}

async fn show(call: Call) -> Answer {
    let (after, wait) = (number(&call, "after")?, number(&call, "wait")?);
    let boot = call.app.boots.boot(call.key()).await?;
    let machine = boot.get("machine").and_then(|m| m.as_str()).unwrap_or_default();
    auth::check(call.who()?, "machines", "get", machine)?;
    let Some(after) = after else {
        return reply::ok(&boot);
    };
    let wait = Duration::from_secs(wait.unwrap_or(30)).min(MAX_WAIT);
    tokio::select! {
        boot = call.app.boots.wait_boot(call.key(), after, wait) => reply::ok(&boot?),
        // The client asks the server's successor.
        () = call.stopping() => reply::ok(&boot),
    }
}
