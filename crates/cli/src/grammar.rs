//! The command line's grammar, built from the model table.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Command};
use isobar_model::Noun;
use isobar_model::table::{KeyKind, NOUNS};

use crate::nearest::nearest;
use crate::settings::global_args;
use crate::verbs::{self, Call, SERVICES, Verb};
use crate::{CliError, Program};

/// What the program is for.
pub(crate) const ABOUT: &str = "Boots bare metal over its BMC, and talks to Digital Rebar Provision servers";

/// The grammar.
pub(crate) fn command(program: Program, extra: &[Command]) -> Command {
    let mut command = Command::new(program.name())
        .about(ABOUT)
        .after_help(format!(
            "Where and who: RS_ENDPOINT=https://HOST:8092, RS_KEY=user:password or RS_TOKEN. Objects are named by key \
             or as Name:mach-01.\nMore on a command: {0} machines set --help",
            program.name()
        ))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_version_flag(true)
        .args(global_args());
    command = command.subcommands(extra);
    for noun in NOUNS {
        let verbs = verbs::of_noun(noun).into_iter();
        let verbs = verbs.filter(|verb| !verb.own || program == Program::Isobar);
        command = command.subcommand(group(noun.name, noun.doc, verbs, Some(noun), program));
    }
    for service in SERVICES
        .iter()
        .filter(|service| !service.own || program == Program::Isobar)
    {
        command = command.subcommand(group(
            service.name,
            service.about,
            service.verbs(program),
            None,
            program,
        ));
    }
    for verb in verbs::whole(program) {
        command = command.subcommand(leaf("", verb, None, program));
    }
    command
}

fn group(
    name: &'static str,
    about: &str,
    verbs: impl Iterator<Item = &'static Verb>,
    noun: Option<&Noun>,
    program: Program,
) -> Command {
    let mut group = Command::new(name)
        .about(about.trim_end_matches('.').to_owned())
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true);
    for verb in verbs {
        group = group.subcommand(leaf(name, verb, noun, program));
    }
    group
}

fn leaf(group: &str, verb: &'static Verb, noun: Option<&Noun>, program: Program) -> Command {
    let mut leaf = Command::new(verb.name)
        .about(verb.about.to_owned())
        .override_usage(usage(program, group, verb))
        .after_help(format!("Example: {} {}", program.name(), example(verb, group, noun)))
        .arg(
            Arg::new("args")
                .num_args(0..)
                .action(ArgAction::Append)
                .allow_negative_numbers(true)
                .hide(true),
        );
    for flag in verb.flags {
        let mut arg = Arg::new(flag.long).long(flag.long).help(flag.help);
        if let Some(short) = flag.short {
            arg = arg.short(short);
        }
        leaf = leaf.arg(match flag.value {
            Some(value) => arg.value_name(value).num_args(1).allow_negative_numbers(true),
            None => arg.action(ArgAction::SetTrue),
        });
    }
    leaf
}

/// How a verb is used, as drpcli shows it.
pub(crate) fn usage(program: Program, group: &str, verb: &Verb) -> String {
    let words = [program.name(), group, verb.name, verb.args, "[flags]"];
    let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
    words.join(" ")
}

/// A use of a verb, without the program's name.
pub(crate) fn example(verb: &Verb, group: &str, noun: Option<&Noun>) -> String {
    let id = match (group, noun.map(|noun| noun.key)) {
        ("jobs", _) => "00000000-0000-0000-0000-000000000001",
        (_, Some(KeyKind::Uuid)) => "Name:mach-01",
        ("leases" | "reservations", _) => "192.168.124.10",
        ("params", _) => "network-data",
        ("bootenvs", _) => "sledgehammer",
        ("workflows", _) => "discover-base",
        ("stages", _) => "discover",
        ("users", _) => "rocketskates",
        ("profiles", _) => "global",
        _ => "fred",
    };
    verb.example.replace("{noun}", group).replace("{id}", id)
}

