//! `extended`: the common verbs on any type, also on one that only the server knows.

use super::{Arity, Call, OBJECT_VERBS, Verb, option, verb};
use crate::CliError;
use crate::output::Output;
use crate::session::Session;

pub(super) const VERBS: &[Verb] = &[verb(
    "extended",
    "[verb] [arguments...]",
    Arity::AtLeast(1),
    run,
    "Runs a common verb on objects of any type, also of one that this program does not know",
    "extended -l machines list Available=true",
)
.flags(&[
    super::Flag {
        short: Some('l'),
        ..option("ldata", "TYPE", "The type of the objects")
    },
    option("limit", "N", "At most this many"),
    option("offset", "N", "Leave out the first ones"),
    option("sort", "INDEX", "Sort by this index"),
    super::switch("reverse", "The other way round"),
    option("slim", "A,B", "Leave these members empty, such as Params,Meta"),
    option("params", "A,B", "Of the params only these"),
    super::switch("aggregate", "With the params that come from profiles and stage"),
    super::switch("decode", "Secure params in clear, for who may see them"),
    option("plugin", "NAME", "The plugin to ask, where several offer the action"),
])];

fn run(session: &Session, call: &Call) -> Result<Output, CliError> {
    let noun = call
        .option("ldata")
        .ok_or_else(|| call.misuse("say the type of the objects: -l TYPE"))?;
    let row = isobar_model::noun(noun);
    let known = || OBJECT_VERBS.iter().flat_map(|verbs| verbs.iter());
    let name = call.arg(0);
    let own = row.and_then(|row| super::find(row.name, name));
    let Some(verb) = own.or_else(|| known().find(|verb| verb.name == name)) else {
        let names: Vec<&str> = known().map(|verb| verb.name).collect();
        return Err(call.misuse(format!("{name:?} is none of {}", names.join(", "))));
    };
    let inner = Call {
        noun,
        row,
        args: call.args[1..].to_vec(),
        flags: call.flags,
        usage: format!("{} extended -l {noun} {name} {}", session.program.name(), verb.args),
        example: call.example.clone(),
    };
    match verb.arity.complaint(inner.args.len()) {
        Some(complaint) => Err(inner.misuse(format!("{} {complaint}", inner.usage))),
        None => (verb.run)(session, &inner),
    }
}
