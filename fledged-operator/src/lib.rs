#![doc = include_str!("../README.md")]

pub mod agent;
pub mod controller;
mod health;
pub mod jobs;
mod metrics;
mod node_report;
