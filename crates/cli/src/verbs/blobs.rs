//! Files and ISOs on the server, and what uploads them.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use isobar_client::{Client, Method, escape_rest, is_url, path};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{Arity, Call, Flag, Verb, option, verb};
use crate::output::Output;
use crate::progress::Progress;
use crate::session::Session;
use crate::{CliError, input};

pub(super) const ISOS: &[Verb] = &[
    verb(
        "list",
        "",
        Arity::Exactly(0),
        list,
        "Lists the uploaded ISOs",
        "isos list",
    ),
    verb(
        "exists",
        "[name]",
        Arity::Exactly(1),
        exists,
        "Succeeds if the ISO is there",
        "isos exists debian-12.iso",
    ),
    verb(
        "upload",
        "[file] as [name]",
        Arity::Exactly(3),
        upload,
        "Uploads an ISO",
        "isos upload debian-12.iso as debian-12.iso",
    ),
    verb(
        "download",
        "[name]",
        Arity::Exactly(1),
        download,
        "Writes an ISO to standard output",
        "isos download debian-12.iso > debian-12.iso",
    ),
    verb(
        "destroy",
        "[name]",
        Arity::Exactly(1),
        destroy,
        "Deletes an ISO",
        "isos destroy debian-12.iso",
    ),
];

pub(super) const FILES: &[Verb] = &[
    verb(
        "list",
        "[path]",
        Arity::Between(0, 1),
        list,
        "Lists files",
        "files list /images",
    ),
    verb(
        "exists",
        "[name]",
        Arity::Exactly(1),
        exists,
        "Succeeds if the file is there",
        "files exists images/a.txt",
    ),
    verb(
        "upload",
        "[file] as [name]",
        Arity::Exactly(3),
        upload,
        "Uploads a file",
        "files upload a.txt as images/a.txt",
    ),
    verb(
        "download",
        "[name]",
        Arity::Exactly(1),
        download,
        "Writes a file to standard output",
        "files download images/a.txt",
    ),
    verb(
        "static",
        "[path]",
        Arity::Exactly(1),
        static_file,
        "Writes what machines get at a path of the file plane to standard output",
        "files static default.ipxe",
    ),
    verb(
        "destroy",
        "[name]",
        Arity::Exactly(1),
        destroy,
        "Deletes a file",
        "files destroy images/a.txt",
    ),
];

pub(super) const BOOTENVS: &[Verb] = &[
    verb(
        "install",
        "[file]",
        Arity::Exactly(1),
        install,
        "Creates a bootenv from a file, and its templates from the folder beside it",
        "bootenvs install bootenvs/fred.yml",
    ),
    verb(
        "uploadiso",
        "[id]",
        Arity::Exactly(1),
        uploadiso,
        "Uploads the ISO that a bootenv needs, from its URL or a local file",
        "bootenvs uploadiso sledgehammer --file sledgehammer.tar",
    )
    .flags(FILE),
];

pub(super) const TEMPLATES: &[Verb] = &[verb(
    "upload",
    "[file] as [id]",
    Arity::Exactly(3),
    upload_template,
    "Creates or replaces a template from a file",
    "templates upload net.tmpl as net.tmpl",
)];

/// Of what content packs are made of.
pub(super) const UPLOAD: &[Verb] = &[verb(
    "upload",
    "[- | JSON or YAML map | file | URL]",
    Arity::Exactly(1),
    |session, call| {
        let object = input::map(session.host, call.arg(0), "an object")?;
        put_object(session, call, &object)
    },
    "Creates an object, or replaces the one of that name",
    "{noun} upload {noun}/fred.yaml",
)];

fn put_object(session: &Session, call: &Call, object: &Value) -> Result<Output, CliError> {
    let client = session.client()?;
    let key = call.row.and_then(|row| object[row.key_field()].as_str());
    let route = path!("api", "v3", call.noun, key.unwrap_or_default());
    let there = key.is_some_and(|key| !key.is_empty()) && client.head(&route).is_ok();
    Ok(Output::json(match there {
        true => client.put(&route, object)?,
        false => client.post(&path!("api", "v3", call.noun), object)?,
    }))
}

fn route(noun: &str, name: &str) -> String {
    format!(
        "{}/{}",
        path!("api", "v3", noun),
        escape_rest(name.trim_start_matches('/'))
    )
}

fn list(session: &Session, call: &Call) -> Result<Output, CliError> {
    let mut request = session.client()?.request(Method::GET, &path!("api", "v3", call.noun));
    if let Some(folder) = call.args.first() {
        request = request.query("path", folder);
    }
    Ok(Output::json(request.send()?.json()?))
}

