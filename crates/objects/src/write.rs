//! The way of every change: read, change, seal, settle, validate, tell the hook, commit with its events.

use std::collections::BTreeSet;
use std::sync::Arc;

use base64::Engine as _;
use bytes::Bytes;
use isobar_model::machine::Change;
use isobar_model::patch::Patch;
use isobar_model::tasks::Entry;
use isobar_model::{ApiError, Lookup, Noun, Object, same_members};
use isobar_store::{Delete, Event, Put, Txn};
use serde_json::Value;

use crate::core::{Draft, Order};
use crate::login::random;
use crate::objects::row;
use crate::principal::differences;
use crate::read::{has_hidden, public};
use crate::tokens::list;
use crate::view::{Found, Place, View, entries};
use crate::{Objects, Principal, audit, grants, refs, rules, secure};

/// Members of its own machine that a machine's token does not change.
const NOT_BY_MACHINES: &[&str] = &["Name", "Secret", "Locked", "Pool", "PoolAllocated", "PoolStatus"];
/// Params of its own machine that a machine's token does not change: whoever could move the BMC's address could have its
/// password sent to a place of their own.
const PARAMS_NOT_BY_MACHINES: &[&str] = &["ipmi/", "boot-virtual-iso", "isobar/"];

/// Members of its own jobs that a machine's token does not change: what they are is the server's to say.
const OF_JOBS_NOT_BY_MACHINES: &[&str] = &[
    "Machine",
    "Task",
    "Stage",
    "BootEnv",
    "Workflow",
    "Previous",
    "Current",
    "CurrentIndex",
    "NextIndex",
];

/// Params that say where a BMC is, and so where its password is sent.
pub const WHERE_THE_BMC_IS: &[&str] = &["ipmi/address", "ipmi/port-redfish", "ipmi/port-ipmitool"];

/// An object after a change, as clients may see it.
#[derive(Clone, Debug)]
pub struct Saved {
    /// The object.
    pub object: Arc<Object>,
    /// The same as JSON.
    pub text: Bytes,
}

impl std::ops::Deref for Saved {
    type Target = Arc<Object>;

    fn deref(&self) -> &Arc<Object> {
        &self.object
    }
}

/// Who makes a change, and how.
#[derive(Clone, Copy)]
pub(crate) struct How<'a> {
    pub(crate) by: &'a Principal,
    pub(crate) force: bool,
    /// The job engine moves a machine on.
    pub(crate) runner: bool,
    /// The route's own right was for just this change: claims on parts of the object are not asked.
    pub(crate) freely: bool,
}

impl<'a> How<'a> {
    /// In the usual way.
    pub(crate) fn of(by: &'a Principal) -> Self {
        let (force, runner, freely) = (false, false, false);
        How {
            by,
            force,
            runner,
            freely,
        }
    }

    fn forced(by: &'a Principal, force: bool) -> Self {
        How { force, ..How::of(by) }
    }
}

impl Objects {
    /// Creates an object; what is missing in `input` is filled in as DRP does.
    ///
    /// # Errors
    /// 400 for what makes no sense, 409 when the key is taken, 422 when it is not valid.
    pub fn create(&self, noun: &str, input: &Value, by: &Principal) -> Result<Saved, ApiError> {
        self.make(noun, || Ok(input.clone()), by)
    }

