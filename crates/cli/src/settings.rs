//! Global flags, environment and `~/.drpclirc` (drp-api §19): flags win over the environment, the
//! environment over the file.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches};
use isobar_client::{Secret, TlsTrust, TokenCache};

use crate::host::Host;
use crate::{CliError, Program, input};

/// User and password of a fresh original server.
const DEFAULT_KEY: (&str, &str) = ("rocketskates", "r0cketsk8ts");
const DEFAULT_ENDPOINT: &str = "https://127.0.0.1:8092";

/// How the output looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Yaml,
    Text,
    Table,
}

/// How long a change that boots a machine is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitFor {
    /// Not at all.
    Nothing,
    /// Until the BMC has all it needs and the machine is on its way.
    HandedOver,
    /// Until the agent in the booted system has reported.
    Agent,
}

/// How the command is to reach whom, as whom.
#[derive(Clone, Debug)]
pub(crate) enum Identity {
    Token(Secret),
    /// With tokens from a cache in between, unless `no_token`.
    Password {
        user: String,
        password: Secret,
        no_token: bool,
    },
}

/// All that is not said by the verb and its arguments.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) endpoints: Vec<String>,
    pub(crate) identity: Identity,
    pub(crate) trust: TlsTrust,
    pub(crate) cache: Option<TokenCache>,
    pub(crate) format: Format,
    pub(crate) print_fields: Vec<String>,
    pub(crate) truncate: usize,
    /// Columns of the terminal that a table has to fit in.
    pub(crate) width: Option<usize>,
    pub(crate) header: bool,
    pub(crate) force: bool,
    /// An object that has errors is shown, and is one.
    pub(crate) errors_are_fatal: bool,
    /// The object that `update` compares with instead of the server's.
    pub(crate) reference: Option<String>,
    pub(crate) wait: WaitFor,
    pub(crate) wait_at_most: Option<Duration>,
}

struct Global {
    short: Option<char>,
    long: &'static str,
    value: Option<&'static str>,
    env: Option<&'static str>,
    help: &'static str,
}

const fn flag(
    short: char,
    long: &'static str,
    value: Option<&'static str>,
    env: Option<&'static str>,
    help: &'static str,
) -> Global {
    Global {
        short: Some(short),
        long,
        value,
        env,
        help,
    }
}

const GLOBALS: &[Global] = &[
    flag(
        'E',
        "endpoint",
        Some("URL"),
        Some("RS_ENDPOINT"),
        "Server to talk to [default: https://127.0.0.1:8092]",
    ),
    flag(
        'U',
        "username",
        Some("NAME"),
        Some("RS_USERNAME"),
        "User to log in as; RS_KEY=user:password gives both",
    ),
    flag(
        'P',
        "password",
        Some("@FILE"),
        Some("RS_PASSWORD"),
        "Password, from a file or - for standard input",
    ),
    flag(
        'T',
        "token",
        Some("TOKEN"),
        Some("RS_TOKEN"),
        "Token to use instead of user and password; @FILE or - keep it out of process lists",
    ),
    flag(
        'F',
        "format",
        Some("FORMAT"),
        Some("RS_FORMAT"),
        "json, yaml, text or table",
    ),
    flag(
        'J',
        "print-fields",
        Some("A,B"),
        Some("RS_PRINT_FIELDS"),
        "Members to show as columns in text and table",
    ),
    flag(
        'j',
        "truncate-length",
        Some("N"),
        Some("RS_TRUNCATE_LENGTH"),
        "Cut columns at this width [default: 60, less where the terminal is narrow]",
    ),
    flag(
        'H',
        "no-header",
        None,
        Some("RS_NO_HEADER"),
        "No headings in text and table",
    ),
    flag('N', "no-color", None, Some("RS_NO_COLOR"), "No colours"),
    flag(
        'C',
        "colors",
        Some("COLORS"),
        Some("RS_COLORS"),
        "Accepted for drpcli's sake",
    ),
    flag('d', "debug", None, None, "Accepted for drpcli's sake"),
    flag(
        'f',
        "force",
        None,
        None,
        "Change what the server would otherwise refuse to change",
    ),
    flag(
        'r',
        "ref",
        Some("JSON"),
        None,
        "Object that `update` compares with, instead of the server's",
    ),
    flag('t', "trace", Some("LEVEL"), None, "Accepted for drpcli's sake"),
    flag('Z', "trace-token", Some("TOKEN"), None, "Accepted for drpcli's sake"),
    flag(
        'c',
        "catalog",
        Some("URL"),
        Some("RS_CATALOG"),
        "Accepted for drpcli's sake",
    ),
    flag(
        'D',
        "download-proxy",
        Some("URL"),
        Some("RS_DOWNLOAD_PROXY"),
        "Accepted for drpcli's sake",
    ),
    flag(
        'u',
        "url-proxy",
        Some("URL"),
        Some("RS_URL_PROXY"),
        "Accepted for drpcli's sake",
    ),
    flag(
        'x',
        "no-token",
        None,
        None,
        "Send user and password with each request; no tokens, no cache",
    ),
    flag(
        'X',
        "exit-early",
        None,
        Some("RS_OBJECT_ERRORS_ARE_FATAL"),
        "Fail when the object that is shown has errors",
    ),
    Global {
        short: None,
        long: "fingerprint",
        value: Some("SHA256"),
        env: Some("RS_FINGERPRINT"),
        help: "Take only the server whose certificate has this fingerprint",
    },
    Global {
        short: None,
        long: "no-wait",
        value: None,
        env: None,
        help: "Do not follow a boot that the command starts",
    },
    Global {
        short: None,
        long: "wait",
        value: Some("UNTIL"),
        env: Some("RS_WAIT"),
        help: "Follow a boot until `handed-over` (default), `agent`, or `none`",
    },
    Global {
        short: None,
        long: "wait-at-most",
        value: Some("SECONDS"),
        env: None,
        help: "End of following [default: 120; with --wait agent: 1800]",
    },
];

