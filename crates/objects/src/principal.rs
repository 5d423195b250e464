//! Who asks, and what they may.

use std::sync::Arc;

use isobar_model::Object;
use serde_json::Value;

/// A right: which types, which actions, which objects. Each part is `*` or a comma-separated list.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Claim {
    /// Type prefixes, or `info`, `prefs`, `isos` and the like.
    pub scope: String,
    /// `list`, `get`, `create`, `update`, `delete`, `getSecure`, `action:NAME` …
    pub action: String,
    /// Keys.
    pub specific: String,
}

impl Claim {
    pub(crate) fn new(scope: &str, action: &str, specific: &str) -> Self {
        Self {
            scope: scope.to_owned(),
            action: action.to_owned(),
            specific: specific.to_owned(),
        }
    }

    /// The claims of a role object.
    pub(crate) fn of_role(role: &Object) -> Vec<Claim> {
        let claims = role.get("Claims").and_then(Value::as_array).into_iter().flatten();
        claims
            .filter_map(|claim| serde_json::from_value(claim.clone()).ok())
            .collect()
    }

    fn covers(&self, scope: &str, action: &str, key: &str) -> bool {
        part_covers(&self.scope, scope) && part_covers(&self.action, action) && part_covers(&self.specific, key)
    }
}

fn part_covers(part: &str, asked: &str) -> bool {
    part.split(',').map(str::trim).any(|one| one == "*" || one == asked)
}

/// Who makes a change or asks a question, and the claims they came with.
#[derive(Clone, Debug)]
pub struct Principal {
    who: Who,
    name: String,
    claims: Arc<[Claim]>,
    /// A token may be narrower than the user it was issued to: each of these has to cover what is asked, too.
    limits: Arc<[Vec<Claim>]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Who {
    System,
    User(String),
    Machine(String),
}

/// What an agent needs for its own machine; `SELF` stands for its UUID. Decrypting params, running actions and changing
/// secure params are not among it.
const MACHINE_CLAIMS: &[(&str, &str, &str)] = &[
    ("machines", "get,update", "SELF"),
    ("params,profiles,stages,tasks,bootenvs,workflows", "get,list", "*"),
    ("info", "get", "*"),
    // Of its own machine alone: the routes look.
    ("jobs", "get,create,update,actions,log", "*"),
];

impl Principal {
    /// The server itself: may everything.
    #[must_use]
    pub fn system() -> Self {
        Self {
            who: Who::System,
            name: "system".to_owned(),
            claims: [Claim::new("*", "*", "*")].into(),
            limits: Arc::default(),
        }
    }

    /// A user with these claims, and no more than each of `limits`.
    pub(crate) fn of_user(user: &str, claims: Vec<Claim>, limits: Vec<Vec<Claim>>) -> Self {
        Self {
            who: Who::User(user.to_owned()),
            name: format!("user:{user}"),
            claims: claims.into(),
            limits: limits.into(),
        }
    }

    pub(crate) fn of_machine(uuid: &str) -> Self {
        let claim = |(scope, action, specific): &(&str, &str, &str)| {
            Claim::new(scope, action, if *specific == "SELF" { uuid } else { specific })
        };
        Self {
            who: Who::Machine(uuid.to_owned()),
            name: format!("machine:{uuid}"),
            claims: MACHINE_CLAIMS.iter().map(claim).collect(),
            limits: Arc::default(),
        }
    }

    /// For tokens issued to somebody who came with a narrowed one.
    pub(crate) fn limits(&self) -> Vec<Vec<Claim>> {
        self.limits.to_vec()
    }

    /// As events name it: `user:rocketskates`, `machine:UUID`, `system`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// User name, where it is a user.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        match &self.who {
            Who::User(name) => Some(name),
            Who::System | Who::Machine(_) => None,
        }
    }

    /// UUID of the machine, where a machine's token was presented.
    #[must_use]
    pub fn machine(&self) -> Option<&str> {
        match &self.who {
            Who::Machine(uuid) => Some(uuid),
            Who::System | Who::User(_) => None,
        }
    }

    /// Whether it is the server itself.
    #[must_use]
    pub fn is_system(&self) -> bool {
        matches!(self.who, Who::System)
    }

    /// Whether a claim covers this: `scope` is a type prefix (or `info`, `prefs`, `isos`, …), `action` one of `list`,
    /// `get`, `create`, `update`, `delete`, `getSecure`, `updateSecure`, `password`, `token`, `post`, `actions`,
    /// `action:NAME`, …, `key` the object's own key (not `Name:x`), `""` for none in particular: then only a claim for
    /// all keys covers it.
    #[must_use]
    pub fn allows(&self, scope: &str, action: &str, key: &str) -> bool {
        let covered = |claims: &[Claim]| claims.iter().any(|claim| claim.covers(scope, action, key));
        covered(&self.claims) && self.limits.iter().all(|limit| covered(limit))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn claims_are_lists_with_a_wildcard() {
        let who = Principal::of_user(
            "jane",
            vec![
                Claim::new("machines, jobs", "get,list", "*"),
                Claim::new("profiles", "*", "global,p1"),
            ],
            vec![],
        );
        let cases = [
            ("machines", "get", "m1", true),
            ("jobs", "list", "", true),
            ("machines", "getSecure", "m1", false),
            ("machines", "update", "m1", false),
            ("profiles", "delete", "p1", true),
            ("profiles", "list", "", false),
            ("stages", "get", "none", false),
        ];
        for (scope, action, key, want) in cases {
            assert_eq!(who.allows(scope, action, key), want, "{scope} {action} {key}");
        }
    }

    #[test]
    fn a_narrowed_token_never_widens() {
        let read = vec![Claim::new("machines", "get", "*")];
        let who = Principal::of_user("jane", read, vec![vec![Claim::new("*", "*", "m1")]]);
        assert!(who.allows("machines", "get", "m1"));
        assert!(!who.allows("machines", "get", "m2"));
        assert!(!who.allows("machines", "update", "m1"));
    }

    #[test]
    fn a_machine_is_itself_only() {
        let who = Principal::of_machine("u1");
        assert_eq!(
            (who.machine(), who.user(), who.name()),
            (Some("u1"), None, "machine:u1")
        );
        let cases = [
            ("machines", "get", "u1", true),
            ("machines", "update", "u1", true),
            ("machines", "get", "u2", false),
            ("machines", "list", "", false),
            ("machines", "delete", "u1", false),
            ("machines", "getSecure", "u1", false),
            ("machines", "updateSecure", "u1", false),
            ("machines", "action:powercycle", "u1", false),
            ("machines", "actions", "u1", false),
            ("machines", "token", "u1", false),
            ("params", "get", "ipmi/password", true),
            ("profiles", "getSecure", "global", false),
            ("users", "list", "", false),
            ("prefs", "get", "", false),
            ("info", "get", "", true),
        ];
        for (scope, action, key, want) in cases {
            assert_eq!(who.allows(scope, action, key), want, "{scope} {action} {key}");
        }
    }
}
