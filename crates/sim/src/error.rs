//! Why a simulator could not start.

use std::path::{Path, PathBuf};

/// A simulator that did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SimError {
    /// An option is not usable.
    #[error("{0}")]
    Config(String),
    /// A file or folder.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The address is taken or not ours.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Address that was asked for.
        address: std::net::SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// Making the certificate failed.
    #[error("cannot make the BMC's certificate: {0}")]
    Certificate(String),
    /// A program or file of a Debian package is not there.
    #[error("{what} is not installed: apt-get install {package}")]
    Missing {
        /// Program or file.
        what: String,
        /// Debian package that has it.
        package: &'static str,
    },
    /// QEMU did not start.
    #[error("QEMU: {0}")]
    Qemu(String),
}

impl SimError {
    pub(crate) fn io(what: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io {
            what,
            path: path.to_owned(),
            source,
        }
    }
}
