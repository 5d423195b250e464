//! What the template engine parses, and what its parts are called.
//!
//! The engine has no methods with arguments and no positions in run-time errors. Both are added on the
//! parsed tree: a call is put in front of every field that is a method, and a marker that notes the line in
//! front of every action.

use std::sync::Arc;

use gotmpl::Template;
use gotmpl::parse::{Expr, ListNode, Node};

use crate::cache::{self, Ready};
use crate::pass::Pass;
use crate::wanted::Wanted;
use crate::{TemplateError, chains, sprig, sprig_more};

const MAX_TEXT: usize = 1 << 20;

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

pub(crate) fn failed(template: &str, line: Option<usize>, message: impl Into<String>) -> TemplateError {
    TemplateError {
        template: template.to_owned(),
        line,
        message: message.into(),
        machine: String::new(),
    }
}

/// The tables of functions on JSON values.
pub(crate) fn plain_functions() -> impl Iterator<Item = (&'static str, sprig::Function)> {
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
    if let Some(line) = chains::too_long(text) {
        return Err(failed(name, Some(line), "too many {{else if}} after one another"));
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

/// A text ready to run, where the objects `absent` are not there.
pub(crate) fn prepared(name: &str, absent: &[&'static str], text: &str) -> Result<Arc<Ready>, TemplateError> {
    cache::ready(name, absent, text, || {
        let (mut trees, mut pass) = (parse(name, text)?, Pass::new(name, absent));
        let wanted = Wanted::by(trees.iter().map(|(_, tree)| tree));
        trees.iter_mut().for_each(|(_, tree)| pass.list(tree));
        pass.sound(name)?;
        Ok(Ready::new(text, trees, pass.included, wanted))
    })
}

pub(crate) fn exec(message: String) -> gotmpl::TemplateError {
    gotmpl::TemplateError::Exec(message)
}

/// An error of the engine in words that need no knowledge of it.
pub(crate) fn said(err: &gotmpl::TemplateError) -> String {
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
