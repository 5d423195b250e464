//! What the program inside a booted machine asks.

use http::Method;
use isobar_model::ApiError;
use serde_json::json;

use super::{Access, Table};
use crate::boots::{Checkin, Exchange, Heartbeat};
use crate::call::Call;
use crate::reply::{self, Answer};

pub(super) fn add(table: &mut Table) {
    // The secret in the body is the proof; there is no token yet.
    table.add(Method::POST, "/isobar/v1/agent/exchange", Access::Open, exchange);
    table.add(Method::POST, "/isobar/v1/agent/checkin", Access::Agent, checkin);
    table.add(Method::POST, "/isobar/v1/agent/heartbeat", Access::Agent, heartbeat);
}

async fn exchange(mut call: Call) -> Answer {
    let request: Exchange = call.typed().await?;
    let token = call.app.boots.exchange(request).await?;
    reply::ok(&json!({ "token": token }))
}

async fn checkin(mut call: Call) -> Answer {
    let request: Checkin = call.typed().await?;
    own(&call, &request.machine)?;
    reply::ok(&call.app.boots.checkin(request).await?)
}

async fn heartbeat(mut call: Call) -> Answer {
    let request: Heartbeat = call.typed().await?;
    own(&call, &request.machine)?;
    reply::ok(&call.app.boots.heartbeat(request).await?)
}

/// A machine speaks for itself alone.
fn own(call: &Call, machine: &str) -> Result<(), ApiError> {
    if call.who()?.machine() == Some(machine) {
        return Ok(());
    }
    let message = "this token belongs to another machine";
    Err(ApiError::new(403, "AUTH", "machines", machine, message))
}
