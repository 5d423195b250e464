//! The feed of changes, and the server's log.

use std::io::{BufRead as _, BufReader, Read as _};
use std::thread;
use std::time::Duration;

use isobar_client::{ClientError, Method};
use serde_json::{Map, Value, json};

use super::services::plain;
use super::{Arity, Call, Verb, option, verb};
use crate::output::{self, Output};
use crate::session::Session;
use crate::settings::Format;
use crate::{CliError, input};

/// The longest event that is taken.
const MAX_EVENT: u64 = 16 << 20;
/// Between two looks at the log.
const LOOK: Duration = Duration::from_secs(1);

pub(super) const VERBS: &[Verb] = &[
    verb(
        "watch",
        "[TYPE.ACTION.KEY...]",
        Arity::AtLeast(0),
        watch,
        "Shows events as they happen; * stands for any type, action or key",
        "events watch machines.update.* jobs.*.*",
    )
    .flags(&[
        option(
            "after",
            "REVISION",
            "Begin with those after this revision, not with new ones",
        ),
        option("count", "N", "End after so many"),
    ]),
    verb(
        "post",
        "[- | JSON or YAML map]",
        Arity::Exactly(1),
        post,
        "Tells whoever watches of something: a map with Type, Action and Key",
        "events post '{\"Type\": \"lab\", \"Action\": \"cabled\", \"Key\": \"rack-7\"}'",
    ),
];

pub(super) const LOGS: &[Verb] = &[
    verb(
        "get",
        "",
        Arity::Exactly(0),
        plain,
        "Shows the latest log lines",
        "logs get",
    ),
    verb(
        "watch",
        "",
        Arity::Exactly(0),
        watch_logs,
        "Shows log lines as they are written, the latest first of all",
        "logs watch",
    )
    .flags(&[option("count", "N", "End after so many")]),
];

fn count(call: &Call) -> Result<u64, CliError> {
    match call.option("count") {
        None => Ok(u64::MAX),
        Some(text) => text
            .parse()
            .map_err(|_| call.misuse(format!("--count {text} is not a number"))),
    }
}

/// Prints one of many.
pub(super) fn print(session: &Session, value: &Value, line: impl Fn(&Value) -> String) -> Result<(), CliError> {
    let text = match session.settings.format {
        Format::Json => output::json(value),
        Format::Yaml => format!("---\n{}", crate::yaml::render(value)),
        Format::Text | Format::Table => output::plain(&line(value)) + "\n",
    };
    session.host.out(text.as_bytes())?;
    session.host.flush()
}

fn watch(session: &Session, call: &Call) -> Result<Output, CliError> {
    let mut left = count(call)?;
    let mut after = call.option("after").map(str::to_owned);
    while left > 0 {
        let mut request = session
            .client()?
            .request(Method::GET, "/isobar/v1/events")
            .header("Accept", "text/event-stream");
        for pattern in &call.args {
            request = request.query("pattern", pattern);
        }
        if let Some(after) = &after {
            request = request.query("after", after);
        }
        let answer = request.send().map_err(|error| match error {
            ClientError::Api(body) if body.code == 404 => CliError::text(
                "this server has no /isobar/v1/events: events are watched on Isobar's servers only. `wait` waits for one \
                 object on any",
            ),
            other => other.into(),
        })?;
        let mut lines = BufReader::new(answer.reader());
        while left > 0 {
            let Some(event) = next(&mut lines)? else { break };
            after = event.id.or(after);
            if event.data.is_null() || event.name == "gap" {
                session
                    .host
                    .note("events are missing here: older ones than the server keeps were asked for");
                continue;
            }
            print(session, &event.data, told)?;
            left -= 1;
        }
        if left > 0 && after.is_none() {
            return Err(CliError::text("the server ended the feed; watch again"));
        }
    }
    Ok(Output::Nothing)
}

/// One Server-Sent Event (WHATWG HTML §9.2).
struct Told {
    id: Option<String>,
    name: String,
    data: Value,
}

/// The next event; none at the end of the stream.
fn next(lines: &mut impl std::io::BufRead) -> Result<Option<Told>, CliError> {
    let (mut id, mut name, mut data) = (None, String::new(), String::new());
    loop {
        let mut line = String::new();
        let read = lines
            .by_ref()
            .take(MAX_EVENT)
            .read_line(&mut line)
            .map_err(CliError::io("the feed of events"))?;
        if read == 0 {
            return Ok(None);
        }
        let line = line.trim_end_matches(['\n', '\r']);
        match line.split_once(':') {
            None if line.is_empty() && (!data.is_empty() || !name.is_empty()) => {
                let data = serde_json::from_str(&data)
                    .map_err(|error| CliError::text(format!("an event cannot be read: {error}")))?;
                return Ok(Some(Told { id, name, data }));
            }
            Some(("id", value)) => id = Some(value.trim().to_owned()),
            Some(("event", value)) => value.trim().clone_into(&mut name),
            Some(("data", value)) => data.push_str(value.trim_start()),
            // A sign of life, or what a later server says besides.
            _ => {}
        }
    }
}

fn told(event: &Value) -> String {
    let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
    let mut line = format!("{} {}.{}.{}", text("Time"), text("Type"), text("Action"), text("Key"));
    let name = event["Object"]["Name"].as_str().filter(|name| *name != text("Key"));
    for more in [
        name.map(str::to_owned),
        Some(text("Principal"))
            .filter(|who| !who.is_empty())
            .map(|who| format!("by {who}")),
    ] {
        line.extend(more.map(|more| format!(" {more}")));
    }
    line
}

fn post(session: &Session, call: &Call) -> Result<Output, CliError> {
    let event = input::map(session.host, call.arg(0), "an event")?;
    let request = session.client()?.request(Method::POST, "/api/v3/events");
    request.send_json(&event)?;
    Ok(Output::Nothing)
}

fn watch_logs(session: &Session, call: &Call) -> Result<Output, CliError> {
    let (mut left, mut seen) = (count(call)?, None);
    loop {
        let lines: Vec<Map<String, Value>> = session.client()?.get("/api/v3/logs")?;
        for line in lines {
            let seq = line.get("Seq").and_then(Value::as_u64);
            if seq <= seen && seen.is_some() {
                continue;
            }
            seen = seq.or(seen);
            print(session, &json!(line), log_line)?;
            left -= 1;
            if left == 0 {
                return Ok(Output::Nothing);
            }
        }
        // The route knows no waiting.
        thread::sleep(LOOK);
    }
}

fn log_line(line: &Value) -> String {
    let text = |name: &str| line[name].as_str().unwrap_or_default();
    let data = line["Data"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut told = format!(
        "{} {} {}: {}",
        text("Time"),
        text("Level"),
        text("Service"),
        text("Message")
    );
    for more in data {
        told.push(' ');
        told.push_str(more);
    }
    told
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn events_are_taken_from_a_stream() {
        let stream = ": alive\n\nid: 7\nevent: machines.update\ndata: {\"Key\":\"k:1\"}\n\nevent: gap\ndata: {}\n\n";
        let mut lines = BufReader::new(stream.as_bytes());
        let first = next(&mut lines).unwrap().unwrap();
        assert_eq!(
            (first.id.as_deref(), first.name.as_str(), &first.data),
            (Some("7"), "machines.update", &json!({"Key": "k:1"}))
        );
        assert_eq!(next(&mut lines).unwrap().unwrap().name, "gap");
        assert!(next(&mut lines).unwrap().is_none());
    }
}
