//! Serial consoles of machines: what is said as a stream of bytes, what is typed in requests of its own. That way it
//! passes every proxy, and `curl -N` is a console, too.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::response::Response;
use futures_util::stream;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, StatusCode};
use isobar_objects::Principal;
use tokio::sync::mpsc;

use super::doc::{Shape, query};
use super::events::renewed;
use super::{On, Table, right};
use crate::auth;
use crate::boots::{Console, Typed};
use crate::call::Call;
use crate::reply::{self, Answer};

/// The header that says the console's name, for what is typed.
const NAME: &str = "isobar-console";
/// Longest text that is typed at a time, in bytes.
const MOST: usize = 4096;
/// A reader that takes nothing for so long is gone.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn add(table: &mut Table) {
    let may = right("machines", "console", On::Key);
    table
        .add(Method::POST, "/isobar/v1/machines/{key}/console", may, open)
        .is("Opens a machine's serial console over its BMC (IPMI) and gives what it says, until either end closes it. The \
             header isobar-console names it, for what is typed.")
        .asks(&[query("take-over", "boolean", "Whoever has it loses it.")])
        .gives(200, Shape::Octets)
        .refuses(&[404, 409, 502, 504]);
    table
        .add(Method::PUT, "/isobar/v1/machines/{key}/console/{console}", may, type_in)
        .is("Types into a console that is open.")
        .asks(&[query("break", "boolean", "A break of the line first.")])
        .takes(Shape::Octets)
        .gives(204, Shape::Nothing)
        .refuses(&[404, 413]);
}

async fn open(call: Call) -> Answer {
    let uuid = call.resolve("machines", call.key()).await?;
    let who = call.who()?.clone();
    let console = call
        .app
        .boots
        .open_console(&uuid, call.key(), call.query.flag("take-over"), &who)
        .await?;
    let name = HeaderValue::from_str(&console.id).map_err(|e| call.refused(500, e.to_string()))?;
    let (sender, receiver) = mpsc::channel(1);
    // A task of its own, as with events: when the reader goes, the console is closed.
    tokio::spawn(carry(call, console, uuid, who, sender));
    let pieces = stream::unfold(receiver, |mut receiver| async move {
        let piece = receiver.recv().await?;
        Some((piece, receiver))
    });
    let mut answer = Response::new(Body::from_stream(pieces));
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(NAME, name);
    Ok(answer)
}

/// Carries what the machine says until the console, its reader, the reader's rights or the server ends.
async fn carry(
    call: Call,
    mut console: Console,
    machine: String,
    mut who: Principal,
    sender: mpsc::Sender<Result<Bytes, std::io::Error>>,
) {
    let pause = call.rights_time;
    let mut look = tokio::time::interval_at(tokio::time::Instant::now() + pause, pause);
    let send = async |piece| matches!(tokio::time::timeout(PATIENCE, sender.send(piece)).await, Ok(Ok(())));
    let why = loop {
        tokio::select! {
            said = console.screen.recv() => match said {
                Some(Ok(text)) => if !send(Ok(Bytes::from(text))).await { return },
                Some(Err(why)) => break why,
                None => break "the console was closed".to_owned(),
            },
            _ = look.tick() => match renewed(&call.app.objects, &who).await {
                Some(now) if auth::check(&now, "machines", "console", &machine).is_ok() => who = now,
                _ => break "the right to it has gone".to_owned(),
            },
            () = call.stopping() => break "the server stops".to_owned(),
            () = sender.closed() => return,
        }
    };
    // For whoever looks at it; and then an end that is not a good one, for programs.
    if send(Ok(Bytes::from(format!("\r\n[isobar: {why}]\r\n")))).await {
        send(Err(std::io::Error::other(why))).await;
    }
}

async fn type_in(mut call: Call) -> Answer {
    let text = call.bytes().await?;
    if text.len() > MOST {
        return Err(call.refused(413, format!("at most {MOST} bytes are typed at a time")));
    }
    let uuid = call.resolve("machines", call.key()).await?;
    let id = call.param("console").to_owned();
    if call.query.flag("break") {
        call.app.boots.type_into(&uuid, &id, Typed::Break).await?;
    }
    // Also without a text it is looked for.
    call.app.boots.type_into(&uuid, &id, Typed::Text(text.to_vec())).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}
