//! The server: its socket, and what tests may do to it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::api::Api;
use super::builder::Builder;
use super::connection;
use super::error::StartError;
use super::faults::{Failure, RequestFilter};
use super::stats::RequestKey;

/// A Kubernetes API server inside the process. It ends when it is dropped or [shut down](Self::shutdown).
pub struct Server {
    api: Arc<Api>,
    address: SocketAddr,
    tasks: TaskTracker,
    /// Ends everything.
    end: CancellationToken,
    /// Ends the socket and its connections, while the server is up.
    socket: Mutex<CancellationToken>,
}

impl Server {
    /// A server yet to be started.
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(super) fn run(
        api: Arc<Api>,
        listener: TcpListener,
        address: SocketAddr,
        tasks: TaskTracker,
        end: CancellationToken,
    ) -> Self {
        let socket = end.child_token();
        tasks.spawn(connection::accept(
            Arc::clone(&api),
            listener,
            socket.clone(),
            tasks.clone(),
        ));
        Self {
            api,
            address,
            tasks,
            end,
            socket: Mutex::new(socket),
        }
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

    /// How often each kind of request was made.
    pub fn requests(&self) -> BTreeMap<RequestKey, u64> {
        self.api.requests.all()
    }

    /// How many requests of some kinds were made.
    pub fn count(&self, matches: impl Fn(&RequestKey) -> bool) -> u64 {
        self.requests()
            .iter()
            .filter(|(key, _)| matches(key))
            .map(|(_, count)| count)
            .sum()
    }

    /// Begins to count requests anew.
    pub fn reset_requests(&self) {
        self.api.requests.reset();
    }

    /// The revision of the last write: the `resourceVersion` that a list would have now.
    pub fn revision(&self) -> u64 {
        self.api.store.revision()
    }

    /// Forgets the history: watches and lists of any version read before get 410.
    pub fn compact(&self) {
        self.api.store.compact();
    }

    /// Makes the next `count` requests fail that a filter fits.
    pub fn fail_next(&self, count: usize, filter: RequestFilter, failure: Failure) {
        if count > 0 {
            self.api.faults.plan(count, filter, failure);
        }
    }

    /// Takes back what was to fail.
    pub fn fail_nothing(&self) {
        self.api.faults.clear();
    }

    /// Ends every open watch, as a server does that is restarted.
    pub fn cut_watches(&self) {
        self.api.store.cut_watches();
    }

    /// An object as it is stored, without a request being made or counted; `group` is empty for the core.
    pub fn object(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        let table = super::error::qualified(group, plural);
        let key = super::store::Key::new(namespace, name);
        self.api
            .store
            .get(&table, &key)
            .map(|object| object.value.clone())
    }

    /// Closes the socket and all connections; data stays. A server that is down already stays so.
    pub fn down(&self) {
        self.socket
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .cancel();
        self.api.store.cut_watches();
    }

    /// Opens the socket again, at the same address. A server that is up already stays so.
    ///
    /// # Errors
    ///
    /// An address that somebody else has taken meanwhile.
    pub async fn up(&self) -> Result<(), StartError> {
        if !self
            .socket
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_cancelled()
        {
            return Ok(());
        }
        let address = self.address;
        let listener = connection::listen(address).await?;
        let socket = self.end.child_token();
        *self.socket.lock().unwrap_or_else(PoisonError::into_inner) = socket.clone();
        self.tasks.spawn(connection::accept(
            Arc::clone(&self.api),
            listener,
            socket,
            self.tasks.clone(),
        ));
        Ok(())
    }

    /// Ends the server, and waits until it has ended.
    pub async fn shutdown(self) {
        self.end.cancel();
        self.tasks.close();
        self.tasks.wait().await;
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
