//! The rest of sprig's generic functions that see nothing but their arguments. Not here: those that read the clock, the
//! environment or the network, that draw random numbers, or make keys.

use serde_json::{Map, Value, json};

use crate::sprig::{
    Function, as_go_writes, float, int, is_empty, items, kind, lenient_int, members, missing, number, show, string,
};

/// Most items that `seq` counts to, and words that are wrapped.
const MAX_COUNT: i64 = 50_000;
/// Longest text that is padded or wrapped, in bytes.
const MAX_TEXT: usize = 1 << 20;

/// Names that mean the same here: an error of `fromJson` ends a rendering as that of `mustFromJson` does.
pub(crate) const ALIASES: &[(&str, &str)] = &[
    ("biggest", "max"),
    ("mustAppend", "append"),
    ("mustChunk", "chunk"),
    ("mustCompact", "compact"),
    ("mustDeepCopy", "deepCopy"),
    ("mustFirst", "first"),
    ("mustFromJson", "fromJson"),
    ("mustHas", "has"),
    ("mustInitial", "initial"),
    ("mustLast", "last"),
    ("mustMerge", "merge"),
    ("mustMergeOverwrite", "mergeOverwrite"),
    ("mustPrepend", "prepend"),
    ("mustPush", "append"),
    ("mustRegexFind", "regexFind"),
    ("mustRegexFindAll", "regexFindAll"),
    ("mustRegexMatch", "regexMatch"),
    ("mustRegexReplaceAll", "regexReplaceAll"),
    ("mustRegexReplaceAllLiteral", "regexReplaceAllLiteral"),
    ("mustRegexSplit", "regexSplit"),
    ("mustRest", "rest"),
    ("mustReverse", "reverse"),
    ("mustToJson", "toJson"),
    ("mustToPrettyJson", "toPrettyJson"),
    ("mustToRawJson", "toRawJson"),
    ("mustUniq", "uniq"),
    ("mustWithout", "without"),
    ("osBase", "base"),
    ("osClean", "clean"),
    ("osDir", "dir"),
    ("osExt", "ext"),
    ("osIsAbs", "isAbs"),
    ("push", "append"),
    ("trimall", "trimAll"),
    ("typeIsLike", "typeIs"),
];

