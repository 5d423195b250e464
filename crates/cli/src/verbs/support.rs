//! What somebody who helps wants to see, in one file and without secrets.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;

use isobar_client::{Method, path};
use serde_json::{Map, Value, json};

use super::{Arity, Call, Verb, verb};
use crate::CliError;
use crate::output::{self, Output};
use crate::session::Session;

pub(super) const VERBS: &[Verb] = &[verb(
    "bundle",
    "[file]",
    Arity::Between(0, 1),
    bundle,
    "Writes what the server says of itself, its log, its counts and what is not usable to a file of JSON; no params, \
     no secrets",
    "support bundle support.json",
)];

/// Routes whose answers are taken as they are.
const TOLD: &[(&str, &str)] = &[
    ("info", "/api/v3/info"),
    ("interfaces", "/api/v3/interfaces"),
    ("logs", "/api/v3/logs"),
    ("contents", "/api/v3/contents"),
    ("isos", "/api/v3/isos"),
    ("boots", "/isobar/v1/boots"),
];

fn bundle(session: &Session, call: &Call) -> Result<Output, CliError> {
    let client = session.client()?;
    let mut told = Map::new();
    // One answer that does not come is worth telling, too.
    let answer = |path: &str, query: &[(&str, &str)]| -> Value {
        let mut request = client.request(Method::GET, path);
        for (name, value) in query {
            request = request.query(name, value);
        }
        let answer = request.send().and_then(isobar_client::Response::json);
        answer.unwrap_or_else(|error| json!({ "Error": error.to_string() }))
    };
    told.insert("client".to_owned(), json!({ "version": env!("CARGO_PKG_VERSION") }));
    for (name, path) in TOLD {
        told.insert((*name).to_owned(), answer(path, &[]));
    }
    let (mut counts, mut unusable) = (Map::new(), Map::new());
    for noun in isobar_model::table::NOUNS {
        let route = path!("api", "v3", noun.name);
        let count = client.head(&route).ok();
        let count = count.and_then(|headers| {
            headers
                .get("X-DRP-LIST-TOTAL-COUNT")?
                .to_str()
                .ok()?
                .parse::<u64>()
                .ok()
        });
        counts.insert(noun.name.to_owned(), json!(count));
        let query = [("Available", "false"), ("slim", "Params,Meta"), ("limit", "100")];
        let listed = answer(&route, &query);
        let rows = listed.as_array().into_iter().flatten().map(
            |object| json!({ "Key": object[noun.key_field()], "Name": object["Name"], "Errors": object["Errors"] }),
        );
        let rows: Vec<Value> = rows.collect();
        if !rows.is_empty() {
            unusable.insert(noun.name.to_owned(), rows.into());
        }
    }
    told.insert("counts".to_owned(), counts.into());
    told.insert("unavailable".to_owned(), unusable.into());
    let text = output::json(&told.into());
    match call.args.first().map_or("support.json", String::as_str) {
        "-" => session.host.out(text.as_bytes())?,
        file => {
            let mut options = OpenOptions::new();
            // Names and addresses of a whole site are nobody else's business.
            options.write(true).create(true).truncate(true).mode(0o600);
            let written = options.open(file).and_then(|mut open| open.write_all(text.as_bytes()));
            written.map_err(CliError::io(file))?;
            session.host.note(&format!("{file}: {} bytes", text.len()));
        }
    }
    Ok(Output::Nothing)
}
