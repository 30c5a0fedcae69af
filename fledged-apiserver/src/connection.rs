//! The socket.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::api::{Api, Request, Response, refusal, serve};
use super::error::{ApiError, StartError};

/// As much as the body of a request may have.
const BODY_LIMIT: usize = 3 * 1024 * 1024;

/// How long to wait when no connection can be accepted, as when there are too many.
const PAUSE: Duration = Duration::from_millis(50);

pub(super) async fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| StartError::Bind { address, source })
}

/// Accepts connections until the socket is to be closed.
pub(super) async fn accept(
    api: Arc<Api>,
    listener: TcpListener,
    socket: CancellationToken,
    tasks: TaskTracker,
) {
    while let Some(accepted) = socket.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, _)) => {
                tasks.spawn(converse(Arc::clone(&api), stream, socket.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn converse(api: Arc<Api>, stream: TcpStream, socket: CancellationToken) {
    // Events are small, and should not wait for each other.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| answer(Arc::clone(&api), request));
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    if let Some(Err(error)) = socket.run_until_cancelled(connection).await {
        tracing::debug!(%error, "a connection has ended");
    }
}

async fn answer(api: Arc<Api>, request: hyper::Request<Incoming>) -> Result<Response, Infallible> {
    let (parts, body) = request.into_parts();
    let body: Bytes = match Limited::new(body, BODY_LIMIT).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => {
            let error = match error.downcast_ref::<LengthLimitError>() {
                Some(_) => ApiError::too_large_body(BODY_LIMIT),
                None => ApiError::bad_request(format!("the body cannot be read: {error}")),
            };
            return Ok(refusal(&error));
        }
    };
    Ok(serve(&api, &Request::new(parts, body)))
}
