//! Sprig's functions, as far as DRP content uses them. Everything here is pure; argument order is sprig's (the subject
//! last, so that pipes work).

use serde_json::{Map, Value, json};

type Func = fn(&[Value]) -> Result<Value, String>;

/// Name and body.
pub(crate) const FUNCS: &[(&str, Func)] = &[
    ("add", |a| fold(a, 0, i64::checked_add)),
    ("mul", |a| fold(a, 1, i64::checked_mul)),
    ("sub", |a| two_ints(a, i64::checked_sub)),
    ("div", |a| two_ints(a, i64::checked_div)),
    ("mod", |a| two_ints(a, i64::checked_rem)),
    ("add1", |a| {
        int(one(a)?)?.checked_add(1).map(Value::from).ok_or_else(overflow)
    }),
    ("int", |a| int(one(a)?).map(Value::from)),
    ("int64", |a| int(one(a)?).map(Value::from)),
    ("cat", |a| {
        Ok(json!(
            a.iter()
                .filter(|v| !v.is_null())
                .map(text)
                .collect::<Vec<_>>()
                .join(" ")
        ))
    }),
    ("concat", |a| {
        a.iter()
            .map(list)
            .collect::<Result<Vec<_>, _>>()
            .map(|l| Value::Array(l.concat()))
    }),
    ("contains", |a| Ok(json!(text(arg(a, 1)?).contains(&text(arg(a, 0)?))))),
    ("default", |a| {
        Ok(if is_empty(arg(a, 1).unwrap_or(&Value::Null)) {
            arg(a, 0)?
        } else {
            arg(a, 1)?
        }
        .clone())
    }),
    ("dict", dict),
    ("empty", |a| Ok(json!(is_empty(one(a)?)))),
    ("coalesce", |a| {
        Ok(a.iter().find(|v| !is_empty(v)).cloned().unwrap_or(Value::Null))
    }),
    ("fail", |a| Err(text(one(a)?))),
    ("first", |a| Ok(list(one(a)?)?.first().cloned().unwrap_or(Value::Null))),
    ("last", |a| Ok(list(one(a)?)?.last().cloned().unwrap_or(Value::Null))),
    ("rest", |a| {
        Ok(Value::Array(list(one(a)?)?.into_iter().skip(1).collect()))
    }),
    ("get", |a| {
        Ok(map(arg(a, 0)?)?.get(&text(arg(a, 1)?)).cloned().unwrap_or(json!("")))
    }),
    ("hasKey", |a| {
        Ok(json!(map(arg(a, 0)?)?.contains_key(&text(arg(a, 1)?))))
    }),
    ("has", |a| Ok(json!(list(arg(a, 1)?)?.contains(arg(a, 0)?)))),
    ("hasPrefix", |a| {
        Ok(json!(text(arg(a, 1)?).starts_with(&text(arg(a, 0)?))))
    }),
    ("hasSuffix", |a| {
        Ok(json!(text(arg(a, 1)?).ends_with(&text(arg(a, 0)?))))
    }),
    ("indent", |a| indent(a, "")),
    ("nindent", |a| indent(a, "\n")),
    ("join", |a| {
        let parts = match arg(a, 1)? {
            Value::Array(parts) => parts.iter().map(text).collect::<Vec<_>>(),
            other => vec![text(other)],
        };
        Ok(json!(parts.join(&text(arg(a, 0)?))))
    }),
    ("keys", |a| {
        Ok(a.iter()
            .filter_map(Value::as_object)
            .flat_map(|m| m.keys().cloned())
            .map(Value::from)
            .collect())
    }),
    ("list", |a| Ok(Value::Array(a.to_vec()))),
    ("append", |a| {
        list(arg(a, 0)?).and_then(|mut l| {
            l.push(arg(a, 1)?.clone());
            Ok(Value::Array(l))
        })
    }),
    ("prepend", |a| {
        list(arg(a, 0)?).and_then(|mut l| {
            l.insert(0, arg(a, 1)?.clone());
            Ok(Value::Array(l))
        })
    }),
    ("lower", |a| Ok(json!(text(one(a)?).to_lowercase()))),
    ("upper", |a| Ok(json!(text(one(a)?).to_uppercase()))),
    ("quote", |a| {
        Ok(json!(
            a.iter().map(|v| format!("{:?}", text(v))).collect::<Vec<_>>().join(" ")
        ))
    }),
    ("squote", |a| {
        Ok(json!(
            a.iter().map(|v| format!("'{}'", text(v))).collect::<Vec<_>>().join(" ")
        ))
    }),
    ("regexFind", |a| {
        Ok(json!(regex(a)?.find(&text(arg(a, 1)?)).map_or("", |m| m.as_str())))
    }),
    ("regexMatch", |a| Ok(json!(regex(a)?.is_match(&text(arg(a, 1)?))))),
    ("replace", |a| {
        Ok(json!(text(arg(a, 2)?).replace(&text(arg(a, 0)?), &text(arg(a, 1)?))))
    }),
    ("repeat", |a| {
        let (n, what) = (usize::try_from(int(arg(a, 0)?)?).unwrap_or(0), text(arg(a, 1)?));
        if n.saturating_mul(what.len()) > LONGEST {
            Err("the text gets too long".into())
        } else {
            Ok(json!(what.repeat(n)))
        }
    }),
    ("set", |a| {
        let mut changed = map(arg(a, 0)?)?;
        changed.insert(text(arg(a, 1)?), arg(a, 2)?.clone());
        Ok(Value::Object(changed))
    }),
    ("split", |a| {
        let (separator, subject) = (text(arg(a, 0)?), text(arg(a, 1)?));
        Ok(Value::Object(
            parts(&subject, &separator)
                .enumerate()
                .map(|(i, p)| (format!("_{i}"), json!(p)))
                .collect(),
        ))
    }),
    ("splitList", |a| {
        let (separator, subject) = (text(arg(a, 0)?), text(arg(a, 1)?));
        Ok(parts(&subject, &separator).map(Value::from).collect())
    }),
    ("ternary", |a| {
        Ok(if arg(a, 2)? == &json!(true) {
            arg(a, 0)?
        } else {
            arg(a, 1)?
        }
        .clone())
    }),
    ("toJson", |a| Ok(json!(one(a)?.to_string()))),
    ("toPrettyJson", |a| {
        serde_json::to_string_pretty(one(a)?)
            .map(Value::from)
            .map_err(|e| e.to_string())
    }),
    ("fromJson", |a| {
        serde_json::from_str(&text(one(a)?)).map_err(|e| e.to_string())
    }),
    ("toString", |a| Ok(json!(text(one(a)?)))),
    ("trim", |a| Ok(json!(text(one(a)?).trim()))),
    ("trimAll", |a| {
        let cut = text(arg(a, 0)?);
        Ok(json!(text(arg(a, 1)?).trim_matches(|c| cut.contains(c))))
    }),
    ("trimPrefix", |a| {
        let (p, s) = (text(arg(a, 0)?), text(arg(a, 1)?));
        Ok(json!(s.strip_prefix(&p).unwrap_or(&s)))
    }),
    ("trimSuffix", |a| {
        let (p, s) = (text(arg(a, 0)?), text(arg(a, 1)?));
        Ok(json!(s.strip_suffix(&p).unwrap_or(&s)))
    }),
    ("uniq", |a| {
        let mut seen: Vec<Value> = Vec::new();
        for value in list(one(a)?)? {
            if !seen.contains(&value) {
                seen.push(value);
            }
        }
        Ok(Value::Array(seen))
    }),
];

