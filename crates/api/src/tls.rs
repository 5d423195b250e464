//! The server's certificate: made at first start, or the operator's own.

use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, SanType};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};

/// How long a certificate that we make is valid. Agents pin its fingerprint and machines are booted for years
/// from images that carry it, so renewing it often would only break them.
const VALID_DAYS: i64 = 20 * 365;

/// Why there is no identity to serve with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file holds no usable PEM.
    #[error("{path}: no PEM {what} in this file: {reason}")]
    Pem {
        /// Which.
        path: PathBuf,
        /// `certificate` or `private key`.
        what: &'static str,
        /// What the parser said.
        reason: String,
    },
    /// Certificate and key do not belong together, or the key is of a kind that we cannot use.
    #[error("the certificate in {cert} and the key in {key} cannot be used together: {source}")]
    Mismatch {
        /// Certificate file.
        cert: PathBuf,
        /// Key file.
        key: PathBuf,
        /// What rustls said.
        source: rustls::Error,
    },
    /// No certificate could be made.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
}

/// A certificate chain with its private key, ready to serve HTTP/2 and HTTP/1.1.
#[derive(Clone)]
pub struct TlsIdentity {
    config: Arc<rustls::ServerConfig>,
    fingerprint: [u8; 32],
}

impl std::fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TlsIdentity({})", self.fingerprint())
    }
}

impl TlsIdentity {
    /// Reads PEM files: a chain, leaf first, and its key.
    ///
    /// # Errors
    /// Files that cannot be read, hold something else, or do not belong together.
    pub fn load(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        let pem_error = |path: &Path, what: &'static str, error: rustls_pki_types::pem::Error| match error {
            rustls_pki_types::pem::Error::Io(source) => TlsError::File {
                path: path.to_path_buf(),
                source,
            },
            other => TlsError::Pem {
                path: path.to_path_buf(),
                what,
                reason: other.to_string(),
            },
        };
        let chain = CertificateDer::pem_file_iter(cert)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|e| pem_error(cert, "certificate", e))?;
        let Some(leaf) = chain.first() else {
            return Err(pem_error(
                cert,
                "certificate",
                rustls_pki_types::pem::Error::NoItemsFound,
            ));
        };
        let fingerprint = Sha256::digest(leaf).into();
        let private = PrivateKeyDer::from_pem_file(key).map_err(|e| pem_error(key, "private key", e))?;
        let mismatch = |source| TlsError::Mismatch {
            cert: cert.to_path_buf(),
            key: key.to_path_buf(),
            source,
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(mismatch)?
            .with_no_client_auth()
            .with_single_cert(chain, private)
            .map_err(mismatch)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self {
            config: Arc::new(config),
            fingerprint,
        })
    }

    /// [`TlsIdentity::load`]; when one of the files is missing, a new self-signed certificate for `names` and
    /// `addresses` is made first, with its key in a file of mode 0600.
    ///
    /// # Errors
    /// As [`TlsIdentity::load`], and when the files cannot be written.
    pub fn load_or_make(cert: &Path, key: &Path, names: &[String], addresses: &[IpAddr]) -> Result<Self, TlsError> {
        // The certificate is written last: with a certificate there is always the key that it was made for.
        if !(cert.exists() && key.exists()) {
            let (cert_pem, key_pem) = make(names, addresses)?;
            write_new(key, 0o600, &key_pem)?;
            write_new(cert, 0o644, &cert_pem)?;
        }
        Self::load(cert, key)
    }

    /// SHA-256 of the leaf certificate's DER, in lower-case hex: what agents pin.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        hex::encode(self.fingerprint)
    }

    /// For the accept loop.
    /// The same for who speaks HTTP/1.1 alone: the file plane.
    #[must_use]
    pub fn http1(&self) -> Arc<rustls::ServerConfig> {
        let mut config = rustls::ServerConfig::clone(&self.config);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(config)
    }

    pub(crate) fn config(&self) -> Arc<rustls::ServerConfig> {
        Arc::clone(&self.config)
    }
}

