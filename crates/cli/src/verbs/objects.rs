//! Verbs that every object type has.

use isobar_client::{ClientError, Method, path};
use isobar_model::patch::diff;
use serde_json::{Value, json};

use super::{Arity, Call, Flag, Verb, option, switch, verb};
use crate::follow::Follow;
use crate::output::Output;
use crate::session::Session;
use crate::{CliError, input, merge};

pub(super) const LIST_FLAGS: &[Flag] = &[
    option("limit", "N", "At most this many"),
    option("offset", "N", "Leave out the first ones"),
    option("sort", "INDEX", "Sort by this index"),
    switch("reverse", "The other way round"),
    option("slim", "A,B", "Leave these members empty, such as Params,Meta"),
    option("params", "A,B", "Of the params only these"),
    switch("aggregate", "With the params that come from profiles and stage"),
    switch("decode", "Secure params in clear, for who may see them"),
];

const SHOW_FLAGS: &[Flag] = &[
    option("slim", "A,B", "Leave these members empty, such as Params,Meta"),
    option("params", "A,B", "Of the params only these"),
    switch("aggregate", "With the params that come from profiles and stage"),
    switch("decode", "Secure params in clear, for who may see them"),
];

pub(super) const VERBS: &[Verb] = &[
    verb(
        "list",
        "[filters...]",
        Arity::AtLeast(0),
        list,
        "Lists objects, all or those that match",
        "{noun} list Available=true --limit 10",
    )
    .flags(LIST_FLAGS),
    verb(
        "count",
        "[filters...]",
        Arity::AtLeast(0),
        count,
        "Counts objects, all or those that match",
        "{noun} count Available=true",
    ),
    verb(
        "show",
        "[id]",
        Arity::Exactly(1),
        show,
        "Shows one object",
        "{noun} show {id}",
    )
    .flags(SHOW_FLAGS),
    verb(
        "exists",
        "[id]",
        Arity::Exactly(1),
        exists,
        "Succeeds if the object exists",
        "{noun} exists {id}",
    ),
    verb(
        "etag",
        "[id]",
        Arity::Exactly(1),
        etag,
        "Prints the tag of the object's present state",
        "{noun} etag {id}",
    ),
    verb(
        "create",
        "[json]",
        Arity::Exactly(1),
        create,
        "Creates an object from JSON, YAML, a file, standard input (-) or a bare name",
        "{noun} create '{\"Name\": \"fred\"}'",
    ),
    verb(
        "update",
        "[id] [json]",
        Arity::Exactly(2),
        update,
        "Merges members into an object",
        "{noun} update {id} '{\"Description\": \"in rack 7\"}'",
    ),
    verb(
        "patch",
        "[old] [new]",
        Arity::Exactly(2),
        patch,
        "Sends the difference of two states of an object, if it still is in the first",
        "{noun} patch old.json new.json",
    ),
    verb(
        "destroy",
        "[id]",
        Arity::Exactly(1),
        destroy,
        "Deletes an object",
        "{noun} destroy {id}",
    ),
    verb(
        "indexes",
        "",
        Arity::Exactly(0),
        indexes,
        "Lists the indexes that filters can use",
        "{noun} indexes",
    ),
];

/// Columns of a table of objects.
fn columns(call: &Call) -> Vec<String> {
    let names = call
        .row
        .map_or(&["Name", "Available", "Description"][..], |row| row.columns);
    names.iter().map(|&name| name.to_owned()).collect()
}

/// Filters as they are typed: `A=1`, `A Lt 1`, `A 1`.
pub(super) fn filters(call: &Call, args: &[String]) -> Result<Vec<(String, String)>, CliError> {
    const OPERATORS: [&str; 11] = [
        "Eq", "Ne", "Lt", "Lte", "Gt", "Gte", "Between", "Except", "Re", "In", "Nin",
    ];
    let mut filters = Vec::new();
    let mut rest = args.iter();
    while let Some(word) = rest.next() {
        if let Some((index, value)) = word.split_once('=') {
            filters.push((index.to_owned(), value.to_owned()));
            continue;
        }
        let value = rest
            .next()
            .ok_or_else(|| call.misuse(format!("filter {word} has no value: write {word}=VALUE")))?;
        match OPERATORS.iter().find(|operator| operator.eq_ignore_ascii_case(value)) {
            Some(operator) => {
                let operand = rest
                    .next()
                    .ok_or_else(|| call.misuse(format!("filter {word} {value} has no value to compare with")))?;
                filters.push((word.clone(), format!("{operator}({operand})")));
            }
            None => filters.push((word.clone(), value.clone())),
        }
    }
    Ok(filters)
}

