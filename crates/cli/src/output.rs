//! What a command prints, in the format that was asked for.

use std::borrow::Cow;

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::{Map, Value};

use crate::CliError;
use crate::settings::{Format, Settings};

/// What a command brought.
#[derive(Debug)]
pub(crate) enum Output {
    /// A value, to be formatted; `columns` are those of a table of it.
    Json { value: Value, columns: Vec<String> },
    /// Text that looks the same in every format.
    Text(String),
    /// Nothing to print.
    Nothing,
}

impl Output {
    /// A value without a table of its own: maps get a row for each member.
    pub(crate) fn json(value: Value) -> Self {
        Self::Json {
            value,
            columns: Vec::new(),
        }
    }

    /// What an object says is wrong with it.
    pub(crate) fn errors(&self) -> Vec<String> {
        let errors = match self {
            Self::Json { value, .. } => value.get("Errors").and_then(Value::as_array),
            Self::Text(_) | Self::Nothing => None,
        };
        let errors = errors.into_iter().flatten().filter_map(Value::as_str);
        errors.map(plain).collect()
    }

    /// The text to print, with its line break.
    pub(crate) fn render(self, settings: &Settings) -> Result<String, CliError> {
        match self {
            Self::Nothing => Ok(String::new()),
            Self::Text(text) => Ok(text),
            Self::Json { value, columns } => match settings.format {
                Format::Json => Ok(json(&value)),
                Format::Yaml => Ok(crate::yaml::render(&sorted(&value))),
                Format::Text | Format::Table => Ok(table(&value, &columns, settings)),
            },
        }
    }
}

/// JSON as drpcli writes it: two blanks a level, keys sorted, `&`, `<` and `>` escaped, a line break.
pub(crate) fn json(value: &Value) -> String {
    let mut text = String::new();
    // These characters stand nowhere in JSON but inside strings.
    for c in format!("{:#}", sorted(value)).chars() {
        match c {
            '&' => text.push_str("\\u0026"),
            '<' => text.push_str("\\u003c"),
            '>' => text.push_str("\\u003e"),
            '\u{2028}' => text.push_str("\\u2028"),
            '\u{2029}' => text.push_str("\\u2029"),
            c => text.push(c),
        }
    }
    text.push('\n');
    text
}

/// Keys sorted at every level; whole numbers without a fraction, as drpcli shows them.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(name, _)| *name);
            Value::Object(
                members
                    .into_iter()
                    .map(|(name, value)| (name.clone(), sorted(value)))
                    .collect(),
            )
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        Value::Number(number) => match number.as_f64() {
            // Below 2^53 a float holds each whole number exactly.
            Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < 9_007_199_254_740_992.0 => {
                #[allow(clippy::cast_possible_truncation)]
                let whole = float as i64;
                Value::from(whole)
            }
            _ => value.clone(),
        },
        other => other.clone(),
    }
}

fn table(value: &Value, columns: &[String], settings: &Settings) -> String {
    let asked = &settings.print_fields;
    match value {
        Value::Array(rows) if rows.iter().all(Value::is_object) => {
            let rows: Vec<&Map<String, Value>> = rows.iter().filter_map(Value::as_object).collect();
            let columns = if !asked.is_empty() {
                asked.clone()
            } else if !columns.is_empty() {
                columns.to_vec()
            } else {
                rows.first()
                    .map(|row| row.keys().cloned().collect())
                    .unwrap_or_default()
            };
            let cells = rows.iter().map(|row| {
                let cells = columns.iter().map(|column| lookup(row, column));
                cells.map(|value| cell(value.as_deref(), settings.truncate)).collect()
            });
            if let (Some(width), Format::Table) = (settings.width, settings.format) {
                let mut cells: Vec<Vec<String>> = cells.collect();
                fit(&columns, &mut cells, width);
                return lay_out(&columns, cells.into_iter(), settings);
            }
            lay_out(&columns, cells, settings)
        }
        Value::Array(items) => {
            let cells = items.iter().map(|item| vec![cell(Some(item), settings.truncate)]);
            lay_out(&["Value".to_owned()], cells, settings)
        }
        Value::Object(members) => {
            let mut names: Vec<&String> = members.keys().collect();
            names.sort();
            let names = names
                .into_iter()
                .filter(|name| asked.is_empty() || asked.contains(name));
            let cells = names.flat_map(|name| rows_of(name, members.get(name), settings.format));
            lay_out(&["Name".to_owned(), "Value".to_owned()], cells, settings)
        }
        scalar => format!("{}\n", cell(Some(scalar), usize::MAX)),
    }
}

