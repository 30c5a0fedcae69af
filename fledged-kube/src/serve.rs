//! The HTTP server for metrics and for the probes of a pod.
//!
//! ```
//! use std::sync::Arc;
//! use fledged_kube::serve::{BindAddress, Routes, Server};
//! use prometheus_client::registry::Registry;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let routes = Routes::new()
//!     .with_metrics(Arc::new(Registry::default()))
//!     .with_readiness("cache", || Err("not synced yet".to_owned()));
//! if let Some(address) = BindAddress::parse(":8080")? {
//!     let server = Server::bind(&address, routes).await?;
//!     tokio::spawn(server.run(std::future::pending()));
//! }
//! # Ok(())
//! # }
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::future::Future;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{fmt, io};

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tracing::{debug, info, warn};

/// An address to listen at: `:8080`, `127.0.0.1:8080`, `[::1]:8080`, `localhost:8080`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindAddress {
    /// The host as written, without brackets; empty for every address of the machine.
    pub host: String,
    /// The port; 0 takes a free one.
    pub port: u16,
}

/// An invalid bind address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid bind address {value:?}: {problem}; write :8080, 127.0.0.1:8080 or [::1]:8080, or 0 for none"
)]
pub struct InvalidBindAddress {
    value: String,
    problem: &'static str,
}

impl BindAddress {
    /// Parses an address. `0` and the empty string mean no server and return `None`, as in controller-runtime's
    /// `--metrics-bind-address`. Port 0 takes a free port.
    ///
    /// # Errors
    ///
    /// [`InvalidBindAddress`], with the problem.
    pub fn parse(value: &str) -> Result<Option<Self>, InvalidBindAddress> {
        let invalid = |problem| InvalidBindAddress {
            value: value.to_owned(),
            problem,
        };
        let text = value.trim();
        if text.is_empty() || text == "0" {
            return Ok(None);
        }
        let (host, port) = text
            .rsplit_once(':')
            .ok_or_else(|| invalid("the port is missing"))?;
        let port = port
            .parse()
            .map_err(|_| invalid("the port must be a number from 0 to 65535"))?;
        let bracketed = host.strip_prefix('[').map(|host| host.strip_suffix(']'));
        let host = match bracketed {
            Some(None) => return Err(invalid("the bracket is not closed")),
            Some(Some(host)) => host,
            None if host.contains(':') => {
                return Err(invalid("an IPv6 address must be in brackets"));
            }
            None => host,
        };
        if host.contains(|c: char| c.is_whitespace() || c == '/') {
            return Err(invalid("the host must be an address or a name"));
        }
        Ok(Some(Self {
            host: host.to_owned(),
            port,
        }))
    }
}

impl fmt::Display for BindAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    version: &'static str,
}

/// Registers `fledged_build_info`, which has the version as a label. Call it once per registry.
pub fn register_build_info(registry: &mut Registry) {
    let build = Build {
        version: env!("CARGO_PKG_VERSION"),
    };
    registry.register(
        "fledged_build",
        "Version of the running build",
        Info::new(build),
    );
}

type Check = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Named checks that all have to pass.
#[derive(Clone, Default)]
struct Checks(Vec<(String, Check)>);

impl fmt::Debug for Checks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|(name, _)| name))
            .finish()
    }
}

impl Checks {
    fn add(
        &mut self,
        name: impl Into<String>,
        check: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) {
        self.0.push((name.into(), Arc::new(check)));
    }

    /// One line for each check, in the format of Kubernetes' health endpoints.
    ///
    /// # Errors
    ///
    /// The same lines if a check fails.
    fn run(&self) -> Result<String, String> {
        let mut text = String::new();
        let mut passed = true;
        for (name, check) in &self.0 {
            match check() {
                Ok(()) => text.push_str(&format!("[+]{name} ok\n")),
                Err(problem) => {
                    passed = false;
                    text.push_str(&format!("[-]{name} failed: {problem}\n"));
                }
            }
        }
        if passed { Ok(text) } else { Err(text) }
    }
}

/// The text format of the metrics, OpenMetrics 1.0.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";

const JSON: &str = "application/json";

/// Makes the JSON of a [document](Routes::with_document).
type MakeDocument = Arc<dyn Fn() -> String + Send + Sync>;

