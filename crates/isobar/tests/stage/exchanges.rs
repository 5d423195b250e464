//! What a BMC's own log says about who talked to it, and when its power was cut.

use std::time::Duration;

use isobar_sim::{Request, Sim};
use serde_json::Value;
use time::OffsetDateTime;

/// Where a BMC had two exchanges at once, from the requests that it saw and the times when servers were started.
///
/// No request may come while another is being done, whoever sent that, and be he dead. No exchange may begin while a
/// session of the same server is open; one of a server that was killed is nobody's any more.
pub fn overlaps(requests: &[Request], starts: &[OffsetDateTime]) -> Vec<String> {
    overlaps_within(requests, starts, None)
}

/// [`overlaps`] where a BMC may be at one request for longer than any exchange is given (an insert that waits for an image
/// whose server was killed): what has outlasted `longest` is given up by then, and the BMC is asked again.
pub fn overlaps_within(requests: &[Request], starts: &[OffsetDateTime], longest: Option<Duration>) -> Vec<String> {
    let mut found = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (n, request) in requests.iter().enumerate() {
        let what = name(request);
        for earlier in &requests[..n] {
            let given_up = longest.is_some_and(|longest| request.at - earlier.at >= longest);
            if !given_up && earlier.ended.is_none_or(|ended| ended > request.at) {
                found.push(format!("{what} came while {} was being done", name(earlier)));
            }
        }
        let server = starts.iter().filter(|start| **start <= request.at).count();
        let path = request.path.trim_end_matches('/');
        let begins = path == "/redfish/v1" || (request.method == "POST" && path.ends_with("/Sessions"));
        if let Some((of, session)) = &open
            && *of == server
            && begins
        {
            found.push(format!("{what} began another exchange while {session} was open"));
        }
        match (request.method.as_str(), request.path.contains("/Sessions")) {
            ("POST", true) if request.status == Some(201) => open = Some((server, what)),
            ("DELETE", true) => open = None,
            // The BMC knows it no more.
            _ if request.auth == "wrong" => open = None,
            // A BMC that restarts forgets who was logged in.
            ("POST", false) if path.ends_with("Manager.Reset") => open = None,
            _ => {}
        }
    }
    found
}

fn name(request: &Request) -> String {
    format!(
        "#{} {} {} ({})",
        request.seq,
        request.method,
        request.path,
        request.at.time()
    )
}

/// Power-offs that came after this machine was switched on to boot its image, and before its system was up.
pub fn cuts_while_booting(sim: &Sim) -> Vec<String> {
    let (requests, boots) = (sim.requests(), sim.boots());
    let up = |from: OffsetDateTime, to: OffsetDateTime| {
        let mut stages = boots.iter().flat_map(|boot| &boot.stages);
        stages.any(|stage| stage.stage == "os-up" && stage.at >= from && stage.at <= to)
    };
    let (mut inserted, mut booting, mut found) = (false, None, Vec::new());
    for request in &requests {
        let kind = request.body.as_ref().and_then(|body| body.get("ResetType"));
        match kind.and_then(Value::as_str) {
            // The first of several: a second one changes nothing.
            Some("On") if inserted => drop(booting.get_or_insert(request.at)),
            Some("ForceOff" | "GracefulShutdown" | "PushPowerButton" | "PowerCycle" | "ForceRestart") => {
                if let Some(on) = booting.take().filter(|on| !up(*on, request.at)) {
                    found.push(format!("{} after power-on at {on}", name(request)));
                }
                inserted = false;
            }
            _ => inserted |= request.path.contains("InsertMedia"),
        }
    }
    found
}
