//! What is done to a parsed tree before it runs: methods are called where they are looked up, names are looked up by a
//! function that says what it did not find, and each action notes its line.

use std::collections::BTreeSet;

use gotmpl::Value;
use gotmpl::parse::{ActionNode, CommandNode, Expr, ListNode, Node, Number, PipeNode, Pos, SmolStr};

use crate::engine::{ABSENT, AT, BUILTINS, CALL, NOTHING, PATH, SHOW, WRAPPED, exec, failed, plain_function};
use crate::{TemplateError, methods, printf};

/// Names in one path: a method on the way makes the tree deeper.
const MAX_PATH: usize = 50;

/// What is done to a parsed tree before it runs.
pub(crate) struct Pass<'a> {
    template: SmolStr,
    absent: &'a [&'static str],
    pub(crate) included: Vec<String>,
    unknown: Option<(String, usize)>,
    declared: BTreeSet<SmolStr>,
    /// Assigned to before anything declared it.
    undeclared: Option<(String, usize)>,
    /// Line of a path that is too long.
    long: Option<usize>,
}

impl<'a> Pass<'a> {
    pub(crate) fn new(template: &str, absent: &'a [&'static str]) -> Pass<'a> {
        Pass {
            template: template.into(),
            absent,
            included: Vec::new(),
            unknown: None,
            declared: BTreeSet::new(),
            undeclared: None,
            long: None,
        }
    }

    /// What was found that no template may have.
    pub(crate) fn sound(&self, id: &str) -> Result<(), TemplateError> {
        if let Some((function, line)) = &self.unknown {
            return Err(failed(id, Some(*line), format!("function {function} is not known")));
        }
        if let Some(line) = self.long {
            return Err(failed(id, Some(line), format!("a path of more than {MAX_PATH} names")));
        }
        match &self.undeclared {
            Some((variable, line)) => Err(failed(id, Some(*line), format!("undefined variable: {variable}"))),
            None => Ok(()),
        }
    }

    pub(crate) fn list(&mut self, list: &mut ListNode) {
        let mut nodes = Vec::with_capacity(list.nodes.len() * 2);
        for mut node in std::mem::take(&mut list.nodes) {
            let position = match &mut node {
                Node::Action(action) => {
                    self.pipe(&mut action.pipe);
                    if action.pipe.decl.is_empty() {
                        let args = vec![Expr::Identifier(action.pos, SHOW.into())];
                        action.pipe.commands.push(CommandNode { pos: action.pos, args });
                    }
                    Some(action.pos)
                }
                Node::If(branch) | Node::With(branch) | Node::Range(branch) => {
                    self.pipe(&mut branch.pipe);
                    self.list(&mut branch.body);
                    if let Some(list) = &mut branch.else_body {
                        self.list(list);
                    }
                    Some(branch.pos)
                }
                Node::Template(call) => {
                    self.included.push(call.name.to_string());
                    match &mut call.pipe {
                        Some(pipe) => self.pipe(pipe),
                        // Without an argument the dot is nil in there.
                        none => *none = Some(pipeline(call.pos, vec![Expr::Identifier(call.pos, NOTHING.into())])),
                    }
                    Some(call.pos)
                }
                Node::List(list) => {
                    self.list(list);
                    None
                }
                Node::Text(_) | Node::Define(_) | Node::Break(_) | Node::Continue(_) => None,
            };
            if let Some(position) = position {
                nodes.push(self.marker(position));
            }
            if let Node::Action(action) = &node {
                nodes.extend(mutation(action));
            }
            nodes.push(node);
        }
        list.nodes = nodes;
    }

    /// An action that notes where we are. It declares a variable, so it prints nothing.
    fn marker(&self, position: Pos) -> Node {
        let line = i64::try_from(position.line).unwrap_or(i64::MAX);
        let arguments = vec![
            Expr::Identifier(position, AT.into()),
            Expr::String(position, self.template.as_str().into()),
            Expr::Number(position, Number::Int(line)),
        ];
        action(position, vec!["$isobar_at".into()], arguments, false)
    }

    fn pipe(&mut self, pipe: &mut PipeNode) {
        if !pipe.is_assign {
            self.declared.extend(pipe.decl.iter().cloned());
        } else if let Some(variable) = pipe.decl.iter().find(|name| !self.declared.contains(*name)) {
            self.undeclared.get_or_insert((variable.to_string(), pipe.pos.line));
        }
        for command in &mut pipe.commands {
            for argument in command.args.iter_mut().skip(1) {
                self.argument(argument);
            }
            let Some(first) = command.args.first_mut() else {
                continue;
            };
            match first {
                // The method takes the command's arguments and what is piped to it.
                Expr::Field(position, path) | Expr::Variable(position, _, path) | Expr::Chain(position, _, path)
                    if path.last().is_some_and(|last| methods::is_method(last)) =>
                {
                    let position = *position;
                    self.inner(first, true);
                    command.args.insert(0, Expr::Identifier(position, CALL.into()));
                }
                _ => self.argument(first),
            }
        }
    }

    /// An expression that stands for a value, not for the head of a call.
    fn argument(&mut self, expression: &mut Expr) {
        self.inner(expression, false);
    }

    /// What is inside an expression; `called` when its last step is called already.
    fn inner(&mut self, expression: &mut Expr, called: bool) {
        let position = expression.pos();
        if let Expr::Field(_, path) | Expr::Variable(_, _, path) | Expr::Chain(_, _, path) = expression
            && path.len() > MAX_PATH
        {
            self.long.get_or_insert(position.line);
            return;
        }
        match expression {
            Expr::Identifier(_, name) => {
                let known = BUILTINS.contains(&name.as_str())
                    || WRAPPED.contains(&name.as_str())
                    || plain_function(name).is_some();
                if !known && self.unknown.is_none() {
                    self.unknown = Some((name.to_string(), position.line));
                }
            }
            Expr::Pipe(_, pipe) => self.pipe(pipe),
            Expr::Chain(_, inner, path) => {
                self.argument(inner);
                let path = std::mem::take(path);
                let head = std::mem::replace(inner.as_mut(), Expr::Nil(position));
                *expression = walked(position, head, "(…)", &path, called);
            }
            Expr::Field(_, path) => {
                if let Some(replacement) = self.absent_object(position, path) {
                    *expression = replacement;
                    return;
                }
                let path = std::mem::take(path);
                let Some((first, rest)) = path.split_first() else {
                    return;
                };
                let mut head = Expr::Field(position, vec![first.clone()]);
                if methods::is_method(first) && !(called && rest.is_empty()) {
                    head = piped(position, vec![Expr::Identifier(position, CALL.into()), head]);
                }
                *expression = walked(position, head, &format!(".{first}"), rest, called);
            }
            Expr::Variable(_, variable, path) => {
                if variable == "$"
                    && let Some(replacement) = self.absent_object(position, path)
                {
                    *expression = replacement;
                    return;
                }
                let path = std::mem::take(path);
                let label = variable.to_string();
                let head = Expr::Variable(position, variable.clone(), Vec::new());
                *expression = walked(position, head, &label, &path, called);
            }
            Expr::Dot(_) | Expr::String(..) | Expr::Number(..) | Expr::Bool(..) | Expr::Nil(_) => {}
        }
    }

    /// `.Machine.Name` where there is no machine: an error, not an empty text.
    fn absent_object(&self, position: Pos, path: &[SmolStr]) -> Option<Expr> {
        let first = path.first().filter(|_| path.len() > 1)?;
        self.absent.iter().find(|name| **name == first.as_str())?;
        let what: Vec<_> = path.iter().map(SmolStr::as_str).collect();
        let what = Expr::String(position, what.join(".").into());
        Some(piped(position, vec![Expr::Identifier(position, ABSENT.into()), what]))
    }
}

