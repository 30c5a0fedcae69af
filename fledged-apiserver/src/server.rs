//! The API server on a TCP socket.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::builder::Builder;
use crate::control::Control;
use crate::error::StartError;
use crate::service::Service;

/// The pause after a connection that could not be accepted, for example for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A Kubernetes API server on a TCP socket. It ends when it is dropped or [shut down](Self::shutdown).
pub struct Server {
    service: Service,
    address: SocketAddr,
    tasks: TaskTracker,
    /// Ends everything.
    end: CancellationToken,
    /// Ends the socket and its connections, while the server is up.
    socket: Mutex<CancellationToken>,
}

impl Server {
    /// The options of a server to be started.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Serves a service on a socket.
    pub(crate) async fn listen(service: Service, address: SocketAddr) -> Result<Self, StartError> {
        let listener = bind(address).await?;
        let address = listener
            .local_addr()
            .map_err(|source| StartError::Bind { address, source })?;
        let end = CancellationToken::new();
        let server = Self {
            service,
            address,
            tasks: TaskTracker::new(),
            socket: Mutex::new(end.child_token()),
            end,
        };
        server.accept(listener);
        Ok(server)
    }

    /// The same API server without its socket.
    pub fn service(&self) -> Service {
        self.service.clone()
    }

    /// The address of the server, such as `http://127.0.0.1:34567`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A kubeconfig for the server, in YAML.
    pub fn kubeconfig(&self) -> String {
        let url = self.url();
        format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: embedded\n  cluster:\n    server: {url}\nusers:\n- name: embedded\n  user: {{}}\ncontexts:\n- name: embedded\n  context:\n    cluster: embedded\n    user: embedded\n    namespace: default\ncurrent-context: embedded\n"
        )
    }

    /// The configuration of a client of the server.
    ///
    /// # Errors
    ///
    /// None that could happen with an address that was bound.
    pub fn client_config(&self) -> Result<kube::Config, StartError> {
        let url = self.url().parse::<http::Uri>();
        let url = url.map_err(|error| StartError::Client(error.into()))?;
        Ok(kube::Config::new(url))
    }

    /// A client of the server.
    ///
    /// # Errors
    ///
    /// A client that can't be built.
    pub fn client(&self) -> Result<kube::Client, StartError> {
        let config = self.client_config()?;
        kube::Client::try_from(config).map_err(|error| StartError::Client(error.into()))
    }

    /// Closes the socket and all connections; objects stay. Does nothing while the server is down.
    pub fn down(&self) {
        self.socket
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .cancel();
        self.cut_watches();
    }

    /// Opens the socket again, at the same address. Does nothing while the server is up.
    ///
    /// # Errors
    ///
    /// An address that is in use by now.
    pub async fn up(&self) -> Result<(), StartError> {
        if !self.socket().is_cancelled() {
            return Ok(());
        }
        let listener = bind(self.address).await?;
        *self.socket.lock().unwrap_or_else(PoisonError::into_inner) = self.end.child_token();
        self.accept(listener);
        Ok(())
    }

    fn socket(&self) -> CancellationToken {
        self.socket
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Accepts connections until the socket is to be closed.
    fn accept(&self, listener: TcpListener) {
        let (socket, tasks) = (self.socket(), self.tasks.clone());
        let control = (**self).clone();
        self.tasks.spawn(async move {
            while let Some(accepted) = socket.run_until_cancelled(listener.accept()).await {
                match accepted {
                    Ok((stream, _)) => {
                        tasks.spawn(converse(control.clone(), stream, socket.clone()));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "connection not accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        });
    }

    /// Ends the server, and waits until it has ended.
    pub async fn shutdown(self) {
        self.end.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Deref for Server {
    type Target = Control;

    fn deref(&self) -> &Control {
        &self.service
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| StartError::Bind { address, source })
}

/// Answers the requests of a connection, until it ends or the socket is closed.
async fn converse(control: Control, stream: TcpStream, socket: CancellationToken) {
    // Without it, events of a watch wait for the acknowledgement of the one before.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| {
        let control = control.clone();
        async move { Ok::<_, Infallible>(Service::respond(control, request).await) }
    });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    if let Some(Err(error)) = socket.run_until_cancelled(connection).await {
        tracing::debug!(%error, "connection ended");
    }
}
