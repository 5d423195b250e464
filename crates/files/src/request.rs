//! From bytes to a request: heads, paths, and what is refused.

/// What is wrong with a request, and so its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rejection {
    pub(crate) status: u16,
    pub(crate) reason: &'static str,
}

const fn reject(status: u16, reason: &'static str) -> Rejection {
    Rejection { status, reason }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Get,
    Head,
}

/// A request head, with the headers that matter here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) method: Method,
    /// Decoded and normalised, without query.
    pub(crate) path: String,
    /// Whether the connection stays open after the answer.
    pub(crate) keep_alive: bool,
    /// HTTP/1.0: must be told that the connection stays.
    pub(crate) old: bool,
    pub(crate) range: Option<String>,
    pub(crate) if_range: Option<String>,
    pub(crate) if_none_match: Option<String>,
    pub(crate) if_match: Option<String>,
}

/// What the first bytes of a buffer are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// No whole head yet.
    Partial,
    /// A request whose head is this long.
    Request(usize, Box<Request>),
    /// Nothing that can be served; the connection cannot go on.
    Rejected(Rejection),
}

const MAX_HEADERS: usize = 64;
/// Longest request target. Ours are under 100 bytes.
const MAX_TARGET: usize = 2048;

/// Parses the head at the start of `buf`, where at most `max` bytes may be a head.
pub(crate) fn parse(buf: &[u8], max: usize) -> Parsed {
    match buf.first() {
        None => return Parsed::Partial,
        // A TLS ClientHello: no newline will ever come, so do not wait for one.
        Some(0x16) => return Parsed::Rejected(reject(400, "this port speaks plain HTTP, not TLS")),
        Some(b) if !b.is_ascii_graphic() => return Parsed::Rejected(reject(400, "not an HTTP request")),
        Some(_) => {}
    }
    if !has_end(buf) {
        return match buf.iter().position(|&b| b == b'\n') {
            None if buf.len() > MAX_TARGET => Parsed::Rejected(reject(414, "the path is too long")),
            _ if buf.len() >= max => Parsed::Rejected(reject(431, "too many bytes of headers")),
            _ => Parsed::Partial,
        };
    }
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Request::new(&mut headers);
    match head.parse(buf) {
        Ok(httparse::Status::Complete(len)) if len > max => Parsed::Rejected(reject(431, "too many bytes of headers")),
        Ok(httparse::Status::Complete(len)) => match read(&head) {
            Ok(request) => Parsed::Request(len, Box::new(request)),
            Err(rejection) => Parsed::Rejected(rejection),
        },
        // The blank line was seen, so what is still missing will not come.
        Ok(httparse::Status::Partial) => Parsed::Rejected(reject(400, "malformed request")),
        Err(httparse::Error::TooManyHeaders) => Parsed::Rejected(reject(431, "too many headers")),
        Err(httparse::Error::Version) => Parsed::Rejected(reject(505, "only HTTP/1.0 and HTTP/1.1 are spoken here")),
        Err(_) => Parsed::Rejected(reject(400, "malformed request")),
    }
}

/// Whether a blank line is in there. Checked before parsing, so that a head that comes byte by byte is
/// not parsed again for each byte.
fn has_end(buf: &[u8]) -> bool {
    buf.windows(2)
        .enumerate()
        .any(|(i, w)| w == b"\n\n" || (w == b"\n\r" && buf.get(i + 2) == Some(&b'\n')))
}

