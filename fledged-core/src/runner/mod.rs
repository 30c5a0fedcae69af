//! The loops that execute the commands of the state machines. They run on any async runtime: nothing is
//! spawned, and time comes from the [`Clock`](crate::port::Clock).

mod anonymous;
mod cluster_loop;
mod node_loop;
mod operation;
mod select;
mod write_policy;
mod write_queue;

pub use cluster_loop::{ClusterLoop, ClusterObserver, Ended, QueueDepth};
pub use node_loop::{NodeLoop, NodeObserver, PullOutcome};
