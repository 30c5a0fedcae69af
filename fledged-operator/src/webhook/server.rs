//! The HTTPS server of the webhook and its metrics.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;
use std::{fmt, io};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use kube::core::admission::{AdmissionRequest, AdmissionReview};
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info, warn};

use crate::crd::ReadCache;
use crate::serve::{BindAddress, listen};
use crate::webhook::review::{Verdict, answer};
use crate::webhook::{PATH, Webhook};

/// How long a client may take to shake hands, or to say what it wants.
const HEADER_LIMIT: Duration = Duration::from_secs(5);
/// How long a request's body may take: the API server waits 10 s for an answer by default, 30 s at most.
const BODY_LIMIT: Duration = Duration::from_secs(10);
/// Bytes of a review: the object and the one before it, of which etcd takes 1.5 MiB each, and some room.
const REVIEW_BYTES: usize = 8 * 1024 * 1024;
/// Connections at once; with one more, the oldest has to go. An API server keeps a handful.
const CONNECTIONS: usize = 128;
/// Pause after a connection could not be accepted, for want of file descriptors for instance.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why a webhook can't serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WebhookError {
    /// The port can't be had.
    #[error("cannot listen at {address} for the API server: {source}")]
    Bind {
        /// Where.
        address: BindAddress,
        /// The system's words.
        source: io::Error,
    },
    /// TLS can't be set up.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// A task without which it is none has ended.
    #[error("the webhook cannot go on: its {task} has ended")]
    Ended {
        /// Which task.
        task: &'static str,
    },
}

/// A webhook that listens.
pub struct WebhookServer {
    webhook: Arc<Webhook>,
    listener: TcpListener,
    address: SocketAddr,
    tls: TlsAcceptor,
}

impl fmt::Debug for WebhookServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookServer")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl WebhookServer {
    pub(super) async fn bind(
        webhook: Webhook,
        address: &BindAddress,
    ) -> Result<Self, WebhookError> {
        let fail = |source| WebhookError::Bind {
            address: address.clone(),
            source,
        };
        let listener = listen(address).await.map_err(fail)?;
        let bound = listener.local_addr().map_err(fail)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(webhook.health.served.clone()));
        info!(address = %bound, "the webhook listens");
        Ok(Self {
            webhook: Arc::new(webhook),
            listener,
            address: bound,
            tls: TlsAcceptor::from(Arc::new(config)),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `shutdown` resolves; keeps its certificate and knows the nodes meanwhile. Reviews
    /// under way are answered before it ends, for at most ten seconds.
    ///
    /// # Errors
    ///
    /// [`WebhookError::Ended`] when a part of it ends by itself, which none ever does.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), WebhookError> {
        let Self {
            webhook,
            listener,
            tls,
            ..
        } = self;
        let certificate = Arc::clone(&webhook).keep_certificate();
        let nodes = webhook.nodes.clone().watch(webhook.client.clone());
        let mut connections = JoinSet::new();
        let result = tokio::select! {
            () = shutdown => Ok(()),
            () = certificate => Err(WebhookError::Ended { task: "keeper of the certificate" }),
            () = nodes => Err(WebhookError::Ended { task: "watch of the nodes" }),
            () = accept(&listener, &tls, &webhook, &mut connections) => {
                Err(WebhookError::Ended { task: "listener" })
            }
        };
        drop(listener);
        let drained = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(BODY_LIMIT, drained).await.is_err() {
            debug!("the webhook ended with connections open");
        }
        result
    }
}

/// Accepts for ever.
async fn accept(
    listener: &TcpListener,
    tls: &TlsAcceptor,
    webhook: &Arc<Webhook>,
    connections: &mut JoinSet<()>,
) {
    let mut oldest_first: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let accepted = listener.accept().await;
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, _)) => {
                oldest_first.retain(|handle| !handle.is_finished());
                while oldest_first.len() >= CONNECTIONS {
                    if let Some(oldest) = oldest_first.pop_front() {
                        oldest.abort();
                    }
                }
                let serving = serve(stream, tls.clone(), Arc::clone(webhook));
                oldest_first.push_back(connections.spawn(serving));
            }
            Err(error) => {
                warn!(%error, "connection not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, tls: TlsAcceptor, webhook: Arc<Webhook>) {
    let stream = match tokio::time::timeout(HEADER_LIMIT, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return debug!(%error, "no TLS"),
        Err(_) => return debug!("a handshake took too long"),
    };
    let service = service_fn(move |request: Request<Incoming>| {
        let webhook = Arc::clone(&webhook);
        async move { Ok::<_, Infallible>(respond(&webhook, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Some(HEADER_LIMIT * 12))
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        debug!(%error, "connection broke off");
    }
}

async fn respond(webhook: &Webhook, request: Request<Incoming>) -> Response<Full<Bytes>> {
    if request.uri().path() != PATH {
        return plain(StatusCode::NOT_FOUND, format!("only {PATH} is here\n"));
    }
    if request.method() != Method::POST {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "only POST\n".to_owned());
    }
    let body = Limited::new(request.into_body(), REVIEW_BYTES).collect();
    let body = match tokio::time::timeout(BODY_LIMIT, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) => return malformed(webhook, &error.to_string()),
        Err(_) => return malformed(webhook, "it did not arrive in time"),
    };
    match review(webhook, &body) {
        Ok(answer) => {
            let mut response = Response::new(Full::new(Bytes::from(answer)));
            let json = HeaderValue::from_static("application/json");
            response.headers_mut().insert(CONTENT_TYPE, json);
            response
        }
        Err(problem) => malformed(webhook, &problem),
    }
}

fn review(webhook: &Webhook, body: &[u8]) -> Result<Vec<u8>, String> {
    let review: AdmissionReview<ReadCache> =
        serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let request: AdmissionRequest<ReadCache> = review
        .try_into()
        .map_err(|_| "it has no request".to_owned())?;
    let id = format!(
        "{}/{}",
        request.namespace.as_deref().unwrap_or_default(),
        request.name
    );
    let nodes = webhook.nodes.all();
    let (response, verdict) = answer(request, nodes.as_deref(), webhook.refresh_interval);
    let outcome = match &verdict {
        Verdict::Allowed { warnings } if warnings.is_empty() => Outcome::allowed,
        Verdict::Allowed { .. } => Outcome::warned,
        Verdict::Denied(invalid) => {
            info!(image_cache = id, problem = %invalid, "denied");
            Outcome::denied
        }
    };
    let answer = serde_json::to_vec(&response.into_review()).map_err(|error| error.to_string())?;
    webhook.metrics.reviewed(outcome);
    Ok(answer)
}

fn malformed(webhook: &Webhook, problem: &str) -> Response<Full<Bytes>> {
    webhook.metrics.reviewed(Outcome::malformed);
    debug!(problem, "a review is malformed");
    plain(
        StatusCode::BAD_REQUEST,
        format!("the AdmissionReview can't be read: {problem}\n"),
    )
}

fn plain(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}

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
