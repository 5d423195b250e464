//! From a request to an answer: status, headers, and the part of the body to send.

use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use isobar_image::Image;
use isobar_image::blob::BlobId;
use isobar_image::vfs::{AttemptId, Denied, Opened, ReadKind};

use crate::range::{self, RangeOutcome};
use crate::request::{Method, Rejection, Request};

/// Where a body comes from.
pub(crate) enum Source {
    None,
    Bytes(Bytes),
    /// A blob from this byte on.
    Blob(BlobId, u64),
    Image {
        image: Arc<Image>,
        attempt: Option<AttemptId>,
    },
}

/// An answer that is being sent.
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: Bytes,
    pub(crate) source: Source,
    /// What is left to send of the source.
    pub(crate) body: Range<u64>,
    pub(crate) kind: ReadKind,
    pub(crate) keep_alive: bool,
}

impl Response {
    /// An error, with a line of text for whoever looks with curl.
    pub(crate) fn error(rejection: Rejection, request: Option<&Request>) -> Self {
        let Rejection { status, reason } = rejection;
        let body = Bytes::from(format!("{reason}\n"));
        let extra = match status {
            405 => "Allow: GET, HEAD\r\n",
            503 => "Retry-After: 5\r\n",
            _ => "",
        };
        let keep_alive = request.is_some_and(|r| r.keep_alive);
        let mut head = Head::new(status, request, keep_alive);
        head.line(format_args!(
            "Content-Type: text/plain; charset=utf-8\r\nContent-Length: {}",
            body.len()
        ));
        head.raw(extra);
        let send = if request.is_some_and(|r| r.method == Method::Head) {
            0
        } else {
            body.len() as u64
        };
        Self {
            status,
            head: head.finish(),
            source: Source::Bytes(body),
            body: 0..send,
            kind: ReadKind::Whole,
            keep_alive,
        }
    }

    /// The answer to a request that the resolver refused.
    pub(crate) fn denied(denied: Denied, request: &Request) -> Self {
        let (status, reason) = match denied {
            Denied::NotFound => (404, "not found"),
            Denied::Gone => (410, "gone: the boot that this address belonged to is over"),
            Denied::Forbidden => (403, "this address may not read this image"),
            Denied::Unavailable => (
                503,
                "the server cannot look this up right now: try again in a few seconds",
            ),
        };
        Self::error(Rejection { status, reason }, Some(request))
    }

    /// The answer with (a part of) what the path stands for.
    pub(crate) fn opened(opened: Opened, request: &Request) -> Self {
        let (source, len, etag, content_type) = match opened {
            Opened::Image { image, attempt } => {
                let (len, etag) = (image.len(), Some(image.etag().to_owned()));
                (Source::Image { image, attempt }, len, etag, "application/octet-stream")
            }
            Opened::Blob { id, len } => (
                Source::Blob(id, 0),
                len,
                Some(id.to_string()),
                "application/octet-stream",
            ),
            Opened::Part { id, offset, len } => {
                let etag = format!("{id}-{offset}");
                (Source::Blob(id, offset), len, Some(etag), "application/octet-stream")
            }
            Opened::Bytes { body, content_type } => {
                let len = body.len() as u64;
                (Source::Bytes(body), len, None, content_type)
            }
        };
        if let Some(list) = &request.if_match
            && !etag
                .as_deref()
                .map_or(list.trim() == "*", |etag| range::names_etag(list, etag))
        {
            let reason = "the image is another one than If-Match names";
            return Self::error(Rejection { status: 412, reason }, Some(request));
        }
        let known =
            matches!((&request.if_none_match, &etag), (Some(list), Some(etag)) if range::names_etag(list, etag));
        // RFC 9110 §14.2: Range is defined for GET alone.
        let outcome = match request.method {
            Method::Get if !known && range::if_range_holds(request.if_range.as_deref(), etag.as_deref()) => {
                range::parse(request.range.as_deref(), len)
            }
            _ => RangeOutcome::Whole,
        };
        let (status, part, kind) = match (known, &outcome) {
            (true, _) => (304, 0..0, ReadKind::Head),
            (_, RangeOutcome::Part(part)) => (206, part.clone(), ReadKind::Range),
            (_, RangeOutcome::Unsatisfiable) => (416, 0..0, ReadKind::Range),
            (_, RangeOutcome::Whole) => (200, 0..len, ReadKind::Whole),
        };
        let mut head = Head::new(status, Some(request), request.keep_alive);
        if let Some(etag) = &etag {
            head.line(format_args!("ETag: \"{etag}\""));
        }
        head.raw("Accept-Ranges: bytes\r\n");
        match &outcome {
            _ if status == 304 => {}
            RangeOutcome::Part(part) => head.line(format_args!("Content-Range: {}", range::content_range(part, len))),
            RangeOutcome::Unsatisfiable => head.line(format_args!("Content-Range: {}", range::unsatisfied(len))),
            RangeOutcome::Whole => {}
        }
        if status != 304 {
            head.line(format_args!(
                "Content-Type: {content_type}\r\nContent-Length: {}",
                part.end - part.start
            ));
        }
        let head = head.finish();
        let keep_alive = request.keep_alive;
        match (request.method, status) {
            (Method::Head, 200) => Self {
                status,
                head,
                source,
                body: 0..0,
                kind: ReadKind::Head,
                keep_alive,
            },
            (Method::Get, 200 | 206) => Self {
                status,
                head,
                source,
                body: part,
                kind,
                keep_alive,
            },
            _ => Self {
                status,
                head,
                source: Source::None,
                body: 0..0,
                kind,
                keep_alive,
            },
        }
    }
}

struct Head(String);

impl Head {
    fn new(status: u16, request: Option<&Request>, keep_alive: bool) -> Self {
        let mut head = Self(String::with_capacity(384));
        head.line(format_args!("HTTP/1.1 {status} {}", reason_phrase(status)));
        head.line(format_args!("Date: {}", httpdate::fmt_http_date(SystemTime::now())));
        head.raw("Server: isobar\r\n");
        if !keep_alive {
            head.raw("Connection: close\r\n");
        } else if request.is_some_and(|r| r.old) {
            head.raw("Connection: keep-alive\r\n");
        }
        head
    }

    fn raw(&mut self, lines: &str) {
        self.0.push_str(lines);
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a String does not fail.
        let _ = self.0.write_fmt(line);
        self.0.push_str("\r\n");
    }

    fn finish(mut self) -> Bytes {
        self.0.push_str("\r\n");
        Bytes::from(self.0)
    }
}

fn reason_phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        206 => "Partial Content",
        304 => "Not Modified",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        410 => "Gone",
        412 => "Precondition Failed",
        414 => "URI Too Long",
        416 => "Range Not Satisfiable",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Error",
    }
}