/// Maps of an object whose members are worth a row each in a table.
const SPREAD: [&str; 2] = ["Params", "Meta"];

/// The rows of an object's member. One object has the width of the terminal to itself.
fn rows_of(name: &str, value: Option<&Value>, format: Format) -> Vec<Vec<String>> {
    match value {
        Some(Value::Object(members)) if format == Format::Table && SPREAD.contains(&name) && !members.is_empty() => {
            let mut names: Vec<&String> = members.keys().collect();
            names.sort();
            let row = |member: &String| vec![format!("{name}.{member}"), cell(members.get(member), usize::MAX)];
            names.into_iter().map(row).collect()
        }
        value => vec![vec![name.to_owned(), cell(value, usize::MAX)]],
    }
}

/// A secure param, which only its object's key opens.
fn is_boxed(value: &Map<String, Value>) -> bool {
    value.len() == 3 && ["Key", "Nonce", "Payload"].iter().all(|name| value.contains_key(*name))
}

/// A member, a param of the object by the param's name, or what a path such as `OS.Name` leads to.
fn lookup<'a>(row: &'a Map<String, Value>, column: &str) -> Option<Cow<'a, Value>> {
    let param = column.strip_prefix("Params.").unwrap_or(column);
    let there = row.get(column).or_else(|| row.get("Params")?.get(param));
    if let Some(value) = there {
        return Some(Cow::Borrowed(value));
    }
    let (first, rest) = column.split_once('.')?;
    match row.get(first)? {
        Value::Object(inner) => lookup(inner, rest),
        Value::Array(items) => {
            let inner = items.iter().filter_map(|item| lookup(item.as_object()?, rest));
            Some(Cow::Owned(inner.map(Cow::into_owned).collect()))
        }
        _ => None,
    }
}

/// Below this a column says nothing.
const NARROWEST: usize = 8;

