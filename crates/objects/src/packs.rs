//! Uploading, replacing and removing content packs: each as a whole or not at all.

use std::sync::Arc;

use isobar_model::content::{Pack, prerequisites};
use isobar_model::{ApiError, Noun, Object, noun, text, validate};
use isobar_store::{Delete, Event, Expect, Put};
use serde_json::Value;

use crate::content::{Content, KIND, restricted};
use crate::core::{Draft, Order, store_failed};
use crate::objects::FEATURES;
use crate::refs::{DEPENDENT, in_use};
use crate::view::View;
use crate::write::refuse_secrets;
use crate::{Objects, Principal, grants, secure};

/// DRP's words before the problems of a pack that does not load.
const DOES_NOT_LOAD: &str = "Failed to load backing objects from cache";

/// What is made and moved on while the server runs.
const NO_CONTENT: &[&str] = &["machines", "jobs", "leases"];

fn no_such(verb: &str, name: &str) -> ApiError {
    ApiError::new(404, verb, "contents", name, "No such content store")
}

impl Objects {
    /// The content layers, as `GET /contents` shows them.
    #[must_use]
    pub fn contents(&self) -> Vec<Value> {
        let content = self.core.content();
        let mut packs: Vec<_> = content.packs().iter().collect();
        packs.sort_by_key(|pack| pack.name().to_owned());
        packs.into_iter().map(|pack| pack.summary()).collect()
    }

    /// One layer with all that it holds; secure params in their boxes, or in clear with `decode`, for callers whose
    /// `getSecure` was checked.
    ///
    /// # Errors
    /// 404.
    pub fn content_pack(&self, name: &str, decode: bool) -> Result<Value, ApiError> {
        let content = self.core.content();
        let pack = content.pack(name).ok_or_else(|| no_such("GET", name))?;
        let mut document = content.document(pack);
        if decode {
            let view = View::new(&self.core);
            for (section, objects) in document["sections"].as_object_mut().into_iter().flatten() {
                for (key, object) in objects.as_object_mut().into_iter().flatten() {
                    let Some(Value::Object(params)) = object.get_mut("Params") else {
                        continue;
                    };
                    *params = secure::opened(&view, &self.core.vault, section, key, params)?;
                }
            }
            view.sound()?;
        }
        Ok(document)
    }

    /// Adds a pack (`replace` none) or replaces the one of that name. Returns its summary.
    ///
    /// # Errors
    /// 409 when there is one already, 404 when there is none to replace, 422 with all that is wrong with it.
    pub fn put_content(&self, document: &Value, replace: Option<&str>, by: &Principal) -> Result<Value, ApiError> {
        let verb = if replace.is_some() { "PUT" } else { "POST" };
        let mut pack = Pack::parse(document).map_err(|e| e.with_type(verb))?;
        let name = pack.name().to_owned();
        let refused = |code, message: String| ApiError::new(code, verb, "contents", &name, message);
        if let Some(key) = replace.filter(|key| *key != name) {
            return Err(ApiError::key_change("contents", key, &name));
        }
        for state in NO_CONTENT {
            if pack.sections.remove(state).is_some() {
                let text = format!("section {state} is left out: a layer does not change, and these do");
                pack.warnings.push(text);
            }
        }
        if pack.sections.remove("plugin_providers").is_some() {
            return Err(refused(400, "plugin providers are programs and no content".to_owned()));
        }
        pack.meta.insert("Type".to_owned(), "dynamic".into());
        self.core.write(Order::Exclusive, "contents", |view, draft| {
            let now = self.core.content();
            match (now.pack(&name), replace) {
                (Some(_), None) => return Err(refused(409, format!("Content {name} already exists"))),
                (None, Some(_)) => return Err(no_such(verb, &name)),
                (Some(old), _) => refuse_ours(verb, old)?,
                (None, None) => {}
            }
            let mut new = now.without(&name);
            new.add(Arc::new(pack.clone())).map_err(|reason| refused(422, reason))?;
            for (noun, object) in pack.objects() {
                let key = noun.key_of(object);
                if self
                    .core
                    .store
                    .get(noun.name, &key)
                    .map_err(|e| store_failed(&e))?
                    .is_some()
                {
                    return Err(refused(422, restricted(&key, "")));
                }
            }
            let with_pack = View::with_content(&self.core, Arc::new(new.clone()));
            for (noun, object) in pack.objects() {
                let key = noun.key_of(object);
                let old = now.get(noun.name, &key).map(AsRef::as_ref);
                refuse_secrets(&with_pack, by, noun, &key, old, object)?;
                grants::check(&with_pack, by, noun, &key, old, Some(object))?;
            }
            let problems = wants(&new);
            if !problems.is_empty() {
                return Err(ApiError {
                    messages: problems,
                    ..refused(422, String::new())
                });
            }
            self.seal_layer(&mut new, &name)?;
            let new = Arc::new(new);
            self.check_layer(&new, &pack)?;
            let stored = new.pack(&name).map(|pack| new.document(pack)).unwrap_or_default();
            let body = serde_json::to_vec(&stored).map_err(|e| refused(500, e.to_string()))?;
            draft.txn.puts.push(Put {
                kind: KIND.to_owned(),
                key: name.clone(),
                body: body.into(),
                expect: Expect::Any,
                indexes: Vec::new(),
            });
            let action = if replace.is_some() { "update" } else { "create" };
            draft.txn.events.push(told(action, &name, by));
            draft.txn.audit.push(by.audit(action, "contents", &name, ""));
            self.change_layers(view, draft, &now, new)
        })?;
        let content = self.core.content();
        content
            .pack(&name)
            .map(|pack| pack.summary())
            .ok_or_else(|| no_such(verb, &name))
    }

