#![doc = include_str!("../README.md")]

pub mod agent;
pub mod cluster;
pub mod controller;
pub mod crd;
pub mod driver;
pub mod jobs;
pub mod lease;
pub mod problem;
mod report;
pub mod serve;
#[cfg(feature = "webhook")]
pub mod webhook;
