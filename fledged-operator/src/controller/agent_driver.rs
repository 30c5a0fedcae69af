//! The node driver for nodes with agents: assignments are the specs of NodeImageCaches, reports are their status.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use async_trait::async_trait;
use fledged_core::model::{AssignedImage, NodeName};
use fledged_core::planner::ClusterEvent;
use fledged_core::port::WriteFailure;
use fledged_kube::crd::{GROUP, NodeImageCacheSpec, ReadNodeCache, VERSION};
use fledged_kube::request_error::write_failure;
use fledged_kube::watch::{Change, ListedKeys, watch};
use futures_util::stream::{self, BoxStream, Stream, StreamExt};
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::runtime::watcher::{Config, Event};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tracing::debug;

use crate::controller::FIELD_MANAGER;
use crate::controller::node_driver::{NodeDriver, NodeTarget};

/// Stores assignments as the specs of NodeImageCaches. The [`agent`](crate::agent) of each node watches its own and
/// reports in its status.
///
/// Specs are written by server-side apply under [`FIELD_MANAGER`]. A NodeImageCache is owned by its Node, so that it
/// is deleted with it. In memory, the driver holds the version of each object that was last sent to the planner.
#[derive(Clone)]
pub struct AgentDriver {
    client: Client,
}

impl fmt::Debug for AgentDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentDriver").finish_non_exhaustive()
    }
}

impl AgentDriver {
    /// The agents of the cluster of this client.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// Converts a watch of NodeImageCaches to events of the planner.
    pub(crate) fn driver_events(
        watch: impl Stream<Item = Event<ReadNodeCache>> + Send + 'static,
    ) -> impl Stream<Item = ClusterEvent> + Send + 'static {
        let mut records = RecordReader::default();
        watch.flat_map(move |event| stream::iter(records.read(event)))
    }

    fn records(&self) -> Api<ReadNodeCache> {
        Api::all(self.client.clone())
    }
}

#[async_trait]
impl NodeDriver for AgentDriver {
    fn events(&self) -> BoxStream<'static, ClusterEvent> {
        Self::driver_events(watch(self.records(), Config::default())).boxed()
    }

    async fn assign(
        &self,
        node: &NodeTarget,
        images: &[AssignedImage],
    ) -> Result<u64, WriteFailure> {
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let patch = Patch::Apply(body(node, images));
        let records = self.records();
        let written = records.patch_metadata(node.name.as_str(), &params, &patch);
        let written = written.await.map_err(write_failure)?;
        let generation = written.metadata.generation.unwrap_or_default();
        Ok(u64::try_from(generation).unwrap_or_default())
    }

    async fn release(&self, node: &NodeName) -> Result<(), WriteFailure> {
        let params = DeleteParams::default();
        let deleted = self.records().delete(node.as_str(), &params).await;
        deleted.map(drop).map_err(write_failure)
    }
}

/// The body of an assignment, owned by its Node.
fn body(node: &NodeTarget, images: &[AssignedImage]) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": "NodeImageCache",
        "metadata": {
            "name": node.name,
            "ownerReferences": [{
                "apiVersion": "v1",
                "kind": "Node",
                "name": node.name,
                "uid": node.uid,
            }],
        },
        "spec": NodeImageCacheSpec::from_images(images),
    })
}

/// The version of a NodeImageCache that was last sent.
#[derive(Debug, PartialEq, Eq)]
struct RecordVersion {
    uid: String,
    generation: u64,
    status: u64,
}

/// Finds the changes in a watch of NodeImageCaches.
#[derive(Debug, Default)]
pub(super) struct RecordReader {
    records: ListedKeys<NodeName>,
    versions: BTreeMap<NodeName, RecordVersion>,
}

impl RecordReader {
    pub(super) fn read(&mut self, event: Event<ReadNodeCache>) -> Vec<ClusterEvent> {
        let was_listed = self.records.is_listed();
        let name = |record: &ReadNodeCache| NodeName::new(record.name_any()).ok();
        let mut events = match self.records.apply(event, name) {
            Change::Applied(node, record) => self.recorded(node, &record),
            Change::Gone(gone) => {
                gone.iter()
                    .for_each(|node| drop(self.versions.remove(node)));
                gone.into_iter().map(ClusterEvent::AssignmentGone).collect()
            }
        };
        if !was_listed && self.records.is_listed() {
            events.push(ClusterEvent::Synced);
        }
        events
    }

    /// The events of a changed object. A spec change is not a report, and the echo of a write causes none.
    fn recorded(&mut self, node: NodeName, record: &ReadNodeCache) -> Vec<ClusterEvent> {
        let mut hasher = DefaultHasher::new();
        let part = if fledged_core::planted::is("report-of-equal-count-missed") {
            record.status.get("cached").unwrap_or(&record.status)
        } else {
            &record.status
        };
        part.hash(&mut hasher);
        let seen = RecordVersion {
            uid: record.uid().unwrap_or_default(),
            generation: record.generation(),
            status: hasher.finish(),
        };
        let (uid, generation, status) = (seen.uid.clone(), seen.generation, seen.status);
        let before = self.versions.insert(node.clone(), seen);
        let before = before.as_ref();
        let mut events = Vec::new();
        if before.is_some_and(|before| before.uid != uid) {
            events.push(ClusterEvent::AssignmentGone(node.clone()));
        }
        let before = before.filter(|before| before.uid == uid);
        if before.is_none_or(|before| before.generation != generation) {
            let (assignment, invalid) = record.assignment();
            for problem in invalid {
                // The assignment then differs from the desired one and is written again.
                debug!(%node, %problem, "invalid assignment entry ignored");
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
