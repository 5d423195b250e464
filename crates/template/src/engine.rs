//! The one file that knows the template engine.
//!
//! The engine has no methods with arguments and no positions in run-time errors. Both are added on the
//! parsed tree: a call is put in front of every field that is a method, and a marker that notes the line in
//! front of every action.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Instant;

use gotmpl::parse::{Expr, ListNode, Node, SmolStr};
use gotmpl::{MissingKey, Template, Value};
use serde_json::Value as Json;

use crate::cache::{self, Ready};
use crate::pass::{Pass, walk};
use crate::{Limits, Members, Scope, TemplateError, methods, printf, sprig, sprig_more};

/// Renderings within renderings (`.StringExpand`, `.CallTemplate`, `.BootParams`).
const MAX_NESTING: usize = 8;
/// Values in one argument of a function; nested lists that share parts grow without using memory.
const MAX_VALUES: usize = 50_000;
const MAX_DEPTH: usize = 60;
const MAX_TEXT: usize = 1 << 20;
const MAX_TEMPLATES: usize = 200;
/// Width or precision in `printf`.
const MAX_WIDTH: usize = 4096;
/// A rendering within a rendering starts on a stack of its own: the engine's limit of recursion fits one.
const STACK: usize = 4 << 20;

const END: &str = "isobar_end";
pub(crate) const AT: &str = "isobar_at";
pub(crate) const CALL: &str = "isobar_call";
pub(crate) const ABSENT: &str = "isobar_absent";
pub(crate) const PATH: &str = "isobar_path";
pub(crate) const SHOW: &str = "isobar_show";
pub(crate) const NOTHING: &str = "isobar_nothing";

/// The engine's own functions. Those that make text are wrapped, so that text stays bounded.
pub(crate) const BUILTINS: &[&str] = &[
    "and", "or", "not", "len", "index", "slice", "eq", "ne", "lt", "le", "gt", "ge", "call",
];
pub(crate) const WRAPPED: &[&str] = &["print", "printf", "println", "html", "js", "urlquery"];

/// Top-level names that are nothing without what they stand for.
const OBJECTS: &[&str] = &["Machine", "Env", "Stage", "Task"];

pub(crate) fn failed(template: &str, line: Option<usize>, message: impl Into<String>) -> TemplateError {
    TemplateError {
        template: template.to_owned(),
        line,
        message: message.into(),
        machine: String::new(),
    }
}

/// The tables of functions on JSON values.
fn plain_functions() -> impl Iterator<Item = (&'static str, sprig::Function)> {
    let alias = |(name, of): &(&'static str, &str)| Some((*name, plain_function(of)?));
    let tables = sprig::FUNCTIONS.iter().chain(sprig_more::FUNCTIONS).copied();
    tables.chain(sprig_more::ALIASES.iter().filter_map(alias))
}

pub(crate) fn plain_function(name: &str) -> Option<sprig::Function> {
    let mut tables = sprig::FUNCTIONS.iter().chain(sprig_more::FUNCTIONS);
    let named = tables.find(|(known, _)| *known == name).map(|(_, function)| *function);
    named.or_else(|| {
        let (_, of) = sprig_more::ALIASES.iter().find(|(alias, _)| *alias == name)?;
        plain_function(of)
    })
}

pub(crate) fn functions() -> Vec<&'static str> {
    let mut all: Vec<_> = BUILTINS
        .iter()
        .chain(WRAPPED)
        .copied()
        .chain(plain_functions().map(|(name, _)| name))
        .collect();
    all.sort_unstable();
    all
}