/// Cuts the widest columns until a row fits in a line.
fn fit(columns: &[String], rows: &mut [Vec<String>], width: usize) {
    let chars = |text: &str| text.chars().count();
    let widest = |at: usize| {
        let cells = rows.iter().filter_map(|row| row.get(at));
        cells
            .map(|cell| chars(cell))
            .chain([chars(&columns[at])])
            .max()
            .unwrap_or(0)
    };
    let mut widths: Vec<usize> = (0..columns.len()).map(widest).collect();
    let between = 2 * columns.len().saturating_sub(1);
    // A UUID is there to be copied: the others give way first.
    let whole: Vec<bool> = (0..columns.len())
        .map(|at| rows.iter().any(|row| row.get(at).is_some_and(|cell| is_uuid(cell))))
        .collect();
    while widths.iter().sum::<usize>() + between > width {
        let candidates = widths.iter_mut().zip(&whole).filter(|(width, _)| **width > NARROWEST);
        match candidates.max_by_key(|(width, whole)| (!**whole, **width)) {
            Some((widest, _)) => *widest -= 1,
            None => break,
        }
    }
    for row in rows {
        for (cell, &width) in row.iter_mut().zip(&widths) {
            *cell = cut(std::mem::take(cell), width);
        }
    }
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36 && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

fn cut(text: String, width: usize) -> String {
    if width == 0 || text.chars().count() <= width {
        return text;
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

fn cell(value: Option<&Value>, width: usize) -> String {
    let text = match value {
        None => String::new(),
        // Beside other cells, nothing says it better.
        Some(Value::Null) if width < usize::MAX => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) if items.iter().all(Value::is_string) => {
            items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
        }
        Some(Value::Object(members)) if is_boxed(members) => "(encrypted)".to_owned(),
        Some(other) => sorted(other).to_string(),
    };
    cut(plain(&text), width)
}

/// Text that cannot drive the terminal: it may come from machines.
pub(crate) fn plain(text: &str) -> String {
    let shown = |c: char| if c.is_control() && c != '\n' { '\u{fffd}' } else { c };
    text.chars().map(shown).collect()
}

fn lay_out(columns: &[String], rows: impl Iterator<Item = Vec<String>>, settings: &Settings) -> String {
    if settings.format == Format::Text {
        let mut text = String::new();
        for row in rows {
            text.push_str(&row.join("\t"));
            text.push('\n');
        }
        return text;
    }
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    if settings.header {
        table.set_header(columns);
    }
    for row in rows {
        table.add_row(row);
    }
    let mut text = String::new();
    for line in table.lines() {
        // Cells are padded by a blank on both sides; the outer ones only widen the output.
        text.push_str(line.strip_prefix(' ').unwrap_or(&line).trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn json_is_drpclis() {
        let value = json!({"b": [], "a": {"z": "<&>", "y": null}, "c": [1, 2.0, 2.5], "d": {}});
        let text = "{\n  \"a\": {\n    \"y\": null,\n    \"z\": \"\\u003c\\u0026\\u003e\"\n  },\n  \"b\": [],\n  \
                    \"c\": [\n    1,\n    2,\n    2.5\n  ],\n  \"d\": {}\n}\n";
        assert_eq!(super::json(&value), text);
        assert_eq!(super::json(&json!("On")), "\"On\"\n");
    }

    #[test]
    fn params_have_rows_of_their_own_and_secrets_no_text() {
        let boxed = json!({"Key": "a", "Nonce": "b", "Payload": "c"});
        let params = json!({"ipmi/password": boxed, "boot-virtual-iso": true});
        let rows = rows_of("Params", Some(&params), Format::Table);
        assert_eq!(
            rows,
            [
                ["Params.boot-virtual-iso", "true"],
                ["Params.ipmi/password", "(encrypted)"]
            ]
        );
        assert_eq!(rows_of("Params", Some(&params), Format::Text).len(), 1);
        assert_eq!(rows_of("Params", Some(&json!({})), Format::Table), [["Params", "{}"]]);
    }

    #[test]
    fn a_path_leads_to_members_of_members() {
        let row = json!({"OS": {"Name": "debian"}, "AvailableActions": [{"Command": "a"}, {"Command": "b"}], "Params": {"a.b": 1}});
        let found = |column: &str| lookup(row.as_object().unwrap(), column).map(Cow::into_owned);
        assert_eq!(found("OS.Name"), Some(json!("debian")));
        assert_eq!(found("AvailableActions.Command"), Some(json!(["a", "b"])));
        assert_eq!(found("Params.a.b"), Some(json!(1)));
        assert_eq!(found("OS.Nome"), None);
    }

    #[test]
    fn a_table_fits_the_terminal_by_its_widest_columns() {
        let columns = ["Name", "Description"].map(str::to_owned);
        let mut rows = vec![
            vec!["mach-01".to_owned(), "d".repeat(50)],
            vec!["m".to_owned(), "short".to_owned()],
        ];
        fit(&columns, &mut rows, 40);
        assert_eq!(rows[0], ["mach-01".to_owned(), format!("{}…", "d".repeat(30))]);
        assert_eq!(rows[1][1], "short");
        let uuid = "1fbaea88-690a-47f1-94e3-57b6ff905993";
        let mut machines = vec![vec![uuid.to_owned(), "d".repeat(30)]];
        fit(&columns, &mut machines, 50);
        assert_eq!(machines[0], [uuid.to_owned(), format!("{}…", "d".repeat(11))]);
        fit(&columns, &mut rows, 1);
        assert_eq!(rows[0][1].chars().count(), NARROWEST);
    }

    #[test]
    fn cells_do_not_drive_the_terminal() {
        assert_eq!(cell(Some(&json!("a\u{1b}[2Jb")), 40), "a\u{fffd}[2Jb");
        assert_eq!(cell(Some(&json!("abcdef")), 4), "abc…");
        assert_eq!(cell(Some(&json!(["a", "b"])), 40), "a, b");
    }
}
