//! The program's own HTTP server for metrics and probes. Any other server, such as axum, works as well, and
//! `fledged_kube::serve` is one for programs without a server.

use std::convert::Infallible;
use std::error::Error;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use fledged_operator::controller::ControllerHealth;
use http::header::CONTENT_TYPE;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tracing::{debug, info};

/// Serves requests until `stop` resolves.
pub(crate) async fn serve(
    address: SocketAddr,
    registry: Arc<Registry>,
    health: ControllerHealth,
    stop: impl Future<Output = ()>,
) -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|error| format!("cannot listen on {address}: {error}"))?;
    info!(address = %listener.local_addr()?, "serving metrics and probes");
    let mut connections = JoinSet::new();
    futures_util::pin_mut!(stop);
    loop {
        let accepted = tokio::select! {
            () = &mut stop => return Ok(()),
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else { continue };
        let (registry, health) = (Arc::clone(&registry), health.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let answer = answer(request.uri().path(), &registry, &health);
            std::future::ready(Ok::<_, Infallible>(answer))
        });
        connections.spawn(async move {
            let mut server = http1::Builder::new();
            let server = server.timer(TokioTimer::new());
            let served = server.serve_connection(TokioIo::new(stream), service);
            if let Err(error) = served.await {
                debug!(%error, "a connection broke off");
            }
        });
    }
}

fn answer(path: &str, registry: &Registry, health: &ControllerHealth) -> Response<Full<Bytes>> {
    match path {
        "/metrics" => {
            let mut text = String::new();
            match encode(&mut text, registry) {
                Ok(()) => {
                    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                    respond(StatusCode::OK, kind, text)
                }
                Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
            }
        }
        // Fails while the loop is stuck: the process should be restarted.
        "/livez" => probe(health.live()),
        // Fails until all lists are complete: no reason for a restart.
        "/readyz" => probe(health.ready()),
        _ => plain(StatusCode::NOT_FOUND, "not found\n".to_owned()),
    }
}

fn probe(result: Result<(), String>) -> Response<Full<Bytes>> {
    match result {
        Ok(()) => plain(StatusCode::OK, "ok\n".to_owned()),
        Err(problem) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("{problem}\n")),
    }
}

fn plain(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", text)
}

fn respond(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let kind = http::HeaderValue::from_static(kind);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
