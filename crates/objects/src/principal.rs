//! Who asks, and what they may.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use isobar_model::Object;
use serde_json::Value;

/// A right: which types, which actions, which objects. Each part is `*` or a comma-separated list.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Claim {
    /// Type prefixes, or `info`, `prefs`, `isos` and the like.
    pub scope: String,
    /// `list`, `get`, `create`, `update`, `update:/Params/x`, `delete`, `getSecure`, `action`, `action:NAME` …
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

    /// Each combination of one scope, one action and one key by itself; none when there are too many to look at.
    fn singles(&self) -> Option<Vec<Claim>> {
        let parts = [&self.scope, &self.action, &self.specific].map(|part| words(part).collect::<BTreeSet<_>>());
        let [scopes, actions, keys] = &parts;
        let number = scopes.len().checked_mul(actions.len())?.checked_mul(keys.len())?;
        if number > MAX_SINGLES {
            return None;
        }
        let of_scope = |scope| {
            let of_action = move |action| keys.iter().map(move |key| Claim::new(scope, action, key));
            actions.iter().copied().flat_map(of_action)
        };
        Some(scopes.iter().copied().flat_map(of_scope).collect())
    }

    /// Whether it gives all that a single right of another claim gives.
    fn includes(&self, single: &Claim) -> bool {
        let (scope, action, key) = (&single.scope, &single.action, &single.specific);
        match action.strip_prefix(PART) {
            Some(pointer) => self.covers_update_of(scope, key, &steps(pointer).collect::<Vec<_>>()),
            None => self.covers(scope, action, key),
        }
    }

    fn is_about(&self, scope: &str, key: &str) -> bool {
        let covers = |part: &str, asked: &str| words(part).any(|one| one == "*" || one == asked);
        covers(&self.scope, scope) && covers(&self.specific, key)
    }

    fn covers(&self, scope: &str, action: &str, key: &str) -> bool {
        // The bare word stands for all of its kind: `action` for `action:poweron`.
        let kind = action.split_once(':').map_or(action, |(kind, _)| kind);
        self.is_about(scope, key) && words(&self.action).any(|one| one == "*" || one == action || one == kind)
    }

    /// Whether it lets anything be changed: the whole object, or a part.
    fn covers_some_update(&self, scope: &str, key: &str) -> bool {
        let updates = |one: &str| one == "*" || one == "update" || one.starts_with(PART);
        self.is_about(scope, key) && words(&self.action).any(updates)
    }

    /// Whether it lets this part be changed: `/Params/x` covers itself and what is below.
    fn covers_update_of(&self, scope: &str, key: &str, path: &[String]) -> bool {
        let covers = |one: &str| match one.strip_prefix(PART) {
            Some(pointer) => steps(pointer)
                .zip(path.iter().map(Some).chain(std::iter::repeat(None)))
                .all(|(claimed, is)| is == Some(&claimed)),
            None => one == "*" || one == "update",
        };
        self.is_about(scope, key) && words(&self.action).any(covers)
    }
}

const PART: &str = "update:/";
/// A claim that somebody else is to have is looked at right by right, so many at most.
const MAX_SINGLES: usize = 4096;

/// An empty word names nothing: `m1,` is no claim on all objects.
fn words(part: &str) -> impl Iterator<Item = &str> {
    part.split(',').map(str::trim).filter(|word| !word.is_empty())
}

/// The steps of a JSON Pointer (RFC 6901) without its first slash.
fn steps(pointer: &str) -> impl Iterator<Item = String> {
    let steps = pointer.split('/').filter(|step| !step.is_empty());
    steps.map(|step| step.replace("~1", "/").replace("~0", "~"))
}

/// Where two versions of an object differ, as deep as both are maps.
pub(crate) fn differences(old: &Object, new: &Object) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut at = Vec::new();
    collect(old, new, &mut at, &mut found);
    found
}

fn collect(old: &Object, new: &Object, at: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
    let keys: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    for key in keys {
        let (old, new) = (old.get(key), new.get(key));
        if old == new {
            continue;
        }
        at.push(key.clone());
        match (old, new) {
            (Some(Value::Object(old)), Some(Value::Object(new))) => collect(old, new, at, found),
            _ => found.push(at.clone()),
        }
        at.pop();
    }
}

/// What the members of a tenant see: of the types that it names, these objects alone.
#[derive(Debug)]
pub(crate) struct Tenant(BTreeMap<String, BTreeSet<String>>);

impl Tenant {
    pub(crate) fn of(tenant: &Object) -> Self {
        let members = tenant.get("Members").and_then(Value::as_object).into_iter().flatten();
        let keys = |keys: &Value| {
            let keys = keys.as_array().into_iter().flatten();
            keys.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        Self(members.map(|(scope, of)| (scope.clone(), keys(of))).collect())
    }

    fn shows(&self, scope: &str, key: &str) -> bool {
        self.0.get(scope).is_none_or(|keys| keys.contains(key))
    }
}

/// How somebody has shown who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    /// They are part of the server.
    None,
    /// A token: its key in the store.
    Token(String),
    /// A password, when the user's secrets were these.
    Password(String),
}