fn exists(session: &Session, call: &Call) -> Result<Output, CliError> {
    let name = call.arg(0);
    match session.client()?.head(&route(call.noun, name)) {
        Ok(_) => Ok(Output::Nothing),
        Err(error) if error.is_not_found() => Err(CliError::text(format!("{}:{name} does not exist", call.noun))),
        Err(error) => Err(error.into()),
    }
}

fn upload(session: &Session, call: &Call) -> Result<Output, CliError> {
    call.word(1, "as")?;
    Ok(Output::json(send(
        session,
        session.client()?,
        call.noun,
        call.arg(0),
        call.arg(2),
    )?))
}

/// Uploads a local file, standard input (`-`) or what is at a URL.
fn send(session: &Session, client: &Client, noun: &str, source: &str, name: &str) -> Result<Value, CliError> {
    let post = |len, body: &mut dyn Read| {
        let progress = Progress::bytes(session, len);
        client
            .upload(
                &route(noun, name),
                "application/octet-stream",
                len,
                &mut progress.reading(body),
            )
            .map_err(CliError::from)
    };
    if source == "-" {
        return session.host.with_stdin(|stdin| post(None, stdin));
    }
    if is_url(source) {
        let mut fetched = input::fetch(session.host, source)?;
        return post(fetched.len, &mut fetched.reader);
    }
    let mut file = File::open(source).map_err(CliError::io(source))?;
    let about = file.metadata().map_err(CliError::io(source))?;
    if !about.is_file() {
        // A pipe has no length that could be announced.
        return post(None, &mut file);
    }
    post(Some(about.len()), &mut file)
}

/// Uploads what is at a URL and takes it away again if it is not what it should be.
fn send_checked(session: &Session, client: &Client, url: &str, iso: &str, sha256: &str) -> Result<Value, CliError> {
    let fetched = input::fetch(session.host, url)?;
    let progress = Progress::bytes(session, fetched.len);
    let mut body = Hashed {
        from: progress.reading(fetched.reader),
        digest: Sha256::new(),
    };
    let route = route("isos", iso);
    let answer = client.upload(&route, "application/octet-stream", fetched.len, &mut body)?;
    let found = hex::encode(body.digest.finalize());
    if !sha256.is_empty() && !sha256.eq_ignore_ascii_case(&found) {
        client.delete::<Value>(&route)?;
        return Err(CliError::text(format!(
            "{url} is not what the bootenv expects and was deleted again: its SHA-256 is {found}, not {sha256}"
        )));
    }
    Ok(answer)
}

struct Hashed<R> {
    from: R,
    digest: Sha256,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(buffer)?;
        self.digest.update(&buffer[..n]);
        Ok(n)
    }
}

fn download(session: &Session, call: &Call) -> Result<Output, CliError> {
    let answer = session.client()?.download(&route(call.noun, call.arg(0)), 0)?;
    let progress = match session.host.stdout_is_terminal {
        // The bar would be drawn across the bytes.
        true => None,
        false => Some(Progress::bytes(session, answer.content_length())),
    };
    match &progress {
        Some(progress) => to_stdout(session, &mut progress.reading(answer.reader()))?,
        None => to_stdout(session, &mut answer.reader())?,
    };
    Ok(Output::Nothing)
}

fn static_file(session: &Session, call: &Call) -> Result<Output, CliError> {
    let client = session.client()?;
    let info: Value = client.get("/api/v3/info")?;
    let port = info["file_port"].as_u64().and_then(|port| u16::try_from(port).ok());
    let port = port.ok_or_else(|| CliError::text("the server does not say where its files are"))?;
    let path = format!("/{}", escape_rest(call.arg(0).trim_start_matches('/')));
    to_stdout(session, &mut client.static_file(port, &path)?.reader())?;
    Ok(Output::Nothing)
}

/// Copies a stream to standard output.
pub(super) fn to_stdout(session: &Session, from: &mut dyn Read) -> Result<u64, CliError> {
    let mut buffer = vec![0; 128 << 10];
    let mut total = 0;
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(n) => {
                session.host.out(&buffer[..n])?;
                total += u64::try_from(n).unwrap_or(0);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => {
                return Err(CliError::Io {
                    what: "the download broke".to_owned(),
                    source,
                });
            }
        }
    }
}

fn destroy(session: &Session, call: &Call) -> Result<Output, CliError> {
    let name = call.arg(0);
    session.client()?.delete::<Value>(&route(call.noun, name))?;
    Ok(Output::Text(format!("Deleted {name}")))
}

fn upload_template(session: &Session, call: &Call) -> Result<Output, CliError> {
    call.word(1, "as")?;
    let contents = input::content(session.host, call.arg(0))?;
    Ok(Output::json(put_template(session.client()?, call.arg(2), &contents)?))
}

