//! What a path of the file plane stands for: boot images, then uploaded files, then what templates make of it.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use isobar_boot::ServerAddr;
use isobar_files::{Denied, ImageResolver, Opened};
use isobar_objects::{BlobKind, InstallFile, Objects, ServedAt};

/// The boots' images first: their names are tokens, and nothing may stand in front of them.
pub(crate) struct Plane {
    pub(crate) images: Arc<dyn ImageResolver>,
    pub(crate) objects: Objects,
    pub(crate) addr: ServerAddr,
}

impl Plane {
    fn uploaded(&self, path: &str) -> Option<Opened> {
        let (kind, name) = [BlobKind::Files, BlobKind::Isos]
            .into_iter()
            .find_map(|kind| Some((kind, path.strip_prefix(kind.name())?.strip_prefix('/')?)))?;
        let stored = self.objects.blob(kind, name).ok()??;
        let (id, len) = (stored.blob.parse().ok()?, stored.size);
        Some(Opened::Blob { id, len })
    }

    /// A file of an operating system whose ISO was uploaded.
    fn installed(&self, path: &str) -> Option<Opened> {
        let found = self
            .objects
            .install_file(path)
            .inspect_err(|error| tracing::warn!(path, %error, "cannot look for it"));
        match found.ok()?? {
            InstallFile::File { blob, offset, len } => Some(Opened::Part { id: blob, offset, len }),
            InstallFile::Folder(names) => Some(Opened::Bytes {
                body: Bytes::from(listing(path, &names)),
                content_type: "text/html; charset=utf-8",
            }),
        }
    }

    fn rendered(&self, path: &str, peer: IpAddr) -> Option<Opened> {
        let files = self.addr.machine_files_url(None, Some(peer)).ok()?;
        let host = files.strip_prefix("http://").unwrap_or(&files);
        let at = ServedAt {
            address: host.rsplit_once(':').map_or(host, |(host, _)| host).to_owned(),
            api: self.addr.machine_api_url(None, Some(peer)).ok()?,
            files,
        };
        match self.objects.rendered_file(path, &at) {
            Ok(text) => Some(Opened::Bytes {
                body: Bytes::from(text?),
                content_type: "text/plain; charset=utf-8",
            }),
            Err(error) => {
                // The requester is told nothing: it has not said who it is.
                let path = path
                    .split_once('/')
                    .filter(|(pass, _)| pass.len() == 43)
                    .map_or(path, |(_, rest)| rest);
                tracing::warn!(path, %peer, %error, "a template of the file plane does not render");
                None
            }
        }
    }
}

impl ImageResolver for Plane {
    fn open(&self, path: &str, peer: IpAddr) -> Result<Opened, Denied> {
        match self.images.open(path, peer) {
            Err(Denied::NotFound) => {}
            other => return other,
        }
        let path = path.trim_start_matches('/');
        let found = self.uploaded(path).or_else(|| self.rendered(path, peer));
        found.or_else(|| self.installed(path)).ok_or(Denied::NotFound)
    }
}

/// A folder for people, and for installers that look around.
fn listing(path: &str, names: &[String]) -> String {
    let text = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;");
    let href = |name: &str| {
        let encode = |byte: u8| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        };
        name.bytes().map(encode).collect::<String>()
    };
    let path = path.trim_end_matches('/');
    let link = |name: &String| format!("<a href=\"/{}\">{}</a>\n", href(&format!("{path}/{name}")), text(name));
    let links: String = names.iter().map(link).collect();
    format!(
        "<!doctype html>\n<title>/{0}</title>\n<h1>/{0}</h1>\n<pre>\n{links}</pre>\n",
        text(path)
    )
}
