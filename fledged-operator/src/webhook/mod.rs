//! The validating webhook for ImageCaches: what the rules in the definition can't say.
//!
//! It is optional. The definition's own rules refuse what is malformed without it, and the controller says
//! in the status of an ImageCache what else is wrong with it; with the webhook, whoever applies it is told
//! at once. It refuses specs that the controller would not act on, and warns of such as will surprise.
//! What changes no spec passes: annotations, finalizers and statuses must get through whatever stands in
//! the spec.
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
use certificate::{Files, Served};
use review::Nodes;

/// Where the API server asks, as it did of kube-fledged's webhook.
pub const PATH: &str = "/validate-image-cache";
/// The controller's default for `--image-cache-refresh-frequency`.
const REFRESH_INTERVAL: Duration = Duration::from_secs(900);

/// Where the server's certificate comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CertificateSource {
    /// The webhook makes, shares and renews it.
    SelfIssued(SelfIssued),
    /// Somebody else keeps it in files, both in PEM; they are read again every ten seconds.
    Files {
        /// The certificate, its chain after it.
        certificate: PathBuf,
        /// Its private key.
        key: PathBuf,
    },
}

/// A webhook.
pub struct Webhook {
    client: Client,
    source: CertificateSource,
    refresh_interval: Duration,
    metrics: WebhookMetrics,
    health: CertificateHealth,
    nodes: Nodes,
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

impl Webhook {
    /// A webhook of the cluster that this client speaks to.
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

    /// What probes ask, also while it runs.
    #[must_use]
    pub fn health(&self) -> CertificateHealth {
        self.health.clone()
    }

    /// Starts to listen on that port, of both IP families where the machine has both; 0 takes a free one.
    ///
    /// # Errors
    ///
    /// [`WebhookError::Bind`], with the port and the system's words.
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
                Files { certificate, key }.keep(health).await;
            }
        }
    }
}

/// Puts a [`Webhook`] together.
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
    /// Where the certificate comes from. Default: self-issued for the Service
    /// `kubefledged-webhook-server` in the namespace `kube-fledged`.
    #[must_use]
    pub fn certificate(mut self, source: CertificateSource) -> Self {
        self.source = Some(source);
        self
    }

    /// How often the controller pulls again what moves, for the warnings; zero: never. Default 15 minutes.
    #[must_use]
    pub fn refresh_interval(mut self, interval: Duration) -> Self {
        self.refresh_interval = interval;
        self
    }

    /// With another clock than tokio's.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Adds the webhook's metrics and `fledged_build_info` to a registry. Without, nothing shows them.
    #[must_use]
    pub fn metrics(mut self, registry: &mut Registry) -> Self {
        self.metrics = WebhookMetrics::register(registry);
        register_build_info(registry);
        self
    }

    /// The webhook.
    #[must_use]
    pub fn build(self) -> Webhook {
        let clock = self.clock.unwrap_or_else(|| Arc::new(TokioClock::new()));
        let served = Served::new(self.metrics.clone());
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
            nodes: Nodes::default(),
        }
    }
}
