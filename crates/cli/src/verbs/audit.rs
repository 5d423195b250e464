//! Who did what.

use std::thread;
use std::time::Duration;

use isobar_client::{ClientError, Method};
use serde_json::Value;

use super::events::print;
use super::{Arity, Call, Verb, option, switch, verb};
use crate::CliError;
use crate::output::Output;
use crate::session::Session;

/// Rows of one answer, as many as the server gives.
const PAGE: usize = 1000;
/// Rows when nobody says how many.
const LIMIT: usize = 100;
/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// Conditions that the server knows by the same names.
const FILTERS: &[&str] = &["since", "until", "principal", "source", "action", "type", "key"];
const COLUMNS: [&str; 8] = [
    "time",
    "principal",
    "source",
    "action",
    "type",
    "key",
    "detail",
    "times",
];

pub(super) const VERBS: &[Verb] = &[verb(
    "list",
    "",
    Arity::Exactly(0),
    list,
    "Shows who did what, newest first",
    "audit list --since 24h --principal user:fred",
)
.own()
.flags(&[
    option(
        "since",
        "TIME",
        "Not older than this: 90s, 30m, 24h, 7d, or 2030-01-31T08:00:00Z",
    ),
    option("until", "TIME", "Older than this"),
    option("principal", "WHO", "Done by user:NAME, machine:UUID or system"),
    option("source", "ADDRESS", "From this address"),
    option(
        "action",
        "ACTION",
        "create, update, delete, action, action:poweron, login, login-refused, grant, revoke, getSecure ...",
    ),
    option("type", "TYPE", "On objects of this type"),
    option("key", "KEY", "On the object of this key"),
    option("limit", "N", "Rows at most [default: 100]"),
    switch("follow", "Go on as things are done; oldest first"),
])];

fn list(session: &Session, call: &Call) -> Result<Output, CliError> {
    let limit = match call.option("limit") {
        None => LIMIT,
        Some(text) => text
            .parse()
            .map_err(|_| call.misuse(format!("--limit {text} is not a number")))?,
    };
    let mut rows: Vec<Value> = Vec::new();
    while rows.len() < limit {
        let mut asked = vec![("limit", PAGE.min(limit - rows.len()).to_string())];
        asked.extend(rows.last().map(|row| ("before", row["seq"].to_string())));
        let page = ask(session, call, &asked)?;
        let whole = page.len() == PAGE;
        rows.extend(page);
        if !whole {
            break;
        }
    }
    if !call.is_set("follow") {
        return Ok(Output::Json {
            value: rows.into(),
            columns: COLUMNS.map(str::to_owned).to_vec(),
        });
    }
    rows.reverse();
    let mut after = match rows.last() {
        Some(row) => row["seq"].clone(),
        None => newest(session)?,
    };
    loop {
        for row in &rows {
            print(session, row, line)?;
            after = row["seq"].clone();
        }
        rows = ask(
            session,
            call,
            &[("after", after.to_string()), ("limit", PAGE.to_string())],
        )?;
        if rows.is_empty() {
            thread::sleep(LOOK);
        }
    }
}

/// Number of the newest row.
fn newest(session: &Session) -> Result<Value, CliError> {
    let request = session.client()?.request(Method::GET, "/isobar/v1/audit");
    let rows: Vec<Value> = request.query("limit", "1").send()?.json()?;
    Ok(rows.first().map_or(Value::from(0), |row| row["seq"].clone()))
}

fn ask(session: &Session, call: &Call, more: &[(&str, String)]) -> Result<Vec<Value>, CliError> {
    let mut request = session.client()?.request(Method::GET, "/isobar/v1/audit");
    for filter in FILTERS {
        if let Some(value) = call.option(filter) {
            request = request.query(filter, value);
        }
    }
    for (name, value) in more {
        request = request.query(name, value);
    }
    let answer = request.send().map_err(|error| match error {
        ClientError::Api(body) if body.code == 404 => CliError::text("this server keeps no audit log: it is no Isobar"),
        other => other.into(),
    })?;
    Ok(answer.json()?)
}

fn line(row: &Value) -> String {
    let texts = COLUMNS.iter().filter_map(|column| row[*column].as_str());
    let texts: Vec<_> = texts.filter(|text| !text.is_empty()).collect();
    match row["times"].as_u64() {
        Some(times) if times > 1 => format!("{} ({times} times)", texts.join(" ")),
        _ => texts.join(" "),
    }
}
