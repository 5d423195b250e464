//! The functions of sprig that DRP content calls, on JSON values. They see nothing but their arguments:
//! those of sprig that read the environment or the clock are not here.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use regex::Regex;
use serde_json::{Map, Value, json};
use sha2::Digest as _;

use crate::printf;

pub(crate) type Function = fn(&[Value]) -> Result<Value, String>;

/// All functions, by name.
pub(crate) const FUNCTIONS: &[(&str, Function)] = &[
    ("add", |a| fold_int(a, 0, i64::checked_add)),
    ("add1", |a| {
        int(a, 0)?.checked_add(1).map(Value::from).ok_or_else(overflow)
    }),
    ("append", |a| push(a, true)),
    ("atoi", |a| Ok(string(a, 0)?.trim().parse::<i64>().unwrap_or(0).into())),
    ("b64dec", |a| {
        let bytes = STANDARD.decode(string(a, 0)?).map_err(|err| err.to_string())?;
        Ok(String::from_utf8_lossy(&bytes).into_owned().into())
    }),
    ("b64enc", |a| Ok(STANDARD.encode(string(a, 0)?).into())),
    ("base", |a| Ok(base(&string(a, 0)?).into())),
    ("cat", |a| {
        Ok(a.iter()
            .filter(|v| !v.is_null())
            .map(show)
            .collect::<Vec<_>>()
            .join(" ")
            .into())
    }),
    ("ceil", |a| Ok(number(float(a, 0)?.ceil()))),
    ("coalesce", |a| {
        Ok(a.iter().find(|v| !is_empty(v)).cloned().unwrap_or(Value::Null))
    }),
    ("compact", |a| {
        Ok(items(a, 0)?
            .iter()
            .filter(|v| !is_empty(v))
            .cloned()
            .collect::<Vec<_>>()
            .into())
    }),
    ("concat", |a| {
        let mut all = Vec::new();
        for at in 0..a.len() {
            all.extend_from_slice(items(a, at)?);
        }
        Ok(all.into())
    }),
    ("contains", |a| Ok(string(a, 1)?.contains(&string(a, 0)?).into())),
    ("default", |a| {
        let value = a.get(1).filter(|v| !is_empty(v)).or(a.first());
        value.cloned().ok_or_else(|| missing(0))
    }),
    ("dict", dict),
    ("dir", |a| Ok(dir(&string(a, 0)?).into())),
    ("div", |a| {
        int(a, 0)?.checked_div(int(a, 1)?).map(Value::from).ok_or_else(by_zero)
    }),
    ("empty", |a| Ok(is_empty(a.first().unwrap_or(&Value::Null)).into())),
    ("fail", |a| Err(string(a, 0)?)),
    ("first", |a| Ok(items(a, 0)?.first().cloned().unwrap_or(Value::Null))),
    ("float64", |a| Ok(json!(float(a, 0)?))),
    ("floor", |a| Ok(number(float(a, 0)?.floor()))),
    ("fromJson", |a| {
        serde_json::from_str(&string(a, 0)?).map_err(|err| err.to_string())
    }),
    ("get", |a| {
        Ok(members(a, 0)?.get(&string(a, 1)?).cloned().unwrap_or_else(|| "".into()))
    }),
    ("has", |a| {
        Ok(items(a, 1)?.contains(a.first().ok_or_else(|| missing(0))?).into())
    }),
    ("hasKey", |a| Ok(members(a, 0)?.contains_key(&string(a, 1)?).into())),
    ("hasPrefix", |a| Ok(string(a, 1)?.starts_with(&string(a, 0)?).into())),
    ("hasSuffix", |a| Ok(string(a, 1)?.ends_with(&string(a, 0)?).into())),
    ("indent", |a| indent(a).map(Value::from)),
    ("initial", |a| {
        Ok(items(a, 0)?
            .split_last()
            .map_or(&[][..], |(_, init)| init)
            .to_vec()
            .into())
    }),
    ("int", |a| Ok(lenient_int(a.first().unwrap_or(&Value::Null)).into())),
    ("int64", |a| Ok(lenient_int(a.first().unwrap_or(&Value::Null)).into())),
    ("join", |a| {
        let separator = string(a, 0)?;
        match a.get(1) {
            Some(Value::Array(items)) => Ok(items.iter().map(show).collect::<Vec<_>>().join(&separator).into()),
            Some(other) => Ok(show(other).into()),
            None => Err(missing(1)),
        }
    }),
    ("keys", |a| {
        let mut keys = Vec::new();
        for at in 0..a.len() {
            keys.extend(members(a, at)?.keys().cloned().map(Value::from));
        }
        Ok(keys.into())
    }),
    ("kindIs", |a| {
        Ok((string(a, 0)? == kind(a.get(1).unwrap_or(&Value::Null))).into())
    }),
    ("kindOf", |a| Ok(kind(a.first().unwrap_or(&Value::Null)).into())),
    ("last", |a| Ok(items(a, 0)?.last().cloned().unwrap_or(Value::Null))),
    ("list", |a| Ok(a.to_vec().into())),
    ("lower", |a| Ok(string(a, 0)?.to_lowercase().into())),
    ("max", |a| fold_int(a, i64::MIN, |x, y| Some(x.max(y)))),
    ("merge", |a| {
        let mut merged = members(a, 0)?.clone();
        for at in 1..a.len() {
            merge(&mut merged, members(a, at)?);
        }
        Ok(merged.into())
    }),
    ("min", |a| fold_int(a, i64::MAX, |x, y| Some(x.min(y)))),
    ("mod", |a| {
        int(a, 0)?.checked_rem(int(a, 1)?).map(Value::from).ok_or_else(by_zero)
    }),
    ("mul", |a| fold_int(a, 1, i64::checked_mul)),
    ("nindent", |a| Ok(format!("\n{}", indent(a)?).into())),
    ("nospace", |a| {
        Ok(string(a, 0)?.split_whitespace().collect::<String>().into())
    }),
    ("omit", |a| {
        let mut map = members(a, 0)?.clone();
        for at in 1..a.len() {
            map.shift_remove(&string(a, at)?);
        }
        Ok(map.into())
    }),
    ("pick", |a| {
        let names: Vec<_> = (1..a.len()).map(|at| string(a, at)).collect::<Result<_, _>>()?;
        let picked = members(a, 0)?.iter().filter(|(name, _)| names.contains(name));
        Ok(picked
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect::<Map<_, _>>()
            .into())
    }),
    ("pluck", |a| {
        let name = string(a, 0)?;
        let mut found = Vec::new();
        for at in 1..a.len() {
            found.extend(members(a, at)?.get(&name).cloned());
        }
        Ok(found.into())
    }),
    ("prepend", |a| push(a, false)),
    ("quote", |a| Ok(quoted(a, |text| Value::from(text).to_string()))),
    ("regexFind", |a| {
        let text = string(a, 1)?;
        Ok(regex(a)?.find(&text).map_or("", |found| found.as_str()).into())
    }),
    ("regexFindAll", |a| {
        let limit = usize::try_from(int(a, 2).unwrap_or(-1)).unwrap_or(usize::MAX);
        let text = string(a, 1)?;
        Ok(regex(a)?
            .find_iter(&text)
            .take(limit)
            .map(|found| found.as_str().into())
            .collect::<Vec<Value>>()
            .into())
    }),
    ("regexMatch", |a| Ok(regex(a)?.is_match(&string(a, 1)?).into())),
    ("regexReplaceAll", |a| {
        let (text, with) = (string(a, 1)?, string(a, 2)?);
        Ok(regex(a)?.replace_all(&text, with).into_owned().into())
    }),
    ("regexReplaceAllLiteral", |a| {
        let (text, with) = (string(a, 1)?, string(a, 2)?);
        Ok(regex(a)?.replace_all(&text, regex::NoExpand(&with)).into_owned().into())
    }),
    ("regexSplit", |a| {
        let text = string(a, 1)?;
        let regex = regex(a)?;
        let parts: Vec<Value> = match usize::try_from(int(a, 2).unwrap_or(-1)) {
            Ok(limit) => regex.splitn(&text, limit).map(Value::from).collect(),
            Err(_) => regex.split(&text).map(Value::from).collect(),
        };
        Ok(parts.into())
    }),
    ("repeat", |a| {
        let count = usize::try_from(int(a, 0)?).map_err(|_| "the count is negative")?;
        let text = string(a, 1)?;
        if count.saturating_mul(text.len()) > MAX_REPEAT {
            return Err(format!("makes text of more than {MAX_REPEAT} bytes"));
        }
        Ok(text.repeat(count).into())
    }),
    ("replace", |a| {
        let (old, new, text) = (string(a, 0)?, string(a, 1)?, string(a, 2)?);
        if (text.len() + 1).saturating_mul(new.len() + 1) > MAX_REPEAT * 16 {
            return Err("the replacement may grow too large".to_owned());
        }
        Ok(text.replace(&old, &new).into())
    }),
    ("rest", |a| {
        Ok(items(a, 0)?.get(1..).unwrap_or_default().to_vec().into())
    }),
    ("reverse", |a| {
        Ok(items(a, 0)?.iter().rev().cloned().collect::<Vec<_>>().into())
    }),
    ("round", |a| {
        let factor = 10f64.powi(i32::try_from(int(a, 1).unwrap_or(0).clamp(-18, 18)).unwrap_or(0));
        Ok(number((float(a, 0)? * factor).round() / factor))
    }),
    ("set", |a| {
        let mut map = members(a, 0)?.clone();
        map.insert(string(a, 1)?, a.get(2).cloned().ok_or_else(|| missing(2))?);
        Ok(map.into())
    }),
    ("sha256sum", |a| {
        Ok(hex::encode(sha2::Sha256::digest(string(a, 0)?)).into())
    }),
    ("sortAlpha", |a| {
        let mut texts: Vec<_> = items(a, 0)?.iter().map(show).collect();
        texts.sort_unstable();
        Ok(texts.into())
    }),
    ("split", |a| {
        let (separator, text) = (string(a, 0)?, string(a, 1)?);
        let parts = text.split(&separator).enumerate();
        Ok(parts
            .map(|(at, part)| (format!("_{at}"), part.into()))
            .collect::<Map<_, _>>()
            .into())
    }),
    ("splitList", |a| {
        let (separator, text) = (string(a, 0)?, string(a, 1)?);
        Ok(text.split(&separator).map(Value::from).collect::<Vec<_>>().into())
    }),
    ("squote", |a| Ok(quoted(a, |text| format!("'{text}'")))),
    ("sub", |a| {
        int(a, 0)?.checked_sub(int(a, 1)?).map(Value::from).ok_or_else(overflow)
    }),
    ("substr", |a| {
        let text = string(a, 2)?;
        let (start, end) = (int(a, 0)?, int(a, 1)?);
        let chars: Vec<char> = text.chars().collect();
        let start = usize::try_from(start).unwrap_or(0).min(chars.len());
        let end = usize::try_from(end).unwrap_or(chars.len()).clamp(start, chars.len());
        Ok(chars[start..end].iter().collect::<String>().into())
    }),
    ("ternary", |a| {
        let chosen = if a.get(2) == Some(&Value::Bool(true)) {
            a.first()
        } else {
            a.get(1)
        };
        chosen.cloned().ok_or_else(|| missing(2))
    }),
    ("title", |a| Ok(title(&string(a, 0)?).into())),
    ("toJson", |a| {
        Ok(escaped(&as_go_writes(a.first().unwrap_or(&Value::Null)).to_string()).into())
    }),
    ("toPrettyJson", |a| {
        serde_json::to_string_pretty(&as_go_writes(a.first().unwrap_or(&Value::Null)))
            .map(|json| escaped(&json).into())
            .map_err(|err| err.to_string())
    }),
    ("toString", |a| Ok(show(a.first().unwrap_or(&Value::Null)).into())),
    ("toStrings", |a| {
        Ok(items(a, 0)?.iter().map(show).collect::<Vec<_>>().into())
    }),
    ("trim", |a| Ok(string(a, 0)?.trim().into())),
    ("trimAll", |a| {
        let cut: Vec<char> = string(a, 0)?.chars().collect();
        Ok(string(a, 1)?.trim_matches(cut.as_slice()).into())
    }),
    ("trimPrefix", |a| {
        let text = string(a, 1)?;
        Ok(text.strip_prefix(&string(a, 0)?).unwrap_or(&text).into())
    }),
    ("trimSuffix", |a| {
        let text = string(a, 1)?;
        Ok(text.strip_suffix(&string(a, 0)?).unwrap_or(&text).into())
    }),
    ("trunc", |a| {
        let text = string(a, 1)?;
        let count = int(a, 0)?;
        let length = text.chars().count();
        let wanted = usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX).min(length);
        let skipped = if count < 0 { length - wanted } else { 0 };
        Ok(text.chars().skip(skipped).take(wanted).collect::<String>().into())
    }),
    ("tuple", |a| Ok(a.to_vec().into())),
    ("typeOf", |a| Ok(kind(a.first().unwrap_or(&Value::Null)).into())),
    ("uniq", |a| {
        let mut seen: Vec<Value> = Vec::new();
        for item in items(a, 0)? {
            if !seen.contains(item) {
                seen.push(item.clone());
            }
        }
        Ok(seen.into())
    }),
    ("unset", |a| {
        let mut map = members(a, 0)?.clone();
        map.shift_remove(&string(a, 1)?);
        Ok(map.into())
    }),
    ("until", |a| count(0, int(a, 0)?, if int(a, 0)? < 0 { -1 } else { 1 })),
    ("untilStep", |a| count(int(a, 0)?, int(a, 1)?, int(a, 2)?)),
    ("untitle", |a| {
        let mut at_start = true;
        let small = |c: char| {
            let first = std::mem::replace(&mut at_start, c.is_whitespace());
            if first {
                c.to_lowercase().collect::<Vec<_>>()
            } else {
                vec![c]
            }
        };
        Ok(string(a, 0)?.chars().flat_map(small).collect::<String>().into())
    }),
    ("upper", |a| Ok(string(a, 0)?.to_uppercase().into())),
    ("values", |a| {
        Ok(members(a, 0)?.values().cloned().collect::<Vec<_>>().into())
    }),
    ("without", |a| {
        let unwanted = a.get(1..).unwrap_or_default();
        Ok(items(a, 0)?
            .iter()
            .filter(|item| !unwanted.contains(item))
            .cloned()
            .collect::<Vec<_>>()
            .into())
    }),
];

