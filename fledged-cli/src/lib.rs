//! `fledged` at the terminal: images of ImageCache manifests on this machine, without a cluster, and the
//! ImageCaches of one.

pub mod args;
#[cfg(feature = "cluster")]
pub mod cluster;
pub mod commands;
#[cfg(feature = "demo")]
pub mod demo;
pub mod desired;
pub mod environment;
pub mod exit;
pub mod follow;
mod help;
pub mod invocation;
pub mod label;
pub mod manifest;
pub mod node;
pub mod output;
pub mod plan;
pub mod printable;
pub mod probing;
pub mod session;
