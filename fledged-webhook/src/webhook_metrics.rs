//! The metrics of the webhook: names, labels and help texts.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// Metrics of a [`Webhook`](crate::Webhook). Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct WebhookMetrics {
    reviews: Family<[(&'static str, &'static str); 1], Counter>,
    expiry: Gauge,
}

impl WebhookMetrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "fledged_webhook_reviews",
            "Admission reviews of ImageCaches by result",
            self.reviews.clone(),
        );
        registry.register_with_unit(
            "fledged_webhook_certificate_expiry_timestamp",
            "Expiry of the served certificate as a Unix timestamp",
            Unit::Seconds,
            self.expiry.clone(),
        );
    }

    /// Counts a review that was `allowed`, `warned`, `denied` or `malformed`.
    pub(crate) fn reviewed(&self, result: &'static str) {
        self.reviews.get_or_create(&[("result", result)]).inc();
    }

    pub(crate) fn set_expiry(&self, seconds: i64) {
        self.expiry.set(seconds);
    }
}
