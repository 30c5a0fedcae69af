//! What the webhook counts.

use std::sync::atomic::AtomicI64;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types, reason = "the label's values as they are shown")]
pub(super) enum Outcome {
    allowed,
    warned,
    denied,
    malformed,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    result: Outcome,
}

/// Metrics of a [`Webhook`](super::Webhook).
#[derive(Debug, Clone, Default)]
pub struct WebhookMetrics {
    reviews: Family<Labels, Counter>,
    expiry: Gauge<i64, AtomicI64>,
}

impl WebhookMetrics {
    /// Metrics that a registry shows.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "fledged_webhook_reviews",
            "Reviews of ImageCaches by what came of them",
            metrics.reviews.clone(),
        );
        registry.register_with_unit(
            "fledged_webhook_certificate_expiry_timestamp",
            "When the certificate that is served ends, since 1970",
            Unit::Seconds,
            metrics.expiry.clone(),
        );
        metrics
    }

    pub(super) fn reviewed(&self, result: Outcome) {
        self.reviews.get_or_create(&Labels { result }).inc();
    }

    pub(super) fn serves_until(&self, seconds: i64) {
        self.expiry.set(seconds);
    }
}