/// JSON documents by path.
#[derive(Clone, Default)]
struct Documents(BTreeMap<&'static str, MakeDocument>);

impl fmt::Debug for Documents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// The routes of a [`Server`]: `/metrics`, documents, `/livez` (also as `/healthz`) and `/readyz`.
///
/// A probe without checks passes.
#[derive(Debug, Clone, Default)]
pub struct Routes {
    metrics: Option<Arc<Registry>>,
    documents: Documents,
    probes: bool,
    live: Checks,
    ready: Checks,
}

impl Routes {
    /// No routes: every path is 404.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Serves `/metrics` from this registry.
    #[must_use]
    pub fn with_metrics(mut self, registry: Arc<Registry>) -> Self {
        self.metrics = Some(registry);
        self
    }

    /// Serves a JSON document at this path, which begins with a slash. `make` is called for each request and must not
    /// block.
    #[must_use]
    pub fn with_document(
        mut self,
        path: &'static str,
        make: impl Fn() -> String + Send + Sync + 'static,
    ) -> Self {
        self.documents.0.insert(path, Arc::new(make));
        self
    }

    /// Serves the probes.
    #[must_use]
    pub fn with_probes(mut self) -> Self {
        self.probes = true;
        self
    }

    /// Serves the probes; `/livez` fails while this check fails, and shows its message.
    #[must_use]
    pub fn with_liveness(
        mut self,
        name: impl Into<String>,
        check: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        self.live.add(name, check);
        self.with_probes()
    }

    /// Serves the probes; `/readyz` fails while this check fails, and shows its message.
    #[must_use]
    pub fn with_readiness(
        mut self,
        name: impl Into<String>,
        check: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        self.ready.add(name, check);
        self.with_probes()
    }

    /// These routes and others. Of two routes with the same path, the other one counts; checks are added up.
    #[must_use]
    pub fn merged(mut self, other: Self) -> Self {
        self.metrics = other.metrics.or(self.metrics);
        self.documents.0.extend(other.documents.0);
        self.probes |= other.probes;
        self.live.0.extend(other.live.0);
        self.ready.0.extend(other.ready.0);
        self
    }

    /// The response to a request. The request body is not read.
    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        if method != Method::GET && method != Method::HEAD {
            let mut response = plain(
                StatusCode::METHOD_NOT_ALLOWED,
                "only GET and HEAD are allowed\n",
            );
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
            path => match self.documents.0.get(path) {
                Some(make) => respond(StatusCode::OK, JSON, make()),
                None => not_found(),
            },
        }
    }
}

fn metrics(registry: &Registry) -> Response<Full<Bytes>> {
    let mut text = String::new();
    match encode(&mut text, registry) {
        Ok(()) => respond(StatusCode::OK, OPENMETRICS, text),
        Err(error) => {
            warn!(%error, "metrics encoding failed");
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

/// A response with a text.
#[must_use]
pub fn plain(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    respond(status, PLAIN, text.to_owned())
}

/// A response with this content type, which no cache keeps.
pub fn respond(
    status: StatusCode,
    kind: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Limit for the request header. A kubelet and Prometheus need milliseconds.
const HEADER_LIMIT: Duration = Duration::from_secs(5);
/// Limit of a connection, which carries one request.
const CONNECTION_LIMIT: Duration = Duration::from_secs(10);
/// Concurrent connections; above it, the oldest is closed. Requests are answered at once, so only idle
/// connections get old.
const CONNECTIONS: usize = 64;
/// Largest request header in bytes.
const HEAD_BYTES: usize = 16 * 1024;
/// Pause after a failed accept, for example for lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// An address cannot be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen at {address}: {source}")]
pub struct BindError {
    address: BindAddress,
    source: io::Error,
}

/// A server that listens.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    routes: Arc<Routes>,
}

impl Server {
    /// Starts to listen.
    ///
    /// # Errors
    ///
    /// [`BindError`], with the address and the system's message.
    pub async fn bind(address: &BindAddress, routes: Routes) -> Result<Self, BindError> {
        let listener = listen(address).await;
        let bound = listener.and_then(|listener| {
            let address = listener.local_addr()?;
            Ok((listener, address))
        });
        let (listener, bound) = bound.map_err(|source| BindError {
            address: address.clone(),
            source,
        })?;
        info!(address = %bound, "HTTP server listening");
        Ok(Self {
            listener,
            address: bound,
            routes: Arc::new(routes),
        })
    }

    /// The address that it listens at.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` resolves.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let mut connections = JoinSet::new();
        let serve = |stream, activity| serve(stream, Arc::clone(&self.routes), activity);
        tokio::select! {
            () = shutdown => {}
            () = accept(&self.listener, CONNECTIONS, &mut connections, serve) => {}
        }
    }
}

/// What a connection does, which decides whether it may be closed for another one.
#[derive(Debug, Default)]
pub struct Activity {
    busy: AtomicBool,
    useful: AtomicBool,
}

impl Activity {
    /// Marks the connection as busy while the guard lives.
    #[must_use]
    pub fn begin(&self) -> Busy<'_> {
        self.busy.store(true, Ordering::SeqCst);
        Busy(self)
    }

    /// Marks the connection as one that has carried a valid request.
    pub fn set_useful(&self) {
        self.useful.store(true, Ordering::SeqCst);
    }
}

/// A request that must not be interrupted. The connection is idle again when this is dropped.
#[derive(Debug)]
pub struct Busy<'a>(&'a Activity);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.busy.store(false, Ordering::SeqCst);
    }
}

/// An open connection.
struct Open {
    task: AbortHandle,
    activity: Arc<Activity>,
}

