//! The operator as a whole: ImageCaches in, images on nodes and a true status out.
//!
//! Runs on the embedded API server; on a real one where `KUBEBUILDER_ASSETS` (a folder with `etcd` and
//! `kube-apiserver`) or `TEST_KUBECONFIG` (a cluster) is set.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod actions;
mod deaths;
mod edits;
mod kubectl;
mod leaders;
mod nodes;
mod objects;
mod outages;
mod secrets;
mod sharing;
mod switching;
