//! Jobs: what an agent asks for and reports.

use axum::body::Body;
use axum::response::Response;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, StatusCode};
use isobar_model::ApiError;
use isobar_objects::NextJob;

use super::doc::{Shape, query};
use super::render::seen_at;
use super::{Access, On, Table, right};
use crate::call::Call;
use crate::reply::{self, Answer};

pub(super) fn add(table: &mut Table) {
    table.noun = isobar_model::noun("jobs");
    let may = |action, on| right("jobs", action, on);
    table
        .add(Method::POST, "/api/v3/jobs", may("create", On::All), create)
        .is("Asks for a machine's next piece of work: a new job, the same one again, or nothing.")
        .takes(Shape::of("JobRequest"))
        .gives(201, Shape::of("jobs"))
        .gives(202, Shape::of("jobs"))
        .gives(204, Shape::Nothing)
        .refuses(&[404, 409, 422]);
    table
        .add(Method::DELETE, "/api/v3/jobs", may("delete", On::All), delete_all)
        .is("Deletes the jobs of a machine that may be deleted.")
        .asks(&[query("machine", "string", "The machine; has to be said.")])
        .gives(204, Shape::Nothing)
        .refuses(&[400, 404, 409, 422]);
    table
        .add(
            Method::GET,
            "/api/v3/jobs/{key}/actions",
            may("actions", On::Key),
            actions,
        )
        .is("The rendered templates of a job's task.")
        .asks(&[query("os", "string", "Only those for this operating system.")])
        .gives(200, Shape::list("JobAction"))
        .refuses(&[404, 409, 422]);
    table
        .add(Method::GET, "/api/v3/jobs/{key}/log", may("log", On::Key), log)
        .is("The log of a job.")
        .gives(200, Shape::Octets)
        .refuses(&[404, 422]);
    table
        .add(Method::PUT, "/api/v3/jobs/{key}/log", may("update", On::Key), append)
        .is("Adds to the log of a job.")
        .takes(Shape::Octets)
        .gives(204, Shape::Nothing)
        .refuses(&[404, 409, 422]);
    // No plugin offers actions on jobs.
    let one = "/api/v3/jobs/{key}/plugin_actions/{command}";
    table
        .add(
            Method::GET,
            "/api/v3/jobs/{key}/plugin_actions",
            may("actions", On::Key),
            async |call: Call| {
                call.resolve("jobs", call.key()).await?;
                reply::ok(&[(); 0])
            },
        )
        .is("Lists the actions of plugins on a job.")
        .gives(200, Shape::list("Action"))
        .refuses(&[404]);
    table
        .add(Method::GET, one, may("actions", On::Key), async |call: Call| {
            call.resolve("jobs", call.key()).await?;
            Err(ApiError::action_not_found("jobs", call.key(), call.param("command")))
        })
        .is("Describes an action of a plugin on a job.")
        .refuses(&[404]);
    table
        .add(
            Method::POST,
            one,
            Access::Action { scope: "jobs" },
            async |call: Call| {
                call.resolve("jobs", call.key()).await?;
                Err(ApiError::action_unknown("jobs", call.key(), call.param("command")))
            },
        )
        .is("Runs an action of a plugin on a job.")
        .takes(Shape::of("Map"))
        .refuses(&[404]);
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
    let at = seen_at(&call);
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
