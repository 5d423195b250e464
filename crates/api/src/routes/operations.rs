//! What is under way at BMCs, and the operator's word on it.

use http::Method;
use serde_json::Value;

use super::doc::{Shape, query};
use super::{On, Table, right};
use crate::auth;
use crate::call::Call;
use crate::reply::{self, Answer};

pub(super) fn add(table: &mut Table) {
    let of_machine = right("machines", "get", On::MachineQuery);
    table
        .add(Method::GET, "/isobar/v1/operations", of_machine, list)
        .is("Lists boots, clean-ups and actions of BMCs that are under way or wait, with why and until when.")
        .asks(&[
            query("machine", "string", "Only those of this machine."),
            query("all", "boolean", "Those that have ended as well."),
        ])
        .gives(200, Shape::list("Map"))
        .refuses(&[404]);
    let of_all = right("machines", "update", On::All);
    table
        .add(Method::POST, "/isobar/v1/operations", of_all, roll)
        .is("Begins a rolling boot of the machines that fit a filter; with dry_run says who would boot.")
        .takes(Shape::of("Map"))
        .gives(200, Shape::of("Map"))
        .refuses(&[403, 404, 406, 409, 422]);
    // Which machine it is about shows only when it has been read: checked in the handlers.
    let some = |action| right("machines", action, On::Some);
    table
        .add(Method::GET, "/isobar/v1/operations/{key}", some("get"), show)
        .is("Shows an operation.")
        .gives(200, Shape::of("Map"))
        .refuses(&[404]);
    table
        .add(Method::GET, "/isobar/v1/operations/{key}/report", some("get"), report)
        .is("Says of each machine of a rolling boot what became of it.")
        .gives(200, Shape::list("Map"))
        .refuses(&[404]);
    table
        .add(
            Method::POST,
            "/isobar/v1/operations/{key}/cancel",
            some("update"),
            cancel,
        )
        .is("Ends a boot or gives up a clean-up; calls an action off that was not sent yet.")
        .takes(Shape::of("Map"))
        .gives(200, Shape::of("Map"))
        .refuses(&[404, 409, 422]);
    table
        .add(Method::POST, "/isobar/v1/operations/{key}/retry", some("update"), retry)
        .is("Tries again now: what waits, what failed, a BMC whose login is held.")
        .takes(Shape::of("Map"))
        .gives(200, Shape::of("Map"))
        .refuses(&[404, 409, 422, 423]);
}

async fn list(call: Call) -> Answer {
    let machine = match call.query.get("machine") {
        Some(key) => Some(call.resolve("machines", key).await?),
        None => None,
    };
    let all = call.query.get("all").is_some_and(|all| all == "true");
    reply::ok(&call.app.boots.operations(machine.as_deref(), all).await?)
}

/// The operation, if the caller may do this to its machine. What several machines may share, those may touch who may
/// do it to all.
async fn operation(call: &Call, action: &str) -> Result<Value, isobar_model::ApiError> {
    let found = call.app.boots.operation(call.key()).await?;
    let text = |name: &str| found.get(name).and_then(Value::as_str).unwrap_or_default();
    // Who may change all its machines has begun it.
    if text("kind") != "rolling-boot" || text("by") != call.who()?.name() {
        auth::check(call.who()?, "machines", action, text("machine"))?;
    }
    Ok(found)
}

async fn roll(mut call: Call) -> Answer {
    let order = call.typed().await?;
    reply::ok(&call.app.boots.rolling_boot(order, call.who()?).await?)
}

async fn show(call: Call) -> Answer {
    reply::ok(&operation(&call, "get").await?)
}

async fn report(call: Call) -> Answer {
    operation(&call, "get").await?;
    reply::ok(&call.app.boots.rolling_report(call.key()).await?)
}

async fn cancel(mut call: Call) -> Answer {
    call.json().await?;
    operation(&call, "update").await?;
    reply::ok(&call.app.boots.cancel_operation(call.key(), call.who()?).await?)
}

async fn retry(mut call: Call) -> Answer {
    call.json().await?;
    let found = operation(&call, "update").await?;
    // An action is run again: by who may run it.
    if found.get("kind").and_then(Value::as_str) == Some("action") {
        let text = |name: &str| found.get(name).and_then(Value::as_str).unwrap_or_default();
        let right = format!("action:{}", text("what"));
        auth::check(call.who()?, "machines", &right, text("machine"))?;
    }
    reply::ok(&call.app.boots.retry_operation(call.key(), call.who()?).await?)
}