    /// [`Objects::create`] of what `input` reads: once, and again each time that the change has to be prepared again.
    ///
    /// # Errors
    /// As [`Objects::create`], and those of `input`.
    pub fn make(
        &self,
        noun: &str,
        mut input: impl FnMut() -> Result<Value, ApiError>,
        by: &Principal,
    ) -> Result<Saved, ApiError> {
        let noun = row(noun)?;
        let mut accepted = || noun.accepted(input()?, None).map_err(|e| e.with_type("CREATE"));
        let first = accepted()?;
        let mut given = Object::new();
        if noun.name == "machines" && noun.key_of(&first).is_empty() {
            given.insert("Uuid".to_owned(), uuid::Uuid::new_v4().to_string().into());
        }
        if first.get("Secret").and_then(Value::as_str) == Some("") {
            given.insert("Secret".to_owned(), new_secret().into());
        }
        let own = given.get("Uuid").and_then(Value::as_str);
        let key = own.map_or_else(|| noun.key_of(&first).into_owned(), str::to_owned);
        if key.is_empty() {
            return Err(ApiError::empty_key(noun.name));
        }
        refuse_machines(by, noun, &key)?;
        let mut first = Some(first);
        self.core
            .write(Order::of(noun), &format!("{}/{key}", noun.name), |view, draft| {
                if view.find(noun, &key).is_some() {
                    return Err(ApiError::already_exists(noun.name, &key));
                }
                let mut base = first.take().map_or_else(&mut accepted, Ok)?;
                base.extend(given.clone());
                refuse_secrets(view, by, noun, &key, None, &base)?;
                grants::check(view, by, noun, &key, None, Some(&base))?;
                self.finish(view, draft, noun, &key, None, base, How::of(by))
            })
    }

    /// Applies `ops` (RFC 6902). `force` allows a change of stage or bootenv that DRP refuses without.
    ///
    /// # Errors
    /// 404, 409 for a failed `test` or a missing path, 422 when the result is not valid.
    pub fn patch(&self, noun: &str, key: &str, ops: &Value, force: bool, by: &Principal) -> Result<Saved, ApiError> {
        let noun = row(noun)?;
        let patch = Patch::parse(ops).map_err(|e| in_model(e, noun, key))?;
        self.change(noun, key, "PATCH", How::forced(by, force), |old| {
            patch.apply_to(noun, old)
        })
    }

    /// Replaces an object by `input`, whose own key has to be the same.
    ///
    /// # Errors
    /// As [`Objects::patch`].
    pub fn replace(
        &self,
        noun: &str,
        key: &str,
        input: &Value,
        force: bool,
        by: &Principal,
    ) -> Result<Saved, ApiError> {
        let noun = row(noun)?;
        self.change(noun, key, "PUT", How::forced(by, force), |old| {
            let new = noun.accept(input, Some(old)).map_err(|e| e.with_type("PUT"))?;
            let (from, to) = (noun.key_of(old), noun.key_of(&new));
            if from == to {
                Ok(new)
            } else {
                Err(ApiError::key_change(noun.name, &from, &to))
            }
        })
    }

    /// Reads the object, lets `change` edit it, validates, commits; again from the start when somebody else was faster,
    /// so `change` must have no effect but on its argument. An edit that changes nothing is no commit.
    ///
    /// # Errors
    /// 404, what `change` returns, 422 when the result is not valid.
    pub fn update_with(
        &self,
        noun: &str,
        key: &str,
        by: &Principal,
        change: impl FnMut(&mut Object) -> Result<(), ApiError>,
    ) -> Result<Arc<Object>, ApiError> {
        self.edit(noun, key, How::of(by), change)
    }

    /// [`Objects::update_with`] where a right of its own was for just this change.
    pub(crate) fn update_freely(
        &self,
        noun: &str,
        key: &str,
        by: &Principal,
        change: impl FnMut(&mut Object) -> Result<(), ApiError>,
    ) -> Result<Arc<Object>, ApiError> {
        let how = How {
            freely: true,
            ..How::of(by)
        };
        self.edit(noun, key, how, change)
    }

    fn edit(
        &self,
        noun: &str,
        key: &str,
        how: How<'_>,
        mut change: impl FnMut(&mut Object) -> Result<(), ApiError>,
    ) -> Result<Arc<Object>, ApiError> {
        let noun = row(noun)?;
        let saved = self.change(noun, key, "PATCH", how, |old| {
            let mut new = old.clone();
            change(&mut new)?;
            let new = noun
                .accepted(Value::Object(new), Some(old))
                .map_err(|e| in_model(e, noun, key))?;
            if noun.key_of(&new) == noun.key_of(old) {
                Ok(new)
            } else {
                Err(ApiError::patch_key_change(noun.name, &noun.key_of(&new)))
            }
        })?;
        Ok(saved.object)
    }

