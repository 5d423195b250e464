//! Notes on objects: their `Meta` map.

use isobar_client::path;
use serde_json::{Value, json};

use super::{Arity, Call, Verb, verb};
use crate::CliError;
use crate::output::Output;
use crate::session::Session;

pub(super) const VERBS: &[Verb] = &[verb(
    "meta",
    "[id] | add|get|set|remove [id] key [key] [to [value]]",
    Arity::Between(1, 6),
    meta,
    "Shows the notes on an object, or changes one",
    "{noun} meta set {id} key rack to 7",
)];

fn meta(session: &Session, call: &Call) -> Result<Output, CliError> {
    if call.args.len() == 1 {
        return Ok(Output::json(session.client()?.get(&path!(
            "api",
            "v3",
            "meta",
            call.noun,
            call.arg(0)
        ))?));
    }
    let (what, id, key) = (call.arg(0), call.arg(1), call.arg(3));
    let expected = match what {
        "get" | "remove" => 4,
        "add" | "set" => 6,
        _ => return Err(call.misuse(format!("{what:?} is none of add, get, set, remove"))),
    };
    if call.args.len() != expected {
        return Err(call.misuse(format!("meta {what} takes {expected} words")));
    }
    call.word(2, "key")?;
    let route = path!("api", "v3", "meta", call.noun, id);
    let client = session.client()?;
    let old: Value = client.get(&route)?;
    let was = old.get(key).cloned();
    let place = format!("/{}", key.replace('~', "~0").replace('/', "~1"));
    let change = match what {
        "get" => return Ok(Output::json(was.unwrap_or(Value::Null))),
        "remove" if was.is_none() => return Err(CliError::text(format!("{key} is not among the notes on {id}"))),
        "remove" => json!({"op": "remove", "path": place, "from": ""}),
        "add" if was.is_some() => {
            return Err(CliError::text(format!(
                "Key, {key}, already present on {} {id}",
                call.singular()
            )));
        }
        _ => {
            call.word(4, "to")?;
            json!({"op": "add", "path": place, "from": "", "value": call.arg(5)})
        }
    };
    let now: Value = client.patch(
        &route,
        &json!([{"op": "test", "path": "", "from": "", "value": old}, change]),
    )?;
    Ok(Output::json(now.get(key).cloned().or(was).unwrap_or(Value::Null)))
}
