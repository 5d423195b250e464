//! The manual: man pages and the reference of all commands, from the table that the commands are made of.

use std::fmt::Write as _;

use clap::Command;
use isobar_model::Noun;
use isobar_model::table::NOUNS;

use crate::settings::globals;
use crate::verbs::{self, SERVICES, Verb};
use crate::{Program, grammar};

/// A noun and its verbs, or the program itself.
#[derive(Debug)]
pub(crate) struct Page {
    program: &'static str,
    /// Empty for the program itself.
    pub(crate) noun: String,
    pub(crate) about: String,
    pub(crate) entries: Vec<Entry>,
}

/// A command.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) usage: String,
    pub(crate) about: String,
    /// As they are typed, and what they do.
    pub(crate) flags: Vec<(String, String)>,
    pub(crate) example: String,
}

impl Page {
    /// Name of the page without its section: `isobar-machines`.
    pub(crate) fn file_name(&self) -> String {
        match self.noun.as_str() {
            "" => self.program.to_owned(),
            noun => format!("{}-{noun}", self.program),
        }
    }
}

/// All pages: the program first, then nouns by name.
pub(crate) fn pages(program: Program, extra: &[Command]) -> Vec<Page> {
    let page = |noun: &str, about: &str, verbs: &mut dyn Iterator<Item = &'static Verb>, row: Option<&Noun>| Page {
        program: program.name(),
        noun: noun.to_owned(),
        about: about.trim_end_matches('.').to_owned(),
        entries: verbs.map(|verb| entry(program, noun, verb, row)).collect(),
    };
    let mut pages: Vec<Page> = NOUNS
        .iter()
        .map(|noun| page(noun.name, noun.doc, &mut verbs::of_noun(noun).into_iter(), Some(noun)))
        .collect();
    for service in SERVICES {
        let mut verbs = service.verbs(program).peekable();
        if verbs.peek().is_some() && (!service.own || program == Program::Isobar) {
            pages.push(page(service.name, service.about, &mut verbs, None));
        }
    }
    pages.extend(extra.iter().map(|command| Page {
        program: program.name(),
        noun: command.get_name().to_owned(),
        about: text(command.get_about()),
        entries: leaves(program.name(), command),
    }));
    pages.sort_by(|a, b| a.noun.cmp(&b.noun));
    let mut whole = page("", grammar::ABOUT, &mut verbs::whole(program), None);
    whole.entries.sort_by(|a, b| a.usage.cmp(&b.usage));
    pages.insert(0, whole);
    pages
}

fn entry(program: Program, noun: &str, verb: &Verb, row: Option<&Noun>) -> Entry {
    let flag = |flag: &verbs::Flag| {
        let short = flag.short.map(|short| format!("-{short}, ")).unwrap_or_default();
        let value = flag.value.map(|value| format!(" {value}")).unwrap_or_default();
        (format!("{short}--{}{value}", flag.long), flag.help.to_owned())
    };
    Entry {
        usage: grammar::usage(program, noun, verb)
            .trim_end_matches(" [flags]")
            .to_owned(),
        about: verb.about.to_owned(),
        flags: verb.flags.iter().map(flag).collect(),
        example: format!("{} {}", program.name(), grammar::example(verb, noun, row)),
    }
}

fn text(of: Option<&clap::builder::StyledStr>) -> String {
    of.map(ToString::to_string).unwrap_or_default()
}

/// Commands of the binary's own, which clap knows all about.
fn leaves(above: &str, command: &Command) -> Vec<Entry> {
    let name = format!("{above} {}", command.get_name());
    let below: Vec<Entry> = command
        .get_subcommands()
        .filter(|below| below.get_name() != "help")
        .flat_map(|below| leaves(&name, below))
        .collect();
    if !below.is_empty() {
        return below;
    }
    let flag = |arg: &clap::Arg| {
        let long = arg.get_long()?;
        let value = arg
            .get_action()
            .takes_values()
            .then(|| arg.get_value_names()?.first().cloned());
        let value = value.flatten().map(|value| format!(" {value}")).unwrap_or_default();
        Some((format!("--{long}{value}"), text(arg.get_help())))
    };
    let words = command.get_positionals().filter_map(|arg| {
        let value = arg.get_value_names()?.first()?;
        Some(format!(" [{}]", value.to_lowercase()))
    });
    let help = text(command.get_after_help());
    let program = above.split(' ').next().unwrap_or_default();
    let example = help
        .lines()
        .map(str::trim)
        .find(|line| line.starts_with(&format!("{program} ")));
    vec![Entry {
        usage: words.fold(name.clone(), |usage, word| usage + &word),
        about: text(command.get_about()),
        flags: command.get_arguments().filter_map(flag).collect(),
        example: example.map_or(name, str::to_owned),
    }]
}