/// The connection to close for another one: the oldest, one that has carried no valid request first. A busy
/// connection is never closed.
fn dispensable(oldest_first: &VecDeque<Open>) -> Option<usize> {
    let idle = oldest_first.iter().enumerate();
    let idle = idle.filter(|(_, open)| !open.activity.busy.load(Ordering::SeqCst));
    let idle = idle.min_by_key(|(at, open)| (open.activity.useful.load(Ordering::SeqCst), *at));
    idle.map(|(at, _)| at)
}

/// Accepts connections and spawns `serve` for each. Above `limit` connections, the oldest that is not busy is
/// closed; if all are busy, the new one is. Never returns.
pub async fn accept<F>(
    listener: &TcpListener,
    limit: usize,
    connections: &mut JoinSet<()>,
    serve: impl Fn(TcpStream, Arc<Activity>) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut oldest_first: VecDeque<Open> = VecDeque::new();
    loop {
        let accepted = listener.accept().await;
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, _)) => {
                oldest_first.retain(|open| !open.task.is_finished());
                if oldest_first.len() >= limit {
                    let closed = dispensable(&oldest_first).and_then(|at| oldest_first.remove(at));
                    let Some(closed) = closed else {
                        debug!("connection refused: all others are busy");
                        continue;
                    };
                    closed.task.abort();
                }
                let activity = Arc::new(Activity::default());
                let task = connections.spawn(serve(stream, Arc::clone(&activity)));
                oldest_first.push_back(Open { task, activity });
            }
            Err(error) => {
                warn!(%error, "connection not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Listens at this address; at every address of the machine if it has no host.
///
/// # Errors
///
/// The system's, if the address cannot be bound.
pub async fn listen(address: &BindAddress) -> io::Result<TcpListener> {
    if !address.host.is_empty() {
        return TcpListener::bind((address.host.as_str(), address.port)).await;
    }
    // IPv6 and IPv4 if the machine has both.
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, address.port)).await {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port)).await
        }
        bound => bound,
    }
}

async fn serve(stream: TcpStream, routes: Arc<Routes>, activity: Arc<Activity>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let _busy = activity.begin();
        let response = routes.answer(request.method(), request.uri().path());
        if response.status() != StatusCode::NOT_FOUND {
            activity.set_useful();
        }
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_LIMIT)
        .max_buf_size(HEAD_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(CONNECTION_LIMIT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "connection failed"),
        Err(_) => debug!("connection timed out"),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::Mutex;

    use super::*;

    /// Whether the server has closed the connection; waits for its greeting otherwise.
    async fn is_closed(stream: &mut TcpStream) -> bool {
        matches!(stream.read(&mut [0]).await, Ok(0) | Err(_))
    }

    #[tokio::test]
    async fn busy_connections_are_never_closed_for_others() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let activities = Arc::new(Mutex::new(Vec::new()));
        let accepting = {
            let activities = Arc::clone(&activities);
            tokio::spawn(async move {
                let mut connections = JoinSet::new();
                let serve = |mut stream: TcpStream, activity: Arc<Activity>| {
                    let activities = Arc::clone(&activities);
                    async move {
                        activities.lock().await.push(activity);
                        stream.write_all(b"!").await.unwrap();
                        std::future::pending().await
                    }
                };
                accept(&listener, 2, &mut connections, serve).await;
            })
        };
        let connect = || async {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let accepted = !is_closed(&mut stream).await;
            (stream, accepted)
        };
        let (_useful, _) = connect().await;
        activities.lock().await[0].set_useful();
        let (mut idle, _) = connect().await;
        // Of the two idle ones, the one that has carried no request is closed although the other is older.
        let (mut third, accepted) = connect().await;
        assert!(accepted && is_closed(&mut idle).await);
        let busy = Arc::clone(&activities.lock().await[0]);
        let busy = busy.begin();
        let (_fourth, accepted) = connect().await;
        assert!(accepted && is_closed(&mut third).await);
        let last = Arc::clone(&activities.lock().await[3]);
        let also_busy = last.begin();
        let (_, accepted) = connect().await;
        assert!(!accepted, "all others are busy");
        drop((busy, also_busy));
        let (_, accepted) = connect().await;
        assert!(accepted);
        accepting.abort();
    }

    #[test]
    fn parses_addresses_of_controller_runtime() {
        for none in ["", "0", " "] {
            assert_eq!(BindAddress::parse(none), Ok(None));
        }
        for text in [":8080", "127.0.0.1:0", "[::1]:9443", "localhost:8081"] {
            let address = BindAddress::parse(text).unwrap().unwrap();
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn invalid_addresses_are_explained() {
        for (text, words) in [
            ("8080", "port is missing"),
            (":http", "must be a number"),
            (":70000", "must be a number"),
            ("::1:8080", "in brackets"),
            ("[::1:8080", "not closed"),
            ("http://0.0.0.0:8080", "in brackets"),
            ("a b:1", "address or a name"),
        ] {
            let error = BindAddress::parse(text).unwrap_err().to_string();
            assert!(error.contains(words) && error.contains(text), "{error}");
        }
    }
}
