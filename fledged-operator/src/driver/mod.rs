//! How an assignment reaches a node, and how it is learnt what the node made of it.
//!
//! [`AgentDriver`] is the default: a NodeImageCache for each node, which the agent on it watches and
//! answers. [`NodeDriver`] is the seam for every other way: Jobs, a gateway that nodes are behind, an
//! image that is built. Whoever implements it is handed to
//! [`ControllerBuilder::driver`](crate::controller::ControllerBuilder::driver).

mod agent;
mod node_driver;
mod records;

pub use agent::AgentDriver;
pub use node_driver::{DriverError, NodeDriver, NodeTarget};
