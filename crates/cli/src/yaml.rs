//! YAML as the original prints it, by the rules of libyaml's emitter: lists are not indented below their name, texts of
//! several lines stand as they are, long plain texts break at a blank behind column 80.

use serde_json::{Map, Value};

const WIDTH: usize = 80;

/// A value as a document. Members are taken in the order they have.
pub(crate) fn render(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(members) if !members.is_empty() => map(&mut out, members, 0, true),
        Value::Array(items) if !items.is_empty() => list(&mut out, items, 0, true),
        scalar => {
            leaf(&mut out, scalar, 0);
            out.push('\n');
        }
    }
    out
}

fn indent(out: &mut String, by: usize) {
    out.extend(std::iter::repeat_n(' ', by));
}

/// `inline`: the first member goes where the cursor is.
fn map(out: &mut String, members: &Map<String, Value>, at: usize, inline: bool) {
    for (n, (name, value)) in members.iter().enumerate() {
        if n > 0 || !inline {
            indent(out, at);
        }
        leaf(out, &Value::from(name.as_str()), at);
        out.push(':');
        below(out, value, at, at);
    }
}

fn list(out: &mut String, items: &[Value], at: usize, inline: bool) {
    for (n, item) in items.iter().enumerate() {
        if n > 0 || !inline {
            indent(out, at);
        }
        out.push('-');
        match item {
            Value::Object(members) if !members.is_empty() => {
                out.push(' ');
                map(out, members, at + 2, true);
            }
            Value::Array(items) if !items.is_empty() => {
                out.push(' ');
                list(out, items, at + 2, true);
            }
            scalar => {
                out.push(' ');
                leaf(out, scalar, at);
                out.push('\n');
            }
        }
    }
}

/// What stands behind `name:`.
fn below(out: &mut String, value: &Value, at: usize, list_at: usize) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            out.push('\n');
            map(out, members, at + 2, false);
        }
        Value::Array(items) if !items.is_empty() => {
            out.push('\n');
            list(out, items, list_at, false);
        }
        scalar => {
            out.push(' ');
            leaf(out, scalar, at);
            out.push('\n');
        }
    }
}

fn leaf(out: &mut String, value: &Value, at: usize) {
    match value {
        Value::Object(_) => out.push_str("{}"),
        Value::Array(_) => out.push_str("[]"),
        Value::String(text) => string(out, text, at),
        other => out.push_str(&other.to_string()),
    }
}

fn string(out: &mut String, text: &str, at: usize) {
    if text.is_empty() || means_something_else(text) || text.chars().any(|c| c.is_control() && c != '\n') {
        // JSON's escapes are YAML's.
        out.push_str(&Value::from(text).to_string());
    } else if text.contains('\n') {
        let body = text.trim_end_matches('\n');
        let ends = text.len() - body.len();
        let hint = if text.starts_with([' ', '\n']) { "2" } else { "" };
        let chomp = ["-", ""].get(ends).copied().unwrap_or("+");
        out.push_str(&format!("|{hint}{chomp}"));
        for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
            out.push('\n');
            if !line.is_empty() {
                indent(out, at + 2);
                out.push_str(line);
            }
        }
    } else if is_plain(text) {
        folded(out, text, at);
    } else {
        folded(out, &format!("'{}'", text.replace('\'', "''")), at);
    }
}

/// Writes a text that may break at its blanks.
fn folded(out: &mut String, text: &str, at: usize) {
    let mut column = out.chars().rev().take_while(|c| *c != '\n').count();
    let mut before = '\0';
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        if c == ' ' && before != ' ' && column > WIDTH && rest.peek().is_some_and(|next| *next != ' ') {
            out.push('\n');
            indent(out, at + 2);
            column = at + 2;
        } else {
            out.push(c);
            column += 1;
        }
        before = c;
    }
}

/// Whether a text without quotes would be read as a number, a truth, nothing, or a time.
fn means_something_else(text: &str) -> bool {
    let words = [
        "null", "~", "true", "false", "yes", "no", "on", "off", "y", "n", ".inf", "-.inf", ".nan", "<<", "=",
    ];
    let lower = text.to_ascii_lowercase();
    words.contains(&lower.as_str())
        || text
            .replace('_', "")
            .parse::<f64>()
            .is_ok_and(|_| !lower.contains("inf") && !lower.contains("nan"))
        || ["0x", "0o", "0b"].iter().any(|base| lower.starts_with(base))
        || text.len() >= 10 && text.as_bytes()[..4].iter().all(u8::is_ascii_digit) && text.as_bytes()[4] == b'-'
}

fn is_plain(text: &str) -> bool {
    let first = text.chars().next().unwrap_or(' ');
    let second = text.chars().nth(1).unwrap_or(' ');
    let starts = match first {
        '-' | '?' | ':' => second != ' ' && text.len() > 1,
        c => !"#,[]{}&*!|>'\"%@` ".contains(c),
    };
    starts && !text.starts_with("---") && !text.ends_with([' ', ':']) && !text.contains(": ") && !text.contains(" #")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn documents_look_as_users_of_drp_know_them() {
        let long = "a".repeat(60);
        let value = json!([{
            "A": "", "B": [], "C": {}, "D": "6", "E": "BasicStore: >=3.12.0", "F": "DEFAULT local\nPROMPT 0\n",
            "G": [{"H": true, "I": [1, "x y"]}], "J": {"K": null, "L": "it's"}, "M": format!("{long} {long} {long}"),
            "NN": "no end\nhere", "O": "no", "P": "'q'", "Q": "{{.x}}"
        }]);
        let want = format!(
            "- A: \"\"\n  B: []\n  C: {{}}\n  D: \"6\"\n  E: 'BasicStore: >=3.12.0'\n  F: |\n    DEFAULT local\n    PROMPT 0\n  \
             G:\n  - H: true\n    I:\n    - 1\n    - x y\n  J:\n    K: null\n    L: it's\n  M: {long} {long}\n    {long}\n  \
             NN: |-\n    no end\n    here\n  O: \"no\"\n  P: '''q'''\n  Q: '{{{{.x}}}}'\n"
        );
        assert_eq!(render(&value), want);
        assert_eq!(
            (render(&json!({})), render(&json!("x"))),
            ("{}\n".to_owned(), "x\n".to_owned())
        );
    }

    #[test]
    fn what_is_written_reads_back() {
        for text in [
            "",
            " a",
            "a ",
            "a: b",
            "- a",
            "#a",
            "1e3",
            "null",
            "2001-01-01",
            "a\n\n",
            "\n a\n",
            "\ttab",
            "é",
            "0x1f",
            "a #b",
            "x:",
        ] {
            let value = json!({ "k": text, "l": [text] });
            let back: Value = serde_yaml_ng::from_str(&render(&value)).unwrap_or_default();
            assert_eq!(back, value, "{}", render(&value));
        }
    }
}
