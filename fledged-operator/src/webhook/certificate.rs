//! The certificate that the webhook serves, and the source that reads it from files.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use fledged_core::port::Clock;
use jiff::Timestamp;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tracing::{info, warn};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::webhook::issuing::CertificateError;
use crate::webhook::server::WebhookMetrics;

/// A certificate or its private key is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidCertificate {
    /// There is no certificate, or it is malformed.
    #[error("the certificate is not valid PEM: {0}")]
    Certificate(String),
    /// There is no private key, or it is malformed.
    #[error("the private key is not valid PEM: {0}")]
    Key(String),
    /// The key does not belong to the certificate.
    #[error("the private key does not match the certificate: {0}")]
    Pair(String),
}

/// A certificate with its chain and key.
#[derive(Debug, Clone)]
pub(super) struct Certificate {
    key: Arc<CertifiedKey>,
    not_after: Timestamp,
}

impl Certificate {
    /// Parses PEM. The certificates after the first one are its chain.
    pub(super) fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, InvalidCertificate> {
        let malformed = |error: rustls::pki_types::pem::Error| error.to_string();
        let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|error| InvalidCertificate::Certificate(malformed(error)))?;
        let Some(first) = chain.first() else {
            let problem = "the file holds no certificate".to_owned();
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

/// The certificate that new handshakes use. Clones share it.
#[derive(Clone)]
pub(super) struct ServedCertificate {
    certificate: Arc<RwLock<Option<Certificate>>>,
    metrics: WebhookMetrics,
}

impl fmt::Debug for ServedCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let until = self.read().map(|certificate| certificate.not_after);
        f.debug_struct("ServedCertificate")
            .field("until", &until)
            .finish()
    }
}

impl ServedCertificate {
    pub(super) fn new(metrics: WebhookMetrics) -> Self {
        Self {
            certificate: Arc::default(),
            metrics,
        }
    }

    /// Serves this certificate from the next handshake on.
    pub(super) fn set(&self, certificate: Certificate) {
        self.metrics.set_expiry(certificate.not_after.as_second());
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

impl ResolvesServerCert for ServedCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.read().map(|certificate| certificate.key)
    }
}

/// Readiness of the webhook's certificate. Clones share it.
#[derive(Clone)]
pub struct CertificateHealth {
    pub(super) served: ServedCertificate,
    pub(super) clock: Arc<dyn Clock>,
    problem: Arc<RwLock<Option<CertificateProblem>>>,
}

/// Why the last check failed.
struct CertificateProblem {
    text: String,
    /// Whether the webhook is not ready even while its certificate is valid.
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
    pub(super) fn new(served: ServedCertificate, clock: Arc<dyn Clock>) -> Self {
        Self {
            served,
            clock,
            problem: Arc::default(),
        }
    }

    /// Records the problem of the last check; `None` if it succeeded.
    pub(super) fn set_problem(&self, problem: Option<String>) {
        self.set(problem.map(|text| CertificateProblem { text, fails: false }));
    }

    /// Records a problem that makes the webhook not ready even while its certificate is valid.
    pub(super) fn set_failure(&self, text: String) {
        self.set(Some(CertificateProblem { text, fails: true }));
    }

    fn set(&self, problem: Option<CertificateProblem>) {
        let mut last_problem = self.problem.write().unwrap_or_else(PoisonError::into_inner);
        *last_problem = problem;
    }

    /// Whether a certificate is served, has not expired, and is stored where other replicas find it.
    ///
    /// # Errors
    ///
    /// The problem, in words.
    pub fn ready(&self) -> Result<(), String> {
        let problem = self.problem.read().unwrap_or_else(PoisonError::into_inner);
        let because = problem
            .as_ref()
            .map(|problem| format!(": {}", problem.text));
        let because = because.unwrap_or_default();
        match self.served.read() {
            None => Err(format!("no certificate yet{because}")),
            Some(served) if served.not_after <= self.clock.now() => Err(format!(
                "the certificate expired at {}{because}",
                served.not_after
            )),
            Some(_) => match problem.as_ref().filter(|problem| problem.fails) {
                Some(problem) => Err(problem.text.clone()),
                None => Ok(()),
            },
        }
    }
}

/// Interval between reads of the files. A kubelet takes about a minute to update a mounted Secret.
const READ_INTERVAL: Duration = Duration::from_secs(10);

/// A certificate with its chain, and its key, both in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CertificateFiles {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

impl CertificateFiles {
    /// Serves the certificate from the files. If they become invalid, the last valid certificate stays. Never
    /// returns.
    pub(super) async fn keep(self, health: CertificateHealth) {
        let clock = Arc::clone(&health.clock);
        let (mut last, mut last_problem) = (None, None);
        loop {
            match self.read().await {
                Ok(read) if last.as_ref() != Some(&read) => {
                    match Certificate::from_pem(&read.0, &read.1) {
                        Ok(certificate) => {
                            health.served.set(certificate);
                            health.set_problem(None);
                            last_problem = None;
                            last = Some(read);
                            info!(file = %self.certificate.display(), "certificate loaded");
                        }
                        Err(invalid) => report_problem(&health, &mut last_problem, &invalid.into()),
                    }
                }
                Ok(_) => {}
                Err(error) => report_problem(&health, &mut last_problem, &error),
            }
            clock.sleep(READ_INTERVAL).await;
        }
    }

    async fn read(&self) -> Result<(Vec<u8>, Vec<u8>), CertificateError> {
        Ok((read(&self.certificate).await?, read(&self.key).await?))
    }
}

/// Logs a problem once, not at every read.
fn report_problem(
    health: &CertificateHealth,
    last_problem: &mut Option<String>,
    error: &CertificateError,
) {
    let text = error.to_string();
    if last_problem.as_ref() != Some(&text) {
        warn!(%error, "certificate not loaded");
    }
    health.set_problem(Some(text.clone()));
    *last_problem = Some(text);
}

async fn read(path: &Path) -> Result<Vec<u8>, CertificateError> {
    let read = tokio::fs::read(path).await;
    read.map_err(|error| CertificateError::File {
        path: path.display().to_string(),
        problem: error.to_string(),
    })
}
