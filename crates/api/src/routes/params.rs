//! Params of machines, profiles and what else has some.

use http::Method;
use isobar_model::{ApiError, Noun};
use isobar_objects::Principal;

use super::doc::{self, Shape};
use super::{On, Table, right};
use crate::auth;
use crate::call::Call;
use crate::reply::{self, Answer};

pub(super) fn add(table: &mut Table, noun: &'static Noun) {
    let base = format!("/api/v3/{}/{{key}}", noun.name);
    let (all, one) = (format!("{base}/params"), format!("{base}/params/{{*param}}"));
    let (read, write) = (right(noun.name, "get", On::Key), right(noun.name, "update", On::Part));
    let (map, value) = (|| Shape::of("Map"), || Shape::of("Any"));
    table
        .add(Method::GET, &all, read, list)
        .is("Shows the params of an object.")
        .asks(&[doc::AGGREGATE, doc::DECODE])
        .gives(200, map())
        .refuses(&[404]);
    table
        .add(Method::POST, &all, write, replace)
        .is("Replaces all params of an object.")
        .takes(map())
        .gives(200, map())
        .refuses(&[404, 409, 422]);
    table
        .add(Method::PATCH, &all, write, patch)
        .is("Changes the params of an object by RFC 6902.")
        .takes(Shape::of("Patch"))
        .gives(200, map())
        .refuses(&[404, 409, 422]);
    table
        .add(Method::GET, &one, read, get)
        .is("Shows a param: its bare value, null when it is not set.")
        .asks(&[doc::AGGREGATE, doc::DECODE])
        .gives(200, value())
        .refuses(&[404]);
    table
        .add(Method::POST, &one, write, set)
        .is("Sets a param to the bare value in the body.")
        .takes(value())
        .gives(200, value())
        .refuses(&[404, 409, 422]);
    table
        .add(Method::DELETE, &one, write, remove)
        .is("Removes a param and shows its old value.")
        .gives(200, value())
        .refuses(&[404, 409, 422]);
    table
        .add(Method::GET, format!("{base}/pubkey"), read, pubkey)
        .is("Shows the key that secure params of the object are encrypted for: 32 bytes in base64.")
        .gives(200, Shape::of("Text"))
        .refuses(&[404]);
}

/// What most of these routes need to know of the request.
struct Asked {
    model: &'static str,
    key: String,
    param: String,
    aggregate: bool,
    decode: bool,
}

impl Asked {
    fn of(call: &Call) -> Self {
        Self {
            model: call.model(),
            key: call.key().to_owned(),
            // The wildcard of the route stands for everything behind the slash: `ipmi/mode` is one name.
            param: call.param("param").to_owned(),
            aggregate: call.query.flag("aggregate"),
            decode: call.query.flag("decode"),
        }
    }

    /// Decrypted values are for those with the right to them.
    fn check_decode(&self, objects: &isobar_objects::Objects, who: &Principal) -> Result<(), ApiError> {
        if !self.decode {
            return Ok(());
        }
        let own_key = isobar_model::noun(self.model)
            .zip(objects.find(self.model, &self.key)?)
            .map_or_else(|| self.key.clone(), |(noun, object)| noun.key_of(&object).into_owned());
        auth::check_decode(objects, who, self.model, &own_key)
    }
}

async fn list(call: Call) -> Answer {
    let asked = Asked::of(&call);
    let params = call
        .objects(move |objects, who| {
            asked.check_decode(objects, who)?;
            objects.params(asked.model, &asked.key, asked.aggregate, asked.decode)
        })
        .await?;
    reply::ok(&params)
}

async fn replace(mut call: Call) -> Answer {
    let asked = Asked::of(&call);
    let params = call.json().await?.unwrap_or_default();
    let params = call
        .change(move |objects, who| objects.set_params(asked.model, &asked.key, &params, who))
        .await?;
    reply::ok(&params)
}

async fn patch(mut call: Call) -> Answer {
    let asked = Asked::of(&call);
    let ops = call.json().await?.unwrap_or_default();
    let params = call
        .change(move |objects, who| objects.patch_params(asked.model, &asked.key, &ops, who))
        .await?;
    reply::ok(&params)
}

async fn get(call: Call) -> Answer {
    let asked = Asked::of(&call);
    let value = call
        .objects(move |objects, who| {
            asked.check_decode(objects, who)?;
            objects.param(asked.model, &asked.key, &asked.param, asked.aggregate, asked.decode)
        })
        .await?;
    reply::ok(&value)
}

async fn set(mut call: Call) -> Answer {
    let asked = Asked::of(&call);
    let value = call.json().await?.unwrap_or_default();
    let value = call
        .change(move |objects, who| objects.set_param(asked.model, &asked.key, &asked.param, &value, who))
        .await?;
    reply::ok(&value)
}

async fn remove(call: Call) -> Answer {
    let asked = Asked::of(&call);
    let old = call
        .change(move |objects, who| objects.delete_param(asked.model, &asked.key, &asked.param, who))
        .await?;
    reply::ok(&old)
}

async fn pubkey(call: Call) -> Answer {
    let asked = Asked::of(&call);
    let key = call
        .objects(move |objects, _| objects.pubkey(asked.model, &asked.key))
        .await?;
    reply::ok(&key)
}
