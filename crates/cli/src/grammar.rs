//! The command line's grammar, built from the model table.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Command};
use clap_complete::Shell;
use isobar_model::Noun;
use isobar_model::table::{KeyKind, NOUNS};

use crate::nearest::nearest;
use crate::settings::global_args;
use crate::verbs::{self, Call, SERVICES, Verb};
use crate::{CliError, Program};

const ABOUT: &str = "Boots bare metal over its BMC, and talks to Digital Rebar Provision servers";

/// What a command line asks for.
pub(crate) enum Parsed<'a> {
    Call(&'static Verb, Call<'a>),
    Completion(Shell),
    Version,
}

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
        let verbs = verbs::of_noun(noun);
        command = command.subcommand(group(noun.name, noun.doc, verbs.into_iter(), Some(noun), program));
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
    command
        .subcommand(
            Command::new("completion")
                .about("Prints a script that makes a shell complete commands")
                .after_help(format!(
                    "Example: {0} completion bash > /etc/bash_completion.d/{0}",
                    program.name()
                ))
                .arg(
                    Arg::new("shell")
                        .required(true)
                        .value_parser(clap::value_parser!(Shell)),
                ),
        )
        .subcommand(Command::new("version").about("Prints the version"))
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

fn usage(program: Program, group: &str, verb: &Verb) -> String {
    let mut words = vec![program.name(), group, verb.name];
    words.extend((!verb.args.is_empty()).then_some(verb.args));
    words.push("[flags]");
    words.join(" ")
}

fn example(verb: &Verb, group: &str, noun: Option<&Noun>) -> String {
    let id = match (group, noun.map(|noun| noun.key)) {
        (_, Some(KeyKind::Uuid)) => "Name:mach-01",
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
pub(crate) fn parse<'a>(matches: &'a ArgMatches, program: Program, extra: &[Command]) -> Result<Parsed<'a>, CliError> {
    let missing = || CliError::text(format!("nothing to do; try {} --help", program.name()));
    let (group, below) = matches.subcommand().ok_or_else(missing)?;
    if let Some(extra) = extra.iter().find(|extra| extra.get_name() == group) {
        return Err(CliError::text(format!(
            "{} must be the first word after {}",
            extra.get_name(),
            program.name()
        )));
    }
    match group {
        "version" => return Ok(Parsed::Version),
        "completion" => {
            return Ok(Parsed::Completion(
                *below.get_one::<Shell>("shell").ok_or_else(missing)?,
            ));
        }
        _ => {}
    }
    let (name, flags) = below.subcommand().ok_or_else(missing)?;
    let row = isobar_model::noun(group);
    let service = SERVICES.iter().find(|service| service.name == group);
    let verb = match (row, service) {
        (Some(row), _) => verbs::of_noun(row).into_iter().find(|verb| verb.name == name),
        (None, Some(service)) => service.verbs(program).find(|verb| verb.name == name),
        (None, None) => None,
    };
    let noun = row
        .map(|row| row.name)
        .or(service.map(|service| service.name))
        .ok_or_else(missing)?;
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
    };
    if let Some(complaint) = verb.arity.complaint(call.args.len()) {
        return Err(CliError::Usage {
            message: format!("{} {complaint}", call.usage),
            usage: format!(
                "Usage:\n  {}\n\nExample:\n  {} {}",
                call.usage,
                program.name(),
                example(verb, noun, row)
            ),
        });
    }
    Ok(Parsed::Call(verb, call))
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
