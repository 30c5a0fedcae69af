//! Requests to the cluster: reading objects page by page, following one ImageCache, setting annotations.

use std::fmt::Debug;
use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use fledged_core::model::{GoDuration, NodeName};
use fledged_kube::crd::{ReadCache, ReadNodeCache};
use fledged_kube::request_error::with_causes;
use fledged_kube::watch::try_watch;
use fledged_operator::controller::ReadNode;
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams};
use kube::runtime::watcher::{self, Event};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::time::Instant;

use super::kubeconfig::{ApiRequest, CONNECT_TIMEOUT, ClusterError, Connection};

/// Objects in one page; kubectl's default.
const PAGE: u32 = 500;
/// Field manager of the annotations.
const FIELD_MANAGER: &str = "fledged-cli";

const CACHES: &str = "imagecaches.kubefledged.io";
const RECORDS: &str = "nodeimagecaches.kubefledged.io";
const NODES: &str = "nodes";

/// The time limit of a command that waits, from its start on.
#[derive(Debug, Clone, Copy)]
pub(super) struct WaitLimit {
    started: Instant,
    timeout: Duration,
}

impl WaitLimit {
    /// A limit that begins now.
    pub(super) fn new(timeout: Duration) -> Self {
        let started = Instant::now();
        Self { started, timeout }
    }

    fn ends(self) -> Instant {
        self.started + self.timeout
    }
}

/// How following an ImageCache ended.
#[derive(Debug)]
pub(super) enum Followed<T> {
    /// The condition was met.
    Done(T),
    /// The timeout expired.
    TimedOut {
        /// The ImageCache as last read.
        last: Box<ReadCache>,
        /// The last error of the watch.
        problem: Option<String>,
    },
}

impl Connection {
    /// ImageCaches of the namespace.
    pub(super) fn caches(&self) -> Api<ReadCache> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// ImageCaches of all namespaces.
    pub(super) fn all_caches(&self) -> Api<ReadCache> {
        Api::all(self.client.clone())
    }

    /// One ImageCache.
    pub(crate) async fn cache(&self, name: &str) -> Result<ReadCache, ClusterError> {
        let found = self.caches().get(name).await;
        match found.map_err(|error| self.failed(self.cache_request("get", Some(name)), &error)) {
            Err(ClusterError::NotFound {
                namespace, name, ..
            }) => {
                let hint = self.namespaces_hint(&name).await;
                Err(ClusterError::NotFound {
                    namespace,
                    name,
                    hint,
                })
            }
            found => found,
        }
    }

    /// The namespaces that have an ImageCache of that name, as options of the command.
    async fn namespaces_hint(&self, name: &str) -> String {
        let params = ListParams::default().fields(&format!("metadata.name={name}"));
        // Without the permission to list all namespaces, the hint is left out.
        let found = self
            .all_caches()
            .list(&params)
            .await
            .map(|list| list.items)
            .unwrap_or_default();
        let options: Vec<String> = found
            .iter()
            .map(|cache| format!("-n {}", cache.id().namespace))
            .collect();
        if options.is_empty() {
            "; `get -A` lists all ImageCaches".to_owned()
        } else {
            format!("; there is one with {}", options.join(" and "))
        }
    }

    /// The ImageCaches of the namespace, or of all namespaces.
    pub(crate) async fn list_caches(&self, all: bool) -> Result<Vec<ReadCache>, ClusterError> {
        if all {
            self.list(self.all_caches(), CACHES, None).await
        } else {
            self.list(self.caches(), CACHES, Some(self.namespace.clone()))
                .await
        }
    }

    /// Every Node.
    pub(crate) async fn list_nodes(&self) -> Result<Vec<ReadNode>, ClusterError> {
        self.list(Api::all(self.client.clone()), NODES, None).await
    }

    /// Every NodeImageCache.
    pub(crate) async fn list_records(&self) -> Result<Vec<ReadNodeCache>, ClusterError> {
        self.list(Api::all(self.client.clone()), RECORDS, None)
            .await
    }

