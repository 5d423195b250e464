//! `Range` headers (RFC 9110 §14), for this plane and for whoever serves images over TLS.

use std::ops::Range;

/// What a `Range` header asks for, given the length of the thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RangeOutcome {
    /// Answer 200 with everything: no header, not understood, or several ranges.
    ///
    /// RFC 9110 §14.2 lets a server ignore the header; several ranges in one answer
    /// (`multipart/byteranges`) are nothing that firmware asks for.
    Whole,
    /// Answer 206 with these bytes. Never empty, never past the end.
    Part(Range<u64>),
    /// Answer 416 with [`unsatisfied`].
    Unsatisfiable,
}

/// Reads the value of a `Range` header for something of `len` bytes.
///
/// `bytes=A-B`, `bytes=A-` and `bytes=-N` are served, cut at the end. Numbers too large for 64 bits
/// are taken as "past every end".
///
/// ```
/// use isobar_files::range::{RangeOutcome, parse};
/// assert_eq!(parse(Some("bytes=-5"), 100), RangeOutcome::Part(95..100));
/// assert_eq!(parse(Some("bytes=100-"), 100), RangeOutcome::Unsatisfiable);
/// assert_eq!(parse(Some("bytes=0-1,5-6"), 100), RangeOutcome::Whole);
/// ```
#[must_use]
pub fn parse(header: Option<&str>, len: u64) -> RangeOutcome {
    let Some((unit, set)) = header.and_then(|h| h.split_once('=')) else {
        return RangeOutcome::Whole;
    };
    // An empty thing has no byte to give; clients that always send a Range are better served by an
    // empty 200 than by an error.
    if !unit.trim().eq_ignore_ascii_case("bytes") || len == 0 {
        return RangeOutcome::Whole;
    }
    let mut specs = set.split(',').map(str::trim).filter(|s| !s.is_empty());
    let (Some(spec), None) = (specs.next(), specs.next()) else {
        return RangeOutcome::Whole;
    };
    let Some((first, last)) = spec.split_once('-') else {
        return RangeOutcome::Whole;
    };
    match (first.is_empty(), number(first), last.is_empty(), number(last)) {
        (true, _, false, Some(0)) => RangeOutcome::Unsatisfiable,
        (true, _, false, Some(n)) => RangeOutcome::Part(len.saturating_sub(n)..len),
        (false, Some(a), true, _) if a < len => RangeOutcome::Part(a..len),
        (false, Some(_), true, _) => RangeOutcome::Unsatisfiable,
        (false, Some(a), false, Some(b)) if a > b => RangeOutcome::Whole,
        (false, Some(a), false, Some(b)) if a < len => RangeOutcome::Part(a..b.saturating_add(1).min(len)),
        (false, Some(_), false, Some(_)) => RangeOutcome::Unsatisfiable,
        _ => RangeOutcome::Whole,
    }
}

/// Value of `Content-Range` for a 206.
#[must_use]
pub fn content_range(part: &Range<u64>, len: u64) -> String {
    format!("bytes {}-{}/{len}", part.start, part.end.saturating_sub(1))
}

/// Value of `Content-Range` for a 416.
#[must_use]
pub fn unsatisfied(len: u64) -> String {
    format!("bytes */{len}")
}

/// Whether an `If-Range` header lets a range through: only a strong tag that is ours
/// (RFC 9110 §13.1.5). A date or a weak tag does not, and the answer is the whole thing.
#[must_use]
pub fn if_range_holds(if_range: Option<&str>, etag: Option<&str>) -> bool {
    match (if_range.map(str::trim), etag) {
        (None, _) => true,
        (Some(value), Some(etag)) => value.strip_prefix('"').and_then(|v| v.strip_suffix('"')) == Some(etag),
        (Some(_), None) => false,
    }
}

/// Whether a list of entity tags (`If-None-Match`, `If-Match`) names `etag` (without quotes), by weak
/// comparison, or is `*`.
#[must_use]
pub fn names_etag(list: &str, etag: &str) -> bool {
    list.split(',').map(str::trim).any(|tag| {
        let tag = tag.strip_prefix("W/").unwrap_or(tag);
        tag == "*" || tag.strip_prefix('"').and_then(|t| t.strip_suffix('"')) == Some(etag)
    })
}

