//! `machines boot`: many machines at once, so many at a time.

use isobar_client::path;
use serde_json::{Value, json};

use super::objects::filters;
use super::{Arity, Call, Verb, option, switch, verb};
use crate::CliError;
use crate::follow::fleet;
use crate::output::Output;
use crate::session::Session;

pub(super) const VERBS: &[Verb] = &[verb(
    "boot",
    "[filters...]",
    Arity::AtLeast(0),
    boot,
    "Boots the machines that match, so many at a time, and no more once too many have failed",
    "machines boot --filter Profiles=rack-7 --bootenv sledgehammer --parallel 50 --stop-after 5 --watch",
)
.flags(&[
    option("filter", "FILTERS", "Which machines, as `machines list` takes it"),
    switch("all", "All machines, where no filter is given"),
    option(
        "bootenv",
        "BOOTENV",
        "What they get [default: each boots its own again]",
    ),
    option("parallel", "N", "Most boots in flight [default: 10]"),
    option(
        "stop-after",
        "N",
        "No more are begun after so many failures; 0: go on [default: 5; 0 with --shadow]",
    ),
    switch("dry-run", "Only say who would boot, and why others would not"),
    switch(
        "shadow",
        "Only rehearse: plan and read everything, send nothing that changes a BMC",
    ),
    switch(
        "watch",
        "Follow it: a line for each machine in trouble, a summary of the rest",
    ),
])
.own()];

/// Blanks part filters, but for those in parentheses.
fn words(text: &str) -> Vec<String> {
    let mut depth = 0_usize;
    let parts = text.split(|c: char| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0 && c.is_whitespace()
    });
    parts.filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

fn number(call: &Call, flag: &str) -> Result<Option<usize>, CliError> {
    let number = |text: &str| {
        text.parse()
            .map_err(|_| call.misuse(format!("--{flag} {text}: a whole number is wanted")))
    };
    call.option(flag).map(number).transpose()
}

fn boot(session: &Session, call: &Call) -> Result<Output, CliError> {
    let mut all = call.args.clone();
    all.extend(call.option("filter").map(words).unwrap_or_default());
    if all.is_empty() != call.is_set("all") {
        return Err(call.misuse("say which machines: --filter, or --all for all of them"));
    }
    let mut order = json!({
        "filter": filters(call, &all)?,
        "parallel": number(call, "parallel")?.unwrap_or(10),
        "stop_after": number(call, "stop-after")?,
        "shadow": call.is_set("shadow"),
        "dry_run": call.is_set("dry-run"),
    });
    if let Some(bootenv) = call.option("bootenv") {
        order["bootenv"] = bootenv.into();
    }
    let answer: Value = session.client()?.post(&path!("isobar", "v1", "operations"), &order)?;
    if call.is_set("dry-run") {
        return Ok(candidates(answer));
    }
    if !call.is_set("watch") {
        return Ok(Output::json(answer));
    }
    fleet::watch(session, answer)?;
    Ok(Output::Nothing)
}

fn candidates(mut found: Value) -> Output {
    for candidate in found.as_array_mut().into_iter().flatten() {
        candidate["why_not"] = candidate["reason"]["message"].clone();
    }
    Output::Json {
        value: found,
        columns: ["machine_name", "bootenv", "why_not"].map(str::to_owned).to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_parted_by_blanks() {
        assert_eq!(words(" A=b  C Eq d "), ["A=b", "C", "Eq", "d"]);
        assert_eq!(words("Name=Re(a b (c d)) X=1"), ["Name=Re(a b (c d))", "X=1"]);
    }
}
