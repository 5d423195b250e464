//! `Validated`, `Available` and `Errors`: what is well-formed is stored, what is not usable is stored and
//! says why.

use serde_json::Value;

use crate::machine::{self, Change};
use crate::params::ParamSchema;
use crate::table::Noun;
use crate::{ApiError, Lookup, Object, arch, bootenv, jobs, list, name, params, subnets, tasks, text};

/// What there is to say against an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Why it cannot be stored.
    pub invalid: Vec<String>,
    /// Why it cannot be used.
    pub unavailable: Vec<String>,
}

/// Makes a created or changed object ready to be stored: defaults and consequences of the change, then
/// the marks. `new` is in canonical form and has its key; see [`machine::settle`] for machines.
///
/// # Errors
/// 422 with all the reasons when it cannot be stored.
pub fn admit(
    noun: &Noun,
    old: Option<&Object>,
    new: &mut Object,
    lookup: &dyn Lookup,
    change: Change,
) -> Result<(), ApiError> {
    match (noun.name, old) {
        ("machines", _) => machine::settle(old, new, lookup, change)?,
        ("subnets", _) => subnets::settle_subnet(old, new)?,
        ("reservations", _) => subnets::settle_reservation(old, new, lookup)?,
        ("stages", None) => {
            // Clients of the 4.x generation send false when nothing was said; DRP overrules them.
            new.insert("RunnerWait".to_owned(), true.into());
        }
        ("tasks", None) => {
            if let Some(Value::Object(meta)) = new.get_mut("Meta") {
                meta.entry("feature-flags").or_insert_with(|| "sane-exit-codes".into());
            }
        }
        _ => {}
    }
    mark(noun, new, lookup)
}

/// Fills `Validated`, `Available` and `Errors` (for machines also `Runnable`) from the present state of
/// the objects that it refers to. Also to be called when one of those changes.
///
/// # Errors
/// 422 with all the reasons when the object cannot be stored.
pub fn mark(noun: &Noun, object: &mut Object, lookup: &dyn Lookup) -> Result<(), ApiError> {
    let findings = findings(noun, object, lookup);
    let valid = findings.invalid.is_empty();
    let available = valid && findings.unavailable.is_empty();
    if noun.name == "machines" && !available {
        object.insert("Runnable".to_owned(), false.into());
    }
    let errors = findings.invalid.iter().chain(&findings.unavailable).cloned().collect();
    Noun::mark(object, valid, available, errors);
    if valid {
        return Ok(());
    }
    Err(ApiError::validations(noun.name, &noun.key_of(object), findings.invalid))
}

/// Everything that there is to say against an object.
pub fn findings(noun: &Noun, object: &Object, lookup: &dyn Lookup) -> Findings {
    let mut found = Findings::default();
    let label = if noun.field("Name").is_some() { "Name" } else { "ID" };
    found.invalid.extend(name::refused(noun, text(object, label)));
    match noun.name {
        "bootenvs" => check_bootenv(object, lookup, &mut found),
        "machines" => check_machine(noun, object, lookup, &mut found),
        "params" => check_param(object, &mut found),
        "jobs" => found.invalid.extend(jobs::problems(object)),
        "plugins" => check_plugin(object, lookup, &mut found),
        "reservations" => found.invalid.extend(subnets::reservation_problems(object, lookup)),
        "subnets" => subnets::check_subnet(object, lookup, &mut found),
        "profiles" => {
            check_params(object, lookup, &mut found);
            check_profiles(object, lookup, &mut found.unavailable);
        }
        "stages" => check_stage(object, lookup, &mut found),
        "tasks" => {
            check_templates(object, lookup, &mut found);
            found.invalid.extend(tasks::prerequisite_problems(object, lookup));
        }
        "templates" => found
            .invalid
            .extend(lookup.check_template(text(object, "Contents")).err()),
        "workflows" => check_workflow(object, lookup, &mut found),
        _ => {}
    }
    found
}