    /// Removes an uploaded pack.
    ///
    /// # Errors
    /// 404; 409 with a message for each reference to what it holds; 422 when another pack wants it.
    pub fn remove_content(&self, name: &str, by: &Principal) -> Result<(), ApiError> {
        self.core.write(Order::Exclusive, "contents", |view, draft| {
            let now = self.core.content();
            let old = now.pack(name).ok_or_else(|| no_such("DELETE", name))?;
            refuse_ours("DELETE", old)?;
            let new = Arc::new(now.without(name));
            let problems = wants(&new);
            if !problems.is_empty() {
                return Err(ApiError {
                    messages: problems,
                    ..ApiError::new(422, "DELETE", "contents", name, "")
                });
            }
            draft.txn.deletes.push(Delete {
                kind: KIND.to_owned(),
                key: name.to_owned(),
                expect: Expect::Any,
            });
            draft.txn.events.push(told("delete", name, by));
            draft.txn.audit.push(by.audit("delete", "contents", name, ""));
            self.change_layers(view, draft, &now, new)
        })
    }

    /// From one set of layers to the next: nothing vanishes that is in use, and everything is marked anew.
    fn change_layers(
        &self,
        _old_view: &View<'_>,
        draft: &mut Draft,
        old: &Content,
        new: Arc<Content>,
    ) -> Result<(), ApiError> {
        let view = View::with_content(&self.core, Arc::clone(&new));
        let mut reasons = Vec::new();
        for (name, key) in old.ids().filter(|(name, key)| new.get(name, key).is_none()) {
            if let Some(noun) = noun(name) {
                reasons.extend(in_use(&view, noun, key));
            }
        }
        if !reasons.is_empty() {
            return Err(ApiError::still_in_use("contents", "", reasons));
        }
        draft.layers = Some(new);
        for name in DEPENDENT {
            let Some(noun) = noun(name) else { continue };
            for (key, _) in view.all(noun) {
                self.look_again(&view, draft, noun, &key)?;
            }
        }
        view.sound()
    }

    /// All that is wrong with the objects of a pack among the new layers.
    fn check_layer(&self, layers: &Arc<Content>, pack: &Pack) -> Result<(), ApiError> {
        let view = View::with_content(&self.core, Arc::clone(layers));
        let mut problems = Vec::new();
        for (noun, object) in pack.objects() {
            let sealed = layers.get(noun.name, &noun.key_of(object));
            let found = validate::findings(noun, sealed.map_or(object, |sealed| sealed), &view);
            problems.extend(found.invalid);
        }
        view.sound()?;
        if problems.is_empty() {
            return Ok(());
        }
        Err(ApiError {
            messages: problems,
            ..ApiError::new(422, DOES_NOT_LOAD, "", "", "")
        })
    }

    /// Boxes the secure params in a layer that are in clear.
    fn seal_layer(&self, layers: &mut Content, name: &str) -> Result<(), ApiError> {
        let view = View::with_content(&self.core, Arc::new(layers.clone()));
        let mut sealed: Vec<(&'static Noun, String, Arc<Object>)> = Vec::new();
        for (kind, key) in layers.ids() {
            let (Some(noun), Some(object)) = (noun(kind), layers.get(kind, key)) else {
                continue;
            };
            if !name.is_empty() && text(object, "Bundle") != name {
                continue;
            }
            let mut boxed = Object::clone(object);
            secure::seal(&view, &self.core.vault, noun, key, None, &mut boxed)?;
            if boxed != **object {
                sealed.push((noun, key.to_owned(), Arc::new(boxed)));
            }
        }
        view.sound()?;
        for (noun, key, object) in sealed {
            layers.put(noun, &key, object);
        }
        Ok(())
    }

    /// Boxes the secure params of the layers that were read at the start.
    pub(crate) fn seal_content(&self) -> Result<(), ApiError> {
        self.core.write(Order::Exclusive, "contents", |_, draft| {
            let mut layers = Content::clone(&self.core.content());
            self.seal_layer(&mut layers, "")?;
            draft.layers = Some(Arc::new(layers));
            Ok(())
        })
    }
}

fn told(action: &str, name: &str, by: &Principal) -> Event {
    Event {
        kind: "contents".to_owned(),
        action: action.to_owned(),
        key: name.to_owned(),
        principal: by.name().to_owned(),
        object: None,
        original: None,
    }
}

/// Only what was uploaded is changed by uploads.
fn refuse_ours(verb: &str, pack: &Pack) -> Result<(), ApiError> {
    match text(&pack.meta, "Type") {
        "dynamic" => Ok(()),
        typ => Err(ApiError::new(
            400,
            verb,
            "contents",
            pack.name(),
            format!("a layer of type {typ} is not changed by uploads"),
        )),
    }
}

/// What the layers want and do not get: features of the server, and each other.
fn wants(layers: &Content) -> Vec<String> {
    let mut problems = Vec::new();
    for pack in layers.packs() {
        let name = pack.name();
        for feature in words(text(&pack.meta, "RequiredFeatures")) {
            if !FEATURES.contains(&feature) {
                problems.push(format!(
                    "Content layer {name} requires feature {feature}, but dr-provision does not provide it"
                ));
            }
        }
        for (wanted, range) in prerequisites(text(&pack.meta, "Prerequisites")) {
            match layers.pack(wanted) {
                None => problems.push(format!(
                    "Layer {name} has {wanted} as a prerequisite, but {wanted} does not exist!"
                )),
                Some(there) if !range.holds(text(&there.meta, "Version")) => {
                    problems.push(format!("Layer {name} prerequisite test on {wanted} failed"));
                }
                Some(_) => {}
            }
        }
    }
    problems
}

fn words(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|word| !word.is_empty())
}
