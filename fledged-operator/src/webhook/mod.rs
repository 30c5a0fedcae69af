//! The validating webhook for ImageCaches: checks that the rules of the CustomResourceDefinition cannot express.
//!
//! It is optional. Without it, the definition's own rules reject malformed objects, and the controller reports
//! every other problem in the status of the ImageCache. With it, `kubectl apply` shows the problem at once. It
//! rejects specs that the controller would not act on, and warns about specs with surprising effects. Updates
//! that do not change the spec always pass: annotations, finalizers and statuses must be writable even if the
//! spec is invalid.
//!
//! ```no_run
//! # async fn example(client: kube::Client) -> Result<(), Box<dyn std::error::Error>> {
//! use fledged_operator::webhook::{CertificateSource, SelfIssued, Webhook};
//!
//! let issued = SelfIssued::new("kube-fledged", "kubefledged-webhook-server");
//! let webhook = Webhook::builder(client).certificate(CertificateSource::SelfIssued(issued)).build();
//! let server = webhook.bind(8443).await?;
//! server.run(async { tokio::signal::ctrl_c().await.unwrap_or_default() }).await?;
//! # Ok(())
//! # }
//! ```

mod authority;
mod certificate;
mod issuing;
mod review;
mod server;

pub use authority::IssueError;
pub use certificate::{CertificateHealth, InvalidCertificate};
pub use issuing::{CertificateError, SelfIssued};
pub use review::{Verdict, judge};
pub use server::{WebhookError, WebhookMetrics, WebhookServer};

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fledged_core::port::Clock;
use fledged_core::tokio::TokioClock;
use kube::Client;
use prometheus_client::registry::Registry;

use crate::api::lease::CONTROLLER_NAMESPACE;
use crate::serve::{BindAddress, register_build_info};
use certificate::{CertificateFiles, ServedCertificate};
use review::NodeLabels;

/// Path of the webhook; the same as kube-fledged's.
pub const PATH: &str = "/validate-image-cache";
/// The controller's default for `--image-cache-refresh-frequency`.
const REFRESH_INTERVAL: Duration = Duration::from_secs(900);

/// Source of the server certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CertificateSource {
    /// The webhook issues, shares and renews its certificate.
    SelfIssued(SelfIssued),
    /// PEM files that something else maintains, for example cert-manager. They are read every ten seconds.
    Files {
        /// The certificate, followed by its chain.
        certificate: PathBuf,
        /// Its private key.
        key: PathBuf,
    },
}

/// The webhook. [`bind`](Self::bind) starts to listen.
pub struct Webhook {
    client: Client,
    source: CertificateSource,
    refresh_interval: Duration,
    metrics: WebhookMetrics,
    health: CertificateHealth,
    nodes: NodeLabels,
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

impl Webhook {
    /// Builds a webhook for the cluster of this client.
    #[must_use]
    pub fn builder(client: Client) -> WebhookBuilder {
        WebhookBuilder {
            client,
            source: None,
            refresh_interval: REFRESH_INTERVAL,
            clock: None,
            metrics: WebhookMetrics::default(),
        }
    }

    /// The readiness of its certificate, for probes; valid while the server runs.
    #[must_use]
    pub fn health(&self) -> CertificateHealth {
        self.health.clone()
    }

    /// Listens on this port, for IPv6 and IPv4 if the machine has both; 0 takes a free port.
    ///
    /// # Errors
    ///
    /// [`WebhookError::Bind`], with the port and the system's message.
    pub async fn bind(self, port: u16) -> Result<WebhookServer, WebhookError> {
        let address = BindAddress {
            host: String::new(),
            port,
        };
        WebhookServer::bind(self, &address).await
    }

    async fn keep_certificate(self: Arc<Self>) {
        let health = self.health.clone();
        match self.source.clone() {
            CertificateSource::SelfIssued(issued) => {
                issued.keep(self.client.clone(), health).await;
            }
            CertificateSource::Files { certificate, key } => {
                CertificateFiles { certificate, key }.keep(health).await;
            }
        }
    }
}

/// Builds a [`Webhook`].
pub struct WebhookBuilder {
    client: Client,
    source: Option<CertificateSource>,
    refresh_interval: Duration,
    clock: Option<Arc<dyn Clock>>,
    metrics: WebhookMetrics,
}

impl fmt::Debug for WebhookBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookBuilder")
            .field("source", &self.source)
            .field("refresh_interval", &self.refresh_interval)
            .finish_non_exhaustive()
    }
}

impl WebhookBuilder {
    /// The source of the certificate. Default: self-issued for the Service
    /// `kubefledged-webhook-server` in the namespace `kube-fledged`.
    #[must_use]
    pub fn certificate(mut self, source: CertificateSource) -> Self {
        self.source = Some(source);
        self
    }

    /// The interval at which the controller refreshes mutable tags, for the warnings; zero means never. Default
    /// 15 minutes.
    #[must_use]
    pub fn refresh_interval(mut self, interval: Duration) -> Self {
        self.refresh_interval = interval;
        self
    }

    /// The clock. Default [`TokioClock`].
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Registers the webhook's metrics and `fledged_build_info`.
    #[must_use]
    pub fn metrics(mut self, registry: &mut Registry) -> Self {
        self.metrics = WebhookMetrics::register(registry);
        register_build_info(registry);
        self
    }

    /// Builds the webhook.
    #[must_use]
    pub fn build(self) -> Webhook {
        let clock = self.clock.unwrap_or_else(|| Arc::new(TokioClock::new()));
        let served = ServedCertificate::new(self.metrics.clone());
        let source = self.source.unwrap_or_else(|| {
            let issued = SelfIssued::new(CONTROLLER_NAMESPACE, "kubefledged-webhook-server");
            CertificateSource::SelfIssued(issued)
        });
        Webhook {
            client: self.client,
            source,
            refresh_interval: self.refresh_interval,
            health: CertificateHealth::new(served, clock),
            metrics: self.metrics,
            nodes: NodeLabels::default(),
        }
    }
}