const MAX_REPEAT: usize = 1 << 20;
const MAX_COUNT: usize = 50_000;

pub(crate) fn missing(at: usize) -> String {
    format!("argument {} is missing", at + 1)
}

fn overflow() -> String {
    "the number is too large".to_owned()
}

fn by_zero() -> String {
    "division by zero".to_owned()
}

/// A value as Go prints it.
pub(crate) fn show(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(" ")),
        Value::Object(members) => {
            let members: Vec<_> = members
                .iter()
                .map(|(name, value)| format!("{name}:{}", show(value)))
                .collect();
            format!("map[{}]", members.join(" "))
        }
        Value::Number(number) if number.is_f64() => printf::float(number.as_f64().unwrap_or_default()),
        other => other.to_string(),
    }
}

/// A value as Go writes it: keys sorted, and a float without a fraction as a whole number.
pub(crate) fn as_go_writes(value: &Value) -> Value {
    match value {
        Value::Number(number) if number.is_f64() => match number.as_f64() {
            // Below 2^53 every whole number is itself.
            Some(float) if float.fract() == 0.0 && float.abs() < 9e15 => (float as i64).into(),
            _ => value.clone(),
        },
        Value::Array(items) => items.iter().map(as_go_writes).collect::<Vec<_>>().into(),
        Value::Object(members) => {
            let mut written: Vec<_> = members
                .iter()
                .map(|(name, value)| (name.clone(), as_go_writes(value)))
                .collect();
            written.sort_by(|(a, _), (b, _)| a.cmp(b));
            written.into_iter().collect::<Map<_, _>>().into()
        }
        other => other.clone(),
    }
}

