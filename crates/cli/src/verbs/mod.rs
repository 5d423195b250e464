//! What the verbs do. A verb is a row: its words, how many arguments it takes, its flags, an example, and
//! a function. Which noun has which verbs comes from the model table, and from [`SERVICES`] for what is
//! no object type.

mod actions;
mod audit;
mod blobs;
mod bmc;
mod boots;
mod console;
mod contents;
mod discs;
mod events;
mod extended;
mod fleets;
mod jobs;
mod machines;
mod meta;
mod objects;
mod operations;
mod params;
mod passwords;
mod record;
mod render;
mod runner;
mod scan;
mod services;
mod subnets;
mod support;
mod wait;
mod whole;

use clap::ArgMatches;
use isobar_model::Noun;

use crate::output::Output;
use crate::session::Session;
use crate::{CliError, Program};

/// How many arguments a verb takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arity {
    Exactly(usize),
    AtLeast(usize),
    Between(usize, usize),
}

impl Arity {
    /// drpcli's words for a wrong number, `None` for a right one.
    pub(crate) fn complaint(self, count: usize) -> Option<String> {
        let arguments = |n: usize| {
            if n == 1 {
                "1 argument".to_owned()
            } else {
                format!("{n} arguments")
            }
        };
        match self {
            Self::Exactly(n) if count != n => Some(format!("requires {}", arguments(n))),
            Self::AtLeast(n) if count < n => Some(format!("requires at least {}", arguments(n))),
            Self::Between(a, b) if !(a..=b).contains(&count) => Some(format!(
                "requires at least {} and at most {}",
                arguments(a),
                arguments(b)
            )),
            _ => None,
        }
    }
}

/// A flag of a verb.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flag {
    pub(crate) long: &'static str,
    pub(crate) short: Option<char>,
    /// Name of its value, if it takes one.
    pub(crate) value: Option<&'static str>,
    pub(crate) help: &'static str,
}

const fn switch(long: &'static str, help: &'static str) -> Flag {
    Flag {
        long,
        short: None,
        value: None,
        help,
    }
}

const fn option(long: &'static str, value: &'static str, help: &'static str) -> Flag {
    Flag {
        long,
        short: None,
        value: Some(value),
        help,
    }
}

/// What runs a verb.
pub(crate) type Run = fn(&Session, &Call) -> Result<Output, CliError>;

/// One verb.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Verb {
    pub(crate) name: &'static str,
    /// Its arguments as drpcli's usage lines show them.
    pub(crate) args: &'static str,
    pub(crate) arity: Arity,
    pub(crate) about: &'static str,
    /// A command line without the program's name; `{noun}` and `{id}` are filled in.
    pub(crate) example: &'static str,
    pub(crate) flags: &'static [Flag],
    pub(crate) run: Run,
    /// Ours, not drpcli's.
    pub(crate) own: bool,
}

const fn verb(
    name: &'static str,
    args: &'static str,
    arity: Arity,
    run: Run,
    about: &'static str,
    example: &'static str,
) -> Verb {
    Verb {
        name,
        args,
        arity,
        about,
        example,
        flags: &[],
        run,
        own: false,
    }
}

impl Verb {
    const fn flags(self, flags: &'static [Flag]) -> Self {
        Self { flags, ..self }
    }

    const fn own(self) -> Self {
        Self { own: true, ..self }
    }
}

/// Something with verbs that is no object type of the model table.
pub(crate) struct Service {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) verbs: &'static [&'static [Verb]],
    pub(crate) own: bool,
}

/// All such.
pub(crate) const SERVICES: &[Service] = &[
    Service {
        name: "audit",
        about: "Who did what, when, and from where.",
        verbs: &[audit::VERBS],
        own: true,
    },
    Service {
        name: "bmc",
        about: "BMCs: what they are and whether machines can boot through them.",
        verbs: &[bmc::VERBS, record::VERBS, scan::VERBS],
        own: true,
    },
    Service {
        name: "boots",
        about: "Boots of machines over virtual media, and how far they are.",
        verbs: &[boots::VERBS],
        own: true,
    },
    Service {
        name: "contents",
        about: "Content packs: sets of objects that belong together.",
        verbs: &[contents::VERBS],
        own: false,
    },
    Service {
        name: "events",
        about: "What happens on the server, as it happens.",
        verbs: &[events::VERBS],
        own: false,
    },
    Service {
        name: "files",
        about: "Files that the server hands to machines.",
        verbs: &[blobs::FILES],
        own: false,
    },
    Service {
        name: "info",
        about: "What the server is and can.",
        verbs: &[services::INFO],
        own: false,
    },
    Service {
        name: "interfaces",
        about: "The server's network interfaces.",
        verbs: &[services::INTERFACES],
        own: false,
    },
    Service {
        name: "isos",
        about: "Operating systems' ISOs; and the machines' own, which are made as they are read.",
        verbs: &[blobs::ISOS, discs::VERBS],
        own: false,
    },
    Service {
        name: "logs",
        about: "What the server logged lately.",
        verbs: &[events::LOGS],
        own: false,
    },
    Service {
        name: "objects",
        about: "The types of objects that the server has.",
        verbs: &[services::OBJECTS],
        own: false,
    },
    Service {
        name: "operations",
        about: "What is under way at BMCs or waits for them: boots, rolling boots, clean-ups, actions.",
        verbs: &[operations::VERBS],
        own: true,
    },
    Service {
        name: "prefs",
        about: "Settings of the server.",
        verbs: &[services::PREFS],
        own: false,
    },
    Service {
        name: "support",
        about: "What somebody who helps wants to see.",
        verbs: &[support::VERBS],
        own: false,
    },
    Service {
        name: "system",
        about: "Actions on the server as a whole.",
        verbs: &[services::SYSTEM],
        own: false,
    },
    Service {
        name: "tokens",
        about: "What users and machines have logged in with.",
        verbs: &[services::TOKENS],
        own: true,
    },
];

