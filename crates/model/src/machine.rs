//! The machine's life cycle: what follows from a change of workflow, stage, boot environment, task list
//! or position, and which changes are refused.

use serde_json::Value;

use crate::tasks::{self, Entry};
use crate::{ApiError, Lookup, Object, bootenv, list, number, text};

/// Who changes a machine, and how insistently.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Stage and boot environment may change in spite of open tasks.
    pub force: bool,
    /// The server's own job engine changes it: it may advance `CurrentTask` and follow the task list.
    pub runner: bool,
}

/// Completes a created machine, or carries out what follows from a change. `new` has the members as the
/// client wants them, in canonical form; `Uuid` and `Secret` have been made when they were missing.
///
/// Afterwards the object is to be marked by [`crate::validate::mark`].
///
/// # Errors
/// 422 with DRP's text for a change that is refused. `new` is then half changed and to be dropped.
pub fn settle(old: Option<&Object>, new: &mut Object, lookup: &dyn Lookup, change: Change) -> Result<(), ApiError> {
    let key = text(new, "Uuid").to_owned();
    let mut machine = Machine { new, lookup, change };
    let settled = match old {
        None => machine.create(),
        Some(old) => {
            refuse_locked(old, machine.new)?;
            machine.update(old)
        }
    };
    settled.map_err(|reasons| ApiError::validations("machines", &key, reasons))?;
    machine.merge_feature_flags();
    Ok(())
}

/// A locked machine takes nothing but being unlocked.
fn refuse_locked(old: &Object, new: &Object) -> Result<(), ApiError> {
    let is_locked = |object: &Object| object.get("Locked") == Some(&Value::Bool(true));
    if !is_locked(old) {
        return Ok(());
    }
    let mut unlocked = old.clone();
    unlocked.insert("Locked".to_owned(), Value::Bool(false));
    if new == old || *new == unlocked {
        Ok(())
    } else {
        Err(ApiError::locked("machines", text(old, "Uuid")))
    }
}

/// Why a change is refused.
type Refused = Vec<String>;

fn because(reason: String) -> Refused {
    vec![reason]
}

struct Machine<'a> {
    new: &'a mut Object,
    lookup: &'a dyn Lookup,
    change: Change,
}

