//! What the engine's `printf` does not know of Go's: verbs on lists, which go to each element, and `%T`.

use gotmpl::Value;

use crate::value::from_json;

/// Prepares arguments and format so that the engine's own `printf` gives what Go's gives. Formats with `*` or `[n]` are
/// left as they are.
pub(crate) fn prepare(
    format: &str,
    arguments: &[Value],
    each: &dyn Fn(&str, &Value) -> Result<String, String>,
) -> Result<Option<Vec<Value>>, String> {
    let wanted = |value: &Value| matches!(value, Value::List(_));
    if format.contains(['*', '[']) || !(arguments.iter().any(wanted) || format.contains(['T', '#'])) {
        return Ok(None);
    }
    let (mut text, mut changed) = (String::new(), Vec::new());
    let mut chars = format.chars();
    let mut next = arguments.iter();
    while let Some(c) = chars.next() {
        text.push(c);
        if c != '%' {
            continue;
        }
        let mut spec = String::from("%");
        let verb = chars.by_ref().find(|c| {
            let flag = matches!(c, '+' | '-' | '#' | ' ' | '0'..='9' | '.');
            if flag {
                spec.push(*c);
            }
            !flag
        });
        let Some(verb) = verb else {
            text.push_str(&spec[1..]);
            break;
        };
        if verb == '%' {
            text.push_str(&spec[1..]);
            text.push('%');
            continue;
        }
        let argument = next.next();
        let said = match (verb, argument) {
            ('T', Some(value)) => Some(type_of(value).to_owned()),
            ('v', Some(Value::String(text))) if spec.contains('#') => Some(each("%q", &Value::String(text.clone()))?),
            ('v', _) | (_, None) => None,
            (verb, Some(Value::List(items))) => {
                let one = format!("{spec}{verb}");
                let items: Result<Vec<_>, _> = items.iter().map(|item| each(&one, item)).collect();
                Some(format!("[{}]", items?.join(" ")))
            }
            _ => None,
        };
        match (said, argument) {
            (Some(said), _) => {
                text.push('s');
                changed.push(from_json(&said.into()));
            }
            (None, argument) => {
                text.push_str(&spec[1..]);
                text.push(verb);
                changed.extend(argument.cloned());
            }
        }
    }
    changed.extend(next.cloned());
    changed.insert(0, from_json(&text.into()));
    Ok(Some(changed))
}

/// Go's name of a value's type, as JSON values have it there.
pub(crate) fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Nil => "<nil>",
        Value::Bool(_) => "bool",
        Value::Int(_) | Value::Uint(_) => "int",
        Value::Float(_) => "float64",
        Value::String(_) => "string",
        Value::List(_) => "[]interface {}",
        Value::Map(_) => "map[string]interface {}",
        Value::Function(_) => "func",
    }
}

/// A number as Go's `%v` prints it: the shortest digits that mean it, with an exponent below 1e-4 and from 1e6.
pub(crate) fn float(number: f64) -> String {
    if number == 0.0 || !number.is_finite() {
        return match number {
            n if n.is_nan() => "NaN".to_owned(),
            n if n.is_infinite() => if n > 0.0 { "+Inf" } else { "-Inf" }.to_owned(),
            n if n.is_sign_negative() => "-0".to_owned(),
            _ => "0".to_owned(),
        };
    }
    // `{:e}` is the shortest form: 1.5e300.
    let short = format!("{number:e}");
    let (digits, exponent) = short.split_once('e').unwrap_or((&short, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if (-4..6).contains(&exponent) {
        return format!("{number}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}
