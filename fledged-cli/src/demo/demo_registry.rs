//! A read-only registry on a loopback port, and the generated images that it serves (OCI distribution
//! specification, pull only).
//!
//! The integration tests use this module too, so it uses nothing else of this crate.

use std::collections::BTreeMap;
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
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

const KIB: usize = 1024;
/// The first layer of every image.
pub(super) const BASE_LAYER: usize = 2048 * KIB;
/// The second layer of two in three images.
const RUNTIME: usize = 1024 * KIB;
/// The last layers, in turn.
const OWN: [usize; 3] = [1536 * KIB, 1024 * KIB, 2048 * KIB];
/// Most bytes of all last layers together, so that any number of images fits in memory and, for each node,
/// on disk.
const OWN_MAX: usize = 24 * 1024 * KIB;
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Media type of an OCI image manifest.
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Bytes sent at a time.
const CHUNK: usize = 64 * 1024;

/// The content of the registry.
#[derive(Debug, Clone, Default)]
pub(crate) struct DemoContent {
    /// Manifests by `repository:tag` and by `repository@digest`.
    manifests: BTreeMap<String, Bytes>,
    /// Blobs and configurations by digest.
    blobs: BTreeMap<String, Bytes>,
}

/// The name of a generated image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DemoImage {
    /// The repository.
    pub(crate) repository: String,
    /// The tag.
    pub(crate) tag: String,
}

impl DemoImage {
    /// An image with that name.
    pub(crate) fn new(repository: impl Into<String>, tag: impl Into<String>) -> Self {
        Self {
            repository: repository.into(),
            tag: tag.into(),
        }
    }
}

/// Content and its digest, which is slow to compute.
#[derive(Debug, Clone)]
struct Blob {
    digest: String,
    bytes: Bytes,
}

impl Blob {
    fn new(bytes: Bytes) -> Self {
        Self {
            digest: digest(&bytes),
            bytes,
        }
    }
}

/// Generates these images for that platform. The same arguments give the same bytes.
pub(crate) fn generate(images: &[DemoImage], os: &str, architecture: &str) -> DemoContent {
    let mut content = DemoContent::default();
    let base = layer("base/system.bin", BASE_LAYER, 1);
    let runtime = layer("opt/runtime.bin", RUNTIME, 2);
    let most = OWN_MAX / images.len().max(1);
    let sizes = OWN.iter().cycle().map(|size| *size.min(&most).max(&KIB));
    for ((image, size), seed) in images.iter().zip(sizes).zip(3..) {
        let own = layer("app/main.bin", size, seed);
        let layers = match seed % 3 {
            2 => vec![base.clone(), own],
            _ => vec![base.clone(), runtime.clone(), own],
        };
        content.add(image, &layers, os, architecture);
    }
    content
}

impl DemoContent {
    /// Size of all layers and configurations, each counted once.
    pub(crate) fn bytes(&self) -> u64 {
        self.blobs
            .values()
            .map(|blob| u64::try_from(blob.len()).unwrap_or(u64::MAX))
            .sum()
    }

    fn add(&mut self, image: &DemoImage, layers: &[Blob], os: &str, architecture: &str) {
        // An uncompressed layer's diff ID is its digest.
        let digests: Vec<&String> = layers.iter().map(|layer| &layer.digest).collect();
        let config = json!({
            "architecture": architecture,
            "os": os,
            "config": {"Entrypoint": ["/app/main.bin"]},
            "rootfs": {"type": "layers", "diff_ids": digests},
        });
        let config = Bytes::from(config.to_string());
        let config = Blob::new(config);
        let described = |media_type: &str, blob: &Blob| -> Value {
            json!({"mediaType": media_type, "digest": blob.digest, "size": blob.bytes.len()})
        };
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": described(CONFIG, &config),
            "layers": layers.iter().map(|layer| described(LAYER, layer)).collect::<Vec<_>>(),
        });
        let manifest = Bytes::from(manifest.to_string());
        for blob in layers.iter().chain([&config]) {
            self.blobs.insert(blob.digest.clone(), blob.bytes.clone());
        }
        let (repository, tag) = (&image.repository, &image.tag);
        let by_digest = format!("{repository}@{}", digest(&manifest));
        self.manifests
            .insert(format!("{repository}:{tag}"), manifest.clone());
        self.manifests.insert(by_digest, manifest);
    }
}

