//! Values from arguments, files, standard input.

use std::io::Read as _;
use std::path::Path;

use isobar_client::{Fetched, Secret, is_url};
use serde_json::Value;

use crate::CliError;
use crate::host::Host;

/// The longest text that an argument may bring in: content packs are a few megabytes.
const MAX_TEXT: u64 = 256 << 20;

/// The longest text that is taken from a URL.
const MAX_FETCHED: u64 = 64 << 20;

/// The text behind an argument: `-` is standard input, `@FILE` and the name of an existing file are the
/// file's content, an `http` or `https` URL what is there; everything else is itself.
pub(crate) fn text(host: &Host, argument: &str) -> Result<String, CliError> {
    match argument {
        "-" => utf8("standard input", host.read_stdin(MAX_TEXT)?),
        _ => match argument.strip_prefix('@') {
            Some(file) => read(Path::new(file)),
            None if is_file(argument) => read(Path::new(argument)),
            None if is_url(argument) => {
                let bytes = fetch(host, argument)?.into_bytes(MAX_FETCHED);
                utf8(argument, bytes.map_err(CliError::io(argument))?)
            }
            None => Ok(argument.to_owned()),
        },
    }
}

/// What is at a URL.
pub(crate) fn fetch(host: &Host, url: &str) -> Result<Fetched, CliError> {
    Ok(isobar_client::fetch(url, host.var("SSL_CERT_FILE").map(Path::new))?)
}

/// The text of a file, of standard input (`-`) or of what is at a URL, where the argument cannot be the text itself.
pub(crate) fn content(host: &Host, argument: &str) -> Result<String, CliError> {
    if argument == "-" || argument.starts_with('@') || is_url(argument) {
        return text(host, argument);
    }
    read(Path::new(argument))
}

/// A JSON or YAML document behind an argument, and the text it was made of.
///
/// `None`: the text is no map and no list, as when an object is created by name alone.
pub(crate) fn document(host: &Host, argument: &str) -> Result<(Option<Value>, String), CliError> {
    let text = text(host, argument)?;
    Ok((structured(&text), text))
}

/// A map behind an argument.
pub(crate) fn map(host: &Host, argument: &str, what: &str) -> Result<Value, CliError> {
    match document(host, argument)? {
        (Some(value @ Value::Object(_)), _) => Ok(value),
        (None, text) if text == argument && looks_like_a_file(argument) => {
            Err(CliError::text(format!("{argument}: there is no such file")))
        }
        _ => Err(CliError::text(format!(
            "{what} must be a JSON or YAML map, a file or URL with one, or - for standard input"
        ))),
    }
}

