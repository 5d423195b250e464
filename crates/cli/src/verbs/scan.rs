//! `bmc scan`: which BMCs there are, and machines made of them.

use std::collections::BTreeSet;
use std::time::Duration;

use isobar_client::{Method, path};
use serde_json::{Value, json};

use super::bmc::lines;
use super::{Arity, Call, Verb, option, switch, verb};
use crate::output::Output;
use crate::progress::Progress;
use crate::session::Session;
use crate::{CliError, input, secure};

pub(super) const VERBS: &[Verb] = &[verb(
    "scan",
    "[network]...",
    Arity::AtLeast(1),
    scan,
    "Lists the BMCs in networks, by Redfish and IPMI, with what they are and whether a login is taken; --import makes \
     machines of them",
    "bmc scan 10.0.0.0/24 --creds bmc-logins.txt",
)
.own()
.flags(&[
    option(
        "creds",
        "FILE",
        "Logins, a line USER:PASSWORD each, tried in this order, each once; - for standard input",
    ),
    option(
        "ports",
        "A,B",
        "Ports of Redfish, http:PORT for one without TLS [default: 443]",
    ),
    option("ipmi-port", "PORT", "UDP port of IPMI, 0 for none [default: 623]"),
    switch("import", "Makes machines of those that took a login and are none yet"),
    option(
        "name",
        "PATTERN",
        "Names of new machines; {address}, {port}, {uuid}, {mac}, {model} are filled in [default: node-{address}]",
    ),
])];

/// Between two BMCs that answer may lie many that do not.
const SILENCE: Duration = Duration::from_secs(3600);
/// Refused addresses that are named one by one.
const NAMED: usize = 5;
const COLUMNS: &[&str] = &[
    "bmc", "redfish", "ipmi", "login", "username", "vendor", "model", "firmware", "uuid", "macs",
];

/// What a name may hold of a BMC.
const PLACES: [&str; 5] = ["{address}", "{port}", "{uuid}", "{mac}", "{model}"];

type Login = (String, String);

fn scan(session: &Session, call: &Call) -> Result<Output, CliError> {
    // Before anything is sent to anybody.
    if let Some(pattern) = call.option("name")
        && named(pattern, &Value::Null).contains(['{', '}'])
    {
        return Err(call.misuse(format!(
            "--name {pattern}: {} are what can be filled in",
            PLACES.join(", ")
        )));
    }
    let logins = match call.option("creds") {
        Some("-") => credentials(&input::content(session.host, "-")?)?,
        Some(file) => credentials(&input::content(session.host, &format!("@{file}"))?)?,
        None if call.is_set("import") => return Err(call.misuse("--import needs --creds: machines have a login")),
        None => Vec::new(),
    };
    let mut ports = Vec::new();
    for word in call.option("ports").into_iter().flat_map(|ports| ports.split(',')) {
        let (port, plain) = match word.strip_prefix("http:") {
            Some(port) => (port, true),
            None => (word, false),
        };
        let port: u16 = port
            .trim()
            .parse()
            .map_err(|_| call.misuse(format!("--ports {word}: want PORT or http:PORT")))?;
        ports.push(json!({"port": port, "plain": plain}));
    }
    let sent: Vec<Value> = logins
        .iter()
        .map(|(username, password)| json!({"username": username, "password": password}))
        .collect();
    let mut request = json!({"networks": call.args, "logins": sent, "ports": ports});
    if let Some(port) = call.option("ipmi-port") {
        let port: u16 = port
            .parse()
            .map_err(|_| call.misuse(format!("--ipmi-port {port}: want a number")))?;
        request["ipmi_port"] = port.into();
    }
    let waiting = Progress::waiting(session, format!("looking for BMCs in {}", call.args.join(", ")));
    let answer = session
        .client()?
        .request(Method::POST, "/isobar/v1/bmcs/scan")
        .patience(SILENCE)
        .send_json(&request)?;
    let (mut found, mut refused, mut end) = (Vec::new(), Vec::new(), Value::Null);
    for line in lines(answer) {
        let line = line?;
        if line["done"] == Value::Bool(true) {
            end = line;
        } else if line.get("refused").is_some() {
            refused.push(line);
        } else {
            found.push(line);
        }
    }
    drop(waiting);
    tell_refused(session, &refused);
    if end.is_null() {
        return Err(CliError::text("the server ended in the middle of the scan"));
    }
    for row in found.iter().filter(|row| !row["error"].is_null()) {
        session
            .host
            .note(&format!("{}: {}", text(row, "bmc"), text(row, "error")));
    }
    session.host.note(&format!(
        "{} BMCs answer at {} addresses that were looked at",
        end["answered"], end["scanned"]
    ));
    let failed = match call.is_set("import") {
        true => import(session, call, &mut found, &logins)?,
        false => 0,
    };
    let columns = match call.is_set("import") {
        true => ["bmc", "login", "vendor", "model", "uuid", "macs", "machine"].as_slice(),
        false => COLUMNS,
    };
    let shown = Output::Json {
        value: found.into_iter().chain(refused).collect(),
        columns: columns.iter().map(|name| (*name).to_owned()).collect(),
    };
    if failed > 0 {
        session.host.out(shown.render(session.settings)?.as_bytes())?;
        session.host.flush()?;
        return Err(CliError::text(format!(
            "{failed} machines could not be made: see above"
        )));
    }
    Ok(shown)
}

