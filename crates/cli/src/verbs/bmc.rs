//! BMCs: their examination, before machines boot through them.

use std::collections::HashSet;
use std::io::{BufRead as _, BufReader};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use isobar_client::{Client, ClientError, Method, Response, path};
use serde_json::{Value, json};

use super::{Arity, Call, Verb, option, switch, verb};
use crate::CliError;
use crate::output::Output;
use crate::session::Session;
use crate::settings::Format;

pub(super) const VERBS: &[Verb] = &[
verb(
    "log",
    "[machine]",
    Arity::Exactly(1),
    log,
    "Lists the event log of a machine's BMC, oldest entry first",
    "bmc log Name:mach-01",
)
.own()
.flags(&[switch("clear", "Empties it, after it was listed")]),
verb(
    "sensors",
    "[machine]",
    Arity::Exactly(1),
    sensors,
    "Lists what the sensors of a machine read",
    "bmc sensors Name:mach-01",
)
.own(),
verb(
    "fru",
    "[machine]",
    Arity::Exactly(1),
    fru,
    "Shows what a machine is built of: maker, part and serial numbers",
    "bmc fru Name:mach-01",
)
.own(),
verb(
    "status",
    "[machine]",
    Arity::Exactly(1),
    status,
    "Shows a machine as its BMC sees it: power, boot mode and override, UEFI HTTP boot, Secure Boot, boot progress",
    "bmc status Name:mach-01",
)
.own(),
verb(
    "reset",
    "[machine]",
    Arity::Exactly(1),
    reset,
    "Restarts a machine's BMC (not the machine), unless a machine boots through it; its virtual media are lost",
    "bmc reset Name:mach-01",
)
.own(),
verb(
    "doctor",
    "[machine]...",
    Arity::AtLeast(0),
    doctor,
    "Examines the BMCs of machines: login, clock, licence, slots, a test disc mounted and seen read, boot override; all is \
     put back, no power switched",
    "bmc doctor Name:mach-01",
)
.own()
.flags(&[
    switch("all", "Of all machines"),
    option("filter", "INDEX=VALUE", "Of the machines that a list with this filter shows; several with commas"),
    option("parallel", "N", "So many at a time [default: 8]"),
])];

/// Runs an action of the machine's BMC.
fn action(session: &Session, call: &Call, command: &str) -> Result<Value, CliError> {
    let machine = session.get_object("machines", call.arg(0))?;
    let uuid = machine["Uuid"].as_str().unwrap_or(call.arg(0));
    let route = path!("api", "v3", "machines", uuid, "actions", command);
    let request = session.client()?.request(Method::POST, &route).patience(SILENCE);
    Ok(request.send_json(&json!({}))?.json()?)
}

fn listed(value: Value, columns: &[&str]) -> Output {
    let columns = columns.iter().map(|name| (*name).to_owned()).collect();
    Output::Json { value, columns }
}

fn log(session: &Session, call: &Call) -> Result<Output, CliError> {
    let entries = action(session, call, "getEventLog")?;
    let shown = listed(entries, &["id", "at", "sensor", "event", "severity"]);
    if call.is_set("clear") {
        // What is cleared has been seen.
        session.host.out(shown.render(session.settings)?.as_bytes())?;
        session.host.flush()?;
        action(session, call, "clearEventLog")?;
        return Ok(Output::Nothing);
    }
    Ok(shown)
}

fn sensors(session: &Session, call: &Call) -> Result<Output, CliError> {
    let read = action(session, call, "getSensors")?;
    Ok(listed(read, &["name", "kind", "value", "unit", "status"]))
}

fn fru(session: &Session, call: &Call) -> Result<Output, CliError> {
    Ok(Output::json(action(session, call, "getFru")?))
}

fn status(session: &Session, call: &Call) -> Result<Output, CliError> {
    Ok(Output::json(action(session, call, "status")?))
}

fn reset(session: &Session, call: &Call) -> Result<Output, CliError> {
    Ok(Output::json(action(session, call, "bmcReset")?))
}

/// Between two findings lies at most an insert, and what is in front of it at the BMC.
const SILENCE: Duration = Duration::from_secs(1800);

/// What to look at: UUID and name.
type Machine = (String, String);

/// Lines of JSON of an answer, as they come; what broke it is the last.
pub(super) fn lines(answer: Response) -> impl Iterator<Item = Result<Value, CliError>> {
    let failed = |error: &dyn std::fmt::Display| CliError::text(format!("the server's answer broke off: {error}"));
    BufReader::new(answer.reader()).lines().map(move |line| {
        let line = line.map_err(|error| failed(&error))?;
        serde_json::from_str(&line).map_err(|error| failed(&error))
    })
}

