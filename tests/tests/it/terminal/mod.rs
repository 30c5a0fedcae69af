//! The commands of `fledged` for a cluster, with a controller and agents.
mod demo;
mod doctor;
mod errors;
mod get;
mod node_status;
mod plan;
mod plugin;
mod pull_bytes;
mod request;
mod status;
mod support;
mod wait;
mod why;
