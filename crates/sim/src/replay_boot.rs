//! Replays the exchanges of a post-mortem: the same questions get the same answers, in the order in which they were given.
//!
//! A post-mortem is what `isobar boots post-mortem` fetches. What was asked and is not in it is answered 404; who asks more
//! often than the boot did gets the last answer again. Tokens, entity tags and other headers were not kept: a login gets
//! a token of our own.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Deserialize;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use url::Url;

use crate::error::SimError;

const FORMAT: &str = "isobar-post-mortem/1";
const BODY_MAX: usize = 1 << 20;
const FILE_MAX: u64 = 16 << 20;
const CONNECTIONS_MAX: usize = 64;

#[derive(Deserialize)]
struct PostMortem {
    format: String,
    #[serde(default)]
    exchanges: Vec<Exchange>,
    /// What was read after the boot had failed: for what the boot itself did not ask.
    #[serde(default)]
    survey: Option<Vec<Exchange>>,
    #[serde(default)]
    reason: Reason,
}

#[derive(Default, Deserialize)]
struct Reason {
    reason: String,
    message: String,
}

/// An exchange as it was recorded.
#[derive(Clone, Deserialize)]
struct Exchange {
    method: String,
    path: String,
    status: Option<u16>,
    #[serde(default)]
    response: Value,
    #[serde(default)]
    location: Option<String>,
    #[serde(default)]
    retry_after_s: Option<u64>,
    /// Why there was no answer.
    #[serde(default)]
    error: Option<String>,
    #[serde(default = "once")]
    times: usize,
}

fn once() -> usize {
    1
}

/// What is said, by method and path without a slash at its end.
type Script = HashMap<(String, String), VecDeque<Exchange>>;

struct Stage {
    script: Mutex<Script>,
    /// What all else meets, where the boot met nothing else.
    silence: Option<Exchange>,
    /// Token and name of the session that whoever logs in gets.
    user: String,
    /// The image that was asked to be mounted: what the BMC said of its own then goes for this one.
    image: Mutex<Option<String>>,
}

/// A replayed BMC. Dropping it stops it.
pub struct Replay {
    address: SocketAddr,
    listener: JoinHandle<()>,
    /// Why the boot failed, as the file says.
    pub reason: String,
    /// The same in a sentence.
    pub message: String,
}

