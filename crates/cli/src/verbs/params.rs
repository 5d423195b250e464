//! Params of objects (drp-api §8).

use isobar_client::{ClientError, Method, escape_rest, path};
use serde_json::{Map, Value, json};

use super::{Arity, Call, Verb, switch, verb};
use crate::follow::Follow;
use crate::nearest::nearest;
use crate::output::Output;
use crate::session::Session;
use crate::{CliError, input, secure};

pub(super) const VERBS: &[Verb] = &[
    verb(
        "params",
        "[id] [json]",
        Arity::Between(1, 2),
        params,
        "Shows all params of an object, or replaces them",
        "{noun} params {id} --aggregate",
    )
    .flags(&[
        switch("aggregate", "With the params that come from profiles and stage"),
        switch("decode", "Secure params in clear, for who may see them"),
    ]),
    verb(
        "get",
        "[id] param [key]",
        Arity::Exactly(3),
        get,
        "Shows one param",
        "{noun} get {id} param network-data",
    )
    .flags(&[
        switch("aggregate", "With profiles, stage and the param's default"),
        switch("decode", "A secure param in clear, for who may see it"),
    ]),
    verb(
        "set",
        "[id] param [key] to [json blob]",
        Arity::Exactly(5),
        set,
        "Sets a param; the value may be @FILE or - for standard input",
        "{noun} set {id} param boot-virtual-iso to true",
    ),
    verb(
        "add",
        "[id] param [key] to [json blob]",
        Arity::Exactly(5),
        add,
        "Sets a param that is not set yet",
        "{noun} add {id} param boot-virtual-iso to true",
    ),
    verb(
        "remove",
        "[id] param [key]",
        Arity::Exactly(3),
        remove,
        "Removes a param and shows what it was",
        "{noun} remove {id} param boot-virtual-iso",
    ),
];

/// Params whose change makes the server start or end something on a BMC.
const BOOTS: &str = "boot-virtual-iso";

fn all(noun: &str, id: &str) -> String {
    path!("api", "v3", noun, id, "params")
}

fn one(noun: &str, id: &str, key: &str) -> String {
    format!("{}/{}", all(noun, id), escape_rest(key))
}

fn params(session: &Session, call: &Call) -> Result<Output, CliError> {
    let route = all(call.noun, call.arg(0));
    let not_found = |error| session.not_found_hint(call.noun, call.arg(0), error);
    if let Some(argument) = call.args.get(1) {
        let new = input::map(session.host, argument, "the params")?;
        return Ok(Output::json(session.client()?.post(&route, &new).map_err(not_found)?));
    }
    Ok(Output::json(read(session, call, &route).map_err(not_found)??))
}

fn get(session: &Session, call: &Call) -> Result<Output, CliError> {
    call.word(1, "param")?;
    let route = one(call.noun, call.arg(0), call.arg(2));
    let not_found = |error| session.not_found_hint(call.noun, call.arg(0), error);
    Ok(Output::json(read(session, call, &route).map_err(not_found)??))
}

fn read(session: &Session, call: &Call, route: &str) -> Result<Result<Value, CliError>, ClientError> {
    let client = match session.client() {
        Ok(client) => client,
        Err(error) => return Ok(Err(error)),
    };
    let mut request = client.request(Method::GET, route);
    for name in ["aggregate", "decode"] {
        if call.is_set(name) {
            request = request.query(name, "true");
        }
    }
    Ok(Ok(request.send()?.json()?))
}

fn set(session: &Session, call: &Call) -> Result<Output, CliError> {
    let (id, key) = (call.arg(0), call.arg(2));
    let value = new_value(session, call)?;
    let follow = match key == BOOTS {
        true => Follow::machine(session, call.noun, id)?,
        false => Follow::nothing(),
    };
    let set: Value = session
        .client()?
        .post(&one(call.noun, id, key), &value)
        .map_err(|error| session.not_found_hint(call.noun, id, error))?;
    follow.after(session, set)
}

