//! What the program inside a booted machine asks.

use http::Method;
use isobar_model::ApiError;
use isobar_objects::Objects;
use serde_json::json;

use super::doc::Shape;
use super::{Access, Table};
use crate::boots::{Checkin, Exchange, Heartbeat};
use crate::call::Call;
use crate::reply::{self, Answer};

pub(super) fn add(table: &mut Table) {
    // The secret in the body is the proof; there is no token yet.
    table
        .add(Method::POST, "/isobar/v1/agent/exchange", Access::Open, exchange)
        .is("Trades the boot secret of an image for a machine token.")
        .takes(Shape::of("Exchange"))
        .gives(200, Shape::of("Exchanged"))
        .refuses(&[403, 404, 409, 422]);
    table
        .add(Method::POST, "/isobar/v1/agent/checkin", Access::Agent, checkin)
        .is("The agent is up.")
        .takes(Shape::of("Checkin"))
        .gives(200, Shape::of("Map"))
        .refuses(&[404, 409, 422]);
    table
        .add(Method::POST, "/isobar/v1/agent/heartbeat", Access::Agent, heartbeat)
        .is("The agent is still up.")
        .takes(Shape::of("Heartbeat"))
        .gives(200, Shape::of("Map"))
        .refuses(&[404, 409, 422]);
}

async fn exchange(mut call: Call) -> Answer {
    let request: Exchange = call.typed().await?;
    let machine = request.machine.clone();
    let exchanged = call.app.boots.exchange(request).await;
    if exchanged.as_ref().is_err_and(|error| error.code == 403) {
        let source = call.source();
        let told = move |objects: &Objects| objects.note_refused_exchange(&machine, &source);
        call.app.objects.run(told).await;
    }
    let token = exchanged?;
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
