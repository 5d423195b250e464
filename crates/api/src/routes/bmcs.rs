//! BMCs as such: which there are, and their examination. Findings come as lines of JSON, as they are made.

use axum::body::{Body, Bytes};
use axum::response::Response;
use futures_util::stream;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method};
use serde_json::Value;
use tokio::sync::mpsc;

use super::doc::Shape;
use super::{On, Table, right};
use crate::call::Call;
use crate::reply::Answer;

pub(super) fn add(table: &mut Table) {
    let doctor = right("machines", "action:doctor", On::Key);
    table
        .add(Method::POST, "/isobar/v1/machines/{key}/doctor", doctor, examine)
        .is("Examines a machine's BMC and puts back what it changed: a line of JSON for each finding, the last one with done. \
             It switches no power. Who hangs up ends nothing.")
        .gives(200, Shape::Lines)
        .refuses(&[400, 404, 409]);
    let record = right("machines", "action:record", On::Key);
    table
        .add(Method::POST, "/isobar/v1/machines/{key}/record", record, walk)
        .is("Reads all that a machine's BMC shows over Redfish, without secrets: a line of JSON with path and body for each \
             resource, the last one with done. It ends when the client hangs up.")
        .gives(200, Shape::Lines)
        .refuses(&[400, 404]);
    table
        .add(Method::POST, "/isobar/v1/bmcs/scan", right("machines", "action:scan", On::All), scan)
        .is("Looks for BMCs in networks (Redfish and IPMI), each login tried once at each: a line of JSON for each that \
             answers and for each address that is not allowed, the last one with done. It ends when the client hangs up.")
        .takes(Shape::of("Map"))
        .gives(200, Shape::Lines)
        .refuses(&[400]);
}

async fn walk(call: Call) -> Answer {
    let uuid = call.resolve("machines", call.key()).await?;
    let resources = call.app.boots.record(&uuid, call.key(), call.who()?).await?;
    Ok(lines(resources))
}

async fn scan(mut call: Call) -> Answer {
    let request = call.json().await?.unwrap_or(Value::Null);
    let found = call.app.boots.scan(request, call.who()?).await?;
    Ok(lines(found))
}

async fn examine(call: Call) -> Answer {
    let uuid = call.resolve("machines", call.key()).await?;
    let rows = call.app.boots.doctor(&uuid, call.key(), call.who()?).await?;
    Ok(lines(rows))
}

/// A line for each value, when it comes.
fn lines(values: mpsc::Receiver<Value>) -> Response {
    let pieces = stream::unfold(values, |mut values| async move {
        let line = values.recv().await?;
        Some((Ok::<_, std::io::Error>(Bytes::from(format!("{line}\n"))), values))
    });
    let mut answer = Response::new(Body::from_stream(pieces));
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
