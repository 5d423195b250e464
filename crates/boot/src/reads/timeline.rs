//! What was read when, for a post-mortem.

use std::time::SystemTime;

use serde_json::{Value, json};

use super::{AttemptReads, Stretch, lock};
use crate::record::{ms_of, rfc3339};

fn when(at: Option<SystemTime>) -> Option<String> {
    at.map(|at| rfc3339(ms_of(at)))
}

impl AttemptReads {
    /// On both sides of the power-on: begin, end, and how much of each file.
    pub(crate) fn timeline(&self, now: SystemTime) -> Value {
        let seen = self.now(now);
        let state = lock(&self.state);
        let side = |stretch: &Stretch| {
            let files = self.files.iter().filter_map(|file| {
                let covered = stretch.coverage.covered(file.id);
                (covered > 0).then(|| {
                    let furthest = stretch.coverage.furthest(file.id);
                    json!({"path": file.path, "bytes": file.len, "read": covered, "furthest": furthest})
                })
            });
            json!({
                "requests": stretch.requests, "bytes": stretch.bytes, "first": when(stretch.first),
                "last": when(stretch.last), "last_new": when(stretch.progress), "files": files.collect::<Vec<_>>(),
            })
        };
        json!({
            "verdict": seen.reading.detail, "powered_on": when(state.powered_on), "by_the_bmc": state.own,
            "elsewhere": state.elsewhere, "refused": state.refused,
            "before_power_on": side(&state.before), "since_power_on": side(&state.after),
        })
    }
}
