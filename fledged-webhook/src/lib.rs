#![doc = include_str!("../README.md")]

mod certificate;
mod renewal;
mod review;
mod review_server;
mod webhook_metrics;

pub use certificate::CertificateHealth;
pub use renewal::SelfIssued;
pub use review::{Verdict, judge};
pub use review_server::{WebhookError, WebhookServer};

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fledged_core::model::AssignmentDefaults;
use fledged_core::port::Clock;
use fledged_core::tokio::TokioClock;
use fledged_kube::lease::CONTROLLER_NAMESPACE;
use fledged_kube::serve::register_build_info;
use kube::Client;
use prometheus_client::registry::Registry;

use crate::webhook_metrics::WebhookMetrics;
use certificate::Served;
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

impl Default for CertificateSource {
    fn default() -> Self {
        let service = "kubefledged-webhook-server";
        Self::SelfIssued(SelfIssued::new(CONTROLLER_NAMESPACE, service))
    }
}

/// Settings of a [`Webhook`].
#[derive(Clone)]
#[non_exhaustive]
pub struct WebhookConfig {
    /// The source of the certificate. Default: self-issued for the Service `kubefledged-webhook-server` in the
    /// namespace `kube-fledged`.
    pub certificate: CertificateSource,
    /// The interval at which the controller refreshes mutable tags, for the warnings; zero means never. Default
    /// 15 minutes.
    pub refresh_interval: Duration,
    /// The longest deadline that the controller allows, for the warnings. Default 2 hours.
    pub longest_deadline: Duration,
    /// The clock. Default [`TokioClock`].
    pub clock: Arc<dyn Clock>,
}

impl Default for WebhookConfig {
    fn default() -> Self {
        Self {
            certificate: CertificateSource::default(),
            refresh_interval: REFRESH_INTERVAL,
            longest_deadline: AssignmentDefaults::default().longest_deadline(),
            clock: Arc::new(TokioClock::new()),
        }
    }
}

impl fmt::Debug for WebhookConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookConfig")
            .field("certificate", &self.certificate)
            .field("refresh_interval", &self.refresh_interval)
            .field("longest_deadline", &self.longest_deadline)
            .finish_non_exhaustive()
    }
}

/// The webhook. [`bind`](Self::bind) starts to listen.
pub struct Webhook {
    client: Client,
    config: WebhookConfig,
    metrics: WebhookMetrics,
    served: Arc<Served>,
    nodes: NodeLabels,
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Webhook").field(&self.config).finish()
    }
}

impl Webhook {
    /// A webhook for the cluster of this client.
    #[must_use]
    pub fn new(client: Client, config: WebhookConfig) -> Self {
        let metrics = WebhookMetrics::default();
        Self {
            client,
            served: Arc::new(Served::new(Arc::clone(&config.clock), metrics.clone())),
            config,
            metrics,
            nodes: NodeLabels::default(),
        }
    }

    /// Registers the webhook's metrics and `fledged_build_info`.
    pub fn register_metrics(&self, registry: &mut Registry) {
        self.metrics.register(registry);
        register_build_info(registry);
    }

    /// The readiness of its certificate, for probes; valid while the server runs.
    #[must_use]
    pub fn health(&self) -> CertificateHealth {
        CertificateHealth(Arc::clone(&self.served))
    }

    async fn keep_certificate(&self) {
        match &self.config.certificate {
            CertificateSource::SelfIssued(issued) => issued.keep(&self.client, &self.served).await,
            CertificateSource::Files { certificate, key } => {
                certificate::keep_files(certificate, key, &self.served).await;
            }
        }
    }
}
