//! The route table, and the one place where requests are let in.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{RawPathParams, Request, State};
use axum::response::Response;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::Method;
use http::header::{CONTENT_ENCODING, IF_NONE_MATCH};
use isobar_model::{ApiError, Noun};
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{DefaultPredicate, NotForContentType, Predicate};
use tower_http::decompression::RequestDecompressionLayer;

use self::doc::Doc;
use crate::auth::{self, Refusal};
use crate::call::{Call, Query};
use crate::reply::{self, Answer};
use crate::server::{BodyTime, Peer, RightsTime, Stopping};
use crate::state::AppState;

mod actions;
mod agent;
mod audit;
mod bases;
mod blobs;
mod bmcs;
mod boots;
mod console;
mod contents;
pub mod doc;
mod events;
mod info;
mod isos;
mod jobs;
mod multipart;
mod objects;
pub mod openapi;
mod operations;
mod params;
mod providers;
mod render;
mod streamed;
mod users;
mod whoami;

/// Who may call a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody; the body carries its own proof.
    Open,
    /// Whoever has logged in.
    Known,
    /// The agent of a machine, with its machine token. The handler compares the machine in the body.
    Agent,
    /// Whoever holds this right.
    Right {
        /// Scope of the claim: a type prefix.
        scope: &'static str,
        /// Action of the claim: `list`, `get`, `update`.
        action: &'static str,
        /// What the claim's `specific` is compared with.
        on: On,
    },
    /// Whoever may run the action that the path names on the object in the path.
    Action {
        /// Type prefix.
        scope: &'static str,
    },
}

/// The object that a right is needed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// Those that the right covers: everybody is let in, and the handler shows only these.
    Some,
    /// All of them.
    All,
    /// The one whose key is in the path.
    Key,
    /// The one whose key is in the path. A right on a part of it (`update:/Params/x`) lets in, too: the change itself is
    /// looked at.
    Part,
    /// The one whose key is the query parameter `machine`; all of them without one.
    MachineQuery,
}

type Run = Arc<dyn Fn(Call) -> BoxFuture<'static, Answer> + Send + Sync>;

/// One row of the route table.
#[derive(Clone)]
pub struct Route {
    /// Method.
    pub method: Method,
    /// Path with `{parameters}`.
    pub path: String,
    /// Who may call it.
    pub access: Access,
    /// What it takes and gives.
    pub doc: Doc,
    noun: Option<&'static Noun>,
    run: Run,
}

impl std::fmt::Debug for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {:?}", self.method, self.path, self.access)
    }
}

/// Rows under construction.
#[derive(Default)]
struct Table {
    rows: Vec<Route>,
    noun: Option<&'static Noun>,
}

impl Table {
    fn add<F, Fut>(&mut self, method: Method, path: impl Into<String>, access: Access, run: F) -> &mut Doc
    where
        F: Fn(Call) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Answer> + Send + 'static,
    {
        let route = Route {
            method,
            path: path.into(),
            access,
            doc: Doc::default(),
            noun: self.noun,
            run: Arc::new(move |call| Box::pin(run(call))),
        };
        &mut self.rows.push_mut(route).doc
    }
}

/// A right on objects of a type.
const fn right(scope: &'static str, action: &'static str, on: On) -> Access {
    Access::Right { scope, action, on }
}

/// All routes, in the order they are documented.
#[must_use]
pub fn routes() -> Vec<Route> {
    let mut table = Table::default();
    for noun in isobar_model::table::NOUNS {
        table.noun = Some(noun);
        objects::add(&mut table, noun);
        if noun.has_params {
            params::add(&mut table, noun);
        }
        if noun.has_actions {
            actions::add(&mut table, noun);
        }
    }
    table.noun = None;
    objects::add_meta(&mut table);
    actions::add_system(&mut table);
    users::add(&mut table);
    whoami::add(&mut table);
    info::add(&mut table);
    events::add(&mut table);
    agent::add(&mut table);
    boots::add(&mut table);
    console::add(&mut table);
    bmcs::add(&mut table);
    operations::add(&mut table);
    isos::add(&mut table);
    blobs::add(&mut table);
    contents::add(&mut table);
    jobs::add(&mut table);
    bases::add(&mut table);
    providers::add(&mut table);
    render::add(&mut table);
    audit::add(&mut table);
    openapi::add(&mut table);
    table.rows
}

/// The table as a service.
pub(crate) fn router(state: AppState) -> Router {
    let mut router = Router::new();
    for route in routes() {
        // One path may stand in several rows, one for each method.
        let path = route.path.clone();
        let Ok(filter) = axum::routing::MethodFilter::try_from(route.method.clone()) else {
            continue;
        };
        let route = Arc::new(route);
        let handler = move |State(app): State<AppState>,
                            params: Result<RawPathParams, RawPathParamsRejection>,
                            request: Request| serve(Arc::clone(&route), app, params, request);
        router = router.route(&path, axum::routing::on(filter, handler));
    }
    let compress = DefaultPredicate::new()
        .and(NotForContentType::const_new("application/octet-stream"))
        // An event is sent when it happens, not when a block of the compressor is full.
        .and(NotForContentType::const_new("text/event-stream"))
        .and(NotForContentType::const_new("application/x-ndjson"));
    router
        .fallback(no_route)
        .method_not_allowed_fallback(no_route)
        // What it cannot unpack is refused in `serve`, in the shape of other errors.
        .layer(RequestDecompressionLayer::new().pass_through_unaccepted(true))
        .layer(CompressionLayer::new().compress_when(compress))
        .with_state(state)
}

