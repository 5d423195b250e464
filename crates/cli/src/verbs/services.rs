//! What is no object type: info, prefs, contents and the like; and what only users have.

use isobar_client::{Method, path};
use serde_json::{Map, Value, json};

use super::{Arity, Call, Verb, actions, objects, verb};
use crate::output::Output;
use crate::session::Session;
use crate::{CliError, input};

pub(super) const INFO: &[Verb] = &[
    verb(
        "get",
        "",
        Arity::Exactly(0),
        plain,
        "Shows what the server says about itself",
        "info get",
    ),
    verb(
        "check",
        "",
        Arity::Exactly(0),
        check,
        "Succeeds if the server is there and lets you in",
        "info check",
    ),
    verb(
        "status",
        "",
        Arity::Exactly(0),
        status,
        "Shows in short which server this is and what it serves",
        "info status",
    ),
];

pub(super) const OBJECTS: &[Verb] = &[verb(
    "list",
    "",
    Arity::Exactly(0),
    plain,
    "Lists the object types",
    "objects list",
)];

pub(super) const SYSTEM: &[Verb] = actions::SYSTEM;

pub(super) const INTERFACES: &[Verb] = &[
    verb(
        "list",
        "",
        Arity::Exactly(0),
        plain,
        "Lists the interfaces",
        "interfaces list",
    ),
    verb(
        "show",
        "[id]",
        Arity::Exactly(1),
        one,
        "Shows one interface",
        "interfaces show eth0",
    ),
    verb(
        "exists",
        "[id]",
        Arity::Exactly(1),
        objects::exists,
        "Succeeds if the interface exists",
        "interfaces exists eth0",
    ),
];

pub(super) const PREFS: &[Verb] = &[
    verb("list", "", Arity::Exactly(0), plain, "Lists the settings", "prefs list"),
    verb(
        "set",
        "[- | JSON or YAML map | name value...]",
        Arity::AtLeast(1),
        set_prefs,
        "Changes settings",
        "prefs set defaultBootEnv local",
    ),
];

pub(super) const USERS: &[Verb] = &[
    verb(
        "password",
        "[id] [password]",
        Arity::Exactly(2),
        password,
        "Sets a password; best from @FILE or - (standard input), where no process list shows it",
        "users password fred @password.txt",
    ),
    verb(
        "token",
        "[id] [ttl SECONDS] [scope S] [action A] [specific K] [roles R]",
        Arity::AtLeast(1),
        token,
        "Makes a token for a user",
        "users token {id} ttl 600",
    ),
];

pub(super) const TOKENS: &[Verb] = &[verb(
    "revoke",
    "[users or machines] [id]",
    Arity::Between(0, 2),
    revoke,
    "Makes all tokens of a user or a machine worthless; without arguments the one that is used",
    "tokens revoke users fred",
)
.own()];

fn revoke(session: &Session, call: &Call) -> Result<Output, CliError> {
    let route = match call.args.as_slice() {
        [] => "/isobar/v1/token".to_owned(),
        [kind, id] if ["users", "machines"].contains(&kind.as_str()) => path!("isobar", "v1", kind, id, "tokens"),
        _ => return Err(call.misuse("tokens are those of users or of machines: say which, and whose")),
    };
    session.client()?.request(Method::DELETE, &route).send()?;
    Ok(Output::Nothing)
}

pub(super) fn plain(session: &Session, call: &Call) -> Result<Output, CliError> {
    let value = session.client()?.get(&path!("api", "v3", call.noun))?;
    let columns: &[&str] = match call.noun {
        "interfaces" => &["Name", "Index", "Addresses", "ActiveAddress", "Gateway"],
        _ => &[],
    };
    // A content pack's summary has its name one level down.
    if call.noun == "contents" {
        return Ok(Output::Json {
            value: summaries(value, session),
            columns: ["Name", "Version", "Type"].map(str::to_owned).to_vec(),
        });
    }
    Ok(Output::Json {
        value,
        columns: columns.iter().map(|&column| column.to_owned()).collect(),
    })
}

fn summaries(value: Value, session: &Session) -> Value {
    use crate::settings::Format;
    match (value, session.settings.format) {
        (Value::Array(packs), Format::Table | Format::Text) => {
            packs.into_iter().map(|mut pack| pack["meta"].take()).collect()
        }
        (value, _) => value,
    }
}

pub(super) fn one(session: &Session, call: &Call) -> Result<Output, CliError> {
    Ok(Output::json(session.client()?.get(&path!(
        "api",
        "v3",
        call.noun,
        call.arg(0)
    ))?))
}

fn check(session: &Session, _call: &Call) -> Result<Output, CliError> {
    let _: Value = session.client()?.get("/api/v3/info")?;
    Ok(Output::Nothing)
}

fn status(session: &Session, _call: &Call) -> Result<Output, CliError> {
    let client = session.client()?;
    let info: Value = client.get("/api/v3/info")?;
    let mut status = json!({ "Endpoint": client.endpoint().to_string() });
    for (name, member) in [
        ("Id", "id"),
        ("Version", "version"),
        ("ApiPort", "api_port"),
        ("FilePort", "file_port"),
        ("Dhcp", "dhcp_enabled"),
        ("Tftp", "tftp_enabled"),
        ("Files", "prov_enabled"),
        ("Errors", "errors"),
    ] {
        status[name] = info[member].clone();
    }
    for stat in info["stats"].as_array().into_iter().flatten() {
        if let Some(name) = stat["name"].as_str() {
            status["Counts"][name] = stat["count"].clone();
        }
    }
    Ok(Output::json(status))
}

fn set_prefs(session: &Session, call: &Call) -> Result<Output, CliError> {
    let prefs = match call.args.as_slice() {
        [one] => input::map(session.host, one, "what to set")?,
        pairs if pairs.len() % 2 == 0 => {
            let pairs = pairs
                .chunks_exact(2)
                .map(|pair| (pair[0].clone(), Value::from(pair[1].as_str())));
            Value::Object(pairs.collect::<Map<_, _>>())
        }
        _ => return Err(call.misuse("settings are pairs of name and value; one is missing")),
    };
    Ok(Output::json(session.client()?.post("/api/v3/prefs", &prefs)?))
}

fn password(session: &Session, call: &Call) -> Result<Output, CliError> {
    let password = input::secret(session.host, call.arg(1))?;
    let route = path!("api", "v3", "users", call.arg(0), "password");
    Ok(Output::json(
        session
            .client()?
            .put(&route, &json!({ "Password": password.expose() }))?,
    ))
}

fn token(session: &Session, call: &Call) -> Result<Output, CliError> {
    let route = path!("api", "v3", "users", call.arg(0), "token");
    let mut request = session.client()?.request(Method::GET, &route);
    let pairs = call.args.get(1..).unwrap_or_default().chunks(2);
    for pair in pairs {
        match pair {
            [name, value] if ["ttl", "scope", "action", "specific", "roles"].contains(&name.as_str()) => {
                request = request.query(name, value);
            }
            _ => {
                return Err(call.misuse(format!(
                    "{:?} is none of ttl, scope, action, specific, roles with a value",
                    pair[0]
                )));
            }
        }
    }
    Ok(Output::json(request.send()?.json()?))
}
