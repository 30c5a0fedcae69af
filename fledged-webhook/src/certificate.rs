//! The certificate that the webhook serves, its readiness, and the source that reads it from files.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use fledged_core::port::Clock;
use jiff::Timestamp;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tracing::{info, warn};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::webhook_metrics::WebhookMetrics;

/// Why the certificate could not be read, issued or published.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    #[error("cannot {verb} the Secret {secret}: {problem}")]
    Secret {
        /// `get` or `write`.
        verb: &'static str,
        secret: String,
        problem: String,
    },
    #[error(
        "the Secret {secret} does not exist and cannot be created: {problem}; create it empty and the webhook fills it"
    )]
    Gone { secret: String, problem: String },
    #[error("cannot write the Secret {0}: every attempt conflicted with another writer")]
    Overtaken(String),
    #[error("cannot update the CA bundle of the ValidatingWebhookConfiguration {name}: {problem}")]
    Configuration { name: String, problem: String },
    #[error("cannot issue a certificate for {0:?}: it is not a DNS name")]
    Name(String),
    #[error("cannot issue a certificate: {0}")]
    Issue(#[from] rcgen::Error),
    #[error("cannot read {path}: {problem}")]
    File { path: String, problem: String },
    #[error("the certificate is not valid PEM: {0}")]
    Certificate(String),
    #[error("the private key is not valid PEM: {0}")]
    Key(String),
    #[error("the private key does not match the certificate: {0}")]
    Pair(String),
}

/// A certificate with its chain and key.
#[derive(Debug, Clone)]
pub(crate) struct Certificate {
    pub(crate) key: Arc<CertifiedKey>,
    not_after: Timestamp,
}

impl Certificate {
    /// Parses PEM. The certificates after the first one are its chain.
    pub(crate) fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, CertificateError> {
        let chain = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| CertificateError::Certificate(error.to_string()))?;
        let not_after = not_after(chain.first().map_or(&[], |first| first.as_ref()))?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|error| CertificateError::Key(error.to_string()))?;
        let provider = rustls::crypto::ring::default_provider();
        let key = CertifiedKey::from_der(chain, key, &provider)
            .map_err(|error| CertificateError::Pair(error.to_string()))?;
        Ok(Self {
            key: Arc::new(key),
            not_after,
        })
    }
}

/// The end of validity of a certificate in DER.
pub(crate) fn not_after(certificate: &[u8]) -> Result<Timestamp, CertificateError> {
    let malformed = |problem: String| CertificateError::Certificate(problem);
    if certificate.is_empty() {
        return Err(malformed("the file holds no certificate".to_owned()));
    }
    let (_, parsed) =
        X509Certificate::from_der(certificate).map_err(|error| malformed(error.to_string()))?;
    let seconds = parsed.validity().not_after.timestamp();
    Timestamp::from_second(seconds).map_err(|error| malformed(error.to_string()))
}

/// The certificate that new handshakes use, and the result of the last check.
pub(crate) struct Served {
    pub(crate) clock: Arc<dyn Clock>,
    metrics: WebhookMetrics,
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    certificate: Option<Certificate>,
    problem: Option<CertificateError>,
}

impl Served {
    pub(crate) fn new(clock: Arc<dyn Clock>, metrics: WebhookMetrics) -> Self {
        Self {
            clock,
            metrics,
            state: RwLock::default(),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves this certificate from the next handshake on.
    pub(crate) fn set(&self, certificate: Certificate) {
        self.metrics.set_expiry(certificate.not_after.as_second());
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.certificate = Some(certificate);
    }

    /// Records the result of a check.
    pub(crate) fn checked(&self, result: Result<(), CertificateError>) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.problem = result.err();
    }

    pub(crate) fn certificate(&self) -> Option<Arc<CertifiedKey>> {
        let state = self.read();
        Some(Arc::clone(&state.certificate.as_ref()?.key))
    }

    /// Whether a certificate is served that has not expired.
    pub(crate) fn is_valid(&self) -> bool {
        let now = self.clock.now();
        let state = self.read();
        state
            .certificate
            .as_ref()
            .is_some_and(|served| served.not_after > now)
    }
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Served").field(&self.read()).finish()
    }
}

impl ResolvesServerCert for Served {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.certificate()
    }
}

/// Readiness of the webhook's certificate. Clones share it.
#[derive(Debug, Clone)]
pub struct CertificateHealth(pub(crate) Arc<Served>);

impl CertificateHealth {
    /// Whether a certificate is served, has not expired, and is stored where other replicas find it.
    ///
    /// # Errors
    ///
    /// The problem, in words.
    pub fn ready(&self) -> Result<(), String> {
        let valid = self.0.is_valid();
        let state = self.0.read();
        let because = match &state.problem {
            // The served certificate stays valid, but no other replica can read it.
            Some(error @ CertificateError::Gone { .. }) if valid => return Err(error.to_string()),
            _ if valid => return Ok(()),
            Some(error) => format!(": {error}"),
            None => String::new(),
        };
        Err(match &state.certificate {
            None => format!("no certificate yet{because}"),
            Some(served) => format!("the certificate expired at {}{because}", served.not_after),
        })
    }
}

/// Interval between reads of the files. A kubelet takes about a minute to update a mounted Secret.
const READ_INTERVAL: Duration = Duration::from_secs(10);

/// Serves the certificate from these PEM files. If they become invalid, the last valid certificate stays. Never
/// returns.
pub(crate) async fn keep_files(certificate: &Path, key: &Path, served: &Served) {
    let (mut last, mut last_problem) = (None, None);
    loop {
        let loaded = async {
            let read = (read(certificate).await?, read(key).await?);
            if last.as_ref() != Some(&read) {
                served.set(Certificate::from_pem(&read.0, &read.1)?);
                info!(file = %certificate.display(), "certificate loaded");
                last = Some(read);
            }
            Ok(())
        };
        let result = loaded.await;
        let problem = result.as_ref().err().map(CertificateError::to_string);
        // A problem is logged once, not at every read.
        if let Some(error) = problem.as_ref().filter(|_| problem != last_problem) {
            warn!(%error, "certificate not loaded");
        }
        last_problem = problem;
        served.checked(result);
        served.clock.sleep(READ_INTERVAL).await;
    }
}

async fn read(path: &Path) -> Result<Vec<u8>, CertificateError> {
    let read = tokio::fs::read(path).await;
    read.map_err(|error| CertificateError::File {
        path: path.display().to_string(),
        problem: error.to_string(),
    })
}