/// One Markdown text of all pages.
pub(crate) fn markdown(pages: &[Page]) -> String {
    let cell = |text: &str| text.replace('|', "\\|").replace('\n', " ");
    let mut out = String::from(
        "# Commands\n\nMade by `isobar reference` from the tables that the commands themselves are made of. `--help` after any of \
         them says more; as `drpcli` the program has drpcli's commands alone, and answers in JSON.\n\n## Global options\n\n\
         | option | environment | what it does |\n|---|---|---|\n",
    );
    for (flag, env, help) in globals() {
        let _ = writeln!(
            out,
            "| `{flag}` | {} | {} |",
            env.map_or(String::new(), |env| format!("`{env}`")),
            cell(help)
        );
    }
    for page in pages {
        let title = if page.noun.is_empty() {
            "Without a noun"
        } else {
            &page.noun
        };
        let _ = writeln!(
            out,
            "\n## {title}\n\n{}.\n\n| command | what it does | example |\n|---|---|---|",
            page.about
        );
        for entry in &page.entries {
            let flags: Vec<String> = entry.flags.iter().map(|(flag, _)| format!("`{flag}`")).collect();
            let flags = match flags.is_empty() {
                true => String::new(),
                // Commands of the binary's own have their options in chapters of the manual.
                false if flags.len() > 12 => "<br>options: `--help`".to_owned(),
                false => format!("<br>{}", flags.join(" ")),
            };
            let _ = writeln!(
                out,
                "| `{}`{flags} | {} | `{}` |",
                cell(&entry.usage),
                cell(&entry.about),
                cell(&entry.example)
            );
        }
    }
    out
}

/// A page for `man` (man-pages(7)).
pub(crate) fn roff(page: &Page) -> String {
    let line = |text: &str| {
        let text = text.replace('\\', "\\e").replace('-', "\\-");
        // A dot or quote at the beginning would be a request.
        match text.starts_with(['.', '\'']) {
            true => format!("\\&{text}"),
            false => text,
        }
    };
    let name = page.file_name();
    let mut out = format!(
        ".TH {} 1 \"\" \"isobar {}\"\n.SH NAME\n{} \\- {}\n.SH SYNOPSIS\n",
        name.to_uppercase(),
        env!("CARGO_PKG_VERSION"),
        line(&name),
        line(&page.about)
    );
    match page.noun.as_str() {
        "" => {
            let _ = writeln!(out, ".B {}\nNOUN VERB [ARGUMENTS] [FLAGS]", page.program);
        }
        noun => {
            let _ = writeln!(out, ".B {} {}\nVERB [ARGUMENTS] [FLAGS]", page.program, line(noun));
        }
    }
    out.push_str(".SH COMMANDS\n");
    for entry in &page.entries {
        let _ = writeln!(out, ".TP\n.B {}\n{}.", line(&entry.usage), line(&entry.about));
        for (flag, help) in &entry.flags {
            let _ = writeln!(out, ".RS\n.TP\n.B {}\n{}\n.RE", line(flag), line(help));
        }
        let _ = writeln!(out, ".RS\n.PP\nExample:\n.PP\n.EX\n{}\n.EE\n.RE", line(&entry.example));
    }
    if page.noun.is_empty() {
        out.push_str(".SH OPTIONS\nThese may stand anywhere in a command.\n");
        for (flag, env, help) in globals() {
            let env = env.map(|env| format!(" (environment: {env})")).unwrap_or_default();
            let _ = writeln!(out, ".TP\n.B {}\n{}", line(&flag), line(&format!("{help}{env}.")));
        }
        let _ = writeln!(
            out,
            ".SH EXIT STATUS\n0, or 1 after an error on standard error.\n.SH FILES\n.TP\n.I ~/.drpclirc\nLines of \
             NAME=value for what the environment does not set.\n.TP\n.I ~/.cache/drpcli/tokens\nTokens that are used again."
        );
    } else {
        let _ = writeln!(out, ".SH SEE ALSO\n.BR {} (1)", page.program);
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn no_line_of_a_man_page_is_a_request_by_accident() {
        for page in pages(Program::Isobar, &[]) {
            let known = [
                ".TH", ".SH", ".B", ".BR", ".TP", ".RS", ".RE", ".PP", ".EX", ".EE", ".I",
            ];
            for line in roff(&page).lines().filter(|line| line.starts_with(['.', '\''])) {
                let request = line.split(' ').next().unwrap();
                assert!(known.contains(&request), "{}: {line}", page.noun);
            }
        }
    }
}
