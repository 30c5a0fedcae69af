//! The certificate that is served, which can be another at any moment.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use fledged_core::port::Clock;
use jiff::Timestamp;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::metrics::WebhookMetrics;

/// Why a certificate and its key are of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidCertificate {
    /// There is no certificate, or it is malformed.
    #[error("the certificate is not valid PEM: {0}")]
    Certificate(String),
    /// There is no private key, or it is malformed.
    #[error("the private key is not valid PEM: {0}")]
    Key(String),
    /// They can't be used together.
    #[error("the certificate and the private key don't fit: {0}")]
    Pair(String),
}

/// A certificate with its chain and key.
#[derive(Debug, Clone)]
pub(super) struct Certificate {
    key: Arc<CertifiedKey>,
    not_after: Timestamp,
}

impl Certificate {
    /// From PEM; what comes after the first certificate is its chain.
    pub(super) fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, InvalidCertificate> {
        let malformed = |error: rustls::pki_types::pem::Error| error.to_string();
        let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|error| InvalidCertificate::Certificate(malformed(error)))?;
        let Some(first) = chain.first() else {
            let problem = "there is none in it".to_owned();
            return Err(InvalidCertificate::Certificate(problem));
        };
        let not_after = not_after(first)?;
        let key = PrivateKeyDer::from_pem_slice(key);
        let key = key.map_err(|error| InvalidCertificate::Key(malformed(error)))?;
        let provider = rustls::crypto::ring::default_provider();
        let key = CertifiedKey::from_der(chain, key, &provider);
        let key = key.map_err(|error| InvalidCertificate::Pair(error.to_string()))?;
        Ok(Self {
            key: Arc::new(key),
            not_after,
        })
    }
}

fn not_after(certificate: &[u8]) -> Result<Timestamp, InvalidCertificate> {
    let malformed = |problem: String| InvalidCertificate::Certificate(problem);
    let (_, parsed) =
        X509Certificate::from_der(certificate).map_err(|error| malformed(error.to_string()))?;
    let seconds = parsed.validity().not_after.timestamp();
    Timestamp::from_second(seconds).map_err(|error| malformed(error.to_string()))
}

/// Whatever certificate is the right one now. Clones share it.
#[derive(Clone)]
pub(super) struct Served {
    certificate: Arc<RwLock<Option<Certificate>>>,
    metrics: WebhookMetrics,
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let until = self.read().map(|certificate| certificate.not_after);
        f.debug_struct("Served").field("until", &until).finish()
    }
}

impl Served {
    pub(super) fn new(metrics: WebhookMetrics) -> Self {
        Self {
            certificate: Arc::default(),
            metrics,
        }
    }

    /// From the next handshake on, that one.
    pub(super) fn set(&self, certificate: Certificate) {
        self.metrics.serves_until(certificate.not_after.as_second());
        let served = self.certificate.write();
        *served.unwrap_or_else(PoisonError::into_inner) = Some(certificate);
    }

    pub(super) fn is_set(&self) -> bool {
        self.read().is_some()
    }

    fn read(&self) -> Option<Certificate> {
        let served = self.certificate.read();
        served.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ResolvesServerCert for Served {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.read().map(|certificate| certificate.key)
    }
}

/// Whether a webhook can be asked.
#[derive(Clone)]
pub struct CertificateHealth {
    pub(super) served: Served,
    pub(super) clock: Arc<dyn Clock>,
    problem: Arc<RwLock<Option<Problem>>>,
}

/// Why there is no newer certificate.
struct Problem {
    text: String,
    /// Whether that counts while the one that is served is good.
    fails: bool,
}

impl fmt::Debug for CertificateHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateHealth")
            .field("served", &self.served)
            .finish_non_exhaustive()
    }
}

impl CertificateHealth {
    pub(super) fn new(served: Served, clock: Arc<dyn Clock>) -> Self {
        Self {
            served,
            clock,
            problem: Arc::default(),
        }
    }

    /// Why there is no newer certificate, if that failed last time.
    pub(super) fn tell(&self, problem: Option<String>) {
        self.set(problem.map(|text| Problem { text, fails: false }));
    }

    /// Why somebody has to do something, however long what is served is good for.
    pub(super) fn fail(&self, text: String) {
        self.set(Some(Problem { text, fails: true }));
    }

    fn set(&self, problem: Option<Problem>) {
        let mut told = self.problem.write().unwrap_or_else(PoisonError::into_inner);
        *told = problem;
    }

    /// Whether there is a certificate to serve, it has not ended, and it is kept where other replicas find it.
    ///
    /// # Errors
    ///
    /// What is missing.
    pub fn ready(&self) -> Result<(), String> {
        let problem = self.problem.read().unwrap_or_else(PoisonError::into_inner);
        let because = problem
            .as_ref()
            .map(|problem| format!(": {}", problem.text));
        let because = because.unwrap_or_default();
        match self.served.read() {
            None => Err(format!("there is no certificate yet{because}")),
            Some(served) if served.not_after <= self.clock.now() => Err(format!(
                "the certificate has ended at {}{because}",
                served.not_after
            )),
            Some(_) => match problem.as_ref().filter(|problem| problem.fails) {
                Some(problem) => Err(problem.text.clone()),
                None => Ok(()),
            },
        }
    }
}
