//! The objects of a simulated cluster, and the streams that watch them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use super::{Faults, SimRuntime};
use crate::model::{Assignment, CacheId, NodeFacts, NodeName, NodeReport};
use crate::planner::{CacheEvent, CacheFacts, ClusterEvent};
use crate::port::WriteFailure;

/// Events that one watcher has not received yet.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) events: VecDeque<ClusterEvent>,
    pub(super) waker: Option<Waker>,
}

/// A node. A node that is added again after its deletion is a different one.
#[derive(Debug)]
pub(super) struct SimNode {
    pub(super) facts: NodeFacts,
    pub(super) runtime: SimRuntime,
    pub(super) joined: u64,
}

#[derive(Debug, Default)]
pub(super) struct Objects {
    pub(super) caches: BTreeMap<CacheId, CacheFacts>,
    pub(super) nodes: BTreeMap<NodeName, SimNode>,
    /// Number of nodes added so far.
    pub(super) joins: u64,
    pub(super) records: BTreeMap<NodeName, Assignment>,
    pub(super) reports: BTreeMap<NodeName, NodeReport>,
    pub(super) events: Vec<(CacheId, CacheEvent)>,
    pub(super) writes: usize,
    pub(super) watchers: Vec<Arc<Mutex<Queue>>>,
    pub(super) faults: Faults,
    pub(super) rng: fastrand::Rng,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Objects {
    /// Sends an event to every watcher. Watchers whose stream was dropped are removed.
    pub(super) fn publish(&mut self, event: &ClusterEvent) {
        self.watchers.retain(|queue| Arc::strong_count(queue) > 1);
        for queue in &self.watchers {
            let mut queue = lock(queue);
            queue.events.push_back(event.clone());
            if let Some(waker) = queue.waker.take() {
                waker.wake();
            }
        }
    }

    /// Returns an event for each existing object, for a new watcher.
    pub(super) fn everything(&self) -> VecDeque<ClusterEvent> {
        let caches = self.caches.values().cloned().map(Box::new);
        let mut events: VecDeque<_> = caches.map(ClusterEvent::CacheApplied).collect();
        for (node, assignment) in self.records.clone() {
            events.push_back(ClusterEvent::AssignmentRecorded { node, assignment });
        }
        let nodes = self.nodes.values().map(|node| node.facts.clone());
        events.extend(nodes.map(ClusterEvent::NodeApplied));
        for (node, report) in self.reports.clone() {
            events.push_back(ClusterEvent::Reported { node, report });
        }
        events.push_back(ClusterEvent::Synced);
        events
    }

    /// Changes a cache. A cache that is being deleted is removed once it has no finalizer.
    pub(super) fn change(
        &mut self,
        id: &CacheId,
        change: impl FnOnce(&mut CacheFacts),
    ) -> Result<(), WriteFailure> {
        let Some(facts) = self.caches.get_mut(id) else {
            return Err(WriteFailure::Gone(id.to_string()));
        };
        let before = facts.clone();
        change(facts);
        if *facts == before {
            return Ok(());
        }
        let event = if facts.deleting && !facts.finalizer {
            self.caches.remove(id);
            ClusterEvent::CacheGone(id.clone())
        } else {
            ClusterEvent::CacheApplied(Box::new(facts.clone()))
        };
        self.publish(&event);
        Ok(())
    }

    pub(super) fn remove_record(&mut self, node: &NodeName) {
        self.reports.remove(node);
        if self.records.remove(node).is_some() {
            self.publish(&ClusterEvent::AssignmentGone(node.clone()));
        }
    }
}