/// By name.
pub(crate) const FUNCTIONS: &[(&str, Function)] = &[
    ("abbrev", |a| {
        let (width, text) = (int(a, 0)?, string(a, 1)?);
        let length = text.chars().count();
        let width = usize::try_from(width).unwrap_or(0);
        if width < 4 || length <= width {
            return Ok(text.into());
        }
        Ok(format!("{}...", text.chars().take(width - 3).collect::<String>()).into())
    }),
    ("add1f", |a| Ok(number(float(a, 0)? + 1.0))),
    ("addf", |a| fold(a, |x, y| x + y)),
    ("adler32sum", |a| {
        let (low, high) = string(a, 0)?.bytes().fold((1u32, 0u32), |(low, high), byte| {
            let low = (low + u32::from(byte)) % 65_521;
            (low, (high + low) % 65_521)
        });
        Ok((high << 16 | low).to_string().into())
    }),
    ("all", |a| Ok(a.iter().all(|value| !is_empty(value)).into())),
    ("any", |a| Ok(a.iter().any(|value| !is_empty(value)).into())),
    ("b32dec", |a| base32_decode(&string(a, 0)?)),
    ("b32enc", |a| Ok(base32(string(a, 0)?.as_bytes()).into())),
    ("camelcase", |a| {
        let words = string(a, 0)?;
        let words = words.split(['_', '-', ' ']).filter(|word| !word.is_empty());
        Ok(words.map(capitalised).collect::<String>().into())
    }),
    ("chunk", |a| {
        let size = usize::try_from(int(a, 0)?).ok().filter(|size| *size > 0);
        let chunks = items(a, 1)?.chunks(size.ok_or("the size must be above 0")?);
        Ok(chunks
            .map(|chunk| Value::from(chunk.to_vec()))
            .collect::<Vec<_>>()
            .into())
    }),
    ("clean", |a| Ok(clean(&string(a, 0)?).into())),
    ("deepCopy", |a| a.first().cloned().ok_or_else(|| missing(0))),
    ("deepEqual", |a| Ok((a.first() == a.get(1)).into())),
    ("dig", |a| {
        let [names @ .., default, map] = a else {
            return Err(missing(2));
        };
        let mut found = map;
        for name in names {
            match found.get(show(name)) {
                Some(next) => found = next,
                None => return Ok(default.clone()),
            }
        }
        Ok(found.clone())
    }),
    ("divf", |a| fold(a, |x, y| x / y)),
    ("ext", |a| {
        let path = string(a, 0)?;
        let name = path.rsplit('/').next().unwrap_or_default();
        Ok(name.rfind('.').map_or("", |at| &name[at..]).into())
    }),
    ("initials", |a| {
        let text = string(a, 0)?;
        Ok(text
            .split_whitespace()
            .filter_map(|word| word.chars().next())
            .collect::<String>()
            .into())
    }),
    ("isAbs", |a| Ok(string(a, 0)?.starts_with('/').into())),
    ("kebabcase", |a| Ok(words_joined(&string(a, 0)?, '-').into())),
    ("maxf", |a| fold(a, f64::max)),
    ("mergeOverwrite", |a| {
        let mut merged = members(a, 0)?.clone();
        for at in 1..a.len() {
            overwrite(&mut merged, members(a, at)?);
        }
        Ok(merged.into())
    }),
    ("minf", |a| fold(a, f64::min)),
    ("mulf", |a| fold(a, |x, y| x * y)),
    ("mustSlice", part),
    ("plural", |a| {
        let which = if int(a, 2)? == 1 { 0 } else { 1 };
        a.get(which).cloned().ok_or_else(|| missing(which))
    }),
    ("regexQuoteMeta", |a| Ok(quote_meta(&string(a, 0)?).into())),
    ("semverCompare", |a| {
        let (range, version) = (string(a, 0)?, string(a, 1)?);
        let version = version_of(&version)?;
        let range = range.replace('v', "");
        let parts = range.split("||").map(|part| {
            let part = part.replace(", ", ",").split_whitespace().collect::<Vec<_>>().join(",");
            let exact = part.starts_with(|c: char| c.is_ascii_digit()) && !part.contains(['x', '*', 'X']);
            semver::VersionReq::parse(&if exact { format!("={part}") } else { part })
        });
        let ranges = parts.collect::<Result<Vec<_>, _>>().map_err(|e| e.to_string())?;
        Ok(ranges.iter().any(|range| range.matches(&version)).into())
    }),
    ("semver", |a| {
        let version = version_of(&string(a, 0)?)?;
        Ok(
            json!({"Major": version.major, "Minor": version.minor, "Patch": version.patch,
            "Prerelease": version.pre.as_str(), "Metadata": version.build.as_str()}),
        )
    }),
    ("seq", |a| {
        let numbers: Vec<i64> = a.iter().map(lenient_int).collect();
        let (start, step, end) = match numbers[..] {
            [] => return Ok("".into()),
            [end] => (1, if end < 1 { -1 } else { 1 }, end),
            [start, end] => (start, if end < start { -1 } else { 1 }, end),
            [start, step, end] => (start, step, end),
            _ => return Ok("".into()),
        };
        let goes_nowhere = step == 0 || (step > 0 && end < start) || (step < 0 && end > start);
        if goes_nowhere {
            return Ok("".into());
        }
        if end.saturating_sub(start).saturating_div(step) > MAX_COUNT {
            return Err(format!("counts more than {MAX_COUNT} numbers"));
        }
        let mut counted = Vec::new();
        let mut at = Some(start);
        while let Some(number) = at.filter(|at| if step > 0 { *at <= end } else { *at >= end }) {
            counted.push(number.to_string());
            at = number.checked_add(step);
        }
        Ok(counted.join(" ").into())
    }),
    ("snakecase", |a| Ok(words_joined(&string(a, 0)?, '_').into())),
    ("splitn", |a| {
        let (separator, count, text) = (string(a, 0)?, int(a, 1)?, string(a, 2)?);
        let parts = text
            .splitn(usize::try_from(count).unwrap_or(usize::MAX), &separator)
            .enumerate();
        Ok(parts
            .map(|(at, part)| (format!("_{at}"), part.into()))
            .collect::<Map<_, _>>()
            .into())
    }),
    ("subf", |a| fold(a, |x, y| x - y)),
    ("swapcase", |a| {
        let swap = |c: char| match c.is_uppercase() {
            true => c.to_lowercase().collect::<String>(),
            false => c.to_uppercase().collect(),
        };
        Ok(string(a, 0)?.chars().map(swap).collect::<String>().into())
    }),
    ("toDecimal", |a| {
        // Unix modes are written in octal.
        i64::from_str_radix(string(a, 0)?.trim_start_matches("0o"), 8)
            .map(Value::from)
            .or(Ok(0.into()))
    }),
    ("toRawJson", |a| {
        Ok(as_go_writes(a.first().unwrap_or(&Value::Null)).to_string().into())
    }),
    ("typeIs", |a| {
        let wanted = string(a, 0)?;
        let there = kind(a.get(1).unwrap_or(&Value::Null));
        let go = match there {
            "slice" => "[]interface {}",
            "map" => "map[string]interface {}",
            other => other,
        };
        Ok((wanted == there || wanted == go).into())
    }),
    ("urlJoin", |a| {
        let parts = members(a, 0)?;
        let part = |name: &str| parts.get(name).map(show).unwrap_or_default();
        let (scheme, user, host) = (part("scheme"), part("userinfo"), part("host"));
        let mut url = String::new();
        if !scheme.is_empty() {
            url = format!("{scheme}:");
        }
        if !(host.is_empty() && user.is_empty()) {
            url.push_str("//");
        }
        if !user.is_empty() {
            url.push_str(&format!("{user}@"));
        }
        url.push_str(&host);
        let path = part("path");
        if !(path.is_empty() || path.starts_with('/') || host.is_empty()) {
            url.push('/');
        }
        url.push_str(&path);
        for (mark, name) in [('?', "query"), ('#', "fragment")] {
            if !part(name).is_empty() {
                url.push(mark);
                url.push_str(&part(name));
            }
        }
        Ok(url.into())
    }),
    ("urlParse", |a| {
        let text = string(a, 0)?;
        let (rest, fragment) = text.split_once('#').unwrap_or((&text, ""));
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (scheme, rest) = rest.split_once("://").unwrap_or(("", rest));
        let (authority, path) = match (scheme.is_empty(), rest.find('/')) {
            (true, _) => ("", rest),
            (false, Some(at)) => rest.split_at(at),
            (false, None) => (rest, ""),
        };
        let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
        let hostname = host.rsplit_once(':').map_or(host, |(name, _)| name);
        Ok(
            json!({"scheme": scheme, "userinfo": user, "host": host, "hostname": hostname, "path": path,
            "query": query, "fragment": fragment, "opaque": ""}),
        )
    }),
    ("wrap", |a| wrapped(int(a, 0)?, "\n", &string(a, 1)?, false)),
    ("wrapWith", |a| {
        wrapped(int(a, 0)?, &string(a, 1)?, &string(a, 2)?, true)
    }),
];

