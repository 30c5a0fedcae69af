//! Certificates: which servers are trusted, and the client certificates for them.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use fledged_core::error::{Failure, Reason};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use sha2::{Digest as _, Sha256};

use super::hosts_file::{HostEntry, HostsError};

/// How the TLS connections to one host are made. Equal settings share connections.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct TrustId([u8; 32]);

/// The TLS settings for one host.
pub(super) struct Trust {
    /// Authorities beside those of the machine.
    authorities: Vec<CertificateDer<'static>>,
    client: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    verify: bool,
    pub(super) dial_timeout: Option<Duration>,
}

impl Trust {
    /// The settings of an entry, with further files of authorities.
    ///
    /// # Errors
    ///
    /// [`HostsError`] for a file that cannot be read, or has no certificate or key.
    pub(super) fn read<'a>(
        entry: &'a HostEntry,
        more: impl IntoIterator<Item = &'a PathBuf>,
        verify: bool,
    ) -> Result<Self, HostsError> {
        let mut authorities = Vec::new();
        for file in entry.ca.iter().chain(more) {
            authorities.extend(certificates(file)?);
        }
        // TLS offers one client certificate.
        let client = match entry.client.first() {
            None => None,
            Some((certificate, key)) => {
                let chain = certificates(certificate)?;
                let file = key.as_ref().unwrap_or(certificate);
                let key = private_key_in(&read(file)?);
                let key = key.map_err(|problem| HostsError::new(file, problem))?;
                Some((chain, key))
            }
        };
        Ok(Self {
            authorities,
            client,
            verify,
            dial_timeout: entry.dial_timeout,
        })
    }

    pub(super) fn id(&self) -> TrustId {
        let mut hash = Sha256::new();
        let mut add = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        add(&[u8::from(self.verify)]);
        add(&self
            .dial_timeout
            .map_or(0, |limit| limit.as_nanos())
            .to_be_bytes());
        for certificate in &self.authorities {
            add(certificate);
        }
        if let Some((chain, key)) = &self.client {
            add(b"client");
            for certificate in chain {
                add(certificate);
            }
            add(key.secret_der());
        }
        TrustId(hash.finalize().into())
    }

    /// The configuration of rustls. The machine's own authorities are trusted, too.
    ///
    /// # Errors
    ///
    /// [`Reason::RegistryMisconfigured`] for a client certificate that does not fit its key.
    pub(super) fn client_config(self) -> Result<ClientConfig, Failure> {
        let unusable = |error: Error| {
            Failure::new(
                Reason::RegistryMisconfigured,
                format!("cannot set up TLS: {error}"),
            )
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = if self.verify {
            Arc::new(Verifier::new(&self.authorities, Arc::clone(&provider)))
        } else {
            Arc::new(Unverified(Arc::clone(&provider)))
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        match self.client {
            None => Ok(builder.with_no_client_auth()),
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(unusable),
        }
    }
}

fn read(file: &Path) -> Result<Vec<u8>, HostsError> {
    std::fs::read(file).map_err(|error| HostsError::new(file, error))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, HostsError> {
    certificates_in(&read(file)?).map_err(|problem| HostsError::new(file, problem))
}

fn certificates_in(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("its PEM is invalid: {error}"))?;
    if found.is_empty() {
        return Err("it has no certificate in PEM form".to_owned());
    }
    Ok(found)
}

fn private_key_in(pem: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|_| "it has no private key in PEM form".to_owned())
}

/// What a file in PEM form must have.
#[cfg(feature = "cri")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PemKind {
    Certificate,
    PrivateKey,
}

#[cfg(feature = "cri")]
impl PemKind {
    /// Checks the content of a file.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(super) fn check(self, pem: &[u8]) -> Result<(), String> {
        match self {
            Self::Certificate => certificates_in(pem).map(drop),
            Self::PrivateKey => private_key_in(pem).map(drop),
        }
    }
}

/// The machine's authorities: those of the system, or of `SSL_CERT_FILE` and `SSL_CERT_DIR`. Read once. A
/// machine may have none.
fn of_the_machine() -> &'static [CertificateDer<'static>] {
    static FOUND: OnceLock<Vec<CertificateDer<'static>>> = OnceLock::new();
    FOUND.get_or_init(|| {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "a trusted certificate cannot be read");
        }
        found.certs
    })
}

/// Verifies servers as Go's `crypto/x509` does, which the runtimes use.
///
/// webpki refuses a certificate of an authority as that of a server. Private registries often have such a
/// certificate, made by `openssl req -x509` and trusted as it is.
#[derive(Debug)]
struct Verifier {
    /// `None`: nothing is trusted.
    chains: Option<Arc<WebPkiServerVerifier>>,
    trusted: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn new(authorities: &[CertificateDer<'static>], provider: Arc<CryptoProvider>) -> Self {
        let trusted: Vec<_> = [authorities, of_the_machine()].concat();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(trusted.iter().cloned());
        let roots = Arc::new(roots);
        Self {
            chains: WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
                .build()
                .ok(),
            trusted,
            provider,
        }
    }
}

/// Whether webpki refuses a certificate only because it is an authority's.
///
/// webpki checks the validity period before.
fn is_only_an_authority(error: &Error) -> bool {
    let Error::InvalidCertificate(CertificateError::Other(other)) = error else {
        return false;
    };
    matches!(
        other.0.downcast_ref::<webpki::Error>(),
        Some(webpki::Error::CaUsedAsEndEntity)
    )
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
        let Some(chains) = &self.chains else {
            return Err(CertificateError::UnknownIssuer.into());
        };
        match chains.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
        {
            Err(error) if is_only_an_authority(&error) => {
                let is_trusted = self.trusted.iter().any(|known| **known == **end_entity);
                if !is_trusted {
                    return Err(CertificateError::UnknownIssuer.into());
                }
                let certificate = ParsedCertificate::try_from(end_entity)?;
                rustls::client::verify_server_name(&certificate, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Accepts any certificate whose key the server has.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            cert,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            cert,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
