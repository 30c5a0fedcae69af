#![doc = include_str!("../README.md")]

pub mod agent;
pub mod api;
pub mod controller;
pub mod crd;
pub mod jobs;
pub mod serve;
#[cfg(feature = "webhook")]
pub mod webhook;
