//! `wait`: until a member of an object has a value.

use std::time::{Duration, Instant};

use isobar_client::path;
use serde_json::Value;

use super::{Arity, Call, Verb, verb};
use crate::output::Output;
use crate::progress::Progress;
use crate::session::Session;
use crate::{CliError, input};

/// Between two looks at the object.
const INTERVAL: Duration = Duration::from_millis(500);
/// What drpcli waits when no time is given: a day.
const DEFAULT: Duration = Duration::from_secs(24 * 60 * 60);

pub(super) const VERBS: &[Verb] = &[verb(
    "wait",
    "[id] [field] [value] [seconds]",
    Arity::Between(3, 4),
    wait,
    "Waits until a member has a value; prints complete or timeout",
    "{noun} wait {id} Available true 60",
)];

fn wait(session: &Session, call: &Call) -> Result<Output, CliError> {
    let at_most = match call.args.get(3) {
        Some(text) => {
            let seconds = text
                .parse()
                .map_err(|_| call.misuse(format!("{text:?} is no number of seconds")))?;
            Duration::from_secs(seconds)
        }
        None => DEFAULT,
    };
    let (field, text) = (call.arg(1), call.arg(2));
    let wanted = input::scalar(text);
    let started = Instant::now();
    let _waiting = Progress::waiting(session, format!("waiting for {field} to be {text}"));
    let mut object = session.get_object(call.noun, call.arg(0))?;
    let key = object[call.row.map_or("Name", |row| row.key_field())]
        .as_str()
        .unwrap_or(call.arg(0))
        .to_owned();
    loop {
        let value = object.get(field);
        // A member that is text may hold what looks like a number.
        if value == Some(&wanted) || value.and_then(Value::as_str) == Some(text) {
            return Ok(Output::Text("complete\n".to_owned()));
        }
        let left = at_most.saturating_sub(started.elapsed());
        if left.is_zero() {
            return Ok(Output::Text("timeout\n".to_owned()));
        }
        std::thread::sleep(INTERVAL.min(left));
        object = session.client()?.get(&path!("api", "v3", call.noun, key))?;
    }
}