/// Parses a text into its trees: the one called `name`, and those of its definitions.
fn parse(name: &str, text: &str) -> Result<Vec<(String, ListNode)>, TemplateError> {
    if text.len() > MAX_TEXT {
        return Err(failed(name, None, format!("longer than {MAX_TEXT} bytes")));
    }
    // The engine takes a stray `{{end}}` or `{{else}}` for the end of the text and drops the rest, and closes what is
    // open at the end. An action behind the text shows whether that was reached, outside of everything. A brace in
    // front of it would become part of it.
    let guard = if text.ends_with('{') { "\u{1}" } else { "" };
    let template = Template::new(name)
        .parse(&format!("{text}{guard}{{{{{END}}}}}"))
        .map_err(|err| match err {
            gotmpl::TemplateError::Parse { line, message, .. } | gotmpl::TemplateError::Lex { line, message, .. } => {
                failed(name, Some(line), message)
            }
            other => failed(name, None, other.to_string()),
        })?;
    let mut trees: Vec<_> = template
        .templates()
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), template.lookup(name)?.clone())))
        .collect();
    let own = trees
        .iter_mut()
        .find(|(tree, _)| tree == name)
        .map(|(_, tree)| &mut tree.nodes);
    let Some(nodes) = own.filter(|nodes| nodes.last().is_some_and(is_end)) else {
        return Err(failed(
            name,
            None,
            "{{if}}, {{range}}, {{with}} or {{define}} and {{end}} do not match up",
        ));
    };
    nodes.pop();
    if let (false, Some(Node::Text(last))) = (guard.is_empty(), nodes.last_mut()) {
        last.text = last.text.trim_end_matches(guard).into();
    }
    Ok(trees)
}

fn is_end(node: &Node) -> bool {
    let Node::Action(action) = node else { return false };
    let first = action.pipe.commands.first().and_then(|command| command.args.first());
    matches!(first, Some(Expr::Identifier(_, name)) if name == END)
}

pub(crate) fn check(name: &str, text: &str) -> Result<Vec<String>, TemplateError> {
    let trees = parse(name, text)?;
    let mut pass = Pass::new(name, &[]);
    let mut defined = Vec::new();
    for (tree_name, mut tree) in trees {
        pass.list(&mut tree);
        defined.push(tree_name);
    }
    pass.sound(name)?;
    pass.included.retain(|id| !defined.contains(id));
    pass.included.sort_unstable();
    pass.included.dedup();
    Ok(pass.included)
}

/// One rendering with everything that is nested in it.
pub(crate) struct Run {
    pub(crate) scope: Arc<dyn Scope>,
    limits: Limits,
    deadline: Instant,
    nesting: usize,
}

impl Run {
    pub(crate) fn new(scope: Arc<dyn Scope>, limits: Limits) -> Run {
        let deadline = Instant::now() + limits.time;
        Run {
            scope,
            limits,
            deadline,
            nesting: 0,
        }
    }

    pub(crate) fn render(self, name: &str, text: &str) -> Result<String, TemplateError> {
        Arc::new(self).render_dot(name, text, None)
    }

    /// Renders a text that was met while rendering another one. `dot` replaces the render object.
    pub(crate) fn nested(self: &Arc<Run>, name: &str, text: &str, dot: Option<Json>) -> Result<String, String> {
        if !text.contains("{{") {
            return Ok(text.to_owned());
        }
        if self.nesting >= MAX_NESTING {
            return Err(format!(
                "{name}: texts are expanded within one another more than {MAX_NESTING} times"
            ));
        }
        let inner = Arc::new(Run {
            scope: self.scope.clone(),
            limits: self.limits,
            deadline: self.deadline,
            nesting: self.nesting + 1,
        });
        std::thread::scope(|threads| {
            let builder = std::thread::Builder::new()
                .name("template".to_owned())
                .stack_size(STACK);
            let thread = builder.spawn_scoped(threads, || inner.render_dot(name, text, dot));
            match thread.map(std::thread::ScopedJoinHandle::join) {
                Ok(Ok(result)) => result.map_err(|err| err.to_string()),
                Ok(Err(_)) => Err(format!("{name}: the rendering broke off")),
                Err(err) => Err(format!("{name}: no thread to render it: {err}")),
            }
        })
    }

