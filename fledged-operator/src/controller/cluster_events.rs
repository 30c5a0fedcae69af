//! From the watches of ImageCaches and Nodes, and the events of the node driver, to the events of the planner.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use fledged_core::model::{CacheId, NodeName};
use fledged_core::planner::ClusterEvent;
use fledged_kube::crd::ReadCache;
use fledged_kube::watch::{Change, ListedKeys, watch};
use futures_util::future;
use futures_util::stream::{self, BoxStream, StreamExt};
use kube::runtime::watcher::{Config, Event};
use kube::{Api, Client, ResourceExt};
use tracing::warn;

use crate::controller::known_caches::KnownCaches;
use crate::controller::kube_node::ReadNode;

/// UIDs of the existing Nodes, for the owner references of their NodeImageCaches. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct NodeUids(Arc<Mutex<BTreeMap<NodeName, String>>>);

impl NodeUids {
    pub(super) fn get(&self, node: &NodeName) -> Option<String> {
        let uids = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        uids.get(node).cloned()
    }

    /// Sets the UID; returns the previous one.
    fn set(&self, node: &NodeName, uid: String) -> Option<String> {
        let mut uids = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        uids.insert(node.clone(), uid)
    }

    fn remove(&self, node: &NodeName) {
        let mut uids = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        uids.remove(node);
    }
}

/// An event of one of the watches or of the driver.
pub(super) enum SourceEvent {
    Cache(Event<ReadCache>),
    Node(Event<ReadNode>),
    Driver(ClusterEvent),
}

/// The events of caches, nodes and assignments; [`ClusterEvent::Synced`] once all three lists are complete. Ends when
/// the events of the driver end.
pub(super) fn events(
    client: &Client,
    namespace: Option<&str>,
    driver: BoxStream<'static, ClusterEvent>,
    uids: NodeUids,
    known: KnownCaches,
) -> BoxStream<'static, ClusterEvent> {
    let caches = match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let caches = watch(caches, Config::default())
        .map(SourceEvent::Cache)
        .boxed();
    let nodes = watch(Api::all(client.clone()), Config::default())
        .map(SourceEvent::Node)
        .boxed();
    merge_sources([caches, nodes], driver, uids, known)
}

/// Merges the two watches and the events of the driver.
pub(super) fn merge_sources(
    watches: [BoxStream<'static, SourceEvent>; 2],
    driver: BoxStream<'static, ClusterEvent>,
    uids: NodeUids,
    known: KnownCaches,
) -> BoxStream<'static, ClusterEvent> {
    // The watches never end. A controller without driver events must end, so the end of the driver ends the stream.
    let driver = driver
        .map(|event| Some(SourceEvent::Driver(event)))
        .chain(stream::iter([None]))
        .boxed();
    let watches = watches.map(|watch| watch.map(Some).boxed());
    let mut reader = EventReader::new(uids, known);
    stream::select_all(watches.into_iter().chain([driver]))
        .take_while(|event| future::ready(event.is_some()))
        .flat_map(move |event| {
            let events = event.map(|event| reader.read(event));
            stream::iter(events.unwrap_or_default())
        })
        .boxed()
}

/// Converts events of the sources to events of the planner.
struct EventReader {
    caches: ListedKeys<CacheId>,
    nodes: ListedKeys<NodeName>,
    uids: NodeUids,
    known: KnownCaches,
    /// Whether the list of assignments is complete.
    driver_listed: bool,
    synced: bool,
}

impl EventReader {
    fn new(uids: NodeUids, known: KnownCaches) -> Self {
        Self {
            caches: ListedKeys::default(),
            nodes: ListedKeys::default(),
            uids,
            known,
            driver_listed: false,
            synced: false,
        }
    }

    fn read(&mut self, event: SourceEvent) -> Vec<ClusterEvent> {
        let mut events = match event {
            SourceEvent::Cache(event) => self.read_cache(event),
            SourceEvent::Node(event) => self.read_node(event),
            SourceEvent::Driver(event) => self.read_driver(event),
        };
        let driver_listed =
            self.driver_listed || fledged_core::planted::is("planned-before-all-lists");
        let listed = self.caches.is_listed() && self.nodes.is_listed() && driver_listed;
        if !self.synced && listed {
            self.synced = true;
            events.push(ClusterEvent::Synced);
        }
        events
    }

    fn read_cache(&mut self, event: Event<ReadCache>) -> Vec<ClusterEvent> {
        match self.caches.apply(event, |cache| Some(cache.id())) {
            Change::Applied(_, cache) => {
                self.known.insert(&cache);
                vec![ClusterEvent::CacheApplied(Box::new(cache.into_facts()))]
            }
            Change::Gone(gone) => {
                gone.iter().for_each(|id| self.known.remove(id));
                gone.into_iter().map(ClusterEvent::CacheGone).collect()
            }
        }
    }

    fn read_node(&mut self, event: Event<ReadNode>) -> Vec<ClusterEvent> {
        match self.nodes.apply(event, ReadNode::name) {
            Change::Applied(name, node) => {
                let uid = node.uid().unwrap_or_default();
                let before = self.uids.set(&name, uid.clone());
                let replaced = before.is_some_and(|before| {
                    before != uid && !fledged_core::planted::is("replaced-node-unnoticed")
                });
                let gone = replaced.then(|| ClusterEvent::NodeGone(name.clone()));
                let applied = ClusterEvent::NodeApplied(node.into_facts(name));
                gone.into_iter().chain([applied]).collect()
            }
            Change::Gone(gone) => {
                gone.iter().for_each(|name| self.uids.remove(name));
                gone.into_iter().map(ClusterEvent::NodeGone).collect()
            }
        }
    }

    /// Passes on assignments and reports. Other events of a driver are ignored.
    fn read_driver(&mut self, event: ClusterEvent) -> Vec<ClusterEvent> {
        match event {
            ClusterEvent::Synced => {
                self.driver_listed = true;
                Vec::new()
            }
            ClusterEvent::AssignmentRecorded { .. }
            | ClusterEvent::AssignmentGone(_)
            | ClusterEvent::Reported { .. }
            | ClusterEvent::AgentUnresponsive(_) => vec![event],
            event => {
                warn!(?event, "unexpected event of a node driver ignored");
                Vec::new()
            }
        }
    }
}