    /// Deletes an object and returns it.
    ///
    /// # Errors
    /// 404, 400 for content, 409 with one message for each reference to it.
    pub fn delete(&self, noun: &str, key: &str, by: &Principal) -> Result<Saved, ApiError> {
        let noun = row(noun)?;
        // The pieces of a job's log go with it: none is added meanwhile.
        let order = if noun.name == "jobs" {
            Order::Exclusive
        } else {
            Order::of(noun)
        };
        self.core.write(order, &format!("{}/{key}", noun.name), |view, draft| {
            let (key, old) = view.meant("DELETE", noun, key)?;
            refuse_machines(by, noun, &key)?;
            if old.place == Place::Content {
                return Err(ApiError::read_only("DELETE", noun.name, &key));
            }
            rules::deletable(noun, &key, &old.object)?;
            grants::check(view, by, noun, &key, Some(&old.object), None)?;
            if noun.name == "jobs" {
                self.forget_job(view, draft, &key, &old.object)?;
            }
            let reasons = refs::in_use(view, noun, &key);
            if !reasons.is_empty() {
                return Err(ApiError::still_in_use(noun.name, &key, reasons));
            }
            draft.txn.deletes.push(Delete {
                kind: noun.name.to_owned(),
                key: key.clone(),
                expect: old.place.expect(),
            });
            let shown = shown(noun, &old)?;
            let told = event(noun, "delete", &key, by, Some(&shown.text), None);
            draft.txn.events.push(told);
            let name = old
                .object
                .get("Name")
                .and_then(Value::as_str)
                .filter(|name| *name != key);
            let name = name.map(|name| format!("Name={name}")).unwrap_or_default();
            draft.txn.audit.push(by.audit("delete", noun.name, &key, name));
            view.set(noun, &key, None, old.place);
            self.ask_hook(draft, noun, &key, Some(&old.object), None, &[])?;
            Ok(shown)
        })
    }

    /// A change of one object that is there.
    pub(crate) fn change(
        &self,
        noun: &'static Noun,
        key: &str,
        verb: &str,
        how: How<'_>,
        mut change: impl FnMut(&Object) -> Result<Object, ApiError>,
    ) -> Result<Saved, ApiError> {
        self.core
            .write(Order::of(noun), &format!("{}/{key}", noun.name), |view, draft| {
                let (key, old) = view.meant(verb, noun, key)?;
                if old.place == Place::Content {
                    return Err(ApiError::read_only(verb, noun.name, &key));
                }
                let new = change(&old.object)?;
                refuse_machine_change(view, how.by, noun, &key, &old.object, &new)?;
                if !how.freely {
                    refuse_parts(how.by, noun, &key, &old.object, &new)?;
                }
                refuse_secrets(view, how.by, noun, &key, Some(&old.object), &new)?;
                grants::check(view, how.by, noun, &key, Some(&old.object), Some(&new))?;
                self.finish(view, draft, noun, &key, Some(&old), new, how)
            })
    }

