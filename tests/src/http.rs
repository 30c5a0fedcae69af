//! A small blocking HTTP client for talking to registries from tests.

use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::{AUTHORIZATION, HOST, HeaderMap};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Time limit of one request, sufficient for uploads of the benchmark's large layers.
const TIMEOUT: Duration = Duration::from_secs(300);

/// The response to a request.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

/// Returns the value of an `Authorization` header for a user name and a password.
#[must_use]
pub fn basic(username: &str, password: &str) -> String {
    let pair = format!("{username}:{password}");
    format!(
        "Basic {}",
        base64::engine::general_purpose::STANDARD.encode(pair)
    )
}

/// Sends one request on a connection of its own to `addr` (`host:port`).
///
/// # Errors
///
/// A message if there is no connection, or no complete answer in time.
pub fn send(
    addr: &str,
    method: Method,
    target: &str,
    headers: &[(&str, &str)],
    authorization: Option<&str>,
    body: Bytes,
) -> Result<Response, String> {
    let mut request = Request::builder()
        .method(method)
        .uri(target)
        .header(HOST, addr);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    if let Some(value) = authorization {
        request = request.header(AUTHORIZATION, value);
    }
    let request = request
        .body(Full::new(body))
        .map_err(|e| format!("malformed request to {addr}{target}: {e}"))?;
    on_own_runtime(async {
        tokio::time::timeout(TIMEOUT, exchange(addr, request))
            .await
            .map_err(|_| format!("no answer from {addr} within {TIMEOUT:?}"))?
    })
}

async fn exchange(addr: &str, request: Request<Full<Bytes>>) -> Result<Response, String> {
    let fail = |e: &dyn std::fmt::Display| format!("request to {addr} failed: {e}");
    let stream = TcpStream::connect(addr).await.map_err(|e| fail(&e))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| fail(&e))?;
    let driver = tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(|e| fail(&e))?;
    let (parts, body) = response.into_parts();
    let body = body.collect().await.map_err(|e| fail(&e))?.to_bytes();
    driver.abort();
    Ok(Response {
        status: parts.status,
        headers: parts.headers,
        body,
    })
}

/// Runs a future to its end on a separate thread with its own runtime; also works when called from a runtime.
pub(crate) fn on_own_runtime<T: Send>(future: impl Future<Output = T> + Send) -> T {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime for one request")
                    .block_on(future)
            })
            .join()
            .expect("the request's thread")
    })
}