fn text<'a>(row: &'a Value, member: &str) -> &'a str {
    row[member].as_str().unwrap_or_default()
}

/// `USER:PASSWORD` a line; blank ones and those behind a `#` are nothing.
fn credentials(text: &str) -> Result<Vec<Login>, CliError> {
    let lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let logins: Option<Vec<Login>> = lines
        .map(|line| {
            line.split_once(':')
                .map(|(user, password)| (user.to_owned(), password.to_owned()))
        })
        .collect();
    // Which line it is could show a password.
    let logins = logins.ok_or_else(|| CliError::text("--creds: want a line USER:PASSWORD for each login"))?;
    match logins.is_empty() {
        true => Err(CliError::text("--creds: there is no login in it")),
        false => Ok(logins),
    }
}

fn tell_refused(session: &Session, refused: &[Value]) {
    for row in refused.iter().take(NAMED) {
        session
            .host
            .note(&format!("{}: {}", text(row, "address"), text(row, "refused")));
    }
    if let more @ 1.. = refused.len().saturating_sub(NAMED) {
        session
            .host
            .note(&format!("and {more} more addresses that are not allowed"));
    }
}

/// Machines of those that took a login; how many could not be made. Each row says what became of it.
fn import(session: &Session, call: &Call, found: &mut [Value], logins: &[Login]) -> Result<usize, CliError> {
    let client = session.client()?;
    let pattern = call.option("name").unwrap_or("node-{address}");
    let listed: Vec<Value> = client
        .request(Method::GET, "/api/v3/machines")
        .query("params", "ipmi/address")
        .send()?
        .json()?;
    let mut known: BTreeSet<String> = BTreeSet::new();
    for machine in &listed {
        known.insert(text(machine, "Uuid").to_ascii_lowercase());
        known.insert(text(machine, "Name").to_owned());
        known.insert(text(&machine["Params"], "ipmi/address").to_owned());
    }
    known.remove("");
    let mut failed = 0;
    for row in found {
        if row["login"] != "ok" {
            row["machine"] = "no: no login was taken".into();
            continue;
        }
        let name = named(pattern, row);
        let same = [text(row, "uuid"), &name, text(row, "bmc")];
        if let Some(same) = same.iter().find(|key| known.contains(**key)) {
            row["machine"] = format!("is there already ({same})").into();
            continue;
        }
        row["machine"] = match make(session, row, &name, logins) {
            Ok(()) => {
                known.extend([text(row, "uuid"), &name, text(row, "bmc")].map(str::to_owned));
                format!("made: {name}").into()
            }
            Err(error) => {
                failed += 1;
                format!("failed: {error}").into()
            }
        };
    }
    Ok(failed)
}

