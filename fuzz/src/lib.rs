//! Functions that take any bytes and must hold what they promise. `tests/corpus.rs` runs the corpora, and changed copies
//! of them, through these; `libfuzzer/` gives them to a fuzzer.
//!
//! Each panics when a promise is broken, and for no other reason.

use std::sync::Arc;
use std::time::Duration;

use isobar_model::filter::Query;
use isobar_model::key::KeyRef;
use isobar_model::lookup::Nothing;
use isobar_model::patch::{Patch, Target, diff};
use isobar_model::table::NOUNS;
use isobar_model::{Object, noun};
use isobar_template::{Limits, Scope, Shown};
use serde_json::{Value, json};

/// A target: its name, which is that of its corpus, and the function.
pub type TargetRow = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[TargetRow] = &[
    ("json_patch", json_patch),
    ("filters", filters),
    ("keys", keys),
    ("templates", templates),
    ("ipmi", ipmi),
];

/// Line one: a document; the rest: a patch. A patch is applied as a whole or not at all, and the difference of two
/// documents leads from one to the other.
pub fn json_patch(data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == b'\n');
    let mut read = || serde_json::from_slice::<Value>(parts.next()?).ok();
    let (Some(old), Some(document)) = (read(), read()) else {
        return;
    };
    let Ok(patch) = Patch::parse(&document) else { return };
    let mut new = old.clone();
    if patch.apply(&mut new, Target::Object).is_err() {
        assert_eq!(new, old, "half of a patch was applied");
    } else {
        let mut again = old.clone();
        if let Ok(way) = Patch::parse(&diff(&old, &new)) {
            way.apply(&mut again, Target::Object).expect("the difference applies");
            assert_eq!(again, new, "the difference leads elsewhere");
        }
    }
    let Some(machines) = noun("machines") else { return };
    let Ok(machine) = machines.canonical(&json!({ "Name": "mach-01", "Uuid": UUID, "Params": old })) else {
        return;
    };
    if let Ok(changed) = patch.apply_to(machines, &machine) {
        assert_eq!(machines.key_of(&changed), UUID, "the key was changed");
    }
}

const UUID: &str = "1987e6d3-75ef-4a61-bf0d-2fa4b26f8215";

/// The query of a list, as it stands in a URL. What is shown is a part of what there is, no more than the limit, and
/// each of it fits.
pub fn filters(data: &[u8]) {
    let pairs: Vec<(String, String)> = url::form_urlencoded::parse(data).into_owned().collect();
    for noun in NOUNS {
        let Ok(query) = Query::parse(noun, pairs.iter().map(|(name, value)| (name, value)), &Nothing) else {
            continue;
        };
        let objects = [noun.empty(), sample(noun)];
        let all: Vec<&Object> = objects.iter().collect();
        let shown = query.run(noun, all, |object| object, &Nothing);
        assert!(shown.len() <= objects.len(), "more than there is");
        assert!(
            shown.iter().all(|object| query.matches(noun, object, &Nothing)),
            "one does not fit"
        );
        let limit = pairs.iter().rev().find(|(name, _)| name == "limit");
        if let Some(limit) = limit.and_then(|(_, text)| text.parse::<usize>().ok()) {
            assert!(shown.len() <= limit, "more than the limit");
        }
    }
}

fn sample(noun: &isobar_model::Noun) -> Object {
    let input = json!({
        "Name": "mach-01", "ID": "mach-01", "Uuid": UUID, "Addr": "192.168.77.10", "Address": "192.168.77.10",
        "Params": { "a": 1, "b": "x", "c": [1], "d": null }, "Meta": { "color": "green" },
    });
    noun.canonical(&input).unwrap_or_else(|_| noun.empty())
}