/// JSON that may stand in HTML, as Go's encoder writes it.
fn escaped(json: &str) -> String {
    json.replace('&', "\\u0026")
        .replace('<', "\\u003c")
        .replace('>', "\\u003e")
}

pub(crate) fn string(arguments: &[Value], at: usize) -> Result<String, String> {
    arguments.get(at).map(show).ok_or_else(|| missing(at))
}

pub(crate) fn int(arguments: &[Value], at: usize) -> Result<i64, String> {
    arguments.get(at).map(lenient_int).ok_or_else(|| missing(at))
}

/// sprig makes 0 of everything that is no number.
pub(crate) fn lenient_int(value: &Value) -> i64 {
    match value {
        Value::Bool(truth) => i64::from(*truth),
        // The cast cuts off the fraction and stops at the ends of the range, as wanted.
        Value::Number(number) => number
            .as_i64()
            .unwrap_or_else(|| number.as_f64().unwrap_or_default() as i64),
        Value::String(text) => text.trim().parse().unwrap_or(0),
        _ => 0,
    }
}

pub(crate) fn float(arguments: &[Value], at: usize) -> Result<f64, String> {
    let value = arguments.get(at).ok_or_else(|| missing(at))?;
    Ok(match value {
        Value::Number(number) => number.as_f64().unwrap_or_default(),
        Value::String(text) => text.trim().parse().unwrap_or_default(),
        _ => 0.0,
    })
}

