//! A cluster in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Poll;

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream, StreamExt};

use super::objects::{Objects, Queue, SimNode, lock};
use super::{Fault, Faults, SimClock, SimRuntime};
use crate::model::{
    AssignedImage, Assignment, CacheId, ImageCacheSpec, NodeFacts, NodeName, NodeReport,
};
use crate::planner::{Annotation, CacheEvent, CacheFacts, CacheStatus, ClusterEvent};
use crate::port::{Clock, Cluster, WriteFailure};

/// A [`Cluster`] in memory, on a [`SimClock`]. Each of its nodes runs the real warmer on a
/// [`SimRuntime`]. Clones share their state.
///
/// The `calls` faults of [`Faults`] apply to writes. A write that fails midway takes effect and returns a
/// failure.
#[derive(Debug, Clone)]
pub struct SimCluster {
    pub(super) clock: SimClock,
    objects: Arc<Mutex<Objects>>,
}

impl SimCluster {
    /// An empty cluster.
    #[must_use]
    pub fn new(clock: SimClock, seed: u64) -> Self {
        let objects = Objects {
            rng: fastrand::Rng::with_seed(seed),
            ..Objects::default()
        };
        Self {
            clock,
            objects: Arc::new(Mutex::new(objects)),
        }
    }

    /// Sets the faults of writes.
    #[must_use]
    pub fn with_faults(self, faults: Faults) -> Self {
        self.objects().faults = faults;
        self
    }

    pub(super) fn objects(&self) -> MutexGuard<'_, Objects> {
        lock(&self.objects)
    }

    /// Adds a node, or changes its facts. A known node keeps its runtime.
    pub fn apply_node(&self, facts: NodeFacts, runtime: SimRuntime) {
        let mut objects = self.objects();
        let name = facts.name.clone();
        let joined = objects.joins;
        objects.joins += 1;
        let new = || SimNode {
            facts: facts.clone(),
            runtime,
            joined,
        };
        let node = objects.nodes.entry(name).or_insert_with(new);
        node.facts = facts.clone();
        objects.publish(&ClusterEvent::NodeApplied(facts));
    }

    /// Makes a node Ready or NotReady. A NotReady node does not report.
    pub fn set_ready(&self, node: &NodeName, ready: bool) {
        let mut objects = self.objects();
        if let Some(node) = objects.nodes.get_mut(node) {
            node.facts.ready = ready;
            let facts = node.facts.clone();
            objects.publish(&ClusterEvent::NodeApplied(facts));
        }
    }

    /// Deletes a node and its record.
    pub fn remove_node(&self, node: &NodeName) {
        let mut objects = self.objects();
        objects.nodes.remove(node);
        objects.publish(&ClusterEvent::NodeGone(node.clone()));
        objects.remove_record(node);
    }

    /// Creates or edits a cache.
    pub fn apply_cache(&self, id: &CacheId, spec: &ImageCacheSpec) {
        let mut objects = self.objects();
        let known = objects.caches.get(id).cloned();
        let spec = spec.validate(id.clone());
        let facts = match known {
            Some(known) => CacheFacts {
                generation: known.generation + u64::from(known.spec != spec),
                spec,
                ..known
            },
            None => CacheFacts::new(id.clone(), 1, spec),
        };
        objects.caches.insert(id.clone(), facts.clone());
        objects.publish(&ClusterEvent::CacheApplied(Box::new(facts)));
    }

    /// Requests a refresh or a purge, if the cache exists.
    pub fn annotate(&self, id: &CacheId, annotation: Annotation) {
        let annotated = self.objects().change(id, |facts| match annotation {
            Annotation::Refresh => facts.refresh_requested = true,
            Annotation::Purge => facts.purge_requested = true,
        });
        // Fails only for a cache that does not exist, which has nothing to refresh or purge.
        annotated.ok();
    }

    /// Requests the deletion of a cache, which is deleted once it has no finalizer.
    pub fn delete_cache(&self, id: &CacheId) {
        let deleted = self.objects().change(id, |facts| facts.deleting = true);
        // It may be deleted already.
        deleted.ok();
    }

    /// The current state of a cache.
    #[must_use]
    pub fn cache(&self, id: &CacheId) -> Option<CacheFacts> {
        self.objects().caches.get(id).cloned()
    }

    /// The recorded status of a cache.
    #[must_use]
    pub fn status(&self, id: &CacheId) -> Option<CacheStatus> {
        self.cache(id)?.status
    }

    /// The recorded assignments of all nodes.
    #[must_use]
    pub fn assignments(&self) -> BTreeMap<NodeName, Assignment> {
        self.objects().records.clone()
    }

    /// The runtime of a node.
    #[must_use]
    pub fn runtime(&self, node: &NodeName) -> Option<SimRuntime> {
        let objects = self.objects();
        objects.nodes.get(node).map(|node| node.runtime.clone())
    }

    /// All events recorded about caches, in order.
    #[must_use]
    pub fn recorded_events(&self) -> Vec<(CacheId, CacheEvent)> {
        self.objects().events.clone()
    }

    /// Number of writes, including failed ones.
    #[must_use]
    pub fn writes(&self) -> usize {
        self.objects().writes
    }

    /// Records the report of a node.
    pub(super) fn report(&self, node: &NodeName, report: NodeReport) {
        let mut objects = self.objects();
        let known = objects.reports.insert(node.clone(), report.clone());
        if known.as_ref() != Some(&report) {
            let node = node.clone();
            objects.publish(&ClusterEvent::Reported { node, report });
        }
    }

    /// Executes a write, with the next fault.
    async fn write<T>(
        &self,
        write: impl FnOnce(&mut Objects) -> Result<T, WriteFailure> + Send,
    ) -> Result<T, WriteFailure> {
        let fault = {
            let mut guard = self.objects();
            let objects = &mut *guard;
            objects.writes += 1;
            let elapsed = self.clock.elapsed();
            objects.faults.draw_call(elapsed, &mut objects.rng)
        };
        match fault {
            Some(Fault::Fail(failure)) => return Err(WriteFailure::unavailable(failure.message)),
            Some(Fault::FailMidway(failure)) => {
                write(&mut self.objects())?;
                return Err(WriteFailure::unavailable(failure.message));
            }
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Slow(delay)) => self.clock.sleep(delay).await,
            None => {}
        }
        write(&mut self.objects())
    }
}

