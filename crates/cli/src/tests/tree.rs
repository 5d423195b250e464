//! The tree of commands against our own reading of what drpcli 4.7 has (drp-api §19).

use crate::{Program, grammar};

/// What every object type that clients make has.
const COMMON: &str = "list show exists create update patch destroy wait indexes count etag meta";
const PARAMS: &str = "params get set add remove";
const ACTIONS: &str = "actions action runaction";

/// Nouns and their verbs; `COMMON` and the like stand for those above.
const NOUNS: &[(&str, &str)] = &[
    ("bootenvs", "COMMON ACTIONS install upload uploadiso"),
    (
        "contents",
        "list show exists create update upload destroy bundle unbundle bundlize convert document",
    ),
    ("events", "post watch"),
    ("files", "list exists upload download destroy static"),
    ("info", "get check status"),
    ("interfaces", "list show exists"),
    ("isos", "list exists upload download destroy"),
    (
        "jobs",
        "COMMON log actions plugin_actions plugin_action runplugin_action",
    ),
    (
        "leases",
        "list show exists destroy wait indexes count etag meta ACTIONS",
    ),
    ("logs", "get watch"),
    (
        "machines",
        "COMMON PARAMS ACTIONS addprofile removeprofile addtask inserttask removetask tasks bootenv stage workflow \
         currentlog deletejobs jobs inspect pause run processjobs uploadiso whoami",
    ),
    ("objects", "list"),
    ("params", "COMMON upload"),
    ("plugin_providers", "list show exists destroy wait indexes count etag"),
    ("plugins", "COMMON PARAMS ACTIONS"),
    ("prefs", "list set"),
    ("profiles", "COMMON PARAMS ACTIONS addprofile removeprofile upload"),
    ("reservations", "COMMON ACTIONS"),
    ("roles", "COMMON ACTIONS"),
    (
        "stages",
        "COMMON ACTIONS addprofile removeprofile addtask inserttask removetask bootenv upload",
    ),
    (
        "subnets",
        "COMMON ACTIONS get set range subnet nextserver pickers leasetimes",
    ),
    ("support", "bundle"),
    ("system", "actions action runaction"),
    ("tasks", "COMMON ACTIONS upload"),
    ("templates", "COMMON ACTIONS upload"),
    ("tenants", "COMMON ACTIONS"),
    ("users", "COMMON ACTIONS password passwordhash token"),
    ("workflows", "COMMON ACTIONS addstage removestage upload"),
];

/// Commands without a noun.
const ALONE: &[&str] = &["autocomplete", "extended", "gohai", "version"];

#[test]
fn every_noun_has_drpclis_verbs() {
    let mut missing = Vec::new();
    for program in [Program::Isobar, Program::Drpcli] {
        let root = grammar::command(program, &[]);
        for (noun, verbs) in NOUNS {
            let verbs = verbs
                .replace("COMMON", COMMON)
                .replace("PARAMS", PARAMS)
                .replace("ACTIONS", ACTIONS);
            let group = root.find_subcommand(noun);
            let lacks = |verb: &&str| group.and_then(|group| group.find_subcommand(verb)).is_none();
            missing.extend(
                verbs
                    .split_whitespace()
                    .filter(lacks)
                    .map(|verb| format!("{noun} {verb}")),
            );
        }
        missing.extend(
            ALONE
                .iter()
                .filter(|name| root.find_subcommand(name).is_none())
                .map(|n| (*n).to_owned()),
        );
    }
    assert!(missing.is_empty(), "{missing:?}");
}

/// A noun of drpcli's that nobody looked at would otherwise go unnoticed: each noun of ours stands in the list.
#[test]
fn drpcli_has_no_nouns_beside_the_list() {
    for group in grammar::command(Program::Drpcli, &[]).get_subcommands() {
        let name = group.get_name();
        let known = NOUNS.iter().any(|(noun, _)| *noun == name) || ALONE.contains(&name);
        assert!(known || ["completion", "help"].contains(&name), "{name}");
    }
}

/// What is left out is said to be so.
#[test]
fn what_is_left_out_stands_in_the_manual() {
    let text = include_str!("../../../../docs/drp-differences.md");
    for word in [
        "airgap",
        "agent",
        "catalog",
        "certs",
        "labs",
        "net",
        "netwrangle",
        "proxy",
        "releaseToPool",
        "system upgrade",
        "plugin_providers upload",
    ] {
        assert!(text.contains(&format!("`{word}`")), "{word}");
    }
}
