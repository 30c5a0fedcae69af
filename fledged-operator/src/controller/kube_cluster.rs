//! The port `Cluster` on Kubernetes: what is watched becomes events, what is decided becomes writes.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use fledged_core::model::{AssignedImage, CacheId, NodeName};
use fledged_core::planner::{Annotation, CacheEvent, CacheStatus, ClusterEvent};
use fledged_core::port::{Cluster, WriteFailure};
use futures_util::stream::{BoxStream, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tracing::{debug, info};

use crate::api::error::write_failure;
use crate::controller::FIELD_MANAGER;
use crate::controller::agent_driver::AgentDriver;
use crate::controller::cluster_events::{self, NodeUids};
use crate::controller::metrics::ClusterMetrics;
use crate::controller::node_driver::{NodeDriver, NodeTarget};
use crate::crd::{
    FINALIZER, GROUP, ImageCacheStatus, PURGE_ANNOTATION, REFRESH_ANNOTATION, ReadCache, VERSION,
};

/// A Kubernetes cluster as the planner's loop sees it.
///
/// ImageCaches and Nodes are watched; ImageCache statuses are written by server-side apply under one
/// field manager, [`FIELD_MANAGER`]. What nodes are assigned and what they report goes through a
/// [`NodeDriver`]. Nothing is held in memory but the UIDs of nodes and which caches there are.
#[derive(Clone)]
pub struct KubeCluster {
    client: Client,
    driver: Arc<dyn NodeDriver>,
    namespace: Option<String>,
    uids: NodeUids,
    seen: SeenCaches,
    metrics: ClusterMetrics,
    synced: Arc<AtomicBool>,
}

impl fmt::Debug for KubeCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KubeCluster")
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

impl KubeCluster {
    /// The cluster that this client speaks to, with agents on its nodes ([`AgentDriver`]).
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self {
            driver: Arc::new(AgentDriver::new(client.clone())),
            client,
            namespace: None,
            uids: NodeUids::default(),
            seen: SeenCaches::default(),
            metrics: ClusterMetrics::default(),
            synced: Arc::default(),
        }
    }

    /// Its nodes are reached by that driver. [`NodeDriver::run`] is the caller's to call, as a
    /// [`Controller`](crate::controller::Controller) does.
    #[must_use]
    pub fn with_driver(mut self, driver: Arc<dyn NodeDriver>) -> Self {
        self.driver = driver;
        self
    }

    /// Only ImageCaches in that namespace are served; nodes have none.
    #[must_use]
    pub fn with_namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// Counts its writes there.
    #[must_use]
    pub fn with_metrics(mut self, metrics: ClusterMetrics) -> Self {
        self.metrics = metrics;
        self
    }

    /// Whether everything there is has been told once.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.synced.load(Ordering::Relaxed)
    }

    pub(crate) fn driver(&self) -> &dyn NodeDriver {
        self.driver.as_ref()
    }

    fn caches(&self, cache: &CacheId) -> Api<ReadCache> {
        Api::namespaced(self.client.clone(), &cache.namespace)
    }

    /// Makes one request, counts it, and sorts its failure.
    async fn counted<T>(
        &self,
        what: &'static str,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, WriteFailure> {
        let result = request.await.map_err(write_failure);
        self.metrics.written(what, result.as_ref().err());
        result
    }

    async fn merge(
        &self,
        what: &'static str,
        cache: &CacheId,
        patch: Value,
    ) -> Result<(), WriteFailure> {
        let caches = self.caches(cache);
        let patch = Patch::Merge(patch);
        let params = merge_params();
        let request = caches.patch_metadata(&cache.name, &params, &patch);
        self.counted(what, request).await.map(drop)
    }

    /// The API server takes a status for whatever object has that name: unlike elsewhere, the UID in
    /// the body is not compared. So it is done here, before and after.
    async fn put_status(&self, cache: &CacheId, status: &CacheStatus) -> Result<(), WriteFailure> {
        let gone = || WriteFailure::Gone("another image cache may have its name".to_owned());
        match self.seen.presence(cache) {
            Presence::Gone => return Err(gone()),
            // What is applied leaves alone what others wrote and we do not.
            Presence::Foreign => self.clear_status(cache).await?,
            Presence::Known => {}
        }
        let caches = self.caches(cache);
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let body = status_body(cache, ImageCacheStatus::from(status));
        let patch = Patch::Apply(body);
        let request = caches.patch_status(&cache.name, &params, &patch);
        let written = self.counted("status", request).await?;
        if written.uid().as_deref() != Some(cache.uid.as_str()) {
            self.clear_status(cache).await?;
            return Err(gone());
        }
        Ok(())
    }

    async fn clear_status(&self, cache: &CacheId) -> Result<(), WriteFailure> {
        let caches = self.caches(cache);
        let clear = Patch::Merge(no_status());
        let params = merge_params();
        let request = caches.patch_status(&cache.name, &params, &clear);
        self.counted("status", request).await.map(drop)
    }

    async fn finalize(&self, cache: &CacheId, present: bool) -> Result<(), WriteFailure> {
        let caches = self.caches(cache);
        let found = caches.get_metadata(&cache.name).await;
        let metadata = found.map_err(write_failure)?.metadata;
        if metadata.uid.as_deref() != Some(cache.uid.as_str()) {
            let problem = "another image cache of that name was made since";
            return Err(WriteFailure::Gone(problem.to_owned()));
        }
        let mut finalizers = metadata.finalizers.clone().unwrap_or_default();
        let there = finalizers.iter().any(|name| name == FINALIZER);
        if there == present {
            return Ok(());
        }
        match present {
            true => finalizers.push(FINALIZER.to_owned()),
            false => finalizers.retain(|name| name != FINALIZER),
        }
        let patch = finalizers_patch(&metadata, &finalizers);
        self.merge("finalizer", cache, patch).await
    }
}