/// Looks up one name after the other; methods on the way are called, and the last one too unless its caller does.
fn walked(position: Pos, head: Expr, label: &str, path: &[SmolStr], called: bool) -> Expr {
    let mut value = head;
    let mut label = label.to_owned();
    let mut steps: Vec<&SmolStr> = Vec::new();
    let look_up = |value: Expr, label: &mut String, steps: &mut Vec<&SmolStr>| {
        if steps.is_empty() {
            return value;
        }
        let text = |text: &str| Expr::String(position, text.into());
        let mut args = vec![Expr::Identifier(position, PATH.into()), value, text(label)];
        for step in steps.drain(..) {
            args.push(text(step));
            label.push('.');
            label.push_str(step);
        }
        piped(position, args)
    };
    for (at, step) in path.iter().enumerate() {
        steps.push(step);
        if methods::is_method(step) && !(called && at + 1 == path.len()) {
            value = look_up(value, &mut label, &mut steps);
            value = piped(position, vec![Expr::Identifier(position, CALL.into()), value]);
        }
    }
    look_up(value, &mut label, &mut steps)
}

/// The function behind [`walked`]: a value, how the template wrote it, and names in it.
pub(crate) fn walk(arguments: &[Value]) -> gotmpl::Result<Value> {
    let [value, Value::String(label), steps @ ..] = arguments else {
        return Ok(Value::Nil);
    };
    let mut value = value.clone();
    let mut label = label.to_string();
    for step in steps.iter().filter_map(Value::as_str) {
        value = match &value {
            Value::Map(members) => match members.get(step) {
                Some(value) => value.clone(),
                None => return Err(exec(format!("there is no {label}.{step}"))),
            },
            Value::Nil => return Err(exec(format!("{label} is nil: it has no {step}"))),
            other => {
                let type_ = printf::type_of(other);
                return Err(exec(format!(
                    "can't evaluate field {step} in {label}, which is of type {type_}"
                )));
            }
        };
        label.push('.');
        label.push_str(step);
    }
    Ok(value)
}

fn action(position: Pos, decl: Vec<SmolStr>, args: Vec<Expr>, is_assign: bool) -> Node {
    let commands = vec![CommandNode { pos: position, args }];
    Node::Action(ActionNode {
        pos: position,
        pipe: PipeNode {
            pos: position,
            decl,
            commands,
            is_assign,
        },
    })
}

fn pipeline(position: Pos, args: Vec<Expr>) -> PipeNode {
    PipeNode {
        pos: position,
        decl: Vec::new(),
        commands: vec![CommandNode { pos: position, args }],
        is_assign: false,
    }
}

fn piped(position: Pos, args: Vec<Expr>) -> Expr {
    Expr::Pipe(position, pipeline(position, args))
}

/// sprig's `set` and `unset` change their map in place; values here are never changed, so the variable gets
/// the new map: in front of `{{$_ := set $d "k" 1}}` goes `{{$d = set $d "k" 1}}`.
fn mutation(set: &ActionNode) -> Option<Node> {
    let [command] = set.pipe.commands.as_slice() else {
        return None;
    };
    let (Expr::Identifier(_, function), Expr::Variable(_, variable, path)) =
        (command.args.first()?, command.args.get(1)?)
    else {
        return None;
    };
    let mutates = matches!(function.as_str(), "set" | "unset") && path.is_empty() && variable != "$";
    mutates.then(|| action(set.pos, vec![variable.clone()], command.args.clone(), true))
}