#[async_trait]
impl Cluster for SimCluster {
    fn events(&self) -> BoxStream<'static, ClusterEvent> {
        let mut objects = self.objects();
        let queue = Arc::new(Mutex::new(Queue {
            events: objects.everything(),
            waker: None,
        }));
        objects.watchers.push(Arc::clone(&queue));
        let next = move |context: &mut std::task::Context<'_>| {
            let mut queue = lock(&queue);
            match queue.events.pop_front() {
                Some(event) => Poll::Ready(Some(event)),
                None => {
                    queue.waker = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        };
        stream::poll_fn(next).boxed()
    }

    async fn write_assignment(
        &self,
        node: &NodeName,
        images: &[AssignedImage],
    ) -> Result<u64, WriteFailure> {
        let write = |objects: &mut Objects| {
            let known = objects.records.get(node);
            if let Some(known) = known.filter(|known| known.images == images) {
                return Ok(known.generation);
            }
            let generation = known.map_or(1, |known| known.generation + 1);
            let assignment = Assignment::new(generation, images.to_vec());
            objects.records.insert(node.clone(), assignment.clone());
            let node = node.clone();
            objects.publish(&ClusterEvent::AssignmentRecorded { node, assignment });
            Ok(generation)
        };
        self.write(write).await
    }

    async fn delete_assignment(&self, node: &NodeName) -> Result<(), WriteFailure> {
        let delete = |objects: &mut Objects| {
            objects.remove_record(node);
            Ok(())
        };
        self.write(delete).await
    }

    async fn write_status(
        &self,
        cache: &CacheId,
        status: &CacheStatus,
    ) -> Result<(), WriteFailure> {
        let status = Some(status.clone());
        self.write(|objects| objects.change(cache, |facts| facts.status = status))
            .await
    }

    async fn remove_annotation(
        &self,
        cache: &CacheId,
        annotation: Annotation,
    ) -> Result<(), WriteFailure> {
        let change = |facts: &mut CacheFacts| match annotation {
            Annotation::Refresh => facts.refresh_requested = false,
            Annotation::Purge => facts.purge_requested = false,
        };
        self.write(|objects| objects.change(cache, change)).await
    }

    async fn set_finalizer(&self, cache: &CacheId, present: bool) -> Result<(), WriteFailure> {
        let change = |facts: &mut CacheFacts| {
            facts.finalizer = present && (!facts.deleting || facts.finalizer);
        };
        self.write(|objects| objects.change(cache, change)).await
    }

    async fn record_event(&self, cache: &CacheId, event: &CacheEvent) -> Result<(), WriteFailure> {
        let recorded = (cache.clone(), event.clone());
        let record = |objects: &mut Objects| {
            objects.events.push(recorded);
            Ok(())
        };
        self.write(record).await
    }
}
