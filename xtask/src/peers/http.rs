//! GET over plain HTTP, to simulated and emulated BMCs on loopback.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// The JSON at `http://AUTHORITY/PATH`; `basic` is `user:password` in base64.
pub(crate) fn get_json(authority: &str, path: &str, basic: Option<&str>) -> Result<Value> {
    let mut stream = TcpStream::connect(authority).with_context(|| format!("no answer at {authority}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let login = basic.map_or(String::new(), |code| format!("Authorization: Basic {code}\r\n"));
    // HTTP/1.0: nothing is chunked, and the end of the connection is the end of the answer.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {authority}\r\n{login}\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head.split_whitespace().nth(1).unwrap_or_default();
    if status != "200" {
        bail!("GET {path} at {authority}: status {status}");
    }
    serde_json::from_str(body).with_context(|| format!("GET {path} at {authority} is no JSON"))
}