    fn render_dot(self: &Arc<Run>, name: &str, text: &str, dot: Option<Json>) -> Result<String, TemplateError> {
        let objects = methods::Objects::fetch(self.scope.as_ref());
        let absent = objects.absent();
        let place = Arc::new(Mutex::new((name.to_owned(), None)));
        let mut template = Template::new(name);
        let mut used = BTreeSet::new();
        let mut todo = vec![(name.to_owned(), text.to_owned())];
        let mut known = vec![name.to_owned()];
        while let Some((id, text)) = todo.pop() {
            let ready = cache::ready(&id, &absent, &text, || {
                let (mut trees, mut pass) = (parse(&id, &text)?, Pass::new(&id, &absent));
                trees.iter_mut().for_each(|(_, tree)| pass.list(tree));
                pass.sound(&id)?;
                Ok(Ready {
                    trees,
                    included: pass.included,
                    used: pass.used.into_iter().collect(),
                })
            })?;
            for (tree_name, tree) in &ready.trees {
                known.push(tree_name.clone());
                template = template.add_parse_tree(tree_name, tree.clone());
            }
            used.extend(ready.used.iter().cloned());
            for included in ready.included.iter().cloned() {
                if known.contains(&included) {
                    continue;
                }
                let text = self.scope.template(&included);
                let text = text.ok_or_else(|| failed(&id, None, format!("there is no template {included}")))?;
                known.push(included.clone());
                todo.push((included, text));
            }
            if known.len() > MAX_TEMPLATES {
                return Err(failed(
                    name,
                    None,
                    format!("includes more than {MAX_TEMPLATES} templates"),
                ));
            }
        }
        let template = self.with_functions(template, &place, &used);
        let dot = match dot {
            Some(json) => from_json(&json),
            None => objects.dot(self),
        };
        let mut output = Output {
            text: String::new(),
            run: self,
            full: None,
        };
        let result = template.execute_template_fmt(&mut output, name, &dot);
        let Output { text, full, .. } = output;
        match result {
            Ok(()) => Ok(text),
            Err(err) => {
                let (template, line) = place.lock().unwrap_or_else(PoisonError::into_inner).clone();
                Err(failed(&template, line, full.unwrap_or_else(|| said(&err))))
            }
        }
    }

    fn spend(&self) -> Result<(), String> {
        if Instant::now() > self.deadline {
            return Err(format!("takes longer than {} s", self.limits.time.as_secs_f32()));
        }
        Ok(())
    }

    fn with_functions(
        self: &Arc<Run>,
        mut template: Template,
        place: &Arc<Mutex<(String, Option<usize>)>>,
        used: &BTreeSet<SmolStr>,
    ) -> Template {
        template = template
            .missing_key(MissingKey::Error)
            .max_range_iters(self.limits.iterations.max(1));
        for (name, function) in used
            .iter()
            .filter_map(|name| Some((name.to_string(), plain_function(name)?)))
        {
            let run = self.clone();
            let called = name.clone();
            let name = called.as_str();
            let says = called.clone();
            template = template.func(name, move |arguments| {
                run.spend().map_err(exec)?;
                let arguments = arguments
                    .iter()
                    .map(to_json)
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(exec)?;
                let value = function(&arguments).map_err(|reason| exec(format!("{says}: {reason}")))?;
                run.bounded(&value)
                    .map_err(|reason| exec(format!("{says}: {reason}")))?;
                Ok(from_json(&value))
            });
        }
        template = template.func(PATH, walk);
        template = template.func(SHOW, |arguments| match arguments {
            [Value::Float(number)] => Ok(Value::String(printf::float(*number).into())),
            [value] => Ok(value.clone()),
            _ => Ok(Value::Nil),
        });
        template = template.func(NOTHING, |_| Ok(Value::Nil));
        for name in WRAPPED {
            let run = self.clone();
            template = template.func(name, move |arguments| {
                run.spend().map_err(exec)?;
                run.text_function(name, arguments)
                    .map_err(|reason| exec(format!("{name}: {reason}")))
            });
        }
        let run = self.clone();
        let place = place.clone();
        template = template.func(AT, move |arguments| {
            let line = arguments
                .get(1)
                .and_then(Value::as_int)
                .and_then(|line| usize::try_from(line).ok());
            if let Some(name) = arguments.first().and_then(Value::as_str) {
                *place.lock().unwrap_or_else(PoisonError::into_inner) = (name.to_owned(), line);
            }
            run.spend().map_err(exec)?;
            Ok(Value::Nil)
        });
        template = template.func(ABSENT, |arguments| {
            let what = arguments.first().and_then(Value::as_str).unwrap_or_default();
            Err(exec(format!(".{what}: there is none here")))
        });
        template.func(CALL, |arguments| match arguments {
            [Value::Function(method), rest @ ..] => method(rest),
            [value] => Ok(value.clone()),
            _ => Err(exec("a value is used like a method".to_owned())),
        })
    }

