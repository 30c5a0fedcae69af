//! The integration tests of fledged-core, one module an area.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod assignment;
mod cluster_loop;
mod digest;
mod driver;
mod driver_inputs;
mod driver_ports;
mod embedding;
mod image_ref;
mod planner;
mod planner_explain;
mod planner_nodes;
mod planner_properties;
mod planner_refresh;
mod properties;
mod reporter;
mod rig;
mod selector;
mod sim;
mod spec;
mod warmer;
mod warmer_drift;
mod warmer_inventory;
mod warmer_removal;
mod warmer_rounds;
mod warmer_verify;
mod words;
mod world;