    /// Every object of a resource, page by page.
    async fn list<K>(
        &self,
        api: Api<K>,
        resource: &'static str,
        namespace: Option<String>,
    ) -> Result<Vec<K>, ClusterError>
    where
        K: Clone + DeserializeOwned + Debug,
    {
        let request = ApiRequest {
            verb: "list",
            resource,
            namespace,
            name: None,
        };
        let mut params = ListParams::default().limit(PAGE);
        let mut items = Vec::new();
        loop {
            let page = api
                .list(&params)
                .await
                .map_err(|error| self.failed(request.clone(), &error))?;
            items.extend(page.items);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(items),
            }
        }
    }

    /// The pods on a node.
    pub(super) async fn pods_on(&self, node: &NodeName) -> Result<Vec<Pod>, ClusterError> {
        let request = ApiRequest {
            verb: "list",
            resource: "pods",
            namespace: None,
            name: None,
        };
        let params = ListParams::default().fields(&format!("spec.nodeName={node}"));
        let api: Api<Pod> = Api::all(self.client.clone());
        let listed = api.list(&params).await;
        listed
            .map(|list| list.items)
            .map_err(|error| self.failed(request, &error))
    }

    /// A Node, if it exists.
    pub(super) async fn find_node(&self, name: &str) -> Result<Option<ReadNode>, ClusterError> {
        self.find(NODES, name).await
    }

    /// A NodeImageCache, if it exists.
    pub(super) async fn find_record(
        &self,
        name: &str,
    ) -> Result<Option<ReadNodeCache>, ClusterError> {
        self.find(RECORDS, name).await
    }

    /// A cluster-scoped object, if it exists.
    async fn find<K>(&self, resource: &'static str, name: &str) -> Result<Option<K>, ClusterError>
    where
        K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        let api: Api<K> = Api::all(self.client.clone());
        let request = ApiRequest {
            verb: "get",
            resource,
            namespace: None,
            name: Some(name.to_owned()),
        };
        match api.get(name).await {
            Ok(found) => Ok(Some(found)),
            Err(error) => match self.failed(request, &error) {
                ClusterError::NotFound { .. } => Ok(None),
                error => Err(error),
            },
        }
    }

    /// Sets an annotation of an ImageCache to the empty text.
    pub(super) async fn annotate(&self, name: &str, annotation: &str) -> Result<(), ClusterError> {
        let patch = Patch::Merge(json!({ "metadata": { "annotations": { annotation: "" } } }));
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        self.caches()
            .patch_metadata(name, &params, &patch)
            .await
            .map(drop)
            .map_err(|error| self.failed(self.cache_request("patch", Some(name)), &error))
    }

    /// The answer to a request of a command that waits.
    pub(super) async fn within<T>(
        &self,
        limit: WaitLimit,
        request: impl Future<Output = Result<T, ClusterError>>,
    ) -> Result<T, ClusterError> {
        let ends = match limit.timeout {
            // One answer is always waited for.
            Duration::ZERO => limit.started + CONNECT_TIMEOUT,
            _ => limit.ends(),
        };
        match tokio::time::timeout_at(ends, request).await {
            Ok(answer) => answer,
            Err(_) => Err(ClusterError::NoAnswer {
                url: self.url.clone(),
                waited: GoDuration(ends - limit.started),
            }),
        }
    }

    /// Watches an ImageCache until `judge` returns a value; it gets `None` once the ImageCache is deleted.
    ///
    /// Without a timeout, the ImageCache is read once.
    pub(super) async fn follow<T>(
        &self,
        name: &str,
        limit: WaitLimit,
        mut judge: impl FnMut(Option<&ReadCache>) -> Option<T>,
    ) -> Result<Followed<T>, ClusterError> {
        let mut last = self.within(limit, self.cache(name)).await?;
        if let Some(done) = judge(Some(&last)) {
            return Ok(Followed::Done(done));
        }
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let mut events = pin!(try_watch(self.caches(), config));
        let mut end = pin!(tokio::time::sleep_until(limit.ends()));
        let (mut problem, mut listed) = (None, false);
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = &mut end => {
                    let last = Box::new(last);
                    return Ok(Followed::TimedOut { last, problem });
                }
            };
            let cache = match event {
                Some(Ok(Event::Init)) => {
                    listed = false;
                    continue;
                }
                Some(Ok(Event::InitApply(cache) | Event::Apply(cache))) => {
                    listed = true;
                    Some(cache)
                }
                Some(Ok(Event::InitDone)) if listed => continue,
                Some(Ok(Event::InitDone | Event::Delete(_))) => None,
                Some(Err(error)) => {
                    if let Some(error) = self.permanent_failure(name, &error) {
                        return Err(error);
                    }
                    problem = Some(with_causes(&error));
                    continue;
                }
                None => continue,
            };
            problem = None;
            if let Some(done) = judge(cache.as_ref()) {
                return Ok(Followed::Done(done));
            }
            if let Some(cache) = cache {
                last = cache;
            }
        }
    }

    /// The error of a watch that is refused for lack of permission, which a retry does not change.
    fn permanent_failure(&self, name: &str, error: &watcher::Error) -> Option<ClusterError> {
        let (verb, cause) = match error {
            watcher::Error::InitialListFailed(cause) => ("list", cause),
            watcher::Error::WatchStartFailed(cause) => ("watch", cause),
            _ => return None,
        };
        match cause {
            kube::Error::Api(status) if matches!(status.code, 401 | 403) => {
                Some(self.failed(self.cache_request(verb, Some(name)), cause))
            }
            _ => None,
        }
    }

    fn cache_request(&self, verb: &'static str, name: Option<&str>) -> ApiRequest {
        ApiRequest {
            verb,
            resource: CACHES,
            namespace: Some(self.namespace.clone()),
            name: name.map(str::to_owned),
        }
    }

    fn failed(&self, request: ApiRequest, error: &kube::Error) -> ClusterError {
        ClusterError::of(request, &self.url, error)
    }
}