fn fold(arguments: &[Value], step: fn(f64, f64) -> f64) -> Result<Value, String> {
    let mut folded = float(arguments, 0)?;
    for at in 1..arguments.len() {
        folded = step(folded, float(arguments, at)?);
    }
    Ok(number(folded))
}

fn overwrite(near: &mut Map<String, Value>, far: &Map<String, Value>) {
    for (name, value) in far {
        match (near.get_mut(name), value) {
            (Some(Value::Object(near)), Value::Object(far)) => overwrite(near, far),
            _ => drop(near.insert(name.clone(), value.clone())),
        }
    }
}

fn part(arguments: &[Value]) -> Result<Value, String> {
    let list = items(arguments, 0)?;
    let at = |index: usize, default: usize| match arguments.get(index) {
        None => Ok(default),
        Some(value) => usize::try_from(lenient_int(value)).map_err(|_| "an index is negative".to_owned()),
    };
    let (from, to) = (at(1, 0)?, at(2, list.len())?);
    let part = list
        .get(from..to)
        .ok_or_else(|| format!("there is no [{from}:{to}] in a list of {}", list.len()))?;
    Ok(part.to_vec().into())
}

fn version_of(text: &str) -> Result<semver::Version, String> {
    let plain = text.trim_start_matches('v');
    let end = plain.find(['-', '+']).unwrap_or(plain.len());
    let (numbers, rest) = plain.split_at(end);
    let missing = 2usize.saturating_sub(numbers.matches('.').count());
    let full = format!("{numbers}{}{rest}", ".0".repeat(missing));
    semver::Version::parse(&full).map_err(|e| format!("{text} is no version: {e}"))
}

