//! Bases: what images are planned on. They come as a tar of a bundle.

use std::fs::File;
use std::io::{ErrorKind, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use axum::body::BodyDataStream;
use futures_util::StreamExt;
use http::Method;
use isobar_model::ApiError;

use super::doc::Shape;
use super::{On, Table, right};
use crate::call::Call;
use crate::reply::{self, Answer};

/// Largest upload in bytes. Live images of the field have less than 2 GiB, the largest installation ISOs less than 16.
const MAX_UPLOAD: u64 = 20 << 30;
/// A client that sends nothing for so long is gone.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// For the rest of an upload that is refused.
const MAX_DRAIN: Duration = Duration::from_secs(30);
/// Bytes collected before the disk is bothered.
const CHUNK: usize = 1 << 20;

pub(super) fn add(table: &mut Table) {
    table
        .add(Method::GET, "/isobar/v1/bases", right("isos", "list", On::All), list)
        .is("Lists the bases that images are planned on.")
        .gives(200, Shape::list("Map"));
    table
        .add(
            Method::POST,
            "/isobar/v1/bases/{key}",
            right("isos", "post", On::All),
            import,
        )
        .is("Takes in a bundle, a tar.")
        .takes(Shape::Octets)
        .gives(201, Shape::of("Map"))
        .refuses(&[409, 422]);
}

async fn list(call: Call) -> Answer {
    reply::ok(&call.app.boots.bases().await?)
}

async fn import(mut call: Call) -> Answer {
    let name = call.key().to_owned();
    let fits = name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if !fits || !name.starts_with(|c: char| c.is_ascii_alphanumeric()) || name.len() > 64 {
        return Err(ApiError::new(
            422,
            "ValidationError",
            "bases",
            &name,
            format!("Invalid Name `{name}`: at most 64 letters, digits, '-', '_' and '.'"),
        ));
    }
    let tar = receive(&mut call).await?;
    let base = call.app.boots.import_base(&name, tar, call.who()?).await?;
    reply::created(&base)
}

/// The body of an upload, whole, in a file that has no name any more.
pub(super) async fn receive(call: &mut Call) -> Result<File, ApiError> {
    let mut body = call.take_body().into_data_stream();
    let received = spooled(call, &mut body).await;
    if received.is_err() {
        drain(&mut body).await;
    }
    received
}

async fn spooled(call: &mut Call, body: &mut BodyDataStream) -> Result<File, ApiError> {
    let spool = call.app.spool.clone();
    let mut file = blocking(call, move || nameless(&spool)).await?;
    let mut pending = Vec::with_capacity(CHUNK);
    let mut total = 0u64;
    loop {
        let next = tokio::time::timeout(MAX_PAUSE, body.next())
            .await
            .map_err(|_| call.refused(408, "the upload stopped coming"))?;
        let end = match next {
            Some(Ok(bytes)) => {
                total += bytes.len() as u64;
                pending.extend_from_slice(&bytes);
                false
            }
            Some(Err(error)) => return Err(call.bad_request(format!("the upload broke off: {error}"))),
            None => true,
        };
        if total > MAX_UPLOAD {
            return Err(call.refused(413, format!("the upload is longer than {MAX_UPLOAD} bytes")));
        }
        if pending.len() >= CHUNK || end {
            (file, pending) = blocking(call, move || {
                file.write_all(&pending)?;
                pending.clear();
                if end {
                    file.rewind()?;
                }
                Ok((file, pending))
            })
            .await?;
        }
        if end {
            return Ok(file);
        }
    }
}

/// Takes the rest of what is being sent: many clients read no answer before they have sent all, and what is not taken
/// would be answered by a reset.
async fn drain(body: &mut BodyDataStream) {
    let rest = async { while let Some(Ok(_)) = body.next().await {} };
    let _ = tokio::time::timeout(MAX_DRAIN, rest).await;
}

/// A file that goes away with its last user, be that a crash.
pub(super) fn nameless(spool: &Path) -> std::io::Result<File> {
    let path = spool.join(format!(".upload-{}", uuid::Uuid::new_v4()));
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

pub(super) async fn blocking<T: Send + 'static>(
    call: &Call,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, ApiError> {
    let done = tokio::task::spawn_blocking(work)
        .await
        .map_err(std::io::Error::other)
        .flatten();
    done.map_err(|error| {
        let code = if error.kind() == ErrorKind::StorageFull {
            507
        } else {
            500
        };
        let folder = call.app.spool.display();
        let mut refused = call.refused(code, format!("the upload cannot be kept in {folder}: {error}"));
        if code == 507 {
            let hint = "free some space there, about twice the upload's size, then try again";
            refused.messages.push(hint.to_owned());
        }
        refused
    })
}
