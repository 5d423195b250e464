//! Content packs: on the server, as files and as folders.
//!
//! Secure params leave the server in clear only to be boxed again, for a key that is kept in a file of its own.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use isobar_client::{Method, path};
use isobar_model::content;
use serde_json::{Map, Value, json};

use super::services::{one, plain};
use super::{Arity, Call, Flag, Verb, objects, option, switch, verb};
use crate::output::Output;
use crate::progress::Progress;
use crate::session::Session;
use crate::{CliError, input, secure};

const KEY: Flag = option(
    "key",
    "FILE",
    "File with the key of the pack's secure params; made if it is not there",
);
/// Deepest folder of a pack.
const MAX_DEPTH: usize = 16;

pub(super) const VERBS: &[Verb] = &[
    verb(
        "list",
        "",
        Arity::Exactly(0),
        plain,
        "Lists the content packs",
        "contents list",
    ),
    verb(
        "show",
        "[id]",
        Arity::Exactly(1),
        show,
        "Shows a content pack with all it holds",
        "contents show BasicStore",
    )
    .flags(&[KEY]),
    verb(
        "exists",
        "[id]",
        Arity::Exactly(1),
        objects::exists,
        "Succeeds if the content pack exists",
        "contents exists BasicStore",
    ),
    verb(
        "create",
        "[json]",
        Arity::Exactly(1),
        |session, call| {
            let pack = opened(call, read(session, call.arg(0))?)?;
            Ok(Output::json(session.client()?.post("/api/v3/contents", &pack)?))
        },
        "Adds a content pack from JSON, YAML or a file",
        "contents create pack.yaml",
    )
    .flags(&[KEY]),
    verb(
        "update",
        "[id] [json]",
        Arity::Exactly(2),
        |session, call| {
            let pack = opened(call, read(session, call.arg(1))?)?;
            let route = path!("api", "v3", "contents", call.arg(0));
            Ok(Output::json(session.client()?.put(&route, &pack)?))
        },
        "Replaces a content pack",
        "contents update pack pack.yaml",
    )
    .flags(&[KEY]),
    verb(
        "upload",
        "[json]",
        Arity::Exactly(1),
        |session, call| upload(session, &opened(call, read(session, call.arg(0))?)?),
        "Adds a content pack, or replaces the one of that name",
        "contents upload pack.yaml",
    )
    .flags(&[KEY]),
    verb(
        "destroy",
        "[id]",
        Arity::Exactly(1),
        destroy,
        "Removes a content pack",
        "contents destroy pack",
    ),
    verb(
        "bundle",
        "[file] [Meta=value...]",
        Arity::AtLeast(1),
        bundle,
        "Packs a folder into a file",
        "contents bundle pack.yaml Version=v1.0.0 --src pack",
    )
    .flags(&[option("src", "FOLDER", "The folder [default: the present one]")]),
    verb(
        "unbundle",
        "[file]",
        Arity::Exactly(1),
        unbundle,
        "Unpacks a file into a folder",
        "contents unbundle pack.yaml --dst pack",
    )
    .flags(&[option("dst", "FOLDER", "The folder [default: the present one]")]),
    verb(
        "bundlize",
        "[file] [Meta=value...] [type:key...]",
        Arity::AtLeast(2),
        bundlize,
        "Makes a pack of objects that are on the server",
        "contents bundlize pack.yaml Name=pack profiles:global",
    )
    .flags(&[
        switch("delete", "Delete the objects on the server then"),
        switch("reload", "Upload the pack then"),
        KEY,
    ]),
    verb(
        "convert",
        "[file]",
        Arity::Exactly(1),
        convert,
        "Makes objects of their own from those of a pack",
        "contents convert pack.yaml",
    )
    .flags(&[KEY]),
    verb(
        "document",
        "[file]",
        Arity::Exactly(1),
        |session, call| Ok(Output::Text(document(&read(session, call.arg(0))?))),
        "Writes what a pack's objects say about themselves as one Markdown text",
        "contents document pack.yaml > pack.md",
    ),
];