impl Machine<'_> {
    fn create(&mut self) -> Result<(), Refused> {
        self.set("Runnable", true.into());
        self.set("CurrentTask", (-1).into());
        for (member, pref, fallback) in [
            ("Stage", "defaultStage", "none"),
            ("BootEnv", "defaultBootEnv", "local"),
            ("Workflow", "defaultWorkflow", ""),
        ] {
            if text(self.new, member).is_empty() {
                let pref = self.lookup.pref(pref).filter(|value| !value.is_empty());
                self.set(member, pref.unwrap_or_else(|| fallback.to_owned()).into());
            }
        }
        if text(self.new, "Arch").is_empty() {
            self.set("Arch", "amd64".into());
        }
        if !text(self.new, "Workflow").is_empty() {
            return self.enter_workflow();
        }
        let given = owned(self.new, "Tasks");
        let stage = self.wanted_stage()?;
        if !text(&stage, "BootEnv").is_empty() {
            self.set("BootEnv", text(&stage, "BootEnv").into());
        }
        self.check_bootenv()?;
        let tasks = if given.is_empty() {
            owned(&stage, "Tasks")
        } else {
            given
        };
        self.set_tasks(&tasks, 0)?;
        self.entered_bootenv();
        Ok(())
    }

    fn update(&mut self, old: &Object) -> Result<(), Refused> {
        let changed = |machine: &Self, member: &str| machine.new.get(member) != old.get(member);
        if self.new.get("Uuid") != old.get("Uuid") {
            return Err(because("Uuid cannot be changed".to_owned()));
        }
        for (member, pref, fallback) in [("Stage", "", "none"), ("BootEnv", "defaultBootEnv", "local")] {
            if text(self.new, member).is_empty() {
                let pref = self.lookup.pref(pref).filter(|value| !value.is_empty());
                self.set(member, pref.unwrap_or_else(|| fallback.to_owned()).into());
            }
        }
        let workflow_changed = changed(self, "Workflow");
        let mut free = self.change.force || self.change.runner;
        if workflow_changed && !text(self.new, "Workflow").is_empty() {
            self.set("BootEnv", old["BootEnv"].clone());
            self.set("Stage", old["Stage"].clone());
            self.enter_workflow()?;
            self.left_bootenv(old);
            return Ok(());
        }
        if workflow_changed {
            self.leave_workflow(old);
            // Nothing is under way any more, so a stage or bootenv given along with it is free to choose.
            free = true;
        } else if !text(self.new, "Workflow").is_empty() && !self.change.runner {
            if changed(self, "Stage") {
                return Err(because("Changing machine stage not allowed".to_owned()));
            }
            if changed(self, "BootEnv") {
                return Err(because("Changing machine bootenv not allowed".to_owned()));
            }
        }
        let stage_before = if workflow_changed { "none" } else { text(old, "Stage") };
        if text(self.new, "Stage") != stage_before {
            self.enter_stage(old, free)?;
        } else if changed(self, "BootEnv") {
            self.change_bootenv(old, free)?;
        } else if !workflow_changed && changed(self, "Tasks") {
            self.change_tasks(old)?;
        } else if !workflow_changed && changed(self, "CurrentTask") {
            self.move_position(old)?;
        }
        self.left_bootenv(old);
        Ok(())
    }

    /// Takes the task list, stage and boot environment from the workflow that is set.
    fn enter_workflow(&mut self) -> Result<(), Refused> {
        let name = text(self.new, "Workflow").to_owned();
        let not_available = || {
            format!(
                "Machine {} wants Workflow {name}, which is not available",
                text(self.new, "Uuid")
            )
        };
        let workflow = match self.lookup.get("workflows", &name) {
            Some(workflow) => workflow,
            None => return Err(because(format!("Workflow {name} does not exist"))),
        };
        if workflow.get("Available") == Some(&Value::Bool(false)) {
            let mut reasons = because(not_available());
            reasons.extend(self.boot_reasons(&workflow));
            return Err(reasons);
        }
        let tasks = tasks::of_workflow(&workflow, self.lookup);
        self.set_tasks(&tasks, 0)?;
        let Some(first) = list(&workflow, "Stages").next() else {
            return Ok(());
        };
        self.set("Stage", first.into());
        let stage = self.wanted_stage()?;
        if !text(&stage, "BootEnv").is_empty() {
            self.set("BootEnv", text(&stage, "BootEnv").into());
            self.check_bootenv()?;
        }
        self.entered_bootenv();
        Ok(())
    }

    /// The errors of the boot environments that a workflow needs: what a user can do something about when
    /// all the workflow itself says is that one of its stages is not available.
    fn boot_reasons(&self, workflow: &Object) -> Vec<String> {
        let mut reasons = Vec::new();
        for stage in list(workflow, "Stages").filter_map(|stage| self.lookup.get("stages", stage)) {
            if let Some(bootenv) = self.lookup.get("bootenvs", text(&stage, "BootEnv")) {
                reasons.extend(owned(&bootenv, "Errors"));
            }
        }
        reasons.dedup();
        reasons
    }

    /// Workflow `""`: no tasks, stage `none` unless another one is asked for; the boot environment stays.
    fn leave_workflow(&mut self, old: &Object) {
        if text(self.new, "Stage") == text(old, "Stage") {
            self.set("Stage", "none".into());
        }
        self.set("Tasks", Value::Array(Vec::new()));
        self.set("CurrentTask", (-1).into());
        if let Some(Value::Object(params)) = self.new.get_mut("Params") {
            // It would steer the machine from stage to stage without a workflow.
            params.shift_remove("change-stage/map");
        }
    }

    fn enter_stage(&mut self, old: &Object, free: bool) -> Result<(), Refused> {
        let stage = self.wanted_stage()?;
        let tasks = list(old, "Tasks").count();
        let open = tasks > 0 && number(old, "CurrentTask") < i64::try_from(tasks).unwrap_or(i64::MAX);
        if open && !free {
            return Err(because(
                "Can not change stages with pending tasks unless forced".to_owned(),
            ));
        }
        if stage.get("Available") == Some(&Value::Bool(false)) {
            let (uuid, name) = (text(self.new, "Uuid"), text(self.new, "Stage"));
            let mut reasons = because(format!("Machine {uuid} wants Stage {name}, which is not available"));
            reasons.extend(owned(&stage, "Errors"));
            return Err(reasons);
        }
        let wanted = text(&stage, "BootEnv");
        if !wanted.is_empty() {
            self.set("BootEnv", wanted.into());
        }
        if self.new.get("BootEnv") != old.get("BootEnv") {
            if wanted.is_empty() {
                self.change_bootenv(old, free)?;
            } else {
                self.check_bootenv()?;
                self.entered_bootenv();
            }
        }
        if !self.change.runner {
            let tasks = owned(&stage, "Tasks");
            self.set_tasks(&tasks, 0)?;
            self.set("CurrentTask", (-1).into());
        }
        Ok(())
    }

    fn change_bootenv(&mut self, old: &Object, free: bool) -> Result<(), Refused> {
        if text(self.new, "Stage") != "none" && !free {
            let (was, is) = (text(old, "BootEnv"), text(self.new, "BootEnv"));
            let reason = format!("Can not change bootenv while in a stage unless forced. old: {was} new {is}");
            // An unknown name is the more useful thing to say.
            self.check_bootenv()?;
            return Err(because(reason));
        }
        let bootenv = self.check_bootenv()?;
        if bootenv.get("Available") == Some(&Value::Bool(false)) {
            let (uuid, name) = (text(self.new, "Uuid"), text(self.new, "BootEnv"));
            let mut reasons = because(format!("Machine {uuid} wants BootEnv {name}, which is not available"));
            reasons.extend(owned(&bootenv, "Errors"));
            return Err(reasons);
        }
        self.entered_bootenv();
        Ok(())
    }

    fn change_tasks(&mut self, old: &Object) -> Result<(), Refused> {
        if self.new.get("CurrentTask") != old.get("CurrentTask") && !self.change.runner {
            return Err(because(
                "Cannot change task list and current task at the same time".to_owned(),
            ));
        }
        let (was, is) = (owned(old, "Tasks"), owned(self.new, "Tasks"));
        let done = usize::try_from(number(old, "CurrentTask") + 1)
            .unwrap_or(0)
            .min(was.len());
        let next_stage = was[done..]
            .iter()
            .position(|entry| matches!(Entry::parse(entry), Some(Entry::Stage(_))));
        let later = next_stage.map_or(&[][..], |at| &was[done + at..]);
        if !is.starts_with(&was[..done]) {
            let reason = "Cannot remove tasks that have already executed or are already executing";
            return Err(because(reason.to_owned()));
        }
        if !is[done..].ends_with(later) {
            return Err(because(
                "Cannot change tasks that are past the next stage transition".to_owned(),
            ));
        }
        let window: Vec<&str> = is[done..is.len() - later.len()].iter().map(String::as_str).collect();
        let (mut problems, missing) = tasks::problems(&window, self.lookup);
        problems.extend(missing);
        if !problems.is_empty() {
            return Err(problems);
        }
        if window
            .iter()
            .any(|entry| matches!(Entry::parse(entry), Some(Entry::Stage(_))))
        {
            return Err(because(
                "Cannot change tasks that are past the next stage transition".to_owned(),
            ));
        }
        self.set_tasks(&is, done)
    }

    fn move_position(&mut self, old: &Object) -> Result<(), Refused> {
        let (from, to) = (number(old, "CurrentTask"), number(self.new, "CurrentTask"));
        if self.change.runner {
            return Ok(());
        }
        if to > from {
            let reason = format!("Cannot advance CurrentTask from {from} to {to} without running jobs");
            return Err(because(reason));
        }
        let tasks = owned(old, "Tasks");
        let reached = usize::try_from(from + 1).unwrap_or(0).min(tasks.len());
        let switched = tasks[..reached]
            .iter()
            .rposition(|entry| matches!(Entry::parse(entry), Some(Entry::BootEnv(_))));
        let floor = switched.and_then(|at| i64::try_from(at).ok()).unwrap_or(-1);
        if to == -1 {
            self.set("CurrentTask", floor.into());
        } else if to < floor {
            return Err(because(format!(
                "Cannot change CurrentTask from {from} to {to} past {floor}"
            )));
        }
        Ok(())
    }

    /// Whatever changed the boot environment: the machine runs something else than it should now, so no
    /// jobs are made until the agent has come up in the new one.
    fn left_bootenv(&mut self, old: &Object) {
        if self.new.get("BootEnv") != old.get("BootEnv") {
            self.set("Runnable", false.into());
        }
    }

    fn entered_bootenv(&mut self) {
        let name = text(self.new, "BootEnv").to_owned();
        if let Some(entered) = self
            .lookup
            .get("bootenvs", &name)
            .filter(|_| name.ends_with("-install"))
        {
            self.set("OS", bootenv::os_name(&entered).into());
        }
    }

    fn wanted_stage(&self) -> Result<std::sync::Arc<Object>, Refused> {
        let name = text(self.new, "Stage");
        self.lookup
            .get("stages", name)
            .ok_or_else(|| because(format!("Stage {name} does not exist")))
    }

    fn check_bootenv(&self) -> Result<std::sync::Arc<Object>, Refused> {
        let name = text(self.new, "BootEnv");
        let missing = || because(format!("Bootenv {name} does not exist"));
        let bootenv = self.lookup.get("bootenvs", name).ok_or_else(missing)?;
        if bootenv.get("OnlyUnknown") == Some(&Value::Bool(true)) {
            let reason = format!("BootEnv {name} does not allow Machine assignments, it has the OnlyUnknown flag.");
            return Err(because(reason));
        }
        Ok(bootenv)
    }

    fn set_tasks(&mut self, tasks: &[String], start: usize) -> Result<(), Refused> {
        let expanded = tasks::expand(tasks, start, self.lookup).map_err(because)?;
        self.set("Tasks", expanded.into());
        if start == 0 {
            self.set("CurrentTask", (-1).into());
        }
        Ok(())
    }

    /// `Meta.feature-flags`: those of the machine, its boot environment and its stage, and the one that
    /// says that stages change by task list.
    fn merge_feature_flags(&mut self) {
        let flags_of = |object: &Object| {
            let flags = object
                .get("Meta")
                .and_then(|meta| meta.get("feature-flags"))
                .and_then(Value::as_str);
            flags
                .unwrap_or_default()
                .split(',')
                .map(|flag| flag.trim().to_owned())
                .collect::<Vec<_>>()
        };
        let mut flags = vec!["change-stage-v2".to_owned()];
        flags.extend(flags_of(self.new));
        for (noun, member) in [("bootenvs", "BootEnv"), ("stages", "Stage")] {
            if let Some(object) = self.lookup.get(noun, text(self.new, member)) {
                flags.extend(flags_of(&object));
            }
        }
        flags.sort_unstable();
        flags.dedup();
        flags.retain(|flag| !flag.is_empty());
        if let Some(Value::Object(meta)) = self.new.get_mut("Meta") {
            meta.insert("feature-flags".to_owned(), flags.join(",").into());
        }
    }

    fn set(&mut self, member: &str, value: Value) {
        self.new.insert(member.to_owned(), value);
    }
}

fn owned(object: &Object, member: &str) -> Vec<String> {
    list(object, member).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests;
