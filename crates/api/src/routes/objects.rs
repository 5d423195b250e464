//! The routes that every object type has, and those of its Meta.

use http::{Method, StatusCode};
use isobar_model::patch::{Patch, Target};
use isobar_model::table::MadeBy;
use isobar_model::{ApiError, Noun, Object, openapi};
use isobar_objects::{Objects, Principal};
use serde_json::Value;

use super::doc::{self, Shape};
use super::streamed::{STREAMED, Streamed};
use super::{On, Table, right};
use crate::auth;
use crate::call::{Call, Query};
use crate::reply::{self, Answer};

pub(super) fn add(table: &mut Table, noun: &'static Noun) {
    let all = format!("/api/v3/{}", noun.name);
    let one = one(noun);
    let may = |action, on| right(noun.name, action, on);
    let (sent, taken) = (Shape::Json(openapi::sent(noun)), Shape::Json(openapi::taken(noun)));
    // HEAD is served by the rows for GET.
    table
        .add(Method::GET, &all, may("list", On::Some), list)
        .is("Lists the objects that fit all conditions.")
        .asks(doc::LISTING)
        .filters(noun)
        .gives(200, Shape::List(openapi::sent(noun)))
        .refuses(&[406]);
    table
        .add(Method::GET, &one, may("get", On::Key), get)
        .is("Shows an object.")
        .asks(&[doc::SLIM, doc::PARAMS, doc::AGGREGATE, doc::DECODE])
        .gives(200, sent.clone())
        .refuses(&[404]);
    if noun.made_by == MadeBy::Clients {
        table
            .add(Method::POST, &all, may("create", On::All), create)
            .is("Makes an object.")
            .takes(taken.clone())
            .gives(201, sent.clone())
            .refuses(&[409, 422]);
    }
    if matches!(noun.made_by, MadeBy::Clients | MadeBy::Request) {
        table
            .add(Method::PATCH, &one, may("update", On::Part), patch)
            .is("Changes an object by RFC 6902; a test that fails is a 409, and nothing is changed.")
            .asks(&[doc::FORCE])
            .takes(Shape::of("Patch"))
            .gives(200, sent.clone())
            .refuses(&[404, 409, 422]);
        table
            .add(Method::PUT, &one, may("update", On::Part), replace)
            .is("Replaces an object; its key stays.")
            .asks(&[doc::FORCE])
            .takes(taken)
            .gives(200, sent.clone())
            .refuses(&[404, 409, 422]);
    }
    if noun.made_by != MadeBy::Programs {
        table
            .add(Method::DELETE, &one, may("delete", On::Key), delete)
            .is("Deletes an object and shows what it was.")
            .gives(200, sent)
            .refuses(&[404, 409, 422]);
    }
}

/// Meta of all types that have one.
pub(super) fn add_meta(table: &mut Table) {
    for noun in isobar_model::table::NOUNS {
        table.noun = Some(noun);
        let path = format!("/api/v3/meta/{}/{{*key}}", noun.name);
        table
            .add(Method::GET, &path, right(noun.name, "get", On::Key), meta)
            .is("Shows the Meta of an object.")
            .gives(200, Shape::of("TextMap"))
            .refuses(&[404]);
        if noun.made_by != MadeBy::Programs {
            table
                .add(Method::PATCH, &path, right(noun.name, "update", On::Part), patch_meta)
                .is("Changes the Meta of an object by RFC 6902.")
                .takes(Shape::of("Patch"))
                .gives(200, Shape::of("TextMap"))
                .refuses(&[404, 409, 422]);
        }
    }
    table.noun = None;
}

/// Path of one object. Names of params have slashes, and nothing follows them.
fn one(noun: &Noun) -> String {
    let key = if noun.name == "params" { "{*key}" } else { "{key}" };
    format!("/api/v3/{}/{key}", noun.name)
}

/// How an object is to be shown.
pub(super) struct View {
    /// Members that come out empty.
    slim: Vec<String>,
    /// Only these params.
    params: Option<Vec<String>>,
    aggregate: bool,
    decode: bool,
}

impl View {
    fn of(query: &Query) -> Self {
        let names = |text: &str| {
            text.split(',')
                .map(|n| n.trim().to_owned())
                .filter(|n| !n.is_empty())
                .collect()
        };
        Self {
            slim: query.get("slim").map(names).unwrap_or_default(),
            params: query.get("params").map(names),
            aggregate: query.flag("aggregate"),
            decode: query.flag("decode"),
        }
    }

    /// Whether objects are shown as they are.
    pub(super) fn is_plain(&self) -> bool {
        self.slim.is_empty() && self.params.is_none() && !self.aggregate && !self.decode
    }

    pub(super) fn show(
        &self,
        objects: &Objects,
        who: &Principal,
        noun: &'static Noun,
        object: &Object,
    ) -> Result<Object, ApiError> {
        let key = &*noun.key_of(object);
        if self.decode {
            auth::check(who, noun.name, "getSecure", key)?;
        }
        let mut shown = noun.public(object);
        if noun.has_params {
            let slim = self.slim.iter().any(|s| s == "Params");
            if self.aggregate && !slim {
                shown.insert(
                    "Params".to_owned(),
                    objects.params(noun.name, key, true, self.decode)?.into(),
                );
            } else if self.decode && !slim {
                shown = objects.decoded(noun.name, &shown)?;
            }
            if let (Some(wanted), Some(Value::Object(params))) = (&self.params, shown.get_mut("Params")) {
                params.retain(|name, _| wanted.iter().any(|w| w == name));
            }
            if slim {
                isobar_model::params::slim(&mut shown);
            }
        }
        if self.slim.iter().any(|s| s == "Meta")
            && let Some(meta) = shown.get_mut("Meta")
        {
            *meta = Object::new().into();
        }
        Ok(shown)
    }
}

