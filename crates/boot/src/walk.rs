//! A BMC's resources, all that its service root leads to: a recording that a simulator serves.
//!
//! Bounded in requests, bytes, depth and time. Between two slices of it others have their turn at the BMC.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use isobar_bmc::{BmcError, Endpoint, NoRecorder, Recorder};
use isobar_model::ApiError;
use isobar_objects::Principal;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::actions::failure;
use crate::gate::{Answer, Caller, Verb};
use crate::reason::Reason;
use crate::service::Booter;
use crate::settings::Settings;
use crate::state::Inner;
use crate::turns::Rank;

const ROOT: &str = "/redfish/v1/";
/// Resources read; real BMCs have a few hundred to a few thousand.
const REQUESTS: usize = 5000;
/// JSON kept, in bytes.
const BYTES: usize = 64 << 20;
/// Links from the root.
const DEPTH: usize = 14;
/// For all of it.
const TIME: Duration = Duration::from_secs(3600);
/// URIs of one slice.
const SLICE: usize = 48;
/// Slices in a row that may fail.
const FAILURES: u32 = 3;
/// Resources that wait for whoever asked.
const ROWS: usize = 64;
/// Large, and the same for all: schemas and message registries.
const PASSED_OVER: &[&str] = &[
    "/redfish/v1/jsonschemas",
    "/redfish/v1/schemastore",
    "/redfish/v1/registrystore",
    "$metadata",
];

impl Booter {
    /// Begins to read all that the BMC of a machine shows; a `{"path","body"}` each, as they are read, and last
    /// `{"done":true,"resources":N,"missing":N,"left_out":N,"expected":{…}}` with the answer sheet. It ends when nobody takes it.
    ///
    /// # Errors
    /// No such machine, or no BMC.
    pub async fn walk(&self, machine: &str, key: &str, by: &Principal) -> Result<mpsc::Receiver<Value>, ApiError> {
        let (inner, uuid, named, by) = (Arc::clone(&self.inner), machine.to_owned(), key.to_owned(), by.clone());
        let settings = self.inner.objects.run(move |objects| {
            let settings = inner.settings(&uuid).map_err(|reason| failure(&named, &reason))?;
            settings.endpoint.as_ref().map_err(|reason| failure(&named, reason))?;
            objects.note(by.audit("action:record", "machines", &uuid, ""));
            Ok::<Settings, ApiError>(settings)
        });
        let settings = settings.await?;
        let (tell, resources) = mpsc::channel(ROWS);
        self.inner.runtime.spawn(Arc::clone(&self.inner).walk(settings, tell));
        Ok(resources)
    }
}

/// What is still to be read, and what was seen.
#[derive(Default)]
struct Frontier {
    queue: VecDeque<(String, usize)>,
    seen: HashSet<String>,
    left_out: usize,
}

impl Frontier {
    /// Takes a link up, unless it leads elsewhere, or was taken up before.
    fn add(&mut self, uri: &str, depth: usize) {
        let uri = uri.split('#').next().unwrap_or_default();
        let known = uri.trim_end_matches('/').to_ascii_lowercase();
        let ours = known == "/redfish/v1" || known.starts_with("/redfish/v1/");
        if !ours || uri.contains(['?', '\\', '%']) || uri.len() > 512 || uri.split('/').any(|part| part == "..") {
            return;
        }
        if PASSED_OVER.iter().any(|part| known.contains(part)) || !self.seen.insert(known) {
            return;
        }
        match depth > DEPTH || self.seen.len() > REQUESTS {
            true => self.left_out += 1,
            false => self.queue.push_back((uri.to_owned(), depth)),
        }
    }

    fn links(&mut self, value: &Value, depth: usize) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| self.links(item, depth)),
            Value::Object(members) => {
                for (name, value) in members {
                    match value {
                        Value::String(uri) if name == "@odata.id" || name == "@Redfish.ActionInfo" => {
                            self.add(uri, depth)
                        }
                        other => self.links(other, depth),
                    }
                }
            }
            _ => {}
        }
    }
}

/// Nobody waits for a recording.
fn caller<'a>(endpoint: &'a Endpoint, settings: &'a Settings, who: &'a str) -> Caller<'a> {
    Caller {
        endpoint,
        site: settings.site.as_deref(),
        who,
        rank: Rank::Idle,
    }
}

