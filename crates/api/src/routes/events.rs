//! The feed of changes: DRP's websocket, and the same as Server-Sent Events, which also replays.

use std::collections::VecDeque;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::response::Response;
use futures_util::stream;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, UPGRADE};
use http::{HeaderValue, Method, StatusCode};
use isobar_model::ApiError;
use isobar_objects::{Objects, Principal};
use isobar_store::{Committed, Event, Rev, Txn};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::mpsc;

use super::doc::{Shape, query};
use super::{Access, On, Table, right};
use crate::call::Call;
use crate::live::{End, Live};
use crate::reply::{self, Answer};
use crate::state::Watching;
use crate::websocket::{self, Reader, Said, Writer};

const KEY: HeaderName = HeaderName::from_static("sec-websocket-key");
const ACCEPT: HeaderName = HeaderName::from_static("sec-websocket-accept");
/// Patterns of one connection.
const MAX_PATTERNS: usize = 200;
/// Types of what the server tells beside changes of objects.
const TOLD_BY_US: &[&str] = &["contents", "websocket"];
/// Longest Type, Action or Key of an event that a client posts, in bytes.
const MAX_WORD: usize = 256;
/// Between two signs of life.
const ALIVE: Duration = Duration::from_secs(30);
/// A reader of the stream that takes nothing for so long is gone.
const PATIENCE: Duration = Duration::from_secs(20);
/// Old events read at a time.
const PAGE: usize = 200;
/// "Try again later": the reader was too slow (IANA's registry of close codes).
const TRY_AGAIN: u16 = 1013;
const GOING_AWAY: u16 = 1001;
/// The token, or the password, is good no more.
const POLICY: u16 = 1008;

pub(super) fn add(table: &mut Table) {
    table
        .add(Method::GET, "/api/v3/ws", Access::Known, websocket)
        .is("A websocket of events: register TYPE.ACTION.KEY, deregister TYPE.ACTION.KEY.")
        .gives(101, Shape::Nothing)
        .refuses(&[400]);
    table
        .add(Method::POST, "/api/v3/events", right("events", "post", On::All), post)
        .is("Tells watchers of an event of one's own.")
        .takes(Shape::of("Event"))
        .gives(204, Shape::Nothing);
    table
        .add(Method::GET, "/isobar/v1/events", Access::Known, stream_events)
        .is("The feed of events as Server-Sent Events.")
        .asks(&[
            query(
                "after",
                "integer",
                "Replays what came after this revision; the header Last-Event-ID does the same.",
            ),
            query(
                "pattern",
                "string",
                "TYPE.ACTION.KEY with * as wildcard; may be repeated.",
            ),
        ])
        .gives(200, Shape::Stream)
        .refuses(&[400]);
}

/// `TYPE.ACTION.KEY`; each part may be `*`. Keys may hold dots.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern(String);

impl Pattern {
    fn parts(&self) -> [&str; 3] {
        let mut parts = self.0.splitn(3, '.');
        [(); 3].map(|()| parts.next().unwrap_or("*"))
    }

    fn fits(&self, event: &Event) -> bool {
        let actual = [&event.kind, &event.action, &event.key];
        let mut pairs = self.parts().into_iter().zip(actual);
        pairs.all(|(wanted, is)| wanted == "*" || wanted == is)
    }
}

/// Whether somebody may learn of an event. A machine learns of itself alone.
fn may_see(who: &Principal, event: &Event) -> bool {
    if event.kind.starts_with('_') {
        return false;
    }
    // What is told of a machine's boots goes under its key, to those who see the machine.
    let scope = if event.kind == "boots" { "machines" } else { &event.kind };
    match who.machine() {
        Some(machine) => event.kind == "machines" && event.key == machine,
        None => ["get", "list"]
            .iter()
            .any(|action| who.allows(scope, action, &event.key)),
    }
}

/// Whether an event may be about what somebody may see from now on.
fn touches_rights(who: &Principal, event: &Event) -> bool {
    match event.kind.as_str() {
        "users" | "roles" | "tenants" => true,
        "machines" => who.machine() == Some(&event.key),
        _ => false,
    }
}

