//! Uploaded files and ISOs. Their names are rows, their bytes blobs: no name is ever a path on a disk.

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::response::Response;
use futures_util::stream;
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, RANGE};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use isobar_files::range::{self, RangeOutcome};
use isobar_image::blob::BlobId;
use isobar_model::ApiError;
use isobar_objects::BlobKind;
use serde_json::json;

use super::doc::{Shape, query};
use super::{On, Table, bases, multipart, right};
use crate::call::Call;
use crate::reply::{self, Answer};

const SHA256: HeaderName = HeaderName::from_static("x-drp-sha256sum");
/// Bytes read at a time.
const CHUNK: u64 = 256 * 1024;

pub(super) fn add(table: &mut Table) {
    for kind in [BlobKind::Files, BlobKind::Isos] {
        let (scope, all) = (kind.name(), format!("/api/v3/{}", kind.name()));
        let one = match kind {
            BlobKind::Files => format!("{all}/{{*key}}"),
            BlobKind::Isos => format!("{all}/{{key}}"),
        };
        let may = |action, on| right(scope, action, on);
        table
            .add(Method::GET, &all, may("list", On::All), move |call| list(call, kind))
            .is("Lists what was uploaded.")
            .asks(&[query("path", "string", "Folder to list.")])
            .gives(200, Shape::list("Text"))
            .refuses(&[404]);
        table
            .add(Method::GET, &one, may("get", On::Key), move |call| get(call, kind))
            .is("What was uploaded, or a range of it.")
            .gives(200, Shape::Octets)
            .gives(206, Shape::Octets)
            .refuses(&[404, 416]);
        table
            .add(Method::POST, &one, may("post", On::Key), move |call| upload(call, kind))
            .is("Uploads a file.")
            .takes(Shape::Octets)
            .gives(201, Shape::of("Blob"))
            .refuses(&[409, 422]);
        table
            .add(Method::DELETE, &one, may("delete", On::Key), move |call| {
                delete(call, kind)
            })
            .is("Forgets a file.")
            .gives(204, Shape::Nothing)
            .refuses(&[404, 409, 422]);
    }
}

fn refused(call: &Call, kind: BlobKind, code: u16, text: &str) -> ApiError {
    ApiError::new(code, call.method.as_str(), kind.name(), call.key(), text)
}

async fn list(call: Call, kind: BlobKind) -> Answer {
    let folder = call.query.get("path").unwrap_or_default().to_owned();
    let names = call
        .objects(move |objects, _| objects.blob_names(kind, &folder))
        .await?;
    match names {
        Some(names) => reply::ok(&names),
        None => Err(refused(&call, kind, 404, "no such directory")),
    }
}

async fn get(call: Call, kind: BlobKind) -> Answer {
    let name = call.key().to_owned();
    let found = call.objects(move |objects, _| objects.blob(kind, &name)).await?;
    let missing = match kind {
        BlobKind::Files => "Not a regular file",
        BlobKind::Isos => "no such iso",
    };
    let found = found.ok_or_else(|| refused(&call, kind, 404, missing))?;
    let id: BlobId = found
        .blob
        .parse()
        .map_err(|_| refused(&call, kind, 500, "the name of its blob is damaged"))?;
    let blobs = Arc::clone(&call.app.blobs);
    let file = bases::blocking(&call, move || blobs.file(&id)).await?;
    let asked = call.headers.get(RANGE).and_then(|value| value.to_str().ok());
    let (status, part, content_range) = match range::parse(asked, found.size) {
        RangeOutcome::Whole => (StatusCode::OK, 0..found.size, None),
        RangeOutcome::Part(part) => {
            let text = range::content_range(&part, found.size);
            (StatusCode::PARTIAL_CONTENT, part, Some(text))
        }
        RangeOutcome::Unsatisfiable => (
            StatusCode::RANGE_NOT_SATISFIABLE,
            0..0,
            Some(range::unsatisfied(found.size)),
        ),
    };
    let length = part.end - part.start;
    let mut answer = Response::new(body(Arc::new(file), part));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(CONTENT_LENGTH, length.into());
    let texts = [
        (SHA256, Some(found.blob.clone())),
        (ETAG, Some(format!("\"{}\"", found.blob))),
        (CONTENT_RANGE, content_range),
    ];
    for (name, text) in texts {
        if let Some(value) = text.and_then(|text| HeaderValue::from_str(&text).ok()) {
            headers.insert(name, value);
        }
    }
    Ok(answer)
}

/// A part of a file, read as it is taken.
fn body(file: Arc<std::fs::File>, part: std::ops::Range<u64>) -> Body {
    let chunks = stream::try_unfold((file, part), |(file, part)| async move {
        let length = usize::try_from((part.end - part.start).min(CHUNK)).unwrap_or(0);
        if length == 0 {
            return Ok(None);
        }
        let reader = Arc::clone(&file);
        let read = move || {
            let mut chunk = vec![0; length];
            reader.read_exact_at(&mut chunk, part.start).map(|()| chunk)
        };
        let chunk = tokio::task::spawn_blocking(read)
            .await
            .map_err(std::io::Error::other)??;
        let rest = part.start + length as u64..part.end;
        Ok::<_, std::io::Error>(Some((Bytes::from(chunk), (file, rest))))
    });
    Body::from_stream(chunks)
}

async fn upload(mut call: Call, kind: BlobKind) -> Answer {
    if call.query.flag("explode") {
        let text = "archives are not unpacked here: upload the files that are in it, or an ISO to isos";
        return Err(refused(&call, kind, 422, text));
    }
    let taken = format!("{}/{}", kind.name(), call.key().trim_matches('/'));
    let Some(_until_done) = call.app.uploads.begin(taken) else {
        return Err(refused(&call, kind, 409, "is being uploaded by somebody else"));
    };
    let mut file = bases::receive(&mut call).await?;
    let content_type = call.headers.get(CONTENT_TYPE).and_then(|text| text.to_str().ok());
    if let Some(boundary) = content_type.and_then(multipart::boundary).map(str::to_owned) {
        let spool = Arc::clone(&call.app.spool);
        let cut_out = bases::blocking(&call, move || {
            let part = multipart::part(&mut file, &boundary)?;
            part.map(|part| multipart::cut_out(&mut file, &part, bases::nameless(&spool)?))
                .transpose()
        });
        let no_file = || {
            refused(
                &call,
                kind,
                400,
                "the form has no part called file, or breaks off in it",
            )
        };
        file = cut_out.await?.ok_or_else(no_file)?;
    }
    let (name, blobs) = (call.key().to_owned(), Arc::clone(&call.app.blobs));
    let taken_in = call.objects(move |objects, who| objects.take_in(kind, &name, &mut file, &blobs, who));
    let (path, stored) = taken_in.await?;
    let path = match kind {
        BlobKind::Files => format!("/{path}"),
        BlobKind::Isos => path,
    };
    reply::created(&json!({ "Path": path, "Size": stored.size }))
}

async fn delete(call: Call, kind: BlobKind) -> Answer {
    let name = call.key().to_owned();
    let gone = call
        .objects(move |objects, who| objects.forget_blob(kind, &name, who))
        .await?;
    let missing = match kind {
        BlobKind::Files => "Unable to delete",
        BlobKind::Isos => "no such iso",
    };
    match gone {
        true => Ok(reply::empty(StatusCode::NO_CONTENT)),
        false => Err(refused(&call, kind, 404, missing)),
    }
}
