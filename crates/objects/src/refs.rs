//! Who refers to whom: refusing to delete what is in use, and looking again at those whose references changed.

use std::collections::BTreeSet;
use std::sync::Arc;

use isobar_model::references::{self, REFERENCES, Reference};
use isobar_model::{ApiError, Lookup, Noun, Object, noun};

use crate::core::{Draft, Order};
use crate::view::{Place, View};
use crate::{Objects, Principal, audit, rules};

/// Types whose marks depend on other objects, each after those that it refers to.
pub(crate) const DEPENDENT: &[&str] = &[
    "params",
    "templates",
    "profiles",
    "plugins",
    "subnets",
    "tasks",
    "bootenvs",
    "stages",
    "workflows",
    "machines",
];

/// Users name roles; the model's table is about what machines are made of.
const ROLES: Reference = Reference {
    from: "users",
    from_label: "User",
    member: "Roles",
    to: "roles",
    to_label: "Role",
    keeps: true,
};

/// Keys of the objects that name this one in the member.
fn referrers(view: &View<'_>, reference: &Reference, key: &str) -> Vec<(String, Arc<Object>)> {
    let Some(from) = noun(reference.from) else {
        return Vec::new();
    };
    if from
        .index(reference.member)
        .is_some_and(|index| index.path == [reference.member])
    {
        let keys = Lookup::find(view, from.name, reference.member, key);
        return keys
            .into_iter()
            .filter_map(|k| view.find(from, &k).map(|f| (k, f.object)))
            .collect();
    }
    let all = view.all(from).into_iter().map(|(k, found)| (k, found.object));
    all.filter(|(_, object)| reference.names(object, key)).collect()
}

/// Why an object cannot be deleted, one text for each reason.
pub(crate) fn in_use(view: &View<'_>, of: &'static Noun, key: &str) -> Vec<String> {
    let mut reasons = references::kept_by_prefs(of.name, key, view);
    let keeping = REFERENCES.iter().chain([&ROLES]).filter(|r| r.to == of.name && r.keeps);
    for reference in keeping {
        let by = referrers(view, reference, key).into_iter();
        let others = by.filter(|(by, _)| !(reference.from == of.name && by == key));
        reasons.extend(others.map(|(_, object)| reference.reason(key, &object)));
    }
    if of.name == "subnets" {
        reasons.extend(isobar_model::subnets::scoped_in(key, view));
    }
    reasons
}

impl Objects {
    /// Looks again which objects are available (a base was imported or removed) and stores what changed, with `save`
    /// events. Returns how many objects changed.
    ///
    /// # Errors
    /// Of the store.
    pub fn refresh(&self) -> Result<usize, ApiError> {
        self.refresh_where(|_| true)
    }

    /// Marks the content layers' objects, which are kept in memory.
    pub(crate) fn refresh_content(&self) -> Result<usize, ApiError> {
        self.refresh_where(|place| place == Place::Content)
    }

    fn refresh_where(&self, wanted: impl Fn(Place) -> bool) -> Result<usize, ApiError> {
        self.core.write(Order::Exclusive, "all objects", |view, draft| {
            let mut changed = 0;
            for name in DEPENDENT {
                let Some(noun) = noun(name) else { continue };
                for (key, found) in view.all(noun) {
                    if wanted(found.place) {
                        changed += usize::from(self.look_again(view, draft, noun, &key)?);
                    }
                }
            }
            Ok(changed)
        })
    }

    /// After a change of one object: looks again at those that refer to it, and on from those that changed by that.
    pub(crate) fn refresh_dependents(
        &self,
        view: &View<'_>,
        draft: &mut Draft,
        of: &'static Noun,
        key: &str,
    ) -> Result<(), ApiError> {
        let mut changed = BTreeSet::from([(of.name, key.to_owned())]);
        for name in DEPENDENT {
            let Some(from) = noun(name) else { continue };
            let mut affected = BTreeSet::new();
            for reference in REFERENCES.iter().filter(|r| r.from == from.name) {
                for (_, key) in changed.iter().filter(|(to, _)| *to == reference.to) {
                    affected.extend(referrers(view, reference, key).into_iter().map(|(k, _)| k));
                }
            }
            affected.retain(|k| !(from.name == of.name && k == key));
            for key in affected {
                if self.look_again(view, draft, from, &key)? {
                    changed.insert((from.name, key));
                }
            }
        }
        Ok(())
    }

    /// Validates an object as it is; whether that changed it.
    pub(crate) fn look_again(
        &self,
        view: &View<'_>,
        draft: &mut Draft,
        of: &'static Noun,
        key: &str,
    ) -> Result<bool, ApiError> {
        let Some(found) = view.find(of, key) else {
            return Ok(false);
        };
        let mut new = Object::clone(&found.object);
        rules::mark(of, &mut new, view);
        if new == *found.object {
            return Ok(false);
        }
        let new = Arc::new(new);
        if found.place == Place::Content {
            view.set(of, key, Some(Arc::clone(&new)), Place::Content);
            draft.content.push((of, key.to_owned(), new));
            return Ok(true);
        }
        // Its own write is in the draft already when a profile or task refers to itself by a detour.
        let pending = draft
            .txn
            .puts
            .iter()
            .position(|put| put.kind == of.name && put.key == key);
        if pending.is_some() {
            return Ok(false);
        }
        let by = Principal::system();
        let differ = audit::differing(of, Some(&found.object), &new);
        self.put(
            view,
            draft,
            of,
            key,
            Some(&found),
            &new,
            (found.place, "update", &by, &differ),
        )?;
        Ok(true)
    }
}
