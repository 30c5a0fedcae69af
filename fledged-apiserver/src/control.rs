//! What a test reads from the API server and does to it, besides requests.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::Value;

use crate::api::Api;
use crate::error::qualified;
use crate::failures::{Failure, RequestFilter};
use crate::object_store::Key;
use crate::request_counts::RequestKey;
use crate::timestamps::Clock;

/// The controls of an API server, the same for [`Server`](crate::Server) and [`Service`](crate::Service),
/// which dereference to it. Clones control the same API server.
#[derive(Clone)]
pub struct Control {
    pub(crate) api: Arc<Api>,
}

impl Control {
    /// How often each kind of request was made.
    pub fn requests(&self) -> BTreeMap<RequestKey, u64> {
        self.api.requests.all()
    }

    /// The number of requests whose kind matches.
    pub fn count(&self, matches: impl Fn(&RequestKey) -> bool) -> u64 {
        self.requests()
            .iter()
            .filter(|(key, _)| matches(key))
            .map(|(_, count)| count)
            .sum()
    }

    /// Sets every count of requests to zero.
    pub fn reset_requests(&self) {
        self.api.requests.reset();
    }

    /// The revision of the last write: the `resourceVersion` of a list made now.
    pub fn revision(&self) -> u64 {
        self.api.store.revision()
    }

    /// Deletes the history. Watches and lists of an earlier version get 410.
    pub fn compact(&self) {
        self.api.store.compact();
    }

    /// Fails the next `count` requests that match a filter.
    pub fn fail_next(&self, count: usize, filter: RequestFilter, failure: Failure) {
        if count > 0 {
            self.api.faults.plan(count, filter, failure);
        }
    }

    /// Cancels the failures that are still to come.
    pub fn fail_nothing(&self) {
        self.api.faults.clear();
    }

    /// Ends every open watch, as a restart of the API server does.
    pub fn cut_watches(&self) {
        self.api.store.cut_watches();
    }

    /// Sends requests to a pod (`pods/proxy`) at this address and port to another place: a test's pods have no network.
    /// As on a real server, a pod's address must not be one of the loopback or of a link.
    pub fn route_pod(&self, address: SocketAddr, place: SocketAddr) {
        self.api.pod_routes.add(address, place);
    }

    /// An object as it is stored, read without a request; `group` is empty for the core group.
    pub fn object(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        self.read_object(group, plural, namespace, name, Value::clone)
    }

    /// What `read` returns of an object as it is stored, which is not copied; `None` if it does not exist.
    pub fn read_object<T>(
        &self,
        group: &str,
        plural: &str,
        namespace: &str,
        name: &str,
        read: impl FnOnce(&Value) -> T,
    ) -> Option<T> {
        let table = qualified(group, plural);
        let object = self.api.store.get(&table, &Key::new(namespace, name))?;
        Some(read(&object.value))
    }

    /// The clock behind the timestamps of objects.
    pub fn clock(&self) -> &Clock {
        &self.api.clock
    }
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control")
            .field("revision", &self.revision())
            .finish_non_exhaustive()
    }
}
