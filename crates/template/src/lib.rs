//! Go `text/template` as DRP content uses it: with methods on dot (`.Param "x"`, `.Env.PathFor`) and sprig's
//! functions.
//!
//! Pure and bounded: a template reads its inputs and nothing else, and cannot run for ever or fill the memory.
//! The engine is `gotmpl`, known to [`mod@engine`] alone.

mod engine;
mod funcs;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

/// A method of dot: arguments in, value out, or why not.
pub type Method = Arc<dyn Fn(&[Value]) -> Result<Value, String> + Send + Sync>;

/// A member of dot.
#[derive(Clone)]
pub enum Member {
    /// Plain data.
    Data(Value),
    /// Something to call. Called without arguments where it stands alone.
    Method(Method),
    /// Members below a name: `.Env` has data and methods.
    Object(BTreeMap<String, Member>),
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            // Values may be secrets.
            Self::Data(_) => f.write_str("Data(..)"),
            Self::Method(_) => f.write_str("Method(..)"),
            Self::Object(members) => f.debug_set().entries(members.keys()).finish(),
        }
    }
}

/// What a template sees as `.`.
#[derive(Clone, Debug, Default)]
pub struct Dot {
    members: BTreeMap<String, Member>,
}

impl Dot {
    /// Nothing to see.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds data: `Machine`, or `Env.Kernel`. A map that is there gets members below it.
    #[must_use]
    pub fn data(self, path: &str, value: Value) -> Self {
        self.member(path, Member::Data(value))
    }

    /// Adds a method: `Param`, or `Machine.Url`.
    #[must_use]
    pub fn method(self, path: &str, call: impl Fn(&[Value]) -> Result<Value, String> + Send + Sync + 'static) -> Self {
        self.member(path, Member::Method(Arc::new(call)))
    }

    fn member(mut self, path: &str, member: Member) -> Self {
        let mut names = path.split('.').peekable();
        let mut members = &mut self.members;
        while let Some(name) = names.next() {
            if names.peek().is_none() {
                members.insert(name.to_owned(), member);
                break;
            }
            let below = members
                .entry(name.to_owned())
                .or_insert_with(|| Member::Object(BTreeMap::new()));
            if let Member::Data(value) = below {
                let data = match value.take() {
                    Value::Object(map) => map.into_iter().map(|(k, v)| (k, Member::Data(v))).collect(),
                    _ => BTreeMap::new(),
                };
                *below = Member::Object(data);
            }
            match below {
                Member::Object(inner) => members = inner,
                // A method has no members: the path cannot be followed.
                Member::Method(_) | Member::Data(_) => break,
            }
        }
        self
    }
}

/// Finds the templates that `{{template "ID" .}}` names.
pub trait Library {
    /// Source of a template by its ID.
    fn source(&self, id: &str) -> Option<String>;
}

/// A library without templates.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoLibrary;

impl Library for NoLibrary {
    fn source(&self, _id: &str) -> Option<String> {
        None
    }
}

/// What a render may use up.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of output.
    pub output: usize,
    /// Turns of all loops together.
    pub turns: u64,
    /// Templates that one render may draw in.
    pub templates: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            output: 4 << 20,
            turns: 1_000_000,
            templates: 500,
        }
    }
}

/// Why a template cannot be used: which one, where, what.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("template {template}, line {line}: {message}")]
pub struct TemplateError {
    /// Name of the template that was rendered, or the ID of one that it draws in.
    pub template: String,
    /// Line in it, from 1; 0 when it is not known.
    pub line: usize,
    /// What is wrong.
    pub message: String,
}

/// Whether a source parses.
///
/// # Errors
/// The first thing that does not.
pub fn check(name: &str, source: &str) -> Result<(), TemplateError> {
    engine::check(name, source)
}

/// Renders a source.
///
/// # Errors
/// It does not parse, a member or param is missing, a method refuses, or a limit is reached.
pub fn render(
    name: &str,
    source: &str,
    dot: &Dot,
    library: &dyn Library,
    limits: Limits,
) -> Result<String, TemplateError> {
    engine::render(name, source, &dot.members, library, limits)
}
