//! Answers that come later: 202 and a task to look at.

use super::json;
use super::transport::{Reply, Transport};
use crate::{BmcError, ErrorClass};

/// Waits for what a 202 promised; other answers are their own end.
///
/// # Errors
/// The task failed, or did not end inside the call's deadline.
pub(crate) async fn finish(http: &mut Transport, reply: Reply) -> Result<Reply, BmcError> {
    if reply.status != 202 {
        return Ok(reply);
    }
    let Some(uri) = reply.location.clone().or_else(|| json::link(&reply.body, &[])) else {
        // Nothing to look at: the effect is checked by whoever asked.
        return Ok(reply);
    };
    let poll = http.options.poll;
    loop {
        // A monitor may be gone once it was read to its end; the effect is checked by whoever asked.
        let Some(seen) = http.get_if_there(&uri).await? else {
            return Ok(reply);
        };
        let state = ["TaskState", "JobState"]
            .iter()
            .find_map(|name| json::text(&seen.body, &[name]))
            .unwrap_or_default();
        match state {
            "Exception" | "Killed" | "Cancelled" | "Cancelling" | "Failed" | "CompletedWithErrors" | "RebootFailed" => {
                let said = json::text(&seen.body, &["Message"]).map(str::to_owned).or_else(|| {
                    let messages = json::at(&seen.body, &["Messages"]).as_array()?;
                    messages
                        .iter()
                        .find_map(|m| json::text(m, &["Message"]))
                        .map(str::to_owned)
                });
                let said = said.map(|s| format!(": {s}")).unwrap_or_default();
                return Err(http.error(ErrorClass::Refused, format!("its task {uri} ended in {state}{said}")));
            }
            "Completed" => return Ok(seen),
            "" if seen.status != 202 => return Ok(seen),
            _ => http.wait(poll).await?,
        }
    }
}