fn check_machine(noun: &Noun, machine: &Object, lookup: &dyn Lookup, found: &mut Findings) {
    let uuid = noun.key_of(machine).into_owned();
    let others = |index, value| {
        lookup
            .find("machines", index, value)
            .into_iter()
            .filter(|key| *key != uuid)
    };
    let name = text(machine, "Name");
    found
        .invalid
        .extend(others("Name", name).map(|other| format!("Machine {other} already has Name {name}")));
    let address = text(machine, "Address");
    if !matches!(address, "" | "0.0.0.0" | "::") {
        let taken = others("Address", address);
        found
            .invalid
            .extend(taken.map(|other| format!("Machine {other} already has IP address {address}")));
    }
    let architecture = text(machine, "Arch");
    found.invalid.extend(arch::refused(architecture));
    check_profiles(machine, lookup, &mut found.invalid);
    check_params(machine, lookup, found);
    let entries: Vec<_> = list(machine, "Tasks").collect();
    let (malformed, missing) = tasks::problems(&entries, lookup);
    found.invalid.extend(malformed);
    found.unavailable.extend(missing);

    let stage = text(machine, "Stage");
    match lookup.get("stages", stage) {
        None => found.unavailable.push(format!("Stage {stage} does not exist")),
        Some(object) => found.unavailable.extend(unusable("Stage", stage, &object)),
    }
    let name = text(machine, "BootEnv");
    let Some(bootenv) = lookup.get("bootenvs", name) else {
        found.unavailable.push(format!("Bootenv {name} does not exist"));
        return;
    };
    if let Some(reasons) = unusable_reasons("BootEnv", name, &bootenv) {
        found.unavailable.extend(reasons);
    } else if bootenv::boots_kernel(&bootenv) {
        match bootenv::for_arch(&bootenv, architecture) {
            None => found
                .unavailable
                .push(format!("BootEnv {name} cannot boot Arch {architecture}")),
            Some(_) => found
                .unavailable
                .extend(bootenv::missing_files(&bootenv, architecture, lookup)),
        }
    }
}

/// The reasons of an object that is not available, or at least that it is not.
fn unusable_reasons(what: &str, name: &str, object: &Object) -> Option<Vec<String>> {
    if object.get("Available") != Some(&Value::Bool(false)) {
        return None;
    }
    let reasons: Vec<_> = list(object, "Errors").map(str::to_owned).collect();
    Some(if reasons.is_empty() {
        vec![format!("{what} {name} is not available")]
    } else {
        reasons
    })
}

fn unusable(what: &str, name: &str, object: &Object) -> Option<String> {
    (object.get("Available") == Some(&Value::Bool(false))).then(|| format!("{what} {name} is not available"))
}

fn check_profiles(object: &Object, lookup: &dyn Lookup, problems: &mut Vec<String>) {
    let profiles: Vec<_> = list(object, "Profiles").collect();
    for (at, profile) in profiles.iter().enumerate() {
        if let Some(first) = profiles[..at].iter().position(|other| other == profile) {
            problems.push(format!("Duplicate profile {profile}: at {first} and {at}"));
        } else if lookup.get("profiles", profile).is_none() {
            problems.push(format!("Profile {profile} at {at} does not exist"));
        }
    }
}

fn check_params(object: &Object, lookup: &dyn Lookup, found: &mut Findings) {
    if let Some(Value::Object(values)) = object.get("Params") {
        found.invalid.extend(params::check(values, lookup));
    }
}

fn check_plugin(plugin: &Object, lookup: &dyn Lookup, found: &mut Findings) {
    let provider = text(plugin, "Provider");
    if lookup.get("plugin_providers", provider).is_none() {
        found.invalid.push(format!("Invalid Provider `{provider}`"));
    }
    check_params(plugin, lookup, found);
}

fn check_param(param: &Object, found: &mut Findings) {
    let checked = ParamSchema::compile(param).and_then(|schema| schema.check_default());
    found.invalid.extend(checked.err());
}

