//! Content packs.

use http::{Method, StatusCode};

use super::{On, Table, right};
use crate::auth;
use crate::call::Call;
use crate::reply::{self, Answer};

pub(super) fn add(table: &mut Table) {
    let may = |action, on| right("contents", action, on);
    table.add(Method::GET, "/api/v3/contents", may("list", On::All), list);
    table.add(Method::POST, "/api/v3/contents", may("create", On::All), create);
    table.add(Method::GET, "/api/v3/contents/{key}", may("get", On::Key), get);
    table.add(Method::PUT, "/api/v3/contents/{key}", may("update", On::Key), replace);
    table.add(Method::DELETE, "/api/v3/contents/{key}", may("delete", On::Key), delete);
}

async fn list(call: Call) -> Answer {
    reply::ok(&call.app.objects.run(|objects| objects.contents()).await)
}

async fn get(call: Call) -> Answer {
    let decode = call.query.flag("decode");
    if decode {
        auth::check(call.who()?, "contents", "getSecure", call.key())?;
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
