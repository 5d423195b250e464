//! A request on its way through a handler.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes};
use futures_util::StreamExt;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method};
use isobar_model::{ApiError, Noun};
use isobar_objects::{Objects, Principal};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::OwnedSemaphorePermit;

use crate::server::Stopping;
use crate::state::AppState;

/// Largest JSON body in bytes. An inventory has some hundred thousand, a large content pack a few million.
const MAX_JSON: usize = 16 << 20;
/// The same from somebody who has not shown who it is: the agent's exchange is a few hundred bytes.
const MAX_OPEN_JSON: usize = 64 * 1024;
/// What a body takes of the memory for all of them is counted in pieces of so many bytes; less is free.
pub(crate) const MEMORY_UNIT: usize = 16 * 1024;
/// What is taken and thrown away of a body that is too long.
const MAX_DRAINED: usize = 64 << 20;

/// A request whose sender has been let in, with what its route knows.
pub(crate) struct Call {
    pub(crate) app: AppState,
    /// Who asks; none on routes that are open to all.
    pub(crate) who: Option<Principal>,
    /// Where the request comes from.
    pub(crate) peer: Option<SocketAddr>,
    /// Tells when the server stops.
    pub(crate) stopping: Option<Stopping>,
    /// The connection itself, for who asks for another protocol.
    pub(crate) upgrade: Mutex<Option<hyper::upgrade::OnUpgrade>>,
    /// Object type of the route, where it has one.
    pub(crate) noun: Option<&'static Noun>,
    pub(crate) method: Method,
    pub(crate) params: Vec<(String, String)>,
    pub(crate) query: Query,
    pub(crate) headers: HeaderMap,
    /// A client that sends its JSON slower than this is gone or hostile.
    pub(crate) body_time: Duration,
    /// How often rights are looked at again in an answer that has no end.
    pub(crate) rights_time: Duration,
    /// What the body takes of the memory for all bodies, until the call is done.
    pub(crate) memory: Option<OwnedSemaphorePermit>,
    /// A body cannot be shared between threads, a mutex makes the rest of the call so. Nobody ever waits for it.
    pub(crate) body: Mutex<Body>,
}

/// Query parameters in the order they came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(text: Option<&str>) -> Self {
        Self(
            url::form_urlencoded::parse(text.unwrap_or_default().as_bytes())
                .into_owned()
                .collect(),
        )
    }

    /// The first value of a parameter.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// All of them.
    pub(crate) fn pairs(&self) -> &[(String, String)] {
        &self.0
    }

    /// `x=true` and the bare `x`.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(|v| v.is_empty() || v == "true")
    }
}

/// A body that is to be JSON.
pub(crate) struct Document {
    text: Bytes,
    method: Method,
    model: &'static str,
    key: String,
}

impl Document {
    /// What it says; null when it is empty.
    ///
    /// # Errors
    /// 400: no JSON, nested too deep.
    pub(crate) fn value(&self) -> Result<Value, ApiError> {
        if self.text.is_empty() {
            return Ok(Value::Null);
        }
        // serde_json stops at 128 levels by itself.
        serde_json::from_slice(&self.text).map_err(|error| {
            let message = format!("the body is not JSON that can be used: {error}");
            ApiError::new(400, self.method.as_str(), self.model, &self.key, message)
        })
    }
}

impl Call {
    /// A parameter of the path; empty when the route has none of that name.
    pub(crate) fn param(&self, name: &str) -> &str {
        self.params
            .iter()
            .find(|(n, _)| n == name)
            .map_or("", |(_, v)| v.as_str())
    }

    /// The key in the path, as the client wrote it.
    pub(crate) fn key(&self) -> &str {
        self.param("key")
    }

