//! From NodeImageCaches, as they are watched, to what a driver tells.

use std::hash::{DefaultHasher, Hash, Hasher};

use fledged_core::model::NodeName;
use fledged_core::planner::ClusterEvent;
use kube::ResourceExt;
use kube::runtime::watcher::Event;
use tracing::debug;

use crate::cluster::Inventory;
use crate::crd::ReadNodeCache;

/// What was last told of a node's record.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    uid: String,
    generation: u64,
    status: u64,
}

/// What was told of all of them.
#[derive(Debug)]
pub(super) struct Records {
    seen: Inventory<NodeName, Seen>,
}

impl Records {
    pub(super) fn new() -> Self {
        Self {
            seen: Inventory::new(),
        }
    }

    pub(super) fn read(&mut self, event: Event<ReadNodeCache>) -> Vec<ClusterEvent> {
        match event {
            Event::Init => {
                self.seen.begin();
                Vec::new()
            }
            Event::InitApply(record) | Event::Apply(record) => self.recorded(&record),
            Event::Delete(record) => match NodeName::new(record.name_any()) {
                Err(_) => Vec::new(),
                Ok(name) => {
                    self.seen.remove(&name);
                    vec![ClusterEvent::AssignmentGone(name)]
                }
            },
            Event::InitDone => {
                let gone = self.seen.end().into_iter();
                let gone = gone.map(ClusterEvent::AssignmentGone);
                gone.chain([ClusterEvent::Synced]).collect()
            }
        }
    }

    /// Only what is new is told: an echo of our own write is not a word of the agent's.
    fn recorded(&mut self, record: &ReadNodeCache) -> Vec<ClusterEvent> {
        let Ok(node) = NodeName::new(record.name_any()) else {
            return Vec::new();
        };
        let mut hasher = DefaultHasher::new();
        record.status.hash(&mut hasher);
        let seen = Seen {
            uid: record.uid().unwrap_or_default(),
            generation: record.generation(),
            status: hasher.finish(),
        };
        let (uid, generation, status) = (seen.uid.clone(), seen.generation, seen.status);
        let before = self.seen.put(node.clone(), seen);
        let before = before.as_ref();
        let mut events = Vec::new();
        if before.is_some_and(|before| before.uid != uid) {
            events.push(ClusterEvent::AssignmentGone(node.clone()));
        }
        let before = before.filter(|before| before.uid == uid);
        if before.is_none_or(|before| before.generation != generation) {
            let (assignment, invalid) = record.assignment();
            for problem in invalid {
                // It differs from what is wanted, and is written anew.
                debug!(%node, %problem, "an entry of a node image cache can't be read");
            }
            events.push(ClusterEvent::AssignmentRecorded {
                node: node.clone(),
                assignment,
            });
        }
        if before.is_none_or(|before| before.status != status)
            && let Some(report) = record.report()
        {
            events.push(ClusterEvent::Reported { node, report });
        }
        events
    }
}