    /// From the wanted object to the draft: everything that is the same for create and update.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn finish(
        &self,
        view: &View<'_>,
        draft: &mut Draft,
        noun: &'static Noun,
        key: &str,
        old: Option<&Found>,
        mut new: Object,
        how: How<'_>,
    ) -> Result<Saved, ApiError> {
        let before = old.map(|found| found.object.as_ref());
        secure::seal(view, &self.core.vault, noun, key, before, &mut new)?;
        if noun.name == "jobs" {
            self.clock_job(before, &mut new);
        }
        // Who replaces an object and does not say its secret gives it none that is empty, and revokes nothing.
        if let Some(secret) = before.and_then(|before| before.get("Secret"))
            && new.get("Secret").and_then(Value::as_str) == Some("")
        {
            new.insert("Secret".to_owned(), secret.clone());
        }
        // However a password is changed, the tokens that were got with the old one are worth nothing.
        let same = |member: &str| before.is_some_and(|before| before.get(member) == new.get(member));
        if noun.name == "users" && before.is_some() && !same("PasswordHash") && same("Secret") {
            new.insert("Secret".to_owned(), new_secret().into());
        }
        let (force, runner) = (how.force, how.runner);
        rules::admit(noun, before, &mut new, Change { force, runner }, view)?;
        let differ = audit::differing(noun, before, &new);
        if let Some(old) = old
            && differ.is_empty()
        {
            return shown(noun, old);
        }
        let new = Arc::new(new);
        let place = old.map_or(Place::New, |found| found.place);
        let action = if old.is_none() { "create" } else { "update" };
        let text = self.put(view, draft, noun, key, old, &new, (place, action, how.by, &differ))?;
        if noun.name == "params" {
            self.seal_declared(view, draft, before, &new, how.by)?;
        }
        self.refresh_dependents(view, draft, noun, key)?;
        let object = public(noun, &new);
        Ok(Saved { object, text })
    }

    /// Adds one object's write, its event and the hook's share to the draft: where the object is, what is done, by whom,
    /// and the members that differ. Gives the object as clients may see it.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn put(
        &self,
        view: &View<'_>,
        draft: &mut Draft,
        noun: &'static Noun,
        key: &str,
        old: Option<&Found>,
        new: &Arc<Object>,
        (place, action, by, differ): (Place, &str, &Principal, &[&str]),
    ) -> Result<Bytes, ApiError> {
        let body = text_of(noun, key, new)?;
        draft.txn.puts.push(Put {
            kind: noun.name.to_owned(),
            key: key.to_owned(),
            body: body.clone(),
            expect: place.expect(),
            indexes: entries(noun, new),
        });
        // What the server does on its own account is a save, as DRP's watchers expect.
        let action = if action == "update" && by.is_system() {
            "save"
        } else {
            action
        };
        let before = old.map(|found| found.object.as_ref());
        draft
            .txn
            .audit
            .push(by.audit(action, noun.name, key, audit::changed(before, new, differ)));
        if before.is_some_and(|before| before.get("Secret") != new.get("Secret")) {
            draft.txn.audit.push(by.audit("revoke", noun.name, key, "all tokens"));
        }
        // Most types have nothing to hide: one text does for the row, the event and the answer.
        let text = if has_hidden(noun) {
            text_of(noun, key, &public(noun, new))?
        } else {
            body
        };
        let original = old.map(|found| shown(noun, found)).transpose()?;
        let told = event(
            noun,
            action,
            key,
            by,
            Some(&text),
            original.as_ref().map(|saved| &saved.text),
        );
        draft.txn.events.push(told);
        view.set(noun, key, Some(Arc::clone(new)), place);
        self.ask_hook(draft, noun, key, before, Some(new), differ)?;
        Ok(text)
    }

    #[allow(clippy::too_many_arguments)]
    fn ask_hook(
        &self,
        draft: &mut Draft,
        noun: &Noun,
        key: &str,
        old: Option<&Object>,
        new: Option<&Arc<Object>>,
        differ: &[&str],
    ) -> Result<(), ApiError> {
        if noun.name != "machines" {
            return Ok(());
        }
        draft.machines.push((key.to_owned(), new.cloned()));
        if let Some(hook) = self.core.hook() {
            let mut share = Txn::default();
            hook.machine_changing(self, old, new.map(Arc::as_ref), differ, &mut share)?;
            draft.txn.puts.append(&mut share.puts);
            draft.txn.deletes.append(&mut share.deletes);
            draft.txn.events.append(&mut share.events);
            draft.txn.fences.append(&mut share.fences);
            draft.txn.audit.append(&mut share.audit);
        }
        Ok(())
    }
}

fn in_model(error: ApiError, noun: &Noun, key: &str) -> ApiError {
    ApiError {
        model: noun.name.to_owned(),
        key: key.to_owned(),
        type_: "PATCH".to_owned(),
        ..error
    }
}

fn unwritable(noun: &Noun, key: &str, error: &serde_json::Error) -> ApiError {
    ApiError::new(500, "STORE_ERROR", noun.name, key, error.to_string())
}