fn merge_params() -> PatchParams {
    PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    }
}

#[async_trait]
impl Cluster for KubeCluster {
    fn events(&self) -> BoxStream<'static, ClusterEvent> {
        let (uids, seen) = (self.uids.clone(), self.seen.clone());
        let driver = self.driver.events();
        let events =
            cluster_events::events(&self.client, self.namespace.as_deref(), driver, uids, seen);
        let (metrics, synced) = (self.metrics.clone(), Arc::clone(&self.synced));
        let told = events.inspect(move |event| {
            metrics.heard(event);
            if matches!(event, ClusterEvent::Synced) {
                synced.store(true, Ordering::Relaxed);
            }
        });
        told.boxed()
    }

    async fn write_assignment(
        &self,
        node: &NodeName,
        images: &[AssignedImage],
    ) -> Result<u64, WriteFailure> {
        let Some(uid) = self.uids.get(node) else {
            return Err(WriteFailure::Gone("the node is gone".to_owned()));
        };
        debug!(%node, images = images.len(), "writing an assignment");
        let target = NodeTarget::new(node.clone(), uid);
        let result = self.driver.assign(&target, images).await;
        self.metrics.written("assignment", result.as_ref().err());
        result
    }

    async fn delete_assignment(&self, node: &NodeName) -> Result<(), WriteFailure> {
        debug!(%node, "deleting an assignment");
        let result = self.driver.release(node).await;
        self.metrics.written("assignment", result.as_ref().err());
        match result {
            Err(WriteFailure::Gone(_)) => Ok(()),
            result => result,
        }
    }

    async fn write_status(
        &self,
        cache: &CacheId,
        status: &CacheStatus,
    ) -> Result<(), WriteFailure> {
        debug!(%cache, reason = %status.reason, status = %status.status, message = status.message, "writing a status");
        self.put_status(cache, status).await
    }

    async fn remove_annotation(
        &self,
        cache: &CacheId,
        annotation: Annotation,
    ) -> Result<(), WriteFailure> {
        let patch = without_annotation(cache, annotation);
        self.merge("annotation", cache, patch).await
    }

    async fn set_finalizer(&self, cache: &CacheId, present: bool) -> Result<(), WriteFailure> {
        self.finalize(cache, present).await
    }

    async fn record_event(&self, cache: &CacheId, event: &CacheEvent) -> Result<(), WriteFailure> {
        info!(%cache, reason = %event.reason, warning = event.warning, message = event.message, "image cache");
        let events: Api<Event> = Api::namespaced(self.client.clone(), &cache.namespace);
        let event = kube_event(cache, event, Timestamp::now());
        let params = PostParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        let request = events.create(&params, &event);
        self.counted("event", request).await.map(drop)
    }
}

/// Longest message of an event, in bytes: the API server refuses more.
const EVENT_MESSAGE_MAX: usize = 1_024;

/// A cache's status.
fn status_body(cache: &CacheId, status: impl serde::Serialize) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": "ImageCache",
        "metadata": { "name": cache.name },
        "status": status,
    })
}

/// A merge patch that takes a status away.
fn no_status() -> Value {
    json!({ "status": null })
}

/// A merge patch that takes an annotation away, unless another cache has the name by now.
fn without_annotation(cache: &CacheId, annotation: Annotation) -> Value {
    let name = match annotation {
        Annotation::Refresh => REFRESH_ANNOTATION,
        Annotation::Purge => PURGE_ANNOTATION,
    };
    json!({ "metadata": { "uid": cache.uid, "annotations": { name: null } } })
}