fn read(head: &httparse::Request<'_, '_>) -> Result<Request, Rejection> {
    let target = head.path.unwrap_or_default();
    if target.len() > MAX_TARGET {
        return Err(reject(414, "the path is too long"));
    }
    let method = match head.method {
        Some("GET") => Method::Get,
        Some("HEAD") => Method::Head,
        _ => return Err(reject(405, "only GET and HEAD are answered here")),
    };
    let old = head.version == Some(0);
    let mut request = Request {
        method,
        path: normalise(target)?,
        keep_alive: !old,
        old,
        range: None,
        if_range: None,
        if_none_match: None,
        if_match: None,
    };
    let mut ranges = 0;
    // `Host` is not asked for: nothing here depends on it, and firmware forgets it.
    for header in head.headers.iter() {
        let value = std::str::from_utf8(header.value).map(str::trim).unwrap_or_default();
        let name = header.name;
        if name.eq_ignore_ascii_case("connection") {
            for option in value.split(',').map(str::trim) {
                if option.eq_ignore_ascii_case("close") {
                    request.keep_alive = false;
                } else if option.eq_ignore_ascii_case("keep-alive") && old {
                    request.keep_alive = true;
                }
            }
        } else if name.eq_ignore_ascii_case("range") {
            ranges += 1;
            request.range = Some(value.to_owned());
        } else if name.eq_ignore_ascii_case("if-range") {
            request.if_range = Some(value.to_owned());
        } else if name.eq_ignore_ascii_case("if-none-match") {
            request.if_none_match = Some(value.to_owned());
        } else if name.eq_ignore_ascii_case("if-match") {
            request.if_match = Some(value.to_owned());
        } else if name.eq_ignore_ascii_case("transfer-encoding")
            || (name.eq_ignore_ascii_case("content-length") && value != "0")
        {
            return Err(reject(400, "a request with a body is not answered here"));
        }
    }
    if ranges > 1 {
        request.range = None;
    }
    Ok(request)
}

/// Decodes and normalises a request target to an absolute path. `..` is refused, not resolved: no
/// honest client sends it.
pub(crate) fn normalise(target: &str) -> Result<String, Rejection> {
    let path = match target.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https") => {
            rest.find('/').map_or("/", |i| &rest[i..])
        }
        _ => target,
    };
    if !path.starts_with('/') {
        return Err(reject(400, "the path must start with /"));
    }
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let decoded = decode(path).ok_or(reject(400, "the path is not valid percent-encoded UTF-8"))?;
    if decoded.contains(|c: char| c.is_control() || c == '\\') {
        return Err(reject(400, "the path holds a control character or a backslash"));
    }
    let mut normal = String::with_capacity(decoded.len());
    for part in decoded.split('/').filter(|p| !p.is_empty() && *p != ".") {
        if part == ".." {
            return Err(reject(400, "the path must not hold .."));
        }
        normal.push('/');
        normal.push_str(part);
    }
    if normal.is_empty() {
        normal.push('/');
    }
    Ok(normal)
}

fn decode(path: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(b) = rest.next() {
        if b == b'%' {
            let (hi, lo) = (hex_digit(rest.next()?)?, hex_digit(rest.next()?)?);
            bytes.push(hi << 4 | lo);
        } else {
            bytes.push(b);
        }
    }
    String::from_utf8(bytes).ok()
}

fn hex_digit(b: u8) -> Option<u8> {
    char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok())
}

