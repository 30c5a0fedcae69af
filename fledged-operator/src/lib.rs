#![doc = include_str!("../README.md")]

pub mod agent;
pub mod api;
pub mod controller;
pub mod crd;
mod health;
pub mod jobs;
mod metrics;
pub mod serve;
#[cfg(feature = "webhook")]
pub mod webhook;
