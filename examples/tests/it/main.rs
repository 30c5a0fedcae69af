//! Integration tests of the examples, one module for each area.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod beside_your_controllers;
mod custom_driver;
mod embedded;
mod images_of_deployments;
mod manifests;
mod readme;
mod support;
mod warm_node;
