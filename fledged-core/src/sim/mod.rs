//! A simulated node or cluster ([`SimCluster`]) without I/O: a runtime and a registry in memory with
//! bandwidth and faults, and a virtual clock. Deterministic: the same seed gives the same trace.
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//! use fledged_core::runner::NodeLoop;
//! use fledged_core::model::{Assignment, ByteSize, ImagePhase};
//! use fledged_core::warmer::{Warmer, WarmerConfig};
//! use fledged_core::sim::{SimClock, SimImage, SimRegistry, SimRuntime};
//!
//! let clock = SimClock::new();
//! let registry = SimRegistry::new().with("app:1", SimImage::new("app-1", &[("base", ByteSize::new(40_000_000))]));
//! let runtime = SimRuntime::new(clock.clone(), registry, 7).with_bandwidth(10_000_000);
//! let warmer = Warmer::new(WarmerConfig::default(), 7);
//! let mut node = NodeLoop::new(warmer, Arc::new(runtime), Arc::new(clock.clone()));
//!
//! let report = clock.block_on(node.settle(Assignment::present(["app:1".parse()?])))?;
//! assert_eq!(report.images[0].phase, ImagePhase::Cached);
//! assert!(clock.elapsed() >= Duration::from_secs(4));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod clock;
mod fault;
mod objects;
mod sim_agent;
mod sim_cluster;
mod sim_registry;
mod sim_runtime;
mod state;

pub use clock::{Deadlock, SimClock};
pub use fault::{Fault, Faults};
pub use sim_cluster::SimCluster;
pub use sim_registry::{SimImage, SimRegistry};
pub use sim_runtime::SimRuntime;
pub use state::{TraceEntry, TraceEvent};