fn machines(session: &Session, call: &Call) -> Result<Vec<Machine>, CliError> {
    let of = |machine: &Value| {
        let text = |name: &str| machine[name].as_str().unwrap_or_default().to_owned();
        (text("Uuid"), text("Name"))
    };
    let filter = call.option("filter");
    if call.args.is_empty() && !call.is_set("all") && filter.is_none() {
        return Err(call.misuse("say which: machines, --filter or --all"));
    }
    let mut found = Vec::new();
    for id in &call.args {
        found.push(of(&session.get_object("machines", id)?));
    }
    if call.is_set("all") || filter.is_some() {
        let mut request = session.client()?.request(Method::GET, "/api/v3/machines");
        request = request.query("slim", "Params,Meta");
        for one in filter.into_iter().flat_map(|filter| filter.split(',')) {
            let (index, value) = one
                .split_once('=')
                .ok_or_else(|| call.misuse(format!("--filter {one}: want INDEX=VALUE")))?;
            request = request.query(index, value);
        }
        let listed: Vec<Value> = request.send()?.json()?;
        found.extend(listed.iter().map(of));
    }
    // Named twice, or named and among all: a BMC is examined once.
    let mut seen = HashSet::new();
    found.retain(|(uuid, _)| seen.insert(uuid.clone()));
    Ok(found)
}

/// What comes of the examinations.
enum News {
    Row(Value),
    Refused(ClientError),
    Broken(CliError),
}

fn examine(client: &Client, uuid: &str, tell: &dyn Fn(News) -> bool) {
    let route = path!("isobar", "v1", "machines", uuid, "doctor");
    let answer = match client.request(Method::POST, &route).patience(SILENCE).send() {
        Ok(answer) => answer,
        Err(error) => {
            tell(News::Refused(error));
            return;
        }
    };
    let mut done = false;
    for line in lines(answer) {
        let news = match line {
            Ok(row) => {
                done |= row["done"] == Value::Bool(true);
                News::Row(row)
            }
            Err(error) => News::Broken(error),
        };
        if !tell(news) {
            return;
        }
    }
    if !done {
        tell(News::Broken(CliError::text("the server ended in the middle of it")));
    }
}

fn doctor(session: &Session, call: &Call) -> Result<Output, CliError> {
    let machines = machines(session, call)?;
    let parallel = match call.option("parallel").map(str::parse::<usize>) {
        None => 8,
        Some(Ok(n @ 1..=256)) => n,
        Some(_) => return Err(call.misuse("--parallel wants a number from 1 to 256")),
    };
    let live = matches!(session.settings.format, Format::Table | Format::Text);
    let several = machines.len() > 1;
    let mut reports: Vec<Vec<Value>> = vec![Vec::new(); machines.len()];
    let queue = Arc::new(Mutex::new((0..machines.len()).collect::<Vec<usize>>().into_iter()));
    let (sender, news) = mpsc::channel();
    for _ in 0..parallel.min(machines.len()) {
        let (client, queue, sender) = (session.client()?.clone(), Arc::clone(&queue), sender.clone());
        let uuids: Vec<String> = machines.iter().map(|(uuid, _)| uuid.clone()).collect();
        thread::spawn(move || {
            let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
            while let Some(at) = next() {
                examine(&client, &uuids[at], &|news| sender.send((at, news)).is_ok());
            }
        });
    }
    drop(sender);
    for (at, news) in news {
        let row = match news {
            News::Row(row) => row,
            News::Refused(ClientError::Api(body)) => refused(&body.messages),
            News::Refused(error) => refused(&[error.to_string()]),
            News::Broken(error) => refused(&[error.to_string()]),
        };
        if row["done"] == Value::Bool(true) {
            continue;
        }
        if live {
            let name = if several {
                format!("{}: ", machines[at].1)
            } else {
                String::new()
            };
            session.host.out(shown(&name, &row).as_bytes())?;
            session.host.flush()?;
        }
        reports[at].push(row);
    }
    let bad = |rows: &[Value]| rows.iter().filter(|row| row["finding"] == "bad").count();
    let ill = reports.iter().filter(|rows| bad(rows) > 0).count();
    if !live {
        let each = machines.iter().zip(&reports);
        let report: Value = each
            .map(|((uuid, name), rows)| json!({"machine": uuid, "name": name, "bad": bad(rows), "rows": rows}))
            .collect();
        session
            .host
            .out(Output::json(report).render(session.settings)?.as_bytes())?;
    } else if several {
        let text = format!("{} of {} BMCs are in order\n", machines.len() - ill, machines.len());
        session.host.out(text.as_bytes())?;
    }
    session.host.flush()?;
    match ill {
        0 => Ok(Output::Nothing),
        1 if !several => Err(CliError::text(
            "something is wrong with this BMC: see the rows marked bad",
        )),
        _ => Err(CliError::text(format!(
            "something is wrong with {ill} BMCs: see the rows marked bad"
        ))),
    }
}

/// A row for what the server would not begin.
fn refused(messages: &[String]) -> Value {
    let (first, rest) = messages
        .split_first()
        .map_or(("", &[][..]), |(first, rest)| (first.as_str(), rest));
    json!({"row": "begin", "finding": "bad", "text": first, "next": rest.join("; ")})
}

/// `good  login     user root is taken`.
fn shown(name: &str, row: &Value) -> String {
    let text = |member: &str| row[member].as_str().unwrap_or_default();
    let next = match text("next") {
        "" => String::new(),
        next => format!("\n{:>17}{next}", "-> "),
    };
    format!(
        "{name}{:<5} {:<10} {}{next}\n",
        text("finding"),
        text("row"),
        text("text")
    )
}