/// A key as a client writes it. The one spelling of a key is its own, and a bare key is never lost.
pub fn keys(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for noun in NOUNS {
        let key = noun.canonical_key(&text);
        assert_eq!(
            noun.canonical_key(&key),
            key,
            "{}: {text:?} has two spellings",
            noun.name
        );
        match noun.parse_key(&text) {
            KeyRef::Key(key) => assert_eq!(noun.canonical_key(&key), key, "{}: {text:?}", noun.name),
            KeyRef::Index { index, value } => {
                assert!(
                    noun.index(index).is_some_and(|i| i.unique),
                    "{}: {index} is not unique",
                    noun.name
                );
                assert!(text.ends_with(&value), "{}: {text:?}", noun.name);
            }
        }
    }
}

/// The text of a template. It is rendered within its bounds or refused in words that name it.
pub fn templates(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let limits = Limits {
        output: 64 << 10,
        time: Duration::from_secs(2),
        iterations: 5_000,
    };
    let checked = isobar_template::check("fuzzed", &text);
    match isobar_template::render_with("fuzzed", &text, &(Arc::new(OneMachine) as Arc<dyn Scope>), limits) {
        Ok(output) => {
            assert!(output.len() <= limits.output, "more than may be");
            assert!(checked.is_ok(), "what is rendered is a template: {checked:?}");
        }
        Err(error) => assert!(!error.message.is_empty() && !error.template.is_empty(), "{error:?}"),
    }
}

/// A packet of IPMI, from whoever sends to the port. What is read is written back the same; nothing opens that was not
/// sealed with the session's keys.
pub fn ipmi(data: &[u8]) {
    use isobar_ipmi::crypto::{KNOWN, Keys};
    use isobar_ipmi::wire::{self, Packet, Request, Response};
    use isobar_ipmi::{chassis, device, fru, rakp, sdr, sel, session, sol};

    let body = match wire::parse(data) {
        Err(_) => data,
        Ok(Packet::Plain { payload }) => payload,
        Ok(Packet::Plus(plus)) => {
            for suite in KNOWN {
                assert!(Keys::of(*suite, b"nobody has these").open(&plus).is_err(), "forged");
            }
            plus.payload
        }
    };
    if let Ok(request) = Request::parse(body) {
        assert_eq!(Request::parse(&request.encode()), Ok(request));
        assert!(Response::parse(&request.answer(0, request.data)).is_ok());
    }
    let _ = (
        Response::parse(body),
        device::DeviceId::parse(body),
        sel::Info::parse(body),
    );
    let _ = (
        fru::Fru::parse(body),
        chassis::BootFlags::parse(body),
        session::suites_in(body),
    );
    let _ = (rakp::OpenRequest::parse(body), rakp::OpenResponse::parse(body));
    let _ = (rakp::Rakp2::parse(body), rakp::Rakp34::parse(body));
    if let Ok(message) = rakp::Rakp1::parse(body) {
        assert_eq!(rakp::Rakp1::parse(&message.encode()), Ok(message));
    }
    if let Ok(packet) = sol::SolPacket::parse(body) {
        assert_eq!(sol::SolPacket::parse(&packet.encode()), Ok(packet));
    }
    if let Some(record) = body.first_chunk() {
        let _ = sel::Entry::parse(record);
    }
    if let Ok(Some(record)) = sdr::Record::parse(body) {
        let sensor = record.read(Some(body));
        assert!(sensor.value.is_none_or(f64::is_finite), "{sensor:?}");
        assert!(!sensor.name.contains(char::is_control), "steers a terminal");
    }
}

/// A machine with few params and nothing around it.
struct OneMachine;

impl Scope for OneMachine {
    fn machine(&self) -> Option<Shown<'_>> {
        Some(noun("machines").map(sample)?.into())
    }

    fn provisioner_address(&self) -> Result<String, String> {
        Ok("192.168.77.2".to_owned())
    }

    fn provisioner_url(&self) -> Result<String, String> {
        Ok("http://192.168.77.2:8091".to_owned())
    }

    fn api_url(&self) -> Result<String, String> {
        Ok("https://192.168.77.2:8092".to_owned())
    }

    fn param(&self, name: &str) -> Result<Option<Value>, String> {
        let params = noun("machines")
            .map(sample)
            .and_then(|machine| machine.get("Params").cloned());
        Ok(params.and_then(|params| params.get(name).cloned()))
    }
}
