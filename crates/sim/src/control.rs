//! The control API, `/sim/v1` on the BMC's own listener, without login: what a test harness in
//! another process may do to the simulator and see of it.
//!
//! | request | does |
//! |---|---|
//! | `GET /sim/v1/log[?after=SEQ]` | requests, reads, media, boots, power, boot override, slot |
//! | `GET /sim/v1/faults` | planted faults |
//! | `POST /sim/v1/faults` | plants a [`Fault`]; answers `{"id":N}` |
//! | `DELETE /sim/v1/faults` / `…/N` | removes all / one |
//! | `POST /sim/v1/faults/N/release` | lets what it holds go on |
//! | `POST /sim/v1/guest/reset` | the guest reboots itself |
//! | `GET /sim/v1/serial` | end of the serial console |

use http::Method;
use serde_json::json;

use crate::bmc::{Bmc, SlotId};
use crate::fault::Fault;
use crate::power::Command;
use crate::redfish::{Answer, Refused};

pub(crate) fn answer(bmc: &Bmc, method: &Method, path: &str, query: Option<&str>, body: &[u8]) -> Answer {
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    let done = |found: bool| {
        if found {
            Answer::json(200, json!({}))
        } else {
            Refused::not_found("Fault", path).into()
        }
    };
    match (method.as_str(), parts.as_slice()) {
        ("GET", ["log"]) => log(bmc, query),
        ("GET", ["serial"]) => Answer::json(200, json!({"text": bmc.console.tail()})),
        ("GET", ["faults"]) => Answer::json(200, json!(bmc.faults.list())),
        ("POST", ["faults"]) => match serde_json::from_slice::<Fault>(body) {
            Ok(fault) => Answer::json(201, json!({"id": bmc.plant(fault)})),
            Err(error) => Refused::general(400, format!("not a fault: {error}")).into(),
        },
        ("DELETE", ["faults"]) => {
            bmc.faults.clear();
            done(true)
        }
        ("DELETE", ["faults", id]) => done(id.parse().is_ok_and(|id| bmc.faults.remove(id))),
        ("POST", ["faults", id, "release"]) => done(id.parse().is_ok_and(|id| bmc.faults.release(id))),
        ("POST", ["guest", "reset"]) => match bmc.command(Command::GuestReset) {
            Ok(()) => Answer::json(200, json!({})),
            Err(_) => Refused::busy().into(),
        },
        _ => Refused::not_found("simulator control", path).into(),
    }
}

fn log(bmc: &Bmc, query: Option<&str>) -> Answer {
    let after: u64 = query
        .and_then(|q| url::form_urlencoded::parse(q.as_bytes()).find(|(name, _)| name == "after"))
        .and_then(|(_, value)| value.parse().ok())
        .unwrap_or(0);
    let requests: Vec<_> = bmc.log.requests().into_iter().filter(|r| r.seq > after).collect();
    Answer::json(
        200,
        json!({
            "requests": requests,
            "reads": bmc.log.reads(),
            "media": bmc.log.media(),
            "boots": bmc.log.boots(),
            "power": bmc.power(),
            "boot": bmc.boot_override(),
            "cd": bmc.slot_view(SlotId::Cd),
        }),
    )
}
