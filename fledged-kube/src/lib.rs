#![doc = include_str!("../README.md")]

pub mod bounded_client;
pub mod crd;
pub mod lease;
pub mod request_error;
pub mod serve;
pub mod watch;

/// Field manager of everything that the controller writes.
pub const CONTROLLER_FIELD_MANAGER: &str = "fledged-controller";
