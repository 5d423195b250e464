//! What could stand next in a command line: nouns, verbs, flags, fixed words, and the names of objects.
//!
//! The shells' scripts ask this program at each press of the key, so that there is one table for all of them.

use std::time::Duration;

use clap::Command;
use isobar_client::{Method, Response, path};
use isobar_model::table::{KeyKind, NOUNS};
use serde_json::Value;

use crate::host::Host;
use crate::session::Session;
use crate::settings::{Settings, globals, takes_value};
use crate::verbs::{self, SERVICES, Verb};
use crate::{CliError, Program, grammar};

/// The command that the scripts ask; nobody types it.
pub(crate) const COMMAND: &str = "__complete";
/// Who presses a key does not wait long.
const PATIENCE: Duration = Duration::from_secs(3);
/// Names offered at most.
const MOST: &str = "1000";

/// The script for a shell; none for others than bash, zsh and fish.
pub(crate) fn script(shell: &str, program: Program) -> Option<String> {
    let text = match shell {
        // bash takes `:` and `=` for ends of words and replaces what stands after the last of them.
        "bash" => {
            r#"_PROGRAM() {
    local line="${COMP_LINE:0:COMP_POINT}" answer
    local word="${line##*[[:space:]]}" done=""
    if [[ $word == *[:=]* && $COMP_WORDBREAKS == *:* ]]; then
        done="${word%"${word##*[:=]}"}"
    fi
    COMPREPLY=()
    while IFS=$'\t' read -r answer _; do
        COMPREPLY+=("${answer#"$done"}")
    done < <(PROGRAM __complete line "$line" 2>/dev/null)
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]]; then
        compopt -o nospace 2>/dev/null
    fi
}
complete -F _PROGRAM -o default PROGRAM
"#
        }
        "zsh" => {
            r#"#compdef PROGRAM
_PROGRAM() {
    local -a values shown
    local value about
    while IFS=$'\t' read -r value about; do
        values+=("$value")
        shown+=("$value  $about")
    done < <(PROGRAM __complete words "${(@Q)words[2,CURRENT]}" 2>/dev/null)
    if (( ${#values} )); then
        compadd -l -d shown -a values
    else
        _files
    fi
}
if [ "$funcstack[1]" = "_PROGRAM" ]; then
    _PROGRAM "$@"
else
    compdef _PROGRAM PROGRAM
fi
"#
        }
        "fish" => {
            r#"function __PROGRAM_complete
    set -l typed (commandline -opc)
    set -l answers (PROGRAM __complete words $typed[2..] (commandline -ct) 2>/dev/null)
    if test (count $answers) -gt 0
        printf '%s\n' $answers
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -c PROGRAM -f -a '(__PROGRAM_complete)'
"#
        }
        _ => return None,
    };
    Some(text.replace("PROGRAM", program.name()))
}

/// Something that could stand next.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Candidate {
    word: String,
    about: String,
}

fn candidate(word: impl Into<String>, about: &str) -> Candidate {
    Candidate {
        word: word.into(),
        about: about.lines().next().unwrap_or_default().to_owned(),
    }
}

/// Answers a script: `line TEXT` up to the cursor, or `words WORD...`; the last word is the one that is being typed.
pub(crate) fn answer(asked: &[String], extra: &[Command], host: &Host, program: Program) -> Result<(), CliError> {
    let words = match asked {
        [how, line] if how == "line" => split(line).into_iter().skip(1).collect(),
        [how, words @ ..] if how == "words" => words.to_vec(),
        _ => {
            return Err(CliError::text(
                "the completion script is of another version: make it again",
            ));
        }
    };
    let (typed, current) = match words.split_last() {
        Some((current, typed)) => (typed, current.as_str()),
        None => (&[][..], ""),
    };
    // What was typed says where to ask, too; what cannot be read so far is left out.
    let root = grammar::command(program, extra).ignore_errors(true);
    let line = std::iter::once(program.name()).chain(typed.iter().map(String::as_str));
    let Ok(matches) = root.try_get_matches_from(line) else {
        return Ok(());
    };
    let settings = Settings::read(&matches, host, program)?;
    let session = Session::new(host, &settings, program, extra);
    for found in candidates(&session, typed, current) {
        let about = crate::output::plain(&found.about);
        host.out(format!("{}\t{about}\n", found.word).as_bytes())?;
    }
    Ok(())
}

