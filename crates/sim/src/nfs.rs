//! An image on an NFS share (version 3), as BMCs without a web client read it.

use std::net::IpAddr;

use nfs3_client::nfs3_types::nfs3::{GETATTR3args, LOOKUP3args, Nfs3Result, READ3args, diropargs3, nfs_fh3, nfsstat3};
use nfs3_client::tokio::{TokioConnector, TokioIo};
use nfs3_client::{Nfs3Client, Nfs3ConnectionBuilder};
use tokio::net::TcpStream;
use url::Url;

/// Bytes of one READ.
const PIECE: u64 = 32 * 1024;

/// What went wrong.
#[derive(Debug)]
pub(crate) enum NfsError {
    /// The server's own word: nfsstat3 or mountstat3.
    Status(u32),
    /// No answer that is one.
    Lost(String),
}

/// `nfs://HOST[:PORT]/DIR/FILE` from it or from the form `HOST[:PORT]:/DIR/FILE`; none: it is neither.
pub(crate) fn parse(text: &str) -> Option<Url> {
    let url = match text.split_once(":/") {
        Some((_, rest)) if rest.starts_with('/') => Url::parse(text).ok()?,
        Some((host, path)) => Url::parse(&format!("nfs://{host}/{path}")).ok()?,
        None => return None,
    };
    (url.scheme() == "nfs" && url.host().is_some()).then_some(url)
}

/// An image that is mounted; one is made for each connection.
pub(crate) struct NfsImage {
    client: Nfs3Client<TokioIo<TcpStream>>,
    file: nfs_fh3,
    pub(crate) size: u64,
}

impl NfsImage {
    /// Mounts the folder and looks the file up. A port in the URL is MOUNT's and NFS's; else the portmapper is asked.
    pub(crate) async fn mount(url: &Url) -> Result<Self, NfsError> {
        let lost = |error: &dyn std::fmt::Display| NfsError::Lost(error.to_string());
        let (folder, name) = url.path().rsplit_once('/').unwrap_or(("", url.path()));
        // Hosts of URLs that are not the web's are texts to the parser.
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let address: IpAddr = host
            .parse()
            .map_err(|_| NfsError::Lost(format!("{host} is no address, and names are not looked up here")))?;
        let folder = if folder.is_empty() { "/" } else { folder };
        let mut builder =
            Nfs3ConnectionBuilder::new(TokioConnector, address.to_string(), folder).connect_from_privileged_port(false);
        if let Some(port) = url.port() {
            builder = builder.mount_port(port).nfs3_port(port);
        }
        let mounted = builder.mount().await.map_err(|error| lost(&error))?;
        let folder = mounted.root_nfs_fh3();
        let mut client = mounted.into_nfs3_client();
        let what = diropargs3 {
            dir: folder,
            name: name.as_bytes().into(),
        };
        let found = client
            .lookup(&LOOKUP3args { what })
            .await
            .map_err(|error| lost(&error))?;
        let file = done(found)?.object;
        let args = GETATTR3args { object: file.clone() };
        let attributes = client.getattr(&args).await.map_err(|error| lost(&error))?;
        let size = done(attributes)?.obj_attributes.size;
        Ok(Self { client, file, size })
    }

    /// Some bytes at `offset`, at most `length`; none behind the end.
    pub(crate) async fn read(&mut self, offset: u64, length: u64) -> Result<Vec<u8>, NfsError> {
        let args = READ3args {
            file: self.file.clone(),
            offset,
            count: u32::try_from(length.min(PIECE)).unwrap_or(u32::MAX),
        };
        let read = self.client.read(&args).await;
        let read = done(read.map_err(|error| NfsError::Lost(error.to_string()))?)?;
        Ok(read.data.into_owned())
    }
}

fn done<T, E>(result: Nfs3Result<T, E>) -> Result<T, NfsError> {
    match result {
        Nfs3Result::Ok(ok) => Ok(ok),
        Nfs3Result::Err((status, _)) => Err(NfsError::Status(number(status))),
    }
}

fn number(status: nfsstat3) -> u32 {
    status as u32
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn both_forms_of_a_share_are_read() {
        for (text, url) in [
            ("nfs://10.0.0.1/x/boot.iso", "nfs://10.0.0.1/x/boot.iso"),
            ("10.0.0.1:/x/boot.iso", "nfs://10.0.0.1/x/boot.iso"),
            ("10.0.0.1:2050:/x/boot.iso", "nfs://10.0.0.1:2050/x/boot.iso"),
        ] {
            assert_eq!(parse(text).unwrap().as_str(), url);
        }
        for bad in ["http://10.0.0.1/x/boot.iso", "/x/boot.iso", "", "nfs:///x"] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }
}
