//! The certificate that the webhook serves, and certificates that somebody else keeps in files.

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

/// How often the files are read: a kubelet takes a minute to bring a Secret's new content into a pod.
const AGAIN: Duration = Duration::from_secs(10);

/// A certificate with its chain, and its key, both in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Files {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

impl Files {
    /// Serves what stands in the files, for ever. What can't be used is told of, and the last that could
    /// be goes on.
    pub(super) async fn keep(self, health: CertificateHealth) {
        let clock = Arc::clone(&health.clock);
        let (mut last, mut told) = (None, None);
        loop {
            match self.read().await {
                Ok(read) if last.as_ref() != Some(&read) => {
                    match Certificate::from_pem(&read.0, &read.1) {
                        Ok(certificate) => {
                            health.served.set(certificate);
                            health.tell(None);
                            told = None;
                            last = Some(read);
                            info!(file = %self.certificate.display(), "the certificate was read");
                        }
                        Err(invalid) => tell(&health, &mut told, &invalid.into()),
                    }
                }
                Ok(_) => {}
                Err(error) => tell(&health, &mut told, &error),
            }
            clock.sleep(AGAIN).await;
        }
    }

    async fn read(&self) -> Result<(Vec<u8>, Vec<u8>), CertificateError> {
        Ok((read(&self.certificate).await?, read(&self.key).await?))
    }
}

/// Once, not every ten seconds.
fn tell(health: &CertificateHealth, told: &mut Option<String>, error: &CertificateError) {
    let text = error.to_string();
    if told.as_ref() != Some(&text) {
        warn!(%error, "certificate not read");
    }
    health.tell(Some(text.clone()));
    *told = Some(text);
}

async fn read(path: &Path) -> Result<Vec<u8>, CertificateError> {
    let read = tokio::fs::read(path).await;
    read.map_err(|error| CertificateError::File {
        path: path.display().to_string(),
        problem: error.to_string(),
    })
}
