//! What of the render object a text names. Only that is made for a rendering: an object has dozens of members, a template
//! asks for few.

use std::collections::BTreeMap;

use gotmpl::parse::{Expr, ListNode, Node, PipeNode, SmolStr};

/// Names in the render object, and in the objects right below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Everything: it is used as a value, in which anything may be looked up.
    All,
    /// What is named; without a name, whether it is there.
    Members(BTreeMap<SmolStr, Wanted>),
}

impl Default for Wanted {
    fn default() -> Self {
        Wanted::Members(BTreeMap::new())
    }
}

impl Wanted {
    /// What the trees of a text name.
    pub(crate) fn by<'a>(trees: impl IntoIterator<Item = &'a ListNode>) -> Wanted {
        let mut wanted = Wanted::default();
        trees.into_iter().for_each(|tree| wanted.list(tree, true));
        wanted
    }

    pub(crate) fn add(&mut self, other: &Wanted) {
        match (&mut *self, other) {
            (Wanted::All, _) => {}
            (_, Wanted::All) => *self = Wanted::All,
            (Wanted::Members(own), Wanted::Members(others)) => {
                for (name, other) in others {
                    own.entry(name.clone()).or_default().add(other);
                }
            }
        }
    }

    /// What is wanted of a member; none when the member is not.
    pub(crate) fn of(&self, name: &str) -> Option<&Wanted> {
        match self {
            Wanted::All => Some(&Wanted::All),
            Wanted::Members(members) => members.get(name),
        }
    }

    fn path(&mut self, path: &[SmolStr]) {
        let Wanted::Members(members) = self else { return };
        match path {
            [] => *self = Wanted::All,
            [first] => members.entry(first.clone()).or_default().path(&[]),
            [first, second, ..] => {
                let first = members.entry(first.clone()).or_default();
                if let Wanted::Members(members) = first {
                    members.insert(second.clone(), Wanted::All);
                }
            }
        }
    }

    /// `root`: the dot is the render object, unless the tree is called with something else.
    fn list(&mut self, list: &ListNode, root: bool) {
        for node in &list.nodes {
            match node {
                Node::Action(action) => self.pipe(&action.pipe, root),
                Node::If(branch) => {
                    match tested(&branch.pipe, root) {
                        // Whether it is there does not need what is in it.
                        Some(name) => self.add(&Wanted::Members([(name.clone(), Wanted::default())].into())),
                        None => self.pipe(&branch.pipe, root),
                    }
                    self.list(&branch.body, root);
                    branch.else_body.iter().for_each(|list| self.list(list, root));
                }
                Node::With(branch) | Node::Range(branch) => {
                    self.pipe(&branch.pipe, root);
                    self.list(&branch.body, false);
                    branch.else_body.iter().for_each(|list| self.list(list, root));
                }
                // What is called is looked through itself.
                Node::Template(call) => {
                    let pipe = call.pipe.as_ref().filter(|pipe| !is_render_object(pipe));
                    pipe.into_iter().for_each(|pipe| self.pipe(pipe, root));
                }
                Node::List(list) => self.list(list, root),
                Node::Text(_) | Node::Define(_) | Node::Break(_) | Node::Continue(_) => {}
            }
        }
    }

    fn pipe(&mut self, pipe: &PipeNode, root: bool) {
        let arguments = pipe.commands.iter().flat_map(|command| &command.args);
        arguments.for_each(|argument| self.expression(argument, root));
    }

    fn expression(&mut self, expression: &Expr, root: bool) {
        match expression {
            Expr::Dot(_) if root => self.path(&[]),
            Expr::Field(_, path) if root => self.path(path),
            Expr::Variable(_, variable, path) if variable == "$" => self.path(path),
            Expr::Pipe(_, pipe) => self.pipe(pipe, root),
            Expr::Chain(_, inner, _) => self.expression(inner, root),
            _ => {}
        }
    }
}

fn only(pipe: &PipeNode) -> Option<&Expr> {
    match pipe.commands.as_slice() {
        [command] if pipe.decl.is_empty() && command.args.len() == 1 => command.args.first(),
        _ => None,
    }
}

/// `{{if .Machine}}`.
fn tested(pipe: &PipeNode, root: bool) -> Option<&SmolStr> {
    match only(pipe)? {
        Expr::Field(_, path) if root && path.len() == 1 => path.first(),
        Expr::Variable(_, variable, path) if variable == "$" && path.len() == 1 => path.first(),
        _ => None,
    }
}

/// `{{template "ID" .}}`.
fn is_render_object(pipe: &PipeNode) -> bool {
    match only(pipe) {
        Some(Expr::Dot(_)) => true,
        Some(Expr::Variable(_, variable, path)) => variable == "$" && path.is_empty(),
        _ => false,
    }
}