/// Longest text that a function makes.
const LONGEST: usize = 1 << 20;

fn arg(args: &[Value], n: usize) -> Result<&Value, String> {
    args.get(n).ok_or_else(|| format!("argument {} is missing", n + 1))
}

fn one(args: &[Value]) -> Result<&Value, String> {
    arg(args, 0)
}

fn overflow() -> String {
    "the number gets too large".to_owned()
}

fn int(value: &Value) -> Result<i64, String> {
    match value {
        Value::Number(n) => Ok(n.as_i64().unwrap_or_else(|| n.as_f64().unwrap_or(0.0) as i64)),
        Value::Bool(b) => Ok(i64::from(*b)),
        Value::String(s) => Ok(s.trim().parse().unwrap_or(0)),
        Value::Null => Ok(0),
        other => Err(format!("{other} is no number")),
    }
}

fn fold(args: &[Value], start: i64, op: fn(i64, i64) -> Option<i64>) -> Result<Value, String> {
    args.iter()
        .try_fold(start, |sum, v| op(sum, int(v)?).ok_or_else(overflow))
        .map(Value::from)
}

fn two_ints(args: &[Value], op: fn(i64, i64) -> Option<i64>) -> Result<Value, String> {
    op(int(arg(args, 0)?)?, int(arg(args, 1)?)?)
        .map(Value::from)
        .ok_or_else(|| "that cannot be computed".to_owned())
}

/// A value as text, as Go prints it.
pub(crate) fn text(value: &Value) -> String {
    match value {
        Value::String(s) => s.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn list(value: &Value) -> Result<Vec<Value>, String> {
    match value {
        Value::Array(list) => Ok(list.clone()),
        Value::Null => Ok(Vec::new()),
        other => Err(format!("{other} is no list")),
    }
}

fn map(value: &Value) -> Result<Map<String, Value>, String> {
    match value {
        Value::Object(map) => Ok(map.clone()),
        Value::Null => Ok(Map::new()),
        other => Err(format!("{other} is no map")),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

fn parts<'a>(subject: &'a str, separator: &str) -> Box<dyn Iterator<Item = String> + 'a> {
    if separator.is_empty() {
        return Box::new(subject.chars().map(String::from));
    }
    let parts: Vec<String> = subject.split(separator).map(str::to_owned).collect();
    Box::new(parts.into_iter())
}

fn dict(args: &[Value]) -> Result<Value, String> {
    Ok(Value::Object(
        args.chunks(2)
            .map(|pair| (text(&pair[0]), pair.get(1).cloned().unwrap_or(json!(""))))
            .collect(),
    ))
}

fn indent(args: &[Value], before: &str) -> Result<Value, String> {
    let pad = " ".repeat(usize::try_from(int(arg(args, 0)?)?).unwrap_or(0).min(200));
    let lines = text(arg(args, 1)?).replace('\n', &format!("\n{pad}"));
    if lines.len() > LONGEST {
        return Err("the text gets too long".to_owned());
    }
    Ok(json!(format!("{before}{pad}{lines}")))
}

/// Compiled each time: content matches seldom, and a size limit keeps a hostile pattern small.
fn regex(args: &[Value]) -> Result<regex::Regex, String> {
    let pattern = text(arg(args, 0)?);
    regex::RegexBuilder::new(&pattern)
        .size_limit(1 << 18)
        .build()
        .map_err(|e| e.to_string())
}
