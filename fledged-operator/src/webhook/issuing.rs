//! Certificates of our own, made, shared and renewed.

use std::time::Duration;

use fledged_core::port::Clock;
use fledged_core::warmer::Schedule;
use kube::Client;
use tracing::{info, warn};

use super::authority::{IssueError, Issued, renewed};
use super::bundle::{self, Enough};
use super::certificate::{Certificate, CertificateHealth, InvalidCertificate};
use super::secret::{Kept, Written};
use crate::problem::problem;

/// How often it is looked whether everything is as it should be: another replica may have renewed it,
/// somebody may have applied the configuration anew.
const AGAIN: Duration = Duration::from_secs(30);
/// After failures in a row: sooner at first, then less often, as somebody has to do something.
const AGAIN_FAILED: Schedule = Schedule::seconds(5, 60);
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
    /// There is no Secret, and it can't be made.
    #[error(
        "the Secret {namespace}/{name} is gone and cannot be made again: {problem}; make it, empty, and it is filled"
    )]
    Gone {
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
        let mut last = None;
        let mut failures: u32 = 0;
        loop {
            let again = match self.ensure(&client, &health, &mut last).await {
                Ok(()) => {
                    failures = 0;
                    health.tell(None);
                    AGAIN
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    warn!(%error, failures, "certificate not kept");
                    match &error {
                        // What is served is good until its time is over, but no other replica can have it.
                        CertificateError::Gone { .. } => health.fail(error.to_string()),
                        _ => health.tell(Some(error.to_string())),
                    }
                    AGAIN_FAILED.delay(failures)
                }
            };
            clock.sleep(again).await;
        }
    }

    /// `last` is what was kept the last time.
    async fn ensure(
        &self,
        client: &Client,
        health: &CertificateHealth,
        last: &mut Option<Issued>,
    ) -> Result<(), CertificateError> {
        let issued = match self
            .issued(client, health.clock.as_ref(), last.as_ref())
            .await
        {
            Ok(issued) => last.insert(issued),
            Err(error) => {
                // Whatever is wrong with the Secret, what is served is to be believed.
                if let Some(last) = last {
                    self.trusted(client, last, Enough::Contains).await?;
                }
                return Err(error);
            }
        };
        let certificate =
            Certificate::from_pem(issued.certificate.as_bytes(), issued.key.as_bytes())?;
        let trusted = self.trusted(client, issued, Enough::Equals).await;
        // What is served is believed until its time is over; with nothing served there is nothing to lose.
        if trusted.is_ok() || !health.served.is_set() {
            health.served.set(certificate);
        }
        trusted
    }

    async fn trusted(
        &self,
        client: &Client,
        issued: &Issued,
        enough: Enough,
    ) -> Result<(), CertificateError> {
        let Some(name) = &self.configuration else {
            return Ok(());
        };
        let ensured = bundle::ensure(client, name, &issued.bundle, enough).await;
        ensured.map_err(|error| CertificateError::Configuration {
            name: name.clone(),
            problem: problem(&error),
        })
    }

    /// What is kept, renewed if need be; where somebody has taken it out of the Secret, the last that was kept.
    async fn issued(
        &self,
        client: &Client,
        clock: &dyn Clock,
        last: Option<&Issued>,
    ) -> Result<Issued, CertificateError> {
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
            let known = read.issued.as_ref().or(last);
            let next = match renewed(known, &self.dns_names(), clock.now())? {
                Some(next) => next,
                None => match (&read.issued, last) {
                    (Some(issued), _) => return Ok(issued.clone()),
                    (None, Some(last)) => last.clone(),
                    (None, None) => continue,
                },
            };
            let gone = read.is_missing();
            match kept.write(read, &next).await {
                Ok(Written::Done) => {
                    info!(secret = self.secret, "the certificate was written");
                    return Ok(next);
                }
                Ok(Written::Overtaken) => {}
                Err(error) if gone => {
                    return Err(CertificateError::Gone {
                        namespace: self.namespace.clone(),
                        name: self.secret.clone(),
                        problem: problem(&error),
                    });
                }
                Err(error) => return Err(failed("write")(error)),
            }
        }
        Err(CertificateError::Overtaken {
            namespace: self.namespace.clone(),
            name: self.secret.clone(),
        })
    }
}
