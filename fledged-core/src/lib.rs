#![doc = include_str!("../README.md")]

pub mod backoff;
pub mod error;
pub mod model;
pub mod planner;
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
    CacheEvent, CacheFacts, CacheStatus, ClusterCommand, ClusterEvent, Planner, PlannerConfig,
};
#[doc(inline)]
pub use port::{Cluster, WriteFailure};
#[doc(inline)]
pub use runner::ClusterLoop;

// What an implementor of the ports needs, in the versions that the ports speak.
#[doc(no_inline)]
pub use {async_trait::async_trait, futures_util, jiff, secrecy};