fn check_templates(object: &Object, lookup: &dyn Lookup, found: &mut Findings) {
    let templates = object.get("Templates").and_then(Value::as_array).into_iter().flatten();
    for (at, template) in templates.filter_map(Value::as_object).enumerate() {
        let (id, contents) = (text(template, "ID"), text(template, "Contents"));
        let problem = match (id.is_empty(), contents.is_empty()) {
            (true, true) if text(template, "Link").is_empty() => {
                Some(format!("Templates[{at}]: neither Contents nor ID is set"))
            }
            (false, false) => Some(format!("Templates[{at}]: Contents and ID are both set")),
            (false, true) if lookup.get("templates", id).is_none() => {
                Some(format!("Templates[{at}]: No common template for {id}"))
            }
            _ => None,
        };
        found.invalid.extend(problem);
        for part in [text(template, "Path"), contents] {
            found.invalid.extend(
                lookup
                    .check_template(part)
                    .err()
                    .map(|err| format!("Templates[{at}]: {err}")),
            );
        }
    }
}

fn check_bootenv(bootenv: &Object, lookup: &dyn Lookup, found: &mut Findings) {
    check_templates(bootenv, lookup, found);
    found
        .invalid
        .extend(lookup.check_template(text(bootenv, "BootParams")).err());
    let flat_kernel = !text(bootenv, "Kernel").is_empty();
    if !bootenv::boots_kernel(bootenv) {
        return;
    }
    if bootenv::os_name(bootenv).is_empty() {
        found.unavailable.push("bootenv: Missing OS.Name".to_owned());
    }
    let templates = bootenv.get("Templates").and_then(Value::as_array).into_iter().flatten();
    let mut names = templates.filter_map(|template| template.get("Name").and_then(Value::as_str));
    if !names.any(|name| matches!(name, "pxelinux" | "elilo" | "ipxe")) {
        found
            .unavailable
            .push("bootenv: Missing elilo or pxelinux template".to_owned());
    }
    // With files by architecture, those that lack some are told on the machines of that architecture.
    if found.unavailable.is_empty() && flat_kernel {
        found
            .unavailable
            .extend(bootenv::missing_files(bootenv, "amd64", lookup));
    }
}

fn check_stage(stage: &Object, lookup: &dyn Lookup, found: &mut Findings) {
    check_templates(stage, lookup, found);
    check_params(stage, lookup, found);
    let entries: Vec<_> = list(stage, "Tasks").collect();
    let (malformed, missing) = tasks::problems(&entries, lookup);
    found.invalid.extend(malformed);
    found.unavailable.extend(missing);
    check_profiles(stage, lookup, &mut found.unavailable);
    let name = text(stage, "BootEnv");
    if name.is_empty() {
        return;
    }
    match lookup.get("bootenvs", name) {
        None => found.unavailable.push(format!("BootEnv {name} does not exist")),
        Some(bootenv) if bootenv.get("OnlyUnknown") == Some(&Value::Bool(true)) => {
            found
                .unavailable
                .push(format!("BootEnv {name} is for unknown hosts only"));
        }
        Some(bootenv) => found.unavailable.extend(unusable("BootEnv", name, &bootenv)),
    }
}

