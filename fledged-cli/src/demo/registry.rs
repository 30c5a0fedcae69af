//! A read-only registry on a loopback port (OCI distribution specification, pull only).

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderValue, RANGE,
};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use super::images::{DemoContent, MANIFEST, digest};

/// Bytes sent at a time.
const CHUNK: usize = 64 * 1024;
/// Pause after each chunk: some 2.5 MiB/s a connection, slow enough for a rollout to be seen and fast
/// enough for the whole demo to last seconds.
const PAUSE: Duration = Duration::from_millis(24);

type Body = BoxBody<Bytes, Infallible>;

/// What was asked of a registry so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    /// Requests of any kind.
    pub requests: u64,
    /// Bytes of layers and configurations sent.
    pub bytes: u64,
}

#[derive(Debug)]
struct Shared {
    content: DemoContent,
    pause: Duration,
    requests: AtomicU64,
    bytes: AtomicU64,
}

/// A registry that serves until it is dropped.
#[derive(Debug)]
pub struct DemoRegistry {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

impl DemoRegistry {
    /// Serves that content on a free loopback port.
    ///
    /// # Errors
    ///
    /// The operating system's own, when no port can be had.
    pub async fn start(content: DemoContent) -> io::Result<Self> {
        Self::paced(content, PAUSE).await
    }

    /// As [`start`](Self::start), with that pause after every 64 KiB sent on a connection.
    ///
    /// # Errors
    ///
    /// The operating system's own, when no port can be had.
    pub async fn paced(content: DemoContent, pause: Duration) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            content,
            pause,
            requests: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        });
        let server = tokio::spawn(serve(listener, Arc::clone(&shared)));
        Ok(Self {
            address,
            shared,
            server,
        })
    }

    /// Host and port, as they stand at the front of a reference.
    #[must_use]
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Bytes of all layers and configurations, each once.
    #[must_use]
    pub fn stored(&self) -> u64 {
        self.shared.content.bytes()
    }

    /// What was asked so far.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        Traffic {
            requests: self.shared.requests.load(Ordering::Relaxed),
            bytes: self.shared.bytes.load(Ordering::Relaxed),
        }
    }
}

impl Drop for DemoRegistry {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Accepts connections; they end with this task.
async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        while connections.try_join_next().is_some() {}
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let response = answer(&shared, &request);
                async move { Ok::<_, Infallible>(response) }
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

fn answer(shared: &Arc<Shared>, request: &Request<Incoming>) -> Response<Body> {
    shared.requests.fetch_add(1, Ordering::Relaxed);
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return error(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED");
    }
    let Some(path) = request.uri().path().strip_prefix("/v2/") else {
        return error(StatusCode::NOT_FOUND, "NOT_FOUND");
    };
    if path.is_empty() {
        return respond(
            StatusCode::OK,
            "application/json",
            Bytes::from_static(b"{}"),
        );
    }
    if let Some((repository, reference)) = path.split_once("/manifests/") {
        let separator = if reference.contains(':') { '@' } else { ':' };
        let name = format!("{repository}{separator}{reference}");
        return match shared.content.manifests.get(&name) {
            Some(manifest) => {
                let mut response = respond(StatusCode::OK, MANIFEST, manifest.clone());
                if let Ok(value) = HeaderValue::from_str(&digest(manifest)) {
                    response
                        .headers_mut()
                        .insert("docker-content-digest", value);
                }
                head_or_whole(request.method(), response)
            }
            None => error(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN"),
        };
    }
    let blob = path
        .split_once("/blobs/")
        .and_then(|(_, digest)| shared.content.blobs.get(digest));
    match blob {
        Some(blob) => head_or_whole(request.method(), send(shared, blob, request)),
        None => error(StatusCode::NOT_FOUND, "BLOB_UNKNOWN"),
    }
}

/// A blob, whole or from where the client left off (`Range: bytes=N-`, RFC 9110).
fn send(shared: &Arc<Shared>, blob: &Bytes, request: &Request<Incoming>) -> Response<Body> {
    let start = request
        .headers()
        .get(RANGE)
        .and_then(|range| range.to_str().ok())
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'))
        .and_then(|start| start.parse::<usize>().ok());
    let rest = blob.slice(start.unwrap_or(0).min(blob.len())..);
    let length = rest.len();
    let mut response = Response::new(paced(Arc::clone(shared), rest));
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if let Some(start) = start {
        if start >= blob.len() {
            return error(StatusCode::RANGE_NOT_SATISFIABLE, "SIZE_INVALID");
        }
        let range = format!("bytes {start}-{}/{}", blob.len() - 1, blob.len());
        if let Ok(range) = HeaderValue::from_str(&range) {
            headers.insert(CONTENT_RANGE, range);
        }
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    response
}

/// Content in chunks with pauses in between.
fn paced(shared: Arc<Shared>, rest: Bytes) -> Body {
    let chunks = stream::unfold((shared, rest), |(shared, mut rest)| async move {
        if rest.is_empty() {
            return None;
        }
        let chunk = rest.split_to(CHUNK.min(rest.len()));
        tokio::time::sleep(shared.pause).await;
        let sent = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
        shared.bytes.fetch_add(sent, Ordering::Relaxed);
        Some((Ok(Frame::data(chunk)), (shared, rest)))
    });
    BodyExt::boxed(StreamBody::new(chunks))
}

fn head_or_whole(method: &Method, response: Response<Body>) -> Response<Body> {
    if *method == Method::HEAD {
        response.map(|_| Full::new(Bytes::new()).boxed())
    } else {
        response
    }
}

fn respond(status: StatusCode, media_type: &'static str, body: Bytes) -> Response<Body> {
    let length = body.len();
    let mut response = Response::new(Full::new(body).boxed());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    response
}

/// An error in the distribution specification's words.
fn error(status: StatusCode, code: &str) -> Response<Body> {
    let body = serde_json::json!({"errors": [{"code": code, "message": "not in this registry"}]});
    respond(status, "application/json", Bytes::from(body.to_string()))
}
