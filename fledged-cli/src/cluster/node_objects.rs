//! Reading Nodes and their records.

use std::fmt::Debug;

use fledged_operator::controller::ReadNode;
use fledged_operator::crd::ReadNodeCache;
use kube::Api;
use serde::de::DeserializeOwned;

use super::connect::Connection;
use super::error::{ClusterError, Request};

pub(super) const RECORDS: &str = "nodeimagecaches.kubefledged.io";
pub(super) const NODES: &str = "nodes";

impl Connection {
    /// Every Node.
    pub(crate) async fn list_nodes(&self) -> Result<Vec<ReadNode>, ClusterError> {
        self.list(Api::all(self.client.clone()), NODES, None).await
    }

    /// Every NodeImageCache.
    pub(crate) async fn list_records(&self) -> Result<Vec<ReadNodeCache>, ClusterError> {
        self.list(Api::all(self.client.clone()), RECORDS, None)
            .await
    }

    /// An object without a namespace, if there is one.
    pub(super) async fn find<K>(
        &self,
        resource: &'static str,
        name: &str,
    ) -> Result<Option<K>, ClusterError>
    where
        K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        let api: Api<K> = Api::all(self.client.clone());
        let request = Request {
            verb: "get",
            resource,
            namespace: None,
            name: Some(name.to_owned()),
        };
        match api.get(name).await.map(Some) {
            Ok(found) => Ok(found),
            Err(error) => match self.failed(request, &error) {
                ClusterError::NotFound { .. } => Ok(None),
                error => Err(error),
            },
        }
    }
}
