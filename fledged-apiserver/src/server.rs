//! Options of an API server, and the server on a TCP socket.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::{
    Api, FieldValidation, Target, Warnings, WriteOptions, check_type, insert, refusal, shape,
};
use crate::control::Control;
use crate::error::{ApiError, ApiResult, StartError};
use crate::json::text;
use crate::object_store::Store;
use crate::service::Service;
use crate::timestamps::Clock;

/// The default length of the history, in writes to one resource. With a thousand nodes that each write once, a
/// watcher can miss four rounds and resume.
const HISTORY: usize = 4096;

/// Options of a server.
#[derive(Debug)]
pub struct Builder {
    address: SocketAddr,
    history: usize,
    seed: Vec<Value>,
    clock: Clock,
    token: Option<Token>,
}

/// A bearer token, which is not printed.
#[derive(Clone, PartialEq, Eq)]
struct Token(Arc<str>);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            address: (Ipv4Addr::LOCALHOST, 0).into(),
            history: HISTORY,
            seed: Vec::new(),
            clock: Clock::default(),
            token: None,
        }
    }
}

impl Builder {
    /// The address to listen on; by default a free port of 127.0.0.1.
    #[must_use]
    pub fn address(mut self, address: SocketAddr) -> Self {
        self.address = address;
        self
    }

    /// The length of the history of each resource, in writes (4096 by default). A watch from an earlier version
    /// gets 410.
    #[must_use]
    pub fn history(mut self, writes: usize) -> Self {
        self.history = writes;
        self
    }

    /// Objects of built-in kinds to create at the start, in this order, validated like those of a client.
    #[must_use]
    pub fn seed(mut self, objects: impl IntoIterator<Item = Value>) -> Self {
        self.seed.extend(objects);
        self
    }

    /// The clock behind the timestamps of objects; by default the system clock.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// The token that requests over the socket must carry, as a bearer token or as the first segment of the path;
    /// [`Server::kubeconfig`] and [`Server::client`] do.
    /// Others are refused with 401, and so are requests whose `Host` is not the address of the server, which a
    /// web page can cause by DNS rebinding. By default every request is served.
    #[must_use]
    pub fn token(mut self, token: impl Into<Arc<str>>) -> Self {
        self.token = Some(Token(token.into()));
        self
    }

    /// Starts an API server without a socket, on the current tokio runtime.
    ///
    /// # Errors
    ///
    /// Fails if a seed object is invalid, or outside of a tokio runtime.
    pub fn service(self) -> Result<Service, StartError> {
        let (sender, follow_ups) = mpsc::unbounded_channel();
        let api = Api::new(Store::new(self.history, sender), self.clock);
        let namespaces = ["default", "kube-system", "kube-public", "kube-node-lease"];
        let namespaces = namespaces.map(
            |name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}),
        );
        for object in namespaces.into_iter().chain(self.seed) {
            seed(&api, &object).map_err(|error| StartError::Seed {
                object: named(&object),
                message: error.message,
            })?;
        }
        Service::start(api, follow_ups)
    }

    /// Starts an API server that listens, on the current tokio runtime.
    ///
    /// # Errors
    ///
    /// Fails if the address can't be listened on, or a seed object is invalid.
    pub async fn start(self) -> Result<Server, StartError> {
        let (address, token) = (self.address, self.token.clone());
        Server::listen(self.service()?, address, token).await
    }
}

fn named(object: &Value) -> String {
    let name = text(object, &["metadata", "name"]);
    format!("{} {name:?}", text(object, &["kind"]))
}

fn seed(api: &Api, object: &Value) -> ApiResult<()> {
    let (version, kind) = (text(object, &["apiVersion"]), text(object, &["kind"]));
    let resource = api.catalogue.find_kind(version, kind);
    let resource = resource
        .ok_or_else(|| ApiError::bad_request(format!("no kind {kind:?} in {version:?}")))?;
    let metadata = |field: &str| text(object, &["metadata", field]);
    let target = Target {
        namespace: match (resource.namespaced, metadata("namespace")) {
            (true, "") => "default".to_owned(),
            (true, namespace) => namespace.to_owned(),
            (false, _) => String::new(),
        },
        name: metadata("name").to_owned(),
        subresource: String::new(),
        resource: Arc::clone(&resource),
    };
    let options = WriteOptions {
        dry_run: false,
        validation: FieldValidation::Strict,
        manager: String::new(),
    };
    let value = shape(
        check_type(object.clone(), &resource)?,
        &resource,
        options.validation,
        &Warnings::default(),
    )?;
    insert(api, &target, value, None, &options).map(|_| ())
}