impl Replay {
    /// Where it answers.
    #[must_use]
    pub fn url(&self) -> Url {
        // A socket address after a scheme always is a URL.
        #[allow(clippy::unwrap_used)]
        Url::parse(&format!("http://{}/", self.address)).unwrap()
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

fn key(method: &str, path: &str) -> (String, String) {
    (method.to_owned(), path.trim_end_matches('/').to_owned())
}

/// Serves the exchanges of this file.
///
/// # Errors
/// A file that is no post-mortem, or without exchanges; an address that is taken.
pub async fn replay_boot(file: &Path, listen: SocketAddr) -> Result<Replay, SimError> {
    let failed = |source| SimError::io("read", file, source);
    let bad = |why: String| failed(std::io::Error::new(std::io::ErrorKind::InvalidData, why));
    if std::fs::metadata(file).map_err(failed)?.len() > FILE_MAX {
        return Err(bad("it is too long for a post-mortem".to_owned()));
    }
    let text = std::fs::read(file).map_err(failed)?;
    let mut told: PostMortem = serde_json::from_slice(&text).map_err(|e| {
        bad(format!(
            "no post-mortem, as `isobar boots post-mortem --out` writes it: {e}"
        ))
    })?;
    if told.format != FORMAT {
        return Err(bad(format!("its format is {:?}, {FORMAT} is known", told.format)));
    }
    if told.exchanges.is_empty() {
        return Err(bad(
            "it has no exchanges: that boot failed before its BMC was asked".to_owned()
        ));
    }
    // The simulated BMC here has Redfish alone.
    told.exchanges.retain(|exchange| exchange.method != "IPMI");
    if told.exchanges.is_empty() {
        return Err(bad(
            "its BMC was asked over IPMI alone, which is not replayed: its exchanges are there to be read".to_owned(),
        ));
    }
    let mut script = Script::new();
    // A BMC that answered nothing answers nothing.
    let silent = told.exchanges.iter().all(|exchange| exchange.status.is_none());
    let silence = told.exchanges.first().filter(|_| silent).cloned();
    let mut survey = told.survey.unwrap_or_default();
    survey.retain(|seen| {
        !told
            .exchanges
            .iter()
            .any(|own| key(&own.method, &own.path) == key(&seen.method, &seen.path))
    });
    for exchange in told.exchanges.into_iter().chain(survey) {
        script
            .entry(key(&exchange.method, &exchange.path))
            .or_default()
            .push_back(exchange);
    }
    let listener = TcpListener::bind(listen).await.map_err(|source| SimError::Listen {
        address: listen,
        source,
    })?;
    let address = listener.local_addr().map_err(|source| SimError::Listen {
        address: listen,
        source,
    })?;
    let stage = Arc::new(Stage {
        script: Mutex::new(script),
        silence,
        user: hex::encode(rand::random::<[u8; 16]>()),
        image: Mutex::default(),
    });
    Ok(Replay {
        address,
        listener: tokio::spawn(serve(stage, listener)),
        reason: told.reason.reason,
        message: told.reason.message,
    })
}

/// [`replay_boot`] until SIGINT or SIGTERM.
///
/// # Errors
/// As [`replay_boot`].
pub fn replay_boot_blocking(file: &Path, listen: SocketAddr, ready: impl FnOnce(&Replay)) -> Result<(), SimError> {
    let failed = |error: std::io::Error| SimError::Config(format!("no runtime: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    runtime.block_on(async {
        let mut terminate =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).map_err(failed)?;
        let replay = replay_boot(file, listen).await?;
        ready(&replay);
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        Ok(())
    })
}

async fn serve(stage: Arc<Stage>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        while connections.len() >= CONNECTIONS_MAX {
            connections.join_next().await;
        }
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => drop(connections.spawn(connection(Arc::clone(&stage), stream))),
            Err(error) => {
                tracing::warn!(%error, "accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(stage: Arc<Stage>, stream: TcpStream) {
    let service = service_fn(move |request| {
        let stage = Arc::clone(&stage);
        async move { stage.answer(request).await }
    });
    // An answer that is an error cuts the connection: so it was.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(60))
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// The connection was cut instead of an answer.
#[derive(Debug, thiserror::Error)]
#[error("cut")]
struct Cut;

impl Stage {
    /// What was said next to this; the last of it for ever.
    fn next(&self, method: &str, path: &str) -> Option<Exchange> {
        let mut script = self.script.lock().unwrap_or_else(PoisonError::into_inner);
        let said = script.get_mut(&key(method, path))?;
        let first = said.front_mut()?;
        let now = first.clone();
        first.times = first.times.saturating_sub(1);
        if first.times == 0 && said.len() > 1 {
            said.pop_front();
        }
        Some(now)
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Cut> {
        let (parts, body) = request.into_parts();
        let body = Limited::new(body, BODY_MAX)
            .collect()
            .await
            .map_err(|_| Cut)?
            .to_bytes();
        if let Some(image) = serde_json::from_slice(&body).ok().as_ref().and_then(image_in) {
            *self.image.lock().unwrap_or_else(PoisonError::into_inner) = Some(image);
        }
        let path = parts.uri.path_and_query().map_or("", |path| path.as_str());
        let logs_out = parts.method == Method::DELETE && path.contains(&self.user);
        let said = self.next(parts.method.as_str(), path).or_else(|| self.silence.clone());
        let Some(said) = said else {
            return Ok(match logs_out {
                true => empty(StatusCode::NO_CONTENT),
                false => empty(StatusCode::NOT_FOUND),
            });
        };
        let Some(status) = said.status.and_then(|status| StatusCode::from_u16(status).ok()) else {
            return match said.error.as_deref() {
                Some(error) if error.contains("closed") => Err(Cut),
                Some(error) if error.contains("not JSON") => {
                    Ok(Response::new(Full::new(Bytes::from_static(b"<html></html>"))))
                }
                _ => std::future::pending::<Result<_, Infallible>>()
                    .await
                    .map_err(|never| match never {}),
            };
        };
        let mut answer = Response::builder().status(status);
        let is_login = parts.method == Method::POST && path.trim_end_matches('/').ends_with("/Sessions");
        if is_login && status.is_success() {
            let session = format!("{}/{}", path.trim_end_matches('/'), self.user);
            answer = answer
                .header("X-Auth-Token", &self.user)
                .header(header::LOCATION, session);
        } else if let Some(location) = &said.location {
            answer = answer.header(header::LOCATION, location);
        }
        if let Some(seconds) = said.retry_after_s {
            answer = answer.header(header::RETRY_AFTER, seconds);
        }
        let image = self.image.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let body = match &renamed(&said.response, image.as_deref()) {
            Value::Null => Bytes::new(),
            Value::String(text) => Bytes::from(text.clone()),
            value => Bytes::from(value.to_string()),
        };
        answer
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|_| Cut)
    }
}

/// URL of an image in a request.
fn image_in(body: &Value) -> Option<String> {
    match body {
        Value::String(text) if text.ends_with("/boot.iso") => Some(text.clone()),
        Value::Object(members) => members.values().find_map(image_in),
        Value::Array(items) => items.iter().find_map(image_in),
        _ => None,
    }
}

/// Tokens in URLs were shortened: such a URL is the image that is mounted now.
fn renamed(said: &Value, image: Option<&str>) -> Value {
    match (said, image) {
        (Value::String(text), Some(image)) if text.ends_with("…/boot.iso") => {
            // Some BMCs say it without its scheme.
            let whole = text.contains("://") || !image.contains("://");
            Value::from(if whole {
                image
            } else {
                image.split_once("://").map_or(image, |(_, rest)| rest)
            })
        }
        (Value::Object(members), _) => {
            let members = members
                .iter()
                .map(|(name, value)| (name.clone(), renamed(value, image)));
            Value::Object(members.collect())
        }
        (Value::Array(items), _) => items.iter().map(|value| renamed(value, image)).collect(),
        (other, _) => other.clone(),
    }
}

fn empty(status: StatusCode) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = status;
    answer
}