/// The global flags as they are typed, their environment variables, and what they do.
pub(crate) fn globals() -> impl Iterator<Item = (String, Option<&'static str>, &'static str)> {
    GLOBALS.iter().map(|global| {
        let short = global.short.map(|short| format!("-{short}, ")).unwrap_or_default();
        let value = global.value.map(|value| format!(" {value}")).unwrap_or_default();
        (format!("{short}--{}{value}", global.long), global.env, global.help)
    })
}

/// Name of the global flag whose value is the next word, if `flag` (without its first dash) is such a one.
pub(crate) fn takes_value(flag: &str) -> Option<String> {
    let found = GLOBALS
        .iter()
        .filter(|global| global.value.is_some())
        .find(|global| match flag.strip_prefix('-') {
            Some(long) => long == global.long,
            None => global.short.is_some_and(|short| flag.ends_with(short)),
        })?;
    Some(found.long.to_owned())
}

/// The global flags, for the command line's grammar.
pub(crate) fn global_args() -> impl Iterator<Item = Arg> {
    GLOBALS.iter().map(|global| {
        let mut help = global.help.to_owned();
        if let Some(env) = global.env {
            help = format!("{help} [env: {env}]");
        }
        let arg = Arg::new(global.long)
            .long(global.long)
            .help(help)
            .help_heading("Global options")
            .global(true);
        let arg = match global.short {
            Some(short) => arg.short(short),
            None => arg,
        };
        match global.value {
            Some(value) => arg.value_name(value).num_args(1).overrides_with(global.long),
            None => arg.action(ArgAction::SetTrue).overrides_with(global.long),
        }
    })
}

impl Settings {
    /// Brings flags, environment and file together.
    pub(crate) fn read(matches: &ArgMatches, host: &Host, program: Program) -> Result<Self, CliError> {
        let file = rc_file(host);
        let env = |name: &str| host.var(name).or_else(|| file.get(name).map(String::as_str));
        let value = |long: &str| -> Option<String> {
            let global = GLOBALS.iter().find(|global| global.long == long)?;
            match matches.try_get_one::<String>(long).ok().flatten() {
                Some(given) => Some(given.clone()),
                None => global.env.and_then(env).map(str::to_owned),
            }
        };
        let set = |long: &str| {
            let global = GLOBALS.iter().find(|global| global.long == long);
            matches
                .try_get_one::<bool>(long)
                .ok()
                .flatten()
                .copied()
                .unwrap_or(false)
                || global.and_then(|global| global.env).and_then(env).is_some_and(truth)
        };
        let number = |long: &str| -> Result<Option<u64>, CliError> {
            let Some(text) = value(long) else { return Ok(None) };
            let number = text
                .parse()
                .map_err(|_| CliError::text(format!("--{long} {text} is not a number")))?;
            Ok(Some(number))
        };

        let endpoints: Vec<String> = match (value("endpoint"), env("RS_ENDPOINTS")) {
            (Some(endpoint), _) if !endpoint.is_empty() => vec![endpoint],
            (_, Some(list)) => list.split_whitespace().map(str::to_owned).collect(),
            _ => vec![DEFAULT_ENDPOINT.to_owned()],
        };
        let format = match value("format").filter(|format| !format.is_empty()).as_deref() {
            Some("json") => Format::Json,
            Some("yaml") => Format::Yaml,
            Some("text") => Format::Text,
            Some("table") => Format::Table,
            Some(other) => return Err(CliError::text(format!("Unknown pretty format {other}"))),
            None if program == Program::Isobar && host.stdout_is_terminal => Format::Table,
            None => Format::Json,
        };
        let wait = match value("wait").as_deref() {
            _ if set("no-wait") || program == Program::Drpcli => WaitFor::Nothing,
            None | Some("handed-over") => WaitFor::HandedOver,
            Some("agent") => WaitFor::Agent,
            Some("none") => WaitFor::Nothing,
            Some(other) => {
                let text = format!("--wait {other}: boots are followed until handed-over, agent or none");
                return Err(CliError::text(text));
            }
        };
        Ok(Self {
            identity: identity(&value, &env, set("no-token"), host, program, &endpoints)?,
            trust: value("fingerprint").map_or(TlsTrust::Insecure, TlsTrust::Pinned),
            cache: cache(host, &env),
            endpoints,
            format,
            print_fields: value("print-fields")
                .map(|list| list.split(',').map(|field| field.trim().to_owned()).collect())
                .unwrap_or_default(),
            truncate: number("truncate-length")?
                .and_then(|n| usize::try_from(n).ok())
                .unwrap_or(60),
            width: host.stdout_width,
            header: !set("no-header"),
            force: set("force"),
            errors_are_fatal: set("exit-early"),
            reference: value("ref").filter(|text| !text.is_empty()),
            wait,
            wait_at_most: number("wait-at-most")?.map(Duration::from_secs),
        })
    }
}