fn list(session: &Session, call: &Call) -> Result<Output, CliError> {
    let route = path!("api", "v3", call.noun);
    let mut request = session.client()?.request(Method::GET, &route);
    for (index, value) in filters(call, &call.args)? {
        request = request.query(&index, &value);
    }
    for name in ["sort", "slim", "params"] {
        if let Some(value) = call.option(name) {
            request = request.query(name, value);
        }
    }
    for name in ["reverse", "aggregate", "decode"] {
        if call.is_set(name) {
            request = request.query(name, "true");
        }
    }
    for name in ["limit", "offset"] {
        // drpcli's way to say "no limit".
        if let Some(value) = call.option(name).filter(|&value| value != "-1") {
            request = request.query(name, value);
        }
    }
    let value = request.send()?.json()?;
    Ok(Output::Json {
        value,
        columns: columns(call),
    })
}

fn count(session: &Session, call: &Call) -> Result<Output, CliError> {
    let mut request = session.client()?.request(Method::HEAD, &path!("api", "v3", call.noun));
    for (index, value) in filters(call, &call.args)? {
        request = request.query(&index, &value);
    }
    let answer = request.send()?;
    let count = answer
        .header("X-DRP-LIST-COUNT")
        .ok_or_else(|| CliError::text(format!("the server does not count {}", call.noun)))?;
    Ok(Output::Text(format!("{count}\n")))
}

fn show(session: &Session, call: &Call) -> Result<Output, CliError> {
    let id = call.arg(0);
    let mut request = session
        .client()?
        .request(Method::GET, &path!("api", "v3", call.noun, id));
    for name in ["slim", "params"] {
        if let Some(value) = call.option(name) {
            request = request.query(name, value);
        }
    }
    for name in ["aggregate", "decode"] {
        if call.is_set(name) {
            request = request.query(name, "true");
        }
    }
    let answer = request
        .send()
        .map_err(|error| session.not_found_hint(call.noun, id, error))?;
    Ok(Output::json(answer.json()?))
}

pub(super) fn exists(session: &Session, call: &Call) -> Result<Output, CliError> {
    let id = call.arg(0);
    match session.client()?.head(&path!("api", "v3", call.noun, id)) {
        Ok(_) => Ok(Output::Nothing),
        Err(error) if error.is_not_found() => Err(CliError::text(format!("{}:{id} does not exist", call.noun))),
        Err(error) => Err(error.into()),
    }
}

fn etag(session: &Session, call: &Call) -> Result<Output, CliError> {
    let route = path!("api", "v3", call.noun, call.arg(0));
    let answer = session.client()?.request(Method::HEAD, &route).send()?;
    let tag = answer
        .header("ETag")
        .ok_or_else(|| CliError::text("the server gives no ETag"))?;
    Ok(Output::Text(format!("{}\n", tag.trim_matches('"'))))
}

/// Types whose objects are nothing with a name alone.
const MORE_THAN_A_NAME: &[&str] = &["subnets", "reservations"];

fn create(session: &Session, call: &Call) -> Result<Output, CliError> {
    let key = call.row.map_or("Name", |row| row.key_field());
    let key = if key == "Uuid" { "Name" } else { key };
    let argument = call.arg(0);
    let object = match input::document(session.host, argument)? {
        (Some(object @ Value::Object(_)), _) => object,
        (_, text) if text == argument => match call.row {
            Some(row) if MORE_THAN_A_NAME.contains(&row.name) => {
                let text = format!("Unable to create a new {} by name", row.singular);
                return Err(CliError::text(text));
            }
            _ => json!({ (key): text }),
        },
        _ => return Err(CliError::text(format!("{argument} holds no JSON or YAML map"))),
    };
    if let (true, Some(row)) = (session.helpful(), call.row) {
        // `{fred}` is a map to YAML; only the server's word on it is drpcli's.
        let unknown = merge::unknown_members(row, &object);
        if let Some(complaint) = merge::complain(row, &unknown) {
            return Err(CliError::text(complaint));
        }
    }
    let follow = Follow::new_machine(session, call.noun);
    let made: Value = session.client()?.post(&path!("api", "v3", call.noun), &object)?;
    follow.after(session, made)
}

fn update(session: &Session, call: &Call) -> Result<Output, CliError> {
    let change = input::map(session.host, call.arg(1), "what to update with")?;
    change_object(session, call, |object| {
        let unknown = merge::merge(call.row, object, &change);
        match call
            .row
            .filter(|_| session.helpful())
            .and_then(|row| merge::complain(row, &unknown))
        {
            Some(complaint) => Err(CliError::text(complaint)),
            None => Ok(()),
        }
    })
}