fn noun(call: &Call) -> Result<&'static Noun, ApiError> {
    call.noun.ok_or_else(|| call.refused(500, "a route of no object type"))
}

async fn list(call: Call) -> Answer {
    let noun = noun(&call)?;
    let query = call.query.clone();
    let view = View::of(&query);
    let found = call
        .objects(move |objects, who| objects.rows(noun.name, query.pairs(), who))
        .await?;
    let (total, count) = (found.total, found.rows.len());
    // What may still be refused is not begun with.
    if count > STREAMED && !view.decode && !view.aggregate {
        let who = call.who()?.clone();
        let body = Streamed::new(call.app.objects.clone(), who, view, noun, found.rows).body();
        return Ok(reply::with_counts(reply::raw_json(StatusCode::OK, body), total, count));
    }
    let shown = call
        .objects(move |objects, who| {
            if view.decode {
                objects.note(who.audit("getSecure", noun.name, "", "a list"));
            }
            let shown = found
                .rows
                .iter()
                .map(|row| view.show(objects, who, noun, &*row.object()?));
            shown.collect::<Result<Vec<_>, _>>()
        })
        .await?;
    Ok(reply::with_counts(reply::ok(&shown)?, total, count))
}

async fn create(mut call: Call) -> Answer {
    let noun = noun(&call)?;
    let input = call.document().await?;
    let text = call
        .change(move |objects, who| Ok(objects.make(noun.name, || input.value(), who)?.text))
        .await?;
    Ok(reply::raw_json(StatusCode::CREATED, text))
}

async fn get(call: Call) -> Answer {
    let noun = noun(&call)?;
    let (key, view) = (call.key().to_owned(), View::of(&call.query));
    if view.is_plain() {
        let text = call.look(move |objects, _| objects.text(noun.name, &key)).await?;
        return Ok(reply::raw_json(StatusCode::OK, text));
    }
    let shown = call
        .objects(move |objects, who| {
            let object = objects.get(noun.name, &key)?;
            if view.decode {
                auth::check_decode(objects, who, noun.name, &noun.key_of(&object))?;
            }
            view.show(objects, who, noun, &object)
        })
        .await?;
    reply::ok(&shown)
}

async fn patch(mut call: Call) -> Answer {
    let noun = noun(&call)?;
    let ops = call.document().await?;
    let (key, force) = (call.key().to_owned(), call.query.flag("force"));
    let text = call
        .change(move |objects, who| Ok(objects.patch(noun.name, &key, &ops.value()?, force, who)?.text))
        .await?;
    Ok(reply::raw_json(StatusCode::OK, text))
}

async fn replace(mut call: Call) -> Answer {
    let noun = noun(&call)?;
    let input = call.document().await?;
    let (key, force) = (call.key().to_owned(), call.query.flag("force"));
    let text = call
        .change(move |objects, who| Ok(objects.replace(noun.name, &key, &input.value()?, force, who)?.text))
        .await?;
    Ok(reply::raw_json(StatusCode::OK, text))
}

async fn delete(call: Call) -> Answer {
    let noun = noun(&call)?;
    let key = call.key().to_owned();
    let text = call
        .change(move |objects, who| Ok(objects.delete(noun.name, &key, who)?.text))
        .await?;
    Ok(reply::raw_json(StatusCode::OK, text))
}

async fn meta(call: Call) -> Answer {
    let noun = noun(&call)?;
    let key = call.key().to_owned();
    let object = call.objects(move |objects, _| objects.get(noun.name, &key)).await?;
    reply::ok(&meta_of(&object))
}

async fn patch_meta(mut call: Call) -> Answer {
    let noun = noun(&call)?;
    let patch = Patch::parse(&call.json().await?.unwrap_or_default()).map_err(|error| {
        ApiError {
            model: noun.name.to_owned(),
            ..error
        }
        .with_key(call.key())
    })?;
    let key = call.key().to_owned();
    let object = call
        .change(move |objects, who| {
            objects.update_with(noun.name, &key, who, |object| {
                let place = |error: ApiError| ApiError {
                    model: noun.name.to_owned(),
                    key: key.clone(),
                    ..error
                };
                let mut meta = meta_of(object);
                patch.apply(&mut meta, Target::Params).map_err(place)?;
                let text_map = meta.as_object().is_some_and(|m| m.values().all(Value::is_string));
                if !text_map {
                    let message = "Meta maps names to texts, and nothing else";
                    return Err(place(ApiError::bad_request("PATCH", "", message)));
                }
                object.insert("Meta".to_owned(), meta);
                Ok(())
            })
        })
        .await?;
    reply::ok(&meta_of(&object))
}

fn meta_of(object: &Object) -> Value {
    match object.get("Meta") {
        Some(Value::Object(meta)) => meta.clone().into(),
        _ => Object::new().into(),
    }
}