/// The text of a param's value, for [`scalar`].
///
/// `-` is standard input, `@FILE` a file; one line break at the end of those does not count. Bare file
/// names are not read: a value may well be named like a file.
pub(crate) fn value_text(host: &Host, argument: &str) -> Result<String, CliError> {
    if argument != "-" && !argument.starts_with('@') {
        return Ok(argument.to_owned());
    }
    let mut text = text(host, argument)?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

/// JSON if it is JSON, a YAML map or list, else the text itself.
pub(crate) fn scalar(text: &str) -> Value {
    serde_json::from_str(text)
        .ok()
        .or_else(|| structured(text))
        .unwrap_or_else(|| Value::String(text.to_owned()))
}

/// A password or the like: `-`, `@FILE`, or the text itself.
pub(crate) fn secret(host: &Host, argument: &str) -> Result<Secret, CliError> {
    let text = if argument == "-" || argument.starts_with('@') {
        text(host, argument)?
    } else {
        argument.to_owned()
    };
    Ok(Secret::new(text.trim_end_matches(['\r', '\n'])))
}

/// YAML (and so JSON) that is a map or a list. Bare words are left to the caller: YAML would make
/// something else of `yes`, `~` or `&x`.
fn structured(text: &str) -> Option<Value> {
    let value: Value = serde_json::from_str(text)
        .ok()
        .or_else(|| serde_yaml_ng::from_str(text).ok())?;
    (value.is_object() || value.is_array()).then_some(value)
}

fn is_file(name: &str) -> bool {
    // A JSON text or a name with a line break is never meant as a file, and may be too long to ask about.
    !name.starts_with(['{', '[']) && !name.contains('\n') && name.len() < 4096 && Path::new(name).is_file()
}

fn looks_like_a_file(name: &str) -> bool {
    let ends = [".json", ".yaml", ".yml"];
    !name.contains(char::is_whitespace) && (name.contains('/') || ends.iter().any(|end| name.ends_with(end)))
}

fn read(file: &Path) -> Result<String, CliError> {
    let what = file.display().to_string();
    let mut bytes = Vec::new();
    std::fs::File::open(file)
        .and_then(|open| open.take(MAX_TEXT + 1).read_to_end(&mut bytes))
        .map_err(CliError::io(what.clone()))?;
    if u64::try_from(bytes.len()).is_ok_and(|len| len > MAX_TEXT) {
        return Err(CliError::text(format!("{what} is longer than {MAX_TEXT} bytes")));
    }
    utf8(&what, bytes)
}

fn utf8(what: &str, bytes: Vec<u8>) -> Result<String, CliError> {
    String::from_utf8(bytes).map_err(|_| CliError::text(format!("{what} is not UTF-8 text")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::host::fake;
    use serde_json::json;

    #[test]
    fn values_are_json_or_text() {
        let (host, ..) = fake::host(&[], "");
        for (argument, expected) in [
            ("true", json!(true)),
            ("3", json!(3)),
            ("null", json!(null)),
            ("cow", json!("cow")),
            ("\"3\"", json!("3")),
            ("", json!("")),
            ("yes", json!("yes")),
            ("&anchor", json!("&anchor")),
            ("~", json!("~")),
            ("a # b", json!("a # b")),
            ("[1, 2]", json!([1, 2])),
            ("{\"prov\": {\"vlan\": 1020}}", json!({"prov": {"vlan": 1020}})),
            ("prov:\n  address: 10.0.0.1\n", json!({"prov": {"address": "10.0.0.1"}})),
        ] {
            assert_eq!(scalar(&value_text(&host, argument).unwrap()), expected, "{argument}");
        }
    }

    #[test]
    fn values_come_from_stdin_and_files_without_their_last_line_break() {
        let (host, ..) = fake::host(&[], "hunter2\n");
        assert_eq!(value_text(&host, "-").unwrap(), "hunter2");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        std::fs::write(&file, "s3 cret\r\n").unwrap();
        let argument = format!("@{}", file.display());
        assert_eq!(value_text(&host, &argument).unwrap(), "s3 cret");
        assert_eq!(secret(&host, &argument).unwrap().expose(), "s3 cret");
        let missing = value_text(&host, "@/nonexistent/file").unwrap_err().to_string();
        assert!(missing.starts_with("/nonexistent/file: No such file"), "{missing}");
    }

    #[test]
    fn a_file_that_is_not_there_is_told_from_what_is_no_map() {
        let (host, ..) = fake::host(&[], "");
        let said = |argument: &str| map(&host, argument, "it").unwrap_err().to_string();
        assert_eq!(said("nowhere/fred.yaml"), "nowhere/fred.yaml: there is no such file");
        assert!(said("fred").starts_with("it must be a JSON or YAML map"));
    }

    #[test]
    fn documents_are_maps_or_bare_words() {
        let (host, ..) = fake::host(&[], "Name: fred\nStages: [a, b]\n");
        assert_eq!(
            document(&host, "-").unwrap().0,
            Some(json!({"Name": "fred", "Stages": ["a", "b"]}))
        );
        assert_eq!(document(&host, "fred").unwrap(), (None, "fred".to_owned()));
        assert_eq!(document(&host, "{asdgasdg").unwrap(), (None, "{asdgasdg".to_owned()));
        assert_eq!(
            document(&host, "{asdgasdg}").unwrap().0,
            Some(json!({"asdgasdg": null}))
        );
    }
}
