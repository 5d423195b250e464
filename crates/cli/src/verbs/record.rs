//! `bmc record`: what a BMC shows, as a folder that `isobar sim --replay` serves.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use isobar_client::{Method, path};
use serde_json::Value;

use super::bmc::lines;
use super::{Arity, Call, Verb, option, switch, verb};
use crate::CliError;
use crate::output::{self, Output};
use crate::progress::Progress;
use crate::session::Session;

pub(super) const VERBS: &[Verb] = &[verb(
    "record",
    "[machine]",
    Arity::Exactly(1),
    record,
    "Writes all that a machine's BMC shows over Redfish to a folder, without secrets, for isobar sim --replay",
    "bmc record Name:mach-01 --out bmc-tree",
)
.own()
.flags(&[
    option("out", "DIR", "The folder, which must be new or empty"),
    switch("hide-serials", "Serial numbers, service and asset tags are *** as well"),
])];

/// What isobar does with this BMC, in the form of the answer sheets of public trees.
const SHEET: &str = "expected.json";
/// Members by which one machine is told from others of its model; Dell's service tag is its SKU, too.
const SERIALS: &[&str] = &[
    "serialnumber",
    "servicetag",
    "assettag",
    "sku",
    "boardserial",
    "chassisserial",
];

/// A resource of a slow BMC, with what is in front of it.
const SILENCE: Duration = Duration::from_secs(1800);

fn record(session: &Session, call: &Call) -> Result<Output, CliError> {
    let folder = call
        .option("out")
        .ok_or_else(|| call.misuse("say where to: --out DIR"))?;
    let folder = Path::new(folder);
    let failed = |path: &Path| CliError::io(path.display().to_string());
    if fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(CliError::text(format!(
            "{} is not empty: name a new folder with --out",
            folder.display()
        )));
    }
    let machine = session.get_object("machines", call.arg(0))?;
    let uuid = machine["Uuid"].as_str().unwrap_or(call.arg(0));
    let route = path!("isobar", "v1", "machines", uuid, "record");
    let answer = session
        .client()?
        .request(Method::POST, &route)
        .patience(SILENCE)
        .send()?;
    let waiting = Progress::waiting(session, format!("reading the BMC of {}", call.arg(0)));
    let hide = call.is_set("hide-serials");
    let write = |place: &Path, body: &Value| -> Result<(), CliError> {
        if let Some(parent) = place.parent() {
            fs::create_dir_all(parent).map_err(failed(parent))?;
        }
        fs::write(place, output::json(body)).map_err(failed(place))
    };
    let mut end = Value::Null;
    for line in lines(answer) {
        let mut line = line?;
        if line["done"] == Value::Bool(true) {
            end = line;
            break;
        }
        let Some(place) = line["path"].as_str().and_then(|uri| place(folder, uri)) else {
            session
                .host
                .note(&format!("left out, as it can be no file: {}", line["path"]));
            continue;
        };
        if hide {
            hide_serials(&mut line["body"]);
        }
        write(&place, &line["body"])?;
    }
    drop(waiting);
    if end.is_null() {
        return Err(CliError::text(
            "the server ended in the middle of it: the folder is not whole",
        ));
    }
    if end["resources"] == 0
        && let Some(error) = end["error"].as_str()
    {
        return Err(CliError::text(format!("nothing was recorded: {error}")));
    }
    let text = format!(
        "{0}: {1} resources; {2} that are linked are not there, {3} were left out; `isobar sim --replay {0} --machine paper \
         --plain-http --work-dir /tmp/bmc` answers as this BMC does",
        folder.display(),
        end["resources"],
        end["missing"],
        end["left_out"]
    );
    session.host.note(&text);
    let sheet = folder.join(SHEET);
    match (&end["expected"], end["no_sheet"].as_str()) {
        (Value::Object(_), _) => write(&sheet, &end["expected"])?,
        (_, Some(why)) => session
            .host
            .note(&format!("{} was not written: {why}", sheet.display())),
        _ => {}
    }
    match end["error"].as_str() {
        Some(error) => Err(CliError::text(format!("the recording is not whole: {error}"))),
        None => Ok(Output::Nothing),
    }
}

fn hide_serials(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(hide_serials),
        Value::Object(members) => {
            for (name, value) in members {
                let name = name.to_ascii_lowercase();
                match value {
                    Value::String(text) if !text.is_empty() && SERIALS.iter().any(|part| name.contains(part)) => {
                        *text = "***".to_owned();
                    }
                    other => hide_serials(other),
                }
            }
        }
        _ => {}
    }
}

/// The file of a resource. What a BMC writes into its links is not trusted to stay in the folder.
fn place(folder: &Path, uri: &str) -> Option<PathBuf> {
    let mut place = folder.to_owned();
    let parts: Vec<&str> = uri.split('/').filter(|part| !part.is_empty()).collect();
    if parts.first() != Some(&"redfish") || parts.len() > 32 {
        return None;
    }
    for part in parts {
        let good = |c: char| c.is_ascii_alphanumeric() || "-_.~:@()+,;=!$&' ".contains(c);
        if !part.chars().all(good) || part.len() > 200 || part.starts_with('.') {
            return None;
        }
        place.push(part);
    }
    Some(place.join("index.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_stay_in_the_folder() {
        let at = |uri: &str| place(Path::new("t"), uri).map(|place| place.display().to_string());
        assert_eq!(at("/redfish/v1/").as_deref(), Some("t/redfish/v1/index.json"));
        assert_eq!(
            at("/redfish/v1/Systems/System.Embedded.1").as_deref(),
            Some("t/redfish/v1/Systems/System.Embedded.1/index.json")
        );
        for bad in [
            "/redfish/../../etc/passwd",
            "/etc/passwd",
            "/redfish/v1/.ssh",
            "/redfish/a\0b",
            "/redfish/a\\b",
            "",
        ] {
            assert_eq!(at(bad), None, "{bad}");
        }
    }
}