/// The same one with the rights of now; none when they are not let in any more.
pub(super) async fn renewed(objects: &Objects, who: &Principal) -> Option<Principal> {
    let who = who.clone();
    objects.run(move |objects| objects.renew(&who)).await.ok()
}

fn body(event: &Event, at_ns: i128) -> Value {
    let object = |bytes: &Option<bytes::Bytes>| {
        let read = bytes.as_ref().and_then(|bytes| serde_json::from_slice(bytes).ok());
        read.unwrap_or(Value::Null)
    };
    let at = OffsetDateTime::from_unix_timestamp_nanos(at_ns).ok();
    json!({
        "Time": at.and_then(|at| at.format(&Rfc3339).ok()),
        "Type": event.kind,
        "Action": event.action,
        "Key": event.key,
        "Principal": event.principal,
        "Object": object(&event.object),
        "Original": object(&event.original),
    })
}

async fn websocket(call: Call) -> Answer {
    let key = call
        .headers
        .get(KEY)
        .and_then(|key| key.to_str().ok())
        .map(websocket::accept);
    let upgrade = call.upgrade.lock().unwrap_or_else(PoisonError::into_inner).take();
    let (Some(accept), Some(upgrade)) = (key, upgrade) else {
        return Err(call.bad_request("this is a websocket: ask for an upgrade"));
    };
    let slot = watcher(&call)?;
    let who = call.who()?.clone();
    // From now on, not from when the client has finished the handshake.
    let events = Live::new(call.app.objects.store().watch());
    let objects = call.app.objects.clone();
    tokio::spawn(async move {
        if let Ok(upgraded) = upgrade.await {
            let (reader, writer) = websocket::split(upgraded);
            let stopping = call.stopping();
            tokio::select! {
                () = serve(reader, writer, events, who, objects) => {}
                () = stopping => {}
            }
        }
        drop(slot);
    });
    let mut answer = reply::empty(StatusCode::SWITCHING_PROTOCOLS);
    let headers = answer.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(&accept) {
        headers.insert(ACCEPT, accept);
    }
    Ok(answer)
}

fn watcher(call: &Call) -> Result<Watching, ApiError> {
    call.app.watchers.enter(call.who()?).ok_or_else(|| {
        let error = call.refused(503, "too many are watching events: try again later");
        error.with_retry_after(ALIVE.as_secs())
    })
}

async fn serve(mut reader: Reader, mut writer: Writer, mut events: Live, mut who: Principal, objects: Objects) {
    let mut patterns: Vec<Pattern> = Vec::new();
    let (said, mut saying) = mpsc::channel(16);
    // Reading half a frame must not be given up for an event that comes.
    let reading = tokio::spawn(async move {
        while let Some(message) = reader.next().await {
            if said.send(message).await.is_err() {
                break;
            }
        }
    });
    let mut alive = tokio::time::interval(ALIVE);
    loop {
        let goes_on = tokio::select! {
            message = saying.recv() => match message {
                Some(Said::Ping(payload)) => writer.pong(&payload).await,
                Some(Said::Text(text)) => match register(&mut patterns, &text) {
                    Some((action, pattern)) => {
                        let event = Event {
                            kind: "websocket".to_owned(),
                            action: action.to_owned(),
                            key: pattern,
                            principal: who.name().to_owned(),
                            object: None,
                            original: None,
                        };
                        let told = body(&event, objects.clock().now_ns());
                        writer.text(&told.to_string()).await
                    }
                    None => false,
                },
                None => false,
            },
            event = events.next() => match event {
                Ok(committed) => {
                    let event = &committed.event;
                    if touches_rights(&who, event) {
                        let Some(now) = renewed(&objects, &who).await else {
                            writer.close(POLICY).await;
                            break;
                        };
                        who = now;
                    }
                    if patterns.iter().any(|pattern| pattern.fits(event)) && may_see(&who, event) {
                        writer.text(&body(event, committed.at_ns).to_string()).await
                    } else {
                        true
                    }
                }
                Err(end) => {
                    writer.close(if end == End::TooSlow { TRY_AGAIN } else { GOING_AWAY }).await;
                    break;
                }
            },
            _ = alive.tick() => match renewed(&objects, &who).await {
                Some(now) => {
                    who = now;
                    writer.ping().await
                }
                None => {
                    writer.close(POLICY).await;
                    break;
                }
            },
        };
        if !goes_on {
            break;
        }
    }
    reading.abort();
}