pub(crate) fn number(float: f64) -> Value {
    json!(float)
}

pub(crate) fn items(arguments: &[Value], at: usize) -> Result<&[Value], String> {
    match arguments.get(at) {
        Some(Value::Array(items)) => Ok(items),
        Some(Value::Null) => Ok(&[]),
        Some(_) => Err(format!("argument {} must be a list", at + 1)),
        None => Err(missing(at)),
    }
}

pub(crate) fn members(arguments: &[Value], at: usize) -> Result<&Map<String, Value>, String> {
    match arguments.get(at) {
        Some(Value::Object(members)) => Ok(members),
        Some(_) => Err(format!("argument {} must be a map", at + 1)),
        None => Err(missing(at)),
    }
}

pub(crate) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(truth) => !truth,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
    }
}

pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "invalid",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int",
        Value::String(_) => "string",
        Value::Array(_) => "slice",
        Value::Object(_) => "map",
    }
}

fn fold_int(arguments: &[Value], start: i64, step: fn(i64, i64) -> Option<i64>) -> Result<Value, String> {
    let sum = arguments.iter().map(lenient_int).try_fold(start, step);
    sum.map(Value::from).ok_or_else(overflow)
}

fn dict(arguments: &[Value]) -> Result<Value, String> {
    let pairs = arguments
        .chunks(2)
        .map(|pair| (show(&pair[0]), pair.get(1).cloned().unwrap_or_else(|| "".into())));
    Ok(pairs.collect::<Map<_, _>>().into())
}

