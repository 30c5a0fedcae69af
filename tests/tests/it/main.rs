//! Integration tests of the whole system, one module for each area.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod arguments;
mod bench_scale;
mod campaign;
mod conformance;
mod cri_containerd;
mod cri_fake;
mod deploy;
mod docker_engine;
mod fixtures;
mod hostile;
mod hostile_bytes;
mod node_apply;
mod node_doctor;
mod node_fake_cri;
mod node_faults;
mod node_run;
mod oci_layout;
mod operator;
mod operator_containerd;
mod registry_probe;
mod registry_token;
mod simulation;
mod superseded;
mod terminal;
mod webhook;
