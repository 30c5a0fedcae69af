//! The port `Cluster` on Kubernetes: watches become events, commands become writes.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use fledged_core::model::{AssignedImage, CacheId, NodeName};
use fledged_core::planner::{Annotation, CacheEvent, CacheStatus, ClusterEvent};
use fledged_core::port::{Cluster, WriteFailure};
use fledged_kube::crd::{
    FINALIZER, GROUP, ImageCacheStatus, PURGE_ANNOTATION, REFRESH_ANNOTATION, ReadCache, VERSION,
};
use fledged_kube::request_error::write_failure;
use futures_util::stream::{BoxStream, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tracing::{debug, info};

use crate::controller::FIELD_MANAGER;
use crate::controller::agent_driver::AgentDriver;
use crate::controller::cluster_events::{self, NodeUids};
use crate::controller::known_caches::{KnownCaches, StatusTarget};
use crate::controller::node_driver::{NodeDriver, NodeTarget};
use crate::metrics::ClusterMetrics;

/// The port [`Cluster`] on Kubernetes.
///
/// It watches ImageCaches and Nodes, and writes ImageCache statuses by server-side apply under the field manager
/// [`FIELD_MANAGER`]. Assignments and reports go through a [`NodeDriver`]. In memory it holds only the UIDs of nodes
/// and the identities of caches.
#[derive(Clone)]
pub struct KubeCluster {
    client: Client,
    /// How assignments reach nodes. A caller that sets another driver has to run [`NodeDriver::run`], as a
    /// [`Controller`](crate::controller::Controller) does. Default [`AgentDriver`].
    pub driver: Arc<dyn NodeDriver>,
    /// The only namespace whose ImageCaches are served. Default: all namespaces.
    pub namespace: Option<String>,
    uids: NodeUids,
    known: KnownCaches,
    pub(super) metrics: ClusterMetrics,
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
    /// The cluster of this client, with agents on its nodes ([`AgentDriver`]).
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self {
            driver: Arc::new(AgentDriver::new(client.clone())),
            client,
            namespace: None,
            uids: NodeUids::default(),
            known: KnownCaches::default(),
            metrics: ClusterMetrics::default(),
            synced: Arc::default(),
        }
    }

    /// Whether all lists are complete.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.synced.load(Ordering::Relaxed)
    }

    fn caches(&self, cache: &CacheId) -> Api<ReadCache> {
        Api::namespaced(self.client.clone(), &cache.namespace)
    }

    /// Sends a request, counts it and classifies its failure.
    async fn counted<T>(
        &self,
        what: &'static str,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, WriteFailure> {
        let result = request.await.map_err(write_failure);
        self.metrics.count_write(what, result.as_ref().err());
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

    /// Writes a status. The API server does not compare the UID in the body of a status apply, so it is checked here,
    /// before and after the write.
    async fn put_status(&self, cache: &CacheId, status: &CacheStatus) -> Result<(), WriteFailure> {
        let gone = || WriteFailure::Gone("another image cache may have its name".to_owned());
        match self.known.status_target(cache) {
            StatusTarget::Gone => return Err(gone()),
            // A server-side apply keeps the fields of other managers.
            StatusTarget::Foreign => self.clear_status(cache).await?,
            StatusTarget::Ours => {}
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
            let problem = "it was replaced by another image cache of that name";
            return Err(WriteFailure::Gone(problem.to_owned()));
        }
        let mut finalizers = metadata.finalizers.clone().unwrap_or_default();
        let there = finalizers.iter().any(|name| name == FINALIZER);
        if there == present {
            return Ok(());
        }
        if present {
            finalizers.push(FINALIZER.to_owned())
        } else {
            finalizers.retain(|name| name != FINALIZER)
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
        let (uids, known) = (self.uids.clone(), self.known.clone());
        let driver = self.driver.events();
        let events =
            cluster_events::events(&self.client, self.namespace.as_deref(), driver, uids, known);
        let (metrics, synced) = (self.metrics.clone(), Arc::clone(&self.synced));
        let events = events.inspect(move |event| {
            metrics.observe(event);
            if matches!(event, ClusterEvent::Synced) {
                synced.store(true, Ordering::Relaxed);
            }
        });
        events.boxed()
    }

    async fn write_assignment(
        &self,
        node: &NodeName,
        images: &[AssignedImage],
    ) -> Result<u64, WriteFailure> {
        let Some(uid) = self.uids.get(node) else {
            return Err(WriteFailure::Gone(
                "the node does not exist any more".to_owned(),
            ));
        };
        debug!(%node, images = images.len(), "writing assignment");
        let target = NodeTarget::new(node.clone(), uid);
        let result = self.driver.assign(&target, images).await;
        self.metrics
            .count_write("assignment", result.as_ref().err());
        result
    }

    async fn delete_assignment(&self, node: &NodeName) -> Result<(), WriteFailure> {
        debug!(%node, "deleting assignment");
        let result = self.driver.release(node).await;
        self.metrics
            .count_write("assignment", result.as_ref().err());
        match result {
            Err(WriteFailure::Gone(_)) => Ok(()),
            Err(_) if fledged_core::planted::is("failed-deletion-ignored") => Ok(()),
            result => result,
        }
    }

    async fn write_status(
        &self,
        cache: &CacheId,
        status: &CacheStatus,
    ) -> Result<(), WriteFailure> {
        debug!(%cache, reason = %status.reason, status = %status.status, message = status.message, "writing image cache status");
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
        info!(%cache, reason = %event.reason, warning = event.warning, message = event.message, "image cache event");
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

/// Longest message of an event in bytes. The API server rejects longer ones.
const EVENT_MESSAGE_MAX: usize = 1_024;

/// The body of a status apply.
fn status_body(cache: &CacheId, status: impl serde::Serialize) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": "ImageCache",
        "metadata": { "name": cache.name },
        "status": status,
    })
}

/// A merge patch that removes the status.
fn no_status() -> Value {
    json!({ "status": null })
}

/// A merge patch that removes an annotation, if the UID still matches.
fn without_annotation(cache: &CacheId, annotation: Annotation) -> Value {
    let name = match annotation {
        Annotation::Refresh => REFRESH_ANNOTATION,
        Annotation::Purge => PURGE_ANNOTATION,
    };
    json!({ "metadata": { "uid": cache.uid, "annotations": { name: null } } })
}

/// A merge patch that sets the finalizers, if the object has not changed.
fn finalizers_patch(metadata: &ObjectMeta, finalizers: &[String]) -> Value {
    json!({
        "metadata": {
            "uid": metadata.uid,
            "resourceVersion": metadata.resource_version,
            "finalizers": finalizers,
        }
    })
}

/// A Kubernetes event about a cache.
fn kube_event(cache: &CacheId, event: &CacheEvent, now: Timestamp) -> Event {
    let mut end = event.message.len().min(EVENT_MESSAGE_MAX);
    while !event.message.is_char_boundary(end) {
        end -= 1;
    }
    Event {
        metadata: ObjectMeta {
            // The naming scheme of client-go: unique without generateName.
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