/// A merge patch that sets the finalizers, unless the object was changed since.
fn finalizers_patch(metadata: &ObjectMeta, finalizers: &[String]) -> Value {
    json!({
        "metadata": {
            "uid": metadata.uid,
            "resourceVersion": metadata.resource_version,
            "finalizers": finalizers,
        }
    })
}

/// An event about a cache.
fn kube_event(cache: &CacheId, event: &CacheEvent, now: Timestamp) -> Event {
    let mut end = event.message.len().min(EVENT_MESSAGE_MAX);
    while !event.message.is_char_boundary(end) {
        end -= 1;
    }
    Event {
        metadata: ObjectMeta {
            // As client-go names them: unique without asking.
            name: Some(event_name(cache, now)),
            namespace: Some(cache.namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some(format!("{GROUP}/{VERSION}")),
            kind: Some("ImageCache".to_owned()),
            namespace: Some(cache.namespace.clone()),
            name: Some(cache.name.clone()),
            uid: Some(cache.uid.clone()),
            ..ObjectReference::default()
        },
        reason: Some(event.reason.to_string()),
        message: event.message.get(..end).map(str::to_owned),
        type_: Some(if event.warning { "Warning" } else { "Normal" }.to_owned()),
        count: Some(1),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        source: Some(EventSource {
            component: Some(FIELD_MANAGER.to_owned()),
            host: None,
        }),
        reporting_component: Some(FIELD_MANAGER.to_owned()),
        ..Event::default()
    }
}

fn event_name(cache: &CacheId, now: Timestamp) -> String {
    // 253 in all; a dot and up to 32 digits follow.
    let name: String = cache.name.chars().take(220).collect();
    format!("{name}.{:x}", now.as_nanosecond())
}

/// What is remembered of the cache of that name.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    uid: String,
    /// Whether somebody else has written its status, kube-fledged for instance: what of it is not
    /// written over would stand there for ever.
    foreign: bool,
}

/// How a cache stands that a status is to be written of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    /// It is gone; another may have its name.
    Gone,
    /// It is there.
    Known,
    /// It is there, with a status that is not ours.
    Foreign,
}

/// Caches by namespace and name. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct SeenCaches(Arc<Mutex<BTreeMap<(String, String), Seen>>>);

impl SeenCaches {
    /// A cache is there.
    pub(super) fn note(&self, cache: &ReadCache) {
        let id = cache.id();
        let seen = Seen {
            uid: cache.uid().unwrap_or_default(),
            foreign: cache.has_foreign_status(),
        };
        self.lock().insert((id.namespace, id.name), seen);
    }

    /// A cache is gone. Another of its name stays.
    pub(super) fn forget(&self, cache: &CacheId) {
        let key = (cache.namespace.clone(), cache.name.clone());
        let mut seen = self.lock();
        if seen.get(&key).is_some_and(|seen| seen.uid == cache.uid) {
            seen.remove(&key);
        }
    }

    fn presence(&self, cache: &CacheId) -> Presence {
        let key = (cache.namespace.clone(), cache.name.clone());
        match self.lock().get(&key) {
            Some(seen) if seen.uid != cache.uid => Presence::Gone,
            Some(seen) if seen.foreign => Presence::Foreign,
            Some(_) => Presence::Known,
            None => Presence::Gone,
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(String, String), Seen>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_cache(uid: &str, status: serde_json::Value) -> ReadCache {
        let metadata = serde_json::json!({ "namespace": "a", "name": "web", "uid": uid });
        serde_json::from_value(serde_json::json!({ "metadata": metadata, "status": status }))
            .unwrap()
    }

    #[test]
    fn a_later_cache_of_the_same_name_is_another() {
        let caches = SeenCaches::default();
        let (old, new) = (mk_cache("1", ().into()), mk_cache("2", ().into()));
        caches.note(&old);
        assert_eq!(caches.presence(&old.id()), Presence::Known);
        caches.note(&new);
        assert_eq!(caches.presence(&old.id()), Presence::Gone);
        caches.forget(&old.id());
        assert_eq!(caches.presence(&new.id()), Presence::Known);
        caches.forget(&new.id());
        assert_eq!(caches.presence(&new.id()), Presence::Gone);
    }

    #[test]
    fn a_status_without_a_generation_is_somebody_elses() {
        let caches = SeenCaches::default();
        for (status, presence) in [
            (serde_json::json!({ "status": "Failed" }), Presence::Foreign),
            (
                serde_json::json!({ "observedGeneration": 1 }),
                Presence::Known,
            ),
            (serde_json::json!({}), Presence::Known),
        ] {
            let cache = mk_cache("1", status);
            caches.note(&cache);
            assert_eq!(caches.presence(&cache.id()), presence);
        }
    }
}
