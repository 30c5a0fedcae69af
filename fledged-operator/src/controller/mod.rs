//! The controller: one planner, elected, on a cluster.

mod builder;
mod health;
mod metrics;
mod run;

pub use builder::{Controller, ControllerBuilder};
pub use health::ControllerHealth;
pub use metrics::ControllerMetrics;
pub use run::ControllerError;
