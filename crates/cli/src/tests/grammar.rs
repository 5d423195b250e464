//! The grammar, its help, and wrong use.

use crate::verbs::SERVICES;
use crate::{Program, grammar};

use super::local;

#[test]
fn the_grammar_is_sound_and_every_command_says_what_it_does_with_an_example_that_parses() {
    for program in [Program::Isobar, Program::Drpcli] {
        let mut root = grammar::command(program, &[]);
        root.clone().debug_assert();
        let mut leaves = 0;
        root.build();
        let groups = root.get_subcommands().filter(|group| group.get_name() != "help");
        for (above, leaf) in groups.flat_map(|group| match group.has_subcommands() {
            true => group.get_subcommands().map(|leaf| (group.get_name(), leaf)).collect(),
            false => vec![("", group)],
        }) {
            let name = format!("{above} {}", leaf.get_name());
            let about = leaf.get_about().unwrap().to_string();
            assert!(about.len() > 10 && !about.ends_with('.'), "{name}: {about}");
            let help = leaf.get_after_help().unwrap().to_string();
            let example = help.strip_prefix("Example: ").unwrap();
            assert!(!example.contains('{') || example.contains("'{\""), "{example}");
            let words = split(example);
            let path = [above, leaf.get_name()].into_iter().filter(|word| !word.is_empty());
            let path: Vec<&str> = path.collect();
            assert_eq!(words[1..=path.len()], path);
            let matches = grammar::command(program, &[]).try_get_matches_from(&words).unwrap();
            grammar::parse(&matches, program, &[])
                .map(|_| ())
                .unwrap_or_else(|error| panic!("{example}: {error}"));
            leaves += 1;
        }
        assert!(leaves > 250, "{leaves}");
    }
}

/// As a shell does, as far as the examples need it.
fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (at, part) in line.split(" > ").next().unwrap().split('\'').enumerate() {
        match at % 2 {
            0 => words.extend(part.split_whitespace().map(str::to_owned)),
            _ => words.push(part.to_owned()),
        }
    }
    words
}

#[test]
fn every_verb_of_the_model_table_is_there() {
    for noun in isobar_model::table::NOUNS {
        let known: Vec<&str> = crate::verbs::of_noun(noun).iter().map(|verb| verb.name).collect();
        for verb in noun.verbs() {
            assert!(known.contains(&verb), "{} {verb}", noun.name);
        }
    }
}

#[test]
fn drpcli_has_no_verbs_of_ours() {
    let isos = SERVICES.iter().find(|service| service.name == "isos").unwrap();
    assert!(isos.verbs(Program::Isobar).any(|verb| verb.name == "tree"));
    assert!(!isos.verbs(Program::Drpcli).any(|verb| verb.name == "tree"));
    let (status, _, err) = local(&["drpcli", "boots", "list"]);
    assert_eq!(
        (status, err.lines().next().unwrap()),
        (1, "Error: unknown command \"boots\" for \"drpcli\"")
    );
}

#[test]
fn wrong_use_is_said_in_drpclis_words() {
    let (status, out, err) = local(&["/usr/bin/drpcli", "machines", "show"]);
    assert_eq!((status, out.as_str()), (1, ""));
    assert!(
        err.starts_with("Error: drpcli machines show [id] [flags] requires 1 argument\nUsage:\n"),
        "{err}"
    );
    assert!(err.ends_with("\n\n"));
    let (_, _, err) = local(&["drpcli", "machines", "set", "Name:x", "param"]);
    assert!(
        err.contains("machines set [id] param [key] to [json blob] [flags] requires 5 arguments"),
        "{err}"
    );
    let (status, _, err) = local(&["drpcli", "-F", "cow", "bootenvs", "list"]);
    assert_eq!((status, err.as_str()), (1, "Error: Unknown pretty format cow\n\n"));
    let (_, _, err) = local(&["isobar", "machines", "set", "Name:x", "parm", "a", "to", "b"]);
    assert!(err.contains("\"parm\" stands where \"param\" should"), "{err}");
}

#[test]
fn isobar_guesses_what_was_meant() {
    for (words, message) in [
        (
            &["isobar", "machine", "list"][..],
            "unknown command \"machine\" for \"isobar\"; did you mean machines?",
        ),
        (
            &["isobar", "machines", "shwo", "x"],
            "unknown command \"shwo\" for \"isobar machines\"; did you mean show?",
        ),
        (
            &["isobar", "serv"],
            "unknown command \"serv\" for \"isobar\"; did you mean serve?",
        ),
        (
            &["isobar", "machines", "list", "--limt", "3"],
            "unknown flag: --limt; did you mean --limit?",
        ),
        (
            &["drpcli", "machine", "list"],
            "unknown command \"machine\" for \"drpcli\"",
        ),
    ] {
        let (status, _, err) = local(words);
        assert_eq!(
            (status, err.lines().next().unwrap()),
            (1, format!("Error: {message}").as_str())
        );
    }
}

#[test]
fn help_version_and_completions_need_no_server() {
    let (status, out, _) = local(&["isobar", "--help"]);
    assert_eq!(status, 0);
    for word in ["machines", "serve", "boots", "completion", "RS_ENDPOINT"] {
        assert!(out.contains(word), "{word}: {out}");
    }
    let (status, out, _) = local(&["isobar", "machines", "set", "-h"]);
    assert_eq!(status, 0);
    assert!(
        out.contains("Example: isobar machines set Name:mach-01 param boot-virtual-iso to true"),
        "{out}"
    );
    for (shell, mark) in [
        ("bash", "complete -F _isobar"),
        ("zsh", "#compdef isobar"),
        ("fish", "complete -c isobar"),
    ] {
        let (status, out, _) = local(&["isobar", "completion", shell]);
        assert_eq!(status, 0);
        assert!(out.contains(mark), "{shell}");
    }
    assert_eq!(local(&["isobar", "completion", "cow"]).0, 1);
    assert_eq!(local(&["drpcli", "version"]).0, 0);
}
