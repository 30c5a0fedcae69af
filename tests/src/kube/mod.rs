//! Kubernetes for tests: an API server, nodes on it, runtimes in memory, and the operator's parts.

mod cluster;
mod envtest;
mod job_controller;
mod kubectl;
mod memory;
mod nodes;
mod running;
mod stand_in_kubelet;
mod test_node;
mod wait;
mod watch_soon;
mod way;
mod world;

pub(crate) use cluster::client_of;
pub use cluster::{ServerKind, TestCluster};
pub use kubectl::{Kubectl, KubectlOutput};
pub use memory::{MemoryRegistry, MemoryRuntime};
pub use nodes::{FakeNode, node_object};
pub(crate) use stand_in_kubelet::words;
pub use test_node::TestNode;
pub use wait::eventually;
pub use way::Way;
pub use world::{World, WorldOptions, cache_object};
