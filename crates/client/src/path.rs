//! Percent-encoding of keys in paths.

use std::fmt::Write as _;

/// Escapes a key for use as one path segment: `Name:a b` gives `Name:a%20b`, `/` gives `%2F`.
/// What RFC 3986 allows in a segment stays as it is, `:` among it.
pub fn escape_segment(text: &str) -> String {
    escape(text, false)
}

/// Escapes the rest of a path, slashes kept: the name of a param is the rest of its route
/// (`…/params/ipmi/mode`).
pub fn escape_rest(text: &str) -> String {
    escape(text, true)
}

pub(crate) fn escape_query(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b':' | b'/' | b',' | b'(' | b')' => {
                out.push(char::from(byte));
            }
            _ => percent(&mut out, byte),
        }
    }
    out
}

fn escape(text: &str, keep_slash: bool) -> String {
    // A segment of dots alone would be taken as a step up the path by whatever lies between.
    let dots = matches!(text, "." | "..");
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'.' if dots => percent(&mut out, byte),
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b':' | b'@' | b',' | b'=' | b'+' => {
                out.push(char::from(byte));
            }
            b'/' if keep_slash => out.push('/'),
            _ => percent(&mut out, byte),
        }
    }
    out
}

fn percent(out: &mut String, byte: u8) {
    // Writing to a String cannot fail.
    let _ = write!(out, "%{byte:02X}");
}

/// Joins segments to an absolute path, each escaped: `path!("api", "v3", "machines", key)`.
#[macro_export]
macro_rules! path {
    ($($segment:expr),+ $(,)?) => {{
        let mut path = String::new();
        $( path.push('/'); path.push_str(&$crate::escape_segment($segment.as_ref())); )+
        path
    }};
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_cannot_leave_their_segment() {
        assert_eq!(path!("api", "Name:mach-01"), "/api/Name:mach-01");
        assert_eq!(path!("m", "a/../b?c#d e%"), "/m/a%2F..%2Fb%3Fc%23d%20e%25");
        assert_eq!(path!("m", ".."), "/m/%2E%2E");
        assert_eq!(escape_rest("ipmi/mode"), "ipmi/mode");
        assert_eq!(escape_rest("é"), "%C3%A9");
        assert_eq!(escape_query("Lt(5)&a=b+c"), "Lt(5)%26a%3Db%2Bc");
    }
}