    /// The engine's text functions, with bounded results.
    fn text_function(&self, name: &str, arguments: &[Value]) -> Result<Value, String> {
        let mut size = 0;
        for argument in arguments {
            size += extent(&to_json(argument)?);
        }
        if size > self.limits.output {
            return Err(format!("makes text of more than {} bytes", self.limits.output));
        }
        if let (true, Some(Value::String(format))) = (name == "printf", arguments.first()) {
            widths_within_bounds(format)?;
            let each = |format: &str, item: &Value| {
                let one = [Value::String(format.into()), item.clone()];
                match self.text_function("printf", &one)? {
                    Value::String(text) => Ok(text.to_string()),
                    _ => Ok(String::new()),
                }
            };
            if let Some(prepared) = printf::prepare(format, &arguments[1..], &each)? {
                return self.print(name, &prepared);
            }
        }
        // Go prints several arguments before it escapes them.
        if arguments.len() > 1 && matches!(name, "html" | "js" | "urlquery") {
            let joined = self.print("print", arguments)?;
            return self.print(name, &[joined]);
        }
        self.print(name, arguments)
    }

    fn print(&self, name: &str, arguments: &[Value]) -> Result<Value, String> {
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
                if let Value::String(one) = self.print(name, std::slice::from_ref(argument))? {
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
        let mut output = Output {
            text: String::new(),
            run: self,
            full: None,
        };
        let result = template.execute_template_fmt(&mut output, &arguments.len().to_string(), &dot);
        let Output { text, full, .. } = output;
        result.map_err(|err| full.unwrap_or_else(|| said(&err)))?;
        Ok(Value::String(text.into()))
    }

    /// Whether a value that a function made may live on.
    pub(crate) fn bounded(&self, value: &Json) -> Result<(), String> {
        if extent(value) > self.limits.output {
            return Err(format!("makes a value of more than {} bytes", self.limits.output));
        }
        Ok(())
    }
}

pub(crate) fn exec(message: String) -> gotmpl::TemplateError {
    gotmpl::TemplateError::Exec(message)
}

/// An error of the engine in words that need no knowledge of it.
fn said(err: &gotmpl::TemplateError) -> String {
    match err {
        gotmpl::TemplateError::Exec(message) => message.clone(),
        gotmpl::TemplateError::MissingKey { key } => format!("there is no .{key}"),
        gotmpl::TemplateError::RecursionLimit => "templates include one another without end".to_owned(),
        gotmpl::TemplateError::RangeIterLimit => "range goes round too often".to_owned(),
        gotmpl::TemplateError::UndefinedFunction(name) => format!("function {name} is not known"),
        gotmpl::TemplateError::UndefinedTemplate(name) => format!("there is no template {name}"),
        other => other.to_string(),
    }
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

/// About as many bytes as the value takes as text.
fn extent(value: &Json) -> usize {
    match value {
        Json::Null | Json::Bool(_) => 5,
        Json::Number(_) => 8,
        Json::String(text) => text.len() + 2,
        Json::Array(items) => items.iter().fold(2, |sum, item| sum.saturating_add(extent(item))),
        Json::Object(members) => members.iter().fold(2, |sum, (name, value)| {
            sum.saturating_add(name.len() + 4 + extent(value))
        }),
    }
}

/// Text that stops growing at the limit and when time is up.
struct Output<'a> {
    text: String,
    run: &'a Run,
    full: Option<String>,
}

impl fmt::Write for Output<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let limit = self.run.limits.output;
        if self.text.len() + text.len() > limit {
            self.full = Some(format!("makes more than {limit} bytes"));
            return Err(fmt::Error);
        }
        if let Err(reason) = self.run.spend() {
            self.full = Some(reason);
            return Err(fmt::Error);
        }
        self.text.push_str(text);
        Ok(())
    }
}