fn candidates(session: &Session, typed: &[String], current: &str) -> Vec<Candidate> {
    let mut place = Place::default();
    for word in typed {
        place.pass(word, session.program);
    }
    let all = match (&place.flag, current.starts_with('-')) {
        (Some(flag), _) => values(flag),
        (None, true) => place.flags(session),
        (None, false) => place.words(session, current),
    };
    all.into_iter()
        .filter(|found| found.word.starts_with(current))
        .collect()
}

/// Where in a command line one is.
#[derive(Default)]
struct Place {
    words: Vec<String>,
    /// The flag whose value comes next.
    flag: Option<String>,
}

impl Place {
    fn verb(&self, program: Program) -> Option<&'static Verb> {
        let noun = self.words.first()?;
        if let Some(verb) = verbs::whole(program).find(|verb| verb.name == noun) {
            return Some(verb);
        }
        let name = self.words.get(1)?;
        let service = SERVICES.iter().find(|service| service.name == noun);
        match isobar_model::noun(noun) {
            Some(row) => verbs::of_noun(row).into_iter().find(|verb| verb.name == name),
            None => service?.verbs(program).find(|verb| verb.name == name),
        }
    }

    fn pass(&mut self, word: &str, program: Program) {
        if self.flag.take().is_some() {
            return;
        }
        let Some(flag) = word.strip_prefix('-').filter(|flag| !flag.is_empty()) else {
            self.words.push(word.to_owned());
            return;
        };
        let own = self.verb(program).into_iter().flat_map(|verb| verb.flags);
        let own = own
            .filter(|own| own.value.is_some())
            .find(|own| match flag.strip_prefix('-') {
                Some(long) => long == own.long,
                None => own.short.is_some_and(|short| flag.chars().eq([short])),
            });
        self.flag = own.map(|own| own.long.to_owned()).or_else(|| takes_value(flag));
    }

    /// A command that is not the client's: `serve`, `sim`, `sledgehammer build`.
    fn extra<'a>(&self, session: &Session<'a>) -> Option<&'a Command> {
        let word = |at: usize| self.words.get(at).map(String::as_str);
        let command = session
            .extra
            .iter()
            .find(|command| Some(command.get_name()) == word(0))?;
        let below = command
            .get_subcommands()
            .find(|below| Some(below.get_name()) == word(1));
        Some(below.unwrap_or(command))
    }

    fn flags(&self, session: &Session) -> Vec<Candidate> {
        if let Some(command) = self.extra(session) {
            let long = |arg: &clap::Arg| {
                let about = arg.get_help().map(ToString::to_string).unwrap_or_default();
                Some(candidate(format!("--{}", arg.get_long()?), &about))
            };
            return command.get_arguments().filter_map(long).collect();
        }
        let own = self.verb(session.program).into_iter().flat_map(|verb| verb.flags);
        let own = own.map(|flag| candidate(format!("--{}", flag.long), flag.help));
        let global = globals().map(|(flag, _, help)| {
            let long = flag.split(", ").last().unwrap_or_default();
            candidate(long.split(' ').next().unwrap_or_default(), help)
        });
        own.chain(global).collect()
    }

    fn words(&self, session: &Session, current: &str) -> Vec<Candidate> {
        let program = session.program;
        let Some(noun) = self.words.first() else {
            let nouns = NOUNS.iter().map(|noun| candidate(noun.name, noun.doc));
            let services = SERVICES.iter().filter(|s| !s.own || program == Program::Isobar);
            let services = services.map(|service| candidate(service.name, service.about));
            let whole = verbs::whole(program).map(|verb| candidate(verb.name, verb.about));
            let extra = session.extra.iter().map(below);
            return nouns.chain(services).chain(whole).chain(extra).collect();
        };
        if let Some(verb) = self.verb(program) {
            let first = if verbs::whole(program).any(|whole| whole.name == noun) {
                1
            } else {
                2
            };
            return arguments(session, noun, verb, &self.words[first..], current);
        }
        if self.words.len() > 1 {
            return Vec::new();
        }
        if let Some(row) = isobar_model::noun(noun) {
            let verbs = verbs::of_noun(row).into_iter();
            let verbs = verbs.filter(|verb| !verb.own || program == Program::Isobar);
            return verbs.map(|verb| candidate(verb.name, verb.about)).collect();
        }
        let service = SERVICES.iter().find(|service| service.name == noun);
        let verbs = service.into_iter().flat_map(|service| service.verbs(program));
        let extra = session.extra.iter().filter(|extra| extra.get_name() == noun);
        let extra = extra.flat_map(Command::get_subcommands).map(below);
        verbs
            .map(|verb| candidate(verb.name, verb.about))
            .chain(extra)
            .collect()
    }
}

