//! The port itself.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use fledged_core::model::{AssignedImage, CacheId, NodeName};
use fledged_core::planner::{Annotation, CacheEvent, CacheStatus, ClusterEvent};
use fledged_core::port::{Cluster, WriteFailure};
use futures_util::stream::{BoxStream, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::Value;
use tracing::{debug, info};

use super::failure::write_failure;
use super::metrics::ClusterMetrics;
use super::seen::{Presence, SeenCaches};
use super::stream::{self, NodeUids};
use super::{FIELD_MANAGER, write};
use crate::crd::{FINALIZER, ImageCacheStatus, ReadCache};
use crate::driver::{AgentDriver, NodeDriver, NodeTarget};

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
        let body = write::status(cache, ImageCacheStatus::from(status));
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
        let clear = Patch::Merge(write::no_status());
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
        let patch = write::finalizers(&metadata, &finalizers);
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
        let events = stream::events(&self.client, self.namespace.as_deref(), driver, uids, seen);
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
        let patch = write::without_annotation(cache, annotation);
        self.merge("annotation", cache, patch).await
    }

    async fn set_finalizer(&self, cache: &CacheId, present: bool) -> Result<(), WriteFailure> {
        self.finalize(cache, present).await
    }

    async fn record_event(&self, cache: &CacheId, event: &CacheEvent) -> Result<(), WriteFailure> {
        info!(%cache, reason = %event.reason, warning = event.warning, message = event.message, "image cache");
        let events: Api<Event> = Api::namespaced(self.client.clone(), &cache.namespace);
        let event = write::event(cache, event, Timestamp::now());
        let params = PostParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        let request = events.create(&params, &event);
        self.counted("event", request).await.map(drop)
    }
}
