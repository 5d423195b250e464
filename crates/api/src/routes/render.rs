//! What templates make, for people who write them.

use http::Method;
use isobar_model::ApiError;
use isobar_objects::{Preview, ServedAt};
use serde::Deserialize;
use serde_json::json;

use super::doc::{Shape, query};
use super::{On, Table, right};
use crate::auth;
use crate::call::Call;
use crate::reply::{self, Answer};

pub(super) fn add(table: &mut Table) {
    // On the machine a right is needed too: checked in the handler, which knows it.
    table
        .add(
            Method::POST,
            "/isobar/v1/render",
            right("templates", "get", On::All),
            render,
        )
        .is("Renders a template, a text or a file of the file plane for a machine.")
        .takes(Shape::of("Map"))
        .gives(200, Shape::of("Map"))
        .refuses(&[400, 404, 422]);
    table
        .add(
            Method::GET,
            "/isobar/v1/check/bootenvs",
            right("bootenvs", "list", On::All),
            check,
        )
        .is("Tells all that is wrong with bootenvs.")
        .asks(&[
            query("bootenv", "string", "Only this one."),
            query("machine", "string", "Render it for this machine."),
        ])
        .gives(200, Shape::list("Map"))
        .refuses(&[404]);
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    machine: Option<String>,
    bootenv: Option<String>,
    template: Option<String>,
    text: Option<String>,
    path: Option<String>,
}

/// Where machines see this server, as far as the API knows.
pub(super) fn seen_at(call: &Call) -> ServedAt {
    let server = &call.app.server;
    let host = match server.address.contains(':') {
        true => format!("[{}]", server.address),
        false => server.address.clone(),
    };
    ServedAt {
        address: server.address.clone(),
        files: format!("http://{host}:{}", server.file_port),
        api: format!("https://{host}:{}", server.api_port),
    }
}

/// The machine's UUID, for who may see the machine; without one what hosts get that nobody knows, of the profile `global`.
async fn whose(call: &Call, machine: Option<&str>) -> Result<Option<String>, ApiError> {
    let Some(key) = machine else {
        auth::check(call.who()?, "profiles", "get", "global")?;
        return Ok(None);
    };
    let uuid = call.resolve("machines", key).await?;
    auth::check(call.who()?, "machines", "get", &uuid)?;
    Ok(Some(uuid))
}

async fn render(mut call: Call) -> Answer {
    let wanted: Wanted = call.typed().await?;
    let what = match (wanted.template, wanted.text, wanted.path) {
        (Some(id), None, None) => Preview::Template(id),
        (None, Some(text), None) => Preview::Text(text),
        (None, None, Some(path)) => Preview::File(path),
        _ => return Err(call.bad_request("say what to render: one of template, text and path")),
    };
    let machine = whose(&call, wanted.machine.as_deref()).await?;
    let (at, bootenv) = (seen_at(&call), wanted.bootenv);
    let text = call
        .objects(move |objects, _| objects.preview(machine.as_deref(), bootenv.as_deref(), &what, &at))
        .await?;
    reply::ok(&json!({ "text": text }))
}

async fn check(call: Call) -> Answer {
    let machine = match call.query.get("machine") {
        Some(key) => whose(&call, Some(key)).await?,
        None => None,
    };
    let (at, one) = (seen_at(&call), call.query.get("bootenv").map(str::to_owned));
    let found = call.objects(move |objects, who| {
        let keys = match one {
            Some(key) => vec![key],
            None => objects.bootenvs()?,
        };
        let check = |key: &String| {
            let problems = objects.check_bootenv(key, machine.as_deref(), &at, who)?;
            Ok(json!({ "bootenv": key, "problems": problems }))
        };
        keys.iter().map(check).collect::<Result<Vec<_>, ApiError>>()
    });
    reply::ok(&found.await?)
}
