//! TLS towards BMCs: self-signed is the norm.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256};

use crate::{Certificate, TlsTrust};

/// What a BMC showed last, for messages and for pinning at first use.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shown {
    last: Arc<Mutex<Option<Certificate>>>,
    /// The one that it has to show: SHA-256, lower-case hex.
    pin: Arc<OnceLock<String>>,
}

impl Shown {
    pub(crate) fn get(&self) -> Option<Certificate> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From the next connection on nothing but this certificate will do.
    pub(crate) fn pin(&self, fingerprint: &str) {
        let _ = self.pin.set(fingerprint.replace(':', "").trim().to_ascii_lowercase());
    }

    fn change(&self, change: impl FnOnce(&mut Option<Certificate>)) {
        change(&mut self.last.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// What a failed handshake means, and what to do about it.
pub(crate) fn verdict(error: &Error) -> (String, Option<&'static str>) {
    const OLD: &str = "update the BMC's firmware or switch TLS 1.2 on in its settings; an https proxy in front of it, or \
                       http://HOST:PORT in ipmi/address on a network that is the BMCs' own, works meanwhile";
    use rustls::AlertDescription::{HandshakeFailure, InsufficientSecurity, ProtocolVersion};
    use rustls::PeerIncompatible::{ServerDoesNotSupportTls12Or13, ServerTlsVersionIsDisabledByOurConfig};
    match error {
        Error::AlertReceived(ProtocolVersion)
        | Error::PeerIncompatible(ServerDoesNotSupportTls12Or13 | ServerTlsVersionIsDisabledByOurConfig) => (
            "its TLS is too old: it has nothing newer than TLS 1.1, and 1.2 is the least that is spoken here".into(),
            Some(OLD),
        ),
        Error::AlertReceived(HandshakeFailure | InsufficientSecurity) | Error::PeerIncompatible(_) => (
            format!("its TLS is too old: no cipher and key exchange that both know ({error})"),
            Some(OLD),
        ),
        Error::InvalidMessage(_) => (
            format!("TLS failed: {error}"),
            Some("the port may speak plain HTTP: write http://HOST:PORT in ipmi/address"),
        ),
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => (
            "its certificate is not signed by the CA in isobar/bmc-ca".into(),
            Some(
                "give the BMC a certificate of that CA, or set isobar/bmc-tls to `first-use`, or to this certificate's fingerprint",
            ),
        ),
        Error::InvalidCertificate(
            error @ (CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }),
        ) => (
            format!("its certificate is for another name: {error}"),
            Some(
                "write the name that the certificate has into ipmi/address, or give it one with this address among its names",
            ),
        ),
        Error::InvalidCertificate(
            error @ (CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. }),
        ) => (
            format!("its certificate is not valid now: {error}"),
            Some("renew it, and look at the clocks of BMC and server"),
        ),
        Error::InvalidCertificate(_) => (
            format!("its certificate is the pinned one, and does not prove it: {error}"),
            Some(
                "its key is too old or too weak to be checked: set isobar/bmc-tls to `any`, or give it a new certificate",
            ),
        ),
        _ => (format!("TLS failed: {error}"), None),
    }
}

/// A client configuration for one BMC.
pub(crate) fn config(trust: &TlsTrust) -> Result<(rustls::ClientConfig, Shown), Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let shown = Shown::default();
    if let TlsTrust::Pinned(fingerprint) = trust {
        shown.pin(fingerprint);
    }
    let authority = match trust {
        TlsTrust::Authority(pem) => Some(signed_by(pem, &provider)?),
        _ => None,
    };
    let verifier = Verifier {
        authority,
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

/// Judges by certificates of authorities.
fn signed_by(pem: &str, provider: &Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>, Error> {
    let unusable =
        |what: &dyn std::fmt::Display| Error::General(format!("the CA in isobar/bmc-ca is unusable: {what}"));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| unusable(&error))?;
        roots.add(certificate).map_err(|error| unusable(&error))?;
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .build()
        .map_err(|error| unusable(&error))
}

#[derive(Debug)]
struct Verifier {
    authority: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
    shown: Shown,
}

impl Verifier {
    /// Without a pin anybody could stand between, so a signature proves nothing; and old BMCs have
    /// certificates (X.509 v1, SHA-1) that the provider cannot even read. Such a one cannot be pinned.
    fn signed(
        &self,
        verify: impl FnOnce() -> Result<HandshakeSignatureValid, Error>,
    ) -> Result<HandshakeSignatureValid, Error> {
        let verified = verify();
        let proven = verified.is_ok();
        self.shown.change(|shown| {
            if let Some(shown) = shown {
                shown.proven = proven;
            }
        });
        match self.shown.pin.get().is_some() || self.authority.is_some() {
            false => Ok(HandshakeSignatureValid::assertion()),
            true => verified,
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let fingerprint = hex::encode(Sha256::digest(end_entity));
        let good = self.shown.pin.get().is_none_or(|pin| *pin == fingerprint);
        self.shown.change(|shown| {
            *shown = Some(Certificate {
                fingerprint,
                proven: false,
            });
        });
        if let Some(authority) = &self.authority {
            // Another CA of the same name is another CA.
            let other = |error| match error {
                Error::InvalidCertificate(CertificateError::BadSignature) => CertificateError::UnknownIssuer.into(),
                error => error,
            };
            return authority
                .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
                .map_err(other);
        }
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
