//! States of jobs.

use crate::{Object, text};

/// States, in the order they are gone through.
pub const STATES: &[&str] = &["created", "running", "finished", "failed", "incomplete"];
/// What the agent did after a job.
pub const EXIT_STATES: &[&str] = &["", "reboot", "poweroff", "stop", "complete", "failed"];

/// Whether nothing more will come of a job in this state.
pub fn is_over(state: &str) -> bool {
    matches!(state, "finished" | "failed")
}

/// Why a job cannot be stored.
pub(crate) fn problems(job: &Object) -> Vec<String> {
    let (state, exit) = (text(job, "State"), text(job, "ExitState"));
    let mut problems = Vec::new();
    if !STATES.contains(&state) {
        problems.push(format!("Invalid State `{state}`"));
    }
    if !EXIT_STATES.contains(&exit) {
        problems.push(format!("Invalid ExitState `{exit}`"));
    }
    problems
}
