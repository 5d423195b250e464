//! Responses in the form that DRP's clients expect.

use axum::body::Body;
use axum::response::Response;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderName, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use isobar_files::range;
use isobar_model::ApiError;
use serde::Serialize;

/// What a handler gives.
pub(crate) type Answer = Result<Response, ApiError>;

const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");
/// All objects of the type.
const TOTAL_COUNT: HeaderName = HeaderName::from_static("x-drp-list-total-count");
/// Objects that the filters let through.
const COUNT: HeaderName = HeaderName::from_static("x-drp-list-count");

/// JSON with a status.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    let body = serde_json::to_vec(value)
        .map_err(|e| ApiError::new(500, "", "", "", format!("the answer cannot be written as JSON: {e}")))?;
    Ok(raw_json(status, body))
}

/// 200 with JSON.
pub(crate) fn ok(value: &impl Serialize) -> Answer {
    json(StatusCode::OK, value)
}

/// 201 with JSON.
pub(crate) fn created(value: &impl Serialize) -> Answer {
    json(StatusCode::CREATED, value)
}

/// Text that is JSON already.
pub(crate) fn raw_json(status: StatusCode, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

/// Adds the headers of a list.
pub(crate) fn with_counts(mut response: Response, total: usize, count: usize) -> Response {
    response.headers_mut().insert(TOTAL_COUNT, total.into());
    response.headers_mut().insert(COUNT, count.into());
    response
}

/// A status and nothing else.
pub(crate) fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// 401: no credentials at all.
pub(crate) fn who_are_you() -> Response {
    let mut response = empty(StatusCode::UNAUTHORIZED);
    response
        .headers_mut()
        .insert(WWW_AUTHENTICATE, HeaderValue::from_static("dr-provision"));
    response
}

/// An error with its body.
pub(crate) fn error(error: &ApiError) -> Response {
    let status = StatusCode::from_u16(error.code)
        .ok()
        .filter(|s| s.is_client_error() || s.is_server_error())
        .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    // Text, numbers: this cannot fail.
    let body = serde_json::to_vec(error).unwrap_or_default();
    let mut response = raw_json(status, body);
    if let Some(seconds) = error.retry_after {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response
}

/// Longest JSON that gets a tag. What is longer is sent as it is made.
const MAX_TAGGED: u64 = 8 << 20;

/// Names the JSON of a GET by its content (RFC 9110 §8.8.3), and leaves it away for who has it already. The tag is weak:
/// with gzip the bytes are others.
pub(crate) async fn tagged(response: Response, if_none_match: Option<&HeaderValue>) -> Response {
    let json = response.headers().get(CONTENT_TYPE) == Some(&JSON);
    let whole = response
        .body()
        .size_hint()
        .exact()
        .is_some_and(|size| size <= MAX_TAGGED);
    if response.status() != StatusCode::OK || !json || !whole {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    // In memory already, so this waits for nothing and cannot fail.
    let bytes = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let digest = ring::digest::digest(&ring::digest::SHA256, &bytes);
    let tag = hex::encode(&digest.as_ref()[..16]);
    if let Ok(value) = HeaderValue::from_str(&format!("W/\"{tag}\"")) {
        parts.headers.insert(ETAG, value);
    }
    let known = if_none_match.and_then(|list| list.to_str().ok());
    if known.is_some_and(|list| range::names_etag(list, &tag)) {
        parts.status = StatusCode::NOT_MODIFIED;
        parts.headers.remove(CONTENT_TYPE);
        parts.headers.remove(CONTENT_LENGTH);
        return Response::from_parts(parts, Body::empty());
    }
    Response::from_parts(parts, bytes.into())
}