fn below(command: &Command) -> Candidate {
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    candidate(command.get_name(), &about)
}

/// Values of flags that have few.
fn values(flag: &str) -> Vec<Candidate> {
    let words: &[&str] = match flag {
        "format" => &["json", "yaml", "text", "table"],
        "wait" => &["handed-over", "agent", "none"],
        "until" => &["handed-over", "agent"],
        "ldata" => return NOUNS.iter().map(|noun| candidate(noun.name, noun.doc)).collect(),
        _ => &[],
    };
    words.iter().map(|&word| candidate(word, "")).collect()
}

/// What a usage line such as `add [id] | del [id] [task...]` lets stand after the arguments that are there.
fn arguments(session: &Session, noun: &str, verb: &Verb, there: &[String], current: &str) -> Vec<Candidate> {
    let mut found: Vec<Candidate> = Vec::new();
    for way in split_outside(verb.args, " | ") {
        let way = way.replace("]...", "...]");
        let tokens: Vec<&str> = split_outside(&way, " ");
        let fits = there
            .iter()
            .zip(&tokens)
            .all(|(word, token)| match token.starts_with('[') {
                true => true,
                false => token.split('|').any(|fixed| fixed == word),
            });
        let token = tokens
            .get(there.len())
            .or_else(|| tokens.last().filter(|token| token.ends_with("...]")));
        let Some(token) = token.filter(|_| fits) else { continue };
        let new = match token.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')) {
            None => token.split('|').map(|fixed| candidate(fixed, "")).collect(),
            Some(inner) => named(session, noun, inner, there, current),
        };
        found.extend(new.into_iter().filter(|new| !found.contains(new)).collect::<Vec<_>>());
    }
    found
}

/// What a placeholder stands for.
fn named(session: &Session, noun: &str, placeholder: &str, there: &[String], current: &str) -> Vec<Candidate> {
    let what = placeholder.trim_end_matches("...");
    match what {
        "shell" => ["bash", "zsh", "fish"].map(|shell| candidate(shell, "")).to_vec(),
        "filters" => match isobar_model::noun(noun).filter(|_| !current.contains('=')) {
            Some(row) => row
                .all_indexes()
                .map(|index| candidate(format!("{}=", index.name), index.kind.wire_name()))
                .collect(),
            None => Vec::new(),
        },
        "operation" => under_way(session),
        "id" | "name" => names(session, noun),
        more if more.ends_with("key value") => match there {
            // A name, then its value.
            [id, action, values @ ..] if values.len().is_multiple_of(2) => params(session, noun, id, action),
            _ => Vec::new(),
        },
        "boot or machine" => names(session, "machines"),
        "key" if there.last().is_some_and(|word| word == "param") => names(session, "params"),
        "action" => actions(session, noun, there.first().map_or("", String::as_str)),
        other => {
            let many = format!("{other}s");
            match isobar_model::noun(&many) {
                Some(row) => names(session, row.name),
                None => Vec::new(),
            }
        }
    }
}

fn ask(session: &Session, path: &str) -> Option<Value> {
    let request = session.client().ok()?.request(Method::GET, path);
    let request = request.query("slim", "Params,Meta").query("limit", MOST);
    request.patience(PATIENCE).send().and_then(Response::json).ok()
}

