//! The driver whose nodes have agents.

use std::fmt;

use async_trait::async_trait;
use fledged_core::model::{AssignedImage, NodeName};
use fledged_core::planner::ClusterEvent;
use fledged_core::port::WriteFailure;
use futures_util::stream::{self, BoxStream, Stream, StreamExt};
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::runtime::watcher::Event;
use kube::{Api, Client};
use serde_json::{Value, json};

use super::node_driver::{NodeDriver, NodeTarget};
use super::records::Records;
use crate::cluster::{FIELD_MANAGER, watch, write_failure};
use crate::crd::{GROUP, NodeImageCacheSpec, ReadNodeCache, VERSION};

/// Assignments are recorded as the specs of NodeImageCaches, which the [`agent`](crate::agent) of each
/// node watches and answers in their status.
///
/// Specs are written by server-side apply under [`FIELD_MANAGER`]. A NodeImageCache is owned by its
/// Node, so that it goes with it. Of each, what was last told is held in memory, as a number.
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
    /// The agents of the cluster that this client speaks to.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// What a watch of the records tells a controller.
    pub(crate) fn told(
        watch: impl Stream<Item = Event<ReadNodeCache>> + Send + 'static,
    ) -> impl Stream<Item = ClusterEvent> + Send + 'static {
        let mut records = Records::new();
        watch.flat_map(move |event| stream::iter(records.read(event)))
    }

    fn records(&self) -> Api<ReadNodeCache> {
        Api::all(self.client.clone())
    }
}

#[async_trait]
impl NodeDriver for AgentDriver {
    fn events(&self) -> BoxStream<'static, ClusterEvent> {
        Self::told(watch(self.records())).boxed()
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

/// An assignment, owned by its node.
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
