//! Counts the requests of a client, and can cut its connections.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use http::{HeaderMap, Method, Request, Response, Uri, header};
use kube::client::Body;
use tokio::sync::watch;
use tower::{Layer, Service};

use crate::meter_body::MeteredBody;

/// The kind of a request, with the labels of an API server's metrics.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Kind {
    pub(crate) resource: String,
    pub(crate) status: bool,
    pub(crate) verb: String,
}

impl Kind {
    /// Whether the request is a write.
    pub(crate) fn is_write(&self) -> bool {
        !["GET", "LIST", "WATCH"].contains(&self.verb.as_str())
    }

    fn of(method: &Method, uri: &Uri, headers: &HeaderMap) -> Self {
        let mut path = uri.path().split('/').filter(|part| !part.is_empty());
        let versioned = match path.next() {
            Some("api") => path.next(),
            _ => path.nth(1),
        };
        let mut rest: Vec<&str> = path.collect();
        if versioned.is_some() && rest.first() == Some(&"namespaces") && rest.len() > 2 {
            rest.drain(..2);
        }
        let named = rest.len() > 1;
        let asks = |what: &str| uri.query().is_some_and(|query| query.contains(what));
        let is_watch = asks("watch=");
        // An API server counts a list of one name as a GET.
        let is_list = !named && !asks("fieldSelector=metadata.name%3D");
        let content_type = headers.get(header::CONTENT_TYPE);
        let is_apply = content_type.is_some_and(|t| t.as_bytes().starts_with(b"application/apply"));
        let verb = match method.as_str() {
            "GET" if is_watch => "WATCH",
            "GET" if is_list => "LIST",
            "PATCH" if is_apply => "APPLY",
            "DELETE" if !named => "DELETECOLLECTION",
            method => method,
        };
        Self {
            resource: rest.first().copied().unwrap_or_default().to_owned(),
            status: rest.get(2) == Some(&"status"),
            verb: verb.to_owned(),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Shared {
    requests: Mutex<BTreeMap<Kind, u64>>,
    /// Time of each request.
    sent: Mutex<Vec<Instant>>,
    pub(crate) received: AtomicU64,
    pub(crate) watches: AtomicI64,
    cuts: watch::Sender<u64>,
}

/// Counts the requests of all clients that share it.
#[derive(Debug, Clone)]
pub(crate) struct Meter(Arc<Shared>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Meter {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Shared {
            requests: Mutex::default(),
            sent: Mutex::default(),
            received: AtomicU64::new(0),
            watches: AtomicI64::new(0),
            cuts: watch::Sender::new(0),
        }))
    }

    /// All requests so far, by kind.
    pub(crate) fn requests(&self) -> BTreeMap<Kind, u64> {
        lock(&self.0.requests).clone()
    }

    /// Times of the requests since `since`.
    pub(crate) fn sent_since(&self, since: Instant) -> Vec<Instant> {
        let sent = lock(&self.0.sent);
        sent.iter().copied().filter(|at| *at >= since).collect()
    }

    /// Received bytes so far.
    pub(crate) fn received(&self) -> u64 {
        self.0.received.load(Ordering::Relaxed)
    }

    /// Number of open watches.
    pub(crate) fn watches(&self) -> i64 {
        self.0.watches.load(Ordering::Relaxed)
    }

    /// Cuts all open answers, as a connection reset does.
    pub(crate) fn cut(&self) {
        self.0.cuts.send_modify(|cuts| *cuts += 1);
    }
}

impl<S> Layer<S> for Meter {
    type Service = Metered<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Metered {
            inner,
            shared: Arc::clone(&self.0),
        }
    }
}

/// A client's service whose requests are counted.
#[derive(Debug, Clone)]
pub(crate) struct Metered<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S, B> Service<Request<Body>> for Metered<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = Response<MeteredBody<B>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let kind = Kind::of(request.method(), request.uri(), request.headers());
        let is_watch = kind.verb == "WATCH";
        lock(&self.shared.sent).push(Instant::now());
        *lock(&self.shared.requests).entry(kind).or_default() += 1;
        let shared = Arc::clone(&self.shared);
        let cuts = shared.cuts.subscribe();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            Ok(answer.map(|body| MeteredBody::new(body, shared, cuts, is_watch)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(method: Method, path: &str, content_type: &'static str) -> (String, bool, String) {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::CONTENT_TYPE,
            header::HeaderValue::from_static(content_type),
        );
        let kind = Kind::of(&method, &path.parse().unwrap(), &headers);
        (kind.resource, kind.status, kind.verb)
    }

    #[test]
    fn requests_are_classified_as_by_an_api_server() {
        let ours = "/apis/kubefledged.io/v1alpha2";
        for (method, path, content_type, wanted) in [
            (
                Method::GET,
                "/api/v1/nodes?limit=1".to_owned(),
                "",
                ("nodes", false, "LIST"),
            ),
            (
                Method::GET,
                "/api/v1/nodes/a".to_owned(),
                "",
                ("nodes", false, "GET"),
            ),
            (
                Method::GET,
                format!("{ours}/nodeimagecaches?&watch=true&fieldSelector=metadata.name%3Da"),
                "",
                ("nodeimagecaches", false, "WATCH"),
            ),
            (
                Method::GET,
                format!("{ours}/nodeimagecaches?&fieldSelector=metadata.name%3Da&limit=500"),
                "",
                ("nodeimagecaches", false, "GET"),
            ),
            (
                Method::PATCH,
                format!("{ours}/nodeimagecaches/a/status?&force=true"),
                "application/apply-patch+yaml",
                ("nodeimagecaches", true, "APPLY"),
            ),
            (
                Method::PATCH,
                format!("{ours}/namespaces/n/imagecaches/web"),
                "application/merge-patch+json",
                ("imagecaches", false, "PATCH"),
            ),
            (
                Method::POST,
                "/api/v1/namespaces/n/events".to_owned(),
                "",
                ("events", false, "POST"),
            ),
            (
                Method::POST,
                "/api/v1/namespaces".to_owned(),
                "",
                ("namespaces", false, "POST"),
            ),
        ] {
            let (resource, status, verb) = kind(method, &path, content_type);
            assert_eq!((resource.as_str(), status, verb.as_str()), wanted, "{path}");
        }
    }
}