fn add(session: &Session, call: &Call) -> Result<Output, CliError> {
    let (id, key) = (call.arg(0), call.arg(2));
    let value = new_value(session, call)?;
    let route = all(call.noun, id);
    let old: Value = session
        .client()?
        .get(&route)
        .map_err(|error| session.not_found_hint(call.noun, id, error))?;
    if old.get(key).is_some() {
        let text = format!("Key, {key}, already present on {} {id}", call.singular());
        return Err(CliError::text(text));
    }
    let place = format!("/{}", key.replace('~', "~0").replace('/', "~1"));
    let patch = json!([
        {"op": "test", "path": "", "from": "", "value": old},
        {"op": "add", "path": place, "from": "", "value": value},
    ]);
    let now: Value = session.client()?.patch(&route, &patch)?;
    Ok(Output::json(now.get(key).cloned().unwrap_or(value)))
}

/// The value to set, boxed if the param is declared secure. drpcli asks for the declaration each time.
fn new_value(session: &Session, call: &Call) -> Result<Value, CliError> {
    call.word(1, "param")?;
    call.word(3, "to")?;
    let text = input::value_text(session.host, call.arg(4))?;
    let mut value = input::scalar(&text);
    let declared: Value = match session
        .client()?
        .get(&format!("/api/v3/params/{}", escape_rest(call.arg(2))))
    {
        Ok(declared) => declared,
        Err(error) if error.is_not_found() => return Ok(value),
        Err(error) => return Err(error.into()),
    };
    // A password of digits alone is still a text.
    if session.helpful() && declared["Schema"]["type"] == "string" && !(value.is_string() || value.is_null()) {
        value = Value::String(text);
    }
    if declared["Secure"] != Value::Bool(true) {
        return Ok(value);
    }
    let route = path!("api", "v3", call.noun, call.arg(0), "pubkey");
    let key: Value = session
        .client()?
        .get(&route)
        .map_err(|error| session.not_found_hint(call.noun, call.arg(0), error))?;
    secure::seal(&value, &key)
}

fn remove(session: &Session, call: &Call) -> Result<Output, CliError> {
    call.word(1, "param")?;
    let (id, key) = (call.arg(0), call.arg(2));
    let follow = match key == BOOTS {
        true => Follow::machine(session, call.noun, id)?,
        false => Follow::nothing(),
    };
    match session.client()?.delete::<Value>(&one(call.noun, id, key)) {
        Ok(old) => follow.after(session, old),
        Err(error) => {
            let unset = matches!(&error, ClientError::Api(body) if body.code == 404 && body.model == "params");
            if !unset {
                return Err(session.not_found_hint(call.noun, id, error));
            }
            let hint = if session.helpful() {
                meant(session, call.noun, id, key)
            } else {
                None
            };
            Err(CliError::hinted(error, hint))
        }
    }
}

/// The param that was probably meant: one of the object's own, else a declared one.
fn meant(session: &Session, noun: &str, id: &str, key: &str) -> Option<String> {
    let client = session.client().ok()?;
    let own: Map<String, Value> = client.get(&all(noun, id)).ok()?;
    if let Some(name) = nearest(key, own.keys().map(String::as_str)) {
        return Some(format!("{key} is not set there; did you mean {name}?"));
    }
    let declared: Vec<Value> = client
        .request(Method::GET, "/api/v3/params")
        .query("slim", "Meta")
        .send()
        .ok()?
        .json()
        .ok()?;
    let names = declared.iter().filter_map(|param| param["Name"].as_str());
    Some(match nearest(key, names) {
        Some(name) => format!("{key} is not set there, and no such param is declared; did you mean {name}?"),
        None => format!("{key} is not set there: nothing to remove"),
    })
    // A declared param that is merely unset is no slip.
    .map(|text| match declared.iter().any(|param| param["Name"] == key) {
        true => format!("{key} is not set there: nothing to remove"),
        false => text,
    })
}