async fn no_route(request: Request) -> Response {
    let head = request.method() == Method::HEAD;
    let answer = reply::error(&ApiError::no_route(request.method().as_str(), request.uri().path()));
    without_body_if(head, answer)
}

/// Authenticates, authorises, runs. Every route goes through here.
async fn serve(
    route: Arc<Route>,
    app: AppState,
    params: Result<RawPathParams, RawPathParamsRejection>,
    request: Request,
) -> Response {
    let began = std::time::Instant::now();
    let (mut parts, body) = request.into_parts();
    let upgrade = std::sync::Mutex::new(parts.extensions.remove::<hyper::upgrade::OnUpgrade>());
    let head = parts.method == Method::HEAD;
    let peer = parts.extensions.get::<Peer>().map(|peer| peer.0);
    let readable = params.is_ok();
    let if_none_match = parts.headers.get(IF_NONE_MATCH).cloned();
    let mut call = Call {
        app,
        who: None,
        peer,
        stopping: parts.extensions.get::<Stopping>().cloned(),
        upgrade,
        noun: route.noun,
        query: Query::parse(parts.uri.query()),
        params: params
            .iter()
            .flat_map(|params| params.iter())
            .map(|(n, v)| (n.to_owned(), v.to_owned()))
            .collect(),
        method: parts.method,
        headers: parts.headers,
        body_time: parts.extensions.get::<BodyTime>().map_or(Duration::ZERO, |time| time.0),
        rights_time: parts
            .extensions
            .get::<RightsTime>()
            .map_or(Duration::from_secs(30), |time| time.0),
        memory: None,
        body: body.into(),
    };
    let admitted = auth::admit(&mut call, route.access).await;
    let who = call.who.as_ref().map(|who| who.name().to_owned());
    let answer = match admitted {
        Ok(()) if !readable => Err(call.bad_request("the path is not UTF-8")),
        Ok(()) => match unpacked(&call) {
            Ok(()) => run(&route, call).await,
            Err(error) => Err(error),
        },
        Err(Refusal::NoCredentials) => Ok(reply::who_are_you()),
        Err(Refusal::WrongPassword) => Ok(reply::empty(http::StatusCode::FORBIDDEN)),
        Err(Refusal::Error(error)) => Err(error),
    };
    let path = parts.uri.path();
    let response = match answer {
        Ok(answer) if route.method == Method::GET => reply::tagged(answer, if_none_match.as_ref()).await,
        Ok(answer) => answer,
        Err(error) => {
            if error.code >= 500 {
                tracing::error!(method = %route.method, path, %error, "request failed");
            }
            reply::error(&error)
        }
    };
    // Neither query nor body: they may hold what is nobody's business.
    tracing::debug!(
        method = %route.method,
        path,
        status = response.status().as_u16(),
        who,
        peer = peer.map(tracing::field::display),
        ms = began.elapsed().as_millis(),
        "request"
    );
    without_body_if(head, response)
}

/// Refuses a body that came packed in a way that nobody here unpacks.
fn unpacked(call: &Call) -> Result<(), ApiError> {
    match call.headers.get(CONTENT_ENCODING).map(|packed| packed.to_str()) {
        None | Some(Ok("" | "identity")) => Ok(()),
        Some(packed) => {
            let packed = packed.unwrap_or("?");
            Err(call.refused(
                415,
                format!("Invalid content encoding: {packed}: gzip is taken, and none at all"),
            ))
        }
    }
}

async fn run(route: &Route, call: Call) -> Answer {
    if call.method == Method::GET || call.method == Method::HEAD {
        return (route.run)(call).await;
    }
    // When the client hangs up, only this wait for it ends.
    let run = AssertUnwindSafe((route.run)(call)).catch_unwind();
    Begun(Some(run.boxed())).await.unwrap_or_else(|_| {
        let text = "internal error: the call panicked";
        Err(ApiError::new(500, route.method.as_str(), "", "", text))
    })
}

/// Work that is done to its end: what is left of it when nobody waits any more becomes a task of its own.
struct Begun<T: Send + 'static>(Option<BoxFuture<'static, T>>);

impl<T: Send + 'static> Future for Begun<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let Some(work) = &mut self.0 else { return Poll::Pending };
        let done = work.as_mut().poll(cx);
        if done.is_ready() {
            self.0 = None;
        }
        done
    }
}

impl<T: Send + 'static> Drop for Begun<T> {
    fn drop(&mut self) {
        // Outside a runtime the server has ended.
        if let (Some(work), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(work);
        }
    }
}

/// HTTP/2 does not drop the body of an answer to HEAD by itself.
fn without_body_if(head: bool, response: Response) -> Response {
    if head {
        response.map(|_| axum::body::Body::empty())
    } else {
        response
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn work_that_nobody_waits_for_any_more_is_done_to_its_end() {
        let (go, gone) = tokio::sync::oneshot::channel::<()>();
        let (done, was_done) = tokio::sync::oneshot::channel();
        let work = async move {
            gone.await.unwrap();
            done.send("done").unwrap();
        };
        let mut begun = Begun(Some(work.boxed()));
        let pending = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut begun).poll(cx).is_pending()));
        assert!(pending.await);
        drop(begun);
        go.send(()).unwrap();
        assert_eq!(was_done.await.unwrap(), "done");
    }
}