/// Fetches the object named by the first argument, changes it, sends the difference as a PATCH that
/// holds only if nobody else changed the same members, and follows the boot that this may start.
pub(super) fn change_object(
    session: &Session,
    call: &Call,
    change: impl FnOnce(&mut Value) -> Result<(), CliError>,
) -> Result<Output, CliError> {
    let reference = match &session.settings.reference {
        Some(argument) => Some(input::map(session.host, argument, "--ref")?),
        None => None,
    };
    let fetched = session.get_object(call.noun, call.arg(0))?;
    let old = reference.unwrap_or_else(|| fetched.clone());
    let mut new = old.clone();
    change(&mut new)?;
    let key = key_of(call, &fetched).unwrap_or_else(|| call.arg(0).to_owned());
    send_patch(session, call, &key, &diff(&old, &new))
}

fn patch(session: &Session, call: &Call) -> Result<Output, CliError> {
    let old = input::map(session.host, call.arg(0), "the old state")?;
    let new = input::map(session.host, call.arg(1), "the new state")?;
    let key = key_of(call, &old).ok_or_else(|| call.misuse("the old state has no key"))?;
    send_patch(session, call, &key, &diff(&old, &new))
}

fn key_of(call: &Call, object: &Value) -> Option<String> {
    let field = call.row.map_or("Name", |row| row.key_field());
    let key = object.get(field)?.as_str()?;
    (!key.is_empty()).then(|| key.to_owned())
}

fn send_patch(session: &Session, call: &Call, key: &str, patch: &Value) -> Result<Output, CliError> {
    let follow = Follow::machine(session, call.noun, key)?;
    let mut request = session
        .client()?
        .request(Method::PATCH, &path!("api", "v3", call.noun, key));
    if session.settings.force {
        request = request.query("force", "true");
    }
    let answer = request.send_json(patch).map_err(|error| {
        let hint = if session.helpful() {
            under_workflow(call, &error).or_else(|| misspelt(session, &error))
        } else {
            None
        };
        CliError::hinted(error, hint)
    })?;
    follow.after(session, answer.json()?)
}

/// What to do when a workflow holds the member that was to be changed (drp-api §5).
fn under_workflow(call: &Call, error: &ClientError) -> Option<String> {
    const REFUSALS: [&str; 2] = [
        "Changing machine bootenv not allowed",
        "Changing machine stage not allowed",
    ];
    let ClientError::Api(body) = error else { return None };
    let held = body.messages.iter().any(|message| REFUSALS.contains(&message.as_str()));
    let id = call.arg(0);
    held.then(|| format!("Its workflow decides that. Without one: isobar machines workflow {id} \"\""))
}

/// What was probably meant where an object names another one that does not exist: "Bootenv sledgehamer does not
/// exist".
fn misspelt(session: &Session, error: &ClientError) -> Option<String> {
    let ClientError::Api(body) = error else { return None };
    body.messages.iter().find_map(|message| {
        let (what, name) = message.strip_suffix(" does not exist")?.split_once(' ')?;
        let noun = format!("{}s", what.to_lowercase());
        isobar_model::noun(&noun)?;
        Some(match session.similar(&noun, name) {
            Some(name) => format!("Did you mean {name}?"),
            None => format!("`isobar {noun} list` shows those that there are"),
        })
    })
}

fn destroy(session: &Session, call: &Call) -> Result<Output, CliError> {
    let id = call.arg(0);
    let mut request = session
        .client()?
        .request(Method::DELETE, &path!("api", "v3", call.noun, id));
    if session.settings.force {
        request = request.query("force", "true");
    }
    request
        .send()
        .map_err(|error: ClientError| session.not_found_hint(call.noun, id, error))?;
    Ok(Output::Text(format!("Deleted {} {id}\n", call.singular())))
}

fn indexes(session: &Session, call: &Call) -> Result<Output, CliError> {
    Ok(Output::json(
        session.client()?.get(&path!("api", "v3", "indexes", call.noun))?,
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(words: &[&str]) -> Result<Vec<(String, String)>, CliError> {
        let flags = clap::Command::new("x").get_matches_from(["x"]);
        let call = Call {
            noun: "machines",
            row: None,
            args: Vec::new(),
            flags: &flags,
            usage: String::new(),
            example: String::new(),
        };
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        filters(&call, &words)
    }

    #[test]
    fn filters_as_drpcli_takes_them() {
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        let parsed = parse(&["A=1", "B", "lt", "5", "sort", "Name", "Workflow=", "C=Re(a=b)"]).unwrap();
        let expected = [
            pair("A", "1"),
            pair("B", "Lt(5)"),
            pair("sort", "Name"),
            pair("Workflow", ""),
            pair("C", "Re(a=b)"),
        ];
        assert_eq!(parsed, expected);
        assert!(parse(&["A"]).is_err() && parse(&["A", "Lt"]).is_err());
    }
}
