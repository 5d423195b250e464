//! Jobs: what an agent asks for and reports.

use axum::body::Body;
use axum::response::Response;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, StatusCode};
use isobar_objects::{NextJob, ServedAt};

use super::{On, Table, right};
use crate::call::Call;
use crate::reply::{self, Answer};

pub(super) fn add(table: &mut Table) {
    table.noun = isobar_model::noun("jobs");
    let may = |action, on| right("jobs", action, on);
    table.add(Method::POST, "/api/v3/jobs", may("create", On::All), create);
    table.add(Method::DELETE, "/api/v3/jobs", may("delete", On::All), delete_all);
    table.add(
        Method::GET,
        "/api/v3/jobs/{key}/actions",
        may("actions", On::Key),
        actions,
    );
    table.add(Method::GET, "/api/v3/jobs/{key}/log", may("log", On::Key), log);
    table.add(Method::PUT, "/api/v3/jobs/{key}/log", may("update", On::Key), append);
    // No plugin offers actions on jobs.
    table.add(
        Method::GET,
        "/api/v3/jobs/{key}/plugin_actions",
        may("actions", On::Key),
        async |call: Call| {
            call.resolve("jobs", call.key()).await?;
            reply::ok(&[(); 0])
        },
    );
    table.noun = None;
}

async fn create(mut call: Call) -> Answer {
    let input = call.json().await?.unwrap_or_default();
    match call.objects(move |objects, who| objects.next_job(&input, who)).await? {
        NextJob::Made(job) => reply::created(&*job),
        NextJob::Again(job) => reply::json(StatusCode::ACCEPTED, &*job),
        NextJob::Nothing => Ok(reply::empty(StatusCode::NO_CONTENT)),
    }
}

async fn delete_all(call: Call) -> Answer {
    let machine = match call.query.get("machine") {
        Some(machine) if !machine.is_empty() => call.resolve("machines", machine).await?,
        _ => return Err(call.bad_request("say of which machine: ?machine=UUID")),
    };
    call.objects(move |objects, who| objects.delete_jobs(&machine, who))
        .await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

async fn actions(call: Call) -> Answer {
    let (key, os) = (
        call.key().to_owned(),
        call.query.get("os").unwrap_or_default().to_owned(),
    );
    let server = &call.app.server;
    let host = if server.address.contains(':') {
        format!("[{}]", server.address)
    } else {
        server.address.clone()
    };
    let at = ServedAt {
        address: server.address.clone(),
        files: format!("http://{host}:{}", server.file_port),
        api: format!("https://{host}:{}", server.api_port),
    };
    let actions = call
        .objects(move |objects, who| objects.job_actions(&key, &os, &at, who))
        .await?;
    reply::ok(&actions)
}

async fn log(call: Call) -> Answer {
    let key = call.key().to_owned();
    let log = call.objects(move |objects, who| objects.job_log(&key, who)).await?;
    let mut answer = Response::new(Body::from(log));
    let octets = HeaderValue::from_static("application/octet-stream");
    answer.headers_mut().insert(CONTENT_TYPE, octets);
    Ok(answer)
}

async fn append(mut call: Call) -> Answer {
    let text = call.bytes().await?;
    let key = call.key().to_owned();
    call.objects(move |objects, who| objects.append_job_log(&key, &text, who))
        .await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}