/// The objects of a type, as they are named in commands.
fn names(session: &Session, noun: &str) -> Vec<Candidate> {
    let listed = ask(session, &path!("api", "v3", noun)).unwrap_or_default();
    let row = isobar_model::noun(noun);
    let named = |object: &Value| {
        let about = object["Description"].as_str().unwrap_or_default();
        let text = |member: &str| object[member].as_str().map(str::to_owned);
        let word = match row {
            Some(row) if row.key == KeyKind::Uuid => match text("Name").filter(|name| !name.is_empty()) {
                Some(name) => format!("Name:{name}"),
                None => text("Uuid")?,
            },
            Some(row) => text(row.key_field())?,
            // ISOs and files are plain names, content packs have theirs inside.
            None => match object.as_str() {
                Some(name) => name.to_owned(),
                None => object["meta"]["Name"].as_str().or(object["Name"].as_str())?.to_owned(),
            },
        };
        Some(candidate(word, about))
    };
    listed.as_array().into_iter().flatten().filter_map(named).collect()
}

fn under_way(session: &Session) -> Vec<Candidate> {
    let listed = ask(session, &path!("isobar", "v1", "operations")).unwrap_or_default();
    let text = |operation: &Value, member: &str| operation[member].as_str().unwrap_or_default().to_owned();
    let named = |operation: &Value| {
        let about = ["kind", "machine_name", "what"]
            .map(|member| text(operation, member))
            .join(" ");
        candidate(text(operation, "id"), &about)
    };
    listed.as_array().into_iter().flatten().map(named).collect()
}

fn listed_actions(session: &Session, noun: &str, id: &str) -> Vec<Value> {
    let route = match noun {
        "system" => path!("api", "v3", "system", "actions"),
        _ => path!("api", "v3", noun, id, "actions"),
    };
    match ask(session, &route) {
        Some(Value::Array(listed)) => listed,
        _ => Vec::new(),
    }
}

fn actions(session: &Session, noun: &str, id: &str) -> Vec<Candidate> {
    let listed = listed_actions(session, noun, id);
    let actions = listed
        .iter()
        .filter_map(|action| Some(candidate(action["Command"].as_str()?, "")));
    actions.collect()
}

/// The params that an action takes with its call.
fn params(session: &Session, noun: &str, id: &str, command: &str) -> Vec<Candidate> {
    let listed = listed_actions(session, noun, id);
    let action = listed.iter().find(|action| action["Command"] == command);
    let of = |member: &'static str| {
        action
            .into_iter()
            .flat_map(move |action| action[member].as_array())
            .flatten()
    };
    let names = of("RequiredParams").chain(of("OptionalParams"));
    names.filter_map(|name| Some(candidate(name.as_str()?, ""))).collect()
}

/// Splits where no bracket is open.
fn split_outside<'a>(text: &'a str, at: &str) -> Vec<&'a str> {
    let (mut parts, mut depth, mut from) = (Vec::new(), 0_u32, 0);
    let mut index = 0;
    while index < text.len() {
        let rest = &text[index..];
        if depth == 0 && rest.starts_with(at) {
            parts.push(&text[from..index]);
            index += at.len();
            from = index;
            continue;
        }
        match rest.as_bytes()[0] {
            b'[' => depth += 1,
            b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        index += rest.chars().next().map_or(1, char::len_utf8);
    }
    parts.push(&text[from..]);
    parts.retain(|part| !part.is_empty());
    parts
}

/// The words of a command line as a shell would see them; the last may be empty or unfinished.
fn split(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None | Some('"'), '\\') => word.extend(rest.next()),
            (None, ' ' | '\t') => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            _ => word.push(c),
        }
    }
    words.push(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_lines_are_taken_apart_outside_of_brackets() {
        let args = "[id] | add|get|set|remove [id] key [key] [to [value]]";
        let ways = split_outside(args, " | ");
        assert_eq!(ways.len(), 2);
        let tokens = ["add|get|set|remove", "[id]", "key", "[key]", "[to [value]]"];
        assert_eq!(split_outside(ways[1], " "), tokens);
        assert_eq!(split_outside("[- | JSON or YAML map | key value...]", " ").len(), 1);
    }

    #[test]
    fn lines_are_split_as_shells_do() {
        assert_eq!(split("isobar machines  show Na"), ["isobar", "machines", "show", "Na"]);
        assert_eq!(split("isobar -F 'a b' x\\ y "), ["isobar", "-F", "a b", "x y", ""]);
    }
}
