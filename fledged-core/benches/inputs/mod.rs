//! What is measured: a cluster around a planner, and a node around a warmer.
//!
//! Each bench uses its own part of it.
#![allow(dead_code, unreachable_pub)]

pub mod fleet;
pub mod machine;

use fledged_core::model::ImageRef;
use jiff::Timestamp;

/// When everything begins.
fn start() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

/// References as long as real ones, whose beginnings are alike.
fn mk_ref(image: usize) -> ImageRef {
    format!("registry.example.com/team/app-{image:04}:v1.2.3")
        .parse()
        .unwrap()
}
