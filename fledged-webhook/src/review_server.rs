//! The HTTPS server of the webhook and its metrics.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use bytes::Bytes;
use fledged_kube::crd::ReadCache;
use fledged_kube::serve::{Activity, BindAddress, accept, listen, plain, respond};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use kube::core::admission::{AdmissionRequest, AdmissionReview};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info};

use crate::review::{Verdict, answer};
use crate::{PATH, Webhook};

/// Limit of a TLS handshake and of the first request header.
const HEADER_LIMIT: Duration = Duration::from_secs(5);
/// Limit for receiving a request body. The API server waits 10 s for an answer by default, 30 s at most.
const BODY_LIMIT: Duration = Duration::from_secs(10);
/// Largest review in bytes: the object and its previous version, at most 1.5 MiB each in etcd.
const REVIEW_BYTES: usize = 3 * 1024 * 1024;
/// Reviews at once. A parsed review takes many times the memory of its body; most take less than a millisecond.
const REVIEWS: usize = 4;
/// Connections at once; with one more, one without a review under way has to go. An API server keeps a handful. The
/// bodies of all of them fit into the memory limit of the chart.
const CONNECTIONS: usize = 64;

/// Why the webhook stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WebhookError {
    /// The port cannot be bound.
    #[error("cannot listen at {address} for the API server: {source}")]
    Bind {
        /// The address.
        address: BindAddress,
        /// The system's message.
        source: io::Error,
    },
    /// TLS cannot be set up.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// A required task ended unexpectedly.
    #[error("the webhook stopped: its {task} ended unexpectedly")]
    Ended {
        /// Which task.
        task: &'static str,
    },
}

/// A [`Webhook`] that listens.
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

impl Webhook {
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
        let fail = |source| WebhookError::Bind {
            address: address.clone(),
            source,
        };
        let listener = listen(&address).await.map_err(fail)?;
        let bound = listener.local_addr().map_err(fail)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&self.served) as Arc<_>);
        info!(address = %bound, "webhook listening");
        Ok(WebhookServer {
            webhook: Arc::new(self),
            listener,
            address: bound,
            tls: TlsAcceptor::from(Arc::new(config)),
        })
    }
}

impl WebhookServer {
    /// The address that it listens at.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` resolves, renews its certificate and watches the nodes. Reviews in progress are
    /// answered first, for at most ten seconds.
    ///
    /// # Errors
    ///
    /// [`WebhookError::Ended`] if one of its tasks ends unexpectedly.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), WebhookError> {
        let Self {
            webhook,
            listener,
            tls,
            ..
        } = self;
        let certificate = webhook.keep_certificate();
        let nodes = webhook.nodes.clone().watch(webhook.client.clone());
        let mut connections = JoinSet::new();
        let reviews = Arc::new(Semaphore::new(REVIEWS));
        let serve = |stream, activity| {
            let slots = Arc::clone(&reviews);
            let of_webhook = Arc::clone(&webhook);
            serve(stream, tls.clone(), of_webhook, slots, activity)
        };
        let result = tokio::select! {
            () = shutdown => Ok(()),
            () = certificate => Err(WebhookError::Ended { task: "certificate task" }),
            () = nodes => Err(WebhookError::Ended { task: "node watch" }),
            () = accept(&listener, CONNECTIONS, &mut connections, serve) => {
                Err(WebhookError::Ended { task: "listener" })
            }
        };
        drop(listener);
        let drained = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(BODY_LIMIT, drained).await.is_err() {
            debug!("webhook stopped with open connections");
        }
        result
    }
}

async fn serve(
    stream: TcpStream,
    tls: TlsAcceptor,
    webhook: Arc<Webhook>,
    reviews: Arc<Semaphore>,
    activity: Arc<Activity>,
) {
    let stream = match tokio::time::timeout(HEADER_LIMIT, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return debug!(%error, "TLS handshake failed"),
        Err(_) => return debug!("TLS handshake timed out"),
    };
    let service = service_fn(move |request: Request<Incoming>| {
        let webhook = Arc::clone(&webhook);
        let (reviews, activity) = (Arc::clone(&reviews), Arc::clone(&activity));
        async move { Ok::<_, Infallible>(handle(&webhook, &reviews, &activity, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Some(HEADER_LIMIT * 12))
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        debug!(%error, "connection failed");
    }
}

async fn handle(
    webhook: &Webhook,
    reviews: &Semaphore,
    activity: &Activity,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    if request.uri().path() != PATH {
        return plain(
            StatusCode::NOT_FOUND,
            &format!("not found; the webhook is at {PATH}\n"),
        );
    }
    if request.method() != Method::POST {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "only POST is allowed\n");
    }
    let body = Limited::new(request.into_body(), REVIEW_BYTES).collect();
    let body = match tokio::time::timeout(BODY_LIMIT, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            webhook.metrics.reviewed("malformed");
            let text = format!("the AdmissionReview is larger than {REVIEW_BYTES} bytes\n");
            return plain(StatusCode::PAYLOAD_TOO_LARGE, &text);
        }
        Ok(Err(error)) => return malformed(webhook, &error.to_string()),
        Err(_) => return malformed(webhook, "the body did not arrive in time"),
    };
    // The whole body is here: an API server waits for the answer.
    let _busy = activity.begin();
    // The semaphore is never closed.
    let _slot = reviews.acquire().await;
    match review(webhook, &body) {
        Ok(answer) => {
            activity.set_useful();
            respond(StatusCode::OK, "application/json", answer)
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
    let config = &webhook.config;
    let (refresh_interval, longest_deadline) = (config.refresh_interval, config.longest_deadline);
    let (response, verdict) = answer(
        request,
        nodes.as_deref(),
        refresh_interval,
        longest_deadline,
    );
    let outcome = match &verdict {
        Verdict::Allowed { warnings } if warnings.is_empty() => "allowed",
        Verdict::Allowed { .. } => "warned",
        Verdict::Denied(invalid) => {
            info!(image_cache = id, problem = %invalid, "image cache rejected");
            "denied"
        }
    };
    let answer = serde_json::to_vec(&response.into_review()).map_err(|error| error.to_string())?;
    webhook.metrics.reviewed(outcome);
    Ok(answer)
}

fn malformed(webhook: &Webhook, problem: &str) -> Response<Full<Bytes>> {
    webhook.metrics.reviewed("malformed");
    debug!(problem, "admission review malformed");
    plain(
        StatusCode::BAD_REQUEST,
        &format!("cannot parse the AdmissionReview: {problem}\n"),
    )
}