fn text_of(noun: &Noun, key: &str, object: &Object) -> Result<Bytes, ApiError> {
    let text = serde_json::to_vec(object).map_err(|e| unwritable(noun, key, &e))?;
    // The store keeps it: without the room that the text left as it grew.
    Ok(Bytes::copy_from_slice(&text))
}

/// A found object as clients may see it.
fn shown(noun: &Noun, found: &Found) -> Result<Saved, ApiError> {
    let object = public(noun, &found.object);
    let text = match &found.text {
        Some(text) if !has_hidden(noun) => text.clone(),
        _ => text_of(noun, &noun.key_of(&object), &object)?,
    };
    Ok(Saved { object, text })
}

pub(crate) fn event(
    noun: &Noun,
    action: &str,
    key: &str,
    by: &Principal,
    object: Option<&Bytes>,
    original: Option<&Bytes>,
) -> Event {
    Event {
        kind: noun.name.to_owned(),
        action: action.to_owned(),
        key: key.to_owned(),
        principal: by.name().to_owned(),
        object: object.cloned(),
        original: original.cloned(),
    }
}

/// 16 random characters.
pub(crate) fn new_secret() -> String {
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(random::<12>())
}

fn forbidden(noun: &Noun, key: &str, what: &str) -> ApiError {
    ApiError::new(
        403,
        "AUTH",
        noun.name,
        key,
        format!("a machine's token does not allow to {what}"),
    )
}

/// Machines neither create nor delete.
fn refuse_machines(by: &Principal, noun: &Noun, key: &str) -> Result<(), ApiError> {
    match by.machine() {
        Some(_) => Err(forbidden(noun, key, "create or delete")),
        None => Ok(()),
    }
}

/// Whatever the route's claims allowed: a machine changes itself only, and not everything of that.
fn refuse_machine_change(
    view: &View<'_>,
    by: &Principal,
    noun: &Noun,
    key: &str,
    old: &Object,
    new: &Object,
) -> Result<(), ApiError> {
    let Some(machine) = by.machine() else { return Ok(()) };
    let guarded = match noun.name {
        "jobs" if isobar_model::text(old, "Machine") == machine => OF_JOBS_NOT_BY_MACHINES,
        "machines" if key == machine => NOT_BY_MACHINES,
        _ => return Err(forbidden(noun, key, "change other objects")),
    };
    if let Some(member) = guarded.iter().find(|member| old.get(**member) != new.get(**member)) {
        return Err(forbidden(noun, key, &format!("change {member}")));
    }
    if noun.name == "jobs" {
        return Ok(());
    }
    let theirs = |param: &&String| PARAMS_NOT_BY_MACHINES.iter().any(|prefix| param.starts_with(prefix));
    if let Some(param) = changed_params(Some(old), new).into_iter().find(theirs) {
        return Err(forbidden(noun, key, &format!("change the param {param}")));
    }
    for profile in list(new, "Profiles").filter(|profile| list(old, "Profiles").all(|known| known != *profile)) {
        if let Some(param) = guarded_param(view, profile, &mut BTreeSet::new()) {
            let what = format!("add the profile {profile}, which holds the param {param}");
            return Err(forbidden(noun, key, &what));
        }
    }
    for stage in stages_ahead(view, new).difference(&stages_ahead(view, old)) {
        let found = Lookup::get(view, "stages", stage);
        let param = found.and_then(|stage| guarded_in(view, &stage, &mut BTreeSet::new()));
        if let Some(param) = param {
            let what = format!("go to the stage {stage}, which holds the param {param}");
            return Err(forbidden(noun, key, &what));
        }
    }
    Ok(())
}

/// The stages that a machine is in, or comes to by its workflow and its tasks.
fn stages_ahead(view: &View<'_>, machine: &Object) -> BTreeSet<String> {
    let workflow = Lookup::get(view, "workflows", isobar_model::text(machine, "Workflow"));
    let of_workflow = workflow.iter().flat_map(|workflow| list(workflow, "Stages"));
    let in_tasks = list(machine, "Tasks").filter_map(|entry| match Entry::parse(entry) {
        Some(Entry::Stage(stage)) => Some(stage),
        _ => None,
    });
    let now = std::iter::once(isobar_model::text(machine, "Stage"));
    of_workflow.chain(in_tasks).chain(now).map(str::to_owned).collect()
}

