//! The functions that templates call, in one table for all renderings: each finds the rendering that it works for.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use gotmpl::{MissingKey, Template, Value};

use crate::engine::{ABSENT, AT, CALL, NOTHING, PATH, SHOW, WRAPPED, exec, plain_function, plain_functions, said};
use crate::pass::walk;
use crate::printf;
use crate::run::{Output, Run, running};
use crate::value::{extent, from_json, to_json};

/// Width or precision in `printf`.
const MAX_WIDTH: usize = 4096;

/// A template without trees: the engine's settings and all functions.
pub(crate) fn engine() -> Template {
    static ENGINE: LazyLock<Template> = LazyLock::new(|| {
        let mut template = Template::new("isobar").missing_key(MissingKey::Error);
        for (name, function) in plain_functions().filter_map(|(name, _)| Some((name, plain_function(name)?))) {
            template = template.func(name, move |arguments| {
                let run = running()?;
                run.spend().map_err(exec)?;
                let arguments = arguments
                    .iter()
                    .map(to_json)
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(exec)?;
                let value = function(&arguments).map_err(|reason| exec(format!("{name}: {reason}")))?;
                run.bounded(&value)
                    .map_err(|reason| exec(format!("{name}: {reason}")))?;
                Ok(from_json(&value))
            });
        }
        for name in WRAPPED {
            template = template.func(name, move |arguments| {
                let run = running()?;
                run.spend().map_err(exec)?;
                text_function(&run, name, arguments).map_err(|reason| exec(format!("{name}: {reason}")))
            });
        }
        template
            .func(PATH, walk)
            .func(SHOW, |arguments| match arguments {
                [Value::Float(number)] => Ok(Value::String(printf::float(*number).into())),
                [value] => Ok(value.clone()),
                _ => Ok(Value::Nil),
            })
            .func(NOTHING, |_| Ok(Value::Nil))
            .func(AT, |arguments| {
                let run = running()?;
                if let [Value::String(name), line] = arguments {
                    run.at(name, line.as_int().and_then(|line| usize::try_from(line).ok()));
                }
                run.spend().map_err(exec)?;
                Ok(Value::Nil)
            })
            .func(ABSENT, |arguments| {
                let what = arguments.first().and_then(Value::as_str).unwrap_or_default();
                Err(exec(format!(".{what}: there is none here")))
            })
            .func(CALL, |arguments| match arguments {
                [Value::Function(method), rest @ ..] => method(rest),
                [value] => Ok(value.clone()),
                _ => Err(exec("a value is used like a method".to_owned())),
            })
    });
    ENGINE.clone()
}

/// The engine's text functions, with bounded results.
fn text_function(run: &Run, name: &str, arguments: &[Value]) -> Result<Value, String> {
    let mut size = 0;
    for argument in arguments {
        size += extent(&to_json(argument)?);
    }
    if size > run.limits.output {
        return Err(format!("makes text of more than {} bytes", run.limits.output));
    }
    if let (true, Some(Value::String(format))) = (name == "printf", arguments.first()) {
        widths_within_bounds(format)?;
        let each = |format: &str, item: &Value| {
            let one = [Value::String(format.into()), item.clone()];
            match text_function(run, "printf", &one)? {
                Value::String(text) => Ok(text.to_string()),
                _ => Ok(String::new()),
            }
        };
        if let Some(prepared) = printf::prepare(format, &arguments[1..], &each)? {
            return print(run, name, &prepared);
        }
    }
    // Go prints several arguments before it escapes them.
    if arguments.len() > 1 && matches!(name, "html" | "js" | "urlquery") {
        let joined = print(run, "print", arguments)?;
        return print(run, name, &[joined]);
    }
    print(run, name, arguments)
}

fn print(run: &Run, name: &str, arguments: &[Value]) -> Result<Value, String> {
    static TEMPLATES: LazyLock<BTreeMap<&str, Option<Template>>> = LazyLock::new(|| {
        let one = |name: &&'static str| {
            // As many arguments as any caller has; the engine's own function does the work.
            let variants = (0..=MAX_PRINT).map(|count| {
                let list: String = (0..count).map(|i| format!(" (index .A {i})")).collect();
                format!("{{{{define \"{count}\"}}}}{{{{{name}{list}}}}}{{{{end}}}}")
            });
            (*name, Template::new(name).parse(&variants.collect::<String>()).ok())
        };
        WRAPPED.iter().map(one).collect()
    });
    const MAX_PRINT: usize = 24;
    if name == "print" && arguments.len() > 1 {
        // Go puts a blank between two operands of which neither is a text.
        let mut text = String::new();
        for (at, argument) in arguments.iter().enumerate() {
            let texts = |at: usize| matches!(arguments.get(at), Some(Value::String(_)));
            if at > 0 && !texts(at - 1) && !texts(at) {
                text.push(' ');
            }
            if let Value::String(one) = print(run, name, std::slice::from_ref(argument))? {
                text.push_str(&one);
            }
        }
        return Ok(Value::String(text.into()));
    }
    let shown = |value: &Value| match value {
        Value::Float(number) if name != "printf" => Value::String(printf::float(*number).into()),
        other => other.clone(),
    };
    let shown: Vec<Value> = arguments.iter().map(shown).collect();
    let arguments = shown.as_slice();
    if arguments.len() > MAX_PRINT {
        return Err(format!("takes at most {MAX_PRINT} arguments"));
    }
    let template = TEMPLATES.get(name).and_then(Option::as_ref).ok_or("is not there")?;
    let dot = Value::Map(Arc::new(BTreeMap::from([("A".into(), Value::List(arguments.into()))])));
    let mut output = Output::of(run);
    let result = template.execute_template_fmt(&mut output, &arguments.len().to_string(), &dot);
    let Output { text, full, .. } = output;
    result.map_err(|err| full.unwrap_or_else(|| said(&err)))?;
    Ok(Value::String(text.into()))
}

fn widths_within_bounds(format: &str) -> Result<(), String> {
    let mut number = String::new();
    let mut in_verb = false;
    for c in format.chars() {
        match c {
            '%' => in_verb = !in_verb,
            '*' if in_verb => return Err("a width of * is not supported".to_owned()),
            '0'..='9' if in_verb => number.push(c),
            '.' | '+' | '-' | '#' | ' ' | '[' | ']' if in_verb => number.clear(),
            _ => in_verb = false,
        }
        if number.len() > 6 || number.parse::<usize>().is_ok_and(|width| width > MAX_WIDTH) {
            return Err(format!("a width of more than {MAX_WIDTH} is not supported"));
        }
        if !in_verb {
            number.clear();
        }
    }
    Ok(())
}
