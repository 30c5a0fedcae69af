#![doc = include_str!("../README.md")]

pub mod backoff;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod error;
pub mod model;
pub mod planner;
#[doc(hidden)]
pub mod planted;
pub mod port;
pub mod reporter;
pub mod runner;
#[cfg(feature = "sim")]
pub mod sim;
pub mod time;
#[cfg(feature = "tokio")]
pub mod tokio;
pub mod warmer;

#[doc(inline)]
pub use planner::{
    CacheEvent, CacheFacts, CacheStatus, ClusterCommand, ClusterEvent, EventReason, Planner,
    PlannerConfig,
};
#[doc(inline)]
pub use {
    error::{Failure, Reason},
    model::{AssignedImage, Assignment, ImagePhase, ImageRef, ImageReport, NodeReport},
    port::{Cluster, ImageRuntime, WriteFailure},
    reporter::{Reporter, ReporterEvent},
    runner::{ClusterLoop, NodeLoop, NodeObserver},
    warmer::{NodeCommand, NodeEvent, Warmer, WarmerConfig},
};

// Crates whose types are part of the ports.
#[doc(no_inline)]
pub use {async_trait::async_trait, futures_util, jiff, secrecy};
