//! Reading JSON as BMCs write it (bmc-independent rules: nothing here knows a vendor).

use serde_json::Value;

/// Parses JSON that may have a byte order mark, bytes after its end, commas too many, or raw control
/// characters in strings. `None` when it is no JSON at all.
pub(crate) fn lenient(bytes: &[u8]) -> Option<Value> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Some(Value::Null);
    }
    if let Some(Ok(value)) = serde_json::Deserializer::from_slice(bytes).into_iter().next() {
        return Some(value);
    }
    let text = String::from_utf8_lossy(bytes);
    match serde_json::Deserializer::from_str(&repaired(&text)).into_iter().next() {
        Some(Ok(value)) => Some(value),
        _ => None,
    }
}

fn repaired(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let (mut in_string, mut escaped) = (false, false);
    for c in text.chars() {
        if in_string {
            out.push(if c.is_control() { ' ' } else { c });
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
            continue;
        }
        if matches!(c, '}' | ']') {
            let kept = out.trim_end();
            if let Some(without) = kept.strip_suffix(',') {
                out.truncate(without.len());
            }
        }
        in_string = c == '"';
        out.push(c);
    }
    out
}

/// Follows member names; `Value::Null` where there is nothing.
pub(crate) fn at<'a>(value: &'a Value, path: &[&str]) -> &'a Value {
    path.iter().fold(value, |v, name| v.get(name).unwrap_or(&Value::Null))
}

/// A text that says something: not empty, not `"None"`, `"null"` or `"N/A"`.
pub(crate) fn text<'a>(value: &'a Value, path: &[&str]) -> Option<&'a str> {
    at(value, path)
        .as_str()
        .map(str::trim)
        .filter(|s| !s.is_empty() && !["none", "null", "n/a"].iter().any(|no| s.eq_ignore_ascii_case(no)))
}

/// A boolean, also as a text or a number.
pub(crate) fn flag(value: &Value, path: &[&str]) -> Option<bool> {
    match at(value, path) {
        Value::Bool(b) => Some(*b),
        Value::String(s) if s.eq_ignore_ascii_case("true") || s == "1" => Some(true),
        Value::String(s) if s.eq_ignore_ascii_case("false") || s == "0" => Some(false),
        Value::Number(n) => n.as_u64().map(|n| n != 0),
        _ => None,
    }
}

/// A list of texts; one text alone is a list of one.
pub(crate) fn texts(value: &Value, path: &[&str]) -> Option<Vec<String>> {
    match at(value, path) {
        Value::Array(items) => Some(items.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect()),
        Value::String(one) => Some(vec![one.clone()]),
        _ => None,
    }
}

/// A link: `{"@odata.id": URI}`, or the URI itself.
pub(crate) fn link(value: &Value, path: &[&str]) -> Option<String> {
    let value = at(value, path);
    value
        .as_str()
        .or_else(|| at(value, &["@odata.id"]).as_str())
        .filter(|s| !s.is_empty())
        .map(str::to_owned)
}

/// Where a collection goes on (DSP0266, paging).
pub(crate) const NEXT: &str = "Members@odata.nextLink";

/// The members of a collection, or of a part of it; none when there is no list.
pub(crate) fn members(collection: &Value) -> Vec<String> {
    match at(collection, &["Members"]) {
        Value::Array(items) => items.iter().filter_map(|v| link(v, &[])).collect(),
        _ => Vec::new(),
    }
}

/// The target of an action, also where it is written `Target` or the action is nothing but a URI.
pub(crate) fn action_target(action: &Value) -> Option<String> {
    ["target", "Target", "@odata.id"]
        .iter()
        .find_map(|name| text(action, &[name]))
        .map(str::to_owned)
}

/// URIs are the same without regard to case, trailing slashes and fragments.
pub(crate) fn same_uri(a: &str, b: &str) -> bool {
    let normal = |uri: &str| {
        uri.split('#')
            .next()
            .unwrap_or_default()
            .trim_end_matches('/')
            .to_ascii_lowercase()
    };
    normal(a) == normal(b)
}

/// The last part of a URI.
pub(crate) fn last_part(uri: &str) -> &str {
    uri.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
}

/// Sort key in which `CD2` comes before `CD10`.
pub(crate) fn natural(id: &str) -> (String, u64, String) {
    let id = id.to_ascii_lowercase();
    let digits = id.len() - id.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    let (stem, number) = id.split_at(id.len() - digits);
    (stem.to_owned(), number.parse().unwrap_or(0), id.clone())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn bad_json_is_read() {
        let want = json!({"a": [1, 2], "b": "x y"});
        for text in [
            "{\"a\": [1, 2], \"b\": \"x y\"}",
            "\u{feff}{\"a\": [1, 2], \"b\": \"x y\"}",
            "{\"a\": [1, 2,], \"b\": \"x y\",\n}",
            "{\"a\": [1, 2], \"b\": \"x\ny\"}",
            "{\"a\": [1, 2], \"b\": \"x y\"}\0\0garbage",
        ] {
            assert_eq!(lenient(text.as_bytes()), Some(want.clone()), "{text:?}");
        }
        assert_eq!(lenient(b" \r\n"), Some(Value::Null));
        assert_eq!(lenient(b"<html>"), None);
        assert_eq!(lenient(b"{\"a\""), None);
        assert_eq!(lenient(br#"{"a":"b\",]"}"#), Some(json!({"a": "b\",]"})));
    }

    #[test]
    fn values_as_bmcs_write_them() {
        let v = json!({"t": "true", "n": "None", "i": 1, "l": "one", "x": null, "s": "/a"});
        assert_eq!(flag(&v, &["t"]), Some(true));
        assert_eq!(flag(&v, &["i"]), Some(true));
        assert_eq!(flag(&v, &["x"]), None);
        assert_eq!(text(&v, &["n"]), None);
        assert_eq!(texts(&v, &["l"]), Some(vec!["one".to_owned()]));
        assert_eq!(link(&v, &["s"]).as_deref(), Some("/a"));
        assert_eq!(members(&json!({"Members": null})), Vec::<String>::new());
        assert_eq!(members(&json!({"Members": [{"@odata.id": "/a"}, 3, {}]})), ["/a"]);
        assert!(same_uri("/redfish/V1/", "/redfish/v1"));
        let mut ids = vec!["CD10", "CD2", "CD1"];
        ids.sort_by_key(|id| natural(id));
        assert_eq!(ids, ["CD1", "CD2", "CD10"]);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = lenient(&bytes);
        }

        #[test]
        fn good_json_is_left_alone(text in "\\PC{0,60}", n in any::<i64>()) {
            let value = json!({"a": [text, n, {"b": null}]});
            prop_assert_eq!(lenient(value.to_string().as_bytes()), Some(value.clone()));
            prop_assert_eq!(serde_json::from_str::<Value>(&repaired(&value.to_string())).unwrap(), value);
        }
    }
}