/// Decimal digits only (`str::parse` would take a sign); saturates.
fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    /// The same rules byte by byte: which of the `len` bytes does the header name?
    fn reference(first: Option<u64>, last: Option<u64>, len: u64) -> RangeOutcome {
        if len == 0 || matches!((first, last), (Some(a), Some(b)) if a > b) || (first.is_none() && last.is_none()) {
            return RangeOutcome::Whole;
        }
        let named: Vec<u64> = (0..len)
            .filter(|&i| match (first, last) {
                (Some(a), Some(b)) => i >= a && i <= b,
                (Some(a), None) => i >= a,
                (None, Some(n)) => len - i <= n,
                (None, None) => false,
            })
            .collect();
        match (named.first(), named.last()) {
            (Some(&a), Some(&b)) => RangeOutcome::Part(a..b + 1),
            _ => RangeOutcome::Unsatisfiable,
        }
    }

    fn bound(len: u64) -> impl Strategy<Value = Option<u64>> {
        prop_oneof![
            1 => Just(None),
            4 => (0..len + 4).prop_map(Some),
            1 => Just(Some(u64::MAX)),
        ]
    }

    proptest! {
        #[test]
        fn equals_a_reading_byte_by_byte(
            (len, first, last) in (0..200u64).prop_flat_map(|len| (Just(len), bound(len), bound(len)))
        ) {
            let show = |n: Option<u64>| n.map_or(String::new(), |n| n.to_string());
            let header = format!("bytes={}-{}", show(first), show(last));
            prop_assert_eq!(parse(Some(&header), len), reference(first, last, len), "{}", header);
        }

        #[test]
        fn any_text_gives_a_range_inside_the_thing(header in ".{0,40}", len in 0..1000u64) {
            if let RangeOutcome::Part(part) = parse(Some(&header), len) {
                prop_assert!(part.start < part.end && part.end <= len);
            }
        }
    }

    #[test]
    fn headers_that_are_not_one_range_mean_everything() {
        for header in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=a-b",
            "bytes=+1-2",
            "bytes=1-0",
            "items=0-1",
            "bytes=0-0,2-3",
        ] {
            assert_eq!(parse(Some(header), 10), RangeOutcome::Whole, "{header:?}");
        }
        assert_eq!(parse(None, 10), RangeOutcome::Whole);
    }

    #[test]
    fn tolerates_spaces_case_and_empty_list_members() {
        for header in ["Bytes=2-3", " bytes = 2-3 ", "bytes=2-3,", "bytes=, 2-3"] {
            assert_eq!(parse(Some(header), 10), RangeOutcome::Part(2..4), "{header:?}");
        }
    }

    #[test]
    fn numbers_past_64_bits_are_past_the_end() {
        assert_eq!(
            parse(Some("bytes=99999999999999999999-"), 10),
            RangeOutcome::Unsatisfiable
        );
        assert_eq!(
            parse(Some("bytes=3-99999999999999999999"), 10),
            RangeOutcome::Part(3..10)
        );
        assert_eq!(
            parse(Some("bytes=-99999999999999999999"), 10),
            RangeOutcome::Part(0..10)
        );
    }

    #[test]
    fn if_range_wants_the_strong_tag() {
        assert!(if_range_holds(None, None));
        assert!(if_range_holds(Some("\"a\""), Some("a")));
        for value in ["W/\"a\"", "\"b\"", "a", "Sat, 29 Oct 1994 19:43:31 GMT"] {
            assert!(!if_range_holds(Some(value), Some("a")), "{value}");
        }
        assert!(!if_range_holds(Some("\"a\""), None));
    }

    #[test]
    fn lists_of_tags_compare_weakly() {
        assert!(names_etag("\"x\", W/\"a\"", "a"));
        assert!(names_etag("*", "a"));
        assert!(!names_etag("\"x\", a", "a"));
    }
}