/// The texts of a pack and of its objects.
fn document(pack: &Value) -> String {
    let text = |of: &Value, member: &str| of[member].as_str().unwrap_or_default().trim().to_owned();
    let meta = &pack["meta"];
    let mut parts = vec![format!("# {}", text(meta, "Name")), text(meta, "Description")];
    let facts = [
        "Version",
        "Author",
        "License",
        "RequiredFeatures",
        "Prerequisites",
        "DocUrl",
    ];
    let facts = facts.iter().filter(|fact| !text(meta, fact).is_empty());
    parts.push(
        facts
            .map(|fact| format!("- {fact}: {}", text(meta, fact)))
            .collect::<Vec<_>>()
            .join("\n"),
    );
    parts.push(text(meta, "Documentation"));
    let empty = Map::new();
    let mut sections: Vec<_> = pack["sections"].as_object().unwrap_or(&empty).iter().collect();
    sections.sort_by_key(|(noun, _)| *noun);
    for (noun, objects) in sections {
        let mut objects: Vec<_> = objects.as_object().unwrap_or(&empty).iter().collect();
        objects.sort_by_key(|(key, _)| *key);
        if !objects.is_empty() {
            parts.push(format!("## {noun}"));
        }
        for (key, object) in objects {
            parts.extend([
                format!("### {key}"),
                text(object, "Description"),
                text(object, "Documentation"),
            ]);
        }
    }
    parts.retain(|part| !part.is_empty());
    parts.join("\n\n") + "\n"
}

fn read(session: &Session, argument: &str) -> Result<Value, CliError> {
    input::map(session.host, argument, "a content pack")
}

fn show(session: &Session, call: &Call) -> Result<Output, CliError> {
    let Output::Json { value: pack, columns } = one(session, call)? else {
        return Ok(Output::Nothing);
    };
    if secure_params(&pack) == 0 {
        return Ok(Output::Json { value: pack, columns });
    }
    let keys = KeyFile::wanted(call)?;
    let route = path!("api", "v3", "contents", call.arg(0));
    let clear: Value = session
        .client()?
        .request(Method::GET, &route)
        .query("decode", "true")
        .send()?
        .json()?;
    let value = keys.seal(&pack, clear)?;
    Ok(Output::Json { value, columns })
}

fn upload(session: &Session, pack: &Value) -> Result<Output, CliError> {
    let name = pack["meta"]["Name"].as_str().unwrap_or_default();
    let client = session.client()?;
    let route = path!("api", "v3", "contents", name);
    let there = !name.is_empty() && client.head(&route).is_ok();
    let _waiting = Progress::waiting(session, format!("uploading {name}"));
    let answer = if there {
        client.put(&route, pack)?
    } else {
        client.post("/api/v3/contents", pack)?
    };
    Ok(Output::json(answer))
}

fn destroy(session: &Session, call: &Call) -> Result<Output, CliError> {
    let name = call.arg(0);
    session
        .client()?
        .delete::<Value>(&path!("api", "v3", "contents", name))?;
    Ok(Output::Text(format!("Deleted content {name}\n")))
}

/// Splits `Name=greg` from what is no such pair.
fn meta_and_rest(args: &[String]) -> (Map<String, Value>, Vec<&str>) {
    let (mut meta, mut rest) = (Map::new(), Vec::new());
    for arg in args {
        match arg.split_once('=') {
            Some((name, value)) => drop(meta.insert(name.to_owned(), value.into())),
            None => rest.push(arg.as_str()),
        }
    }
    (meta, rest)
}

fn write(file: &str, pack: &Value) -> Result<(), CliError> {
    let text = if file.ends_with(".json") {
        format!("{pack:#}\n")
    } else {
        crate::yaml::render(pack)
    };
    fs::write(file, text).map_err(CliError::io(file))
}

