//! Texts that include one another, as one template for the engine.

use std::collections::HashMap;
use std::sync::Arc;

use gotmpl::Template;
use gotmpl::parse::{Expr, ListNode, Node, PipeNode};

use crate::cache::Ready;
use crate::functions;
use crate::wanted::Wanted;

/// Blocks within blocks that the engine runs, and any stack has room for.
pub(crate) const LEVELS: usize = 200;

/// A text with all that it includes, ready to run.
pub(crate) struct Joined {
    pub(crate) template: Template,
    pub(crate) wanted: Wanted,
    /// How many levels of blocks and expressions run within one another at most; none when it has no end of its own.
    pub(crate) levels: Option<usize>,
}

impl Joined {
    /// `parts` begin with the text called `name`. Of two trees of one name the later counts.
    pub(crate) fn new(name: &str, parts: &[Arc<Ready>], iterations: u64) -> Joined {
        let mut template = functions::engine().max_range_iters(iterations);
        let mut wanted = Wanted::default();
        let mut trees = HashMap::new();
        for part in parts {
            for (name, tree) in &part.trees {
                template = template.add_parse_tree(name, tree.clone());
                trees.insert(name.as_str(), tree);
            }
            wanted.add(&part.wanted);
        }
        let known = HashMap::new();
        Joined {
            template,
            wanted,
            levels: Levels { trees, known }.of(name, 0),
        }
    }
}

/// Counts levels. `above`: how many there are already.
struct Levels<'a> {
    trees: HashMap<&'a str, &'a ListNode>,
    /// None while it is being counted.
    known: HashMap<&'a str, Option<usize>>,
}

impl<'a> Levels<'a> {
    fn of(&mut self, name: &str, above: usize) -> Option<usize> {
        let Some((&name, &tree)) = self.trees.get_key_value(name) else {
            return Some(0);
        };
        if let Some(known) = self.known.get(name) {
            return *known;
        }
        self.known.insert(name, None);
        let levels = self.list(tree, above + 1)?;
        self.known.insert(name, Some(levels));
        Some(levels)
    }

    fn list(&mut self, list: &'a ListNode, above: usize) -> Option<usize> {
        if above > LEVELS {
            return None;
        }
        let mut most = 0;
        for node in &list.nodes {
            let levels = match node {
                Node::Action(action) => of_pipe(&action.pipe),
                Node::If(branch) | Node::With(branch) | Node::Range(branch) => {
                    let body = self.list(&branch.body, above + 1)?;
                    let other = match &branch.else_body {
                        Some(list) => self.list(list, above + 1)?,
                        None => 0,
                    };
                    of_pipe(&branch.pipe).max(body).max(other)
                }
                Node::Template(call) => {
                    let called = self.of(&call.name, above)?;
                    call.pipe.as_ref().map_or(0, of_pipe).max(called)
                }
                Node::List(list) => self.list(list, above + 1)?,
                Node::Text(_) | Node::Define(_) | Node::Break(_) | Node::Continue(_) => 0,
            };
            most = most.max(levels);
        }
        Some(most + 1)
    }
}

fn of_pipe(pipe: &PipeNode) -> usize {
    let arguments = pipe.commands.iter().flat_map(|command| &command.args);
    arguments.map(of_expression).max().unwrap_or(0) + 1
}

fn of_expression(expression: &Expr) -> usize {
    match expression {
        Expr::Pipe(_, pipe) => of_pipe(pipe),
        Expr::Chain(_, inner, _) => of_expression(inner) + 1,
        _ => 0,
    }
}