impl Inner {
    async fn walk(self: Arc<Self>, settings: Settings, tell: mpsc::Sender<Value>) {
        let (end, mut frontier) = (Instant::now() + TIME, Frontier::default());
        let (mut bytes, mut resources, mut missing, mut failures) = (0, 0_usize, 0_usize, 0);
        let mut why = None;
        frontier.add(ROOT, 0);
        while !frontier.queue.is_empty() && why.is_none() {
            if Instant::now() >= end || bytes >= BYTES {
                frontier.left_out += frontier.queue.len();
                why = Some("the bounds of a recording were reached".to_owned());
                break;
            }
            let slice: Vec<(String, usize)> = frontier.queue.iter().take(SLICE).cloned().collect();
            let uris = slice.iter().map(|(uri, _)| uri.clone()).collect();
            match self.slice(&settings, uris).await {
                Ok(read) => {
                    failures = if read.is_empty() { failures + 1 } else { 0 };
                    for ((uri, body), (_, depth)) in read.into_iter().zip(slice) {
                        frontier.queue.pop_front();
                        let Some(body) = body else {
                            missing += 1;
                            continue;
                        };
                        frontier.links(&body, depth + 1);
                        resources += 1;
                        let row = json!({"path": uri, "body": body});
                        bytes += row.to_string().len();
                        if tell.send(row).await.is_err() {
                            return;
                        }
                    }
                }
                Err(reason) => {
                    failures += 1;
                    why = Some(reason.line()).filter(|_| failures >= FAILURES || resources == 0);
                }
            }
            if failures >= FAILURES && why.is_none() {
                why = Some("it answers too slowly".to_owned());
            }
        }
        let (sheet, no_sheet) = match resources {
            0 => (None, None),
            _ => match self.sheet(&settings).await {
                Ok(sheet) => (sheet, None),
                Err(reason) => (None, Some(reason.line())),
            },
        };
        let row = json!({
            "done": true, "resources": resources, "missing": missing, "left_out": frontier.left_out, "error": why,
            "expected": sheet, "no_sheet": no_sheet,
        });
        let _ = tell.send(row).await;
    }

    /// What this version does with the BMC, for later ones to be judged by.
    async fn sheet(&self, settings: &Settings) -> Result<Option<Value>, Reason> {
        let (endpoint, who) = (settings.endpoint.clone()?, format!("record {}", settings.uuid));
        let caller = caller(&endpoint, settings, &who);
        let sheet = self.gate.turn(caller).await.sheet().await;
        sheet.map_err(|error: BmcError| Reason::of_bmc(&error))
    }

    async fn slice(&self, settings: &Settings, uris: Vec<String>) -> Result<Vec<(String, Option<Value>)>, Reason> {
        let (endpoint, who) = (settings.endpoint.clone()?, format!("record {}", settings.uuid));
        let caller = caller(&endpoint, settings, &who);
        let recorder = Arc::new(NoRecorder) as Arc<dyn Recorder>;
        let answer = self.gate.exchange(caller, recorder, &Verb::Walk(uris)).await;
        match answer.map_err(|error: BmcError| Reason::of_bmc(&error))? {
            Answer::Resources(read) => Ok(read),
            _ => Ok(Vec::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed_once_and_never_out_of_the_service() {
        let mut frontier = Frontier::default();
        let body = json!({
            "@odata.id": "/redfish/v1", "Systems": {"@odata.id": "/redfish/v1/Systems"}, "Again": {"@odata.id": "/redfish/v1/systems/"},
            "Members": [{"@odata.id": "/redfish/v1/Systems/1#/Status"}, {"@odata.id": "/redfish/v1/Systems?$skip=50"}],
            "Actions": {"#X": {"@Redfish.ActionInfo": "/redfish/v1/Systems/1/ResetActionInfo", "target": "/redfish/v1/Systems/1/Actions/X"}},
            "Evil": [{"@odata.id": "/redfish/v1/../../etc"}, {"@odata.id": "http://10.0.0.9/redfish/v1/x"}, {"@odata.id": "/etc"}],
            "Schemas": {"@odata.id": "/redfish/v1/JsonSchemas"},
        });
        frontier.add(ROOT, 0);
        frontier.links(&body, 1);
        let uris: Vec<&str> = frontier.queue.iter().map(|(uri, _)| uri.as_str()).collect();
        assert_eq!(
            uris,
            [
                ROOT,
                "/redfish/v1/Systems",
                "/redfish/v1/Systems/1",
                "/redfish/v1/Systems/1/ResetActionInfo"
            ]
        );
        frontier.add("/redfish/v1/Deep", DEPTH + 1);
        assert_eq!((frontier.queue.len(), frontier.left_out), (4, 1));
    }
}
