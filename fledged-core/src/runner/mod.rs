//! The loops that carry out what the machines decide. They hold no decisions and run on any async
//! runtime: nothing is spawned, time comes from the [`Clock`](crate::port::Clock).

mod cluster_loop;
mod node_loop;
mod operation;
mod wait;
mod writes;

pub use cluster_loop::{ClusterLoop, ClusterObserver, Ended, QueueDepth};
pub use node_loop::{NodeInput, NodeLoop, NodeObserver};
