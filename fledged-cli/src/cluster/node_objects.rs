//! Reading Nodes and their records.

use fledged_operator::cluster::ReadNode;
use fledged_operator::crd::ReadNodeCache;
use kube::Api;

use super::connect::Connection;
use super::error::ClusterError;

const RECORDS: &str = "nodeimagecaches.kubefledged.io";
const NODES: &str = "nodes";

impl Connection {
    /// Every Node.
    pub(super) async fn list_nodes(&self) -> Result<Vec<ReadNode>, ClusterError> {
        self.list(Api::all(self.client.clone()), NODES, None).await
    }

    /// Every NodeImageCache.
    pub(super) async fn list_records(&self) -> Result<Vec<ReadNodeCache>, ClusterError> {
        self.list(Api::all(self.client.clone()), RECORDS, None)
            .await
    }
}
