//! The port `Cluster` on Kubernetes: what is watched becomes events, what is decided becomes writes.

mod failure;
mod inventory;
mod kube_cluster;
mod metrics;
mod node;
mod seen;
mod stream;
mod write;

pub use kube_cluster::KubeCluster;
pub use metrics::ClusterMetrics;
pub use node::{NodeCondition, ReadNode};

/// Field manager of everything that the controller writes.
pub const FIELD_MANAGER: &str = "fledged-controller";