/// The pause after a connection that could not be accepted, for example for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A Kubernetes API server on a TCP socket. It ends when it is dropped or [shut down](Self::shutdown).
pub struct Server {
    service: Service,
    address: SocketAddr,
    token: Option<Token>,
    tasks: TaskTracker,
    /// Stops the server.
    end: CancellationToken,
    /// Closes the socket and its connections.
    socket: Mutex<CancellationToken>,
}

impl Server {
    /// The options of a new API server.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Serves a service on a socket.
    async fn listen(
        service: Service,
        address: SocketAddr,
        token: Option<Token>,
    ) -> Result<Self, StartError> {
        let listener = bind(address).await?;
        let address = listener
            .local_addr()
            .map_err(|source| StartError::Bind { address, source })?;
        let end = CancellationToken::new();
        let server = Self {
            service,
            address,
            token,
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
        let mut url = self.url();
        // JSON is YAML.
        let mut user = json!({});
        if let Some(Token(token)) = &self.token {
            // kubectl sends no bearer token over plain HTTP.
            url = format!("{url}/{token}");
            user = json!({ "token": **token });
        }
        format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: embedded\n  cluster:\n    server: {url}\nusers:\n- name: embedded\n  user: {user}\ncontexts:\n- name: embedded\n  context:\n    cluster: embedded\n    user: embedded\n    namespace: default\ncurrent-context: embedded\n"
        )
    }

    /// The configuration of a client of the server.
    ///
    /// # Errors
    ///
    /// Fails if the address is not a valid URL.
    pub fn client_config(&self) -> Result<kube::Config, StartError> {
        let url = self.url().parse::<http::Uri>();
        let url = url.map_err(|error| StartError::Client(error.into()))?;
        let mut config = kube::Config::new(url);
        config.auth_info.token = self
            .token
            .as_ref()
            .map(|token| String::from(&*token.0).into());
        Ok(config)
    }

    /// A client of the server.
    ///
    /// # Errors
    ///
    /// Fails if the client can't be built.
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
    /// Fails if the address is in use.
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
        let entry = Entry {
            address: self.address,
            token: self.token.clone(),
        };
        self.tasks.spawn(async move {
            while let Some(accepted) = socket.run_until_cancelled(listener.accept()).await {
                match accepted {
                    Ok((stream, _)) => {
                        let entry = entry.clone();
                        tasks.spawn(converse(control.clone(), entry, stream, socket.clone()));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "connection not accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        });
    }

    /// Stops the server and waits until its connections are closed.
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

/// What a request over the socket needs to be served.
#[derive(Clone)]
struct Entry {
    address: SocketAddr,
    token: Option<Token>,
}

impl Entry {
    /// Whether a request is served. A token in its path is removed.
    fn admits(&self, request: &mut http::Request<Incoming>) -> bool {
        let Some(Token(token)) = &self.token else {
            return true;
        };
        let headers = request.headers();
        let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let bearer = header(http::header::AUTHORIZATION).and_then(|text| text.split_once(' '));
        let bearer = bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let local = format!("localhost:{}", self.address.port());
        let host = header(http::header::HOST);
        if !host.is_some_and(|host| host == local || host == self.address.to_string()) {
            return false;
        }
        let has_bearer = bearer.is_some_and(|(_, given)| given.trim() == &**token);
        let target = request.uri().path_and_query();
        let target = target.and_then(|target| target.as_str().strip_prefix('/'));
        let rest = target.and_then(|target| target.strip_prefix(&**token));
        let rest = rest.filter(|rest| rest.starts_with('/'));
        match rest.and_then(|rest| rest.parse().ok()) {
            Some(uri) => {
                *request.uri_mut() = uri;
                true
            }
            None => has_bearer,
        }
    }
}

/// Answers the requests of a connection, until it ends or the socket is closed.
async fn converse(control: Control, entry: Entry, stream: TcpStream, socket: CancellationToken) {
    // Without it, events of a watch wait for the acknowledgement of the one before.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|mut request: http::Request<Incoming>| {
        let control = control.clone();
        let admitted = entry.admits(&mut request);
        async move {
            Ok::<_, Infallible>(if admitted {
                Service::respond(control, request).await
            } else {
                refusal(&ApiError::unauthorized())
            })
        }
    });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    if let Some(Err(error)) = socket.run_until_cancelled(connection).await {
        tracing::debug!(%error, "connection ended");
    }
}
