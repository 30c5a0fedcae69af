//! `fledged` at the terminal: images of ImageCache manifests on this machine, without a cluster.

pub mod args;
pub mod commands;
pub mod demo;
pub mod desired;
pub mod environment;
pub mod exit;
pub mod follow;
mod help;
pub mod label;
pub mod manifest;
pub mod node;
pub mod output;
pub mod plan;
pub mod printable;
pub mod probing;
pub mod session;