/// The digest, `sha256:` and hexadecimal digits.
fn digest(content: &[u8]) -> String {
    let mut text = "sha256:".to_owned();
    for byte in Sha256::digest(content) {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// A layer: a tar archive with one file of that size, of incompressible bytes.
fn layer(path: &str, size: usize, seed: u64) -> Blob {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut archive = tar_header(path, size);
    let content = archive.len();
    // The file is padded to a whole record, and two empty records end the archive (POSIX ustar).
    archive.resize(content + size.next_multiple_of(512) + 1024, 0);
    if let Some(file) = archive.get_mut(content..content + size) {
        random.fill(file);
    }
    Blob::new(Bytes::from(archive))
}

/// The header record of a regular file in a POSIX ustar archive.
fn tar_header(path: &str, size: usize) -> Vec<u8> {
    let fields: [(usize, String); 9] = [
        (0, path.to_owned()),
        (100, "0000755\0".to_owned()),
        (108, "0000000\0".to_owned()),
        (116, "0000000\0".to_owned()),
        (124, format!("{size:011o}\0")),
        (136, format!("{:011o}\0", 0)),
        // The checksum is computed with spaces in its place.
        (148, " ".repeat(8)),
        (156, "0".to_owned()),
        (257, "ustar\x0000".to_owned()),
    ];
    let mut record = vec![0_u8; 512];
    let mut put = |offset: usize, text: &str| {
        for (place, byte) in record.iter_mut().skip(offset).zip(text.bytes()) {
            *place = byte;
        }
    };
    for (offset, text) in &fields {
        put(*offset, text);
    }
    let sum: u32 = record.iter().map(|byte| u32::from(*byte)).sum();
    for (place, byte) in record
        .iter_mut()
        .skip(148)
        .zip(format!("{sum:06o}\0 ").bytes())
    {
        *place = byte;
    }
    record
}

type Body = BoxBody<Bytes, Infallible>;

/// Counters of a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Traffic {
    /// Requests.
    pub(crate) requests: u64,
    /// Bytes of layers and configurations sent.
    pub(crate) bytes: u64,
}

#[derive(Debug)]
struct RegistryState {
    content: DemoContent,
    pause: Duration,
    requests: AtomicU64,
    bytes: AtomicU64,
}

/// A registry that runs until it is dropped.
#[derive(Debug)]
pub(crate) struct DemoRegistry {
    address: SocketAddr,
    state: Arc<RegistryState>,
    server: JoinHandle<()>,
}

impl DemoRegistry {
    /// Starts on a free loopback port, with that pause after every 64 KiB sent on a connection.
    ///
    /// # Errors
    ///
    /// The operating system's error if no port is available.
    pub(crate) async fn start(content: DemoContent, pause: Duration) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let state = Arc::new(RegistryState {
            content,
            pause,
            requests: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        });
        let server = tokio::spawn(serve(listener, Arc::clone(&state)));
        Ok(Self {
            address,
            state,
            server,
        })
    }

    /// Host and port, the first component of an image reference.
    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    /// The counters.
    pub(crate) fn traffic(&self) -> Traffic {
        Traffic {
            requests: self.state.requests.load(Ordering::Relaxed),
            bytes: self.state.bytes.load(Ordering::Relaxed),
        }
    }
}

impl Drop for DemoRegistry {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Accepts connections. They are closed when this task ends.
async fn serve(listener: TcpListener, state: Arc<RegistryState>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        while connections.try_join_next().is_some() {}
        let state = Arc::clone(&state);
        connections.spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let response = answer(&state, &request);
                async move { Ok::<_, Infallible>(response) }
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

fn answer(state: &Arc<RegistryState>, request: &Request<Incoming>) -> Response<Body> {
    state.requests.fetch_add(1, Ordering::Relaxed);
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
        return match state.content.manifests.get(&name) {
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
        .and_then(|(_, digest)| state.content.blobs.get(digest));
    match blob {
        Some(blob) => head_or_whole(request.method(), send(state, blob, request)),
        None => error(StatusCode::NOT_FOUND, "BLOB_UNKNOWN"),
    }
}

/// A blob, or the part that the client requests (`Range: bytes=N-`, RFC 9110).
fn send(state: &Arc<RegistryState>, blob: &Bytes, request: &Request<Incoming>) -> Response<Body> {
    let start = request
        .headers()
        .get(RANGE)
        .and_then(|range| range.to_str().ok())
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'))
        .and_then(|start| start.parse::<usize>().ok());
    let rest = blob.slice(start.unwrap_or(0).min(blob.len())..);
    let length = rest.len();
    let mut response = Response::new(paced(Arc::clone(state), rest));
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

/// Content in chunks with a pause before each.
fn paced(state: Arc<RegistryState>, rest: Bytes) -> Body {
    let chunks = stream::unfold((state, rest), |(state, mut rest)| async move {
        if rest.is_empty() {
            return None;
        }
        let chunk = rest.split_to(CHUNK.min(rest.len()));
        tokio::time::sleep(state.pause).await;
        let sent = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
        state.bytes.fetch_add(sent, Ordering::Relaxed);
        Some((Ok(Frame::data(chunk)), (state, rest)))
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

/// An error response of the distribution specification.
fn error(status: StatusCode, code: &str) -> Response<Body> {
    let body = json!({"errors": [{"code": code, "message": "not in this registry"}]});
    respond(status, "application/json", Bytes::from(body.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_reproducible_and_share_their_base() {
        let images = ["web", "api", "batch"].map(|name| DemoImage::new(name, "v1"));
        let content = generate(&images, "linux", "amd64");
        let again = generate(&images, "linux", "amd64");
        assert_eq!(content.manifests, again.manifests);
        // Base, runtime, three applications, three configurations.
        assert_eq!(content.blobs.len(), 8);
        assert_eq!(content.manifests.len(), 6);
        for (name, blob) in &content.blobs {
            assert_eq!(*name, digest(blob));
        }
    }

    #[test]
    fn many_images_are_small() {
        let images: Vec<DemoImage> = (0..200)
            .map(|n| DemoImage::new(format!("app-{n}"), "v1"))
            .collect();
        let content = generate(&images, "linux", "amd64");
        assert_eq!(content.manifests.len(), 400);
        assert!(content.bytes() < 32 * 1024 * 1024, "{}", content.bytes());
    }

    #[test]
    fn a_layer_is_a_tar_archive() {
        let archive = layer("a/b.bin", 700, 1).bytes;
        assert_eq!(archive.len(), 512 + 1024 + 1024);
        assert_eq!(&archive[257..262], b"ustar");
        let mut unsummed = archive[..512].to_vec();
        unsummed[148..156].fill(b' ');
        let sum: u32 = unsummed.iter().map(|b| u32::from(*b)).sum();
        assert_eq!(&archive[148..156], format!("{sum:06o}\0 ").as_bytes());
        assert_eq!(&archive[124..136], b"00000001274\0");
    }
}
