//! The loops that carry out what the machines decide. They hold no decisions and run on any async
//! runtime: nothing is spawned, time comes from the [`Clock`](crate::ports::Clock).

mod cluster;
mod node;
mod operation;
mod wait;
mod writes;

pub use cluster::{ClusterLoop, ClusterObserver, Ended, QueueDepth};
pub use node::{NodeInput, NodeLoop, NodeObserver};
