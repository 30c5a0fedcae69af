//! The port `Cluster` on Kubernetes: what is watched becomes events, what is decided becomes writes.

mod failure;
mod inventory;
mod kube_cluster;
mod metrics;
mod node;
mod seen;
mod stream;
#[cfg(test)]
mod stream_tests;
mod watch;
mod write;

pub use failure::write_failure;
pub(crate) use inventory::Inventory;
pub use kube_cluster::KubeCluster;
pub use metrics::ClusterMetrics;
pub use node::{NodeCondition, ReadNode};
pub(crate) use watch::{watch, watch_labelled};

/// Field manager of everything that the controller writes.
pub const FIELD_MANAGER: &str = "fledged-controller";
