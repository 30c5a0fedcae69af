//! The Kubernetes API client layer: errors in words, watches that never end, and the leader election.

pub mod error;
pub mod lease;
pub(crate) mod watch;

/// Field manager of everything that the controller writes.
pub(crate) const CONTROLLER_FIELD_MANAGER: &str = "fledged-controller";