fn check_workflow(workflow: &Object, lookup: &dyn Lookup, found: &mut Findings) {
    for name in list(workflow, "Stages") {
        match lookup.get("stages", name) {
            None => found.unavailable.push(format!("Stage {name} does not exist")),
            Some(stage) => found.unavailable.extend(unusable("Stage", name, &stage)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;
    use crate::lookup::tests::World;
    use crate::noun;

    fn world() -> World {
        World::default()
            .with("bootenvs", json!({"Name": "local"}))
            .with("bootenvs", json!({"Name": "ignore", "OnlyUnknown": true}))
            .with("tasks", json!({"Name": "jamie"}))
            .with("templates", json!({"ID": "x.tmpl", "Contents": "y"}))
    }

    fn admitted(model: &str, object: Value, world: &World) -> Result<Object, ApiError> {
        let noun = noun(model).unwrap();
        let mut object = noun.accept(&object, None).unwrap();
        admit(noun, None, &mut object, world, Change::default())?;
        Ok(object)
    }

    #[test]
    fn usable_objects_get_the_defaults_of_their_type() {
        let stage = admitted(
            "stages",
            json!({"Name": "stage1", "BootEnv": "local", "RunnerWait": false}),
            &world(),
        )
        .unwrap();
        assert_eq!(
            (&stage["RunnerWait"], &stage["Available"]),
            (&json!(true), &json!(true))
        );
        let task = admitted("tasks", json!({"Name": "justine"}), &world()).unwrap();
        assert_eq!(task["Meta"], json!({"feature-flags": "sane-exit-codes"}));
    }

    #[test]
    fn what_refers_to_nothing_is_stored_and_says_so() {
        let ipxe = json!([{"Name": "ipxe", "Path": "p", "Contents": "c"}]);
        let cases = [
            (
                "workflows",
                json!({"Name": "wf4", "Stages": ["missing"]}),
                "Stage missing does not exist",
            ),
            (
                "stages",
                json!({"Name": "st1", "BootEnv": "gone"}),
                "BootEnv gone does not exist",
            ),
            (
                "stages",
                json!({"Name": "st1", "BootEnv": "ignore"}),
                "BootEnv ignore is for unknown hosts only",
            ),
            (
                "stages",
                json!({"Name": "st1", "Tasks": ["jamie", "nobody"]}),
                "Task nobody does not exist",
            ),
            (
                "profiles",
                json!({"Name": "pr1", "Profiles": ["gone"]}),
                "Profile gone at 0 does not exist",
            ),
            (
                "bootenvs",
                json!({"Name": "john", "Kernel": "lpxelinux.0", "OS": {"Name": "johann"}}),
                "bootenv: Missing elilo or pxelinux template",
            ),
            (
                "bootenvs",
                json!({"Name": "john", "Kernel": "k", "Templates": ipxe}),
                "bootenv: Missing OS.Name",
            ),
            (
                "bootenvs",
                json!({"Name": "john", "Kernel": "k", "OS": {"Name": "os"}, "Templates": ipxe}),
                "bootenv: john: missing kernel  (/os/k) for arch amd64",
            ),
        ];
        for (model, object, want) in cases {
            let object = admitted(model, object, &world().without_file("k")).unwrap();
            assert_eq!(
                (&object["Available"], &object["Errors"]),
                (&json!(false), &json!([want])),
                "{model}"
            );
        }
    }

    #[test]
    fn what_is_malformed_is_refused() {
        let cases = [
            (
                "params",
                json!({"Name": "{x"}),
                "ValidationError: params/{x: Invalid Name `{x`",
            ),
            (
                "params",
                json!({"Name": "bad", "Schema": {"type": "string", "default": false}}),
                "ValidationError: params/bad: Error in default value: (root): Invalid type. Expected: string, given: boolean",
            ),
            (
                "tasks",
                json!({"Name": "t1", "Prerequisites": ["f1"]}),
                "ValidationError: tasks/t1: Task t1 missing prerequisite f1",
            ),
            (
                "stages",
                json!({"Name": "st1", "Templates": [{"Name": "t", "Path": "p", "ID": "gone"}]}),
                "ValidationError: stages/st1: Templates[0]: No common template for gone",
            ),
            (
                "stages",
                json!({"Name": "st1", "Templates": [{"Name": "t", "Path": "p"}]}),
                "ValidationError: stages/st1: Templates[0]: neither Contents nor ID is set",
            ),
            (
                "templates",
                json!({"ID": "bad", "Contents": "{{end}}"}),
                "ValidationError: templates/bad: template: t:1: unexpected {{end}}",
            ),
        ];
        for (model, object, want) in cases {
            assert_eq!(admitted(model, object, &world()).unwrap_err().to_string(), want);
        }
        admitted(
            "stages",
            json!({"Name": "st1", "Templates": [{"Path": "p", "ID": "x.tmpl"}]}),
            &world(),
        )
        .unwrap();
    }
}