fn capitalised(word: &str) -> String {
    let mut chars = word.chars();
    chars
        .next()
        .map(|c| c.to_uppercase().chain(chars).collect())
        .unwrap_or_default()
}

/// `FirstName` as `first_name`.
fn words_joined(text: &str, separator: char) -> String {
    let mut joined = String::new();
    let mut before: Option<char> = None;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if matches!(c, '_' | '-' | ' ') {
            if !joined.is_empty() && !joined.ends_with(separator) {
                joined.push(separator);
            }
        } else {
            let next_is_small = chars.peek().is_some_and(|next| next.is_lowercase());
            let begins = c.is_uppercase()
                && before.is_some_and(|before| {
                    before.is_lowercase() || before.is_numeric() || (before.is_uppercase() && next_is_small)
                });
            if begins && !joined.is_empty() && !joined.ends_with(separator) {
                joined.push(separator);
            }
            joined.extend(c.to_lowercase());
        }
        before = Some(c);
    }
    joined
}

fn quote_meta(text: &str) -> String {
    let mut quoted = String::new();
    for c in text.chars() {
        if r"\.+*?()|[]{}^$".contains(c) {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted
}

/// The shortest path that means the same, as Go's `path.Clean`.
fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/').filter(|part| !matches!(*part, "" | ".")) {
        match (part, parts.last()) {
            ("..", Some(last)) if *last != ".." => drop(parts.pop()),
            ("..", _) if rooted => {}
            _ => parts.push(part),
        }
    }
    match (rooted, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => parts.join("/"),
    }
}

fn wrapped(width: i64, separator: &str, text: &str, cut: bool) -> Result<Value, String> {
    let width = usize::try_from(width).unwrap_or(1).max(1);
    if text.len().saturating_mul(separator.len().max(1)) > MAX_TEXT {
        return Err("the text is too long to be wrapped".to_owned());
    }
    let mut lines: Vec<String> = Vec::new();
    let mut line = String::new();
    let mut length = 0;
    for word in text.split(' ') {
        let mut word: Vec<char> = word.chars().collect();
        if length > 0 && length + 1 + word.len() > width {
            lines.push(std::mem::take(&mut line));
            length = 0;
        }
        while cut && word.len() > width {
            let rest = word.split_off(width);
            lines.push(word.into_iter().collect());
            word = rest;
        }
        if length > 0 {
            line.push(' ');
            length += 1;
        }
        length += word.len();
        line.extend(word);
    }
    lines.push(line);
    Ok(lines.join(separator).into())
}

const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// RFC 4648 §6.
fn base32(bytes: &[u8]) -> String {
    let mut text = String::new();
    for five in bytes.chunks(5) {
        let mut bits = [0u8; 8];
        bits[3..3 + five.len()].copy_from_slice(five);
        let bits = u64::from_be_bytes(bits);
        let letters = (five.len() * 8).div_ceil(5);
        for at in 0..8 {
            let letter = usize::try_from(bits >> (35 - 5 * at) & 31).unwrap_or(0);
            text.push(if at < letters { char::from(BASE32[letter]) } else { '=' });
        }
    }
    text
}

fn base32_decode(text: &str) -> Result<Value, String> {
    let (mut bits, mut held, mut bytes) = (0u64, 0, Vec::new());
    for c in text.trim_end_matches('=').bytes() {
        let letter = BASE32
            .iter()
            .position(|known| *known == c)
            .ok_or("illegal base32 data")?;
        bits = bits << 5 | letter as u64;
        held += 5;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held & 0xff) as u8);
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned().into())
}
