//! Which members of which objects name other objects: what may not be deleted, and what is to be marked
//! anew when something changes.

use serde_json::Value;

use crate::{Lookup, Object, text};

/// A member that names objects of another type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Type that has the member.
    pub from: &'static str,
    /// What messages call that type.
    pub from_label: &'static str,
    /// The member: one name, a list of names, or a list of structures with an `ID`.
    pub member: &'static str,
    /// Type that is named.
    pub to: &'static str,
    /// What messages call that type.
    pub to_label: &'static str,
    /// What is named cannot be deleted.
    pub keeps: bool,
}

const fn reference(
    from: &'static str,
    from_label: &'static str,
    member: &'static str,
    to: &'static str,
    to_label: &'static str,
) -> Reference {
    Reference {
        from,
        from_label,
        member,
        to,
        to_label,
        keeps: true,
    }
}

/// All such members.
pub const REFERENCES: &[Reference] = &[
    reference("machines", "Machine", "BootEnv", "bootenvs", "Bootenv"),
    reference("machines", "Machine", "Stage", "stages", "Stage"),
    reference("machines", "Machine", "Workflow", "workflows", "Workflow"),
    reference("machines", "Machine", "Profiles", "profiles", "Profile"),
    Reference {
        keeps: false,
        ..reference("machines", "Machine", "Tasks", "tasks", "Task")
    },
    reference("profiles", "Profile", "Profiles", "profiles", "Profile"),
    reference("stages", "Stage", "BootEnv", "bootenvs", "Bootenv"),
    reference("stages", "Stage", "Profiles", "profiles", "Profile"),
    reference("stages", "Stage", "Tasks", "tasks", "Task"),
    reference("workflows", "Workflow", "Stages", "stages", "Stage"),
    // DRP lets prerequisites vanish; the task that wants them says so when it is to run.
    Reference {
        keeps: false,
        ..reference("tasks", "Task", "Prerequisites", "tasks", "Task")
    },
    reference("bootenvs", "Bootenv", "Templates", "templates", "Template"),
    reference("stages", "Stage", "Templates", "templates", "Template"),
    reference("tasks", "Task", "Templates", "templates", "Template"),
];

const PREFS: &[(&str, &str, &str)] = &[
    ("bootenvs", "defaultBootEnv", "BootEnv"),
    ("bootenvs", "unknownBootEnv", "BootEnv"),
    ("stages", "defaultStage", "Stage"),
    ("workflows", "defaultWorkflow", "Workflow"),
];

/// The members that may name objects of this type.
pub fn to(noun: &str) -> impl Iterator<Item = &'static Reference> + use<'_> {
    REFERENCES.iter().filter(move |reference| reference.to == noun)
}

impl Reference {
    /// Whether `object`, of the type that has the member, names `key`.
    pub fn names(&self, object: &Object, key: &str) -> bool {
        match object.get(self.member) {
            Some(Value::String(name)) => name == key,
            Some(Value::Array(items)) => items.iter().any(|item| match item {
                Value::String(name) => name == key,
                Value::Object(info) => text(info, "ID") == key,
                _ => false,
            }),
            _ => false,
        }
    }

    /// Why `key` cannot be deleted as long as `object` names it.
    pub fn reason(&self, key: &str, object: &Object) -> String {
        format!(
            "{} {key} in use by {} {}",
            self.to_label,
            self.from_label,
            text(object, "Name")
        )
    }
}

/// Why the preferences keep an object from being deleted.
pub fn kept_by_prefs(noun: &str, key: &str, lookup: &dyn Lookup) -> Vec<String> {
    let of_noun = PREFS.iter().filter(|(kind, _, _)| *kind == noun);
    of_noun
        .filter(|(_, pref, _)| lookup.pref(pref).as_deref() == Some(key))
        .map(|(_, pref, label)| format!("{label} {key} is the active {pref}, cannot remove it"))
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;
    use crate::lookup::tests::World;
    use crate::noun;

    #[test]
    fn every_reference_is_a_member_of_its_type() {
        for reference in REFERENCES {
            assert!(
                noun(reference.from).unwrap().field(reference.member).is_some(),
                "{reference:?}"
            );
            assert!(noun(reference.to).is_some(), "{reference:?}");
        }
    }

    #[test]
    fn reasons_are_those_of_drp() {
        let machine = json!({"Name": "m1", "BootEnv": "local", "Profiles": ["p1"]});
        let by_bootenv = to("bootenvs").find(|r| r.from == "machines").unwrap();
        let machine = machine.as_object().unwrap();
        assert!(by_bootenv.names(machine, "local") && !by_bootenv.names(machine, "p1"));
        assert_eq!(
            by_bootenv.reason("local", machine),
            "Bootenv local in use by Machine m1"
        );
        assert!(
            to("profiles")
                .find(|r| r.from == "machines")
                .unwrap()
                .names(machine, "p1")
        );
        let stage = json!({"Name": "s1", "Templates": [{"ID": "x.tmpl"}]});
        assert!(to("templates").any(|r| r.from == "stages" && r.names(stage.as_object().unwrap(), "x.tmpl")));
        let world = World::default().pref_is("defaultBootEnv", "local3");
        let want = ["BootEnv local3 is the active defaultBootEnv, cannot remove it"];
        assert_eq!(kept_by_prefs("bootenvs", "local3", &world), want);
    }
}
