//! Content packs.

use http::{Method, StatusCode};

use super::doc::{self, Shape};
use super::{On, Table, right};
use crate::auth;
use crate::call::Call;
use crate::reply::{self, Answer};

pub(super) fn add(table: &mut Table) {
    let may = |action, on| right("contents", action, on);
    let (pack, summary) = (|| Shape::of("Content"), || Shape::of("ContentSummary"));
    table
        .add(Method::GET, "/api/v3/contents", may("list", On::All), list)
        .is("Lists the layers, nearest first.")
        .gives(200, Shape::list("ContentSummary"));
    table
        .add(Method::POST, "/api/v3/contents", may("create", On::All), create)
        .is("Loads a content pack; all of it or nothing.")
        .takes(pack())
        .gives(201, summary())
        .refuses(&[404, 409, 422]);
    table
        .add(Method::GET, "/api/v3/contents/{key}", may("get", On::Key), get)
        .is("Shows a content pack.")
        .asks(&[doc::DECODE])
        .gives(200, pack())
        .refuses(&[404]);
    table
        .add(Method::PUT, "/api/v3/contents/{key}", may("update", On::Key), replace)
        .is("Replaces a content pack; all of it or nothing.")
        .takes(pack())
        .gives(200, summary())
        .refuses(&[404, 409, 422]);
    table
        .add(Method::DELETE, "/api/v3/contents/{key}", may("delete", On::Key), delete)
        .is("Removes a content pack.")
        .gives(204, Shape::Nothing)
        .refuses(&[404, 409, 422]);
}

async fn list(call: Call) -> Answer {
    reply::ok(&call.app.objects.run(|objects| objects.contents()).await)
}

async fn get(call: Call) -> Answer {
    let decode = call.query.flag("decode");
    if decode {
        auth::check_decode(&call.app.objects, call.who()?, "contents", call.key())?;
    }
    let name = call.key().to_owned();
    let pack = call
        .objects(move |objects, _| objects.content_pack(&name, decode))
        .await?;
    reply::ok(&pack)
}

async fn create(mut call: Call) -> Answer {
    let document = call.json().await?.unwrap_or_default();
    let summary = call
        .objects(move |objects, who| objects.put_content(&document, None, who))
        .await?;
    reply::created(&summary)
}

async fn replace(mut call: Call) -> Answer {
    let document = call.json().await?.unwrap_or_default();
    let name = call.key().to_owned();
    let summary = call
        .objects(move |objects, who| objects.put_content(&document, Some(&name), who))
        .await?;
    reply::ok(&summary)
}

async fn delete(call: Call) -> Answer {
    let name = call.key().to_owned();
    call.objects(move |objects, who| objects.remove_content(&name, who))
        .await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}