fn identity<'a>(
    value: &dyn Fn(&str) -> Option<String>,
    env: &dyn Fn(&str) -> Option<&'a str>,
    no_token: bool,
    host: &Host,
    program: Program,
    endpoints: &[String],
) -> Result<Identity, CliError> {
    if let Some(token) = value("token").filter(|token| !token.is_empty()) {
        return Ok(Identity::Token(input::secret(host, &token)?));
    }
    let key = env("RS_KEY").map(|key| key.split_once(':').unwrap_or((key, "")));
    let user = value("username").filter(|user| !user.is_empty());
    let given = match value("password").filter(|password| !password.is_empty()) {
        Some(text) => Some(input::secret(host, &text)?),
        None => None,
    };
    let (user, password) = match (user, given, key) {
        (Some(user), Some(password), _) => (user, password),
        (Some(user), None, Some((name, password))) if name == user => (user, Secret::new(password)),
        (Some(user), None, _) => (user, Secret::new(DEFAULT_KEY.1)),
        (None, Some(password), key) => (key.map_or(DEFAULT_KEY.0, |(name, _)| name).to_owned(), password),
        (None, None, Some((name, password))) => (name.to_owned(), Secret::new(password)),
        (None, None, None) => {
            let first = (program == Program::Isobar)
                .then(|| first_password(host, endpoints))
                .flatten();
            (
                DEFAULT_KEY.0.to_owned(),
                first.unwrap_or_else(|| Secret::new(DEFAULT_KEY.1)),
            )
        }
    };
    Ok(Identity::Password {
        user,
        password,
        no_token,
    })
}

/// The password that a server on this host made at its first start, for whoever may read its file.
fn first_password(host: &Host, endpoints: &[String]) -> Option<Secret> {
    let local = |endpoint: &String| {
        let rest = endpoint.trim_start_matches("https://");
        ["127.0.0.1:", "localhost:", "[::1]:"]
            .iter()
            .any(|here| rest.starts_with(here))
    };
    if !endpoints.iter().all(local) {
        return None;
    }
    let text = std::fs::read_to_string(host.data_dir.join("rocketskates.password")).ok()?;
    Some(Secret::new(text.trim_end_matches(['\r', '\n'])))
}

fn cache<'a>(host: &Host, env: &dyn Fn(&str) -> Option<&'a str>) -> Option<TokenCache> {
    if env("RS_TOKEN_CACHE").is_some_and(|text| matches!(text, "false" | "0" | "off")) {
        return None;
    }
    if let Some(folder) = env("RS_TOKEN_PATH") {
        return Some(TokenCache::new(folder));
    }
    let home = host.var("HOME")?;
    Some(TokenCache::new(PathBuf::from(home).join(".cache/drpcli/tokens")))
}

/// `~/.drpclirc`: lines of NAME=value; what is no such line is left alone.
fn rc_file(host: &Host) -> BTreeMap<String, String> {
    let Some(home) = host.var("HOME") else {
        return BTreeMap::new();
    };
    let text = std::fs::read_to_string(PathBuf::from(home).join(".drpclirc")).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.trim().trim_start_matches("export ").split_once('='))
        .filter(|(name, _)| !name.starts_with('#'))
        .map(|(name, value)| (name.trim().to_owned(), value.trim().trim_matches('"').to_owned()))
        .collect()
}

fn truth(text: &str) -> bool {
    !matches!(text, "" | "0" | "false" | "no" | "off")
}