/// Who makes a change or asks a question, and the claims they came with.
#[derive(Clone, Debug)]
pub struct Principal {
    who: Who,
    name: String,
    /// Address that they come from.
    source: Arc<str>,
    proof: Proof,
    claims: Arc<[Claim]>,
    /// A token may be narrower than the user it was issued to: each of these has to cover what is asked, too.
    limits: Arc<[Vec<Claim>]>,
    /// Each of these has to show what is asked for.
    tenants: Arc<[Tenant]>,
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
    ("machines", "get,update,token", "SELF"),
    ("params,profiles,stages,tasks,bootenvs,workflows", "get,list", "*"),
    ("info", "get", "*"),
    // Of its own machine alone: the routes look.
    ("jobs", "get,create,update,actions,log", "*"),
];

impl Principal {
    /// The server itself: may everything.
    #[must_use]
    pub fn system() -> Self {
        let all = Claim::new("*", "*", "*");
        Self::new(Who::System, "system".to_owned(), [all].into())
    }

    fn new(who: Who, name: String, claims: Arc<[Claim]>) -> Self {
        Self {
            who,
            name,
            source: "".into(),
            proof: Proof::None,
            claims,
            limits: Arc::default(),
            tenants: Arc::default(),
        }
    }

    /// A user with these claims, and no more than each of `limits`.
    pub(crate) fn of_user(user: &str, claims: Vec<Claim>, limits: Vec<Vec<Claim>>) -> Self {
        Self {
            limits: limits.into(),
            ..Self::new(Who::User(user.to_owned()), format!("user:{user}"), claims.into())
        }
    }

    pub(crate) fn of_machine(uuid: &str) -> Self {
        let claim = |(scope, action, specific): &(&str, &str, &str)| {
            Claim::new(scope, action, if *specific == "SELF" { uuid } else { specific })
        };
        let claims = MACHINE_CLAIMS.iter().map(claim).collect();
        Self::new(Who::Machine(uuid.to_owned()), format!("machine:{uuid}"), claims)
    }

    /// With no more than each of these.
    pub(crate) fn within(self, limits: Vec<Vec<Claim>>) -> Self {
        let limits = limits.into();
        Self { limits, ..self }
    }

    pub(crate) fn with_tenants(self, tenants: Vec<Tenant>) -> Self {
        let tenants = tenants.into();
        Self { tenants, ..self }
    }

    pub(crate) fn with_proof(self, proof: Proof) -> Self {
        Self { proof, ..self }
    }

    /// The same, coming from this address.
    #[must_use]
    pub fn at(self, source: &str) -> Self {
        let source = source.into();
        Self { source, ..self }
    }

    pub(crate) fn proof(&self) -> &Proof {
        &self.proof
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

    /// Address that the request came from; empty for what the server does on its own account.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
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
        self.sees(scope, key) && self.each(|claim| claim.covers(scope, action, key))
    }

    /// Whether their tenants show this object; what they may do with it is for claims to say.
    #[must_use]
    pub fn sees(&self, scope: &str, key: &str) -> bool {
        self.tenants.iter().all(|tenant| tenant.shows(scope, key))
    }

    /// Whether they may change anything of this object: claims may name parts, as `update:/Params/x` does. What is
    /// changed then is looked at when it is known.
    #[must_use]
    pub fn allows_some_update(&self, scope: &str, key: &str) -> bool {
        self.sees(scope, key) && self.each(|claim| claim.covers_some_update(scope, key))
    }

    /// Whether they may change this part of an object.
    pub(crate) fn allows_update_of(&self, scope: &str, key: &str, path: &[String]) -> bool {
        self.sees(scope, key) && self.each(|claim| claim.covers_update_of(scope, key, path))
    }

