//! Integration tests of fledged-core, one module for each area.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod assignment;
mod cluster_loop;
mod conformance;
mod digest;
mod embedding;
mod exhaustive;
mod fairness;
mod fairness_of_slots;
mod image_ref;
mod namespace_limit;
mod node_loop;
mod node_loop_inputs;
mod node_loop_ports;
mod planner;
mod planner_due;
mod planner_events;
mod planner_explain;
mod planner_many;
mod planner_nodes;
mod planner_properties;
mod planner_refresh;
mod properties;
mod reporter;
mod selector;
mod sim;
mod spec;
mod superseded_properties;
mod warmer;
mod warmer_disk;
mod warmer_drift;
mod warmer_inventory;
mod warmer_node;
mod warmer_removal;
mod warmer_rounds;
mod warmer_superseded;
mod warmer_verify;
mod words;
mod world;