/// Carries out `register PATTERN` and `deregister PATTERN`.
fn register(patterns: &mut Vec<Pattern>, text: &str) -> Option<(&'static str, String)> {
    let (word, pattern) = text.trim().split_once(' ')?;
    let pattern = Pattern(pattern.trim().to_owned());
    match word {
        "register" if patterns.contains(&pattern) => Some(("register", pattern.0)),
        "register" if patterns.len() < MAX_PATTERNS => {
            patterns.push(pattern.clone());
            Some(("register", pattern.0))
        }
        "deregister" => {
            patterns.retain(|known| *known != pattern);
            Some(("deregister", pattern.0))
        }
        _ => None,
    }
}

async fn post(mut call: Call) -> Answer {
    let told = call.json().await?.unwrap_or_default();
    let text = |name: &str| told[name].as_str().unwrap_or_default().to_owned();
    let (kind, action) = (text("Type"), text("Action"));
    // What the server itself tells is told by the server alone.
    if kind.is_empty()
        || kind.starts_with('_')
        || TOLD_BY_US.contains(&kind.as_str())
        || isobar_model::noun(&kind).is_some()
    {
        return Err(call.bad_request("an event of one's own has a Type that is no type of objects"));
    }
    let key = text("Key");
    // They stand in lines of their own for those who read the feed as a stream.
    if [&kind, &action, &key]
        .iter()
        .any(|word| word.chars().any(char::is_control) || word.len() > MAX_WORD)
    {
        let text = format!("Type, Action and Key have at most {MAX_WORD} bytes and no control characters");
        return Err(call.bad_request(text));
    }
    let part = |name: &str| {
        Some(&told[name])
            .filter(|v| !v.is_null())
            .map(|v| v.to_string().into_bytes().into())
    };
    let event = Event {
        kind,
        action,
        key,
        principal: call.who()?.name().to_owned(),
        object: part("Object"),
        original: part("Original"),
    };
    let txn = Txn {
        events: vec![event],
        ..Txn::default()
    };
    let commit = move |objects: &Objects, _: &Principal| {
        let failed = |e: isobar_store::StoreError| ApiError::new(500, "STORE_ERROR", "", "", e.to_string());
        objects.store().commit(txn).map(drop).map_err(failed)
    };
    call.objects(commit).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

/// A reader of the stream and how far it is.
struct Feed {
    objects: Objects,
    who: Principal,
    patterns: Vec<Pattern>,
    live: Live,
    /// Older than what comes live.
    backlog: VecDeque<Committed>,
    replay: bool,
    after: Rev,
    /// When the reader's rights were looked at.
    known: Instant,
    _slot: Watching,
}

impl Feed {
    fn shows(&self, committed: &Committed) -> bool {
        self.patterns.iter().any(|pattern| pattern.fits(&committed.event)) && may_see(&self.who, &committed.event)
    }

    /// None when the reader is not let in any more.
    async fn look_again(&mut self) -> Option<()> {
        self.who = renewed(&self.objects, &self.who).await?;
        self.known = Instant::now();
        Some(())
    }

    /// The next piece of the stream; none when it ends.
    async fn next(&mut self) -> Option<String> {
        loop {
            if self.known.elapsed() >= ALIVE {
                self.look_again().await?;
            }
            if let Some(old) = self.backlog.pop_front() {
                self.after = old.rev;
                if self.shows(&old) {
                    return Some(told(&old));
                }
                continue;
            }
            if self.replay {
                let after = self.after;
                let page = self
                    .objects
                    .run(move |objects| objects.store().events(after, PAGE))
                    .await
                    .ok()?;
                self.replay = !page.events.is_empty();
                self.backlog = page.events.into();
                if page.gap {
                    return Some("event: gap\ndata: {}\n\n".to_owned());
                }
                continue;
            }
            match tokio::time::timeout(ALIVE, self.live.next()).await {
                Err(_) => return Some(": alive\n\n".to_owned()),
                Ok(Ok(committed)) => {
                    if touches_rights(&self.who, &committed.event) {
                        self.look_again().await?;
                    }
                    if committed.rev > self.after && self.shows(&committed) {
                        return Some(told(&committed));
                    }
                }
                // Too slow: it comes back with the last revision that it saw.
                Ok(Err(_)) => return None,
            }
        }
    }
}

fn told(committed: &Committed) -> String {
    let event = &committed.event;
    let data = body(event, committed.at_ns);
    format!(
        "id: {}\nevent: {}.{}\ndata: {data}\n\n",
        committed.rev.0, event.kind, event.action
    )
}

async fn stream_events(call: Call) -> Answer {
    let last = call.headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let after = match call.query.get("after").or(last) {
        None | Some("") => None,
        Some(text) => match text.parse() {
            Ok(rev) => Some(Rev(rev)),
            Err(_) => return Err(call.bad_request(format!("after must be a revision, not {text}"))),
        },
    };
    let patterns = call.query.pairs().iter().filter(|(name, _)| name == "pattern");
    let mut patterns: Vec<_> = patterns
        .take(MAX_PATTERNS)
        .map(|(_, text)| Pattern(text.clone()))
        .collect();
    if patterns.is_empty() {
        patterns.push(Pattern("*".to_owned()));
    }
    let feed = Feed {
        // Before anything old is read: nothing falls in between.
        live: Live::new(call.app.objects.store().watch()),
        objects: call.app.objects.clone(),
        who: call.who()?.clone(),
        patterns,
        backlog: VecDeque::new(),
        replay: after.is_some(),
        after: after.unwrap_or_default(),
        known: Instant::now(),
        _slot: watcher(&call)?,
    };
    let (sender, receiver) = mpsc::channel(1);
    // A task of its own: over HTTP/2 nobody asks for the next piece while the reader takes nothing.
    tokio::spawn(async move {
        let mut feed = feed;
        loop {
            let piece = tokio::select! {
                piece = feed.next() => piece,
                () = call.stopping() => None,
                () = sender.closed() => None,
            };
            let Some(piece) = piece else { break };
            let taken = tokio::time::timeout(PATIENCE, sender.send(Ok::<_, std::io::Error>(Bytes::from(piece))));
            if !matches!(taken.await, Ok(Ok(()))) {
                break;
            }
        }
    });
    let pieces = stream::unfold(receiver, |mut receiver| async move {
        let piece = receiver.recv().await?;
        Some((piece, receiver))
    });
    let mut answer = Response::new(Body::from_stream(pieces));
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: &str, action: &str, key: &str) -> Event {
        Event {
            kind: kind.to_owned(),
            action: action.to_owned(),
            key: key.to_owned(),
            principal: String::new(),
            object: None,
            original: None,
        }
    }

    #[test]
    fn patterns_split_at_the_first_two_dots() {
        let fits = |pattern: &str, key: &str| Pattern(pattern.to_owned()).fits(&event("templates", "save", key));
        assert!(fits("templates.save.a.b.tmpl", "a.b.tmpl") && fits("*.*.*", "x") && fits("*", "x"));
        assert!(fits("templates.*.x", "x") && !fits("templates.save.a", "a.b") && !fits("tasks.*.*", "x"));
    }

    #[test]
    fn patterns_come_and_go_and_are_not_without_number() {
        let mut patterns = Vec::new();
        assert_eq!(
            register(&mut patterns, "register a.*.*"),
            Some(("register", "a.*.*".to_owned()))
        );
        assert_eq!(register(&mut patterns, "register a.*.*").map(|_| ()), Some(()));
        assert_eq!(patterns.len(), 1);
        assert!(register(&mut patterns, "deregister a.*.*").is_some() && patterns.is_empty());
        assert!(register(&mut patterns, "hello").is_none());
        for n in 0..MAX_PATTERNS {
            assert!(register(&mut patterns, &format!("register a.*.{n}")).is_some());
        }
        assert!(register(&mut patterns, "register one.too.many").is_none());
    }
}
