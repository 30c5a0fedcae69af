//! Docker Engine as an image runtime, over its own HTTP API.

mod auth;
mod connection;
mod disk;
mod failure;
mod images;
mod progress;
mod runtime;

pub use runtime::DockerRuntime;
