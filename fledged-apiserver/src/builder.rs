//! Starting a server.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::api::{Api, FieldValidation, Target, Warnings, WriteOptions, check_type, insert, shape};
use super::clock::Clock;
use super::error::{ApiError, ApiResult, StartError};
use super::server::Server;
use super::service::Service;
use super::store::Store;

/// As many writes to a resource as are remembered by default. A thousand nodes that each write once leave a
/// watcher four rounds to come back.
const HISTORY: usize = 4096;

/// Options of a server.
#[derive(Debug)]
pub struct Builder {
    address: SocketAddr,
    history: usize,
    seed: Vec<Value>,
    clock: Clock,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            address: (Ipv4Addr::LOCALHOST, 0).into(),
            history: HISTORY,
            seed: Vec::new(),
            clock: Clock::default(),
        }
    }
}

impl Builder {
    /// Where to listen; by default any free port of 127.0.0.1.
    #[must_use]
    pub fn address(mut self, address: SocketAddr) -> Self {
        self.address = address;
        self
    }

    /// As many writes as are remembered of each resource (4096 by default). Watches that would begin before
    /// them get 410.
    #[must_use]
    pub fn history(mut self, writes: usize) -> Self {
        self.history = writes;
        self
    }

    /// Objects of built-in kinds to start with, in this order, validated as if they were created by a client.
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

    /// Starts an API server without a socket, on the current tokio runtime.
    ///
    /// # Errors
    ///
    /// An object to start with that is invalid; no runtime.
    pub fn service(self) -> Result<Service, StartError> {
        let (sender, aftermath) = mpsc::unbounded_channel();
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
        Service::start(api, aftermath)
    }

    /// Starts an API server that listens, on the current tokio runtime.
    ///
    /// # Errors
    ///
    /// An address that can't be listened on; an object to start with that is invalid.
    pub async fn start(self) -> Result<Server, StartError> {
        let address = self.address;
        Server::listen(self.service()?, address).await
    }
}

fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn named(object: &Value) -> String {
    let metadata = object.get("metadata").unwrap_or(&Value::Null);
    format!("{} {:?}", text(object, "kind"), text(metadata, "name"))
}

fn seed(api: &Api, object: &Value) -> ApiResult<()> {
    let (version, kind) = (text(object, "apiVersion"), text(object, "kind"));
    let resource = api.catalogue.find_kind(version, kind);
    let resource = resource
        .ok_or_else(|| ApiError::bad_request(format!("no kind {kind:?} in {version:?}")))?;
    let metadata = object.get("metadata").unwrap_or(&Value::Null);
    let target = Target {
        namespace: match (resource.namespaced, text(metadata, "namespace")) {
            (true, "") => "default".to_owned(),
            (true, namespace) => namespace.to_owned(),
            (false, _) => String::new(),
        },
        name: text(metadata, "name").to_owned(),
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
