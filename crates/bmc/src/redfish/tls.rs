//! TLS towards BMCs: self-signed is the norm.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};
use sha2::{Digest, Sha256};

use crate::TlsTrust;

/// The fingerprint that a BMC showed last, for messages and for pinning at first use.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shown(Arc<Mutex<Option<String>>>);

impl Shown {
    pub(crate) fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A client configuration for one BMC.
pub(crate) fn config(trust: &TlsTrust) -> Result<(rustls::ClientConfig, Shown), Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let shown = Shown::default();
    let pin = match trust {
        TlsTrust::Insecure => None,
        TlsTrust::Pinned(fingerprint) => Some(fingerprint.replace(':', "").trim().to_ascii_lowercase()),
    };
    let verifier = Verifier {
        pin,
        provider: provider.clone(),
        shown: shown.clone(),
    };
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok((config, shown))
}

#[derive(Debug)]
struct Verifier {
    pin: Option<String>,
    provider: Arc<CryptoProvider>,
    shown: Shown,
}

impl Verifier {
    /// Without a pin anybody could stand between, so a signature proves nothing; and old BMCs have
    /// certificates (X.509 v1, SHA-1) that the provider cannot even read.
    fn signed(
        &self,
        verify: impl FnOnce() -> Result<HandshakeSignatureValid, Error>,
    ) -> Result<HandshakeSignatureValid, Error> {
        if self.pin.is_none() {
            Ok(HandshakeSignatureValid::assertion())
        } else {
            verify()
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let fingerprint = hex::encode(Sha256::digest(end_entity));
        let good = self.pin.as_ref().is_none_or(|pin| *pin == fingerprint);
        *self.shown.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(fingerprint);
        if good {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::InvalidCertificate(
                CertificateError::ApplicationVerificationFailure,
            ))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed(|| {
            rustls::crypto::verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
        })
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed(|| {
            rustls::crypto::verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
        })
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
