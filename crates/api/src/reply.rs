//! Responses in the form that DRP's clients expect.

use axum::body::Body;
use axum::response::Response;
use http::header::{CONTENT_TYPE, HeaderName, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
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
    raw_json(status, body)
}
