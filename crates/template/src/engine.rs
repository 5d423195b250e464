//! The one module that knows `gotmpl`.
//!
//! `gotmpl` calls no methods, but its syntax tree is open: a pass over it puts the builtin `call` in front of every
//! member whose name is a method of dot. The same pass puts a marker in front of every action, so that an error at run
//! time knows its line.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use gotmpl::parse::{
    ActionNode, BranchNode, CommandNode, Expr, ListNode, Node, Number, Parser, PipeNode, Pos, SmolStr,
};
use gotmpl::{MissingKey, Template, TemplateError as EngineError, Value as Val};
use serde_json::Value;

use crate::{Library, Limits, Member, Method, TemplateError, funcs};

/// Name of the marker function; no content can write it.
const MARK: &str = "\u{1}mark";

/// Where the render is.
type Place = Arc<Mutex<(String, usize)>>;

pub(crate) fn check(name: &str, source: &str) -> Result<(), TemplateError> {
    parse(name, source).map(drop)
}

fn parse(name: &str, source: &str) -> Result<(ListNode, Vec<gotmpl::parse::DefineNode>), TemplateError> {
    let parsed = Parser::with_name(None, source, "{{", "}}").and_then(Parser::parse);
    parsed.map_err(|error| {
        let (line, message) = match error {
            EngineError::Parse { line, message, .. } | EngineError::Lex { line, message, .. } => (line, message),
            other => (0, other.to_string()),
        };
        TemplateError {
            template: name.to_owned(),
            line,
            message,
        }
    })
}

pub(crate) fn render(
    name: &str,
    source: &str,
    members: &BTreeMap<String, Member>,
    library: &dyn Library,
    limits: Limits,
) -> Result<String, TemplateError> {
    let mut methods = BTreeSet::new();
    method_names(members, &mut methods);
    let place: Place = Arc::new(Mutex::new((name.to_owned(), 0)));
    let fail = |message: String| {
        let (template, line) = place.lock().unwrap_or_else(PoisonError::into_inner).clone();
        TemplateError {
            template,
            line,
            message,
        }
    };

    let marker = Arc::clone(&place);
    let mut template = Template::new("")
        .missing_key(MissingKey::Error)
        .max_range_iters(limits.turns)
        .func(MARK, move |args: &[Val]| {
            if let [Val::String(at), Val::Int(line)] = args {
                *marker.lock().unwrap_or_else(PoisonError::into_inner) =
                    (at.to_string(), usize::try_from(*line).unwrap_or(0));
            }
            Ok(Val::String("".into()))
        });
    for (name, call) in funcs::FUNCS {
        template = template.func(name, move |args: &[Val]| {
            let args: Vec<Value> = args.iter().map(to_json).collect();
            call(&args)
                .map(|value| to_val(&value))
                .map_err(|why| EngineError::Exec(format!("{name}: {why}")))
        });
    }

    // The root and, breadth first, everything that it draws in.
    let root = format!("\u{1}{name}");
    let mut queue = vec![(root.clone(), name.to_owned(), source.to_owned())];
    let mut known: BTreeSet<String> = [root.clone()].into();
    while let Some((key, shown, source)) = queue.pop() {
        let (mut body, defines) = parse(&shown, &source)?;
        let pass = Pass {
            methods: &methods,
            template: &shown,
        };
        let mut wanted = BTreeSet::new();
        for mut define in defines {
            pass.list(&mut define.body, &mut wanted);
            known.insert(define.name.to_string());
            template = template.add_parse_tree(&define.name, define.body);
        }
        pass.list(&mut body, &mut wanted);
        template = template.add_parse_tree(&key, body);
        for id in wanted {
            if known.contains(&id) {
                continue;
            }
            if known.len() >= limits.templates {
                return Err(fail(format!("it draws in more than {} templates", limits.templates)));
            }
            let source = library.source(&id).ok_or_else(|| TemplateError {
                template: shown.clone(),
                line: 0,
                message: format!("template {id} does not exist"),
            })?;
            known.insert(id.clone());
            queue.push((id.clone(), id, source));
        }
    }

    let mut out = Limited {
        text: String::new(),
        left: limits.output,
    };
    let dot = object(members);
    match template.execute_template_fmt(&mut out, &root, &dot) {
        Ok(()) => Ok(out.text),
        Err(_) if out.left == 0 => Err(fail(format!("its output is over {} bytes", limits.output))),
        Err(EngineError::Exec(message)) => Err(fail(message)),
        Err(EngineError::MissingKey { key }) => Err(fail(format!("there is no {key} here"))),
        Err(error) => Err(fail(error.to_string())),
    }
}

/// Takes so much text and no more.
struct Limited {
    text: String,
    left: usize,
}

impl fmt::Write for Limited {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        match self.left.checked_sub(text.len()) {
            Some(left) if left > 0 => {
                self.left = left;
                self.text.push_str(text);
                Ok(())
            }
            _ => {
                self.left = 0;
                Err(fmt::Error)
            }
        }
    }
}

fn method_names(members: &BTreeMap<String, Member>, names: &mut BTreeSet<String>) {
    for (name, member) in members {
        match member {
            Member::Method(_) => drop(names.insert(name.clone())),
            Member::Object(inner) => method_names(inner, names),
            Member::Data(_) => {}
        }
    }
}

fn object(members: &BTreeMap<String, Member>) -> Val {
    let entries = members.iter().map(|(name, member)| {
        let value = match member {
            Member::Data(data) => to_val(data),
            Member::Method(call) => function(name, call),
            Member::Object(inner) => object(inner),
        };
        (Arc::from(name.as_str()), value)
    });
    Val::Map(Arc::new(entries.collect()))
}

