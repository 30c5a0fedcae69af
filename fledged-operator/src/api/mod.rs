//! The Kubernetes API client layer: requests with limits, errors as text, watches that never end, the status of a
//! NodeImageCache, and the leader election.

pub(crate) mod bounded_client;
pub mod lease;
pub(crate) mod node_status;
pub mod request_error;
pub(crate) mod status_writer;
pub(crate) mod watch;

/// Field manager of everything that the controller writes.
pub(crate) const CONTROLLER_FIELD_MANAGER: &str = "fledged-controller";