/// A path as it may be logged: tokens to six characters.
pub(crate) fn shortened(path: &str) -> String {
    let mut parts = path.trim_start_matches('/').splitn(2, '/');
    let first = parts.next().unwrap_or_default();
    let rest = parts.next().map(|r| format!("/{r}")).unwrap_or_default();
    match first.char_indices().nth(6) {
        Some((i, _)) => format!("/{}…{rest}", &first[..i]),
        None => format!("/{first}{rest}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn status(text: &str) -> u16 {
        match parse(text.as_bytes(), 16 * 1024) {
            Parsed::Rejected(r) => r.status,
            Parsed::Partial => 0,
            Parsed::Request(..) => 200,
        }
    }

    #[test]
    fn heads() {
        for (text, want) in [
            ("GET / HTTP/1.1\r\n\r\n", 200),
            ("GET / HTTP/1.1\n\n", 200),
            ("HEAD / HTTP/1.0\r\n\r\n", 200),
            ("GET http://1.2.3.4:8091/a/b HTTP/1.1\r\nHost: x\r\n\r\n", 200),
            ("GET / HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 200),
            ("GET / HTTP/1.1\r\nHost: x\r\n", 0),
            ("POST / HTTP/1.1\r\n\r\n", 405),
            ("GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", 400),
            ("GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
            ("GET /%zz HTTP/1.1\r\n\r\n", 400),
            ("GET / HTTP/2.0\r\n\r\n", 505),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
            ("GET\r\n\r\n", 400),
            ("\u{16}\u{3}\u{1}", 400),
            ("GET / HTTP/1.1\r\nbad header\r\n\r\n", 400),
        ] {
            assert_eq!(status(text), want, "{text:?}");
        }
        assert_eq!(status(&format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(3000))), 414);
        assert_eq!(status(&format!("GET /{}", "a".repeat(3000))), 414);
        assert_eq!(status(&format!("GET / HTTP/1.1\r\nX: {}", "a".repeat(17 * 1024))), 431);
        assert_eq!(
            status(&format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(17 * 1024))),
            431
        );
        assert_eq!(status(&format!("GET / HTTP/1.1\r\n{}\r\n", "X: 1\r\n".repeat(70))), 431);
    }

    #[test]
    fn connection_persistence() {
        for (text, want) in [
            ("GET / HTTP/1.1\r\n\r\n", true),
            ("GET / HTTP/1.1\r\nConnection: foo, Close\r\n\r\n", false),
            ("GET / HTTP/1.0\r\n\r\n", false),
            ("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", true),
        ] {
            let Parsed::Request(_, request) = parse(text.as_bytes(), 1024) else {
                panic!("{text:?}")
            };
            assert_eq!(request.keep_alive, want, "{text:?}");
        }
    }

    #[test]
    fn paths() {
        for (target, want) in [
            ("/", Some("/")),
            ("//a///b/./c/", Some("/a/b/c")),
            ("/a%2Fb%20c?x=1#y", Some("/a/b c")),
            ("http://host", Some("/")),
            ("http://host/a", Some("/a")),
            ("/a://b", Some("/a:/b")),
            ("*", None),
            ("", None),
            ("/a/../b", None),
            ("/a/%2e%2e/b", None),
            ("/a/%2e%2e%2fb", None),
            ("/a%00b", None),
            ("/a%5cb", None),
            ("/%ff", None),
            ("/%4", None),
        ] {
            assert_eq!(normalise(target).ok().as_deref(), want, "{target}");
        }
    }

    #[test]
    fn logs_hold_no_whole_token() {
        assert_eq!(shortened("/abcdefghijkl/boot.iso"), "/abcdef…/boot.iso");
        assert_eq!(shortened("/short/boot.iso"), "/short/boot.iso");
        assert_eq!(shortened("/abcdefgh"), "/abcdef…");
        assert_eq!(shortened("/"), "/");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse(&bytes, 256);
        }

        #[test]
        fn damaged_requests_never_panic(
            at in 0..60usize, with in proptest::collection::vec(any::<u8>(), 0..8)
        ) {
            let mut bytes = b"GET /token/boot.iso HTTP/1.1\r\nHost: a\r\nRange: bytes=0-1\r\n\r\n".to_vec();
            let at = at.min(bytes.len());
            bytes.splice(at..(at + 3).min(bytes.len()), with);
            let _ = parse(&bytes, 1024);
        }

        #[test]
        fn a_normal_path_stays_and_never_climbs(target in "(/[a-zA-Z0-9.%/]{0,6}){0,6}") {
            if let Ok(path) = normalise(&target) {
                prop_assert!(path.starts_with('/') && !path.split('/').any(|p| p == ".."));
                if !path.contains('%') {
                    prop_assert_eq!(normalise(&path).unwrap(), path);
                }
            }
        }
    }
}