fn function(name: &str, call: &Method) -> Val {
    let (name, call) = (name.to_owned(), Arc::clone(call));
    Val::Function(Arc::new(move |args: &[Val]| {
        let args: Vec<Value> = args.iter().map(to_json).collect();
        call(&args)
            .map(|value| to_val(&value))
            .map_err(|why| EngineError::Exec(format!(".{name}: {why}")))
    }))
}

/// The pass over a syntax tree.
struct Pass<'a> {
    methods: &'a BTreeSet<String>,
    template: &'a str,
}

impl Pass<'_> {
    fn list(&self, list: &mut ListNode, wanted: &mut BTreeSet<String>) {
        let mut nodes = Vec::with_capacity(list.nodes.len() * 2);
        for mut node in std::mem::take(&mut list.nodes) {
            let pos = match &mut node {
                Node::Action(action) => {
                    self.pipe(&mut action.pipe);
                    Some(action.pos)
                }
                Node::If(branch) | Node::Range(branch) | Node::With(branch) => {
                    self.branch(branch, wanted);
                    Some(branch.pos)
                }
                Node::Template(call) => {
                    wanted.insert(call.name.to_string());
                    if let Some(pipe) = &mut call.pipe {
                        self.pipe(pipe);
                    }
                    Some(call.pos)
                }
                Node::List(inner) => {
                    self.list(inner, wanted);
                    None
                }
                Node::Define(define) => {
                    self.list(&mut define.body, wanted);
                    None
                }
                Node::Text(_) | Node::Break(_) | Node::Continue(_) => None,
            };
            nodes.extend(pos.map(|pos| self.mark(pos)));
            nodes.push(node);
        }
        list.nodes = nodes;
    }

    fn branch(&self, branch: &mut BranchNode, wanted: &mut BTreeSet<String>) {
        self.pipe(&mut branch.pipe);
        self.list(&mut branch.body, wanted);
        if let Some(body) = &mut branch.else_body {
            self.list(body, wanted);
        }
    }

    fn mark(&self, pos: Pos) -> Node {
        let line = i64::try_from(pos.line).unwrap_or(0);
        let args = vec![
            Expr::Identifier(pos, SmolStr::from(MARK)),
            Expr::String(pos, Arc::from(self.template)),
            Expr::Number(pos, Number::Int(line)),
        ];
        Node::Action(ActionNode {
            pos,
            pipe: pipe_of(pos, args),
        })
    }

    fn pipe(&self, pipe: &mut PipeNode) {
        for command in &mut pipe.commands {
            for arg in command.args.iter_mut().skip(1) {
                self.argument(arg);
            }
            if let Some(first) = command.args.first_mut() {
                if self.is_method(first) {
                    let pos = first.pos();
                    command.args.insert(0, Expr::Identifier(pos, SmolStr::from("call")));
                } else {
                    self.inside(first);
                }
            }
        }
    }

    /// A method as an argument is called where it stands.
    fn argument(&self, expr: &mut Expr) {
        if self.is_method(expr) {
            let pos = expr.pos();
            let method = std::mem::replace(expr, Expr::Nil(pos));
            *expr = Expr::Pipe(
                pos,
                pipe_of(pos, vec![Expr::Identifier(pos, SmolStr::from("call")), method]),
            );
        } else {
            self.inside(expr);
        }
    }

    fn inside(&self, expr: &mut Expr) {
        match expr {
            Expr::Pipe(_, pipe) => self.pipe(pipe),
            Expr::Chain(_, inner, _) => self.argument(inner),
            _ => {}
        }
    }

    fn is_method(&self, expr: &Expr) -> bool {
        let last = match expr {
            Expr::Field(_, names) | Expr::Variable(_, _, names) | Expr::Chain(_, _, names) => names.last(),
            _ => None,
        };
        last.is_some_and(|name| self.methods.contains(name.as_str()))
    }
}

fn pipe_of(pos: Pos, args: Vec<Expr>) -> PipeNode {
    PipeNode {
        pos,
        decl: Vec::new(),
        commands: vec![CommandNode { pos, args }],
        is_assign: false,
    }
}

pub(crate) fn to_val(value: &Value) -> Val {
    match value {
        Value::Null => Val::Nil,
        Value::Bool(b) => Val::Bool(*b),
        Value::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(i), _) => Val::Int(i),
            (None, Some(u)) => Val::Uint(u),
            (None, None) => Val::Float(n.as_f64().unwrap_or(0.0)),
        },
        Value::String(s) => Val::String(Arc::from(s.as_str())),
        Value::Array(list) => Val::List(list.iter().map(to_val).collect()),
        Value::Object(map) => Val::Map(Arc::new(
            map.iter().map(|(k, v)| (Arc::from(k.as_str()), to_val(v))).collect(),
        )),
    }
}

fn to_json(value: &Val) -> Value {
    match value {
        Val::Bool(b) => Value::Bool(*b),
        Val::Int(i) => Value::from(*i),
        Val::Uint(u) => Value::from(*u),
        Val::Float(f) => Value::from(*f),
        Val::String(s) => Value::from(&**s),
        Val::List(list) => list.iter().map(to_json).collect(),
        Val::Map(map) => map.iter().map(|(k, v)| (k.to_string(), to_json(v))).collect(),
        // A function is no data; `Value` may also grow kinds that we do not make.
        _ => Value::Null,
    }
}