fn bundle(_session: &Session, call: &Call) -> Result<Output, CliError> {
    let root = PathBuf::from(call.option("src").unwrap_or("."));
    let mut files = BTreeMap::new();
    collect(&root, &root, 0, &mut files)?;
    let tree = files.iter().map(|(path, content)| (path.as_str(), content.as_str()));
    let mut pack = content::from_tree(tree).map_err(CliError::text)?;
    let (meta, rest) = meta_and_rest(&call.args[1..]);
    if let Some(word) = rest.first() {
        return Err(call.misuse(format!("{word:?} is no member of the meta with a value")));
    }
    for (name, value) in meta {
        pack["meta"][&name] = value;
    }
    content::Pack::parse(&pack).map_err(|e| CliError::text(e.to_string()))?;
    write(call.arg(0), &pack)?;
    Ok(Output::Nothing)
}

fn collect(root: &Path, folder: &Path, depth: usize, files: &mut BTreeMap<String, String>) -> Result<(), CliError> {
    let shown = || folder.display().to_string();
    if depth > MAX_DEPTH {
        return Err(CliError::text(format!("{}: folders nest too deep", shown())));
    }
    for entry in fs::read_dir(folder).map_err(CliError::io(shown()))? {
        let path = entry.map_err(CliError::io(shown()))?.path();
        if path.is_dir() {
            collect(root, &path, depth + 1, files)?;
        } else if let Some(name) = path.strip_prefix(root).ok().and_then(Path::to_str) {
            // What is no text (pictures beside the content) is none of it.
            if let Ok(content) = fs::read_to_string(&path) {
                files.insert(name.to_owned(), content);
            }
        }
    }
    Ok(())
}

fn unbundle(session: &Session, call: &Call) -> Result<Output, CliError> {
    let root = PathBuf::from(call.option("dst").unwrap_or("."));
    let pack = read(session, call.arg(0))?;
    for (name, text) in content::to_tree(&pack).map_err(CliError::text)? {
        if Path::new(&name)
            .components()
            .any(|part| !matches!(part, std::path::Component::Normal(_)))
        {
            return Err(CliError::text(format!("{name} would be outside the folder")));
        }
        let path = root.join(&name);
        let shown = path.display().to_string();
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(CliError::io(shown.clone()))?;
        }
        fs::write(&path, text).map_err(CliError::io(shown))?;
    }
    Ok(Output::Nothing)
}

fn bundlize(session: &Session, call: &Call) -> Result<Output, CliError> {
    const MARKS: [&str; 6] = ["Validated", "Available", "Errors", "ReadOnly", "Bundle", "Endpoint"];
    let (mut meta, wanted) = meta_and_rest(&call.args[1..]);
    meta.entry("Version").or_insert_with(|| "v0.0.0".into());
    let mut pack = json!({ "meta": meta, "sections": {} });
    let mut clear = pack.clone();
    for id in &wanted {
        let (noun, key) = id
            .split_once(':')
            .ok_or_else(|| call.misuse(format!("{id:?} is no type:key")))?;
        let get = |decode: bool| -> Result<Value, CliError> {
            let mut request = session.client()?.request(Method::GET, &path!("api", "v3", noun, key));
            if decode {
                request = request.query("decode", "true");
            }
            let answer = request.send().and_then(isobar_client::Response::json);
            let mut object: Value = answer.map_err(|e| CliError::text(format!("Failed to get: {key}: {e}")))?;
            if let Some(members) = object.as_object_mut() {
                members.retain(|name, _| !MARKS.contains(&name.as_str()));
            }
            Ok(object)
        };
        let boxed = get(false)?;
        clear["sections"][noun][key] = match boxed["Params"].is_object() {
            true => get(true)?,
            false => boxed.clone(),
        };
        pack["sections"][noun][key] = boxed;
    }
    if secure_params(&pack) > 0 {
        pack = KeyFile::wanted(call)?.seal(&pack, clear.clone())?;
    }
    write(call.arg(0), &pack)?;
    if call.is_set("delete") {
        for (noun, key) in wanted.iter().filter_map(|id| id.split_once(':')) {
            session.client()?.delete::<Value>(&path!("api", "v3", noun, key))?;
        }
    }
    match call.is_set("reload") {
        true => upload(session, &clear),
        false => Ok(Output::Nothing),
    }
}