/// A self-signed certificate and its key, as PEM.
fn make(names: &[String], addresses: &[IpAddr]) -> Result<(String, String), TlsError> {
    let mut params = CertificateParams::default();
    for name in names {
        // What is no DNS name stays out: some clients refuse the whole certificate for it.
        let fits = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.*".contains(&b));
        if let Some(dns) = name.as_str().try_into().ok().filter(|_| fits) {
            params.subject_alt_names.push(SanType::DnsName(dns));
        }
    }
    params
        .subject_alt_names
        .extend(addresses.iter().map(|a| SanType::IpAddress(*a)));
    let subject = names.first().map_or("isobar", String::as_str);
    params.distinguished_name.push(DnType::OrganizationName, "Isobar");
    params.distinguished_name.push(DnType::CommonName, subject);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let now = time::OffsetDateTime::now_utc();
    // Clocks of freshly racked machines are late more often than early.
    params.not_before = now - time::Duration::days(30);
    params.not_after = now + time::Duration::days(VALID_DAYS);
    let key = KeyPair::generate()?;
    let cert = params.self_signed(&key)?;
    Ok((cert.pem(), key.serialize_pem()))
}

/// Writes a file that is either there whole or not at all.
fn write_new(path: &Path, mode: u32, text: &str) -> Result<(), TlsError> {
    let half = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        match std::fs::remove_file(&half) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&half)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&half, path)
    };
    write().map_err(|source| TlsError::File {
        path: path.to_path_buf(),
        source,
    })
}

/// Names by which this host may be called: its host name, the first label of it, and `localhost`.
#[must_use]
pub fn host_names() -> Vec<String> {
    let mut names = Vec::new();
    if let Ok(text) = std::fs::read_to_string("/proc/sys/kernel/hostname") {
        let full = text.trim();
        if !full.is_empty() && full != "(none)" {
            names.push(full.to_owned());
            if let Some((short, _)) = full.split_once('.') {
                names.push(short.to_owned());
            }
        }
    }
    if !names.iter().any(|n| n == "localhost") {
        names.push("localhost".to_owned());
    }
    names
}

/// All addresses of this host, loopback included.
#[must_use]
pub fn host_addresses() -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = if_addrs::get_if_addrs()
        .unwrap_or_default()
        .iter()
        .map(if_addrs::Interface::ip)
        .collect();
    addresses.push(IpAddr::from([127, 0, 0, 1]));
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn files(dir: &tempfile::TempDir) -> (PathBuf, PathBuf) {
        (dir.path().join("tls.crt"), dir.path().join("tls.key"))
    }

    #[test]
    fn a_made_certificate_is_kept_and_its_key_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = files(&dir);
        let names = ["host.example".to_owned(), "bad name".to_owned()];
        let first = TlsIdentity::load_or_make(&cert, &key, &names, &["192.0.2.7".parse().unwrap()]).unwrap();
        let again = TlsIdentity::load_or_make(&cert, &key, &[], &[]).unwrap();
        assert_eq!(first.fingerprint(), again.fingerprint());
        assert_eq!(first.fingerprint().len(), 64);
        assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        let der = CertificateDer::from_pem_file(&cert).unwrap();
        let has = |needle: &[u8]| der.windows(needle.len()).any(|w| w == needle);
        assert!(has(b"host.example") && has(&[192, 0, 2, 7]) && !has(b"bad name"));
    }

    #[test]
    fn a_lost_half_is_made_anew_and_two_strangers_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = files(&dir);
        TlsIdentity::load_or_make(&cert, &key, &[], &[]).unwrap();
        let old_key = std::fs::read(&key).unwrap();
        std::fs::remove_file(&cert).unwrap();
        TlsIdentity::load_or_make(&cert, &key, &[], &[]).unwrap();
        std::fs::write(&key, old_key).unwrap();
        let error = TlsIdentity::load(&cert, &key).unwrap_err();
        assert!(matches!(error, TlsError::Mismatch { .. }), "{error}");
        std::fs::write(&cert, "no pem").unwrap();
        let error = TlsIdentity::load(&cert, &key).unwrap_err().to_string();
        assert!(
            error.contains("tls.crt") && error.contains("no PEM certificate"),
            "{error}"
        );
    }
}
