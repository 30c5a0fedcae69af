//! Which path answers what.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Response, StatusCode};
use http_body_util::Full;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tracing::warn;

use super::checks::Checks;

/// The text format that the metrics are written in (OpenMetrics 1.0).
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";

/// What a [`Server`](super::Server) answers: `/metrics`, `/livez` (also as `/healthz`) and `/readyz`.
///
/// A probe without checks passes: that it is answered at all says something.
#[derive(Debug, Clone, Default)]
pub struct Routes {
    metrics: Option<Arc<Registry>>,
    probes: bool,
    live: Checks,
    ready: Checks,
}

impl Routes {
    /// Nothing but 404.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Answers `/metrics` from this registry.
    #[must_use]
    pub fn with_metrics(mut self, registry: Arc<Registry>) -> Self {
        self.metrics = Some(registry);
        self
    }

    /// Answers the probes, also without any check.
    #[must_use]
    pub fn with_probes(mut self) -> Self {
        self.probes = true;
        self
    }

    /// Answers the probes; `/livez` fails while this does, with its words.
    #[must_use]
    pub fn with_liveness(
        mut self,
        name: impl Into<String>,
        check: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        self.live.add(name, check);
        self.with_probes()
    }

    /// Answers the probes; `/readyz` fails while this does, with its words.
    #[must_use]
    pub fn with_readiness(
        mut self,
        name: impl Into<String>,
        check: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        self.ready.add(name, check);
        self.with_probes()
    }

    /// The answer to a request; its body is not read.
    pub(super) fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        if method != Method::GET && method != Method::HEAD {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
            let methods = HeaderValue::from_static("GET, HEAD");
            response.headers_mut().insert(ALLOW, methods);
            return response;
        }
        match path {
            "/metrics" => match &self.metrics {
                Some(registry) => metrics(registry),
                None => not_found(),
            },
            "/livez" | "/healthz" if self.probes => probe(&self.live),
            "/readyz" if self.probes => probe(&self.ready),
            _ => not_found(),
        }
    }
}

fn metrics(registry: &Registry) -> Response<Full<Bytes>> {
    let mut text = String::new();
    match encode(&mut text, registry) {
        Ok(()) => respond(StatusCode::OK, OPENMETRICS, text),
        Err(error) => {
            warn!(%error, "metrics not encoded");
            plain(StatusCode::INTERNAL_SERVER_ERROR, "cannot encode metrics\n")
        }
    }
}

fn probe(checks: &Checks) -> Response<Full<Bytes>> {
    match checks.run() {
        Ok(text) => plain(StatusCode::OK, &format!("{text}ok\n")),
        Err(text) => plain(StatusCode::SERVICE_UNAVAILABLE, &format!("{text}failed\n")),
    }
}

fn not_found() -> Response<Full<Bytes>> {
    plain(StatusCode::NOT_FOUND, "not found\n")
}

fn plain(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    respond(status, PLAIN, text.to_owned())
}

fn respond(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
