//! Kubernetes for tests: an API server, nodes on it, runtimes in memory, and the operator's parts.

mod cluster;
mod envtest;
mod job_controller;
mod kubectl;
mod memory;
mod nodes;
mod stand_in_kubelet;
mod wait;
mod watch_soon;
mod way;
mod world;

pub use cluster::{ServerKind, TestCluster};
pub use kubectl::{Kubectl, KubectlOutput};
pub use memory::{MemoryRegistry, MemoryRuntime};
pub use nodes::{FakeNode, node_object};
pub use wait::eventually;
pub use way::Way;
pub use world::{TestNode, World, WorldOptions, cache_object};