/// A param of a profile, or of one that it includes, that no machine brings to itself: a secret, or where its BMC is.
fn guarded_param(view: &View<'_>, profile: &str, seen: &mut BTreeSet<String>) -> Option<String> {
    if !seen.insert(profile.to_owned()) {
        return None;
    }
    guarded_in(view, &*Lookup::get(view, "profiles", profile)?, seen)
}

/// The same of a profile or a stage at hand.
fn guarded_in(view: &View<'_>, object: &Object, seen: &mut BTreeSet<String>) -> Option<String> {
    let guarded = |param: &&String| {
        PARAMS_NOT_BY_MACHINES.iter().any(|prefix| param.starts_with(prefix)) || secure::declared_secure(view, param)
    };
    let own = changed_params(None, object).into_iter().find(guarded).cloned();
    own.or_else(|| list(object, "Profiles").find_map(|included| guarded_param(view, included, seen)))
}

fn changed_params<'a>(old: Option<&'a Object>, new: &'a Object) -> Vec<&'a String> {
    let params = |object: &'a Object| object.get("Params").and_then(Value::as_object);
    let (old, new) = (old.and_then(params), params(new));
    let all = old.into_iter().chain(new).flat_map(|params| params.keys());
    let value = |params: Option<&'a Object>, param: &str| params.and_then(|params| params.get(param));
    all.filter(|param| !same_members(value(old, param), value(new, param)))
        .collect()
}

/// A right may be for parts of an object (`update:/Params/x`): then nothing else changes.
fn refuse_parts(by: &Principal, noun: &Noun, key: &str, old: &Object, new: &Object) -> Result<(), ApiError> {
    if by.is_system() || by.machine().is_some() || by.allows(noun.name, "update", key) {
        return Ok(());
    }
    let differ = differences(old, new);
    match differ.iter().find(|path| !by.allows_update_of(noun.name, key, path)) {
        Some(path) => {
            let text = format!(
                "{} does not have the right {}:update:/{} here",
                by.name(),
                noun.name,
                path.join("/")
            );
            Err(ApiError::new(403, "AUTH", noun.name, key, text))
        }
        None => Ok(()),
    }
}

/// Secrets are set by who may (`updateSecure`), and where they are sent is said by who could read them (`getSecure`).
pub(crate) fn refuse_secrets(
    view: &View<'_>,
    by: &Principal,
    noun: &'static Noun,
    key: &str,
    old: Option<&Object>,
    new: &Object,
) -> Result<(), ApiError> {
    if by.is_system() || by.machine().is_some() {
        return Ok(());
    }
    for param in changed_params(old, new) {
        let right = if WHERE_THE_BMC_IS.contains(&param.as_str()) {
            "getSecure"
        } else if secure::declared_secure(view, param) {
            "updateSecure"
        } else {
            continue;
        };
        if !by.allows(noun.name, right, key) {
            let text = format!(
                "{} does not have the right {}:{right} here, which the param {param} needs",
                by.name(),
                noun.name
            );
            return Err(ApiError::new(403, "AUTH", noun.name, key, text));
        }
    }
    // A profile or a stage may bring another address along.
    if noun.name == "machines" && !by.allows(noun.name, "getSecure", key) {
        let at = |machine: &Object| {
            let found = isobar_model::params::find(noun, machine, "ipmi/address", view);
            found.filter(|found| found.holder.is_some()).map(|found| found.value)
        };
        if old.is_some_and(|old| at(old) != at(new)) {
            let text = format!(
                "{} does not have the right {}:getSecure here: profiles and stage would give the machine another \
                 ipmi/address",
                by.name(),
                noun.name
            );
            return Err(ApiError::new(403, "AUTH", noun.name, key, text));
        }
    }
    Ok(())
}