    /// The first of these rights that they do not have themselves.
    pub(crate) fn lacks<'a>(&self, claims: &'a [Claim]) -> Option<&'a Claim> {
        let has = |claim: &Claim| {
            let singles = claim.singles();
            singles.is_some_and(|singles| singles.iter().all(|single| self.each(|own| own.includes(single))))
        };
        claims.iter().find(|claim| !has(claim))
    }

    /// Whether a tenant bounds what they see.
    pub(crate) fn is_in_a_tenant(&self) -> bool {
        !self.tenants.is_empty()
    }

    /// Whether one of the claims, and one of each limit, does this.
    fn each(&self, does: impl Fn(&Claim) -> bool) -> bool {
        self.claims.iter().any(&does) && self.limits.iter().all(|limit| limit.iter().any(&does))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn jane(claims: &[(&str, &str, &str)]) -> Principal {
        let claims = claims
            .iter()
            .map(|(scope, action, specific)| Claim::new(scope, action, specific));
        Principal::of_user("jane", claims.collect(), vec![])
    }

    #[test]
    fn claims_are_lists_with_a_wildcard() {
        let who = jane(&[
            ("machines, jobs", "get,list", "*"),
            ("profiles", "*", "global,p1"),
            ("plugins", "action:one, actions", "*"),
            ("subnets", "action", "*"),
        ]);
        let cases = [
            ("machines", "get", "m1", true),
            ("jobs", "list", "", true),
            ("machines", "getSecure", "m1", false),
            ("machines", "update", "m1", false),
            ("profiles", "delete", "p1", true),
            ("profiles", "list", "", false),
            ("stages", "get", "none", false),
            ("plugins", "action:one", "x", true),
            ("plugins", "action:on", "x", false),
            ("plugins", "action:two", "x", false),
            ("plugins", "action", "x", false),
            ("subnets", "action:two", "x", true),
            ("subnets", "actions", "x", false),
        ];
        for (scope, action, key, want) in cases {
            assert_eq!(who.allows(scope, action, key), want, "{scope} {action} {key}");
        }
    }

    #[test]
    fn a_part_of_an_object_is_itself_and_what_is_below() {
        let who = jane(&[(
            "machines",
            "get,update:/Params/ipmi~1mode,update:/Meta/a/b,update:/Profiles",
            "m1",
        )]);
        assert!(who.allows_some_update("machines", "m1") && !who.allows_some_update("machines", "m2"));
        assert!(!who.allows("machines", "update", "m1"));
        assert!(!jane(&[("machines", "get", "*")]).allows_some_update("machines", "m1"));
        let cases = [
            (&["Params", "ipmi/mode"][..], true),
            (&["Params", "ipmi/mode", "deep"], true),
            (&["Params", "ipmi"], false),
            (&["Params"], false),
            (&["Meta", "a"], false),
            (&["Meta", "a", "b"], true),
            (&["Profiles"], true),
            (&["BootEnv"], false),
        ];
        for (path, want) in cases {
            let path: Vec<_> = path.iter().map(|&step| step.to_owned()).collect();
            assert_eq!(who.allows_update_of("machines", "m1", &path), want, "{path:?}");
            assert!(jane(&[("*", "update", "*")]).allows_update_of("machines", "m1", &path));
        }
        let object = |value: Value| value.as_object().unwrap().clone();
        let found = differences(
            &object(json!({"A": 1, "Params": {"a": {"x": 1, "y": 2}, "b": [1]}, "Same": {}})),
            &object(json!({"Params": {"a": {"x": 1, "y": 3}, "b": [2], "c": null}, "Same": {}})),
        );
        let found: Vec<_> = found.iter().map(|path| path.join("/")).collect();
        assert_eq!(found, ["A", "Params/a/y", "Params/b", "Params/c"]);
    }

    #[test]
    fn a_narrowed_token_never_widens() {
        let read = vec![Claim::new("machines", "get,action", "*")];
        let limit = vec![Claim::new("*", "get,action:powercycle", "m1")];
        let who = Principal::of_user("jane", read, vec![limit]);
        assert!(who.allows("machines", "get", "m1") && who.allows("machines", "action:powercycle", "m1"));
        assert!(!who.allows("machines", "get", "m2"));
        assert!(!who.allows("machines", "action:poweroff", "m1"));
        assert!(!who.allows("machines", "update", "m1"));
    }

    #[test]
    fn a_tenant_hides_what_it_does_not_name_of_the_types_it_names() {
        let tenant = json!({"Members": {"machines": ["m1"], "profiles": []}});
        let who = jane(&[("*", "*", "*")]).with_tenants(vec![Tenant::of(tenant.as_object().unwrap())]);
        for (scope, key, want) in [
            ("machines", "m1", true),
            ("machines", "m2", false),
            ("machines", "", false),
            ("profiles", "global", false),
            ("stages", "none", true),
        ] {
            assert_eq!(who.allows(scope, "get", key), want, "{scope} {key}");
            assert_eq!(who.allows_some_update(scope, key), want, "{scope} {key}");
        }
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
            ("machines", "token", "u1", true),
            ("machines", "token", "u2", false),
            ("params", "get", "ipmi/password", true),
            ("profiles", "getSecure", "global", false),
            ("users", "list", "", false),
            ("prefs", "get", "", false),
            ("audit", "list", "", false),
            ("info", "get", "", true),
        ];
        for (scope, action, key, want) in cases {
            assert_eq!(who.allows(scope, action, key), want, "{scope} {action} {key}");
        }
    }
}