fn convert(session: &Session, call: &Call) -> Result<Output, CliError> {
    let pack = opened(call, read(session, call.arg(0))?)?;
    let sections = pack["sections"].as_object();
    let objects = |noun: &str| sections.and_then(|all| all.get(noun)?.as_object());
    // Those that others refer to first.
    const FIRST: [&str; 6] = ["params", "templates", "tasks", "bootenvs", "stages", "workflows"];
    let others = sections.into_iter().flatten().map(|(noun, _)| noun.as_str());
    let order = FIRST.into_iter().chain(others.filter(|noun| !FIRST.contains(noun)));
    for noun in order {
        for object in objects(noun).into_iter().flatten().map(|(_, object)| object) {
            session.client()?.post::<_, Value>(&path!("api", "v3", noun), object)?;
        }
    }
    Ok(Output::Nothing)
}

/// Calls `change` for each param of each object of a pack.
fn each_param(
    pack: &mut Value,
    mut change: impl FnMut(&str, &mut Value) -> Result<(), CliError>,
) -> Result<(), CliError> {
    for (noun, objects) in pack["sections"].as_object_mut().into_iter().flatten() {
        for (key, object) in objects.as_object_mut().into_iter().flatten() {
            let Some(Value::Object(params)) = object.get_mut("Params") else {
                continue;
            };
            for (param, value) in params {
                change(&format!("/sections/{noun}/{key}/{param}"), value)?;
            }
        }
    }
    Ok(())
}

fn secure_params(pack: &Value) -> usize {
    let mut found = 0;
    let counted = each_param(&mut pack.clone(), |_, value| {
        found += usize::from(isobar_model::params::is_encrypted(value));
        Ok(())
    });
    counted.map_or(0, |()| found)
}

/// A pack from a file with its secure params in clear, where the key of the file is given.
fn opened(call: &Call, mut pack: Value) -> Result<Value, CliError> {
    if let Some(file) = call.option("key").filter(|_| secure_params(&pack) > 0) {
        let key = KeyFile::read(Path::new(file))?;
        each_param(&mut pack, |_, value| {
            if isobar_model::params::is_encrypted(value) {
                *value = secure::open(value, &key.secret)?;
            }
            Ok(())
        })?;
    }
    Ok(pack)
}

/// The key that secure params in a file are boxed for.
struct KeyFile {
    secret: [u8; 32],
}

impl KeyFile {
    /// The file of `--key`, made if it is not there.
    fn wanted(call: &Call) -> Result<Self, CliError> {
        let Some(file) = call.option("key") else {
            return Err(CliError::text(
                "Content has secure parameters, but cannot save key!  Use --key=path/to/keyfile.json",
            ));
        };
        let file = Path::new(file);
        if file.exists() {
            return Self::read(file);
        }
        let secret = secure::new_key();
        let shown = file.display().to_string();
        let mut options = fs::OpenOptions::new();
        let mut open = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(file)
            .map_err(CliError::io(shown.clone()))?;
        let text = json!({ "SecretKey": secure::key_text(&secret) }).to_string();
        writeln!(open, "{text}").map_err(CliError::io(shown))?;
        Ok(Self { secret })
    }

    fn read(file: &Path) -> Result<Self, CliError> {
        let shown = file.display().to_string();
        let text = fs::read_to_string(file).map_err(CliError::io(shown.clone()))?;
        let value: Value = serde_json::from_str(&text).unwrap_or_default();
        let secret = value["SecretKey"].as_str().and_then(secure::key_of_text);
        secret
            .map(|secret| Self { secret })
            .ok_or_else(|| CliError::text(format!("{shown} holds no key for secure params")))
    }

    /// `clear` with those params boxed that are boxed in `pack`.
    fn seal(&self, pack: &Value, mut clear: Value) -> Result<Value, CliError> {
        let mut secret = std::collections::BTreeSet::new();
        each_param(&mut pack.clone(), |place, value| {
            if isobar_model::params::is_encrypted(value) {
                secret.insert(place.to_owned());
            }
            Ok(())
        })?;
        let public = secure::public_of(&self.secret);
        each_param(&mut clear, |place, value| {
            if secret.contains(place) {
                *value = secure::seal(value, &public)?;
            }
            Ok(())
        })?;
        Ok(clear)
    }
}
