//! The discs of machines, for people: lists, trees, files, whole images.
//!
//! A disc holds its attempt's boot secret, so reading one needs a right of its own, which no machine token has.

use std::ops::Range;
use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName, IF_NONE_MATCH, IF_RANGE, RANGE,
};
use http::{HeaderValue, Method, StatusCode};
use isobar_files::range::{self, RangeOutcome};
use isobar_image::{FileRole, Image};
use isobar_model::ApiError;
use serde_json::{Value, json};

use super::doc::Shape;
use super::{On, Table, right};
use crate::call::Call;
use crate::image_body;
use crate::reply::{self, Answer};

pub(super) fn add(table: &mut Table) {
    let get = right("isos", "get", On::All);
    table
        .add(Method::GET, "/isobar/v1/isos", right("isos", "list", On::All), list)
        .is("Lists the discs that machines have now.")
        .gives(200, Shape::list("Map"));
    table
        .add(Method::GET, "/isobar/v1/isos/{key}/{bootenv}/tree", get, tree)
        .is("Lists the files of a disc.")
        .gives(200, Shape::list("DiscFile"))
        .refuses(&[404]);
    table
        .add(Method::GET, "/isobar/v1/isos/{key}/{bootenv}/files/{*path}", get, file)
        .is("A file of a disc, or a range of it.")
        .gives(200, Shape::Octets)
        .gives(206, Shape::Octets)
        .refuses(&[404, 416]);
    table
        .add(Method::GET, "/isobar/v1/isos/{key}/{bootenv}/boot.iso", get, whole)
        .is("A disc as one file, or a range of it.")
        .gives(200, Shape::Octets)
        .gives(206, Shape::Octets)
        .refuses(&[404, 416]);
}

async fn list(call: Call) -> Answer {
    let who = call.who()?;
    let mut isos = call.app.boots.isos().await?;
    isos.retain(|iso| who.sees("machines", iso["machine"].as_str().unwrap_or_default()));
    reply::ok(&isos)
}

async fn tree(call: Call) -> Answer {
    let image = image(&call).await?;
    let files: Vec<Value> = image
        .files()
        .iter()
        .map(|f| json!({ "path": f.path, "offset": f.offset, "size": f.len, "role": role(f.role) }))
        .collect();
    reply::ok(&files)
}

async fn file(call: Call) -> Answer {
    let image = image(&call).await?;
    let path = call.param("path");
    let Some(entry) = image.files().iter().find(|f| f.path == path) else {
        return Err(ApiError::not_found("GET", "isos", path));
    };
    let region = entry.offset..entry.offset + entry.len;
    let etag = format!("{}-{}", image.etag(), entry.id.0);
    bytes(&call, &image, region, &etag)
}

async fn whole(call: Call) -> Answer {
    let image = image(&call).await?;
    let etag = image.etag().to_owned();
    bytes(&call, &image, 0..image.len(), &etag)
}

async fn image(call: &Call) -> Result<Arc<Image>, ApiError> {
    let machine = call.resolve("machines", call.key()).await?;
    if !call.who()?.sees("machines", &machine) {
        return Err(ApiError::not_found("GET", "machines", call.key()));
    }
    call.app.boots.iso_image(&machine, call.param("bootenv")).await
}

/// A region of an image, or the part of it that a `Range` header asks for.
fn bytes(call: &Call, image: &Arc<Image>, region: Range<u64>, etag: &str) -> Answer {
    let header = |name: HeaderName| call.headers.get(name).and_then(|v| v.to_str().ok());
    let len = region.end - region.start;
    let quoted = format!("\"{etag}\"");
    let mut answer = if header(IF_NONE_MATCH).is_some_and(|list| range::names_etag(list, etag)) {
        reply::empty(StatusCode::NOT_MODIFIED)
    } else {
        let asked = header(RANGE).filter(|_| range::if_range_holds(header(IF_RANGE), Some(etag)));
        let (status, part, content_range) = match range::parse(asked, len) {
            RangeOutcome::Whole => (StatusCode::OK, 0..len, None),
            RangeOutcome::Part(part) => {
                let text = range::content_range(&part, len);
                (StatusCode::PARTIAL_CONTENT, part, Some(text))
            }
            RangeOutcome::Unsatisfiable => (StatusCode::RANGE_NOT_SATISFIABLE, 0..0, Some(range::unsatisfied(len))),
        };
        let body = if call.method == Method::HEAD || part.is_empty() {
            Body::empty()
        } else {
            let on_disc = region.start + part.start..region.start + part.end;
            image_body::body(Arc::clone(image), Arc::clone(&call.app.blobs), on_disc)
        };
        let mut answer = Response::new(body);
        *answer.status_mut() = status;
        answer
            .headers_mut()
            .insert(CONTENT_LENGTH, (part.end - part.start).into());
        if let Some(value) = content_range.and_then(|text| HeaderValue::from_str(&text).ok()) {
            answer.headers_mut().insert(CONTENT_RANGE, value);
        }
        answer
    };
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if let Ok(value) = HeaderValue::from_str(&quoted) {
        headers.insert(ETAG, value);
    }
    Ok(answer)
}

fn role(role: FileRole) -> &'static str {
    match role {
        FileRole::Metadata => "metadata",
        FileRole::BootCatalog => "boot-catalog",
        FileRole::BiosImage => "bios-image",
        FileRole::EfiImage => "efi-image",
        FileRole::GrubConfig => "grub-config",
        FileRole::Kernel => "kernel",
        FileRole::Initrd => "initrd",
        FileRole::OwnInitrd => "own-initrd",
        FileRole::Other => "other",
    }
}
