//! Task lists: their entries, how workflows and stages become one, and prerequisites.

use std::collections::HashSet;

use crate::{Lookup, Object, list, text};

/// One entry of a machine's task list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    /// A task.
    Task(&'a str),
    /// Enter a stage.
    Stage(&'a str),
    /// Boot into a boot environment.
    BootEnv(&'a str),
    /// Run an action on the server.
    Action(&'a str),
    /// Run what follows inside a folder of the machine.
    Chroot(&'a str),
    /// Run what follows in a context.
    Context(&'a str),
}

impl<'a> Entry<'a> {
    /// Reads an entry; none when it is malformed.
    pub fn parse(entry: &'a str) -> Option<Entry<'a>> {
        match entry.split_once(':') {
            None if entry.is_empty() => None,
            None => Some(Entry::Task(entry)),
            // An empty context is the way back to the machine itself.
            Some(("context", name)) => Some(Entry::Context(name)),
            Some((_, "")) => None,
            Some(("stage", name)) => Some(Entry::Stage(name)),
            Some(("bootenv", name)) => Some(Entry::BootEnv(name)),
            Some(("action", name)) => Some(Entry::Action(name)),
            Some(("chroot", folder)) => Some(Entry::Chroot(folder)),
            Some(_) => None,
        }
    }
}

/// The texts for entries that are malformed or name tasks that do not exist.
pub(crate) fn problems(tasks: &[&str], lookup: &dyn Lookup) -> (Vec<String>, Vec<String>) {
    let (mut malformed, mut missing) = (Vec::new(), Vec::new());
    for (at, entry) in tasks.iter().enumerate() {
        match Entry::parse(entry) {
            None => malformed.push(format!("{entry} (at {at}) is malformed")),
            Some(Entry::Task(task)) if lookup.get("tasks", task).is_none() => {
                missing.push(format!("Task {task} does not exist"));
            }
            Some(_) => {}
        }
    }
    (malformed, missing)
}

/// The task list of a workflow: each stage, its boot environment where that changes, and its tasks.
pub(crate) fn of_workflow(workflow: &Object, lookup: &dyn Lookup) -> Vec<String> {
    let mut tasks = Vec::new();
    let mut bootenv = String::new();
    for stage in list(workflow, "Stages") {
        tasks.push(format!("stage:{stage}"));
        let Some(stage) = lookup.get("stages", stage) else {
            continue;
        };
        let wanted = text(&stage, "BootEnv");
        if !wanted.is_empty() && wanted != bootenv {
            tasks.push(format!("bootenv:{wanted}"));
            bootenv = wanted.to_owned();
        }
        tasks.extend(list(&stage, "Tasks").map(str::to_owned));
    }
    tasks
}

/// Puts in front of every task from `start` on the prerequisites that have not been seen since the last
/// change of the boot environment.
///
/// # Errors
/// The text for a prerequisite that does not exist or needs itself.
pub(crate) fn expand(tasks: &[String], start: usize, lookup: &dyn Lookup) -> Result<Vec<String>, String> {
    let mut expanded = Vec::with_capacity(tasks.len());
    let mut seen: HashSet<String> = HashSet::new();
    let mut bootenv = "";
    for (at, entry) in tasks.iter().enumerate() {
        match Entry::parse(entry) {
            Some(Entry::BootEnv(next)) if next != bootenv => {
                bootenv = next;
                seen.clear();
            }
            Some(Entry::Task(task)) => {
                if at >= start {
                    prepend(task, lookup, &mut seen, &mut vec![task.to_owned()], &mut expanded)?;
                }
                seen.insert(task.to_owned());
            }
            _ => {}
        }
        expanded.push(entry.clone());
    }
    Ok(expanded)
}

fn prepend(
    task: &str,
    lookup: &dyn Lookup,
    seen: &mut HashSet<String>,
    path: &mut Vec<String>,
    expanded: &mut Vec<String>,
) -> Result<(), String> {
    let Some(object) = lookup.get("tasks", task) else {
        return Ok(());
    };
    for prerequisite in list(&object, "Prerequisites") {
        if seen.contains(prerequisite) {
            continue;
        }
        if path.iter().any(|on_path| on_path == prerequisite) {
            return Err(format!("Task {task} depends on itself!"));
        }
        if lookup.get("tasks", prerequisite).is_none() {
            return Err(format!("Task {task} missing prerequisite {prerequisite}"));
        }
        path.push(prerequisite.to_owned());
        prepend(prerequisite, lookup, seen, path, expanded)?;
        path.pop();
        seen.insert(prerequisite.to_owned());
        expanded.push(prerequisite.to_owned());
    }
    Ok(())
}

/// What is wrong with the prerequisites of a task: those that do not exist, and every circle.
pub(crate) fn prerequisite_problems(task: &Object, lookup: &dyn Lookup) -> Vec<String> {
    let name = text(task, "Name");
    let missing = list(task, "Prerequisites").filter(|p| *p != name && lookup.get("tasks", p).is_none());
    let mut problems: Vec<_> = missing
        .map(|p| format!("Task {name} missing prerequisite {p}"))
        .collect();
    let mut search = Circles {
        root: task,
        lookup,
        clean: HashSet::new(),
        steps: 0,
        problems: &mut problems,
    };
    search.follow(&mut vec![name.to_owned()]);
    problems
}

/// Walks all paths of prerequisites. Tasks from which no circle is reached are walked once.
struct Circles<'a> {
    root: &'a Object,
    lookup: &'a dyn Lookup,
    clean: HashSet<String>,
    steps: usize,
    problems: &'a mut Vec<String>,
}

impl Circles<'_> {
    /// Paths through many interlocked circles are too many to count.
    const MAX_STEPS: usize = 10_000;
    const MAX_PROBLEMS: usize = 50;
    const MAX_DEPTH: usize = 500;

    /// Whether a circle is reached from the end of `path`.
    fn follow(&mut self, path: &mut Vec<String>) -> bool {
        let Some(task) = path.last().cloned() else { return false };
        if path.len() > Self::MAX_DEPTH {
            self.problems.push(format!(
                "Task {} has a chain of more than {} prerequisites",
                path[0],
                Self::MAX_DEPTH
            ));
            return true;
        }
        let stored;
        let object = if path.len() == 1 || task == text(self.root, "Name") {
            self.root
        } else {
            match self.lookup.get("tasks", &task) {
                Some(found) => {
                    stored = found;
                    stored.as_ref()
                }
                None => return false,
            }
        };
        let prerequisites: Vec<_> = list(object, "Prerequisites").map(str::to_owned).collect();
        let mut circular = false;
        for prerequisite in prerequisites {
            self.steps += 1;
            if self.clean.contains(&prerequisite) {
                continue;
            }
            if self.steps > Self::MAX_STEPS || self.problems.len() >= Self::MAX_PROBLEMS {
                return true;
            }
            if let Some(at) = path.iter().position(|on_path| *on_path == prerequisite) {
                self.problems.push(match at {
                    0 => format!("Task {} depends on itself!", path[0]),
                    _ => format!("Task {prerequisite} depends on a task with a circular dependency"),
                });
                self.problems
                    .push(format!("{}: {prerequisite} (cycle at {at})", path.join(": ")));
                circular = true;
                continue;
            }
            path.push(prerequisite);
            circular |= self.follow(path);
            path.pop();
        }
        if !circular {
            self.clean.insert(task);
        }
        circular
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;
    use crate::lookup::tests::World;

    fn world(tasks: &[(&str, &[&str])]) -> World {
        tasks.iter().fold(World::default(), |world, (name, prerequisites)| {
            world.with("tasks", json!({"Name": name, "Prerequisites": prerequisites}))
        })
    }

    fn problems_of(world: &World, task: &str) -> Vec<String> {
        prerequisite_problems(&world.get("tasks", task).unwrap(), world)
    }

    #[test]
    fn entries_are_told_apart_by_their_prefix() {
        let cases = [
            ("t1", Some(Entry::Task("t1"))),
            ("stage:s", Some(Entry::Stage("s"))),
            ("bootenv:b", Some(Entry::BootEnv("b"))),
            ("action:ipmi:poweron", Some(Entry::Action("ipmi:poweron"))),
            ("chroot:/mnt", Some(Entry::Chroot("/mnt"))),
            ("context:", Some(Entry::Context(""))),
            ("stage:", None),
            ("fred:x", None),
            ("", None),
        ];
        for (text, want) in cases {
            assert_eq!(Entry::parse(text), want, "{text}");
        }
    }

    #[test]
    fn circles_are_told_with_their_path() {
        let two = world(&[("t1", &["t2"]), ("t2", &["t1"])]);
        assert_eq!(
            problems_of(&two, "t1"),
            ["Task t1 depends on itself!", "t1: t2: t1 (cycle at 0)"]
        );
        let forked = world(&[
            ("t1", &["t2", "t3", "t4"]),
            ("t2", &["t3"]),
            ("t3", &["t2"]),
            ("t4", &["t4"]),
        ]);
        let want = [
            "Task t2 depends on a task with a circular dependency",
            "t1: t2: t3: t2 (cycle at 1)",
            "Task t3 depends on a task with a circular dependency",
            "t1: t3: t2: t3 (cycle at 1)",
            "Task t4 depends on a task with a circular dependency",
            "t1: t4: t4 (cycle at 1)",
        ];
        assert_eq!(problems_of(&forked, "t1"), want);
        assert_eq!(
            problems_of(&forked, "t4"),
            ["Task t4 depends on itself!", "t4: t4 (cycle at 0)"]
        );
        let missing = world(&[("t1", &["f1"])]);
        assert_eq!(problems_of(&missing, "t1"), ["Task t1 missing prerequisite f1"]);
    }

    #[test]
    fn many_paths_to_the_same_task_are_walked_once() {
        let names: Vec<_> = (0..60).map(|i| format!("task{i}")).collect();
        let mut world = World::default();
        for (i, name) in names.iter().enumerate() {
            let prerequisites: Vec<_> = names[i + 1..].iter().take(3).collect();
            world = world.with("tasks", json!({"Name": name, "Prerequisites": prerequisites}));
        }
        assert!(problems_of(&world, "task0").is_empty());
    }
}