    /// Type prefix of the route's objects, `""` where it has none.
    pub(crate) fn model(&self) -> &'static str {
        self.noun.map_or("", |noun| noun.name)
    }

    /// Who asks.
    ///
    /// # Errors
    /// 403 on a route that is open to all, where nobody is known.
    pub(crate) fn who(&self) -> Result<&Principal, ApiError> {
        self.who.as_ref().ok_or_else(ApiError::token_refused)
    }

    /// The address that the request comes from.
    pub(crate) fn source(&self) -> String {
        self.peer
            .map(|peer| peer.ip().to_canonical().to_string())
            .unwrap_or_default()
    }

    /// Comes back when the server stops.
    pub(crate) async fn stopping(&self) {
        match self.stopping.clone() {
            // Without a sender it has stopped already.
            Some(Stopping(mut stopped)) => drop(stopped.wait_for(|stop| *stop).await),
            None => std::future::pending().await,
        }
    }

    /// A question about the object in the path, which is answered here and now when it is at hand.
    ///
    /// # Errors
    /// Those of the question.
    pub(crate) async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Objects, &Principal) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        if self.app.objects.at_hand(self.model(), self.key()) {
            return look(&self.app.objects, self.who()?);
        }
        self.objects(look).await
    }

    /// A call to the objects in the name of who asks, which may wait for the disk.
    ///
    /// # Errors
    /// Those of the call.
    pub(crate) async fn objects<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Objects, &Principal) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let who = self.who()?.clone();
        self.app.objects.run(move |objects| work(objects, &who)).await
    }

    /// A change of one object in the name of who asks. It may be called again.
    ///
    /// # Errors
    /// Those of the change.
    pub(crate) async fn change<T: Send + 'static>(
        &self,
        work: impl Fn(&Objects, &Principal) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let who = self.who()?.clone();
        let change = move |objects: &Objects| work(objects, &who);
        self.app.objects.run_change(self.model(), change).await
    }

    /// The own key of the object that a client calls `key`.
    ///
    /// # Errors
    /// 404.
    pub(crate) async fn resolve(&self, model: &str, key: &str) -> Result<String, ApiError> {
        let Some(noun) = isobar_model::noun(model) else {
            return Ok(key.to_owned());
        };
        let (verb, key) = (self.method.clone(), key.to_owned());
        self.app
            .objects
            .run(move |objects| match objects.find(noun.name, &key)? {
                Some(object) => Ok(noun.key_of(&object).into_owned()),
                None => Err(ApiError::not_found(verb.as_str(), noun.name, &key)),
            })
            .await
    }

    /// The body as JSON; none when it is empty.
    ///
    /// # Errors
    /// 400: other content, no JSON, nested too deep. 413: too long. 408: too slow.
    pub(crate) async fn json(&mut self) -> Result<Option<Value>, ApiError> {
        let document = self.document().await?;
        if document.text.is_empty() {
            return Ok(None);
        }
        document.value().map(Some)
    }

    /// The body as JSON for whoever reads it where it is used: memory that one thread takes and another gives back is
    /// dear.
    ///
    /// # Errors
    /// 400: other content. 413: too long. 408: too slow.
    pub(crate) async fn document(&mut self) -> Result<Document, ApiError> {
        let text = self.bytes().await?;
        let content_type = self.headers.get(CONTENT_TYPE).map_or("", |v| v.to_str().unwrap_or("?"));
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        if !text.is_empty() && !essence.eq_ignore_ascii_case("application/json") {
            return Err(self.bad_request(format!("Invalid content type: {content_type}")));
        }
        let (method, model, key) = (self.method.clone(), self.model(), self.key().to_owned());
        Ok(Document {
            text,
            method,
            model,
            key,
        })
    }

    /// [`Call::json`] as a type of ours.
    ///
    /// # Errors
    /// As [`Call::json`], and 400 when the body has another shape.
    pub(crate) async fn typed<T: DeserializeOwned>(&mut self) -> Result<T, ApiError> {
        let value = self.json().await?.unwrap_or_default();
        // A list would do for serde, its elements in the members' order.
        if !value.is_object() {
            return Err(self.bad_request("the body must be a JSON object"));
        }
        serde_json::from_value(value).map_err(|e| self.bad_request(format!("the body does not fit: {e}")))
    }

    /// The body, once.
    pub(crate) fn take_body(&mut self) -> Body {
        std::mem::take(self.body.get_mut().unwrap_or_else(PoisonError::into_inner))
    }

    /// The body as it is.
    ///
    /// # Errors
    /// 413: too long. 408: too slow.
    pub(crate) async fn bytes(&mut self) -> Result<Bytes, ApiError> {
        let mut body = self.take_body().into_data_stream();
        let limit = if self.who().is_ok() { MAX_JSON } else { MAX_OPEN_JSON };
        let mut held: Option<OwnedSemaphorePermit> = None;
        let collected = tokio::time::timeout(self.body_time, async {
            let mut whole = Vec::new();
            while let Some(chunk) = body.next().await {
                let chunk = chunk.map_err(|error| self.bad_request(format!("the body broke off: {error}")))?;
                let length = whole.len() + chunk.len();
                if length > limit {
                    return Err(self.refused(413, format!("the body is longer than {limit} bytes")));
                }
                let more =
                    (length / MEMORY_UNIT).saturating_sub(held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits));
                if more > 0 {
                    let permits =
                        Arc::clone(&self.app.memory).try_acquire_many_owned(u32::try_from(more).unwrap_or(u32::MAX));
                    let full = |_| {
                        self.refused(503, "too many large bodies at once: try again in a moment")
                            .with_retry_after(5)
                    };
                    let permits = permits.map_err(full)?;
                    match &mut held {
                        Some(held) => held.merge(permits),
                        None => held = Some(permits),
                    }
                }
                whole.extend_from_slice(&chunk);
            }
            Ok(Bytes::from(whole))
        });
        let collected = collected.await;
        self.memory = held;
        match collected {
            Ok(Err(error)) if error.code == 413 => {
                // Many clients read no answer before they have sent all, and what is not taken is answered by a reset.
                let mut rest = MAX_DRAINED;
                let drained = tokio::time::timeout(self.body_time, async {
                    while let Some(Ok(chunk)) = body.next().await {
                        rest = rest.saturating_sub(chunk.len());
                        if rest == 0 {
                            break;
                        }
                    }
                });
                let _ = drained.await;
                Err(error)
            }
            Ok(collected) => collected,
            Err(_) => Err(self.refused(408, "the body came too slowly".to_owned())),
        }
    }

    /// 400 about this call.
    pub(crate) fn bad_request(&self, message: impl Into<String>) -> ApiError {
        self.refused(400, message)
    }

    /// An error about this call.
    pub(crate) fn refused(&self, code: u16, message: impl Into<String>) -> ApiError {
        ApiError::new(code, self.method.as_str(), self.model(), self.key(), message)
    }
}
