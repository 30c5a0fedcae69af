//! Certificates that somebody else keeps in files, cert-manager for instance.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::certificate::{Certificate, CertificateHealth};
use super::issuing::CertificateError;

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
