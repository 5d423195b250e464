//! What DRP asks of plugin providers beyond their objects. Here they are programs in a folder of the server
//! (docs/plugins.md): who may use the API is not thereby allowed to run programs there.

use http::Method;

use super::{On, Table, right};
use crate::call::Call;
use crate::reply::Answer;

pub(super) fn add(table: &mut Table) {
    table.noun = isobar_model::noun("plugin_providers");
    let one = "/api/v3/plugin_providers/{key}";
    for (method, action, summary) in [
        (
            Method::POST,
            "create",
            "Refused: providers are put into the server's plugin-dir.",
        ),
        (
            Method::DELETE,
            "delete",
            "Refused: providers are taken out of the server's plugin-dir.",
        ),
    ] {
        table
            .add(method, one, right("plugin_providers", action, On::Key), by_hand)
            .is(summary)
            .refuses(&[422]);
    }
    table.noun = isobar_model::noun("plugins");
    for method in [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
        table
            .add(
                method,
                "/api/v3/plugin-apis/{key}/{*path}",
                right("plugins", "get", On::Key),
                no_api,
            )
            .is("The API of a plugin; none has one.")
            .refuses(&[404]);
    }
    table.noun = None;
}

async fn by_hand(call: Call) -> Answer {
    Err(call.refused(
        422,
        "plugin providers are programs in the server's plugin-dir: put them there or take them away, and start it again",
    ))
}

async fn no_api(call: Call) -> Answer {
    call.resolve("plugins", call.key()).await?;
    Err(call.refused(404, "this plugin has no API of its own"))
}
