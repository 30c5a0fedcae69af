//! The server itself.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use super::address::BindAddress;
use super::routes::Routes;

/// How long a client may take to say what it wants: a kubelet and Prometheus need milliseconds.
const HEADER_LIMIT: Duration = Duration::from_secs(5);
/// How long a whole connection may last, which is one request.
const CONNECTION_LIMIT: Duration = Duration::from_secs(10);
/// Connections at once; with one more, the oldest has to go. A probe is answered at once, so only
/// those who do nothing ever get that old.
const CONNECTIONS: usize = 64;
/// Bytes of a request's head.
const HEAD_BYTES: usize = 16 * 1024;
/// Pause after a connection could not be accepted, for want of file descriptors for instance.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// An address that can't be listened at.
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
    /// [`BindError`], with the address and the system's words.
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
        info!(address = %bound, "listening");
        Ok(Self {
            listener,
            address: bound,
            routes: Arc::new(routes),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `shutdown` resolves. Never ends otherwise.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let mut shutdown = pin!(shutdown);
        let mut connections = JoinSet::new();
        let mut oldest_first = VecDeque::new();
        loop {
            let accepted = tokio::select! {
                () = &mut shutdown => return,
                accepted = self.listener.accept() => accepted,
            };
            while connections.try_join_next().is_some() {}
            match accepted {
                Ok((stream, _)) => {
                    oldest_first.retain(|handle: &tokio::task::AbortHandle| !handle.is_finished());
                    while oldest_first.len() >= CONNECTIONS {
                        if let Some(oldest) = oldest_first.pop_front() {
                            oldest.abort();
                        }
                    }
                    let serve = serve(stream, Arc::clone(&self.routes));
                    oldest_first.push_back(connections.spawn(serve));
                }
                Err(error) => {
                    warn!(%error, "connection not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Listens at that address; at every address of the machine where it names no host.
pub(crate) async fn listen(address: &BindAddress) -> io::Result<TcpListener> {
    if !address.host.is_empty() {
        return TcpListener::bind((address.host.as_str(), address.port)).await;
    }
    // Both families where the machine has both.
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, address.port)).await {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port)).await
        }
        bound => bound,
    }
}

async fn serve(stream: TcpStream, routes: Arc<Routes>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = routes.answer(request.method(), request.uri().path());
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
        Ok(Err(error)) => debug!(%error, "connection broke off"),
        Err(_) => debug!("connection took too long"),
    }
}