fn named(pattern: &str, row: &Value) -> String {
    let plain = |text: &str| {
        let kept = |c: char| {
            if c.is_ascii_alphanumeric() || "-_".contains(c) {
                c
            } else {
                '-'
            }
        };
        text.chars().map(kept).collect::<String>()
    };
    let mac = row["macs"][0].as_str().unwrap_or_default();
    let port = row["port"].to_string();
    let values = [text(row, "address"), &port, text(row, "uuid"), mac, text(row, "model")];
    PLACES
        .into_iter()
        .zip(values)
        .fold(pattern.to_owned(), |name, (word, value)| {
            name.replace(word, &plain(value))
        })
}

/// A machine with its BMC's address and login; the password is boxed for the machine's own key.
fn make(session: &Session, row: &Value, name: &str, logins: &[Login]) -> Result<(), CliError> {
    let client = session.client()?;
    let with = row["with"]
        .as_u64()
        .and_then(|number| logins.get(usize::try_from(number).ok()?));
    let Some((user, password)) = with else {
        return Err(CliError::text("its login is not among the given ones"));
    };
    let mode = if text(row, "redfish").is_empty() {
        "ipmitool"
    } else {
        "auto"
    };
    let mut machine = json!({
        "Name": name, "HardwareAddrs": row["macs"],
        "Params": {"ipmi/address": row["bmc"], "ipmi/username": user, "ipmi/mode": mode},
    });
    // Some write nothing, or the same for all of a series, into it.
    let uuid = text(row, "uuid");
    let digits: BTreeSet<char> = uuid.chars().filter(|c| *c != '-').collect();
    if uuid.len() == 36 && digits.len() > 2 {
        machine["Uuid"] = uuid.into();
    }
    if mode == "ipmitool" && row["port"] != 623 {
        machine["Params"]["ipmi/port-ipmitool"] = row["port"].clone();
    }
    let made: Value = client.post("/api/v3/machines", &machine)?;
    let uuid = text(&made, "Uuid");
    let stored = (|| {
        let key: Value = client.get(&path!("api", "v3", "machines", uuid, "pubkey"))?;
        let boxed = secure::seal(&json!(password), &key)?;
        let route = format!("{}/ipmi/password", path!("api", "v3", "machines", uuid, "params"));
        let _: Value = client.post(&route, &boxed)?;
        Ok::<(), CliError>(())
    })();
    if let Err(error) = stored {
        // Half a machine would be skipped next time.
        let _: Result<Value, _> = client.delete(&path!("api", "v3", "machines", uuid));
        return Err(error);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn logins_are_lines_and_never_shown() {
        let logins = credentials("# racks 1 to 3\nroot:a:b\n\n admin:x \n").unwrap();
        assert_eq!(
            logins,
            [
                ("root".to_owned(), "a:b".to_owned()),
                ("admin".to_owned(), "x".to_owned())
            ]
        );
        let error = credentials("root:good\ncanary-password\n").unwrap_err().to_string();
        assert!(!error.contains("canary"), "{error}");
        assert!(credentials("# nothing\n").is_err());
    }

    #[test]
    fn names_are_made_of_what_was_found() {
        let row = json!({"address": "10.0.0.5", "port": 443, "uuid": "ab-1", "macs": ["aa:bb:cc:00:00:01"], "model": "R 750"});
        assert_eq!(named("node-{address}", &row), "node-10-0-0-5");
        assert_eq!(named("{model}_{mac}.{port}", &row), "R-750_aa-bb-cc-00-00-01.443");
    }
}