fn push(arguments: &[Value], at_end: bool) -> Result<Value, String> {
    let item = arguments.get(1).cloned().ok_or_else(|| missing(1))?;
    let mut list = items(arguments, 0)?.to_vec();
    list.insert(if at_end { list.len() } else { 0 }, item);
    Ok(list.into())
}

/// What the nearer map does not have is taken from the farther one, at every depth.
fn merge(near: &mut Map<String, Value>, far: &Map<String, Value>) {
    for (name, value) in far {
        match (near.get_mut(name), value) {
            (Some(Value::Object(near)), Value::Object(far)) => merge(near, far),
            (Some(present), _) if !is_empty(present) => {}
            _ => {
                near.insert(name.clone(), value.clone());
            }
        }
    }
}

fn indent(arguments: &[Value]) -> Result<String, String> {
    let width = usize::try_from(int(arguments, 0)?).unwrap_or(0).min(256);
    let text = string(arguments, 1)?;
    let pad = " ".repeat(width);
    let lines = text.split('\n').count();
    if lines.saturating_mul(width) > MAX_REPEAT {
        return Err(format!("makes text of more than {MAX_REPEAT} bytes"));
    }
    Ok(format!("{pad}{}", text.replace('\n', &format!("\n{pad}"))))
}

fn quoted(arguments: &[Value], quote: fn(String) -> String) -> Value {
    arguments
        .iter()
        .filter(|v| !v.is_null())
        .map(|v| quote(show(v)))
        .collect::<Vec<_>>()
        .join(" ")
        .into()
}

pub(crate) fn regex(arguments: &[Value]) -> Result<Regex, String> {
    let pattern = string(arguments, 0)?;
    // The pattern comes from a template: bound what compiling it may use.
    regex::RegexBuilder::new(&pattern)
        .size_limit(1 << 20)
        .build()
        .map_err(|err| err.to_string())
}

fn count(start: i64, stop: i64, step: i64) -> Result<Value, String> {
    let goes = step != 0 && (stop > start) == (step > 0) && start != stop;
    if !goes {
        return Ok(Value::Array(Vec::new()));
    }
    let numbers = std::iter::successors(Some(start), |number| number.checked_add(step));
    let numbers: Vec<Value> = numbers
        .take_while(|number| if step > 0 { *number < stop } else { *number > stop })
        .take(MAX_COUNT + 1)
        .map(Value::from)
        .collect();
    if numbers.len() > MAX_COUNT {
        Err(format!("counts more than {MAX_COUNT} numbers"))
    } else {
        Ok(numbers.into())
    }
}

pub(crate) fn title(text: &str) -> String {
    let mut at_start = true;
    text.chars()
        .flat_map(|c| {
            let upper = at_start && c.is_alphabetic();
            at_start = c.is_whitespace();
            if upper {
                c.to_uppercase().collect::<Vec<_>>()
            } else {
                vec![c]
            }
        })
        .collect()
}

fn base(path: &str) -> &str {
    let trimmed = path.trim_end_matches('/');
    match (path.is_empty(), trimmed.is_empty()) {
        (true, _) => ".",
        (false, true) => "/",
        _ => trimmed.rsplit('/').next().unwrap_or(trimmed),
    }
}

fn dir(path: &str) -> &str {
    match path.rsplit_once('/') {
        None => ".",
        Some(("", _)) => "/",
        Some((dir, _)) => dir,
    }
}
