//! Tests of the API server in the process, also on a real one if `KUBEBUILDER_ASSETS` names it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[macro_use]
mod support;

mod apply;
mod collect;
mod custom;
mod kubectl;
mod objects;
mod pod_proxy;
mod server;
mod service;
mod watch;