/// Commands that are no noun's: they stand right behind the program's name.
pub(crate) const WHOLE: &[&[Verb]] = &[whole::VERBS, extended::VERBS, runner::WHOLE];

/// Those commands, as far as a program shows them.
pub(crate) fn whole(program: Program) -> impl Iterator<Item = &'static Verb> {
    let all = WHOLE.iter().flat_map(|verbs| verbs.iter());
    all.filter(move |verb| !verb.own || program == Program::Isobar)
}

/// Verbs of object types. A row that names a noun goes before one for all.
const OBJECT_VERBS: &[&[Verb]] = &[
    objects::VERBS,
    params::VERBS,
    actions::VERBS,
    meta::VERBS,
    wait::VERBS,
    machines::LIST_VERBS,
    blobs::UPLOAD,
];

const NOUN_VERBS: &[(&str, &[Verb])] = &[
    ("machines", machines::VERBS),
    ("machines", jobs::OF_MACHINES),
    ("machines", blobs::MACHINES),
    ("machines", runner::OF_MACHINES),
    ("jobs", jobs::VERBS),
    ("jobs", actions::OF_JOBS),
    ("subnets", subnets::VERBS),
    ("stages", machines::STAGE_VERBS),
    ("workflows", machines::WORKFLOW_VERBS),
    ("users", services::USERS),
    ("users", passwords::VERBS),
    ("bootenvs", blobs::BOOTENVS),
    ("templates", blobs::TEMPLATES),
];

/// Verbs of object types that are ours.
const OWN_VERBS: &[(&str, &[Verb])] = &[
    ("bootenvs", render::BOOTENVS),
    ("machines", console::VERBS),
    ("machines", fleets::VERBS),
    ("templates", render::TEMPLATES),
];

/// The verbs of an object type: those that the model table names and this crate knows, and ours.
pub(crate) fn of_noun(noun: &Noun) -> Vec<&'static Verb> {
    let own = OWN_VERBS.iter().filter(|(of, _)| *of == noun.name);
    let known = noun.verbs().into_iter().filter_map(|name| find(noun.name, name));
    let mut verbs: Vec<_> = known.chain(own.flat_map(|(_, verbs)| verbs.iter())).collect();
    verbs.sort_by_key(|verb| verb.name);
    verbs
}

fn find(noun: &str, name: &str) -> Option<&'static Verb> {
    let own = NOUN_VERBS
        .iter()
        .filter(|(of, _)| *of == noun)
        .flat_map(|(_, verbs)| verbs.iter());
    let common = OBJECT_VERBS.iter().flat_map(|verbs| verbs.iter());
    own.chain(common).find(|verb| verb.name == name)
}

impl Service {
    /// Its verbs, as far as this program shows them.
    pub(crate) fn verbs(&self, program: Program) -> impl Iterator<Item = &'static Verb> {
        let all = self.verbs.iter().flat_map(|verbs| verbs.iter());
        all.filter(move |verb| !verb.own || program == Program::Isobar)
    }
}

/// One use of a verb.
pub(crate) struct Call<'a> {
    /// Word after the program's name; empty for what is no noun's.
    pub(crate) noun: &'a str,
    /// Row of the model table, for object types.
    pub(crate) row: Option<&'static Noun>,
    pub(crate) args: Vec<String>,
    pub(crate) flags: &'a ArgMatches,
    /// How the verb is used, for errors.
    pub(crate) usage: String,
    /// The whole line of its example.
    pub(crate) example: String,
}

impl Call<'_> {
    /// An argument that the arity has made sure of; empty if it has not.
    pub(crate) fn arg(&self, index: usize) -> &str {
        self.args.get(index).map_or("", String::as_str)
    }

    /// Argument `index` must be this word: `param` and `to` in `set ID param P to V`.
    pub(crate) fn word(&self, index: usize, word: &str) -> Result<(), CliError> {
        if self.arg(index) == word {
            return Ok(());
        }
        Err(self.misuse(format!("{:?} stands where {word:?} should", self.arg(index))))
    }

    /// The command line is wrong.
    pub(crate) fn misuse(&self, message: impl Into<String>) -> CliError {
        CliError::Usage {
            message: message.into(),
            usage: format!("Usage: {}\nExample: {}", self.usage, self.example),
        }
    }

    pub(crate) fn is_set(&self, flag: &str) -> bool {
        self.flags
            .try_get_one::<bool>(flag)
            .ok()
            .flatten()
            .copied()
            .unwrap_or(false)
    }

    pub(crate) fn option(&self, flag: &str) -> Option<&str> {
        self.flags
            .try_get_one::<String>(flag)
            .ok()
            .flatten()
            .map(String::as_str)
    }

    /// Singular of the noun.
    pub(crate) fn singular(&self) -> &str {
        self.row.map_or(self.noun, |row| row.singular)
    }
}
