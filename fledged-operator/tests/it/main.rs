//! Integration tests of fledged-operator, one module for each area.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod agent_credentials;
mod agent_faults;
mod agent_outage;
mod agent_probes;
mod agent_rollout;
mod agent_support;
mod driver_support;
mod hollow_nodes;
#[cfg(feature = "binary")]
mod job_program;
mod node_driver;
#[cfg(feature = "binary")]
mod readme;
mod tenants;
