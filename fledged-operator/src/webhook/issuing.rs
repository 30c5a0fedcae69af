//! Certificates of our own, made, shared and renewed.

use std::time::Duration;

use fledged_core::ports::Clock;
use kube::Client;
use tracing::{info, warn};

use super::authority::{IssueError, renewed};
use super::bundle;
use super::certificate::{Certificate, CertificateHealth, InvalidCertificate};
use super::secret::{Kept, Written};
use crate::problem::problem;

/// How often it is looked whether everything is as it should be: another replica may have renewed it,
/// somebody may have applied the configuration anew.
const AGAIN: Duration = Duration::from_secs(30);
/// After a failure, sooner.
const AGAIN_FAILED: Duration = Duration::from_secs(5);
/// How often another replica may be first.
const ATTEMPTS: usize = 5;

/// Certificates that the webhook makes for itself.
///
/// An authority of a year and a server's certificate of 90 days are kept in a Secret that all replicas
/// share, and renewed when a third of their time is left. The authority's certificate is kept in the
/// ValidatingWebhookConfiguration, if one is named: the new one together with the one before, and before
/// anything is served that only the new one vouches for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SelfIssued {
    /// Namespace of the Service and of the Secret.
    pub namespace: String,
    /// Name of the Service in front of the webhook.
    pub service: String,
    /// Name of the Secret. Default: the Service's name and `-tls`.
    pub secret: String,
    /// Name of the ValidatingWebhookConfiguration whose CA bundle is kept. Default: none is touched.
    pub configuration: Option<String>,
    /// Further DNS names. Default none.
    pub names: Vec<String>,
}

impl SelfIssued {
    /// For the webhook behind that Service.
    #[must_use]
    pub fn new(namespace: impl Into<String>, service: impl Into<String>) -> Self {
        let service = service.into();
        Self {
            namespace: namespace.into(),
            secret: format!("{service}-tls"),
            service,
            configuration: None,
            names: Vec::new(),
        }
    }

    /// Keeps the CA bundle of that ValidatingWebhookConfiguration.
    #[must_use]
    pub fn with_configuration(mut self, name: impl Into<String>) -> Self {
        self.configuration = Some(name.into());
        self
    }

    /// In that Secret.
    #[must_use]
    pub fn with_secret(mut self, name: impl Into<String>) -> Self {
        self.secret = name.into();
        self
    }

    /// Also for these DNS names, `localhost` for instance.
    #[must_use]
    pub fn with_names<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.names = names.into_iter().map(Into::into).collect();
        self
    }

    fn dns_names(&self) -> Vec<String> {
        let (service, namespace) = (&self.service, &self.namespace);
        let of_service = [
            format!("{service}.{namespace}.svc"),
            format!("{service}.{namespace}"),
            service.clone(),
            format!("{service}.{namespace}.svc.cluster.local"),
        ];
        of_service.into_iter().chain(self.names.clone()).collect()
    }
}

/// Why there is no certificate for now.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// A request about the Secret failed.
    #[error("cannot {verb} the Secret {namespace}/{name}: {problem}")]
    Secret {
        /// `get` or `write`.
        verb: &'static str,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The API server's words.
        problem: String,
    },
    /// A request about the configuration failed.
    #[error("cannot keep the CA bundle of the ValidatingWebhookConfiguration {name}: {problem}")]
    Configuration {
        /// Its name.
        name: String,
        /// The API server's words.
        problem: String,
    },
    /// Other replicas were always first.
    #[error("the Secret {namespace}/{name} changes whenever it is to be written")]
    Overtaken {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// It could not be made.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// What was made can't be used.
    #[error(transparent)]
    Invalid(#[from] InvalidCertificate),
    /// A file can't be read.
    #[error("cannot read {path}: {problem}")]
    File {
        /// Which file.
        path: String,
        /// The system's words.
        problem: String,
    },
}

impl SelfIssued {
    /// Keeps a certificate served, for ever.
    pub(super) async fn keep(self, client: Client, health: CertificateHealth) {
        let clock = std::sync::Arc::clone(&health.clock);
        loop {
            let again = match self.ensure(&client, &health).await {
                Ok(()) => {
                    health.tell(None);
                    AGAIN
                }
                Err(error) => {
                    warn!(%error, "certificate not kept");
                    health.tell(Some(error.to_string()));
                    AGAIN_FAILED
                }
            };
            clock.sleep(again).await;
        }
    }

    async fn ensure(
        &self,
        client: &Client,
        health: &CertificateHealth,
    ) -> Result<(), CertificateError> {
        let issued = self.issued(client, health.clock.as_ref()).await?;
        let certificate =
            Certificate::from_pem(issued.certificate.as_bytes(), issued.key.as_bytes())?;
        let trusted = match &self.configuration {
            Some(name) => bundle::ensure(client, name, &issued.bundle)
                .await
                .map_err(|error| CertificateError::Configuration {
                    name: name.clone(),
                    problem: problem(&error),
                }),
            None => Ok(()),
        };
        // What is served is believed until its time is over; with nothing served there is nothing to lose.
        if trusted.is_ok() || !health.served.is_set() {
            health.served.set(certificate);
        }
        trusted
    }

    /// What is kept, renewed if need be.
    async fn issued(
        &self,
        client: &Client,
        clock: &dyn Clock,
    ) -> Result<super::authority::Issued, CertificateError> {
        let kept = Kept::new(client.clone(), &self.namespace, &self.secret);
        let failed = |verb: &'static str| {
            move |error: kube::Error| CertificateError::Secret {
                verb,
                namespace: self.namespace.clone(),
                name: self.secret.clone(),
                problem: problem(&error),
            }
        };
        for _ in 0..ATTEMPTS {
            let read = kept.read().await.map_err(failed("get"))?;
            let Some(next) = renewed(read.issued.as_ref(), &self.dns_names(), clock.now())? else {
                match read.issued {
                    Some(issued) => return Ok(issued),
                    None => continue,
                }
            };
            match kept.write(read, &next).await.map_err(failed("write"))? {
                Written::Done => {
                    info!(secret = self.secret, "the certificate was renewed");
                    return Ok(next);
                }
                Written::Overtaken => {}
            }
        }
        Err(CertificateError::Overtaken {
            namespace: self.namespace.clone(),
            name: self.secret.clone(),
        })
    }
}