fn put_template(client: &Client, id: &str, contents: &str) -> Result<Value, CliError> {
    let route = path!("api", "v3", "templates", id);
    match client.get::<Value>(&route) {
        Ok(mut there) => {
            there["Contents"] = contents.into();
            Ok(client.put(&route, &there)?)
        }
        Err(error) if error.is_not_found() => {
            Ok(client.post("/api/v3/templates", &json!({ "ID": id, "Contents": contents }))?)
        }
        Err(error) => Err(error.into()),
    }
}

fn install(session: &Session, call: &Call) -> Result<Output, CliError> {
    let file = Path::new(call.arg(0));
    let bootenv = input::map(session.host, call.arg(0), "a bootenv")?;
    let client = session.client()?;
    // DRP's layout: bootenvs/X.yml beside templates/Y.
    let templates = file
        .parent()
        .and_then(Path::parent)
        .unwrap_or(Path::new(""))
        .join("templates");
    for id in bootenv["Templates"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|template| template["ID"].as_str())
    {
        let source = templates.join(id);
        if id.is_empty() || id.contains('/') || !source.is_file() {
            continue;
        }
        let contents = std::fs::read_to_string(&source).map_err(CliError::io(source.display().to_string()))?;
        put_template(client, id, &contents)?;
    }
    put_object(session, call, &bootenv)
}

/// A file that a bootenv needs.
struct Iso {
    file: String,
    url: String,
    sha256: String,
}

/// The ISO of what a machine boots.
pub(super) const MACHINES: &[Verb] = &[verb(
    "uploadiso",
    "[id]",
    Arity::Exactly(1),
    |session, call| {
        let machine = session.get_object("machines", call.arg(0))?;
        upload_iso_of(session, call, machine["BootEnv"].as_str().unwrap_or_default())
    },
    "Uploads the ISO that the machine's bootenv needs, from its URL or a local file",
    "machines uploadiso Name:mach-01",
)
.flags(FILE)];

const FILE: &[Flag] = &[option(
    "file",
    "FILE",
    "The ISO [default: the file of that name here, else its URL]",
)];

fn uploadiso(session: &Session, call: &Call) -> Result<Output, CliError> {
    upload_iso_of(session, call, call.arg(0))
}

fn upload_iso_of(session: &Session, call: &Call, name: &str) -> Result<Output, CliError> {
    let bootenv = session.get_object("bootenvs", name)?;
    let mut wanted: Vec<Iso> = Vec::new();
    let os = &bootenv["OS"];
    let arches = os["SupportedArchitectures"].as_object().into_iter().flatten();
    let arches = arches.map(|(_, arch)| (arch, "Sha256"));
    for (arch, sum) in arches.chain([(os, "IsoSha256")]) {
        let text = |member: &str| arch[member].as_str().unwrap_or_default().to_owned();
        let file = text("IsoFile");
        if !file.is_empty() && !wanted.iter().any(|known| known.file == file) {
            let (url, sha256) = (text("IsoUrl"), text(sum));
            wanted.push(Iso { file, url, sha256 });
        }
    }
    if wanted.is_empty() {
        let text = format!("BootEnv {name} does not require an iso");
        return Err(CliError::text(
            match session.helpful() && os["Name"] == "sledgehammer" {
                true => format!("{text}\nIts live image is made by `isobar sledgehammer build`"),
                false => text,
            },
        ));
    }
    let client = session.client()?;
    let there: Vec<String> = client.get("/api/v3/isos")?;
    wanted.retain(|iso| !there.contains(&iso.file));
    let mut answers = Vec::new();
    for Iso { file, url, sha256 } in &wanted {
        let answer = match call.option("file") {
            Some(local) if wanted.len() == 1 => send(session, client, "isos", local, file)?,
            _ if Path::new(file).is_file() => send(session, client, "isos", file, file)?,
            _ if is_url(url) => send_checked(session, client, url, file, sha256)?,
            _ => {
                return Err(CliError::text(format!(
                    "{file} is not here, and the bootenv does not say where it is: fetch it and give --file {file}"
                )));
            }
        };
        answers.push(answer);
    }
    Ok(match answers.pop() {
        Some(answer) => Output::json(answer),
        None => Output::Nothing,
    })
}

/// Copies a stream into a file.
pub(super) fn copy(from: &mut dyn Read, to: &mut dyn Write, mut told: impl FnMut(u64)) -> io::Result<u64> {
    let mut buffer = vec![0; 128 << 10];
    let mut total = 0;
    loop {
        let n = match from.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        to.write_all(&buffer[..n])?;
        total += u64::try_from(n).unwrap_or(0);
        told(total);
    }
}