/// From clap's matches to the verb and its arguments.
pub(crate) fn parse<'a>(
    matches: &'a ArgMatches,
    program: Program,
    extra: &[Command],
) -> Result<(&'static Verb, Call<'a>), CliError> {
    let missing = || CliError::text(format!("nothing to do; try {} --help", program.name()));
    let (group, below) = matches.subcommand().ok_or_else(missing)?;
    if let Some(extra) = extra.iter().find(|extra| extra.get_name() == group) {
        return Err(CliError::text(format!(
            "{} must be the first word after {}",
            extra.get_name(),
            program.name()
        )));
    }
    let row = isobar_model::noun(group);
    let service = SERVICES.iter().find(|service| service.name == group);
    let (noun, verb, flags) = match (below.subcommand(), row, service) {
        (Some((name, flags)), Some(row), _) => {
            let verb = verbs::of_noun(row).into_iter().find(|verb| verb.name == name);
            (row.name, verb, flags)
        }
        (Some((name, flags)), None, Some(service)) => {
            let verb = service.verbs(program).find(|verb| verb.name == name);
            (service.name, verb, flags)
        }
        _ => ("", verbs::whole(program).find(|verb| verb.name == group), below),
    };
    let verb = verb.ok_or_else(missing)?;
    let call = Call {
        noun,
        row,
        args: flags
            .get_many::<String>("args")
            .map(|args| args.cloned().collect())
            .unwrap_or_default(),
        flags,
        usage: usage(program, noun, verb),
        example: format!("{} {}", program.name(), example(verb, noun, row)),
    };
    if let Some(complaint) = verb.arity.complaint(call.args.len()) {
        return Err(CliError::Usage {
            message: format!("{} {complaint}", call.usage),
            usage: format!("Usage:\n  {}\n\nExample:\n  {}", call.usage, call.example),
        });
    }
    Ok((verb, call))
}

/// A command line that clap refuses, in the words of drpcli.
pub(crate) fn usage_error(error: &clap::Error, words: &[String], program: Program, extra: &[Command]) -> CliError {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.first().cloned().unwrap_or_default(),
        _ => String::new(),
    };
    let name = program.name();
    match error.kind() {
        ErrorKind::InvalidSubcommand => {
            let typed = context(ContextKind::InvalidSubcommand);
            let root = command(program, extra);
            let group = words
                .iter()
                .find_map(|word| root.find_subcommand(word).filter(|found| found.has_subcommands()));
            let (path, known): (String, Vec<&str>) = match group {
                Some(group) => (
                    format!("{name} {}", group.get_name()),
                    group.get_subcommands().map(Command::get_name).collect(),
                ),
                None => (name.to_owned(), root.get_subcommands().map(Command::get_name).collect()),
            };
            let mut message = format!("unknown command {typed:?} for {path:?}");
            if let Some(meant) = nearest(&typed, known).filter(|_| program == Program::Isobar) {
                message = format!("{message}; did you mean {meant}?");
            }
            CliError::Usage {
                message,
                usage: format!("Run '{path} --help' for usage."),
            }
        }
        ErrorKind::UnknownArgument => {
            let typed = context(ContextKind::InvalidArg);
            let mut message = format!("unknown flag: {typed}");
            let meant = context(ContextKind::SuggestedArg);
            if !meant.is_empty() && program == Program::Isobar {
                message = format!("{message}; did you mean {meant}?");
            }
            CliError::Usage {
                message,
                usage: format!("Run '{name} --help' for usage."),
            }
        }
        _ => {
            let text = error.render().to_string();
            let text = text.strip_prefix("error: ").unwrap_or(&text);
            let (message, usage) = text.split_once("\n\n").unwrap_or((text, ""));
            CliError::Usage {
                message: message.trim().to_owned(),
                usage: usage.trim().to_owned(),
            }
        }
    }
}
