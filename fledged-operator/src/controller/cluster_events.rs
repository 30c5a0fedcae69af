//! From the watches of ImageCaches and Nodes, and the events of the node driver, to the events of the planner.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use fledged_core::model::{CacheId, NodeName};
use fledged_core::planner::ClusterEvent;
use futures_util::future;
use futures_util::stream::{self, BoxStream, StreamExt};
use kube::runtime::watcher::Event;
use kube::{Api, Client, ResourceExt};
use tracing::warn;

use crate::api::watch::{Inventory, watch};
use crate::controller::kube_cluster::SeenCaches;
use crate::controller::kube_node::ReadNode;
use crate::crd::ReadCache;

/// UIDs of the nodes that exist, for the owner references of their records.
#[derive(Debug, Clone, Default)]
pub(super) struct NodeUids(Arc<Mutex<BTreeMap<NodeName, String>>>);

impl NodeUids {
    pub(super) fn get(&self, node: &NodeName) -> Option<String> {
        let uids = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        uids.get(node).cloned()
    }

    /// Returns the one that was known before.
    fn set(&self, node: &NodeName, uid: String) -> Option<String> {
        let mut uids = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        uids.insert(node.clone(), uid)
    }

    fn remove(&self, node: &NodeName) {
        let mut uids = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        uids.remove(node);
    }
}

/// Something that one of the watches told, or the driver.
pub(super) enum Told {
    Cache(Event<ReadCache>),
    Node(Event<ReadNode>),
    Driver(ClusterEvent),
}

/// Everything that happens to caches, nodes and what they were assigned; [`ClusterEvent::Synced`] once
/// all three were listed. Ends with the driver's events.
pub(super) fn events(
    client: &Client,
    namespace: Option<&str>,
    driver: BoxStream<'static, ClusterEvent>,
    uids: NodeUids,
    seen: SeenCaches,
) -> BoxStream<'static, ClusterEvent> {
    let caches = match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let caches = watch(caches).map(Told::Cache).boxed();
    let nodes = watch(Api::all(client.clone())).map(Told::Node).boxed();
    composed([caches, nodes], driver, uids, seen)
}

/// What both watches and the driver tell, in one row.
pub(super) fn composed(
    watches: [BoxStream<'static, Told>; 2],
    driver: BoxStream<'static, ClusterEvent>,
    uids: NodeUids,
    seen: SeenCaches,
) -> BoxStream<'static, ClusterEvent> {
    // Watches never end. Without its driver a controller would go on deaf, so its end is everybody's.
    let driver = driver.map(|event| Some(Told::Driver(event)));
    let driver = driver.chain(stream::iter([None])).boxed();
    let watches = watches.map(|watch| watch.map(Some).boxed());
    let told = stream::select_all(watches.into_iter().chain([driver]));
    let told = told.take_while(|told| future::ready(told.is_some()));
    let mut reader = Reader::new(uids, seen);
    told.flat_map(move |told| stream::iter(told.map(|told| reader.read(told)).unwrap_or_default()))
        .boxed()
}

struct Reader {
    caches: Inventory<CacheId, ()>,
    nodes: Inventory<NodeName, ()>,
    uids: NodeUids,
    seen: SeenCaches,
    /// Whether caches, nodes and what they were assigned were listed.
    listed: [bool; 3],
    synced: bool,
}

impl Reader {
    fn new(uids: NodeUids, seen: SeenCaches) -> Self {
        Self {
            caches: Inventory::new(),
            nodes: Inventory::new(),
            uids,
            seen,
            listed: [false; 3],
            synced: false,
        }
    }

    fn read(&mut self, told: Told) -> Vec<ClusterEvent> {
        let mut events = match told {
            Told::Cache(event) => self.read_cache(event),
            Told::Node(event) => self.read_node(event),
            Told::Driver(event) => self.read_driver(event),
        };
        if !self.synced && self.listed == [true; 3] {
            self.synced = true;
            events.push(ClusterEvent::Synced);
        }
        events
    }

    fn read_cache(&mut self, event: Event<ReadCache>) -> Vec<ClusterEvent> {
        match event {
            Event::Init => {
                self.caches.begin();
                Vec::new()
            }
            Event::InitApply(cache) | Event::Apply(cache) => {
                self.caches.put(cache.id(), ());
                self.seen.note(&cache);
                vec![ClusterEvent::CacheApplied(Box::new(cache.into_facts()))]
            }
            Event::Delete(cache) => {
                self.caches.remove(&cache.id());
                self.seen.forget(&cache.id());
                vec![ClusterEvent::CacheGone(cache.id())]
            }
            Event::InitDone => {
                self.listed[0] = true;
                let gone = self.caches.end();
                gone.iter().for_each(|id| self.seen.forget(id));
                gone.into_iter().map(ClusterEvent::CacheGone).collect()
            }
        }
    }

    fn read_node(&mut self, event: Event<ReadNode>) -> Vec<ClusterEvent> {
        match event {
            Event::Init => {
                self.nodes.begin();
                Vec::new()
            }
            Event::InitApply(node) | Event::Apply(node) => {
                let Some(name) = node.name() else {
                    return Vec::new();
                };
                self.nodes.put(name.clone(), ());
                let uid = node.uid().unwrap_or_default();
                let before = self.uids.set(&name, uid.clone());
                let another = before.is_some_and(|before| before != uid);
                let gone = another.then(|| ClusterEvent::NodeGone(name.clone()));
                let applied = ClusterEvent::NodeApplied(node.into_facts(name));
                gone.into_iter().chain([applied]).collect()
            }
            Event::Delete(node) => match node.name() {
                None => Vec::new(),
                Some(name) => {
                    self.nodes.remove(&name);
                    self.uids.remove(&name);
                    vec![ClusterEvent::NodeGone(name)]
                }
            },
            Event::InitDone => {
                self.listed[1] = true;
                let gone = self.nodes.end();
                gone.iter().for_each(|name| self.uids.remove(name));
                gone.into_iter().map(ClusterEvent::NodeGone).collect()
            }
        }
    }

    /// A driver reports only assignments and node reports; other events are not its to make.
    fn read_driver(&mut self, event: ClusterEvent) -> Vec<ClusterEvent> {
        match event {
            ClusterEvent::Synced => {
                self.listed[2] = true;
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