pub(crate) fn from_json(json: &Json) -> Value {
    match json {
        Json::Null => Value::Nil,
        Json::Bool(truth) => Value::Bool(*truth),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Value::Int(number),
            (None, Some(number)) => Value::Uint(number),
            (None, None) => Value::Float(number.as_f64().unwrap_or_default()),
        },
        Json::String(text) => Value::String(text.as_str().into()),
        Json::Array(items) => Value::List(items.iter().map(from_json).collect()),
        Json::Object(members) => Value::Map(Arc::new(map_of(members))),
    }
}

pub(crate) fn map_of(members: &Members) -> BTreeMap<Arc<str>, Value> {
    members
        .iter()
        .map(|(name, value)| (name.as_str().into(), from_json(value)))
        .collect()
}

/// Methods become `null`. Values are counted as often as they are reached.
pub(crate) fn to_json(value: &Value) -> Result<Json, String> {
    fn convert(value: &Value, left: &mut usize, depth: usize) -> Result<Json, String> {
        if *left == 0 || depth > MAX_DEPTH {
            return Err(format!(
                "a value holds more than {MAX_VALUES} values or nests deeper than {MAX_DEPTH}"
            ));
        }
        *left -= 1;
        Ok(match value {
            Value::Nil | Value::Function(_) => Json::Null,
            Value::Bool(truth) => (*truth).into(),
            Value::Int(number) => (*number).into(),
            Value::Uint(number) => (*number).into(),
            Value::Float(number) => (*number).into(),
            Value::String(text) => text.as_ref().into(),
            Value::List(items) => items
                .iter()
                .map(|item| convert(item, left, depth + 1))
                .collect::<Result<Vec<_>, _>>()?
                .into(),
            Value::Map(members) => {
                let mut object = Members::new();
                for (name, value) in members.iter() {
                    object.insert(name.to_string(), convert(value, left, depth + 1)?);
                }
                object.into()
            }
        })
    }
    let mut left = MAX_VALUES;
    convert(value, &mut left, 0)
}

/// A method of the render object or of one of its parts.
pub(crate) fn method(
    run: &Arc<Run>,
    name: &'static str,
    body: impl Fn(&Arc<Run>, &[Json]) -> Result<Json, String> + Send + Sync + 'static,
) -> (Arc<str>, Value) {
    value_method(run, name, move |run, arguments| {
        body(run, arguments).map(|json| from_json(&json))
    })
}

/// As [`method`], for what has methods itself.
pub(crate) fn value_method(
    run: &Arc<Run>,
    name: &'static str,
    body: impl Fn(&Arc<Run>, &[Json]) -> Result<Value, String> + Send + Sync + 'static,
) -> (Arc<str>, Value) {
    let run = run.clone();
    let call = move |arguments: &[Value]| {
        run.spend().map_err(exec)?;
        let arguments = arguments
            .iter()
            .map(to_json)
            .collect::<Result<Vec<_>, _>>()
            .map_err(exec)?;
        body(&run, &arguments).map_err(|reason| exec(format!(".{name}: {reason}")))
    };
    (name.into(), Value::Function(Arc::new(call)))
}

pub(crate) use gotmpl::Value as EngineValue;

pub(crate) fn object_names() -> &'static [&'static str] {
    OBJECTS
}
